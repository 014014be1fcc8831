"""What a checkpoint must hold to resume a run: the structure of what Lightning and `RunState` restore."""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import CheckpointError
from lossselect.training.checkpoints.validation import NUMBER, check_loadable, raise_damaged
from lossselect.utils.structure import COUNT, NONE, DictOf, OptionalOf, TupleOf, find_mismatch

RANDOM = {
    "torch": Tensor,
    "cuda": (NONE, Tensor),
    "numpy": [(str, int, float, Tensor)],
    "python": [(NONE, int, float, Tensor)],
    "loaders": [Tensor],
}
RUN_STATE = {
    "batches": int,
    "made": [str],
    "random": RANDOM,
    "epoch_began": OptionalOf(RANDOM),
    "complete": bool,
    "should_stop": bool,
    "epoch": DictOf(str),
    "train": dict,
    "logged": DictOf(NUMBER),
    "rows": OptionalOf(int),
    "due": [int],
}
STEP_MEAN = {"sum": NUMBER, "first": NUMBER, "micro_batches": int, "parts": OptionalOf(DictOf(Tensor))}
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
    "run_state": [RUN_STATE],
}
"""The parts that a run is resumed from, besides Lightning's `loops`."""


def check_resumable(content: Mapping[str, Any], path: Any, exact: bool = True) -> None:
    """Raise a CheckpointError if a run cannot be resumed from the content of a checkpoint.

    Lightning ignores missing parts, and fails with a traceback on wrong types. If `exact`, `run_state` is
    required, which a checkpoint that `trainer.save_checkpoint` writes outside of fit lacks.
    """
    if "loops" not in content or not content.get("optimizer_states"):
        raise CheckpointError(f"{path} contains only weights, so a run cannot be resumed from it.")
    check_loadable(content, path)
    raise_damaged(path, _find_mismatches(content, exact))


def _find_mismatches(content: Mapping[str, Any], exact: bool) -> Iterator[str | None]:
    """Yield what is wrong; the code after a mismatch relies on its absence."""
    for key, structure in RESUMED.items():
        if key in content:
            yield find_mismatch(content[key], structure, key)
        elif exact or key != "run_state":
            yield f"it lacks {key!r}, which a run is resumed from"
    yield find_mismatch(content["loops"], {"fit_loop": _fit_loop_structure()}, "loops")
    for name, state in content["callbacks"].items():
        kind = str(name).partition("{")[0]
        if kind in ("ModelCheckpoint", "BestCheckpoint"):
            yield find_mismatch(state, MODEL_CHECKPOINT, f"the state of {kind}")
    if (states := content.get("run_state")) is None:
        return
    if not states:
        yield "run_state is empty"
    optimizers, schedulers, names = content["optimizer_states"], content["lr_schedulers"], states[0]["made"]
    for i, state in enumerate(states):
        yield from _find_mismatches_in_process(state, f"run_state[{i}]")
        if set(state["due"]) - {*range(len(schedulers))}:
            yield f"run_state[{i}]['due'] is {state['due']}, of {len(schedulers)} schedulers"
    # stochastic weight averaging adds a scheduler later, which `made` leaves out
    if len(names) not in (len(optimizers), len(optimizers) + len(schedulers)):
        yield (
            f"it is of a run with {', '.join(names)}, but holds {len(optimizers)} optimizer_states and "
            f"{len(schedulers)} lr_schedulers"
        )
    for i, (name, state) in enumerate(zip(names, optimizers, strict=False)):
        group = state["param_groups"][0] if state["param_groups"] else {}
        structure = _optimizer_structure(name, bool(group.get("amsgrad")), bool(group.get("momentum")))
        yield find_mismatch(state["state"], DictOf(structure), f"optimizer_states[{i}]['state']")


def _find_mismatches_in_process(state: Mapping[str, Any], place: str) -> Iterator[str | None]:
    """Yield what is wrong with an entry of `run_state` beyond the structure that all have."""
    train = {"values": DictOf(NUMBER)} if "values" in state["train"] else {"sums": [{"updates": int}]}
    yield find_mismatch(state["train"], train, f"{place}['train']")
    for key in ("random", "epoch_began"):
        if (random := state[key]) is None:
            continue
        numpy, python = random["numpy"], random["python"]
        if (
            (len(numpy), len(python)) != (5, 3)
            or not (isinstance(numpy[1], Tensor) and isinstance(python[1], Tensor))
            or random["torch"].shape != torch.get_rng_state().shape
        ):
            yield f"{place}[{key!r}] is not the state of random number generators"
    if "gradients" in state:
        yield find_mismatch(state, {"gradients": DictOf(Tensor), "group": STEP_MEAN}, place)


