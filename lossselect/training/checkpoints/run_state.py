"""State, in addition to Lightning's, that makes a resumed run bit-identical to one that never stopped.

It contains random numbers, the position in the epoch's rows, accumulated gradients, the metrics of the epoch
so far, and the values logged last.
"""

import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger

from lossselect.compat import lightning as compat
from lossselect.data.batches import RowBatches
from lossselect.exceptions import CheckpointError
from lossselect.losses.loss import Loss
from lossselect.losses.multi_loss import MultiLoss, list_changes
from lossselect.metrics.state import as_numbers, as_scalars
from lossselect.training.checkpoints.validation import check_states
from lossselect.training.diagnostics.start_checks import check_train_loaders
from lossselect.utils.distributed import gather
from lossselect.utils.warnings import warn


class RunState:
    """Saves the state of a run in its checkpoints, and resumes from it."""

    def __init__(self) -> None:
        self.checkpoint: Mapping[str, Any] = {}  # the checkpoint that fit resumes from, until it has started
        # the random numbers before the epoch's loaders started, and before the first batch was requested
        self._epoch_rng: dict[str, Any] | None = None
        self._first_rng: dict[str, Any] | None = None
        self._stopped_fetcher: Any = None  # whose loaders `rewind` has stopped
        self._epoch_is_new = False  # whether the next batches start an epoch, and do not complete one
        self._resumes = False  # whether an epoch that starts next is the first one of a resumed run
        self._validation_rng: dict[str, Any] = {}  # the random numbers before the last validation

    def save(self, trainer: Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the state of all processes to a checkpoint, and correct the state of Lightning's loops."""
        checkpoint["run_state"] = gather(self._get_state(trainer, module))
        _correct_loops(trainer, checkpoint["loops"]["fit_loop"])

    def _get_state(self, trainer: Trainer, module: Any) -> dict[str, Any]:
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        within_epoch = batches < trainer.num_training_batches
        state = {
            "batches": batches,
            "made": _get_part_names(trainer),
            "random": self._validation_rng if _is_validating(trainer) else get_rng_state(trainer),
            "epoch_began": self._epoch_rng if within_epoch else None,
            "first_batch": self._first_rng if within_epoch else None,
            "complete": not within_epoch,
            "should_stop": trainer.should_stop,
            "epoch": _describe_epoch(trainer),
            "train": module._epochs["train"].first.state_dict(complete=not within_epoch),
            "logged": as_numbers(trainer.callback_metrics),
            "rows": _count_logged_rows(trainer),
            "due": _find_due_schedulers(trainer),
        }
        # with manual optimization only the module knows whether gradients are being accumulated
        if within_epoch and (compat.accumulates(trainer) or not module.automatic_optimization):
            weights = module.named_parameters()
            state["group"] = module._step_mean.state_dict()
            state["gradients"] = {name: w.grad.cpu() for name, w in weights if w.grad is not None}
        return state

    def check(self, trainer: Trainer) -> None:
        """Raise a CheckpointError if optimizers or schedulers have changed, and release their states."""
        if not self.checkpoint:
            return
        states, names = self.checkpoint.get("run_state"), _get_part_names(trainer)
        if states is not None and (previous := states[0]["made"]) != names:
            raise CheckpointError(
                f"The checkpoint was saved with {', '.join(previous)}, but this run has {', '.join(names)}. "
                "Resume with the same optimizer and scheduler, or start a new run without resume."
            )
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        check_states(self.checkpoint, trainer.ckpt_path, trainer.optimizers, schedulers)
        self.checkpoint = {key: self.checkpoint.get(key) for key in ("run_state", "loss", "task")}

    def compare_loss(self, criterion: Any) -> None:
        """Warn if the loss differs from the checkpoint's."""
        old, new = (
            self.checkpoint.get("loss"),
            criterion.to_dict() if isinstance(criterion, Loss | MultiLoss) else None,
        )
        if not (old and new):
            return
        changed = list_changes(old, new)
        if self.checkpoint["task"].get("weights") != criterion.task.to_dict().get("weights"):
            changed.append("weights of tasks")
        if changed:
            warn(
                "loss_changed_on_resume",
                f"The run resumes with a loss that differs from the checkpoint's: {', '.join(changed)}.",
            )

    def start(self, trainer: Trainer, module: Any) -> None:
        """Resume from the checkpoint, if there is one, before the first batch of fit."""
        states, self.checkpoint = self.checkpoint.get("run_state"), {}
        if states is None:
            return
        state = _select_process(states, trainer)
        self._resumes = state["epoch_began"] is None
        trainer.callback_metrics.update(as_scalars(state["logged"]))
        # Lightning warns that the loaders start from their first batch, which is corrected here
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before")
        trainer.should_stop |= state["should_stop"]
        if state["complete"]:
            # Lightning fetches another batch to detect the end of the epoch
            fetcher = compat.data_fetcher(trainer.fit_loop)
            getattr(fetcher, "inner", fetcher).iterator = iter(())
        module._epochs["train"].first.load_state_dict(state["train"])
        if state["epoch_began"] is not None:
            self._epoch_rng, self._first_rng = state["epoch_began"], state["first_batch"]
            if any(isinstance(c, GradientAccumulationScheduler) for c in trainer.callbacks):  # type: ignore[attr-defined]
                # the callback sets it only when an epoch starts
                trainer.accumulate_grad_batches = int(state["epoch"]["accumulate_grad_batches"])
            for name, now in _describe_epoch(trainer).items():
                if state["batches"] and state["epoch"][name] != now:
                    raise CheckpointError(
                        "The checkpoint was saved within an epoch, whose batches have changed since "
                        f"({name}: {state['epoch'][name]}, now {now}). Resume with the same settings and "
                        "data, or from a checkpoint saved at the end of an epoch."
                    )
            _skip_batches(trainer, state)
        set_rng_state(state["random"], trainer)
        if "gradients" in state:
            module._step_mean.load_state_dict(state["group"], module)
            for name, weight in module.named_parameters():
                if name in state["gradients"]:
                    weight.grad = state["gradients"][name].to(weight)
        for index in state["due"]:
            _step_on_plateau(trainer, module, index)

    def watch(self, trainer: Trainer) -> None:
        """Wrap methods of Lightning's loops, whose hooks are called too late."""

        def run_validation(run: Callable[[], Any]) -> Any:
            self._validation_rng = get_rng_state(trainer)  # the loop draws numbers before its first hook
            return run()

        def begin_next_epoch(reset: Callable[[], None]) -> None:
            # Lightning would end a completed epoch a second time if the run has max_steps
            epochs: Any = trainer.fit_loop.epoch_progress.current
            if trainer.fit_loop.restarting and epochs.ready == epochs.started == epochs.processed:
                compat.stop_restarting(trainer)
            if self._stopped_fetcher is not None:
                self._epoch_rng = get_rng_state(trainer)
                compat.set_data_fetcher(trainer.fit_loop, iter(self._stopped_fetcher))
                self._stopped_fetcher = None
            reset()

        def end_epoch(end: Callable[[], None]) -> None:
            # otherwise Lightning skips the step of ReduceLROnPlateau, as its own checkpoints have no metrics;
            # nothing else reads the flag at the end of an epoch
            compat.forget_restart(trainer)
            end()

        def start_loaders(load: Callable[[], None]) -> None:
            check_train_loaders(trainer)
            self._epoch_rng = get_rng_state(trainer)  # Lightning starts the loaders after this method
            load()

        def start_epoch(start: Callable[[Any], None], fetcher: Any) -> None:
            loops, resumes = trainer.fit_loop, self._resumes
            starts = trainer.current_epoch > 0 and not loops.is_resuming and not loops.epoch_loop.restarting
            self._resumes = False
            if self._epoch_is_new and (resumes or starts):
                self._epoch_rng = get_rng_state(trainer)
                if resumes:
                    iter(fetcher)  # Lightning started the loaders before `start` restored random numbers
            start(fetcher)
            if self._epoch_is_new:
                self._first_rng = get_rng_state(trainer)
            self._epoch_is_new = False

        compat.wrap(trainer, compat.LOADERS_MADE, start_loaders)
        compat.wrap(trainer.fit_loop.epoch_loop, "on_run_start", start_epoch)
        compat.wrap(trainer.fit_loop.epoch_loop.val_loop, "run", run_validation)
        compat.wrap(trainer.fit_loop, "reset", begin_next_epoch)
        compat.wrap(trainer.fit_loop, "on_advance_end", end_epoch)

    def begin_epoch(self) -> None:
        """Note that the next batches start an epoch."""
        self._epoch_is_new = True

    def rewind(self, trainer: Trainer, started: bool) -> None:
        """Restart the loaders after a pass through them; stop them unless they had `started` before it."""
        fetcher, now = compat.data_fetcher(trainer.fit_loop), get_rng_state(trainer)
        if fetcher is None or self._epoch_rng is None:
            return
        fetcher.teardown()  # processes may persist
        set_rng_state(self._epoch_rng, trainer)
        if started:
            iter(fetcher)
            set_rng_state(now, trainer)
        else:  # until Lightning would start them
            compat.set_data_fetcher(trainer.fit_loop, None)
            self._stopped_fetcher, self._epoch_rng = fetcher, None


def _select_process(states: Sequence[dict[str, Any]], trainer: Trainer) -> dict[str, Any]:
    """Return the state for this process; CheckpointError if their number has changed within an epoch."""
    count, now = len(states), trainer.world_size
    if count != now and states[0]["epoch_began"] is not None:
        raise CheckpointError(
            f"The number of processes was {count} when the checkpoint was saved within an epoch, and is now "
            f"{now}, which would split the epoch's rows differently. Resume with the same number "
            "(trainer.devices), or from a checkpoint saved at the end of an epoch."
        )
    return states[trainer.global_rank % count]


def _find_due_schedulers(trainer: Trainer) -> list[int]:
    """Return the indices of ReduceLROnPlateau schedulers that step directly after the checkpoint.

    A resumed run takes the step only if the checkpoint was saved during a validation or at its end.
    """
    if compat.data_fetcher(trainer.fit_loop) is None:  # the checkpoint is saved after fit
        return []
    batch = trainer.fit_loop.epoch_loop.batch_progress.current
    epoch: Any = trainer.fit_loop.epoch_progress.current
    before_step = batch.completed < batch.ready and not compat.validates_after_batch(trainer)
    counts = {}  # numbers of the steps and epochs that end directly after the checkpoint
    if before_step and not compat.accumulates(trainer):
        counts["step"] = trainer.fit_loop.epoch_loop.batch_idx + 1
    if epoch.completed < epoch.processed:
        counts["epoch"] = trainer.current_epoch + 1
    configs = [(i, c) for i, c in enumerate(trainer.lr_scheduler_configs) if c.reduce_on_plateau]
    return [i for i, c in configs if c.interval in counts and counts[c.interval] % c.frequency == 0]


def _step_on_plateau(trainer: Trainer, module: Any, index: int) -> None:
    """Take the step of a scheduler that was due when the checkpoint was saved."""
    config = trainer.lr_scheduler_configs[index]
    if config.monitor not in trainer.callback_metrics:  # possible with strict=False
        return
    progress = trainer.fit_loop.epoch_loop.scheduler_progress
    progress.increment_ready()
    module.lr_scheduler_step(config.scheduler, trainer.callback_metrics[config.monitor])
    progress.increment_completed()


def _get_part_names(trainer: Trainer) -> list[str]:
    """Return the names of optimizers and schedulers, without the one that SWA adds during the run."""
    swa = any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    schedulers = [] if swa else [config.scheduler for config in trainer.lr_scheduler_configs]
    return [type(part).__name__ for part in (*trainer.optimizers, *schedulers)]


def _count_logged_rows(trainer: Trainer) -> int | None:
    """Return the number of rows in metrics.csv (steps may repeat); None if another process writes it."""
    folders = [Path(logger.log_dir) for logger in trainer.loggers if isinstance(logger, CSVLogger)]
    if not folders or not trainer.is_global_zero:
        return None
    file = folders[0] / "metrics.csv"
    return max(0, file.read_bytes().count(b"\n") - 1) if file.is_file() else 0


def _correct_loops(trainer: Trainer, loops: dict[str, Any]) -> None:
    """Change the loops' state to that after the batch and before its validation.

    Lightning saves before it validates. A resumed run would skip the validation, and the end of the epoch.
    """
    batch = trainer.fit_loop.epoch_loop.batch_progress.current
    within_batch = batch.completed < batch.ready
    validates = compat.validates_after_batch(trainer) if within_batch else _is_validating(trainer)
    if within_batch and (validates or compat.is_last_batch(trainer)):
        for progress in (loops["epoch_loop.batch_progress"][kind] for kind in ("total", "current")):
            progress["completed"] = progress["ready"]
    if validates:
        progress = loops["epoch_loop.val_loop.batch_progress"]
        done = progress["total"]["completed"]
        progress["total"] = {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}
        progress["current"] = dict.fromkeys(progress["current"], 0)


def _is_validating(trainer: Trainer) -> bool:
    """Return whether a validation is in progress."""
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress.current
    return trainer.validating and progress.completed < progress.ready


def _skip_batches(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Restart the epoch's batches after those already trained on."""
    fetcher, loaders = compat.data_fetcher(trainer.fit_loop), compat.train_loaders(trainer)
    count = state["batches"]
    skips_rows = all(isinstance(getattr(loader, "sampler", None), RowBatches) for loader in loaders)
    for loader in loaders:
        compat.set_sampler_epoch(loader, trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        if skips_rows:
            loader.sampler.skip = count
    if trainer.current_epoch == 0:
        fetcher.combined_loader.reset()  # the epoch started processes that persist
    set_rng_state(state["epoch_began"], trainer)
    iter(fetcher)
    if state["first_batch"] is not None:
        set_rng_state(state["first_batch"], trainer)
    if not skips_rows:
        for _ in range(count):
            next(getattr(fetcher, "inner", fetcher))  # the inner fetcher returns single batches, not blocks
    fetcher.fetched = 0  # Lightning adds the number of skipped batches


def _describe_epoch(trainer: Trainer) -> dict[str, str]:
    """Return the values that determine the batches of an epoch."""
    fetcher = compat.data_fetcher(trainer.fit_loop)
    loaders = fetcher.combined_loader.flattened if fetcher else []
    samplers = [getattr(loader, "sampler", None) for loader in loaders]
    sizes: list[Any] = [sampler.batch_size for sampler in samplers if isinstance(sampler, RowBatches)]
    return {
        "batches": str(trainer.num_training_batches),
        "rows a batch": str(sizes or [getattr(loader, "batch_size", None) for loader in loaders]),
        "accumulate_grad_batches": str(trainer.accumulate_grad_batches),
    }


# --- random number generators


def find_generators(loaders: Iterable[Any]) -> list[torch.Generator]:
    """Return the generators of data loaders and of their samplers, each once."""
    owners: list[Any] = []
    for loader in loaders:
        batches = getattr(loader, "batch_sampler", None)
        owners += [loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)]
    generators = (getattr(owner, "generator", None) for owner in owners)
    return [*dict.fromkeys(generator for generator in generators if generator is not None)]


def get_rng_state(trainer: Trainer) -> dict[str, Any]:
    """Return the states of all generators that this process uses, as tensors and plain values."""
    device = trainer.strategy.root_device
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype("int64")), *rest],
        "python": [version, torch.tensor(numbers), gauss],
        "loaders": [generator.get_state() for generator in find_generators(compat.train_loaders(trainer))],
    }


def set_rng_state(state: Mapping[str, Any], trainer: Trainer) -> None:
    """Restore what `get_rng_state` returned."""
    device = trainer.strategy.root_device
    generators = find_generators(compat.train_loaders(trainer))
    for generator, value in zip(generators, state["loaders"], strict=True):
        generator.set_state(value)
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype("uint32"), *rest))  # noqa: NPY002
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
