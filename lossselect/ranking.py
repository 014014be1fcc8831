"""How samples are ranked for each class, and labels in each row.

AUROC and average precision are exact while small, and in bounded memory when large.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from .device_ops import occurrences
from .ranks import of_all_ranks
from .tasks import IGNORE_INDEX, Task

MOST_EXACT = 10_000_000
"""Up to so many outputs (rows x classes) of an epoch are kept, 8 to 16 bytes each; of more, counts."""

MOST_BINS, LEAST_BINS, BIN_CELLS = 8192, 256, 1 << 24
"""Bins of each class: 8192 up to 2048 classes, then fewer, so that counts take 256 MiB up to 65,536."""

WIDEST = 40.0
"""Log-odds beyond it are counted as it: a probability of 4e-18."""


class Ranking(Metric):
    """How log-odds rank the positives of each class above the rest: AUROC and average precision, (2, C).

    With H_i and F_i the positives and negatives that are at least as high as positive i of P, N the number
    of negatives, and H'_i, F'_i those that are higher:

    - AUROC = 1 - mean_i (F_i + F'_i) / 2 / N: a tie is half a mistake;
    - AP = mean_i H_i / (H_i + F_i).

    NaN where there is no positive or no negative. Written out on the CPU, since torchmetrics goes through
    thresholds where two sorts tell all: of 64,000 rows and 10 classes it takes nine times as long.

    With more than `MOST_EXACT` outputs, log-odds are counted in bins of equal width between -40 and 40 (.01
    each up to 2048 classes), and outputs within one bin are ties; torchmetrics' own bins are of probability,
    the same for all classes: where all scores are below .01 they see none.

    Args:
        task: Tells the classes.
    """

    full_state_update = False

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.scores: list[Tensor]
        self.truth: list[Tensor]
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("truth", [], dist_reduce_fx="cat")
        self.bins: Tensor
        self.add_state("bins", torch.zeros(0, dtype=torch.long), dist_reduce_fx="sum")
        self.count = 0

    def update(self, log_odds: Tensor, truth: Tensor) -> None:
        """Take in log-odds (N, C) and what `task.harden` makes of the target."""
        self.scores.append(log_odds)
        self.truth.append(truth)
        self.count += log_odds.numel()
        if self.count > MOST_EXACT:
            self._put_in_bins()

    def _put_in_bins(self) -> None:
        """Counts (2, C, B) of negatives and positives, -40 first."""
        classes = self.task.num_probabilities
        width = max(LEAST_BINS, min(MOST_BINS, BIN_CELLS // classes))
        if not self.bins.numel():
            self.bins = self.bins.new_zeros(2 * classes * width)
        for z, truth in zip(self.scores, self.truth, strict=True):
            places = ((z.clamp(-WIDEST, WIDEST) + WIDEST) / (2 * WIDEST) * (width - 1)).round().long()
            positive, known = self._by_class(truth)
            cells = (positive.long() * classes + torch.arange(classes, device=z.device)) * width + places
            cells = torch.where(known & ~z.isnan(), cells, -1).flatten()
            self.bins = self.bins + occurrences(cells + 1, len(self.bins) + 1)[1:]
        self.scores, self.truth = [], []

    def _sync_dist(self, *arguments: Any, **options: Any) -> None:
        """Put together what all processes have: in bins where one process would have put it there."""
        if sum(of_all_ranks(self.count)) > MOST_EXACT:
            self._put_in_bins()
        super()._sync_dist(*arguments, **options)

    def _by_class(self, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Which outputs (N, C) are positive, and of which it is known."""
        if self.task.activation == "sigmoid":
            return truth == 1, truth != IGNORE_INDEX
        truth = truth.unsqueeze(1)
        return truth == torch.arange(self.task.num_probabilities, device=truth.device), truth != IGNORE_INDEX

    def compute(self) -> Tensor:
        """AUROC and average precision of each class, (2, C)."""
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

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self.count = 0


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


class RowMean(Metric):
    """The mean over rows of how each row's known labels are ranked, as scikit-learn has it.

    - `ranking_loss`: the share of pairs of a label that is there and one that is not in the wrong order (or
      level), 0 where there is no pair;
    - `coverage_error`: how far down the ranking all labels that are there are found;
    - `precision_at_k`: the share of the k highest labels that are there.

    Written out, as torchmetrics 1.9 takes a missing label for a low one, and the denominator of its ranking
    loss depends on the batch size.

    Args:
        name: Which of them.
    """

    full_state_update = False

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.total: Tensor
        self.rows: Tensor
        self.add_state("total", torch.zeros((), dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: Tensor, truth: Tensor) -> None:
        """Take in scores (N, L), and 0, 1 or `IGNORE_INDEX` of the same shape."""
        known, there, gone = truth != IGNORE_INDEX, truth == 1, truth == 0
        if self.name == "coverage_error":
            lowest = scores.masked_fill(~there, torch.inf).amin(1, keepdim=True)
            each = ((scores >= lowest) & known).sum(1)
        elif self.name == "ranking_loss":
            # the highest first, and of equals those that are not there
            order = truth.argsort(1)
            order = order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))
            above = gone.gather(1, order).cumsum(1)
            wrong = above.masked_fill(~there.gather(1, order), 0).sum(1)
            each = wrong / (there.sum(1) * gone.sum(1)).clamp(min=1)
        else:
            k = int(self.name.rpartition("_")[2])
            highest = scores.masked_fill(~known, -torch.inf).topk(k, 1).indices
            each = there.gather(1, highest).sum(1) / k
        self.total = self.total + each.double().sum()
        self.rows = self.rows + known.any(1).sum()

    def compute(self) -> Tensor:
        """The scalar."""
        return self.total / self.rows
