"""A choice of metrics: averages and excluded classes compared with scikit-learn, names, options and errors."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

import lossselect as ls
from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.metrics.direction import best_mode, direction
from lossselect.metrics.names import AVERAGES, class_keys

NAN = float("nan")
BINARY = ls.Binary(class_names=("ham", "spam"))
MULTICLASS = ls.Multiclass(4, class_names=("background", "road", "car", "sky"))
MULTILABEL = ls.Multilabel(4, class_names=("a", "b", "c", "d"))
TASKS = [BINARY, MULTICLASS, MULTILABEL]

SCORES = {
    "precision": sk.precision_score,
    "recall": sk.recall_score,
    "f1": sk.f1_score,
    "f2": lambda y, d, **options: sk.fbeta_score(y, d, beta=2, **options),
    "f0.5": lambda y, d, **options: sk.fbeta_score(y, d, beta=0.5, **options),
    "jaccard": sk.jaccard_score,
}
"""Scores that scikit-learn averages itself."""


def make_rows(task, rows=80, seed=0):
    """Return probabilities, an encoded target with missing labels, and known labels and predictions."""
    random = torch.Generator().manual_seed(seed)
    p = task.probabilities(torch.randn(rows, task.num_outputs, generator=random, dtype=torch.float64))
    target = task.encode(task.predict(torch.randn(rows, task.num_outputs, generator=random)))
    target[::7] = -100 if task.activation == "softmax" else NAN
    known = target != -100 if task.activation == "softmax" else ~target.isnan().any(1)
    y, d = target[known].numpy().astype(int), task.predict_from_probabilities(p)[known].numpy()
    return p, target, *((y[:, 0], d[:, 0]) if task is BINARY else (y, d))


def compute(task, names, p, target, batches=3, **options):
    metrics = ls.make_metrics(task, names=names, **options)
    for index in torch.arange(len(p)).tensor_split(batches):
        metrics.update(p[index], target[index])
    return {name: value.item() for name, value in metrics.compute().items()}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("task", TASKS, ids=str)
def test_averages_equal_scikit_learn(task, name):
    p, target, y, d = make_rows(task)
    averages = ("micro", "macro", "weighted", "none")
    got = compute(task, [name, *(f"{name}_{average}" for average in averages)], p, target)
    score, keys = SCORES[name], task.names
    expected = {f"{name}_{a}": score(y, d, average=a, zero_division=0) for a in averages[:3]}
    expected[name] = score(y, d, average="binary" if task is BINARY else "macro", zero_division=0)
    each = score(y, d, average=None, zero_division=0)
    expected |= {f"{name}/{key}": value for key, value in zip(keys, each, strict=True)}
    assert got == pytest.approx(expected, abs=1e-12)


def counts_of(y, d):
    """Return tp, fp, fn and tn of a binary problem."""
    return sk.confusion_matrix(y, d, labels=[0, 1]).ravel()[[3, 1, 2, 0]]


def specificity(y, d):
    return sk.recall_score(1 - y, 1 - d, zero_division=0)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_specificity(task):
    p, target, y, d = make_rows(task)
    names = ("micro", "macro", "weighted", "none")
    got = compute(task, ["specificity", *(f"specificity_{name}" for name in names)], p, target)
    if task is BINARY:
        columns, bare = [(1 - y, 1 - d), (y, d)], specificity(y, d)
    else:
        one_hot = (np.eye(4)[v].astype(int) if task is MULTICLASS else v for v in (y, d))
        columns = [*zip(*(v.T for v in one_hot), strict=True)]
        bare = np.mean([specificity(*column) for column in columns])
    each = [specificity(*column) for column in columns]
    pooled = sum(counts_of(*column) for column in columns)
    support = [column[0].sum() for column in columns]
    expected = {
        "specificity": bare,
        "specificity_micro": pooled[3] / (pooled[3] + pooled[1]),
        "specificity_macro": np.mean(each),
        "specificity_weighted": np.average(each, weights=support),
        **{f"specificity/{key}": value for key, value in zip(task.names, each, strict=True)},
    }
    assert got == pytest.approx(expected, abs=1e-12)


def test_other_scores_of_counts():
    p, target, y, d = make_rows(BINARY)
    assert compute(BINARY, "mcc", p, target)["mcc"] == pytest.approx(sk.matthews_corrcoef(y, d))

    p, target, y, d = make_rows(MULTICLASS)
    got = compute(MULTICLASS, ["mcc", "accuracy_macro", "accuracy_weighted", "accuracy_none"], p, target)
    recalls = sk.recall_score(y, d, average=None)
    assert got == pytest.approx(
        {
            "mcc": sk.matthews_corrcoef(y, d),
            "accuracy_macro": recalls.mean(),
            "accuracy_weighted": sk.accuracy_score(y, d),
            **{f"accuracy/{key}": value for key, value in zip(MULTICLASS.names, recalls, strict=True)},
        }
    )

    p, target, y, d = make_rows(MULTILABEL)
    names = [
        "mcc",
        "mcc_micro",
        "mcc_none",
        "accuracy_none",
        "hamming_distance_none",
        "balanced_accuracy_none",
    ]
    got = compute(MULTILABEL, names, p, target)
    each = [sk.matthews_corrcoef(y[:, j], d[:, j]) for j in range(4)]
    assert got["mcc"] == pytest.approx(np.mean(each))
    assert got["mcc_micro"] == pytest.approx(sk.matthews_corrcoef(y.ravel(), d.ravel()))
    for j, key in enumerate(MULTILABEL.names):
        assert got[f"mcc/{key}"] == pytest.approx(each[j])
        assert got[f"accuracy/{key}"] == pytest.approx((y == d)[:, j].mean())
        assert got[f"hamming_distance/{key}"] == pytest.approx((y != d)[:, j].mean())
        assert got[f"balanced_accuracy/{key}"] == pytest.approx(sk.balanced_accuracy_score(y[:, j], d[:, j]))


@pytest.mark.parametrize("task", TASKS[1:], ids=str)
def test_ranking_metrics_of_each_class(task):
    p, target, y, _ = make_rows(task)
    known = target != -100 if task is MULTICLASS else ~target.isnan().any(1)
    y, scores = (np.eye(4)[y] if task is MULTICLASS else y), p[known].numpy()
    got = compute(task, ["auroc_none", "average_precision_none"], p, target)
    expected = {
        f"{name}/{key}": score(y[:, j], scores[:, j])
        for name, score in {
            "auroc": sk.roc_auc_score,
            "average_precision": sk.average_precision_score,
        }.items()
        for j, key in enumerate(task.names)
    }
    assert got == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_metrics_of_the_k_highest(k):
    p, target, y, _ = make_rows(MULTICLASS)
    got = compute(MULTICLASS, f"accuracy_at_{k}", p, target)[f"accuracy_at_{k}"]
    assert got == pytest.approx(sk.top_k_accuracy_score(y, p[target != -100], k=k))
    p, target, y, _ = make_rows(MULTILABEL)
    highest = p[~target.isnan().any(1)].topk(k, 1).indices.numpy()
    got = compute(MULTILABEL, f"precision_at_{k}", p, target)[f"precision_at_{k}"]
    assert got == pytest.approx(np.take_along_axis(y, highest, 1).mean())


class TestClassesThatDoNotOccur:
    def test_multiclass_averages_are_over_classes_that_occur_or_are_predicted(self):
        task = ls.Multiclass(5)
        logits = torch.randn(60, 5)
        logits[:, 4] = -9  # never predicted
        target = torch.randint(0, 3, (60,))  # class 3 is predicted only
        d = logits.argmax(1)
        names = [f"{name}_macro" for name in ("precision", "recall", "f1", "jaccard")]
        got = compute(task, [*names, "recall_none"], task.probabilities(logits), target)
        for name in names:
            score = SCORES[name.removesuffix("_macro")]
            assert got[name] == pytest.approx(score(target, d, average="macro", zero_division=0)), name
        each = [got[f"recall/{c}"] for c in range(5)]
        assert np.isnan(each[4])
        assert each[3] == 0
        assert got["recall_macro"] == pytest.approx(np.nanmean(each))

    def test_multilabel_averages_are_over_labels_with_a_positive(self):
        p, target = torch.rand(50, 4), (torch.rand(50, 4) < 0.5).float()
        target[:, 3] = 0
        got = compute(MULTILABEL, ["precision_macro", "precision_weighted", "precision_none"], p, target)
        each = sk.precision_score(target[:, :3], p[:, :3] >= 0.5, average=None)
        assert got["precision_macro"] == pytest.approx(each.mean())
        assert np.isnan(got["precision/d"])
        weights = target[:, :3].sum(0).numpy()
        assert got["precision_weighted"] == pytest.approx(np.average(each, weights=weights))


def test_soft_labels_are_rounded_and_positions_are_rows():
    logits, labels = torch.randn(3, 4, 5, 6), torch.randint(0, 4, (3, 5, 6))
    names = ["jaccard_weighted", "mcc", "recall_none"]
    images = compute(MULTICLASS, names, MULTICLASS.probabilities(logits), MULTICLASS.encode(labels))
    flat = logits.movedim(1, -1).reshape(-1, 4)
    soft = torch.nn.functional.one_hot(labels.flatten(), 4) * 0.6 + 0.1
    rows = compute(MULTICLASS, names, MULTICLASS.probabilities(flat), MULTICLASS.encode(soft))
    assert images == pytest.approx(rows)
    assert images["mcc"] == pytest.approx(sk.matthews_corrcoef(labels.flatten(), flat.argmax(1)))


class TestExclude:
    """Averages are over the other classes; their rows still count as errors of other classes."""

    KEPT = (1, 2, 3)

    @pytest.mark.parametrize("name", ["precision", "recall", "f1", "jaccard"])
    @pytest.mark.parametrize("task", TASKS[1:], ids=str)
    def test_equals_scikit_learn_with_labels(self, task, name):
        p, target, y, d = make_rows(task)
        averages = ("micro", "macro", "weighted")
        names = [name, *(f"{name}_{average}" for average in averages)]
        got = compute(task, names, p, target, exclude=task.names[:1])
        for average in averages:
            want = SCORES[name](y, d, average=average, labels=self.KEPT, zero_division=0)
            assert got[f"{name}_{average}"] == pytest.approx(want), average
        assert got[name] == got[f"{name}_macro"]

    def test_other_metrics(self):
        p, target, y, d = make_rows(MULTICLASS)
        names = ["accuracy", "balanced_accuracy", "auroc", "auroc_none", "recall_none"]
        got = compute(MULTICLASS, names, p, target, exclude=["background"])
        assert got["accuracy"] == pytest.approx((y == d)[y != 0].mean())
        assert got["balanced_accuracy"] == pytest.approx(
            sk.recall_score(y, d, average="macro", labels=self.KEPT)
        )
        assert got["auroc"] == pytest.approx(np.mean([got[f"auroc/{key}"] for key in MULTICLASS.names[1:]]))
        assert "recall/background" not in got
        assert "auroc/background" not in got

    @pytest.mark.parametrize(
        "names",
        [
            {"name": "jaccard", "exclude": ["background"]},
            {"name": "jaccard", "exclude": [0]},
            {"jaccard": "jaccard", "exclude": ["background"]},
            [{"jaccard": {"name": "jaccard", "average": "macro"}, "exclude": ("background",)}],
        ],
        ids=str,
    )
    def test_forms(self, names):
        p, target, y, d = make_rows(MULTICLASS)
        want = sk.jaccard_score(y, d, average="macro", labels=self.KEPT)
        (got,) = compute(MULTICLASS, names, p, target).values()
        assert got == pytest.approx(want)

    def test_by_default_only_averages_over_classes_are_computed(self):
        assert {*ls.make_metrics(MULTICLASS, exclude=["background"])} == {
            *("accuracy", "auroc", "average_precision", "balanced_accuracy", "f1_macro", "f1_micro"),
        }
        assert {*ls.make_metrics(MULTICLASS, names={"exclude": ["background"]})} == {
            *ls.make_metrics(MULTICLASS, exclude=["background"])
        }

    @pytest.mark.parametrize(
        ("task", "names", "exclude", "message"),
        [
            (MULTICLASS, "mcc", ["background"], "'mcc' does not support exclude.*: accuracy, precision"),
            (MULTILABEL, "exact_match", ["a"], "'exact_match' does not support exclude"),
            (BINARY, "f1", ["ham"], r"'f1' does not support exclude for binary\. Remove exclude"),
            (
                MULTICLASS,
                "f1",
                ["backgroud"],
                "Unknown class 'backgroud' in exclude. Did you mean 'background'",
            ),
            (MULTICLASS, "f1", [4], "Unknown class 4"),
            (MULTICLASS, "f1", [*range(4)], "excludes all classes"),
        ],
    )
    def test_errors(self, task, names, exclude, message):
        with pytest.raises(ConfigError, match=message):
            ls.make_metrics(task, names=names, exclude=exclude)
        with pytest.raises(OptionTypeError, match="exclude must be a list"):
            ls.make_metrics(MULTICLASS, names="f1", exclude="background")


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        ("accuracy", ["accuracy"]),
        (["accuracy", {"name": "f1", "average": "weighted"}], ["accuracy", "f1_weighted"]),
        ({"name": "f1", "average": None}, [f"f1/{name}" for name in MULTICLASS.names]),
        ({"name": "f_beta", "beta": 0.5}, ["f0.5"]),
        ({"name": "f_beta", "beta": 2, "average": "micro"}, ["f2_micro"]),
        ({"name": "f_beta_macro", "beta": 0.5}, ["f0.5_macro"]),
        ({"name": "f_beta", "beta": 1e-5}, ["f1e-05"]),
        ({"name": "f1_micro", "average": "micro"}, ["f1_micro"]),
        ({"iou": "jaccard", "second": {"name": "f1_macro"}}, ["iou", "second"]),
        ({"each": "recall_none"}, [f"each/{name}" for name in MULTICLASS.names]),
        (["recall", "recall_none"], ["recall", *(f"recall/{name}" for name in MULTICLASS.names)]),
        ([], []),
    ],
    ids=str,
)
def test_names_of_the_values(names, keys):
    p, target, *_ = make_rows(MULTICLASS)
    assert compute(MULTICLASS, names, p, target).keys() == {*keys}
    prefixed = ls.make_metrics(MULTICLASS, "val/", names)
    prefixed.update(p, target)
    assert prefixed.compute().keys() == {f"val/{key}" for key in keys}
    assert prefixed.clone(prefix="x/")(p, target).keys() == {f"x/{key}" for key in keys}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("f1_macr", "Unknown metric 'f1_macr'. Did you mean 'f1_macro'"),
        ("iou", "Unknown metric 'iou'. It is called 'jaccard' here"),
        ("mean_iou", "called 'jaccard_macro' here"),
        ("sensitivity_weighted", "called 'recall_weighted' here"),
        ("f05", "Unknown metric 'f05'. Did you mean 'f0.5'"),
        ("accuracy_at_k", "Unknown metric 'accuracy_at_k'"),
        ("top_3_accuracy", "It is called 'accuracy_at_3' here"),
        ("topk_accuracy", "It is called 'accuracy_at_5' here"),
        ({"name": "accuracy", "top_k": 3}, r"no option 'top_k'\. Choose 'accuracy_at_3' instead"),
        ({"name": "auroc", "top_k": 3}, r"no option 'top_k'\. Its options: average, exclude"),
        ("hamming_loss", r"Unknown metric 'hamming_loss'\. Choose one of"),
        ("f_beta_macro", "requires beta"),
        ({"name": "f1", "average": "binary"}, "'f1' has no average 'binary'"),
        ("f_beta", "requires beta"),
        ("auroc_micro", r"Metric 'auroc' has no average 'micro'\. Its averages: macro, none"),
        ("mcc_macro", r"Metric 'mcc' has no average 'macro'\. Remove the average"),
        ("accuracy_at_4", "requires k from 1 to 3"),
        ("quadratic_kappa", r"requires ordered classes \(ordinal=True\)"),
        ({"name": "f1", "beta": 2}, "'f1' has no option 'beta'"),
        ({"name": "f1", "avg": "macro"}, "'f1' has no option 'avg'"),
        ({"name": "mcc", "average": "macro"}, r"Metric 'mcc' has no average 'macro'\. Remove the average"),
        ({"name": "f1_macro", "average": "micro"}, "average=micro contradicts"),
        (
            {"name": "f1", "average": "mean"},
            r"Metric 'f1' has no average 'mean'\. Its averages: macro, micro, weighted, none",
        ),
        (["f0.5", {"f0_5": "f1"}], "several metrics are named 'f0_5'"),
        (["recall_none", {"recall_none": "f1"}], "several metrics are named 'recall_none'"),
        (["f1", "f1"], "several metrics are named 'f1'"),
        (["recall_none", {"recall": "f1_none"}], "several metrics are named 'recall'"),
        ({"loss": "f1"}, "'loss' cannot be the name of a metric"),
        ({"a/b": "f1"}, "'a/b' cannot be the name of a metric"),
    ],
    ids=str,
)
def test_invalid_choices(names, message):
    with pytest.raises(ConfigError, match=message):
        ls.make_metrics(MULTICLASS, names=names)


@pytest.mark.parametrize("names", [3, [None], {"x": ["f1"]}, {"x": {"average": "macro"}}], ids=str)
def test_choices_of_the_wrong_type(names):
    with pytest.raises(OptionTypeError, match="must be a name such as"):
        ls.make_metrics(MULTICLASS, names=names)


@pytest.mark.parametrize("task", [*TASKS, ls.Multiclass(4, ordinal=True)], ids=str)
def test_every_metric_has_a_direction_and_shares_the_counts(task):
    for base, averages in AVERAGES[task.kind].items():
        name = {"f_beta": "f2"}.get(base, base.replace("_at_k", "_at_2"))
        for suffix in ("", *(f"_{average}" for average in averages if average != "binary")):
            assert direction(f"val/{name}{suffix}") in ("min", "max"), base
            if base in task.metric_names or averages:
                metric = ls.make_metrics(task, names=f"{name}{suffix}")
                assert {*metric.directions.values()} == {best_mode(f"val/{name}{suffix}")}
    counted = ls.make_metrics(
        task, names=["f1_micro", "precision_none", "jaccard_weighted", "accuracy", "mcc"]
    )
    assert [*counted.sources] == ["stat_scores"]
    p, target, *_ = make_rows(task) if task in TASKS else (torch.full((2, 4), 0.25), torch.tensor([0, 1]))
    counted.update(p, target)
    assert counted["f1_micro"].sums is counted["mcc"].sums


def test_the_direction_of_a_value_of_a_class():
    assert best_mode("val/recall/loss") == "max"
    assert best_mode("test/default_decision/hamming_distance_macro") == "min"
    assert best_mode("val/error/x", {"error": "min"}) == "min"
    assert direction("val/error/x", {"error": None}) is None


def test_names_of_classes_are_safe_in_names_of_values():
    names = ["a/b", "a b", "..", "a_b", "x\x1b[31m", "", "é", ".", "a_b", "../../etc"]
    keys = class_keys(names)
    assert keys == ["a_b", "a b", "_", "a_b_3", "x__31m", "5", "é", "__7", "a_b_8", "____etc"]
    assert len({*keys}) == len(names)
