"""Labels as people write them: lists separated by blanks, brackets, words for no label, columns of signs and words."""

import random
import re

import numpy as np
import polars as pl
import pytest
from table_cases import NAN, labels_of

import lossselect as ls
from lossselect.data.label_parsing.delimiters import find_delimiter
from lossselect.data.label_parsing.options import LabelOptions
from lossselect.data.label_parsing.table_labels import parse_label_columns
from lossselect.exceptions import ConfigError, DataError

TAGS = [
    "haze",
    "primary",
    "agriculture",
    "clear",
    "water",
    "road",
    "cultivation",
    "cloudy",
    "blooming",
    "conventional",
]


def sets_of_tags(count=150):
    rng = random.Random(0)
    return [" ".join(rng.sample(TAGS, rng.randint(1, 4))) for _ in range(count)]


def lists_of(labels):
    return labels.vocabulary.decode_lists(labels.values)


def columns(**cells):
    return [pl.Series(name, values) for name, values in cells.items()]


class TestBlanks:
    PLANTS = ("scab frog_eye_leaf_spot complex", "healthy", "scab", "complex")

    @pytest.mark.parametrize(
        "cells",
        [
            sets_of_tags(),
            PLANTS,
            ["16 0 25", "3 7", "7 1", "3 16"],
            ["1. 0. 1.", "0. 1. 1."],
            ["rust", "scab", "rust scab", "healthy"],
        ],
        ids=["tags", "plants", "numbers", "NumPy", "two"],
    )
    def test_lists_are_recognised(self, cells):
        cells = [*cells] * 2
        setting = re.escape("\"data.delimiter=' '\"")
        with pytest.warns(ls.LossSelectWarning, match=rf"{setting}.*\[several_labels\]"):
            labels_of(cells)
        for task in ("auto", "multilabel"):
            with pytest.raises(DataError, match=setting):
                labels_of(cells, task)

    @pytest.mark.parametrize(
        "names",
        [
            ["New York", "New Jersey", "Boston"],
            ["York", "New York", "New York City"],
            ["Iris setosa", "Iris virginica", "Iris versicolor"],
            ["very bad", "bad", "neutral", "good", "very good"],
            [
                *("strongly disagree", "disagree", "neither agree nor disagree", "agree", "strongly agree"),
                *("somewhat agree", "somewhat disagree"),
            ],
            ["Virginia", "West Virginia", "North Carolina", "South Carolina", "North Dakota", "South Dakota"],
            ["tiger", "tiger cat", "lion", "sea lion", "tiger shark"],
            ["black cat", "black dog", "white cat", "white dog", "cat", "dog"],
            ["small dark cat", "small dark dog", "large dark cat", "large dark dog", "small pale cat"],
            ["large dark cat", "large dark dog", "small dark cat", "cat", "dog"],
        ],
        ids=lambda names: names[0],
    )
    def test_names_with_blanks_are_classes(self, names):
        assert find_delimiter(names) is None
        assert labels_of(names * 2).class_names == tuple(sorted(names))

    def test_numbers_and_lists_of_numbers(self):
        for task in ("multiclass", "auto", "multilabel"):
            with pytest.raises(DataError, match=r"labels such as|cells such as .*data\.delimiter=' '"):
                labels_of(["16 0 25", "3", "7 1", "3"], task)

    def test_another_delimiter_comes_first(self):
        assert find_delimiter(["New York|Rome", "Rome", "New York"]) == "|"

    def test_a_list_in_each_row(self):
        """The warning precedes the error that each label occurs in only one row."""
        cells = [*dict.fromkeys(sets_of_tags())]
        with (
            pytest.warns(ls.LossSelectWarning, match="several_labels"),
            pytest.raises(DataError, match="occurs in only one row"),
        ):
            labels_of(cells)

    def test_paths_may_be_a_hierarchy(self):
        with pytest.raises(DataError, match=r"data\.hierarchy='/'"):
            labels_of(["animal/cat", "animal/dog", "plant"] * 2, "auto")


