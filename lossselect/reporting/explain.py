"""The lines of a plan: choices that follow from a task, and choices of a run."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lossselect.chunked.options import choose_top_metrics
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.losses.loss import Loss, select_loss
from lossselect.losses.multi_loss import losses_by_task
from lossselect.losses.torch_compat import torch_weight
from lossselect.metrics.direction import best_mode
from lossselect.metrics.names import choose_metrics, metrics_by_task
from lossselect.models.ensemble import Ensemble
from lossselect.reporting.plan import Line, Monitor, Plan, lines_of_task
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import AnyTask, Task
from lossselect.utils.checks import SPLIT_NAMES, shorten, split_name

if TYPE_CHECKING:
    from lossselect.data.splits import Splits
    from lossselect.decision.fit import DecisionOptions

MANY_OUTPUTS = 1000  # from this number on, the plan suggests a chunked head
SCALING_FORMULAS = {
    "": ("division by the largest absolute value", "of each column in the training rows; zeros stay zeros"),
    "standard": ("standard", "(x - mean) / standard deviation of the training rows"),
    "robust": (
        "robust",
        "y / sqrt(1 + (y / 3)^2), where y = (x - median) / interquartile range of the training rows",
    ),
    "quantile": ("quantile", "to a normal distribution, through quantiles of the training rows"),
}
"""Scalings of numbers, by the name of `Splits.scaling`, and their formulas."""


def explain_task(task: Task, loss: Any = "cross_entropy", **options: Any) -> Plan:
    """Explain what follows from a task: head, activation, loss, target, decision and metrics, with reasons.

    Args:
        task: Any task.
        loss: A name from `LOSSES`, a mapping such as `{"name": "focal", "gamma": 1.0}`, or a loss made by
            `select_loss`.
        options: Options of the loss, such as `gamma=1.0`.

    Returns:
        A plan with a line for each choice; `print` shows it.

    Raises:
        ConfigError: the loss is unknown, is not available for the task, or has no such option.
        OptionTypeError: `task` is not a task, or an option has the wrong type.

    Example:
        >>> from lossselect import Binary
        >>> explain_task(Binary())["head"].value
        '1 logit'
    """
    if isinstance(loss, str | Mapping):
        name, named = split_name({"name": loss} if isinstance(loss, str) else loss, "loss")
        loss = select_loss(task, name, **named, **options)
    return Plan(str(task).capitalize(), [*_task_lines(task, loss, {"name": "dense"}, False)])


def plan(
    module: Any, data: Any, training: Iterable[Line], monitor: Monitor, decision: Mapping[str, Any] | None
) -> Plan:
    """Return the plan of a run of a `Classifier` or `TaskModule`; `decision` is None if it is not fitted."""
    task = module.task
    splits: Splits | None = getattr(data, "splits", None)  # only a `TensorData` has them
    reason = "as declared"
    if splits:
        reason = splits.reason or "as declared; the labels match it"
    lines = [Line("task", str(task), reason, "task=...")]
    losses, metrics = losses_by_task(module.criterion), metrics_by_task(module._metrics_spec, task)
    targets = {} if splits is None else _first_targets(task, splits)
    decisions = _decisions_by_task(decision, task)
    for name, part in task.tasks.items():
        example = _format_example(part, splits, *targets[name], module._chunked) if splits else ""
        described = (
            losses[name],
            module._head_spec,
            splits is not None,
            decisions[name],
            example,
            metrics[name],
        )
        found = _task_lines(part, *described)
        lines += lines_of_task(name, found, losses[name], splits is not None and bool(splits.columns))
    if len(task.tasks) > 1:
        lines.append(_task_weights_line(task))
    value, change = "the last epoch", "monitor=val/loss (keeps the best epoch)"
    kept = "val/f1_macro" if "" in task.tasks else f"val/{task.primary_metric}"
    if monitor.metric != "last":
        directions: dict[str, str | None] = {}
        if module._metrics_spec is not None and not module._chunked:  # the others are built-in
            from lossselect.metrics.collection import make_metrics

            for name, part in task.tasks.items():
                directions |= make_metrics(part, names=metrics[name]).directions
        value = f"the epoch with the best {monitor.metric} ({best_mode(monitor.metric, directions)})"
        change = f"monitor={kept}, monitor=last (keeps the last epoch)"
    lines.append(Line("checkpoint", value, monitor.why, change))
    if start := module._bias_source:
        reason = "the first loss is then close to the entropy of the labels"
        reason, change = ("", "bias_init=prior") if start == "0" else (reason, "bias_init=zero")
        lines.append(Line("initial bias", start, reason, change))
    if module._mix:
        value = f"{module._mix.func.__name__} of the training batches"
        lines.append(Line("mix", value, "training metrics are computed on mixed labels", "mix=none"))
    summary = getattr(data, "summary", type(data).__name__)  # a `LitData` has one
    lines += _data_lines(task, data, splits) if splits else [Line("data", summary)]
    lines.append(_model_line(module))
    return Plan("Plan", [*lines, *_optimizer_lines(module), *training])


def _task_weights_line(task: Any) -> Line:
    """Return the line of the weights of several tasks in the loss."""
    change = "task.weights={NAME: 2}, task.weights=uncertainty"
    if task.weights == "uncertainty":
        reason = "exp(-s) L + s / 2 with a learned s for each task (Kendall et al., 2018)"
        return Line("weights of tasks", "learned", reason, "task.weights=null")
    if task.weights is None:
        return Line(
            "weights of tasks", "1 each", "the loss is the sum of the mean losses of the tasks", change
        )
    values = shorten([f"{name}: {weight:g}" for name, weight in task.weights.items()])
    return Line("weights of tasks", values, "as configured", change)


def _model_line(module: Any) -> Line:
    cls, weights = type(module), sum(p.numel() for p in module.parameters())
    net = module._net_name or type(module.net).__name__
    if cls.__module__.startswith("lossselect."):
        change = "model=mlp" if net in ("linear", "ensemble") else "model=linear"
        if isinstance(module.net, Ensemble):
            net = f"{', '.join(module.net.nets)}, trained together"
        return Line("model", f"{net}, {weights:,} parameters", module._net_reason, change)
    value = cls.__qualname__ + f" with {net}" * (module.net is not None)
    return Line(
        "model", f"{value}, {weights:,} parameters", f"{cls.__module__}.{cls.__qualname__}", "module.NAME=..."
    )


def _task_lines(
    task: Task,
    criterion: Any,
    head: Any,
    counted: bool,
    decision: Any = None,
    example: str = "",
    metrics: Any = None,
) -> Iterator[Line]:
    classes = shorten(task.names) + (" (the positive one)" if task.positive_name else "")
    reason = "" if task.class_names else "numbered, as the task has no class_names"
    yield Line("classes", classes, reason, "+task.class_names=[...]" if counted else "")
    width, chunked = task.num_outputs, head["name"] == "chunked"
    value, reason = f"{width:,} logit{'s' * (width > 1)}", task.outputs_are
    change = "head=chunked" if width >= MANY_OUTPUTS else ""
    if chunked:
        value += f", computed with the loss in chunks of {head.get('chunk') or 'outputs'} (head=chunked)"
        change = "head=dense"
    if task.ordinal:
        reason = (
            f"output k is the log-odds of a class above k, given class k or above (CORN); together "
            f"they determine the probabilities of {task.num_probabilities} classes"
        )
    yield Line("head", value, reason, change)
    reason = "each output is an independent yes/no decision"
    if task.exclusive:
        reason = "exactly one class is true, so the probabilities of a row sum to 1"
    reason += f"; the net must return logits, as the loss applies the {task.activation} itself"
    yield Line("activation", f"{task.activation}, only for predictions and metrics", reason)
    yield from loss_lines(criterion, task)
    sparse = chunked and not task.exclusive
    form = "the present labels of each row" if sparse else task.target_spec
    reason = "the form that the loss takes" + f"; {example}" * bool(example)
    yield Line("target", form, reason, "task.missing=-1 (marks missing labels)")
    rule = _format_decision(task, decision, criterion)
    if chunked:
        value, reason = f"{rule}; predictions are the 5 most probable", "head=chunked does not tune it"
        yield Line("decision", value, reason)
        names = choose_top_metrics(task, metrics, width, counted)
        reason = "computed over all validation and test rows; in training only the loss is computed"
    else:
        reason = "fitted on the validation split after training" if decision else "it is not tuned"
        change = "task.threshold=0.3, " if task.threshold is not None and not task.top_k else ""
        yield Line("decision", rule, reason, change + ("decision=none" if decision else "decision=tuned"))
        names = tuple(choose_metrics(task, metrics, stage="val"))
        reason = f"computed over the whole epoch from probabilities; {task.averages}"
    yield Line("metrics", ", ".join(("loss", *names)), reason, "metrics=...")


def tasks_loss_lines(criterion: Any, task: AnyTask) -> Iterator[Line]:
    """Yield the lines of `loss_lines` of each task."""
    losses = losses_by_task(criterion)
    for name, part in task.tasks.items():
        yield from lines_of_task(name, loss_lines(losses[name], part), losses[name])


def loss_lines(criterion: Any, task: Task) -> Iterator[Line]:
    """Yield the lines of the loss, its options and its weights."""
    if not isinstance(criterion, Loss):
        name = getattr(criterion, "__name__", type(criterion).__name__)
        auto = "auto: chosen once fit has counted the training labels"
        yield Line("loss", auto if name == "AutoLoss" else name, "", "loss=...")
        return
    formula = (criterion.formula.__doc__ or criterion.formula.__name__).splitlines()[0]
    formula = formula.removeprefix("Return the ")
    formula = formula[:1].upper() + formula[1:]
    reason, change = "as configured", "loss=cross_entropy"
    if criterion.name == "cross_entropy":
        reason, change = "the default: the negative log-likelihood of the labels", "loss=focal"
    if criterion.reasons:
        reason = " ".join(criterion.reasons).rstrip(".")
    else:
        change += ", loss=auto"
    yield Line("loss", f"{criterion.name} ({task.activation} form)", f"{reason}. {formula}", change)
    options = {**criterion.options, "label_smoothing": criterion.label_smoothing or None}
    if settings := _format_options(options):
        names = [f"loss.{name}=..." for name, value in options.items() if value is not None]
        yield Line("options", ", ".join(settings), "", ", ".join(names))
    yield _weights_line(criterion, task)


def _weights_line(criterion: Loss, task: Task) -> Line:
    """Return the line of the weights of classes in the loss, with their origin."""
    counted = criterion.counted
    values = [f"{name} {_format_by_output(task, w.tolist())}" for name, w in criterion.named_buffers()]
    if criterion.waiting:
        values += [f"{value or name}, counted in fit" for name, value in counted.items()]
    several, counts_negatives = task.num_outputs > 1, not task.exclusive
    change = ", ".join(["loss.weight=balanced"] * several + ["loss.pos_weight=auto"] * counts_negatives)
    if not values:
        reason = "the default: all classes have the same weight"
        return Line("weights", "none", reason, change)
    reason = "as configured"
    if counted and not criterion.waiting:
        names = [f"{name}={value}" if value else name for name, value in counted.items()]
        reason = f"counted in the training labels ({', '.join(names)})"
    none = ", ".join(f"loss.{name}=null" for name, value in counted.items() if value)
    return Line("weights", "; ".join(values), reason, none or change)


def _format_by_output(task: Task, values: Any) -> str:
    pairs = zip(task.output_names, values, strict=True)
    return shorten([f"{name}: {value:.3g}" for name, value in pairs], 6)


def _first_targets(task: Any, splits: "Splits") -> dict[str, tuple[Any, Any]]:
    """Return the labels of the first training row of each task, as they were parsed and as the target."""
    row = splits.rows["train"][:1].numpy()
    labels: Any = splits.labels
    labels = labels.select(row).to_dense() if isinstance(labels, SparseLabels) else labels[row]
    targets = task.split_target(task.encode_tensor(labels, 0))
    return {name: (labels if name == "" else target, target) for name, target in targets.items()}


def _format_example(task: Task, splits: "Splits", labels: Any, encoded: Any, chunked: bool) -> str:
    """Return the labels of the first training row, in the file and as the target."""
    decoded = task.decode(task.to_hard_labels(encoded))[0]
    if encoded.is_floating_point() and encoded.frac().nan_to_num().any():
        label = f"[{shorten([f'{value:.3g}' for value in np.ravel(labels)])}]"
    elif isinstance(decoded, list):
        label = f"[{shorten([repr(name) for name in decoded], 6)}]"
    else:
        label = "no label" if decoded is None else repr(decoded)
    values = [f"{value:g}" for value in encoded.flatten().tolist()]
    if chunked and not task.exclusive:
        values = [str(label) for label in encoded[0].nan_to_num().nonzero().flatten().tolist()]
    form = f"[{shorten(values, 16)}]" if encoded.ndim > 1 else values[0]
    return f"row {splits.rows_in_file('train')[0]}: {label} is encoded as {form}"


def _decisions_by_task(decision: Mapping[str, Any] | None, task: AnyTask) -> Mapping[str, Any]:
    """Return the options of the decision of each of several tasks; None where it is not fitted."""
    if not decision:
        return dict.fromkeys(task.tasks)
    from lossselect.decision.fit import options_by_task

    return options_by_task(decision, task)


def _format_decision(task: Task, decision: "DecisionOptions | None", criterion: Any) -> str:
    """Return the decision rule in words, with the parts that are fitted on the validation split."""
    metric, weights = None, _find_weights(task, criterion)
    if decision:
        metric = decision.goal(task, criterion if isinstance(criterion, Loss) else None)
    rule = task.decision_rule(metric, each=bool(decision and decision.per_label))
    if decision and decision.calibration != "none":
        if weights and not metric and decision.metric == "auto" and task.threshold in (None, 0.5):
            rule = f"{task.untuned_rule}, which {weights} implies"
        rule += "; calibrated by a temperature"
        rule += " per label" if decision.calibration == "per_label" else ""
        rule += f", after the shift of the logits by {weights} is removed" if weights else ""
    elif weights and task.shift == 0:
        rule += f"; probabilities are not calibrated, as {weights} shifts the logits"
    elif task.temperature != 1:
        values = [f"{value:.3g}" for value in np.ravel(task.temperature)]
        rule += f"; logits are divided by {shorten(values)}"
    return rule


def _find_weights(task: Task, criterion: Any) -> str:
    """Return the name of the option of the loss that shifts the logits, "" if there is none."""
    name = "weight" if task.exclusive else "pos_weight"
    if not isinstance(criterion, Loss):
        return name if torch_weight(criterion, task) is not None else ""
    if getattr(criterion, name) is not None or name in criterion.counted:
        return name
    if criterion.tau:
        return "logit adjustment"
    return "alpha" if not task.exclusive and criterion.options.get("alpha") else ""


def _data_lines(task: AnyTask, data: Any, splits: "Splits") -> Iterator[Line]:
    sizes = ", ".join(f"{len(rows)} {SPLIT_NAMES[split]}" for split, rows in splits.rows.items())
    features = f"{splits.name}: {sizes} rows, {data.num_features} features"
    yield Line("data", features, "", "data=table data.path=... data.target=...")
    value, reason = SCALING_FORMULAS[splits.scaling]
    others = [f"data.scaling={name}" for name in SCALING_FORMULAS if name not in ("", splits.scaling)]
    yield Line("scaling", value, reason, ", ".join(others) if splits.scaling else "")
    if splits.method:
        yield Line("splits", splits.method, "", "data.split=COLUMN, data.group=COLUMN, data.time=COLUMN")
    for name, part in task.tasks.items():
        counts = {split: count.by_task[name] for split, count in data.counts.items()}
        yield from lines_of_task(name, [_labels_line(part, counts)], None, bool(splits.columns))
    if splits.weights is not None:
        value = "weights of the rows in the loss; metrics are unweighted"
        yield Line("sample weights", value, "", "data.sample_weight=null")
    if splits.columns:
        change = "data.exclude=[...] (lossselect data shows each column)"
        yield Line("features", shorten(splits.columns, 20), "", change)


def _labels_line(task: Task, counts: Mapping[str, LabelCounts]) -> Line:
    train = counts["train"]
    kind = "label" if task.several_labels else "class"
    value = f"most to least frequent {kind} {train.imbalance:.3g}:1 in the training rows"
    if task.several_labels:
        value = f"{train.cardinality:.3g} of {len(task.names)} labels per row, {value}"
    missing = ", ".join(f"{c.missing} in {SPLIT_NAMES[split]}" for split, c in counts.items() if c.missing)
    reason = "missing labels are left out of loss, weights and metrics" if missing else ""
    return Line("labels", f"{value}; missing: {missing or 'none'}", reason, "data.target=...")


def _optimizer_lines(module: Any) -> Iterator[Line]:
    def others(setting: str, chosen: str, *variants: str) -> str:
        # the chosen one may be written as its class, such as AdamW
        return ", ".join(f"{setting}={name}" for name in variants if name not in chosen.lower())

    # a `Classifier`, which needs no Lightning, has no optimizer
    overrides = module._overrides() if hasattr(module, "_overrides") else set()
    if "configure_optimizers" in overrides and module._optimizer_spec is None:
        yield Line("optimizer", f"{type(module).__name__}.configure_optimizers")
        return
    steps = _format_spec(module._optimizer_spec or "AdamW")
    schedule = _format_spec(module._scheduler_spec or "none")
    yield Line("optimizer", steps, "", f"{others('optimizer', steps, 'adamw', 'sgd')}, optimizer.lr=...")
    yield Line("schedule", schedule, "", others("scheduler", schedule, "cosine", "plateau", "none"))


def _format_spec(spec: Any) -> str:
    if not isinstance(spec, Mapping):
        return spec if isinstance(spec, str) else getattr(spec, "__name__", type(spec).__name__)
    options = {key: value for key, value in spec.items() if key != "name"}
    return ", ".join([spec["name"], *_format_options(options)])


def _format_options(options: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in options.items() if value is not None]


def decision_lines(task: Task, rows: int, calibrates: bool) -> Iterator[tuple[str, str]]:
    """Yield the parts of the decision that were fitted to a number of labelled validation rows."""
    from lossselect.decision.fit import MIN_CALIBRATED_ROWS

    yield "fitted to", f"{rows} labelled validation rows"
    for name, value, default in (
        ("shift", task.shift, 0.0),
        ("temperature", task.temperature, 1.0),
        ("threshold", task.threshold, 0.5),
    ):
        if value not in (None, default):
            yield name, _format_by_output(task, value) if isinstance(value, tuple) else f"{value:.3g}"
        elif name == "temperature" and calibrates and rows < MIN_CALIBRATED_ROWS:
            yield name, f"1, as fewer than {MIN_CALIBRATED_ROWS} rows cannot show that another one is better"
    if factors := task.prior_correction:  # only their ratios change predictions
        yield "class factors", _format_by_output(task, [factor / min(factors) for factor in factors])
        yield "", "A factor multiplies the probability of its class before the prediction; the smallest is 1."
