import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from chunked_cases import EACH, NAN, ROWS, TASKS, WIDTH, C, target_of
from torch import nn

import lossselect as ls
from lossselect.chunked.linear import ChunkedLinear
from lossselect.chunked.loss import chunked_loss
from lossselect.chunked.topk_metrics import TopKMetrics, TopKOutputs, propensities
from lossselect.labels.sparse_labels import SparseLabels


class TestMetrics:
    def values(self, task, logits_of, target, counts=None):
        layer, inputs = logits_of
        metrics = TopKMetrics(task, counts)
        for rows in (slice(0, 13), slice(13, None)):
            logits = layer(inputs[rows])
            sparse = SparseLabels.from_dense(target[rows]) if target.ndim > 1 else target[rows]
            seen = TopKOutputs(task, logits, sparse)
            chunked_loss(ls.select_loss(task), logits, sparse, observe=seen)
            metrics.update(seen, sparse)
        return {name: value.item() for name, value in metrics.compute().items()}

    def net(self):
        return ChunkedLinear(WIDTH, C, chunk=5), torch.randn(ROWS, WIDTH)

    def test_multilabel(self):
        task = ls.Multilabel(C, threshold=0.45, temperature=1.3)
        layer, inputs = self.net()
        target = target_of(task, False).float()
        target[7] = 0
        got = self.values(task, (layer, inputs), target)
        logits = layer(inputs).dense().detach()
        assert got["f1_micro"] == pytest.approx(sk.f1_score(target, task.predict(logits), average="micro"))
        order = logits.argsort(1, descending=True)
        for k in (1, 3, 5):
            assert got[f"ndcg_at_{k}"] == pytest.approx(sk.ndcg_score(target, logits, k=k))
            assert got[f"precision_at_{k}"] == pytest.approx(target.gather(1, order[:, :k]).mean().item())

    def test_multiclass(self):
        task = TASKS["multiclass"]
        layer, inputs = self.net()
        target = target_of(task, True)
        got = self.values(task, (layer, inputs), target)
        known = target >= 0
        logits, truth = layer(inputs).dense().detach()[known], target[known]
        for k in (1, 3, 5):
            assert got[f"accuracy_at_{k}"] == pytest.approx(
                sk.top_k_accuracy_score(truth, logits, k=k, labels=range(C))
            )
            assert got[f"ndcg_at_{k}"] == pytest.approx(
                sk.ndcg_score(nn.functional.one_hot(truth, C), logits, k=k)
            )
        assert got["f1_micro"] == got["accuracy_at_1"]

    def test_propensity_scored(self):
        """Compute the expected values row by row with the formulas of Jain et al."""
        task = TASKS["multilabel"]
        layer, inputs = self.net()
        target = target_of(task, False).float()
        train = (torch.rand(500, C) < torch.linspace(0.01, 0.5, C)).float()
        counts = ls.count_labels(task, train)
        got = self.values(task, (layer, inputs), target, counts)
        n, per_label = 500, train.sum(0).double().numpy()
        p = 1 / (1 + (np.log(n) - 1) * 2.5**0.55 * np.exp(-0.55 * np.log(per_label + 1.5)))
        np.testing.assert_allclose(propensities(counts), p)
        order = layer(inputs).dense().detach().argsort(1, descending=True).numpy()
        for k in (1, 3, 5):
            hits = sum(sum(target[i, c].item() / p[c] for c in row[:k]) for i, row in enumerate(order))
            best = sum(
                sum(sorted((1 / p[c] for c in range(C) if row[c]), reverse=True)[:k]) for row in target
            )
            assert got[f"psp_at_{k}"] == pytest.approx(hits / best)

    def test_ignore_the_offset_of_the_loss(self):
        task = TASKS["multiclass"]
        layer, inputs = self.net()
        target = target_of(task, False)
        skewed = ls.select_loss(task, "logit_adjusted", prior=[0.978, *[0.001] * (C - 1)], tau=5)
        logits = layer(inputs)
        seen = TopKOutputs(task, logits, target)
        chunked_loss(skewed, logits, target, observe=seen)
        assert torch.equal(seen.columns, logits.dense().topk(5, 1).indices)

    def test_highest_first_with_a_temperature_of_each_label(self):
        task = ls.Multilabel(C, temperature=EACH)
        layer, inputs = self.net()
        seen = TopKOutputs(task, layer(inputs)).scan()
        expected = task.probabilities(layer(inputs).dense()).topk(5, 1)
        assert torch.equal(seen.columns, expected.indices)
        torch.testing.assert_close(seen.probabilities, expected.values)

    def test_nan_outputs_give_nan_metrics(self):
        task = TASKS["multiclass"]
        layer, inputs = self.net()
        inputs[20] = NAN
        assert all(
            np.isnan(value) for value in self.values(task, (layer, inputs), target_of(task, False)).values()
        )

    def test_no_positive_labels_and_no_predictions_give_0(self):
        task = ls.Multilabel(C, threshold=1.0)
        assert self.values(task, self.net(), torch.zeros(ROWS, C))["f1_micro"] == 0

    def test_missing_labels_are_ignored(self):
        task = TASKS["multilabel"]
        layer, inputs = self.net()
        target = target_of(task, True).float()
        got = self.values(task, (layer, inputs), target)
        logits = layer(inputs).dense().detach()
        known = ~target.isnan()
        decided = task.predict(logits)
        assert got["f1_micro"] == pytest.approx(sk.f1_score(target[known], decided[known]))
        rows = known.any(1)
        ranked = logits.masked_fill(~known, -torch.inf)[rows]
        hits = target[rows].nan_to_num().gather(1, ranked.argsort(1, descending=True)[:, :3])
        assert got["precision_at_3"] == pytest.approx(hits.mean().item())
