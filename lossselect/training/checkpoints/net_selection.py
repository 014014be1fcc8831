"""Selection and weighting of the nets of an `Ensemble` by validation rows."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lossselect.data.batches import TensorBatches
from lossselect.data.datamodule import TensorData
from lossselect.losses.loss import select_loss
from lossselect.models.ensemble import Ensemble

MAX_ROWS = 20_000
"""Maximum number of validation rows on which the nets are compared, evenly spaced."""
MAX_OUTPUTS = 4_000_000
"""Maximum number of logits of a net that are in memory for the comparison."""
MAX_LABELS = 50_000
"""Maximum number of labels whose likelihood determines the weights, evenly spaced."""
BATCH_SIZE = 2048
TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 2.8)
PRIOR = 30.0
"""The precision of the prior of 1 / T, in nats, as in `decision.temperature`."""
UNIFORM = 0.5
"""The number of labels that count for equal weights."""
MIN_WEIGHT = 0.02
"""Nets with a lower weight are left out."""


@dataclass
class NetEpoch:
    """A net after an epoch.

    Attributes:
        epoch: The number of the epoch, from 1.
        loss: The loss on the validation rows.
        temperature: The temperature of the logits at which the loss is lowest.
        log_likelihood: The log-likelihoods of validation labels, (rows, labels of a row).
        weights: The state of the net.
    """

    epoch: int
    loss: float
    temperature: float
    log_likelihood: Tensor
    weights: dict[str, Tensor]


class Rows(NamedTuple):
    """Logits (nets, N, C), canonical target and sample weights of validation rows."""

    logits: Tensor
    target: Tensor
    weight: Tensor | None


class NetSelection(Callback):
    """Selects an epoch of each net of an `Ensemble`, and weights the nets.

    After each epoch, the loss of each net is computed on validation rows of `TensorData`, with the best of
    several temperatures. The latest epoch is selected unless the best one has a likelihood that is higher by
    more than a standard error, because the best one is partly best by chance (the rule of Breiman, Friedman,
    Olshen and Stone, Classification and regression trees, 1984). The weights of the nets maximise the
    likelihood of the validation labels (see `mixture_weights`).

    Checkpoints contain the nets of the selected epochs, and so does the module after fit. Without validation
    rows, the nets of the last epoch are kept with equal weights.
    """

    def __init__(self) -> None:
        self.best: dict[str, NetEpoch] = {}
        self.selected: dict[str, NetEpoch] = {}
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

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        rows = _evaluate(trainer, pl_module)
        if rows is None:
            return
        for (name, net), logits in zip(pl_module.net.nets.items(), rows.logits, strict=True):
            loss, temperature = _lowest_loss(pl_module, rows._replace(logits=logits))
            log_likelihood = _log_likelihood(pl_module.task, logits / temperature, rows.target)
            weights = {key: value.detach().clone() for key, value in net.state_dict().items()}
            latest = NetEpoch(trainer.current_epoch + 1, loss, temperature, log_likelihood, weights)
            if name not in self.best or latest.loss < self.best[name].loss:
                self.best[name] = latest
            self.selected[name] = self.best[name] if _is_worse(latest, self.best[name]) else latest
        likelihoods = [self.selected[name].log_likelihood.flatten() for name in pl_module.net.nets]
        self.mixture = mixture_weights(torch.stack(likelihoods, dim=1))

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.selected:
            pl_module.net.load_state_dict(self._selected_state())

    def table(self) -> dict[str, list[Any]]:
        """Return the columns of a table of the nets and of their mixture; {} without validation rows.

        The log loss is that of the validation labels.
        """
        if not self.selected:
            return {}
        likelihoods = [selected.log_likelihood.flatten() for selected in self.selected.values()]
        likelihood = torch.stack(likelihoods, dim=1).double()
        mixture = (likelihood.exp() @ torch.tensor(self.mixture).double()).log()
        losses = [*(-likelihood.mean(0)).tolist(), -float(mixture.mean())]
        return {
            "net": [*self.selected, "together"],
            "log_loss": losses,
            "epoch": [*(selected.epoch for selected in self.selected.values()), None],
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
            part: {name: vars(epoch) for name, epoch in getattr(self, part).items()}
            for part in ("best", "selected")
        }
        return {**epochs, "mixture": self.mixture, "training": self._net.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the epochs, and the weights in training when the next fit starts."""
        for part in ("best", "selected"):
            epochs = {name: NetEpoch(**epoch) for name, epoch in state_dict[part].items()}
            setattr(self, part, epochs)
        self.mixture, self._resumed = state_dict["mixture"], state_dict["training"]


def mixture_weights(log_likelihood: Tensor) -> list[float]:
    """Return weights w >= 0 of K nets, which sum to 1, from log-likelihoods (labels, K) of labels.

    They maximise sum_i log(sum_k w_k p_ik) + a / K sum_k log w_k, a Dirichlet prior with a = 0.5 labels, by
    expectation maximisation (Dempster, Laird and Rubin, 1977). The problem is convex. Weights below 0.02
    become 0.
    """
    values = log_likelihood.double().numpy()
    likelihood, (count, width) = np.exp(values - values.max(1, keepdims=True)), values.shape
    weights = np.full(width, 1 / width)
    for _ in range(500):
        mixed = likelihood * weights
        share = (mixed / mixed.sum(1, keepdims=True)).sum(0)
        previous, weights = weights, (share + UNIFORM / width) / (count + UNIFORM)
        if np.abs(weights - previous).max() < 1e-5:
            break
    weights = np.where(weights < MIN_WEIGHT, 0, weights)
    return [float(weight) for weight in weights / weights.sum()]


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
            logits = torch.stack([part(encoded.inputs) for part in net.nets.values()])
            target = module._fit_target(encoded.target, logits[0])
            parts.append(Rows(logits.float(), target, encoded.weight))
    net.train(was_training)
    weights = [part.weight for part in parts if part.weight is not None]
    return Rows(
        torch.cat([part.logits for part in parts], 1),
        torch.cat([part.target for part in parts]),
        torch.cat(weights) if weights else None,
    )


def _take_rows(batches: TensorBatches, num_outputs: int) -> list[Any]:
    limit = max(1, min(MAX_ROWS, MAX_OUTPUTS // num_outputs))
    step = -(-len(batches) // limit)
    return [batches[rows] for rows in torch.arange(0, len(batches), step).split(BATCH_SIZE)]


def _lowest_loss(module: Any, rows: Rows) -> tuple[float, float]:
    """Return the lowest loss of the rows over `TEMPERATURES`, with the prior, and its temperature."""
    losses = []
    for t in TEMPERATURES:
        loss = module._compute_loss(rows.logits / t, rows.target, rows.weight)[0]
        losses.append(loss + PRIOR * (1 / t - 1) ** 2 / (2 * rows.target.numel()))
    values = torch.stack(losses).tolist()
    lowest = min(range(len(values)), key=values.__getitem__)
    return values[lowest], TEMPERATURES[lowest]


def _log_likelihood(task: Any, logits: Tensor, target: Tensor) -> Tensor:
    values = -select_loss(task, reduction="none")(logits, target).nan_to_num(0)
    values = values.reshape(len(values), -1)
    return values[:: -(-values.numel() // MAX_LABELS)].cpu()


def _is_worse(latest: NetEpoch, best: NetEpoch) -> bool:
    """Return whether the likelihood is lower than that of the best epoch by more than a standard error."""
    difference = (best.log_likelihood - latest.log_likelihood).double().mean(1)
    error = difference.std(correction=0) / len(difference) ** 0.5
    return bool(difference.mean() > error)
