import numpy as np
import pytest
import torch

from lossselect.data.folds import draw_folds
from lossselect.exceptions import DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.utils.warnings import LossSelectWarning

CLASSES = np.array([0.0] * 50 + [1.0] * 30 + [2.0] * 10)
NAMES = ("a", "b", "c")


def test_each_row_is_in_one_fold_and_folds_are_stratified():
    folds = draw_folds(CLASSES, 5, 0, NAMES)
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(90))
    for fold in folds:
        assert np.bincount(CLASSES[fold].astype(int)).tolist() == [10, 6, 2]


def test_folds_depend_only_on_the_seed():
    first, again, other = (draw_folds(CLASSES, 5, seed, NAMES) for seed in (1, 1, 2))
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


def test_multilabel_folds_have_the_shares_of_each_label():
    labels = (np.random.default_rng(0).random((400, 3)) < [0.5, 0.2, 0.05]).astype(float)
    for fold in draw_folds(labels, 4, 0, NAMES):
        assert labels[fold].sum(0) == pytest.approx(labels.sum(0) / 4, abs=1.5)
    sparse = SparseLabels.from_dense(torch.from_numpy(labels))
    assert all(map(np.array_equal, draw_folds(labels, 4, 0, NAMES), draw_folds(sparse, 4, 0, NAMES)))


def test_groups_stay_together():
    groups = np.arange(90) // 3
    folds = draw_folds(CLASSES[np.random.default_rng(0).permutation(90)], 4, 0, NAMES, groups)
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(90))
    members = [set(groups[fold]) for fold in folds]
    assert sum(map(len, members)) == len(set.union(*members)) == 30


@pytest.mark.parametrize("grouped", [False, True])
def test_the_only_row_or_group_of_a_class_is_trained_on_in_each_fold(grouped):
    labels = np.array([0.0, 1.0] * 10 + [2.0])
    groups = np.arange(21) // 2 if grouped else None
    with pytest.warns(LossSelectWarning, match="1 of 3 classes have fewer rows or groups .* c"):
        folds = draw_folds(labels, 3, 0, NAMES, groups)
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(20))


def test_a_class_with_two_rows_is_in_two_folds():
    labels = np.array([0.0] * 20 + [1.0] * 2)
    with pytest.warns(LossSelectWarning, match="fewer rows or groups than there are folds"):
        folds = draw_folds(labels, 5, 0, NAMES[:2])
    assert sum(20 in fold or 21 in fold for fold in folds) == 2


def test_missing_labels_are_divided_too():
    labels = np.where(np.arange(40) % 4 == 0, np.nan, np.arange(40) % 2)
    folds = draw_folds(labels, 5, 0, NAMES[:2])
    assert [int(np.isnan(labels[fold]).sum()) for fold in folds] == [2] * 5


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (None, "6 rows outside the test split are too few for folds=7. Reduce folds, or add rows."),
        (np.arange(6) // 2, "3 groups .* are too few for folds=7"),
    ],
)
def test_too_few_rows(groups, message):
    with pytest.raises(DataError, match=message):  # without a warning, which would be an error
        draw_folds(np.array([0.0, 1.0] * 3), 7, 0, NAMES[:2], groups)
