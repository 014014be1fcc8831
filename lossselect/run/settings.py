"""What the packaged configs list, and what follows from a run's settings: head, monitor, loss options."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lossselect.chunked.options import check_topk_task, top_metric_names, topk_monitor
from lossselect.exceptions import ConfigError
from lossselect.losses.registry import row_options
from lossselect.models.nets import head_options
from lossselect.run.allowed_classes import public_name

if TYPE_CHECKING:
    from lossselect.reporting.plan import Monitor
    from lossselect.tasks.registry import Task

RESERVED = {"callbacks", "logger", "default_root_dir", "enable_checkpointing", "enable_model_summary"}
"""Arguments of Lightning's trainer that are groups of the config, or follow from the run."""

STEP_OPTIONS = ("steps_per_execution", "compile")  # settings of `trainer` that Lightning's trainer lacks

MIN_INTS = {"max_epochs": 1, "accumulate_grad_batches": 1, "steps_per_execution": 1, "log_every_n_steps": 0}
"""Integers of `trainer` that are checked without Lightning, with their minimums."""

MIN_OUTPUTS_CHUNKED = 50_000  # from here on metrics of each label say little, and take long
MAX_BYTES_UNCHECKED = 1 << 26  # of a batch's dense matrices, which fit any device
FILE_DATA = ("table", "arrays")
STOPPING = frozenset({"lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.callbacks.Timer"})


def packaged_config(group: str, name: str) -> Any:
    """Return configs/GROUP/NAME.yaml."""
    return OmegaConf.create(
        (files("lossselect.configs") / group / f"{name}.yaml").read_text(encoding="utf-8")
    )


def list_variants(group: str = "") -> list[str]:
    """Return the names of a group's variants; without a group those of the groups."""
    entries = (files("lossselect.configs") / group).iterdir()
    listed = (entry for entry in entries if not entry.name.startswith("_"))
    return sorted(entry.name.removesuffix(".yaml") for entry in listed if entry.is_dir() != bool(group))


def as_list(setting: Any) -> list[Any]:
    """Return one value, several or none as a list."""
    is_several = isinstance(setting, Sequence) and not isinstance(setting, str)
    return [*setting] if is_several else [] if setting is None else [setting]


def check_has_target(place: str, entry: Any) -> None:
    """Raise ConfigError unless an entry names a class."""
    if not isinstance(entry, Mapping) or "_target_" not in entry:
        raise ConfigError(f"{place} must have a _target_, or be null; it is {entry!r}.")


