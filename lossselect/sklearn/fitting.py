"""The estimator's features and labels, its settings for Lightning, and isolation of its random numbers."""

import inspect
import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.models.auto import check_spec, resolve_net
from lossselect.utils.checks import check_options, shorten
from lossselect.utils.warnings import ignore_warnings

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from torch import Tensor, device, nn

    from lossselect.data.preprocessing.scaling import Scale
    from lossselect.data.preprocessing.table_rows import TableRows
    from lossselect.data.splits import Splits
    from lossselect.tasks.registry import AnyTask

LISTS = (
    "scikit-learn's scores and splits require a matrix of 0 and 1. Convert lists of labels with "
    "sklearn.preprocessing.MultiLabelBinarizer().fit_transform(y)."
)
TRAINER_PARAMETERS = {
    "max_epochs": "max_epochs",
    "accelerator": "device",
    "devices": "device",
    "callbacks": "callbacks",
    "enable_progress_bar": "verbose",
    "limit_val_batches": "validation_fraction",
}
"""Arguments of the trainer that the estimator sets, and its parameters for them."""

# warnings about metrics of the held-out rows and about the initial bias, which the user did not request
SILENCED = ("duplicate_rows", "no_positives", "one_class", "no_head_bias")


def merge_entries(rows: Any) -> Any:
    """Return rows of X, as a canonical `scipy.sparse.csr_array` if they are sparse."""
    if not issparse(rows):
        return rows
    matrix = csr_array(rows)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return matrix


class FittedScaling(NamedTuple):
    """The scaling of X, fitted to the training rows.

    Args:
        mean: The means of the features (F,); 0 if X is sparse.
        scale: Their standard deviations (F,); their largest absolute values if X is sparse.
        scales: The scale of each feature.
        is_sparse: Whether X is sparse.
    """

    mean: np.ndarray
    scale: np.ndarray
    scales: "Sequence[Scale]"
    is_sparse: bool = False

    def transform(self, rows: Any) -> "Tensor | TableRows":
        """Return the float32 features of rows of X, the inputs of the net."""
        import torch

        from lossselect.data.preprocessing.scaling import Scaler, check_range
        from lossselect.data.preprocessing.sparse_features import SparseFeatures

        if issparse(rows):
            if not self.is_sparse:
                raise DataError("Expected a dense X as in fit, got a sparse matrix. Pass X.toarray().")
            return SparseFeatures(np.arange(len(self.scale)), self.scale).transform(rows, "X")[0]
        features = torch.from_numpy(Scaler(self.scales)(rows))
        check_range(features, range(features.shape[1]), owner=" of X")
        return features

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors for a checkpoint."""
        import torch

        moments = {"mean": torch.tensor(self.mean).float(), "std": torch.tensor(self.scale).float()}
        fields = [vars(scale) for scale in self.scales]
        return moments if all("std" in values for values in fields) else {"scales": fields}


def fit_scaling(train: Any, scaling: str) -> FittedScaling:
    """Return the scaling of X.

    Raises:
        ConfigError: an unknown scaling, or another one than "standard" for a sparse X.
    """
    from lossselect.data.preprocessing.scaling import Standard, Standardizer, fit_scales, sampled_rows

    if issparse(train):
        from sklearn.preprocessing import MaxAbsScaler

        if scaling != "standard":
            raise ConfigError(
                f"scaling={scaling!r} requires a dense X, got a sparse matrix, whose features are divided by "
                "their largest absolute value so that zeros stay zeros. Set scaling='standard', or pass "
                "X.toarray()."
            )
        largest = MaxAbsScaler().fit(train).scale_
        scales = [Standard(0.0, value) for value in largest.tolist()]
        return FittedScaling(np.zeros(train.shape[1]), largest, scales, is_sparse=True)
    standardizer = Standardizer(range(train.shape[1]), owner=" of X").partial_fit(train)
    sample = train[sampled_rows(np.arange(len(train)))]
    return FittedScaling(standardizer.mean, standardizer.scale, fit_scales(scaling, standardizer, sample.T))


def encode_labels(y: Any, task: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the task's name, class indices (N,) or 0/1 (N, L), and the classes or column numbers."""
    from lossselect.tasks.registry import TASKS

    try:
        values = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
    except ValueError:
        raise DataError(f"The rows of y are lists of different lengths. {LISTS}") from None
    _check_sortable(values)
    if values.dtype == object and values.ndim == 2 and values.shape[1] > 1:
        raise DataError(
            f"y has {values.shape[1]} columns, which are not numbers. If each of them is a task, set "
            f"task='several' and pass a table or a mapping. {LISTS}"
        )
    if task == "auto" or TASKS[task].kind != "multilabel":
        if values.dtype.kind == "f":
            assert_all_finite(values, input_name="y")
        check_classification_targets(y)
    # the part before "-" in multilabel-indicator and multiclass-multioutput
    name = type_of_target(y).partition("-")[0] if task == "auto" else task
    if TASKS[name].kind == "multilabel":
        if values.dtype.kind not in "biuf":  # names, or lists of them
            raise DataError(f"Expected y with 0 and 1, got an array of dtype {values.dtype}. {LISTS}")
        if values.ndim != 2:
            raise DataError(
                "task=multilabel requires y with 0 and 1 of shape (N, L), one column per label, got shape "
                f"{values.shape}."
            )
        return name, values.astype(np.float32), np.arange(values.shape[1])
    if values.ndim == 2 and values.shape[1] > 1:
        raise DataError(
            f"task={name} requires one label per row, got y of shape {values.shape}. If rows have several "
            "labels, set task=multilabel."
        )
    classes, indices = np.unique(column_or_1d(y, warn=True), return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            f"task={name} requires at least two classes, but y contains only 1 class: {classes[0]}. Pass "
            "rows of another class too."
        )
    if TASKS[name].kind == "binary" and len(classes) > 2:
        raise DataError(
            f"task=binary requires two classes, but y contains {len(classes)}: {shorten(classes.tolist())}. "
            "Set task=multiclass."
        )
    return name, indices, classes


