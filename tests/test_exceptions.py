"""Types and fields of the errors."""

import pickle

import numpy as np
import pytest
from torch._utils import ExceptionWrapper

import lossselect as ls
from lossselect import exceptions
from lossselect.exceptions import DataError, LossSelectError, UnseenLabelError

KINDS = [
    kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, LossSelectError)
]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not LossSelectError])
def test_each_is_also_a_built_in_error(kind):
    """Code that catches ValueError or OSError must also catch the errors of this package."""
    built_in = [base for base in kind.__mro__ if base.__module__ == "builtins"]
    assert built_in[0] not in (Exception, BaseException, object)


def test_labels_have_row_column_and_value():
    with pytest.raises(DataError) as caught:
        ls.Multilabel(2, class_names=("a", "b")).encode([[0, 1], [0, 7]])
    assert (caught.value.row, caught.value.column, caught.value.value) == (1, "b", 7)
    with pytest.raises(DataError) as caught:
        ls.Multiclass(3).encode([0, 1, 5])
    assert (caught.value.row, caught.value.value) == (2, 5)
    with pytest.raises(UnseenLabelError) as caught:
        ls.Vocabulary.fit(["a", "b"]).encode(["a", "c"])
    assert (caught.value.row, caught.value.value) == (1, "c")


def test_a_row_is_a_python_int():
    assert type(DataError("Row 3", row=np.int64(3)).row) is int


def test_the_row_and_the_column_of_a_message_can_change():
    error = DataError.at(2, None, ", label 'row 2' of the target is 7.")
    error.row += 100
    assert str(error) == "Row 102, label 'row 2' of the target is 7."
    error = DataError.at(2, "a", " is 'row 2'.").add("Correct it.")
    error.row, error.column = 5, "b"
    assert str(pickle.loads(pickle.dumps(error))) == "Row 5 of column 'b' is 'row 2'. Correct it."


def test_a_sentence_is_added():
    error = DataError("Row 2 is 7.", row=2, value=7)
    assert error.add("(In b.csv.)") is error
    assert str(error) == "Row 2 is 7. (In b.csv.)"
    assert error.value == 7


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_passed_on_from_other_processes(kind):
    error = kind("message")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == "message"
    try:
        raise error
    except LossSelectError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(kind, match="message"):
        wrapped.reraise()


def test_fields_are_passed_on_too():
    again = pickle.loads(pickle.dumps(DataError("m", row=1, column="c", value=2.0)))
    assert (again.row, again.column, again.value) == (1, "c", 2.0)
