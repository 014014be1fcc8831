import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss, roc_auc_score

import lossselect as ls
from lossselect.comparison.predictions import read_predictions, shared_rows
from lossselect.exceptions import DataError
from lossselect.reporting import statistics
from lossselect.reporting.formulas import escape_formula
from lossselect.reporting.statistics import Predictions, differences, intervals
from lossselect.reporting.tables import format_cells, prediction_columns


def make(truth, p, exclusive, threshold=0.5):
    """Return predictions from true labels (N, K) and probabilities (N, K)."""
    predicted = np.eye(p.shape[1])[p.argmax(1)] if exclusive else (p >= threshold).astype(float)
    names = tuple(f"c{i}" for i in range(p.shape[1]))
    several = not exclusive and p.shape[1] > 1
    return Predictions(np.arange(len(p)), names, truth, predicted, p, several)


def draw(kind, rows=200, seed=0):
    generator = np.random.default_rng(seed)
    if kind == "multiclass":
        classes = generator.integers(0, 3, rows)
        logits = generator.normal(size=(rows, 3)) + 1.5 * np.eye(3)[classes]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return make(np.eye(3)[classes], p, True)
    width = 1 if kind == "binary" else 4
    truth = (generator.random((rows, width)) < 0.4).astype(float)
    return make(truth, 1 / (1 + np.exp(-generator.normal(2 * truth - 1, 1))), False)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_values_equal_those_of_scikit_learn(kind):
    predictions = draw(kind)
    found = intervals(predictions)
    truth, predicted, p = predictions.truth, predictions.predicted, predictions.probabilities
    if kind == "multiclass":
        y, z = truth.argmax(1), predicted.argmax(1)
        expected = {
            "accuracy": accuracy_score(y, z),
            "f1_macro": f1_score(y, z, average="macro"),
            "log_loss": log_loss(y, p),
        }
    elif kind == "binary":
        expected = {
            "accuracy": accuracy_score(truth, predicted),
            "f1": f1_score(truth, predicted),
            "f1_macro": f1_score(truth, predicted, average="macro"),
            "log_loss": log_loss(truth[:, 0], p[:, 0]),
        }
    else:
        expected = {
            "accuracy": (truth == predicted).mean(),
            "f1_macro": f1_score(truth, predicted, average="macro"),
            "f1_micro": f1_score(truth, predicted, average="micro"),
            "log_loss": np.mean([log_loss(t, q) for t, q in zip(truth.T, p.T, strict=True)]),
        }
    assert {name: interval.value for name, interval in found.items()} == pytest.approx(expected)
    for interval in found.values():
        assert interval.low < interval.value < interval.high


def test_missing_labels_count_nowhere():
    predictions = draw("multilabel")
    hidden = np.random.default_rng(1).random(predictions.truth.shape) < 0.6
    truth = np.where(hidden, np.nan, predictions.truth)
    partly = Predictions(
        predictions.rows, predictions.names, truth, predictions.predicted, predictions.probabilities, True
    )
    found = intervals(partly)
    known = ~hidden
    assert found["accuracy"].value == pytest.approx((truth == predictions.predicted)[known].mean())
    flat = (predictions.truth[known], predictions.predicted[known])
    assert found["f1_micro"].value == pytest.approx(f1_score(*flat))
    assert found["log_loss"].value == pytest.approx(
        log_loss(predictions.truth[known], predictions.probabilities[known])
    )


def test_the_interval_of_an_accuracy_is_that_of_the_binomial_distribution():
    predictions = draw("binary", rows=400)
    interval = intervals(predictions)["accuracy"]
    error = np.sqrt(interval.value * (1 - interval.value) / 400)
    assert interval.low == pytest.approx(interval.value - 1.96 * error, abs=0.006)
    assert interval.high == pytest.approx(interval.value + 1.96 * error, abs=0.006)


def test_the_p_value_is_that_of_all_exchanges(monkeypatch):
    """With 8 rows, all 256 exchanges can be counted."""
    monkeypatch.setattr(statistics, "SAMPLES", 20_000)
    statistics._draw_once.cache_clear()
    first, second = draw("binary", rows=8, seed=3), draw("binary", rows=8, seed=4)
    second = Predictions(
        first.rows, first.names, first.truth, second.predicted, second.probabilities, several=False
    )
    a, b = (first.truth == v.predicted for v in (first, second))
    observed = a.mean() - b.mean()
    extreme = []
    for swap in itertools.product([False, True], repeat=8):
        mask = np.array(swap)[:, None]
        extreme.append(
            abs(np.where(mask, b, a).mean() - np.where(mask, a, b).mean()) >= abs(observed) - 1e-12
        )
    found = differences(first, second)["accuracy"]
    statistics._draw_once.cache_clear()
    assert found.value == pytest.approx(observed)
    assert found.p == pytest.approx(np.mean(extreme), abs=0.015)


