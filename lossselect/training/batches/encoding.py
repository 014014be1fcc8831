"""The way of a batch from the loader to its encoded form on the device."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError, DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.targets import Encoded, EncodedBatch
from lossselect.training.batches.forms import as_weight, split_batch
from lossselect.training.forward import describe, find_parameters, move_classes


class TargetTransfer:
    """The canonical target of a batch on its way to a GPU.

    A target is encoded while it is on the CPU, where its values can be checked without a sync, and the result
    is copied to the device. A step uses it, or raises the error of encoding, if the target in its batch is
    the one that was transferred. A hook may have replaced or changed it; then the step encodes it on the
    device.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the last batch."""
        self._raw: Any = None
        self._encoded: Any = None
        self._arrived = False
        self._leaves: list[Any] = []
        self._versions: list[int] = []

    @property
    def pending(self) -> bool:
        """True if a target has been encoded, but has not arrived yet."""
        return self._encoded is not None and not self._arrived

    def start(self, target: Any, encode: Callable[[Any], Any] = lambda target: target) -> None:
        """Store the canonical form of the target of a batch before the transfer."""
        self._raw = target
        try:
            self._encoded = encode(target)
        except (ConfigError, DataError) as error:  # a hook may correct the target
            self._encoded = error

    def arrive(self, transferred: Any, device: Any, may_differ: Callable[[], bool]) -> None:
        """Copy the canonical target to the device, given the target in the transferred batch.

        If a hook may have changed it unnoticed, the step encodes it, unless it is canonical.
        """
        if not isinstance(self._encoded, Exception):
            is_canonical = self._encoded is self._raw and isinstance(transferred, Tensor)
            if not is_canonical and may_differ():
                self.clear()
                return
            self._encoded = transferred if is_canonical else self._encoded.to(device, non_blocking=True)
        self._arrived, self._leaves = True, _list_leaves(transferred)
        self._versions = _versions(self._leaves)

    def find(self, target: Any) -> Any:
        """Return the canonical form of a target if it is the transferred one, else None."""
        leaves = _list_leaves(target)
        are_same = len(leaves) == len(self._leaves) and all(map(_is_same, leaves, self._leaves))
        if not are_same or _versions(leaves) != self._versions:
            return None
        if isinstance(self._encoded, Exception):
            raise self._encoded
        return self._encoded


def _list_leaves(target: Any) -> list[Any]:
    """Return the tensors, names or numbers of a target, and the keys of a mapping by task."""
    if isinstance(target, Mapping):
        return [leaf for name, part in target.items() for leaf in (name, *_list_leaves(part))]
    if isinstance(target, list | tuple):
        return [leaf for part in target for leaf in _list_leaves(part)]
    return [target]


def _is_same(leaf: Any, known: Any) -> bool:
    if leaf is known:
        return True
    if not isinstance(leaf, Tensor) or not isinstance(known, Tensor):
        return isinstance(leaf, str | int | float) and leaf == known
    return (
        leaf.layout == known.layout == torch.strided
        and leaf.data_ptr() == known.data_ptr()
        and (leaf.shape, leaf.stride(), leaf.dtype) == (known.shape, known.stride(), known.dtype)
    )


def _versions(leaves: Iterable[Any]) -> list[int]:
    """Return numbers that change with each change of a tensor in place; 0 where torch does not count them."""
    return [leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else 0 for leaf in leaves]


class BatchEncoding:
    """The part of a `Classifier` that encodes targets, if possible before they are copied to a GPU."""

    _chunked: bool
    _class_dim: int | None
    _trailing_dims: int | None
    _transfer: TargetTransfer
    _batch_keys: dict[str, Any]
    _called: Callable[[], Any]
    _replaces: Callable[[Callable[..., Any]], bool]
    task: Any

    def unpack_batch(self, batch: Any) -> tuple[Any, ...]:
        """Return (inputs, target) or (inputs, target, sample_weight) of a batch of the data loader.

        By default the batch is a pair (inputs, target), or a mapping, dataclass or object that contains the
        labels as one of `LABEL_KEYS` or as `batch_keys` names them, and perhaps `sample_weight`. Override it
        for other batches. It is also called before a batch is transferred, and to predict (target: None).

        If the inputs are a mapping, `forward` receives the entries that it accepts as keyword arguments. If
        they are a tuple, `forward` receives positional arguments. `sample_weight` has shape (N,) or
        (N, ...).

        Raises:
            ConfigError, DataError: the batch has another form, or its labels are not found.
        """
        parts = split_batch(batch, self._batch_keys, find_parameters(self._called()))
        return parts[:2] if parts.weight is None else parts

    def _unpacks_itself(self) -> bool:
        """Return whether a subclass overrides `unpack_batch`."""
        return self._replaces(BatchEncoding.unpack_batch)

    def _encode_batch(self, batch: Any) -> EncodedBatch:
        """Return the inputs, the canonical target and the sample weights of a raw or an encoded batch."""
        is_encoded = isinstance(batch, Encoded) and not self._unpacks_itself()
        encoded = EncodedBatch(*batch) if is_encoded else self._unpack_and_encode(batch)
        return encoded._replace(target=self._to_sparse(encoded.target)) if self._chunked else encoded

    def _to_sparse(self, target: Any) -> Any:
        """Return a canonical target in the form that a chunked head requires."""
        if self._chunked and not self.task.exclusive and isinstance(target, Tensor):
            return SparseLabels.from_dense(target)
        return target

    def _unpack_and_encode(self, batch: Any) -> EncodedBatch:
        unpacked = self.unpack_batch(batch)
        if not isinstance(unpacked, tuple | list) or len(unpacked) not in (2, 3):
            raise ConfigError(
                "unpack_batch must return (inputs, target), or (inputs, target, sample_weight), got "
                f"{describe(unpacked)}."
            )
        inputs, target, weight = (*unpacked, None)[:3]
        encoded = self._transfer.find(target)
        weight = None if weight is None else as_weight(weight)
        return EncodedBatch(inputs, self._encode(target) if encoded is None else encoded, weight)

    def _encode(self, target: Any) -> Any:
        """Return the canonical target of a batch; `settle` completes it if the logits are unknown so far."""
        if isinstance(target, SparseLabels):
            return target
        target = move_classes(target, self.task, self._class_dim)
        encoded = self.task.encode_tensor(target, self._trailing_dims)
        parts = target.values() if isinstance(target, Mapping) else (target,)
        if any(isinstance(part, Tensor) and part.is_pinned() for part in parts):
            encoded = encoded.pin_memory()  # so that the copy to the device stays asynchronous
        return self._to_sparse(encoded)
