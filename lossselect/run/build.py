"""The parts of a run, built from its config."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from lossselect.exceptions import ConfigError
from lossselect.metrics.direction import best_mode
from lossselect.models.auto import default_epochs, resolve_net
from lossselect.run.custom_module import CustomModule
from lossselect.run.settings import (
    configured_losses,
    describe_repetition,
    drop_none,
    is_sharded,
    is_stopping_callback,
    needs_trainer,
    resolve_head,
    resolve_monitor,
    stopping_callbacks,
    to_plain,
)
from lossselect.run.trust import make_part
from lossselect.utils.warnings import drop_warnings_on_error

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, Trainer
    from torch import nn

    from lossselect.data.loading import LoadedData
    from lossselect.reporting.plan import Line, Monitor
    from lossselect.tasks.registry import AnyTask
    from lossselect.training.checkpoints.saving import BestCheckpoint
    from lossselect.training.module import TaskModule


def component_spec(config: DictConfig, place: str) -> Any:
    """Return the part `place` as plain values, or as an object if it has a `_target_`; None if empty."""
    part = config.get(place)
    if not part:
        return None
    return make_part(part, place) if "_target_" in part else to_plain(part)


def build_metrics(config: DictConfig) -> Any:
    """Return the choice of metrics, with an object for each part that has a `_target_`."""

    def build(node: Any, place: str) -> Any:
        if isinstance(node, DictConfig) and "_target_" in node:
            from torchmetrics import Metric

            return make_part(node, place, Metric)
        if isinstance(node, DictConfig):
            return {str(key): build(node[key], f"{place}.{key!s}") for key in node}
        if isinstance(node, ListConfig):
            return [build(entry, f"{place}[{i}]") for i, entry in enumerate(node)]
        return node

    return build(config.metrics, "metrics")


def load_data(config: DictConfig) -> "LoadedData":
    """Return the data that the config names; cached, because the check of the config reads them first."""
    from lossselect.data.loading import load_checked
    from lossselect.data.readers.formats import list_files

    options = to_plain(config.data)
    options.pop("batch_size")
    if config.get("folds"):
        options["val_fraction"] = None  # the validation rows are a fold of the others
    # overwriting a file changes its times (`st_ctime_ns` even if the other is copied), replacing it its inode
    versions = []
    paths = [options.get(name) for name in ("path", "val_path", "test_path")]
    files = [file for path in paths if isinstance(path, str) for file in list_files(path)]
    for value in (*options.values(), *files):
        with suppress(OSError, TypeError, ValueError):  # not a path, or the file does not exist
            if Path(value).is_file():  # not ".", as in data.decimal: a run folder changes its times
                stat = Path(value).stat()
                versions.append((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    task = drop_none(to_plain(config.task))
    # not sorted, because the order of several tasks is that of their outputs
    arguments = json.dumps(options), json.dumps(task), tuple(versions)
    if not config.get("folds"):
        return load_checked(*arguments)
    with drop_warnings_on_error():
        return load_checked(*arguments).take_fold(config.folds, config.fold or 0, config.seed)


def has_loader(data: Any, split: str) -> bool:
    """Return whether a data module has a loader of "train", "val", "test" or "predict"."""
    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.utilities.model_helpers import is_overridden

    return is_overridden(f"{split}_dataloader", data, LightningDataModule)


def decision_settings(config: DictConfig, module: Any, data: Any) -> dict[str, Any] | None:
    """Return the options of `fit_decision`, or None if there is nothing to fit or no validation split."""
    options = to_plain(config.decision) if config.get("decision") else None
    if not options or module._chunked or config.trainer.get("limit_val_batches") == 0:
        return None
    if "_target_" in config.data and not has_loader(data, "val"):
        return None
    if config.task.get("threshold") is not None:
        options["metric"] = None
    targets = config.data.get("targets") or {}
    if chosen := [name for name in targets if (targets[name] or {}).get("threshold") is not None]:
        metric = options["metric"]
        by_task = metric if isinstance(metric, dict) else dict.fromkeys(module.task.tasks, metric)
        options["metric"] = {**by_task, **dict.fromkeys(chosen)}
    is_empty = options["metric"] is None and options["calibration"] == "none"
    return None if is_empty else options


def build_data(config: DictConfig) -> "LightningDataModule":
    """Build the data module, a built-in one or the user's."""
    from lightning.pytorch import LightningDataModule

    if "_target_" not in config.data:
        from lossselect.data.datamodule import TensorData

        loaded = load_data(config)
        return TensorData(loaded.splits, loaded.task, config.data.batch_size, loaded.counts)
    data: LightningDataModule = make_part(config.data, "data", LightningDataModule)
    if all(getattr(data, name, None) is None for name in ("class_names", "num_outputs")):
        data.prepare_data()
        data.setup("fit")
    return data


