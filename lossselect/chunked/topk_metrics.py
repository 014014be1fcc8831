"""Metrics for very many outputs, computed from each row's highest outputs and from counts.

There are no metrics per label, and no tensor of shape (N, C). See `TopKMetrics`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lossselect.chunked.linear import ChunkedLogits, Highest
from lossselect.chunked.options import TOP_K, choose_top_metrics, requires_counts
from lossselect.exceptions import ConfigError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import IGNORE_INDEX, Task
from lossselect.tasks.tensors import as_constant, missing_where_nan
from lossselect.utils.devices import cumulative_sum


class TopKOutputs(Highest):
    """The highest outputs of each row and counts of predictions, from a pass over blocks of logits.

    Args:
        task: Task of the predictions.
        logits: Logits whose blocks will be passed.
        target: Target of the same rows; None for prediction.
    """

    def __init__(self, task: Task, logits: ChunkedLogits, target: Any = None) -> None:
        super().__init__(logits, min(TOP_K, logits.shape[1]))
        self.task, self.target = task, target
        self.log_sum_exp = self.values.new_full((len(logits),), -torch.inf)
        self.predicted, self.tp, self.nans = torch.zeros(3, dtype=torch.long, device=logits.device)
        self.temperature = as_constant(task.temperature, self.values)
        self.threshold = 0.0 if task.threshold is None else as_constant(task.threshold, self.values)

    def __call__(self, rows: slice, columns: slice, block: Tensor) -> None:
        self.nans += block.isnan().sum()
        if self.task.exclusive:
            self.log_sum_exp[rows] = torch.logaddexp(self.log_sum_exp[rows], block.logsumexp(1))
        else:
            block = self._count_predictions(rows, columns, block)
        super().__call__(rows, columns, block)

    def _count_predictions(self, rows: slice, columns: slice, block: Tensor) -> Tensor:
        """Count predictions; return the block divided by the temperature, -inf where the label is missing."""
        threshold, temperature = (
            value[:, columns] if isinstance(value, Tensor) else value
            for value in (self.threshold, self.temperature)
        )
        if isinstance(temperature, Tensor) or temperature != 1:
            block = block / temperature
        predicted = block.sigmoid() >= threshold
        if self.target is not None:
            truth = self.target.to_dense(columns.start, columns.stop)[rows]
            self.tp += (predicted & (truth == 1)).sum()
            if self.target.unknown is not None or self.target.missing is not None:
                predicted &= ~truth.isnan()
                block = block.masked_fill(truth.isnan(), -torch.inf)
        self.predicted += predicted.sum()
        return block

    @property
    def probabilities(self) -> Tensor:
        """Probabilities of the highest outputs (N, k)."""
        if self.task.exclusive:
            return (self.values - self.log_sum_exp.unsqueeze(1)).exp()
        return self.values.sigmoid()


def propensities(counts: LabelCounts) -> np.ndarray:
    """Return the probability (L,) that a true label was annotated: 1 / (1 + C (N_l + B)^-A).

    C = (log N - 1)(B + 1)^A for N rows, N_l of which have label l, with the usual A = 0.55 and B = 1.5.

    References:
        Jain, Prabhu and Varma, Extreme Multi-label Loss Functions, KDD 2016.
    """
    a, b = 0.55, 1.5
    c = (math.log(max(counts.rows, 3)) - 1) * (b + 1) ** a
    inverse: np.ndarray = 1 + c * (counts.positives + b) ** -a
    return 1 / inverse


class TopKMetrics(Metric):
    """Metrics of an epoch with a chunked head, over rows with at least one label that is not missing.

    - `precision_at_k`: fraction of the k highest outputs that are labels of the row, averaged over rows.
      For softmax `accuracy_at_k`: fraction of rows whose class is among the k highest.
    - `ndcg_at_k`: sum_i hit_i / log2(i + 1) over the k highest, divided by its value for the best order; 0
      for a row without positive labels, as in scikit-learn.
    - `psp_at_k`: sum over all rows of 1 / propensity of the hits among the k highest, divided by its largest
      possible value. Rare labels, which are missing from the data more often, count more. See `propensities`.
    - `f1_micro`: 2 TP / (2 TP + FP + FN) of all predictions; for softmax the accuracy.

    Args:
        task: Task of the predictions.
        counts: Counts of the training labels; None leaves out `psp_at_k`.
        names: The names to compute, in addition to that of the default monitor; None for all.
    """

    full_state_update = False
    inverse: Tensor | None
    sums: Tensor
    counted: Tensor

    def __init__(
        self, task: Task, counts: LabelCounts | None = None, names: str | Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.task = task
        self.names = choose_top_metrics(task, names, task.num_outputs, counts is not None)
        inverse = None if counts is None else torch.from_numpy(1 / propensities(counts))
        self.register_buffer("inverse", inverse, persistent=False)
        k = min(TOP_K, task.num_outputs)
        # over the first 1, ..., k outputs: hits, NDCG, weighted hits, largest possible weighted hits
        self.add_state("sums", torch.zeros(4, k, dtype=torch.double), dist_reduce_fx="sum")
        # rows, predictions, true positives, positives, NaN outputs
        self.add_state("counted", torch.zeros(5, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, outputs: TopKOutputs, target: SparseLabels | Tensor) -> None:
        """Add a batch of outputs and its target."""
        if self.inverse is None and requires_counts(self.names):
            raise ConfigError(
                "psp_at_k requires the counts of the training labels. Call module.set_label_counts("
                "lossselect.count_labels(task, labels)) first, or remove it from metrics."
            )
        columns = outputs.columns
        labels = target if isinstance(target, SparseLabels) else _one_label_each(target, self.task)
        known, positives = labels.known_rows(), labels.count_per_row()
        hits = (_find_hits(columns, labels) & known.unsqueeze(1)).double()
        places = torch.arange(1, columns.shape[1] + 1, device=columns.device)
        discount = 1 / (places + 1.0).double().log2()
        best = cumulative_sum(discount * (positives.unsqueeze(1) >= places), 1)
        ndcg = cumulative_sum(hits * discount, 1) / best.clamp(min=1e-9)
        terms = [cumulative_sum(hits, 1), ndcg]
        if self.inverse is None:
            terms += [torch.zeros_like(hits)] * 2
        else:
            largest = _largest_weights(self.inverse, labels, columns.shape[1])
            terms += [cumulative_sum(values, 1) for values in (hits * self.inverse[columns], largest)]
        self.sums = self.sums + (torch.stack(terms) * known.unsqueeze(1)).sum(1)
        self.counted = self.counted + torch.stack(
            [known.sum(), outputs.predicted, outputs.tp, (positives * known).sum(), outputs.nans]
        )

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name."""
        rows, predicted, tp, positives, nans = self.counted
        hits, ndcg, weighted_hits, largest = self.sums
        f1 = 2 * tp / (predicted + positives).clamp(min=1).double()
        places = torch.arange(1, len(hits) + 1, device=hits.device)
        curves = {
            "precision": hits / (rows * places),
            "accuracy": hits / rows,
            "ndcg": ndcg / rows,
            "psp": weighted_hits / largest,
        }
        values = {f"{kind}_at_{k}": curve[k - 1] for kind, curve in curves.items() for k in places.tolist()}
        values["f1_micro"] = hits[0] / rows if self.task.exclusive else f1
        return {name: values[name].masked_fill(nans > 0, torch.nan) for name in self.names}


