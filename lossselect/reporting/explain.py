"""What a task implies, and what a run will do: the lines of a plan."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lossselect.chunked.options import top_metric_names
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.losses.loss import Loss, select_loss
from lossselect.losses.torch_compat import torch_weight
from lossselect.metrics.direction import best_mode
from lossselect.reporting.plan import Line, Monitor, Plan, Training
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import Task
from lossselect.utils.checks import shorten, split_name

if TYPE_CHECKING:
    from lossselect.data.splits import Splits


def explain_task(task: Task, loss: Any = "cross_entropy", **options: Any) -> Plan:
    """What a task implies: head, activation, loss, target, decision, metrics, each with its reason.

    Args:
        task: Any.
        loss: A name of `LOSSES`, `{"name": "focal", "gamma": 1.0}`, or what `select_loss` returned.
        options: Of the loss, by name.
    """
    if isinstance(loss, str | Mapping):
        name, own = split_name({"name": loss} if isinstance(loss, str) else loss, "loss")
        loss = select_loss(task, name, **own, **options)
    dense = {"name": "dense"}
    return Plan(
        str(task).capitalize(),
        [
            Line("classes", _names(task)),
            *_head_lines(task, dense),
            *loss_lines(loss, task),
            _target_line(task, dense, ""),
            _decision_line(task, None, loss, dense),
            _metrics_line(task, dense, counted=False),
        ],
    )


def plan(
    module: Any,
    data: Any,
    training: Training,
    monitor: "Monitor",
    decision: Mapping[str, Any] | None = None,
) -> Plan:
    """What a run will do, why, and which settings change it.

    Args:
        module: A `TaskModule`, or what one is made of (`check.Parts`).
        data: A `TensorData`, or the user's own data module.
        training: How it is fitted.
        monitor: By which the best checkpoint is chosen.
        decision: Options of `fit_decision`; None where the decision is not fitted.
    """
    task, head = module.task, module._head_spec
    splits: Splits | None = getattr(data, "splits", None)  # of a `TensorData`
    found = splits.reason if splits and splits.reason else "as declared; the labels were looked at, and fit"
    lines = [
        Line("task", str(task), found if splits else "as declared", "task=..."),
        Line("classes", _names(task), _why_names(task), "+task.class_names=[...]" if splits else ""),
        *_head_lines(task, head),
        *loss_lines(module.criterion, task),
        _target_line(task, head, _example(task, splits, module._chunked) if splits else ""),
        _decision_line(task, decision, module.criterion, head),
        _metrics_line(task, head, splits is not None),
        _checkpoint_line(monitor),
    ]
    if start := module._bias_source:
        why = "the first loss is then about the entropy of the labels, and no step is spent on that"
        why, change = ("", "bias_init=prior") if start == "0" else (why, "bias_init=zero")
        lines.append(Line("head bias", f"starts from {start}", why, change))
    if module.mix:
        name = module.mix.func.__name__
        lines.append(
            Line("mix", f"{name} of the train batches", "train metrics are of mixed labels", "mix=none")
        )
    lines += _data_lines(task, data, splits) if splits else [Line("data", type(data).__name__)]
    weights = sum(p.numel() for p in module.parameters())
    net = type(module.net).__name__
    change = "model=mlp" if net == "Linear" else "model=linear"
    lines.append(Line("model", f"{net}, {weights:,} weights", "", change))
    return Plan("Plan", [*lines, *_training_lines(module, data, training)])


def _others(setting: str, chosen: str, *variants: str) -> str:
    """The variants of a setting but the chosen one, whose class may have a longer name."""
    return ", ".join(f"{setting}={name}" for name in variants if name not in chosen.lower())


def _names(task: Task) -> str:
    return shorten(task.names) + (" (the positive one)" if task.positive_name else "")


def _why_names(task: Task) -> str:
    return "" if task.class_names else "numbers, as no names were given"


def _head_lines(task: Task, head: Mapping[str, Any]) -> Iterator[Line]:
    width = task.num_outputs
    said, why = f"{width:,} raw logit{'s' * (width > 1)}", task.outputs_are
    change = "head=chunked" if width >= MANY else ""
    if head["name"] == "chunked":
        said += f", {head.get('chunk') or 'some'} at a time, with their loss and gradient (head=chunked)"
        change = "head=dense"
    if task.ordinal:
        why = (
            f"the log-odds of a class above each of the first {width} among those of at least it (CORN); "
            f"they tell {task.num_probabilities} probabilities, whose logs the loss takes"
        )
    yield Line("head", said, why, change)
    why = "each output is yes or no by itself: as many as you like are likely at once"
    if task.exclusive:
        why = "exactly one class is true: the probabilities of a row are 1 in sum"
    yield Line(
        "activation",
        f"{task.activation} for predictions and metrics only",
        f"{why}; the loss takes the raw logits and applies it itself",
    )


def loss_lines(criterion: Any, task: Task) -> Iterator[Line]:
    """The loss and its options, with what the train labels told, and why they were chosen."""
    if not isinstance(criterion, Loss):
        name = getattr(criterion, "__name__", type(criterion).__name__)
        auto = "auto: chosen by the train labels, which fit counts"
        yield Line("loss", auto if name == "AutoLoss" else name, "", "loss=...")
        return
    formula = (criterion.formula.__doc__ or criterion.formula.__name__).splitlines()[0]
    why = " ".join(criterion.reasons) or (
        "the likelihood of the labels: the usual one"
        if criterion.name == "cross_entropy"
        else "asked for by name"
    )
    other = "loss=focal" if criterion.name == "cross_entropy" else "loss=cross_entropy"
    other += "" if criterion.reasons else ", loss=auto"
    yield Line("loss", f"{criterion.name} ({task.activation} form): {formula}", why, other)
    options = {key: value for key, value in criterion.options.items() if value is not None}
    if criterion.label_smoothing:
        options["label_smoothing"] = criterion.label_smoothing
    if options:
        said = ", ".join(f"{key}={value}" for key, value in options.items())
        yield Line("options", said, "", ", ".join(f"loss.{key}=..." for key in options))
    yield _weights_line(criterion, task)


def _weights_line(criterion: Loss, task: Task) -> Line:
    """What the loss multiplies the classes by, and who says so."""
    said, told = [], []
    for name in ("weight", "pos_weight", "prior"):
        buffer = getattr(criterion, name)
        if buffer is not None:
            each = zip(task.output_names, buffer.tolist(), strict=True)
            said.append(f"{name} {shorten([f'{label}: {value:.3g}' for label, value in each], 6)}")
            named = f"{name}={criterion.named[name]}" if name in criterion.named else name
            told += [named] if name in criterion.counted else []
    said += [f"{criterion.named.get(name, name)}, counted by fit" for name in criterion.waits_for]
    settings = "loss.weight=balanced" + ", loss.pos_weight=auto" * (not task.exclusive)
    if not said:
        return Line(
            "weights", "none", "a row, a class and a label count alike, whatever their number", settings
        )
    counted = f"counted in the train labels ({', '.join(told)})" if told else "as given"
    none = ", ".join(f"loss.{name}=null" for name in criterion.named)
    return Line("weights", "; ".join(said), counted, none or settings)


def _target_line(task: Task, head: Mapping[str, Any], example: str) -> Line:
    lists = head["name"] == "chunked" and not task.exclusive
    form = "the labels that are there, of each row" if lists else task.target_spec
    return Line("target", form, example, "task.missing=-1 marks missing ones")


def _example(task: Task, splits: "Splits", chunked: bool) -> str:
    """The labels of the first train row, as they come and as the loss takes them."""
    row = splits.rows["train"][:1].numpy()
    place = int(splits.rows_in_file("train")[0])
    given = splits.labels
    labels = given.select(row).to_dense() if isinstance(given, SparseLabels) else given[row]
    encoded = task.encode(labels)
    if encoded.is_floating_point() and encoded.frac().nan_to_num().any():
        came = f"[{shorten([f'{value:.3g}' for value in np.ravel(labels)])}]"
    else:
        came = _said(task.decode(task.to_hard_labels(encoded))[0])
    values = [f"{value:g}" for value in encoded.flatten().tolist()]
    if chunked and not task.exclusive:
        values = [f"{label}" for label in encoded[0].nan_to_num().nonzero().flatten().tolist()]
    form = f"[{shorten(values, 16)}]" if encoded.ndim > 1 else values[0]
    return f"for example row {place}: {came} becomes {form}"


def _said(decoded: Any) -> str:
    """Class names as they would be typed."""
    if isinstance(decoded, list):
        return f"[{shorten([repr(name) for name in decoded], 6)}]"
    return "no label" if decoded is None else repr(decoded)


def _decision_line(task: Task, decision: Mapping[str, Any] | None, criterion: Any, head: Any) -> Line:
    said = _decision(task, decision, criterion)
    if head["name"] == "chunked":
        return Line("decision", f"{said}; predictions are the 5 highest", "head=chunked tunes nothing", "")
    why = "fitted to the validation split after training" if decision else "nothing of it is fitted"
    own = "task.threshold=.3, " if task.threshold is not None and not task.top_k else ""
    return Line("decision", said, why, own + ("decision=none" if decision else "decision=tuned"))


def _metrics_line(task: Task, head: Mapping[str, Any], counted: bool) -> Line:
    if head["name"] == "chunked":
        names = ", ".join(("loss", *top_metric_names(task, task.num_outputs, counted)))
        return Line("metrics", names, "of val and test; of train the loss; each over the whole epoch")
    return Line(
        "metrics",
        ", ".join(("loss", *task.metric_names)),
        f"each over the whole epoch, of probabilities; {task.averages}",
    )


def _checkpoint_line(monitor: "Monitor") -> Line:
    metric, why = monitor
    if metric == "last":
        return Line("checkpoint", "of the last epoch", why, "monitor=val/loss (of the best)")
    best = f"of the epoch with the best {metric} ({best_mode(metric)})"
    return Line("checkpoint", best, why, "monitor=val/f1_macro, monitor=last (the last)")


def _data_lines(task: Task, data: Any, splits: "Splits") -> Iterator[Line]:
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in splits.rows.items())
    features = f"{splits.name}: {counts} rows of {data.num_features} features"
    yield Line("data", features, "standardised by train", "data=table data.path=... data.target=...")
    yield _label_line(task, data.counts)
    if splits.weights is not None:
        said = "weighted in the loss by data.sample_weight, not in the metrics"
        yield Line("rows", said, "", "data.sample_weight=null")
    if splits.columns:
        yield Line("features", shorten(splits.columns, 20), "", "data.exclude=[...]")


def _training_lines(module: Any, data: Any, training: Training) -> Iterator[Line]:
    steps, schedule = _spec(module._optimizer_spec or "AdamW"), _spec(module._scheduler_spec or "none")
    yield Line("optimizer", steps, "", f"{_others('optimizer', steps, 'adamw', 'sgd')}, optimizer.lr=...")
    yield Line("schedule", schedule, "", _others("scheduler", schedule, "cosine", "plateau", "none"))
    rows = getattr(data, "batch_size", None)
    batches = f"; batches of {rows} rows" if rows else ""
    group = training.processes * training.accumulate
    if group > 1 and rows:
        batches += f", {rows * group} rows a step"
    change = "trainer.max_epochs=..." + ", data.batch_size=..." * (getattr(data, "splits", None) is not None)
    yield Line("training", f"{training.limits}{batches}", "", change)
    early = "callbacks.early_stopping.monitor=val/loss" if not training.stopping else "callbacks=none"
    yield Line("early stopping", training.stopping or "none", "", early)
    where = f"{training.device}, precision {training.precision}"
    where += f", {training.processes} processes" if training.processes > 1 else ""
    yield Line("device", where, "", "trainer=gpu, trainer=ddp, trainer.precision=bf16-mixed")


def _spec(spec: Any) -> str:
    """An optimizer or a scheduler with its options."""
    if not isinstance(spec, Mapping):
        return spec if isinstance(spec, str) else getattr(spec, "__name__", type(spec).__name__)
    options = [f"{key}={value}" for key, value in spec.items() if key != "name" and value is not None]
    return ", ".join([str(spec["name"]), *options])


def decision_lines(task: Task) -> dict[str, str]:
    """What was fitted to the validation split."""
    lines = {}
    fitted = {"shift": 0.0, "temperature": 1.0, "threshold": 0.5, "prior_correction": None}
    for name, usual in fitted.items():
        value = vars(task).get(name, usual)
        if value == usual:
            continue
        if isinstance(value, tuple):
            each = zip(task.output_names, value, strict=True)
            lines[name] = shorten([f"{label}: {number:.3g}" for label, number in each], 6)
        else:
            lines[name] = f"{value:.3g}"
    return lines


def _label_line(task: Task, counts: Mapping[str, LabelCounts]) -> Line:
    """The train split's labels, and what is missing anywhere."""
    train = counts["train"]
    kind = "label" if task.several_labels else "class"
    said = f"largest to smallest {kind} {train.imbalance:.3g} to 1 in train"
    if kind == "label":
        said = f"{train.cardinality:.3g} of {len(task.names)} labels a row, {said}"
    gone = [f"{count.missing} in {split}" for split, count in counts.items() if count.missing]
    why = "missing ones count in no loss, weight or metric" if gone else ""
    return Line("labels", f"{said}; missing: {', '.join(gone) or 'none'}", why, "data.target=...")


