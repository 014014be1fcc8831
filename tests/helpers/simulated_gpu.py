"""A simulated GPU: tensors that behave as on `cuda:0`, with their values in the memory of the CPU.

Within `simulated_gpu()`, PyTorch seems to have one CUDA device, and four effects become visible that a CPU does not show:

- an operation on tensors of two devices raises an error;
- each wait of the host for the device is recorded, with file and line (`SimulatedGPU.waits`);
- with deterministic algorithms required, an operation without a deterministic form on CUDA raises an error;
- `tensor.numpy()` and NumPy functions raise an error.

tests/helpers/cuda_rules.py contains the rules of CUDA per operator, and tests/helpers/test_simulated_gpu.py tests them.

Implementation: a `SimulatedTensor` is a wrapper subclass. Python sees a tensor on `cuda:0`. C++ sees one on `meta`, because
in a build without CUDA, autograd aborts the process for a CUDA tensor. Tensors that an operator of ATen creates on "the same
device" are therefore created on `meta`, and wrapped in a `SimulatedTensor` too. A `TorchFunctionMode` handles calls that are
decided before an operator runs (`.to`, `.cuda`, indexing, `device="cuda"`); `_run` handles each operator.

Not simulated: the numerics, speed and memory of a GPU, autocast to half precision (no operator is cast), streams, several
devices, `torch.compile`, other threads. On a machine with a GPU, the real results take precedence.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
from cuda_rules import check_deterministic, check_devices, waits_of
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE = torch.device("cuda", 0)

_TORCH, _HERE = str(Path(torch.__file__).parent), __file__
_ON_DEVICE = ("cuda", "meta")  # C++ requests "meta" for the device of a SimulatedTensor
_active: list["SimulatedGPU"] = []


class Wait(NamedTuple):
    """A wait of the host for the device."""

    operation: str
    file: str
    line: int
    seen_by_torch: bool = True
    """True if `torch.cuda.set_sync_debug_mode` also reports it."""

    def __str__(self) -> str:
        return f"{self.operation} at {self.file}:{self.line}"


class SimulatedTensor(torch.Tensor):
    """A tensor on the simulated device; `host` contains its values."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> "SimulatedTensor":
        # one of two private names of torch in this file, which its documentation of subclasses also uses
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device="meta",
        )
        wrapper.host = host
        return wrapper

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def get_device(self) -> int:
        return 0

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def __repr__(self) -> str:
        return f"SimulatedTensor({self.host!r})"

    def _read(self, operation: str) -> torch.Tensor:
        _wait(operation)
        return self.host.detach()

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
        )

    numpy = __array__

    def __deepcopy__(self, memo: dict[int, Any]) -> "SimulatedTensor":
        copy = SimulatedTensor(self.host.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        return memo.setdefault(id(self), copy)

    def __reduce_ex__(self, protocol: Any) -> Any:  # files contain CPU tensors
        return self._read("saving").clone().__reduce_ex__(protocol)


def _reader(name: str) -> Any:
    def read(self: SimulatedTensor, *arguments: Any) -> Any:
        return getattr(self._read(f"{name.strip('_')}()"), name)(*arguments)

    return read


for _name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__format__"):
    setattr(SimulatedTensor, _name, _reader(_name))


def _wait(operation: str, seen_by_torch: bool = True) -> None:
    if _active:
        _active[-1].wait(operation, seen_by_torch)


def _is_on_cpu(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, SimulatedTensor)


def is_pinned(tensor: torch.Tensor) -> bool:
    """Return whether the memory of a CPU tensor is page-locked in the simulation."""
    return getattr(tensor.untyped_storage(), "simulated_pinned", False)


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Mark the memory of a tensor as page-locked, and return the tensor."""
    tensor.untyped_storage().simulated_pinned = True
    return tensor


def _copy_waits(cpu: torch.Tensor, non_blocking: bool, direction: str) -> None:
    if not non_blocking:
        _wait(f"blocking copy {direction}")
    elif not is_pinned(cpu) and cpu.numel():
        # "the driver may synchronize with the stream" (CUDA, API synchronization behavior); torch does not report it
        _wait(f"copy {direction} through pageable memory", seen_by_torch=False)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator of ATen, with the checks of CUDA and the waits that it causes."""
    name = func.overloadpacket.__name__
    flat = [*_leaves((args, kwargs))]
    on_device = any(isinstance(value, SimulatedTensor) for value in flat)
    asked = kwargs.get("device")
    created = asked is not None and torch.device(asked).type in _ON_DEVICE
    if on_device:
        if name == "copy_" and isinstance(args[0], SimulatedTensor) != isinstance(args[1], SimulatedTensor):
            return _copy_between(*args, **kwargs)
        check_devices(func, args, flat, _is_on_cpu)
        for wait in waits_of(func, args, kwargs, _is_on_cpu):
            _wait(wait)
        check_deterministic(func, args, kwargs)
    elif name == "_to_copy" and created:  # a copy made in C++, as in tensor.new_tensor(values)
        _copy_waits(args[0], kwargs.get("non_blocking", False), "to the device")
    host_args, host_kwargs = _map((args, kwargs), SimulatedTensor, lambda value: value.host)
    if created:
        host_kwargs = {**host_kwargs, "device": torch.device("cpu")}
    if func is torch.ops.aten.mm.dtype and on_device:  # only on CUDA: half precision in, float32 out
        a, b, dtype = host_args
        out = torch.mm(a.to(dtype), b.to(dtype))
    else:
        out = func(*host_args, **host_kwargs)
    if not (on_device or created):
        return out
    if name == "_to_copy" and not created and asked is not None:  # to the CPU
        if kwargs.get("non_blocking"):  # torch allocates pinned memory for this
            return pinned(out)
        _wait("blocking copy to the host")
        return out
    if _active:
        sizes = [value.numel() for value in _leaves(out) if isinstance(value, torch.Tensor)]
        _active[-1].largest = max(_active[-1].largest, *sizes, 0)
    inference = torch.is_inference_mode_enabled() and not (func.is_view and not args[0].is_inference())
    with torch.inference_mode(inference):  # the view of a normal tensor is a normal tensor
        wrapped = _map(out, torch.Tensor, SimulatedTensor)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if on_device else wrapped


def _leaves(values: Any) -> Iterator[Any]:
    """Yield the values in lists, tuples and dicts; torch's own functions for trees are several times slower."""
    if isinstance(values, list | tuple | dict):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _leaves(value)
    else:
        yield values


def _map(values: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Return lists, tuples and dicts with each value of exactly this type changed."""
    if isinstance(values, list | tuple):
        return type(values)([_map(value, kind, change) for value in values])
    if isinstance(values, dict):
        return {key: _map(value, kind, change) for key, value in values.items()}
    return change(values) if type(values) is kind else values


def _copy_between(to: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    if _is_on_cpu(to):
        _copy_waits(to, non_blocking, "to the host")
    else:
        _copy_waits(source, non_blocking, "to the device")
    getattr(to, "host", to).copy_(getattr(source, "host", source))
    return to


class _Operators(TorchDispatchMode):
    """Passes operators without a SimulatedTensor as input to `_run`, because they may create one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _ToDevice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return SimulatedTensor(value.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient.host.clone()


class _ToHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Any) -> torch.Tensor:
        return value.host.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return SimulatedTensor(gradient.clone())


def _to_device(value: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    if isinstance(value, SimulatedTensor):
        return value
    _copy_waits(value, non_blocking, "to the device")
    return _ToDevice.apply(value)


def _to_host(value: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    if not isinstance(value, SimulatedTensor):
        return value
    if non_blocking:
        return pinned(_ToHost.apply(value))
    _wait("blocking copy to the host")
    return _ToHost.apply(value)


def _to(value: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Simulate Tensor.to(device, dtype, non_blocking, copy), .to(dtype, ...) and .to(other, ...)."""
    other = kwargs.pop("other", None)
    if args and isinstance(args[0], torch.Tensor):
        other, args = args[0], args[1:]
    if other is not None:
        args = (other.device, other.dtype, *args)
    elif args and isinstance(args[0], torch.dtype):
        args = (None, *args)
    device, dtype, non_blocking, copy = (*args, None, None, None, None)[:4]
    device, dtype = kwargs.get("device", device), kwargs.get("dtype", dtype)
    result = value
    if device is not None:  # in C++, a SimulatedTensor is on "meta"
        move = _to_device if torch.device(device).type in _ON_DEVICE else _to_host
        result = move(value, bool(kwargs.get("non_blocking", non_blocking)))
    if dtype is not None and dtype != result.dtype:
        return torch.ops.aten._to_copy(result, dtype=dtype)
    return result.clone() if kwargs.get("copy", copy) and result is value else result


class SimulatedGPU(TorchFunctionMode):
    """The simulated device, and the mode in which it exists."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Wait] = []
        self.raises = False
        """True if waits that torch reports raise errors, as after `torch.cuda.set_sync_debug_mode("error")`."""
        self.events_behind = 0
        """Number of events by which the device is behind the host; 0 if it keeps up."""
        self.recorded = self.reached = 0
        self.largest = 0
        """Number of entries of the largest tensor that an operator returned."""

    def wait(self, operation: str, seen_by_torch: bool = True) -> None:
        frame = sys._getframe(1)
        while frame.f_back and frame.f_code.co_filename.startswith((_TORCH, _HERE)):
            frame = frame.f_back
        wait = Wait(operation, frame.f_code.co_filename, frame.f_lineno, seen_by_torch)
        self.waits.append(wait)
        if self.raises and seen_by_torch:
            raise RuntimeError(f"called a synchronizing CUDA operation: {wait}")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        special = _FUNCTIONS.get(func)
        if special is not None:
            return special(*args, **kwargs)
        if kwargs.get("pin_memory"):
            return pinned(func(*args, **{**kwargs, "pin_memory": False}))
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = "meta"
        return func(*args, **kwargs)

    def event(self, *_: Any, **__: Any) -> "_Event":
        return _Event(self)


class _Event:
    """A simulated torch.cuda.Event."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        self.gpu, self.number = gpu, 0

    def record(self, *_: Any) -> None:
        self.gpu.recorded += 1
        self.number = self.gpu.recorded

    def query(self) -> bool:
        return self.number <= max(self.gpu.reached, self.gpu.recorded - self.gpu.events_behind)

    def synchronize(self) -> None:
        if not self.query():
            self.gpu.wait(
                f"Event.synchronize() {self.gpu.recorded - self.number} events behind", seen_by_torch=False
            )
            self.gpu.reached = self.number


def _from_data(func: Any) -> Any:
    """Simulate torch.tensor and similar functions, which create on the CPU and then copy, which blocks."""

    def create(data: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.pop("device", None)
        if isinstance(data, SimulatedTensor):
            same = data.clone() if func is torch.tensor else data
            return _to(same, device=device or DEVICE, dtype=kwargs.get("dtype"))
        return _to(func(data, *args, **kwargs), device)

    return create


def _new_tensor(
    tensor: torch.Tensor, data: Any, dtype: Any = None, device: Any = None, **_: Any
) -> torch.Tensor:
    """Simulate Tensor.new_tensor, by default with the device and dtype of `tensor`."""
    return _to(torch.tensor(data, dtype=dtype or tensor.dtype), tensor.device if device is None else device)


def _get_item(tensor: torch.Tensor, index: Any) -> Any:
    return torch.Tensor.__getitem__(tensor, _lists_copied(tensor, index))


def _set_item(tensor: torch.Tensor, index: Any, value: Any) -> None:
    if isinstance(tensor, SimulatedTensor) and isinstance(value, int | float | bool):
        value = torch.tensor(value, dtype=tensor.dtype)  # like python_variable_indexing.cpp for CUDA
    torch.Tensor.__setitem__(tensor, _lists_copied(tensor, index), value)


def _lists_copied(tensor: torch.Tensor, index: Any) -> Any:
    """Convert lists among the indices to tensors on the device."""
    if not isinstance(tensor, SimulatedTensor):
        return index
    if isinstance(index, list):
        return _to_device(torch.tensor(index))
    if isinstance(index, tuple):
        return tuple(_to_device(torch.tensor(i)) if isinstance(i, list) else i for i in index)
    return index


def _pin_memory(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    if isinstance(tensor, SimulatedTensor):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return tensor if is_pinned(tensor) else pinned(tensor.clone())


_FUNCTIONS = {
    torch.Tensor.to: _to,
    torch.Tensor.type_as: lambda tensor, other: _to(tensor, other),
    torch.Tensor.cuda: lambda tensor, device=None, non_blocking=False, **_: _to_device(tensor, non_blocking),
    torch.Tensor.cpu: lambda tensor, **_: _to_host(tensor),
    torch.Tensor.pin_memory: _pin_memory,
    torch.Tensor.is_pinned: lambda tensor, *_: not isinstance(tensor, SimulatedTensor) and is_pinned(tensor),
    torch.Tensor.__getitem__: _get_item,
    torch.Tensor.__setitem__: _set_item,
    torch.Tensor.new_tensor: _new_tensor,
    **{func: _from_data(func) for func in (torch.tensor, torch.as_tensor, torch.asarray)},
}


@contextmanager
def simulated_gpu() -> Iterator[SimulatedGPU]:
    """Simulate one CUDA device within the context."""
    gpu, state = SimulatedGPU(), torch.zeros(16, dtype=torch.uint8)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # as on the machine: code may cache it
    returns = {
        **dict.fromkeys(("is_available", "is_bf16_supported"), True),
        **dict.fromkeys(("current_device", "memory_reserved", "memory_allocated"), 0),
        **dict.fromkeys(
            ("set_device", "empty_cache", "manual_seed_all", "set_rng_state", "set_rng_state_all")
        ),
        "device_count": 1,
        "get_device_capability": (7, 0),
        "get_device_name": "simulated",
        "get_rng_state": state,
        "get_rng_state_all": [state],
        "mem_get_info": (memory // 2, memory),
        "get_device_properties": SimpleNamespace(total_memory=memory, name="simulated"),
    }
    cuda = {name: lambda *_, value=value: value for name, value in returns.items()}
    cuda |= {
        "Event": gpu.event,
        "synchronize": lambda *_: gpu.wait("synchronize()", seen_by_torch=False),
        "set_sync_debug_mode": lambda mode: setattr(gpu, "raises", mode in ("error", 2)),
    }
    _active.append(gpu)
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    # parameters that are moved remain the same objects
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with (
            mock.patch.multiple(torch.cuda, **cuda),
            mock.patch.object(torch.accelerator, "is_available", return_value=True),
            _Operators(),
            gpu,
        ):
            yield gpu
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        _active.pop()
