"""How often the decision on each class was right and wrong: what most metrics are made of."""

import torch
from torch import Tensor
from torchmetrics import Metric

from .tasks import IGNORE_INDEX, Task


class StatScores(Metric):
    """True and false positives, true and false negatives of each class or label, (num_probabilities, 4).

    Of classes one against the rest. Counted in time and memory of N + C, where torchmetrics' goes through a
    matrix C x C; one of them serves all metrics of a task that follow from decisions.

    Args:
        task: Tells the classes.
    """

    full_state_update = False

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.counts: Tensor
        counts = torch.zeros(4, task.num_probabilities, dtype=torch.long)
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def update(self, decisions: Tensor, truth: Tensor) -> None:
        """Take in decisions, and what `task.harden` makes of the target."""
        if self.task.activation == "sigmoid":
            over = [d for d in range(truth.ndim) if d != 1]
            there, gone, decided = truth == 1, truth == 0, decisions == 1
            hits, positives, negatives = (v.sum(over) for v in (there & decided, there, gone))
            false_alarms = (gone & decided).sum(over)
        else:
            known = truth != IGNORE_INDEX
            width = self.task.num_probabilities
            decisions = torch.where(decisions == IGNORE_INDEX, width, decisions)  # NaN logits: no class
            # what is not known goes one beyond the last class: to leave it out would make a device wait
            positives, predicted, hits = (
                torch.bincount(torch.where(kept, classes, width).flatten(), minlength=width + 1)[:width]
                for classes, kept in (
                    (truth, known),
                    (decisions, known),
                    (truth, known & (truth == decisions)),
                )
            )
            negatives, false_alarms = positives.sum() - positives, predicted - hits
        new = torch.stack([hits, false_alarms, negatives - false_alarms, positives - hits])
        self.counts = self.counts + new

    def compute(self) -> Tensor:
        """(num_probabilities, 4)."""
        return self.counts.t()
