"""A step's net and loss through torch.compile, or without it if the platform has no compiler."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from lossselect.utils.warnings import warn


class CompiledStep:
    """A function of tensors, compiled when it is first called; if that fails, it warns and runs as it is."""

    def __init__(self, step: Callable[..., Any], **options: Any) -> None:
        self.step, self.options = step, options
        self.compiled: Callable[..., Any] | None = torch.compile(step, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(CompiledStep, **self.options), (self.step,)  # compiled code belongs to this process

    def __call__(self, *args: Any) -> Any:
        if self.compiled is None:
            return self.step(*args)
        try:
            return self.compiled(*args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise many kinds
            outputs = self.step(*args)  # raises a mistake that is not torch.compile's
            self.compiled = None
            # "backend='inductor' raised:", then the cause
            cause = " ".join((str(error).strip() or type(error).__name__).splitlines()[:2]).rstrip(".")
            warn(
                "not_compiled",
                f"torch.compile failed, so that training goes on without: {cause}. On a CPU it needs a C++ "
                "compiler, on a GPU Triton; trainer.compile=false leaves it out.",
            )
            return outputs
