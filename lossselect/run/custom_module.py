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
from lossselect.run.settings import loss_options, packaged_config
from lossselect.run.trust import check_part
from lossselect.utils.checks import check_options, first_line, suggestion
from lossselect.utils.warnings import warn

if TYPE_CHECKING:
    from lossselect.training.module import TaskModule

SETTINGS = ("loss", "optimizer", "scheduler", "metrics", "bias_init", "mix", "head", "on_nonfinite")
"""The settings of a run that are arguments of `TaskModule`."""

OPTIMIZERS = ("optimizer", "scheduler")
"""Those that only `configure_optimizers` uses."""

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

    `**kwargs` of a constructor are assumed to be passed on to the constructor of the next base class. If the
    class overrides `configure_optimizers`, only a constructor that names `optimizer` is assumed to use it.
    """

    def __init__(self, part: DictConfig) -> None:
        from lossselect.training.module import TaskModule

        check_part(part, "module")  # before the class is imported
        self.part, self.place = part, f"module._target_={part['_target_']}"
        self.cls = find_module_class(str(part["_target_"]))
        self.overrides_optimizers = self.cls.configure_optimizers is not TaskModule.configure_optimizers
        # the user's classes, without `TaskModule` and its bases
        bases = takewhile(lambda base: base is not TaskModule, self.cls.__mro__)
        constructors = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]
        self.accepted = [] if constructors else ["net"]  # by the user's constructors or through **kwargs
        self.required: list[str] = []
        for constructor in constructors:
            parameters = [*inspect.signature(constructor).parameters.values()][1:]
            named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            if not self.accepted:
                self.required = [p.name for p in named if p.default is p.empty]
            self.accepted += [p.name for p in named if p.name not in self.accepted]
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                return
        left_out = {"net", "num_features", *self.accepted, *(OPTIMIZERS if self.overrides_optimizers else ())}
        self.accepted += sorted(inspect.signature(TaskModule).parameters.keys() - left_out)

    def check(self, config: DictConfig, overrides: Iterable[str]) -> None:
        """Check `module.*`, and that no setting lacks an effect; needs no data.

        The scheduler and the initial bias are set to None unless they are passed to the class.

        Raises:
            ConfigError: an argument is unknown, missing or set by the run, or a setting has no effect.
        """
        names = [str(name) for name in self.part if name != "_target_"]
        if "task" not in self.accepted:
            raise ConfigError(
                f"{self.place}: the constructor must accept task, which follows from the data. Write "
                "def __init__(self, task, ..., **kwargs) and super().__init__(task, **kwargs)."
            )
        derived = [name for name in DERIVED if name in self.accepted and "_target_" not in config.data]
        for name in names:
            if name in derived:
                raise ConfigError(f"module.{name} cannot be set: it follows from the data. Remove it.")
            if name in ("task", "net", *SETTINGS):
                setting = {"net": "model"}.get(name, name)
                raise ConfigError(
                    f"module.{name} cannot be set: the run passes {name} itself. Set {setting}=... instead."
                )
        passed = {"task", "net", *SETTINGS, *derived}
        known = [name for name in self.accepted if name not in passed]
        check_options(names, known, self.place)
        if missing := [name for name in self.required if name not in {*names, *passed, *DERIVED}]:
            settings = " ".join(f"module.{name}=VALUE" for name in missing)
            raise ConfigError(f"{self.place} requires {', '.join(missing)}. Add {settings}.")
        chosen = _find_chosen(config, overrides)
        for name in chosen:
            parameter = {"model": "net"}.get(name, name)
            if parameter in self.accepted:
                continue
            why = "builds its net itself" if name == "model" else "does not accept it"
            fix = f"add {parameter} to the constructor and pass it to super().__init__"
            if name in OPTIMIZERS and self.overrides_optimizers:
                why, fix = "overrides configure_optimizers", f"{fix}, and call super().configure_optimizers()"
            raise ConfigError(f"{name} has no effect: {self.place} {why}. Remove {name}, or {fix}.")
        for name in {"scheduler", "bias_init"} - {*chosen, *self.required}:
            config[name] = None

    def build(
        self, arguments: Mapping[str, Any], config: DictConfig, overrides: Iterable[str], **derived: Any
    ) -> "TaskModule":
        """Return the module, built with the arguments of `TaskModule` and those that follow from the data.

        A setting is passed if it is in `overrides`, if a config file changes it, or if the constructor
        requires it. Others have the default of the class.

        Raises:
            ConfigError: the constructor raises an error, or there is no net.
        """
        import hydra

        from lossselect.training.checkpoints.load import bind_arguments
        from lossselect.training.classifier import Classifier
        from lossselect.training.module import TaskModule

        defaults = {*SETTINGS} - {*_find_chosen(config, overrides), *self.required}
        passed = [name for name in self.accepted if name not in defaults]
        values = {name: value for name, value in {**derived, **arguments}.items() if name in passed}
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
                text += f"The class sets {twice[1]} itself. Remove {twice[1]}. "
            raise ConfigError(text + TRACEBACK) from error
        if not has_net and self.cls.configure_model is TaskModule.configure_model:
            raise ConfigError(
                f"{self.place} has no net. Set self.net in the constructor, override forward, or add net to "
                "the constructor and pass it to super().__init__, to use the net of model=..."
            )
        return module


def _find_chosen(config: DictConfig, overrides: Iterable[str]) -> list[str]:
    """Return the settings in Hydra's overrides, and those that a config file changes, unless to None."""
    typed = {re.split(r"[.=@]", override.lstrip("+~"))[0] for override in overrides}
    train, settings = (_to_plain(part) for part in (packaged_config("", "train"), config))
    groups = {k: v for entry in train["defaults"] if isinstance(entry, dict) for k, v in entry.items()}

    def is_changed(name: str) -> bool:
        if name == "loss":  # its variants are not files
            return loss_options(settings[name]) != {"name": groups[name]}
        default = _to_plain(packaged_config(name, groups[name])) if name in groups else train[name]
        return settings.get(name) not in (None, default)

    return [name for name in ("model", *SETTINGS) if name in typed or is_changed(name)]


def _to_plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=False)  # T_max refers to another setting


def load_trained(
    checkpoint: str, content: Mapping[str, Any], target: str | None, evaluates: bool = False, **changed: Any
) -> Any:
    """Return the trained module of a checkpoint, a `Classifier` unless it `evaluates` or has its own class.

    Args:
        checkpoint: The path.
        content: The content of the checkpoint.
        target: The import path of a subclass of `TaskModule`, or None.
        evaluates: Whether a `TaskModule` is required, which imports Lightning.
        changed: Arguments of the module that replace those of the checkpoint.

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
        if not evaluates:
            return Classifier.load(checkpoint)
        from lossselect.training.module import TaskModule

        return TaskModule.load_from_checkpoint(checkpoint, **changed).eval()
    if os.getcwd() not in sys.path:  # last, so that its modules shadow no others
        sys.path.append(os.getcwd())
    cls = find_module_class(target, "module")
    if cls.__name__ != name:
        raise CheckpointError(f"{checkpoint} contains a {name}, got module={target}. Set module=my.{name}.")
    trained = content["class_module"]
    if trained not in (cls.__module__, "__main__"):
        warn(
            "other_module",
            f"{checkpoint} contains {trained}.{name}, got {cls.__module__}.{name}. If these are different "
            f"classes, the results are wrong: set module={trained}.{name}. If you have moved the class, "
            "ignore this warning.",
        )
    return cls.load_from_checkpoint(checkpoint, **changed).eval()
