"""Rows with several labels are divided as by iterative-stratification, which imports scikit-learn."""

import numpy as np
import pytest
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold, MultilabelStratifiedShuffleSplit

from lossselect.data.folds import draw_folds
from lossselect.data.splits import split_in_two
from lossselect.data.stratification import divide_rows
from lossselect.utils.warnings import ignore_warnings


def draw_labels(seed):
    generator = np.random.default_rng(seed)
    shape = generator.integers(6, 60), generator.integers(2, 7)
    return (generator.random(shape) < generator.random(shape[1])).astype(np.int64)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("size", [0.15, 0.4, 3])
def test_splits_equal_those_of_the_reference(seed, size):
    labels = draw_labels(seed)
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=size, random_state=seed)
    train, test = next(splitter.split(labels, labels))
    others, chosen = split_in_two(np.arange(len(labels)), labels, size, seed)
    assert np.array_equal(others, train)
    assert np.array_equal(chosen, test)


@pytest.mark.parametrize("seed", range(30))
def test_folds_equal_those_of_the_reference(seed):
    labels = draw_labels(seed)
    labels = labels[:, labels.sum(0) != 1]  # the only row of a label is in no fold
    splitter = MultilabelStratifiedKFold(n_splits=3, shuffle=True, random_state=seed)
    expected = [fold for _, fold in splitter.split(labels, labels)] if labels.shape[1] > 1 else []
    with ignore_warnings("rare_class"):
        folds = draw_folds(labels.astype(float), 3, seed, [str(i) for i in range(labels.shape[1])])
    assert all(map(np.array_equal, folds, expected)) or not expected


def test_each_part_has_its_share_of_each_label():
    labels = (np.random.default_rng(0).random((3000, 4)) < [0.5, 0.2, 0.05, 0.01]).astype(int)
    parts = divide_rows(labels, np.array([0.7, 0.2, 0.1]), 0)
    for part, share in enumerate((0.7, 0.2, 0.1)):
        assert labels[parts == part].sum(0) == pytest.approx(share * labels.sum(0), abs=1.5)
        assert (parts == part).sum() == pytest.approx(share * 3000, abs=30)
