import inspect
import math
import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import lossselect as ls
from lossselect.exceptions import DataError, DataTypeError

NAN = float("nan")
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def same(encoded, expected):
    torch.testing.assert_close(encoded, torch.as_tensor(expected), rtol=0, atol=0, equal_nan=True)


class TestBinaryEncode:
    @pytest.mark.parametrize("dtype", [torch.bool, *INTEGERS, *UNSIGNED, *FLOATS])
    @pytest.mark.parametrize("shape", [(4,), (4, 1)])
    def test_accepts_0_and_1_of_any_dtype(self, dtype, shape):
        target = torch.tensor([0, 1, 1, 0]).to(dtype).reshape(shape)
        same(ls.Binary().encode(target), [[0.0], [1.0], [1.0], [0.0]])

    @pytest.mark.parametrize(
        "target",
        [
            [0, 1, 1],
            (0, 1, 1),
            [[0], [1], [1]],
            [False, True, True],
            np.array([0, 1, 1], dtype=">i2"),
            np.array([1, 1, 0])[::-1],
            np.array([0.0, 1.0, 1.0], dtype=np.longdouble),
            torch.tensor([0.0, 1.0, 1.0]).to_sparse(),
            [[1, 0], [0, 1], [0, 1]],
            torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]),
        ],
        ids=str,
    )
    def test_accepts_lists_arrays_and_one_hot(self, target):
        same(ls.Binary().encode(target), [[0.0], [1.0], [1.0]])

    def test_a_read_only_array_is_accepted_without_a_warning(self):
        array = np.array([0, 1, 1])
        array.flags.writeable = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            same(ls.Binary().encode(array), [[0.0], [1.0], [1.0]])

    def test_soft_values_keep_their_precision(self):
        same(ls.Binary().encode(np.array([0.1, 0.5])), torch.tensor([[0.1], [0.5]], dtype=torch.float64))
        assert ls.Binary().encode(np.array([0.0, 0.5, 1.0])).dtype == torch.float32
        assert ls.Binary().encode([0.1, 0.5]).dtype == torch.float32
        same(ls.Binary().encode([[0.25, 0.75]]), [[0.75]])

    def test_trailing_dimensions(self):
        mask = torch.randint(0, 2, (2, 4, 5))
        assert ls.Binary().encode(mask).shape == (2, 1, 4, 5)
        assert ls.Binary().encode(mask.unsqueeze(1)).shape == (2, 1, 4, 5)

    def test_missing(self):
        same(ls.Binary().encode([0, None, 1]), [[0.0], [NAN], [1.0]])
        same(ls.Binary().encode([0.0, NAN, 1.0]), [[0.0], [NAN], [1.0]])
        same(ls.Binary().encode(np.ma.array([0, 1, 1], mask=[0, 1, 0])), [[0.0], [NAN], [1.0]])
        same(ls.Binary(missing=-1).encode([0, -1, 1]), [[0.0], [NAN], [1.0]])
        same(
            ls.Binary(missing=255).encode(torch.tensor([0, 255, 1], dtype=torch.uint8)), [[0.0], [NAN], [1.0]]
        )

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ([0, 1, 2], "Row 2 of the target is 2, but binary targets must be 0, 1,"),
            ([1, 2, 2], "If the labels start at 1, subtract 1."),
            (
                [1, -1],
                "If -1 marks a missing label, set task.missing=-1. If it means no, map it",
            ),
            ([0, 255], "If 255 means yes, divide by 255."),
            ([0.2, 1.5], "Row 1 of the target is 1.5"),
            ([0.2, float("inf")], "Row 1 of the target is inf"),
            (
                [[0, 1, 1]],
                "must have shape (N,) or (N, 1), got (1, 3). If rows have several labels, set task=multilabel",
            ),
            (
                [[1, 1], [0, 1]],
                "Row 0 of the target has 2 ones, but a binary row must have exactly one class",
            ),
            ([[0.5, 0.2]], "Row 0 of the target sums to 0.7"),
            (1, "got ()"),
            ([[1], [0, 1]], "Row 1 of the target has 2 entries, but row 0 has 1"),
            (torch.tensor([1j]), "Targets must be real numbers, got torch.complex64."),
        ],
    )
    def test_errors_name_row_value_and_fix(self, target, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            ls.Binary().encode(target)

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (
                ["cat", "dog"],
                "Row 0 of the target is 'cat', but targets must be numbers. Give all rows as numbers",
            ),
            ([0, "dog"], "Row 1 of the target is 'dog'"),
            ([{}, {}], "Targets must be numbers, got dict"),
            (np.array(["2020-01-01"], dtype="datetime64[D]"), "dtype datetime64[D]"),
        ],
    )
    def test_targets_that_are_not_numbers(self, target, message):
        with pytest.raises(TypeError, match=re.escape(message)):
            ls.Binary().encode(target)