def resolve_task(config: DictConfig, data: Any) -> "AnyTask":
    """Return the task, with number of outputs and class names from the data."""
    from lossselect.tasks.registry import TASKS, make_task

    if "_target_" not in config.data:
        return data.task
    options = drop_none(to_plain(config.task))
    if options["name"] == "auto":
        raise ConfigError(
            f"task=auto does not support custom data ({type(data).__name__}), only data=table, data=arrays "
            "and built-in data. Set task=binary, task=multiclass or task=multilabel."
        )
    names = options.pop("class_names", None)
    names = getattr(data, "class_names", None) if names is None else names
    width = getattr(data, "num_outputs", None)
    if TASKS[options["name"]].is_sized():
        width = len(() if names is None else names) if width is None else width
        if not width:
            raise ConfigError(
                f"{type(data).__name__} must have an attribute class_names or num_outputs, for the number of "
                "classes. Set it in __init__ or setup."
            )
    return make_task(num_outputs=width, class_names=names, **options)


def build_module(config: DictConfig, task: "AnyTask", data: Any, trains: bool) -> "tuple[Any, Monitor]":
    """Return a `TaskModule`, or a `Classifier` unless it `trains` or has its own class, and the monitor.

    The monitor's metric is also set as `config.monitor`.
    """
    custom = CustomModule(config.module) if config.get("module") else None
    takes_net = custom is None or "net" in custom.accepted
    net, net_reason = build_net(config, task, data) if takes_net else (None, "")
    if config.trainer.max_epochs == "auto":
        splits = getattr(data, "splits", None)
        config.trainer.max_epochs = default_epochs(net, splits, config.data.get("batch_size"))
    plain = to_plain(config)
    selects_epochs = isinstance(net, Mapping) and net["name"] == "ensemble"
    monitor = resolve_monitor(plain, task, selects_epochs)
    config.monitor = monitor.metric
    arguments: dict[str, Any] = {
        "task": task,
        "net": net,
        "loss": configured_losses(plain, task),
        "bias_init": config.bias_init,
        "mix": component_spec(config, "mix"),
        "head": resolve_head(plain, task),
    }
    optimizer, scheduler = component_spec(config, "optimizer"), component_spec(config, "scheduler")
    monitors = isinstance(scheduler, dict) and scheduler.get("name") == "ReduceLROnPlateau"
    if monitors and monitor.metric != "last":
        scheduler = {"monitor": monitor.metric, **scheduler}
    specs = {"optimizer": optimizer, "scheduler": scheduler, "metrics": build_metrics(config)}
    module: Any
    if custom:
        arguments |= {**specs, "on_nonfinite": config.on_nonfinite}
        module = custom.build(arguments, config, _find_overrides(config), **_derived_arguments(task, data))
    elif trains:
        from lossselect.training.module import TaskModule

        module = TaskModule(**arguments, **specs, on_nonfinite=config.on_nonfinite)
    else:  # without importing Lightning
        from lossselect.training.classifier import Classifier

        module = Classifier(**arguments)
        module._optimizer_spec, module._scheduler_spec, module._metrics_spec = specs.values()
    module._net_reason = net_reason
    if "_target_" not in config.data:  # labels of custom data are counted by fit
        module.set_label_counts(data.counts["train"])
    return module, monitor


