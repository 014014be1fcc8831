"""The decision of a trained model as text: its description, and thresholds from the command line."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lossselect.exceptions import ConfigError
from lossselect.utils.checks import lookup, shorten

if TYPE_CHECKING:
    from lossselect.tasks.registry import AnyTask, Task

Source = str | Mapping[str, str]
"""The origin of a decision, or of that of each of several tasks."""
ENTRY = re.compile(r"""\s*(?:(['"])((?:\\.|(?!\1)[^\\])*)\1([^,]*)|([^,]*))(?:,|$)""", re.DOTALL)
"""An entry of a list: in quotes, perhaps with more text after them, or up to the next comma."""
OF_TASK = re.compile(r"""\s*([^{}\[\]]+?)\s*:\s*(\{[^}]*\}|\[[^\]]*\]|[^{}\[\]:,]+?)\s*(?:,|$)""")
"""An entry of a mapping by task: a name, and a list or mapping in brackets, or text up to the next comma."""


def split_list(text: str) -> list[str]:
    """Return the entries of a list such as [a, 'b, c'], with or without brackets, as Hydra parses them."""
    inner = text.strip().removeprefix("[").removesuffix("]")
    entries = []
    for match in ENTRY.finditer(inner):
        quote, quoted, rest, plain = match.groups()
        entry = plain.strip() if quote is None else re.sub(r"\\(.)", r"\1", quoted) + rest.strip()
        if quote or entry:
            entries.append(entry)
    return entries


def choose_decision(task: "AnyTask", source: "Source", threshold: str | None) -> "tuple[Any, Source]":
    """Return the task and the origin of its decision, which the command line changes by `threshold`.

    For several tasks, the origin is that of each task.
    """
    if threshold is None:
        return task, source
    changed, sources = change_threshold(task, threshold), task.by_task(source)
    parts = changed.tasks
    found = {
        name: old if parts[name] is task.tasks[name] else "set by threshold" for name, old in sources.items()
    }
    return changed, task.join_values(found)


def change_threshold(task: "AnyTask", text: str) -> "AnyTask":
    """Return the task with a threshold from the command line: one number, a list, or {name: number}.

    For several tasks, it is a mapping of such values by task.

    Raises:
        ConfigError: the task has no thresholds, or the text is not a threshold for it.
    """
    from lossselect.tasks.task_names import naming_task  # imports torch, which a help text does not need

    tasks = dict(task.tasks)
    if "" in tasks:
        return task.with_tasks({"": _change_threshold(tasks[""], text)})
    if (entries := split_by_task(text)) is None:
        raise ConfigError(
            f"For several tasks, threshold must be a mapping by task such as {{{next(iter(tasks))}: 0.3}}, "
            f"got {text!r}."
        )
    for name, value in entries.items():
        part = lookup(tasks, name, "task", " in threshold")
        with naming_task(name):
            tasks[name] = _change_threshold(part, value)
    return task.with_tasks(tasks)


def split_by_task(text: str) -> dict[str, str] | None:
    """Return the values of a mapping by task such as {sick: 0.3, tags: [0.2, 0.4]}; None for another text."""
    inner = text.strip()
    if not (inner.startswith("{") and inner.endswith("}")):
        return None
    entries, end = {}, 0
    inner = inner[1:-1]
    while end < len(inner):
        if (match := OF_TASK.match(inner, end)) is None:
            return None
        entries[match[1]], end = match[2], match.end()
    return entries


def _change_threshold(task: "Task", text: str) -> "Task":
    if task.threshold is None or task.top_k:
        raise ConfigError(
            f"threshold={text} has no effect: the model predicts {task.decision_rule()}, without a "
            "threshold. Remove threshold."
        )
    is_mapping = text.startswith("{")
    entries = split_list(text.removeprefix("{").removesuffix("}") if is_mapping else text)
    numbers = [entry.rpartition(":")[2] for entry in entries] if is_mapping else entries
    threshold: Any = [*map(_as_threshold, numbers or [text])]
    if is_mapping:
        values = dict(zip(task.output_names, thresholds(task), strict=True))
        for entry, number in zip(entries, threshold, strict=True):
            name = entry.rpartition(":")[0].strip()
            lookup(values, name, "label", " in threshold")
            values[name] = number
        threshold = [*values.values()]
    elif len(threshold) == 1 and not text.startswith("["):
        threshold = threshold[0]
    fields: dict[str, Any] = {"threshold": threshold}  # which not all tasks have
    return replace(task, **fields)


def _as_threshold(text: str) -> float:
    from lossselect.labels.values import as_number  # imports NumPy, which a help text does not need

    number = as_number(text)
    if number is None:
        raise ConfigError(
            f"threshold must be a number from 0 to 1, a list of numbers or {{name: number}}, got {text!r}."
        )
    return number


def thresholds(task: "Task") -> Sequence[float]:
    """Return the threshold of each output."""
    values = task.threshold
    return [float(values)] * len(task.output_names) if isinstance(values, int | float) else [*(values or ())]


def describe_decision(task: "AnyTask", source: "Source") -> str:
    """Return the thresholds, or the rule of a task without any, in one line; `source` is their origin.

    There is a line for each of several tasks, which may have different origins.
    """
    sources = task.by_task(source)
    lines = {name: _describe_decision(part, sources[name]) for name, part in task.tasks.items()}
    return "\n".join(f"{name}: {line}" if name else line for name, line in lines.items())


def _describe_decision(task: "Task", source: str) -> str:
    if task.threshold is None or task.top_k:
        return f"Decision ({source}): {task.decision_rule()}."
    pairs = zip(task.output_names, thresholds(task), strict=True)
    kind = "Threshold" if task.num_outputs == 1 else "Thresholds"
    return f"{kind} ({source}): {shorten([f'{name}: {value:.3g}' for name, value in pairs], 6)}."


def find_source(task: "AnyTask", base_task: "AnyTask | None") -> "Source":
    """Return the origin of the decision of a checkpoint, whose task before tuning is `base_task`."""
    starts = (base_task or task).tasks
    found: Source = task.join_values(
        {name: _find_source(part, starts[name]) for name, part in task.tasks.items()}
    )
    return found


def _find_source(task: "Task", start: "Task") -> str:
    if (task.threshold, task.prior_correction) != (start.threshold, start.prior_correction):
        return "tuned on the validation rows"
    return "default" if task.threshold in (None, 0.5) and not task.top_k else "set by the run"
