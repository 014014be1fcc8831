"""What the configs list, and what follows from a run's settings: head, monitor, options of the loss."""

from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lossselect.chunked.options import check_topk_task, top_metric_names, topk_monitor
from lossselect.losses.registry import row_options
from lossselect.models.nets import head_options
from lossselect.reporting.plan import Monitor
from lossselect.run.allowed_classes import public_name

if TYPE_CHECKING:
    from lossselect.tasks.registry import Task

OF_A_RUN = {"callbacks", "logger", "default_root_dir", "enable_checkpointing", "enable_model_summary"}
"""Arguments of Lightning's trainer that are groups of the config, or follow from the run."""

OF_STEPS = ("steps_per_execution", "compile")
"""Settings of the trainer beside Lightning's: how a step is taken."""

CHECKED_HERE = (*OF_STEPS, "max_epochs", "accumulate_grad_batches", "log_every_n_steps")
"""Settings of the trainer that are checked without it."""

MANY_OUTPUTS = 50_000
"""From so many on head=auto is chunked: metrics of each label then say little, and take long."""

FILES = ("table", "arrays")
"""Data of the user's own, from files."""

FITS_ANYWHERE = 1 << 26
"""Bytes of a batch's dense matrices."""


def packaged_config(group: str, name: str) -> DictConfig:
    """configs/GROUP/NAME.yaml."""
    text = (files("lossselect.configs") / group / f"{name}.yaml").read_text(encoding="utf-8")
    config = OmegaConf.create(text)
    assert isinstance(config, DictConfig)
    return config


def variants(group: str = "") -> list[str]:
    """The names of the variants of a group; without one those of the groups."""
    entries = (files("lossselect.configs") / group).iterdir()
    kept = (entry for entry in entries if not entry.name.startswith("_"))
    return sorted(entry.name.removesuffix(".yaml") for entry in kept if entry.is_dir() != bool(group))


def known_keys(group: str, name: str) -> list[str]:
    """The settings that configs/GROUP/NAME.yaml lists."""
    return [str(key) for key in packaged_config(group, name)]


def as_list_of_names(allow: Any) -> list[str]:
    """The names in the setting `ignore_warnings`, which may be one, several or none."""
    return [] if allow is None else [allow] if isinstance(allow, str) else [*allow]


def options_of_loss(name: Any) -> dict[str, Any]:
    """All options of a loss with their defaults; "auto" has none."""
    return {} if name == "auto" else row_options(name)


def loss_options(loss: Mapping[str, Any]) -> dict[str, Any]:
    """The loss's name and those of its options that differ from the default.

    A default that the task's form of the loss lacks (alpha under softmax) was not asked for.
    """
    defaults = options_of_loss(loss["name"])
    return {key: value for key, value in loss.items() if key not in defaults or value != defaults[key]}


def needs_trainer(config: Mapping[str, Any]) -> bool:
    """Whether a setting of the trainer is other than usual, and of those that Lightning alone can check."""
    usual: dict[Any, Any] = {**packaged_config("trainer", "default"), **dict.fromkeys(CHECKED_HERE)}
    return any(
        key not in usual
        or ((usual[key] != value or type(usual[key]) is not type(value)) and key not in CHECKED_HERE)
        for key, value in config["trainer"].items()
    )


def monitored_metrics(config: Mapping[str, Any]) -> dict[str, Any]:
    """Which settings name a metric, and what they name."""
    parts = {"scheduler": config.get("scheduler")}
    parts |= {f"callbacks.{name}": entry for name, entry in (config.get("callbacks") or {}).items()}
    named = {
        f"{part}.monitor": entry["monitor"] for part, entry in parts.items() if entry and "monitor" in entry
    }
    return {"monitor": config["monitor"], **named}


def tuned_setting(config: Mapping[str, Any]) -> str:
    """A setting of decision that somebody has asked for; nothing where none."""
    usual, decision = packaged_config("decision", "tuned"), config.get("decision") or {}
    return next((f"{key}={value}" for key, value in decision.items() if value != usual.get(key)), "")


def resolve_head(config: Mapping[str, Any], task: "Task") -> dict[str, Any]:
    """What `TaskModule` takes for a head: where it is auto, by the number of outputs and the memory."""
    from lossselect.chunked.loss import chunkable
    from lossselect.utils.devices import total_memory

    head = head_options(config.get("head"), ("auto",))
    if head["name"] != "auto":
        return head
    try:
        check_topk_task(task)
    except ValueError:
        return {"name": "dense"}
    fits = (
        "_target_" not in config["model"]
        and not config.get("mix")
        and not config["trainer"].get("compile")
        and not tuned_setting(config)
        and not _needs_dense(config, task)
        and config["loss"]["name"] in chunkable(task.activation)
        and "_target_" not in config["data"]
    )
    if not fits or task.num_outputs >= MANY_OUTPUTS:
        return {"name": "chunked" if fits else "dense"}
    # logits, target, gradient and a copy, float32; of a few megabytes nobody need ask a GPU how much it has
    dense = 16 * task.num_outputs * config["data"].get("batch_size", 1)
    memory = total_memory() if dense > FITS_ANYWHERE else None
    return {"name": "dense" if memory is None or dense <= memory / 4 else "chunked"}


def _needs_dense(config: Mapping[str, Any], task: "Task") -> bool:
    """Whether something watches a metric that a chunked head has not."""
    known = {"last", "val/loss", "train/loss", *(f"val/{name}" for name in top_metric_names(task))}
    return any(metric is not None and metric not in known for metric in monitored_metrics(config).values())


def resolve_monitor(config: Mapping[str, Any], task: "Task") -> Monitor:
    """By what the run's checkpoint is chosen.

    A learning rate that has gone to 0 leaves nothing to choose but noise: on small validation splits the last
    epoch is better than the best one. Without such a schedule it is the task's own.
    """
    if config["monitor"]:
        return Monitor(str(config["monitor"]), "as asked for")
    if _anneals(config):
        return Monitor("last", "the learning rate has gone to 0 by then, and the last epoch is no worse")
    return Monitor(task_monitor(config, task), "the run may end before the learning rate has gone to 0")


def _anneals(config: Mapping[str, Any]) -> bool:
    """Whether the learning rate has gone to 0 when the run ends."""
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
    """The callbacks that may end a run before its last epoch, by their classes' names."""
    return [entry for entry in (config.get("callbacks") or {}).values() if is_stopping_callback(entry)]


STOPPING = frozenset({"lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.callbacks.Timer"})
"""Lightning's callbacks that may end a run."""


def is_stopping_callback(entry: Any) -> bool:
    """Whether a callback's class is one of `STOPPING`, or the user's own subclass of one of them."""
    target = str((entry or {}).get("_target_"))
    if public_name(target):  # of Lightning or of this package: known without importing it
        return public_name(target, STOPPING) is not None
    from hydra.utils import get_object

    try:
        cls = get_object(target)
    except Exception:  # whose message comes when the callback is built
        return False
    bases = cls.__mro__ if isinstance(cls, type) else ()
    return any(public_name(f"{base.__module__}.{base.__qualname__}", STOPPING) for base in bases)


def task_monitor(config: Mapping[str, Any], task: "Task") -> str:
    """The metric of the validation split that runs of the task are judged by, where nothing else is said."""
    return f"val/{topk_monitor(task) if resolve_head(config, task)['name'] == 'chunked' else task.monitor}"
