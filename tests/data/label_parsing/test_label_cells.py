"""Tests of cells with several labels, as people write them, and of null values in the target."""

import numpy as np
import polars as pl
import pytest

import lossselect as ls
from lossselect.data.files.load import load_own_data
from lossselect.data.label_parsing.cells import split_cells, split_delimited
from lossselect.data.label_parsing.options import LabelOptions
from lossselect.data.label_parsing.table_labels import parse_label_columns


def labels_of(cells, delimiter=",", empty="negative"):
    """Return the set of labels of each row."""
    options = LabelOptions("multilabel", delimiter=delimiter, empty=empty)
    labels = parse_label_columns([pl.Series("tags", cells)], options)
    matrix = labels.values.to_dense().numpy()
    return [
        None if np.isnan(row).all() else {labels.class_names[i] for i in np.flatnonzero(row)}
        for row in matrix
    ]


EXPECTED = [{"a", "b"}, {"c"}, set(), {"b", "c"}]


@pytest.mark.parametrize(
    ("cells", "delimiter"),
    [
        (["a,b", "c", "", "b,c"], ","),
        ([" a , b ", "c,", "", ",b,,c"], ","),
        (["['a', 'b']", "['c']", "[]", "['b', 'c']"], ","),
        (['["a", "b"]', '["c"]', "[]", '["b", "c"]'], ","),
        (['["a", "b"]', '["c"]', "", '["b", "c"]'], "|"),
        (["[a, b]", "[c]", "[]", "[b, c]"], ","),
        (["[a;b]", "[ c ]", "[]", "[b ; c]"], ";"),
        (["{a,b}", "{c}", "{}", "{b,c}"], ","),
        (["{'a', 'b'}", "{'c'}", "{}", "{'b', 'c'}"], ","),
        (["(a;b)", "(c)", "()", "(b;c)"], ";"),
        (["('a', 'b')", "('c',)", "()", "('b', 'c')"], ","),
        (["('a', 'b')", "('c')", "()", "('b', 'c')"], ","),
        (["'a'|'b'", "'c'", "", "'b'|'c'"], "|"),
        (['"a"|"b"', '"c"', "", '"b"|"c"'], "|"),
        (["['a' 'b']", "['c']", "[]", "['b' 'c']"], " "),  # as NumPy prints an array
    ],
)
def test_notations_of_the_same_labels(cells, delimiter):
    assert labels_of(cells, delimiter) == EXPECTED


def test_delimited_text():
    cells = ["new york| rome", "", "a||b|"]
    assert [split_delimited(cell, "|") for cell in cells] == [["new york", "rome"], [], ["a", "b"]]
    with pytest.raises(ValueError, match=r"data\.delimiter must be a non-empty string"):
        labels_of(["a"], delimiter="")


def test_json():
    def parse(cells, fitted=None):
        return parse_label_columns([pl.Series("tags", cells)], LabelOptions("multilabel", fitted=fitted))

    labels = parse(['["a", "b"]', "[]", None, '["b"]'])
    assert labels.vocabulary.decode_lists(labels.values) == [["a", "b"], [], None, ["b"]]
    for bad, problem in {
        '{"a": 1}': "a mapping",
        "3": "but must be a list in brackets",
        "[" * 100_000: "but the bracket '\\[' is never closed",
    }.items():
        with pytest.raises(ValueError, match=rf"Row 1 of column 'tags' is .*, {problem}") as caught:
            parse(["[]", bad], fitted=labels)
        assert len(str(caught.value)) < 400


def test_quoted_labels_may_contain_the_delimiter():
    assert labels_of(["['a, b', 'c']", '["c"]']) == [{"a, b", "c"}, {"c"}]


