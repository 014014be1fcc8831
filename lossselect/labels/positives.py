"""The labels of a batch as the places of its ones: what a multi-hot matrix is, without the zeros."""

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import DataError, OptionTypeError
from lossselect.labels.label_lists import LabelLists
from lossselect.utils.checks import check_int
from lossselect.utils.device_ops import count_occurrences


class Positives:
    """Which labels the rows of a batch have: row `rows[i]` has label `labels[i]`.

    In order of labels, so that those of some outputs stand together. A target for a chunked head, in place
    of floats (N, num_labels): of a million labels that are mostly absent it holds those that are there.

    Args:
        rows: long (P,), of the labels that are there.
        labels: long (P,), increasing; with rows of one label increasing.
        num_rows: N.
        num_labels: How many labels there are.
        missing: bool (N,), of which rows nothing is known; None where of all.
        unknown: Rows and labels, in the same order, that are not known although the row is.

    Raises:
        TypeError: rows or labels that are no tensors of long.
        ValueError: on a CPU, rows or labels out of range, or in another order.

    Example:
        >>> Positives.of_lists(indices=[2, 0, 1], offsets=[0, 2, 3], num_labels=3).matrix()
        tensor([[1., 0., 1.],
                [0., 1., 0.]])
    """

    def __init__(
        self,
        rows: Tensor,
        labels: Tensor,
        num_rows: int,
        num_labels: int,
        missing: Tensor | None = None,
        unknown: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.rows, self.labels = rows, labels
        self.num_rows, self.num_labels = num_rows, num_labels
        self.missing, self.unknown = missing, unknown
        for pairs in ((rows, labels), *([] if unknown is None else [unknown])):
            _check_order(*pairs, num_rows, num_labels)

    @classmethod
    def of_lists(cls, indices: Any, offsets: Any, num_labels: int, missing: Any = None) -> "Positives":
        """Of lists: row i has the labels `indices[offsets[i]:offsets[i + 1]]`.

        Args:
            indices: Whole numbers (P,), those of a row in any order.
            offsets: Whole numbers (N + 1,).
            num_labels: How many labels there are.
            missing: bool (N,), of which rows nothing is known.

        Raises:
            ValueError: a label out of range, or that a row has twice; offsets that are none.
            TypeError: what is no whole number.
        """
        num_labels = check_int("num_labels", num_labels, 1)
        indices, offsets = (_whole(name, v) for name, v in (("indices", indices), ("offsets", offsets)))
        count = len(offsets) - 1
        if count < 0 or offsets[0] != 0 or offsets[-1] != len(indices) or bool((offsets.diff() < 0).any()):
            raise DataError(
                f"offsets must rise from 0 to the number of indices ({len(indices)}), an entry for each row "
                f"and one more; got {offsets.tolist()[:5]}..., {offsets[-1:].tolist()} at the end."
            )
        rows = torch.repeat_interleave(torch.arange(count), offsets.diff())
        bad = (indices < 0) | (indices >= num_labels)
        if bool(bad.any()):
            place = int(bad.nonzero()[0])
            raise DataError(
                f"Row {rows[place]} has label {indices[place]}, but labels are from 0 to {num_labels - 1}.",
                row=rows[place],
                value=indices[place],
            )
        order = (indices * count + rows).argsort()
        rows, labels = rows[order], indices[order]
        again = (rows.diff() == 0) & (labels.diff() == 0)
        if bool(again.any()):
            place = int(again.nonzero()[0])
            raise DataError(
                f"Row {rows[place]} has label {labels[place]} twice: give each label once.",
                row=rows[place],
                value=labels[place],
            )
        missing = None if missing is None else torch.as_tensor(missing)
        if missing is not None and (missing.dtype != torch.bool or missing.shape != (count,)):
            raise DataError(
                f"missing must be true or false for each of {count} rows, got {missing.dtype} of shape "
                f"{tuple(missing.shape)}."
            )
        return cls(
            rows, labels, count, num_labels, missing if missing is not None and missing.any() else None
        )

    @classmethod
    def of_rows(cls, lists: LabelLists, rows: Any) -> "Positives":
        """Of some rows of lists that have been checked."""
        indices, lengths = lists.of_rows(rows)
        labels, missing = torch.from_numpy(indices), torch.from_numpy(lists.missing[rows])
        of = torch.repeat_interleave(torch.arange(len(rows)), torch.from_numpy(lengths))
        order = (labels * len(rows) + of).argsort()
        return cls(
            of[order], labels[order], len(rows), lists.num_labels, missing if bool(missing.any()) else None
        )

    @classmethod
    def of_target(cls, target: Tensor) -> "Positives":
        """Of a canonical target (N, L) of 0 and 1, NaN where missing.

        Raises:
            ValueError: soft labels.
        """
        known = ~target.isnan()
        soft = known & (target != 0) & (target != 1)
        if bool(soft.any()):  # where the places of the ones are asked for below, a device waits anyway
            row, label = soft.nonzero()[0].tolist()
            raise DataError(
                f"Row {row} has {target[row, label]:g} for label {label}: a chunked head takes labels that "
                "are there or not, no soft ones. head=dense takes them.",
                row=row,
            )
        labels, rows = (target.t() == 1).nonzero(as_tuple=True)
        if bool(known.all()):
            return cls(rows, labels, len(target), target.shape[1])
        missing = ~known.any(1)
        gaps, of_rows = (~known & ~missing.unsqueeze(1)).t().nonzero(as_tuple=True)
        return cls(rows, labels, len(target), target.shape[1], missing, (of_rows, gaps))

    def __len__(self) -> int:
        return self.num_rows

    @property
    def shape(self) -> torch.Size:
        """That of the matrix (N, L)."""
        return torch.Size((self.num_rows, self.num_labels))

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.rows.device

    def to(self, device: Any, non_blocking: bool = False) -> "Positives":
        """Return the same on another device.

        Copies to a GPU go by way of pinned memory, so that the host does not wait for them: Lightning passes
        `non_blocking` to tensors alone.
        """
        device = torch.device(device)
        if device.type == "cuda" and self.device.type == "cpu":
            return self.pin_memory()._each(lambda part: part.to(device, non_blocking=True))
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Positives":
        """Return the same in pinned memory; a DataLoader with `pin_memory=True` calls it."""
        return self._each(lambda part: part if part.is_pinned() else part.pin_memory())

    def is_pinned(self) -> bool:
        """Whether the tensors are in pinned memory."""
        return self.rows.is_pinned()

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Positives":
        """The same of other tensors with equal values, which are not checked again."""
        made = copy(self)
        made.rows, made.labels = change(self.rows), change(self.labels)
        made.missing = None if self.missing is None else change(self.missing)
        made.unknown = None if self.unknown is None else (change(self.unknown[0]), change(self.unknown[1]))
        return made

    def per_row(self) -> Tensor:
        """How many labels each row has, long (N,)."""
        return count_occurrences(self.rows, self.num_rows)

    def known_rows(self) -> Tensor:
        """bool (N,)."""
        if self.missing is None:
            return torch.ones(self.num_rows, dtype=torch.bool, device=self.device)
        return ~self.missing

    def matrix(self, first: int = 0, end: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """The canonical target of the labels from `first` up to `end`: (N, end - first)."""
        end = self.num_labels if end is None else end
        width = end - first
        memory = torch.zeros(self.num_rows * width + 1, dtype=dtype, device=self.device)
        matrix = memory[:-1].view(self.num_rows, width)
        pairs = [(self.rows, self.labels, 1.0)]
        if self.unknown is not None:
            pairs.append((*self.unknown, torch.nan))
        for rows, labels, value in pairs:
            # others go to the place to spare: to leave them out would make a device wait
            among = (labels >= first) & (labels < end)
            places = (rows * width + labels - first).where(among, len(memory) - 1)
            memory.index_fill_(0, places, value)  # memory[places] = value would copy the value to the device
        return matrix if self.missing is None else matrix.masked_fill(self.missing.unsqueeze(1), torch.nan)


def _check_order(rows: Tensor, labels: Tensor, num_rows: int, num_labels: int) -> None:
    for values in (rows, labels):
        if not isinstance(values, Tensor) or values.dtype != torch.long or values.ndim != 1:
            form = f"{values.dtype} of {tuple(values.shape)}" if isinstance(values, Tensor) else values
            raise OptionTypeError(
                f"Positives are rows and labels as two tensors of long (P,), got {form}. "
                "Positives.of_lists(indices, offsets, num_labels) takes lists."
            )
    if rows.device.type != "cpu" or not rows.numel() + labels.numel():
        return
    rising = len(rows) == len(labels) and bool(((labels * num_rows + rows).diff() > 0).all())
    if not rising or rows.min() < 0 or rows.max() >= num_rows or labels[0] < 0 or labels[-1] >= num_labels:
        raise DataError(
            f"Positives are pairs of a row from 0 to {num_rows - 1} and a label from 0 to {num_labels - 1}, "
            "each once, in order of labels and then of rows: Positives.of_lists(indices, offsets, "
            "num_labels) makes them of lists."
        )


def _whole(name: str, values: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError) as error:
        raise OptionTypeError(
            f"{name} must be whole numbers of shape (N,), one list for all rows ({error})."
        ) from None
    if tensor.shape == (0,):
        return tensor.long()  # of an empty list torch makes floats
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool or tensor.ndim != 1:
        raise OptionTypeError(
            f"{name} must be whole numbers of shape (N,), got {tensor.dtype} of shape {tuple(tensor.shape)}."
        )
    return tensor.long()
