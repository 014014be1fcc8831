"""The user's own subclass of `TaskModule`, which `module._target_` names, and the call of its constructor."""

import inspect
import os
import re
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lossselect.exceptions import CheckpointError, ConfigError, LossSelectError
from lossselect.models.nets import first_line
from lossselect.run.settings import loss_options, packaged_config
from lossselect.run.trust import check_part
from lossselect.utils.checks import check_options, suggestion

if TYPE_CHECKING:
    from lossselect.training.classifier import Classifier
    from lossselect.training.module import TaskModule

SETTINGS = {
    "loss": "cross_entropy",
    "optimizer": "adamw",
    "scheduler": "none",
    "metrics": "null",
    "bias_init": "null",
    "mix": "none",
    "head": "dense",
    "on_nonfinite": "stop",
}
"""The settings that the run passes to the module, and their values that are the default of `TaskModule`."""

DEFAULTS = ({"name": "cross_entropy"}, {"name": "dense"}, "stop")
"""Arguments that a run passes for the default of `TaskModule`, in addition to None and optimizer=adamw."""

DERIVED = ("num_features", "num_outputs")
"""Arguments that follow from the data, for constructors that name them."""

TRACEBACK = "Set HYDRA_FULL_ERROR=1 to see the traceback."


def find_module_class(target: str, setting: str = "module._target_") -> "type[TaskModule]":
    """Return the subclass of `TaskModule` with this import path; `setting` is its setting, for messages."""
    from lightning.pytorch import LightningModule
    from torch import nn

    from lossselect.training.module import TaskModule

    place = f"{setting}={target}"
    found = _import(target, place)
    if isinstance(found, type) and issubclass(found, TaskModule):
        return found
    kind = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
    fix = "Name the class itself."
    if isinstance(found, type):
        is_net = issubclass(found, nn.Module) and not issubclass(found, LightningModule)
        fix = "Derive it from lossselect.TaskModule." + f" For a net, set model._target_={target}." * is_net
    raise ConfigError(f"{place}: expected a subclass of TaskModule, got {kind}. {fix}")


def _import(target: str, place: str) -> Any:
    """Return the object with this import path, such as my.Model or my.package.Model."""
    module, _, name = target.rpartition(".")
    if not module or not all(map(str.isidentifier, target.split("."))):
        raise ConfigError(f"{place}: expected the import path of a class, such as my.Model.")
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # a package that the user's code imports
            raise ConfigError(f"{place} cannot be imported: {error}. Install this package.") from error
        first = module.partition(".")[0]
        raise ConfigError(
            f"{place}: no module {error.name!r} was found in the folder {Path.cwd()}, in PYTHONPATH or among "
            f"the installed packages. Run the command in the folder that contains {first}.py or {first}/."
        ) from None
    except Exception as error:  # the user's code may raise anything
        cause = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(f"{place} cannot be imported: {cause}. {TRACEBACK}") from error
    if not hasattr(found, name):
        raise ConfigError(f"{place}: {module} has no {name!r}.{suggestion(name, dir(found))}")
    return getattr(found, name)


