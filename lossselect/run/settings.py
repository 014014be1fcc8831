"""The packaged configs, and the head, monitor and loss options that follow from a run's settings."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from lossselect.chunked.options import check_topk_task, chunkable, top_metric_names, topk_monitor
from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.losses.registry import row_options
from lossselect.metrics.names import metrics_by_task
from lossselect.models.auto import EPOCHS
from lossselect.models.nets import MEMBER_NETS, head_options
from lossselect.run.allowed_classes import public_name
from lossselect.utils.checks import as_list, check_options, check_positive

if TYPE_CHECKING:
    from lossselect.reporting.plan import Monitor
    from lossselect.tasks.registry import AnyTask

RESERVED = {"callbacks", "logger", "default_root_dir", "enable_checkpointing", "enable_model_summary"}
"""Arguments of Lightning's trainer that are groups of the config, or that the run sets itself."""

STEP_OPTIONS = ("steps_per_execution", "compile")
"""Settings of `trainer` that Lightning's trainer does not have."""

MIN_INTS = {"max_epochs": 1, "accumulate_grad_batches": 1, "steps_per_execution": 1, "log_every_n_steps": 0}
"""Minimums of the integers of `trainer` that are checked without Lightning."""

MIN_OUTPUTS_CHUNKED = 50_000  # with more outputs, metrics per label are slow and of little use
MAX_BYTES_UNCHECKED = 1 << 26  # smaller dense matrices of a batch fit any device
FILE_DATA = ("table", "arrays")
STREAMED = "litdata"  # the name of the data set whose config has a `_target_` of this package
REPORT = {"importance": False, "importance_seconds": 60, "learning_curve": False}
"""Options of the report and their defaults."""
STOPPING = frozenset({"lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.callbacks.Timer"})


@cache
def packaged_config(group: str, name: str) -> Any:
    """Return the content of configs/GROUP/NAME.yaml, which cannot be changed."""
    text = (files("lossselect.configs") / group / f"{name}.yaml").read_text(encoding="utf-8")
    return OmegaConf.create(text, flags={"readonly": True})


def to_plain(config: DictConfig) -> Any:
    """Return the config's values, resolved, without Hydra's own."""
    if OmegaConf.select(config, "trainer.max_epochs") == "auto":  # the number of rows is not known yet
        config = config.copy()  # others may refer to it
        with open_dict(config):
            config.trainer.max_epochs = EPOCHS
    # loggers may refer to the folder, which is not known before the run
    return {key: _plain_value(config, key) for key in config if key not in ("hydra", "logger")}


