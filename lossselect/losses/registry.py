"""The losses: a formula for each activation, and the table that names them.

A formula takes raw logits in float32 or wider and a target without holes, and returns the loss of
each element (sigmoid) or of each sample (softmax), in nats. It is linear in the target: the loss of
a soft target is the mean of the hard targets' losses. That is what lets `Loss` apply weights,
smoothing and missing labels to all of them in one place. A formula that is not, because it compares
labels or pixels with each other, takes the mask `known` and says which of its losses count.

To add a loss, add a module to `functional/` with its formulas and their row, `ROWS`. Nothing else
needs to change: options are the formula's keyword arguments, and the command line and the tests read
the table.

torch is imported when a formula is called, so that the command line can check a loss's name and
options within a fraction of a second.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from lossselect.exceptions import ConfigError
from lossselect.losses import functional
from lossselect.utils.checks import suggestion

Formula = Callable[..., Any]


def _rows() -> dict[str, dict[str, Formula]]:
    """Return the rows of all modules of formulas; that of cross_entropy first, as it is the usual one."""
    rows: dict[str, dict[str, Formula]] = {}
    for module in sorted(iter_modules(functional.__path__), key=lambda module: module.name):
        if not module.name.startswith("_"):
            rows |= import_module(f"{functional.__name__}.{module.name}").ROWS
    return {"cross_entropy": rows["cross_entropy"], **rows}


LOSSES: dict[str, dict[str, Formula]] = _rows()
"""Every loss by name, with its formula for each activation that it has a form of."""

MODIFIERS: dict[str, Any] = {"weight": None, "pos_weight": None, "beta": None, "label_smoothing": 0.0}
"""Options that every loss takes, where they have a meaning for it, with their defaults."""

OTHER_NAMES = {
    **dict.fromkeys(
        ("ce", "bce", "bcewithlogits", "bcewithlogitsloss", "binarycrossentropy"), "cross_entropy"
    ),
    **dict.fromkeys(("bceloss", "crossentropyloss", "logloss", "nll", "nllloss"), "cross_entropy"),
    **dict.fromkeys(("focalloss", "sigmoidfocalloss"), "focal"),
    **dict.fromkeys(("asl", "asymmetricloss"), "asymmetric"),
    **dict.fromkeys(("poly", "polyloss", "sce", "symmetriccrossentropy"), "poly1"),
    **dict.fromkeys(("balancedsoftmax", "logitadjustment", "la"), "logit_adjusted"),
    **dict.fromkeys(("gce", "generalisedcrossentropy"), "generalized_cross_entropy"),
    **dict.fromkeys(("multilabelsoftmax", "multilabelcategoricalcrossentropy"), "zlpr"),
    **dict.fromkeys(("diceloss", "softf", "softdice", "softfloss"), "dice"),
    **dict.fromkeys(("ovr", "bceperclass"), "one_vs_rest"),
}
"""What people call them elsewhere, in small letters alone."""


def unknown_loss_error(name: str, more: tuple[str, ...] = ()) -> str:
    """The message for a name that the table lacks; `more` are listed before its own names."""
    meant = OTHER_NAMES.get("".join(filter(str.isalpha, str(name))).lower())
    if meant and name not in LOSSES:
        serves = "; it is BCE under sigmoid, CE under softmax" if meant == "cross_entropy" else ""
        return (
            f"There is no loss {name!r}. Here it is {meant!r}, in the form that the task takes{serves}. "
            f"Choose one of: {', '.join((*more, *LOSSES))}."
        )
    known = ", ".join((*more, *LOSSES))
    return f"There is no loss {name!r}.{suggestion(str(name), LOSSES)} Choose one of: {known}."


def find_loss(name: str) -> dict[str, Formula]:
    """A row of the table; ValueError for a name that has none, telling which was meant."""
    if name == "auto":
        raise ConfigError(
            "Loss 'auto' is chosen by the train labels: TaskModule(loss='auto'), or in a loop of your own "
            "select_loss(task, counts=counts, **suggest_loss(task, counts)[0])."
        )
    if not isinstance(name, str) or name not in LOSSES:
        raise ConfigError(unknown_loss_error(name))
    return LOSSES[name]


def formula_options(formula: Formula) -> dict[str, Any]:
    """A formula's keyword arguments with their defaults: the options of its row in the table."""
    parameters = inspect.signature(formula).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def formula_takes(formula: Formula) -> set[str]:
    """What `Loss` must give a formula beside logits and target: "known", "prior", "weight"."""
    parameters = inspect.signature(formula).parameters.values()
    return {p.name for p in parameters if p.default is p.empty} - {"logits", "target"}


def row_options(name: str) -> dict[str, Any]:
    """All options of a row of the table with their defaults; None where its forms' defaults differ."""
    defaults: dict[str, Any] = {}
    for formula in find_loss(name).values():
        for option, default in formula_options(formula).items():
            defaults[option] = default if defaults.get(option, default) == default else None
        if "prior" in formula_takes(formula):
            defaults["prior"] = None
    return {**defaults, **MODIFIERS}
