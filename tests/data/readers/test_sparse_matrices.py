"""Sparse features in a .npz of scipy.sparse.save_npz."""

import numpy as np
import pytest
from scipy import sparse

from lossselect.data.readers.arrays import read_arrays, read_features, read_sparse_features
from lossselect.exceptions import ConfigError, DataError

DENSE = np.array([[0, 2, 0, 1], [0, 0, 0, 0], [3, 0, 0, -1.5], [0, 0, 4, 0]])
CSR = {"format": b"csr", "shape": [2, 3], "data": [1.0, 2.0], "indices": [0, 2], "indptr": [0, 1, 2]}
COO = {"format": b"coo", "shape": [2, 3], "data": [1.0, 2.0], "row": [0, 1], "col": [0, 2]}
CSC = {"format": b"csc", "shape": [2, 3], "data": [1.0, 2.0], "indices": [0, 1], "indptr": [0, 1, 2, 2]}
BSR = {
    "format": b"bsr",
    "shape": [2, 4],
    "data": np.ones((2, 1, 2)),
    "indices": [0, 1],
    "indptr": [0, 1, 2],
}


@pytest.fixture
def read(tmp_path):
    def read_matrix(matrix):
        path = str(tmp_path / "X.npz")
        if isinstance(matrix, dict):
            np.savez(path, **matrix)
        else:
            sparse.save_npz(path, matrix)
        return read_sparse_features(path)

    return read_matrix


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int8, np.uint64, bool])
def test_formats(kind, form, dtype, read):
    dense = np.abs(DENSE).astype(dtype)
    matrix = read(kind(dense).asformat(form))
    assert matrix.dtype == np.float64
    assert matrix.format == "csr"
    assert (matrix.toarray() == dense.astype(np.float64)).all()


def test_blocks(read):
    dense = np.kron(np.eye(3), np.arange(1, 7).reshape(2, 3))
    assert (read(sparse.bsr_array(dense, blocksize=(2, 3))).toarray() == dense).all()


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_repeated_entries_are_added(form, read):
    rows, columns = [1, 0, 1, 1], [2, 1, 2, 0]
    values = np.array([100, 5, 100, 7], dtype=np.int8)
    arrays = {"format": form.encode(), "shape": [2, 3], "data": values}
    if form == "coo":
        matrix = read({**arrays, "row": rows, "col": columns})
    elif form == "csr":
        matrix = read({**arrays, "data": values[[1, 0, 2, 3]], "indices": [1, 2, 2, 0], "indptr": [0, 1, 4]})
    else:
        matrix = read(
            {**arrays, "data": values[[3, 1, 0, 2]], "indices": [1, 0, 1, 1], "indptr": [0, 1, 2, 4]}
        )
    assert matrix.toarray().tolist() == [[0, 5, 0], [7, 0, 200]]
    assert matrix.has_canonical_format


@pytest.mark.parametrize(
    ("arrays", "message", "row"),
    [
        ({**CSR, "indices": [0, 3]}, r"has an entry in row 1, column 3, but its shape is \(2, 3\)", 1),
        ({**CSR, "indices": [-1, 2]}, "has an entry in row 0, column -1", 0),
        ({**COO, "col": [0, 7]}, "has an entry in row 1, column 7", 1),
        ({**COO, "row": [2, 0]}, "has an entry in row 2, column 0", 2),
        ({**CSC, "indices": [0, 5]}, "has an entry in row 5, column 1", 5),
        ({**BSR, "indices": [0, 2]}, "has an entry in row 1, column 4", 1),
        ({**CSR, "indptr": [0, 1, 3]}, "The offsets in .* must be 3 integers, from 0 to 2, got 3", None),
        ({**CSR, "indptr": [0, 3, 2]}, "must not decrease", 1),
        ({**CSR, "data": [1.0]}, "has 2 indices, but values of shape", None),
        ({**CSR, "data": [[1.0], [2.0]]}, "has 2 indices, but values of shape", None),
        ({**CSR, "data": 1.0}, "has 2 indices, but values of shape", None),
        ({**CSR, "data": [1j, 2]}, "must be numbers in the format csr, csc, coo, bsr, got complex128", None),
        ({**CSR, "format": b"dia"}, r"in the format dia in .*X\.tocsr\(\)", None),
        ({**CSR, "shape": [2]}, r"of shape \(N, F\), got shape \(2,\)", None),
        ({**CSR, "shape": [0, 3], "indptr": [0]}, r"got shape \(0, 3\)", None),
        (
            {**CSR, "shape": [2, 10**13]},
            "has 10,000,000,000,000 columns, which require too much memory",
            None,
        ),
        ({**CSR, "indices": [0.0, 2.0]}, "Array 'indices' of .* must be integers", None),
        ({key: CSR[key] for key in CSR if key != "indptr"}, "lacks the array 'indptr'", None),
        ({key: CSR[key] for key in CSR if key != "indices"}, "must be numbers in the format csr", None),
        ({**CSR, "data": [1, np.nan]}, "Row 1 of column 'x2' of .* is nan", 1),
        ({**CSR, "data": [-np.inf, 1]}, "Row 0 of column 'x0' of .* is -inf", 0),
    ],
    ids=lambda value: str(value)[:40],
)
def test_invalid_matrices(arrays, message, row, read):
    with pytest.raises(DataError, match=message) as caught:
        read(arrays)
    assert caught.value.row == row


def test_objects_are_not_unpickled(tmp_path):
    arrays = {**CSR, "data": np.array([{}, {}], dtype=object)}
    np.savez(tmp_path / "X.npz", allow_pickle=True, **arrays)
    with pytest.raises(DataError, match="cannot be read"):
        read_sparse_features(str(tmp_path / "X.npz"))


def test_dense_and_sparse_are_not_confused(tmp_path):
    np.savez(tmp_path / "d.npz", X=DENSE, y=[0, 1, 0, 1])
    with pytest.raises(DataError, match="Expected a sparse matrix, got dense arrays"):
        read_sparse_features(str(tmp_path / "d.npz"))
    sparse.save_npz(tmp_path / "s.npz", sparse.csr_array(DENSE))
    with pytest.raises(DataError, match="Expected a dense array, got a sparse matrix"):
        read_features(str(tmp_path / "s.npz"))


def test_labels_of_sparse_features(tmp_path):
    path, labels = str(tmp_path / "X.npz"), str(tmp_path / "Y.npz")
    sparse.save_npz(path, sparse.csr_array(DENSE))
    sparse.save_npz(labels, sparse.csr_array(np.eye(4)))
    np.save(tmp_path / "g.npy", [b"a", b"b", b"a", b"b"])
    features, target, others = read_arrays(path, None, labels, {"group": str(tmp_path / "g.npy")})
    assert (features.toarray() == DENSE).all()
    assert (target.to_dense().numpy() == np.eye(4)).all()
    assert others["group"].tolist() == ["a", "b", "a", "b"]
    with pytest.raises(DataError, match="contains only features"):
        read_arrays(path)
    with pytest.raises(ConfigError, match=r"data\.group must be a \.npy file, .* got patient"):
        read_arrays(path, None, labels, {"group": "patient"})
    np.save(tmp_path / "g.npy", np.eye(4))
    with pytest.raises(DataError, match=r"The array of data\.group must contain .* of shape \(4,\)"):
        read_arrays(path, None, labels, {"group": str(tmp_path / "g.npy")})
