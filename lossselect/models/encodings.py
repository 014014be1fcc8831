"""Layers at the input of a net that are fitted to training rows: scaling and encodings of numbers.

Their statistics are buffers, so that checkpoints and exported models contain them.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lossselect.exceptions import CheckpointError, ConfigError, OptionTypeError
from lossselect.utils.checks import check_int, lookup

BINS = 12
"""Number of bins of the piecewise-linear encoding."""
FREQUENCIES, COMPONENTS, SPREAD = 16, 4, 0.5
"""Numbers of frequencies and components of the periodic encoding, and the initial spread of frequencies."""
MAX_FITTED_ROWS, MAX_FITTED_VALUES = 100_000, 20_000_000
"""Maximum numbers of evenly spaced training rows, and of their values, to which layers are fitted."""
MAX_Z, MIN_WIDTH = 300.0, 1e-4
"""Bounds that also prevent overflow in half precision."""


class Amplification(nn.Module):
    """The features and a constant 1, multiplied by a factor: (N, F) -> (N, F + 1).

    It multiplies the learning rate of the weights of the next layer by the factor. The weight of the constant
    acts as a bias with this learning rate.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the products."""
        return nn.functional.pad(x, (0, 1), value=1.0) * self.factor


class FittedLayer(nn.Module):
    """A layer with features (N, F) as input, and buffers that `fit` computes from training rows."""

    @abstractmethod
    def fit(self, rows: Tensor) -> None:
        """Set the buffers from training rows (N, F), N >= 1."""


class RobustScaling(FittedLayer):
    """Scaling that limits the influence of outliers: (N, F) -> (N, F), between -3 and 3.

    z = (x - median) / IQR, then z / sqrt(1 + (z / 3)^2), as in Holzmüller, Grinsztajn and Steinwart, Better
    by default: Strong pre-tuned MLPs and boosted trees on tabular data, 2024. Columns whose IQR is 0, such as
    rare categories, keep their values before the second step.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))

    def fit(self, rows: Tensor) -> None:
        _, low, median, high, _ = quantiles(rows, 4)
        spread = high - low
        self.center.copy_(torch.where(spread > 0, median, 0))
        self.scale.copy_(torch.where(spread > 0, spread, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled features."""
        z = ((x - self.center) / self.scale).clamp(-MAX_Z, MAX_Z)  # its square must not overflow
        return z * torch.rsqrt(1 + (z / 3).square())


class PiecewiseLinearEncoding(FittedLayer):
    """Piecewise-linear encoding of numbers: (N, F) -> (N, F * 12).

    Component t of x is clip((x - b_t) / (b_{t+1} - b_t), 0, 1), with the quantiles b of the training rows, or
    0 if these two are almost equal. See Gorishniy, Rubachev and Babenko, On embeddings for numerical features
    in tabular deep learning, 2022.
    """

    start: Tensor
    slope: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_outputs = num_features * BINS
        # bins of equal width from -2 to 2 until `fit`
        self.register_buffer("start", torch.linspace(-2, 2, BINS + 1)[:-1].repeat(num_features, 1))
        self.register_buffer("slope", torch.full((num_features, BINS), BINS / 4))

    def fit(self, rows: Tensor) -> None:
        edges = quantiles(rows, BINS).T
        width = edges.diff(dim=1)
        self.start.copy_(edges[:, :-1])
        self.slope.copy_(torch.where(width > MIN_WIDTH, 1 / width, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the encoded features."""
        return ((x[:, :, None] - self.start) * self.slope).clamp(0, 1).flatten(1)


class PeriodicEncoding(nn.Module):
    """Periodic encoding of numbers with trained frequencies: (N, F) -> (N, F * 4).

    W cos(2 pi c x + b) for each feature, with 16 frequencies c, as in the encoding PBLD of Holzmüller,
    Grinsztajn and Steinwart, 2024, after Gorishniy, Rubachev and Babenko, 2022.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_outputs = num_features * COMPONENTS
        bound = 1 / math.sqrt(FREQUENCIES)
        self.frequency = nn.Parameter(SPREAD * torch.randn(num_features, FREQUENCIES))
        self.phase = nn.Parameter(torch.empty(num_features, FREQUENCIES).uniform_(-math.pi, math.pi))
        self.weight = nn.Parameter(torch.empty(num_features, FREQUENCIES, COMPONENTS).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Return the encoded features."""
        waves = torch.cos(2 * math.pi * x[:, :, None] * self.frequency + self.phase)
        return torch.einsum("nfk,fkc->nfc", waves, self.weight).flatten(1)


ENCODINGS: dict[str, type[PiecewiseLinearEncoding] | type[PeriodicEncoding] | None] = {
    "none": None,
    "ple": PiecewiseLinearEncoding,
    "periodic": PeriodicEncoding,
}


class InputLayer(nn.Module):
    """Some features after `base`, followed by an encoding of some of them: (N, F) -> (N, width).

    Args:
        num_features: The number of features F.
        base: A function that returns a layer (N, n) -> (N, n) for the number n of the used features.
        encoding: A name of `ENCODINGS`.
        columns: The indices of the features to encode, among the used ones; None for all.
        features: The indices of the used features; None for all.
    """

    def __init__(
        self,
        num_features: int,
        base: Callable[[int], nn.Module],
        encoding: str = "none",
        columns: Sequence[int] | None = None,
        features: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.used, self.width = _select(features, num_features, "features")
        self.base = base(self.width)
        self.encoded: nn.Module = nn.Identity()
        self.encoding: PiecewiseLinearEncoding | PeriodicEncoding | None = None
        if (encode := lookup(ENCODINGS, encoding, "encoding")) is not None:
            self.encoded, count = _select(columns, self.width, "columns")
            self.encoding = encode(count)
            self.width += self.encoding.num_outputs
        self.is_fitted = False
        self.register_load_state_dict_post_hook(_mark_fitted)

    def fit(self, rows: Tensor) -> None:
        """Fit base and encoding to training rows (N, F) on the same device."""
        rows = self.used(rows)
        if isinstance(self.base, FittedLayer):
            self.base.fit(rows)
        if isinstance(self.encoding, FittedLayer):
            self.encoding.fit(self.encoded(rows))
        self.is_fitted = True

    def forward(self, x: Tensor) -> Tensor:
        """Return the inputs of the next layer."""
        x = self.used(x)
        base: Tensor = self.base(x)
        return torch.cat([base, self.encoding(self.encoded(x))], dim=1) if self.encoding else base


def _mark_fitted(layer: Any, _: Any) -> None:
    layer.is_fitted = True


class _Columns(nn.Module):
    """Selection of columns; the indices are a buffer, as a list would be copied to a GPU in each step."""

    indices: Tensor

    def __init__(self, indices: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("indices", torch.tensor(indices))
        self.expected = [*indices]
        self.register_load_state_dict_post_hook(_check_indices)

    def forward(self, x: Tensor) -> Tensor:
        """Return the columns, (N, len(indices))."""
        return x.index_select(1, self.indices)


def _select(indices: Sequence[int] | None, num_features: int, name: str) -> tuple[nn.Module, int]:
    """Return a layer that selects features, and their number; None selects all of them."""
    if indices is None:
        return nn.Identity(), num_features
    if isinstance(indices, str) or not isinstance(indices, Sequence):
        raise OptionTypeError(f"{name} must be a list of indices of features, got {indices!r}.")
    checked = [check_int(f"{name}[{i}]", index, 0, num_features - 1) for i, index in enumerate(indices)]
    if not checked or len({*checked}) < len(checked):
        raise ConfigError(f"{name} must be different indices of features, got {indices!r}.")
    return _Columns(checked), len(checked)


def _check_indices(columns: Any, _: Any) -> None:
    if not columns.indices.is_meta and columns.indices.tolist() != columns.expected:
        raise CheckpointError("The stored indices of columns differ from those of the net's options.")


def quantiles(rows: Tensor, bins: int) -> Tensor:
    """Return the quantiles 0, 1 / bins, ..., 1 of each column, (bins + 1, F)."""
    ordered = rows.float().sort(dim=0).values
    # torch.quantile has a limit of 16 million values
    places = torch.linspace(0, len(ordered) - 1, bins + 1, device=rows.device)
    low = places.floor().long()
    share = (places - low)[:, None]
    return torch.lerp(ordered[low], ordered[(low + 1).clamp(max=len(ordered) - 1)], share)


def fit_layers(net: nn.Module, rows: Tensor) -> None:
    """Fit the input layers of a net to training rows (N, F), except those that were fitted or loaded."""
    rows = rows.to(next(net.parameters()).device)
    for layer in net.modules():
        if isinstance(layer, InputLayer) and not layer.is_fitted:
            layer.fit(rows)
