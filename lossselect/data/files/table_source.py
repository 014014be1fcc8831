"""The content of tables."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from lossselect.data.files.columns import NamedColumns
from lossselect.data.files.source import Source, check_weights
from lossselect.data.label_parsing.long_format import collect_labels
from lossselect.data.label_parsing.several import AnyOptions
from lossselect.data.large_tables.cache import Cache, digest, identify_files
from lossselect.data.preprocessing.columns import is_in_runs
from lossselect.data.readers.formats import open_table
from lossselect.data.readers.tables import FileColumns, Table, TableColumns, TableOptions, check_columns
from lossselect.data.readers.text_tables import TextTable
from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.values import as_number
from lossselect.utils.checks import format_setting, shorten
from lossselect.utils.devices import free_memory
from lossselect.utils.warnings import warn

MAX_MEMORY_SHARE = 0.5
"""Fraction of the free memory that a table in memory may take."""
CODE_ROWS, CODE_CELLS, MIN_CODE_LENGTH = 1000, 1 << 17, 3
"""Maximum number of first rows, and of their cells, in which codes are recognised, and the fewest digits of
one: not months such as 07."""


def read_table(
    table: Table,
    options: TableOptions,
    columns: NamedColumns,
    labels: AnyOptions,
    cache: Cache,
    max_memory: float | None = None,
) -> Source:
    """Return the content of a table.

    Args:
        table: The table.
        options: The settings with which it was opened.
        columns: The columns that settings name.
        labels: The settings of the labels.
        cache: The cache of the table.
        max_memory: GB of memory that the table may take, by default half of the free memory. The features of
            a larger table stay in the file, which is converted to Parquet unless it is quickly read by
            columns.

    Raises:
        ConfigError: a column has two meanings, or data.id is set for a large table.
        DataError: a column is missing or has invalid cells.
    """
    path, header, target = str(table.file), table.header, [*columns.target]
    _check_target(table, target, labels)
    if len(target) > 1:
        labels.check_unused(["id"], f"{len(target)} columns")
    if labels.fitted is not None:  # the groups of another file are only compared, if it has them
        columns = columns.with_roles_in(header)
    columns.check(header, path)
    features = columns.select_features(header, path)
    others = [*dict.fromkeys(name for _, name in columns.settings)]
    used = [*dict.fromkeys([*features, *others])]
    as_written = labels.delimited(target)
    named = {*columns.features, *columns.categorical, *columns.text}
    unnamed = [name for name in features if name in table.unnamed and name not in named]
    fast, is_large = table, exceeds_memory(table, max_memory)
    if not is_large:
        frame = table.read(used, columns.as_text, as_written)
    else:
        if columns.id is not None:
            raise ConfigError(
                f"{path} requires about {table.memory / 1e9:.1f} GB of memory, which is more than "
                "data.max_memory, and data.id requires the table in memory. Set a larger data.max_memory, "
                "or write a file with one row for each id, and lists of labels."
            )
        fast = _fast_table(table, options, used, columns.as_text, as_written, cache)
        frame = fast.read([*others, *unnamed], columns.as_text)
    if isinstance(table, TextTable):
        if options.header is None:
            _check_no_row_is_header(header, frame[target], path)
        if labels.fitted is None:
            _warn_codes(table, {*features} - {*columns.categorical})
    indices = [name for name in unnamed if _is_index(frame[name], path)]
    features = [name for name in features if name not in indices]
    if columns.id is not None:
        frame = collect_labels(
            frame[[*dict.fromkeys([*features, *others])]], columns.id, target[0], labels.empty
        )
    return Source(
        path,
        FileColumns(fast, features, frame.height) if is_large else TableColumns(frame[features]),
        frame[target].get_columns(),
        {**vars(options), "width": len(header) if options.header is False else None},
        check_weights(frame[columns.sample_weight], path) if columns.sample_weight is not None else None,
        {role: frame[name] for role, name in columns.roles.items()},
        columns.uses(header, indices),
        table.files,
    )


def exceeds_memory(table: Table, gigabytes: float | None) -> bool:
    """Return whether a table takes more memory than it may, for the setting data.max_memory."""
    if gigabytes is not None:
        return table.memory > gigabytes * 1e9
    free = free_memory()
    return free is not None and table.memory > MAX_MEMORY_SHARE * free


def _check_target(table: Table, target: Sequence[str], labels: AnyOptions) -> None:
    """Raise a DataError unless the table has the target columns."""
    try:
        check_columns(target, table.header, "data.target", str(table.file))
    except DataError as error:
        if table.separator_hint and not Path(target[0]).is_file():
            error.add(table.separator_hint.strip())
        skipped = table.find_line(target[0]) if isinstance(table, TextTable) else None
        if skipped and labels.fitted is None:  # the setting applies to the files of all splits
            error.add(f"If the names are in line {skipped + 1}, set data.skip_lines={skipped}.")
        if labels.fitted is not None:  # such as a test set whose labels were not published
            error.add("To predict rows without labels, use lossselect predict.")
        raise


def _fast_table(
    table: Table,
    options: TableOptions,
    columns: Sequence[str],
    as_text: Sequence[str],
    as_written: Sequence[str],
    cache: Cache,
) -> Table:
    """Return a table that is read quickly by columns: the same one, or its conversion to Parquet."""
    if table.format.by_columns:
        return table
    key = digest(identify_files(table.files), columns, as_text, as_written, vars(options))

    def build(folder: Path) -> None:
        table.convert(columns, folder / "table.parquet", as_text, as_written)

    return open_table(str(cache.get("table", key, build, table.size) / "table.parquet"))


def _check_no_row_is_header(header: Sequence[str], targets: pl.DataFrame, path: str) -> None:
    """Raise a DataError if the first line of a file seems to be a row.

    It has only numbers other than those of the columns, or numbers and a label in the target column.
    """
    numbers = [as_number(name) for name in header]
    counts = numbers in ([*range(len(header))], [*range(1, len(header) + 1)])
    named_like_label = [
        column.name
        for column in targets.iter_columns()
        if len(targets.columns) == 1  # of several label columns, one called x may be marked by x
        if column.dtype == pl.String and (column.str.strip_chars() == column.name).any()
    ]
    if (None in numbers or counts) and not (named_like_label and {*numbers} != {None}):
        return
    problem = "its first line contains only numbers"
    if None in numbers:
        problem = f"column {named_like_label[0]!r} (data.target) contains this label, and others are numbers"
    raise DataError(
        f"{path} seems to have no header: {problem} ({shorten(header)}). Set data.header=false to name the "
        "columns 'column 0', 'column 1' and so on, or data.header=true if these are names."
    )


def _warn_codes(table: TextTable, features: set[str]) -> None:
    """Warn about features whose numbers have leading zeros and equal length, like postal codes."""
    rows = table.first_cells(1 + min(CODE_ROWS, CODE_CELLS // len(table.header)))[1:]
    for place, name in enumerate(table.header):
        if name not in features:
            continue
        cells = {row[place].strip() for row in rows if len(row) > place} - {""}
        lengths = {*map(len, cells)}
        if len(lengths) != 1 or min(lengths) < MIN_CODE_LENGTH:
            continue
        are_numbers = all(cell.isalnum() and as_number(cell) is not None for cell in cells)
        if are_numbers and (zeros := sorted(cell for cell in cells if cell[0] == "0")):
            warn(
                "leading_zeros",
                f"Column {name!r} of {table.file} contains numbers with leading zeros and equal length, such "
                f"as {zeros[0]}, which may be codes. If they are, set "
                f"{format_setting('data.categorical', [name])}.",
            )


def _is_index(column: pl.Series, path: str) -> bool:
    """Return whether a column without a name is empty, or numbers the rows, for which there is a warning."""
    if column.null_count() == len(column):
        return True
    if column.dtype.is_integer() and (column.n_unique() == len(column) or is_in_runs(column)):
        warn(
            "index_column",
            f"A column of {path} has no name and a different integer in each row, or counts the rows of "
            f"several joined tables, like an index of pandas. It is left out. To use it, name it "
            f"{column.name!r} in data.features.",
        )
        return True
    exclude = format_setting("data.exclude", [column.name])
    problem = f"A column of {path} has no name and is used as the feature {column.name!r}."
    warn("index_column", f"{problem} If it is an index, leave it out: {exclude}.")
    return False