def label_table(task: Task, counts: Mapping[str, LabelCounts]) -> dict[str, list[str]]:
    """How many there are of each class in each split; of many classes the largest and the smallest."""
    order = sorted(range(len(task.names)), key=lambda i: -counts["train"].positives[i])
    lines = {task.names[i]: [str(count.positives[i]) for count in counts.values()] for i in order}
    if len(lines) > MAX_ROWS:
        names, half = [*lines], MAX_ROWS // 2
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


MANY = 1000
"""From so many outputs on a chunked head is worth a thought."""

MAX_ROWS = 30
"""Up to how many classes are listed each."""


def _decision(task: Task, decision: Mapping[str, Any] | None, criterion: Any) -> str:
    """In words; what is fitted to the validation split first."""
    metric, weights = None, _weights(task, criterion)
    if decision:
        from lossselect.decision.fit import decision_options

        loss = criterion if isinstance(criterion, Loss) else None
        metric = decision_options(**decision).goal(task, loss)
    said = task.decision_rule(metric, each=bool(decision and decision["per_label"]))
    if decision and decision["calibration"] != "none":
        if weights and not metric and decision["metric"] == "auto" and task.threshold in (None, 0.5):
            said = f"{task.untuned_rule}, the decision that {weights} implies"
        said += "; probabilities calibrated by a temperature" + (
            " of each label" if decision["calibration"] == "per_label" else ""
        )
        said += f", after subtracting the shift that {weights} adds to the logits" if weights else ""
    elif weights and task.shift == 0:
        said += f"; probabilities are not calibrated, as {weights} of the loss moves them"
    elif task.temperature != 1:
        values = task.temperature if isinstance(task.temperature, tuple) else (task.temperature,)
        said += f"; probabilities of logits over {shorten([f'{value:.3g}' for value in values])}"
    return said


def _weights(task: Task, criterion: Any) -> str:
    """What moves the logits away from those of the rows as they are, by its name; nothing where nothing does.

    Known before the train labels tell how much.
    """
    name = "weight" if task.exclusive else "pos_weight"
    if not isinstance(criterion, Loss):
        return name if torch_weight(criterion, task) is not None else ""
    if getattr(criterion, name) is not None or name in criterion.named:
        return name
    if criterion.tau:
        return "logit adjustment"
    return "alpha" if not task.exclusive and criterion.options.get("alpha") else ""
