"""Multiclass with ordered classes: ordinal regression (CORN)."""

import pytest
import torch

import lossselect as ls


class TestOrderedClasses:
    def test_probabilities_equal_those_of_corn(self):
        task = ls.Multiclass(4, ordinal=True)
        assert task.num_outputs == 3
        assert task.num_probabilities == 4
        logits = torch.randn(5, 3, dtype=torch.float64)
        above = logits.sigmoid().cumprod(1)  # P(y > 0), P(y > 1), P(y > 2)
        want = torch.cat([torch.ones(5, 1), above], 1) - torch.cat([above, torch.zeros(5, 1)], 1)
        torch.testing.assert_close(task.probabilities(logits), want)

    def test_cross_entropy_is_corns_loss(self):
        """Shi et al.: BCE of output k on the rows of class k or above, with the target y > k."""
        task = ls.Multiclass(4, ordinal=True)
        logits, labels = torch.randn(9, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, -100])
        total = 0
        for k in range(3):
            rows = labels >= k
            total += torch.nn.functional.binary_cross_entropy_with_logits(
                logits[rows, k], (labels[rows] > k).double(), reduction="sum"
            )
        torch.testing.assert_close(ls.select_loss(task)(logits, labels), total / 8)

    def test_predicts_the_median(self):
        task = ls.Multiclass(3, ordinal=True)
        probabilities = torch.tensor([[0.4, 0.25, 0.35], [0.5, 0.5, 0], [0.1, 0.1, 0.8]])
        assert task.predict_from_probabilities(probabilities).tolist() == [1, 0, 2]
        assert task.predict(torch.tensor([[10.0, 10.0], [-10.0, 10.0]])).tolist() == [2, 0]

    def test_every_softmax_loss_supports_it(self):
        task = ls.Multiclass(3, ordinal=True)
        for name, forms in ls.LOSSES.items():
            if "softmax" not in forms:
                continue
            if name == "one_vs_rest":
                with pytest.raises(ValueError, match="requires an output per class"):
                    ls.select_loss(task, name)
                continue
            more = (4,) if name == "dice" else ()
            options = {"prior": [0.2, 0.3, 0.5]} if name == "logit_adjusted" else {}
            loss = ls.select_loss(task, name, weight=[1, 2, 3], label_smoothing=0.1, **options)
            logits = (20 * torch.randn(6, 2, *more)).requires_grad_()
            target = torch.randint(0, 3, (6, *more))
            for y in (target, torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()):
                loss(logits, y).backward()
                assert logits.grad.isfinite().all()

    def test_extremes_are_finite(self):
        task = ls.Multiclass(3, ordinal=True)
        logits = torch.tensor([[6e4, -6e4], [-6e4, 6e4], [1e4, 1e4]], requires_grad=True)
        ls.select_loss(task)(logits, torch.tensor([0, 2, 1])).backward()
        assert logits.grad.isfinite().all()
        assert task.probabilities(logits).isfinite().all()

    def test_messages_and_plain_values(self):
        task = ls.Multiclass(3, ordinal=True, class_names=("low", "mid", "high"))
        assert str(task) == "multiclass with 3 ordered classes"
        assert ls.make_task(**task.to_dict()) == task
        with pytest.raises(
            ValueError, match=r"shape \(N, 2\) for multiclass with 3 ordered classes, got \(4, 3\)"
        ):
            ls.select_loss(task)(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
        with pytest.raises(TypeError, match="ordinal must be true or false, got 'yes'"):
            ls.Multiclass(3, ordinal="yes")
