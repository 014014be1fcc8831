"""`lossselect-train`, and `python train.py`: train, evaluate and predict by a Hydra config.

A misspelt config is answered before torch is imported, most others before lightning is.
"""

import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from .config import SETTINGS, check_config, check_trainer, loss_options
from .help import print_help
from .mistakes import message_of
from .names import nearest

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
    # Hydra knows no null for a group; ours that may be empty have a variant none
    sys.argv[1:] = [
        re.sub(r"^(scheduler|callbacks|logger|experiment)=null$", r"\1=none", a) for a in sys.argv[1:]
    ]
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
            _check(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config of each job, as far as the command line tells them: the first 100."""
        with _mistakes_explained(config.hydra.overrides.task):
            overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
            choices = [
                [f"{o.key_or_group}={value}" for value in o.sweep_string_iterator()]
                if o.is_discrete_sweep()
                else [str(o.input_line)]
                for o in overrides
                if not o.is_sweep_override() or (o.is_discrete_sweep() and not isinstance(o.value(), Glob))
            ]
            for job in islice(product(*choices), 100):
                _check(compose(config.hydra.job.config_name, overrides=list(job)))


def _check(config: DictConfig) -> None:
    """All that can be known without a folder: also whether our own data fit the task."""
    _check_names(config)
    plain = _plain(config)
    check_config(plain)
    if "_target_" not in config.data:
        from .criterion import select_loss

        splits, _ = _load_data(config)
        select_loss(_make_task(config, splits, None), **loss_options(plain["loss"]))
    check_trainer(plain)


def _check_names(config: DictConfig) -> None:
    """A setting of one's own at the top is there for others to refer to; else it is a mistake."""
    text = OmegaConf.to_yaml(config)
    for name in map(str, config):
        if name not in (*SETTINGS, "hydra") and f"${{{name}" not in text:
            raise ValueError(
                f"There is no setting {name!r}, and none that refers to it.{nearest(name, SETTINGS)} "
                f"There are: {', '.join(SETTINGS)}."
            )


@hydra.main(version_base="1.3", config_path="pkg://lossselect.configs", config_name="train")
def run(config: DictConfig) -> None:
    """One run: fit, then evaluate and predict with the best checkpoint, into Hydra's run folder."""
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        _check(config)  # of a large sweep not every job has been checked
        train(config)  # Hydra goes on with the other jobs, and says which one failed
    else:
        with _mistakes_explained():
            train(config)


def train(config: DictConfig) -> None:
    """What `run` does, given the composed config."""
    folder = Path(HydraConfig.get().runtime.output_dir)

    from .explain import plan, print_table
    from .module import TaskModule
    from .outputs import evaluate, save_predictions

    _seed(config.seed)
    splits, data = _load_data(config)
    task = _make_task(config, splits, data)
    config.monitor = config.monitor or f"val/{task.monitor}"  # to which the callbacks' settings refer
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
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        trainer.test(module, datamodule=data, verbose=False)
        print("A few batches went through training, validation and test. Nothing is kept of that.")
        return
    best = _best_checkpoint(trainer)
    results = evaluate(trainer, module, data, best, folder)
    written = save_predictions(trainer, module, data, best, splits, folder)
    print_table("Results", {name: f"{value:.4f}" for name, value in results.items()})
    print(f"Best checkpoint, metrics.json{written and f' and {written}'} are in {folder}")


def _best_checkpoint(trainer: "Trainer") -> str:
    if not trainer.global_step:
        raise ValueError(
            "No step was taken: the train loader is empty (fewer rows than a batch, under drop_last?), or "
            "trainer.max_steps or trainer.limit_train_batches allow none."
        )
    best: str = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    if not best:
        raise ValueError(
            f"{trainer.checkpoint_callback.monitor} was never computed in "  # type: ignore[union-attr]
            f"{trainer.current_epoch} epochs, so there is no best checkpoint: validate more often "
            "(trainer.check_val_every_n_epoch)."
        )
    return best


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


def _instantiate(part: DictConfig, known: dict[str, Any]) -> Any:
    """A part with `_target_`, given those of the known values that it has parameters for."""
    parameters: Iterable[str] = ()
    with suppress(ImportError, TypeError, ValueError):  # a name that is not found: instantiate will say it
        parameters = inspect.signature(hydra.utils.get_object(part._target_)).parameters
    return hydra.utils.instantiate(part, **{k: v for k, v in known.items() if k in parameters})


def _scheduler(config: DictConfig) -> Any:
    spec = _spec(config.get("scheduler"))
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
    if all(getattr(data, name, None) is None for name in ("class_names", "num_outputs")):
        data.prepare_data()
        data.setup("fit")
    return None, data


def _make_task(config: DictConfig, splits: "Splits | None", data: Any) -> "Task":
    """The task, whose width and class names the data tell, checked against the labels."""
    from .infer import check_task
    from .tasks import TASKS, make_task

    source = splits or data
    options = _plain(config.task)
    names = options.pop("class_names", None)
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
    from torch import nn

    net = _instantiate(config.model, {**known, "num_outputs": task.num_outputs})

    if not isinstance(net, nn.Module):
        raise TypeError(f"model._target_ must make a torch.nn.Module, got {type(net).__name__}.")
    return net


def _make_trainer(config: DictConfig, folder: Path) -> "Trainer":
    from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

    from .optim import best_mode
    from .trainer import NeedsValidation, build_trainer

    best = ModelCheckpoint(
        folder / "checkpoints",
        "best",
        monitor=config.monitor,
        mode=best_mode(config.monitor),
        save_last=True,
        enable_version_counter=False,
    )
    callbacks: list[Any] = [best, NeedsValidation(config.monitor)]
    for entry in (config.get("callbacks") or {}).values():
        if entry:
            known = {"mode": best_mode(entry.monitor)} if "monitor" in entry and "mode" not in entry else {}
            callbacks.append(_instantiate(entry, known))
    options = _plain(config.trainer)
    # a bar that redraws itself is for a terminal; into a file or a pipe it would write every state
    options["enable_progress_bar"] = options.get("enable_progress_bar", True) and sys.stdout.isatty()
    if options["enable_progress_bar"]:
        callbacks.append(RichProgressBar())
    return build_trainer(
        options,
        callbacks=callbacks,
        enable_checkpointing=True,
        logger=_spec(config.get("logger")) or False,
        default_root_dir=folder,
    )
