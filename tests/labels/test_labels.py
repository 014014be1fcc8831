import re
import warnings

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import LabelEncoder, MultiLabelBinarizer

import lossselect as ls
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.values import as_number, label_form, sorted_values

NAN = float("nan")

LABELS = {
    "strings": st.text(min_size=1, max_size=5),
    "integers": st.integers(-(10**12), 10**12),
    "booleans": st.booleans(),
}


def of_one_kind(draw_missing=True):
    missing = st.none() if draw_missing else st.nothing()
    return st.one_of(st.lists(kind | missing, min_size=1) for kind in LABELS.values())


class TestVocabulary:
    @given(of_one_kind())
    def test_decode_undoes_encode(self, labels):
        if all(label is None for label in labels):
            return
        vocabulary = ls.Vocabulary.fit(labels)
        assert vocabulary.decode(vocabulary.encode(labels)) == labels

    @given(st.one_of(st.lists(st.lists(kind) | st.none()) for kind in LABELS.values()))
    def test_decode_lists_undoes_encode_lists(self, rows):
        if not any(rows):
            return
        vocabulary = ls.Vocabulary.fit_lists(rows)
        order = {value: i for i, value in enumerate(vocabulary.values)}
        expected = [None if row is None else sorted(set(row), key=order.__getitem__) for row in rows]
        assert vocabulary.decode_lists(vocabulary.encode_lists(rows)) == expected

    @given(of_one_kind())
    def test_plain_values_recreate_it(self, labels):
        if all(label is None for label in labels):
            return
        vocabulary = ls.Vocabulary.fit(labels)
        again = ls.Vocabulary(**vocabulary.to_dict())
        assert again == vocabulary
        assert [type(value) for value in again.values] == [type(value) for value in vocabulary.values]

    @given(st.lists(st.text(min_size=1, max_size=3).filter(lambda t: as_number(t) is None), min_size=1))
    def test_indices_equal_those_of_scikit_learn(self, labels):
        encoded = ls.Vocabulary.fit(labels).encode(labels)
        assert encoded.tolist() == LabelEncoder().fit_transform(labels).tolist()

    @pytest.mark.parametrize(
        ("values", "order"),
        [
            (["10", "2", "1"], ("1", "2", "10")),
            (["1.5", "-3", "007", "7"], ("-3", "1.5", "007", "7")),
            (["10", "2", "x"], ("10", "2", "x")),
            ([30, 7, 7, -1], (-1, 7, 30)),
            ([True, False, True], (False, True)),
            ([2.0, NAN, 5.0], (2, 5)),
            (np.array([3, 1], dtype=np.int8), (1, 3)),
            (np.array(["b", "a"]), ("a", "b")),
            (np.array(["b", None], dtype=object), ("b",)),
            (np.ma.MaskedArray([1, 2], mask=[False, True]), (1,)),
            (pl.Series(["b", "a", None]), ("a", "b")),
            (pl.Series(["b", "a"], dtype=pl.Categorical), ("a", "b")),
            (("b", "a"), ("a", "b")),
            (torch.tensor([4, 2]), (2, 4)),
        ],
        ids=str,
    )
    def test_order(self, values, order):
        vocabulary = ls.Vocabulary.fit(values)
        assert vocabulary.values == order
        assert all(type(value) in (str, int, bool) for value in vocabulary.values)

    def test_missing_is_none_or_nan(self):
        vocabulary = ls.Vocabulary.fit(["a", None, "b", NAN])
        assert vocabulary.encode(["b", None, NAN, "a"]).tolist() == [1, -100, -100, 0]

    def test_class_names_are_the_order(self):
        vocabulary = ls.Vocabulary.fit(["dog", "cat"], class_names=["fish", "dog", "cat"])
        assert vocabulary.encode(["dog", "cat"]).tolist() == [1, 2]
        assert vocabulary.values == vocabulary.names == ("fish", "dog", "cat")

    def test_class_names_may_name_numbers(self):
        vocabulary = ls.Vocabulary.fit([0, 2], class_names=["cat", "dog", "fish"])
        assert vocabulary.values == (0, 1, 2)
        assert vocabulary.names == ("cat", "dog", "fish")
        assert ls.Vocabulary.fit([True], class_names=["no", "yes"]).values == (False, True)
        # names that equal the labels as text are the labels themselves
        assert ls.Vocabulary.fit([5, 2], class_names=["5", "2", "9"]).values == (5, 2, 9)

    def test_missing_values_of_pandas_are_missing(self):
        class NAType:  # like pandas.NA, which cannot be compared
            def __eq__(self, other):
                return self

            def __bool__(self):
                raise TypeError("boolean value of NA is ambiguous")

            __hash__ = object.__hash__

        vocabulary = ls.Vocabulary.fit([1, NAType(), 0])
        assert vocabulary.encode([NAType(), 1]).tolist() == [-100, 1]
        rows = [["a"], NAType(), NAN]
        lists = ls.Vocabulary.fit_lists(rows).encode_lists(rows)
        assert lists.known_rows().tolist() == [True, False, False]

    def test_an_index_out_of_range(self):
        for bad in (-1, 2):
            with pytest.raises(ValueError, match=f"Index {bad} is out of range: .* 0 to 1"):
                ls.Vocabulary(("a", "b")).decode([0, bad])

    @pytest.mark.parametrize(
        ("values", "names", "message"),
        [
            (
                ["cat", "dgo"],
                ["cat", "dog"],
                "Row 1: label 'dgo' is not among the class_names: cat, dog. Did you mean",
            ),
            ([1, 2, 5], ["a", "b", "c"], "Row 0: label 1 is not among the class_names: a, b, c."),
            (["a"], ["a", "a"], "Labels must be distinct, but 'a' occurs twice."),
            ([1, 2], ["1", "2", "04"], "got 1 (int in row 0) and '04' (str in row 2)"),
        ],
    )
    def test_class_names_that_are_not_the_labels(self, values, names, message):
        with pytest.raises((ValueError, TypeError), match=re.escape(message)):
            ls.Vocabulary.fit(values, class_names=names)

    @pytest.mark.parametrize(
        ("values", "error", "message"),
        [
            ([], ValueError, "Expected at least one label, got none."),
            ([None, NAN], ValueError, "All labels are missing. Add labels."),
            ([0.5, 1], ValueError, "Labels must be strings or integers, not quantities, got 0.5."),
            (
                ["a", 1],
                TypeError,
                "got 'a' (str in row 0) and 1 (int in row 1). Convert all to strings.",
            ),
            ([1, True], TypeError, "Labels must be of one type"),
            (
                [[1], [2]],
                TypeError,
                "Row 0 has the list [1] in place of a single label. If rows have",
            ),
            ([1, {"n": 1}], TypeError, "Row 1 has the dict {'n': 1} in place of a single label."),
            ([b"a"], TypeError, "Labels must be strings, integers or booleans, got bytes b'a'."),
            ("abc", TypeError, "Labels must be a list with one entry per row, got str 'abc'."),
            ({"a"}, TypeError, "one entry per row, got set {'a'}."),
            (np.zeros((2, 2)), ValueError, "got an array of shape (2, 2)"),
            ([float("inf")], ValueError, "not quantities, got inf."),
        ],
        ids=str,
    )
    def test_invalid_labels(self, values, error, message):
        with pytest.raises(error, match=re.escape(message)):
            ls.Vocabulary.fit(values)

    @pytest.mark.parametrize(
        ("values", "names", "message"),
        [
            ((), (), "at least one label"),
            (("a", "a"), (), "Labels must be distinct, but 'a' occurs twice."),
            (("a", "b"), ("x",), r"names must have one entry per label \(2\), got 1."),
            ((1, 2), ("x", "x"), "names must be distinct, but 'x' occurs twice."),
        ],
    )
    def test_invalid_vocabularies(self, values, names, message):
        with pytest.raises(ValueError, match=message):
            ls.Vocabulary(values, names)

    def test_an_unseen_label_is_an_error_that_names_the_row(self):
        vocabulary = ls.Vocabulary.fit(["cat", "dog"])
        with pytest.raises(
            ValueError,
            match=r"Row 2: label 'dgo' was never seen in training\. Did you mean 'dog'\? Known labels: cat, dog\.",
        ):
            vocabulary.encode(["cat", None, "dgo"])

    def test_an_unseen_label_may_be_ignored_and_is_counted(self):
        vocabulary = ls.Vocabulary.fit(["cat", "dog"])
        with pytest.warns(ls.LossSelectWarning, match=r"3 of 4 labels were not .*: 'ape' \(2\), 'yak' \(1\)"):
            encoded = vocabulary.encode(["ape", "dog", "yak", "ape"], handle_unknown="ignore")
        assert encoded.tolist() == [-100, 1, -100, -100]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with ls.ignore_warnings("unseen_label"):
                vocabulary.encode(["ape"], handle_unknown="ignore")

    def test_an_unseen_label_of_another_type(self):
        with pytest.raises(ValueError, match="The known labels are of type str, but it is of type int"):
            ls.Vocabulary.fit(["1", "2"]).encode([1])

    def test_handle_unknown_has_two_values(self):
        for encode in (ls.Vocabulary(("a",)).encode, ls.Vocabulary(("a",)).encode_lists):
            with pytest.raises(ValueError, match="handle_unknown must be 'error' or 'ignore', got 'drop'"):
                encode([], handle_unknown="drop")


