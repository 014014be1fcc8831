"""Tests of memory-mapped arrays, and of labels that stay sparse from the file to the loss."""

import json
import os
import re
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from sklearn.preprocessing import MultiLabelBinarizer

import lossselect as ls
from lossselect.cli.predict import predict_file
from lossselect.data.checks import check_splits
from lossselect.data.datamodule import TensorData
from lossselect.data.files.load import load_own_data
from lossselect.data.loading import load_checked
from lossselect.data.preprocessing.array_features import ArrayRows
from lossselect.data.readers import arrays
from lossselect.data.readers.arrays import read_arrays
from lossselect.exceptions import DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.registry import make_task

OPTIONS = {"val_path": None, "test_path": None, "val_fraction": 0.25, "test_fraction": 0.25, "seed": 0}
ROWS = 200


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", 64)  # so that there are many blocks of a few rows


@pytest.fixture(autouse=True)
def _folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    load_checked.cache_clear()  # the next folder has other files of the same names


def load(path, task="multiclass", name="arrays", **options):
    task_settings = task if isinstance(task, dict) else {"name": task}
    return load_own_data(name, task=task_settings, path=path, **{**OPTIONS, **options})


def load_npy(x, y, task="multiclass", **options):
    np.save("x.npy", x)
    np.save("y.npy", y)
    return load("x.npy", task, target="y.npy", **options)


def load_npz(x, y, task="multiclass", **options):
    np.savez("d.npz", X=x, y=y)
    return load("d.npz", task, **options)


def numbers(dtype, generator=None):
    """Return an array (ROWS, 5) of values in the range of the type, with a constant column."""
    generator = generator or np.random.default_rng(0)
    x = generator.normal(size=(ROWS, 5)) * [1, 10, 3, 2, 0] + [0, 5, 0, 60, 1]
    x = x > [0, 5, 0, 60, 0] if dtype == "bool" else x.clip(0, 200) if dtype.startswith("u") else x
    return x.astype(dtype)


CLASSES = np.random.default_rng(1).integers(0, 3, ROWS)
DTYPES = ["float16", "float32", "float64", "longdouble", ">f4", "int8", "int64", "uint8", ">i4", "bool"]


# --- features


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
class TestFeatures:
    """Features of an array equal those of a table with the same numbers, whose statistics Polars computes."""

    @pytest.fixture
    def x(self, dtype, order):
        return np.asarray(numbers(dtype), order=order)

    @pytest.fixture(autouse=True)
    def _constant(self):
        with ls.ignore_warnings("constant_feature", "duplicate_rows"):
            yield

    def table(self, x):
        columns = {f"x{i}": x[:, i].astype(np.float64) for i in range(x.shape[1])}
        pl.DataFrame({**columns, "y": CLASSES}).write_parquet("t.parquet")
        return load("t.parquet", name="table", target="y")

    def test_equal_those_of_a_table(self, x):
        mapped, table = load_npy(x, CLASSES), self.table(x)
        for split, rows in table.rows.items():
            assert torch.equal(mapped.rows[split], rows)
            torch.testing.assert_close(mapped.features[rows], table.features[rows], rtol=1e-6, atol=1e-6)
        assert mapped.columns == table.columns == ("x0", "x1", "x2", "x3")
        for one, other in zip(
            mapped.preparation["features"]["numbers"], table.preparation["features"]["numbers"], strict=True
        ):
            assert (one["name"], one["missing"]) == (other["name"], other["missing"])
            assert one["mean"] == pytest.approx(other["mean"], rel=1e-12, abs=1e-12)
            assert one["std"] == pytest.approx(other["std"], rel=1e-12)
        assert mapped.features.hashes.n_unique() == table.features.hashes.n_unique()

    def test_batches_equal_those_of_a_npz(self, x):
        batches = []
        for splits in (load_npy(x, CLASSES), load_npz(x, CLASSES)):
            torch.manual_seed(3)
            data = TensorData(splits, make_task("multiclass", class_names=splits.class_names), 32)
            batches.append([*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()])
        for one, other in zip(*batches, strict=True):
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.target, other.target)

    def test_are_standardised_when_indexed(self, x):
        splits = load_npy(x, CLASSES)
        assert isinstance(splits.features.numbers, ArrayRows)
        train = x[splits.rows["train"].numpy(), :4].astype(np.float64)
        expected = (x[:, :4].astype(np.float64) - train.mean(0)) / train.std(0)
        rows = torch.tensor([7, 3, 3, ROWS - 1])
        taken = splits.features[rows]
        assert (taken.dtype, taken.shape, splits.features.shape) == (torch.float32, (4, 4), (ROWS, 4))
        np.testing.assert_allclose(taken, expected[rows], rtol=1e-5, atol=1e-6)
        assert torch.equal(splits.features[3], taken[1])


