"""A run's config, checked before anything is written; what lightning alone can tell comes last."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .losses import row_options
from .names import check_options, lookup, nearest, number, whole

if TYPE_CHECKING:
    from .tasks import Task

PARTS = ("task", "loss", "data", "model", "optimizer", "trainer")
"""What a run cannot do without."""

MOST_SEED = 2**32 - 1
"""What NumPy takes."""


def check_config(config: Mapping[str, Any]) -> None:
    """ValueError or TypeError for the first setting that cannot be.

    Args:
        config: The composed config as plain values, interpolations resolved.
    """
    # what needs no torch comes first, so that the answer comes at once
    if not config.get("task"):
        raise ValueError("Say what the task is: task=binary, task=multiclass or task=multilabel.")
    for part in PARTS:
        if not isinstance(config.get(part), Mapping):
            raise ValueError(f"A run needs {part}=...; it cannot be {config.get(part)!r}.")
    row_options(config["loss"].get("name"))
    if "reduction" in config["loss"]:
        raise ValueError("loss.reduction is no setting: training takes the mean over what has a label.")
    whole("seed", config["seed"], 0, MOST_SEED)
    whole("trainer.max_epochs", config["trainer"].get("max_epochs"), 1)
    whole("trainer.accumulate_grad_batches", config["trainer"].get("accumulate_grad_batches", 1), 1)
    if config["mode"] not in (None, "min", "max"):
        raise ValueError(f"mode must be min or max, got {config['mode']!r}.")

    from .criterion import select_loss

    task = _stand_in_task(config)
    select_loss(task, **loss_options(config["loss"]))
    _check_monitor(config["monitor"], task)
    _check_data(config["data"])
    _check_model_and_optimizer(config)

    # Lightning is the one to say what its trainer takes, and from here on it is needed anyway
    from .trainer import build_trainer

    build_trainer(config["trainer"])


def _stand_in_task(config: Mapping[str, Any]) -> "Task":
    """The task with a width that the options' lengths imply: the data tell the real one later."""
    from .tasks import TASKS, make_task

    options = dict(config["task"])
    name = options.pop("name", None)
    for key in ("num_outputs", "num_classes", "num_labels"):
        if key in options:
            raise ValueError(f"task.{key} is no setting: the data tell how many classes there are.")
    per_output = (options.get("threshold"), config["loss"].get("weight"), config["loss"].get("pos_weight"))
    width = next((len(value) for value in per_output if isinstance(value, Sequence)), 2)
    sized = lookup(TASKS, name, "task").width_field is not None and not options.get("class_names")
    return make_task(name, num_outputs=width if sized else None, **options)


def loss_options(loss: Mapping[str, Any]) -> dict[str, Any]:
    """The loss's name and those of its options that differ from the default.

    A default that the task's form of the loss lacks (alpha under softmax) was not asked for.
    """
    defaults = row_options(loss["name"])
    return {key: value for key, value in loss.items() if key not in defaults or value != defaults[key]}


def _check_monitor(monitor: Any, task: "Task") -> None:
    known = [f"{stage}/{name}" for stage in ("val", "train") for name in ("loss", *task.metric_names)]
    if monitor is not None and monitor not in known:
        near = nearest(str(monitor), known)
        raise ValueError(f"There is no metric {monitor!r} to monitor.{near} There are: {', '.join(known)}.")


def _check_data(data: Mapping[str, Any]) -> None:
    from .data.toy import DATASETS

    if "_target_" in data:
        return
    lookup(DATASETS, data.get("name", ""), "data set")
    settings = ("name", "batch_size", "val_fraction", "test_fraction", "seed")
    check_options(data, settings, "data")
    if lacking := [name for name in settings if name not in data]:
        raise ValueError(f"data.{lacking[0]} is missing.")
    whole("data.batch_size", data["batch_size"], 1)
    whole("data.seed", data["seed"], 0, MOST_SEED)
    for name in ("val_fraction", "test_fraction"):
        if (name == "val_fraction" or data[name] is not None) and number(
            f"data.{name}", data[name], 0, 1
        ) in (0, 1):
            raise ValueError(f"data.{name} must lie between 0 and 1, got {data[name]}.")


def _check_model_and_optimizer(config: Mapping[str, Any]) -> None:
    import torch

    from .nets import make_net
    from .optim import make_optimizer, make_scheduler

    if "_target_" not in config["model"]:
        if "num_features" in config["model"]:
            raise ValueError("model.num_features is no setting: the data tell how many there are.")
        make_net({"num_features": 1, **config["model"]}, num_outputs=1)
    # torch imports its compiler with the first optimizer, which takes as long as all before
    scheduler = config.get("scheduler")
    if "_target_" not in config["optimizer"]:
        built = make_optimizer(config["optimizer"], [torch.zeros(1, requires_grad=True)])
        if scheduler and "_target_" not in scheduler:
            make_scheduler(scheduler, built, monitor="")
