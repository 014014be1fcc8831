"""Overview of a data set: its columns and what becomes of them, its labels, and duplicate rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from lossselect.data.files.columns import NamedColumns, as_names
from lossselect.data.files.settings import cell_parser
from lossselect.data.files.source import Source
from lossselect.data.files.table_source import exceeds_memory
from lossselect.data.preprocessing.columns import TEXT, CellParser
from lossselect.data.preprocessing.dates import find_date_format, parse_dates
from lossselect.data.preprocessing.kinds import column_kind
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.data.preprocessing.scaling import SCALINGS, sampled_rows
from lossselect.data.preprocessing.statistics import SAMPLE_ROWS, Statistics, sample_array, summarize
from lossselect.data.preprocessing.table_features import Features
from lossselect.data.readers.arrays import read_features
from lossselect.data.readers.formats import open_table
from lossselect.data.readers.tables import TableOptions
from lossselect.data.splits import Splits
from lossselect.exceptions import DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.label_counts import AnyCounts
from lossselect.tasks.registry import AnyTask, Task
from lossselect.utils.checks import format_setting
from lossselect.utils.terminal import escape_controls_in_json

MAX_TOGETHER = 100
"""Number of most frequent labels whose co-occurrence is counted."""
MAX_LABELS = 10_000
"""Number of most frequent classes or labels that an overview lists."""

MAX_CELLS, MAX_UNUSUAL = 6, 3
"""Number of columns up to which `describe_rows` returns all, and the number of cells of a row beyond that."""
MAX_COMPARED = 1000
"""Number of training rows with which it compares."""

USES = {
    "target": ("labels", "data.target"),
    "sample_weight": ("weights of the rows in the loss", "data.sample_weight"),
    "id": ("the rows of an id become one row", "data.id"),
    "split": ("names the split of each row", "data.split"),
    "group": ("the rows of a group are in the same split", "data.group"),
    "time": ("the most recent rows form the test split", "data.time"),
    "index": ("left out: index column", "data.features"),
    "exclude": ("left out", "data.exclude"),
    "features": ("left out: not in data.features", "data.features"),
    "constant": ("left out: one value in all training rows", ""),
}
"""Decision about a column that is not a feature, and its setting, by use."""
UNREAD = Statistics("", 0, 0, 0)
PLANS = {
    "category": "one-hot",
    "date": "days, year, month, weekday, time of day",
    "text": "TF-IDF of its words",
}
"""Decision about a feature that has not been fitted, by kind; numbers are scaled."""


@dataclass(frozen=True)
class Column:
    """One column of a file.

    Args:
        name: The column's name.
        kind: "number", "category", "date", "text", or "other"; "" if the column was not read.
        use: "feature", "rejected" (it cannot be a feature, for the reason in `decision`), or a key of `USES`.
        rows: The number of rows in which missing cells were counted; 0 if the column was not read.
        missing: The number of missing cells.
        sampled: The number of rows in which values were counted; fewer than `rows` for large tables.
        distinct: The number of distinct values in the sample; None if unknown.
        values: The range of numbers and dates (of text: in the sample), or the most frequent values.
        decision: What becomes of the column.
        change: The settings that change it.
    """

    name: str
    kind: str
    use: str
    rows: int
    missing: int
    sampled: int
    distinct: int | None
    values: str
    decision: str
    change: str


@dataclass(frozen=True)
class Overview:
    """Rows, columns and labels of a data set, as plain values.

    Args:
        name: The file or the data set.
        rows: The number of rows of each split; "all" if they could not be split, or "first" if only the
            first ones were read, because the table is large.
        columns: The columns of the file; empty for sample data and sparse features.
        num_features: The number of features into which the columns are converted; 0 if unknown.
        sampled: The number of rows in which the values of columns were counted, if it is less than all; 0.
        task: The name of the task; "" if the labels could not be read.
        num_labels: The number of classes or labels.
        labels: The most frequent classes or labels, and the number of rows of each split that have them.
        missing_labels: The number of missing labels of each split.
        repeated: The number of rows of each split whose features are equal to those of an earlier one.
        in_train: The number of rows of each other split whose features are equal to those of a training row.
        together: Multilabel: the most frequent labels, each with the number of rows that also have each of
            these labels, in the same order.
        pairs: Labels that occur together: both names, the rows that have both, their fraction of the rows
            that have either; in decreasing order of this fraction.
    """

    name: str
    rows: Mapping[str, int]
    columns: Sequence[Column] = ()
    num_features: int = 0
    sampled: int = 0
    task: str = ""
    num_labels: int = 0
    labels: Sequence[tuple[str, Mapping[str, int]]] = ()
    missing_labels: Mapping[str, int] | None = None
    repeated: Mapping[str, int] | None = None
    in_train: Mapping[str, int] | None = None
    together: Sequence[tuple[str, Sequence[int]]] = ()
    pairs: Sequence[tuple[str, str, int, float]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file, which `from_dict` accepts."""
        return asdict(self)

    def to_json(self, **more: Any) -> str:
        """Return the overview and further entries as JSON, as in data.json."""
        text = json.dumps({**self.to_dict(), **more}, indent=1, ensure_ascii=False)
        return escape_controls_in_json(text) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Overview":
        """Create an overview from the result of `to_dict`."""
        return cls(**{**values, "columns": tuple(Column(**column) for column in values["columns"])})


