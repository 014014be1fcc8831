"""Lists of labels from a .npz: sparse in the file, and never made a matrix."""

from collections.abc import Mapping

import numpy as np

from lossselect.exceptions import DataError
from lossselect.labels.label_lists import LabelLists
from lossselect.utils.checks import shorten

OURS = ("indices", "offsets", "num_labels")
SCIPYS = ("indices", "indptr", "shape", "format", "data")


def lists_of(arrays: Mapping[str, np.ndarray], path: str) -> LabelLists:
    """The lists of a sparse (N, L) matrix of 0 and 1, in the arrays that `scipy.sparse.save_npz` writes.

    Or in those of `LabelLists`, by their names: `indices`, `offsets`, `num_labels`, and perhaps `missing`.

    Args:
        arrays: What a .npz holds.
        path: What to call it in messages.

    Raises:
        ValueError: another matrix, arrays that do not go together, a label that there is not, that a row has
            twice, or whose value is not 1; says the row and the label.
    """
    ours = "offsets" in arrays
    form = str(arrays["format"].astype(str)) if "format" in arrays and not ours else "csr"
    if form != "csr":
        raise DataError(
            f"{path} holds a sparse matrix in the format {form}, where csr is needed: "
            "scipy.sparse.save_npz(path, Y.tocsr())."
        )
    if lacking := [name for name in (OURS if ours else SCIPYS) if name not in arrays]:
        raise DataError(
            f"{path} holds no lists of labels, for lack of {shorten(lacking)}. Write a sparse (N, L) "
            "matrix of "
            "0 and 1 with scipy.sparse.save_npz(path, Y.tocsr()), or an array of labels as a .npy. It has: "
            f"{shorten([*arrays])}."
        )
    indices = _checked(arrays, "indices", path)
    offsets = _checked(arrays, "offsets" if ours else "indptr", path)
    if ours:
        missing = np.zeros(max(len(offsets) - 1, 0), dtype=bool)
        if "missing" in arrays:
            missing = _checked(arrays, "missing", path, "b")
        rows, width = len(missing), int(_checked(arrays, "num_labels", path, ndim=0))
    else:
        shape = _checked(arrays, "shape", path).tolist()
        if len(shape) != 2:
            raise DataError(f"{path} holds a sparse array of shape {tuple(shape)}, where (N, L) is needed.")
        rows, width = shape
        missing = np.zeros(max(rows, 0), dtype=bool)
    if rows < 0 or width < 0:
        raise DataError(
            f"{path} says that there are {rows} rows and {width} labels, and no number is negative: write "
            "the file again."
        )
    _check_offsets(offsets, len(indices), rows, path)
    lists = LabelLists(indices, offsets, width, missing)
    return _in_order(
        lists if ours else _without_zeros(lists, _checked(arrays, "data", path, "biuf"), path), path
    )


def _checked(
    arrays: Mapping[str, np.ndarray], name: str, path: str, kinds: str = "iu", ndim: int = 1
) -> np.ndarray:
    array = arrays[name]
    if array.ndim != ndim or array.dtype.kind not in kinds:
        what = {"iu": "whole numbers", "biuf": "numbers", "b": "true and false"}[kinds]
        what = f"{what}, of one dimension" if ndim else "a whole number"
        raise DataError(
            f"Array {name!r} of {path} must hold {what}, got {array.dtype} of shape {array.shape}."
        )
    return array.astype(np.int64, copy=False) if kinds == "iu" else array


def _check_offsets(offsets: np.ndarray, count: int, rows: int, path: str) -> None:
    """A start for each row, and an end."""
    if len(offsets) != rows + 1 or offsets[0] != 0 or offsets[-1] != count:
        ends = f", from {offsets[0]} to {offsets[-1]}" if len(offsets) else ""
        raise DataError(
            f"The lists of {path} must have {rows + 1} bounds, from 0 to {count}, for {rows} rows and "
            f"{count} labels, but there are {len(offsets)}{ends}: write the file again."
        )
    if (falling := np.diff(offsets) < 0).any():
        row = int(falling.argmax())
        raise DataError(
            f"Row {row} of {path} starts at {offsets[row]} and ends at {offsets[row + 1]}: the bounds of "
            "rows never fall. Write the file again.",
            row=row,
        )


def _without_zeros(lists: LabelLists, data: np.ndarray, path: str) -> LabelLists:
    """Without labels of which a zero is written out."""
    if data.shape != lists.indices.shape:
        raise DataError(f"{path} has {len(lists.indices)} labels, but {len(data)} values of them.")
    if (data == 1).all():
        return lists
    there = data != 0
    if (odd := there & (data != 1)).any():
        place = int(odd.argmax())
        raise DataError(
            f"Row {_row_at(lists, place)} of {path} has label {lists.indices[place]} with the value "
            f"{data[place]:g}, but a list has a label or not, which is 1 or 0. Y.data[:] = 1 if all that are "
            "there are meant; soft labels are a .npy of shape (N, L).",
            row=_row_at(lists, place),
        )
    offsets = np.concatenate([[0], there.cumsum()])[lists.offsets]
    return LabelLists(lists.indices[there], offsets, lists.num_labels, lists.missing)


def _in_order(lists: LabelLists, path: str) -> LabelLists:
    """With the labels of each row in order, which those of scikit-learn's MultiLabelBinarizer are not."""
    indices, width, lengths = lists.indices, lists.num_labels, np.diff(lists.offsets)
    if len(indices) and not 0 <= indices.min() <= indices.max() < width:
        place = int(((indices < 0) | (indices >= width)).argmax())
        raise DataError(
            f"Row {_row_at(lists, place)} of {path} has label {indices[place]}, but there are {width} "
            f"labels, 0 to {width - 1}.",
            row=_row_at(lists, place),
        )
    if (known := lists.missing & (lengths > 0)).any():
        row = int(known.argmax())
        raise DataError(
            f"Row {row} of {path} is missing, but has {lengths[row]} labels: it is one or the other.",
            row=row,
        )
    rising = np.diff(indices, prepend=-1) > 0
    rising[lists.offsets[:-1][lengths > 0]] = True  # where a row begins
    if rising.all():
        return lists
    rows = np.repeat(np.arange(len(lists)), lengths)
    ordered = LabelLists.of_pairs(rows, indices, len(lists), width, lists.missing)
    if len(ordered.indices) < len(indices):
        row = int((np.diff(ordered.offsets) < lengths).argmax())
        raise DataError(
            f"Row {row} of {path} has a label twice: Y.sum_duplicates(), and Y.data[:] = 1 if once is meant.",
            row=row,
        )
    return ordered


def _row_at(lists: LabelLists, place: int) -> int:
    """The row that has the label at a place among all of them."""
    return int(np.searchsorted(lists.offsets, place, side="right")) - 1
