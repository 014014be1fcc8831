"""Figures of the report, drawn with matplotlib from an outcome or from a run's log.

scikit-learn's displays are not used: their arguments differ between 1.5 and 1.9, they add labels and legends,
and none accepts bins, or a matrix whose colours (fractions) differ from its numbers (counts).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
import polars as pl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from lossselect.utils.names import shorten_names, text_width

if TYPE_CHECKING:
    from lossselect.reporting.importance import Importance
    from lossselect.reporting.outcome import Outcome

Curve = tuple[np.ndarray, np.ndarray, str, tuple[float, float] | None]
"""x, y, the area under the curve as text, and the point of the threshold."""

INK = "#1a2b3c"  # text and lines; the page replaces it by its text colour, light or dark
# Okabe and Ito's palette and two more, distinguishable with any colour vision, on black and on white
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#9955ee", "#995533")
FRACTIONS = LinearSegmentedColormap.from_list("fractions", [(COLOURS[0], 0), (COLOURS[0], 1)])
"""From transparent, so that a matrix has the background of the page, to blue."""
MAX_ON_INK = 0.85  # the fraction up to which INK has more contrast than white on a light page
MAX_CURVES, MAX_PANELS, MAX_CELLS = 8, 12, 30  # beyond these numbers the most frequent outputs are drawn
MAX_POINTS = 300  # per curve
MAX_BARS = 20
MAX_NUMBERED = 16  # classes of a matrix whose cells have numbers; more would be illegible
WIDTH = 5.2  # inches, the same in all figures, so that text has one size
DIAGONAL: dict[str, Any] = {"color": INK, "linestyle": ":", "linewidth": 0.8}

STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.titlesize": 9,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.unicode_minus": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
    # text stays text, and a class named $x$ is not typeset
    "svg.fonttype": "none",
    "text.parse_math": False,
}


def styled(name: str) -> AbstractContextManager[None]:
    """Return a context with the style of the page; `name` makes the ids of a figure unique."""
    return mpl.rc_context({**STYLE, "svg.hashsalt": name})


class Drawing(NamedTuple):
    """A figure, and the table of what it shows."""

    figure: Figure
    data: pl.DataFrame


def epoch_curves(curves: Iterable[tuple[str, pl.DataFrame, str]], label: str) -> Drawing | None:
    """Draw columns of logs by epoch: for each curve its name, the log of a run, and the name of a column."""
    shown = []
    for name, log, column in curves:
        if {column, "epoch"} <= {*log.columns} and log[column].is_finite().any():
            finite = log.filter(pl.col(column).is_finite())
            shown.append(
                finite.select(
                    curve=pl.lit(name), epoch=pl.col("epoch").cast(pl.Int64) + 1, value=pl.col(column)
                )
            )
    if not shown:
        return None
    figure, axes = panel()
    for values in shown:
        marker = "." if len(values) < 15 else None  # a line of one point would be invisible
        axes.plot(values["epoch"], values["value"], label=values["curve"][0], marker=marker)
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return Drawing(with_legend(figure), pl.concat(shown))


def roc(outcome: Outcome) -> Drawing | None:
    """Draw the ROC curves, with the points of the thresholds."""

    def curve(truth: np.ndarray, scores: np.ndarray, predicted: np.ndarray) -> Curve:
        true, false = (np.append(0, counts) for counts in _count_positives(truth, scores))
        x, y = false / false[-1], true / true[-1]
        area = (np.diff(x) * (y[1:] + y[:-1]) / 2).sum()
        point = predicted[truth == 0].mean(), predicted[truth == 1].mean()
        return x, y, f"AUROC {area:.3f}", point

    return _ranking(outcome, curve, True, xlabel="false positive rate", ylabel="true positive rate")


def precision_recall(outcome: Outcome) -> Drawing | None:
    """Draw precision by recall, with the points of the thresholds."""

    def curve(truth: np.ndarray, scores: np.ndarray, predicted: np.ndarray) -> Curve:
        true, false = _count_positives(truth, scores)
        recall, precision = np.append(0, true / true[-1]), np.append(1, true / (true + false))
        point = (predicted[truth == 1].mean(), truth[predicted == 1].mean()) if predicted.any() else None
        return recall, precision, f"AP {(np.diff(recall) * precision[1:]).sum():.3f}", point

    return _ranking(outcome, curve, False, xlabel="recall", ylabel="precision", ylim=(0, 1.02))


def _count_positives(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of true and of false positives for each threshold, the highest first.

    scikit-learn's functions compute the same, but importing them takes half a second.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # equal scores have one threshold
    true = truth[order].cumsum()[last]
    return true, last + 1 - true


def _ranking(
    outcome: Outcome, curve: Callable[..., Curve], diagonal: bool, xlabel: str, ylabel: str, **limits: Any
) -> Drawing | None:
    """Draw a curve per output, and one of all outputs pooled."""
    several = len(outcome.names) > 1
    pooled = "all, pooled"
    outputs = [(pooled, pooled, INK, 2, outcome.labelled())] if several else []
    short = shorten_names(outcome.names)
    for i, colour in zip(_find_frequent(outcome, MAX_CURVES), COLOURS, strict=False):
        outputs.append((outcome.names[i], short[i], colour, 2 - several, outcome.labelled(i)))
    outputs = [output for output in outputs if 0 < output[-1][0].sum() < len(output[-1][0])]
    if not outputs:
        return None
    figure, axes = panel(5.0 if several else 3.6)
    drawn = []
    for name, label, colour, width, values in outputs:
        x, y, area, point = curve(*values)
        points = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).astype(int))
        axes.plot(x[points], y[points], color=colour, linewidth=width, label=f"{label} ({area})")
        if outcome.thresholds is not None and point is not None:
            axes.plot(*point, "o", color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.6)
        drawn.append(
            pl.DataFrame({xlabel: x[points], ylabel: y[points]}).select(pl.lit(name).alias("class"), pl.all())
        )
    if diagonal:
        axes.axline((0, 0), (1, 1), **DIAGONAL)
    axes.set(xlim=(-0.01, 1.01), xlabel=xlabel, ylabel=ylabel, **limits)
    return Drawing(with_legend(figure), pl.concat(drawn))


def reliability(outcome: Outcome) -> Drawing:
    """Draw how often predictions of a given probability are true, before and after calibration.

    The lower part shows the number of predictions in each bin, after calibration.
    """
    figure = Figure(figsize=(WIDTH, 4.4))
    axes, bars = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.axline((0, 0), (1, 1), **DIAGONAL)
    base_task, task, colour = outcome.base_task, outcome.task, COLOURS[0]
    stages = [("probabilities", task, colour, "o-")]
    if base_task and (base_task.temperature, base_task.shift) != (task.temperature, task.shift):
        stages = [("before", base_task, COLOURS[1], "o--"), ("calibrated", task, colour, "o-")]
    drawn = []
    for name, stage, line_colour, line in stages:
        (count, confidence, hits), error = outcome.reliability(stage)
        edges = np.linspace(0, 1, len(count) + 1)
        filled = count > 0
        x, y = confidence[filled] / count[filled], hits[filled] / count[filled]
        label = f"{name}: error {error:.3f}"
        axes.plot(x, y, line, color=line_colour, label=label, markersize=3, linewidth=1.2)
        shown = {"from": edges[:-1][filled], "to": edges[1:][filled], "count": count[filled].astype(int)}
        drawn.append(
            pl.DataFrame({**shown, "mean probability": x, "fraction that is true": y}).select(
                pl.lit(name).alias("probabilities"), pl.all()
            )
        )
    drawn_bars = bars.bar(edges[:-1], count, edges[1], align="edge", **_fill(colour))
    # a number tells few from none
    numbers = [_format_count(number) if number else "" for number in count.astype(int)]
    bars.bar_label(drawn_bars, numbers, fontsize=7, padding=1)
    bars.set(ylabel="count", yticks=[], ylim=(0, 1.3 * max(count.max(), 1)))
    bars.set_xlabel("largest probability of a row" if task.exclusive else "probability")
    bars.spines["left"].set_visible(False)
    axes.set(ylabel="fraction that is true", xlim=(0, 1), ylim=(0, 1.02))
    return Drawing(with_legend(figure), pl.concat(drawn))


def _format_count(number: int) -> str:
    """Return a count of at most five characters: 9999, 12k or 3.4M."""
    return str(number) if number < 10_000 else EngFormatter(sep="", places=1)(number).replace(".0", "")


def scores(outcome: Outcome) -> Drawing:
    """Draw the distribution of each output's probability, for rows where it is true and where it is false."""
    outputs = _find_frequent(outcome, MAX_PANELS)
    columns = min(4, -(-len(outputs) // 2))
    rows = -(-len(outputs) // columns)
    figure, axes = panel(max(1.4 * rows + 0.4, 3.6))
    bins = np.linspace(0, 1, 21)
    short = shorten_names(outcome.names, 60 // columns)
    drawn = []
    for i, output in enumerate(outputs):
        # all panels in one pair of axes, as each pair takes as long as a whole curve
        left, bottom = i % columns * 1.15, -(i // columns) * 1.6
        shapes = {}
        for value, name in enumerate(("false", "true")):
            counts, _ = np.histogram(outcome.probabilities[outcome.truth[:, output] == value, output], bins)
            shapes[name] = counts / max(counts.sum(), 1)
            found = pl.DataFrame({"from": bins[:-1], "to": bins[1:], "count": counts})
            label = pl.lit(outcome.names[output]).alias("class"), pl.lit(name).alias("label")
            drawn.append(found.select(*label, pl.all()))
        highest = max(shape.max() for shape in shapes.values()) or 1
        for (name, shape), colour in zip(shapes.items(), (COLOURS[1], COLOURS[0]), strict=True):
            style = {"fill": True, "label": "" if i else name, **_fill(colour)}
            axes.stairs(bottom + shape / highest, left + bins, baseline=bottom, **style)
        axes.plot([left, left + 1], [bottom, bottom], color=INK, linewidth=0.8)
        for x in (0, 1):
            axes.text(left + x, bottom - 0.05, str(x), ha="center", va="top", fontsize=8)
        axes.text(left + 0.5, bottom + 1.08, short[output], ha="center", va="bottom", fontsize=8)
        if outcome.thresholds is not None:
            place = left + outcome.thresholds[output]
            axes.plot([place, place], [bottom, bottom + 1.05], color=INK, linewidth=0.9)
    axes.set(ylim=(1.6 - 1.6 * rows - 0.25, 1.3))
    axes.margins(x=0.02)
    axes.axis("off")
    return Drawing(with_legend(figure), pl.concat(drawn))


def confusion(outcome: Outcome) -> Drawing | None:
    """Draw the confusion matrix; of many classes those that are confused most often."""
    counts = outcome.confusion
    if counts is None:
        return None
    wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    shown = _find_largest(wrong, MAX_CELLS)
    cells = counts[shown][:, shown]
    fractions = cells / np.maximum(counts.sum(1)[shown], 1)[:, None]
    return _matrix(fractions, cells, outcome.task.names, shown, "true", "predicted")


def combine(outcome: Outcome) -> Drawing | None:
    """Draw the co-occurrence of labels: the fraction of the rows with one label that have another."""
    if not outcome.task.several_labels or len(outcome.names) < 2:
        return None
    shown = _find_frequent(outcome, MAX_CELLS)
    truth = np.nan_to_num(outcome.truth[:, shown])
    both = truth.T @ truth
    # only rows where the other label is known
    fractions = both / np.maximum(truth.T @ ~np.isnan(outcome.truth[:, shown]), 1)
    return _matrix(fractions, both.astype(int), outcome.names, shown, "rows with", "also have")


def importance(found: Importance) -> Drawing | None:
    """Draw the importance of the most important columns, with standard deviations."""
    rows = found.table()[:MAX_BARS]
    if not rows:
        return None
    names, means, deviations = zip(*rows, strict=True)
    figure, axes = panel(0.8 + 0.22 * max(len(rows), 6))
    places = range(len(rows))
    lines: dict[str, Any] = {"ecolor": INK, "error_kw": {"linewidth": 0.8}}
    axes.barh(places, means, xerr=deviations, **lines, **_fill(COLOURS[0]))
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(places, shorten_names(names))
    axes.invert_yaxis()
    axes.set(xlabel="increase of the loss (nats)")
    columns = {"column": names, "mean": means, "standard deviation": deviations}
    return Drawing(figure, pl.DataFrame(columns))


class LearningCurve(NamedTuple):
    """A validation metric after training on parts of the training rows: fraction, number of rows, value."""

    metric: str
    points: Sequence[tuple[float, int, float | None]]


def learning_curve(curve: LearningCurve) -> Drawing | None:
    """Draw a validation metric by the number of training rows."""
    schema = {"fraction": pl.Float64, "rows": pl.Int64, curve.metric: pl.Float64}
    data = pl.DataFrame(curve.points, schema, orient="row").drop_nulls()
    if not len(data):
        return None
    figure, axes = panel()
    axes.plot(data["rows"], data[curve.metric], "o-", markersize=4)
    axes.set(xlabel="training rows", ylabel=curve.metric, xlim=(0, None))
    return Drawing(figure, data)


def _matrix(
    fractions: np.ndarray, counts: np.ndarray, names: Sequence[str], shown: np.ndarray, down: str, across: str
) -> Drawing:
    """Draw a matrix of the names at the indices `shown`: fractions as colours, and counts as numbers."""
    count = len(shown)
    side = max(WIDTH, 1.2 + 0.26 * count)
    figure = Figure(figsize=(side, side if count > 3 else 3.6))
    axes = figure.add_subplot(xlabel=across, ylabel=down)
    axes.spines[:].set_visible(True)
    axes.imshow(fractions, cmap=FRACTIONS, vmin=0, vmax=1)
    short = shorten_names(names, 14)
    labels = [short[i] for i in shown]
    fits = count == 2 or count * max(text_width(label) + 1 for label in labels) < 6.5 * side
    axes.set_xticks(range(count), labels, rotation=0 if fits else 90)
    axes.set_yticks(range(count), labels)
    if count <= MAX_NUMBERED:
        for i, j in np.argwhere(counts):
            colour = INK if fractions[i, j] <= MAX_ON_INK else "white"
            size = 7 if count > 4 else 10
            axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", color=colour, fontsize=size)
    full = np.array([names[i] for i in shown], dtype=object)
    columns = {down: np.repeat(full, count).tolist(), across: np.tile(full, count).tolist()}
    cells = {"rows": counts.ravel(), "fraction": fractions.ravel()}
    return Drawing(figure, pl.DataFrame({**columns, **cells}))


def _fill(colour: str) -> dict[str, Any]:
    """Return the style of an area, whose outline is visible on black and on white."""
    return {"facecolor": (colour, 0.4), "edgecolor": colour, "linewidth": 0.7}


def _find_largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the largest values, in increasing order."""
    return np.sort(np.argsort(-values, kind="stable")[:count])


def _find_frequent(outcome: Outcome, count: int) -> np.ndarray:
    return _find_largest(np.nansum(outcome.truth, 0), count)


def panel(height: float = 3.6) -> tuple[Figure, Axes]:
    """Return a figure of the common width with one pair of axes."""
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.add_subplot()


def with_legend(figure: Figure) -> Figure:
    """Add a legend below the axes."""
    figure.legend(loc="outside lower center", ncols=2, handlelength=1.5)
    return figure