def _check_sortable(values: np.ndarray) -> None:
    """Raise DataError for labels that cannot be sorted, such as None among names."""
    examples: dict[str, tuple[int, Any]] = {}
    for row, value in enumerate(values if values.dtype == object and values.ndim == 1 else ()):
        examples.setdefault(type(value).__name__, (row, value))
    try:
        sorted(value for _, value in examples.values())
    except TypeError:
        types = ", ".join(f"{kind} in row {row}" for kind, (row, _) in examples.items())
        raise DataError(
            f"The labels in y must have one type, so that they can be sorted, got {types}. Convert them to "
            "one type."
        ) from None


def net_name(net: Any) -> str:
    """Return the name of a net, "" for a function."""
    return str(net.get("name")) if isinstance(net, Mapping) else net if isinstance(net, str) else ""


def make_net(net: Any, splits: "Splits", task: "AnyTask") -> "nn.Module | dict[str, Any]":
    """Return the spec of a named net, or call the user's function."""
    from torch import nn

    if isinstance(net, nn.Module):
        raise OptionTypeError(
            "net must be a function that creates a new net for each fit, got a "
            f"{type(net).__name__}, which would keep its trained weights. Pass its class, or a function of "
            "(num_features, num_outputs)."
        )
    spec = {"name": net} if isinstance(net, str) else net
    if isinstance(spec, Mapping):
        if derived := {"num_features", "columns", "features"} & {*spec}:
            raise ConfigError(f"net cannot have {min(derived)}, which follows from X. Remove it.")
        check_spec(spec)
        return resolve_net(spec, task, splits, is_single=False)[0]
    if not callable(net):
        raise OptionTypeError(f"net must be a name, a dict with a name, or a function, got {net!r}.")
    made = net(splits.features.shape[1], task.num_outputs)
    if not isinstance(made, nn.Module):
        raise OptionTypeError(f"The function net must return a torch.nn.Module, got {type(made).__name__}.")
    return made


