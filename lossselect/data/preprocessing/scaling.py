"""Scaling of columns of numbers, fitted to the training rows: data.scaling.

A `Scale` belongs to one column. A `Scaler` applies those of several columns to rows. `Scale.apply` computes
the same in NumPy, which prepares the features of a net, and in PyTorch, so that a model can contain it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from lossselect.exceptions import CheckpointError, DataError
from lossselect.utils.checks import check_float, check_positive, lookup

FITTED_ROWS = 1 << 17
"""Maximum number of training rows, evenly spaced, from which quantiles are computed."""
MAX_KNOTS = 256
"""Maximum number of quantiles of a column that are stored."""
BOUND = 3.0
"""Limit of the features of `Robust`."""
MIN_PROBABILITY = 1e-7
"""Smallest probability that `Quantile` maps to the normal distribution, as in scikit-learn."""


class Standardizer:
    """Mean, standard deviation and range of columns in float64; NaN and null are missing values.

    Batches are combined as in Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for
    computing sample variances, 1979. This is as exact as two passes over all rows, whereas a sum of squares
    loses digits.

    Args:
        names: The columns' names.
        owner: Text that follows the name of a column in messages, such as " of X".
    """

    def __init__(self, names: Sequence[Any], owner: str = "") -> None:
        self.names, self.owner = names, owner
        self.num_rows, self.count = 0, np.zeros(len(names), dtype=np.int64)
        self.mean, self.squares = np.zeros(len(names)), np.zeros(len(names))
        self.minimum, self.maximum = np.full(len(names), np.nan), np.full(len(names), np.nan)

    def partial_fit(self, values: np.ndarray | pl.DataFrame) -> Self:
        """Add rows (N, F)."""
        with np.errstate(over="ignore", invalid="ignore"):  # `scale` raises an error for too large numbers
            if isinstance(values, pl.DataFrame):  # Polars is several times as fast as NumPy
                statistics = values.count(), values.mean(), values.var(ddof=0), values.min(), values.max()
                count, mean, variance, minimum, maximum = (
                    np.array(statistic.row(0), dtype=np.float64) for statistic in statistics
                )
                mean, squares = np.where(count > 0, mean, 0), np.where(count > 0, variance * count, 0)
            else:
                count = len(values) - np.isnan(values).sum(0)
                mean = np.nansum(values, axis=0) / np.maximum(count, 1)
                squares = np.nansum((values - mean) ** 2, axis=0)
                minimum, maximum = np.fmin.reduce(values), np.fmax.reduce(values)
            step, total = mean - self.mean, np.maximum(self.count + count, 1)
            self.squares += squares + step**2 * (self.count * count / total)
            self.mean += step * (count / total)
        self.count += count.astype(np.int64)
        self.num_rows += len(values)
        self.minimum = np.fmin(self.minimum, minimum)
        self.maximum = np.fmax(self.maximum, maximum)
        return self

    @property
    def constant(self) -> np.ndarray:
        """Boolean mask (F,) of the columns whose known values are all equal."""
        return self.minimum == self.maximum

    @property
    def scale(self) -> np.ndarray:
        """The standard deviations (F,); exactly 1 for a constant column, in spite of rounding errors."""
        scale = np.where(self.constant, 1, np.sqrt(self.squares / np.maximum(self.count, 1)))
        if not (finite := np.isfinite(scale)).all():
            name = self.names[int(finite.argmin())]
            advice = "" if self.owner else ", or leave the column out (data.exclude with data=table)"
            raise DataError(
                f"The numbers of column {name!r}{self.owner} are so large that their standard deviation "
                f"overflows float64. Scale them down{advice}.",
                column=str(name),
            )
        return scale


class Scale(ABC):
    """A fitted scale of a column. Its fields are plain values, which are stored in checkpoints."""

    description: ClassVar[str]
    """The effect on numbers, for the overview of the data."""
    structure: ClassVar[Mapping[str, Any]]
    """Structure of the fields, for `check_structure`."""

    @classmethod
    @abstractmethod
    def fit(cls, values: np.ndarray, standard: "Standard") -> "Scale":
        """Return the scale of the values of a column in training rows, NaN where missing.

        A column without a scale of this kind is standardised.
        """

    @abstractmethod
    def check(self, column: str) -> None:
        """Raise an error that names the column if a field of a checkpoint is damaged."""

    @classmethod
    def stack(cls, scales: Sequence[Any]) -> dict[str, np.ndarray]:
        """Return the parameters of `apply` for several columns; by default the fields, as vectors."""
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # all kinds are dataclasses
        return {name: np.array([getattr(scale, name) for scale in scales], dtype=float) for name in names}

    apply: ClassVar[Callable[..., Any]]
    """Function of float64 rows (N, F), numpy or torch, and the parameters; returns the scaled values."""
    invert: ClassVar[Callable[..., np.ndarray]]
    """Function of scaled values (N, F) and the parameters; returns values that `apply` scales to them."""


@dataclass(frozen=True)
class Standard(Scale):
    """z = (x - mean) / std; std is 1 for a constant column."""

    mean: float
    std: float
    description = "standardised"
    structure = MappingProxyType({"mean": (int, float), "std": (int, float)})

    @classmethod
    def fit(cls, values: np.ndarray, standard: "Standard") -> "Standard":
        return standard

    def check(self, column: str) -> None:
        check_float(f"The mean of column {column!r}", self.mean)
        check_positive(f"The standard deviation of column {column!r}", self.std)

    @staticmethod
    def apply(x: Any, xp: ModuleType, *, mean: Any, std: Any) -> Any:
        return (x - mean) / std

    @staticmethod
    def invert(z: np.ndarray, *, mean: Any, std: Any) -> np.ndarray:
        return z * std + mean


@dataclass(frozen=True)
class Robust(Scale):
    """z = y / sqrt(1 + (y / 3)^2), where y = (x - median) / spread; z is between -3 and 3.

    The spread is the interquartile range, or half of the range if the quartiles are equal.

    References:
        Holzmueller et al., Better by default: strong pre-tuned MLPs and boosted trees on tabular data,
        NeurIPS 2024, arXiv:2407.04491 (robust scaling and smooth clipping).
    """

    median: float
    spread: float
    description = "scaled by median and quartiles"
    structure = MappingProxyType({"median": (int, float), "spread": (int, float)})

    @classmethod
    def fit(cls, values: np.ndarray, standard: Standard) -> Scale:
        known = values[~np.isnan(values)]
        if not len(known) or known.min() == known.max():
            return standard
        low, median, high = np.percentile(known, (25, 50, 75)).tolist()
        return cls(median, high - low or float(known.max() - known.min()) / 2)

    def check(self, column: str) -> None:
        check_float(f"The median of column {column!r}", self.median)
        check_positive(f"The spread of column {column!r}", self.spread)

    @staticmethod
    def apply(x: Any, xp: ModuleType, *, median: Any, spread: Any) -> Any:
        y = ((x - median) / spread).clip(-1e9, 1e9)  # its square is finite
        return y / xp.sqrt(1 + (y / BOUND) ** 2)

    @staticmethod
    def invert(z: np.ndarray, *, median: Any, spread: Any) -> np.ndarray:
        z = z.clip(1e-6 - BOUND, BOUND - 1e-6)
        return z / np.sqrt(1 - (z / BOUND) ** 2) * spread + median


@dataclass(frozen=True)
class Quantile(Scale):
    """z = Phi^-1(F(x)), where F is the distribution function of the training rows.

    F is 0 at the first knot and 1 at the last one, and linear in between. Where knots are equal, it is the
    mean of their ranks. F(x) is limited to at least 1e-7 and at most 1 - 1e-7. Columns with two values are
    standardised. Otherwise this is what scikit-learn's `QuantileTransformer(output_distribution="normal")`
    computes, except for rounding errors of its quantiles, and within 1e-7 of the range's ends.

    Args:
        knots: Evenly spaced quantiles, from the smallest to the largest value.
    """

    knots: tuple[float, ...]
    description = "scaled by quantiles"
    structure = MappingProxyType({"knots": [(int, float)]})

    @classmethod
    def fit(cls, values: np.ndarray, standard: Standard) -> Scale:
        known = values[~np.isnan(values)]
        if not len(known):
            return standard
        positions = np.linspace(0, len(known) - 1, min(MAX_KNOTS, len(values)))
        # a position such as 3.9999999999 would be a knot next to a value instead of at it
        positions = np.where(abs(positions - positions.round()) < 1e-9, positions.round(), positions)
        knots = np.interp(positions, np.arange(len(known)), np.sort(known))
        knots = np.maximum.accumulate(knots)  # rounding errors may change the order
        return cls(tuple(knots.tolist())) if len(np.unique(knots)) > 2 else standard

    def check(self, column: str) -> None:
        for knot in self.knots:
            check_float(f"A knot of column {column!r}", knot)
        if not 2 <= len(self.knots) <= MAX_KNOTS:
            raise CheckpointError(
                f"Column {column!r} must have 2 to {MAX_KNOTS} knots, got {len(self.knots)}"
            )
        if (np.diff(self.knots) < 0).any() or self.knots[0] == self.knots[-1]:
            raise CheckpointError(f"The knots of column {column!r} must increase")

    @classmethod
    def stack(cls, scales: Sequence["Quantile"]) -> dict[str, np.ndarray]:
        """Return the knots (F, 2^k + 1), padded with the last one, and their ranks.

        Also return the largest ranks (F,), and the place of the first knots among those of all columns (F,).
        """
        last = np.array([len(scale.knots) - 1 for scale in scales])
        size = (1 << int(last.max() - 1).bit_length()) + 1
        knots = np.array([[*s.knots, *s.knots[-1:] * (size - len(s.knots))] for s in scales], dtype=float)
        first, end = (
            np.array([np.searchsorted(row, row, side) for row in knots]) for side in ("left", "right")
        )
        ranks = (first + end - 1) / 2  # equal knots have the mean of their ranks
        return {"knots": knots, "ranks": ranks, "last": last, "start": np.arange(len(last)) * size}

    @staticmethod
    def apply(x: Any, xp: ModuleType, *, knots: Any, ranks: Any, last: Any, start: Any) -> Any:
        flat, step = knots.reshape(-1), (knots.shape[1] - 1) // 2
        place = start  # of the last knot <= x: binary search in all columns at once
        while step:
            place = xp.where(x >= flat[place + step], place + step, place)
            step //= 2
        left, right = flat[place], flat[place + 1]
        width = xp.where(right > left, right - left, 1.0)
        rank = xp.where(x == left, ranks.reshape(-1)[place], place - start + (x - left) / width)
        probability = xp.where(x >= knots[:, -1], 1.0, rank / last)
        probability = xp.where(x <= knots[:, 0], 0.0, probability)
        return _normal_quantile(probability.clip(MIN_PROBABILITY, 1 - MIN_PROBABILITY), xp)

    @staticmethod
    def invert(z: np.ndarray, *, knots: Any, ranks: Any, last: Any, start: Any) -> np.ndarray:
        from scipy.special import ndtr

        ranked = zip(ndtr(z).T * last[:, None], knots, strict=True)
        return np.array([np.interp(rank, np.arange(len(row)), row) for rank, row in ranked]).T


# fmt: off
_CENTRE = (
    (3.3871328727963665, 133.14166789178438, 1971.5909503065513, 13731.69376550946,
     45921.95393154987, 67265.7709270087, 33430.57558358813, 2509.0809287301227),
    (1.0, 42.31333070160091, 687.1870074920579, 5394.196021424751,
     21213.794301586597, 39307.89580009271, 28729.085735721943, 5226.495278852854),
)
_TAIL = (
    (1.4234371107496835, 4.630337846156546, 5.769497221460691, 3.6478483247632045,
     1.2704582524523684, 0.2417807251774506, 0.022723844989269184, 0.0007745450142783414),
    (1.0, 2.053191626637759, 1.6763848301838038, 0.6897673349851,
     0.14810397642748008, 0.015198666563616457, 0.0005475938084995345, 1.0507500716444169e-09),
)
# fmt: on


def _normal_quantile(p: Any, xp: ModuleType) -> Any:
    """Return the inverse of the normal distribution function for 1e-11 < p < 1 - 1e-11.

    Wichura, Algorithm AS 241: the percentage points of the normal distribution, 1988 (PPND16). ONNX has no
    such operation.
    """
    q = p - 0.5
    tail = xp.sqrt(-xp.log(xp.minimum(p, 1 - p))) - 1.6
    return xp.where(abs(q) <= 0.425, q * _ratio(_CENTRE, 0.180625 - q * q), xp.sign(q) * _ratio(_TAIL, tail))


def _ratio(polynomials: Sequence[Sequence[float]], x: Any) -> Any:
    """Return the ratio of two polynomials, given by their coefficients in ascending order."""
    values: list[Any] = []
    for coefficients in polynomials:
        value = 0.0
        for coefficient in reversed(coefficients):
            value = value * x + coefficient
        values.append(value)
    return values[0] / values[1]


SCALINGS: dict[str, type[Scale]] = {"standard": Standard, "robust": Robust, "quantile": Quantile}
"""The kinds of scales by name, for data.scaling."""


class Scaler:
    """The scales of several columns.

    Args:
        scales: The scale of each column.
    """

    def __init__(self, scales: Sequence[Scale]) -> None:
        kinds: list[type[Scale]] = [*dict.fromkeys(map(type, scales))] or [Standard]
        members = [[i for i, scale in enumerate(scales) if type(scale) is kind] for kind in kinds]
        self.groups = [
            (kind, np.array(columns, dtype=np.int64), kind.stack([scales[i] for i in columns]))
            for kind, columns in zip(kinds, members, strict=True)
        ]
        """The kind, the columns and the parameters of each kind of scales."""

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return the float32 features of rows (N, F); values out of the range of float32 become infinite."""
        with np.errstate(over="ignore"):
            return apply_scales(np.asarray(values, dtype=np.float64), self.groups, np).astype(np.float32, "C")

    def invert(self, features: np.ndarray) -> np.ndarray:
        """Return float64 values whose features are these (N, F)."""
        values = np.empty(features.shape)
        for kind, columns, parameters in self.groups:
            values[:, columns] = kind.invert(features[:, columns].astype(np.float64), **parameters)
        return values


