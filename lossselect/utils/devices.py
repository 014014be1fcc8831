"""Torch devices, their memory, and operations that avoid synchronisation or are deterministic."""

import os
import re
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lossselect.exceptions import ConfigError


def parse_device(name: str) -> torch.device:
    """Return the device called `name`, for "auto" a GPU if there is one; ConfigError if it is not usable."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given, name = name, re.sub(r"^gpu(?=$|:)", "cuda", name)
    if re.match(r"cuda($|:)", name) and not torch.cuda.is_available():
        raise ConfigError(
            f"device={given} cannot be used, as no GPU was found. {why_no_gpu()} Otherwise, set device=cpu."
        )
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device={given} cannot be used: {reason.rstrip('.')}. Set device=auto.") from None
    return device


def check_gpu(accelerator: Any) -> None:
    """Raise ConfigError if the setting `trainer.accelerator` requires a GPU, and there is none."""
    if accelerator in ("gpu", "cuda") and auto_device() == "cpu":
        raise ConfigError(
            f"No GPU was found. {why_no_gpu()} To train on the CPU, set trainer=cpu, or remove trainer=..."
        )


def why_no_gpu() -> str:
    """Return why torch finds no GPU, and what to do about it."""
    if not (torch.version.cuda or torch.version.hip):
        return (
            f"The installed PyTorch, {torch.__version__}, does not support GPUs. To use one, install PyTorch "
            "with CUDA or ROCm (https://pytorch.org/get-started/locally/)."
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return f"CUDA_VISIBLE_DEVICES={hidden!r} hides all GPUs. To use one, unset or change this variable."
    return (
        "Check that nvidia-smi (or rocm-smi) lists one, and that its driver is new enough for PyTorch "
        f"{torch.__version__}."
    )


def auto_device() -> str:
    """Return the device type on which Lightning trains with accelerator=auto."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@lru_cache(maxsize=1)
def total_memory() -> int | None:
    """Return the total memory in bytes of the GPU, or of the machine if it has no GPU; None if unknown."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return _meminfo("MemTotal")


def free_memory(device: Any = None) -> int | None:
    """Return the free memory in bytes of a GPU, or of the machine for other devices; None if unknown."""
    if device is not None and device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return _meminfo("MemAvailable")


def stays_in_memory(size: int) -> bool:
    """Return whether a mapped file of `size` bytes stays in memory after it was read: half of it at most."""
    total = _meminfo("MemTotal")
    return total is None or size <= total / 2


def _meminfo(name: str) -> int | None:
    """Return an entry of /proc/meminfo, in bytes."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            entries = dict(line.split(":", 1) for line in file)
        return int(entries[name].split()[0]) * 1024
    except (OSError, KeyError):
        return None


def count_occurrences(values: Tensor, count: int) -> Tensor:
    """Return how often each of 0, 1, ..., `count` - 1 occurs in `values` (long), as a long tensor (count,).

    `torch.bincount(values, minlength=count)` would read the largest value back from a GPU.
    """
    values = values.flatten()
    zeros = torch.zeros(count, dtype=torch.long, device=values.device)
    return zeros.index_add_(0, values, torch.ones_like(values))


def cumulative_sum(values: Tensor, dim: int) -> Tensor:
    """Return `values.cumsum(dim)`, also for floats on a GPU under `torch.use_deterministic_algorithms(True)`.

    In that case torch raises an error, because its parallel sum is not deterministic. This function adds
    the entries one by one instead, which is fast enough for short dimensions.
    """
    if values.is_cuda and values.is_floating_point() and torch.are_deterministic_algorithms_enabled():
        return torch.stack([*accumulate(values.unbind(dim))], dim)
    return values.cumsum(dim)
