"""The estimator with several tasks: a mapping or a table of labels."""

import re

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.metrics import accuracy_score
from sklearn.model_selection import KFold, cross_val_score
from torch import nn

from lossselect.exceptions import ConfigError, DataError, OptionTypeError
from lossselect.sklearn import TaskClassifier

OPTIONS = {"net": {"name": "mlp", "hidden": [32]}, "max_epochs": 20, "random_state": 0, "learning_rate": 0.01}


def make_rows(rows=300):
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 4))
    labels = {
        "species": np.array(["cat", "dog", "owl"], dtype=object)[x[:, :3].argmax(1)],
        "tags": (x[:, :2] > 0).astype(float),
        "sick": (x[:, 3] > 0).astype(int),
    }
    return x, labels


def test_fit_and_predict():
    x, y = make_rows()
    model = TaskClassifier(**OPTIONS).fit(x, y)
    assert list(model.task_.tasks) == ["species", "tags", "sick"]
    assert model.classes_["species"].tolist() == ["cat", "dog", "owl"]
    predicted, probabilities = model.predict(x), model.predict_proba(x)
    assert (predicted["species"] == y["species"]).mean() > 0.85
    assert (predicted["sick"] == y["sick"]).mean() > 0.85
    assert (predicted["tags"] == y["tags"]).mean() > 0.85
    assert {name: values.shape for name, values in probabilities.items()} == {
        "species": (300, 3), "tags": (300, 2), "sick": (300, 2),
    }  # fmt: skip
    np.testing.assert_allclose(probabilities["species"].sum(1), 1, atol=1e-6)
    each = [accuracy_score(y[name], predicted[name]) for name in y]
    assert model.score(x, y) == pytest.approx(np.mean(each))


def test_a_table_with_missing_labels():
    x, y = make_rows()
    y = {"species": y["species"].copy(), "sick": y["sick"].astype(float)}
    y["species"][::3], y["sick"][1::3] = None, np.nan
    columns = {name: values.tolist() for name, values in y.items()}
    model = TaskClassifier("several", **OPTIONS).fit(x, pl.DataFrame(columns))
    assert model.module_._label_counts["species"].missing > 60
    assert model.classes_["sick"].tolist() == [0, 1]
    known = np.arange(300) % 3 != 0
    assert (model.predict(x)["species"][known] == y["species"][known]).mean() > 0.85
    assert 0.8 < model.score(x, pl.DataFrame(columns)) <= 1


def test_sparse_labels():
    x, y = make_rows()
    y["tags"] = csr_array(y["tags"])
    model = TaskClassifier(**OPTIONS).fit(x, y)
    assert model.predict(x)["tags"].shape == (300, 2)
    assert 0.8 < model.score(x, y) <= 1


def test_a_table_of_names_needs_several():
    x, y = make_rows()
    with pytest.raises(DataError, match="If each of them is a task, set task='several'"):
        TaskClassifier(**OPTIONS).fit(x, pl.DataFrame({"species": y["species"], "sick": y["sick"]}))


def test_declared_tasks():
    x, y = make_rows()
    y["tags"] = y["tags"][:, :1]
    model = clone(TaskClassifier({"tags": "multilabel", "sick": "multiclass"}, **OPTIONS)).fit(x, y)
    kinds = {name: task.name for name, task in model.task_.tasks.items()}
    assert kinds == {"species": "multiclass", "tags": "multilabel", "sick": "multiclass"}


def test_cross_validation():
    x, y = make_rows()
    table = pl.DataFrame({"species": y["species"], "sick": y["sick"]})
    scores = cross_val_score(TaskClassifier("several", **OPTIONS), x, table, cv=KFold(2))
    assert (scores > 0.75).all()


@pytest.mark.parametrize(
    ("task", "change", "error", "text"),
    [
        ("auto", {"sick": np.zeros(300)}, DataError, "at least two classes"),
        ("auto", {"sick": np.full(300, np.nan)}, DataError, "All labels are missing"),
        ("auto", {"sick": np.zeros(10)}, DataError, "same number of rows"),
        ("auto", {"f1": np.arange(300) % 2}, ConfigError, "must not be called 'f1'"),
        ({"other": "binary"}, {}, ConfigError, "task contains 'other'"),
        ({"sick": "binry"}, {}, ConfigError, "Did you mean 'binary'?"),
        ({"species": "binary"}, {}, DataError, "requires two classes"),
        ("multiclass", {}, ConfigError, "task=multiclass is one task, but y has several"),
        ("auto", {"tags": [["a"], ["b", "c"]] * 150}, DataError, "lists of different lengths"),
        ("auto", {"tags": [["a"]] * 300}, DataError, "0 and 1, got an array of dtype"),
        ("auto", {"tags": pl.Series([["a"], []] * 150)}, DataError, "Expected a label for each row"),
        ("auto", {"tags": np.zeros((300, 2, 2))}, DataError, "got an array of shape (300, 2, 2)"),
        ("auto", {"sick": np.linspace(0, 1, 300)}, DataError, "(Task 'sick'.)"),
        ("auto", {"sick": 3}, OptionTypeError, "y['sick'] must contain a label for each row, got 3"),
    ],
)
def test_mistakes(task, change, error, text):
    x, y = make_rows()
    with pytest.raises(error) as raised:
        TaskClassifier(task, **OPTIONS).fit(x, {**y, **change})
    assert text in str(raised.value)


def drop(labels, name):
    return {key: values for key, values in labels.items() if key != name}


def test_mistakes_of_score():
    x, y = make_rows()
    model = TaskClassifier(**{**OPTIONS, "max_epochs": 1}).fit(x, y)
    for target, weight, text in (
        ({**y, "z": y["sick"]}, None, "y has an unknown task 'z'. Expected the tasks species, tags, sick."),
        (drop(y, "tags"), None, "y has no task 'tags'."),
        ({name: values[:5] for name, values in y.items()}, None, "y has 5 rows, but X has 300."),
        (y, np.ones(3), "sample_weight has 3 rows, but X has 300."),
        (y, np.zeros(300), "or have the weight 0"),
    ):
        with pytest.raises(DataError, match=re.escape(text)):
            model.score(x, target, weight)
    y["sick"] = np.full(300, np.nan)
    predicted = model.predict(x)
    expected = [accuracy_score(y[name], predicted[name]) for name in ("species", "tags")]
    assert model.score(x, y) == pytest.approx(np.mean(expected))


class Heads(nn.Module):
    def __init__(self, num_features, num_outputs):
        super().__init__()
        self.heads = nn.ModuleDict({"sick": nn.Linear(4, 1), "species": nn.Linear(4, 3)})

    def forward(self, x):
        return {name: head(x) for name, head in self.heads.items()}


def test_a_net_that_returns_a_mapping():
    x, y = make_rows()
    y = drop(y, "tags")
    model = TaskClassifier(**{**OPTIONS, "net": Heads, "max_epochs": 5, "decision": None}).fit(x, y)
    logits = model.module_.net(model.scaling_.transform(x))
    expected = logits["species"].softmax(1).detach().numpy()
    np.testing.assert_allclose(model.predict_proba(x)["species"], expected, atol=1e-6)


def test_an_array_is_not_several_tasks():
    x, y = make_rows()
    with pytest.raises(OptionTypeError, match="y must be a mapping such as"):
        TaskClassifier("several", **OPTIONS).fit(x, y["sick"])