def test_spaces_and_quotes_in_labels_printed_by_numpy():
    cells = [str(np.array(["New York", "it's"])), str(np.array(["it's", "b"])), "['b']"]
    assert labels_of(cells, " ") == [{"New York", "it's"}, {"it's", "b"}, {"b"}]
    assert labels_of([r"['it\'s', 'b']", "['b']"]) == [{"it's", "b"}, {"b"}]
    cells = [
        str(np.array(["a\u00a0b", "c"])),
        str(np.array(["a\u00a0b"])),
        r"['\x' 'c']",
    ]  # the last is not Python
    assert labels_of(cells, " ") == [{"a\u00a0b", "c"}, {"a\u00a0b"}, {r"\x", "c"}]


def test_numbers_in_lists_are_labels():
    assert labels_of(["[1, 2]", "[3]", "[10, 1]"]) == [{"1", "2"}, {"3"}, {"10", "1"}]


def test_numbers_without_quotes_are_used_as_they_are_written():
    cells = ["{2.0,1_0}", "{2.0,x}", "{10,007}", "{0x1}", "{}"]
    expected = [{"2.0", "1_0"}, {"2.0", "x"}, {"10", "007"}, {"0x1"}, set()]
    assert labels_of(cells) == expected
    labels = parse_label_columns([pl.Series("tags", cells)], LabelOptions("multilabel"))
    # in another file, all cells may be JSON
    other = pl.Series("tags", ["[2.0, 10]", "[10]"])
    parsed = parse_label_columns([other], LabelOptions("multilabel", fitted=labels))
    assert labels.vocabulary.decode_lists(parsed.values) == [["10", "2.0"], ["10"]]


def test_brackets_within_labels_are_kept():
    with ls.ignore_warnings("looks_multiclass"):
        assert labels_of(["(a);(b)", "(a)", "c"], ";") == [{"(a)", "(b)"}, {"(a)"}, {"c"}]
        assert labels_of(["f(x);g", "g", "[deleted]"], ";") == [{"f(x)", "g"}, {"g"}, {"[deleted]"}]
        assert labels_of(["rock 'n' roll|pop", "players'", "'tis"], "|") == [
            {"rock 'n' roll", "pop"},
            {"players'"},
            {"'tis"},
        ]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["c", "[a, b]"], r"Row 1 of column 'tags' is '\[a, b\]', labels in brackets, but row 0 is 'c'"),
        (["{a,b}", "c,d"], r"Row 0 of column 'tags' is '\{a,b\}', labels in brackets, but row 1 is 'c,d'"),
        (["['a', None]", "['b']"], r"Row 0 of column 'tags' is .* which contains None, but labels must"),
        (["['a', 'b']", "[['a'], 'b']"], r"Row 1 of column 'tags' is .* which contains \['a'\], but labels"),
        (["'a',b", "a,b"], r"Row 0 of column 'tags' is \"'a',b\", with quotes around 'a'"),
        (["['a' 'b']", "['c']"], r"Row 0 of column 'tags' is .* quoted labels without ',' between"),
        (["[\"it's\" 'b']", "['c']"], r"Row 0 of column 'tags' is .* quoted labels without ',' between"),
        (["['a', 'b' 'c']", "['c']"], r"Row 0 of column 'tags' is .* quoted labels without ',' between"),
        (["[nan, 'a']", "['nan', a]"], "with quotes around"),
    ],
)
def test_ambiguous_cells_are_rejected(cells, message):
    with pytest.raises(ValueError, match=message):
        labels_of(cells)


def test_code_in_a_cell_is_not_executed():
    cells = ["[__import__('os').getcwd()]", "[x]"]
    with ls.ignore_warnings("unused_delimiter"):
        assert labels_of(cells) == [{"__import__('os').getcwd()"}, {"x"}]


def test_another_delimiter_in_some_rows_warns():
    with pytest.warns(
        ls.LossSelectWarning, match=r"Row 2 .* 'a;b' counts as one label, .* \[several_labels\]"
    ):
        labels_of(["a|b", "b", "a;b", "a|c"], "|")


FEATURES = {"x": [float(i) for i in range(40)], "colour": ["red", "blue", "NA", "green", "red"] * 8}