class TestMulticlassEncode:
    task = ls.Multiclass(3)

    @pytest.mark.parametrize("dtype", [*INTEGERS, *UNSIGNED, *FLOATS])
    @pytest.mark.parametrize("shape", [(4,), (4, 1)])
    def test_accepts_indices_of_any_dtype(self, dtype, shape):
        same(self.task.encode(torch.tensor([0, 2, 1, 2]).to(dtype).reshape(shape)), [0, 2, 1, 2])

    @pytest.mark.parametrize("dtype", [torch.bool, *INTEGERS, *FLOATS])
    def test_accepts_one_hot_of_any_dtype(self, dtype):
        same(self.task.encode(F.one_hot(torch.tensor([0, 2, 1]), 3).to(dtype), trailing_dims=0), [0, 2, 1])

    def test_accepts_soft_rows(self):
        rows = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
        same(self.task.encode(rows), rows)

    def test_bool_is_an_index_of_two_classes(self):
        same(ls.Multiclass(2).encode([True, False]), [1, 0])

    def test_trailing_dimensions(self):
        mask = torch.randint(0, 3, (2, 4, 5))
        same(self.task.encode(mask), mask)
        assert self.task.encode(torch.randint(0, 3, (2, 3, 5))).shape == (2, 3, 5)
        soft = torch.rand(2, 3, 5).softmax(1)
        same(self.task.encode(soft), soft)
        one_hot = F.one_hot(mask, 3).movedim(-1, 1).float()
        same(self.task.encode(one_hot), mask)

    def test_missing(self):
        same(self.task.encode([0, NAN, 2]), [0, -100, 2])
        same(self.task.encode([0, None, 2]), [0, -100, 2])
        same(ls.Multiclass(3, missing=-1).encode([0, -1, 2]), [0, -100, 2])
        same(ls.Multiclass(3, missing=255).encode([0, 255, 2]), [0, -100, 2])
        same(self.task.encode([[NAN, NAN, NAN], [0, 0, 1]]), [-100, 2])
        same(self.task.encode([[NAN, NAN, NAN], [0, 0.5, 0.5]]), [[NAN, NAN, NAN], [0, 0.5, 0.5]])

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ([0, 1, 3], "Row 2 of the target is 3, but class indices must be integers from 0 to 2"),
            ([1, 2, 3], "If the labels start at 1, subtract 1."),
            ([0, -1], "If -1 marks a missing label, set task.missing=-1."),
            ([0, 255, 2], "If 255 marks a missing label, set task.missing=255."),
            ([0, -100], "set task.missing=-100"),
            ([0.5, 1.0], "Row 0 of the target is 0.5, but class indices must be integers"),
            ([float("inf"), 1.0], "Row 0 of the target is inf"),
            (
                [[1, 1, 0], [0, 1, 0]],
                "Row 0 of the target has 2 ones, but a multiclass row must have exactly one class",
            ),
            ([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "Row 1 of the target has 0 ones"),
            ([[0.5, 0.4, 0.2]], "Row 0 of the target sums to 1.1"),
            ([[1.5, -0.5, 0.0]], "Row 0, position 0 of the target is 1.5"),
            ([[NAN, 0.5, 0.5]], "the class probabilities of a row must be all known or all missing"),
            ([[1.0, 0.0]], "got floats of shape (1, 2). Set num_classes to the number of columns."),
            ([[1, 1, 0]], "encode(target, trailing_dims=1)"),
            ([True, False], "The target is bool"),
            (2, "got only 2"),
        ],
    )
    def test_errors_name_row_value_and_fix(self, target, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            self.task.encode(target)


class TestMultilabelEncode:
    task = ls.Multilabel(3)

    @pytest.mark.parametrize("dtype", [torch.bool, *INTEGERS, *UNSIGNED, *FLOATS])
    def test_accepts_multi_hot_of_any_dtype(self, dtype):
        rows = torch.tensor([[0, 1, 1], [0, 0, 0]])
        same(self.task.encode(rows.to(dtype)), rows.float())

    def test_accepts_soft_labels_missing_labels_and_trailing_dimensions(self):
        same(self.task.encode([[0.1, NAN, 1]]), [[0.1, NAN, 1.0]])
        same(ls.Multilabel(3, missing=-1).encode([[0, -1, 1]]), [[0.0, NAN, 1.0]])
        assert self.task.encode(torch.ones(2, 3, 4, 5)).shape == (2, 3, 4, 5)
        same(ls.Multilabel(1).encode([0, 1]), [[0.0], [1.0]])

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (
                torch.zeros(32),
                "must have shape (N, num_labels)=(N, 3), got (32,). For class indices (N,)",
            ),
            ([[0, 1]], "got (1, 2). Set num_labels to the number of columns."),
            ([[0, 1, 7]], "Row 0, label '2' of the target is 7"),
            ([[0, 1, -1]], "set task.missing=-1"),
            ([[0], [1, 2]], "Row 1 of the target has 2 entries, but row 0 has 1"),
        ],
    )
    def test_errors_name_row_value_and_fix(self, target, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            self.task.encode(target)

    def test_errors_name_the_label_and_the_position(self):
        task = ls.Multilabel(2, class_names=("news", "sport"))
        with pytest.raises(ValueError, match="Row 1, label 'sport', position 3 of the target is 2"):
            task.encode(torch.tensor([[[0] * 4] * 2, [[0] * 4, [0, 0, 0, 2]]]))


class TestPredict:
    def test_binary(self):
        task = ls.Binary(threshold=0.3, class_names=("no", "yes"))
        logits = torch.tensor([[-1.0], [-0.5], [2.0]])
        torch.testing.assert_close(task.probabilities(logits), torch.sigmoid(logits))
        same(task.predict(logits), [[0], [1], [1]])
        assert task.decode(task.predict(logits)) == ["no", "yes", "yes"]

    def test_multiclass(self):
        task = ls.Multiclass(3, class_names=("a", "b", "c"))
        logits = torch.tensor([[0.0, 1.0, 2.0], [5.0, 1.0, 2.0]])
        torch.testing.assert_close(task.probabilities(logits).sum(1), torch.ones(2))
        assert task.decode(task.predict(logits)) == ["c", "a"]

    def test_multilabel_with_a_threshold_per_label(self):
        task = ls.Multilabel(3, class_names=("a", "b", "c"), threshold=(0.4, 0.5, 0.6))
        assert task.decode(task.predict(torch.zeros(1, 3))) == [["a", "b"]]
        assert task.predict(torch.zeros(2, 3, 4)).tolist() == [[[1] * 4, [1] * 4, [0] * 4]] * 2

    def test_a_probability_equal_to_the_threshold_is_positive(self):
        assert ls.Binary().predict(torch.zeros(1, 1)).item() == 1

    def test_trailing_dimensions(self):
        assert ls.Binary(class_names=("x", "y")).decode(torch.tensor([[[0, 1]]])) == [["x", "y"]]
        assert ls.Multiclass(2).decode(torch.tensor([[0, 1]])) == [["0", "1"]]
        with pytest.raises(
            ValueError, match=re.escape("decode expects predictions of shape (N, 2), got (1, 2, 3)")
        ):
            ls.Multilabel(2).decode(torch.zeros(1, 2, 3))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_logits_give_float32_probabilities(self, dtype):
        for task in (ls.Binary(), ls.Multiclass(2), ls.Multilabel(2)):
            logits = torch.randn(4, task.num_outputs)
            got = task.probabilities(logits.to(dtype))
            assert got.dtype == torch.float32
            assert torch.equal(got, task.probabilities(logits.to(dtype).float()))

    @pytest.mark.parametrize(
        ("task", "logits", "message"),
        [
            (
                ls.Multilabel(5),
                torch.zeros(16, 10),
                "Expected logits of shape (N, 5) for multilabel with 5 labels, got (16, 10).",
            ),
            (ls.Binary(), torch.zeros(16), "do not squeeze() the output"),
            (ls.Binary(), torch.zeros(16, 2), "For two outputs, set task=multiclass"),
            (
                ls.Multiclass(3),
                torch.zeros(16, 3, dtype=torch.long),
                "Expected float logits for multiclass with 3 classes, got torch.int64 of",
            ),
        ],
    )
    def test_logits_of_another_shape_are_an_error(self, task, logits, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            task.predict(logits)


class TestDeclaration:
    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (
                lambda: ls.Multiclass(1),
                ValueError,
                "num_classes must be an integer >= 2, got 1.",
            ),
            (lambda: ls.Multilabel(0), ValueError, "num_labels must be an integer >= 1"),
            (lambda: ls.Multiclass(3.0), TypeError, "num_classes must be an integer"),
            (lambda: ls.Multiclass(True), TypeError, "num_classes must be an integer"),
            (lambda: ls.Binary(class_names=["a"]), ValueError, "Binary requires 2 class_names, got 1: a."),
            (lambda: ls.Binary(class_names="ab"), TypeError, "class_names must be a list of 2 names"),
            (lambda: ls.Multilabel(2, class_names=["a", "a"]), ValueError, "'a' occurs twice"),
            (
                lambda: ls.Binary(threshold=1.5),
                ValueError,
                "threshold must be a number from 0 to 1, got 1.5",
            ),
            (lambda: ls.Binary(threshold=NAN), ValueError, "threshold must be a number from"),
            (
                lambda: ls.Multilabel(2, threshold=[0.5, -1]),
                ValueError,
                "threshold[1] must be a number from 0 to 1, got -1",
            ),
            (
                lambda: ls.Multilabel(2, threshold=[0.5]),
                ValueError,
                "threshold requires one number per output (2), got 1",
            ),
            (lambda: ls.Binary(threshold="high"), TypeError, "threshold must be a number"),
            (lambda: ls.Binary(threshold=True), TypeError, "threshold must be a number"),
            (lambda: ls.Multilabel(2, threshold={0: 0.5, 1: 0.2}), TypeError, "threshold must be a number"),
            (lambda: ls.Multilabel(2, threshold={0.5, 0.2}), TypeError, "threshold must be a number"),
            (
                lambda: ls.Multilabel(2, threshold=["0.5", 1]),
                TypeError,
                "threshold[0] must be a number from 0 to 1, got '0.5'",
            ),
            (
                lambda: ls.Binary(class_names={0: "a", 1: "b"}),
                TypeError,
                "in the order of the outputs, got dict",
            ),
            (lambda: ls.Binary(class_names={"a", "b"}), TypeError, "in the order of the outputs, got set"),
            (lambda: ls.Binary(class_names=5), TypeError, "must be a list of 2 names"),
            (
                lambda: ls.make_task("multiclass", 3, num_classes=4),
                ValueError,
                "num_outputs=3 contradicts num_classes=4",
            ),
            (lambda: ls.Binary(missing=0.5), ValueError, "missing=0.5 is a valid label"),
            (lambda: ls.Multiclass(3, missing=2), ValueError, "missing=2 is a valid label"),
            (lambda: ls.Multiclass(3, missing="?"), TypeError, "missing must be a number"),
            (lambda: ls.make_task("multilable", 3), ValueError, "Did you mean 'multilabel'?"),
            (lambda: ls.make_task("multiclass"), ValueError, "requires num_outputs or class_names"),
            (lambda: ls.make_task("multiclass", 3, threshold=0.5), ValueError, "has no option 'threshold'"),
            (lambda: ls.make_task("binary", 2), ValueError, "has one output"),
        ],
    )
    def test_invalid_declarations(self, make, error, message):
        with pytest.raises(error, match=re.escape(message)):
            make()

    @pytest.mark.parametrize(
        "task",
        [
            ls.Binary(class_names=("n", "p"), threshold=0.2),
            ls.Multiclass(3, missing=-1),
            ls.Multilabel(2, class_names=["a", "b"], threshold=[0.1, 0.2]),
        ],
    )
    def test_plain_values_recreate_the_task(self, task):
        assert ls.make_task(**task.to_dict()) == task
        assert hash(ls.make_task(**task.to_dict())) == hash(task)

    def test_width_from_class_names(self):
        assert ls.make_task("multilabel", class_names=("a", "b", "c")).num_outputs == 3

    def test_numpy_numbers_are_numbers(self):
        task = ls.Multiclass(np.int64(3), missing=np.int64(-1))
        assert type(task.num_classes) is int
        assert task.encode([0, -1]).tolist() == [0, -100]

    def test_thresholds_per_label_are_as_exact_as_one_for_all(self):
        p = torch.tensor([[0.1, 0.3]], dtype=torch.float64)
        assert ls.Multilabel(2, threshold=(0.1, 0.3)).predict_from_probabilities(p).tolist() == [[1, 1]]

    def test_thresholds_of_a_tensor(self):
        assert ls.Multilabel(2, threshold=torch.tensor([0.25, 0.5])).threshold == (0.25, 0.5)
        assert ls.Binary(threshold=np.float64(0.25)).threshold == 0.25


