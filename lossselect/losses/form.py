"""The form of a loss that a task takes, and the options that it has."""

from collections.abc import Mapping
from typing import Any

from lossselect.exceptions import ConfigError
from lossselect.losses.functional.dice import REGIONS
from lossselect.losses.registry import LOSSES, MODIFIERS, Formula, find_loss, formula_options, formula_takes
from lossselect.tasks.registry import Task
from lossselect.utils.checks import check_options


def select_formula(task: Task, name: str, options: Mapping[str, Any]) -> Formula:
    """The form of a loss that the task takes, where it has one and all of the options."""
    forms = find_loss(name)
    formula = forms.get(task.activation)
    if name == "one_vs_rest" and task.ordinal:
        raise ConfigError(
            "Loss 'one_vs_rest' has a sigmoid for each class, and ordered classes have outputs for what lies "
            "between them: task.ordinal=true takes the other softmax losses."
        )
    if formula is None:
        having = [other for other, its in LOSSES.items() if task.activation in its]
        raise ConfigError(
            f"Loss {name!r} has no {task.activation} form, which task={task.name} needs. "
            f"Losses for {task.name}: {', '.join(having)}."
        )
    if task.activation == "softmax" and "pos_weight" in options:
        raise ConfigError(
            f"pos_weight has no effect under softmax (task={task.name}), which has no negatives to weigh "
            "against. Give the classes their factors with weight."
        )
    takes = formula_takes(formula)
    if "known" in takes:
        unfit = {"pos_weight"} if name in REGIONS else {"pos_weight", "weight"}
        for option in unfit & options.keys():
            raise ConfigError(
                f"{option} is a factor of the loss of single labels, and loss {name!r} has none: it compares "
                "the labels of a row with each other, or the pixels of a region."
            )
    for option in options:
        others = [other for other, its in forms.items() if option in formula_options(its)]
        if others and task.activation not in others:
            raise ConfigError(
                f"{option} has no effect on the {task.activation} form of {name!r}, which task={task.name} "
                f"takes: only the {others[0]} form has it. For a factor per class use weight."
            )
    modifiers = [key for key in MODIFIERS if key != "pos_weight" or task.activation == "sigmoid"]
    allowed = [*formula_options(formula), *({"prior"} & takes), *modifiers, "reduction"]
    check_options(options, allowed, f"Loss {name!r} for task={task.name}")
    return formula


def drop_unset(task: Task, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Without a None for what another form has: in a config the group `loss` lists the options of all."""
    forms = find_loss(name)
    own = formula_options(forms[task.activation]) if task.activation in forms else {}
    others = {option for formula in forms.values() for option in formula_options(formula)} - set(own)
    return {key: value for key, value in options.items() if value is not None or key not in others}


def reject_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries whose value is not None."""
    return {key: value for key, value in values.items() if value is not None}
