"""Nets with several members, which are trained at once and predict the mean of their probabilities."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossselect.utils.checks import lookup

ACTIVATIONS = ("softmax", "sigmoid")


class Members(nn.Module):
    """A net with K members: in training it returns the logits of all of them, in evaluation of their mean.

    In training, (N, F) -> (N * K, C): the K rows of logits of a row of features follow each other, and the
    loss treats each like a row. In evaluation, (N, F) -> (N, C): see `mean_logits`.
    """

    num_members: int
    activation: str

    @abstractmethod
    def member_logits(self, x: Tensor) -> Tensor:
        """Return the logits of the members, (N, K, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all members (N * K, C) in training, of their mean (N, C) in evaluation."""
        logits = self.member_logits(x)
        return logits.flatten(0, 1) if self.training else mean_logits(logits, self.activation)


class Ensemble(Members):
    """Several nets that are trained at once, each with the gradient that it would have alone.

    In evaluation, the logits of each net are divided by its temperature, and the result are those of the mean
    probability, with the buffers `temperatures` and `weights` (see `NetSelection`). Nets of weight 0 are not
    computed.

    Args:
        nets: The nets by name, each (N, F) -> (N, C), or `Members`.
        activation: "softmax" or "sigmoid", of the task.
    """

    weights: Tensor
    temperatures: Tensor

    def __init__(self, nets: Mapping[str, nn.Module], activation: str) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)
        self.activation = check_activation(activation)
        self.num_members = sum(getattr(net, "num_members", 1) for net in nets.values())
        self.register_buffer("weights", torch.full((len(nets),), 1 / len(nets)))
        self.register_buffer("temperatures", torch.ones(len(nets)))
        self._used = [*range(len(nets))]  # indices of the nets whose weight is not 0, known without a sync
        self.register_load_state_dict_post_hook(_find_used)

    def member_logits(self, x: Tensor) -> Tensor:
        logits = [_members(net, x) for net in self.nets.values()]
        # the loss is a mean over all members, in which the gradient of a net would be smaller than alone
        return torch.cat([_scale_gradient(z, self.num_members / z.shape[1]) for z in logits], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all members (N * K, C) in training, of the weighted mean (N, C) otherwise."""
        if self.training:
            return self.member_logits(x).flatten(0, 1)
        nets = [*self.nets.values()]
        logits = torch.stack([nets[i](x) / self.temperatures[i] for i in self._used], dim=1)
        weights = torch.stack([self.weights[i] for i in self._used])
        return mean_logits(logits, self.activation, weights)


def _find_used(net: Any, _: Any) -> None:
    if not net.weights.is_meta:
        net._used = net.weights.nonzero().flatten().tolist()


def mean_logits(logits: Tensor, activation: str, weights: Tensor | None = None) -> Tensor:
    """Return the logits of the weighted mean probability: (N, K, C) -> (N, C), in float32 or wider.

    The logarithm of sum_k w_k softmax(z_k), and for a sigmoid the log-odds of sum_k w_k sigmoid(z_k).

    Args:
        logits: The logits z.
        activation: "softmax" or "sigmoid".
        weights: The weights w (K,), which are > 0 and sum to 1; None for equal weights.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if weights is None:
        weights = logits.new_full((logits.shape[1],), 1 / logits.shape[1])
    log_weights = weights.log()[:, None]
    if activation == "softmax":
        return (logits.log_softmax(-1) + log_weights).logsumexp(1)
    positive, negative = F.logsigmoid(logits), F.logsigmoid(-logits)
    return (positive + log_weights).logsumexp(1) - (negative + log_weights).logsumexp(1)


def check_activation(activation: Any) -> str:
    """Raise a ConfigError unless it is "softmax" or "sigmoid"."""
    lookup(dict.fromkeys(ACTIVATIONS), activation, "activation")
    return str(activation)


def _members(net: nn.Module, x: Tensor) -> Tensor:
    return net.member_logits(x) if isinstance(net, Members) else net(x)[:, None]


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    scaled = x * factor
    return scaled + (x - scaled).detach()
