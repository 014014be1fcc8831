"""AUROC and average precision of each class: exact for small data, in bounded memory for large data."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossselect.metrics.task_metric import MetricInput, TaskMetric
from lossselect.tasks.registry import IGNORE_INDEX
from lossselect.utils.devices import count_occurrences
from lossselect.utils.distributed import all_gather

MAX_EXACT = 10_000_000
"""Maximum number of outputs (rows x classes) to store, 8 to 16 bytes each; more are counted in bins."""
MAX_PARTS = 256
"""Maximum number of batches whose tensors are stored separately."""
MAX_BINS, MIN_BINS, BIN_CELLS = 8192, 256, 1 << 24
"""Bins per class: 8192 for up to 2048 classes, then fewer, so that up to 65,536 classes need 256 MiB."""
MAX_LOG_ODDS = 40.0
"""Maximum of the log-odds in bins, to which they are clipped: 40 is 1 - 4e-18 as a probability."""


class Ranking(TaskMetric):
    """AUROC and average precision of each class, computed from the ranking of log-odds: (2, C).

    H_i and F_i are the numbers of positives and negatives with a score >= that of positive i, F'_i is the
    number of negatives with a higher score, and N is the number of all negatives:

    - AUROC = 1 - mean_i (F_i + F'_i) / 2 / N: a tie is half an error;
    - AP = mean_i H_i / (H_i + F_i).

    Both are NaN without positives or without negatives. Two sorts on the CPU are nine times as fast as
    torchmetrics for 64,000 rows and 10 classes. Above `MAX_EXACT` outputs, log-odds are counted in bins of
    equal width between -40 and 40 (0.01 for up to 2048 classes); outputs in the same bin are tied. The bins
    of torchmetrics divide probabilities, and are useless if all scores are below 0.01.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.scores: list[Tensor]
        self.labels: list[Tensor]
        self.bins: Tensor
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")
        # a single 0 until there are bins, because it can be added to bins of any number
        self.add_state("bins", torch.zeros(1, dtype=torch.long), dist_reduce_fx="sum")

    def accumulate(self, batch: MetricInput) -> None:
        log_odds, labels = batch.ranking_rows
        self.scores, self.labels = [*self.scores, log_odds], [*self.labels, labels]
        if len(self.scores) >= MAX_PARTS:  # long lists are slow to copy and to count
            self.scores, self.labels = [torch.cat(self.scores)], [torch.cat(self.labels)]
        self._limit_memory()

    def _count(self) -> int:
        return sum(scores.numel() for scores in self.scores)

    def _limit_memory(self) -> None:
        if self.bins.numel() > 1 or self._count() > MAX_EXACT:
            self._move_to_bins()

    def _move_to_bins(self) -> None:
        """Count scores in bins: (2, C, B) flattened, negatives before positives, the bin of -40 first."""
        classes = self.task.num_probabilities
        width = max(MIN_BINS, min(MAX_BINS, BIN_CELLS // classes))
        bins = self.bins.expand(2 * classes * width)
        for z, part in zip(self.scores, self.labels, strict=True):
            unit = (z.clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS) + MAX_LOG_ODDS) / (2 * MAX_LOG_ODDS)
            positive, known = self._by_class(part)
            cells = (positive.long() * classes + torch.arange(classes, device=z.device)) * width
            cells = torch.where(known & ~z.isnan(), cells + (unit * (width - 1)).round().long(), len(bins))
            bins = bins + count_occurrences(cells, len(bins) + 1)[:-1]
        self.bins, self.scores, self.labels = bins.contiguous(), [], []

    def _sync_dist(self, *arguments: Any, **options: Any) -> None:
        """Gather the states of all ranks, in bins if a single process with all rows would use bins."""
        counts = all_gather((self._count(), self.bins.numel()))
        if any(size > 1 for _, size in counts) or sum(count for count, _ in counts) > MAX_EXACT:
            self._move_to_bins()
        elif not self.scores:  # so that shape and dtype are the same in all ranks
            classes = self.task.num_probabilities
            self.scores = [torch.zeros(0, classes, dtype=torch.double, device=self.device)]
            shape = (0,) if self.task.activation == "softmax" else (0, classes)
            self.labels = [torch.zeros(shape, dtype=torch.long, device=self.device)]
        super()._sync_dist(*arguments, **options)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        super()._reduce_states(incoming_state)
        self._limit_memory()

    def _by_class(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return masks of the positives, (N, C), and of the known labels, (N, C) or (N, 1)."""
        positive_value: Tensor | int = 1
        if self.task.activation == "softmax":
            labels = labels.unsqueeze(1)
            positive_value = torch.arange(self.task.num_probabilities, device=labels.device)
        return labels == positive_value, labels != IGNORE_INDEX

    def summarize(self) -> Tensor:
        if self.bins.numel() > 1:
            if isinstance(self.scores, list):
                self._move_to_bins()
            negatives, positives = self.bins.view(2, self.task.num_probabilities, -1).flip(-1)
            return _areas_of_bins(positives, negatives)
        if not len(self.scores):
            return torch.full((2, self.task.num_probabilities), torch.nan, dtype=torch.double)
        z, labels = (v if isinstance(v, Tensor) else torch.cat(v) for v in (self.scores, self.labels))
        positive, known = self._by_class(labels)
        rows = (values.t().contiguous().cpu().numpy() for values in (z, positive, known.expand_as(positive)))
        areas = [_areas(scores[k], is_positive[k]) for scores, is_positive, k in zip(*rows, strict=True)]
        return torch.tensor(areas, dtype=torch.double, device=z.device).t()


def _areas(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    scores, positives = np.sort(scores), np.sort(scores[positive])
    num_negatives = len(scores) - len(positives)
    if not len(positives) or not num_negatives or np.isnan(scores[-1]):
        return np.nan, np.nan
    # the numbers of rows, and of positives, with a score >= and > that of each positive
    (level, higher), (tp, higher_tp) = (
        [len(values) - np.searchsorted(values, positives, side) for side in ("left", "right")]
        for values in (scores, positives)
    )
    wrong = ((level - tp) + (higher - higher_tp)).mean() / 2
    return 1 - wrong / num_negatives, (tp / level).mean()


def _areas_of_bins(positives: Tensor, negatives: Tensor) -> Tensor:
    """Return AUROC and average precision (2, C) from counts (C, B), with the highest bin first."""
    tp, fp = positives.cumsum(1), negatives.cumsum(1)
    num_positives, num_negatives = tp[:, -1:].double(), fp[:, -1:].double()
    wrong = (positives * (2 * fp - negatives)).sum(1, keepdim=True) / (2 * num_positives * num_negatives)
    precision = (positives * (tp / (tp + fp).clamp(min=1).double())).sum(1, keepdim=True) / num_positives
    defined = (num_positives > 0) & (num_negatives > 0)
    return torch.where(defined, torch.cat([1 - wrong, precision], 1), torch.nan).t()
