"""Scales of numbers: equality with scikit-learn, in NumPy and PyTorch; fitting, checkpoints and settings."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import ndtri
from sklearn.preprocessing import QuantileTransformer, RobustScaler, StandardScaler

from lossselect.data import toy
from lossselect.data.datamodule import TensorData
from lossselect.data.files.load import load_own_data
from lossselect.data.preprocessing import array_features, scaling
from lossselect.data.preprocessing.columns import CellParser
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.data.preprocessing.scaling import (
    SCALINGS,
    Quantile,
    Robust,
    Scaler,
    Standard,
    Standardizer,
    fit_scales,
    sampled_rows,
)
from lossselect.data.preprocessing.table_features import Features
from lossselect.data.readers.tables import TableColumns
from lossselect.exceptions import CheckpointError, ConfigError, DataError
from lossselect.reporting.explain import plan
from lossselect.reporting.plan import Monitor
from lossselect.tasks.registry import make_task
from lossselect.training.classifier import Classifier

OPTIONS = {"val_path": None, "test_path": None, "val_fraction": 0.2, "test_fraction": 0.2, "seed": 0}
NAMED = ("robust", "quantile")


def columns(rows=700, seed=0):
    """Return columns with a heavy tail, an offset, ties, ties at the minimum, and missing values."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 5))
    x[:, 0] = np.exp(2 * x[:, 0])
    x[:, 1] += 1.7e9
    x[:, 2] = (2 * x[:, 2]).round()
    x[:, 3] = x[:, 3].clip(min=-0.5)
    x[rng.random(rows) < 0.2, 4] = np.nan
    return x


def fit(name, train):
    standardizer = Standardizer([*range(train.shape[1])]).partial_fit(train)
    return fit_scales(name, standardizer, train.T)


def scaled(scales, x):
    """Return the scaled columns in float64."""
    ((kind, _, parameters),) = Scaler(scales).groups
    return kind.apply(x, np, **parameters)


def expected(name, train, x):
    """Return what scikit-learn computes."""
    if name == "quantile":
        knots = min(256, len(train))
        transformer = QuantileTransformer(n_quantiles=knots, output_distribution="normal", subsample=None)
        transformer.fit(train)
        for quantiles, column in zip(transformer.quantiles_.T, train.T, strict=True):
            # scikit-learn's quantiles differ from tied values by rounding errors, so that it misses the ties
            values = np.unique(column[~np.isnan(column)])
            nearest = values[abs(quantiles[:, None] - values).argmin(1)]
            is_tied = abs(quantiles - nearest) < 1e-12 * column[~np.isnan(column)].std()
            quantiles[is_tied] = nearest[is_tied]
        return transformer.transform(x)
    y = RobustScaler().fit(train).transform(x)
    return y / np.sqrt(1 + (y / 3) ** 2)