class TestDecode:
    def test_of_targets(self):
        assert ls.Binary().decode(ls.Binary().encode([0, 1, None])) == ["0", "1", None]
        task = ls.Multiclass(3, missing=-1)
        assert task.decode(task.encode([2, -1])) == ["2", None]
        assert ls.Multilabel(2).decode(torch.tensor([[1.0, NAN], [0.0, 1.0]])) == [["0"], ["1"]]

    @pytest.mark.parametrize(
        ("task", "prediction", "message"),
        [
            (ls.Binary(), torch.tensor([[-1]]), "Class index -1 is out of range: it must be from 0 to 1"),
            (ls.Binary(), torch.tensor([0, 1]), "decode expects predictions of shape (N, 1, ...), got (2,)"),
            (ls.Multiclass(3), torch.tensor([3]), "Class index 3 is out of range: it must be from 0 to 2"),
            (ls.Multilabel(2), torch.tensor([[0.2, 1.0]]), "decode expects predictions"),
        ],
    )
    def test_invalid_predictions(self, task, prediction, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            task.decode(prediction)


def test_to_hard_labels():
    assert ls.Binary().to_hard_labels(torch.tensor([[0.7], [0.2], [NAN]])).tolist() == [[1], [0], [-100]]
    rows = torch.tensor([[0.2, 0.8], [NAN, NAN]])
    assert ls.Multiclass(2).to_hard_labels(rows).tolist() == [1, -100]
    assert ls.Multiclass(2).to_hard_labels(torch.tensor([1, -100])).tolist() == [1, -100]


def test_output_names():
    assert ls.Binary(class_names=("n", "p")).output_names == ("p",)
    assert ls.Multilabel(2).output_names == ("0", "1")


@given(st.lists(st.integers(0, 4), min_size=1), st.sampled_from(["list", "array", "one_hot", "column"]))
def test_multiclass_round_trip(labels, form):
    task = ls.Multiclass(5, class_names=tuple("abcde"))
    index = torch.tensor(labels)
    forms = {
        "list": labels,
        "array": np.array(labels),
        "one_hot": F.one_hot(index, 5),
        "column": index[:, None],
    }
    assert task.decode(task.encode(forms[form], trailing_dims=0)) == ["abcde"[label] for label in labels]


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1))
def test_multilabel_round_trip(rows):
    task = ls.Multilabel(3, class_names=("a", "b", "c"))
    expected = [[name for name, there in zip("abc", row, strict=True) if there] for row in rows]
    assert task.decode(task.encode(rows).long()) == expected