class TestBrackets:
    @pytest.mark.parametrize(
        "cells",
        [
            ["['a', 'b']", "[]", None, "['b']"],
            ["[a, b]", "[ ]", "", "[b]"],
            ["{a,b}", "{}", "null", "{b}"],
            ['["a", "b"]', "[]", None, "['b']"],
            ["{'b', 'a'}", "[]", None, "[b]"],
        ],
        ids=str,
    )
    @pytest.mark.parametrize("task", ["multilabel", "auto"])
    def test_no_delimiter_is_needed(self, cells, task):
        labels = labels_of(cells, task)
        assert lists_of(labels) == [["a", "b"], [], None, ["b"]]
        assert labels.task == "multilabel"

    def test_the_other_files_are_read_in_the_same_way(self):
        train = labels_of(["['a', 'b']", "['b']"], "multilabel")
        assert lists_of(labels_of(["{b}", '["a"]'], "multilabel", train)) == [["b"], ["a"]]
        with pytest.raises(DataError, match=r"Row 1 of column 'y' is 'b', but must be a list in brackets"):
            labels_of(["[b]", "b"], "multilabel", train)

    def test_empty_cells(self):
        cells = ["['a', 'b']", None, "['b']"]
        assert lists_of(labels_of(cells, "multilabel", empty="negative"))[1] == []
        assert lists_of(labels_of(["?", *cells], "multilabel", empty="negative", missing=("?",)))[0] is None
        rows = pl.Series("y", [["a"], None, ["a", "b"]])
        assert lists_of(labels_of([rows], "multilabel", empty="negative"))[1] == []

    @pytest.mark.parametrize("delimiter", [None, ","])
    @pytest.mark.parametrize("cell", ["['b', 'a'", "[b, a", "{b,a", "[['b'], 'a'", "[" * 5000])
    def test_an_unclosed_bracket(self, cell, delimiter):
        cells = [f"{cell[0]}a, b{ {'[': ']', '{': '}'}[cell[0]] }", cell]
        with pytest.raises(DataError, match=r"Row 1 of column 'y' is .* is never closed") as caught:
            labels_of(cells, "multilabel", delimiter=delimiter)
        assert caught.value.row == 1
        assert len(str(caught.value)) < 400

    @pytest.mark.parametrize("delimiter", [None, ","])
    def test_a_bracket_that_is_never_opened(self, delimiter):
        with pytest.raises(
            DataError, match=r"Row 1 of column 'y' is 'a, b\]', but the bracket .* never opened"
        ):
            labels_of(["[b]", "a, b]"], "multilabel", delimiter=delimiter)

    @pytest.mark.parametrize("task", ["auto", "multilabel"])
    def test_some_cells_without_brackets(self, task):
        with pytest.raises(
            DataError, match=r"Row 1 of column 'y' is 'a', but must be a list .* one notation"
        ):
            labels_of(["['a', 'b']", "a", "b"], task)
        with pytest.warns(ls.LossSelectWarning, match="several_labels"):
            labels_of(["['a', 'b']", "a", "b"] * 2)

    @pytest.mark.parametrize(("cell", "setting"), [("(a, b)", "','"), ("['a' 'b']", "' '")])
    def test_other_notations_need_a_delimiter(self, cell, setting):
        with pytest.raises(DataError, match=rf"data\.delimiter={setting}"):
            labels_of([cell] * 2, "multilabel")
        options = {"delimiter": setting[1:-1]}
        assert lists_of(labels_of([cell] * 2, "multilabel", **options)) == [["a", "b"]] * 2

    def test_a_bracket_in_quotes(self):
        assert lists_of(labels_of(["['a]', 'b']", "['b']"], "multilabel")) == [["a]", "b"], ["b"]]

    def test_intervals_and_remarks_are_classes(self):
        assert labels_of(["[18, 25)", "[25, 40)"] * 2).class_names == ("[18, 25)", "[25, 40)")
        assert labels_of(["[deleted]", "kept"] * 2).class_names == ("[deleted]", "kept")

    @pytest.mark.parametrize(
        ("cells", "setting"), [(["[a;b]", "[b;c]"], "';'"), (["[16 0 25]", "[3]"], "' '")]
    )
    def test_another_delimiter_in_brackets(self, cells, setting):
        with pytest.raises(DataError, match=f"If {setting} separates the labels, set .*delimiter={setting}"):
            labels_of(cells, "multilabel")

    def test_rows_of_zeros_and_ones(self):
        with pytest.raises(DataError, match="rows of 3 zeros and ones"):
            labels_of(["[1. 0. 1.]", "[0. 1. 1.]"], "multilabel", delimiter=" ")


