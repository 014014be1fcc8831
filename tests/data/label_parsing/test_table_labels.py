import re

import numpy as np
import polars as pl
import pytest
from table_cases import NAN, labels_of

from lossselect.data.label_parsing.single_label import LabelOptions
from lossselect.data.label_parsing.table_labels import parse_label_columns


class TestSeveralLabels:
    ROWS = (["b", "a"], [], None, ["b"])

    @pytest.mark.parametrize(
        ("column", "options"),
        [
            (pl.Series("y", ROWS), {}),
            (['["b", "a", "b"]', "[]", None, '["b"]'], {}),
            (["b| a", "", "?", "b"], {"delimiter": "|", "empty": "negative", "missing": ("?",)}),
        ],
        ids=["lists", "JSON", "delimited"],
    )
    def test_lists(self, column, options):
        labels = labels_of(column, "multilabel", **options)
        assert labels.class_names == ("a", "b")
        assert labels.vocabulary.decode_lists(labels.values) == [["a", "b"], [], None, ["b"]]

    def test_lists_of_one_label_may_be_classes(self):
        labels = labels_of(['["b"]', '["a"]', None, '["b"]'], "multiclass")
        assert labels.class_names == ("a", "b")
        np.testing.assert_array_equal(labels.values, [1, 0, NAN, 1])

    def test_columns_are_put_in_the_order_of_class_names(self):
        columns = [pl.Series("a", [1, 1, 0]), pl.Series("b", [0, 1, 0])]
        labels = labels_of(columns, "multilabel", class_names=["b", "a"])
        assert labels.values[0].tolist() == [0, 1]
        assert labels_of(columns, "multilabel", class_names=["x", "y"]).class_names == ("x", "y")
        with pytest.raises(ValueError, match="has only some names of the columns"):
            labels_of(columns, "multilabel", class_names=["b", "x"])

    def test_a_list_of_one_column_is_one_label(self):
        labels = parse_label_columns([pl.Series("a", [1, 0])], LabelOptions("multilabel"), listed=True)
        assert labels.values.tolist() == [[1], [0]]

    def test_missing_markers_in_lists(self):
        for column, options in (
            (["[1, 2]", "[-1]", "[2]", "NA"], {"missing": (-1.0, "NA")}),
            (["1|2", "-1", "2", "NA"], {"missing": (-1.0, "NA"), "delimiter": "|"}),
        ):
            labels = labels_of(column, "multilabel", **options)
            assert labels.class_names == ("1", "2")
            assert labels.values.missing.tolist() == [False, True, False, True]

    def test_empty_cells_need_a_declared_meaning(self):
        with pytest.raises(ValueError, match=r"Row 1 of column 'y' is empty\. Set data\.empty=negative"):
            labels_of(["a|b", None], "multilabel", delimiter="|")
        for empty, expected in (("missing", None), ("negative", [])):
            labels = labels_of(["a|b", None], "multilabel", delimiter="|", empty=empty)
            assert labels.vocabulary.decode_lists(labels.values)[1] == expected

    def test_columns_of_zeros_and_ones(self):
        columns = [
            pl.Series("b", ["1", "0", None]),
            pl.Series("a", ["true", "false", "1"]),
            pl.Series("c", [0.0, 0.5, 1.0]),
        ]
        labels = labels_of(columns, "multilabel")
        assert labels.class_names == ("b", "a", "c")
        np.testing.assert_array_equal(labels.values, [[1, 1, 0], [0, 0, 0.5], [NAN, 1, 1]])
        assert labels_of(columns, "auto").task == "multilabel"
        one_hot = [pl.Series("a", [1, 0]), pl.Series("b", [0, 1])]
        assert labels_of(one_hot, "auto").task == "multiclass"

    @pytest.mark.parametrize(
        ("column", "task", "options", "message"),
        [
            (
                ['["a"]', "[]"],
                "multiclass",
                {},
                "contains lists of labels. Row 1 has 0 labels, but task=multiclass",
            ),
            (
                ["[1, 2]", "[-1]"],
                "multilabel",
                {},
                "Row 1 of column 'y' has label -1. If it marks a missing label",
            ),
            (
                ["[1, 2]", "[-1, 2]"],
                "multilabel",
                {"missing": (-1,)},
                "Row 1 of column 'y' contains labels and a marker",
            ),
            (['["a", ""]', "[]"], "multilabel", {}, "Row 0 of column 'y' contains an empty label"),
            (
                ["[1, 0, 1]", "[0, 1, 0]"],
                "multilabel",
                {},
                "contains rows of 3 zeros and ones, such as [1, 0, 1], but",
            ),
            (
                [pl.Series("a", [1, 2]), pl.Series("b", [0, 1])],
                "multilabel",
                {},
                "Row 1, label 'a'",
            ),
            (
                [pl.Series("a", [[1]]), pl.Series("b", [0])],
                "multilabel",
                {},
                "Column 'a' is of type List(Int64), but each of",
            ),
            (["[]", "[]"], "multilabel", {}, "Column 'y': "),
            (["a|b"], "multilabel", {"delimiter": ""}, "must be a non-empty string such as '|', got ''."),
            (
                ["a|b", ""],
                "multilabel",
                {"delimiter": "|", "empty": "none"},
                "data.empty='none' is not valid. Choose one of: negative, missing.",
            ),
            (
                [pl.Series("a", [1]), pl.Series("b", [0])],
                "binary",
                {},
                "task=binary requires one label column, but data.target has 2: a, b.",
            ),
            (
                [pl.Series("a", [1]), pl.Series("b", [0])],
                "multilabel",
                {"delimiter": "|"},
                "data.delimiter applies to lists of labels, but data.target is 2 columns",
            ),
            (
                [pl.Series("a", ["maybe"]), pl.Series("b", [0])],
                "multilabel",
                {},
                "Row 0 of column 'a' is 'maybe', but each of several target columns must contain 0 and 1",
            ),
            (
                [pl.Series("a", [1]), pl.Series("b", [0])],
                "multilabel",
                {"class_names": ["x"]},
                "requires 2 class_names, got 1",
            ),
            ([pl.Series("a", [None]), pl.Series("b", [None])], "multilabel", {}, "All labels are missing"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_invalid_labels(self, column, task, options, message):
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            labels_of(column, task, **options)
