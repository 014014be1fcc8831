"""Checks of a run's config, before anything is written and mostly before torch is imported."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lossselect.chunked.options import check_chunkable, check_topk_task, choose_top_metrics
from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.export.formats import FORMATS, check_weights_suffice, require
from lossselect.metrics.names import MetricName, choose_metrics, list_outputs, metrics_by_task
from lossselect.models.auto import check_single, check_spec
from lossselect.models.nets import check_head_bias, make_net
from lossselect.run.data_settings import MAX_SEED, check_data, ensure
from lossselect.run.settings import (
    MIN_INTS,
    STREAMED,
    check_has_target,
    configured_head,
    drop_none,
    find_chunked_conflict,
    is_sharded,
    list_variants,
    loss_options,
    monitored_metrics,
    packaged_config,
    resolve_head,
    settings_by_task,
)
from lossselect.utils.checks import (
    as_list,
    check_choice,
    check_int,
    check_options,
    check_positive,
    lookup,
    suggestion,
)
from lossselect.utils.warnings import ON_NONFINITE, WARNINGS

if TYPE_CHECKING:
    from lossselect.losses.loss import Loss
    from lossselect.tasks.label_counts import LabelCounts
    from lossselect.tasks.registry import AnyTask, Task

PARTS = ("task", "loss", "data", "model", "optimizer", "trainer")
"""The required parts of a config."""

SETTINGS = (
    *PARTS,
    *("scheduler", "callbacks", "logger", "experiment", "seed", "monitor", "resume", "on_nonfinite"),
    *("trust", "time_limit", "check_only", "explain", "export", "export_raw", "report", "ignore_warnings"),
    *("head", "bias_init", "mix", "decision", "metrics", "module", "verbose", "folds", "fold", "repeats"),
)
"""The settings at the top level of a config, except `hydra`."""

NOT_SETTINGS = {
    ("loss", "reduction"): "Training uses the mean over all elements that have a label.",
    ("model", "num_features"): "The number of features follows from the data.",
    ("model", "columns"): "The columns that are encoded follow from the data.",
    ("model", "features"): "The features of a net follow from the data.",
    ("task", "num_outputs"): "The number of classes follows from the data.",
    ("task", "num_classes"): "The number of classes follows from the data.",
    ("task", "num_labels"): "The number of labels follows from the data.",
}
"""Arguments that a run computes itself, with the reason."""

FLAGS: dict[str, tuple[str, ...]] = {
    "check_only": (),
    "export_raw": (),
    "explain": ("json",),
    "verbose": ("auto",),
    "trainer.compile": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
}
"""Settings that may be true, false or one of these words."""


def check_config(config: Mapping[str, Any]) -> None:
    """Raise ConfigError or OptionTypeError for the first invalid setting of a config in plain values."""
    # checks that need no torch come first, so that their errors are immediate
    ensure(
        config.get("task"),
        "A task is required. Set task=binary, task=multiclass, task=multilabel or task=several.",
    )
    for part in PARTS:
        value = config.get(part)
        ensure(isinstance(value, Mapping), f"Expected a variant of {part}, got {value!r}. Set {part}=NAME.")
    own = {part for part in PARTS if "_target_" in config[part]}
    for (part, name), reason in NOT_SETTINGS.items():
        is_valid = part in own or name not in config[part]
        ensure(is_valid, f"{part}.{name} cannot be set. {reason} Remove it.")
    module = config.get("module")
    ensure(
        not module or (isinstance(module, Mapping) and "_target_" in module),
        f"module must have a _target_, got {module!r}. Set module._target_=my.Model, your own subclass of "
        "TaskModule.",
    )
    loss_options({"name": None, **config["loss"]})
    check_int("seed", config["seed"], 0, MAX_SEED)
    trainer = {**dict.fromkeys(MIN_INTS, 1), "max_epochs": None, **config["trainer"]}
    message = f"trainer.max_epochs must be auto or an integer >= 1, got {trainer['max_epochs']!r}."
    ensure(not isinstance(trainer["max_epochs"], str), message, OptionTypeError)
    for name, minimum in MIN_INTS.items():
        check_int(f"trainer.{name}", trainer[name], minimum)
    for name, words in FLAGS.items():
        value = trainer.get("compile", False) if name == "trainer.compile" else config.get(name)
        *others, last = ("true", "false", *words)
        message = f"{name} must be {', '.join(others)} or {last}, got {value!r}."
        ensure(isinstance(value, bool) or value in words, message, OptionTypeError)
    for name, entry in (config.get("callbacks") or {}).items():
        if entry is not None:
            check_has_target(f"callbacks.{name}", entry)
            check_int(f"callbacks.{name}.patience", entry.get("patience", 0), 0)
    if (limit := config["time_limit"]) is not None:
        check_positive("time_limit", limit)
    check_choice("on_nonfinite", config["on_nonfinite"], ON_NONFINITE)
    resume = config.get("resume")
    message = f"resume must be auto or the path of a checkpoint, got {resume!r}."
    ensure(isinstance(resume, str | None), message, OptionTypeError)
    if (form := config["export"]) is not None:
        message = f"export must be one format, got {form!r}. Write others with lossselect export."
        ensure(isinstance(form, str), message, OptionTypeError)
        require(form, lookup(FORMATS, form, "export format").to_write)
        check_weights_suffice(form, "model" not in own and not module, bool(config["export_raw"]))
    ensure(
        config["export"] is not None or not config["export_raw"],
        "export_raw=true has no effect without export. Set export=onnx, or remove export_raw.",
    )
    for name in as_list(config["ignore_warnings"]):
        lookup(WARNINGS, name, "warning")
    check_head_bias(config["bias_init"])
    if (decision := config.get("decision")) is not None:
        settings = packaged_config("decision", "tuned")
        message = f"decision must be tuned, none, or a mapping of {', '.join(settings)}, got {decision!r}."
        ensure(isinstance(decision, Mapping), message)
        check_options(decision, settings, "decision")
    if configured_head(config)["name"] == "chunked":
        conflict = find_chunked_conflict(config)
        ensure(not conflict, conflict)
    is_streamed = config["data"].get("name") == STREAMED
    if is_streamed:
        ensure(config["data"].get("task") == config["task"], "data.task cannot be set. Set task instead.")
    if "data" not in own or is_streamed:
        check_data(config["data"])
    if "model" not in own:
        check_spec(config["model"])
        if module or is_sharded(trainer):
            check_single(config["model"])

    if config["task"].get("name") not in ("auto", "several"):  # which depend on the labels
        check_task_settings(config, _placeholder_task(config))
    if "model" not in own and config["model"]["name"] != "auto":
        from lossselect.tasks.binary import Binary

        make_net({"num_features": 1, **config["model"]}, Binary())
    if config.get("mix"):
        from lossselect.training.batches.mixup import make_mix

        make_mix(config["mix"])
    is_tested = _is_packaged(config, "optimizer") and _is_packaged(config, "scheduler")
    if "optimizer" not in own and not is_tested:  # takes a second, as an optimizer imports torch's compiler
        from lossselect.training.optimizers import check_steps

        check_steps(config["optimizer"], config.get("scheduler"))


def _is_packaged(config: Mapping[str, Any], group: str) -> bool:
    """Return whether a group has the values of a packaged config, except for a valid learning rate."""
    part = config.get(group) or {}
    lr = part.get("lr")
    is_valid = isinstance(lr, int | float) and lr >= 0
    for name in list_variants(group):
        whole = OmegaConf.create({"trainer": config["trainer"], group: packaged_config(group, name)})
        if part == {key: lr if key == "lr" and is_valid else value for key, value in whole[group].items()}:
            return True
    return False


def check_task_settings(
    config: Mapping[str, Any], task: "AnyTask", counts: Any = None, shape: Sequence[int] = ()
) -> None:
    """Raise ConfigError for the first option of loss or decision, or metric, that does not fit the task.

    Without `counts` of the training labels, the data have not been read, and `task` is a placeholder.
    """
    from lossselect.tasks.task_names import naming_task

    if configured_head(config)["name"] == "chunked":
        check_topk_task(task)
    for name, own in settings_by_task(config, task).items():
        with naming_task(name):
            _check_one_task(own, task.tasks[name], counts and counts.by_task[name], shape)
    _check_monitors(config, task, is_final=counts is not None)


def _check_one_task(
    config: Mapping[str, Any], task: "Task", counts: "LabelCounts | None", shape: Sequence[int]
) -> None:
    """Check the options of the loss and the decision of a task."""
    from lossselect.decision.fit import decision_options
    from lossselect.losses.auto import loss_by_name

    options = loss_options(config["loss"])
    if counts is None:  # the class names, which messages should contain, are not known yet
        later = Mapping if "_target_" in config["data"] else Mapping | list
        options = {k: v for k, v in options.items() if not isinstance(v, later)}
        if isinstance(options.get("pos_weight"), int | float) and "_target_" not in config["data"]:
            options["pos_weight"] = 1.0  # now only check that the loss supports it
    name = options.pop("name")
    loss = loss_by_name(task, name, **options)
    if counts is not None:
        _check_rows_fit(loss.with_counts(counts), config.get("mix"), shape)
    if decision := config.get("decision"):
        decision_options(**decision).goal(task)
        threshold = config["task"].get("threshold")
        ensure(
            threshold is None or decision["metric"] in ("auto", None),
            f"The threshold {threshold} cannot be combined with decision.metric={decision['metric']}, which "
            "tunes it. Remove one of them.",
        )
    if configured_head(config)["name"] == "chunked" and name != "auto":
        check_chunkable(loss)


def _check_rows_fit(loss: "Loss", mix: Any, shape: Sequence[int]) -> None:
    """Raise ConfigError for losses on regions and for mixing of images: rows of a file have neither."""
    import torch

    from lossselect.labels.targets import EncodedBatch
    from lossselect.training.batches.mixup import make_mix

    logits = torch.zeros(1, loss.task.num_outputs)
    target = torch.zeros(1, dtype=torch.long) if loss.task.exclusive else logits
    loss(logits, target)
    if mix_batch := make_mix(mix or None):
        with torch.random.fork_rng(devices=[]):
            mix_batch(EncodedBatch(torch.zeros(2, *shape[1:]), torch.cat([target, target])), loss.task)


def check_trainer(config: Mapping[str, Any], sweep: bool = False) -> int:
    """Return the number of processes of a run, or of one job of a `sweep`; Lightning computes it."""
    from lossselect.utils.devices import check_gpu

    check_gpu(config["trainer"].get("accelerator"))  # before Lightning is imported
    from lossselect.run.trainer import build_trainer

    ranks = build_trainer(config["trainer"]).world_size
    if sweep and ranks > 1 and not {"RANK", "LOCAL_RANK", "SLURM_PROCID"} & os.environ.keys():
        # Lightning would start the other processes with the command of the whole sweep
        raise ConfigError(
            f"Each training would use {ranks} processes, which a sweep (-m), folds and repeats cannot start. "
            "Set trainer.devices=1, start each run by itself, or set hydra/launcher=slurm for a sweep."
        )
    return ranks


def _placeholder_task(config: Mapping[str, Any]) -> "Task":
    """Return the task with the width that its options imply, until the data have been read."""
    from lossselect.tasks.registry import TASKS, make_task

    weight = config["loss"].get("weight")
    ensure(
        weight is None or (isinstance(weight, str | list | Mapping) and weight),
        "loss.weight must be balanced, effective_number, a list of one number per output, or a mapping such "
        f"as loss.weight={{cat:2,dog:1}}, got {weight!r}.",
    )
    options = drop_none(config["task"])
    name = options.pop("name", None)
    per_output = (options.get("threshold"), weight, config["loss"].get("pos_weight"))
    width = next((len(value) for value in per_output if isinstance(value, list) and value), 2)
    counts = [check_int(f"task.{key}", options[key], 0) for key in ("top_k", "min_labels") if key in options]
    sized = lookup(TASKS, name, "task").is_sized() and not options.get("class_names")
    return make_task(name, num_outputs=max(width, *counts, 2) if sized else None, **options)


def check_early_stopping(config: Mapping[str, Any], monitor: str) -> None:
    """Raise ConfigError for settings of early stopping that have no effect."""
    entry = (config.get("callbacks") or {}).get("early_stopping")
    if monitor != "last" or not entry or entry.get("monitor") not in (None, "last"):
        return
    defaults = packaged_config("callbacks", "default").early_stopping
    if changed := {k for k in entry if k != "monitor" and entry[k] != defaults.get(k)}:
        raise ConfigError(
            f"callbacks.early_stopping.{min(changed)} has no effect: the run trains until the learning rate "
            "reaches 0 and keeps the last epoch. To stop early, set "
            "callbacks.early_stopping.monitor=val/loss, or monitor=val/loss to keep the best epoch as well."
        )


def _check_monitors(config: Mapping[str, Any], task: "AnyTask", is_final: bool) -> None:
    """Raise ConfigError for a metric that is not computed; the width is known only if `is_final`."""
    head = (resolve_head(config, task) if is_final else configured_head(config))["name"]
    width = task.num_outputs if is_final else None
    spec, counted = config.get("metrics"), "_target_" not in config["data"]
    chunked = ["val/loss", "train/loss"]
    if "" in task.tasks:
        top_names = choose_top_metrics(task.tasks[""], spec if head == "chunked" else None, width, counted)
        chunked += [f"val/{name}" for name in top_names]
    dense = [] if head == "chunked" else [*_list_values(spec, task, is_final)]
    listed = chunked if head == "chunked" else dense
    # head=auto, which is not resolved yet, may become either
    known = [*dense, *chunked] if head == "auto" else listed
    for setting, metric in monitored_metrics(config).items():
        last = [] if setting == "scheduler.monitor" else ["last"]
        # own data may have several validation loaders, whose names are checked when they are known
        names = {str(metric), re.sub(r"^val/[^/]+/", "val/", str(metric)) if not counted else str(metric)}
        is_known = any(
            name in names or (name.endswith("/...") and any(other.startswith(name[:-3]) for other in names))
            for name in known
        )
        if metric is not None and not is_known and metric not in last:
            others = "For other metrics, set head=dense." if head == "chunked" else "Set others in metrics."
            raise ConfigError(
                f"Unknown metric {metric!r} of {setting}.{suggestion(str(metric), known + last)} "
                f"Choose one of: {', '.join(listed + last)}. {others}"
            )


def _list_values(spec: Any, task: "AnyTask", is_final: bool) -> Iterator[str]:
    """Yield the names of the values that are logged; "val/iou/..." stands for any number of names."""
    for stage in ("val", "train"):
        yield f"{stage}/loss"
        for task_name, part in task.tasks.items():
            prefix = f"{stage}/{task_name}/" if task_name else f"{stage}/"
            yield from [f"{prefix}loss"] * bool(task_name)
            chosen = metrics_by_task(spec, task)[task_name]
            for name, entry in choose_metrics(part, chosen, stage=stage).items():
                if not isinstance(entry, MetricName):  # the values of a user's metric are not known
                    yield from (f"{prefix}{name}", f"{prefix}{name}/...")
                elif entry.per_class and not is_final:
                    yield f"{prefix}{entry.log}/..."
                else:
                    yield from (f"{prefix}{output}" for output in list_outputs(part, entry))
