"""Scaling and encodings against references in float64."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import RobustScaler
from torch import nn

import lossselect as ls
from lossselect.exceptions import CheckpointError
from lossselect.models.encodings import (
    InputLayer,
    PeriodicEncoding,
    PiecewiseLinearEncoding,
    RobustScaling,
    fit_layers,
    quantiles,
)
from lossselect.models.nets import make_net


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(203, 4, generator=generator) * torch.tensor([1.0, 50.0, 0.01, 1.0])
    rows[:, 3] = (rows[:, 3] > 1.5).float()  # a rare category
    return rows


def test_quantiles_are_those_of_numpy(rows):
    expected = np.quantile(rows.double().numpy(), np.linspace(0, 1, 13), axis=0)
    np.testing.assert_allclose(quantiles(rows, 12), expected, rtol=1e-5, atol=1e-6)


def test_quantiles_of_a_single_row():
    assert torch.equal(quantiles(torch.tensor([[2.0, 3.0]]), 2), torch.tensor([[2.0, 3.0]] * 3))


def test_robust_scaling(rows):
    layer = RobustScaling(4)
    layer.fit(rows)
    z = RobustScaler().fit_transform(rows.double().numpy())
    z[:, 3] = rows[:, 3]  # its interquartile range is 0
    np.testing.assert_allclose(layer(rows), z / np.sqrt(1 + (z / 3) ** 2), rtol=1e-4, atol=1e-6)
    for value in (1e6, 1e30, torch.inf, -torch.inf):
        assert (layer(torch.full((1, 4), value)) * value > 0).all()
        assert (layer(torch.full((1, 4), value)).abs() - 3).abs().max() < 1e-3
    assert (layer.half()(torch.full((1, 4), 6e4).half()) > 2.9).all()


def test_piecewise_linear_encoding(rows):
    layer = PiecewiseLinearEncoding(4)
    layer.fit(rows)
    edges = np.quantile(rows.double().numpy(), np.linspace(0, 1, 13), axis=0)
    new = torch.cat([rows[:20], torch.full((1, 4), 1e3), torch.full((1, 4), -1e3)])
    expected = np.zeros((22, 4, 12))
    for i, row in enumerate(new.double().tolist()):
        for j, x in enumerate(row):
            for t in range(12):
                low, high = edges[t, j], edges[t + 1, j]
                if high > low:
                    expected[i, j, t] = min(max((x - low) / (high - low), 0), 1)
    np.testing.assert_allclose(layer(new), expected.reshape(22, -1), rtol=1e-3, atol=1e-4)


def test_the_encoding_of_a_constant_column_is_zero():
    layer = PiecewiseLinearEncoding(1)
    layer.fit(torch.ones(10, 1))
    assert not layer(torch.tensor([[0.0], [1.0], [5.0]])).any()


def test_periodic_encoding():
    torch.manual_seed(0)
    layer, x = PeriodicEncoding(2), torch.randn(5, 2)
    expected = torch.empty(5, 2, 4)
    for i in range(5):
        for j in range(2):
            waves = torch.cos(2 * torch.pi * layer.frequency[j] * x[i, j] + layer.phase[j])
            expected[i, j] = waves @ layer.weight[j]
    torch.testing.assert_close(layer(x), expected.flatten(1))


def test_an_input_layer_encodes_only_its_columns(rows):
    layer = InputLayer(4, nn.Identity, "ple", columns=[2, 0])
    layer.fit(rows)
    alone = PiecewiseLinearEncoding(2)
    alone.fit(rows[:, [2, 0]])
    assert layer.width == 4 + 24
    assert torch.equal(layer(rows), torch.cat([rows, alone(rows[:, [2, 0]])], 1))


def test_an_input_layer_uses_only_its_features(rows):
    layer = InputLayer(4, RobustScaling, "ple", columns=[1], features=[3, 0])
    layer.fit(rows)
    scaling, encoding = RobustScaling(2), PiecewiseLinearEncoding(1)
    scaling.fit(rows[:, [3, 0]])
    encoding.fit(rows[:, [0]])
    assert layer.width == 2 + 12
    assert torch.equal(layer(rows), torch.cat([scaling(rows[:, [3, 0]]), encoding(rows[:, [0]])], 1))


def test_fit_layers_fits_each_net_of_an_ensemble(rows):
    nets = {"a": {"name": "tabm"}, "b": {"name": "mlp", "encoding": "ple", "columns": [0, 1]}}
    net = make_net({"name": "ensemble", "num_features": 4, "nets": nets}, ls.Multiclass(2))
    fit_layers(net, rows)
    medians = rows.median(dim=0).values[:3]
    torch.testing.assert_close(net.nets["a"].first.base.center[:3], medians)
    assert net.nets["b"][0].encoding.start[0, 0] == rows[:, 0].min()


def test_the_statistics_are_part_of_the_state(rows):
    spec = {"name": "tabm", "num_features": 4, "encoding": "ple"}
    net, other = (make_net(spec, ls.Multiclass(2)).eval() for _ in range(2))
    fit_layers(net, rows)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(rows), net(rows))


def test_layers_are_fitted_once(rows):
    net = make_net({"name": "tabm", "num_features": 4}, ls.Multiclass(2))
    fit_layers(net, rows)
    fit_layers(net, 100 * rows)
    torch.testing.assert_close(net.first.base.center[0], rows[:, 0].median())
    loaded = make_net({"name": "tabm", "num_features": 4}, ls.Multiclass(2))
    loaded.load_state_dict(net.state_dict())
    fit_layers(loaded, 100 * rows)
    assert torch.equal(loaded.first.base.center, net.first.base.center)


def test_other_indices_in_a_file_are_rejected():
    net = make_net({"name": "tabm", "num_features": 4, "features": [0, 2]}, ls.Multiclass(2))
    state = net.state_dict()
    state["first.used.indices"] = torch.tensor([0, 9])
    with pytest.raises(CheckpointError, match="indices of columns differ"):
        net.load_state_dict(state)
