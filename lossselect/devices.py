"""Where a net runs."""

from typing import Any

from .exceptions import ConfigError


def device_of(name: str) -> Any:
    """A device of torch by name, "auto" for a GPU if there is one; ValueError for one that cannot be used."""
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
    """Where Lightning trains by accelerator=auto."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
