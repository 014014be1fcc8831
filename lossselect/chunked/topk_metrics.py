"""Metrics of tasks with very many outputs: of the highest of each row, and of counts.

No metric of each label, and nothing of (N, C): see `TopKMetrics`.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lossselect.chunked.linear import ChunkedLogits, Highest
from lossselect.chunked.options import TOP_K, top_metric_names
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import IGNORE_INDEX, Task
from lossselect.tasks.tensors import as_constant, missing_where_nan
from lossselect.utils.device_ops import cumulative_sum

PROPENSITY = (0.55, 1.5)
"""A and B of Jain et al., 2016, as most use them."""


class TopKOutputs:
    """What a pass over blocks of logits tells of each row: its highest outputs, and how many are decided.

    Args:
        task: Decides.
        logits: Whose blocks they will be.
        target: Of the same rows; None to predict.
    """

    def __init__(
        self, task: Task, logits: ChunkedLogits, target: "SparseLabels | Tensor | None" = None
    ) -> None:
        self.task, self.logits, self.target = task, logits, target
        like = torch.empty(0, dtype=logits.wide, device=logits.device)
        self.highest = Highest(len(logits), min(TOP_K, logits.shape[1]), like)
        self.lse = torch.full((len(logits),), -torch.inf, dtype=like.dtype, device=like.device)
        self.decided, self.right, self.nans = (
            torch.zeros((), dtype=torch.long, device=like.device) for _ in range(3)
        )
        like = like.view(0, 0)
        self.temperature = as_constant(task.temperature, like)
        self.threshold = 0.0 if task.threshold is None else as_constant(task.threshold, like)

    def __call__(self, rows: slice, first: int, block: Tensor) -> None:
        """Look at the block of some rows, from column `first` on."""
        self.nans += block.isnan().sum()
        if self.task.exclusive:
            self.lse[rows] = torch.logaddexp(self.lse[rows], block.logsumexp(1))
        else:
            block = self._counted(rows, first, block)
        self.highest.add(rows, first, block)

    def _counted(self, rows: slice, first: int, block: Tensor) -> Tensor:
        """Counts predictions; the block over the temperature, minus infinity where nothing is known."""
        end = first + block.shape[1]
        threshold, temperature = (
            value[:, first:end] if isinstance(value, Tensor) else value
            for value in (self.threshold, self.temperature)
        )
        if isinstance(temperature, Tensor) or temperature != 1:
            block = block / temperature
        decided = block.sigmoid() >= threshold
        if isinstance(self.target, SparseLabels):
            truth = self.target.to_dense(first, end)[rows]
            self.right += (decided & (truth == 1)).sum()
            if self.target.unknown is not None or self.target.missing is not None:
                decided &= ~truth.isnan()
                block = block.masked_fill(truth.isnan(), -torch.inf)
        self.decided += decided.sum()
        return block

    def look(self) -> "TopKOutputs":
        """Go through the blocks, where no loss does."""
        with torch.no_grad():
            for rows in self.logits.groups():
                for first, _, block in self.logits.blocks(rows):
                    self(rows, first, block)
        return self

    @property
    def columns(self) -> Tensor:
        """The outputs with the highest logits (N, k), the highest first."""
        return self.highest.columns

    @property
    def probabilities(self) -> Tensor:
        """Theirs."""
        if self.task.exclusive:
            return (self.highest.values - self.lse.unsqueeze(1)).exp()
        return self.highest.values.sigmoid()


def propensities(counts: LabelCounts) -> np.ndarray:
    """How likely a label that is true is in the data, (L,): 1 / (1 + C (N_l + B)^-A).

    C = (log N - 1)(B + 1)^A for N rows, of which N_l have label l; A = .55, B = 1.5.

    References:
        Jain, Prabhu and Varma, Extreme Multi-label Loss Functions, KDD 2016.
    """
    a, b = PROPENSITY
    c = (math.log(max(counts.rows, 3)) - 1) * (b + 1) ** a
    inverse: np.ndarray = 1 + c * (counts.positives + b) ** -a
    return 1 / inverse


class TopKMetrics(Metric):
    """Metrics of an epoch with a chunked head, each over the rows of which something is known.

    - `precision_at_k`: the share of the k highest labels that are there, the mean over rows; under softmax
      `accuracy_at_k`: the share of rows whose class is among the k highest.
    - `ndcg_at_k`: sum_i hit_i / log2(i + 1) over the k highest, divided by what the best order would have; 0
      for a row without a label, as scikit-learn has it.
    - `psp_at_k`: sum of 1 / propensity of the hits among the k highest, over all rows, divided by the most
      that it can be: rare labels, of which more are overlooked in the data, count more. See `propensities`.
    - `f1_micro`: 2 TP / (2 TP + FP + FN) of all predictions; under softmax the accuracy.

    Args:
        task: Whose they are.
        counts: Of the train labels; without, there is no `psp_at_k`.
    """

    full_state_update = False

    def __init__(self, task: Task, counts: LabelCounts | None = None) -> None:
        super().__init__()
        self.task = task
        self.names = top_metric_names(task, task.num_outputs, counts is not None)
        inverse = None if counts is None else torch.from_numpy(1 / propensities(counts))
        self.inverse: Tensor | None
        self.register_buffer("inverse", inverse, persistent=False)
        self.sums: Tensor
        self.counted: Tensor
        k = min(TOP_K, task.num_outputs)
        # up to each place: hits, discounted hits over the best, weighted hits, the most of these
        self.add_state("sums", torch.zeros(4, k, dtype=torch.double), dist_reduce_fx="sum")
        # rows, predictions, right ones, labels that are there, outputs that are no number
        self.add_state("counted", torch.zeros(5, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, outputs: TopKOutputs, target: "SparseLabels | Tensor") -> None:
        """Take in a batch."""
        columns = outputs.columns
        if isinstance(target, SparseLabels):
            known, hits, there, most = self._of_labels(columns, target)
        else:
            known = target != IGNORE_INDEX
            hits = columns == target.unsqueeze(1)
            there = known.long()
            most = None if self.inverse is None else self.inverse[target.clamp(min=0)].unsqueeze(1)
        hits = (hits & known.unsqueeze(1)).double()
        places = torch.arange(1, columns.shape[1] + 1, device=columns.device)
        discount = 1 / (places + 1.0).double().log2()
        best = cumulative_sum(discount * (there.unsqueeze(1) >= places), 1)
        ndcg = cumulative_sum(hits * discount, 1) / best.clamp(min=1e-9)
        sums = [cumulative_sum(hits, 1).sum(0), (ndcg * known.unsqueeze(1)).sum(0)]
        if self.inverse is not None and most is not None:
            weighted = cumulative_sum(hits * self.inverse[columns], 1).sum(0)
            best = torch.nn.functional.pad(most, (0, columns.shape[1] - most.shape[1]))
            best = cumulative_sum(best, 1)
            sums += [weighted, (best * known.unsqueeze(1)).sum(0)]
        else:
            sums += [torch.zeros_like(sums[0])] * 2
        self.sums = self.sums + torch.stack(sums)
        self.counted = self.counted + torch.stack(
            [known.sum(), outputs.decided, outputs.right, (there * known).sum(), outputs.nans]
        )

    def _of_labels(
        self, columns: Tensor, target: SparseLabels
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Which rows are known, which of the highest are there, how many are, and their largest weights."""
        rows, labels = target.coo()
        keys = labels * len(target) + rows  # they rise
        asked = columns * len(target) + torch.arange(len(target), device=columns.device).unsqueeze(1)
        places = torch.searchsorted(keys, asked).clamp(max=max(len(keys) - 1, 0))
        hits = keys[places] == asked if len(keys) else torch.zeros_like(asked, dtype=torch.bool)
        there = target.count_per_row()
        most = None
        if self.inverse is not None:
            # of each row the k largest: in order of rows, the largest first, each at its place
            weights = self.inverse[labels]
            order = weights.argsort(descending=True)
            order = order[rows[order].argsort(stable=True)]
            rows = rows[order]
            place = torch.arange(len(rows), device=rows.device) - (there.cumsum(0) - there)[rows]
            most = torch.zeros(len(target), columns.shape[1] + 1, dtype=weights.dtype, device=rows.device)
            most[rows, place.clamp(max=columns.shape[1])] = weights[order]
            most = most[:, :-1]
        return target.known_rows(), hits, there, most

    def compute(self) -> dict[str, Tensor]:
        """By name."""
        rows, decided, right, there, nans = self.counted.unbind()
        hits, ndcg, weighted, most = self.sums
        values: dict[str, Tensor] = {}
        for name in self.names:
            kind, _, k = name.rpartition("_at_")
            if kind == "precision":
                values[name] = hits[int(k) - 1] / (rows * int(k))
            elif kind == "accuracy":
                values[name] = hits[int(k) - 1] / rows
            elif kind == "ndcg":
                values[name] = ndcg[int(k) - 1] / rows
            elif kind == "psp":
                values[name] = weighted[int(k) - 1] / most[int(k) - 1]
            elif self.task.exclusive:
                values[name] = hits[0] / rows
            else:
                values[name] = 2 * right / (decided + there).clamp(min=1).double()
        return {name: value.masked_fill(nans > 0, torch.nan) for name, value in values.items()}


def topk_prediction(task: Task, outputs: TopKOutputs) -> dict[str, Any]:
    """What `predict_step` returns of a chunked head: the highest outputs of each row.

    - `top`: their numbers (N, k), the highest first, k = 5; `probabilities`: theirs;
    - `prediction`: the class (N,), or which of these k labels are decided to be there, 0/1 (N, k): of a row
      with more of them, those that are likeliest. -100 where the probability is NaN; `top` begins with those.
    """
    probabilities, top = outputs.probabilities, outputs.columns
    if task.exclusive:
        prediction = missing_where_nan(top[:, 0], probabilities[:, 0])
        return {"top": top, "probabilities": probabilities, "prediction": prediction}
    threshold = outputs.threshold
    if isinstance(threshold, Tensor):
        threshold = threshold[0, top]
    prediction = missing_where_nan((probabilities >= threshold).long(), probabilities)
    return {"top": top, "probabilities": probabilities, "prediction": prediction}
