"""Columns that determine the splits: a published split or folds, groups that stay together, and time."""

import re
from collections.abc import Collection, Mapping
from itertools import combinations
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.label_parsing.several import AnyLabels
from lossselect.data.preprocessing.columns import (
    IDENTIFIER,
    OWNER,
    TEXT,
    CellParser,
    parse_numbers,
    restore_integers,
)
from lossselect.data.preprocessing.dates import find_date_format, is_date, parse_dates
from lossselect.data.preprocessing.kinds import DATE
from lossselect.data.splits import SPLITS, split_rows
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import as_number, sorted_values
from lossselect.utils.checks import SPLIT_NAMES, as_list, format_setting, shorten, suggestion
from lossselect.utils.warnings import warn

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of splits in a column, in lower case."""
FLAG = re.compile(r"(?:^|[\W_]|is)(train|val|valid|validation|dev|test)(?:ing)?(?:$|[\W_])", re.IGNORECASE)
"""Pattern of the name of a 0/1 column that marks the rows of a split, such as is_test."""
FLAG_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
MIN_GROUPS, MAX_GROUP_ROWS = 20, 10
"""Fewest values, and most rows per value, of a column that may contain groups."""
MAX_PARTS = 10
"""Number of values from which a column with other words than `WORDS` does not seem to contain splits."""
MIN_OWNERS, MAX_SCHEMES = 5, 2
"""Fewest values of a column named like persons, and most patterns of letters and digits in codes."""


def find_rows(
    roles: Mapping[str, pl.Series],
    groups: np.ndarray | None,
    labels: AnyLabels,
    fractions: Mapping[str, float],
    seed: int,
    paths: Collection[str] = (),
    folds: Mapping[str, Any] = MappingProxyType({}),
    date_format: str | None = None,
) -> dict[str, np.ndarray]:
    """Return the rows of each split: those that a column names, and the others drawn from the training rows.

    Args:
        roles: The columns that determine the splits, by setting: "split" and "time".
        groups: The group of each row, as `read_groups` returns it, or None.
        labels: The labels of all rows, by which drawn splits are stratified.
        fractions: Fractions of the splits without a separate file, as in `split_rows`.
        seed: Seed of the drawn splits.
        paths: The splits with a separate file.
        folds: See `read_splits`.
        date_format: See `find_date_format`.

    Raises:
        ConfigError: the columns contradict each other or the files.
        DataError: a cell is invalid, or there are too few rows or groups.
    """
    rows = {"train": np.arange(len(labels.values))}
    if "split" in roles:
        column = roles["split"]
        rows = read_splits(column, folds)
        for split in rows.keys() - {"train", *fractions}:
            also = f"data.{split}_path" if split in paths else "folds"
            raise ConfigError(
                f"Column {column.name!r} (data.split) contains {SPLIT_NAMES[split]} rows, but {also} is also "
                "set. Remove one of them."
            )
    train = rows["train"]
    drawn = {split: fraction for split, fraction in fractions.items() if split not in rows}
    if "time" in roles:
        times = read_times(roles["time"], date_format)
        if not drawn:
            raise ConfigError("data.time has no effect: no split is drawn from the rows. Remove data.time.")
        parts = split_by_time(times[train], drawn)
    else:
        strata = labels.strata
        values = strata.select(train) if isinstance(strata, SparseLabels) else strata[train]
        parts = split_rows(values, drawn, seed, labels.class_names, None if groups is None else groups[train])
    return {**rows, **{split: train[part] for split, part in parts.items()}}


def describe_method(roles: Mapping[str, pl.Series], paths: Mapping[str, str]) -> str:
    """Return how the rows were assigned to splits, for the plan; `paths` are the files of the splits."""
    parts = [f"{SPLIT_NAMES[split]} rows of {path}" for split, path in paths.items()]
    parts += [f"as column {roles['split'].name!r} names them"] if "split" in roles else []
    others = "others " if parts else ""
    if "time" in roles:
        parts.append(f"{others}by time (column {roles['time'].name!r}): the latest rows are the test split")
    elif "group" in roles:
        parts.append(f"{others}drawn as whole groups of column {roles['group'].name!r}, stratified by label")
    elif len(paths) < 2:  # not all of val and test
        parts.append(f"{others}drawn at random, stratified by label")
    return "; ".join(parts)


def read_splits(column: pl.Series, folds: Mapping[str, Any] = MappingProxyType({})) -> dict[str, np.ndarray]:
    """Return the rows of each split that a column names: by words, by 0 and 1, or by numbers of folds.

    Args:
        column: Words such as train, val and test; 0 and 1 (or false and true) if the column's name contains
            the split of the rows with 1, as is_test does; or folds.
        folds: The fold, or a list of folds, of the split "test" or "val". The others are training rows.

    Raises:
        ConfigError: `folds` are required, or cannot be used.
        DataError: a cell is empty, or has another value.
    """
    name, setting = column.name, format_setting("data.split", column.name)
    text = CellParser().text(column)
    if text.null_count():
        row = text.is_null().arg_max() or 0
        raise DataError.at(row, name, f" is empty, but it is the split ({setting}). Fill in the split.")
    values = text.unique(maintain_order=True).to_list()
    named = [(str(fold), part) for part in folds for fold in as_list(folds[part])]
    if named:
        split_of = _splits_of_folds(name, values, named)
    elif all(value.lower() in FLAG_VALUES for value in values) and (flag := FLAG.search(name)):
        marked = WORDS[flag[1].lower()]
        others = "test" if marked == "train" else "train"
        split_of = {value: marked if FLAG_VALUES[value.lower()] else others for value in values}
    else:
        split_of = _splits_of_words(text, values)
    split = text.replace_strict(split_of)
    found = {key: np.flatnonzero((split == key).to_numpy()) for key in SPLITS}
    if not len(found["train"]):
        raise DataError(
            f"Column {name!r} has no training row ({setting}). Its values: {shorten(sorted_values(values))}.",
            column=name,
        )
    return {key: rows for key, rows in found.items() if len(rows)}


def _splits_of_folds(name: str, values: list[str], named: list[tuple[str, str]]) -> dict[str, str]:
    """Return the split of each value of a column, of which `named` are pairs of a fold and its split."""
    split_of = dict(named)
    for fold, part in named:
        if fold not in values:
            raise ConfigError(
                f"Column {name!r} has no fold {fold!r} (data.{part}_fold).{suggestion(fold, values)} It "
                f"contains: {shorten(sorted_values(values))}."
            )
        if split_of[fold] != part:
            raise ConfigError(
                f"Fold {fold!r} is in data.test_fold and data.val_fold. Remove it from one of them."
            )
    if len(split_of) == len(values):
        settings = " and ".join(f"data.{part}_fold" for part in dict.fromkeys(split_of.values()))
        raise ConfigError(
            f"{settings} contain all folds of column {name!r}. Leave out at least one, for training."
        )
    others = [value for value in values if value not in split_of]
    if words := [value for value in others if WORDS.get(value.lower(), "train") != "train"]:
        raise ConfigError(
            f"Column {name!r} contains {words[0]!r}, but with data.{named[0][1]}_fold all folds that no "
            f"setting names are training rows. Add {words[0]!r} to data.test_fold or data.val_fold, or give "
            "it another name in the file."
        )
    return dict.fromkeys(others, "train") | split_of


def _splits_of_words(text: pl.Series, values: list[str]) -> dict[str, str]:
    """Return the split that each value of a column names."""
    name, ordered = text.name, sorted_values(values)
    if all(as_number(value) is not None for value in values):
        example = ordered[0 if "fold" in name.lower() else -1]
        raise ConfigError(
            f"Column {name!r} contains numbers ({shorten(ordered)}). Set the one that forms the test split, "
            f"such as {format_setting('data.test_fold', example)}."
        )
    if unknown := [value for value in values if value.lower() not in WORDS]:
        tests = [value for value in values if "test" in value.lower()] or unknown
        fold = format_setting("data.test_fold", tests[0])
        raise DataError.at(
            text.index_of(unknown[0]) or 0,
            name,
            f" is {unknown[0]!r}, but a split must be {', '.join(WORDS)}. Rename it, or set the values that "
            f"form the test split ({fold}) and the validation split (data.val_fold). All others are training "
            f"rows. Values: {shorten(ordered)}.",
            unknown[0],
        )
    return {value: WORDS[value.lower()] for value in values}


def read_groups(column: pl.Series) -> np.ndarray:
    """Return the index of each row's group; a row with an empty cell is a group by itself."""
    text = CellParser().text(column)
    if empty := text.null_count():
        row = text.is_null().arg_max()
        warn(
            "missing_group",
            f"Column {column.name!r} has no group in {empty} of {len(text)} rows, such as row {row}. Each of "
            "them counts as a group. Fill in the group of rows that belong together.",
        )
    codes = text.rank("dense").cast(pl.Int64) - 1
    alone = pl.int_range(len(text), eager=True) + (int(codes.max() or 0) + 1)  # type: ignore[arg-type]
    return codes.zip_with(codes.is_not_null(), alone).to_numpy()


