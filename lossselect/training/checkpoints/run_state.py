"""What a run needs to go on from a checkpoint as if it had never stopped, beside what Lightning keeps.

Lightning keeps weights, optimizers, schedulers and counters. Here are random numbers, the place in the
epoch's rows, gradients of a group that has begun, metrics of the epoch so far, and what was logged last.
"""

import random
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger

from lossselect.compat.lightning import (
    accumulates,
    data_fetcher,
    forget_restart,
    is_last_batch,
    set_sampler_epoch,
    stop_restarting,
    train_loaders,
    validates_after_batch,
    wrap,
)
from lossselect.data.sampler import RowBatches
from lossselect.exceptions import CheckpointError
from lossselect.losses.loss import Loss
from lossselect.metrics.state import as_numbers, as_scalars
from lossselect.training.checkpoints.resume_validation import check_states
from lossselect.training.checkpoints.rng import generators_of
from lossselect.utils.distributed import gather
from lossselect.utils.warnings import warn


class RunState:
    """Takes down the state of a run, and takes it up again."""

    def __init__(self) -> None:
        self.epoch_began: dict[str, Any] | None = None
        """The random numbers before the epoch's first batch."""
        self.validation_began: dict[str, Any] = {}
        """The random numbers before the last validation."""
        self.loaded: list[dict[str, Any]] | None = None
        """What each process had taken down, until this one goes on from there."""
        self.loss: dict[str, Any] | None = None
        """That of the checkpoint, if it is one of ours."""
        self.states: dict[str, Any] = {}
        """Of its optimizers and schedulers, until they have been compared with those of the run."""

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """What a checkpoint holds to go on from."""
        self.loaded, self.loss = checkpoint.get("run_state"), checkpoint.get("loss")
        self.states = {
            key: checkpoint[key] for key in ("optimizer_states", "lr_schedulers") if key in checkpoint
        }

    def save(self, trainer: Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Put into a checkpoint what is needed."""
        checkpoint["run_state"] = self._state(trainer, module)
        loop, state = trainer.fit_loop.epoch_loop, checkpoint["loops"]["fit_loop"]
        if loop.batch_progress.current.completed < loop.batch_progress.current.ready:
            _finish_batch(trainer, state)
        elif _validates(trainer):
            _validate_again(state)

    def _state(self, trainer: Trainer, module: Any) -> list[dict[str, Any]]:
        """What each process has, as tensors and plain values."""
        loop = trainer.fit_loop
        batches = loop.epoch_loop.batch_progress.current.ready
        within = batches < trainer.num_training_batches
        own = {
            "batches": batches,
            "made": _made(trainer),
            "random": self.validation_began if _validates(trainer) else _random(trainer),
            "epoch_began": self.epoch_began if within else None,
            "complete": not within,
            "should_stop": trainer.should_stop,
            "epoch": _epoch(trainer),
            "train": module._train_epoch.state(complete=not within),
            "logged": as_numbers(trainer.callback_metrics),
            "rows": _rows_logged(trainer),
            "due": _due_schedulers(trainer),
        }
        # whoever optimizes by himself may have begun a group that nobody else knows of
        if within and (accumulates(trainer) or not module.automatic_optimization):
            own["group"] = module._step_mean.state_dict(module)
            own["gradients"] = {
                name: weight.grad.cpu()
                for name, weight in module.named_parameters()
                if weight.grad is not None
            }
        return gather(own)

    def check(self, trainer: Trainer) -> None:
        """ValueError where another optimizer or scheduler would go on from a checkpoint's."""
        if self.loaded is not None and (made := self.loaded[0]["made"]) != _made(trainer):
            raise CheckpointError(
                f"The checkpoint is of a run with {', '.join(made)}, and this one has "
                f"{', '.join(_made(trainer))}: go on with the same, or begin anew."
            )
        states, self.states = self.states, {}
        if states:
            schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
            check_states({**states, "callbacks": {}}, trainer.ckpt_path, trainer.optimizers, schedulers)

    def compare_loss(self, criterion: Any) -> None:
        """Warn where another loss goes on from a checkpoint's."""
        if self.loss is None or not isinstance(criterion, Loss):
            return
        before, now = self.loss, criterion.to_dict()
        if before["name"] != now["name"]:
            changed = [f"{before['name']} is {now['name']} now"]
        else:
            changed = [name for name in before | now if before.get(name) != now.get(name)]
        if changed:
            warn(
                "loss_changed_on_resume",
                f"The run goes on with another loss than the checkpoint's: {', '.join(changed)}.",
            )

    def start(self, trainer: Trainer, module: Any) -> None:
        """Before the first batch of fit: go on from where a checkpoint was made."""
        if self.loaded is None:
            return
        own, self.loaded = self._own(trainer), None
        trainer.callback_metrics.update(as_scalars(own["logged"]))
        # Lightning warns that loaders would begin again
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before")
        trainer.should_stop |= own["should_stop"]
        if own["complete"]:
            # Lightning takes another batch to see that there is none
            fetcher = data_fetcher(trainer.fit_loop)
            getattr(fetcher, "inner", fetcher).iterator = iter(())
        module._train_epoch.load_state_dict(own["train"])
        if own["epoch_began"] is not None:
            self.epoch_began = own["epoch_began"]
            if any(isinstance(c, GradientAccumulationScheduler) for c in trainer.callbacks):  # type: ignore[attr-defined]
                # which sets it at an epoch's start alone
                trainer.accumulate_grad_batches = int(own["epoch"]["accumulate_grad_batches"])
            _check_epoch(own["epoch"], _epoch(trainer))
            _set_random(own["epoch_began"], trainer)
            _skip(trainer, own["batches"])
        _set_random(own["random"], trainer)
        if "gradients" in own:
            module._step_mean.load_state_dict(own["group"], module)
            for name, weight in module.named_parameters():
                if name in own["gradients"]:
                    weight.grad = own["gradients"][name].to(weight)
        for index in own.get("due", ()):
            _step_on_plateau(trainer, module, index)

    def _own(self, trainer: Trainer) -> dict[str, Any]:
        assert self.loaded is not None
        before, now = len(self.loaded), trainer.world_size
        if before != now and self.loaded[0]["epoch_began"] is not None:
            raise CheckpointError(
                f"The checkpoint was made within an epoch of {before} process(es), whose rows are dealt in "
                f"another way to {now}: go on with {before}, or from a checkpoint of an epoch's end."
            )
        return self.loaded[trainer.global_rank % before]

    def watch(self, trainer: Trainer) -> None:
        """Remember the random numbers before each validation, which draws some before there is a hook."""

        def run(method: Callable[[], Any]) -> Any:
            self.validation_began = _random(trainer)
            return method()

        wrap(trainer.fit_loop.epoch_loop.val_loop, "run", run)
        wrap(trainer.fit_loop, "reset", lambda method: _begin_new_epoch(trainer, method))
        wrap(trainer.fit_loop, "on_advance_end", lambda method: _end_epoch(trainer, method))

    def begin_epoch(self, trainer: Trainer) -> None:
        """Remember the random numbers that the order of the rows is drawn from."""
        self.epoch_began = _random(trainer)
        fetcher = data_fetcher(trainer.fit_loop)
        if fetcher is not None and (trainer.current_epoch == 0 or trainer.fit_loop.is_resuming):
            iter(fetcher)  # which else is done before there is a hook, or not at all


def _begin_new_epoch(trainer: Trainer, reset: Callable[[], None]) -> None:
    """Let a run with max_steps that was saved at the end of an epoch resume with the next epoch.

    Without max_steps Lightning does so; with it, it ends the same epoch a second time.
    """
    loop = trainer.fit_loop
    epochs: Any = loop.epoch_progress.current
    if loop.restarting and epochs.ready == epochs.started == epochs.processed:
        stop_restarting(trainer)
    reset()


def _end_epoch(trainer: Trainer, end: Callable[[], None]) -> None:
    """Let ReduceLROnPlateau take its step at the end of an epoch that was resumed within.

    Lightning leaves it out, as its checkpoints have no metrics.
    """
    forget_restart(trainer)  # of the loop itself: at the end of an epoch it has no other use
    end()


def _due_schedulers(trainer: Trainer) -> list[int]:
    """Return the indices of the ReduceLROnPlateau whose step comes right after the checkpoint.

    Such a scheduler steps after the hooks at the end of a batch or an epoch, in which checkpoints are saved.
    A run that is resumed comes to that place again only if it was saved in a validation or at its end.
    """
    loop, fetcher = trainer.fit_loop, data_fetcher(trainer.fit_loop)
    if fetcher is None:  # a checkpoint that is saved after fit
        return []
    epoch: Any = loop.epoch_progress.current
    batch = loop.epoch_loop.batch_progress.current
    at = {
        "step": batch.completed < batch.ready
        and not validates_after_batch(trainer)
        and not accumulates(trainer),
        "epoch": epoch.completed < epoch.processed,
    }
    count = {"step": loop.epoch_loop.batch_idx + 1, "epoch": trainer.current_epoch + 1}
    return [
        index
        for index, config in enumerate(trainer.lr_scheduler_configs)
        if config.reduce_on_plateau and at[config.interval] and count[config.interval] % config.frequency == 0
    ]


def _step_on_plateau(trainer: Trainer, module: Any, index: int) -> None:
    """Let a scheduler take the step that was due when the checkpoint was saved."""
    config = trainer.lr_scheduler_configs[index]
    if config.monitor not in trainer.callback_metrics:  # as under strict=False
        return
    progress = trainer.fit_loop.epoch_loop.scheduler_progress
    progress.increment_ready()
    module.lr_scheduler_step(config.scheduler, trainer.callback_metrics[config.monitor])
    progress.increment_completed()


def _made(trainer: Trainer) -> list[str]:
    """The names of optimizers and schedulers, less the one that stochastic weight averaging puts in later."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    swa = any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return [type(part).__name__ for part in (*trainer.optimizers, *(() if swa else schedulers))]


def _rows_logged(trainer: Trainer) -> int | None:
    """Return how many rows metrics.csv has; None in a process that writes none.

    Steps do not tell which rows came before a checkpoint: while gradients are accumulated, several
    validations belong to one step.
    """
    paths = [Path(logger.log_dir) for logger in trainer.loggers if isinstance(logger, CSVLogger)]
    if not paths or not trainer.is_global_zero:
        return None
    file = paths[0] / "metrics.csv"
    return max(0, file.read_bytes().count(b"\n") - 1) if file.is_file() else 0


def _finish_batch(trainer: Trainer, state: dict[str, Any]) -> None:
    """Let the loops' state be that after the batch, with its validation still to come.

    Lightning saves at the end of a batch, before it validates, and going on from there it takes the
    validation for done, and at the end of an epoch the epoch too.
    """
    validates = validates_after_batch(trainer)
    if not (is_last_batch(trainer) or validates):
        return
    progress = state["epoch_loop.batch_progress"]
    for kind in ("total", "current"):
        progress[kind]["completed"] = progress[kind]["ready"]
    if validates:
        _validate_again(state)


def _validates(trainer: Trainer) -> bool:
    """Whether a validation has begun and not ended."""
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress.current
    return trainer.validating and progress.completed < progress.ready


def _validate_again(state: dict[str, Any]) -> None:
    """Let the loops' state be that of a validation of which no batch is done."""
    progress = state["epoch_loop.val_loop.batch_progress"]
    done = progress["total"]["completed"]
    progress["total"] = {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}
    progress["current"] = dict.fromkeys(progress["current"], 0)


def _skip(trainer: Trainer, batches: int) -> None:
    """Begin the epoch's batches again, and leave out those that have been."""
    loop, fetcher = trainer.fit_loop, data_fetcher(trainer.fit_loop)
    assert fetcher is not None
    loaders = fetcher.combined_loader.flattened
    ours = all(isinstance(getattr(loader, "sampler", None), RowBatches) for loader in loaders)
    for loader in loaders:
        set_sampler_epoch(loader, loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        if ours:
            loader.sampler.skip = batches
    iter(fetcher)
    if not ours:
        for _ in range(batches):
            next(getattr(fetcher, "inner", fetcher))  # of blocks of batches
    fetcher.fetched = 0  # to which Lightning adds what has been


def _epoch(trainer: Trainer) -> dict[str, Any]:
    """What the place among an epoch's batches is counted in."""
    fetcher = data_fetcher(trainer.fit_loop)
    loaders = fetcher.combined_loader.flattened if fetcher else []
    samplers = [sampler for loader in loaders if (sampler := getattr(loader, "sampler", None))]
    sizes: list[Any] = [sampler.batch_size for sampler in samplers if isinstance(sampler, RowBatches)]
    return {
        "batches": str(trainer.num_training_batches),
        "rows a batch": str(sizes or [getattr(loader, "batch_size", None) for loader in loaders]),
        "accumulate_grad_batches": str(trainer.accumulate_grad_batches),
    }


def _check_epoch(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """ValueError where a run would go on at another place than it was ended."""
    for name, value in before.items():
        if now[name] != value:
            raise CheckpointError(
                f"The checkpoint was made within an epoch of other batches ({name}: {value}, now "
                f"{now[name]}), so that its place is not to be found: go on with the same settings and data, "
                "or from a checkpoint of an epoch's end."
            )


def _generators(trainer: Trainer) -> list[torch.Generator]:
    """Those of the user's train loaders."""
    return [generator for part in train_loaders(trainer) for generator in generators_of(part)]


def _random(trainer: Trainer) -> dict[str, Any]:
    """The states of all generators that this process uses, as tensors and plain values."""
    device = trainer.strategy.root_device
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype("int64")), *rest],
        "python": [version, torch.tensor(numbers), gauss],
        "loaders": [generator.get_state() for generator in _generators(trainer)],
    }


def _set_random(states: Mapping[str, Any], trainer: Trainer) -> None:
    device = trainer.strategy.root_device
    for generator, state in zip(_generators(trainer), states["loaders"], strict=True):
        generator.set_state(state)
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype("uint32"), *rest))  # noqa: NPY002
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