class TestNoLabel:
    CELLS = ("No Finding", "a|b", "b", "No Finding")

    def test_it_is_not_a_class(self):
        labels = labels_of([*self.CELLS], "multilabel", delimiter="|", no_label=("No Finding",))
        assert lists_of(labels) == [[], ["a", "b"], ["b"], []]
        other = labels_of(
            ["No Finding", "b|a"], "multilabel", labels, delimiter="|", no_label=("No Finding",)
        )
        assert lists_of(other) == [[], ["a", "b"]]

    def test_several_words_in_lists(self):
        labels = labels_of(["['none']", "['a', 'b']", "[0]", "[]"], "auto", no_label=("none", 0))
        assert lists_of(labels) == [[], ["a", "b"], [], []]

    def test_with_another_label(self):
        with pytest.raises(
            DataError, match=r"Row 1 of column 'y' contains 'none', which means no label"
        ) as e:
            labels_of(["a|b", "none|a"], "multilabel", delimiter="|", no_label=("none",))
        assert e.value.row == 1

    def test_a_word_that_no_cell_has(self):
        with pytest.warns(ls.LossSelectWarning, match=r"label no finding, .*\[unmatched_no_label\]"):
            labels_of(
                ["a|b", "c", ""], "multilabel", delimiter="|", no_label=("no finding",), empty="negative"
            )

    @pytest.mark.parametrize(
        "word", ["No Finding", "none", "no_finding", "No-Label", r"\(no genres listed\)", "no pathology"]
    )
    def test_well_known_words_warn(self, word):
        with pytest.warns(
            ls.LossSelectWarning, match=rf"{word}.* set \"?data.no_label=.*\[likely_no_label\]"
        ):
            labels_of([word.replace("\\", ""), "a|b"], "multilabel", delimiter="|")

    def test_other_words_do_not(self):
        for cells in (
            ["healthy", "a|b", "b"],
            ["no_finding" + "_" * 100_000 + "x", "a|b"],
            ["no parking", "a|b"],
            ["none|a", "a|b", "none"],
        ):
            labels_of(cells, "multilabel", delimiter="|")
        labels_of(["none", "a|b"], "multilabel", delimiter="|", class_names=["a", "b", "none"])