def _plain_value(config: DictConfig, key: Any) -> Any:
    value = MISSING if OmegaConf.is_missing(config, key) else config[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def list_variants(group: str = "") -> list[str]:
    """Return the names of a group's variants, or without a group the names of the groups."""
    entries = (files("lossselect.configs") / group).iterdir()
    listed = (entry for entry in entries if not entry.name.startswith("_"))
    return sorted(entry.name.removesuffix(".yaml") for entry in listed if entry.is_dir() != bool(group))


def check_has_target(place: str, entry: Any) -> None:
    """Raise ConfigError unless an entry names a class."""
    if not isinstance(entry, Mapping) or "_target_" not in entry:
        raise ConfigError(f"{place} must be null or have a _target_, got {entry!r}.")


def loss_options(loss: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loss's name and the options that differ from the defaults; not every form has them all."""
    defaults = {} if loss["name"] == "auto" else row_options(loss["name"])
    return {key: value for key, value in loss.items() if key not in defaults or value != defaults[key]}


def configured_losses(config: Mapping[str, Any], task: "AnyTask") -> dict[str, Any]:
    """Return the loss of a task, or of each of several tasks, as `TaskModule` accepts it."""
    from lossselect.tasks.task_names import spread

    shared, own = loss_options(config["loss"]), config["task"].get("losses") or {}
    if not isinstance(own, Mapping):
        raise OptionTypeError(f"task.losses must be a mapping such as {{species: focal}}, got {own!r}.")
    for name, loss in own.items():
        if not isinstance(loss, str) and not (isinstance(loss, Mapping) and "name" in loss):
            raise OptionTypeError(
                f"task.losses.{name} must be a name such as focal, or a mapping such as {{name: focal}}, got "
                f"{loss!r}."
            )
    losses = spread(task, own, "task.losses", shared) if own else dict.fromkeys(task.tasks, shared)
    return dict(task.join_values(losses))


def settings_by_task(config: Mapping[str, Any], task: "AnyTask") -> dict[str, Mapping[str, Any]]:
    """Return the settings of each of several tasks, as they would be for a single task."""
    if "" in task.tasks:
        return {"": config}
    from lossselect.decision.fit import options_by_task

    losses, metrics = configured_losses(config, task), metrics_by_task(config.get("metrics"), task)
    decision, targets = config.get("decision") or {}, config["data"].get("targets") or {}
    decisions = options_by_task(decision, task)
    return {
        name: {
            **config,
            "loss": {"name": losses[name]} if isinstance(losses[name], str) else losses[name],
            "metrics": metrics[name],
            "decision": vars(decisions[name]) if decision else None,
            "task": targets.get(name) or {},
        }
        for name in task.tasks
    }


def report_options(report: Any) -> dict[str, Any] | None:
    """Return the checked options of the setting `report`; None if no report is written."""
    if not isinstance(report, bool | Mapping):
        raise OptionTypeError(f"report must be true, false or options, such as importance, got {report!r}.")
    if report is False:
        return None
    given = {} if report is True else dict(report)
    check_options(given, REPORT, "report")
    options = {**REPORT, **given}
    for name in ("importance", "learning_curve"):
        if not isinstance(options[name], bool):
            raise OptionTypeError(f"report.{name} must be true or false, got {options[name]!r}.")
    check_positive("report.importance_seconds", options["importance_seconds"])
    return options


def needs_trainer(config: Mapping[str, Any]) -> bool:
    """Return whether a setting of the trainer that only Lightning can check is not the default."""
    defaults = packaged_config("trainer", "default")
    return any(
        key not in defaults or (defaults[key], type(defaults[key])) != (value, type(value))
        for key, value in config["trainer"].items()
        if key not in MIN_INTS and key not in STEP_OPTIONS
    )


def monitored_metrics(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics that the settings name, by setting."""
    callbacks = config.get("callbacks") or {}
    parts = {"scheduler": config.get("scheduler"), **{f"callbacks.{k}": v for k, v in callbacks.items()}}
    monitors = {f"{k}.monitor": part["monitor"] for k, part in parts.items() if part and "monitor" in part}
    return {"monitor": config["monitor"], **monitors}


def find_chunked_conflict(config: Mapping[str, Any]) -> str:
    """Return a message about a setting that head=chunked does not support, or ""."""
    if config["trainer"].get("compile"):
        return "head=chunked does not support trainer.compile. Set head=dense or trainer.compile=false."
    if config.get("mix"):
        return "head=chunked does not support mix, which creates soft labels. Set head=dense or mix=none."
    if config["model"].get("name") in MEMBER_NETS:
        return "head=chunked does not support nets with several members, such as model=tabm. Set head=dense."
    if config["model"].get("nets"):
        return "head=chunked supports only a single net. Set head=dense, or remove model.nets."
    defaults = packaged_config("decision", "tuned")
    for key, value in (config.get("decision") or {}).items():
        if value != defaults.get(key):
            return (
                f"decision.{key}={value} requires all outputs of the validation rows, which head=chunked "
                f"does not compute. Set head=dense, or remove decision.{key}."
            )
    return ""


def is_sharded(trainer: Mapping[str, Any]) -> bool:
    """Return whether a strategy, given by its name, distributes the weights over the processes."""
    return str(trainer.get("strategy")).startswith(("fsdp", "deepspeed"))


def drop_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are not None; None stands for the default, or for tuning."""
    return {key: value for key, value in values.items() if value is not None}


def configured_head(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked head of a config, whose name may be "auto"."""
    return head_options(config.get("head"), ("auto",))


def resolve_head(config: Mapping[str, Any], task: "AnyTask") -> dict[str, Any]:
    """Return the head for `TaskModule`; "auto" is resolved by the number of outputs and the memory."""
    from lossselect.tasks.multitask import MultiTask
    from lossselect.utils.devices import total_memory

    head = configured_head(config)
    if head["name"] != "auto":
        return head
    try:
        check_topk_task(task)
    except ValueError:
        return {"name": "dense"}
    assert not isinstance(task, MultiTask)  # `check_topk_task` rejects several tasks
    chosen = as_list(config.get("metrics"))
    names = top_metric_names(task)
    metrics = {"last", "val/loss", "train/loss", *(f"val/{name}" for name in chosen or names), None}
    fits = (
        "_target_" not in config["model"]
        and not config.get("module")
        and not find_chunked_conflict(config)
        and all(name in names for name in chosen)
        and {*monitored_metrics(config).values()} <= metrics
        and config["loss"]["name"] in chunkable(task.activation)
        and "_target_" not in config["data"]
    )
    if not fits or task.num_outputs >= MIN_OUTPUTS_CHUNKED:
        return {"name": "chunked" if fits else "dense"}
    # logits, target, gradient and a copy in float32; the GPU is queried only if they are large
    dense = 16 * task.num_outputs * config["data"].get("batch_size", 1)
    memory = total_memory() if dense > MAX_BYTES_UNCHECKED else None
    return {"name": "dense" if memory is None or dense <= memory / 4 else "chunked"}


def resolve_monitor(config: Mapping[str, Any], task: "AnyTask", selects_epochs: bool = False) -> "Monitor":
    """Return the monitor, which selects the run's checkpoint, unless each net `selects_epochs` itself."""
    from lossselect.reporting.plan import Monitor

    if config["monitor"]:
        return Monitor(str(config["monitor"]), "as configured")
    if selects_epochs:
        return Monitor("last", "it contains the selected epoch of each net")
    # the late epochs then differ only by noise, and the best of a small validation split is not better
    if _anneals(config):
        return Monitor("last", "the learning rate is 0 by then, so the last epochs hardly differ")
    return Monitor(task_monitor(config, task), "the run may end before the learning rate reaches 0")


def _anneals(config: Mapping[str, Any]) -> bool:
    """Return whether the learning rate reaches 0 when the run ends."""
    scheduler, options = config.get("scheduler") or {}, config["trainer"]
    return (
        scheduler.get("name") == "CosineAnnealingLR"
        and set(scheduler) <= {"name", "T_max", "eta_min"}
        and scheduler.get("T_max") == options.get("max_epochs")
        and not scheduler.get("eta_min")
        and options.get("max_steps") in (None, -1)
        and not options.get("max_time")
        # early stopping of the packaged configs (None, or "last") never stops a run that keeps the last epoch
        and all(entry.get("monitor", "") in (None, "last") for entry in stopping_callbacks(config))
    )


def stopping_callbacks(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the callbacks whose classes may end a run before its last epoch."""
    return [entry for entry in (config.get("callbacks") or {}).values() if is_stopping_callback(entry)]


def is_stopping_callback(entry: Any) -> bool:
    """Return whether a callback's class is one of `STOPPING`, or the user's own subclass of one of them."""
    target = str((entry or {}).get("_target_"))
    if public_name(target):  # classes of Lightning or this package need no import
        return public_name(target, STOPPING) is not None
    from hydra.utils import get_object

    try:
        bases = getattr(get_object(target), "__mro__", ())
    except Exception:  # the error is raised again when the callback is built
        return False
    return any(public_name(f"{base.__module__}.{base.__qualname__}", STOPPING) for base in bases)


def task_monitor(config: Mapping[str, Any], task: "AnyTask") -> str:
    """Return the validation metric that selects the checkpoint by default."""
    return f"val/{topk_monitor(task) if resolve_head(config, task)['name'] == 'chunked' else task.monitor}"  # type: ignore[arg-type]


class Member(NamedTuple):
    """One of the trainings of a run with `folds` or `repeats`: its name and the settings that it changes."""

    name: str
    settings: dict[str, int]


def is_member(name: str) -> bool:
    """Return whether a folder has the name of a training."""
    return re.fullmatch(r"(repeat_\d+_)?fold_\d+|repeat_\d+", name) is not None


def list_members(config: Mapping[str, Any]) -> list[Member]:
    """Return the trainings of a run in their order; empty for an ordinary run."""
    folds, repeats, seed = config.get("folds"), config.get("repeats"), config["seed"]
    if config.get("fold") is not None or not (folds or repeats):
        return []
    return [
        Member(
            "_".join([f"repeat_{repeat}"] * bool(repeats) + [f"fold_{fold}"] * bool(folds)),
            {"seed": seed + repeat} | ({} if fold is None else {"fold": fold}),
        )
        for repeat in range(repeats or 1)
        for fold in (range(folds) if folds else [None])
    ]


def describe_repetition(config: Mapping[str, Any]) -> str:
    """Return how often a run trains, for the plan; "" for an ordinary run."""
    folds, repeats, members = config.get("folds"), config.get("repeats"), list_members(config)
    if not members:
        return ""
    parts = [f"{repeats} seeds ({config['seed']} to {config['seed'] + repeats - 1})"] if repeats else []
    parts += [f"{folds} folds"] if folds else []
    text = " x ".join(parts) + f", {len(members)} trainings with the same test rows"
    return text + f"; other counts are those of {members[0].name}" * bool(folds)
