"""Devices of torch, and how much memory there is."""

from functools import lru_cache
from typing import Any

from lossselect.exceptions import ConfigError


def parse_device(name: str) -> Any:
    """Return a torch.device by name, "auto" for a GPU if there is one; ConfigError if it cannot be used."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name} cannot be used: {str(error).partition(chr(10))[0]}") from None
    return device


def auto_device() -> str:
    """Return the device type on which Lightning trains with accelerator=auto."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@lru_cache(maxsize=1)
def total_memory() -> int | None:
    """Return the bytes of memory of a GPU, or without one of the machine; None if they are not known."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return _meminfo("MemTotal")


def _meminfo(name: str) -> int | None:
    """Return an entry of /proc/meminfo, in bytes."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            entries = dict(line.split(":", 1) for line in file)
        return int(entries[name].split()[0]) * 1024
    except (OSError, KeyError):
        return None


def free_memory(device: Any = None) -> int | None:
    """Return the free bytes of a GPU, or for any other device of the machine; None if they are not known."""
    if device is not None and device.type == "cuda":
        import torch

        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return _meminfo("MemAvailable")