class TestLabelColumns:
    @pytest.mark.parametrize(
        ("cells", "expected"),
        [
            (["yes", "No", None, "YES "], [1, 0, NAN, 1]),
            (["t", "f", "", "T"], [1, 0, NAN, 1]),
            (["True", "false", "1", "0"], [1, 0, 1, 0]),
            (["positive", "negative", "?", "positive"], [1, 0, NAN, 1]),
            (["y", "n", "0", "0.5"], [1, 0, 0, 0.5]),
            (["1", "0", "x", None], None),
            (["yes", "no", "maybe", None], None),
            (["y", "f", "y", None], None),
        ],
        ids=str,
    )
    def test_words(self, cells, expected):
        target = columns(a=cells, b=[0, 1, 0, 1])
        if expected is None:
            with pytest.raises(
                DataError, match=r"of column 'a' is .*, but each of .*data\.missing="
            ) as caught:
                labels_of(target, "multilabel")
            assert caught.value.value in ("x", "maybe", "f")
            return
        labels = labels_of(target, "multilabel", missing=("?",))
        np.testing.assert_array_equal(labels.values[:, 0], np.float32(expected))

    def test_marks_and_empty_cells(self):
        target = columns(a=["x", "", "X"], b=["", "x", None])
        train = labels_of(target, "multilabel")
        assert train.values.tolist() == [[1, 0], [0, 1], [1, 0]]
        # a file in which no row has a label
        other = labels_of(columns(a=[None, None], b=["", ""]), "multilabel", train)
        assert other.values.tolist() == [[0, 0], [0, 0]]
        missing = labels_of(target, "multilabel", empty="missing")
        np.testing.assert_array_equal(missing.values[0], [1, NAN])

    def test_marks_beside_other_columns(self):
        target = columns(a=["x", "", "x"], b=["0", "1", "1"])
        with pytest.raises(DataError, match=r"Row 1 of column 'a' is empty, .* data\.empty=negative"):
            labels_of(target, "multilabel")
        assert labels_of(target, "multilabel", empty="negative").values.tolist() == [[1, 0], [0, 1], [1, 1]]

    def test_ones_and_empty_cells(self):
        target = columns(a=["1", "", "1"], b=["1", "1", None])
        for task in ("multilabel", "multiclass", "auto"):
            with pytest.raises(DataError, match=r"Row 1 of column 'a' is empty, .* data\.empty=negative"):
                labels_of(target, task)
        assert labels_of(target, "auto", empty="negative").values.tolist() == [[1, 1], [0, 1], [1, 0]]

    @pytest.mark.parametrize("cells", [["1", "-1", "1"], [1, -1, 1], [1.0, -1.0, 1.0]])
    def test_signs(self, cells):
        labels = labels_of(columns(a=cells, b=[-1, 1, 1]), "multilabel")
        assert labels.values.tolist() == [[1, 0], [0, 1], [1, 1]]
        other = labels_of(columns(a=[-1], b=[-1]), "multilabel", labels)
        assert other.values.tolist() == [[0, 0]]

    @pytest.mark.parametrize(
        "cells", [["1", "-1", "0"], ["1", "-1", None], [1.0, -1.0, NAN], [1.0, -1.0, 0.5]]
    )
    def test_ambiguous_signs(self, cells):
        with pytest.raises(
            DataError, match=r"Row 1 of column 'a' is -1, .*data\.uncertain.*data\.missing=-1"
        ):
            labels_of(columns(a=cells, b=[1, 1, 1]), "multilabel")

    def test_signs_in_another_file(self):
        train = labels_of(columns(a=[1, 0], b=[1, 1]), "multilabel")
        with pytest.raises(DataError, match=r"is -1, and the training labels are not 1 and -1"):
            labels_of(columns(a=[1, -1], b=[1, 1]), "multilabel", train)
        signs = labels_of(columns(a=[1, -1], b=[1, 1]), "multilabel")
        with pytest.raises(DataError, match=r"is -1, and the columns also contain 0"):
            labels_of(columns(a=[0, -1], b=[1, 1]), "multilabel", signs)

    @pytest.mark.parametrize(("uncertain", "value"), [("missing", NAN), ("positive", 1), ("negative", 0)])
    def test_uncertain_and_empty(self, uncertain, value):
        target = columns(a=["1.0", "0.0", "-1.0", None], b=[NAN, 1.0, 1.0, -1.0])
        labels = labels_of(target, "multilabel", uncertain=uncertain, empty="negative")
        np.testing.assert_array_equal(labels.values, [[1, 0], [0, 1], [value, 1], [0, value]])
        labels = labels_of(target, "multilabel", uncertain=uncertain)
        np.testing.assert_array_equal(labels.values[0], [1, NAN])

    def test_missing_markers_are_not_empty(self):
        target = columns(a=["1", "?", None], b=[0, 1, -1])
        labels = labels_of(target, "multilabel", missing=("?", -1), empty="negative")
        np.testing.assert_array_equal(labels.values, [[1, 0], [NAN, 1], [0, NAN]])


