"""Data sets of sparse features: splits, scaling, batches and new files."""

import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse
from sklearn.datasets import dump_svmlight_file
from sklearn.preprocessing import MaxAbsScaler
from table_cases import OPTIONS

from lossselect.cli.predict import predict_file
from lossselect.data.files.load import load_own_data
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.exceptions import CheckpointError, ConfigError, DataError
from lossselect.utils.warnings import LossSelectWarning

N, F = 200, 30


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(path, task="binary", **options):
    return load_own_data("arrays", task={"name": task}, path=path, **{**OPTIONS, **options})


def make(density=0.3, seed=0):
    rng = np.random.default_rng(seed)
    matrix = sparse.random_array(
        (N, F), density=density, rng=rng, format="csr", data_sampler=rng.standard_normal
    )
    return matrix, rng.integers(0, 2, N)


def save(matrix, labels):
    sparse.save_npz("X.npz", matrix)
    np.save("y.npy", labels)
    return load("X.npz", target="y.npy")


def transform(splits, path, size=64):
    preparation = Preparation.stored(splits.preparation, "c.ckpt")
    frames = preparation.frames(path, size)
    return torch.cat([preparation.features.transform(f, path)[0][torch.arange(f.shape[0])] for f in frames])


def test_batches_are_those_of_a_dense_reference():
    matrix, labels = make()
    splits = save(matrix, labels)
    train = splits.rows["train"].numpy()
    scaler = MaxAbsScaler().fit(matrix[train])
    expected = scaler.transform(matrix).toarray()
    rows = torch.tensor([3, 199, 3, 0])
    batch = splits.features[rows]
    assert batch.dtype == torch.float32
    np.testing.assert_allclose(batch, expected[rows], rtol=1e-6)
    np.testing.assert_allclose(splits.features[7], expected[7], rtol=1e-6)
    np.testing.assert_allclose(transform(splits, "X.npz"), expected, rtol=1e-6)
    assert splits.columns == (f"{F} columns of a sparse matrix",)
    assert splits.preparation["features"]["scale"].tolist() == scaler.max_abs_.tolist()


def test_columns_without_training_values_are_left_out():
    matrix, labels = make()
    dense = matrix.toarray()
    train = save(matrix, labels).rows["train"].numpy()
    others = np.setdiff1d(np.arange(N), train)
    dense[:, 4], dense[train, 9], dense[others, 9] = 0, 0, 1
    with pytest.warns(LossSelectWarning, match=r"0 in all training rows are left out: x4, x9\.") as caught:
        splits = save(sparse.csr_array(dense), labels)
    assert caught[0].message.name == "constant_feature"
    kept = [i for i in range(F) if i not in (4, 9)]
    assert splits.features.shape == (N, F - 2)
    assert Preparation.from_dict(splits.preparation).features.names == [f"x{i}" for i in kept]
    expected = dense[:, kept] / np.abs(dense[train][:, kept]).max(0)
    np.testing.assert_allclose(splits.features[torch.arange(N)], expected, rtol=1e-6)


def test_only_zeros():
    with pytest.raises(DataError, match="All features are 0 in all training rows"):
        save(sparse.csr_array((N, F)), make()[1])


def test_duplicate_rows_are_found():
    matrix, labels = make()
    splits = save(matrix, labels)
    hashes = splits.features.hashes
    assert hashes.n_unique() == N
    dense = matrix.toarray()
    dense[5] = dense[8]
    dense[6] = -dense[8]
    repeated = save(sparse.csr_array(dense), labels).features.hashes
    assert repeated[5] == repeated[8] != repeated[6]
    assert (load("X.npz", target="y.npy").features.hashes == repeated).all()
    matrix.data[0] = 0  # is stored
    stored = save(matrix, labels).features.hashes
    matrix.eliminate_zeros()
    assert (save(matrix, labels).features.hashes == stored).all()


def test_values_out_of_the_range_of_float32():
    matrix, labels = make()
    test = int(save(matrix, labels).rows["test"][0])
    dense = matrix.toarray()
    dense[:, 3] = 1e-30
    dense[test, 3] = 1e30
    with pytest.raises(DataError, match=rf"Row {test} of column 'x3' of X\.npz is too large") as caught:
        save(sparse.csr_array(dense), labels)
    assert (caught.value.row, caught.value.column) == (test, "x3")


