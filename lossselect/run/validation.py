"""A run's config, checked before anything is written, and as far as possible before torch is imported."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lossselect.chunked.options import check_topk_task, top_metric_names
from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.export.formats import FORMATS, check_weights_suffice, require
from lossselect.models.nets import check_head_bias, make_net, net_options
from lossselect.run.settings import (
    FILE_DATA,
    MIN_INTS,
    as_list,
    check_has_target,
    configured_head,
    drop_none,
    find_chunked_conflict,
    loss_options,
    monitored_metrics,
    packaged_config,
    resolve_head,
)
from lossselect.utils.checks import check_float, check_int, check_options, lookup, suggestion
from lossselect.utils.warnings import ON_NONFINITE, WARNINGS

if TYPE_CHECKING:
    from lossselect.losses.loss import Loss
    from lossselect.tasks.label_counts import LabelCounts
    from lossselect.tasks.registry import Task

PARTS = ("task", "loss", "data", "model", "optimizer", "trainer")
"""The parts that every run needs."""

SETTINGS = (
    *PARTS,
    *("scheduler", "callbacks", "logger", "experiment", "seed", "monitor", "resume", "on_nonfinite"),
    *("trust", "check_only", "explain", "export", "report", "ignore_warnings"),
    *("head", "bias_init", "mix", "decision"),
)
"""The top level of a config, besides `hydra`."""

MAX_SEED = 2**32 - 1  # NumPy's

NOT_SETTINGS = {
    ("loss", "reduction"): "training takes the mean over what has a label",
    ("model", "num_features"): "the data tell how many there are",
    ("task", "num_outputs"): "the data tell how many classes there are",
    ("task", "num_classes"): "the data tell how many classes there are",
    ("task", "num_labels"): "the data tell how many classes there are",
}
"""Arguments that follow from the run, and why."""

FLAGS: dict[str, tuple[str, ...]] = {
    "check_only": (),
    "report": (),
    "explain": ("json",),
    "trainer.compile": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
}
"""Settings that are true, false or one of a few words."""


def check_config(config: Mapping[str, Any]) -> None:
    """Raise an error for the first invalid setting of a config, given as plain values."""
    # what needs no torch comes first, so that the answer comes at once
    _require(config.get("task"), "Say what the task is: task=binary, task=multiclass or task=multilabel.")
    for part in PARTS:
        value = config.get(part)
        _require(isinstance(value, Mapping), f"A run needs {part}=...; it cannot be {value!r}.")
    own = {part for part in PARTS if "_target_" in config[part]}
    for (part, name), reason in NOT_SETTINGS.items():
        is_valid = part in own or name not in config[part]
        _require(is_valid, f"{part}.{name} is no setting: {reason}.")
    loss_options({"name": None, **config["loss"]})
    check_int("seed", config["seed"], 0, MAX_SEED)
    trainer = {**dict.fromkeys(MIN_INTS, 1), "max_epochs": None, **config["trainer"]}
    for name, minimum in MIN_INTS.items():
        check_int(f"trainer.{name}", trainer[name], minimum)
    for name, words in FLAGS.items():
        value = trainer.get("compile", False) if name == "trainer.compile" else config.get(name)
        *others, last = ("true", "false", *words)
        message = f"{name} must be {', '.join(others)} or {last}, got {value!r}."
        _require(isinstance(value, bool) or value in words, message, OptionTypeError)
    for name, entry in (config.get("callbacks") or {}).items():
        if entry is not None:
            check_has_target(f"callbacks.{name}", entry)
            check_int(f"callbacks.{name}.patience", entry.get("patience", 0), 0)
    lookup(dict.fromkeys(ON_NONFINITE), config["on_nonfinite"], "choice of on_nonfinite")
    resume = config.get("resume")
    message = f"resume must be auto, or the path of a checkpoint, got {resume!r}."
    _require(isinstance(resume, str | None), message, OptionTypeError)
    if (form := config["export"]) is not None:
        message = f"export takes one format, got {form!r}; others later: lossselect export."
        _require(isinstance(form, str), message, OptionTypeError)
        require(form, lookup(FORMATS, form, "format to export").to_write)
        check_weights_suffice(form, "model" not in own)
    for name in as_list(config["ignore_warnings"]):
        lookup(WARNINGS, name, "warning")
    check_head_bias(config["bias_init"])
    if (decision := config.get("decision")) is not None:
        settings = packaged_config("decision", "tuned")
        message = f"decision must be tuned, none, or have settings ({', '.join(settings)}), got {decision!r}."
        _require(isinstance(decision, Mapping), message)
        check_options(decision, settings, "decision")
    if configured_head(config)["name"] == "chunked":
        conflict = find_chunked_conflict(config)
        _require(not conflict, conflict)
    if "data" not in own:
        _check_data(config["data"])
    if "model" not in own:
        net_options(config["model"])

    if config["task"].get("name") != "auto":  # else the labels must be read first
        check_task_settings(config, _placeholder_task(config))
    if "model" not in own:
        make_net({"num_features": 1, **config["model"]}, num_outputs=1)
    if config.get("mix"):
        from lossselect.training.mixup import make_mix

        make_mix(config["mix"])
    if "optimizer" not in own:
        _check_steps(config["optimizer"], config.get("scheduler"))


def _require(condition: Any, message: str, error: type[Exception] = ConfigError) -> None:
    if not condition:
        raise error(message)


def check_task_settings(
    config: Mapping[str, Any], task: "Task", counts: "LabelCounts | None" = None, shape: Sequence[int] = ()
) -> None:
    """Raise an error for the first option of loss or decision, or metric, that the task does not have.

    Without `counts` of the train labels, `task` is a placeholder: the data have not been read.
    """
    from lossselect.decision.fit import decision_options
    from lossselect.losses.auto import loss_by_name

    options = loss_options(config["loss"])
    if counts is None:  # the class names, which messages should name, are not known either
        later = Mapping if "_target_" in config["data"] else Mapping | list
        options = {k: v for k, v in options.items() if not isinstance(v, later)}
        if isinstance(options.get("pos_weight"), int | float) and "_target_" not in config["data"]:
            options["pos_weight"] = 1.0  # only whether the loss supports one is checked now
    name = options.pop("name")
    loss = loss_by_name(task, name, **options)
    if counts is not None:
        _check_rows_fit(loss.with_counts(counts), config.get("mix"), shape)
    if decision := config.get("decision"):
        decision_options(**decision).goal(task)
        threshold = config["task"].get("threshold")
        _require(
            threshold is None or decision["metric"] in ("auto", None),
            f"task.threshold={threshold} and decision.metric={decision['metric']} contradict each "
            "other: a threshold is given, or tuned.",
        )
    if configured_head(config)["name"] == "chunked":
        from lossselect.chunked.loss import check_chunkable

        check_topk_task(task)
        if name != "auto":
            check_chunkable(loss)
    _check_monitors(config, task, is_final=counts is not None)


def _check_rows_fit(loss: "Loss", mix: Any, shape: Sequence[int]) -> None:
    """Raise an error for a loss of regions, or boxes of images: rows of a file have none."""
    import torch

    from lossselect.labels.targets import EncodedBatch
    from lossselect.training.mixup import make_mix

    logits = torch.zeros(1, loss.task.num_outputs)
    target = torch.zeros(1, dtype=torch.long) if loss.task.exclusive else logits
    loss(logits, target)
    if mix_batch := make_mix(mix or None):
        with torch.random.fork_rng(devices=[]):
            mix_batch(EncodedBatch(torch.zeros(2, *shape[1:]), torch.cat([target, target])), loss.task)


def check_trainer(config: Mapping[str, Any], sweep: bool = False) -> int:
    """Return the number of processes of a run, or of one job of a `sweep`, as only Lightning can tell."""
    from lossselect.run.trainer import build_trainer

    ranks = build_trainer(config["trainer"]).world_size
    if sweep and ranks > 1 and not {"RANK", "LOCAL_RANK", "SLURM_PROCID"} & os.environ.keys():
        # Lightning would start a job's other processes with the command of the whole sweep
        raise ConfigError(
            f"Each job of this sweep (-m) would be {ranks} processes, which it cannot start: "
            "trainer.devices=1, a run for each setting without -m, or hydra/launcher=slurm, where "
            "SLURM starts them."
        )
    return ranks


def _placeholder_task(config: Mapping[str, Any]) -> "Task":
    """Return the task with the width that its options imply; the data tell the real one later."""
    from lossselect.tasks.registry import TASKS, make_task

    weight = config["loss"].get("weight")
    _require(
        weight is None or (isinstance(weight, str | list | Mapping) and weight),
        f"loss.weight must be a list of one number per output, got {weight!r}. By name: "
        "loss.weight={cat:2,dog:1}; or balanced, or effective_number.",
    )
    options = drop_none(config["task"])
    name = options.pop("name", None)
    per_output = (options.get("threshold"), weight, config["loss"].get("pos_weight"))
    width = next((len(value) for value in per_output if isinstance(value, list) and value), 2)
    counts = [check_int(f"task.{key}", options[key], 0) for key in ("top_k", "min_labels") if key in options]
    sized = lookup(TASKS, name, "task").is_sized() and not options.get("class_names")
    return make_task(name, num_outputs=max(width, *counts, 2) if sized else None, **options)


def check_early_stopping(config: Mapping[str, Any], monitor: str) -> None:
    """Raise ConfigError for settings of an early stopping that will stop nothing."""
    entry = (config.get("callbacks") or {}).get("early_stopping")
    if monitor != "last" or not entry or entry.get("monitor") not in (None, "last"):
        return
    defaults = packaged_config("callbacks", "default").early_stopping
    if changed := {k for k in entry if k != "monitor" and entry[k] != defaults.get(k)}:
        raise ConfigError(
            f"callbacks.early_stopping.{min(changed)} has no effect: the run keeps its last epoch, where the "
            "learning rate has gone to 0, and is not stopped. To stop early: "
            "callbacks.early_stopping.monitor=val/loss, or monitor=val/loss to keep the best epoch as well."
        )


def _check_monitors(config: Mapping[str, Any], task: "Task", is_final: bool) -> None:
    """Raise ConfigError for a metric that training lacks; unless `is_final` the width is not known yet."""
    head = (resolve_head(config, task) if is_final else configured_head(config))["name"]
    width = task.num_outputs if is_final else None
    top_names = top_metric_names(task, width, counted="_target_" not in config["data"])
    chunked = ["val/loss", "train/loss", *(f"val/{name}" for name in top_names)]
    dense = [f"val/{name}" for name in ("loss", *task.metric_names)]
    dense += [f"train/{name}" for name in ("loss", *task.train_metrics)]
    listed = chunked if head == "chunked" else dense
    # with head=auto that is not resolved yet, either may be meant
    known = [*dense, *chunked] if head == "auto" else listed
    for setting, metric in monitored_metrics(config).items():
        last = [] if setting == "scheduler.monitor" else ["last"]
        if metric is not None and metric not in known + last:
            raise ConfigError(
                f"{setting}: training knows no metric {metric!r}.{suggestion(str(metric), known + last)} "
                f"There are: {', '.join(listed + last)}."
                + (" (head=dense has others.)" if head == "chunked" else "")
            )


def _check_data(data: Mapping[str, Any]) -> None:
    from lossselect.data.toy import DATASETS

    lookup({**dict.fromkeys(FILE_DATA), **DATASETS}, data.get("name", ""), "data set")
    settings = packaged_config("data", data["name"])
    check_options(data, settings, f"data={data['name']}")
    for name in settings:
        _require(name in data, f"data.{name} is missing.")
    check_int("data.batch_size", data["batch_size"], 1)
    check_int("data.seed", data["seed"], 0, MAX_SEED)
    is_file = data["name"] in FILE_DATA
    for name in ("val_fraction", "test_fraction"):
        if (value := data[name]) is not None or name == "val_fraction" or is_file:
            is_inside = check_float(f"data.{name}", value, 0, 1) not in (0, 1)
            _require(is_inside, f"data.{name} must lie between 0 and 1, got {value}.")
    if not is_file:
        return
    _require(data["path"] is not None, "Set data.path=... to the file that holds the data.")
    for name in ("path", "val_path", "test_path"):
        message = f"data.{name} must be the path of a file, got {data[name]!r}."
        _require(isinstance(data[name], str | None), message)
    if data["name"] == "table" and data["path"].lower().endswith((".npz", ".npy")):
        return  # the reader raises an error that suggests data=arrays
    _require(
        data["target"] is not None or data["name"] != "table",
        "Say what is to be predicted: data.target=... is a column, or a list of 0/1 columns.",
    )
    for name in ("target", "features", "missing", "exclude", "categorical", "null_values"):
        value = data.get(name)
        message = f"data.{name} must be a name, or a list of names such as [a,b], got {value!r}."
        _require(all(isinstance(entry, str | int | float) for entry in as_list(value)), message)
    for name in ("target", "features", "missing"):
        _require(data.get(name) != [], f"data.{name} is an empty list.")


def _check_steps(optimizer_spec: Mapping[str, Any], scheduler_spec: Any) -> None:
    """Take two steps with a weight of zeros: some invalid options are noticed only there."""
    import torch

    from lossselect.training.optimizers import make_optimizer, make_scheduler

    weight = torch.zeros(2, 2, requires_grad=True)  # torch imports its compiler with the first optimizer
    weight.grad = torch.ones(2, 2)
    optimizer = make_optimizer(optimizer_spec, [weight])
    steps: list[Any] = [("optimizer", optimizer_spec, lambda: optimizer.step(lambda: 0.0))]
    if scheduler_spec and "_target_" not in scheduler_spec:
        scheduler: Any = make_scheduler(scheduler_spec, optimizer, monitor="val/loss")
        value = [0.0] if scheduler_spec["name"] == "ReduceLROnPlateau" else []
        steps.append(("scheduler", scheduler_spec, lambda: scheduler["scheduler"].step(*value)))
    for kind, spec, step in steps * 2:
        try:
            step()
        except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            raise ConfigError(f"The {kind} cannot take a step with {dict(spec)}: {error}") from None