def test_missing_values_have_separate_features():
    x = numbers("float32")
    x[::7, 1] = np.nan
    x[1::9, 4] = np.nan  # in a column that is otherwise constant
    splits = load_npy(x, CLASSES, nan="missing")
    assert splits.features.shape == (ROWS, 7)
    everything = splits.features[torch.arange(ROWS)]
    assert everything.isfinite().all()
    assert everything[:, 2].tolist() == np.isnan(x[:, 1]).astype(int).tolist()
    assert everything[::7, 1].tolist() == [0] * len(x[::7])
    assert everything[:, 5].abs().max() == 0
    assert everything[:, 6].tolist() == np.isnan(x[:, 4]).astype(int).tolist()
    train = x[splits.rows["train"].numpy(), 1].astype(np.float64)
    expected = (x[1, 1] - np.nanmean(train)) / np.nanstd(train)
    assert float(everything[1, 1]) == pytest.approx(expected, rel=1e-6)
    assert torch.equal(everything, load_npz(x, CLASSES, nan="missing").features[torch.arange(ROWS)])


def test_a_column_that_is_missing_in_all_training_rows():
    x = numbers("float64")[:, :3]
    rows = load_npy(x, CLASSES).rows
    x[rows["train"].numpy(), 0] = np.nan
    x[:, 2] = np.nan
    x[rows["val"].numpy()[:1], 1] = np.nan  # in a column without missing training rows
    with pytest.warns(ls.LossSelectWarning, match="left out: x0, x2"), ls.ignore_warnings("duplicate_rows"):
        splits = load_npy(x, CLASSES, nan="missing")
    assert splits.columns == ("x1",)
    assert float(splits.features[int(rows["val"][0])]) == 0


def test_standard_deviations_of_large_numbers_are_exact():
    """A sum of squares would lose all digits of a standard deviation of 1 around 1e9."""
    x = np.random.default_rng(0).normal((1e9, -3e8), size=(ROWS, 2))
    splits = load_npy(x, CLASSES)
    train = x[splits.rows["train"].numpy()]
    found = splits.preparation["features"]["numbers"]
    assert [number["std"] for number in found] == pytest.approx(train.std(0).tolist(), rel=1e-6)