def test_only_rows_that_differ_count():
    """Six rows that are all wrong in the second run: p = 2 / 2^6 as in a sign test, for any number of rows."""
    first = draw("binary", rows=100)
    right = np.flatnonzero((first.truth == first.predicted)[:, 0])[:6]
    predicted = first.predicted.copy()
    predicted[right] = 1 - predicted[right]
    second = Predictions(**{**vars(first), "predicted": predicted})
    assert differences(first, second)["accuracy"].p == pytest.approx(2 / 64, abs=0.017)


def test_equal_predictions_do_not_differ():
    predictions = draw("multiclass")
    for difference in differences(predictions, predictions).values():
        assert difference == (0, 0, 0, 1)


def test_a_better_run_has_a_small_p_value():
    good = draw("multiclass")
    worse = good.probabilities[np.random.default_rng(5).permutation(200)]
    found = differences(good, make(good.truth, worse, True))
    assert found["accuracy"].value > 0.1
    assert found["accuracy"].low > 0
    assert found["accuracy"].p < 0.01
    assert found["log_loss"].value < 0


def test_many_rows_are_resampled_in_blocks(monkeypatch):
    whole = intervals(draw("binary"))
    statistics._draw_once.cache_clear()
    monkeypatch.setattr(statistics, "MAX_VALUES", 1000)
    blocks = intervals(draw("binary"))
    statistics._draw_once.cache_clear()
    assert blocks["accuracy"] == pytest.approx(whole["accuracy"], abs=0.01)


def test_rows_without_predictions_are_left_out():
    predictions = draw("multiclass")
    predicted = predictions.predicted.copy()
    predicted[:50] = np.nan
    partly = Predictions(
        predictions.rows, predictions.names, predictions.truth, predicted, predictions.probabilities, False
    )
    rest = predictions.select(np.arange(50, 200))
    assert intervals(partly)["accuracy"].value == pytest.approx(intervals(rest)["accuracy"].value)


class TestSharedRows:
    def test_are_found_in_any_order(self):
        all_rows = draw("multiclass")
        first, second = all_rows.select(np.array([5, 3, 8])), all_rows.select(np.array([9, 8, 5]))
        left, right = shared_rows(first, second)
        assert left.rows.tolist() == right.rows.tolist() == [5, 8]
        assert np.array_equal(left.truth, right.truth)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"rows": np.arange(200, 400)}, "no common test rows"),
            ({"names": ("a", "b", "c")}, "classes differ"),
            ({"truth": np.roll(draw("multiclass").truth, 1, 0)}, "labels of the common test rows differ"),
        ],
        ids=["rows", "names", "truth"],
    )
    def test_must_have_equal_labels(self, change, message):
        first = draw("multiclass")
        with pytest.raises(DataError, match=message):
            shared_rows(first, Predictions(**{**vars(first), **change}))

    def test_what_one_has_not_predicted_is_left_out_of_both(self):
        """Otherwise a net that returns NaN where it would be wrong would be the better one."""
        first = draw("multiclass")
        wrong = (first.truth != first.predicted).any(1)
        predicted = np.where(wrong[:, None], np.nan, first.predicted)
        second = Predictions(**{**vars(first), "predicted": predicted})
        for difference in differences(*shared_rows(second, first)).values():
            assert difference.value == 0

    def test_rows_without_a_label_are_not_counted(self):
        first = draw("multiclass")
        truth = first.truth.copy()
        truth[:50] = np.nan
        first = Predictions(**{**vars(first), "truth": truth})
        assert len(shared_rows(first, first)[0].rows) == 150


NAMES = ['a"q', "'b", "=1+1", "@c,d", "[0, 10)", "p_x", "1", "new\nline", "ü"]


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "one label"])
def test_names_are_read_as_they_were_written(kind, tmp_path):
    """Quotation marks, formulas, brackets and numbers are valid names of classes."""
    names = NAMES[:1] if kind == "one label" else NAMES
    generator = np.random.default_rng(0)
    if kind == "multiclass":
        task, width = ls.Multiclass(len(names), class_names=tuple(names)), len(names)
        labels, predicted = (torch.from_numpy(generator.integers(0, width, 60)) for _ in range(2))
    else:
        task, width = ls.Multilabel(len(names), class_names=tuple(names)), len(names)
        labels, predicted = (torch.from_numpy(generator.integers(0, 2, (60, width))) for _ in range(2))
    p = torch.from_numpy(generator.dirichlet(np.ones(width), 60))
    columns = {
        "row": range(60),
        "target": format_cells(task.decode(labels)),
        **prediction_columns(task, p, predicted),
    }
    escape_formula(columns).write_csv(tmp_path / "predictions.csv")
    read = read_predictions(tmp_path)[""]
    assert read.names == tuple(names)
    assert read.several == (kind != "multiclass")
    for matrix, expected in ((read.truth, labels), (read.predicted, predicted)):
        wanted = np.eye(width)[expected.numpy()] if kind == "multiclass" else expected.numpy()
        assert np.array_equal(matrix, wanted)
    found = intervals(read)
    assert found["accuracy"].value == pytest.approx((labels == predicted).double().mean().item())
    average = "binary" if kind == "one label" else "macro"
    assert found["f1_macro"].value == pytest.approx(f1_score(labels, predicted, average=average))


