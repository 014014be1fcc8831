"""A step's net and loss through torch.compile, and without it where the platform cannot."""

from collections.abc import Callable
from typing import Any

import torch

from lossselect.utils.warnings import warn


class CompiledStep:
    """`step`, compiled when it is first called; a failure to compile is warned of, and is no failure.

    Args:
        step: A function of tensors and modules.
        options: Of torch.compile.
    """

    def __init__(self, step: Callable[..., Any], **options: Any) -> None:
        self.step, self.options = step, options
        self.compiled: Callable[..., Any] | None = torch.compile(step, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.step, self.options)  # what is compiled is of this process

    def __call__(self, *arguments: Any) -> Any:
        if self.compiled is None:
            return self.step(*arguments)
        try:
            return self.compiled(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of the compilers there are many kinds
            outputs = self.step(*arguments)  # what is a mistake without torch.compile is raised here
            self.compiled = None
            # "backend='inductor' raised:", then by what
            said = " ".join((str(error).strip() or type(error).__name__).splitlines()[:2]).rstrip(".")
            warn(
                "not_compiled",
                f"torch.compile failed, so that training goes on without: {said}. On a CPU it needs a C++ "
                "compiler, on a GPU Triton; trainer.compile=false leaves it out.",
            )
            return outputs


def _made(step: Callable[..., Any], options: dict[str, Any]) -> CompiledStep:
    return CompiledStep(step, **options)
