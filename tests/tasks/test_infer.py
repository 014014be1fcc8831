import re

import pytest
import torch

import lossselect as ls

NAN = float("nan")


@pytest.mark.parametrize(
    ("target", "name", "reason"),
    [
        ([0, 1, 1], "binary", "2 distinct values: 0, 1"),
        ([True, False], "binary", "2 distinct values: 0, 1"),
        ([[1], [2], [1]], "binary", "2 distinct values: 1, 2"),
        ([3, 3], "binary", "1 distinct value: 3"),
        ([0.0, NAN, 0.7], "binary", "soft labels between 0 and 1"),
        ([0, 1, 2, NAN], "multiclass", "3 distinct integers, 0 to 2"),
        ([[0, 1], [1, 0]], "multiclass", "each row has exactly one 1"),
        ([[0.2, 0.8], [1.0, 0.0]], "multiclass", "each row sums to 1"),
        ([[NAN, NAN], [1, 0]], "multiclass", "each row has exactly one 1"),
        ([[1, 0], [1, 1]], "multilabel", "row 1 has 2 ones"),
        ([[0, 0], [1, 0]], "multilabel", "row 0 has 0 ones"),
        ([[NAN, 1], [1, 0]], "multilabel", "row 0 has 1 one"),
    ],
)
def test_infers_with_a_reason(target, name, reason):
    assert ls.infer_task(target) == (name, reason)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([0.5, 31.2], "look like a quantity"),
        ([[0, 3], [1, 1]], "got values from 0 to 3"),
        ([NAN, NAN], "all labels are missing"),
        (torch.zeros(2, 2, 2), "shape (2, 2, 2)"),
    ],
)
def test_labels_of_no_task(target, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ls.infer_task(target)


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        (ls.Binary(), [0, 4, 1], "The labels look like task=multiclass: 3 distinct integers, 0 to 4."),
        (ls.Multiclass(2), [[1, 1], [0, 1]], "The labels look like task=multilabel: row 0 has 2 ones."),
        (ls.Multilabel(3), [0, 1, 2], "The labels look like task=multiclass: 3 distinct"),
        (ls.Multilabel(2), [0, 1, 1], "The labels look like task=binary"),
    ],
)
def test_check_task_names_the_task_that_fits(task, target, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ls.check_task(task, target)


def test_check_task_suggests_no_task_if_none_fits():
    with pytest.raises(ValueError, match=r"Row 0 of the target is 0.5.*Soft labels") as caught:
        ls.check_task(ls.Multiclass(3), [0.5, 31.2])
    assert "look like" not in str(caught.value)
    with pytest.raises(ValueError, match="Row 1 of the target is 2") as caught:
        ls.check_task(ls.Binary(), [1, 2])
    assert "look like" not in str(caught.value)


def test_check_task_finds_a_label_matrix_of_another_width():
    with pytest.raises(
        ValueError, match=r"contains only 0 and 1.* look like task=multilabel: row 0 has 2 ones"
    ):
        ls.check_task(ls.Multiclass(3), [[1, 0, 1, 0], [0, 0, 0, 1]])
    task = ls.Multiclass(3)
    assert ls.check_task(task, [[1, 0, 2, 0], [0, 0, 0, 1]]) is task


def test_check_task_returns_the_canonical_target():
    assert ls.check_task(ls.Binary(), [0, 1]) == ls.Binary()


@pytest.mark.parametrize(
    ("task", "target"),
    [
        (ls.Binary(), [0, 1, -100]),  # a marker, not a third class
        (ls.Binary(missing=-1), [0, -1, -2]),
        (ls.Multiclass(3), [0.0, float("inf")]),
    ],
)
def test_a_task_that_would_not_accept_the_labels_is_not_suggested(task, target):
    with pytest.raises(ValueError, match="of the target is") as error:
        ls.check_task(task, target)
    assert "look like" not in str(error.value)


def test_declared_missing_labels_are_left_out_of_the_suggestion():
    with pytest.raises(ValueError, match=r"task=multiclass: 3 distinct integers, 0 to 2\.$"):
        ls.check_task(ls.Binary(missing=-1), [0, 1, -1, 2])
