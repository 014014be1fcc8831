"""The parts of a run, made from its config."""

import inspect
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

from .config import FILES

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, Trainer
    from torch import nn

    from .data.splits import Splits
    from .tasks import Task


def plain_values(config: DictConfig) -> Any:
    """The config's values, resolved; without Hydra's own."""
    config = config.copy()
    with open_dict(config):
        config.pop("hydra", None)
        # the folder is not known before the run
        config.pop("logger", None)
    return OmegaConf.to_container(config, resolve=True)


def spec_of(config: DictConfig | None) -> Any:
    """A part by name as plain values, a part with `_target_` as an object, an empty one as None."""
    if not config:
        return None
    return hydra.utils.instantiate(config) if "_target_" in config else plain_values(config)


def _instantiate(part: DictConfig, known: dict[str, Any]) -> Any:
    """A part with `_target_`, given those of the known values that it has parameters for."""
    parameters: Iterable[str] = ()
    with suppress(ImportError, TypeError, ValueError):  # a name that is not found: instantiate will say it
        parameters = inspect.signature(hydra.utils.get_object(part._target_)).parameters
    return hydra.utils.instantiate(part, **{k: v for k, v in known.items() if k in parameters})


def scheduler_of(config: DictConfig) -> Any:
    """The scheduler, which watches what the run watches; None where there is none."""
    spec = spec_of(config.get("scheduler"))
    return {"monitor": config.monitor, **spec} if isinstance(spec, dict) else spec


def load_data(config: DictConfig) -> "tuple[Splits | None, LightningDataModule | None]":
    """Data of ours, or from a file, as splits; or the user's data module; the other is None."""
    if "_target_" not in config.data:
        options = plain_values(config.data)
        options.pop("batch_size")
        return _splits(json.dumps(options, sort_keys=True), json.dumps(plain_values(config.task))), None
    from lightning.pytorch import LightningDataModule

    data = hydra.utils.instantiate(config.data)
    if not isinstance(data, LightningDataModule):
        raise TypeError(f"data._target_ must make a LightningDataModule, got {type(data).__name__}.")
    if all(getattr(data, name, None) is None for name in ("class_names", "num_outputs")):
        data.prepare_data()
        data.setup("fit")
    return None, data


@lru_cache(maxsize=1)  # they are checked before the run has its folder, and taken again in it
def _splits(data: str, task: str) -> "Splits":
    options, of_task = json.loads(data), json.loads(task)
    if options["name"] in FILES:
        from .data.table import load_own

        return load_own(**options, task=of_task)
    from .data.toy import load
    from .infer import infer_task

    splits = load(**options)
    if of_task["name"] != "auto":
        return splits
    name, reason = infer_task(splits.labels)
    return replace(splits, task=name, reason=f"{splits.name} has labels of {reason}")


def task_of(config: DictConfig, splits: "Splits | None", data: Any) -> "Task":
    """The task, whose width and class names the data tell, checked against the labels."""
    from .infer import check_task
    from .label_lists import LabelLists
    from .tasks import TASKS, make_task

    source = splits or data
    options = plain_values(config.task)
    names = options.pop("class_names", None)
    if splits and splits.task:
        # the labels have been read for this task, and by these names
        options["name"], names = splits.task, splits.class_names
    elif options["name"] == "auto":
        raise ValueError(
            "task=auto looks at labels that are read here: of data=table or data=arrays. Say what the labels "
            f"of {type(source).__name__} are: task=binary, task=multiclass or task=multilabel."
        )
    names = getattr(source, "class_names", None) if names is None else names
    width = getattr(source, "num_outputs", None)
    if TASKS[options["name"]].width_field:
        width = len(() if names is None else names) if width is None else width
        if not width:
            raise ValueError(
                f"{type(source).__name__} must tell how many classes there are: give it an attribute "
                "class_names or num_outputs, in setup at the latest."
            )
    # first without names: of labels of another task it is the labels that should be told, not the names
    task = make_task(num_outputs=width, **options)
    if splits and not isinstance(splits.labels, LabelLists):
        check_task(task, splits.labels)
    return replace(task, class_names=names)


def net_of(
    config: DictConfig, task: "Task", splits: "Splits | None", data: Any
) -> "nn.Module | dict[str, Any]":
    """A net of ours as plain values, which a checkpoint keeps; the user's own as an object."""
    width = splits.features.shape[1] if splits else getattr(data, "num_features", None)
    known = {} if width is None else {"num_features": width}
    if "_target_" not in config.model:
        if width is None:
            raise ValueError(
                f"Net {config.model.name!r} needs num_features: give {type(data).__name__} that attribute."
            )
        return {**known, **plain_values(config.model)}
    from torch import nn

    net = _instantiate(config.model, {**known, "num_outputs": task.num_outputs})

    if not isinstance(net, nn.Module):
        raise TypeError(f"model._target_ must make a torch.nn.Module, got {type(net).__name__}.")
    return net


def _known_of_callback(name: str, entry: DictConfig) -> dict[str, Any]:
    """What follows from the metric that a callback watches: in which direction, and when it is known."""
    if "monitor" not in entry:
        return {}
    from .optim import best_mode

    if not isinstance(entry.monitor, str):
        raise ValueError(f"callbacks.{name}.monitor must be the name of a metric, got {entry.monitor!r}.")
    known = {"mode": best_mode(entry.monitor), "check_on_train_epoch_end": entry.monitor.startswith("train/")}
    return {key: value for key, value in known.items() if key not in entry}


def trainer_of(config: DictConfig, folder: Path) -> "Trainer":
    """Lightning's trainer with its callbacks and logger."""
    from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

    from .optim import best_mode
    from .trainer import NeedsValidation, build_trainer

    best = ModelCheckpoint(
        folder / "checkpoints",
        "best",
        monitor=config.monitor,
        mode=best_mode(config.monitor),
        save_last=True,
        # of a metric of the training epoch, only its end knows this epoch's value
        save_on_train_epoch_end=config.monitor.startswith("train/") or None,
        enable_version_counter=False,
    )
    # a smoke test must leave what is there
    keeps = not config.trainer.get("fast_dev_run")
    callbacks: list[Any] = [best, NeedsValidation(config.monitor)] if keeps else []
    for name, entry in (config.get("callbacks") or {}).items():
        if entry:
            callbacks.append(_instantiate(entry, _known_of_callback(name, entry)))
    options = plain_values(config.trainer)
    # a bar that redraws itself is for a terminal; into a file or a pipe it would write every state
    options["enable_progress_bar"] = options.get("enable_progress_bar", True) and sys.stdout.isatty()
    if options["enable_progress_bar"]:
        callbacks.append(RichProgressBar())
    return build_trainer(
        options,
        callbacks=callbacks,
        enable_checkpointing=keeps,
        logger=spec_of(config.get("logger")) or False,
        default_root_dir=folder,
    )