def test_a_million_columns():
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 10**6, N * 5)
    matrix = sparse.csr_array((np.ones(N * 5), (np.repeat(np.arange(N), 5), columns)), shape=(N, 10**6))
    matrix.sum_duplicates()
    with pytest.warns(LossSelectWarning, match="left out: x0, x1, .*in all"):
        splits = save(matrix, make()[1])
    train = splits.rows["train"].numpy()
    assert splits.features.shape[1] == len(np.unique(matrix[train].indices))
    assert transform(splits, "X.npz").shape == splits.features.shape


def test_memory():
    rows, columns = 100_000, 50_000  # 40 GB as float64
    rng = np.random.default_rng(0)
    indices = (np.arange(rows * 10) * 7919) % columns  # each in many rows
    matrix = sparse.csr_array(
        (rng.random(rows * 10) + 0.1, indices, np.arange(rows + 1) * 10), shape=(rows, columns)
    )
    sparse.save_npz("X.npz", matrix, compressed=False)
    np.save("y.npy", rng.integers(0, 2, rows))
    tracemalloc.start()
    try:
        batch = load("X.npz", target="y.npy").features[torch.arange(64)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert batch.shape == (64, columns)
    assert peak < 400e6  # the entries are 16 MB


def test_nan_cannot_be_missing():
    matrix, labels = make()
    save(matrix, labels)
    with pytest.raises(ConfigError, match=r"data\.nan=missing cannot be used with sparse features"):
        load("X.npz", target="y.npy", nan="missing")
    matrix.data[0] = np.nan
    with pytest.raises(DataError, match=r"Row 0 of column 'x\d+' of X\.npz is nan"):
        save(matrix, labels)


class TestSplits:
    def test_arrays_next_to_the_features(self):
        matrix, labels = make()
        save(matrix, labels)
        words = np.array(["train", "val", "test", "train"])[np.arange(N) % 4]
        np.save("s.npy", words)
        splits = load("X.npz", target="y.npy", split="s.npy")
        assert [len(splits.rows[split]) for split in ("train", "val", "test")] == [N // 2, N // 4, N // 4]
        np.save("g.npy", np.arange(N) // 4)
        np.save("w.npy", np.arange(N))
        splits = load("X.npz", target="y.npy", group="g.npy", sample_weight="w.npy")
        groups = [{*(rows // 4).tolist()} for rows in splits.rows.values()]
        assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
        assert splits.weights.tolist() == [*range(N)]

    def test_arrays_in_a_npz(self):
        matrix, labels = make()
        dates = np.datetime64("2020-01-01") + np.random.default_rng(0).permutation(N)
        fold, patient = np.arange(N) % 5, np.char.add("p", (np.arange(N) // 4).astype(str))
        arrays = {"fold": fold, "patient": patient, "when": dates, "text": dates.astype(str)}
        np.savez("d.npz", X=matrix.toarray(), y=labels, **arrays)
        assert (fold[load("d.npz", split="fold", test_fold=2).rows["test"]] == 2).all()
        splits = load("d.npz", group="patient")
        assert not {*patient[splits.rows["train"]]} & {*patient[splits.rows["test"]]}
        for name in ("when", "text"):
            rows = load("d.npz", time=name).rows
            assert dates[rows["train"]].max() < dates[rows["val"]].min()
            assert dates[rows["val"]].max() < dates[rows["test"]].min()
        np.savez("v.npz", X=matrix.toarray() + 1, y=labels)  # has no groups
        assert len(load("d.npz", val_path="v.npz", group="patient").rows["val"]) == N
        np.savez("v.npz", X=matrix.toarray() + 1, y=labels, patient=patient)
        with pytest.warns(LossSelectWarning, match="have rows in the") as caught:
            load("d.npz", val_path="v.npz", group="patient")
        pairs = [re.findall("in the ([a-z]+) split", str(warning.message)) for warning in caught]
        assert pairs == [["training", "validation"], ["validation", "test"]]

    def test_folds_of_validation_and_test(self):
        matrix, labels = make()
        np.savez("d.npz", X=matrix.toarray(), y=labels, fold=np.arange(N) % 5)
        splits = load("d.npz", split="fold", test_fold=3, val_fold=4)
        assert {int(row) % 5 for row in splits.rows["test"]} == {3}
        assert {int(row) % 5 for row in splits.rows["val"]} == {4}

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"group": "patients"}, r"has no array 'patients' \(data\.group\)\. Did you mean 'patient'\?"),
            ({"group": "X"}, r"The array of data\.group must contain .* of shape \(200,\), got float64"),
            ({"split": "fold"}, "Set the one that forms the test split, such as data.test_fold=0"),
            ({"time": "word"}, "word"),
        ],
    )
    def test_invalid_arrays(self, settings, message):
        matrix, labels = make()
        arrays = {"fold": np.arange(N) % 5, "patient": np.arange(N) // 4, "word": np.full(N, "soon")}
        np.savez("d.npz", X=matrix.toarray(), y=labels, **arrays)
        with pytest.raises(ValueError, match=message):
            load("d.npz", **settings)

    def test_published_splits(self):
        x, labels = make()[0].toarray(), make()[1]
        parts = {"train": slice(0, 100), "val": slice(100, 150), "test": slice(150, N)}
        arrays = {f"x_{split}": x[part] for split, part in parts.items()}
        arrays |= {f"y_{split}": labels[part].reshape(-1, 1) for split, part in parts.items()}
        np.savez("d.npz", **arrays)
        splits = load("d.npz")
        assert {split: len(rows) for split, rows in splits.rows.items()} == {
            "train": 100,
            "val": 50,
            "test": 50,
        }
        assert splits.labels.tolist() == labels.tolist()
        np.savez("other.npz", X=x + 1, y=labels)
        with pytest.raises(ConfigError, match=r"Expected the rows of one split, got X_train"):
            load("other.npz", val_path="d.npz")
        with pytest.raises(ConfigError, match=r"contains validation rows, but data\.val_path is also set"):
            load("d.npz", val_path="other.npz")
        del arrays["x_val"], arrays["y_val"]
        np.savez("d.npz", **arrays)
        assert {split: len(rows) for split, rows in load("d.npz").rows.items()} == {
            "train": 75,
            "val": 25,
            "test": 50,
        }

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"y_test": None}, r"has no array 'y_test' \(data\.target\)"),
            ({"y_train": None}, "has no array with a usual name"),
            ({"X": np.eye(3)}, "has no array with a usual name"),
            ({"X_train": np.eye(3)}, "has no array with a usual name"),
            ({"x_train": np.array(1), "y_train": np.array(1)}, r"x_train has shape \(\) and y_train \(\)"),
            ({"x_test": np.ones((5, 7))}, r"x_test has shape \(5, 7\) .* but x_train has shape \(10, 4\)"),
            ({"y_test": np.ones(4)}, r"x_test has shape \(5, 4\) and y_test \(4,\)"),
            ({"y_test": np.array(["a"] * 5)}, "y_test is <U1 of shape"),
        ],
    )
    def test_unclear_splits(self, changed, message):
        arrays = {"x_train": np.ones((10, 4)), "y_train": np.ones(10), "x_test": np.ones((5, 4))}
        arrays = {**arrays, "y_test": np.ones(5), **changed}
        np.savez("d.npz", **{name: array for name, array in arrays.items() if array is not None})
        with pytest.raises(ValueError, match=message):
            load("d.npz")


class TestLibsvm:
    def write(self, name, matrix, labels, **options):
        dump_svmlight_file(matrix, labels, name, zero_based=False, **options)
        return name

    def test_separate_files(self):
        matrix, labels = make()
        train = self.write("a.svm", matrix, labels)
        test = self.write("b.svm", matrix[:50, :20] * 2, labels[:50])
        splits = load(train, test_path=test)
        assert splits.features.shape == (N + 50, F)
        assert Preparation.from_dict(splits.preparation).features.names == [f"x{i}" for i in range(1, F + 1)]
        scale = np.abs(matrix[splits.rows["train"].numpy()]).max(0).toarray()
        expected = np.hstack([2 * matrix[:50, :20].toarray(), np.zeros((50, F - 20))]) / scale
        np.testing.assert_allclose(splits.features[splits.rows["test"]], expected, rtol=1e-6)
        np.testing.assert_allclose(transform(splits, test), expected, rtol=1e-6)

    def test_several_labels(self):
        matrix, _ = make()
        labels = (np.random.default_rng(0).random((N, 6)) < 0.4).astype(int)
        splits = load(self.write("a.svm", matrix, labels, multilabel=True), "auto")
        assert splits.task == "multilabel"
        assert splits.class_names == ("0", "1", "2", "3", "4", "5")
        assert (splits.labels.to_dense().numpy() == labels).all()

    def test_another_format_for_new_rows(self):
        matrix, labels = make()
        splits = load(self.write("a.svm", matrix, labels))
        sparse.save_npz("X.npz", matrix)
        with pytest.raises(DataError, match=r"Expected a libsvm file, got X\.npz"):
            transform(splits, "X.npz")
        with pytest.raises(DataError, match=r"Expected a \.npz file of a sparse matrix, got a\.svm"):
            transform(save(matrix, labels), "a.svm")
        sparse.save_npz("w.npz", matrix[:, :7])
        with pytest.raises(DataError, match=f"Expected {F} features per row as in training, got 7"):
            transform(save(matrix, labels), "w.npz")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("features", "indices"), [0, 0]),
        (("features", "indices"), [0, F]),
        (("features", "indices"), [-1, 3]),
        (("features", "indices"), [0]),
        (("features", "indices"), [0, 10**30]),
        (("features", "indices"), torch.tensor([0, 0])),
        (("features", "indices"), torch.tensor([0, F])),
        (("features", "indices"), torch.tensor([0, 3], dtype=torch.int32)),
        (("features", "indices"), torch.tensor([[0, 3]])),
        (("features", "indices"), torch.tensor([0, 3]).to_sparse()),
        (("features", "indices"), torch.tensor([0, 3], device="meta")),
        (("features", "indices"), [0, 1.5]),
        (("features", "indices"), "03"),
        (("features", "indices"), None),
        (("features", "indices"), []),
        (("features", "scale"), torch.tensor([1.0, 2.0])),
        (("features", "scale"), torch.tensor([1.0, 2.0], dtype=torch.bfloat16)),
        (("features", "scale"), torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)),
        (("features", "scale"), torch.tensor([1.0, float("inf")], dtype=torch.float64)),
        (("features", "scale"), torch.tensor(1.0, dtype=torch.float64)),
        (("features", "scale"), [1.0, 0.0]),
        (("features", "scale"), [1.0, float("nan")]),
        (("features", "scale"), [1.0, "x"]),
        (("reading", "width"), "30"),
        (("reading", "width"), None),
        (("reading", "width"), 2.0),
        (("reading", "first_index"), "0"),
        (("reading", "first_index"), -1),
        (("reading", "first_index"), True),
        (("reading", "num_labels"), 1.0),
        (("reading", "other"), 1),
        (("reading",), {"width": F}),
        (("features",), {"numbers": []}),
        (("source",), "arrays"),
    ],
    ids=str,
)
def test_damaged_checkpoints(place, value):
    matrix, labels = make()
    values = save(matrix, labels).preparation
    stored = values["features"]
    lists = {name: numbers.tolist() for name, numbers in stored.items()}  # as in an exported model
    for form in (lists, stored):
        loaded = Preparation.stored({**values, "features": form}, "c.ckpt")
        assert loaded.features.indices.tolist() == lists["indices"]
        assert loaded.features.scale.tolist() == lists["scale"]
    values["features"] = {"indices": [0, 3], "scale": [1.0, 2.0]}
    *folder, last = place
    inner = values[folder[0]] if folder else values
    inner[last] = value
    with pytest.raises(CheckpointError, match=re.escape("c.ckpt is damaged")):
        Preparation.stored(values, "c.ckpt")


