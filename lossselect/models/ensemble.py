"""Nets with several members, which are trained at once and predict the mean of their probabilities."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossselect.exceptions import CheckpointError
from lossselect.tasks.registry import AnyTask


class Members(nn.Module):
    """A net with K members: in training it returns the logits of all of them, in evaluation of their mean.

    In training, (N, F) -> (N * K, C): the K rows of logits of a row of features follow each other, and the
    loss treats each like a row. In evaluation, (N, F) -> (N, C): see `Task.mean_logits`.
    """

    num_members: int
    task: AnyTask

    @abstractmethod
    def member_logits(self, x: Tensor) -> Tensor:
        """Return the logits of the members, (N, K, C)."""

    @abstractmethod
    def head_biases(self) -> list[nn.Parameter]:
        """Return the biases of the last layers, each (C,) or (members, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all members (N * K, C) in training, of their mean (N, C) in evaluation."""
        logits = self.member_logits(x)
        return logits.flatten(0, 1) if self.training else self.task.mean_logits(logits)


def output_rows(net: Any) -> int:
    """Return the number of rows of logits that a net returns for each row of features."""
    return net.num_members if isinstance(net, Members) and net.training else 1


class Ensemble(Members):
    """Several nets that are trained at once, each with the gradient that it would have alone.

    In evaluation, it divides the logits of each net by its temperature, and returns the logits of the mean
    probability. `NetSelection` sets the buffers `temperatures` and `weights`. Nets of weight 0 are not
    computed.

    Args:
        nets: The nets by name, each (N, F) -> (N, C), or `Members`.
        task: The task, which averages the probabilities.
    """

    weights: Tensor
    temperatures: Tensor

    def __init__(self, nets: Mapping[str, nn.Module], task: AnyTask) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)
        self.task = task
        self.num_members = sum(getattr(net, "num_members", 1) for net in nets.values())
        self.register_buffer("weights", torch.full((len(nets),), 1 / len(nets)))
        self.register_buffer("temperatures", torch.ones(len(nets)))
        self._used = [*range(len(nets))]  # indices of the nets whose weight is not 0, known without a sync
        self.register_load_state_dict_post_hook(_find_used)

    def reset_weights(self) -> None:
        """Set equal weights, and temperatures of 1."""
        self.weights.fill_(1 / len(self.nets))
        self.temperatures.fill_(1)
        self._used = [*range(len(self.nets))]

    def member_logits(self, x: Tensor) -> Tensor:
        logits = [_members(net, x) for net in self.nets.values()]
        # the loss is a mean over all members, in which the gradient of a net would be smaller than alone
        return torch.cat([_scale_gradient(z, self.num_members / z.shape[1]) for z in logits], dim=1)

    def head_biases(self) -> list[nn.Parameter]:
        return [bias for net in self.nets.values() for bias in _biases(net)]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all members (N * K, C) in training, of the weighted mean (N, C) otherwise."""
        if self.training:
            return self.member_logits(x).flatten(0, 1)
        nets = [*self.nets.values()]
        logits = torch.stack([nets[i](x) / self.temperatures[i] for i in self._used], dim=1)
        weights = torch.stack([self.weights[i] for i in self._used])
        return self.task.mean_logits(logits, weights)


def _find_used(net: Any, _: Any) -> None:
    if net.weights.is_meta:
        return
    weights, temperatures = net.weights, net.temperatures
    if not bool((weights >= 0).all() & (weights.sum() - 1).abs().less(1e-3) & (temperatures > 0).all()):
        raise CheckpointError(
            "The weights of the nets must be >= 0 and sum to 1, and their temperatures > 0, got "
            f"{weights.tolist()} and {temperatures.tolist()}."
        )
    net._used = weights.nonzero().flatten().tolist()


def _members(net: nn.Module, x: Tensor) -> Tensor:
    return net.member_logits(x) if isinstance(net, Members) else net(x)[:, None]


def _biases(net: nn.Module) -> list[nn.Parameter]:
    if isinstance(net, Members):
        return net.head_biases()
    *_, last = (layer for layer in net.modules() if isinstance(layer, nn.Linear))
    return [last.bias]


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    fixed = x.detach()
    return fixed + factor * (x - fixed)  # x - fixed is exactly 0
