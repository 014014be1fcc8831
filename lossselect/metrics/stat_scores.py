"""How often the decision on each class was right and wrong: what most metrics are made of."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import classification as tm

from lossselect.metrics.task_metric import MetricInput, TaskMetric
from lossselect.tasks.registry import IGNORE_INDEX
from lossselect.utils.device_ops import count_occurrences


class StatScores(TaskMetric):
    """True and false positives, true and false negatives of each class or label, (num_probabilities, 4).

    Of classes one against the rest. Counted in time and memory of N + C, where torchmetrics' goes through a
    matrix C x C; all metrics of a task that follow from predictions read them.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.counts: Tensor
        counts = torch.zeros(4, self.task.num_probabilities, dtype=torch.long)
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def accumulate(self, seen: MetricInput) -> None:
        """Count the predictions of a batch."""
        predictions, truth = seen.predictions, seen.truth
        if self.task.activation == "sigmoid":
            over = [d for d in range(truth.ndim) if d != 1]
            there, gone, decided = truth == 1, truth == 0, predictions == 1
            hits, positives, negatives = (v.sum(over) for v in (there & decided, there, gone))
            false_alarms = (gone & decided).sum(over)
        else:
            known = truth != IGNORE_INDEX
            width = self.task.num_probabilities
            predictions = torch.where(predictions == IGNORE_INDEX, width, predictions)  # NaN logits: no class
            # what is not known goes one beyond the last class: to leave it out would make a device wait
            positives, predicted, hits = (
                count_occurrences(torch.where(kept, classes, width), width + 1)[:width]
                for classes, kept in (
                    (truth, known),
                    (predictions, known),
                    (truth, known & (truth == predictions)),
                )
            )
            negatives, false_alarms = positives.sum() - positives, predicted - hits
        new = torch.stack([hits, false_alarms, negatives - false_alarms, positives - hits])
        self.counts = self.counts + new

    def summarize(self) -> Tensor:
        """Return true and false positives, true and false negatives, (num_probabilities, 4)."""
        return self.counts.t()


class ConfusionMatrix(tm.MulticlassConfusionMatrix):
    """torchmetrics' (C, C) counts, to which class indices are added at their places.

    Under `torch.use_deterministic_algorithms(True)` torchmetrics' own `update` makes a matrix of N x C^2, 16
    GB for 2,000 rows of 1,000 classes. Otherwise it makes the host wait for a GPU.
    """

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add predictions and true classes, both `IGNORE_INDEX` where missing."""
        known = (target != IGNORE_INDEX) & (preds != IGNORE_INDEX)
        places = torch.where(known, target * self.num_classes + preds, 0)
        self.confmat.view(-1).index_add_(0, places.flatten(), known.long().flatten())