@given(st.lists(st.booleans(), min_size=1))
def test_binary_round_trip(labels):
    task = ls.Binary(class_names=("n", "p"))
    assert task.decode(task.encode(labels).long()) == ["np"[label] for label in labels]


@given(
    st.lists(st.one_of(st.integers(-3, 5), st.floats(-2, 4), st.just(NAN)), min_size=1, max_size=6),
    st.sampled_from([ls.Binary(), ls.Multiclass(3), ls.Multilabel(1)]),
)
def test_accepted_targets_become_canonical(labels, task):
    """Each list of numbers is either an error or becomes a valid canonical target."""
    try:
        encoded = task.encode(labels)
    except ValueError as error:
        assert re.match(r"Row \d+ of the target is", str(error))  # noqa: PT017
        return
    if task.name == "multiclass":
        assert encoded.dtype == torch.long
        assert (((encoded >= 0) & (encoded < 3)) | (encoded == -100)).all()
    else:
        assert ((encoded >= 0) & (encoded <= 1) | encoded.isnan()).all()
        assert encoded.shape == (len(labels), 1)


class TestHints:
    """Errors give one hint about an invalid value, and none about a declared missing value."""

    @pytest.mark.parametrize(
        ("task", "target", "hint", "other"),
        [
            (ls.Binary(), [0, 1, -100], "set task.missing=-100", "logits"),
            (ls.Binary(missing=-1), [0, -1, -2], "set task.missing=-2", "missing=-1"),
            (ls.Multiclass(3, missing=-1), [0, -1, 3], "more classes than num_classes=3", "missing=-1"),
            (ls.Multilabel(2), [[0, 9], [1, 1]], "If 9 marks a missing label", "logits"),
            (
                ls.Multilabel(2),
                [[0, 2], [1, 1]],
                "For class indices (N,), set task=multiclass",
                "missing=2",
            ),
            (ls.Multilabel(2), [[0, float("inf")], [1, 1]], "labels, not logits", "missing=inf"),
            (ls.Binary(), [0.2, -3.1], "labels, not logits", "missing="),
        ],
    )
    def test_hint(self, task, target, hint, other):
        with pytest.raises(ValueError, match=re.escape(hint)) as error:
            task.encode(target)
        assert other not in str(error.value)