class TestScales:
    @pytest.mark.parametrize("rows", [50, 700])
    @pytest.mark.parametrize("name", NAMED)
    def test_equal_scikit_learn(self, name, rows):
        train, new = columns(rows), np.concatenate([columns(rows), columns(300, seed=1) * 1.5])
        np.testing.assert_allclose(
            scaled(fit(name, train), new), expected(name, train, new), rtol=1e-8, atol=1e-9
        )

    def test_standard_is_bit_equal_to_its_formula(self):
        train = columns()[:, :4]
        scales = fit("standard", train)
        mean, std = (np.array([getattr(scale, key) for scale in scales]) for key in ("mean", "std"))
        features = Scaler(scales)(train)
        assert features.dtype == np.float32
        assert np.array_equal(features, ((train - mean) / std).astype(np.float32))
        np.testing.assert_allclose(features, StandardScaler().fit_transform(train), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", SCALINGS)
    def test_pytorch_computes_the_same(self, name):
        scales, x = fit(name, columns()), columns(seed=1)
        ((kind, _, parameters),) = Scaler(scales).groups
        tensors = {key: torch.from_numpy(np.asarray(value)) for key, value in parameters.items()}
        found = kind.apply(torch.from_numpy(x), torch, **tensors)
        np.testing.assert_allclose(found, scaled(scales, x), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("name", SCALINGS)
    def test_are_inverted(self, name):
        scaler = Scaler(fit(name, columns()))
        z = scaler(columns())
        np.testing.assert_allclose(scaler(scaler.invert(z)), z, rtol=1e-5, atol=2e-6)

    def test_the_normal_quantile(self):
        tail = np.logspace(-7, -0.3, 500)
        p = np.concatenate([tail, 1 - tail])
        np.testing.assert_allclose(scaling._normal_quantile(p, np), ndtri(p), rtol=1e-12, atol=1e-13)

    def test_several_kinds_keep_the_order_of_the_columns(self):
        x = columns()
        kinds = ("quantile", "standard", "robust", "standard", "quantile")
        scales = [fit(name, x)[i] for i, name in enumerate(kinds)]
        found = Scaler(scales)(x)
        for i, scale in enumerate(scales):
            assert np.array_equal(found[:, [i]], Scaler([scale])(x[:, [i]]), equal_nan=True)

    def test_equal_quartiles(self):
        x = np.array([0.0] * 80 + [4.0] * 20)
        (scale,) = fit("robust", x[:, None])
        assert scale == Robust(0.0, 2.0)  # half of the range

    @pytest.mark.parametrize("name", NAMED)
    def test_columns_without_such_a_scale_are_standardised(self, name):
        constant, unknown = np.full(50, 3.0), np.full(50, np.nan)
        x = np.stack([constant, unknown], axis=1)
        assert fit(name, x) == fit("standard", x)

    def test_a_column_of_two_values_has_no_quantiles(self):
        x = (np.arange(50) % 5 == 0).astype(float)[:, None]
        assert fit("quantile", x) == fit("standard", x)
        assert len(fit("quantile", columns(1000))[0].knots) == 256

    @pytest.mark.parametrize("name", NAMED)
    def test_extreme_values_are_bounded(self, name):
        found = scaled(fit(name, columns()), np.array([[1e300, -1e300, 1e308, -1e308, np.nan]]))
        assert np.isnan(found[0, 4])
        assert (np.abs(found[0, :4]) <= (3 if name == "robust" else 5.2)).all()
        assert (np.sign(found[0, :4]) == [1, -1, 1, -1]).all()

    def test_numbers_that_overflow_are_an_error(self):
        with pytest.raises(DataError, match="overflows float64"):
            fit("robust", np.array([[1e300], [-1e300], [0.0]]))

    def test_sampled_rows_are_evenly_spaced(self):
        train = np.arange(0, 20, 2)
        assert sampled_rows(train, 3).tolist() == [0, 8, 16]
        assert sampled_rows(train, 10).tolist() == train.tolist()


def features_of(frame, name, train=None):
    train = np.arange(frame.height) if train is None else train
    features = Features.fit(TableColumns(frame), train, CellParser(), scaling=name)
    rows, _ = features.transform(frame, "t.csv")
    return features, rows[torch.arange(frame.height)].numpy()


class TestFeatures:
    @pytest.mark.parametrize("name", NAMED)
    def test_missing_numbers_are_0_with_an_indicator(self, name):
        x = columns()[:, 4]
        features, rows = features_of(pl.DataFrame({"x": x}).fill_nan(None), name)
        assert features.names == ["x", "x missing"]
        missing = np.isnan(x)
        assert np.array_equal(rows[:, 1], missing)
        assert not rows[missing, 0].any()
        known = x[~missing]
        want = expected(name, x[:, None], known[:, None])
        np.testing.assert_allclose(rows[~missing, 0], want[:, 0], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", NAMED)
    def test_only_training_rows_are_used(self, name):
        frame = pl.DataFrame({"x": columns()[:, 0]})
        _, rows = features_of(frame, name, train=np.arange(300))
        x = frame["x"].to_numpy()[:, None]
        np.testing.assert_allclose(rows, expected(name, x[:300], x), rtol=1e-5, atol=1e-6)

    def test_dates_are_standardised(self):
        days = [f"2024-{1 + i % 12:02}-{1 + i % 28:02}" for i in range(100)]
        features, _ = features_of(pl.DataFrame({"x": columns(100)[:, 0], "day": days}), "quantile")
        assert {type(part.scale) for part in features.dates[0].parts} == {Standard}
        assert isinstance(features.numbers[0].scale, Quantile)

    @pytest.mark.parametrize("name", SCALINGS)
    def test_checkpoints_have_plain_values(self, name):
        frame = pl.DataFrame({"x": columns()[:, 0], "c": ["a", "b"] * 350})
        features, rows = features_of(frame, name)
        stored = Preparation("table", features, {}).to_dict()
        keys = {"standard": ["mean", "std"], "robust": ["median", "spread"], "quantile": ["knots"]}[name]
        assert [*stored["features"]["numbers"][0]] == ["name", *keys, "missing"]
        again = Features.from_dict(stored["features"])
        assert again == features
        assert np.array_equal(again.transform(frame, "t.csv")[0][torch.arange(700)], rows)

    def test_raw_numbers(self):
        frame = pl.DataFrame({"x": [1.7e9 + 0.25, None, 3.0], "c": ["a", "b", "a"]})
        features, _ = features_of(frame, "robust")
        raw = Preparation("table", features, {}).raw().features
        rows, unknown = raw.transform(frame, "t.csv")
        found = rows[torch.arange(3)]
        assert (raw.names, unknown, found.dtype) == (["x", "c=a", "c=b"], {}, torch.float64)
        np.testing.assert_array_equal(found, [[1.7e9 + 0.25, 1, 0], [np.nan, 0, 1], [3, 1, 0]])


class TestFiles:
    @pytest.fixture(autouse=True)
    def _folder(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))

    def write(self):
        x, y = columns(600)[:, :4], np.arange(600) % 3
        np.save("x.npy", x)
        np.save("y.npy", y)
        np.savez("d.npz", X=x, y=y)
        pl.DataFrame({**{f"x{i}": x[:, i] for i in range(4)}, "y": y}).write_parquet("t.parquet")

    def load(self, name, path, **options):
        return load_own_data(name, task={"name": "multiclass"}, path=path, **{**OPTIONS, **options})

    @pytest.mark.parametrize("name", NAMED)
    def test_memory_maps_and_large_tables_have_equal_features(self, name):
        self.write()
        table = self.load("table", "t.parquet", target="y", scaling=name)
        rows = torch.arange(600)
        others = {
            "npz": self.load("arrays", "d.npz", scaling=name),
            "npy": self.load("arrays", "x.npy", target="y.npy", scaling=name),
            "large": self.load("table", "t.parquet", target="y", scaling=name, max_memory=0),
        }
        assert others["large"].features.is_mapped
        x, train = np.load("x.npy"), table.rows["train"].numpy()
        np.testing.assert_allclose(
            table.features[rows], expected(name, x[np.sort(train)], x), rtol=1e-5, atol=1e-6
        )
        for splits in others.values():
            assert torch.equal(splits.features[rows], table.features[rows])
            assert splits.preparation["features"] == table.preparation["features"]
        other = self.load("table", "t.parquet", target="y", max_memory=0)  # not that of the cache
        assert not torch.equal(other.features[rows], table.features[rows])

    def test_wide_arrays_are_sampled(self, monkeypatch):
        self.write()
        monkeypatch.setattr(array_features, "MIN_FITTED_ROWS", 100)
        monkeypatch.setattr(array_features, "MAX_FITTED_CELLS", 0)
        splits = self.load("arrays", "x.npy", target="y.npy", scaling="robust")
        train = np.sort(splits.rows["train"].numpy())
        sample = np.load("x.npy")[train[::4]]  # of 384 rows
        found = [number["median"] for number in splits.preparation["features"]["numbers"]]
        np.testing.assert_allclose(found, np.median(sample, axis=0))

    @pytest.mark.parametrize(
        ("content", "options", "message"),
        [
            ("sparse", {"scaling": "robust"}, "cannot be used with sparse features"),
            ("table", {"scaling": "rank"}, "Unknown scaling 'rank'"),
            ("words", {"scaling": "quantile"}, "has no effect: no feature of w.csv is a number"),
        ],
    )
    def test_mistakes(self, content, options, message):
        self.write()
        Path("d.libsvm").write_text("0 1:2\n1 2:1\n" * 50)
        pl.DataFrame({"c": ["a", "b"] * 50, "y": [0, 1, 1, 0] * 25}).write_csv("w.csv")
        name, path, target = {
            "sparse": ("arrays", "d.libsvm", {}),
            "table": ("table", "t.parquet", {"target": "y"}),
            "words": ("table", "w.csv", {"target": "y"}),
        }[content]
        with pytest.raises(ConfigError, match=message):
            self.load(name, path, **target, **options)

    @pytest.mark.parametrize(
        ("name", "field", "value", "message"),
        [
            ("robust", "median", float("nan"), "median"),
            ("robust", "spread", 0.0, "spread of column 'x0' must be a number > 0"),
            ("robust", "spread", "1", "must be int or float"),
            ("quantile", "knots", [1.0, 0.0, 2.0], "must increase"),
            ("quantile", "knots", [1.0, 1.0], "must increase"),
            ("quantile", "knots", [0.0, float("inf")], "knot"),
            ("quantile", "knots", [0.0], "2 to 256 knots, got 1"),
            ("quantile", "knots", [*range(257)], "2 to 256 knots, got 257"),
            ("quantile", "knots", 3.0, "must be a list"),
            ("quantile", "knots", None, "must be a list"),
        ],
    )
    def test_a_damaged_checkpoint(self, name, field, value, message):
        self.write()
        stored = self.load("arrays", "d.npz", scaling=name).preparation
        Preparation.stored(stored, "a.ckpt")
        stored["features"]["numbers"][0][field] = value
        with pytest.raises(CheckpointError, match=message):
            Preparation.stored(stored, "a.ckpt")

    def test_a_number_without_a_scale(self):
        self.write()
        stored = self.load("arrays", "d.npz", scaling="robust").preparation
        del stored["features"]["numbers"][0]["median"]
        with pytest.raises(CheckpointError, match="has no 'mean'"):
            Preparation.stored(stored, "a.ckpt")


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("data", toy.DATASETS)
def test_built_in_data(data, name):
    test_fraction = None if data == "yeast" else 0.2
    splits = toy.load(data, seed=0, val_fraction=0.2, test_fraction=test_fraction, scaling=name)
    x = toy.DATASETS[data]().features
    train = x[splits.rows["train"]]
    low, high = np.percentile(train, (25, 75), axis=0)
    kept = [i for i in range(x.shape[1]) if low[i] < high[i] and len(np.unique(train[:, i])) > 2]
    assert len(kept) > 20
    want = expected(name, train, x)
    # scikit-learn treats values within 1e-7 of the range's ends as these
    inside = np.abs(want[:, kept]) < 5
    np.testing.assert_allclose(splits.features[:, kept][inside], want[:, kept][inside], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "formula", "others"),
    [
        ("standard", "standard deviation", "data.scaling=robust, data.scaling=quantile"),
        ("robust", "interquartile range", "data.scaling=standard, data.scaling=quantile"),
        ("quantile", "normal distribution", "data.scaling=standard, data.scaling=robust"),
    ],
)
def test_the_plan_shows_the_scaling(name, formula, others):
    splits = toy.load("breast_cancer", seed=0, val_fraction=0.2, test_fraction=0.2, scaling=name)
    task = make_task("binary", class_names=splits.class_names)
    data = TensorData(splits, task)
    module = Classifier(task, {"name": "linear", "num_features": data.num_features})
    line = plan(module, data, [], Monitor("last", ""), None)["scaling"]
    assert line.value == name
    assert formula in line.why
    assert line.change == others
