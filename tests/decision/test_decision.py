"""Thresholds, class factors and temperatures, compared with exhaustive search and scikit-learn's metrics."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
)
from torch.nn import functional as F
from torch.nn.functional import one_hot

import lossselect as ls
from lossselect.decision.advice import suggest_threshold
from lossselect.decision.temperature import fit_sigmoid_line
from lossselect.decision.thresholds import expected_thresholds, sigmoid


def multilabel_rows(rows=60, labels=4, seed=0):
    """Return informative logits and labels, some of which are rare."""
    generator = torch.Generator().manual_seed(seed)
    rates = torch.tensor([0.5, 0.3, 0.15, 0.1])[:labels]
    target = (torch.rand(rows, labels, generator=generator) < rates).float()
    target[0] = 1
    return 2 * torch.randn(rows, labels, generator=generator) + 2 * target - 2, target


def decided(task, logits):
    return task.predict(logits.double()).numpy()


def best_score(logits, truth, score):
    """Return the best score over all common thresholds."""
    values = sorted(logits.flatten().tolist())
    return max(score(truth, (logits.numpy() >= value).astype(int)) for value in [*values, math.inf])


SCORES = {
    "f1_micro": lambda y, d: f1_score(y, d, average="micro", zero_division=0),
    "f1_macro": lambda y, d: f1_score(y, d, average="macro", zero_division=0),
    "accuracy": lambda y, d: (y == d).mean(),
    "balanced_accuracy": lambda y, d: np.mean(
        [balanced_accuracy_score(a, b) for a, b in zip(y.T, d.T, strict=True)]
    ),
}


@pytest.mark.parametrize("metric", SCORES)
def test_the_common_threshold_is_the_best_one(metric):
    logits, target = multilabel_rows()
    task = ls.fit_decision(ls.Multilabel(4), logits, target, metric=metric, per_label=False)
    assert isinstance(task.threshold, float)
    reached = SCORES[metric](target.numpy(), decided(task, logits))
    assert reached == pytest.approx(best_score(logits, target.numpy(), SCORES[metric]))


@pytest.mark.parametrize("metric", ["f1_macro", "accuracy", "balanced_accuracy"])
def test_without_shrinkage_each_label_has_its_best_threshold(metric):
    logits, target = multilabel_rows()
    task = ls.fit_decision(ls.Multilabel(4), logits, target, metric=metric, shrinkage=0)
    prediction = decided(task, logits)
    for i in range(4):
        column = target[:, [i]].numpy()
        score = f1_score if metric == "f1_macro" else SCORES[metric]
        best = best_score(logits[:, [i]], column, score)
        assert score(column, prediction[:, [i]]) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(8))
def test_thresholds_for_micro_f1_are_the_best_ones(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, 2, generator=generator)
    target = (torch.rand(9, 2, generator=generator) < torch.tensor([0.6, 0.2])).float()
    target[0] = 1
    with ls.ignore_warnings("few_positives"):
        task = ls.fit_decision(ls.Multilabel(2), logits, target, metric="f1_micro", shrinkage=0)
    best = 0
    for first in [*logits[:, 0].tolist(), math.inf]:
        for second in [*logits[:, 1].tolist(), math.inf]:
            prediction = (logits.numpy() >= np.array([first, second])).astype(int)
            best = max(best, SCORES["f1_micro"](target.numpy(), prediction))
    assert SCORES["f1_micro"](target.numpy(), decided(task, logits)) == pytest.approx(best)


def test_shrinkage_weights_the_threshold_of_a_label_by_its_positives():
    logits, target = multilabel_rows()
    fit = {
        "task": ls.Multilabel(4),
        "logits": logits,
        "target": target,
        "calibration": "none",
        "metric": "f1_macro",
    }
    own = torch.tensor(ls.fit_decision(**fit, shrinkage=0).threshold, dtype=torch.float64).logit()
    common = torch.tensor(ls.fit_decision(**fit, per_label=False).threshold, dtype=torch.float64).logit()
    positives = target.sum(0).double()
    shrunk = torch.tensor(ls.fit_decision(**fit, shrinkage=7).threshold, dtype=torch.float64).logit()
    torch.testing.assert_close(shrunk, (positives * own + 7 * common) / (positives + 7))


def test_precision_at_recall():
    logits, target = multilabel_rows(rows=200, labels=1)
    task = ls.fit_decision(ls.Binary(), logits, target, metric="precision_at_recall", recall=0.8)
    prediction = decided(task, logits)
    assert recall_score(target, prediction) >= 0.8
    assert precision_score(target, prediction) == max(
        precision_score(target, logits >= value)
        for value in logits.flatten()
        if recall_score(target, logits >= value) >= 0.8
    )


def test_binary_is_tuned_for_f1():
    logits, target = multilabel_rows(rows=200, labels=1)
    task = ls.fit_decision(ls.Binary(), logits, target, metric="f1")
    best = max(f1_score(target, logits >= value) for value in logits.flatten())
    assert f1_score(target, decided(task, logits)) == best


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1_macro"])
def test_class_factors_increase_the_metric(metric):
    score = balanced_accuracy_score if metric == "balanced_accuracy" else SCORES["f1_macro"]
    labels = torch.tensor([0] * 200 + [1] * 30 + [2] * 10)
    logits = torch.randn(240, 3) + F.one_hot(labels, 3) + torch.tensor([2.0, 0.5, 0])
    task = ls.fit_decision(ls.Multiclass(3), logits, labels, metric=metric)
    plain = score(labels, decided(ls.Multiclass(3), logits))
    assert score(labels, decided(task, logits)) > plain + 0.03
    assert ls.fit_decision(ls.Multiclass(3), logits, labels).prior_correction is None
    assert accuracy_score(
        labels, decided(ls.fit_decision(ls.Multiclass(3), logits, labels), logits)
    ) == accuracy_score(labels, decided(ls.Multiclass(3), logits))


def test_ties_between_corrections_are_resolved_by_theory():
    """Perfectly separated classes need no correction, so all small corrections are equally good."""
    labels = torch.tensor([0] * 8 + [1] * 2)
    logits = 9.0 * one_hot(labels)
    fit = {"metric": "balanced_accuracy", "calibration": "none"}
    task, counts = ls.Multiclass(2), ls.count_labels(ls.Multiclass(2), labels)
    np.testing.assert_allclose(
        ls.fit_decision(task, logits, labels, **fit).prior_correction, [1 / 0.8, 1 / 0.2]
    )
    halved = ls.fit_decision(task, logits, labels, metric="f1_macro", calibration="none").prior_correction
    np.testing.assert_allclose(halved, [0.8**-0.5, 0.2**-0.5])
    for options in ({"name": "logit_adjusted"}, {"weight": "balanced"}):
        loss = ls.select_loss(task, counts=counts, **options)
        assert ls.fit_decision(task, logits, labels, **fit, loss=loss).prior_correction == (1, 1)
    half = ls.count_labels(task, [0, 1])
    np.testing.assert_allclose(
        ls.fit_decision(task, logits, labels, **fit, counts=half).prior_correction, [2, 2]
    )


def test_labels_shifted_by_the_loss_are_tuned_for_macro_f1():
    logits, target = multilabel_rows()
    task = ls.Multilabel(4)
    loss = ls.select_loss(task, pos_weight=[1, 2, 5, 9])
    automatic = ls.fit_decision(task, logits, target, loss=loss)
    assert automatic == ls.fit_decision(task, logits, target, metric="f1_macro", loss=loss)
    assert automatic != ls.fit_decision(task, logits, target, loss=ls.select_loss(task))


class TestTemperature:
    @pytest.mark.parametrize("rows", [19, 20])
    def test_needs_twenty_labelled_rows(self, rows):
        generator = torch.Generator().manual_seed(0)
        logits = 6 * torch.randn(40, 1, generator=generator)
        target = (torch.arange(40) % 2).double().unsqueeze(1)
        target[rows:] = torch.nan
        fitted = ls.fit_decision(ls.Binary(), logits, target, metric=None)
        assert (fitted.temperature > 1.05) == (rows == 20)
        assert (fitted.temperature == 1) == (rows == 19)

    def test_the_known_shift_of_the_loss_needs_no_rows(self):
        loss = ls.select_loss(ls.Binary(), "cross_entropy", pos_weight=4.0)
        logits, target = torch.zeros(4, 1), torch.tensor([0.0, 1, 0, 1]).unsqueeze(1)
        fitted = ls.fit_decision(ls.Binary(), logits, target, loss=loss)
        assert fitted.shift == pytest.approx(math.log(4), abs=1e-6)
        assert fitted.temperature == 1

    def test_minimises_the_cross_entropy(self):
        for task, logits, target in (
            (ls.Binary(), 3 * torch.randn(80, 1), torch.randint(0, 2, (80, 1))),
            (ls.Multilabel(4), *multilabel_rows()),
            (ls.Multiclass(3), 5 * torch.randn(50, 3), torch.arange(50) % 3),
        ):
            logits = logits + 2 * (F.one_hot(target, 3) if task.name == "multiclass" else target)
            fitted = ls.fit_decision(task, logits, target, metric=None)
            loss = ls.select_loss(task, reduction="sum")
            canonical, exact = task.encode(target), logits.double()
            best = minimize_scalar(
                lambda t, x=exact, y=canonical, f=loss: f(x / t, y).item() + 30 * (1 / t - 1) ** 2 / 2,
                bounds=(0.05, 20),
                method="bounded",
            )
            assert fitted.temperature == pytest.approx(best.x, rel=1e-3)
            assert torch.equal(fitted.probabilities(logits).argmax(1), task.probabilities(logits).argmax(1))

    def test_per_label(self):
        logits, target = multilabel_rows(rows=4000)
        logits = logits * torch.tensor([0.5, 1, 2, 5])
        task = ls.Multilabel(4)
        each = ls.fit_decision(task, logits, target, metric=None, calibration="per_label").temperature
        for i in range(4):
            single = ls.fit_decision(ls.Binary(), logits[:, [i]], target[:, [i]], metric=None)
            assert each[i] == pytest.approx(single.temperature, rel=0.05)

    def test_of_a_label_with_few_rows_is_close_to_the_common_one(self):
        logits, target = multilabel_rows(rows=300)
        target[3:, 1] = math.nan
        task = ls.Multilabel(4)
        each = ls.fit_decision(task, logits, target, metric=None, calibration="per_label").temperature
        one = ls.fit_decision(task, logits, target, metric=None).temperature
        assert each[1] == pytest.approx(one, rel=0.15)

    def test_depends_little_on_a_few_rows(self):
        """Without the prior, perfectly separated rows would have the temperature 0."""
        for rows, least in ((10, 0.8), (1000, 0.05)):
            logits = torch.tensor([[-1.0], [1.0]]).repeat(rows, 1)
            task = ls.fit_decision(ls.Binary(), logits, [0, 1] * rows)
            assert least < task.temperature < 1

    def test_of_ordered_classes_keeps_the_most_probable_class(self):
        task = ls.Multiclass(4, ordinal=True)
        logits, labels = 4 * torch.randn(60, 3), torch.arange(60) % 4
        fitted = ls.fit_decision(task, logits, labels)
        assert fitted.temperature > 1
        assert torch.equal(fitted.probabilities(logits).argmax(1), task.probabilities(logits).argmax(1))


class TestMissingLabels:
    @pytest.mark.parametrize("metric", ["f1_macro", "expected_f1"])
    def test_logits_of_missing_labels_are_ignored(self, metric):
        logits, target = multilabel_rows()
        holes = torch.rand_like(target) < 0.3
        holes[0] = False
        target = target.masked_fill(holes, math.nan)
        kept = ls.fit_decision(ls.Multilabel(4), logits, target, metric=metric)
        assert (
            ls.fit_decision(ls.Multilabel(4), logits.masked_fill(holes, 77.0), target, metric=metric) == kept
        )

    def test_a_label_is_tuned_to_the_rows_where_it_is_known(self):
        logits, target = multilabel_rows()
        target[1:, 0][torch.rand(59) < 0.3] = math.nan
        fit = {"metric": "f1_macro", "calibration": "none", "shrinkage": 0}
        several = ls.fit_decision(ls.Multilabel(4), logits, target, **fit)
        rows = ~target[:, 0].isnan()
        single = ls.fit_decision(ls.Binary(), logits[rows][:, [0]], target[rows][:, [0]], **fit)
        assert several.threshold[0] == pytest.approx(single.threshold)

    def test_a_label_without_positives_gets_the_common_threshold(self):
        logits, target = multilabel_rows()
        target[:, 2] = 0
        task = ls.Multilabel(4, class_names=("a", "b", "c", "d"))
        with pytest.warns(
            ls.LossSelectWarning, match=r"1 of 4 labels have no positive in the validation split.*: c\."
        ):
            fitted = ls.fit_decision(task, logits, target, metric="f1_macro")
        with ls.ignore_warnings("untuned_threshold"):
            common = ls.fit_decision(task, logits, target, metric="f1_macro", per_label=False).threshold
        assert fitted.threshold[2] == common

    def test_without_any_positive_the_threshold_is_kept(self):
        with pytest.warns(ls.LossSelectWarning, match="untuned_threshold"):
            task = ls.fit_decision(ls.Binary(threshold=0.3), torch.randn(5, 1), torch.zeros(5))
        assert task == ls.Binary(threshold=0.3)

    def test_without_known_labels(self):
        for task, target in ((ls.Binary(), [math.nan]), (ls.Multiclass(2), torch.tensor([math.nan]))):
            with pytest.raises(ValueError, match="All validation labels are missing"):
                ls.fit_decision(task, torch.zeros(1, task.num_outputs), target)

    def test_pixels_are_rows(self):
        logits, target = multilabel_rows()
        image = ls.fit_decision(
            ls.Multilabel(4), logits.reshape(6, 10, 4).movedim(2, 1), target.reshape(6, 10, 4).movedim(2, 1)
        )
        assert image == ls.fit_decision(ls.Multilabel(4), logits, target)

    def test_soft_labels_of_classes(self):
        rows = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
        task = ls.fit_decision(ls.Multiclass(2), 6 * (rows - 0.5), rows, metric="f1_macro")
        assert math.isfinite(task.temperature)


def test_top_k_keeps_the_thresholds():
    logits, target = multilabel_rows()
    assert ls.fit_decision(ls.Multilabel(4, top_k=2), logits, target).threshold == 0.5


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (
            ls.Binary(),
            {"metric": "f1_makro"},
            "decision.metric='f1_makro' is not valid for task=binary. Did you mean 'f1_macro'?",
        ),
        (
            ls.Multiclass(3),
            {"metric": "f1_micro"},
            "decision.metric='f1_micro' is not valid for task=multiclass.",
        ),
        (ls.Multiclass(3), {"calibration": "per_label"}, "calibration=per_label is only for multilabel"),
        (ls.Binary(), {"calibration": "platt"}, "calibration='platt' is not valid."),
        (ls.Binary(), {"recall": 1.5}, "recall must be"),
        (ls.Binary(), {"shrinkage": -1}, "shrinkage must be"),
    ],
)
def test_invalid_settings_raise_an_error(task, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ls.fit_decision(task, torch.zeros(2, task.num_outputs), [0, 1], **options)


def test_more_outputs_than_cuts():
    logits = torch.randn(3000, 2)
    target = (torch.rand(3000, 2) < (2 * logits - 2).sigmoid()).float()
    task = ls.fit_decision(ls.Multilabel(2), logits, target, per_label=False, metric="f1_micro")
    reached = SCORES["f1_micro"](target.numpy(), decided(task, logits))
    best = max(
        SCORES["f1_micro"](target.numpy(), logits.numpy() >= v)
        for v in np.quantile(logits, np.linspace(0, 1, 301))
    )
    assert reached >= best - 1e-3


class TestExpectedF1:
    def test_the_threshold_is_half_of_it(self):
        """For calibrated probabilities, no other threshold has a larger F1."""
        generator = torch.Generator().manual_seed(3)
        logits = 2 * torch.randn(200_000, 1, generator=generator) - 2
        target = torch.bernoulli(logits.sigmoid(), generator=generator)
        task = ls.fit_decision(ls.Binary(), logits, target, metric="expected_f1")
        assert task.temperature == pytest.approx(1, abs=0.02)
        best = max(f1_score(target, logits >= v) for v in np.linspace(-2, 1, 61))
        assert f1_score(target, decided(task, logits)) == pytest.approx(best, abs=2e-3)
        assert task.threshold == pytest.approx(best / 2, abs=0.01)

    @pytest.mark.parametrize(("scale", "shift"), [(3, 0), (1, 2.5), (0.3, -4)])
    def test_scaled_and_shifted_logits_have_the_same_predictions(self, scale, shift):
        logits, target = multilabel_rows(rows=3000)
        plain = decided(ls.fit_decision(ls.Multilabel(4), logits, target), logits)
        moved = scale * logits + shift
        assert (decided(ls.fit_decision(ls.Multilabel(4), moved, target), moved) == plain).mean() > 0.99

    def test_the_threshold_of_a_label_is_near_the_common_one(self):
        logits, target = multilabel_rows(rows=300)
        one = ls.fit_decision(ls.Multilabel(4), logits, target, per_label=False).threshold
        each = ls.fit_decision(ls.Multilabel(4), logits, target).threshold
        assert each[0] > one > each[3]  # a rarer label has a lower threshold
        assert all(abs(math.log(t / (1 - t)) - math.log(one / (1 - one))) < 0.5 for t in each)

    def test_perfectly_separated_rows(self):
        logits = torch.tensor([[-3.0], [-1.0], [2.0], [5.0]])
        with ls.ignore_warnings("few_positives"):
            task = ls.fit_decision(ls.Binary(), logits, [0, 0, 1, 1], metric="expected_f1")
        assert task.predict(logits).flatten().tolist() == [0, 0, 1, 1]

    def test_only_positives(self):
        fitted = ls.fit_decision(ls.Binary(), torch.randn(19, 1), torch.ones(19), metric="expected_f1")
        assert 0 <= fitted.threshold <= 1


def test_expected_f1_is_half_way_between_the_common_and_the_own_threshold():
    random = np.random.default_rng(0)
    logits = random.normal([-3, 0.5], 1.5, (300, 2))
    truth = (random.random((300, 2)) < sigmoid(logits)).astype(float)
    known = np.ones_like(truth, dtype=bool)
    slope, shift = fit_sigmoid_line(logits.ravel(), truth.ravel())

    def best(values):
        """Return the logit of half the largest expected F1."""
        p = np.sort(sigmoid(slope * values.ravel() + shift))[::-1]
        half = max(p[:n].sum() / (n + p.sum()) for n in range(1, len(p) + 1))
        return math.log(half / (1 - half))

    middle = [(best(logits) + best(column)) / 2 for column in logits.T]
    expected = sigmoid((np.array(middle) - shift) / slope)
    np.testing.assert_allclose(expected_thresholds(logits, truth, known, per_label=True), expected, rtol=1e-9)


class TestBinary:
    """The default decision of binary tasks: the threshold 0.5 of the calibrated probability."""

    @pytest.mark.parametrize("rate", [0.03, 0.3, 0.8])
    def test_the_threshold_is_one_half(self, rate):
        generator = torch.Generator().manual_seed(0)
        logits = 3 * (torch.randn(4000, 1, generator=generator) + math.log(rate / (1 - rate)))
        target = torch.bernoulli((logits / 3).sigmoid(), generator=generator)
        fitted = ls.fit_decision(ls.Binary(), logits, target)
        assert fitted.threshold == 0.5
        assert fitted.temperature == pytest.approx(3, rel=0.2)
        # up to noise, no other threshold has a better accuracy on new rows
        fresh = torch.bernoulli((logits / 3).sigmoid(), generator=generator)
        tuned = ls.fit_decision(ls.Binary(), logits, target, metric="expected_f1")
        assert accuracy_score(fresh, decided(fitted, logits)) >= accuracy_score(fresh, decided(tuned, logits))

    @pytest.mark.parametrize("metric", ["f1", "expected_f1", "precision_at_recall"])
    def test_tuning_to_a_few_positives_warns(self, metric):
        """With 5 positives in 3,000 rows the threshold was 0.002, and f1 on new rows was 0."""
        logits, target = torch.randn(3000, 1), torch.zeros(3000, 1)
        target[:5] = 1
        with pytest.warns(ls.LossSelectWarning, match=r"has only 5 positives\. .* \[few_positives\]"):
            ls.fit_decision(ls.Binary(), logits, target, metric=metric)
        target[:10] = 1
        ls.fit_decision(ls.Binary(), logits, target, metric=metric)

    def test_positives_are_summed_over_labels(self):
        logits, target = torch.randn(300, 4), torch.zeros(300, 4)
        target[:3, 0] = target[:3, 1] = 1
        with (
            pytest.warns(ls.LossSelectWarning, match="has only 6 positives over all labels"),
            ls.ignore_warnings("untuned_threshold"),
        ):
            ls.fit_decision(ls.Multilabel(4), logits, target)

    def test_labels_without_shrinkage(self):
        logits, target = torch.randn(300, 2), torch.zeros(300, 2)
        target[:30, 0] = target[:4, 1] = 1
        with pytest.warns(
            ls.LossSelectWarning, match="1 of 2 labels have fewer than 10 validation positives"
        ):
            ls.fit_decision(ls.Multilabel(2), logits, target, metric="f1_macro", shrinkage=0)
        ls.fit_decision(ls.Multilabel(2), logits, target, metric="f1_macro")


class TestAdvice:
    """The advice that is printed if another threshold would clearly increase F1."""

    def rows(self, rate, seed, rows=600, strength=1.5):
        generator = torch.Generator().manual_seed(seed)
        logits = strength * torch.randn(rows, 1, generator=generator) + math.log(rate / (1 - rate))
        return logits, torch.bernoulli(logits.sigmoid(), generator=generator)

    def test_contains_the_f1_of_a_rare_class(self):
        logits, target = self.rows(0.1, 0)
        advice = suggest_threshold(ls.Binary(), logits, target)
        best = max(f1_score(target, logits >= value) for value in logits.flatten())
        assert advice.f1 == pytest.approx(best)
        assert advice.f1 == pytest.approx(f1_score(target, logits.double().sigmoid() >= advice.threshold))
        assert advice.f1_now == pytest.approx(f1_score(target, logits >= 0))
        assert advice.threshold < 0.4
        assert re.fullmatch(
            r".*f1 is 0\.\d\d at threshold 0\.\d+, but 0\.\d\d at the current 0\.5\. Set decision\.metric=f1 .*",
            str(advice),
        )

    def test_its_threshold_equals_the_tuned_one(self):
        logits, target = self.rows(0.1, 0)
        fitted = ls.fit_decision(ls.Binary(), logits, target)
        tuned = ls.fit_decision(ls.Binary(), logits, target, metric="f1")
        assert suggest_threshold(fitted, logits, target).threshold == pytest.approx(tuned.threshold)

    def test_is_rare_for_balanced_classes(self):
        """0.5 is the best threshold for calibrated balanced classes, so any advice is due to noise."""
        found = [suggest_threshold(ls.Binary(), *self.rows(0.5, seed, strength=4)) for seed in range(40)]
        assert sum(advice is not None for advice in found) <= 2

    def test_is_none_for_a_few_positives(self):
        logits, target = torch.randn(3000, 1), torch.zeros(3000, 1)
        target[:9] = 1
        assert suggest_threshold(ls.Binary(), logits, target) is None
        assert suggest_threshold(ls.Multilabel(2), torch.randn(9, 2), torch.ones(9, 2)) is None
        assert suggest_threshold(ls.Binary(), logits, torch.ones(3000, 1)) is None

    def test_is_given_for_a_few_negatives(self):
        logits = torch.cat([torch.full((60, 1), -1.0), torch.full((3, 1), -3.0)])
        advice = suggest_threshold(ls.Binary(), logits, (logits > -2).float())
        assert (advice.f1, advice.f1_now) == (1, 0)

    def test_ignores_missing_labels(self):
        logits, target = self.rows(0.1, 0)
        advice = suggest_threshold(ls.Binary(), logits, target)
        holes = torch.cat([logits, 5 * torch.ones(50, 1)]), torch.cat([target, torch.full((50, 1), math.nan)])
        assert suggest_threshold(ls.Binary(), *holes).f1 == advice.f1


class TestOddLogits:
    def test_a_class_with_logits_of_minus_infinity_changes_nothing(self):
        labels = torch.arange(300) % 3
        logits = torch.randn(300, 3) + 2 * one_hot(labels)
        ruled_out = torch.cat([logits, torch.full((300, 1), -math.inf)], 1)
        three, four = (
            ls.fit_decision(ls.Multiclass(x.shape[1]), x, labels).temperature for x in (logits, ruled_out)
        )
        assert four == pytest.approx(three)
        binary = torch.randn(50, 1)
        binary[3] = -math.inf
        assert (
            0
            < ls.fit_decision(ls.Binary(), binary, (torch.randn(50) > 0) & (binary[:, 0] > -9)).threshold
            < 1
        )

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_nan_and_infinity_raise_an_error(self, value):
        logits = torch.zeros(4, 1)
        logits[2] = value
        with pytest.raises(ValueError, match=f"Row 2 of the logits contains {value:g}, so"):
            ls.fit_decision(ls.Binary(), logits, [0, 1, 0, 1])


def test_accuracy_needs_no_factors():
    task = ls.Multiclass(2, prior_correction=(1, 9))
    logits, labels = torch.randn(20, 2), torch.arange(20) % 2
    assert ls.fit_decision(task, logits, labels).prior_correction is None
    assert ls.fit_decision(task, logits, labels, metric=None).prior_correction == (1, 9)
