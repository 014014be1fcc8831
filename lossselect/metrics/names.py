"""Names of the metrics of each kind of task, and parsing of a choice of metrics. Does not import torch."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.utils.checks import check_float, check_options, shorten, suggestion

if TYPE_CHECKING:
    from lossselect.tasks.registry import Task

_COUNTED = ("precision", "recall", "specificity", "f_beta", "jaccard")
_PROBABILITIES = ("brier_score", "calibration_error")
_RANKINGS = ("auroc", "average_precision")
_MACRO = ("macro", "micro", "weighted", "none")
_MICRO = ("micro", "macro", "weighted", "none")
_BINARY = ("binary", *_MICRO)

AVERAGES: dict[str, dict[str, tuple[str, ...]]] = {
    "binary": {
        **dict.fromkeys(_COUNTED, _BINARY),
        **dict.fromkeys(("accuracy", "balanced_accuracy", "mcc", *_RANKINGS, *_PROBABILITIES), ()),
    },
    "multiclass": {
        "accuracy": _MICRO,
        **dict.fromkeys(_COUNTED, _MACRO),
        **dict.fromkeys(_RANKINGS, ("macro", "none")),
        "balanced_accuracy": ("macro",),
        **dict.fromkeys(("mcc", "accuracy_at_k", *_PROBABILITIES), ()),
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
    **dict.fromkeys(("top_k_accuracy", "topk_accuracy", "accuracy_top_k", "accuracy_topk"), "accuracy_at_k"),
    "hamming_loss": "hamming_distance",
    "ap": "average_precision",
    "roc_auc": "auroc",
}
"""Names of metrics in other packages."""

RESERVED = ("loss", "default_decision")


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
    both: bool
    """True if it is an average over both classes of a binary task."""

    @property
    def per_class(self) -> bool:
        """True if there is a value for each class."""
        return self.average == "none"


def choose_metrics(
    task: "Task", spec: Any, exclude: Iterable[Any] = (), stage: str = "test"
) -> dict[str, Any]:
    """Return chosen metrics by name: a `MetricName`, or the entry itself if it is not a built-in metric.

    Args:
        task: The task.
        spec: A choice of metrics, as in `make_metrics`; None, or only classes to exclude, for those of the
            task.
        exclude: Classes to exclude from all built-in metrics, in addition to those in `spec`.
        stage: "train", for which the task has fewer metrics; "val", which always includes the default
            monitor; or "test".
    """
    excluded = [*_as_classes(exclude)]
    entries = _flatten(spec, excluded)
    if spec is None or (isinstance(spec, Mapping) and spec.keys() == {"exclude"}):
        defaults = task.train_metrics if stage == "train" else task.metric_names
        able = _excludable(task)
        entries = [(None, name) for name in defaults if not excluded or split_name(name)[0] in able]
    chosen: dict[str, Any] = {}
    taken: set[str] = set()
    for name, entry in entries:
        key, metric = _parse(task.kind, name, entry, excluded)
        logged = f"{metric.log}/" if isinstance(metric, MetricName) and metric.per_class else key
        names = {key.replace(".", "_"), logged}  # the name of a module must not contain a dot
        if twice := taken & names:
            raise ConfigError(
                f"metrics: several metrics are named {twice.pop().rstrip('/')!r}. Remove one of them, or "
                'choose other names in a mapping such as {"first": ..., "second": ...}.'
            )
        taken |= names
        chosen[key] = metric
    if stage == "val" and task.monitor not in ("loss", *chosen):
        chosen |= choose_metrics(task, task.monitor, excluded)
    return chosen


def _flatten(spec: Any, excluded: list[Any]) -> list[tuple[str | None, Any]]:
    """Return the metrics with their names, or None; add the classes of "exclude" to `excluded`."""
    if isinstance(spec, list | tuple):
        return [pair for part in spec for pair in _flatten(part, excluded)]
    if not isinstance(spec, Mapping) or {"name", "_target_"} & spec.keys():
        return [(None, spec)]
    excluded += _as_classes(spec.get("exclude", ()))
    return [(_check_log_name(name), entry) for name, entry in spec.items() if name != "exclude"]


def _as_classes(exclude: Any) -> tuple[Any, ...]:
    if isinstance(exclude, str | Mapping) or not isinstance(exclude, Iterable):
        raise OptionTypeError(
            f"metrics: exclude must be a list of class names, such as ['background'], got {exclude!r}."
        )
    return tuple(exclude)


def _check_log_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name) or name in RESERVED:
        raise ConfigError(
            f"metrics: {name!r} cannot be the name of a metric. Use letters, digits, '_' and '-', but not "
            f"{' or '.join(RESERVED)}."
        )
    return name


def _parse(kind: str, name: str | None, entry: Any, excluded: Iterable[Any]) -> tuple[str, Any]:
    """Return the name of an entry, and a `MetricName`, or the entry if it is not a built-in metric."""
    match entry:
        case {"_target_": target}:
            cls = str(target)
        case str() | {"name": _}:
            return _parse_built_in(kind, name, entry, excluded)
        case object(compute=_) if not isinstance(entry, type):
            cls = type(entry).__name__
        case _:
            place = f"metrics: {name!r}" if name else "metrics"
            fix = f" Pass an object, such as {entry.__name__}(...)." if isinstance(entry, type) else ""
            raise OptionTypeError(
                f'{place} must be a name such as "f1_macro", a mapping with the key "name", or a '
                f"torchmetrics.Metric, got {entry!r}.{fix}"
            )
    boundary = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    return name or _check_log_name(re.sub(boundary, "_", cls.rpartition(".")[2]).lower()), entry


def _parse_built_in(
    kind: str, log: str | None, entry: str | Mapping[str, Any], excluded: Iterable[Any]
) -> tuple[str, MetricName]:
    options = {"name": entry} if isinstance(entry, str) else {**entry}
    given = name = str(options.pop("name"))
    base, average, number = split_name(name)
    if base not in AVERAGES[kind] or (number is None and base.endswith("_at_k")):
        raise _unknown(kind, name)
    if number is None and base == "f_beta":
        if "beta" not in options:
            raise ConfigError('Metric \'f_beta\' requires beta. Set it, as in {"name": "f_beta", "beta": 2}.')
        number = check_float("beta", options.pop("beta"), 0)
        name = name.replace("f_beta", f"f{number:g}")
    if "average" in options:
        option = str(options.pop("average")).lower()  # None is "none", as in torchmetrics
        if average not in (None, option):
            raise ConfigError(f"average={option} contradicts the metric {given!r}. Remove one of them.")
        name += f"_{option}" if average is None else ""
        average = option
    averages = AVERAGES[kind][base]
    if average is not None and average not in averages:
        has = f"Its averages: {', '.join(averages)}." if averages else "Remove the average."
        raise ConfigError(f"Metric {name.removesuffix(f'_{average}')!r} has no average {average!r}. {has}")
    if "top_k" in options and f"{base}_at_k" in AVERAGES[kind]:
        at_k = f"{base}_at_{options['top_k']}"
        raise ConfigError(f"Metric {given!r} has no option 'top_k'. Choose {at_k!r} instead.")
    exclude = (*excluded, *_as_classes(options.pop("exclude", ())))
    check_options(options, ["average", "exclude"], f"Metric {given!r}")
    average = average or (averages[0] if averages else None)
    both = "binary" in averages and average != "binary"
    name = log or name.removesuffix("_binary")
    return name, MetricName(log or name.removesuffix("_none"), base, average, number, exclude, both)


def split_name(name: str) -> tuple[str, str | None, float | None]:
    """Return the base, the average and the number in a name: f_beta, macro and 2 for "f2_macro"."""
    stem, _, last = name.rpartition("_")
    stem, average = (stem, last) if last in _BINARY else (name, None)
    if re.fullmatch(r"f(0|[1-9]\d*)(\.\d+)?", stem):
        return "f_beta", average, float(stem[1:])
    if match := re.fullmatch(r"(\w+_at_)([1-9]\d*)", stem):
        return f"{match[1]}k", average, float(match[2])
    return stem, average, None


def _unknown(kind: str, name: str) -> ConfigError:
    def show(bases: Iterable[str]) -> str:
        return ", ".join(bases).replace("f_beta", "f1, f2, f0.5").replace("_at_k", "_at_5")

    known = show(AVERAGES[kind])
    averaged = show(base for base, averages in AVERAGES[kind].items() if "weighted" in averages)
    names = [f"{base}_{average}" for base in averaged.split(", ") for average in _MICRO]
    hint = suggestion(name, [*known.split(", "), *names])
    stem, average, _ = split_name(name.lower())
    k = "".join(filter(str.isdigit, stem))  # of top_3_accuracy
    synonym = SYNONYMS.get(stem) or SYNONYMS.get(stem.replace(k, "k", 1), "")
    if split_name(synonym)[0] in AVERAGES[kind]:
        here = synonym.replace("_at_k", f"_at_{k or 5}") + (f"_{average}" if average else "")
        hint = f" It is called {here!r} here."
    return ConfigError(
        f"Unknown metric {name!r}.{hint} Choose one of: {known}. These may end in _micro, _macro, "
        f"_weighted or _none (one value per class): {averaged}."
    )


def _excludable(task: "Task") -> list[str]:
    """Return the metrics that are averages over classes, from which classes can be excluded."""
    averages = AVERAGES[task.kind]
    return [base for base in averages if averages[base] and task.positive_name is None]


def list_outputs(task: "Task", name: MetricName) -> list[str]:
    """Return the names under which a metric is logged."""
    if not name.per_class:
        return [name.log]
    keys = class_keys(task.names if name.both else task.output_names)
    kept = find_kept(task, name)
    return [f"{name.log}/{key}" for i, key in enumerate(keys) if kept is None or i in kept]


def find_kept(task: "Task", name: MetricName) -> tuple[int, ...] | None:
    """Return the indices of the classes that are not excluded; None if there is nothing to exclude."""
    if not name.exclude:
        return None
    if name.base not in (able := _excludable(task)):
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


def metrics_by_task(metrics: Any, task: Any) -> Mapping[str, Any]:
    """Return the choice of metrics of each task of a `MultiTask`: one for all, or by task.

    Raises:
        ConfigError: metrics of an unknown task.
    """
    from lossselect.tasks.task_names import spread  # imports torch

    by_task = isinstance(metrics, Mapping) and any(
        name in task.tasks or (isinstance(entry, list | tuple) and name != "exclude")
        for name, entry in metrics.items()
    )
    return spread(task, metrics, "metrics") if by_task else dict.fromkeys(task.tasks, metrics)
