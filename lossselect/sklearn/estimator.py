"""scikit-learn's interface: `TaskClassifier` for `cross_val_score`, `GridSearchCV` and pipelines.

torch and Lightning are imported by `fit`. (Within this file, too, `sklearn` is scikit-learn.)
"""

import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
)

from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.labels.values import IGNORE_INDEX
from lossselect.sklearn.fitting import restore_random_state, task_for, usual_options
from lossselect.sklearn.labels import labels_of
from lossselect.utils.checks import check_float, check_int, lookup, split_name
from lossselect.utils.devices import parse_device

if TYPE_CHECKING:
    from torch import Tensor, device, nn

    from lossselect.data.splits import Splits
    from lossselect.tasks.registry import Task

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # before scikit-learn 1.6 it is a method

    def validate_data(estimator: Any, X: Any, **options: Any) -> Any:  # noqa: N803
        """As that of scikit-learn 1.6."""
        return estimator._validate_data(X, **options)


ROWS = 4096
"""How many rows are predicted at a time."""

STEPS = 16
"""Optimizer steps for each turn of Lightning's loop, which is faster; the weights are the same to the bit."""


class TaskClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A net for binary, multiclass or multilabel labels; head, loss and decision follow from the task.

    Defaults are those of `lossselect-train`, but that nothing is held out for a test: features are
    standardised by the rows that are trained on, AdamW's learning rate is annealed to 0 over the epochs, and
    the weights are those after the last one.

    Args:
        task: "binary", "multiclass", "multilabel", or "auto": what scikit-learn calls the labels.
        loss: A name of `LOSSES`, `{"name": "focal", "gamma": 1.0}` with options, "auto", or a callable; as
            `TaskModule` takes it. Classes are weighed by `{"name": "cross_entropy", "weight": "balanced"}`,
            by `"weight": {"cat": 2.0}`, and in binary and multilabel tasks by `"pos_weight": "auto"`.
        net: "mlp" or "linear", `{"name": "mlp", "hidden": [64]}` with options in place of the usual ones
            (`configs/model/mlp.yaml`), or a function or class that makes a module: called with the number of
            features and the number of outputs, it returns one whose outputs are raw logits.
        max_epochs: How often the net sees each row.
        batch_size: Rows a step.
        learning_rate: AdamW's, in the first epoch.
        weight_decay: AdamW's.
        validation_fraction: The share of the rows, in [0, 1), that are not trained on, but that the decision
            is fitted to. Where no decision is to be fitted, none are held out; at 0 none is fitted.
        decision: "tuned" for thresholds and temperature by default (thresholds for the expected F1 of
            multilabel tasks; of binary and multiclass ones only the temperature), `{"metric": "f1_macro"}`
            for other options of `fit_decision`; None for the threshold 0.5.
        random_state: Of the weights, the rows held out and the order of the others: a whole number, a
            `numpy.random.RandomState`, or None for a number drawn from NumPy's global generator. No other
            global generator is touched.
        device: "auto" for a GPU if there is one, "cpu", "cuda", "cuda:1", "mps".
        verbose: Whether there is a progress bar. Warnings (`LossSelectWarning`) are issued in any
            case; `lossselect.ignore_warnings(name)` silences them.

    Attributes:
        classes_: The labels that there are, sorted; for a matrix of labels the numbers of its columns.
        task_: The `Task` with what was fitted: `task_.threshold`, `task_.temperature`.
        module_: The trained `TaskModule`, on the CPU; takes standardised features.
        mean_, scale_: What features are standardised by, each (n_features,).
        n_features_in_, feature_names_in_: As in scikit-learn.
        n_iter_: How many epochs were trained.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.model_selection import cross_val_score
        >>> from lossselect.sklearn import TaskClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = TaskClassifier(max_epochs=20, learning_rate=0.01, random_state=0)
        >>> bool(cross_val_score(model, X, y, cv=3).mean() > 0.9)
        True
    """

    def __init__(
        self,
        task: str = "auto",
        *,
        loss: str | Mapping[str, Any] | Callable[..., Any] = "cross_entropy",
        net: str | Mapping[str, Any] | Callable[[int, int], "nn.Module"] = "mlp",
        max_epochs: int = 50,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        validation_fraction: float = 0.15,
        decision: str | Mapping[str, Any] | None = "tuned",
        random_state: Any = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.task = task
        self.loss = loss
        self.net = net
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.decision = decision
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _more_tags(self) -> dict[str, Any]:
        """The same for scikit-learn before 1.6."""
        return {"multilabel": True}

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Train on the rows of X.

        Args:
            X: Numbers of shape (N, F), without holes.
            y: A label of any value for each row; of a multilabel task 0 and 1 of shape (N, L), dense or
                sparse. With task="multilabel" NaN is a label that is not known, and counts in no loss.
            sample_weight: Of each row in the loss, (N,); a row of weight 0 is left out. The decision, the
                means of features and the shares of classes do not know weights.

        Raises:
            ValueError, TypeError: an argument that cannot be, data that cannot be trained on.
        """
        options = self._decision_options()
        if y is None:
            raise ConfigError("fit requires y to be passed, but the target y is None: give a label a row.")
        rows = validate_data(self, X, dtype=[np.float64, np.float32])
        name, labels, self.classes_ = labels_of(y, self.task)
        check_consistent_length(rows, labels)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, rows, dtype=np.float64)
        # not before the data are known to be such: it may draw a number
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        device = parse_device(self.device)
        with restore_random_state(seed, device):
            task = task_for(name, self.classes_)
            held_out = self.validation_fraction if options is not None else 0
            splits = self._splits(rows, labels, task, weights, held_out, seed)
            self._train(splits, task, options if held_out else None, seed, device)
        return self

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The class of each row, (N,); of a multilabel task 1 for each label that is there, (N, L).

        Decided by the thresholds that were fitted, so that it may be another one than the most probable.
        """
        logits = self._logits(X)
        decided = self.task_.predict(logits).numpy()
        missing = (decided == IGNORE_INDEX).reshape(len(decided), -1).any(1)
        if missing.any():
            raise DataError(
                f"The net returned NaN for {missing.sum()} of {len(missing)} rows of X (the first is row "
                f"{missing.argmax()}), so there is no class to predict. Check these rows for extreme values."
            )
        if self.task_.several_labels:
            return decided
        return self.classes_[decided.reshape(len(decided))]

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """float32 probabilities of the classes, (N, C); of a multilabel task of each label, (N, L)."""
        logits = self._logits(X)
        probabilities = self.task_.probabilities(logits).numpy()
        if self.task_.positive_name:
            # not 1 - p, which is 0 where p is all but 1
            negative = (-self.task_.log_odds(logits)).sigmoid()
            return np.hstack([negative.numpy(), probabilities])
        return probabilities

    def _decision_options(self) -> dict[str, Any] | None:
        """Options of `fit_decision`, None where nothing is to be fitted; all arguments are looked at."""
        from lossselect.decision.fit import decision_options
        from lossselect.tasks.registry import TASKS

        lookup({"auto": None, **TASKS}, self.task, "task")
        check_int("max_epochs", self.max_epochs, 1)
        check_int("batch_size", self.batch_size, 1)
        check_float("learning_rate", self.learning_rate, 0)
        check_float("weight_decay", self.weight_decay, 0)
        if check_float("validation_fraction", self.validation_fraction, 0, 1) == 1:
            raise ConfigError("validation_fraction must be below 1, as no row would be left to train on.")
        if self.decision is None:
            return None
        if isinstance(self.decision, str):
            if self.decision != "tuned":
                raise ConfigError(
                    f"decision must be 'tuned', options such as {{'metric': 'f1_macro'}} or None, got "
                    f"{self.decision!r}."
                )
            return {} if self.validation_fraction else None
        if not isinstance(self.decision, Mapping):
            raise OptionTypeError(
                f"decision must be 'tuned', a dict of options or None, got {self.decision!r}."
            )
        decision_options(**self.decision)
        if not self.validation_fraction:
            raise ConfigError(
                f"decision={dict(self.decision)} is fitted to rows that are held out, and "
                "validation_fraction=0 holds out none: say validation_fraction=0.15, or decision=None."
            )
        return dict(self.decision)

    def _splits(
        self,
        rows: np.ndarray,
        labels: np.ndarray,
        task: "Task",
        weights: np.ndarray | None,
        held_out: float,
        seed: int,
    ) -> "Splits":
        """The rows that count, standardised, those to train on and those held out."""
        import torch

        from lossselect.data.splits import Splits, feature_moments, split_rows
        from lossselect.losses.options import check_sample_weight

        counted = np.arange(len(rows))
        if weights is not None:
            check_sample_weight(torch.from_numpy(weights))
            counted = np.flatnonzero(weights)
            if not len(counted):
                raise DataError("The sample weights are all zero: nothing would be learned.")
        places = {"train": counted}
        if held_out:
            try:
                found = split_rows(labels[counted], {"val": held_out}, seed, task.names)
            except ValueError:
                raise DataError(
                    f"n_samples={len(counted)} are too few to hold out validation_fraction={held_out:g} of "
                    "them for the decision: give more rows, or decision=None."
                ) from None
            places = {split: counted[of] for split, of in found.items()}
        train = np.require(rows[places["train"]], np.float64, "W")
        mean, std = feature_moments(torch.from_numpy(train))
        if not bool(std.isfinite().all()):
            column = int((~std.isfinite()).nonzero()[0])
            raise DataError(
                f"The numbers of column {column} of X are so large that their standard deviation is none of "
                "float64: scale them.",
                column=str(column),
            )
        self.mean_, self.scale_ = mean.numpy(), std.numpy()
        return Splits(
            "X",
            self._standardised(rows),
            labels,
            task.names,
            {split: torch.from_numpy(of) for split, of in places.items()},
            {"mean": mean.float(), "std": std.float()},
            weights=None if weights is None else torch.from_numpy(weights).float(),
        )

    def _train(
        self,
        splits: "Splits",
        task: "Task",
        options: dict[str, Any] | None,
        seed: int,
        device: "device",
    ) -> None:
        """Fit the net, then the decision where there are options of it."""
        from lightning.fabric.plugins.environments.lightning import LightningEnvironment

        from lossselect.data.datamodule import TensorData
        from lossselect.run.trainer import build_trainer
        from lossselect.training.callbacks.progress import ProgressBar
        from lossselect.training.callbacks.steps_per_execution import StepsPerExecution
        from lossselect.training.module import TaskModule
        from lossselect.training.tune import tune_decision

        data = TensorData(splits, task, self.batch_size)
        data.seed = seed
        module = TaskModule(
            task,
            self._net(data.num_features, task.num_outputs),
            deepcopy(self.loss),  # one with weights of its own would be changed
            {"name": "AdamW", "lr": self.learning_rate, "weight_decay": self.weight_decay},
            {"name": "CosineAnnealingLR", "T_max": self.max_epochs},
            bias_init="prior",
        )
        module.set_label_counts(data.counts["train"])
        trainer = build_trainer(
            {
                "max_epochs": self.max_epochs,
                "accelerator": device.type,
                "devices": 1 if device.index is None else [device.index],
                # nothing is chosen by the rows held out, but the decision in the end
                "check_val_every_n_epoch": self.max_epochs + 1,
                "limit_val_batches": None if "val" in splits.rows else 0,
                "num_sanity_val_steps": 0,
                "enable_progress_bar": bool(self.verbose),
            },
            callbacks=[StepsPerExecution(STEPS), *([ProgressBar()] if self.verbose else [])],
            # else the variables of a SLURM job would have it wait for other processes
            plugins=[LightningEnvironment()],
            default_root_dir=tempfile.gettempdir(),  # in place of the working folder; nothing is written
        )
        try:
            trainer.fit(module, datamodule=data)
            if options is not None:
                tune_decision(trainer, module, datamodule=data, **options)
        except SystemExit as stopped:
            if isinstance(stopped.__context__, KeyboardInterrupt):  # Lightning would end a notebook's kernel
                raise KeyboardInterrupt from None
            raise
        self.n_iter_: int = trainer.current_epoch
        module.trainer = None
        self.module_ = module.cpu().eval()
        self.task_: Task = module.task

    def _net(self, num_features: int, num_outputs: int) -> "nn.Module | dict[str, Any]":
        """A net of ours as plain values, or what the user's function makes."""
        from torch import nn

        if isinstance(self.net, nn.Module):
            raise OptionTypeError(
                f"net must make a new net for each fit, but a {type(self.net).__name__} would go on from "
                "what it has learned: pass its class, or a function of (num_features, num_outputs)."
            )
        if isinstance(self.net, str | Mapping):
            spec = {"name": self.net} if isinstance(self.net, str) else self.net
            return {**usual_options(split_name(spec, "net")[0]), **spec, "num_features": num_features}
        if not callable(self.net):
            raise OptionTypeError(f"net must be a name, a dict with a name, or a function, got {self.net!r}.")
        made = self.net(num_features, num_outputs)
        if not isinstance(made, nn.Module):
            raise OptionTypeError(f"net must make a torch.nn.Module, got {type(made).__name__}.")
        return made

    def _standardised(self, rows: np.ndarray) -> "Tensor":
        """float32 features by the means of the train rows.

        Raises:
            ValueError: a number so far from them that float32 does not hold it.
        """
        import torch

        with np.errstate(over="ignore"):
            features = torch.from_numpy(((rows - self.mean_) / self.scale_).astype(np.float32))
        if not bool((finite := features.isfinite()).all()):
            row, column = (~finite).nonzero()[0].tolist()
            raise DataError(
                f"Row {row} of column {column} of X is too large: in units of the train rows' standard "
                "deviation it is no float32.",
                row=row,
                column=column,
            )
        return features

    def _logits(self, X: Any) -> "Tensor":  # noqa: N803
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        import torch

        features, device = self._standardised(rows), parse_device(self.device)
        module = self.module_.to(device).eval()
        try:
            with torch.inference_mode():
                return torch.cat([module(part.to(device)).cpu() for part in features.split(ROWS)])
        finally:
            module.cpu()
