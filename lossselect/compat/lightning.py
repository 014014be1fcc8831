"""Methods of Lightning's that are wrapped, of one trainer, where it has no hook for what is needed.

All such places are found by the name `wrap`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning

from lossselect.exceptions import UnsupportedError


def wrap(owner: object, name: str, around: Callable[..., Any]) -> None:
    """From now on `owner.name(...)` is `around(method, ...)`, with the method of the owner's class.

    Wrapping it anew takes the place of the wrapping before.

    Raises:
        RuntimeError: this Lightning has no such method.
    """
    if (method := getattr(type(owner), name, None)) is None:
        raise UnsupportedError(
            f"lightning {lightning.__version__} has no {type(owner).__name__}.{name}, which lossselect "
            "needs: take a version that it was tested with (constraints.txt)."
        )
    setattr(owner, name, partial(around, method.__get__(owner)))


def unwrap(owner: object, name: str) -> None:
    """Leave the method as Lightning has it."""
    vars(owner).pop(name, None)
