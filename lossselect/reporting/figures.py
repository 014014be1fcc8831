"""Figures of the report, drawn with matplotlib from an outcome or from a run's log.

scikit-learn's displays are not used: their arguments differ between 1.5 and 1.9, they add labels and legends,
and none accepts bins, or a matrix whose colours (fractions) differ from its numbers (counts).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import polars as pl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from lossselect.reporting.outcome import Outcome

Curve = tuple[np.ndarray, np.ndarray, str, tuple[float, float] | None]
"""x, y, the area under the curve as text, and the point of the threshold."""

INK = "#1a2b3c"  # text and lines; the page replaces it by its text colour, light or dark
# Okabe and Ito's palette, distinguishable with any colour vision, on black and on white
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#7f7f7f")
MAX_CURVES, MAX_PANELS, MAX_CELLS = 8, 12, 30  # beyond these numbers the most frequent outputs are drawn
MAX_POINTS = 300  # per curve
WIDTH = 5.2  # inches, the same in all figures, so that text has one size
DIAGONAL: dict[str, Any] = {"color": INK, "linestyle": ":", "linewidth": 0.8}

STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.titlesize": 9,
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


def epoch_curves(curves: Iterable[tuple[str, pl.DataFrame, str]], label: str) -> Figure | None:
    """Draw columns of logs by epoch: for each curve its name, the log of a run, and the name of a column."""
    figure, axes = panel()
    for name, log, column in curves:
        if {column, "epoch"} <= {*log.columns} and log[column].is_finite().any():
            finite = log.filter(pl.col(column).is_finite())
            marker = "." if len(finite) < 15 else None  # a line of one point would be invisible
            axes.plot(finite["epoch"] + 1, finite[column], label=name, marker=marker)
    if not axes.lines:
        return None
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return with_legend(figure)


def roc(outcome: Outcome) -> Figure | None:
    """Draw the ROC curves, with the points of the thresholds."""
    from sklearn.metrics import auc, roc_curve  # imported late: takes half a second

    def curve(truth: np.ndarray, scores: np.ndarray, predicted: np.ndarray) -> Curve:
        fpr, tpr, _ = roc_curve(truth, scores)
        point = predicted[truth == 0].mean(), predicted[truth == 1].mean()
        return fpr, tpr, f"AUROC {auc(fpr, tpr):.3f}", point

    return _ranking(outcome, curve, True, xlabel="false positive rate", ylabel="true positive rate")


def precision_recall(outcome: Outcome) -> Figure | None:
    """Draw precision by recall, with the points of the thresholds."""
    from sklearn.metrics import precision_recall_curve

    def curve(truth: np.ndarray, scores: np.ndarray, predicted: np.ndarray) -> Curve:
        precision, recall, _ = precision_recall_curve(truth, scores)
        point = (predicted[truth == 1].mean(), truth[predicted == 1].mean()) if predicted.any() else None
        return recall, precision, f"AP {-(np.diff(recall) * precision[:-1]).sum():.3f}", point

    return _ranking(outcome, curve, False, xlabel="recall", ylabel="precision", ylim=(0, 1.02))


def _ranking(outcome: Outcome, curve: Callable[..., Curve], diagonal: bool, **labels: Any) -> Figure | None:
    """Draw a curve per output, and one of all outputs pooled."""
    several = len(outcome.names) > 1
    outputs = [("all, pooled", INK, 2, outcome.labelled())] if several else []
    for i, colour in zip(_find_frequent(outcome, MAX_CURVES), COLOURS, strict=False):
        outputs.append((shorten_name(outcome.names[i]), colour, 2 - several, outcome.labelled(i)))
    outputs = [output for output in outputs if 0 < output[-1][0].sum() < len(output[-1][0])]
    if not outputs:
        return None
    figure, axes = panel(5.0 if several else 3.6)
    for name, colour, width, values in outputs:
        x, y, area, point = curve(*values)
        points = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).astype(int))
        axes.plot(x[points], y[points], color=colour, linewidth=width, label=f"{name} ({area})")
        if outcome.thresholds is not None and point is not None:
            axes.plot(*point, "o", color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.6)
    if diagonal:
        axes.axline((0, 0), (1, 1), **DIAGONAL)
    axes.set(xlim=(-0.01, 1.01), **labels)
    return with_legend(figure)


def reliability(outcome: Outcome) -> Figure:
    """Draw how often predictions of a given probability are true, before and after calibration."""
    figure, axes = panel()
    axes.axline((0, 0), (1, 1), **DIAGONAL)
    base_task, task, colour = outcome.base_task, outcome.task, COLOURS[0]
    stages = [("uncalibrated", task, colour, "o-")]
    if base_task and (base_task.temperature, base_task.shift) != (task.temperature, task.shift):
        stages = [("before", base_task, COLOURS[1], "o--"), ("calibrated", task, colour, "o-")]
    for name, stage, line_colour, line in stages:
        (count, confidence, hits), error = outcome.reliability(stage)
        filled = count > 0
        x, y = confidence[filled] / count[filled], hits[filled] / count[filled]
        label = f"{name}: error {error:.3f}"
        axes.plot(x, y, line, color=line_colour, label=label, markersize=3, linewidth=1.2)
    bars = axes.twinx()
    middles = (np.arange(len(count)) + 0.5) / len(count)
    bars.bar(middles, count / max(count.sum(), 1), 1 / len(count), color=colour, alpha=0.15)
    bars.set(ylim=(0, 4), yticks=[])
    bars.spines[:].set_visible(False)
    xlabel = "largest probability of a row" if task.exclusive else "probability"
    axes.set(xlabel=xlabel, ylabel="fraction that is true", xlim=(0, 1), ylim=(0, 1))
    return with_legend(figure)


def scores(outcome: Outcome) -> Figure:
    """Draw the distribution of each output's probability, for rows where it is true and where it is false."""
    outputs = _find_frequent(outcome, MAX_PANELS)
    columns = min(4, len(outputs))
    rows = -(-len(outputs) // columns)
    figure = Figure(figsize=(WIDTH, max(1.4 * rows + 0.4, 3)))
    bins = np.linspace(0, 1, 21)
    for i, output in enumerate(outputs):
        axes = figure.add_subplot(rows, columns, i + 1)
        for value, colour, name in ((0, COLOURS[1], "false"), (1, COLOURS[0], "true")):
            counts, _ = np.histogram(outcome.probabilities[outcome.truth[:, output] == value, output], bins)
            heights = counts / max(counts.sum(), 1)
            axes.stairs(heights, bins, fill=True, color=colour, alpha=0.45, label=name)
        if outcome.thresholds is not None:
            axes.axvline(outcome.thresholds[output], color=INK, linewidth=0.9)
        axes.set(title=shorten_name(outcome.names[output]), yticks=[], xticks=[0, 1], xlim=(0, 1))
        axes.spines["left"].set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def confusion(outcome: Outcome) -> Figure | None:
    """Draw the confusion matrix; of many classes those that are confused most often."""
    counts = outcome.confusion
    if counts is None:
        return None
    wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    shown = _find_largest(wrong, MAX_CELLS)
    cells = counts[shown][:, shown]
    fractions = cells / np.maximum(counts.sum(1)[shown], 1)[:, None]
    names = [outcome.task.names[i] for i in shown]
    return _matrix(fractions, cells, names, xlabel="predicted", ylabel="true")


def combine(outcome: Outcome) -> Figure | None:
    """Draw the co-occurrence of labels: the fraction of the rows with one label that have another."""
    if not outcome.task.several_labels or len(outcome.names) < 2:
        return None
    shown = _find_frequent(outcome, MAX_CELLS)
    truth = np.nan_to_num(outcome.truth[:, shown])
    both = truth.T @ truth
    # only rows where the other label is known
    fractions = both / np.maximum(truth.T @ ~np.isnan(outcome.truth[:, shown]), 1)
    names = [outcome.names[i] for i in shown]
    return _matrix(fractions, both.astype(int), names, xlabel="also have", ylabel="rows with")


def _matrix(fractions: np.ndarray, counts: np.ndarray, names: list[str], **axes_settings: str) -> Figure:
    side = max(WIDTH, 1.2 + 0.26 * len(names))
    figure = Figure(figsize=(side, side))
    axes = figure.add_subplot(**axes_settings)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    labels = [shorten_name(name, 14) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90)
    axes.set_yticks(range(len(names)), labels)
    if len(names) <= 16:  # more numbers would be illegible
        for i, j in np.argwhere(counts):
            colour = "white" if fractions[i, j] > 0.5 else "#08306b"
            axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", color=colour, fontsize=7)
    return figure


def shorten_name(name: str, max_length: int = 22) -> str:
    """Return a name that fits into a figure."""
    name = " ".join(name.split())
    return name if len(name) <= max_length else f"{name[: max_length - 1]}…"


def _find_largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the largest values, in increasing order."""
    return np.sort(np.argsort(-values, kind="stable")[:count])


def _find_frequent(outcome: Outcome, count: int) -> list[int]:
    return _find_largest(np.nansum(outcome.truth, 0), count).tolist()


def panel(height: float = 3.6) -> tuple[Figure, Axes]:
    """Return a figure of the common width with one pair of axes."""
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.add_subplot()


def with_legend(figure: Figure) -> Figure:
    """Add a legend below the axes."""
    figure.legend(loc="outside lower center", ncols=2, handlelength=1.5)
    return figure