def splits_of(tmp_path, kinds, task="multiclass", **options):
    path = tmp_path / "rows.csv"
    pl.DataFrame({**FEATURES, "kind": kinds}).write_csv(path)
    settings = {"name": task, **options.pop("settings", {})}
    split = {"val_path": None, "test_path": None, "val_fraction": 0.2, "test_fraction": 0.2, "seed": 0}
    return load_own_data("table", task=settings, path=str(path), target="kind", **split, **options)


def count_known(splits):
    return int((~np.isnan(np.asarray(splits.labels, dtype=float))).sum())


class TestMissingWords:
    """Null values that are words mean "missing" in all columns, as the na_values of pandas do."""

    def test_a_word_is_not_a_class(self, tmp_path):
        splits = splits_of(tmp_path, ["a", "b", "c", "NA"] * 10, null_values=["NA"])
        assert splits.class_names == ("a", "b", "c")
        assert count_known(splits) == 30
        other = splits_of(tmp_path, ["a", "b", "c", "NA"] * 10)
        assert other.class_names == ("NA", "a", "b", "c")

    def test_nan_is_not_a_class(self, tmp_path):
        kinds = ["a", "b", "c", "NaN"] * 10
        assert splits_of(tmp_path, kinds, nan="missing").class_names == ("a", "b", "c")
        with pytest.warns(
            ls.LossSelectWarning, match=r"has a class 'NaN'.*data\.missing=NaN.* \[likely_missing_marker\]"
        ):
            assert "NaN" in splits_of(tmp_path, kinds).class_names

    def test_declared_classes_are_not_missing(self, tmp_path):
        kinds = ["DE", "NA", "FR", "NA"] * 10  # Namibia
        settings = {"class_names": ["DE", "FR", "NA"]}
        splits = splits_of(tmp_path, kinds, null_values=["NA"], settings=settings)
        assert splits.class_names == ("DE", "FR", "NA")
        assert count_known(splits) == 40
        splits = splits_of(tmp_path, ["x", "NA"] * 20, "binary", null_values=["NA"], positive="NA")
        assert splits.class_names == ("x", "NA")

    def test_a_number_may_be_a_class(self, tmp_path):
        """A 0 may be a missing blood pressure among the features, but the class "no diabetes" as label."""
        splits = splits_of(tmp_path, [0, 1] * 20, "binary", null_values=[0])
        assert count_known(splits) == 40
        with pytest.warns(
            ls.LossSelectWarning, match=r"A class is called '999'.*data\.missing=999.*likely_missing_marker"
        ):
            splits_of(tmp_path, [1, 2, 3, 999] * 10, null_values=[999])

    def test_in_lists_of_labels_the_whole_row_is_missing(self, tmp_path):
        kinds = ["a|b", "b", "NA", "a|c"] * 10
        splits = splits_of(tmp_path, kinds, "multilabel", null_values=["NA"], delimiter="|")
        assert splits.class_names == ("a", "b", "c")
        assert splits.labels.missing.sum() == 10


@pytest.mark.parametrize(
    ("cells", "label"),
    [
        (["array(['a', 'b'])", "array(['b'])"], "array(['a'"),
        (["tags: {a,b}", "b"], "tags: {a"),
        (["{e,[25, 30)}", "{e}"], "[25"),
    ],
)
def test_a_delimiter_that_splits_brackets(cells, label):
    with pytest.warns(ls.LossSelectWarning, match=r"\[split_brackets\]") as caught:
        split_cells("tags", cells, ",")
    assert f"splits off the label {label!r}" in str(caught[0].message)


def test_brackets_within_a_label():
    assert split_cells("tags", ['["a (", "b"]', '["b"]'], ",") == [["a (", "b"], ["b"]]
    assert split_cells("tags", ["a (old),b [new]", "b [new]"], ",") == [["a (old)", "b [new]"], ["b [new]"]]