def test_a_file_is_never_loaded():
    count = 100_000
    x = np.random.default_rng(0).normal(size=(count, 32)).astype(np.float32)
    y = np.arange(count) % 2
    np.save("x.npy", x)
    np.save("y.npy", y)
    size = x.nbytes
    del x
    arrays.BLOCK = 1 << 15  # the fixture resets it
    tracemalloc.start()
    try:
        splits = load("x.npy", "binary", target="y.npy")
        check_splits(make_task("binary"), splits)
        splits.features[torch.arange(64)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size, f"peak of {peak / 1e6:.0f} MB for a file of {size / 1e6:.0f} MB"
    assert isinstance(splits.features.numbers.array, np.memmap)
    assert not splits.features.numbers.array.flags.writeable


class TestWarnings:
    """The warnings are those for columns, but not all columns are read for them."""

    @pytest.fixture(autouse=True)
    def _shown(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ls.LossSelectWarning)
            yield

    def test_a_column_that_counts_the_rows(self):
        x = numbers("int64")[:, :3]
        x[:, 2] = np.arange(ROWS) + 40
        with pytest.raises(ls.LossSelectWarning, match="Column 'x2' counts the rows"):
            load_npy(x, CLASSES)
        x[ROWS // 2 :, 2] -= 1  # two rows have the same number
        load_npy(x, CLASSES)

    @pytest.mark.parametrize("sorted_by_label", [False, True])
    def test_a_column_that_is_the_label(self, sorted_by_label, monkeypatch):
        monkeypatch.setattr("lossselect.data.checks.BLOCK_ROWS", 20)
        x, y = numbers("int64")[:, :3], np.sort(CLASSES) if sorted_by_label else CLASSES
        x[:, 1] = 7 - 2 * y
        with pytest.raises(ls.LossSelectWarning, match="Each value of column 'x1' occurs in a single class"):
            load_npy(x, y)
        row = ROWS - 3  # not in the sample of the first check
        x[row, 1] = 7 - 2 * ((y[row] + 1) % 3)
        load_npy(x, y)

    def test_rows_of_two_splits(self):
        x = numbers("float32")[:, :4]
        splits = load_npy(x, CLASSES)
        train, val = (int(splits.rows[split][0]) for split in ("train", "val"))
        x[train, 2], x[val] = 0, x[train]
        x[val, 2] = -0.0
        splits = load_npy(x, CLASSES)
        with pytest.raises(ls.LossSelectWarning, match="1 of 38 rows of the validation split have the same"):
            check_splits(make_task("multiclass", class_names=splits.class_names), splits)

    def test_constant_columns(self):
        with pytest.raises(ls.LossSelectWarning, match=r"single value in all training .* left out: x4\."):
            load_npy(numbers("float32"), CLASSES)


BAD = np.float64("nan")


def changed(row, column, value, dtype="float64"):
    x = numbers(dtype)[:, :4]
    x[row, column] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (changed(150, 2, np.inf), "Row 150 of column 'x2' is inf, but features must be finite. Correct it"),
        (changed(150, 2, -np.inf, "float16"), "Row 150 of column 'x2' is -inf"),
        (changed(199, 0, BAD), "Row 199 of column 'x0' is nan, but features must be finite. If NaN means 'missing'"),
        (changed(0, 3, BAD, ">f4"), "Row 0 of column 'x3' is nan"),
        (changed(slice(None), 1, 1e300) * np.r_[[[1]] * 100, [[-1]] * 100], "The numbers of column 'x1' are so large"),
        (np.ones((ROWS, 2)), "All features are constant in the training rows: x0, x1."),
        (np.ones(ROWS), "Features must be numbers of shape (N, F), got float64 of shape (200,) in x.npy."),
        (np.ones((ROWS, 2, 2)), "of shape (200, 2, 2) in x.npy. Save X.reshape(len(X), -1)."),
        (np.ones((0, 2)), "got float64 of shape (0, 2)"),
        (np.array([["a"]] * ROWS), "got <U1 of shape (200, 1)"),
        (np.ones((199, 2)), "Got 199 rows of features, but 200 rows of labels in x.npy and y.npy."),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_invalid_features(x, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_npy(x, CLASSES)


def test_a_number_that_is_too_large_for_float32():
    x = numbers("float64")[:, :3]
    row = int(load_npy(x, CLASSES).rows["test"][-1])
    x[row, 1] = 1e300
    with pytest.raises(ValueError, match=f"Row {row} of column 'x1' is too large"):
        load_npy(x, CLASSES)


def test_rows_of_another_file_are_checked():
    x = numbers("float64")[:, :4]
    np.savez("v.npz", X=changed(150, 2, BAD), y=CLASSES)
    message = r"Row 150 of column 'x2' is nan.*\(In v\.npz\.\)"
    with pytest.raises(ValueError, match=message):
        load_npz(x, CLASSES, val_path="v.npz")
    with (
        pytest.warns(ls.LossSelectWarning, match="1 in column 'x2' of v.npz"),
        ls.ignore_warnings("duplicate_rows"),
    ):
        load_npz(x, CLASSES, val_path="v.npz", nan="missing")


class TestFiles:
    @pytest.fixture(autouse=True)
    def _files(self):
        np.save("x.npy", numbers("float32")[:, :4])
        np.save("y.npy", CLASSES)

    def test_truncated(self):
        whole = Path("x.npy").read_bytes()
        Path("x.npy").write_bytes(whole[:2000])
        with pytest.raises(
            ValueError, match=r"x\.npy is truncated: it has 2,000 bytes, fewer than its header states"
        ):
            load("x.npy", target="y.npy")
        Path("x.npy").write_bytes(whole[:40])
        with pytest.raises(ValueError, match=r"x\.npy cannot be read as a NumPy file: EOF"):
            load("x.npy", target="y.npy")
        Path("x.npy").write_bytes(b"")
        with pytest.raises(ValueError, match=r"x\.npy cannot be read as a NumPy file: No data left"):
            load("x.npy", target="y.npy")

    @pytest.mark.parametrize("name", ["x.npy", "y.npy"])
    def test_objects(self, name):
        np.save(name, np.array([{}] * ROWS), allow_pickle=True)
        with pytest.raises(
            ValueError, match=rf"{name} contains Python objects, which are not loaded\. Save numbers"
        ):
            load("x.npy", target="y.npy")

    def test_another_suffix(self):
        np.savez("d.npz", X=np.eye(2), y=np.arange(2))
        os.replace("d.npz", "z.npy")
        with pytest.raises(ValueError, match=r"z\.npy is in fact a \.npz file\. Rename it"):
            load("z.npy", target="y.npy")
        os.replace("x.npy", "d.npz")
        with pytest.raises(ValueError, match=r"d\.npz is in fact a \.npy file\. Rename it"):
            load("d.npz")
        os.replace("d.npz", "x.npy")
        with pytest.raises(ValueError, match=r"Expected a \.npz or \.npy file, got y\.txt"):
            load("x.npy", target="y.txt")

    def test_the_name_of_an_array(self):
        with pytest.raises(ValueError, match=r"is the name of an array in a \.npz file, but x\.npy is"):
            load("x.npy", target="y.npy", features="X")

    def test_no_file(self):
        with pytest.raises(FileNotFoundError, match=r"File not found: z\.npy"):
            load("x.npy", target="z.npy")

    def test_modified_while_it_is_used(self):
        features = load("x.npy", target="y.npy").features
        before = features[torch.arange(3)]
        other = numbers("float32", np.random.default_rng(5))[:, :4]
        np.save("new.npy", other)
        os.replace("new.npy", "x.npy")  # does not change the mapped file
        assert torch.equal(features[torch.arange(3)], before)
        features = load("x.npy", target="y.npy").features
        with Path("x.npy").open("r+b") as file:  # np.save modifies an existing file like this
            file.seek(128)
            file.write(np.float32([1, 2, 3]).tobytes())
        os.utime("x.npy", ns=(0, 0))
        with pytest.raises(
            ValueError, match=r"x\.npy was modified after the run had opened it\. Start again"
        ):
            features[torch.arange(3)]

    def test_removed_while_it_is_used(self):
        features = load("x.npy", target="y.npy").features
        before = features[torch.arange(3)]
        Path("x.npy").unlink()
        assert torch.equal(features[torch.arange(3)], before)


# --- labels


def test_one_label_per_row():
    x, names = numbers("float32")[:, :4], np.array(["ham", "spam", "é"])[CLASSES]
    for y in (
        names,
        np.char.encode(names, "utf-8"),
        CLASSES.astype(">i2")[:, None],
        CLASSES.astype("float16"),
    ):
        splits = load_npy(x, y)
        assert splits.labels.tolist() == CLASSES.tolist()
        assert splits.class_names == (("ham", "spam", "é") if y.dtype.kind in "US" else ("0", "1", "2"))


TAGS = [sorted({*np.random.default_rng(i).integers(0, 6, i % 4).tolist()}) for i in range(ROWS)]
MATRIX = np.array([[label in tags for label in range(6)] for tags in TAGS])


def as_npz(form):
    """Write TAGS to labels.npz in one of FORMS."""
    matrix = sp.csr_matrix(MATRIX.astype(np.float32))
    if form == "scipy matrix":
        sp.save_npz("labels.npz", matrix)
    elif form == "scipy array of bool":
        sp.save_npz("labels.npz", sp.csr_array(MATRIX))
    elif form == "explicit zeros":
        matrix.data[:], matrix = (
            1,
            sp.csr_matrix(
                (
                    np.r_[matrix.data, [0, 0]],
                    np.r_[matrix.indices, [0, 1]],
                    np.r_[matrix.indptr[:-1], len(matrix.data) + 2],
                ),
                MATRIX.shape,
            ),
        )
        sp.save_npz("labels.npz", matrix)
    elif form == "unsorted":
        found = MultiLabelBinarizer(sparse_output=True).fit_transform([tags[::-1] for tags in TAGS])
        assert (np.diff(found.indices) < 0).sum() > (np.diff(matrix.indices) < 0).sum()
        sp.save_npz("labels.npz", found)
    else:
        np.savez("labels.npz", indices=matrix.indices, offsets=matrix.indptr, num_labels=6)


FORMS = ["scipy matrix", "scipy array of bool", "explicit zeros", "unsorted", "offsets"]


@pytest.mark.parametrize("task", ["multilabel", "auto"])
@pytest.mark.parametrize("form", [*FORMS, *DTYPES])
def test_several_labels_per_row_are_sparse(form, task):
    np.save("x.npy", numbers("float32")[:, :4])
    target = "labels.npz" if form in FORMS else "labels.npy"
    if form in FORMS:
        as_npz(form)
    else:
        np.save("labels.npy", MATRIX.astype(form))
    splits = load("x.npy", task, target=target)
    assert isinstance(splits.labels, SparseLabels)
    assert splits.labels.csr()[0].tolist() == [label for tags in TAGS for label in tags]
    assert splits.labels.csr()[1].tolist() == np.cumsum([0, *map(len, TAGS)]).tolist()
    assert (splits.class_names, splits.task) == (tuple("012345"), "multilabel")
    assert bool(splits.reason) == (task == "auto")
    dense = load_npz(numbers("float32")[:, :4], MATRIX, "multilabel")
    assert isinstance(dense.labels, np.ndarray)
    multilabel = make_task("multilabel", class_names=splits.class_names)
    with ls.ignore_warnings("class_without_rows"):
        counts, dense_counts = check_splits(multilabel, splits), check_splits(multilabel, dense)
        batches = [[*TensorData(data, multilabel, 50).val_dataloader()] for data in (splits, dense)]
    for split, rows in dense.rows.items():
        assert torch.equal(splits.rows[split], rows)
        assert counts[split].to_dict() == dense_counts[split].to_dict()
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.target, other.target)


def test_the_reason_for_several_labels():
    x = numbers("float32")[:, :4]
    assert load_npy(x, MATRIX, "auto").reason == "the rows contain 0 and 1, and row 0 has 0 ones"
    as_npz("offsets")
    assert load("x.npy", "auto", target="labels.npz").reason == "the labels are sparse"
    splits = load_npy(x, np.eye(3)[CLASSES], "auto")
    assert (splits.task, splits.labels.shape) == ("multiclass", (ROWS, 3))


def test_names_of_labels():
    np.save("x.npy", numbers("float32")[:, :4])
    as_npz("offsets")
    for target in ("labels.npz", "y.npy"):
        np.save("y.npy", MATRIX)
        splits = load("x.npy", {"name": "multilabel", "class_names": list("abcdef")}, target=target)
        assert splits.class_names == tuple("abcdef")
        np.testing.assert_array_equal(splits.labels.to_dense(), MATRIX)
        splits = load("x.npy", {"name": "multilabel", "class_names": list("301254")}, target=target)
        assert splits.class_names == tuple("301254")
        np.testing.assert_array_equal(splits.labels.to_dense(), MATRIX[:, [3, 0, 1, 2, 5, 4]])
        indices, indptr = splits.labels.csr()
        assert all((a.diff() > 0).all() for a in indices.tensor_split(indptr[1:-1]))
        for names, message in (
            (list("abc"), "requires 6 class_names, got 3: a, b, c."),
            (list("0bcdef"), "so '0' is ambiguous"),
        ):
            with pytest.raises(ValueError, match=re.escape(message)):
                load("x.npy", {"name": "multilabel", "class_names": names}, target=target)


class TestMissing:
    x = numbers("float32")[:, :4]

    def test_rows_without_known_labels(self):
        y = MATRIX.astype(np.float32)
        y[5] = y[150] = np.nan
        splits = load_npy(self.x, y, "multilabel")
        assert isinstance(splits.labels, SparseLabels)
        np.testing.assert_array_equal(splits.labels.to_dense(), y)
        y = np.where(np.isnan(y), -1, y).astype(np.int8)
        splits = load_npy(self.x, y, "multilabel", missing=-1)
        assert np.flatnonzero(~splits.labels.known_rows()).tolist() == [5, 150]
        indices, indptr = splits.labels.csr()
        np.savez("l.npz", indices=indices, offsets=indptr, num_labels=6, missing=splits.labels.missing)
        missing = load("x.npy", "multilabel", target="l.npz").labels.missing
        assert missing.nonzero().flatten().tolist() == [5, 150]
        with pytest.raises(ValueError, match="Sparse labels do not support a marker of missing labels"):
            load("x.npy", "multilabel", target="l.npz", missing=-1)

    @pytest.mark.parametrize("value", [np.nan, 0.25])
    def test_partly_missing_or_soft_labels_are_a_matrix(self, value):
        y = MATRIX.astype(np.float64)
        y[150, 2] = value
        splits = load_npy(self.x, y, "multilabel")
        assert splits.labels.dtype == np.float32
        np.testing.assert_array_equal(splits.labels, load_npz(self.x, y, "multilabel").labels)
        np.testing.assert_array_equal(splits.labels, y.astype(np.float32))

    @pytest.mark.parametrize("target", ["y.npy", "l.npz"])
    def test_all(self, target):
        np.save("x.npy", self.x)
        np.save("y.npy", np.full(MATRIX.shape, np.nan))
        np.savez(
            "l.npz", indices=np.array([], int), offsets=[0] * (ROWS + 1), num_labels=6, missing=[True] * ROWS
        )
        with pytest.raises(ValueError, match="All labels are missing"):
            load("x.npy", "multilabel", target=target)


@pytest.mark.parametrize("mapped", [True, False])
def test_the_row_of_an_invalid_label_is_counted_in_the_file(mapped):
    y = MATRIX.astype(np.int8)
    y[150, 2] = 2
    with pytest.raises(DataError, match="Row 150, label '2'") as caught:
        (load_npy if mapped else load_npz)(numbers("float32")[:, :4], y, "multilabel")
    assert (caught.value.row, caught.value.value) == (150, 2)


GOOD = {"indices": [0, 1, 0], "offsets": [0, 2, 2, 3], "num_labels": 2}
CSR = {"indices": [0, 1, 0], "indptr": [0, 2, 2, 3], "shape": [3, 2], "format": b"csr", "data": [1, 1, 1]}
INVALID_LABELS = [
    ({"Y": [1, 2]}, "l.npz contains no sparse labels: it lacks indices, indptr, shape, format, data and has Y. Save a sparse (N, L) matrix of 0 and 1 with scipy.sparse.save_npz"),
    ({**GOOD, "num_labels": None}, "it lacks num_labels and has indices, offsets. Save"),
    ({**CSR, "format": b"csc"}, "l.npz must contain a sparse matrix in the format csr, got csc. Save it with scipy.sparse.save_npz(path, Y.tocsr())."),
    ({**CSR, "shape": [3]}, "Expected a sparse array of shape (N, L), got shape (3,) in l.npz."),
    ({**CSR, "shape": [4, 2]}, "The offsets in l.npz must be 5 integers, from 0 to 3, got 4, from 0 to 3."),
    ({**GOOD, "offsets": [0, 2, 2]}, "must be 3 integers, from 0 to 3, got 3, from 0 to 2."),
    ({**GOOD, "offsets": [1, 2, 2, 3]}, "got 4, from 1 to 3."),
    ({**GOOD, "offsets": np.array([], int)}, "got 0. Write the file again."),
    ({**GOOD, "offsets": [0, 3, 2, 3]}, "Row 1 of l.npz starts at 3 and ends at 2, but offsets must not decrease."),
    ({**GOOD, "indices": [0, 1, 2]}, "Row 2 has label 2, but"),
    ({**CSR, "indices": [0, -1, 0]}, "Row 0 has label -1, but"),
    ({**CSR, "indices": [1, 1, 0]}, "Row 0 has label 1 twice"),
    ({**CSR, "data": [1, 1, 2.5]}, "Row 2 of l.npz has label 0 with the value 2.5, but sparse labels must be 0 or 1."),
    ({**CSR, "data": [1, np.nan, 1]}, "Row 0 of l.npz has label 1 with the value nan"),
    ({**CSR, "data": [1, 1]}, "l.npz has 3 indices, but 2 values."),
    ({**GOOD, "indices": [0.0, 1.0, 0.0]}, "Array 'indices' of l.npz must be integers of shape (N,), got float64 of shape (3,)."),
    ({**GOOD, "num_labels": [2]}, "Array 'num_labels' of l.npz must be a single integer, got int64 of shape (1,)."),
    ({**GOOD, "missing": [0, 0, 1]}, "Array 'missing' of l.npz must be booleans of shape (N,), got int64"),
    ({**GOOD, "missing": [True, False, False]}, "Row 0 of l.npz is marked as missing, but has 2 labels."),
    ({**CSR, "shape": [-1, 2], "indptr": np.zeros(0, int)}, "got shape (-1, 2) in l.npz."),
    ({**CSR, "shape": [-1, 2]}, "got shape (-1, 2) in l.npz."),
    ({**GOOD, "num_labels": -3}, "got -3. (In l.npz.)"),
    ({**GOOD, "missing": [False, True]}, "must be 3 integers, from 0 to 3, got"),
    ({**GOOD, "indices": np.array([{}] * 3)}, "Array 'indices' of l.npz cannot be read"),
    (GOOD, "Got 200 rows of features, but 3 rows of labels in x.npy and l.npz."),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), INVALID_LABELS, ids=lambda value: str(value)[:50])
def test_invalid_sparse_labels(content, message):
    np.save("x.npy", numbers("float32")[:, :4])
    np.savez("l.npz", **{name: value for name, value in content.items() if value is not None})
    with pytest.raises(ValueError, match=re.escape(message)):
        read_arrays("x.npy", None, "l.npz")


@pytest.mark.parametrize(
    "form", [{**CSR, "indices": [1, 0, 0]}, CSR, GOOD, {**CSR, "data": [1, 1, 1.0]}], ids=str
)
def test_valid_sparse_labels(form):
    np.save("x.npy", numbers("float32")[:3, :4])
    np.savez("l.npz", **form)
    _, labels, _ = read_arrays("x.npy", None, "l.npz")
    assert labels.to_dense().tolist() == [[1, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_sparse_labels_need_multilabel(task):
    np.save("x.npy", numbers("float32")[:, :4])
    as_npz("offsets")
    with pytest.raises(ValueError, match=rf"Sparse labels require task=multilabel, but task={task} has"):
        load("x.npy", task, target="labels.npz")


def test_sparse_labels_are_never_a_matrix(monkeypatch):
    """20,000 rows of 50,000 labels would take 4 GB as a float32 matrix."""
    rows, labels = 20_000, 50_000
    generator = np.random.default_rng(0)
    np.save("x.npy", generator.normal(size=(rows, 2)).astype(np.float32))
    np.savez("l.npz", indices=np.sort(generator.integers(0, labels, (rows, 1)), 1).ravel(), offsets=np.arange(rows + 1), num_labels=labels)  # fmt: skip
    monkeypatch.setattr(arrays, "BLOCK", 1 << 14)
    tracemalloc.start()
    try:
        with ls.ignore_warnings("class_without_rows", "looks_multiclass"):
            splits = load("x.npy", "multilabel", target="l.npz")
            data = TensorData(splits, make_task("multilabel", class_names=splits.class_names), 8)
        batch = next(iter(data.train_dataloader()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert batch.target.shape == (8, labels)
    assert peak < 100e6, f"{peak / 1e6:.0f} MB"


# --- the commands


@pytest.mark.parametrize("dtype", ["float16", "int64"])
def test_a_run_and_predictions_of_a_mapped_file(dtype, command):
    x = numbers(dtype)[:, :4]
    np.save("x.npy", x)
    as_npz("scipy matrix")
    code, _, err = command(
        "task=multilabel", "data=arrays", "data.path=x.npy", "data.target=labels.npz",
        "trainer.max_epochs=2", "trainer.accelerator=cpu", "hydra.run.dir=run", "ignore_warnings=[duplicate_rows]",
    )  # fmt: skip
    assert (code, err) == (0, "")
    run = pl.read_csv("run/predictions.csv")
    assert [json.loads(cell) for cell in run["target"]] == [
        [str(label) for label in TAGS[i]] for i in run["row"]
    ]
    predict_file("run/checkpoints/best.ckpt", "x.npy", "out.csv", keep="x1", batch_size="17")
    found = pl.read_csv("out.csv")
    assert found["x1"].to_numpy().tolist() == x[:, 1].tolist()
    for name in [f"p_{i}" for i in range(6)]:
        np.testing.assert_allclose(found[name].gather(run["row"]), run[name], atol=1e-6)


def test_predictions_map_their_file(command):
    generator = np.random.default_rng(0)
    np.save("x.npy", generator.normal(size=(ROWS, 256)).astype(np.float32))
    np.save("y.npy", CLASSES)
    assert command(
        "task=multiclass", "data=arrays", "data.path=x.npy", "data.target=y.npy",
        "trainer.max_epochs=1", "trainer.accelerator=cpu", "hydra.run.dir=run",
    )[0] == 0  # fmt: skip
    big = np.zeros((20_000, 256), np.float32)
    size = big.nbytes
    np.save("big.npy", big)
    del big
    tracemalloc.start()
    try:
        predict_file("run/checkpoints/best.ckpt", "big.npy", "out.csv", batch_size="500")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(pl.read_csv("out.csv")) == 20_000
    assert peak < size / 2, f"peak of {peak / 1e6:.0f} MB for a file of {size / 1e6:.0f} MB"
