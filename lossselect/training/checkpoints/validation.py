"""Checks that a checkpoint contains all that is required to load a module or to resume a run.

Only types, keys and sizes are checked here. Values are checked where they are used: a task by `make_task`, a
loss by `Loss`.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import CheckpointError
from lossselect.models.stored_weights import check_finite
from lossselect.tasks.registry import AnyTask, as_any_task
from lossselect.utils.structure import COUNT, DictOf, OptionalOf, check_structure, describe_value

MAX_UNBACKED_OUTPUTS = 1_000_000
"""The number of outputs up to which a task may have more outputs than the checkpoint has weights."""

NUMBER = (int, float, Tensor)

COUNTS = {
    "rows": int,
    "positives": [NUMBER],
    "negatives": [NUMBER],
    "missing": int,
    "single": bool,
    "mass": [NUMBER],
    "soft": bool,
}
LOADED = {
    "task": {"name": str},
    "class": str,
    "class_module": str,
    "arguments": dict,
    "not_plain": [str],
    "loss": OptionalOf({"name": str}),
    "state_dict": dict,
    "base_task": OptionalOf({"name": str}),
    "counts": OptionalOf(COUNTS),
    "buffers": [str],
}
"""Structure of the parts that a module is built from."""
SEVERAL = {"loss": OptionalOf(DictOf({"name": str})), "counts": OptionalOf(DictOf(COUNTS))}
"""Structure of the parts that are different for several tasks."""

RANDOM = {
    "torch": Tensor,
    "cuda": OptionalOf(Tensor),
    "numpy": [str, Tensor, int, int, float],
    "python": [int, Tensor, OptionalOf(float)],
    "loaders": [Tensor],
}
RUN_STATE = {
    "batches": int,
    "made": [str],
    "random": RANDOM,
    "epoch_began": OptionalOf(RANDOM),
    "first_batch": OptionalOf(RANDOM),
    "complete": bool,
    "should_stop": bool,
    "epoch": DictOf(str),
    "train": dict,
    "logged": DictOf(NUMBER),
    "rows": OptionalOf(int),
    "due": [int],
}
STEP_MEAN = {"sum": NUMBER, "first": NUMBER, "micro_batches": int, "parts": OptionalOf([DictOf(Tensor)])}
MODEL_CHECKPOINT = {
    "monitor": OptionalOf(str),
    "best_model_score": OptionalOf(NUMBER),
    "best_model_path": str,
    "current_score": OptionalOf(NUMBER),
    "dirpath": OptionalOf(str),
    "best_k_models": DictOf(NUMBER),
    "kth_best_model_path": str,
    "kth_value": OptionalOf(NUMBER),
    "last_model_path": str,
}
RESUMED = {
    "global_step": int,
    "epoch": int,
    "pytorch-lightning_version": str,
    "callbacks": DictOf(dict),
    "optimizer_states": [{"state": DictOf(dict), "param_groups": [{"params": [int], "lr": NUMBER}]}],
    "lr_schedulers": [DictOf(object)],
}
"""Structure of the parts that a run is resumed from, in addition to `loops` and `run_state`."""


LOAD_WEIGHTS = (
    "To use only its weights, build the module and call module.load_state_dict(torch.load(path, "
    "weights_only=True)['state_dict'])."
)


def damaged(path: Any, problem: object) -> CheckpointError:
    """Return the error for a checkpoint whose content has changed since it was saved."""
    problem = str(problem).rstrip(".")
    return CheckpointError(f"{path} is damaged: {problem}. Use another checkpoint, or an intact copy.")


@contextmanager
def _damage_in(path: Any) -> Iterator[None]:
    """Add the file to errors about a part of a checkpoint."""
    try:
        yield
    except CheckpointError as error:
        raise damaged(path, error) from None


def _check_parts(content: Mapping[str, Any], structures: Mapping[str, Any], purpose: str) -> None:
    for key, structure in structures.items():
        if key not in content:
            raise CheckpointError(
                f"it lacks {key!r}, which is required to {purpose}, or it was written by another version of "
                f"lossselect. {LOAD_WEIGHTS}"
            )
        check_structure(content[key], structure, key)


def check_content(content: Mapping[str, Any], path: Any) -> None:
    """Raise a CheckpointError if a part of a checkpoint does not have the structure that is saved."""
    with _damage_in(path):
        _check_parts(content, {"task": LOADED["task"]}, "build a module")
        task = _make_task(content, "task")
        _check_parts(content, LOADED | (SEVERAL if len(task.tasks) > 1 else {}), "build a module")
        if "decision_source" in content:
            source = DictOf(str) if len(task.tasks) > 1 else str
            check_structure(content["decision_source"], source, "decision_source")
        if "TensorData" in content:
            check_structure(content["TensorData"], dict, "TensorData")
        weights = content["state_dict"]
        if content["base_task"] and str(base_task := _make_task(content, "base_task")) != str(task):
            raise CheckpointError(f"its task is {task}, but its task before tuning is {base_task}")
        for name, value in weights.items():
            # a module's get_extra_state may return any type
            if not isinstance(name, str) or not (isinstance(value, Tensor) or name.endswith("_extra_state")):
                raise CheckpointError(f"state_dict[{name!r}] must be a tensor, got {describe_value(value)}")
        num_weights = sum(value.numel() for value in weights.values() if isinstance(value, Tensor))
        if task.num_outputs > max(num_weights, MAX_UNBACKED_OUTPUTS):
            raise CheckpointError(
                f"its task has {task.num_outputs} outputs, but it contains only {num_weights} weights"
            )
    check_finite(weights, set(content["buffers"]), path)


def _make_task(content: Mapping[str, Any], key: str) -> AnyTask:
    try:
        return as_any_task(content[key])
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"its {key!r} is not a valid task: {error}") from None


def check_resumable(content: Mapping[str, Any], path: Any, exact: bool = True) -> None:
    """Raise a CheckpointError if a run cannot be resumed from the content of a checkpoint.

    Lightning ignores missing parts, and fails with a traceback on wrong types. `exact` requires `run_state`,
    which a checkpoint lacks if `trainer.save_checkpoint` wrote it outside fit.
    """
    if "loops" not in content or not content.get("optimizer_states"):
        raise CheckpointError(f"{path} contains only weights, so no run can resume from it. Use another one.")
    with _damage_in(path):
        _check_parts(content, RESUMED, "resume a run")
        check_structure(content["loops"], {"fit_loop": _fit_loop_structure()}, "loops")
        for name, state in content["callbacks"].items():
            kind = str(name).partition("{")[0]
            if kind in ("ModelCheckpoint", "BestCheckpoint"):
                check_structure(state, MODEL_CHECKPOINT, f"the state of {kind}")
        if exact or "run_state" in content:
            _check_run_state(content)


def _check_run_state(content: Mapping[str, Any]) -> None:
    _check_parts(content, {"run_state": [RUN_STATE]}, "resume a run")
    states, optimizers = content["run_state"], content["optimizer_states"]
    schedulers = content["lr_schedulers"]
    if not states:
        raise CheckpointError("run_state is empty")
    for i, state in enumerate(states):
        place = f"run_state[{i}]"
        train = {"values": DictOf(NUMBER)} if "values" in state["train"] else {"sums": [{"updates": int}]}
        check_structure(state["train"], train, f"{place}['train']")
        if "gradients" in state:
            check_structure(state, {"gradients": DictOf(Tensor), "group": STEP_MEAN}, place)
        for key in ("random", "epoch_began", "first_batch"):
            if state[key] and state[key]["torch"].shape != torch.get_rng_state().shape:
                raise CheckpointError(f"{place}[{key!r}] is not the state of random number generators")
        if set(state["due"]) - {*range(len(schedulers))}:
            raise CheckpointError(
                f"{place}['due'] is {state['due']}, but there are {len(schedulers)} schedulers"
            )
    names = states[0]["made"]
    # `made` does not contain the scheduler that stochastic weight averaging adds later
    if len(names) not in (len(optimizers), len(optimizers) + len(schedulers)):
        raise CheckpointError(
            f"it was saved with {', '.join(names)}, but it contains {len(optimizers)} optimizer_states and "
            f"{len(schedulers)} lr_schedulers"
        )
    for i, (name, state) in enumerate(zip(names, optimizers, strict=False)):
        structure = _optimizer_structure(name, state["param_groups"])
        check_structure(state["state"], DictOf(structure), f"optimizer_states[{i}]['state']")


def check_states(
    content: Mapping[str, Any],
    path: Any,
    optimizers: Iterable[Any] = (),
    schedulers: Iterable[Any] = (),
    callbacks: Iterable[Any] = (),
) -> None:
    """Raise a CheckpointError if states in a checkpoint lack keys of new objects' states, or differ in type.

    Optimizers and schedulers must be in the order of the checkpoint. A user's callbacks are not compared.
    """
    with _damage_in(path):
        for i, (optimizer, state) in enumerate(zip(optimizers, content["optimizer_states"], strict=False)):
            for j, groups in enumerate(zip(state["param_groups"], optimizer.param_groups, strict=False)):
                _check_like(*groups, f"optimizer_states[{i}]['param_groups'][{j}]")
        for i, (scheduler, state) in enumerate(zip(schedulers, content["lr_schedulers"], strict=False)):
            _check_like(state, scheduler.state_dict(), f"lr_schedulers[{i}]")
        for callback in callbacks:
            state = content["callbacks"].get(callback.state_key)
            if state is not None and type(callback).__module__.startswith(("lightning.", "lossselect.")):
                _check_like(state, callback.state_dict(), f"the state of {type(callback).__name__}")


def _check_like(state: Mapping[str, Any], template: Mapping[str, Any], place: str) -> None:
    """Check a state against the state of a new object, in which None allows any type."""
    # flags and private entries may be missing: other versions of torch may not have them
    structure = {
        key: _structure_like(value)
        for key, value in template.items()
        if key in state or not (value is None or isinstance(value, bool) or str(key).startswith("_"))
    }
    check_structure(state, structure, place)


def _structure_like(value: Any) -> Any:
    if isinstance(value, bool):
        return OptionalOf(bool)
    if isinstance(value, NUMBER):
        return Tensor if isinstance(value, Tensor) and value.ndim else NUMBER
    if isinstance(value, list | tuple):
        entry = NUMBER if value and all(isinstance(entry, NUMBER) for entry in value) else object
        return [entry] * len(value) if isinstance(value, tuple) else [entry]
    if isinstance(value, Mapping):
        return DictOf(object)
    return str if isinstance(value, str) else object


@lru_cache(maxsize=1)
def _fit_loop_structure() -> Any:
    """Return the structure of the state of Lightning's fit loop."""
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch import Trainer

    from lossselect.utils.warnings import silence

    with silence():
        trainer = Trainer(accelerator="cpu", devices=1, plugins=[LightningEnvironment()], barebones=True)

    def structure(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: structure(entry) for key, entry in value.items()}
        return COUNT if type(value) is int else type(value)

    return structure(trainer.fit_loop.state_dict())


def _optimizer_structure(name: str, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the structure of the state that a torch optimizer stores for each parameter; {} if unknown."""
    kind = getattr(torch.optim, name, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        return {}
    weight = torch.zeros(2, 2, requires_grad=True)
    weight.grad = torch.zeros(2, 2)
    names = inspect.signature(kind).parameters.keys() - {"params", "capturable"}  # capturable requires a GPU
    options: dict[str, Any] = {name: groups[0][name] for name in names & groups[0].keys()} if groups else {}
    try:
        optimizer = kind([weight], **options)
        optimizer.step()
    except (TypeError, ValueError, RuntimeError, LookupError):  # invalid options; LBFGS requires a closure
        return {}
    return {key: _structure_like(value) for key, value in optimizer.state[weight].items()}