@pytest.mark.parametrize("head", ["dense", "chunked"])
def test_a_run_on_extreme_classification_data(head, command):
    rng = np.random.default_rng(0)
    matrix, _ = make()
    lines = [f"{N} {F} 9"]
    for i in range(N):
        pairs = " ".join(f"{j}:{v:.4f}" for j, v in zip(matrix[[i]].indices, matrix[[i]].data, strict=True))
        lines.append(f"{','.join(map(str, np.flatnonzero(rng.random(9) < 0.3)))} {pairs}")
    Path("d.txt").write_text("\n".join(lines))
    code, _, err = command(
        *("task=auto", "data=arrays", "data.path=d.txt", f"head={head}", "trainer.max_epochs=1"),
        *("trainer.accelerator=cpu", "hydra.run.dir=run", "export=safetensors", "report=false"),
    )
    assert (code, err) == (0, "")
    expected = pl.read_csv("run/predictions.csv").sort("row")
    labels = [[label for label in line.split(" ")[0].split(",") if label] for line in lines[1:]]
    assert [json.loads(cell) for cell in expected["target"]] == [labels[i] for i in expected["row"]]
    for model in ("checkpoints/best.ckpt", "model.safetensors"):
        predict_file(f"run/{model}", "d.txt", "out.csv", batch_size="17")
        found = pl.read_csv("out.csv")[expected["row"].to_list()]
        for name in found.columns:
            if name.startswith("p_"):
                np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
            else:
                assert found[name].equals(expected[name])
    with pytest.raises(ConfigError, match=r"keep=x1: the columns of a sparse matrix"):
        predict_file("run/checkpoints/best.ckpt", "d.txt", "out.csv", keep="x1")