def loss_options(loss: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loss's name and the options that differ from the defaults, which not every form takes."""
    defaults = {} if loss["name"] == "auto" else row_options(loss["name"])
    return {key: value for key, value in loss.items() if key not in defaults or value != defaults[key]}


def needs_trainer(config: Mapping[str, Any]) -> bool:
    """Return whether a setting of the trainer is not the default, and only Lightning can check it."""
    defaults = packaged_config("trainer", "default")
    return any(
        key not in defaults or (defaults[key], type(defaults[key])) != (value, type(value))
        for key, value in config["trainer"].items()
        if key not in MIN_INTS and key not in STEP_OPTIONS
    )


def monitored_metrics(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that name a metric, with that metric."""
    callbacks = config.get("callbacks") or {}
    parts = {"scheduler": config.get("scheduler"), **{f"callbacks.{k}": v for k, v in callbacks.items()}}
    monitors = {f"{k}.monitor": part["monitor"] for k, part in parts.items() if part and "monitor" in part}
    return {"monitor": config["monitor"], **monitors}


def find_chunked_conflict(config: Mapping[str, Any]) -> str:
    """Return a message about a setting that head=chunked does not support; "" if there is none."""
    if config["trainer"].get("compile"):
        return "trainer.compile does not go through head=chunked: leave one of them out."
    if config.get("mix"):
        return "mix makes soft labels of a batch, which head=chunked does not take: mix=none."
    defaults = packaged_config("decision", "tuned")
    for key, value in (config.get("decision") or {}).items():
        if value != defaults.get(key):
            return (
                f"decision.{key}={value} needs all outputs of the validation rows, which head=chunked never "
                "has: leave it out."
            )
    return ""


def drop_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those that are open, such as a threshold to be tuned."""
    return {key: value for key, value in values.items() if value is not None}


def configured_head(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked head of a config, whose name may be "auto"."""
    return head_options(config.get("head"), ("auto",))


def resolve_head(config: Mapping[str, Any], task: "Task") -> dict[str, Any]:
    """Return the head for `TaskModule`; "auto" depends on the number of outputs and the memory."""
    from lossselect.chunked.loss import chunkable
    from lossselect.utils.devices import total_memory

    head = configured_head(config)
    if head["name"] != "auto":
        return head
    try:
        check_topk_task(task)
    except ValueError:
        return {"name": "dense"}
    metrics = {"last", "val/loss", "train/loss", *(f"val/{name}" for name in top_metric_names(task)), None}
    fits = (
        "_target_" not in config["model"]
        and not find_chunked_conflict(config)
        and {*monitored_metrics(config).values()} <= metrics
        and config["loss"]["name"] in chunkable(task.activation)
        and "_target_" not in config["data"]
    )
    if not fits or task.num_outputs >= MIN_OUTPUTS_CHUNKED:
        return {"name": "chunked" if fits else "dense"}
    # logits, target, gradient and a copy, float32; for a few megabytes the GPU need not be asked
    dense = 16 * task.num_outputs * config["data"].get("batch_size", 1)
    memory = total_memory() if dense > MAX_BYTES_UNCHECKED else None
    return {"name": "dense" if memory is None or dense <= memory / 4 else "chunked"}


def resolve_monitor(config: Mapping[str, Any], task: "Task") -> "Monitor":
    """Return what chooses the run's checkpoint."""
    from lossselect.reporting.plan import Monitor

    if config["monitor"]:
        return Monitor(str(config["monitor"]), "as asked for")
    # epochs then differ by noise: on small validation splits the last one is better than the best one
    if _anneals(config):
        return Monitor("last", "the learning rate has gone to 0 by then, and the last epoch is no worse")
    return Monitor(task_monitor(config, task), "the run may end before the learning rate has gone to 0")


def _anneals(config: Mapping[str, Any]) -> bool:
    """Return whether the learning rate has gone to 0 when the run ends."""
    scheduler, options = config.get("scheduler") or {}, config["trainer"]
    return (
        scheduler.get("name") == "CosineAnnealingLR"
        and set(scheduler) <= {"name", "T_max", "eta_min"}
        and scheduler.get("T_max") == options.get("max_epochs")
        and not scheduler.get("eta_min")
        and options.get("max_steps") in (None, -1)
        and not options.get("max_time")
        # that of the configs watches what chooses the checkpoint, and nothing where that is the last epoch
        and all(entry.get("monitor", "") in (None, "last") for entry in stopping_callbacks(config))
    )


def stopping_callbacks(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the callbacks that may end a run before its last epoch, by their classes."""
    return [entry for entry in (config.get("callbacks") or {}).values() if is_stopping_callback(entry)]


def is_stopping_callback(entry: Any) -> bool:
    """Return whether a callback's class is one of `STOPPING`, or the user's own subclass of one of them."""
    target = str((entry or {}).get("_target_"))
    if public_name(target):  # of Lightning or of this package: known without importing it
        return public_name(target, STOPPING) is not None
    from hydra.utils import get_object

    try:
        bases = getattr(get_object(target), "__mro__", ())
    except Exception:  # whose message comes when the callback is built
        return False
    return any(public_name(f"{base.__module__}.{base.__qualname__}", STOPPING) for base in bases)


def task_monitor(config: Mapping[str, Any], task: "Task") -> str:
    """Return the validation metric that chooses the checkpoint by default."""
    return f"val/{topk_monitor(task) if resolve_head(config, task)['name'] == 'chunked' else task.monitor}"