@pytest.mark.parametrize(
    ("task", "target"),
    [
        (ls.Multilabel(2), torch.tensor([[1 + 2e-16, 0.0], [0.5, -1e-9]], dtype=torch.float64)),
        (ls.Binary(), torch.tensor([1.0000001, 0.0])),
        (ls.Multiclass(2), torch.tensor([[1.0000001, -1e-8], [0.5, 0.5]])),
    ],
)
def test_values_outside_by_rounding_are_clamped(task, target):
    encoded = task.encode(target)
    assert encoded.min() >= 0
    assert encoded.max() == 1
    with pytest.raises(ValueError, match=r"is 1.001|sums to 1.001"):
        task.encode(target * 1.001)


def test_a_ragged_row_within_a_regular_target():
    with pytest.raises(ValueError, match="The entries of one row of the target differ in length"):
        ls.Multilabel(2).encode([[[1, 0], [1]], [[0, 1], [1, 1]]])


def test_no_target_at_all():
    with pytest.raises(TypeError, match="Expected a target, got None"):
        ls.Multiclass(3).encode(None)


def test_lists_get_a_dtype_wide_enough_for_their_values():
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        assert ls.Multiclass(1000).encode([257, 259, None]).tolist() == [257, 259, -100]
        assert ls.Binary().encode([0.1]).item() == pytest.approx(0.1, rel=1e-6)
    finally:
        torch.set_default_dtype(default)
    assert ls.Multiclass(2**25).encode([2**24 + 1, None]).tolist() == [2**24 + 1, -100]


