"""The plan of a run, printed before it starts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .counts import LabelCounts
from .criterion import Loss
from .names import some
from .optim import best_mode
from .tasks import Task
from .top_names import top_metric_names

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from .data.splits import Splits
    from .module import TaskModule


def plan(
    module: "TaskModule",
    data: Any,
    trainer: "Trainer",
    monitor: str,
    decision: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """What a run will do, a line each.

    Args:
        module: With a loss of ours.
        data: A `TensorData`, or the user's own data module.
        trainer: That will fit it.
        monitor: By which the best checkpoint is chosen.
        decision: Options of `fit_decision`; None where the decision is not fitted.
    """
    task, net, criterion = module.task, module.net, module.criterion
    splits: Splits | None = getattr(data, "splits", None)  # of a `TensorData`
    names = ", ".join(task.names[:8]) + (f", ... ({len(task.names)})" if len(task.names) > 8 else "")
    if task.width_field is None:
        names += " (the positive one)"
    lines = {
        "task": task.describe(),
        "classes": names,
        "head": _head_line(task, module.head_spec),
        **loss_lines(criterion, task),
        "target": _target_line(task, module.head_spec),
        "decision": _decision(task, decision, criterion) + _untuned_note(task, module.head_spec),
        "metrics": _metrics_line(task, module.head_spec, splits is not None),
        "checkpoint": _checkpoint_line(monitor),
    }
    if module.started_from:
        lines["head bias"] = f"starts from {module.started_from}"
    if module.mix:
        name = module.mix.func.__name__
        lines["mix"] = f"{name} of the train batches, with mixed targets; train metrics are of these"
    lines["data"] = type(data).__name__
    if splits is not None:
        if splits.reason:
            lines["task"] += f": {splits.reason}; another one with task=..."
        lines["labels"] = _label_line(task, data.counts)
        if splits.weights is not None:
            lines["rows"] = "weighted in the loss by data.sample_weight, not in the metrics"
        if splits.columns:
            lines["features"] = some(splits.columns, 20)
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in splits.rows.items())
        lines["data"] = f"{splits.name}: {counts} rows of {data.num_features} features, standardised by train"
    weights = sum(p.numel() for p in module.parameters())
    lines["model"] = f"{type(net).__name__}, {weights:,} weights"
    lines["training"] = (
        f"at most {trainer.max_epochs} epochs, on {trainer.strategy.root_device.type}, "
        f"precision {trainer.precision}"
    )
    if trainer.world_size > 1:
        rows = getattr(data, "batch_size", None)
        each = f" of {rows} rows a batch, {trainer.world_size * rows} a step" if rows else ""
        lines["training"] += f", by {trainer.world_size} processes{each}"
    return lines


def _target_line(task: Task, head: Mapping[str, Any]) -> str:
    lists = head["name"] == "chunked" and task.activation == "sigmoid"
    return "the labels that are there, of each row" if lists else task.target_form


def _untuned_note(task: Task, head: Mapping[str, Any]) -> str:
    if head["name"] != "chunked":
        return ""
    own = "; task.threshold=... sets another" if task.activation == "sigmoid" else ""
    return f" (head=chunked tunes nothing{own}); predictions are the 5 highest"


def _metrics_line(task: Task, head: Mapping[str, Any], counted: bool) -> str:
    if head["name"] == "chunked":
        names = ", ".join(("loss", *top_metric_names(task, task.num_outputs, counted)))
        return f"{names}, of val and test; of train the loss; each over the whole epoch"
    return ", ".join(("loss", *task.metric_names)) + f"; each over the whole epoch; {_means(task)}"


def _head_line(task: Task, head: Mapping[str, Any]) -> str:
    if head["name"] == "chunked":
        some_of = head.get("chunk") or "some"
        return (
            f"{task.num_outputs:,} raw logits, {some_of} at a time, with their loss and gradient "
            f"(head=chunked); {task.activation} for predictions and metrics only"
        )
    if getattr(task, "ordered", False):
        return (
            f"{task.num_outputs} raw logits, the log-odds of a class above each of the first "
            f"{task.num_outputs} among those of at least it (CORN); they tell {task.num_probabilities} "
            "probabilities, whose logs the loss takes"
        )
    return f"{task.num_outputs:,} raw logits; {task.activation} for predictions and metrics only"


def decision_lines(task: Task) -> dict[str, str]:
    """What was fitted to the validation split."""
    lines = {}
    fitted = {"temperature": 1.0, "threshold": 0.5, "decision_weight": None}
    for name, usual in fitted.items():
        value = getattr(task, name, usual)
        if value == usual:
            continue
        if isinstance(value, tuple):
            each = zip(task.output_names, value, strict=True)
            lines[name] = some([f"{label}: {number:.3g}" for label, number in each], 6)
        else:
            lines[name] = f"{value:.3g}"
    return lines


def _means(task: Task) -> str:
    """How the metrics are averaged."""
    if task.width_field == "num_labels":
        return "f1_micro pools all decisions, f1_macro, auroc and map are means over labels with a positive"
    if task.width_field is None:
        return "f1 of the positive class, f1_micro and f1_macro over both classes"
    return (
        "f1_micro pools all decisions, auroc and map are means over the classes that occur, f1_macro over "
        "those that occur or are predicted"
    )


def _label_line(task: Task, counts: Mapping[str, LabelCounts]) -> str:
    """The train split's labels, and what is missing anywhere."""
    train = counts["train"]
    kind = "label" if task.width_field == "num_labels" else "class"
    said = f"largest to smallest {kind} {train.imbalance:.3g} to 1 in train"
    if kind == "label":
        said = f"{train.cardinality:.3g} of {len(task.names)} labels a row, {said}"
    gone = [f"{count.missing} in {split}" for split, count in counts.items() if count.missing]
    return f"{said}; missing: {', '.join(gone) or 'none'}"


