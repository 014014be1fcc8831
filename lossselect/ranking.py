"""How samples are ranked for each class, and labels in each row.

AUROC and average precision are exact while small, and in bounded memory when large.
"""

import warnings
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional import classification as tmf

from .tasks import IGNORE_INDEX, Task

MOST_EXACT = 10_000_000
"""Up to so many outputs (rows x classes) of an epoch are kept, 8 to 16 bytes each; of more, counts."""

MOST_BINS, LEAST_BINS, BIN_CELLS = 8192, 256, 1 << 24
"""Bins of each class: 8192 up to 2048 classes, then fewer, so that counts take 256 MiB up to 65,536."""

WIDEST = 40.0
"""Log-odds beyond it are counted as it: a probability of 4e-18."""

EXACT: dict[str, dict[str, Any]] = {
    "auroc": {"sigmoid": tmf.multilabel_auroc, "softmax": tmf.multiclass_auroc},
    "map": {"sigmoid": tmf.multilabel_average_precision, "softmax": tmf.multiclass_average_precision},
}


class Ranking(Metric):
    """How log-odds rank the positives of each class above the rest, (C,).

    With more than `MOST_EXACT` outputs, log-odds are counted in bins of equal width between -40 and 40 (.01
    each up to 2048 classes), and outputs within one bin are ties. torchmetrics' own bins are of
    probability, the same for all classes: where all scores are below .01 they see none.

    Args:
        task: Tells the classes.
        name: "auroc" or "map".
    """

    full_state_update = False

    def __init__(self, task: Task, name: str) -> None:
        super().__init__()
        self.task, self.name = task, name
        self.scores: list[Tensor]
        self.truth: list[Tensor]
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("truth", [], dist_reduce_fx="cat")
        self.count = 0
        self.bins: Tensor | None = None

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
        for z, truth in zip(self.scores, self.truth, strict=True):
            if self.bins is None:
                self.bins = torch.zeros(2 * classes * width, dtype=torch.long, device=z.device)
            places = ((z.clamp(-WIDEST, WIDEST) + WIDEST) / (2 * WIDEST) * (width - 1)).round().long()
            classes_of = torch.arange(classes, device=z.device)
            positive, known = truth, truth != IGNORE_INDEX
            if self.task.activation == "softmax":
                positive = (truth.unsqueeze(1) == classes_of).long()
                known = known.unsqueeze(1).expand_as(positive)
            cells = (positive * classes + classes_of) * width + places
            cells = torch.where(known & ~z.isnan(), cells, -1).flatten()
            self.bins += torch.bincount(cells + 1, minlength=len(self.bins) + 1)[1:]
        self.scores, self.truth = [], []

    def compute(self) -> Tensor:
        """(C,); NaN for a class without positives or without negatives, or of which nothing is known."""
        classes = self.task.num_probabilities
        if self.bins is not None:
            self._put_in_bins()
            return self._of_bins(self.bins.view(2, classes, -1).double())
        z, truth = (v if isinstance(v, Tensor) else torch.cat(v) for v in (self.scores, self.truth))
        both = self._both(truth)
        if not bool(both.any()):
            return torch.full((classes,), torch.nan, dtype=torch.double, device=z.device)
        # torchmetrics takes what leaves [0, 1] for logits, and would lose their order in its sigmoid
        ranks = (z / (1 + z.abs()) + 1) / 2
        if self.task.activation == "sigmoid":
            # a label of which nothing is known stops torchmetrics 1.9 (IndexError): a negative, and NaN below
            unknown = (truth == IGNORE_INDEX).all(0)
            truth = torch.cat([truth, torch.where(unknown, 0, IGNORE_INDEX).unsqueeze(0)])
            ranks = torch.cat([ranks, torch.zeros_like(ranks[:1])])
        width = "num_labels" if self.task.activation == "sigmoid" else "num_classes"
        options = {width: classes, "average": "none", "ignore_index": IGNORE_INDEX, "validate_args": False}
        with warnings.catch_warnings():
            # torchmetrics puts 0 for a class without positives; here the class has no value
            warnings.filterwarnings("ignore", message="No (positive|negative) samples (found )?in target")
            value = EXACT[self.name][self.task.activation](ranks, truth, **options)
        return torch.where(both, value.double().expand(classes), torch.nan)

    def _both(self, truth: Tensor) -> Tensor:
        """Which classes have positives and negatives."""
        if self.task.activation == "sigmoid":
            return (truth == 1).any(0) & (truth == 0).any(0)
        counts = torch.bincount(truth[truth != IGNORE_INDEX], minlength=self.task.num_probabilities)
        return (counts > 0) & (counts < counts.sum())

    def _of_bins(self, bins: Tensor) -> Tensor:
        negatives, positives = bins.flip(-1)  # the likeliest first
        hits, misses = positives.cumsum(-1), negatives.cumsum(-1)
        total, rest = hits[:, -1:], misses[:, -1:]
        if self.name == "auroc":
            # of the negatives, those below a positive count whole and those in its bin half
            value = (positives * (rest - misses + negatives / 2)).sum(-1, keepdim=True) / (total * rest)
        else:
            precision = hits / (hits + misses).clamp(min=1)
            value = (positives * precision).sum(-1, keepdim=True) / total
        return torch.where((total > 0) & (rest > 0), value, torch.nan).squeeze(-1)

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self.count, self.bins = 0, None


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
