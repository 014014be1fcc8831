"""The parts of a user's batch: inputs, target and sample weights."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.losses.options import check_sample_weight
from lossselect.training.forward import Parameters, describe
from lossselect.utils.checks import check_options

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
        return dict(keys)
    if isinstance(keys, str) or not isinstance(keys, Sequence) or len(keys) not in (2, 3):
        raise OptionTypeError(
            'batch_keys must be a dict such as {"inputs": "image", "target": "diagnosis"}, or the keys '
            f"(inputs, target) or (inputs, target, weight), got {keys!r}."
        )
    return dict(zip(Parts._fields, keys, strict=False))


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
    if isinstance(batch, tuple | list) and (len(batch) == 2 or not hasattr(batch, "_asdict")) and not keys:
        if len(batch) == 2:
            return Parts(batch[0], batch[1])
        if not labelled:
            return Parts(batch[0] if len(batch) == 1 else batch)
        raise _form_error(batch)
    entries = _find_entries(batch, parameters)
    target = keys["target"] if "target" in keys else _find_label(batch, entries)
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

    has_target = target is not None and (labelled or target in entries)
    has_weight = weight is not None and (labelled or weight in entries)
    parts = get(target) if has_target else None, get(weight) if has_weight else None
    if (names := keys.get("inputs")) is not None:
        inputs = tuple(map(get, names)) if isinstance(names, tuple | list) else get(names)
        return Parts(inputs, *parts)
    rest = {key: value for key, value in entries.items() if key not in (target, weight)}
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


def _find_label(batch: Any, entries: Mapping[str, Any]) -> str | None:
    found = [key for key in LABEL_KEYS if key in entries and entries[key] is not None]
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
    tensors = [value for value in rest.values() if isinstance(value, Tensor)]
    if len(tensors) == 1 or len(rest) == 1:
        return (tensors or [*rest.values()])[0]
    return rest if isinstance(batch, Mapping) else batch


def as_weight(weight: Any) -> Tensor:
    """Return the sample weights of a batch as a tensor; values are checked on the CPU.

    Raises:
        DataError: they are not numbers, or a value is negative or not finite.
    """
    try:
        weight = torch.as_tensor(weight)
    except (TypeError, ValueError):
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
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    if any(isinstance(part, tuple | list | Mapping) for part in parts):
        fix = "If it combines batches of several loaders, override the step and pass one of them to self.step"
    return DataError(
        f"A batch must be a pair (inputs, target), or contain its labels as {', '.join(LABEL_KEYS)}, got "
        f"{describe(batch)}. {fix}, or override unpack_batch(batch) to return (inputs, target) or (inputs, "
        "target, sample_weight)."
    )


class TargetTransfer:
    """The canonical target of a batch on its way to a GPU.

    A target is encoded while it is on the CPU, where its values can be checked without a sync, and the result
    is copied to the device. A step uses it if the target in its batch is the one that was transferred. A hook
    may have replaced or changed it; then the step encodes it on the device.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the last batch."""
        self._raw: Any = None
        self._encoded: Any = None
        self._transferred: Any = None
        self._version = 0

    @property
    def pending(self) -> bool:
        """True if a target has been encoded, but has not arrived yet."""
        return self._encoded is not None and self._transferred is None

    def start(self, target: Any, encoded: Any) -> None:
        """Store the canonical form of the target of a batch before the transfer."""
        self._raw, self._encoded = target, encoded

    def arrive(self, transferred: Any, device: Any) -> None:
        """Copy the canonical target to the device, given the target in the transferred batch."""
        self._transferred, self._version = transferred, _version(transferred)
        is_canonical = self._encoded is self._raw and isinstance(transferred, Tensor)
        self._encoded = transferred if is_canonical else self._encoded.to(device, non_blocking=True)

    def find(self, target: Any) -> Any:
        """Return the canonical form of a target if it is the transferred one, else None."""
        known = self._transferred
        if (
            not isinstance(target, Tensor)
            or not isinstance(known, Tensor)
            or _version(target) != self._version
        ):
            return None
        same = target is known or (
            target.layout == known.layout == torch.strided
            and target.data_ptr() == known.data_ptr()
            and (target.shape, target.stride(), target.dtype) == (known.shape, known.stride(), known.dtype)
        )
        return self._encoded if same else None


def _version(target: Any) -> int:
    """Return a number that changes with each change in place; 0 where torch does not count changes."""
    return target._version if isinstance(target, Tensor) and not target.is_inference() else 0