def read_times(column: pl.Series, date_format: str | None) -> np.ndarray:
    """Return the rank of each row's time, which is a number or a date as in `parse_dates`.

    Numbers such as 31052024 are dates if most of them have the format `date_format`.

    Raises:
        DataError: a cell is empty, or is not a date.
    """
    times = column
    if column.dtype in TEXT:  # a number after a blank is text
        numbers, invalid = parse_numbers(CellParser().text(column))
        times = column if invalid is not None else numbers
    if date_format is not None and times.dtype.is_numeric():
        text = CellParser().text(times)
        text = text.str.zfill(int(text.str.len_chars().max() or 0))  # type: ignore[arg-type]
        times = text if is_date(text.drop_nulls(), date_format) else times
    if not (times.dtype.is_numeric() or times.dtype.is_temporal()):
        times = parse_dates(times, find_date_format(times, date_format))
    times = times.fill_nan(None) if times.dtype.is_float() else times
    if times.null_count():
        row, setting = times.is_null().arg_max(), format_setting("data.time", column.name)
        raise DataError.at(
            row, column.name, f" is empty, but rows are split by time ({setting}). Fill in the time."
        )
    return times.rank("dense").to_numpy()


def split_by_time(times: np.ndarray, fractions: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Return the rows of each split in the order of time: training, validation, test.

    Rows of equal time are in the same split, so that a split may be larger than its fraction.

    Args:
        times: Numbers (N,).
        fractions: Fraction of "test", of all rows, and of "val", of the remaining rows; each may be absent.

    Raises:
        DataError: there are too few different times.
    """
    rows, remaining = {}, np.arange(len(times))
    for split in ("test", "val"):
        if split in fractions:
            size = max(1, round(len(remaining) * fractions[split]))
            recent = times[remaining] >= np.sort(times[remaining])[-size]
            if recent.all():
                raise DataError(
                    f"data.time has too few different values ({len(np.unique(times))}) for a "
                    f"{SPLIT_NAMES[split]} split of {fractions[split]}. Set another "
                    f"data.{split}_fraction, or data.{split}_path."
                )
            rows[split], remaining = remaining[recent], remaining[~recent]
    return {"train": remaining, **rows}


def warn_shared_groups(groups: Mapping[str, pl.Series]) -> None:
    """Warn about groups with rows in two splits; `groups` has the group of each row of a split, if known."""
    known = {
        split: CellParser().text(groups[split]).drop_nulls().unique(maintain_order=True)
        for split in SPLITS
        if split in groups
    }
    for first, second in combinations(known, 2):
        shared = known[second].filter(known[second].is_in(known[first].implode()))
        effect = "its metrics partly measure memorisation"
        if first == "val":
            shared = shared.filter(~shared.is_in(known["train"].implode()))  # others have been named
            effect = "its metrics are too good: checkpoint and thresholds are chosen with these groups"
        if len(shared):
            warn(
                "group_in_several_splits",
                f"Some groups of column {known[first].name!r} have rows in the {SPLIT_NAMES[first]} split "
                f"and in the {SPLIT_NAMES[second]} split ({len(shared)}, such as {shared[0]!r}), so "
                f"{effect}. Move each group to one split.",
            )


def warn_likely_splits(frame: pl.DataFrame, has_groups: bool) -> None:
    """Warn about features that seem to contain the split of each row, or groups unless `has_groups`."""
    for column in frame.iter_columns():
        name, setting = column.name, format_setting
        exclude = setting("data.exclude", [name])
        if _is_likely_split(column):
            fix = setting("data.split", name)
            if column.dtype.is_integer() and not FLAG.search(name):
                fix += f" and the number of the test split, such as {setting('data.test_fold', column.max())}"
            warn(
                "likely_split_column",
                f"Column {name!r} seems to contain the split of each row. If it does, set {fix}. If it is "
                f"useless as a feature, set {exclude}.",
            )
        elif not has_groups and _is_likely_group(column):
            warn(
                "likely_group_column",
                f"Column {name!r} seems to contain patients, sessions or other groups of rows. If rows of "
                f"equal value belong together, set {setting('data.group', name)} to keep them in one "
                f"split. If it is useless as a feature, set {exclude}.",
            )


def _is_likely_split(column: pl.Series) -> bool:
    is_flag = re.fullmatch(r"is[\W_]?\w+", column.name, re.IGNORECASE) and FLAG.search(column.name)
    is_fold = re.fullmatch(r"(\w+[\W_])?(folds?|split|partition|subset)", column.name, re.IGNORECASE)
    if column.dtype not in TEXT and not (
        (is_flag or is_fold) and (column.dtype.is_integer() or column.dtype == pl.Boolean)
    ):
        return False
    values = {str(value).strip().lower() for value in column.unique().drop_nulls().head(30)}
    if len(values) < 2:
        return False
    if values <= {*WORDS}:
        return len({WORDS[value] for value in values}) > 1
    if len(values) < MAX_PARTS and any("train" in value for value in values):  # such as PublicTest or id_val
        return any(re.search("test|val|dev|holdout", value) for value in values)
    if values <= {*FLAG_VALUES}:
        return bool(is_flag)
    return bool(is_fold) and len(values) < 30


def _is_likely_group(column: pl.Series) -> bool:
    is_text = column.dtype in TEXT
    if not is_text and not (OWNER.search(column.name) or IDENTIFIER.search(column.name)):
        return False
    column = restore_integers(column)  # ids are floats next to missing cells
    if not is_text and not column.dtype.is_integer():
        return False
    known = column.drop_nulls()
    distinct = known.n_unique()
    if not 1 < distinct < len(known):
        return False
    if OWNER.search(column.name):
        return distinct >= MIN_OWNERS
    if not distinct > MIN_GROUPS or len(known) > distinct * MAX_GROUP_ROWS:
        return False
    known = known.cast(pl.String)
    if IDENTIFIER.search(column.name) or not is_text:
        return bool(IDENTIFIER.search(column.name))
    if known.head(MIN_GROUPS).str.to_lowercase().str.contains(DATE).all():
        return False
    # codes of one scheme, such as TCGA-0042; names of cities, for example, are categories
    schemes = known.str.replace_all(r"\pL+", "A").str.replace_all(r"\d+", "9").unique()
    return (
        schemes.len() <= MAX_SCHEMES and schemes.str.contains("A").all() and schemes.str.contains("9").all()
    )