def _find_overrides(config: DictConfig) -> Sequence[str]:
    """Return the settings of the command line; Hydra's part of the config exists only before the run."""
    if "hydra" in config:
        return config.hydra.overrides.task
    return HydraConfig.get().overrides.task if HydraConfig.initialized() else ()


def build_net(config: DictConfig, task: "AnyTask", data: Any) -> "tuple[nn.Module | dict[str, Any], str]":
    """Return a net and the reason of its choice.

    A built-in net is plain values, which a checkpoint stores, and a custom net is an object.
    """
    derived = _derived_arguments(task, data)
    if "_target_" not in config.model:
        if "num_features" not in derived:
            owner = type(data).__name__
            raise ConfigError(
                f"Net {config.model.name!r} requires rows of features, whose length is the attribute "
                f"num_features of the data, which {owner} does not have. Add it, or for other inputs, "
                "such as images, set model._target_ to your own net."
            )
        spec, splits = to_plain(config.model), getattr(data, "splits", None)
        if splits is None:  # a user's own data
            spec = {"name": "mlp"} if spec["name"] == "auto" else spec
            return {"num_features": derived["num_features"], **spec}, ""
        is_single = bool(config.get("module")) or is_sharded(config.trainer)
        is_single |= resolve_head(to_plain(config), task)["name"] == "chunked"
        return resolve_net(spec, task, splits, is_single)
    from torch import nn

    net: nn.Module = make_part(config.model, "model", nn.Module, **derived)
    return net, ""


def _derived_arguments(task: "AnyTask", data: Any) -> dict[str, int]:
    """Return the arguments of custom nets and modules that follow from the data."""
    width = getattr(data, "num_features", None)
    return {"num_outputs": task.num_outputs} | ({} if width is None else {"num_features": width})


def prepare(config: DictConfig) -> "tuple[TaskModule, LightningDataModule, Monitor]":
    """Return the module, the data and the monitor; see `build_module`."""
    from lightning.pytorch import seed_everything

    from lossselect.data.datamodule import TensorData

    # first, because the user's net or data may draw random numbers
    seed_everything(config.seed, workers=True, verbose=False)
    data = build_data(config)
    module, monitor = build_module(config, resolve_task(config, data), data, trains=True)
    if module._chunked and isinstance(data, TensorData):
        data.use_sparse_targets()
    if mode := config.trainer.get("compile"):
        import torch

        torch.compiler.reset()  # a function is compiled at most eight times, and a sweep may have more jobs
        module.compile(**({} if mode is True else {"mode": mode}))
    return module, data, monitor


def describe_training(
    config: DictConfig, data: Any, monitor: "Monitor", trainer: "Trainer | None" = None
) -> "Iterator[Line]":
    """Yield the plan's lines about training; without `trainer`, one is built if the settings require it."""
    from lossselect.reporting.plan import Line
    from lossselect.utils.devices import auto_device

    plain = to_plain(config)
    options = plain["trainer"]
    if trainer is None and needs_trainer(plain):
        from lossselect.run.trainer import build_trainer

        trainer = build_trainer(options)
    processes = trainer.world_size if trainer else 1
    limits = [f"at most {options['max_epochs']} epochs"]
    limits += [f"{steps} steps"] if (steps := options.get("max_steps", -1)) != -1 else []
    limits += [f"{limit:g} seconds"] if (limit := config.time_limit) else []
    limits += [f"{time} (days:hours:minutes:seconds)"] if (time := options.get("max_time")) else []
    value = " or ".join(limits)
    if rows := getattr(data, "batch_size", None):
        group = processes * options.get("accumulate_grad_batches", 1)
        value += f"; batches of {rows} rows" + (f", {rows * group} rows per step" if group > 1 else "")
    change = "trainer.max_epochs=..." + ", data.batch_size=..." * (getattr(data, "splits", None) is not None)
    yield Line("training", value, "", change)
    if repetition := describe_repetition(plain):
        change = "folds=..., repeats=..."
        yield Line(
            "repetition", repetition, "results are means; predictions average the probabilities", change
        )
    stopping = []
    for entry in stopping_callbacks(plain):
        if "monitor" not in entry:
            stopping.append(f"by {entry['_target_'].rpartition('.')[2]}")
        elif (metric := entry["monitor"] or monitor.metric) != "last":
            stopping.append(f"after {entry.get('patience', 3)} epochs without a better {metric}")
    change = "callbacks=none" if stopping else "callbacks.early_stopping.monitor=val/loss"
    yield Line("early stopping", ", or ".join(stopping) or "none", "", change)
    value = trainer.strategy.root_device.type if trainer else auto_device()
    value += f", precision {trainer.precision if trainer else options['precision']}"
    value += f", {processes} processes" if processes > 1 else ""
    yield Line("device", value, "", "trainer=gpu, trainer=ddp, trainer.precision=bf16-mixed")


