"""Private parts of torch. Tested with torch 2.13; see tests/compat/test_others.py."""

from torch import Tensor, _foreach_norm, nn
from torch.utils._python_dispatch import TorchDispatchMode  # documented, though its module is private
from torch.utils._pytree import tree_leaves

__all__ = ["TorchDispatchMode", "tree_leaves"]


def largest_of_each(tensors: list[Tensor]) -> list[Tensor]:
    """Return the largest absolute value of each tensor with one kernel; NaN if the tensor contains NaN."""
    return list(_foreach_norm(tensors, float("inf")))


def has_forward_hooks(layer: nn.Module) -> bool:
    """Return whether calling the layer runs forward hooks."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
