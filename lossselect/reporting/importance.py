"""Permutation importance of the columns of a table."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lossselect.data.preprocessing.preparation import Preparation
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.metrics.means import sum_of_means
from lossselect.reporting.formulas import escape_formula
from lossselect.utils.atomic_write import atomic_write

REPEATS = 5
"""Number of permutations of each column."""
MAX_ROWS, MAX_VALUES = 20_000, 1 << 26
"""Maximum numbers of rows, and of their features, with which the importance is computed."""
BATCH = 4096
"""Number of rows of a batch."""


@dataclass(frozen=True)
class Importance:
    """Increase of the loss when the cells of a column are permuted.

    Args:
        split: The split of the rows.
        rows: The number of rows.
        loss: The loss without a permutation.
        total: The number of columns.
        seconds: The time limit.
        increases: The increase of the loss of each permutation by column; without the columns that were not
            reached within the time limit.
    """

    split: str
    rows: int
    loss: float
    total: int
    seconds: float
    increases: dict[str, Sequence[float]]

    def table(self) -> list[tuple[str, float, float]]:
        """Return columns, means and standard deviations, the most important column first."""
        found = [
            (name, float(np.mean(values)), float(np.std(values, ddof=1)))
            for name, values in self.increases.items()
        ]
        return sorted(found, key=lambda row: -row[1])

    def to_frame(self) -> pl.DataFrame:
        """Return the content of importance.csv."""
        return escape_formula(
            pl.DataFrame(self.table(), ["column", "mean", "standard_deviation"], orient="row")
        )

    def save(self, folder: Path) -> None:
        """Write importance.csv."""
        with atomic_write(folder / "importance.csv") as path:
            self.to_frame().write_csv(path)


def compute_importance(module: Any, data: Any, seconds: float, seed: int) -> Importance:
    """Return the permutation importance of the columns on the test rows, or validation rows without any.

    All features of a column, such as those of its categories, are permuted together. The loss is that of
    `test/loss`, with sample weights.

    Args:
        module: A trained `TaskModule` without a chunked head.
        data: A `TensorData` with dense features.
        seconds: The time after which no further column is computed.
        seed: The seed of the permutations and, if there are too many rows, of their choice.

    References:
        Breiman, Random forests, Machine Learning 45, 2001; Fisher et al., All models are wrong, but many are
        useful, JMLR 20, 2019.
    """
    end = time.monotonic() + seconds
    splits = data.splits
    split = "test" if "test" in splits.rows else "val"
    random = np.random.default_rng(seed)
    chosen = splits.rows[split].numpy()
    count = min(len(chosen), MAX_ROWS, max(1, MAX_VALUES // splits.features.shape[1]))
    rows = torch.from_numpy(chosen if count == len(chosen) else random.choice(chosen, count, replace=False))
    inputs = splits.features[rows]
    if isinstance(splits.labels, SparseLabels):
        target = splits.labels.select(rows).to_dense()
    else:
        target = module.task.encode_tensor(splits.labels[rows.numpy()], 0)
    weights = None if splits.weights is None else splits.weights[rows]
    places = Preparation.from_dict(splits.preparation).features.places
    permutations = [torch.from_numpy(random.permutation(count)) for _ in range(REPEATS)]
    loss = _compute_loss(module, inputs, target, weights)
    increases: dict[str, Sequence[float]] = {}
    for name, place in places.items():
        original = inputs[:, place].clone()
        found = []
        for permutation in permutations:
            inputs[:, place] = original[permutation]
            found.append(_compute_loss(module, inputs, target, weights) - loss)
        inputs[:, place] = original
        increases[name] = found
        if time.monotonic() > end:
            break
    return Importance(split, count, loss, len(places), seconds, increases)


def _compute_loss(module: Any, inputs: Tensor, target: Tensor, weights: Tensor | None) -> float:
    """Return the loss of rows, with the net in evaluation mode."""
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    batches = []
    with torch.inference_mode():
        for start in range(0, len(inputs), BATCH):
            part = slice(start, start + BATCH)
            batch = (None if v is None else v[part].to(device) for v in (inputs, target, weights))
            features, labels, weight = batch
            batches.append(module._compute_loss(module.compute_logits(features), labels, weight))
    module.train(was_training)
    totals, counts = (
        torch.stack([torch.as_tensor(value).cpu().double().reshape(-1) for value in values]).sum(0)
        for values in zip(*((loss.numerator, loss.denominator) for loss in batches), strict=True)
    )
    return float(sum_of_means(totals, counts))
