"""The report's pictures, by matplotlib; each takes an outcome, or a run's log, and returns a figure."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from lossselect.metrics.calibration_error import CALIBRATION_BINS
from lossselect.reporting.outcome import Outcome

INK = "#1a2b3c"
"""Of text and lines. Within the page it becomes the colour of the text, light or dark."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#7f7f7f")
"""Okabe and Ito's, which are told apart by people of any colour vision, and readable on black and white."""

MAX_CURVES, MAX_PANELS, MAX_CELLS = 8, 12, 30
"""Of more outputs the ones with the most rows are drawn."""

WIDTH = 5.2
"""Of a figure in inches, so that text is as large in all of them."""

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
    # text stays text, and a class named $x$ is no formula
    "svg.fonttype": "none",
    "text.parse_math": False,
}


@contextmanager
def styled(name: str) -> Iterator[None]:
    """Within it figures look as those of the page do; their ids are the picture's own."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        yield


def short(name: str, most: int = 22) -> str:
    """A name that a picture has room for."""
    name = " ".join(name.split())
    return name if len(name) <= most else f"{name[: most - 1]}…"


def loss_curves(log: pl.DataFrame) -> Figure | None:
    """Train and validation loss by epoch."""
    return _curves(log, ["train/loss", "val/loss"], "loss (nats)")


def metric_curves(log: pl.DataFrame) -> Figure | None:
    """What tells most of the validation split by epoch."""
    return _curves(
        log, [f"val/{name}" for name in ("accuracy", "f1_macro", "auroc", "average_precision")], "metric"
    )


def _curves(log: pl.DataFrame, names: list[str], label: str) -> Figure | None:
    there = [name for name in names if name in log.columns and log[name].is_finite().any()]
    if not there or "epoch" not in log.columns:
        return None
    figure, axes = _panel()
    for name in there:
        known = log.filter(pl.col(name).is_finite())
        # of one epoch a line would not be seen
        axes.plot(known["epoch"] + 1, known[name], label=name, marker="." if len(known) < 15 else None)
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_below(figure)
    return figure


def roc(outcome: Outcome) -> Figure | None:
    """True positives by false positives, and where the thresholds are."""

    def curve(truth: np.ndarray, says: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        false, true, _ = roc_curve(truth, says)
        return false, true, auc(false, true)

    def point(truth: np.ndarray, decided: np.ndarray) -> tuple[float, float]:
        return float(decided[truth == 0].mean()), float(decided[truth == 1].mean())

    figure = _ranked(outcome, curve, point, "AUROC")
    if figure is not None:
        axes = figure.axes[0]
        axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=0.8)
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
    return figure


def precision_recall(outcome: Outcome) -> Figure | None:
    """Precision by recall, and where the thresholds are."""

    def curve(truth: np.ndarray, says: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        precision, recall, _ = precision_recall_curve(truth, says)
        return recall, precision, float(-(np.diff(recall) * precision[:-1]).sum())

    def point(truth: np.ndarray, decided: np.ndarray) -> tuple[float, float] | None:
        if not decided.any():
            return None
        return float(decided[truth == 1].mean()), float(truth[decided == 1].mean())

    figure = _ranked(outcome, curve, point, "AP")
    if figure is not None:
        figure.axes[0].set(xlabel="recall", ylabel="precision", ylim=(0, 1.02))
    return figure


def _ranked(
    outcome: Outcome, curve: Callable[..., Any], point: Callable[..., Any], area: str
) -> Figure | None:
    """A curve of each output, and of all of them pooled."""
    several = len(outcome.names) > 1
    drawn = [(outcome.names[i], outcome.ranked(int(i))) for i in _largest(outcome, MAX_CURVES)]
    if several:
        drawn.insert(0, ("all, pooled", outcome.ranked()))
    drawn = [(name, of) for name, of in drawn if 0 < of[0].sum() < len(of[0])]
    if not drawn:
        return None
    figure, axes = _panel(5.0 if several else 3.6)
    for i, (name, (truth, says, decided)) in enumerate(drawn):
        x, y, value = curve(truth, says)
        first = several and i == 0
        colour = INK if first else COLOURS[(i - several) % len(COLOURS)]
        x, y = _thinned(x, y)
        label = f"{short(name)} ({area} {value:.3f})"
        axes.plot(x, y, color=colour, linewidth=2 if first or not several else 1, label=label)
        if outcome.thresholds is not None and (at := point(truth, decided)):
            axes.plot(*at, "o", color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.6)
    axes.set(xlim=(-0.01, 1.01))
    _legend_below(figure)
    return figure


def _thinned(x: np.ndarray, y: np.ndarray, most: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """So few points that the eye sees no difference."""
    if len(x) <= most:
        return x, y
    at = np.unique(np.linspace(0, len(x) - 1, most).astype(int))
    return x[at], y[at]


def reliability(outcome: Outcome) -> Figure:
    """How often what is said with a probability comes true, before and after calibration."""
    figure, axes = _panel()
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=0.8)
    stages = [("calibrated", True, COLOURS[0], "o-")]
    before, after = outcome.base_task, outcome.task
    if before is not None and (before.temperature, before.shift) != (after.temperature, after.shift):
        stages.insert(0, ("before", False, COLOURS[1], "o--"))
    else:
        stages = [("as it is", True, COLOURS[0], "o-")]
    for name, calibrated, colour, line in stages:
        (count, says, right), error = outcome.reliability(calibrated)
        there = count > 0
        x, y = says[there] / count[there], right[there] / count[there]
        label = f"{name}: error {error:.3f}"
        axes.plot(x, y, line, color=colour, label=label, markersize=3, linewidth=1.2)
        if calibrated:
            bars = axes.twinx()
            middles = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
            bars.bar(middles, count / max(count.sum(), 1), 1 / CALIBRATION_BINS, color=colour, alpha=0.15)
            bars.set(ylim=(0, 4), yticks=[])
            bars.spines[:].set_visible(False)
    said = "largest probability of a row" if outcome.exclusive else "probability"
    axes.set(xlabel=said, ylabel="share that comes true", xlim=(0, 1), ylim=(0, 1))
    _legend_below(figure)
    return figure


def scores(outcome: Outcome) -> Figure:
    """How the probabilities of each output are spread, where it is true and where it is not."""
    shown = _largest(outcome, MAX_PANELS)
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(WIDTH, max(1.4 * rows + 0.4, 3)))
    bins = np.linspace(0, 1, 21)
    threshold = outcome.thresholds
    for place, output in enumerate(shown):
        axes = figure.add_subplot(rows, columns, place + 1)
        truth, says, _ = outcome.known(output)
        for value, colour, name in ((0, COLOURS[1], "not true"), (1, COLOURS[0], "true")):
            counted, _ = np.histogram(says[truth == value], bins)
            heights = counted / max(counted.sum(), 1)
            axes.stairs(heights, bins, fill=True, color=colour, alpha=0.45, label=name)
        if threshold is not None:
            own = threshold[output] if isinstance(threshold, tuple) else threshold
            axes.axvline(own, color=INK, linewidth=0.9)
        axes.set_title(short(outcome.names[output]))
        axes.set(yticks=[], xticks=[0, 1], xlim=(0, 1))
        axes.spines["left"].set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def confusion(outcome: Outcome) -> Figure | None:
    """How the rows of each true class were decided; of many classes those that are confused most."""
    if outcome.confusion is None:
        return None
    counts = outcome.confusion
    wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    kept = np.sort(np.argsort(-wrong, kind="stable")[:MAX_CELLS]) if len(counts) > MAX_CELLS else ...
    part = counts[kept][:, kept]
    shares = part / np.maximum(counts.sum(1)[kept], 1)[:, None]
    figure = _matrix(shares, part, [outcome.task.names[i] for i in np.arange(len(counts))[kept]])
    figure.axes[0].set(xlabel="decided", ylabel="true")
    return figure


def combine(outcome: Outcome) -> Figure | None:
    """Of the rows with one label, the share that has another: which labels come together."""
    if not outcome.task.several_labels or len(outcome.names) < 2:
        return None
    kept = np.sort(_largest(outcome, MAX_CELLS))
    truth = np.nan_to_num(outcome.truth[:, kept])
    both = truth.T @ truth
    # of the rows of which the other label is known
    shares = both / np.maximum(truth.T @ ~np.isnan(outcome.truth[:, kept]), 1)
    figure = _matrix(shares, both.astype(int), [outcome.names[i] for i in kept])
    figure.axes[0].set(xlabel="have this one", ylabel="of those with")
    return figure


def _matrix(shares: np.ndarray, counts: np.ndarray, names: list[str]) -> Figure:
    count = len(names)
    side = max(WIDTH, 1.2 + 0.26 * count)
    figure = Figure(figsize=(side, side))
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [short(name, 14) for name in names]
    axes.set_xticks(range(count), labels, rotation=90)
    axes.set_yticks(range(count), labels)
    if count <= 16:  # of more the numbers would not be read
        for (i, j), share in np.ndenumerate(shares):
            if counts[i, j]:
                colour = "white" if share > 0.5 else "#08306b"
                axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", color=colour, fontsize=7)
    return figure


def _largest(outcome: Outcome, most: int) -> np.ndarray:
    """The outputs with the most rows, in their order."""
    return np.sort(np.argsort(-outcome.support, kind="stable")[:most])


def _panel(height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.add_subplot()


def _legend_below(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=2, handlelength=1.5)
