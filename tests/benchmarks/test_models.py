"""The figures of benchmarks/models.py by their formulas, and its models on small sets."""

import importlib
import json

import numpy as np
import pytest
from paths import ROOT
from scipy.sparse import csr_array
from sklearn import metrics as sk

PEERS = ["random_forest", "hist_gradient_boosting", "mlp", "logistic_regression"]


@pytest.fixture(scope="module")
def models():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("models")


@pytest.fixture
def random():
    return np.random.default_rng(0)


def calibration_error(confidence, correct, bins=15):
    index = np.clip(np.ceil(confidence * bins), 1, bins)
    return sum(
        (index == b).mean() * abs(correct[index == b].mean() - confidence[index == b].mean())
        for b in np.unique(index)
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_figures_of_one_class_per_row(models, random, classes):
    y = np.arange(200) % classes
    p = random.dirichlet(np.ones(classes), 200)
    p[0] = np.eye(classes)[1]  # the true class 0 has the probability 0
    predicted = p.argmax(1)
    predicted[:20] = 0  # the decision of a model can differ from the most probable class
    found = models.score(y, predicted, p)

    assert found["accuracy"] == np.mean(y == predicted)
    f1 = [sk.f1_score(y == c, predicted == c) for c in range(classes)]
    assert found["f1_macro"] == pytest.approx(np.mean(f1))
    assert found["auroc"] == pytest.approx(
        np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in range(classes)])
    )
    eps = np.finfo(float).eps
    assert found["log_loss"] == pytest.approx(-np.log(p[np.arange(200), y].clip(eps, 1 - eps)).mean())
    assert found["ece"] == pytest.approx(calibration_error(p.max(1), p.argmax(1) == y))
    assert ("average_precision" in found) == (classes == 2)
    if classes == 2:
        assert found["average_precision"] == sk.average_precision_score(y, p[:, 1])


def test_figures_of_several_labels_leave_out_labels_without_positives(models, random):
    y = random.integers(0, 2, (100, 4))
    y[:, 2] = 0
    p = random.random((100, 4))
    predicted = (p > 0.4).astype(int)
    found = models.score(y, predicted, p)

    kept = [0, 1, 3]
    assert found["f1_micro"] == pytest.approx(sk.f1_score(y.ravel(), predicted.ravel()))
    assert found["f1_macro"] == pytest.approx(np.mean([sk.f1_score(y[:, c], predicted[:, c]) for c in kept]))
    assert found["mean_average_precision"] == pytest.approx(
        np.mean([sk.average_precision_score(y[:, c], p[:, c]) for c in kept])
    )
    assert found["log_loss"] == pytest.approx(-np.log(np.where(y, p, 1 - p)).mean())
    assert found["ece"] == pytest.approx(calibration_error(p.ravel(), y.ravel()))


@pytest.mark.filterwarnings("ignore:No training row has 2")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_all_models_of_scikit_learn_and_a_net_fit_each_kind_of_set(models, random, tmp_path, monkeypatch):
    from model_sets import split_at

    x = random.normal(size=(150, 3))
    y = (x[:, 0] > 0) + (x[:, 1] > 0).astype(int)
    labels = (x > 0).astype(int)
    labels[:90, 2] = 0  # constant in the training rows
    tables = {
        "iris": split_at(x, y, 90),
        "counts": split_at(csr_array(np.maximum(x, 0)), y, 90),
        "flags": split_at(x, labels, 90),
    }
    names = [*PEERS, 'lossselect:{"name": "mlp", "hidden": [8]}']
    path = tmp_path / "results.json"
    models.run(tables, names, 1, path)
    results = models.run({"iris": tables["iris"]}, ["mlp", "logistic_regression"], 2, path)

    assert all(np.isfinite([*figures.values()]).all() for figures in results.values())
    assert all(results[f"iris|{name}|0"]["auroc"] > 0.8 for name in PEERS)
    assert all(results[f"flags|{name}|0"]["f1_micro"] > 0.5 for name in PEERS)
    assert [key for key in results if key.endswith("|1")] == ["iris|mlp|1"]  # the other is fitted once
    assert json.loads(path.read_text()).keys() == results.keys()

    monkeypatch.setattr(models, "fit_and_score", lambda *_: pytest.fail("a stored fit is repeated"))
    report = models.report(models.run(tables, names, 1, path))
    assert report.count("### ") == 3
    assert "| Accuracy | lossselect:" in report


@pytest.mark.parametrize("name", ["random_forest", "hist_gradient_boosting"])
def test_a_label_that_is_constant_in_training_has_that_value(models, random, name):
    x = random.normal(size=(60, 3))
    y = np.stack([x[:, 0] > 0, np.zeros(60), np.ones(60)], 1).astype(int)
    model = models.make_model(name, 0, False, True).fit(x, y)
    p = models.predict_probabilities(model, x, y)
    assert (p[:, 1:] == y[:, 1:]).all()
    assert (model.predict(x)[:, 1:] == y[:, 1:]).all()
    assert sk.roc_auc_score(y[:, 0], p[:, 0]) > 0.9


def test_models_that_are_fitted_once_do_not_depend_on_the_seed(models, random):
    x, y = random.normal(size=(60, 3)), np.arange(60) % 3
    for name in {*models.DETERMINISTIC} & {*PEERS}:
        first, second = (models.make_model(name, seed, False, False).fit(x, y) for seed in (0, 1))
        assert (first.predict_proba(x) == second.predict_proba(x)).all()


def test_the_report_has_the_best_in_bold_and_the_worst_difference_to_the_best_peer(models):
    values = {
        "iris|lossselect|0": (0.9, 0.2),
        "iris|lossselect|1": (0.8, 0.4),
        "iris|xgboost|0": (0.86, 0.1),
        "iris|mlp|0": (0.8, 0.3),
        "wine|lossselect|0": (0.95, 0.2),
        "wine|xgboost|0": (0.93, 0.5),
        "wine|mlp|0": (0.92, 0.5),
    }
    results = {key: {"accuracy": a, "log_loss": b} for key, (a, b) in values.items()}
    lines = models.report(results).splitlines()

    assert "| Accuracy | **0.900** | 0.860 | 0.895 |" in lines
    assert "| Log loss | **0.250** | 0.400 | 0.300 |" in lines
    assert "| iris | 0.850 | 0.800 | **0.860** |" in lines
    assert (
        "| Accuracy, worst difference to the best peer | -0.010 (iris) | -0.060 (iris) | +0.010 (wine) |"
        in lines
    )


def test_a_generated_set_has_the_same_rows_each_time(models):
    from model_sets import SETS

    for name in ("wrong_labels", "counts"):
        first, second = (SETS["Generated tables"][name]() for _ in range(2))
        assert (first.y == second.y).all()
        assert (first.x != second.x).sum() == 0
        assert set(first.y) == set(first.test_y)
