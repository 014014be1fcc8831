"""Base class of modules that a user subclasses, for the attributes and the weights that a user may set."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from lossselect.exceptions import ConfigError
from lossselect.training.checkpoints.content import match_names


class ModuleBase(nn.Module):
    """A module that raises an error for attributes that would hide its methods or properties.

    torch itself accepts `self.predict = 0.5`, and fails when something calls `predict`. It also accepts a
    submodule as `self.predict`, but then `self.predict` is still the method.
    """

    _held_updates: list[Any] | None = None  # steps of an override of `step` that runs; see step.py

    def __setattr__(self, name: str, value: Any) -> None:
        owner = next((cls for cls in type(self).__mro__ if name in vars(cls)), None)
        known = None if owner is None else getattr(owner, name)
        is_method = inspect.isroutine(known) and callable(known)
        # a function replaces a method, and None disables a hook of Lightning
        replaces = value is None or (callable(value) and not isinstance(value, nn.Module))
        if (is_method and not replaces) or (isinstance(known, property) and known.fset is None):
            kind = "method" if is_method else "property"
            raise ConfigError(
                f"self.{name} is a {kind} of {owner.__name__}, got an attribute of type "  # type: ignore[union-attr]
                f"{type(value).__name__}. Choose another name, such as self.my_{name}."
            )
        if isinstance(known, property):
            object.__setattr__(self, name, value)  # torch does not call the setter for a module
        else:
            super().__setattr__(name, value)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; the names of a net and of the same net after torch.compile are interchangeable."""
        return super().load_state_dict(match_names(state_dict, self.state_dict()), strict, assign)
