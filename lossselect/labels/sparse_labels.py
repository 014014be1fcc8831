"""Sparse labels: the positions of the ones in a 0/1 matrix, whose zeros take no memory."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from lossselect.exceptions import DataError, OptionTypeError
from lossselect.utils.checks import check_int, first_duplicate, shorten
from lossselect.utils.devices import count_occurrences


class SparseLabels:
    """Labels of N rows, stored as the positions of the ones in a 0/1 matrix (N, num_labels).

    Create one with `from_csr`, `from_coo` or `from_dense`. Positions are stored row by row or, as a chunked
    head needs them, label by label; each form is derived from the other on first use.

    Attributes:
        shape: (N, num_labels).
        missing: bool (N,), True for rows whose labels are all unknown; None if there are no such rows.
        unknown: `SparseLabels` whose ones mark the unknown labels of other rows; None if all are known.

    Example:
        >>> SparseLabels.from_csr(indices=[2, 0, 1], indptr=[0, 2, 3], num_labels=3).to_dense()
        tensor([[1., 0., 1.],
                [0., 1., 0.]])
    """

    def __init__(
        self,
        shape: Sequence[int],
        csr: tuple[Tensor, Tensor] | None = None,
        coo: tuple[Tensor, Tensor] | None = None,
        missing: Tensor | None = None,
        unknown: "SparseLabels | None" = None,
    ) -> None:
        self.shape = torch.Size(shape)
        self._csr, self._coo = csr, coo
        if missing is not None and missing.device.type == "cpu" and not bool(missing.any()):
            missing = None
        self.missing, self.unknown = missing, unknown

    @classmethod
    def from_csr(cls, indices: Any, indptr: Any, num_labels: int, missing: Any = None) -> "SparseLabels":
        """Create from CSR arrays: row i has the labels `indices[indptr[i]:indptr[i + 1]]`.

        Args:
            indices: Integers (P,), in any order within a row.
            indptr: Integers (N + 1,), as in `scipy.sparse.csr_array`.
            num_labels: Number of labels.
            missing: bool (N,), True for rows whose labels are all unknown.

        Raises:
            DataError: a label that is out of range or repeated in a row; invalid indptr or missing.
            OptionTypeError: values that are not integers.
            ConfigError: num_labels < 1.
        """
        num_labels = check_int("num_labels", num_labels, 1)
        indices, indptr = _as_integers("indices", indices), _as_integers("indptr", indptr)
        count = len(indptr) - 1
        if count < 0 or indptr[0] != 0 or indptr[-1] != len(indices) or bool((indptr.diff() < 0).any()):
            raise DataError(
                f"indptr must rise from 0 to the number of indices ({len(indices)}), with one more entry "
                f"than rows. Got {indptr.tolist()[:5]}..., which ends in {indptr[-1:].tolist()}."
            )
        rows = torch.repeat_interleave(torch.arange(count), indptr.diff())
        return cls._from_cpu(rows, indices, (count, num_labels), missing)

    @classmethod
    def from_coo(
        cls,
        rows: Tensor,
        labels: Tensor,
        num_rows: int,
        num_labels: int,
        missing: Tensor | None = None,
        unknown: tuple[Tensor, Tensor] | None = None,
    ) -> "SparseLabels":
        """Create from pairs: row `rows[i]` has label `labels[i]`.

        Args:
            rows: Integers (P,).
            labels: Integers (P,). On a GPU, pairs are neither checked nor sorted: they must be sorted by
                label, then by row.
            num_rows: N.
            num_labels: Number of labels.
            missing: bool (N,), True for rows whose labels are all unknown.
            unknown: Rows and labels, as above, of single unknown labels.

        Raises:
            OptionTypeError: values that are not integers.
            DataError: on a CPU, a pair that is out of range or repeated, or invalid missing.
        """
        rows, labels = _as_integers("rows", rows), _as_integers("labels", labels)
        shape = (num_rows, num_labels)
        others = None if unknown is None else cls.from_coo(*unknown, *shape)
        if rows.device.type != "cpu":
            return cls(shape, None, (rows, labels), missing, others)
        if len(rows) != len(labels) or bool(((rows < 0) | (rows >= num_rows)).any()):
            needed = f"a row from 0 to {num_rows - 1} for each of the {len(labels)} labels"
            raise DataError(f"Expected {needed}, got {shorten(rows.tolist())}.")
        result = cls._from_cpu(rows, labels, shape, missing)
        result.unknown = others
        return result

    @classmethod
    def _from_cpu(cls, rows: Tensor, labels: Tensor, shape: tuple[int, int], missing: Any) -> "SparseLabels":
        """Create from pairs on the CPU; DataError for a label that is out of range or repeated in a row."""
        missing = None if missing is None else torch.as_tensor(missing)
        if missing is not None and (missing.dtype != torch.bool or missing.shape != shape[:1]):
            got = f"{missing.dtype} of shape {tuple(missing.shape)}"
            raise DataError(f"missing must be bool of shape ({shape[0]},), one entry per row, got {got}.")
        bad = (labels < 0) | (labels >= shape[1])
        if bool(bad.any()):
            row, label = (int(values[bad][0]) for values in (rows, labels))
            problem = f"Row {row} has label {label}, but labels must be from 0 to {shape[1] - 1}."
            raise DataError(problem, row=row, value=label)
        result = cls.from_pairs(rows.numpy(), labels.numpy(), shape, missing)
        repeated = result.count_per_row() < count_occurrences(rows, shape[0])
        if bool(repeated.any()):
            row = int(repeated.int().argmax())
            label = first_duplicate(labels[rows == row].tolist())
            fix = "Give each label once (in SciPy: Y.sum_duplicates(); Y.data[:] = 1)."
            raise DataError(f"Row {row} has label {label} twice. {fix}", row=row, value=label)
        return result

    @classmethod
    def from_dense(cls, target: Tensor) -> "SparseLabels":
        """Create from a canonical target (N, L) of 0 and 1, NaN where missing.

        Raises:
            DataError: soft labels.
        """
        known = ~target.isnan()
        soft = known & (target != 0) & (target != 1)
        if bool(soft.any()):  # no extra synchronisation: `nonzero` below waits for a GPU anyway
            row, label = soft.nonzero()[0].tolist()
            raise DataError(
                f"Row {row} has the soft label {target[row, label]:g} for label {label}, but a chunked head "
                "supports only 0 and 1. Set head=dense.",
                row=row,
            )
        labels, rows = (target.t() == 1).nonzero(as_tuple=True)
        if bool(known.all()):
            return cls(target.shape, coo=(rows, labels))
        missing = ~known.any(1)
        gap_labels, gap_rows = (~known & ~missing.unsqueeze(1)).t().nonzero(as_tuple=True)
        unknown = cls(target.shape, coo=(gap_rows, gap_labels))
        return cls(target.shape, coo=(rows, labels), missing=missing, unknown=unknown)

    @classmethod
    def from_pairs(
        cls, rows: np.ndarray, labels: np.ndarray, shape: Sequence[int], missing: Any = None
    ) -> "SparseLabels":
        """Create from valid (row, label) pairs in any order; a repeated pair counts once."""
        num_rows, num_labels = shape
        keys = rows * num_labels + labels
        keys.sort()
        keys = keys[np.diff(keys, prepend=-1) > 0]  # 10 times as fast as np.unique
        counts = torch.from_numpy(np.bincount(keys // num_labels, minlength=num_rows))
        csr = torch.from_numpy(keys % num_labels), _indptr(counts)
        return cls(shape, csr, missing=None if missing is None else torch.as_tensor(missing))

    @classmethod
    def concatenate(cls, parts: Sequence["SparseLabels"]) -> "SparseLabels":
        """Concatenate the rows of several data sets that have the same labels."""
        indices, indptrs = zip(*(part.csr() for part in parts), strict=True)
        csr = torch.cat(indices), _indptr(torch.cat([indptr.diff() for indptr in indptrs]))
        missing = ~torch.cat([part.known_rows() for part in parts])
        unknown = None
        if any(part.unknown is not None for part in parts):
            empty = torch.zeros(0, dtype=torch.long)
            unknown = cls.concatenate([part.unknown or cls(part.shape, coo=(empty, empty)) for part in parts])
        return cls((len(missing), parts[0].num_labels), csr, None, missing, unknown)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def num_labels(self) -> int:
        """Number of labels."""
        return self.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return (self._csr or self.coo())[0].device

    def csr(self) -> tuple[Tensor, Tensor]:
        """Return indices (P,), sorted within a row, and indptr (N + 1,)."""
        if self._csr is None:
            rows, labels = self.coo()
            self._csr = labels[rows.argsort(stable=True)], _indptr(self.count_per_row())
        return self._csr

    def coo(self) -> tuple[Tensor, Tensor]:
        """Return rows (P,) and labels (P,), sorted by label, then by row."""
        if self._coo is None:
            rows, indices = self._pairs()
            labels, order = indices.sort(stable=True)
            self._coo = rows[order], labels
        return self._coo

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Return rows and labels in the order in which they are stored."""
        if self._csr is None or self._coo is not None:
            return self.coo()
        indices, indptr = self._csr
        return torch.repeat_interleave(torch.arange(len(self)), indptr.diff()), indices

    def select(self, rows: Any) -> "SparseLabels":
        """Return the labels of `rows`, integers (n,) or one integer; rows may repeat."""
        rows = torch.as_tensor(rows, dtype=torch.long).reshape(-1)
        indices, indptr = self.csr()
        starts = indptr[rows]
        counts = indptr[rows + 1] - starts
        bounds = _indptr(counts)
        shift = torch.repeat_interleave(starts - bounds[:-1], counts)
        csr = indices[shift + torch.arange(len(shift))], bounds
        missing = None if self.missing is None else self.missing[rows]
        unknown = None if self.unknown is None else self.unknown.select(rows)
        return SparseLabels((len(rows), self.num_labels), csr, None, missing, unknown)

    def count_per_row(self) -> Tensor:
        """Return the number of labels of each row, long (N,)."""
        if self._csr is not None:
            return self._csr[1].diff()
        return count_occurrences(self.coo()[0], len(self))

    def count_per_label(self) -> Tensor:
        """Return the number of rows that have each label, long (num_labels,)."""
        labels = self.coo()[1] if self._csr is None else self._csr[0]
        return count_occurrences(labels, self.num_labels)

    def known_rows(self) -> Tensor:
        """Return bool (N,), False for missing rows."""
        if self.missing is None:
            return torch.ones(len(self), dtype=torch.bool, device=self.device)
        return ~self.missing

    def to_dense(self, first: int = 0, end: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the canonical target of the labels from `first` up to `end`: (N, end - first)."""
        width = (self.num_labels if end is None else end) - first
        size, on_cpu = len(self) * width + 1, self.device.type == "cpu"
        if on_cpu and dtype == torch.float32:  # faster than torch.zeros: calloc need not clear new memory
            memory = torch.from_numpy(np.zeros(size, np.float32))
        else:
            memory = torch.zeros(size, dtype=dtype, device=self.device)
        matrix = memory[:-1].view(len(self), width)
        for ones, value in ((self, 1.0), (self.unknown, torch.nan)):
            if ones is not None:
                rows, labels = ones._pairs()
                positions = rows * width + labels - first
                if width < self.num_labels:
                    # labels of other blocks go to the spare last element: selecting would wait for a GPU
                    inside = (labels >= first) & (labels < first + width)
                    positions = positions.where(inside, size - 1)
                memory.index_fill_(0, positions, value)  # memory[positions] = value would copy to the GPU
        if self.missing is None:
            return matrix
        if on_cpu:  # faster than the mask below, which does not wait for a GPU
            return matrix.index_fill_(0, self.missing.nonzero().flatten(), torch.nan)
        return matrix.masked_fill_(self.missing.unsqueeze(1), torch.nan)

    def to_lists(self, values: Sequence[Any]) -> list[list[Any] | None]:
        """Return the entries of `values` for the labels of each row, in order; None for a missing row."""
        indices, indptr = self.csr()
        labels, bounds = [values[i] for i in indices.tolist()], indptr.tolist()
        rows = zip(bounds, bounds[1:], self.known_rows().tolist(), strict=False)
        return [labels[start:stop] if known else None for start, stop, known in rows]

    def to(self, device: Any, non_blocking: bool = False) -> "SparseLabels":
        """Return the same labels on another device.

        Copies to a GPU use pinned memory, so that the host does not wait: Lightning passes `non_blocking`
        only to tensors.
        """
        device = torch.device(device)
        if device.type == "cuda" and self.device.type == "cpu":
            return self.pin_memory()._map(lambda part: part.to(device, non_blocking=True))
        return self._map(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "SparseLabels":
        """Return the same labels in pinned memory; a DataLoader with `pin_memory=True` calls it."""
        return self._map(lambda part: part if part.is_pinned() else part.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "SparseLabels":
        rows, labels = self.coo()
        missing = None if self.missing is None else function(self.missing)
        unknown = None if self.unknown is None else self.unknown._map(function)
        result = SparseLabels(self.shape, None, (function(rows), function(labels)), None, unknown)
        result.missing = missing  # not checked: an asynchronous copy may be incomplete
        return result


def _indptr(counts: Tensor) -> Tensor:
    return pad(counts.cumsum(0), (1, 0))


def _as_integers(name: str, values: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError) as error:
        raise OptionTypeError(
            f"{name} must be integers of shape (N,), one flat list for all rows ({error})."
        ) from None
    is_integer = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    if tensor.ndim != 1 or not (is_integer or len(tensor) == 0):  # torch converts an empty list to floats
        raise OptionTypeError(
            f"{name} must be integers of shape (N,), got {tensor.dtype} of shape {tuple(tensor.shape)}."
        )
    return tensor.long()
