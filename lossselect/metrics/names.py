"""Names of the metrics of each kind of task, and parsing of a choice of metrics. Does not import torch."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.utils.checks import check_float, check_options, first_duplicate, lookup, shorten, suggestion

if TYPE_CHECKING:
    from lossselect.tasks.registry import Task

_COUNTED = ("precision", "recall", "specificity", "f_beta", "jaccard")
_PROBABILITIES = ("brier_score", "calibration_error")
_RANKINGS = ("auroc", "average_precision")
_MACRO = ("macro", "micro", "weighted", "none")
_MICRO = ("micro", "macro", "weighted", "none")

AVERAGES: dict[str, dict[str, tuple[str, ...]]] = {
    "binary": {
        **dict.fromkeys(_COUNTED, ("binary", *_MICRO)),
        **dict.fromkeys(("accuracy", "balanced_accuracy", "mcc", *_RANKINGS, *_PROBABILITIES), ()),
    },
    "multiclass": {
        "accuracy": _MICRO,
        **dict.fromkeys(_COUNTED, _MACRO),
        **dict.fromkeys(_RANKINGS, ("macro", "none")),
        **dict.fromkeys(("balanced_accuracy", "mcc", "accuracy_at_k", *_PROBABILITIES), ()),
        **dict.fromkeys(("quadratic_kappa", "mean_absolute_error"), ()),
    },
    "multilabel": {
        **dict.fromkeys(("accuracy", "hamming_distance"), _MICRO),
        **dict.fromkeys((*_COUNTED, "balanced_accuracy", "mcc"), _MACRO),
        **dict.fromkeys(_RANKINGS, ("macro", "none")),
        **dict.fromkeys(("exact_match", "precision_at_k", *_PROBABILITIES), ()),
        **dict.fromkeys(("ranking_loss", "coverage_error"), ()),
    },
}
"""Metrics by `Task.kind`, with the averages of each; the first one is that of the name without an average."""

SYNONYMS = {
    **dict.fromkeys(("iou", "jaccard_index"), "jaccard"),
    **dict.fromkeys(("miou", "mean_iou"), "jaccard_macro"),
    **dict.fromkeys(("dice", "f_score", "f1_score"), "f1"),
    **dict.fromkeys(("sensitivity", "tpr"), "recall"),
    "tnr": "specificity",
    "matthews_corrcoef": "mcc",
    "top_k_accuracy": "accuracy_at_k",
    "hamming_loss": "hamming_distance",
    "ap": "average_precision",
    "roc_auc": "auroc",
}
"""Names of metrics in other packages."""

RESERVED = ("loss", "default_decision")
_SHOWN = {
    "f_beta": ("f1", "f2", "f0.5"),
    "accuracy_at_k": ("accuracy_at_5",),
    "precision_at_k": ("precision_at_5",),
}
_PATTERN = re.compile(
    r"(?:f(?P<beta>\d+(?:\.\d+)?)|(?P<at>\w+_at_)(?P<k>[1-9]\d*)|(?P<base>\w+?))"
    r"(?:_(?P<average>micro|macro|weighted|none))?"
)


class MetricName(NamedTuple):
    """A built-in metric with its options."""

    log: str
    """The name under which it is logged, before the name of a class."""
    base: str
    """Its name in `AVERAGES`."""
    average: str | None
    number: float | None
    """Beta of `f_beta`, or k of a metric of the k highest outputs."""
    exclude: tuple[Any, ...]

    @property
    def per_class(self) -> bool:
        """True if there is a value for each class."""
        return self.average == "none"


def choose_metrics(
    task: "Task", spec: Any, exclude: Iterable[Any] = (), stage: str = "test"
) -> dict[str, Any]:
    """Return the metrics of a task by name, as `parse_metrics` does.

    Args:
        task: The task.
        spec: A choice of metrics, as in `make_metrics`; None, or only classes to exclude, for those of the
            task.
        exclude: Classes to exclude from all built-in metrics, in addition to those in `spec`.
        stage: "train", for which the task has fewer metrics; "val", which always includes the default
            monitor; or "test".
    """
    excluded = (*_as_classes(exclude), *_find_excluded(spec))
    if spec is None or (isinstance(spec, Mapping) and spec.keys() == {"exclude"}):
        names = task.train_metrics if stage == "train" else task.metric_names
        spec = [name for name in names if not excluded or can_exclude(task.kind, _split(task.kind, name)[0])]
    chosen = parse_metrics(task.kind, spec, excluded)
    if stage == "val" and task.monitor not in ("loss", *chosen):
        chosen |= parse_metrics(task.kind, task.monitor, excluded)
    return chosen


def can_exclude(kind: str, base: str) -> bool:
    """Return whether classes can be excluded from a metric, because it is an average over classes."""
    averages = AVERAGES[kind]
    return "binary" not in averages["f_beta"] and bool(averages[base] or base == "balanced_accuracy")


def parse_metrics(kind: str, spec: Any, excluded: Iterable[Any] = ()) -> dict[str, Any]:
    """Return chosen metrics by name: a `MetricName`, or the entry itself if it is not a built-in metric.

    Args:
        kind: `Task.kind`.
        spec: A choice of metrics, as in `make_metrics`.
        excluded: Classes to exclude from all built-in metrics.
    """
    excluded = tuple(excluded)
    chosen: dict[str, Any] = {}
    keys, logged = [], []
    for name, entry in _iterate(spec):
        if isinstance(entry, str | Mapping) and "_target_" not in entry:
            options = {"name": entry} if isinstance(entry, str) else dict(entry)
            key, parsed = _parse(kind, options, excluded)
            parsed = parsed if name is None else parsed._replace(log=name)
            key, entry = name or key, parsed
            logged.append(f"{parsed.log}/" if parsed.per_class else parsed.log)
        else:
            key = name or _check_log_name(_snake_case(entry))
            logged.append(key)
        chosen[key] = entry
        keys.append(key.replace(".", "_"))  # the name of a module must not contain a dot
    if (twice := first_duplicate(logged) or first_duplicate(keys)) is not None:
        raise ConfigError(
            f"metrics: several metrics are named {twice.rstrip('/')!r}. Remove one of them, or choose other "
            'names in a mapping such as {"first": ..., "second": ...}.'
        )
    return chosen


def _iterate(spec: Any) -> Iterator[tuple[str | None, Any]]:
    """Yield a name, or None if there is none, and a metric."""
    if isinstance(spec, Mapping) and not {"name", "_target_"} & spec.keys():
        for name, entry in spec.items():
            if name != "exclude":
                yield _check_log_name(name), _check_entry(entry, name)
    elif isinstance(spec, list | tuple):
        for entry in spec:
            yield from _iterate(entry)
    else:
        yield None, _check_entry(spec)


def _check_entry(entry: Any, name: str = "") -> Any:
    if isinstance(entry, str) or (isinstance(entry, Mapping) and {"name", "_target_"} & entry.keys()):
        return entry
    if isinstance(entry, type) or not callable(getattr(entry, "compute", None)):
        place = f"metrics: {name!r}" if name else "metrics"
        fix = f" Pass an object, such as {entry.__name__}(...)." if isinstance(entry, type) else ""
        raise OptionTypeError(
            f'{place} must be a name such as "f1_macro", a mapping with the key "name", or a '
            f"torchmetrics.Metric, got {entry!r}.{fix}"
        )
    return entry


def _check_log_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name) or name in RESERVED:
        raise ConfigError(
            f"metrics: {name!r} cannot be the name of a metric. Use letters, digits, '_' and '-', but not "
            f"{' or '.join(RESERVED)}."
        )
    return name


def _find_excluded(spec: Any) -> list[Any]:
    """Return the classes that mappings of metrics exclude."""
    if isinstance(spec, list | tuple):
        return [entry for part in spec for entry in _find_excluded(part)]
    if isinstance(spec, Mapping) and not {"name", "_target_"} & spec.keys():
        return list(_as_classes(spec.get("exclude", ())))
    return []


def _as_classes(exclude: Any) -> tuple[Any, ...]:
    if isinstance(exclude, str | Mapping) or not isinstance(exclude, Iterable):
        raise OptionTypeError(
            f"metrics: exclude must be a list of class names, such as ['background'], got {exclude!r}."
        )
    return tuple(exclude)


def _snake_case(metric: Any) -> str:
    """Return the name of a metric's class, such as multiclass_jaccard_index."""
    name = str(metric["_target_"]) if isinstance(metric, Mapping) else type(metric).__name__
    boundary = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    return re.sub(boundary, "_", name.rpartition(".")[2]).lower()