@pytest.mark.parametrize(
    "content", ["", "row,target,prediction,p_a,p_b\n", "row,x\n1,2\n", "\x00", "a\n1,2,3\n"]
)
def test_damaged_predictions_raise(content, tmp_path):
    (tmp_path / "predictions.csv").write_text(content)
    with pytest.raises(DataError):
        read_predictions(tmp_path)


def with_scores(predictions, **changed):
    p = predictions.probabilities
    return Predictions(**{**vars(predictions), "log_odds": np.log(p) - np.log1p(-p), **changed})


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_rankings_equal_those_of_scikit_learn(kind):
    predictions = with_scores(draw(kind))
    scores = predictions.log_odds.round(1)  # with ties
    found = intervals(with_scores(predictions, log_odds=scores))
    columns = list(zip(predictions.truth.T, scores.T, strict=True))
    assert found["auroc"].value == pytest.approx(np.mean([roc_auc_score(*column) for column in columns]))
    expected = np.mean([average_precision_score(*column) for column in columns])
    assert found["average_precision"].value == pytest.approx(expected)
    for name in ("auroc", "average_precision"):
        assert found[name].low < found[name].value < found[name].high


def test_weighted_rankings_are_those_of_repeated_rows():
    predictions = with_scores(draw("multilabel", rows=40))
    counts = np.random.default_rng(2).integers(0, 3, 40)
    repeated = predictions.select(np.repeat(np.arange(40), counts))
    weighted = statistics._Ranking(predictions).metrics(counts[None].astype(float))
    plain = statistics._Ranking(repeated).metrics(np.ones((1, counts.sum())))
    assert {name: value[0] for name, value in weighted.items()} == pytest.approx(
        {name: value[0] for name, value in plain.items()}
    )


def test_groups_are_drawn_as_a_whole():
    """Ten copies of each row, as one group, have the interval of the single rows."""
    single = with_scores(draw("binary", rows=60))
    copies = single.select(np.repeat(np.arange(60), 10))
    grouped = Predictions(**{**vars(copies), "groups": np.repeat(np.arange(60), 10)})
    for name, interval in intervals(single).items():
        assert intervals(grouped)[name] == pytest.approx(interval, abs=1e-12)
        assert intervals(copies)[name].high - interval.value < 0.6 * (interval.high - interval.value)


def test_an_interval_without_a_value_is_left_out():
    predictions = with_scores(draw("binary", rows=20))
    one_class = Predictions(**{**vars(predictions), "truth": np.ones((20, 1))})
    metrics = {"test/accuracy": float((one_class.predicted == 1).mean()), "test/auroc": float("nan")}
    assert [*statistics.metric_intervals(one_class, metrics, "test")] == ["test/accuracy"]
    assert not statistics.metric_intervals(one_class, {"test/accuracy": 0.123}, "test")


def test_few_rows_or_groups_have_no_intervals():
    predictions = with_scores(draw("binary", rows=40))
    metrics = {"test/accuracy": float((predictions.truth == predictions.predicted).mean())}
    for count, expected in ((9, 0), (10, 2)):  # also of f1_micro
        groups = np.arange(40) % count
        grouped = Predictions(**{**vars(predictions), "groups": groups})
        known = {**metrics, "test/f1_micro": metrics["test/accuracy"]}
        assert len(statistics.metric_intervals(grouped, known, "test")) == expected
    nothing = Predictions(**{**vars(predictions), "truth": np.full((40, 1), np.nan)})
    assert intervals(nothing) == {}


def test_infinite_scores_are_ties():
    truth = np.array([0.0, 1, 1, 0]).reshape(-1, 1)
    scores = np.array([np.inf, np.inf, np.inf, -1]).reshape(-1, 1)
    predictions = Predictions(np.arange(4), ("a",), truth, truth, np.full((4, 1), 0.5), False, scores)
    assert intervals(predictions)["auroc"].value == 0.75
