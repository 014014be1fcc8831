import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_cases import NAN, labels_of

import lossselect as ls
from lossselect.data.label_parsing.single_label import LabelOptions
from lossselect.exceptions import UnseenLabelError
from lossselect.tasks.registry import make_task


class TestSingleLabels:
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
                "contains 1 and 2, and the positive class is unknown. Set data.positive=2 or",
            ),
            (
                "binary",
                [-1, 1],
                {},
                "If -1 marks missing labels, set data.missing=-1. If it means negative, set data.positive=1.",
            ),
            (
                "binary",
                [0, 255],
                {},
                "the positive class is unknown. Set data.positive=255 or data.positive=0.",
            ),
            ("binary", ["ham", "spam"], {}, "Set data.positive=spam or data.positive=ham."),
            ("binary", [0, 1, -1], {}, "3: -1, 0, 1. If -1 marks missing labels, set data.missing=-1."),
            ("binary", ["a", "b", "c"], {}, "requires two classes, but column 'y' contains 3: a, b, c."),
            (
                "binary",
                [1, 1],
                {},
                "All labels of column 'y' are 1, but training requires at least two classes.",
            ),
            (
                "binary",
                ["ham", "spam"],
                {"positive": "spma"},
                "data.positive=spma is not among the labels of column",
            ),
            ("binary", [0.2, 1.5], {}, "contains 0.2 and 1.5, and the positive class is unknown."),
            (
                "binary",
                ["a", "b"],
                {"positive": "a", "class_names": ["x"]},
                "class_names, got 1: x.",
            ),
            (
                "multiclass",
                [0.5, 1.5, 2.0],
                {},
                "Row 0 of column 'y' is 0.5, which looks like a quantity, not a class.",
            ),
            ("multiclass", ["1", "2.5", "1"], {}, "Row 1 of column 'y' is 2.5, which looks like a quantity"),
            ("multiclass", ["1", "2.5", "1"], {}, "if they are grades, set +task.class_names=[1,2.5]."),
            ("multiclass", ["0", "1", "null", "1"], {}, "set \"data.missing='null'\""),
            ("binary", ["<$50K", "$100K"], {}, "Set 'data.positive=\"<$50K\"' or"),
            (
                "multiclass",
                [0, 1, -1, 1],
                {},
                "Row 2 of column 'y' has label -1. If it marks a missing label, set data.missing=-1.",
            ),
            (
                "multiclass",
                ["1", "x", "1", "2"],
                {},
                "Row 1 of column 'y' is 'x', but other labels are numbers, such as '1'.",
            ),
            (
                "multiclass",
                ["a", "a"],
                {},
                "All labels of column 'y' are 'a', but training requires at least two classes.",
            ),
            (
                "multiclass",
                ["a", "b", "c"],
                {},
                "Each of the 3 labels of column 'y' occurs in only one row",
            ),
            (
                "multiclass",
                [None, None],
                {},
                "All labels of column 'y' are missing. Add labels",
            ),
            ("multiclass", ["", None], {}, "All labels of column 'y' are missing"),
            ("multiclass", ["?", "?"], {"missing": ("?",)}, "All labels of column 'y' are missing"),
            (
                "multiclass",
                ["a", "b", "b"],
                {"class_names": ["a", "x"]},
                ". Add it to class_names, or to data.missing if it marks a missing label.",
            ),
            ("multilabel", [[["b"]], [["c"]]], {}, "Row 0 of column 'y'"),
            ("multilabel", ['["b"]', '[{"n": "b"}]'], {}, "Row 1 of column 'y'"),
            (
                "multiclass",
                ['[{"n": "b"}]'],
                {},
                "Row 0 of column 'y' contains {'n': 'b'}, but labels must be text",
            ),
            (
                "multilabel",
                ["a|b", "b", "a"],
                {},
                "Column 'y' contains cells such as 'a|b'. If these are several labels, set \"data.delimiter='|'\".",
            ),
            (
                "multilabel",
                ["a", "b", "b"],
                {},
                "Column 'y' contains one label per row, such as 'a'. For task=multilabel, set",
            ),
            ("auto", ["a", "b"], {}, "Set data.positive=b or data.positive=a."),
            ("auto", range(30), {}, "To predict another column, set data.target=COLUMN."),
            ("auto", [0.5, 3.5, 9.1], {}, "To predict another column, set data.target=COLUMN."),
            (
                "auto",
                ["a|b", "b|c", "a|c", "a|b|c"],
                {},
                "If these are several labels, set task=multilabel \"data.delimiter='|'\". If not",
            ),
            (
                "multiclass",
                pl.Series("y", ["2024-01-31"]).str.to_date(),
                {},
                "Column 'y' is of type Date, but labels must be",
            ),
            ("bianry", [0, 1], {}, "task 'bianry'. Did you mean 'binary'?"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_invalid_labels(self, task, column, options, message):
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
            ([1, 0], {"class_names": ["1.0", "0.0"]}, ("1.0", "0.0"), [0, 1]),
            ([True, False], {"class_names": ["False", "True"]}, ("False", "True"), [1, 0]),
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
                "class_names=['yes', 'maybe'] must be the labels of column 'y'",
            ),
            (
                ["ham", "spam"],
                {"class_names": ["spam", "junk"], "positive": "spam"},
                "must be the labels of column 'y'",
            ),
            (["no", "yes"], {"class_names": ["yes", "no"], "positive": "yes"}, "but data.positive=yes."),
            (["ham", "spam"], {"class_names": ["a", "b"]}, "the positive class is unknown"),
        ],
        ids=str,
    )
    def test_binary_names_that_contradict(self, column, options, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            labels_of(column, "binary", **options)

    def test_a_repeated_class_name(self):
        with pytest.raises(ValueError, match=r"Column 'y': .*'a'"):
            labels_of(["a", "b", "a"], class_names=["a", "b", "a"])

    def test_the_same_labels_in_a_file_of_another_type(self):
        train = labels_of(["0", "1", "1", "0"])
        np.testing.assert_array_equal(labels_of([1, 0, None], fitted=train).values, [1, 0, NAN])
        train = labels_of([5, 7, 7, 5])
        np.testing.assert_array_equal(labels_of(["7", "5"], fitted=train).values, [1, 0])

    @pytest.mark.parametrize("cells", [[0, 1, 2, 2], ["0", "1", "2", "2"], [0.0, 1.0, 2.0, 2.0]])
    def test_numbers_in_another_notation_name_the_same_label(self, cells):
        labels = labels_of(cells, class_names=["2.0", "0.0", "1.0"])
        assert labels.class_names == ("2.0", "0.0", "1.0")
        assert labels.values.tolist() == [1, 2, 0, 0]

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
        with ls.ignore_warnings("looks_multiclass"):
            assert labels_of(column, "auto").task == "multilabel"

    @pytest.mark.parametrize(
        ("train", "other"),
        [
            (["1", "2", "1", "2"], ["1.0", "2.0"]),
            ([1, 2, 1, 2], ["1.00", "2.0"]),
            (["1.0", "2.0", "2.0"], [1, 2]),
        ],
        ids=str,
    )
    def test_integers_may_be_written_as_floats_in_another_file(self, train, other):
        np.testing.assert_array_equal(labels_of(other, fitted=labels_of(train)).values, [0, 1])

    def test_a_version_is_not_an_integer(self):
        train = labels_of(["v1", "v2", "v2", "v1"])
        with pytest.raises(UnseenLabelError, match=r"Row 1 of column 'y': label 'v1\.0'"):
            labels_of(["v2", "v1.0"], fitted=train)

    def test_labels_of_very_many_digits(self):
        for digits in (400, 5000):
            labels = labels_of(["9" * digits, "a", "a"], "binary", positive="a")
            assert labels.values.tolist() == [0, 1, 1]

    def test_a_file_with_only_unknown_labels(self):
        train = labels_of(["<=50K", ">50K"], "binary", positive=">50K")
        with pytest.raises(ValueError, match=r"occurs in the training labels \(<=50K, >50K\)\. Write the"):
            labels_of(["<=50K.", ">50K."], "binary", fitted=train)

    def test_large_integers_are_distinguished(self):
        big = 10**17
        labels = labels_of([str(big + i) for i in (0, 2, 4, 2, 4)], missing=(big,))
        assert labels.class_names == (str(big + 2), str(big + 4))

    @pytest.mark.parametrize("marker", ["?", "N/A", "-"])
    def test_a_label_that_may_be_a_missing_marker(self, marker):
        column = ["a", "b", marker, "a"]
        with pytest.warns(
            ls.LossSelectWarning,
            match=r"has a class .*If it marks a missing label.*\[likely_missing_marker\]",
        ):
            labels_of(column)
        with pytest.raises(ValueError, match=r"marks a missing label, set .*\. If not, set task=multiclass"):
            labels_of(column, "auto")
        with pytest.raises(ValueError, match=r"If .* marks missing labels, set "):
            labels_of(["no", "yes", marker], "binary")

    @pytest.mark.parametrize(
        ("cells", "marker", "expected"),
        [
            ([True, False, None, True], "true", [None, False, None, None]),
            ([True, False, True, None], True, [None, False, None, None]),
            (["true", "1", "2", "1"], True, [None, "1", "2", "1"]),
            ([1, 2, 3, 1], True, [1, 2, 3, 1]),
            ([False, True, False], 0, [False, True, False]),
        ],
    )
    def test_true_is_not_the_number_1(self, cells, marker, expected):
        column = LabelOptions("auto", missing=(marker,)).replace_missing(pl.Series("y", cells))
        assert column.to_list() == expected

    def test_nan_as_a_missing_marker(self):
        labels = labels_of(["NaN", "a", "b", "a"], missing=(NAN,))
        assert labels.class_names == ("a", "b")

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            (["Cat", "cat", "cat"], "'Cat' and 'cat' in column 'y' count as two classes."),
            (["7", "007", "7"], "'007' and '7' in column 'y' count as two classes."),
            (["caf\u00e9", "cafe\u0301", "x", "x"], "in column 'y' count as two classes."),
            (["a b", "a  b", "x", "x"], "in column 'y' count as two classes."),
            (["a", "a\u200b", "x", "x"], "in column 'y' count as two classes."),
            (
                ["a;b", "b;c", "a;c", "a;b"],
                "If these are several labels, set task=multilabel \"data.delimiter=';'\".",
            ),
        ],
    )
    def test_similar_labels_warn(self, column, message):
        with pytest.warns(ls.LossSelectWarning, match=re.escape(message)):
            labels_of(column)

    @pytest.mark.parametrize(
        ("column", "options", "task", "reason"),
        [
            (["a", "b", "c", "a"], {}, "multiclass", "column 'y' contains 3 distinct labels: a, b, c"),
            (["0", "1", "1"], {}, "binary", "column 'y' contains 2 distinct values: 0, 1"),
            ([3, 1, 2, 2], {}, "multiclass", "column 'y' contains 3 distinct "),
            (["ham", "spam"], {"positive": "spam"}, "binary", "ham, spam, and 'spam' is positive"),
            (['["a"]', "[]"], {}, "multilabel", "column 'y' contains lists"),
            (["a|b", ""], {"delimiter": "|", "empty": "negative"}, "multilabel", "column 'y' contains lists"),
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
            ("multiclass", {"positive": "a"}, "data.positive cannot be combined with task=multiclass"),
            ("multilabel", {"empty": "none"}, "data.empty='none' is not valid"),
            ("multiclass", {"handle_unknown": "drop"}, "data.handle_unknown='drop' is not valid"),
        ],
    )
    def test_invalid_options(self, task, options, message):
        with pytest.raises(ValueError, match=message):
            LabelOptions(task, **options)

    def test_soft_labels_and_a_file_of_hard_ones(self):
        train = labels_of([0.2, 0.9, 0.5], "binary")
        np.testing.assert_array_equal(labels_of([1, 1], "binary", fitted=train).values, [1, 1])

    def test_other_files_use_the_training_classes(self):
        train = labels_of(["b", "c", "b"])
        other = labels_of(["c", "b"], fitted=train)
        assert other.values.tolist() == [1, 0]
        with pytest.raises(UnseenLabelError, match=r"Row 1 of column 'y': label 'a' "):
            labels_of(["c", "a"], fitted=train)
        with pytest.warns(ls.LossSelectWarning, match=r"2 of 3 labels of column 'y'.*'a' \(2\)"):
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
                assert "other labels are numbers" in str(error)  # noqa: PT017
                return
        task = make_task("multiclass", class_names=labels.class_names)
        assert task.decode(task.encode(labels.values)) == column
