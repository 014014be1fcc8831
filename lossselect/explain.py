"""The plan of a run, printed before it starts."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from .criterion import Loss
from .data.splits import Splits
from .optim import best_mode
from .statistics import LabelCounts, count_labels, describe_labels
from .tasks import Task

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from .module import TaskModule


def plan(module: "TaskModule", data: Any, trainer: "Trainer", monitor: str) -> dict[str, str]:
    """What a run will do, a line each.

    Args:
        module: With a loss of ours.
        data: Our splits, or the user's own data module.
        trainer: That will fit it.
        monitor: By which the best checkpoint is chosen.
    """
    task, net = module.task, module.net
    criterion = cast(Loss, module.criterion)
    formula = criterion.formula.__doc__ or criterion.formula.__name__
    names = ", ".join(task.names[:8]) + (f", ... ({len(task.names)})" if len(task.names) > 8 else "")
    lines = {
        "task": task.describe(),
        "classes": names,
        "head": f"{task.num_outputs} raw logits; {task.activation} for predictions and metrics only",
        "loss": f"{criterion.name} ({task.activation} form): {formula.splitlines()[0]}",
        "target": task.target_form,
        "decision": _decision(task),
        "metrics": ", ".join(("loss", *task.metric_names)) + "; each over the whole epoch",
        "best by": f"{monitor} ({best_mode(monitor)})",
    }
    options = {key: value for key, value in criterion.options.items() if value is not None}
    for name in ("weight", "pos_weight"):
        buffer = getattr(criterion, name)
        if buffer is not None:
            options[name] = [round(value, 4) for value in buffer.tolist()]
    if criterion.label_smoothing:
        options["label_smoothing"] = criterion.label_smoothing
    if options:
        lines["options"] = ", ".join(f"{key}={value}" for key, value in options.items())
    lines["data"] = type(data).__name__
    if isinstance(data, Splits):
        if data.reason:
            lines["task"] += f": {data.reason}; another one with task=..."
        lines["labels"] = describe_labels(task, count_labels(task, data))
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in data.rows.items())
        lines["data"] = (
            f"{data.name}: {counts} rows of {data.features.shape[1]} features, standardised by train"
        )
    weights = sum(p.numel() for p in module.parameters())
    lines["model"] = f"{type(net).__name__}, {weights:,} weights"
    lines["training"] = (
        f"at most {trainer.max_epochs} epochs, on {trainer.strategy.root_device}, "
        f"precision {trainer.precision}"
    )
    return lines


def label_table(task: Task, counts: Mapping[str, LabelCounts]) -> list[list[str]]:
    """Rows of a table of how many there are of each class in each split; of many classes the ends."""
    train = counts["train"].positives
    order = sorted(range(len(task.names)), key=lambda i: -train[i])
    each = [[task.names[i], *(str(count.positives[i]) for count in counts.values())] for i in order]
    rows = [["class", *counts], *each]
    if len(rows) > MOST_ROWS:
        half = MOST_ROWS // 2
        rows = [*rows[: half + 1], ["...", *[""] * len(counts)], *rows[-half:]]
    rows.append(["missing", *(str(count.missing) for count in counts.values())])
    rows.append(["rows", *(str(count.rows) for count in counts.values())])
    return rows


MOST_ROWS = 30
"""Up to how many classes are listed each."""


def print_rows(title: str, rows: list[list[str]]) -> None:
    """A title and a table, of which the first row is the header and all but the first column are numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for i, head in enumerate(rows[0]):
        table.add_column(head, justify="right" if i else "left")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    Console().print(table)


def _decision(task: Task) -> str:
    threshold = getattr(task, "threshold", None)
    if threshold is None:
        return "the most probable class"
    shown = threshold if isinstance(threshold, float) else list(threshold)
    return f"1 where the probability is at least {shown}"


def print_table(title: str, lines: Mapping[str, str]) -> None:
    """A title and a line for each entry, on the console."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=False)
    for key, value in lines.items():
        # Text: a class name such as [red] is no markup
        table.add_row(Text(key, style="bold"), Text(value))
    Console().print(table)
