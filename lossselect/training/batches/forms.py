"""The parts of a user's batch: inputs, target and sample weights."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.losses.options import check_sample_weight
from lossselect.training.forward import Parameters, describe
from lossselect.utils.checks import check_options, first_duplicate

LABEL_KEYS = ("labels", "label", "targets", "target", "y", "mask")
"""Keys under which a batch may contain its labels."""
WEIGHT_KEYS = ("sample_weight", "sample_weights")

BatchKeys = Mapping[str, Any] | Sequence[str] | None


class Parts(NamedTuple):
    """The parts of a batch; `target` and `weight` may be None."""

    inputs: Any
    target: Any = None
    weight: Any = None


def check_batch_keys(keys: BatchKeys) -> dict[str, Any]:
    """Return `batch_keys` as a dict with some of the keys "inputs", "target" and "weight"."""
    if keys is None:
        return {}
    if isinstance(keys, Mapping):
        check_options(keys, Parts._fields, "batch_keys")
    elif isinstance(keys, str) or not isinstance(keys, Sequence) or len(keys) not in (2, 3):
        raise OptionTypeError(
            'batch_keys must be a dict such as {"inputs": "image", "target": "diagnosis"}, or the keys '
            f"(inputs, target) or (inputs, target, weight), got {keys!r}."
        )
    given = keys if isinstance(keys, Mapping) else zip(Parts._fields, keys, strict=False)
    parts: dict[str, Any] = dict(given)
    inputs = parts.get("inputs")
    if isinstance(inputs, list | tuple) and len(inputs) == 1:
        inputs = parts["inputs"] = inputs[0]
    named = [*(inputs if isinstance(inputs, list | tuple) else [inputs])]
    target = parts.get("target")
    if isinstance(target, list | tuple):  # several tasks, whose labels are separate entries
        target = parts["target"] = {key: key for key in target}
    targets = [*target.values()] if isinstance(target, Mapping) else [target]
    twice = first_duplicate([*dict.fromkeys(named), *targets, parts.get("weight")])
    if twice is not None:
        raise ConfigError(
            f"batch_keys contains {twice!r} as two of inputs, target and weight, got {keys!r}. Name a "
            "different entry for each."
        )
    return parts


def split_batch(
    batch: Any, keys: Mapping[str, Any], parameters: Parameters | None, labelled: bool = True
) -> Parts:
    """Return the parts of a pair, or of a mapping, a dataclass or another object with labels.

    Args:
        batch: A batch of a data loader.
        keys: The result of `check_batch_keys`.
        parameters: The parameters of the net, which select the inputs among the entries of the batch.
        labelled: Whether the target is required.

    Raises:
        ConfigError: an entry of `keys` is missing, or several entries may be the labels.
        DataError: the batch has another form, or no labels.
    """
    if isinstance(batch, Tensor) and not labelled:
        return Parts(batch)
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2
    if is_pair and getattr(batch, "_fields", ("inputs",))[0] in LABEL_KEYS:
        is_pair = False  # a namedtuple that starts with the labels
    if isinstance(batch, tuple | list) and (is_pair or not hasattr(batch, "_asdict")) and not keys:
        if is_pair:
            return Parts(batch[0], batch[1])
        if not labelled:
            return Parts(batch[0] if len(batch) == 1 else batch)
        raise _form_error(batch)
    entries = _find_entries(batch, parameters)
    target = keys["target"] if "target" in keys else _find_label(entries, parameters)
    if target is None and labelled:
        raise _form_error(batch)
    weight = keys["weight"] if "weight" in keys else next((k for k in WEIGHT_KEYS if k in entries), None)

    def get(key: Any) -> Any:
        if key not in entries and not hasattr(batch, str(key)):
            raise ConfigError(
                f"batch_keys contains {key!r}, but the batch does not: it is {describe(batch)}. Correct "
                "batch_keys."
            )
        return entries[key] if key in entries else getattr(batch, key)

    by_task = target if isinstance(target, Mapping) else {"": target}
    has_target = target is not None and (labelled or all(key in entries for key in by_task.values()))
    has_weight = weight is not None and (labelled or weight in entries)
    labels = {name: get(key) for name, key in by_task.items()} if has_target else {"": None}
    parts = labels.get("", labels), get(weight) if has_weight else None
    if (names := keys.get("inputs")) is not None:
        inputs = tuple(map(get, names)) if isinstance(names, tuple | list) else get(names)
        return Parts(inputs, *parts)
    rest = {key: value for key, value in entries.items() if key not in (*by_task.values(), weight)}
    return Parts(_choose_inputs(batch, rest, parameters), *parts)


def _find_entries(batch: Any, parameters: Parameters | None) -> Mapping[Any, Any]:
    """Return the entries of a mapping or a tuple, the fields of a dataclass, or attributes of an object."""
    if isinstance(batch, Mapping):
        return batch
    if hasattr(batch, "_asdict"):
        return batch._asdict()
    if isinstance(batch, tuple | list):
        return dict(enumerate(batch))
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    if isinstance(batch, Tensor):
        return {}
    names = (*LABEL_KEYS, *WEIGHT_KEYS, *(parameters.named if parameters else ()))
    return {name: getattr(batch, name) for name in names if getattr(batch, name, None) is not None}


def _find_label(entries: Mapping[str, Any], parameters: Parameters | None) -> str | None:
    found = [key for key in LABEL_KEYS if key in entries and entries[key] is not None]
    if parameters is not None and "mask" in parameters.named and "mask" in found:
        found.remove("mask")  # an input, such as an attention mask
    if len(found) > 1:
        raise ConfigError(
            f"The labels of the batch may be in {' or '.join(map(repr, found))}. Name one in batch_keys: "
            f'batch_keys={{"target": "{found[0]}"}}.'
        )
    return found[0] if found else None


def _choose_inputs(batch: Any, rest: Mapping[str, Any], parameters: Parameters | None) -> Any:
    """Return the only tensor, or all entries, or the batch itself if it is an object or `forward(batch)`."""
    named = () if parameters is None else parameters.named
    if named == ("batch",) and "batch" not in rest:
        return batch
    if any(name in rest for name in named) and (isinstance(batch, Mapping) or len(named) > 1):
        return rest
    if rest and parameters and parameters.any_name and not (named or parameters.any_number):
        return rest  # forward(**batch)
    tensors = [value for value in rest.values() if isinstance(value, Tensor)]
    if len(tensors) == 1 or len(rest) == 1:
        return (tensors or [*rest.values()])[0]
    if isinstance(batch, Mapping):
        return rest
    return tuple(rest.values()) if type(batch) in (tuple, list) else batch


def as_weight(weight: Any) -> Tensor:
    """Return the sample weights of a batch as a tensor; values are checked on the CPU.

    Raises:
        DataError: they are not numbers, or a value is negative or not finite.
    """
    try:
        weight = torch.as_tensor(weight)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"Expected numbers as sample weights, got {describe(weight)}. Correct batch_keys or unpack_batch."
        ) from None
    if weight.device.type == "cpu":
        check_sample_weight(weight)
    return weight


def _form_error(batch: Any) -> DataError:
    fix = 'Pass batch_keys={"target": ...} to name the key of the labels'
    if isinstance(batch, tuple | list):
        fix = "Pass the positions of inputs and target, such as batch_keys=(0, 1)"
        if len(batch) > 2:
            fix += ", or batch_keys=((0, 1), 2) for two inputs"
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    if any(isinstance(part, tuple | list | Mapping) for part in parts):
        fix = "If it combines batches of several loaders, override the step and pass one of them to self.step"
    return DataError(
        f"A batch must be a pair (inputs, target), or contain its labels as {', '.join(LABEL_KEYS)}, got "
        f"{describe(batch)}. {fix}, or override unpack_batch(batch) to return (inputs, target) or (inputs, "
        "target, sample_weight)."
    )