def make_trainer(
    config: DictConfig, folder: Path, directions: Mapping[str, Any]
) -> "tuple[Trainer, BestCheckpoint]":
    """Build Lightning's trainer with callbacks and loggers, and the callback for the best checkpoint.

    `directions` has those of the run's metrics, as in `best_mode`.
    """
    from lossselect.run.loggers import make_loggers
    from lossselect.run.trainer import build_trainer
    from lossselect.training.callbacks.checkpoint_on_signal import CheckpointOnSignal
    from lossselect.training.callbacks.progress import ProgressBar, ProgressLines, is_terminal
    from lossselect.training.callbacks.steps_per_execution import StepsPerExecution
    from lossselect.training.callbacks.time_limit import TimeLimit
    from lossselect.training.checkpoints.saving import (
        LAST,
        BestCheckpoint,
        LastCheckpoint,
        Preflight,
        saves_at_epoch_end,
    )

    options, checkpoints = to_plain(config.trainer), folder / "checkpoints"
    at_epoch_end = saves_at_epoch_end(config.monitor, options)
    mode = best_mode(config.monitor, directions)
    best = BestCheckpoint(checkpoints, config.monitor, mode, at_epoch_end)
    saves = not options.get("fast_dev_run")  # a smoke test must not change the run folder
    callbacks: list[Any] = [best, Preflight(checkpoints)] if saves else []
    for name, entry in (config.get("callbacks") or {}).items():
        # with monitor=last all epochs are trained
        if entry and not (is_stopping_callback(entry) and entry.get("monitor") == "last"):
            callbacks.append(
                make_part(entry, f"callbacks.{name}", **_callback_arguments(name, entry, directions))
            )
    if config.time_limit is not None:
        callbacks.append(TimeLimit(config.time_limit))
    if saves:  # LastCheckpoint must come after the user's checkpoint callbacks
        callbacks += [CheckpointOnSignal(checkpoints / LAST), LastCheckpoint(best)]
    if (steps := options.get("steps_per_execution", 1)) > 1:
        callbacks.append(StepsPerExecution(steps))
    if options.get("enable_progress_bar", True):
        # in a file or a pipe a progress bar would write each of its states
        options["enable_progress_bar"] = is_terminal()
        callbacks.append(ProgressBar() if is_terminal() else ProgressLines())
    trainer = build_trainer(
        options,
        callbacks=callbacks,
        enable_checkpointing=saves,
        logger=make_loggers(config, folder) or False,
        default_root_dir=folder,
    )
    return trainer, best


def _callback_arguments(name: str, entry: DictConfig, directions: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments that follow from a callback's metric: its direction, and when it is computed."""
    if "monitor" not in entry:
        return {}
    if not isinstance(entry.monitor, str):
        raise ConfigError(f"callbacks.{name}.monitor must be the name of a metric, got {entry.monitor!r}.")
    derived: dict[str, Any] = {} if "mode" in entry else {"mode": best_mode(entry.monitor, directions)}
    if entry.monitor == "last":
        derived["monitor"] = "epoch"  # Lightning logs the number of the epoch
    if "check_on_train_epoch_end" not in entry:
        derived["check_on_train_epoch_end"] = entry.monitor.startswith("train/")
    return derived
