"""`lossselect-train`, and `python train.py`: train, evaluate and predict by a Hydra config.

A misspelt config is answered before torch is imported, most others before lightning is.
"""

import inspect
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from .config import check_config, loss_options
from .help import print_help
from .mistakes import message_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, Trainer
    from torch import nn

    from .data.splits import Splits
    from .tasks import Task


TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"
"""Hydra's own switch: show tracebacks of the user's mistakes too."""


def main() -> None:
    """The command. A user's mistake is one message on stderr and exit code 1, without a traceback."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        name = Path(sys.argv[0]).name
        print_help(f"python {name}" if name.endswith(".py") else name)
        return
    # as `python train.py` has it: the user's own parts are found from their folder, but shadow nothing
    sys.path.append(os.getcwd())
    # Hydra then raises its errors instead of printing them, and they can be put in better words
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with _mistakes_explained(sys.argv[1:]):
        run()


@contextmanager
def _mistakes_explained(arguments: Iterable[str] = ()) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        message = message_of(error, arguments)
        if message is None or TRACEBACKS:
            raise
        print(message, file=sys.stderr)
        sys.exit(1)


class CheckBeforeRun(Callback):
    """Checks configs before Hydra makes a folder: for one that cannot be, nothing is written."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the run's config."""
        with _mistakes_explained():
            check_config(_plain(config))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config of each job, as far as the command line tells them: the first 100."""
        with _mistakes_explained(config.hydra.overrides.task):
            overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
            choices = [
                [f"{o.key_or_group}={value}" for value in o.sweep_string_iterator()]
                if o.is_discrete_sweep()
                else [str(o.input_line)]
                for o in overrides
                if o.is_discrete_sweep() or not o.is_sweep_override()
            ]
            for job in islice(product(*choices), 100):
                check_config(_plain(compose(config.hydra.job.config_name, overrides=list(job))))


@hydra.main(version_base="1.3", config_path="pkg://lossselect.configs", config_name="train")
def run(config: DictConfig) -> None:
    """One run: fit, then evaluate and predict with the best checkpoint, into Hydra's run folder."""
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        train(config)  # Hydra goes on with the other jobs, and says which one failed
    else:
        with _mistakes_explained():
            train(config)


def train(config: DictConfig) -> None:
    """What `run` does, given the composed config."""
    check_config(_plain(config))
    folder = Path(HydraConfig.get().runtime.output_dir)

    from .explain import plan, print_table
    from .module import TaskModule
    from .optim import best_mode
    from .outputs import evaluate, save_predictions

    _seed(config.seed)
    splits, data = _load_data(config)
    task = _make_task(config, splits, data)
    # the callbacks' settings refer to these two
    config.monitor = config.monitor or f"val/{task.monitor}"
    config.mode = config.mode or best_mode(config.monitor)
    module = TaskModule(
        task,
        _make_net(config, task, splits, data),
        loss_options(_plain(config.loss)),
        _spec(config.optimizer),
        _scheduler(config),
    )
    if splits:
        from .data.module import TensorData

        data = TensorData(splits, task, config.data.batch_size)
    trainer = _make_trainer(config, folder)
    print_table("Plan", {**plan(module, splits or data, config), "outputs": str(folder)})
    trainer.fit(module, datamodule=data)
    best = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    results = evaluate(trainer, module, data, best, folder)
    save_predictions(trainer, module, data, best, splits, folder)
    print_table("Results", {name: f"{value:.4f}" for name, value in results.items()})
    print(f"Best checkpoint, metrics.json and predictions.csv are in {folder}")


def _seed(seed: int) -> None:
    """Seed everything, before the user's own net or data draw a number."""
    from lightning.pytorch import seed_everything

    seed_everything(seed, workers=True, verbose=False)


def _plain(config: DictConfig) -> Any:
    """The config's values, resolved; without Hydra's own."""
    config = config.copy()
    with open_dict(config):
        config.pop("hydra", None)
        # the folder is not known before the run
        config.pop("logger", None)
    return OmegaConf.to_container(config, resolve=True)


def _spec(config: DictConfig | None) -> Any:
    """A part by name as plain values, a part with `_target_` as an object, an empty one as None."""
    if not config:
        return None
    return hydra.utils.instantiate(config) if "_target_" in config else _plain(config)


def _scheduler(config: DictConfig) -> Any:
    spec = _spec(config.scheduler)
    return {"monitor": config.monitor, **spec} if isinstance(spec, dict) else spec


def _load_data(config: DictConfig) -> "tuple[Splits | None, LightningDataModule | None]":
    if "_target_" not in config.data:
        from .data.toy import load

        options = _plain(config.data)
        options.pop("batch_size")
        return load(**options), None
    from lightning.pytorch import LightningDataModule

    data = hydra.utils.instantiate(config.data)
    if not isinstance(data, LightningDataModule):
        raise TypeError(f"data._target_ must make a LightningDataModule, got {type(data).__name__}.")
    if not any(hasattr(data, name) for name in ("class_names", "num_outputs")):
        data.prepare_data()
        data.setup("fit")
    return None, data


def _make_task(config: DictConfig, splits: "Splits | None", data: Any) -> "Task":
    """The task, whose width and class names the data tell, checked against the labels."""
    from .infer import check_task
    from .tasks import TASKS, make_task

    source = splits or data
    options = _plain(config.task)
    names = options.pop("class_names", None) or getattr(source, "class_names", None)
    width = getattr(source, "num_outputs", None)
    if TASKS[options["name"]].width_field:
        width = width or len(names or ())
        if not width:
            raise ValueError(
                f"{type(source).__name__} must tell how many classes there are: give it an attribute "
                "class_names or num_outputs, in setup at the latest."
            )
    # first without names: of labels of another task it is the labels that should be told, not the names
    task = make_task(num_outputs=width, **options)
    if splits:
        check_task(task, splits.labels)
    return replace(task, class_names=names)


def _make_net(
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
        return {**known, **_plain(config.model)}
    parameters = inspect.signature(hydra.utils.get_object(config.model._target_)).parameters
    told = {**known, "num_outputs": task.num_outputs}
    return hydra.utils.instantiate(config.model, **{k: v for k, v in told.items() if k in parameters})


def _make_trainer(config: DictConfig, folder: Path) -> "Trainer":
    from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

    from .trainer import build_trainer

    callbacks: list[Any] = [
        ModelCheckpoint(
            folder / "checkpoints",
            "best",
            monitor=config.monitor,
            mode=config.mode,
            save_last=True,
            enable_version_counter=False,
        ),
        *(hydra.utils.instantiate(entry) for entry in (config.callbacks or {}).values() if entry),
    ]
    options = _plain(config.trainer)
    # a bar that redraws itself is for a terminal; into a file or a pipe it would write every state
    options["enable_progress_bar"] = options.get("enable_progress_bar", True) and sys.stdout.isatty()
    if options["enable_progress_bar"]:
        callbacks.append(RichProgressBar())
    return build_trainer(
        options,
        callbacks=callbacks,
        enable_checkpointing=True,
        logger=_spec(config.logger) or False,
        default_root_dir=folder,
    )
