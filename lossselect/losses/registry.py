"""The table of losses, with a formula for each activation, and functions to select one and check its options.

A formula takes raw logits in float32 or wider and a target without missing labels, and returns the loss of
each element (sigmoid) or sample (softmax), in nats. It is linear in the target, so that `Loss` can apply
weights, smoothing and missing labels to all formulas in one place. A formula that compares labels or pixels
with each other is not linear: it takes the mask `known`, and also returns a mask of the losses that count.

To add a loss, add a module with its formulas and their table, `ROWS`, to `functional/`. The keyword arguments
of a formula are its options. The command line (which checks options before torch is imported) and the tests
read this table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from lossselect.exceptions import ConfigError
from lossselect.losses import functional
from lossselect.losses.functional.dice import REGIONS
from lossselect.utils.checks import check_options, suggestion

if TYPE_CHECKING:
    from lossselect.tasks.registry import Task

Formula = Callable[..., Any]


def _load_rows() -> dict[str, dict[str, Formula]]:
    """Return the rows of all modules in `functional`, cross_entropy first."""
    rows: dict[str, dict[str, Formula]] = {}
    for name in sorted(module.name for module in iter_modules(functional.__path__)):
        if not name.startswith("_"):
            rows |= import_module(f"{functional.__name__}.{name}").ROWS
    return {"cross_entropy": rows["cross_entropy"], **rows}


LOSSES: dict[str, dict[str, Formula]] = _load_rows()
"""Formulas of each loss by the activations that it supports."""

MODIFIERS: dict[str, Any] = {"weight": None, "pos_weight": None, "beta": None, "label_smoothing": 0.0}
"""Options that `Loss` applies to any formula that supports them, with their defaults."""

ALIASES = {
    "cross_entropy": "ce bce bcewithlogits bcewithlogitsloss binarycrossentropy bceloss crossentropyloss "
    "logloss nll nllloss",
    "focal": "focalloss sigmoidfocalloss",
    "asymmetric": "asl asymmetricloss",
    "poly1": "poly polyloss sce symmetriccrossentropy",
    "logit_adjusted": "balancedsoftmax logitadjustment la",
    "generalized_cross_entropy": "gce generalisedcrossentropy",
    "zlpr": "multilabelsoftmax multilabelcategoricalcrossentropy",
    "dice": "diceloss softf softdice softfloss",
    "one_vs_rest": "ovr bceperclass",
}
"""Other names of losses for suggestions, in lower case, with letters only."""


def unknown_loss_error(name: str, more: tuple[str, ...] = ()) -> str:
    """Return the message for an unknown name; the names in `more` are listed first."""
    hint = suggestion(str(name), LOSSES)
    letters = "".join(filter(str.isalpha, str(name))).lower()
    for loss, aliases in ALIASES.items():
        if letters in aliases.split():
            forms = ", BCE under sigmoid and CE under softmax" if loss == "cross_entropy" else ""
            hint = f" Here it is called {loss!r}; the task selects its form{forms}."
    return f"Unknown loss {name!r}.{hint} Choose one of: {', '.join((*more, *LOSSES))}."


def find_loss(name: str) -> dict[str, Formula]:
    """Return a row of the table; raise ConfigError for an unknown name."""
    if name == "auto":
        raise ConfigError(
            "Loss 'auto' is chosen from the training labels. Pass loss='auto' to TaskModule, or call "
            "select_loss(task, counts=counts, **suggest_loss(task, counts)[0])."
        )
    if not isinstance(name, str) or name not in LOSSES:
        raise ConfigError(unknown_loss_error(name))
    return LOSSES[name]


def formula_options(formula: Formula) -> dict[str, Any]:
    """Return the options of a formula, its keyword arguments, with their defaults."""
    parameters = inspect.signature(formula).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def formula_takes(formula: Formula) -> set[str]:
    """Return those of the arguments "known", "prior" and "weight" that a formula takes."""
    return {*inspect.signature(formula).parameters} - {*formula_options(formula)} - {"logits", "target"}


def row_options(name: str) -> dict[str, Any]:
    """Return all options of a loss with their defaults; None if the defaults of its forms differ."""
    defaults: dict[str, Any] = {}
    for formula in find_loss(name).values():
        for option, default in formula_options(formula).items():
            defaults[option] = default if defaults.get(option, default) == default else None
        if "prior" in formula_takes(formula):
            defaults["prior"] = None
    return {**defaults, **MODIFIERS}


def select_formula(
    task: Task, name: str, options: Mapping[str, Any], modifiers: Iterable[str]
) -> tuple[Formula, dict[str, Any]]:
    """Return the form of a loss for the task, and its checked options.

    A config lists the options of all forms of a loss, so options of another form are dropped if None.
    """
    forms = find_loss(name)
    formula = forms.get(task.activation)
    if name == "one_vs_rest" and task.ordinal:
        raise ConfigError(
            "Loss 'one_vs_rest' requires an output per class, but with task.ordinal=true the outputs are the "
            "boundaries between classes. Choose another softmax loss, or set task.ordinal=false."
        )
    if formula is None:
        fitting = ", ".join(loss for loss, forms in LOSSES.items() if task.activation in forms)
        raise ConfigError(
            f"Loss {name!r} has no {task.activation} form, which task={task.name} requires. "
            f"Set loss to one of: {fitting}."
        )
    supported, takes = formula_options(formula), formula_takes(formula)
    others = {key: kind for kind, form in forms.items() for key in formula_options(form).keys() - supported}
    options = {key: value for key, value in options.items() if value is not None or key not in others}
    names = [*options, *modifiers]
    if task.activation == "softmax" and "pos_weight" in names:
        raise ConfigError(
            f"pos_weight is not supported under softmax (task={task.name}), which has no negatives. Set "
            "weight, with a factor per class."
        )
    factors = {"pos_weight"} if name in REGIONS else {"pos_weight", "weight"}
    for option in names:
        if "known" in takes and option in factors:
            compared = "the pixels of a region" if name in REGIONS else "the labels of a row"
            raise ConfigError(
                f"Loss {name!r} does not support {option}: it compares {compared} with each other, and has "
                f"no per-label loss to weight. Remove {option}."
            )
        if option in others:
            raise ConfigError(
                f"{option} has no effect on the {task.activation} form of {name!r}, which task={task.name} "
                f"uses: only the {others[option]} form has it. Remove {option}; for a factor per class, set "
                "weight."
            )
    general = [key for key in MODIFIERS if key != "pos_weight" or task.activation == "sigmoid"]
    allowed = [*supported, *({"prior"} & takes), *general, "reduction"]
    check_options(names, allowed, f"Loss {name!r} for task={task.name}")
    return formula, options
