"""How samples are ranked for each class, and labels in each row.

AUROC and average precision are exact while small, and in bounded memory when large.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossselect.metrics.task_metric import MetricInput, TaskMetric
from lossselect.tasks.registry import IGNORE_INDEX
from lossselect.utils.device_ops import count_occurrences
from lossselect.utils.distributed import all_gather

MAX_EXACT = 10_000_000
"""Up to so many outputs (rows x classes) of an epoch are kept, 8 to 16 bytes each; of more, counts."""

MAX_PARTS = 256
"""Tensors of up to so many batches are kept apart."""

MAX_BINS, MIN_BINS, BIN_CELLS = 8192, 256, 1 << 24
"""Bins of each class: 8192 up to 2048 classes, then fewer, so that counts take 256 MiB up to 65,536."""

WIDEST = 40.0
"""Log-odds beyond it are counted as it: a probability of 4e-18."""


class Ranking(TaskMetric):
    """How log-odds rank the positives of each class above the rest: AUROC and average precision, (2, C).

    With H_i and F_i the positives and negatives that are at least as high as positive i of P, N the number
    of negatives, and H'_i, F'_i those that are higher:

    - AUROC = 1 - mean_i (F_i + F'_i) / 2 / N: a tie is half a mistake;
    - AP = mean_i H_i / (H_i + F_i).

    NaN where there is no positive or no negative. Written out on the CPU, since torchmetrics goes through
    thresholds where two sorts tell all: of 64,000 rows and 10 classes it takes nine times as long.

    With more than `MAX_EXACT` outputs, log-odds are counted in bins of equal width between -40 and 40 (.01
    each up to 2048 classes), and outputs within one bin are ties; torchmetrics' own bins are of probability,
    the same for all classes: where all scores are below .01 they see none.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.scores: list[Tensor]
        self.truth: list[Tensor]
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("truth", [], dist_reduce_fx="cat")
        self.bins: Tensor
        self.add_state("bins", torch.zeros(0, dtype=torch.long), dist_reduce_fx="sum")

    def accumulate(self, seen: MetricInput) -> None:
        """Keep log-odds and target of a batch, or put them in bins."""
        log_odds, truth = seen.ranks
        self.scores, self.truth = [*self.scores, log_odds], [*self.truth, truth]
        if len(self.scores) >= MAX_PARTS:  # to copy and count the lists takes longer with each batch
            self.scores, self.truth = [torch.cat(self.scores)], [torch.cat(self.truth)]
        if self.bins.numel() or self._count() > MAX_EXACT:
            self._put_in_bins()

    def _count(self) -> int:
        return sum(scores.numel() for scores in self.scores)

    def _put_in_bins(self) -> None:
        self.bins = self._binned(self.bins, self.scores, self.truth)
        self.scores, self.truth = [], []

    def _binned(self, bins: Tensor, scores: list[Tensor], truths: list[Tensor]) -> Tensor:
        """Add scores to counts (2, C, B) of negatives and positives, -40 first."""
        classes = self.task.num_probabilities
        width = max(MIN_BINS, min(MAX_BINS, BIN_CELLS // classes))
        if not bins.numel():
            bins = bins.new_zeros(2 * classes * width)
        for z, truth in zip(scores, truths, strict=True):
            places = ((z.clamp(-WIDEST, WIDEST) + WIDEST) / (2 * WIDEST) * (width - 1)).round().long()
            positive, known = self._by_class(truth)
            cells = (positive.long() * classes + torch.arange(classes, device=z.device)) * width + places
            cells = torch.where(known & ~z.isnan(), cells, -1).flatten()
            bins = bins + count_occurrences(cells + 1, len(bins) + 1)[1:]
        return bins

    def _sync_dist(self, *arguments: Any, **options: Any) -> None:
        """Put together what all processes have: in bins where one process would have put it there."""
        counts = all_gather((self._count(), self.bins.numel()))
        if any(binned for _, binned in counts) or sum(count for count, _ in counts) > MAX_EXACT:
            self._put_in_bins()
        elif not self.scores:  # torchmetrics would gather another shape and dtype than the others have
            classes = self.task.num_probabilities
            self.scores = [torch.zeros(0, classes, dtype=torch.double, device=self.device)]
            shape = (0,) if self.task.activation == "softmax" else (0, classes)
            self.truth = [torch.zeros(shape, dtype=torch.long, device=self.device)]
        super()._sync_dist(*arguments, **options)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Merge states, which torchmetrics could not do with bins on one side only."""
        if self.bins.numel() or incoming_state["bins"].numel():
            self._put_in_bins()
            bins = self._binned(*(incoming_state[name] for name in ("bins", "scores", "truth")))
            incoming_state = {**incoming_state, "bins": bins, "scores": [], "truth": []}
        super()._reduce_states(incoming_state)
        if self._count() > MAX_EXACT:
            self._put_in_bins()

    def _by_class(self, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Which outputs (N, C) are positive, and of which it is known."""
        if self.task.activation == "sigmoid":
            return truth == 1, truth != IGNORE_INDEX
        truth = truth.unsqueeze(1)
        return truth == torch.arange(self.task.num_probabilities, device=truth.device), truth != IGNORE_INDEX

    def summarize(self) -> Tensor:
        """Return AUROC and average precision of each class, (2, C)."""
        if self.bins.numel():
            if isinstance(self.scores, list):
                self._put_in_bins()
            negatives, positives = self.bins.view(2, self.task.num_probabilities, -1).flip(-1)
            return _areas_of_bins(positives, negatives)
        if not len(self.scores):
            return torch.full((2, self.task.num_probabilities), torch.nan, dtype=torch.double)
        z, truth = (v if isinstance(v, Tensor) else torch.cat(v) for v in (self.scores, self.truth))
        z, truth = z.t().contiguous(), truth.t().contiguous() if truth.ndim > 1 else truth
        areas = [_areas(*column) for column in self._columns(z.cpu().numpy(), truth.cpu().numpy())]
        return torch.tensor(areas, dtype=torch.double, device=z.device).t()

    def _columns(self, z: np.ndarray, truth: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each class the scores that count, and which of them are of positives."""
        if self.task.activation == "sigmoid":
            for scores, labels in zip(z, truth, strict=True):
                known = labels != IGNORE_INDEX
                yield (scores, labels == 1) if known.all() else (scores[known], labels[known] == 1)
            return
        known = truth != IGNORE_INDEX
        if not known.all():
            z, truth = z[:, known], truth[known]
        for c, scores in enumerate(z):
            yield scores, truth == c


def _areas(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """AUROC and average precision of one class."""
    everyone, mine = np.sort(scores), np.sort(scores[positive])
    total, rest = len(mine), len(scores) - len(mine)
    if not total or not rest or np.isnan(everyone[-1]):
        return np.nan, np.nan
    # of all and of the positives: how many are at least as high as a positive, and how many are higher
    (level, higher), (hits, higher_hits) = (
        [len(among) - np.searchsorted(among, mine, side) for side in ("left", "right")]
        for among in (everyone, mine)
    )
    wrong = ((level - hits) + (higher - higher_hits)).mean() / 2
    return 1 - wrong / rest, (hits / level).mean()


def _areas_of_bins(positives: Tensor, negatives: Tensor) -> Tensor:
    """AUROC and average precision (2, C) of counts (C, B), the likeliest bin first."""
    hits, misses = positives.cumsum(1), negatives.cumsum(1)
    total, rest = hits[:, -1:].double(), misses[:, -1:].double()
    wrong = (positives * (2 * misses - negatives)).sum(1, keepdim=True) / (2 * total * rest)
    precision = (positives * (hits / (hits + misses).clamp(min=1).double())).sum(1, keepdim=True) / total
    areas = torch.where((total > 0) & (rest > 0), torch.cat([1 - wrong, precision], 1), torch.nan)
    return areas.t()
