"""Speed of converting labels to indices, compared with scikit-learn: medians of 9, interleaved.

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


def lossselect(labels: list[str] | np.ndarray) -> np.ndarray:
    return Vocabulary.fit(labels).encode(labels)


def scikit_learn(labels: list[str] | np.ndarray) -> np.ndarray:
    return LabelEncoder().fit_transform(labels)


def lossselect_lists(rows: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    indices, indptr = Vocabulary.fit_lists(rows).encode_lists(rows).csr()
    return indices.numpy(), indptr.numpy()


def scikit_learn_lists(rows: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    matrix = MultiLabelBinarizer(sparse_output=True).fit_transform(rows)
    matrix.sort_indices()
    return matrix.indices, matrix.indptr


def _arrays(result: np.ndarray | tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return result if isinstance(result, tuple) else (result,)


def compare(title: str, data: object, lossselect: Callable, other: Callable) -> None:
    """Check that both results are equal, and print the seconds of each and their ratio."""
    for actual, expected in zip(_arrays(lossselect(data)), _arrays(other(data)), strict=True):
        np.testing.assert_array_equal(actual, expected)
    seconds: dict[Callable, list[float]] = {lossselect: [], other: []}
    for _ in range(RUNS):
        for function, times in seconds.items():
            start = time.perf_counter()
            function(data)
            times.append(time.perf_counter() - start)
    a, b = (statistics.median(times) for times in seconds.values())
    print(f"{title:56} {a:13.3f} {b:10.3f} {a / b:8.2f}")


def main() -> None:
    generator = np.random.default_rng(0)
    labels = [NAMES[i] for i in generator.integers(0, len(NAMES), 1_000_000)]
    sizes = generator.integers(0, 6, 200_000)
    rows = [[NAMES[i] for i in generator.integers(0, len(NAMES), size)] for size in sizes]
    print(f"scikit-learn {sklearn.__version__}, medians of {RUNS}\n")
    print(f"{'':56} {'lossselect, s':>13} {'sklearn, s':>10} {'ratio':>8}")
    compare("1M strings of 1,000 classes, list (LabelEncoder)", labels, lossselect, scikit_learn)
    compare("the same as an array of objects", np.array(labels, dtype=object), lossselect, scikit_learn)
    compare("the same as an array of strings", np.array(labels), lossselect, scikit_learn)
    compare("200k lists of 0 to 5 of 1,000 (MultiLabelBinarizer)", rows, lossselect_lists, scikit_learn_lists)


if __name__ == "__main__":
    main()
