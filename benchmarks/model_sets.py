"""The data sets of benchmarks/models.py, each with the same training and test rows in every run.

Features are float64 (N, F), dense or a `scipy.sparse.csr_array`; labels are integers from 0, (N,), or
0 and 1, (N, L).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array, issparse

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
MAX_RIVER_ROWS = 5000


class Table(NamedTuple):
    """Training rows x and y, and test rows."""

    x: Any
    y: np.ndarray
    test_x: Any
    test_y: np.ndarray


class UnavailableError(Exception):
    """The data set is not installed; the message says what provides it."""


def split_at(x: Any, y: np.ndarray, count: int) -> Table:
    """Return a table whose first `count` rows are training rows."""
    x = x if issparse(x) else x.astype(np.float64)
    return Table(x[:count], y[:count], x[count:], y[count:])


def split_randomly(x: Any, y: np.ndarray) -> Table:
    """Return a table with 70 % training rows, stratified by class, with seed 0."""
    from sklearn.model_selection import train_test_split

    rows = train_test_split(np.arange(len(y)), test_size=0.3, stratify=y, random_state=0)
    return split_at(x[np.concatenate(rows)], y[np.concatenate(rows)], len(rows[0]))


def shared(file: str) -> Table:
    """Return a set of ../shared/data, which is not included because it states no licence."""
    path = SHARED / f"{file}.npz"
    if not path.exists():
        raise UnavailableError(f"it requires {path}")
    with np.load(path) as data:
        y = data["y" if "y" in data else "Y"].astype(np.int64)
        return split_at(data["X"], y, int(data["ntrain"]))


def scikit_learn(name: str) -> Table:
    """Return a set that is installed with scikit-learn."""
    from sklearn import datasets

    return split_randomly(*getattr(datasets, f"load_{name}")(return_X_y=True))


def river(name: str, same: str = "") -> Table:
    """Return at most 5,000 rows of a set installed with river, unless the shared set `same` exists."""
    if same and (SHARED / f"{same}.npz").exists():
        raise UnavailableError(f"it has the rows of the shared set {same}")
    try:
        from river import datasets
    except ImportError:
        raise UnavailableError("it requires `pip install river`") from None
    rows, labels = zip(*getattr(datasets, name)(), strict=True)
    y = np.unique(labels, return_inverse=True)[1]
    x = np.array([[*row.values()] for row in rows], dtype=np.float64)
    chosen = np.sort(np.random.default_rng(0).permutation(len(y))[:MAX_RIVER_ROWS])
    return split_randomly(x[chosen], y[chosen])


def rare() -> Table:
    """Return a binary set with 1 % positives, which has 4,000 training rows and 16,000 test rows."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        20_400, 20, n_informative=8, n_clusters_per_class=3, weights=[0.98], flip_y=0, random_state=0
    )
    positive, negative = np.flatnonzero(y), np.flatnonzero(y == 0)
    rows = [positive[:40], negative[:3960], positive[40:200], negative[3960:19_800]]
    return split_at(x[np.concatenate(rows)], y[np.concatenate(rows)], 4000)


def wrong_labels() -> Table:
    """Return four classes; 20 % of the training labels are replaced by another class, no test label is."""
    from sklearn.datasets import make_classification

    x, y = make_classification(5000, 20, n_informative=10, n_classes=4, flip_y=0, random_state=0)
    table = split_at(x, y.copy(), 2000)
    random = np.random.default_rng(0)
    wrong = random.permutation(2000)[:400]
    table.y[wrong] = (table.y[wrong] + random.integers(1, 4, len(wrong))) % 4
    return table


def fifty_classes() -> Table:
    """Return 50 classes with 20 informative and 20 uninformative columns."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        5000,
        40,
        n_informative=20,
        n_redundant=0,
        n_classes=50,
        n_clusters_per_class=1,
        class_sep=1.5,
        random_state=0,
    )
    return split_randomly(x, y)


def counts() -> Table:
    """Return sparse counts of 2,000 words in ten classes; each class has 12 informative words.

    A row has 40 to 159 words on average, and the counts are Poisson-distributed. The frequency of the word of
    rank r is proportional to 1 / (r + 9), and four times that if the word is informative for the row's class.
    """
    random = np.random.default_rng(0)
    y = random.integers(0, 10, 2000)
    rates = np.tile(1 / np.arange(10, 2010), (10, 1))
    for row, words in zip(rates, random.permutation(2000)[:120].reshape(10, 12), strict=True):
        row[words] *= 4
    rates /= rates.sum(1, keepdims=True)
    lengths = random.integers(40, 160, (2000, 1))
    return split_randomly(csr_array(random.poisson(lengths * rates[y]).astype(np.float64)), y)


SETS: dict[str, dict[str, Callable[[], Table]]] = {
    "Shared and installed tables": {
        **{
            name: lambda name=name: shared(f"tab_{name}")
            for name in ("bananas", "german", "noisy20", "phoneme", "segment", "vehicle")
        },
        **{
            name: lambda name=name: scikit_learn(name) for name in ("iris", "wine", "breast_cancer", "digits")
        },
        "phishing": lambda: river("Phishing"),
        "shuttle": lambda: river("Shuttle"),
        "river_bananas": lambda: river("Bananas", same="tab_bananas"),
        "river_segment": lambda: river("ImageSegments", same="tab_segment"),
    },
    "Generated tables": {
        "rare": rare,
        "wrong_labels": wrong_labels,
        "fifty_classes": fifty_classes,
        "counts": counts,
    },
    "Multilabel sets": {
        name: lambda name=name: shared(name) for name in ("birds", "emotions", "enron", "flags", "yeast")
    },
}
"""Functions that return the sets, by group."""
