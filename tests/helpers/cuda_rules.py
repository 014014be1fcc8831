"""Rules of CUDA for operators of ATen: allowed devices, waits of the host, operators that are not deterministic.

They follow the code of the operators in ATen and the documentation of torch 2.13; tests/helpers/simulated_gpu.py applies them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch

OnCpu = Callable[[Any], bool]
"""Function that returns whether a value is a tensor on the CPU."""

# Operators that make the host wait, in addition to those that torch tags as data-dependent in value or shape
# (item, equal, nonzero, masked_select, unique, bincount, repeat_interleave without output_size).
_WAITS = {
    "multinomial": "multinomial checks its probabilities",
    "normal": "normal checks its standard deviations",
    "_linalg_check_errors": "torch.linalg checks its result",
}
_INDEXES = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}

# From the documentation of torch.use_deterministic_algorithms (2.13): the operators that raise.
_NOT_DETERMINISTIC = {
    *("avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward"),
    *("max_unpool2d", "max_unpool3d", "upsample_linear1d_backward", "upsample_bilinear2d_backward"),
    *("upsample_bicubic2d_backward", "upsample_trilinear3d_backward", "reflection_pad1d_backward"),
    *("reflection_pad2d_backward", "reflection_pad3d_backward", "_ctc_loss_backward"),
    *("grid_sampler_2d_backward", "grid_sampler_3d_backward", "put_", "histc"),
}


def name_of(func: Any) -> str:
    """Return the name of an operator, without its overload."""
    return func.overloadpacket.__name__


def _mixed(func: Any, culprit: torch.Tensor) -> RuntimeError:
    return RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
        f"({func}: a CPU tensor of shape {tuple(culprit.shape)})"
    )


def check_devices(func: Any, args: Any, flat: list[Any], on_cpu: OnCpu) -> None:
    """Raise RuntimeError for a CPU tensor, except scalars of pointwise operations and indices, which are copied."""
    name, cpu = name_of(func), [value for value in flat if on_cpu(value)]
    if name in _INDEXES:
        if on_cpu(args[0]):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        cpu = [value for value in args[2:3] if on_cpu(value) and value.ndim]
    elif torch.Tag.pointwise in func.tags or name in ("fill_", "masked_fill", "masked_fill_"):
        cpu = [value for value in cpu if value.ndim]
    if cpu:
        raise _mixed(func, cpu[0])


def waits_of(func: Any, args: Any, kwargs: dict[str, Any], on_cpu: OnCpu) -> Iterator[str]:
    """Yield the reasons why the host waits in an operator on device tensors."""
    name = name_of(func)
    if name in _INDEXES:
        yield from _waits_of_index(name, args, on_cpu)
    elif name == "where" and any(map(on_cpu, args)):
        yield "where with a CPU scalar tensor, which is copied"  # where_self_out in TensorCompare.cpp
    elif name.startswith("masked_fill") and isinstance(args[2], torch.Tensor) and not on_cpu(args[2]):
        yield "masked_fill with a device tensor, which is read"
    elif torch.Tag.dynamic_output_shape in func.tags or torch.Tag.data_dependent_output in func.tags:
        if not (name == "repeat_interleave" and kwargs.get("output_size") is not None):
            yield name.replace("_local_scalar_dense", "item()")
    elif name in _WAITS:
        yield _WAITS[name]
    elif name == "histc" and (args[2:4] or (0, 0)) == (0, 0):
        yield "histc without a range"


def _waits_of_index(name: str, args: Any, on_cpu: OnCpu) -> Iterator[str]:
    """Yield waits of x[indices] and x[indices] = value; see canDispatchToMaskedFill in TensorAdvancedIndexing.cpp."""
    indices = [index for index in args[1] if index is not None]
    masks = [index.dtype in (torch.bool, torch.uint8) for index in indices]
    value = args[2] if "put" in name else None
    fills = on_cpu(value) and value.numel() == 1 and masks == [True]  # then it is masked_fill_
    if any(map(on_cpu, indices)):
        yield f"{name} by a CPU tensor, which is copied"
    elif any(masks) and not fills:
        yield f"{name} by a mask, whose ones are counted"
    if on_cpu(value) and not fills:
        yield f"{name} of a number, which is copied"


def check_deterministic(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise RuntimeError for an operator that is not deterministic, if determinism is required."""
    if torch.get_deterministic_debug_mode() != 2:  # 0: off, 1: only warnings
        return
    name = name_of(func)
    raises = (
        name in _NOT_DETERMINISTIC
        or (name == "nll_loss2d_forward" and args[3])  # a sum or a mean
        or (name == "bincount" and len(args) > 1 and args[1] is not None)
        or (name in ("cumsum", "cumsum_") and (args[0].is_floating_point() or args[0].is_complex()))
        or (name in ("median", "nanmedian") and ".dim" in str(func))
        or (name.startswith("scatter_reduce") and "prod" in (*args, *kwargs.values()))
    )
    if raises:
        raise RuntimeError(
            f"{name} does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'."
        )