def _parse(kind: str, options: dict[str, Any], exclude: tuple[Any, ...]) -> tuple[str, MetricName]:
    """Return the name of a metric with its average, and the parsed metric."""
    name = options.pop("name")
    base, average, number = _split(kind, name)
    averages = AVERAGES[kind][base]
    has_options = [*(["average"] if averages else []), *(["beta"] if name == "f_beta" else []), "exclude"]
    check_options(options, has_options, f"Metric {name!r}")
    exclude = (*exclude, *_as_classes(options.get("exclude", ())))
    if name == "f_beta":
        if "beta" not in options:
            raise ConfigError('Metric \'f_beta\' requires beta. Set it, as in {"name": "f_beta", "beta": 2}.')
        number = check_float("beta", options["beta"], 0)
        name = f"f{number:g}"
    if average and options.get("average", average) != average:
        raise ConfigError(
            f"average={options['average']} contradicts the metric {name!r}. Remove one of them."
        )
    if "average" in options and not average:
        average = str(options["average"]).lower()  # None is "none", as in torchmetrics
        lookup(dict.fromkeys(averages), average, f"average of metric {name!r}")
        name += "" if average == "binary" else f"_{average}"
    average = average or (averages[0] if averages else None)
    log = name.removesuffix("_none") if average == "none" else name
    return name, MetricName(log, base, average, number, exclude)