def check_states(
    content: Mapping[str, Any],
    path: Any,
    optimizers: Iterable[Any] = (),
    schedulers: Iterable[Any] = (),
    callbacks: Iterable[Any] = (),
) -> None:
    """Raise a CheckpointError unless states in a checkpoint have the keys and types of new parts' states.

    Optimizers and schedulers are in the order of the checkpoint; a user's callbacks are not compared.
    """
    compared: list[tuple[Mapping[str, Any], Mapping[str, Any], str]] = []
    for i, (optimizer, state) in enumerate(zip(optimizers, content["optimizer_states"], strict=False)):
        for j, groups in enumerate(zip(state["param_groups"], optimizer.param_groups, strict=False)):
            compared.append((*groups, f"optimizer_states[{i}]['param_groups'][{j}]"))
    for i, (scheduler, state) in enumerate(zip(schedulers, content["lr_schedulers"], strict=False)):
        compared.append((state, scheduler.state_dict(), f"lr_schedulers[{i}]"))
    for callback in callbacks:
        state = content["callbacks"].get(callback.state_key)
        if state is not None and type(callback).__module__.startswith(("lightning.", "lossselect.")):
            compared.append((state, callback.state_dict(), f"the state of {type(callback).__name__}"))
    raise_damaged(path, (_find_difference(*states) for states in compared))


def _find_difference(state: Mapping[str, Any], template: Mapping[str, Any], place: str) -> str | None:
    """Return how a state differs from that of a new object, whose None may become anything."""
    # flags and private entries may be missing, as another version of torch may not have had them
    structure = {
        key: _structure_like(value)
        for key, value in template.items()
        if key in state or not (value is None or isinstance(value, bool) or str(key).startswith("_"))
    }
    return find_mismatch(state, structure, place)


def _structure_like(value: Any) -> Any:
    if isinstance(value, bool):
        return OptionalOf(bool)
    if isinstance(value, NUMBER):
        return NUMBER
    if isinstance(value, list | tuple):
        entry = NUMBER if value and all(isinstance(entry, NUMBER) for entry in value) else object
        return TupleOf(entry, len(value)) if isinstance(value, tuple) else [entry]
    if isinstance(value, Mapping):
        return DictOf(object)
    return str if isinstance(value, str) else object


@lru_cache(maxsize=1)
def _fit_loop_structure() -> Any:
    """Return the structure of the state of Lightning's fit loop."""
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch import Trainer

    from lossselect.utils.silence import silence

    options = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    off: Any = dict.fromkeys(options, False)
    with silence():
        trainer = Trainer(accelerator="cpu", devices=1, plugins=[LightningEnvironment()], **off)

    def structure(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: structure(entry) for key, entry in value.items()}
        return COUNT if type(value) is int else type(value)

    return structure(trainer.fit_loop.state_dict())


@lru_cache(maxsize=8)
def _optimizer_structure(name: str, amsgrad: bool, momentum: bool) -> dict[str, Any]:
    """Return the structure of what an optimizer of torch's stores for each parameter, or {}."""
    kind = getattr(torch.optim, name, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        return {}
    weight = torch.zeros(2, 2, requires_grad=True)
    weight.grad = torch.zeros(2, 2)
    options: dict[str, Any] = ({"amsgrad": True} if amsgrad else {}) | ({"momentum": 0.9} if momentum else {})
    try:
        optimizer = kind([weight], lr=0.1, **options)  # type: ignore[call-arg]
        optimizer.step()
    except (TypeError, ValueError, RuntimeError):  # LBFGS needs a closure, SparseAdam sparse gradients
        return {}
    return {
        key: NUMBER if isinstance(value, NUMBER) and not getattr(value, "ndim", 0) else type(value)
        for key, value in optimizer.state[weight].items()
    }