def make_overview(splits: Splits, task: AnyTask, counts: Mapping[str, AnyCounts]) -> Overview:
    """Return the overview of splits, whose columns `load_own_data` has described."""
    labels: list[tuple[str, Mapping[str, int]]] = []
    for name, part in task.tasks.items():
        positives = {split: count.by_task[name].positives for split, count in counts.items()}
        order = np.argsort(-positives["train"], kind="stable")[:MAX_LABELS].tolist()
        start = f"{name}: " if name else ""
        labels += [
            (start + part.names[i], {split: int(n[i]) for split, n in positives.items()}) for i in order
        ]
    single = task.tasks.get("")
    together, pairs = _count_together(splits.labels, single) if single and single.several_labels else ([], [])
    return Overview(
        name=splits.name,
        rows={split: len(rows) for split, rows in splits.rows.items()},
        columns=splits.overview,
        num_features=splits.features.shape[1],
        sampled=_find_sampled(splits.overview, min(splits.starts.values(), default=len(splits.labels))),
        task=task.name,
        num_labels=sum(len(part.names) for part in task.tasks.values()),
        labels=labels,
        missing_labels={split: count.missing for split, count in counts.items()},
        repeated=splits.duplicates.repeated,
        in_train=splits.duplicates.in_train,
        together=together,
        pairs=pairs,
    )


def describe_rows(splits: Splits, split: str, rows: Sequence[int]) -> dict[str, list[Any]]:
    """Return the cells of rows of a split, by column; `rows` are numbered as in its file.

    Of many columns, there is one text for each row: the cells whose features deviate most from the mean of
    the training rows, in standard deviations. Of a sparse matrix and of splits without a preparation, there
    is nothing.
    """
    if splits.preparation.get("source") not in ("table", "arrays") or not rows:
        return {}
    features = Preparation.from_dict(splits.preparation).features
    inputs = splits.features[torch.as_tensor(rows) + splits.starts.get(split, 0)].numpy()
    cells = features.cells(inputs)
    if len(cells) <= MAX_CELLS:
        return cells
    train = splits.features[
        torch.from_numpy(sampled_rows(splits.rows["train"].numpy(), MAX_COMPARED))
    ].numpy()
    deviations = np.abs(inputs - train.mean(0)) / np.maximum(train.std(0), 1e-6)
    of_columns = np.stack([deviations[:, place].max(1) for place in features.places.values()], 1)
    most = np.argsort(-of_columns, axis=1, kind="stable")[:, :MAX_UNUSUAL].tolist()
    names = [*features.places]
    unusual = ([(names[k], cells[names[k]][i]) for k in best] for i, best in enumerate(most))
    texts = [", ".join(_describe_cell(*cell) for cell in row) for row in unusual]
    return {"unusual values": texts}


def _describe_cell(name: str, cell: Any) -> str:
    if cell is None:
        return f"{name} missing"
    return f"{name} = {cell:.4g}" if isinstance(cell, float) else f"{name} = {cell}"


def _find_sampled(columns: Sequence[Column], rows: int) -> int:
    sampled = min((column.sampled for column in columns if column.rows), default=rows)
    return sampled if sampled < rows else 0


def _count_together(
    labels: np.ndarray | SparseLabels, task: Task
) -> tuple[list[tuple[str, list[int]]], list[tuple[str, str, int, float]]]:
    """Return the most frequent labels with their co-occurrence counts, and the pairs; see `Overview`."""
    from scipy.sparse import csr_array

    if isinstance(labels, SparseLabels):
        indices, indptr = (part.numpy() for part in labels.csr())
        matrix = csr_array((np.ones(len(indices), np.int64), indices, indptr), shape=labels.shape)
    else:
        matrix = csr_array(np.nan_to_num(labels) >= 0.5, dtype=np.int64)
    frequent = np.argsort(-matrix.sum(0), kind="stable")[:MAX_TOGETHER]
    chosen = matrix[:, frequent]
    counts = (chosen.T @ chosen).toarray()
    single = counts.diagonal()
    first, second = np.nonzero(np.triu(counts, 1))
    both = counts[first, second]
    fractions = both / (single[first] + single[second] - both)
    names = [task.names[i] for i in frequent.tolist()]
    places = np.lexsort((-both, -fractions))[:MAX_TOGETHER].tolist()
    pairs = [(names[first[i]], names[second[i]], int(both[i]), float(fractions[i])) for i in places]
    return [*zip(names, counts.tolist(), strict=True)], pairs


def summarize_others(source: Source, parser: CellParser) -> dict[str, Statistics]:
    """Return the statistics of the columns of a table that contain labels or determine the splits."""
    if not source.uses:
        return {}
    labels: Any = source.labels
    others = {column.name: column for column in (*labels, *source.roles.values())}
    return summarize(pl.DataFrame([*others.values()]), parser, {})


