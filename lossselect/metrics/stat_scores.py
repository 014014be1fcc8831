"""Counts of correct and wrong predictions of each class."""

import torch
from torch import Tensor
from torchmetrics import classification as tm

from lossselect.metrics.task_metric import MetricInput, SumMetric
from lossselect.tasks.registry import IGNORE_INDEX, Task
from lossselect.utils.devices import count_occurrences


class StatScores(SumMetric):
    """Counts tp, fp, fn and tn of each class (one against the rest) or label, (4, num_probabilities).

    Needs time and memory of order N + C, while torchmetrics needs a C x C matrix.
    """

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return 4, self.task.num_probabilities

    def batch_sums(self, batch: MetricInput) -> Tensor:
        predictions, labels = batch.predictions, batch.labels
        if self.task.activation == "sigmoid":
            other_dims = [d for d in range(labels.ndim) if d != 1]
            positive, negative, predicted = labels == 1, labels == 0, predictions == 1
            counted = (positive & predicted, negative & predicted, positive, negative)
            tp, fp, positives, negatives = (values.sum(other_dims) for values in counted)
        else:
            classes = self.task.num_probabilities
            # NaN logits and missing labels count as class C; selecting the others would force a device sync
            predictions = torch.where(predictions == IGNORE_INDEX, classes, predictions)
            tp, predicted, positives = (
                count_occurrences(torch.where(mask, values, classes), classes + 1)[:classes]
                for values, mask in (
                    (labels, batch.known & (labels == predictions)),
                    (predictions, batch.known),
                    (labels, batch.known),
                )
            )
            fp, negatives = predicted - tp, positives.sum() - positives
        return torch.stack([tp, fp, positives - tp, negatives - fp])

    def summarize(self) -> Tensor:
        return self.sums


class ConfusionMatrix(tm.MulticlassConfusionMatrix):
    """Counts (C, C) with a row for each true class and a column for each predicted class; C is 2 if binary.

    torchmetrics' own `update` forces a host-device sync, or builds an N x C^2 matrix if torch must be
    deterministic.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(len(task.names), ignore_index=IGNORE_INDEX, validate_args=False)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add predictions and true classes, both `IGNORE_INDEX` where missing."""
        known = (target != IGNORE_INDEX) & (preds != IGNORE_INDEX)
        places = torch.where(known, target * self.num_classes + preds, 0)
        self.confmat.view(-1).index_add_(0, places.flatten(), known.long().flatten())