def label_table(task: Task, counts: Mapping[str, LabelCounts]) -> dict[str, list[str]]:
    """How many there are of each class in each split; of many classes the largest and the smallest."""
    order = sorted(range(len(task.names)), key=lambda i: -counts["train"].positives[i])
    lines = {task.names[i]: [str(count.positives[i]) for count in counts.values()] for i in order}
    if len(lines) > MOST_ROWS:
        names, half = [*lines], MOST_ROWS // 2
        ends = [*names[:half], *names[-half:]]
        lines = (
            {name: lines[name] for name in ends[:half]}
            | {"...": []}
            | {name: lines[name] for name in ends[half:]}
        )
    sums = {"(missing)": "missing", "(rows)": "rows"}
    return lines | {
        key: [str(getattr(count, name)) for count in counts.values()] for key, name in sums.items()
    }


MOST_ROWS = 30
"""Up to how many classes are listed each."""


def _checkpoint_line(monitor: str) -> str:
    if monitor == "epoch":
        return "of the last epoch, where the learning rate has gone to 0 (monitor=val/loss: of the best)"
    return f"of the epoch with the best {monitor} ({best_mode(monitor)})"


def loss_lines(criterion: Any, task: Task) -> dict[str, str]:
    """The loss and its options, with what the train labels told, and why they were chosen."""
    if not isinstance(criterion, Loss):
        return {"loss": "auto: chosen by the train labels, which fit counts"}
    formula = criterion.formula.__doc__ or criterion.formula.__name__
    loss = {"loss": f"{criterion.name} ({task.activation} form): {formula.splitlines()[0]}"}
    options = {key: value for key, value in criterion.options.items() if value is not None}
    for name in ("weight", "pos_weight", "prior"):
        buffer = getattr(criterion, name)
        if buffer is None:
            continue
        values = [
            f"{name}: {value:.3g}" for name, value in zip(task.output_names, buffer.tolist(), strict=True)
        ]
        told = f"{criterion.named[name]}, " if name in criterion.named else ""
        options[name] = f"{told}{some(values, 6)}"
    if criterion.label_smoothing:
        options["label_smoothing"] = criterion.label_smoothing
    for name in criterion.waits_for:
        options[name] = f"{criterion.named.get(name, name)}, counted by fit"
    if options:
        loss["options"] = "; ".join(f"{key}={value}" for key, value in options.items())
    if criterion.reasons:
        loss["because"] = " ".join(criterion.reasons)
    return loss


def _decision(task: Task, decision: Mapping[str, Any] | None, criterion: Any) -> str:
    """In words; what is fitted to the validation split first."""
    threshold = getattr(task, "threshold", None)
    metric = None
    if decision:
        from .decision import decision_options

        loss = criterion if isinstance(criterion, Loss) else None
        metric = decision_options(**decision).goal(task, loss)
    if getattr(task, "top_k", None):
        said = f"the {task.top_k} most probable labels"  # type: ignore[attr-defined]
    elif threshold is None:
        said = "the median class" if getattr(task, "ordered", False) else "the most probable class"
        said += f", by factors tuned on val for {metric}" if metric else ""
    elif metric:
        own = (
            "a threshold of each label"
            if decision and decision["per_label"] and _several(task)
            else "a threshold"
        )
        said = f"1 where the probability is at least {own}, tuned on val for {metric}"
    else:
        shown = threshold if isinstance(threshold, float) else list(threshold)
        said = f"1 where the probability is at least {shown}"
    if getattr(task, "at_least", 0):
        said += f", and at least {task.at_least} label(s)"  # type: ignore[attr-defined]
    if decision and decision["calibration"] != "none":
        said += "; probabilities calibrated by a temperature" + (
            " of each label" if decision["calibration"] == "per_label" else ""
        )
    return said


def _several(task: Task) -> bool:
    return task.width_field == "num_labels" and len(task.output_names) > 1


def print_table(title: str, lines: Mapping[str, str | list[str]], header: Sequence[str] = ()) -> None:
    """A title and a line for each entry, on the console; with a header, of several columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=bool(header))
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left")
    for key, value in lines.items():
        # Text: a class name such as [red] is no markup
        cells = [value] if isinstance(value, str) else value
        # of a long path all is shown
        table.add_row(Text(key, style="bold"), *(Text(cell, overflow="fold") for cell in cells))
    Console().print(table)
