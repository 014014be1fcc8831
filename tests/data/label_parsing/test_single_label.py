import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_cases import NAN, labels_of

import lossselect as ls
from lossselect.data.label_parsing.single_label import LabelOptions
from lossselect.tasks.registry import make_task


class TestLabelsOfOneClassARow:
    @pytest.mark.parametrize(
        ("column", "options", "names", "values"),
        [
            (["b", "a", "b", "a"], {}, ("a", "b"), [1, 0, 1, 0]),
            (["10", "2", "10", "2"], {}, ("2", "10"), [1, 0, 1, 0]),
            ([5, 1, 5, 2, 1], {}, ("1", "2", "5"), [2, 0, 2, 1, 0]),
            ([" a", "a ", "b", "b"], {}, ("a", "b"), [0, 0, 1, 1]),
            (["a", None, "b", "a"], {}, ("a", "b"), [0, NAN, 1, 0]),
            ([1.0, NAN, 2.0, 2.0], {}, ("1", "2"), [0, NAN, 1, 1]),
            (["NA", "null", "None", "NA"], {}, ("NA", "None", "null"), [0, 2, 1, 0]),
            (["a", "?", "b", "a"], {"missing": ("?",)}, ("a", "b"), [0, NAN, 1, 0]),
            ([0, -1, 1, 0, 2], {"missing": (-1,)}, ("0", "1", "2"), [0, NAN, 1, 0, 2]),
            (["0", "-1", "1", "0", "2"], {"missing": (-1,)}, ("0", "1", "2"), [0, NAN, 1, 0, 2]),
            ([-1, 1, 1], {"class_names": ["-1", "1"]}, ("-1", "1"), [0, 1, 1]),
            ([0, 1, 1], {"class_names": ["no", "yes", "maybe"]}, ("no", "yes", "maybe"), [0, 1, 1]),
            (["b", "a", "a"], {"class_names": ["b", "c", "a"]}, ("b", "c", "a"), [0, 2, 2]),
            ([True, False, True], {}, ("False", "True"), [1, 0, 1]),
        ],
        ids=str,
    )
    def test_multiclass(self, column, options, names, values):
        labels = labels_of(column, **options)
        assert labels.class_names == names
        np.testing.assert_array_equal(labels.values, values)

    @pytest.mark.parametrize(
        ("column", "options", "names", "values"),
        [
            ([0, 1, 1], {}, ("0", "1"), [0, 1, 1]),
            (["0", "1", "1"], {}, ("0", "1"), [0, 1, 1]),
            ([True, False], {}, ("False", "True"), [1, 0]),
            (["true", "false"], {}, ("false", "true"), [1, 0]),
            (["Yes", "No", None], {}, ("No", "Yes"), [1, 0, NAN]),
            (["ham", "spam"], {"positive": "spam"}, ("ham", "spam"), [0, 1]),
            (["ham", "spam"], {"positive": "ham"}, ("spam", "ham"), [1, 0]),
            (["ham", "spam"], {"class_names": ["ham", "spam"]}, ("ham", "spam"), [0, 1]),
            ([1, 2, 2], {"positive": 2}, ("1", "2"), [0, 1, 1]),
            (["1", "2"], {"positive": 1}, ("2", "1"), [1, 0]),
            ([-1, 1], {"positive": 1}, ("-1", "1"), [0, 1]),
            ([0, 255], {"positive": 255, "class_names": ["dark", "light"]}, ("dark", "light"), [0, 1]),
            ([0, 1, -1], {"missing": (-1,)}, ("0", "1"), [0, 1, NAN]),
            ([0.2, 1.0, 0.0], {}, ("0", "1"), [0.2, 1, 0]),
            (["0.2", "1", ""], {}, ("0", "1"), [0.2, 1, NAN]),
            ([0.0, 1.0, NAN], {}, ("0", "1"), [0, 1, NAN]),
        ],
        ids=str,
    )
    def test_binary(self, column, options, names, values):
        labels = labels_of(column, "binary", **options)
        assert labels.class_names == names
        np.testing.assert_array_equal(labels.values, values)

    @pytest.mark.parametrize(
        ("task", "column", "options", "message"),
        [
            (
                "binary",
                [1, 2, 2],
                {},
                "Column 'y' holds 1 and 2: which is the positive class? Say data.positive=2 or",
            ),
            (
                "binary",
                [-1, 1],
                {},
                "If -1 marks missing labels, say data.missing=-1; if it means negative, data.positive=1.",
            ),
            (
                "binary",
                [0, 255],
                {},
                "which is the positive class? Say data.positive=255 or data.positive=0.",
            ),
            ("binary", ["ham", "spam"], {}, "Say data.positive=spam or data.positive=ham."),
            ("binary", [0, 1, -1], {}, "holds 3: -1, 0, 1. If -1 marks missing labels: data.missing=-1."),
            ("binary", ["a", "b", "c"], {}, "needs two classes, but column 'y' holds 3: a, b, c."),
            ("binary", [1, 1], {}, "All labels of column 'y' are 1: there is nothing to tell apart."),
            (
                "binary",
                ["ham", "spam"],
                {"positive": "spma"},
                "data.positive=spma is not among the labels of column",
            ),
            ("binary", [0.2, 1.5], {}, "Column 'y' holds 0.2 and 1.5: which is the positive class?"),
            (
                "binary",
                ["a", "b"],
                {"positive": "a", "class_names": ["x"]},
                "Binary requires 2 class_names, got 1: x.",
            ),
            (
                "multiclass",
                [0.5, 1.5, 2.0],
                {},
                "Row 0 of column 'y' is 0.5: a quantity, not one of several classes.",
            ),
            ("multiclass", ["1", "2.5", "1"], {}, "Row 1 of column 'y' is 2.5: a quantity"),
            ("multiclass", ["1", "2.5", "1"], {}, "if they are grades, say +task.class_names=[1,2.5]."),
            ("multiclass", ["0", "1", "null", "1"], {}, "say \"data.missing='null'\""),
            ("binary", ["<$50K", "$100K"], {}, "Say 'data.positive=\"<$50K\"' or"),
            (
                "multiclass",
                [0, 1, -1, 1],
                {},
                "Row 2 of column 'y' has label -1. If that marks a missing label, say data.missing=-1;",
            ),
            ("multiclass", ["1", "x", "1", "2"], {}, "holds numbers and words: '1' in row 0, 'x' in row 1."),
            (
                "multiclass",
                ["a", "a"],
                {},
                "All labels of column 'y' are 'a': there is nothing to tell apart.",
            ),
            (
                "multiclass",
                ["a", "b", "c"],
                {},
                "Each of the 3 labels of column 'y' has one row, as an identifier has",
            ),
            (
                "multiclass",
                [None, None],
                {},
                "All labels of column 'y' are missing: there is nothing to learn from.",
            ),
            ("multiclass", ["", None], {}, "All labels of column 'y' are missing"),
            ("multiclass", ["?", "?"], {"missing": ("?",)}, "All labels of column 'y' are missing"),
            (
                "multiclass",
                ["a", "b", "b"],
                {"class_names": ["a", "x"]},
                "Row 1 of column 'y': label 'b' is not among the class_names: a, x. Name it too, or mark it as",
            ),
            ("multilabel", [[["b"]], [["c"]]], {}, "Row 0 of column 'y' has the list ['b'] in"),
            ("multilabel", ['["b"]', '[{"n": "b"}]'], {}, "Row 1 of column 'y' has the dict {'n': 'b'} in"),
            ("multiclass", ['[{"n": "b"}]'], {}, "Column 'y' has lists of Struct({'n': String}); labels are"),
            (
                "multilabel",
                ["a", "b", "b"],
                {},
                "Column 'y' holds one label a row, such as 'a'. For task=multilabel give",
            ),
            ("auto", ["a", "b"], {}, "Say data.positive=b or data.positive=a."),
            (
                "auto",
                range(30),
                {},
                "There are 30 distinct integers, 0 to 29, which may be classes or a quantity.",
            ),
            ("auto", [0.5, 3.5, 9.1], {}, "look like a quantity, not like classes."),
            (
                "auto",
                ["a|b", "b|c", "a|c", "a|b|c"],
                {},
                "holds labels such as 'a|b'. If these are several, say task=multilabel \"data.delimiter='|'\". If not",
            ),
            (
                "multiclass",
                pl.Series("y", ["2024-01-31"]).str.to_date(),
                {},
                "Column 'y' is of type Date; labels are",
            ),
            ("bianry", [0, 1], {}, "Unknown task 'bianry'. Did you mean 'binary'?"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_refuses(self, task, column, options, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            labels_of(column, task, **options)

    @pytest.mark.parametrize(
        ("column", "options", "names", "values"),
        [
            (["no", "yes"], {"class_names": ["yes", "no"]}, ("yes", "no"), [1, 0]),
            (["no", "yes"], {"class_names": ["No", "Yes"]}, ("No", "Yes"), [0, 1]),
            (["true", "false"], {"class_names": ["true", "false"]}, ("true", "false"), [0, 1]),
            ([0, 1], {"class_names": ["neg", "pos"]}, ("neg", "pos"), [0, 1]),
            ([0, 1], {"class_names": ["neg", "pos"], "positive": 0}, ("pos", "neg"), [1, 0]),
            ([1.0, 0.0], {"positive": 1}, ("0", "1"), [1, 0]),
            (["1.0", "0.0"], {"positive": 1}, ("0.0", "1.0"), [1, 0]),
        ],
        ids=str,
    )
    def test_binary_names_are_never_swapped(self, column, options, names, values):
        labels = labels_of(column, "binary", **options)
        assert labels.class_names == names
        assert labels.values.tolist() == values

    @pytest.mark.parametrize(
        ("column", "options", "message"),
        [
            (
                ["no", "yes"],
                {"class_names": ["yes", "maybe"]},
                "class_names=['yes', 'maybe'] are not the labels of",
            ),
            (
                ["ham", "spam"],
                {"class_names": ["spam", "junk"], "positive": "spam"},
                "are not the labels of column 'y'",
            ),
            (["no", "yes"], {"class_names": ["yes", "no"], "positive": "yes"}, "but data.positive=yes."),
            (["ham", "spam"], {"class_names": ["a", "b"]}, "which is the positive class?"),
        ],
        ids=str,
    )
    def test_binary_names_that_contradict(self, column, options, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            labels_of(column, "binary", **options)

    def test_a_name_that_is_given_twice(self):
        with pytest.raises(ValueError, match="Column 'y': Label 'a' occurs twice"):
            labels_of(["a", "b", "a"], class_names=["a", "b", "a"])

    def test_the_same_labels_in_a_file_of_another_type(self):
        train = labels_of(["0", "1", "1", "0"])
        np.testing.assert_array_equal(labels_of([1, 0, None], fitted=train).values, [1, 0, NAN])
        train = labels_of([5, 7, 7, 5])
        np.testing.assert_array_equal(labels_of(["7", "5"], fitted=train).values, [1, 0])

    def test_names_for_numbers_in_text(self):
        labels = labels_of(["0", "2", "1", "2"], class_names=["a", "b", "c"])
        assert labels.class_names == ("a", "b", "c")
        assert labels.values.tolist() == [0, 2, 1, 2]

    @pytest.mark.parametrize(
        "column", [["[red]", "[blue]", "[red]"], ["['a']", "['a', 'b']", "['a']"]], ids=str
    )
    def test_labels_in_brackets_may_be_lists(self, column):
        with pytest.warns(ls.LossSelectWarning, match=r"labels in brackets, such as .*\[several_labels\]"):
            assert labels_of(column).class_names == tuple(sorted(set(column)))
        with pytest.raises(ValueError, match="no JSON list such as"):
            labels_of(column, "auto")

    @pytest.mark.parametrize(
        ("train", "other"),
        [
            (["1", "2", "1", "2"], ["1.0", "2.0"]),
            ([1, 2, 1, 2], ["1.00", "2.0"]),
            (["1.0", "2.0", "2.0"], [1, 2]),
        ],
        ids=str,
    )
    def test_whole_numbers_may_be_written_as_floats_in_another_file(self, train, other):
        np.testing.assert_array_equal(labels_of(other, fitted=labels_of(train)).values, [0, 1])

    def test_a_version_is_no_whole_number(self):
        train = labels_of(["v1", "v2", "v2", "v1"])
        with pytest.raises(ValueError, match=r"Row 1 of column 'y': label 'v1\.0' was never seen"):
            labels_of(["v2", "v1.0"], fitted=train)

    def test_labels_of_very_many_digits(self):
        for digits in (400, 5000):
            labels = labels_of(["9" * digits, "a", "a"], "binary", positive="a")
            assert labels.values.tolist() == [0, 1, 1]

    def test_a_file_of_other_labels_altogether(self):
        train = labels_of(["<=50K", ">50K"], "binary", positive=">50K")
        with pytest.raises(
            ValueError, match=r"None of the labels .* is one of training's: <=50K, >50K\. Write them"
        ):
            labels_of(["<=50K.", ">50K."], "binary", fitted=train)

    def test_long_whole_numbers_are_told_apart(self):
        big = 10**17
        labels = labels_of([str(big + i) for i in (0, 2, 4, 2, 4)], missing=(big,))
        assert labels.class_names == (str(big + 2), str(big + 4))

    @pytest.mark.parametrize("mark", ["?", "N/A", "-"])
    def test_a_label_that_may_be_a_mark(self, mark):
        column = ["a", "b", mark, "a"]
        with pytest.warns(
            ls.LossSelectWarning,
            match=r"has a class .*If that marks a missing label.*\[likely_missing_marker\]",
        ):
            labels_of(column)
        with pytest.raises(ValueError, match=r"marks a missing label, say .*\. If not, say task=multiclass"):
            labels_of(column, "auto")
        with pytest.raises(ValueError, match=r"If .* marks missing labels: "):
            labels_of(["no", "yes", mark], "binary")

    def test_nan_as_a_mark(self):
        labels = labels_of(["NaN", "a", "b", "a"], missing=(NAN,))
        assert labels.class_names == ("a", "b")

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            (["Cat", "cat", "cat"], "'Cat' and 'cat' in column 'y' are two classes."),
            (["7", "007", "7"], "'007' and '7' in column 'y' are two classes."),
            (["caf\u00e9", "cafe\u0301", "x", "x"], "in column 'y' are two classes."),
            (["a b", "a  b", "x", "x"], "in column 'y' are two classes."),
            (["a", "a\u200b", "x", "x"], "in column 'y' are two classes."),
            (
                ["a;b", "b;c", "a;c", "a;b"],
                "If these are several, say task=multilabel \"data.delimiter=';'\".",
            ),
        ],
    )
    def test_labels_that_are_alike_are_said(self, column, message):
        with pytest.warns(ls.LossSelectWarning, match=re.escape(message)):
            labels_of(column)

    @pytest.mark.parametrize(
        ("column", "options", "task", "reason"),
        [
            (["a", "b", "c", "a"], {}, "multiclass", "column 'y' holds 3 distinct labels: a, b, c"),
            (["0", "1", "1"], {}, "binary", "column 'y' holds 2 distinct values: 0, 1"),
            ([3, 1, 2, 2], {}, "multiclass", "column 'y' holds 3 distinct integers, 1 to 3"),
            (["ham", "spam"], {"positive": "spam"}, "binary", "ham, spam, of which 'spam' is positive"),
            (['["a"]', "[]"], {}, "multilabel", "column 'y' holds lists"),
            (["a|b", ""], {"delimiter": "|", "empty": "negative"}, "multilabel", "column 'y' holds lists"),
        ],
        ids=str,
    )
    def test_auto(self, column, options, task, reason):
        labels = labels_of(column, "auto", **options)
        assert labels.task == task
        assert reason in labels.reason

    @pytest.mark.parametrize(
        ("task", "options", "message"),
        [
            ("multiclass", {"positive": "a"}, "data.positive has no effect on task=multiclass"),
            ("multilabel", {"empty": "missing"}, "data.empty is for cells of delimited labels"),
            ("multiclass", {"handle_unknown": "drop"}, "Unknown data.handle_unknown 'drop'"),
        ],
    )
    def test_options_without_effect(self, task, options, message):
        with pytest.raises(ValueError, match=message):
            LabelOptions(task, **options)

    def test_soft_labels_and_a_file_of_hard_ones(self):
        train = labels_of([0.2, 0.9, 0.5], "binary")
        np.testing.assert_array_equal(labels_of([1, 1], "binary", fitted=train).values, [1, 1])

    def test_classes_are_those_of_the_train_file(self):
        train = labels_of(["b", "c", "b"])
        other = labels_of(["c", "b"], fitted=train)
        assert other.values.tolist() == [1, 0]
        with pytest.raises(ValueError, match=r"Row 1 of column 'y': label 'a' was never seen in training\."):
            labels_of(["c", "a"], fitted=train)
        with pytest.warns(
            ls.LossSelectWarning, match=r"2 of 3 labels of column 'y' were not seen in training.*: 'a' \(2\)"
        ):
            other = labels_of(["a", "c", "a"], fitted=train, handle_unknown="ignore")
        np.testing.assert_array_equal(other.values, [NAN, 1, NAN])

    def test_null_is_a_missing_row_of_lists(self):
        train = labels_of(['["a"]', '["a", "b"]'], "multilabel")
        other = labels_of(["null", '["b"]'], "multilabel", fitted=train)
        assert train.vocabulary.decode_lists(other.values) == [None, ["b"]]

    @given(st.lists(st.sampled_from(["x", "y", "z", "10", "9", "é", "a b"]) | st.none(), min_size=4))
    def test_decoding_gives_the_labels_again(self, column):
        known = [label for label in column if label is not None]
        if len(set(known)) < 2 or max(known.count(label) for label in known) == 1:
            return
        with ls.ignore_warnings("similar_labels"):
            try:
                labels = labels_of(column)
            except ValueError as error:
                assert "numbers and words" in str(error)  # noqa: PT017
                return
        task = make_task("multiclass", class_names=labels.class_names)
        assert task.decode(task.encode(labels.values)) == column
