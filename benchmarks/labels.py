"""Labels to indices, beside scikit-learn doing the same in the same run: medians of 9, interleaved.

python benchmarks/labels.py
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import sklearn
from sklearn.preprocessing import LabelEncoder, MultiLabelBinarizer

from lossselect import Vocabulary

RUNS = 9
NAMES = [f"class {i}" for i in range(1000)]


def ours(labels: list[str] | np.ndarray) -> np.ndarray:
    return Vocabulary.fit(labels).encode(labels)


def sklearns(labels: list[str] | np.ndarray) -> np.ndarray:
    return LabelEncoder().fit_transform(labels)


def our_lists(rows: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    indices, indptr = Vocabulary.fit_lists(rows).encode_lists(rows).csr()
    return indices.numpy(), indptr.numpy()


def sklearns_lists(rows: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    matrix = MultiLabelBinarizer(sparse_output=True).fit_transform(rows)
    matrix.sort_indices()
    return matrix.indices, matrix.indptr


def _arrays(result: np.ndarray | tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return result if isinstance(result, tuple) else (result,)


def compare(title: str, data: object, ours: Callable, theirs: Callable) -> None:
    """Check that both give the same, and print how long each took."""
    for one, other in zip(_arrays(ours(data)), _arrays(theirs(data)), strict=True):
        np.testing.assert_array_equal(one, other)
    seconds: dict[Callable, list[float]] = {ours: [], theirs: []}
    for _ in range(RUNS):
        for function, times in seconds.items():
            start = time.perf_counter()
            function(data)
            times.append(time.perf_counter() - start)
    mine, other = (statistics.median(times) for times in seconds.values())
    print(f"{title:56} {mine:8.3f} {other:8.3f} {mine / other:8.2f}")


def main() -> None:
    generator = np.random.default_rng(0)
    labels = [NAMES[i] for i in generator.integers(0, len(NAMES), 1_000_000)]
    sizes = generator.integers(0, 6, 200_000)
    rows = [[NAMES[i] for i in generator.integers(0, len(NAMES), size)] for size in sizes]
    print(f"scikit-learn {sklearn.__version__}, medians of {RUNS}\n")
    print(f"{'':56} {'ours, s':>8} {'theirs':>8} {'ratio':>8}")
    compare("1M strings of 1,000 classes, list (LabelEncoder)", labels, ours, sklearns)
    compare("the same as an array of objects", np.array(labels, dtype=object), ours, sklearns)
    compare("the same as an array of strings", np.array(labels), ours, sklearns)
    compare("200k lists of 0 to 5 of 1,000 (MultiLabelBinarizer)", rows, our_lists, sklearns_lists)


if __name__ == "__main__":
    main()
