"""The choice of nets by the table."""

import numpy as np
import pytest
import torch
from sklearn.feature_selection import f_classif

import lossselect as ls
from lossselect.data.splits import Splits
from lossselect.exceptions import ConfigError
from lossselect.models.auto import (
    choose_nets,
    default_epochs,
    find_number_columns,
    resolve_net,
    select_features,
)


@pytest.mark.parametrize(
    ("num_features", "num_outputs", "num_numbers", "names"),
    [
        (20, 3, 20, ["mlp", "mlp_deep", "tabm", "tabm_ple"]),
        (20, 3, 0, ["mlp", "mlp_deep", "tabm"]),
        (200, 3, 0, ["mlp", "mlp_deep", "tabm", "tabm_selected"]),
        (400, 3, 400, ["mlp", "mlp_deep", "tabm", "tabm_ple", "tabm_selected"]),
        (401, 3, 401, ["mlp", "tabm", "tabm_selected"]),
        (1000, 53, 0, ["mlp", "tabm", "tabm_selected"]),
        (5000, 2, 5000, ["mlp", "tabm_selected"]),
        (5000, 2, 50, ["mlp", "tabm_selected"]),
        (20, 1000, 20, ["mlp"]),
    ],
)
def test_choose_nets(num_features, num_outputs, num_numbers, names):
    assert choose_nets(num_features, num_outputs, num_numbers)[0] == names


@pytest.mark.parametrize(
    ("net", "rows", "epochs"),
    [
        ("ensemble", 10_000, 50),
        ("tabm", 640, 50),
        ("tabm", 320, 100),
        ("ensemble", 64, 200),
        ("mlp", 320, 100),
    ],
)
def test_default_epochs(net, rows, epochs):
    splits = make_splits(torch.randn(rows, 1))
    assert default_epochs({"name": net}, splits, 64) == epochs
    assert default_epochs({"name": net}, None, None) == 50
    assert default_epochs(torch.nn.Linear(1, 1), splits, 64) == 50


def test_number_columns_have_more_than_two_values_in_training_rows():
    features = torch.tensor([[0.0, 1.0, 5.0], [1.0, 1.0, 6.0], [0.0, 1.0, 7.0], [2.0, 2.0, 8.0]])
    assert find_number_columns(features, torch.tensor([0, 1, 2])) == [2]
    assert find_number_columns(features, torch.arange(4)) == [0, 2]


def make_rows():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(3000, 30)), random.integers(0, 2, 3000)
    x[:, [3, 17]] += y[:, None] * [0.5, 0.3]
    return x, y


def test_select_features_orders_two_classes_like_the_f_test():
    x, y = make_rows()
    expected = np.argsort(-f_classif(x, y)[0])
    for count in (1, 2, 5):
        selected = select_features(torch.from_numpy(x), torch.arange(3000), ls.Binary(), y, count)
        assert selected == sorted(expected[:count].tolist())


def test_select_features_ignores_missing_labels_and_other_rows():
    x, y = make_rows()
    labels = np.stack([y.astype(float), np.full(3000, np.nan)], 1)  # a label without known values
    labels[:100, 0] = np.nan
    x[2000:, 5] = 100 * y[2000:]
    selected = select_features(torch.from_numpy(x), torch.arange(2000), ls.Multilabel(2), labels, 2)
    assert selected == [3, 17]


def make_splits(features):
    labels = (features[:, 0] > 0).long().numpy()
    return Splits("test", features, labels, ("no", "yes"), {"train": torch.arange(len(features))}, {})


def test_resolve_auto():
    features = torch.randn(100, 3)
    features[:, 1] = (features[:, 1] > 0).float()
    task = ls.Binary()
    spec, reason = resolve_net({"name": "auto", "nets": None}, task, make_splits(features), is_single=False)
    assert spec == {
        "name": "ensemble",
        "num_features": 3,
        "nets": {
            "mlp": {"name": "mlp"},
            "mlp_deep": {"name": "mlp", "hidden": [256, 256], "dropout": 0.2, "input_dropout": 0.0},
            "tabm": {"name": "tabm"},
            "tabm_ple": {"name": "tabm", "encoding": "ple", "num_members": 4, "columns": [0, 2]},
        },
    }
    assert reason == "3 features, of which 2 have more than two values"
    spec, _ = resolve_net({"name": "auto", "nets": ["tabm"]}, task, make_splits(features), is_single=False)
    assert spec == {"name": "tabm", "num_features": 3}
    spec, _ = resolve_net({"name": "auto", "nets": None}, task, make_splits(features), is_single=True)
    assert spec == {"name": "mlp", "num_features": 3}
    wide = torch.randn(100, 500)
    spec, _ = resolve_net({"name": "auto"}, task, make_splits(wide), is_single=False)
    assert 0 in spec["nets"]["tabm_selected"]["features"]
    assert len(spec["nets"]["tabm_selected"]["features"]) == 128


def test_resolve_the_columns_of_an_encoding():
    features = (torch.randn(50, 2) > 0).float()
    with pytest.raises(ConfigError, match="The net tabm_ple has no effect"):
        resolve_net(
            {"name": "auto", "nets": ["mlp", "tabm_ple"]}, ls.Binary(), make_splits(features), is_single=False
        )
    with pytest.raises(ConfigError, match=r"model\.nets requires the built-in module"):
        resolve_net({"name": "auto", "nets": ["mlp"]}, ls.Binary(), make_splits(features), is_single=True)
    with pytest.raises(ConfigError, match="encoding=ple has no effect"):
        resolve_net({"name": "mlp", "encoding": "ple"}, ls.Binary(), make_splits(features), is_single=False)
    features[:, 1] = torch.randn(50)
    spec, _ = resolve_net(
        {"name": "mlp", "encoding": "ple"}, ls.Binary(), make_splits(features), is_single=False
    )
    assert spec["columns"] == [1]
