"""What a checkpoint must hold to resume a run: the structure of what Lightning and `GoingOn` restore."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import CheckpointError
from lossselect.training.checkpoints.validation import NUMBER, check_loadable, raise_damaged
from lossselect.utils.structure import NONE, DictOf, OptionalOf, describe_value, find_mismatch

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
GROUP = {
    "sum": (int, float, Tensor),
    "first": (int, float, Tensor),
    "micro_batches": int,
    "parts": OptionalOf(DictOf(Tensor)),
}
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
"""To resume a run, besides `loops`, whose structure is that of Lightning's own."""


def check_resumable(content: Mapping[str, Any], path: Any, exact: bool = True) -> None:
    """Raise a ValueError if a run cannot be resumed from a checkpoint.

    Lightning's restore ignores some parts that are missing, and fails with a traceback, or steps later, on
    others that have a wrong type.

    Args:
        content: For which `check_content` raises nothing.
        path: Of the file, for messages.
        exact: Whether the state must be there that makes a resumed run equal to one that was never stopped. A
            checkpoint that `trainer.save_checkpoint` writes outside of fit has none.
    """
    if "loops" not in content or not content.get("optimizer_states"):
        raise CheckpointError(f"{path} contains only weights, so a run cannot be resumed from it.")
    check_loadable(content, path)
    for key, structure in RESUMED.items():
        if key not in content and (exact or key != "run_state"):
            raise_damaged(path, f"it lacks {key!r}, which a run is resumed from")
        if key in content:
            raise_damaged(path, find_mismatch(content[key], structure, key))
    raise_damaged(path, _other_than(content["loops"], {"fit_loop": _loops()}, "loops"))
    for name, state in content["callbacks"].items():
        kind = str(name).partition("{")[0]
        if kind in ("ModelCheckpoint", "BestCheckpoint"):
            raise_damaged(path, find_mismatch(state, MODEL_CHECKPOINT, f"the state of {kind}"))
    if "run_state" in content:
        _check_exact(content, path)


def _check_exact(content: Mapping[str, Any], path: Any) -> None:
    """ValueError for a state of the processes that does not agree with itself, or with the rest."""
    if not content["run_state"]:
        raise_damaged(path, "run_state is empty")
    for i, state in enumerate(content["run_state"]):
        raise_damaged(path, _odd_state(state, f"run_state[{i}]"))
    made, optimizers = content["run_state"][0]["made"], content["optimizer_states"]
    schedulers = content["lr_schedulers"]
    for i, state in enumerate(content["run_state"]):
        if set(state["due"]) - {*range(len(schedulers))}:
            raise_damaged(path, f"run_state[{i}]['due'] is {state['due']}, of {len(schedulers)} schedulers")
    # stochastic weight averaging puts a scheduler in later, which `made` leaves out
    if len(made) not in (len(optimizers), len(optimizers) + len(schedulers)):
        raise_damaged(
            path,
            f"it is of a run with {', '.join(made)}, but holds {len(optimizers)} optimizer_states and "
            f"{len(schedulers)} lr_schedulers",
        )
    for i, (name, state) in enumerate(zip(made, optimizers, strict=False)):
        raise_damaged(path, _odd_optimizer(name, state, f"optimizer_states[{i}]"))


def check_states(
    content: Mapping[str, Any],
    path: Any,
    optimizers: Iterable[Any] = (),
    schedulers: Iterable[Any] = (),
    callbacks: Iterable[Any] = (),
) -> None:
    """Raise a ValueError unless states in a checkpoint have the keys and types of these parts' own states.

    Args:
        content: For which `check_resumable` raises nothing.
        path: Of the file, for messages.
        optimizers, schedulers: New ones, in the order of the checkpoint.
        callbacks: Of which those of Lightning and of this package are compared.
    """
    for i, (optimizer, state) in enumerate(zip(optimizers, content["optimizer_states"], strict=False)):
        for j, (group, found) in enumerate(zip(optimizer.param_groups, state["param_groups"], strict=False)):
            ours = {key: value for key, value in group.items() if key != "params"}
            raise_damaged(path, _unlike(found, ours, f"optimizer_states[{i}]['param_groups'][{j}]"))
    for i, (scheduler, state) in enumerate(zip(schedulers, content["lr_schedulers"], strict=False)):
        raise_damaged(path, _unlike(state, scheduler.state_dict(), f"lr_schedulers[{i}]"))
    for callback in callbacks:
        state = content["callbacks"].get(callback.state_key)
        if state is not None and type(callback).__module__.startswith(("lightning.", "lossselect.")):
            raise_damaged(
                path, _unlike(state, callback.state_dict(), f"the state of {type(callback).__name__}")
            )