class TestLists:
    ROWS = (["b", "a", "b"], [], None, ["c"])

    def test_rows_of_zeros_and_ones(self):
        lists = ls.Vocabulary.fit_lists(self.ROWS).encode_lists(self.ROWS)
        assert len(lists) == 4
        assert [part.tolist() for part in lists.csr()] == [[0, 1, 2], [0, 2, 2, 2, 3]]
        assert [part.tolist() for part in lists.coo()] == [[0, 0, 3], [0, 1, 2]]
        np.testing.assert_array_equal(
            lists.select([3, 0, 2, 1]).to_dense(), [[0, 0, 1], [1, 1, 0], [NAN, NAN, NAN], [0, 0, 0]]
        )
        assert lists.count_per_label().tolist() == [1, 1, 1]
        assert lists.select([0, 0, 1]).count_per_label().tolist() == [2, 2, 0]
        assert lists.select(np.array([], dtype=int)).to_dense().shape == (0, 3)

    @given(st.lists(st.lists(st.sampled_from("abcdefg"))))
    def test_the_matrix_equals_that_of_scikit_learn(self, rows):
        if not any(rows):
            return
        vocabulary = ls.Vocabulary.fit_lists(rows)
        lists = vocabulary.encode_lists(rows)
        expected = MultiLabelBinarizer(classes=vocabulary.values).fit_transform(rows)
        np.testing.assert_array_equal(lists.to_dense(), expected)

    @given(st.lists(st.lists(st.sampled_from("abc")) | st.none(), min_size=1), st.integers(0, 5))
    def test_concatenated(self, rows, at):
        vocabulary = ls.Vocabulary(("a", "b", "c"))
        whole = vocabulary.encode_lists(rows)
        parts = [vocabulary.encode_lists(part) for part in (rows[:at], rows[at:])]
        assert vocabulary.decode_lists(SparseLabels.concatenate(parts)) == vocabulary.decode_lists(whole)

    @pytest.mark.parametrize(
        "rows",
        [[{"a"}, ("b", "a")], [np.array(["a", "b"])], pl.Series([["a", "b"], None]), [["b"], ["a", "a"]]],
        ids=str,
    )
    def test_rows_may_be_sets_tuples_and_arrays(self, rows):
        assert ls.Vocabulary.fit_lists(rows).values == ("a", "b")

    @pytest.mark.parametrize(
        ("rows", "error", "message"),
        [
            (["a"], TypeError, "Row 0 is 'a', but each row must be a list of labels. Split it first"),
            ([["a"], 3], TypeError, "Row 1 is 3, but each row must be a list of labels."),
            ([["a"], [None]], ValueError, "Row 1 has None among its labels."),
            ([["a"], ["x"]], ValueError, "Row 1: label 'x' was never seen in training."),
            ([[["a"]]], TypeError, "Row 0 has the list ['a'] in"),
            ([["a"], [{"n": 1}]], TypeError, "Row 1 has the dict {'n': 1} in"),
        ],
    )
    def test_invalid_rows(self, rows, error, message):
        with pytest.raises(error, match=re.escape(message)):
            ls.Vocabulary(("a", "b")).encode_lists(rows)
        message = re.sub("^Row .", r"\g<0> of column 'y'", message)
        with pytest.raises(error, match=re.escape(message)) as info:
            ls.Vocabulary(("a", "b")).encode_lists(rows, column="y")
        assert info.value.column == "y"

    @pytest.mark.parametrize("label", [1, ["x"], None], ids=str)
    def test_an_error_of_fit_lists_names_the_row(self, label):
        rows = [["a"], ["b", "c"], [label or "z"]]
        with pytest.raises(ValueError, match=r"[rR]ow 2"):
            ls.Vocabulary.fit_lists(rows, class_names=["a", "b", "c"])

    def test_an_unseen_label_is_left_out_of_its_row(self):
        vocabulary = ls.Vocabulary(("a", "b"))
        with pytest.warns(ls.LossSelectWarning, match="1 of 2 labels were not seen"):
            lists = vocabulary.encode_lists([["a", "x"]], handle_unknown="ignore")
        assert vocabulary.decode_lists(lists) == [["a"]]