def apply_scales(
    values: Any, groups: Sequence[tuple[type[Scale], Any, Mapping[str, Any]]], xp: ModuleType
) -> Any:
    """Return scaled float64 rows (N, F); see `Scaler.groups` and `Scale.apply`."""
    if len(groups) == 1:
        kind, _, parameters = groups[0]
        return kind.apply(values, xp, **parameters)
    scaled = [kind.apply(values[:, columns], xp, **parameters) for kind, columns, parameters in groups]
    order = xp.argsort(xp.concatenate([columns for _, columns, _ in groups]))
    return xp.concatenate(scaled, 1)[:, order]


def fit_scales(scaling: str, standardizer: Standardizer, sample: Iterable[np.ndarray]) -> list[Scale]:
    """Return the scale of each column.

    Args:
        scaling: A name in `SCALINGS`.
        standardizer: The statistics of all training rows.
        sample: The values of each column in the rows `sampled_rows(train)`, NaN where missing.

    Raises:
        ConfigError: the scaling is unknown.
        DataError: numbers are so large that their standard deviation overflows.
    """
    moments = zip(standardizer.mean.tolist(), standardizer.scale.tolist(), strict=True)
    standard = [Standard(mean, std) for mean, std in moments]
    kind = lookup(SCALINGS, scaling, "scaling")
    if kind is Standard:
        return [*standard]
    return [kind.fit(values, moments) for values, moments in zip(sample, standard, strict=True)]


def sampled_rows(train: np.ndarray, size: int = FITTED_ROWS) -> np.ndarray:
    """Return at most `size` training rows, evenly spaced."""
    return train[:: max(1, -(-len(train) // size))]


def check_range(features: Any, names: Sequence[Any], owner: str = "", first_row: int = 0) -> None:
    """Raise a DataError if a standardised feature (N, F) is out of the range of float32."""
    if features.sum().isfinite() or bool((finite := features.isfinite()).all()):
        return
    row, column = (~finite).nonzero()[0].tolist()
    raise DataError(
        f"Row {row + first_row} of column {names[column]!r}{owner} is too large: divided by the standard "
        "deviation of the training rows it overflows float32. Correct the value.",
        row=row + first_row,
        column=names[column],
    )