def _unlike(value: Mapping[str, Any], template: Mapping[str, Any], place: str) -> str | None:
    """As `find_mismatch`, for a state and that of a new object, of which None may become anything.

    Flags and private entries may be missing, as another version of torch may not have had them.
    """
    for key, like in template.items():
        if key not in value:
            if like is None or isinstance(like, bool) or str(key).startswith("_"):
                continue
            return f"{place} lacks {key!r}"
        if found := find_mismatch(value[key], _structure_of(like), f"{place}[{key!r}]"):
            return found
        if isinstance(like, tuple) and len(value[key]) != len(like):
            return f"{place}[{key!r}] must have {len(like)} entries, got {len(value[key])}"
    return None


def _structure_of(like: Any) -> Any:
    if isinstance(like, bool):
        return OptionalOf(bool)
    if isinstance(like, NUMBER):
        return NUMBER
    if isinstance(like, list | tuple):
        return [NUMBER if like and all(isinstance(entry, NUMBER) for entry in like) else object]
    if isinstance(like, Mapping):
        return DictOf(object)
    return str if isinstance(like, str) else object


def _odd_state(state: Mapping[str, Any], place: str) -> str | None:
    """What is wrong with the state of a process, beyond its structure."""
    train = state["train"]
    inner = {"values": DictOf(NUMBER)} if "values" in train else {"sums": [{"updates": int}]}
    if found := find_mismatch(train, inner, f"{place}['train']"):
        return found
    for key in ("random", "epoch_began"):
        random = state[key]
        if random is None:
            continue
        sizes = [len(random["numpy"]), len(random["python"])]
        if sizes != [5, 3] or random["torch"].shape != torch.get_rng_state().shape:
            return f"{place}[{key!r}] is not the state of random number generators"
        if not isinstance(random["numpy"][1], Tensor) or not isinstance(random["python"][1], Tensor):
            return f"{place}[{key!r}] is not the state of random number generators"
    if "gradients" in state:
        return find_mismatch(state, {"gradients": DictOf(Tensor), "group": GROUP}, place)
    return None


@lru_cache(maxsize=1)
def _loops() -> dict[str, Any]:
    """The state of a fit loop of Lightning's that has not begun."""
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch import Trainer

    from lossselect.utils.silence import silence

    off = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    with silence():
        trainer = Trainer(accelerator="cpu", devices=1, plugins=[LightningEnvironment()], **off)  # type: ignore[arg-type]
    state: dict[str, Any] = trainer.fit_loop.state_dict()
    return state


def _other_than(value: Any, template: Any, place: str) -> str | None:
    """As `find_mismatch`, for a value with the keys and the types of another; counts are not negative."""
    if isinstance(template, Mapping):
        if not isinstance(value, Mapping):
            return f"{place} must be a dict, got {describe_value(value)}"
        for key, inner in template.items():
            if key not in value:
                return f"{place} lacks {key!r}"
            if found := _other_than(value[key], inner, f"{place}[{key!r}]"):
                return found
        return None
    if found := find_mismatch(value, type(template), place):
        return found
    if isinstance(value, int) and value < 0:
        return f"{place} must not be negative, got {value}"
    return None


def _odd_optimizer(name: str, state: Mapping[str, Any], place: str) -> str | None:
    """What an optimizer of torch's would stumble over at its next step; None for any other.

    Its state has the keys and the types that one step leaves behind for a parameter of zeros.
    """
    group = state["param_groups"][0] if state["param_groups"] else {}
    reference = _state_after_a_step(name, bool(group.get("amsgrad")), bool(group.get("momentum")))
    for index, values in state["state"].items():
        for key, like in (reference or {}).items():
            if key not in values:
                return f"{place}['state'][{index!r}] lacks {key!r}"
            kinds = NUMBER if isinstance(like, NUMBER) and not _is_array(like) else type(like)
            if found := find_mismatch(values[key], kinds, f"{place}['state'][{index!r}][{key!r}]"):
                return found
    return None


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


@lru_cache(maxsize=8)
def _state_after_a_step(name: str, amsgrad: bool, momentum: bool) -> dict[str, Any] | None:
    kind = getattr(torch.optim, name, None)
    if not isinstance(kind, type) or name in ("LBFGS", "SparseAdam", "Optimizer"):
        return None
    weight = torch.zeros(2, 2, requires_grad=True)
    weight.grad = torch.zeros(2, 2)
    options: dict[str, Any] = {
        "lr": 0.1,
        **({"amsgrad": True} if amsgrad else {}),
        **({"momentum": 0.9} if momentum else {}),
    }
    try:
        optimizer = kind([weight], **options)
        optimizer.step()
    except (TypeError, ValueError, RuntimeError):
        return None
    state: dict[str, Any] = optimizer.state[weight]
    return state