class TestHierarchy:
    def test_ancestors(self):
        cells = ["animal/cat", "animal / dog", "plant", "a/b/c"]
        labels = labels_of(cells, "multilabel", hierarchy="/")
        assert lists_of(labels) == [
            ["animal", "animal/cat"],
            ["animal", "animal/dog"],
            ["plant"],
            ["a", "a/b", "a/b/c"],
        ]

    def test_with_lists(self):
        labels = labels_of(["x/a|x/b", ""], "auto", hierarchy="/", delimiter="|", empty="negative")
        assert lists_of(labels) == [["x", "x/a", "x/b"], []]
        assert lists_of(labels_of(["['x/a', 'z']"], "multilabel", hierarchy="/")) == [["x", "x/a", "z"]]

    def test_an_unknown_label_has_known_ancestors(self):
        train = labels_of(["x/a", "x/b"], "multilabel", hierarchy="/")
        with pytest.warns(ls.LossSelectWarning, match="unseen_label"):
            other = labels_of(["x/c"], "multilabel", train, hierarchy="/", handle_unknown="ignore")
        assert lists_of(other) == [["x"]]

    def test_errors(self):
        with pytest.raises(DataError, match=r"Row 1 of column 'y' has the label 'a//b', with an empty part"):
            labels_of(["a/b", "a//b"], "multilabel", hierarchy="/")
        with pytest.raises(DataError, match=r"Row 1 of column 'y' is empty\. Set data\.empty"):
            labels_of(["a/b", None], "multilabel", hierarchy="/")
        with pytest.warns(ls.LossSelectWarning, match=r"contains '>'. Check data.hierarchy"):
            labels_of(["a/b", "c"], "multilabel", hierarchy=">")


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("multiclass", {"no_label": ("none",)}, "data.no_label cannot be combined with task=multiclass"),
        ("multiclass", {"hierarchy": "/"}, "data.hierarchy cannot be combined with task=multiclass"),
        ("multilabel", {"counts": True}, "data.counts cannot be combined with task=multilabel"),
        ("multilabel", {"annotators": "mean"}, "set task=binary or task=multiclass"),
        ("binary", {"uncertain": "missing"}, "data.uncertain cannot be combined with task=binary"),
        (
            "auto",
            {"counts": True, "annotators": "mean"},
            "data.counts applies to one column of votes for each",
        ),
        (
            "auto",
            {"delimiter": "|", "uncertain": "missing"},
            "data.delimiter applies to lists of labels, but",
        ),
        ("auto", {"delimiter": "/", "hierarchy": "/"}, "data.delimiter and data.hierarchy are both '/'"),
        ("auto", {"delimiter": "/", "id": "a"}, "with data.id each row has one label"),
        ("auto", {"hierarchy": ""}, "data.hierarchy must be a non-empty string"),
        ("multilabel", {"no_label": ("x",), "missing": ("x",)}, "but it is also in data.missing"),
        ("multilabel", {"no_label": ("x",), "class_names": ["x", "y"]}, "but it is also in class_names"),
        ("multilabel", {"uncertain": "missing", "missing": (-1,)}, "-1 marks a missing label"),
        (
            "multiclass",
            {"annotators": "mean", "empty": "missing"},
            "data.empty cannot be combined with data.ann",
        ),
        ("multilabel", {"uncertain": "maybe"}, "data.uncertain='maybe' is not valid"),
    ],
)
def test_settings_that_contradict_each_other(task, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        LabelOptions(task, **options)


@pytest.mark.parametrize(
    ("target", "task", "options", "message"),
    [
        (["a", "b"], "auto", {"empty": "missing"}, "data.empty applies to lists of labels or several label"),
        (
            ["a", "b"],
            "auto",
            {"no_label": ("a",)},
            "data.no_label applies to lists of labels, but data.target",
        ),
        (
            ["1", "-1"],
            "auto",
            {"uncertain": "missing"},
            "data.uncertain applies to one column for each label",
        ),
        (
            ["1", "2"],
            "multiclass",
            {"counts": True},
            "data.counts requires one column of votes for each class",
        ),
        (["1", "2"], "multiclass", {"annotators": "mean"}, "data.annotators requires one column for each"),
        (
            columns(a=[1], b=[0]),
            "multilabel",
            {"no_label": ("x",)},
            "data.no_label applies to lists of labels",
        ),
        (columns(a=[1], b=[0]), "multilabel", {"hierarchy": "/"}, "data.target is 2 columns"),
    ],
)
def test_settings_for_another_form_of_the_target(target, task, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        labels_of(target, task, **options)


def test_a_list_of_one_column_may_have_a_delimiter():
    options = LabelOptions("multilabel", delimiter="|", empty="negative")
    labels = parse_label_columns([pl.Series("y", ["a|b", ""])], options, listed=True)
    assert lists_of(labels) == [["a", "b"], []]


class TestTags:
    """Labels in angle brackets, as in the data of Stack Overflow."""

    CELLS = ("<c++><node.js>", "<c>", None, "<c++>")

    @pytest.mark.parametrize("options", [{}, {"delimiter": "><"}, {"task": "auto"}])
    def test_lists(self, options):
        labels = labels_of([*self.CELLS], **{"task": "multilabel", **options})
        assert lists_of(labels) == [["c++", "node.js"], ["c"], None, ["c++"]]

    def test_empty_cells(self):
        labels = labels_of([*self.CELLS], "multilabel", empty="negative")
        assert lists_of(labels)[2] == []

    def test_a_missing_marker_is_not_an_empty_cell(self):
        options = LabelOptions("multilabel", empty="negative", missing=("?",))
        labels = parse_label_columns([pl.Series("tags", ["<a><b>", None, "?", "<b>"])], options)
        assert lists_of(labels) == [["a", "b"], [], None, ["b"]]

    def test_single_tags_in_another_file(self):
        train = parse_label_columns([pl.Series("tags", ["<a><b>", "<b>"])], LabelOptions("multilabel"))
        for cells, expected in ((["<b>", None], [["b"], None]), (["<a>"], [["a"]]), ([None], [None])):
            column = pl.Series("tags", cells, dtype=pl.String)
            labels = parse_label_columns([column], LabelOptions("multilabel", fitted=train))
            assert lists_of(labels) == expected
        words = parse_label_columns([pl.Series("tags", ["[<a>, b]", "[b]"])], LabelOptions("multilabel"))
        with pytest.raises(DataError, match="must be a list in brackets"):
            parse_label_columns([pl.Series("tags", ["<a>"])], LabelOptions("multilabel", fitted=words))

    @pytest.mark.parametrize("cells", [["<a><b", "<c>"], ["<a>", "<b>"], ["<=50K", ">50K"]])
    def test_other_cells(self, cells):
        with pytest.raises(DataError, match="contains one label per row"):
            labels_of(cells * 2, "multilabel")
        assert labels_of(cells * 2).class_names == tuple(sorted(cells))


def test_sets_as_python_writes_them():
    cells = ["{'a', 'b'}", "set()", "frozenset({'a'})", "frozenset()"]
    assert lists_of(labels_of(cells, "multilabel")) == [["a", "b"], [], ["a"], []]


@pytest.mark.parametrize(
    ("cells", "setting"),
    [(["A & B", "A", "B"], "\"data.delimiter='&'\""), (["A+B", "A", "B"], "data.delimiter=+")],
)
def test_other_signs_between_labels(cells, setting):
    with pytest.raises(DataError, match=re.escape(setting)):
        labels_of(cells * 3, "multilabel")


@pytest.mark.parametrize("cell", ["A\tB", "A\nB"])
def test_lines_and_tabs_are_not_blanks(cell):
    with pytest.raises(DataError, match="contains one label per row"):
        labels_of([cell, "A", "B"] * 3, "multilabel")


def test_columns_marked_by_their_names():
    labels = columns(cat=["cat", None, "Cat"], dog=[None, "dog", "dog"])
    assert parse_label_columns(labels, LabelOptions("multilabel")).values.tolist() == [[1, 0], [0, 1], [1, 1]]


def test_columns_of_classes_name_the_setting_of_annotators():
    with pytest.raises(DataError, match=r"choice of one person, set data.annotators=majority"):
        parse_label_columns(columns(ann=["x", "y"], bob=["y", "y"]), LabelOptions("multiclass"))


def test_two_notations_of_a_class_are_not_a_marker():
    with (
        pytest.warns(ls.LossSelectWarning, match=r"'Yes' and 'yes'.*similar_labels"),
        pytest.raises(DataError, match=r"contains 3: No, Yes, yes\. Set task=multiclass"),
    ):
        labels_of(["Yes", "yes", "No"], "binary")
