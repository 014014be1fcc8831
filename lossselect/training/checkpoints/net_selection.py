"""Selection and weighting of the nets of an `Ensemble` by validation rows."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.functional import logsigmoid

from lossselect.data.batches import TensorBatches
from lossselect.data.datamodule import TensorData
from lossselect.decision.temperature import PRIOR, weight_shift
from lossselect.labels.values import IGNORE_INDEX
from lossselect.losses.loss import select_loss
from lossselect.losses.multi_loss import losses_by_task
from lossselect.models.ensemble import Ensemble
from lossselect.tasks.registry import AnyTask
from lossselect.utils.structure import DictOf, check_structure

MAX_ROWS = 20_000
"""Maximum number of validation rows on which the nets are compared, evenly spaced."""
MAX_LABELS = 50_000
"""Maximum number of labels whose likelihood is stored, of evenly spaced rows."""
MAX_LOGITS = 4_000_000
"""Maximum number of logits of a net that are in memory for the comparison."""
BATCH_ROWS, BATCH_VALUES = 2048, 1 << 24
"""Maximum numbers of rows and of features of a batch."""
TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 2.8)
PRIOR_LABELS = 0.5
"""The number of labels that count for equal weights."""
MIN_WEIGHT = 0.02
"""Nets with a lower weight are left out."""
WORST = -100.0
"""Log-likelihood of a label for which a net returns NaN."""


@dataclass
class NetEpoch:
    """A net after an epoch.

    Attributes:
        epoch: The number of the epoch, from 1.
        loss: The log loss on the validation rows, with a penalty for the temperature.
        temperature: The divisor of the logits at which the loss is lowest.
        log_likelihood: The log-likelihoods of validation labels, (rows, labels of a row).
        weights: The state of the net.
    """

    epoch: int
    loss: float
    temperature: float
    log_likelihood: Tensor
    weights: dict[str, Tensor]


EPOCH = {
    "epoch": int,
    "loss": float,
    "temperature": float,
    "log_likelihood": Tensor,
    "weights": DictOf(Tensor),
}
STATE = {
    "best": DictOf(EPOCH),
    "selected": DictOf(EPOCH),
    "label_weights": Tensor,
    "mixture": [float],
    "training": DictOf(Tensor),
}
"""Structure of the state of `NetSelection`."""


class Rows(NamedTuple):
    """Logits (nets, N, C), canonical target (N, ...) and sample weights (N,) of validation rows."""

    logits: Tensor
    target: Tensor
    weights: Tensor


class NetSelection(Callback):
    """Selects an epoch of each net of an `Ensemble`, and weights the nets.

    After each epoch, the log loss of each net is computed on validation rows of `TensorData`, with the best
    of several temperatures. The latest epoch is selected unless the best one has a likelihood that is higher
    by more than a standard error, because the best one is partly best by chance (the rule of Breiman,
    Friedman, Olshen and Stone, Classification and regression trees, 1984). The weights of the nets maximise
    the likelihood of the validation labels (see `mixture_weights`).

    Checkpoints contain the nets of the selected epochs, except those with save_weights_only=True, and so does
    the module after fit. Without validation rows, or if a `ModelCheckpoint` monitors a metric, which then
    selects the epoch, the nets keep equal weights and the weights in training.
    """

    def __init__(self) -> None:
        self.best: dict[str, NetEpoch] = {}
        self.selected: dict[str, NetEpoch] = {}
        self.label_weights = torch.empty(0)  # like the log-likelihoods; 0 where missing
        self.mixture: list[float] = []
        self._net: Ensemble | None = None
        self._resumed: dict[str, Tensor] = {}  # the weights in training when the checkpoint was saved

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._net = pl_module.net

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self._resumed:
            pl_module.net.load_state_dict(self._resumed)
            self._resumed = {}
        else:
            self.best, self.selected, self.mixture = {}, {}, []
            pl_module.net.reset_weights()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        rows = None if _monitors_metric(trainer) else _evaluate(trainer, pl_module)
        if rows is None:
            return
        shift = _find_shift(pl_module.task, pl_module.criterion)
        likelihood_of, known = _likelihood(pl_module.task, rows.target)
        weights, count = rows.weights[:, None] * known, max(round(known.sum().item()), 1)
        stored = slice(None, None, -(-weights.numel() // MAX_LABELS))
        self.label_weights = weights[stored].clone().cpu()  # a view would keep all rows in the checkpoint
        for (name, net), logits in zip(pl_module.net.nets.items(), rows.logits, strict=True):
            if shift is not None:
                logits = logits - logits.new_tensor(shift)
            loss, temperature = _lowest_loss(logits, likelihood_of, weights, count)
            likelihood = likelihood_of(logits / temperature)[stored].clone().cpu()
            state = {key: value.detach().clone() for key, value in net.state_dict().items()}
            latest = NetEpoch(trainer.current_epoch + 1, loss, temperature, likelihood, state)
            if name not in self.best or latest.loss < self.best[name].loss:
                self.best[name] = latest
            is_worse = _is_worse(latest, self.best[name], self.label_weights)
            self.selected[name] = self.best[name] if is_worse else latest
        self.mixture = mixture_weights(*self._labels())

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.selected:
            pl_module.net.load_state_dict(self._selected_state())

    def _labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-likelihoods of the known labels (labels, nets) and their weights (labels,)."""
        likelihood = torch.stack([epoch.log_likelihood for epoch in self.selected.values()], dim=-1)
        known = self.label_weights > 0
        return likelihood[known].double().numpy(), self.label_weights[known].double().numpy()

    def table(self) -> dict[str, list[Any]]:
        """Return the columns of a table of the nets and of their mixture; {} without a selection.

        The log loss is the mean over the known labels of the validation rows; for several tasks it is the
        mean of the means of the tasks, with their weights.
        """
        likelihood, weights = self._labels() if self.selected else (np.empty(0), np.empty(0))
        if not len(weights):
            return {}
        mixed = np.log(np.maximum(np.exp(likelihood) @ np.array(self.mixture), math.exp(WORST)))
        losses = [-float(np.average(column, weights=weights)) for column in (*likelihood.T, mixed)]
        return {
            "net": [*self.selected, "together"],
            "log_loss": losses,
            "epoch": [*(epoch.epoch for epoch in self.selected.values()), None],
            "weight": [*self.mixture, 1.0],
        }

    def _selected_state(self) -> dict[str, Tensor]:
        """Return the state of the `Ensemble` with the selected epoch of each net."""
        state = {
            f"nets.{name}.{key}": value
            for name, selected in self.selected.items()
            for key, value in selected.weights.items()
        }
        temperatures = [selected.temperature for selected in self.selected.values()]
        return state | {"weights": torch.tensor(self.mixture), "temperatures": torch.tensor(temperatures)}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self.selected:
            selected = {f"net.{key}": value for key, value in self._selected_state().items()}
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **selected}

    def state_dict(self) -> dict[str, Any]:
        """Return the epochs, and the weights in training, from which a resumed run continues."""
        if not self.selected or self._net is None:
            return {}
        epochs = {
            part: {name: dict(vars(epoch)) for name, epoch in getattr(self, part).items()}
            for part in ("best", "selected")
        }
        others = {"label_weights": self.label_weights, "mixture": self.mixture}
        return {**epochs, **others, "training": self._net.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the epochs, and the weights in training when the next fit starts."""
        check_structure(state_dict, STATE, "the state of NetSelection")
        for part in ("best", "selected"):
            epochs = {name: NetEpoch(**epoch) for name, epoch in state_dict[part].items()}
            setattr(self, part, epochs)
        self.label_weights, self.mixture = state_dict["label_weights"], state_dict["mixture"]
        self._resumed = state_dict["training"]


def mixture_weights(log_likelihood: np.ndarray, label_weights: np.ndarray | None = None) -> list[float]:
    """Return weights w >= 0 of K nets, which sum to 1, from log-likelihoods (labels, K) of labels.

    They maximise sum_i v_i log(sum_k w_k p_ik) + a / K sum_k log w_k, with weights v of the labels, scaled to
    a mean of 1, and a Dirichlet prior of a = 0.5 labels, by Newton's method. The problem is concave. Weights
    below 0.02 become 0.
    """
    count, width = log_likelihood.shape
    v = np.ones(count) if label_weights is None else label_weights / max(label_weights.sum(), 1e-300) * count
    likelihood = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True, initial=WORST))
    prior, total = PRIOR_LABELS / width, v.sum() + PRIOR_LABELS

    def objective(w: np.ndarray) -> float:
        # with this multiplier of the constraint, the maximum over all w > 0 has the sum 1
        return float(v @ np.log(likelihood @ w) + prior * np.log(w).sum() - total * w.sum())

    weights = np.full(width, 1 / width)
    for _ in range(100):
        mixed = likelihood @ weights
        gradient = v / mixed @ likelihood + prior / weights - total
        curvature = (likelihood.T * (v / mixed**2)) @ likelihood + np.diag(prior / weights**2)
        step = np.linalg.solve(curvature, gradient)
        if gradient @ step < 1e-9:
            break
        while (weights + step).min() <= 0 or objective(weights + step) < objective(weights):
            step = step / 2
        weights = weights + step
    weights = np.where(weights < MIN_WEIGHT, 0, weights)
    return [float(weight) for weight in weights / weights.sum()]


def _monitors_metric(trainer: Trainer) -> bool:
    monitors = (c.monitor for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
    return any(monitor not in (None, "epoch") for monitor in monitors)


def _evaluate(trainer: Trainer, module: Any) -> Rows | None:
    """Return the logits of each net on validation rows; None without such rows."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    batches = data.batches.get("val") if isinstance(data, TensorData) else None
    if not batches or trainer.limit_val_batches == 0:
        return None
    net: Ensemble = module.net
    was_training = net.training
    net.eval()
    parts = []
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for batch in _take_rows(batches, module.task.num_outputs):
            encoded = module._encode_batch(module._to_device(batch))
            logits = torch.stack([part(encoded.inputs) for part in net.nets.values()]).float()
            target = module._fit_target(encoded.target, logits[0])
            weights = logits.new_ones(len(target)) if encoded.weight is None else encoded.weight
            parts.append(Rows(logits, target, weights))
    net.train(was_training)
    return Rows(
        torch.cat([part.logits for part in parts], 1),
        torch.cat([part.target for part in parts]),
        torch.cat([part.weights for part in parts]),
    )


def _take_rows(batches: TensorBatches, num_outputs: int) -> Iterator[Any]:
    limit = max(1, min(MAX_ROWS, MAX_LOGITS // num_outputs))
    rows = torch.arange(0, len(batches), -(-len(batches) // limit))
    size = max(1, min(BATCH_ROWS, BATCH_VALUES // batches.inputs.shape[1]))
    for part in rows.split(size):
        yield batches[part]


def _lowest_loss(
    logits: Tensor, likelihood_of: Callable[[Tensor], Tensor], weights: Tensor, count: int
) -> tuple[float, float]:
    """Return the lowest log loss over `TEMPERATURES`, and the temperature.

    The loss contains the penalty PRIOR / 2 (1 / T - 1)^2, divided by the number of labels.

    Args:
        logits: The logits (N, C).
        likelihood_of: A function of logits that returns log-likelihoods (N, labels).
        weights: The weights of the labels, (N, labels).
        count: The number of known labels.
    """
    total = weights.sum().clamp(min=1e-12)
    losses = [
        PRIOR * (1 / t - 1) ** 2 / (2 * count) - (likelihood_of(logits / t) * weights).sum() / total
        for t in TEMPERATURES
    ]
    lowest = torch.stack(losses).min(0)
    return lowest.values.item(), TEMPERATURES[int(lowest.indices)]


def _find_shift(task: AnyTask, criterion: Any) -> np.ndarray | None:
    """Return the shift of the logits by the weights of the loss; see `weight_shift`."""
    losses, shifts, is_shifted = losses_by_task(criterion), [], False
    for name, part in task.tasks.items():
        shift = weight_shift(part, losses[name])
        if shift is None or len(shift) != part.num_outputs:
            shift = np.zeros(part.num_outputs)
        else:
            is_shifted = True
        shifts.append(shift)
    return np.concatenate(shifts) if is_shifted else None


def _likelihood(task: AnyTask, target: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return log-likelihoods of the labels of all tasks as a function of the logits, and weights.

    As in the loss, the sum of the weights of the labels of each task is proportional to the task's weight.
    """
    targets = task.split_target(target)
    parts = {name: _task_likelihood(part, targets[name]) for name, part in task.tasks.items()}
    counts = {name: weights.sum().clamp(min=1e-12) for name, (_, weights) in parts.items()}
    share = sum(counts.values()) / sum(task.task_weights.values())

    def likelihood(logits: Tensor) -> Tensor:
        return torch.cat([parts[name][0](part) for name, part in task.split_logits(logits).items()], 1)

    weights = {n: w * (task.task_weights[n] * share / counts[n]) for n, (_, w) in parts.items()}
    return likelihood, torch.cat([*weights.values()], 1)


def _task_likelihood(task: Any, target: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return log-likelihoods of the labels of each row as a function of the logits, and weights.

    Both are (N, labels). Weights are 0 where a label is missing. A soft label counts as one label for each
    class, weighted with its probability.
    """
    if target.is_floating_point() and bool(((target > 0) & (target < 1)).any()):
        weights = target if task.exclusive else torch.cat([target, 1 - target], 1)
        weights = weights.nan_to_num(0)

        def values(logits: Tensor) -> Tensor:
            scores = task.class_logits(logits)
            if task.exclusive:
                return scores.log_softmax(1)
            return torch.cat([logsigmoid(scores), logsigmoid(-scores)], 1)
    else:
        loss = select_loss(task, reduction="none")
        weights = (task.to_hard_labels(target) != IGNORE_INDEX).float()

        def values(logits: Tensor) -> Tensor:
            return -loss(logits, target)

    def likelihood(logits: Tensor) -> Tensor:
        return values(logits).reshape(len(logits), -1).nan_to_num(WORST).clamp(min=WORST)

    return likelihood, weights.reshape(len(target), -1)


def _is_worse(latest: NetEpoch, best: NetEpoch, label_weights: Tensor) -> bool:
    """Return whether the likelihood is lower than that of the best epoch by more than a standard error."""
    difference = (best.log_likelihood - latest.log_likelihood).double() * label_weights
    rows = label_weights.double().sum(1)
    used = rows > 0
    if not used.any():
        return False
    weights = rows[used] / rows.sum()
    difference = difference.sum(1)[used] / rows[used]
    mean = weights @ difference
    error = (weights.square() @ (difference - mean).square()).sqrt()
    return bool(mean > error)