def _one_label_each(target: Tensor, task: Task) -> SparseLabels:
    """Return class indices (N,) as labels; a missing row has the label -100, which is never predicted."""
    classes, rows = target.sort(stable=True)
    shape = (len(target), task.num_outputs)
    return SparseLabels(shape, coo=(rows, classes), missing=target == IGNORE_INDEX)


def _find_hits(columns: Tensor, target: SparseLabels) -> Tensor:
    """Return a mask of the columns (N, k) that are labels of their row."""
    rows, labels = target.coo()
    keys = labels * len(target) + rows  # in increasing order
    queries = columns * len(target) + torch.arange(len(target), device=columns.device).unsqueeze(1)
    if not len(keys):
        return torch.zeros_like(queries, dtype=torch.bool)
    return keys[torch.searchsorted(keys, queries).clamp(max=len(keys) - 1)] == queries


def _largest_weights(weights: Tensor, target: SparseLabels, k: int) -> Tensor:
    """Return the k largest weights of each row's labels (N, k) in descending order, then zeros."""
    rows, labels = target.coo()
    weights, counts = weights[labels.clamp(min=0)], target.count_per_row()
    order = weights.argsort(descending=True)
    order = order[rows[order].argsort(stable=True)]
    rows = rows[order]
    places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    largest = torch.zeros(len(target), k + 1, dtype=weights.dtype, device=rows.device)
    largest[rows, places.clamp(max=k)] = weights[order]  # the last column collects all others
    return largest[:, :-1]


def topk_prediction(task: Task, outputs: TopKOutputs) -> dict[str, Any]:
    """Return the highest outputs of each row, as `predict_step` does with a chunked head.

    - `top`: their indices (N, k), the highest first, with k = 5.
    - `probabilities`: their probabilities (N, k).
    - `prediction`: the class (N,), or 0/1 for each of the k labels (N, k). Predicted labels beyond the k
      highest are left out. -100 where the probability is NaN; NaN ranks highest.
    """
    probabilities, top = outputs.probabilities, outputs.columns
    if task.exclusive:
        prediction = missing_where_nan(top[:, 0], probabilities[:, 0])
    else:
        threshold = outputs.threshold
        threshold = threshold[0, top] if isinstance(threshold, Tensor) else threshold
        prediction = missing_where_nan((probabilities >= threshold).long(), probabilities)
    return {"top": top, "probabilities": probabilities, "prediction": prediction}
