"""TabM: an ensemble of multilayer perceptrons that share most of their weights.

Gorishniy, Kotelnikov and Babenko, TabM: Advancing tabular deep learning with parameter-efficient ensembling,
2024. The layers are those of Wen, Tran and Ba, BatchEnsemble, 2020.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lossselect.models.ensemble import Members
from lossselect.tasks.registry import AnyTask


class TabM(Members):
    """K multilayer perceptrons with ReLU and dropout that share their weights except for vectors and heads.

    Args:
        first: The input layer, (N, F) -> (N, width).
        width: The number of its outputs.
        hidden: The widths of the hidden layers.
        task: The task, with the number of outputs C.
        num_members: The number of members K.
        dropout: The dropout rate after each hidden layer.
    """

    def __init__(
        self,
        first: nn.Module,
        width: int,
        hidden: Sequence[int],
        task: AnyTask,
        num_members: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_members, self.task = num_members, task
        self.first = first
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [SharedLinear(width, size, num_members, not layers), nn.ReLU(), SharedDropout(dropout)]
            width = size
        self.hidden = nn.Sequential(*layers)
        self.head = MemberLinear(width, task.num_outputs, num_members)

    def member_logits(self, x: Tensor) -> Tensor:
        x = self.first(x)[:, None].expand(-1, self.num_members, -1)
        logits: Tensor = self.head(self.hidden(x))
        return logits

    def head_biases(self) -> list[nn.Parameter]:
        return [self.head.bias]


class SharedLinear(nn.Module):
    """K linear layers that share their weight: (N, K, in) -> (N, K, out).

    Layer k computes (W (r_k * x)) * s_k + b_k.

    Args:
        in_features: The number of inputs.
        out_features: The number of outputs.
        num_members: The number of members K.
        random_signs: Whether r starts at random signs, so that the members differ, instead of ones.
    """

    def __init__(self, in_features: int, out_features: int, num_members: int, random_signs: bool) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        signs = torch.randint(2, (num_members, in_features)) * 2.0 - 1
        self.r = nn.Parameter(signs if random_signs else torch.ones(num_members, in_features))
        self.s = nn.Parameter(torch.ones(num_members, out_features))
        self.bias = nn.Parameter(torch.empty(num_members, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, K, out)."""
        return nn.functional.linear(x * self.r, self.weight) * self.s + self.bias


class SharedDropout(nn.Dropout):
    """Dropout of the same units in all members: (N, K, units) -> (N, K, units).

    On a CPU, drawing a random number for each member would take as long as the linear layers.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x with some units set to 0, in training."""
        return nn.functional.dropout1d(x.mT, self.p, self.training).mT


class MemberLinear(nn.Module):
    """K independent linear layers: (N, K, in) -> (N, K, out)."""

    def __init__(self, in_features: int, out_features: int, num_members: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(
            torch.empty(num_members, in_features, out_features).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.empty(num_members, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, K, out)."""
        return torch.einsum("nki,kio->nko", x, self.weight) + self.bias