class CustomModule:
    """The class that `module._target_` names, and the parameters of its constructor.

    `**kwargs` of a constructor are assumed to be passed on to the constructor of the next base class.
    """

    def __init__(self, part: DictConfig) -> None:
        from lossselect.training.module import TaskModule

        check_part(part, "module")  # before the class is imported
        self.part, self.place = part, f"module._target_={part['_target_']}"
        self.cls = find_module_class(str(part["_target_"]))
        # the user's classes, without `TaskModule` and its bases
        bases = takewhile(lambda base: base is not TaskModule, self.cls.__mro__)
        self.named: list[str] = []  # the parameters that the user's constructors name
        self.passed_on: set[str] = set()  # the other parameters of `TaskModule`, if **kwargs reach it
        self.required: list[str] = []
        constructors = [base for base in bases if "__init__" in vars(base)]
        for base in constructors or [TaskModule]:
            parameters = [*inspect.signature(base.__init__).parameters.values()][1:]  # type: ignore[misc]
            named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            if not self.named:
                self.required = [p.name for p in named if p.default is p.empty]
            self.named += [p.name for p in named if p.name not in self.named]
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                return
        self.passed_on = {*inspect.signature(TaskModule.__init__).parameters} - {"self", *self.named}

    @property
    def takes_net(self) -> bool:
        """True if the constructor names `net`; otherwise the class builds its net itself."""
        return "net" in self.named

    def takes(self, name: str) -> bool:
        """Return whether the class uses the run's setting `name`, such as "optimizer"."""
        from lossselect.training.optimizers import ignores_specs

        if name in ("optimizer", "scheduler") and ignores_specs(self.cls):
            return False
        return name in self.named or name in self.passed_on

    def check(self, config: DictConfig, overrides: Iterable[str]) -> None:
        """Check `module.*`, and that no setting lacks an effect; needs no data.

        A default of the run that the class does not accept (scheduler, bias_init) is set to None.

        Raises:
            ConfigError: an argument is unknown, missing or set by the run, or a setting has no effect.
        """
        names = [str(name) for name in self.part if name != "_target_"]
        if not self.takes("task"):
            raise ConfigError(
                f"{self.place}: the constructor must accept task, which follows from the data. Write "
                "def __init__(self, task, ..., **kwargs) and super().__init__(task, **kwargs)."
            )
        derived = [name for name in DERIVED if name in self.named and "_target_" not in config.data]
        for name in names:
            if name in derived:
                raise ConfigError(f"module.{name} cannot be set: it follows from the data. Remove it.")
            if name in ("task", "net", *SETTINGS):
                setting = {"net": "model"}.get(name, name)
                raise ConfigError(
                    f"module.{name} cannot be set: the run passes {name} itself. Set {setting}=... instead."
                )
        passed = {"task", "net", *SETTINGS, *derived}
        known = [name for name in (*self.named, *sorted(self.passed_on)) if name not in passed]
        check_options(names, known, self.place)
        if missing := [name for name in self.required if name not in {*names, *passed, *DERIVED}]:
            settings = " ".join(f"module.{name}=VALUE" for name in missing)
            raise ConfigError(f"{self.place} requires {', '.join(missing)}. Add {settings}.")
        typed = _find_settings(overrides)
        unused = [name for name in SETTINGS if not self.takes(name)]
        for name in unused + ["model"] * (not self.takes_net):
            if config.get(name) is None or (name not in typed and _is_packaged(config, name)):
                if name in ("scheduler", "bias_init"):
                    config[name] = None
                continue
            parameter = {"model": "net"}.get(name, name)
            fix = f"add {parameter} to the constructor and pass it to super().__init__"
            why = "builds its net itself" if name == "model" else "does not accept it"
            if name in self.named or name in self.passed_on:
                why, fix = "overrides configure_optimizers", "call super().configure_optimizers()"
            raise ConfigError(f"{name} has no effect: {self.place} {why}. Remove {name}, or {fix}.")

    def build(self, arguments: Mapping[str, Any], overrides: Iterable[str], **derived: Any) -> "TaskModule":
        """Return the module, built with the arguments of `TaskModule` and those that follow from the data.

        **kwargs receive neither None nor a default of `TaskModule` that is not in `overrides`, as a class may
        have its own.

        Raises:
            ConfigError: the constructor raises an error, or there is no net.
        """
        import hydra

        from lossselect.training.checkpoints.load import bind_arguments
        from lossselect.training.classifier import Classifier
        from lossselect.training.module import TaskModule

        values = {name: value for name, value in {**derived, **arguments}.items() if name in self.named}
        typed = _find_settings(overrides)
        for name in self.passed_on & {*arguments} - {"net"}:
            value = arguments[name]
            if value is None:
                continue
            if name in typed or value not in (*DEFAULTS, packaged_config("optimizer", "adamw")):
                values[name] = value
        settings = self.part.copy()
        OmegaConf.set_struct(settings, False)
        del settings["_target_"]
        values |= hydra.utils.instantiate(settings, _convert_="all")
        try:
            call = bind_arguments(self.cls, values)
            module = self.cls(*call.args, **call.kwargs)
            has_net = module.net is not None or self.cls.forward is not Classifier.forward
            module._build_head()  # of a net that the class sets after super().__init__
        except LossSelectError:
            raise
        except Exception as error:  # the user's code may raise anything
            text = f"{self.place} cannot be created: {type(error).__name__}: {first_line(error)}. "
            twice = re.search(r"multiple values for (?:keyword )?argument '(\w+)'", text)
            if twice and twice[1] in SETTINGS:
                default = SETTINGS[twice[1]]
                fix = f"Set {twice[1]}={default}" if default in ("none", "null") else f"Remove {twice[1]}"
                text += f"The class sets {twice[1]} itself. {fix}. "
            raise ConfigError(text + TRACEBACK) from error
        if not has_net and self.cls.configure_model is TaskModule.configure_model:
            raise ConfigError(
                f"{self.place} has no net. Set self.net in the constructor, override forward, or add net to "
                "the constructor and pass it to super().__init__, to use the net of model=..."
            )
        return module


def _find_settings(overrides: Iterable[str]) -> set[str]:
    """Return the first parts of the settings in Hydra's overrides, such as "optimizer" of optimizer.lr=1."""
    return {re.split(r"[.=@]", override.lstrip("+~"))[0] for override in overrides}


def _is_packaged(config: DictConfig, name: str) -> bool:
    """Return whether a setting has its packaged default."""
    train: Any = OmegaConf.to_container(packaged_config("", "train"))
    groups = {k: v for entry in train["defaults"] if isinstance(entry, dict) for k, v in entry.items()}
    if name == "loss":  # its variants are not files
        return loss_options(config.loss) == {"name": groups[name]}
    default = OmegaConf.to_container(packaged_config(name, groups[name])) if name in groups else train[name]
    chosen: Any = OmegaConf.to_container(config, resolve=False)  # T_max refers to another setting
    return bool(chosen[name] == default)


def load_trained(checkpoint: str, content: Mapping[str, Any], target: str | None) -> "Classifier":
    """Return the trained module of a checkpoint; `target` is the import path of a subclass of `TaskModule`.

    Raises:
        ConfigError: the class is missing, or cannot be imported.
        CheckpointError: the checkpoint is of another class, or damaged.
    """
    from lossselect.training.classifier import Classifier

    name = content["class"]
    if target is None:
        if name != "TaskModule":
            raise ConfigError(
                f"{checkpoint} contains a {name}, your own class. Set module to its import path, such as "
                f"module=my.{name}."
            )
        return Classifier.load(checkpoint)
    if os.getcwd() not in sys.path:  # last, so that its modules shadow no others
        sys.path.append(os.getcwd())
    cls = find_module_class(target, "module")
    if cls.__name__ != name:
        raise CheckpointError(f"{checkpoint} contains a {name}, got module={target}. Set module=my.{name}.")
    return cls.load_from_checkpoint(checkpoint).eval()