def _split(kind: str, name: Any) -> tuple[str, str | None, float | None]:
    """Return the base, the average and the number in the name of a metric."""
    table = AVERAGES[kind]
    if isinstance(name, str) and (match := _PATTERN.fullmatch(name)):
        found = match.groupdict()
        base = "f_beta" if found["beta"] else f"{found['at']}k" if found["k"] else found["base"]
        number, average = found["beta"] or found["k"], found["average"]
        if base in table and (found["k"] or not base.endswith("_at_k")):
            if average is not None and average not in table[base]:
                has = f"Its averages: {', '.join(table[base])}." if table[base] else "Remove the average."
                raise ConfigError(
                    f"Metric {name.removesuffix(f'_{average}')!r} has no average {average!r}. {has}"
                )
            return base, average, None if number is None else float(number)
    raise _unknown(table, str(name))


def _unknown(table: Mapping[str, tuple[str, ...]], name: str) -> ConfigError:
    names = {base: _SHOWN.get(base, (base,)) for base in table}
    averaged = [shown for base in table if "weighted" in table[base] for shown in names[base]]
    known = [shown for base in table for shown in names[base]]
    stem = re.sub(r"_(micro|macro|weighted|none)$", "", name.lower())
    if stem in SYNONYMS:
        hint = f" It is called {SYNONYMS[stem] + name.lower().removeprefix(stem)!r} here."
    else:
        hint = suggestion(name, [*known, *(f"{base}_{average}" for base in averaged for average in _MICRO)])
    return ConfigError(
        f"Unknown metric {name!r}.{hint} Choose one of: {', '.join(known)}. These may end in _micro, _macro, "
        f"_weighted or _none (one value per class): {', '.join(averaged)}."
    )


def averages_both(task: "Task", name: MetricName) -> bool:
    """Return whether a metric is an average over both classes of a binary task."""
    return task.positive_name is not None and name.average not in (None, "binary")


def list_outputs(task: "Task", name: MetricName) -> list[str]:
    """Return the names under which a metric is logged."""
    if not name.per_class:
        return [name.log]
    keys = class_keys(task.names if averages_both(task, name) else task.output_names)
    kept = find_kept(task, name)
    return [f"{name.log}/{key}" for i, key in enumerate(keys) if kept is None or i in kept]


def find_kept(task: "Task", name: MetricName) -> tuple[int, ...] | None:
    """Return the indices of the classes that are not excluded; None if there is nothing to exclude."""
    if not name.exclude:
        return None
    if not can_exclude(task.kind, name.base):
        able = [base for base in AVERAGES[task.kind] if can_exclude(task.kind, base)]
        fix = f"These metrics support exclude: {', '.join(able)}." if able else "Remove exclude."
        raise ConfigError(f"Metric {name.log!r} does not support exclude for {task}. {fix}")
    places = {key: i for i, key in enumerate(task.names)}
    excluded = set()
    for entry in name.exclude:
        index = entry if isinstance(entry, int) and not isinstance(entry, bool) else places.get(str(entry))
        if index is None or not 0 <= index < len(places):
            raise ConfigError(
                f"Unknown class {entry!r} in exclude.{suggestion(str(entry), places)} Choose from: "
                f"{shorten(task.names)}."
            )
        excluded.add(index)
    if len(excluded) == len(places):
        raise ConfigError(f"Metric {name.log!r} excludes all classes. Keep at least one.")
    return tuple(i for i in places.values() if i not in excluded)


def class_keys(names: Iterable[str]) -> list[str]:
    """Return names of classes as distinct parts of the names of logged values."""
    keys: list[str] = []
    for i, name in enumerate(names):
        # loggers make files of names, and MLflow allows only these characters
        key = re.sub(r"[^\w .-]|\.\.+|^\.+|\.+$|^\s+|\s+$", "_", str(name)) or str(i)
        while key in keys:
            key += f"_{i}"
        keys.append(key)
    return keys
