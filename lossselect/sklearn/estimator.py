"""`TaskClassifier`, a scikit-learn estimator for `cross_val_score`, `GridSearchCV` and pipelines.

torch and Lightning are imported by `fit`. (The `sklearn` imported here is scikit-learn, not this package.)
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.labels.values import IGNORE_INDEX
from lossselect.models.auto import default_epochs
from lossselect.sklearn.fitting import (
    check_decision,
    check_goals,
    check_trainer_settings,
    find_val_monitor,
    fit_scaling,
    make_net,
    make_trainer,
    merge_entries,
    net_name,
    restore_random_state,
)
from lossselect.sklearn.targets import check_task_name, encode_target, mean_accuracy
from lossselect.utils.checks import check_float, check_int, check_positive

if TYPE_CHECKING:
    import torch
    from lightning.pytorch import Callback
    from torch import Tensor, nn

    from lossselect.data.splits import Splits
    from lossselect.tasks.registry import AnyTask

PREDICTION_BATCH_SIZE = 4096
MAX_VALUES = 1 << 26  # of a batch of sparse features, which becomes dense
STEPS_PER_EXECUTION = 16  # faster than 1, with bit-identical weights


@dataclass(eq=False, repr=False)
class TaskClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A neural network for binary, multiclass or multilabel tasks.

    Head, loss and decision follow from the task. The defaults are those of `lossselect-train` without a test
    split: several nets on standardised features, AdamW with a learning rate that is annealed to 0, and the
    last epoch of each net unless an earlier one is clearly better on held-out rows. As for most classifiers
    of scikit-learn, X consists of finite numbers: impute missing values and encode categories first.

    Args:
        task: "binary", "multiclass", "multilabel", or "auto" to use scikit-learn's `type_of_target`. For
            several tasks y is a mapping of labels by task, or with "several" a table with a column for each
            task; a mapping such as `{"tags": "multilabel"}` declares some of them. scikit-learn splits only
            tables, with a `cv` that does not stratify, such as `KFold(5)`.
        loss: A name of `LOSSES`, a mapping with options such as `{"name": "focal", "gamma": 1.0}`, "auto", or
            a callable, as in `TaskModule`. Class weights are options, such as `"weight": "balanced"` or
            `"weight": {"cat": 2.0}`, or `"pos_weight": "auto"` in binary and multilabel tasks.
        net: "auto" for several nets, trained together and weighted by the held-out rows; "mlp", "tabm" or
            "linear", a mapping with options such as `{"name": "mlp", "hidden": [64]}`, or a function or class
            that returns a module with raw logits for (num_features, num_outputs).
        scaling: Scaling of the features of a dense X: "standard", "robust" (median and quartiles) or
            "quantile" (to a normal distribution), as data.scaling.
        max_epochs: Number of epochs, >= 1, or "auto": 50, or up to 200 in small tables (500 steps).
        time_limit: Seconds of training after which it ends, > 0; fewer epochs are trained if not all fit into
            it. None for no limit.
        batch_size: Number of rows per step, >= 1.
        learning_rate: Initial learning rate of AdamW, >= 0.
        weight_decay: Weight decay of AdamW, >= 0.
        optimizer: The name of a class of torch.optim, a mapping such as `{"name": "SGD", "lr": 0.1}`, or a
            function of the parameters, as in `TaskModule`; None for AdamW with `learning_rate` and
            `weight_decay`.
        scheduler: "cosine" to anneal the learning rate to 0 over `max_epochs`, None for a constant one, or a
            name of torch.optim.lr_scheduler, a mapping or a function of the optimizer, as in `TaskModule`.
        callbacks: A list of Lightning's callbacks, such as `[EarlyStopping("val/loss")]`; each fit uses
            copies of them.
        trainer_options: A mapping of other arguments of Lightning's Trainer, such as
            `{"gradient_clip_val": 1.0}`.
        validation_fraction: Fraction of the rows, in [0, 1), that is held out to fit the decision and the
            weights of the nets of "auto", and for callbacks and schedulers that monitor a metric such as
            val/loss.
        decision: "tuned" for the defaults of `fit_decision` (thresholds for the expected F1, and temperature,
            in multilabel tasks; only the temperature in binary and multiclass tasks), a mapping with other
            options such as `{"metric": "f1_macro"}`, or None for the threshold 0.5 or most probable class.
        random_state: An integer, a `numpy.random.RandomState`, or None for a seed drawn from NumPy's global
            generator. The state of all other global generators is restored after `fit`.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for a GPU if one is available.
        verbose: Whether to show a progress bar.

    Attributes:
        classes_: The sorted class labels; for a multilabel task the column numbers of y. This and the results
            of `predict` and `predict_proba` are dicts by task if there are several.
        task_: The `Task` with the fitted decision: `task_.threshold`, `task_.temperature`.
        module_: The trained `TaskModule`, on the CPU; its inputs are scaled features.
        mean_, scale_: Mean and standard deviation of the features, each (n_features,); for a sparse X 0 and
            the largest absolute values.
        scaling_: The scaling; `scaling_.transform(X)` returns the inputs of `module_`.
        n_features_in_, feature_names_in_: As in scikit-learn.
        n_iter_: Number of training epochs.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.model_selection import cross_val_score
        >>> from lossselect.sklearn import TaskClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = TaskClassifier(max_epochs=20, learning_rate=0.01, random_state=0)
        >>> bool(cross_val_score(model, X, y, cv=3).mean() > 0.9)
        True
    """

    task: str | Mapping[str, str] = "auto"
    _: KW_ONLY
    loss: str | Mapping[str, Any] | Callable[..., Any] = "cross_entropy"
    net: "str | Mapping[str, Any] | Callable[[int, int], nn.Module]" = "auto"
    scaling: str = "standard"
    max_epochs: int | str = "auto"
    time_limit: float | None = None
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    optimizer: Any = None
    scheduler: Any = "cosine"
    callbacks: "Sequence[Callback] | None" = None
    trainer_options: Mapping[str, Any] | None = None
    validation_fraction: float = 0.15
    decision: str | Mapping[str, Any] | None = "tuned"
    random_state: Any = None
    device: str = "auto"
    verbose: bool = False

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Train on the rows of X.

        Args:
            X: Numbers of shape (N, F), dense or sparse, without missing values. Sparse features stay sparse
                until a batch, and are divided by their largest absolute value instead of standardised.
            y: A class label for each row, (N,); for a multilabel task 0 and 1 of shape (N, L), dense or
                sparse. With task="multilabel", NaN is a missing label, which the loss ignores. For several
                tasks a mapping or a table of these, in which NaN and None are missing labels.
            sample_weight: Weights >= 0 of the rows in the loss, (N,); rows of weight 0 are removed. Decision,
                the means of features and the class frequencies do not use weights.

        Returns:
            The fitted estimator itself.

        Raises:
            ConfigError, OptionTypeError: an invalid argument of the estimator.
            DataError: labels or weights that cannot be trained on.
            ValueError: raised by scikit-learn for invalid X or y, such as NaN in X.
        """
        from lossselect.utils.devices import parse_device

        options = self._decision_options()
        if y is None:
            raise ConfigError(
                "fit requires y to be passed, but the target y is None. Pass one label per row."
            )
        rows = merge_entries(validate_data(self, X, dtype=[np.float64, np.float32], accept_sparse="csr"))
        task, labels, self.classes_ = encode_target(y, self.task)
        check_goals(options, task)
        check_consistent_length(rows, labels)
        if sample_weight is not None:
            sample_weight = np.array(sample_weight, dtype=np.float64)
            if sample_weight.shape not in ((), rows.shape[:1]):
                raise DataError(
                    f"sample_weight must be a number or of shape ({rows.shape[0]},), got shape "
                    f"{sample_weight.shape}."
                )
            sample_weight = sample_weight + np.zeros(rows.shape[0])
            if not np.isfinite(sample_weight).all():
                raise DataError(
                    "sample_weight must be finite, but contains NaN or infinity. Remove these rows, or set "
                    "their weight to 0."
                )
        # after the checks of the data, because it may draw from the global generator
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        device = parse_device(self.device)
        with restore_random_state(seed, device):
            monitors = find_val_monitor(self.callbacks, self.scheduler)
            needs_rows = options is not None or monitors or net_name(self.net) == "auto"
            held_out = self.validation_fraction if needs_rows else 0
            splits = self._splits(rows, labels, task, sample_weight, held_out, seed)
            self._train(splits, task, options, seed, device)
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Predict the class of each row, (N,); for a multilabel task 0 or 1 for each label, (N, L).

        Predictions use the fitted thresholds, so they can differ from the most probable class.

        Raises:
            DataError: a row for which the net returns NaN.
            NotFittedError: `fit` has not been called.
        """
        found: dict[str, np.ndarray] = {}
        outputs = self._logits(X)
        classes = self.task_.by_task(self.classes_)
        for name, logits in outputs.items():
            task = self.task_.tasks[name]
            predicted = task.predict(logits).numpy()
            missing = (predicted == IGNORE_INDEX).reshape(len(predicted), -1).any(1)
            if missing.any():
                raise DataError(
                    f"The net returned NaN for {missing.sum()} of {len(missing)} rows of X (the first is row "
                    f"{missing.argmax()}), so no class can be predicted. Check these rows for extreme values."
                )
            is_matrix = task.several_labels
            found[name] = predicted if is_matrix else classes[name][predicted.reshape(len(predicted))]
        return self.task_.join_values(found)

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """Return float32 probabilities of the classes, (N, C); for a multilabel task of labels, (N, L)."""
        found: dict[str, np.ndarray] = {}
        for name, logits in self._logits(X).items():
            task = self.task_.tasks[name]
            found[name] = task.probabilities(logits).numpy()
            if task.positive_name:
                # not 1 - p, which would be 0 where p rounds to 1
                negative = (-task.log_odds(logits)).sigmoid()
                found[name] = np.hstack([negative.numpy(), found[name]])
        return self.task_.join_values(found)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """Return the accuracy of the predictions, of several tasks the mean of those of known labels."""
        if "" in self.task_.tasks:
            return float(super().score(X, y, sample_weight))
        return mean_accuracy(self.predict(X), y, sample_weight)

    def _decision_options(self) -> dict[str, Any] | None:
        """Check all arguments, and return the options of `fit_decision`; None if no decision is fitted."""
        check_task_name(self.task)
        if isinstance(self.max_epochs, str) and self.max_epochs != "auto":
            raise OptionTypeError(f"max_epochs must be auto or an integer >= 1, got {self.max_epochs!r}.")
        if self.max_epochs != "auto":
            check_int("max_epochs", self.max_epochs, 1)
        if self.time_limit is not None:
            check_positive("time_limit", self.time_limit)
        check_int("batch_size", self.batch_size, 1)
        check_float("learning_rate", self.learning_rate, 0)
        check_float("weight_decay", self.weight_decay, 0)
        for name, option in (("learning_rate", "lr"), ("weight_decay", "weight_decay")):
            value = getattr(self, name)
            if self.optimizer is not None and value != getattr(TaskClassifier, name):
                raise ConfigError(
                    f"{name}={value} has no effect, because optimizer is set. Set {option} in optimizer "
                    f"instead, or remove {name}."
                )
        check_trainer_settings(self.callbacks, self.trainer_options)
        if check_float("validation_fraction", self.validation_fraction, 0, 1) == 1:
            raise ConfigError("validation_fraction must be < 1, got 1: no row would be left to train on.")
        if not self.validation_fraction and (metric := find_val_monitor(self.callbacks, self.scheduler)):
            raise ConfigError(
                f"{metric} is monitored, but validation_fraction=0 holds out no rows. Set "
                "validation_fraction=0.15, or monitor train/loss."
            )
        return check_decision(self.decision, self.validation_fraction)

    def _splits(
        self, rows: Any, labels: np.ndarray, task: "AnyTask", weights: Any, held_out: float, seed: int
    ) -> "Splits":
        """Return the splits with standardised features; rows of weight 0 are in no split."""
        import torch

        from lossselect.data.splits import Splits, split_rows
        from lossselect.losses.options import check_sample_weight

        used = np.arange(rows.shape[0])
        if weights is not None:
            check_sample_weight(torch.from_numpy(weights))
            used = np.flatnonzero(weights)
            if not len(used):
                raise DataError(
                    "All sample weights are zero, so nothing would be learned. Pass at least one weight > 0."
                )
        indices = {"train": used}
        if held_out:
            try:
                split = split_rows(task.strata(labels)[used], {"val": held_out}, seed, task.names)
            except ValueError:
                raise DataError(
                    f"n_samples={len(used)} is too small to hold out validation_fraction={held_out:g} of the "
                    "rows. Pass more rows, or set validation_fraction=0."
                ) from None
            indices = {name: used[members] for name, members in split.items()}
        train = rows[indices["train"]].astype(np.float64)
        self.scaling_ = fit_scaling(train, self.scaling)
        self.mean_, self.scale_ = self.scaling_.mean, self.scaling_.scale
        return Splits(
            "X",
            self.scaling_.transform(rows),
            labels,
            task.names,
            {split: torch.from_numpy(index) for split, index in indices.items()},
            self.scaling_.to_dict(),
            weights=None if weights is None else torch.from_numpy(weights).float(),
            known_task=task,
        )

    def _train(
        self,
        splits: "Splits",
        task: "AnyTask",
        options: dict[str, Any] | None,
        seed: int,
        device: "torch.device",
    ) -> None:
        import torch
        from lightning.fabric.plugins.environments.lightning import LightningEnvironment

        from lossselect.data.datamodule import TensorData
        from lossselect.training.callbacks.progress import ProgressBar
        from lossselect.training.callbacks.steps_per_execution import StepsPerExecution
        from lossselect.training.callbacks.time_limit import TimeLimit
        from lossselect.training.module import TaskModule
        from lossselect.training.tune import tune_decision

        data = TensorData(splits, task, self.batch_size)
        data.seed = seed
        optimizer = {"name": "AdamW", "lr": self.learning_rate, "weight_decay": self.weight_decay}
        optimizer["fused"] = "auto"
        epochs: Any = self.max_epochs
        net = make_net(self.net, splits, task)
        if epochs == "auto":
            epochs = default_epochs(net, splits, self.batch_size)
        cosine = {"name": "CosineAnnealingLR", "T_max": epochs}
        module = TaskModule(
            task,
            net,
            deepcopy(self.loss),  # it may have parameters, which training would change
            optimizer if self.optimizer is None else self.optimizer,
            cosine if self.scheduler == "cosine" else self.scheduler,
            bias_init="prior",
        )
        module.set_label_counts(data.counts["train"])
        callbacks = [*deepcopy(self.callbacks or ()), *([ProgressBar()] if self.verbose else [])]
        is_default = not self.callbacks and not self.trainer_options and self.scheduler in ("cosine", None)
        if self.time_limit is not None:
            callbacks.append(TimeLimit(self.time_limit))
        if is_default and isinstance(splits.features, torch.Tensor):
            callbacks.append(StepsPerExecution(STEPS_PER_EXECUTION))
        settings = {
            "max_epochs": epochs,
            "accelerator": device.type,
            "devices": 1 if device.index is None else [device.index],
            # by default the held-out rows are only used for the decision, after training
            "check_val_every_n_epoch": epochs + 1 if is_default else 1,
            "limit_val_batches": None if "val" in splits.rows else 0,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": bool(self.verbose),
            # otherwise Lightning would wait for the other processes of a SLURM job
            "plugins": [LightningEnvironment()],
            "default_root_dir": tempfile.gettempdir(),  # nothing is written
            **deepcopy(self.trainer_options or {}),
        }
        trainer = make_trainer(settings, callbacks)
        try:
            trainer.fit(module, datamodule=data)
            if options is not None:
                tune_decision(trainer, module, datamodule=data, **options)
        except SystemExit as stopped:
            # raised by Lightning; SystemExit would end the kernel of a notebook
            if isinstance(stopped.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        self.n_iter_: int = trainer.current_epoch
        module.trainer = None
        self.module_ = module.cpu().eval()
        self.task_: AnyTask = module.task

    def _logits(self, X: Any) -> "dict[str, Tensor]":  # noqa: N803
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=[np.float64, np.float32], accept_sparse="csr")
        import torch

        from lossselect.utils.devices import parse_device

        features = self.scaling_.transform(merge_entries(rows))
        size = max(1, min(PREDICTION_BATCH_SIZE, MAX_VALUES // features.shape[1]))
        device = parse_device(self.device)
        module = self.module_.to(device).eval()
        try:
            with torch.inference_mode():
                parts = torch.arange(len(features)).split(size)
                logits = torch.cat([module.compute_logits(features[part].to(device)).cpu() for part in parts])
                return self.task_.split_logits(logits)
        finally:
            module.cpu()