def check_goals(decision: Mapping[str, Any] | None, task: "AnyTask") -> None:
    """Raise ConfigError for options of the decision that do not fit the task, before training."""
    from lossselect.decision.fit import options_by_task
    from lossselect.tasks.task_names import naming_task

    for name, options in options_by_task(decision or {}, task).items():
        with naming_task(name):
            options.goal(task.tasks[name])


def check_decision(decision: Any, validation_fraction: float) -> dict[str, Any] | None:
    """Return the options of `fit_decision`; None if no decision is fitted."""
    from lossselect.decision.fit import decision_options

    if decision in (None, "tuned"):
        return {} if decision and validation_fraction else None
    if not isinstance(decision, Mapping):
        error = ConfigError if isinstance(decision, str) else OptionTypeError
        raise error(
            f"decision must be 'tuned', None or a mapping such as {{'metric': 'f1_macro'}}, got {decision!r}."
        )
    if not any(isinstance(value, Mapping) for value in decision.values()):  # by task, which are not known yet
        decision_options(**decision)
    if not validation_fraction:
        raise ConfigError(
            f"decision={dict(decision)} is fitted to held-out rows, but validation_fraction=0 holds out no "
            "rows. Set validation_fraction=0.15, or decision=None."
        )
    return dict(decision)


def check_trainer_settings(callbacks: Any, trainer_options: Any) -> None:
    """Raise an error for callbacks and options of the trainer that the estimator cannot use."""
    if callbacks is None and trainer_options is None:
        return
    from lightning.pytorch import Callback, Trainer

    if not isinstance(callbacks, Sequence | None) or not all(
        isinstance(c, Callback) for c in callbacks or ()
    ):
        raise OptionTypeError(f"callbacks must be a list of Lightning's callbacks, got {callbacks!r}.")
    if not isinstance(trainer_options, Mapping | None):
        raise OptionTypeError(
            "trainer_options must be a mapping of arguments of Lightning's Trainer, such as "
            f"{{'gradient_clip_val': 1.0}}, got {trainer_options!r}."
        )
    for name in trainer_options or ():
        if name in TRAINER_PARAMETERS:
            raise ConfigError(
                f"trainer_options cannot contain {name!r}. Set {TRAINER_PARAMETERS[name]} of the estimator."
            )
    known = [name for name in inspect.signature(Trainer).parameters if name not in TRAINER_PARAMETERS]
    check_options(trainer_options or (), known, "trainer_options")


def make_trainer(settings: Mapping[str, Any], callbacks: Sequence[Any]) -> "Trainer":
    """Return the trainer with these arguments; those that no config may set are not type-checked."""
    from lightning.pytorch.callbacks import Checkpoint

    from lossselect.run.settings import RESERVED
    from lossselect.run.trainer import build_trainer

    options = {name: value for name, value in settings.items() if name not in RESERVED}
    others = {name: value for name, value in settings.items() if name in RESERVED}
    saves = any(isinstance(callback, Checkpoint) for callback in callbacks)
    return build_trainer(options, **{"callbacks": [*callbacks], "enable_checkpointing": saves, **others})


def find_val_monitor(callbacks: Any, scheduler: Any) -> str | None:
    """Return the first metric of the held-out rows that a callback or a named scheduler monitors, or None."""
    monitors = [getattr(callback, "monitor", None) for callback in callbacks or ()]
    spec = scheduler if isinstance(scheduler, Mapping) else {"name": scheduler}
    if spec.get("name") == "ReduceLROnPlateau":
        monitors.append(spec.get("monitor", "val/loss"))
    return next((metric for metric in monitors if str(metric).startswith("val/")), None)


@contextmanager
def restore_random_state(seed: int, device: "device") -> Iterator[None]:
    """Seed all generators and silence Lightning; then restore generators, warning filters and loggers."""
    import torch
    from lightning.fabric.utilities.warnings import PossibleUserWarning

    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  # a custom net may use it
    cuda = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with ignore_warnings(*SILENCED), torch.random.fork_rng(devices=cuda):
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no")
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed_all(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