def describe_columns(
    uses: Mapping[str, str], features: Features, statistics: Mapping[str, Statistics]
) -> tuple[Column, ...]:
    """Return the columns of the training file.

    Args:
        uses: The use of each column, as in `NamedColumns.uses`; empty for arrays.
        features: The fitted features.
        statistics: The statistics of the columns that were read.
    """
    decisions: dict[str, tuple[str, str]] = {}
    for number in features.numbers:
        decisions[number.name] = "number", number.scale.description + "; 1 where missing" * number.missing
    for category in features.categories:
        missing = " and missing" * category.missing
        decisions[category.name] = "category", f"one-hot, {len(category.values)} categories{missing}"
    for date in features.dates:
        parts = dict.fromkeys(part.name.partition(" ")[0] for part in date.parts)
        decisions[date.name] = "date", ", ".join(parts) + "; 1 where missing" * date.missing
    for text in features.texts:
        decisions[text.name] = "text", f"TF-IDF of {len(text.terms)} words and pairs of words"
    columns = []
    for name, use in (uses or dict.fromkeys(statistics, "feature")).items():
        kind, decision = decisions.get(name, ("", ""))
        use = "constant" if use == "feature" and not decision else use
        columns.append(_describe(name, use, statistics.get(name, UNREAD), kind, decision))
    return tuple(columns)


def outline(data: Mapping[str, Any]) -> Overview:
    """Return an overview of the columns of a file that cannot be trained on; `data` contains its settings.

    Raises:
        LossSelectError: the file cannot be read.
    """
    path, parser = data["path"], cell_parser(data)
    if data["name"] != "table":
        array = read_features(path, data["features"])
        frame = sample_array(array) if isinstance(array, np.ndarray) else pl.DataFrame()
        uses, rows = dict.fromkeys(frame.columns, "feature"), {"all": array.shape[0]}
    else:
        table = open_table(path, TableOptions.select(data))
        named = NamedColumns.create(data)
        uses = named.uses(table.header)
        if exceeds_memory(table, data.get("max_memory")):
            frame = next(iter(table.batches(table.header, SAMPLE_ROWS)), pl.DataFrame())
            rows = {"first": frame.height}
        else:
            frame = table.read(table.header, as_text=named.as_text)
            rows = {"all": frame.height}
    plans = {name: _plan(frame[name], parser, data) for name, use in uses.items() if use == "feature"}
    statistics = summarize(frame, parser, {name: plan.date_format for name, plan in plans.items()})
    columns = []
    for name, use in uses.items():
        plan = plans.get(name, ColumnPlan(use))
        if plan.kind == "category":
            plan = plan._replace(decision=f"one-hot, {statistics[name].distinct} categories")
        columns.append(_describe(name, plan.use, statistics[name], plan.kind, plan.decision))
    return Overview(path, rows, columns, sampled=_find_sampled(columns, sum(rows.values())))


class ColumnPlan(NamedTuple):
    """The use and the kind of a column, and what becomes of it or why it cannot be a feature."""

    use: str
    kind: str = ""
    decision: str = ""
    date_format: str | None = None


def _plan(column: pl.Series, parser: CellParser, data: Mapping[str, Any]) -> ColumnPlan:
    for kind, setting in (("category", "categorical"), ("text", "text")):
        if column.name in as_names(data.get(setting)):
            return ColumnPlan("feature", kind, PLANS[kind])
    if column.n_unique() == 1:
        return ColumnPlan("constant")
    date_format = data.get("date_format")
    try:
        text = parser.text(column) if column.dtype in TEXT else column
        kind, problem = column_kind(text, parser, date_format)
        found = find_date_format(column, date_format, parser) if kind == "date" else None
        if found:
            parse_dates(column, found, parser)  # raises an error that names the row
    except DataError as error:
        return ColumnPlan("rejected", "other", f"cannot be a feature: {error}")
    if problem:
        return ColumnPlan("rejected", kind, f"cannot be a feature: it {problem}")
    if kind == "number":
        return ColumnPlan("feature", kind, SCALINGS[data.get("scaling") or "standard"].description)
    return ColumnPlan("feature", kind, PLANS[kind], found)


def _describe(name: str, use: str, found: Statistics, kind: str, decision: str) -> Column:
    """Return a column; `kind` and `decision` are those of a feature, "" if there is none."""
    change = format_setting("data.exclude", [name])
    if use in USES:
        other, change = USES[use]
        decision = f"{other}; {decision}" if decision else other
    elif kind == "number":
        change = f"{format_setting('data.categorical', [name])} or {change}"
    elif kind == "date":
        change = f"data.date_format or {change}"
    elif kind == "text" and use == "feature":
        change = "data.text"
    elif kind == "text":
        settings = [format_setting(f"data.{setting}", [name]) for setting in ("text", "categorical")]
        change = " or ".join([*settings, format_setting("data.group", name), change])
    # names of persons, for example, which nobody needs in a report
    values = "" if use in ("group", "id") or kind == "text" else found.values
    statistics = {**vars(found), "kind": kind or found.kind, "values": values}
    return Column(name=name, use=use, decision=decision, change=change, **statistics)