class TestTasksAcceptNames:
    NAMES = ("cat", "dog", "fish")

    @given(st.lists(st.sampled_from(NAMES) | st.none(), min_size=1))
    def test_multiclass(self, names):
        task = ls.Multiclass(3, class_names=self.NAMES)
        if any(names):
            assert task.decode(task.encode(names)) == names

    @given(st.lists(st.sampled_from(NAMES[:2]) | st.none(), min_size=1))
    def test_binary(self, names):
        task = ls.Binary(class_names=self.NAMES[:2])
        if any(names):
            assert task.decode(task.encode(names)) == names

    @given(st.lists(st.none() | st.sets(st.sampled_from(NAMES)), min_size=1))
    def test_multilabel(self, rows):
        task = ls.Multilabel(3, class_names=self.NAMES)
        if all(row is None for row in rows):
            return
        decoded = task.decode(task.encode(rows))
        assert [None if row is None else set(row) for row in decoded] == rows

    @pytest.mark.parametrize("form", [list, tuple, np.array, pl.Series], ids=lambda form: form.__name__)
    def test_in_any_container(self, form):
        task = ls.Multiclass(3, class_names=self.NAMES)
        assert task.encode(form(["dog", "cat", "fish"])).tolist() == [1, 0, 2]

    @pytest.mark.parametrize(
        ("task", "target", "error", "message"),
        [
            (ls.Multiclass(3), ["a"], TypeError, "declare class_names"),
            (
                ls.Multilabel(3),
                [["a"], ["b", "c"]],
                TypeError,
                "Row 0 of the target is ['a'], but targets must be numbers.",
            ),
            (
                ls.Multiclass(3, class_names=NAMES),
                [["dog"]],
                ValueError,
                "If rows have several labels, set task=multilabel.",
            ),
            (
                ls.Multilabel(3, class_names=NAMES),
                ["dog"],
                ValueError,
                "one name per row, but the task is multilabel",
            ),
            (
                ls.Multiclass(3, class_names=NAMES),
                ["cat", "dgo"],
                ValueError,
                "Row 1: label 'dgo' is not among the class_names. Did you mean 'dog'?",
            ),
            (ls.Multiclass(3, class_names=NAMES), [0, "dog"], TypeError, "Row 1 of the target is 'dog'"),
        ],
    )
    def test_invalid_names(self, task, target, error, message):
        with pytest.raises(error, match=re.escape(message)):
            task.encode(target)


def test_label_form():
    assert label_form(["a"]) == "names"
    assert label_form([None, NAN, "a"]) == "names"
    assert label_form([[], ["a"]]) == label_form([{"a"}]) == "lists"
    assert label_form([[], []]) == label_form([None, []]) == "lists"
    for numbers in ([1, 2], [[1], [0]], np.zeros(3), np.array("a"), [], [None], 3, "abc", {"a"}):
        assert label_form(numbers) is None


@given(st.lists(st.integers(-999, 999) | st.floats(-9, 9)))
def test_strings_that_are_numbers_are_sorted_as_numbers(numbers):
    ordered = sorted_values([str(number) for number in numbers])
    assert [float(text) for text in ordered] == sorted(float(number) for number in numbers)


@pytest.mark.parametrize("text", ["nan", "inf", "1_000", "x", "", None])
def test_texts_that_are_not_numbers(text):
    assert as_number(text) is None


@pytest.mark.parametrize("text", ["0\x1f", "\x1c7", "1.5\x1d"])
def test_text_with_control_characters_is_not_a_number(text):
    assert as_number(text) is None
    assert ls.Vocabulary.fit([text, "a"]).encode([text, "a"]).tolist() in ([0, 1], [1, 0])
