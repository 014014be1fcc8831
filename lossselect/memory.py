"""How much memory there is."""

from functools import lru_cache

import torch


@lru_cache(maxsize=1)
def memory_of_machine() -> int | None:
    """Bytes that a GPU has, or where there is none the machine, as far as one can tell."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return _meminfo("MemTotal")


def _meminfo(name: str) -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            entries = dict(line.split(":", 1) for line in file)
        return int(entries[name].split()[0]) * 1024
    except (OSError, KeyError):
        return None


def free_memory(device: torch.device | None = None) -> int | None:
    """Bytes that are free on a device, or for a CPU, as far as one can tell."""
    if device is not None and device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    return _meminfo("MemAvailable")
