"""Tables with one row for each label: the rows of an id become one row with a list of labels."""

from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl

from lossselect.data.preprocessing.columns import column_error
from lossselect.exceptions import DataError
from lossselect.utils.checks import format_setting, show


def collect_labels(frame: pl.DataFrame, key: str, target: str, empty: str | None) -> pl.DataFrame:
    """Return one row per id, in the order of the file, whose target is the list of the labels of the id.

    Args:
        frame: The table.
        key: The column of ids.
        target: The label column; an id with a single, empty cell has no labels or is missing.
        empty: Meaning of such a cell: "negative" or "missing".

    Raises:
        DataError: an empty id or label, or rows of an id that differ in other columns.
    """
    ids = frame[key]
    if ids.null_count():
        row = ids.is_null().arg_max() or 0
        raise DataError.at(row, key, " is empty, but each row needs an id (data.id). Fill it in.")
    others = [name for name in frame.columns if name not in (key, target)]
    for name in others:
        if frame[name].dtype.is_nested():
            raise column_error(name, f"is of type {frame[name].dtype}, which data.id does not support.")
    same = frame.lazy().select(pl.col(name).eq_missing(pl.col(name).first().over(key)) for name in others)
    if differing := [column for column in same.collect() if not column.all()]:
        name, row = differing[0].name, differing[0].arg_min() or 0
        other = (ids == ids[row]).arg_max() or 0
        exclude = format_setting("data.exclude", [column.name for column in differing])
        raise DataError.at(
            row,
            name,
            f" is {show(frame[name][row])}, but row {other} has {show(frame[name][other])} and the same id "
            f"{show(ids[row])} (data.id). All rows of an id must have the same features. Correct the file, "
            f"or leave out all columns that differ: {exclude}. Each row then counts as a label of its id.",
            frame[name][row],
        )
    labels = frame[target]
    if labels.dtype == pl.String:
        labels = labels.str.strip_chars().replace("", None)
    frame = frame.with_columns(labels)
    unlabelled = labels.is_null()
    if unlabelled.any():
        row = unlabelled.arg_max() or 0
        if empty is None:
            raise DataError.at(
                row,
                target,
                " is empty. Set data.empty=negative if its id has no labels, or data.empty=missing if they "
                "are missing.",
            )
        count = frame.select(pl.len().over(key)).to_series()
        if (mixed := unlabelled & (count > 1)).any():
            problem = " is empty, but its id (data.id) has other rows. Remove this row, or write its label."
            raise DataError.at(mixed.arg_max() or 0, target, problem)
    groups = frame.group_by(key, maintain_order=True)
    collected = groups.agg(pl.col(target).drop_nulls(), *(pl.col(name).first() for name in others))
    if empty == "missing":
        lists = pl.when(pl.col(target).list.len() > 0).then(pl.col(target))
        collected = collected.with_columns(lists.alias(target))
    return collected.select(frame.columns)


@contextmanager
def count_ids(key: str | None) -> Iterator[None]:
    """State in errors about a row that its number counts ids, if there is a column of ids."""
    try:
        yield
    except DataError as error:
        if key is None or error.row is None:
            raise
        raise error.add(f"(Rows are counted after those with the same {key!r} have become one.)") from None