def test_indices_in_a_dtype_that_is_too_narrow():
    assert ls.Multiclass(257).encode(torch.tensor([256.0], dtype=torch.bfloat16)).item() == 256
    with pytest.raises(
        ValueError, match="bfloat16 represents only integers up to 256 exactly, but there are 258 classes"
    ):
        ls.Multiclass(258).encode(torch.tensor([256.0], dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="float32 represents only integers up to 16777216 exactly"):
        ls.Multiclass(2**24 + 2).encode(torch.tensor([1.0]))


@pytest.mark.parametrize(("total", "fits"), [(1.00005, True), (1.0005, False)])
def test_tolerance_of_the_sum_of_soft_labels(total, fits):
    rows = torch.tensor([[total - 0.25, 0.25, 0.0]])
    if fits:
        assert ls.Multiclass(3).encode(rows).shape == (1, 3)
        assert ls.Multiclass(3).encode((rows * 0.995).to(torch.float16)).shape == (1, 3)
    else:
        with pytest.raises(ValueError, match=r"sums to 1.0005"):
            ls.Multiclass(3).encode(rows)


def test_decode_of_missing_rows_and_of_invalid_predictions():
    task = ls.Multilabel(2, class_names=("a", "b"))
    assert task.decode(task.to_hard_labels(task.encode([[1, NAN], [NAN, NAN]]))) == [["a"], None]
    with pytest.raises(ValueError, match=r"decode expects predictions of shape \(N, 2\), got \(1, 3\)"):
        task.decode(torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="decode expects predictions, not probabilities"):
        ls.Multiclass(2).decode(torch.tensor([[0.2, 0.8]]))


class TestDecisions:
    @pytest.mark.parametrize("form", [torch.tensor, np.array, list], ids=["tensor", "array", "list"])
    def test_names_of_any_form(self, form):
        assert ls.Binary(class_names=("no", "yes")).decode(form([[0], [1]])) == ["no", "yes"]
        assert ls.Multiclass(3, class_names=("a", "b", "c")).decode(form([2, 0])) == ["c", "a"]
        assert ls.Multilabel(2, class_names=("a", "b")).decode(form([[1, 1], [0, 1]])) == [["a", "b"], ["b"]]

    def test_min_labels(self):
        task = ls.Multilabel(3, threshold=(0.5, 0.3, 0.9), min_labels=1)
        rows = torch.tensor([[0.1, 0.1, 0.6], [0.6, 0.4, 0.1], [0.4, 0.1, 0.1]])
        assert task.predict_from_probabilities(rows).tolist() == [[0, 1, 0], [1, 1, 0], [1, 0, 0]]

    def test_top_k(self):
        task = ls.Multilabel(4, top_k=2)
        assert task.predict_from_probabilities(torch.tensor([[0.1, 0.4, 0.3, 0.2]])).tolist() == [
            [0, 1, 1, 0]
        ]
        assert ls.make_task(**task.to_dict()) == task
        trailing = torch.rand(2, 4, 5)
        assert task.predict_from_probabilities(trailing).sum(1).eq(2).all()

    def test_a_row_with_nan_has_no_prediction(self):
        logits = torch.tensor([[1.0, 2.0, torch.nan, 3.0]])
        assert ls.Multilabel(4, top_k=2).predict(logits).tolist() == [[-100] * 4]
        assert ls.Multilabel(4, min_labels=2, threshold=0.99).predict(logits).tolist() == [[-100] * 4]
        assert ls.Multilabel(4, top_k=2).predict_from_probabilities(logits.sigmoid()).tolist() == [[-100] * 4]

    @pytest.mark.parametrize("scale", [1, 10, 100])
    def test_labels_whose_probabilities_are_all_1_or_0_are_ranked(self, scale):
        logits = torch.tensor([[1.8, 2.5, 4.0, 0.0], [-4.0, -1.8, -2.5, -3.0]]) * scale
        for temperature in (1.0, (1.0, 2.0, 4.0, 1.0)):
            odds = logits / torch.tensor(temperature)
            task = ls.Multilabel(4, top_k=1, temperature=temperature)
            assert task.predict(logits).argmax(1).tolist() == odds.argmax(1).tolist()
            task = ls.Multilabel(4, min_labels=1, threshold=(0.5, 0.5, 0.9, 0.5), temperature=temperature)
            margin = odds - torch.tensor([0, 0, math.log(9), 0])
            assert (
                task.predict(logits)[1].tolist()
                == torch.eye(4, dtype=torch.long)[margin[1].argmax()].tolist()
            )
            assert task.predict(logits)[0].tolist() == (margin[0] >= 0).tolist()

    def test_prior_correction(self):
        task = ls.Multiclass(2, prior_correction=(1, 3))
        assert task.predict_from_probabilities(torch.tensor([[0.7, 0.3], [0.8, 0.2]])).tolist() == [1, 0]
        assert ls.make_task(**task.to_dict()) == task

    def test_temperature(self):
        logits = torch.tensor([[2.0, -1.0]])
        for task in (ls.Multilabel(2, temperature=2.0), ls.Multiclass(2, temperature=2.0)):
            cold = ls.make_task(**{**task.to_dict(), "temperature": 1.0})
            torch.testing.assert_close(task.probabilities(logits), cold.probabilities(logits / 2))
            assert torch.equal(
                ls.select_loss(task)(logits, task.encode([[1, 0]], trailing_dims=0)),
                ls.select_loss(cold)(logits, cold.encode([[1, 0]], trailing_dims=0)),
            )
        for number in (torch.tensor(2.0), np.array(2.0), np.float32(2)):
            tasks = (ls.Binary(temperature=number), ls.Multiclass(2, temperature=number, missing=-number))
            assert [task.temperature for task in tasks] == [2, 2]
            assert ls.Multilabel(2, temperature=number, threshold=number / 4).temperature == 2
        per_label = ls.Multilabel(2, temperature=(1, 4))
        torch.testing.assert_close(per_label.probabilities(logits), torch.tensor([[2.0, -0.25]]).sigmoid())

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: ls.Multilabel(3, top_k=4), "top_k must be an integer from 1 to 3, got 4."),
            (
                lambda: ls.Multilabel(3, min_labels=-1),
                "min_labels must be an integer from 0 to 3, got -1.",
            ),
            (lambda: ls.Multilabel(3, min_labels=1, top_k=2), "min_labels cannot be combined with top_k"),
            (lambda: ls.Multilabel(3, threshold=0.3, top_k=2), "threshold cannot be combined with top_k"),
            (
                lambda: ls.Multilabel(3, temperature=(1, 2)),
                "temperature requires one number per output (3), got 2",
            ),
            (
                lambda: ls.Multilabel(2, temperature=(1, 0)),
                "temperature[1] must be a number >= 1e-30, got 0",
            ),
            (
                lambda: ls.Multiclass(2, temperature=-1),
                "temperature must be a number >= 1e-30, got -1",
            ),
            (
                lambda: ls.Multiclass(2, prior_correction=(1,)),
                "prior_correction requires one number per output (2), got 1",
            ),
            (
                lambda: ls.Multiclass(2, prior_correction=(1, 0)),
                "prior_correction[1] must be a number from",
            ),
        ],
    )
    def test_invalid_settings(self, make, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            make()


@pytest.mark.parametrize("task", [ls.Multilabel(3), ls.Multiclass(5), ls.Binary()], ids=str)
def test_counts_of_sparse_labels_of_another_task(task):
    labels = ls.SparseLabels.from_csr(indices=[0, 4], indptr=[0, 1, 2], num_labels=5)
    with pytest.raises(DataError, match=r"shape \(2, 5\)"):
        ls.count_labels(task, labels)


@pytest.mark.parametrize(
    "function", [ls.Binary().probabilities, ls.Binary().predict, ls.select_loss(ls.Binary())]
)
def test_logits_that_are_not_a_tensor(function):
    target = () if inspect.ismethod(function) else (torch.zeros(1, 1),)
    with pytest.raises(DataTypeError, match="a tensor as logits, got list"):
        function([[0.3]], *target)
