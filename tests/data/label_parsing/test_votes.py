"""Labels from several people: rounded soft labels, votes per class, and annotators."""

import numpy as np
import polars as pl
import pytest
from table_cases import NAN, labels_of

import lossselect as ls
from lossselect.data.label_parsing.array_labels import parse_label_array
from lossselect.data.label_parsing.options import LabelOptions
from lossselect.exceptions import DataError


def columns(**cells):
    return [pl.Series(name, values) for name, values in cells.items()]


def matrix_columns(matrix):
    return [pl.Series(f"c{i}", column) for i, column in enumerate(np.transpose(matrix))]


def probabilities(classes, rows=30):
    return np.random.default_rng(0).dirichlet(np.ones(classes), rows)


class TestRoundedSoftLabels:
    @pytest.mark.parametrize("digits", [2, 3, 4])
    @pytest.mark.parametrize("classes", [3, 10])
    @pytest.mark.parametrize("task", ["multiclass", "auto"])
    def test_they_are_normalised(self, task, classes, digits):
        exact = probabilities(classes, 200)
        with pytest.warns(
            ls.LossSelectWarning, match=rf"rounded to {digits} digits.*\[rounded_soft_labels\]"
        ):
            labels = labels_of(matrix_columns(exact.round(digits)), task)
        assert labels.task == "multiclass"
        np.testing.assert_allclose(labels.values.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(labels.values, exact, atol=classes * 10.0**-digits)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_arrays(self, dtype):
        array = np.array([[0.33, 0.33, 0.33], [1, 0, 0], [NAN, NAN, NAN]], dtype)
        with pytest.warns(ls.LossSelectWarning, match="rounded_soft_labels"):
            labels = parse_label_array(array, LabelOptions("multiclass"))
        np.testing.assert_allclose(labels.values, [[1 / 3] * 3, [1, 0, 0], [NAN] * 3], atol=1e-7)

    def test_exact_rows_are_unchanged(self):
        matrix = [[0.25, 0.75], [1, 0], [0.5, 0.5]]
        assert labels_of(matrix_columns(matrix)).values.tolist() == matrix

    @pytest.mark.parametrize(
        ("matrix", "row"),
        [
            ([[0.33, 0.33, 0.33], [0.3, 0.3, 0.3]], 1),  # the first row is rounded, the second is not
            ([[0.123456, 0.5, 0.37]], 0),
            ([[0.9, 0.05, 0.07], [0.5, 0.5, 0.3]], 0),
            ([[1, 1, 0], [1, 0, 0]], 0),
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*rounded_soft_labels")
    def test_larger_deviations_raise_an_error(self, matrix, row):
        with pytest.raises(DataError, match="multiclass row must") as caught:
            labels_of(matrix_columns(matrix))
        assert caught.value.row == row

    def test_soft_multilabel_rows_are_not_normalised(self):
        matrix = [[0.33, 0.66], [0.9, 0.8]]
        assert labels_of(matrix_columns(matrix), "auto").task == "multilabel"
        np.testing.assert_allclose(labels_of(matrix_columns(matrix), "multilabel").values, matrix, atol=1e-7)


class TestCounts:
    def test_fractions_of_the_votes(self):
        target = columns(a=["3", "0", "1"], b=[1, 2, 1], c=[0.0, 0.0, 2.0])
        for task in ("multiclass", "auto"):
            labels = labels_of(target, task, counts=True)
            assert (labels.task, labels.class_names) == ("multiclass", ("a", "b", "c"))
            np.testing.assert_allclose(labels.values, [[0.75, 0.25, 0], [0, 1, 0], [0.25, 0.25, 0.5]])

    def test_rows_without_votes_are_missing(self):
        target = columns(a=[1, 0, None], b=[1, 0, None])
        with pytest.warns(ls.LossSelectWarning, match=r"^1 rows have no votes.*\[no_votes\]"):
            labels = labels_of(target, counts=True)
        np.testing.assert_array_equal(labels.values, [[0.5, 0.5], [NAN, NAN], [NAN, NAN]])

    def test_empty_cells(self):
        target = columns(a=["1", "2"], b=["1", ""])
        with pytest.raises(DataError, match=r"Row 1 of column 'b' is empty, .* data\.empty=negative"):
            labels_of(target, counts=True)
        assert labels_of(target, counts=True, empty="negative").values[1].tolist() == [1, 0]
        assert np.isnan(labels_of(target, counts=True, empty="missing").values[1]).all()

    @pytest.mark.parametrize("cell", [-1, 0.5, float("inf")])
    def test_votes_are_integers(self, cell):
        with pytest.raises(DataError, match=r"Row 1 of column 'a' is .*, but data\.counts=true requires"):
            labels_of(columns(a=[1.0, float(cell)], b=[1, 1]), counts=True)
        with pytest.raises(DataError, match=r"Row 0 of column 'a' is 'yes', but .* numbers of votes"):
            labels_of(columns(a=["yes"], b=["1"]), counts=True)

    @pytest.mark.parametrize("task", ["multiclass", "auto", "multilabel"])
    def test_the_error_without_the_setting_names_it(self, task):
        with pytest.raises(DataError, match=r"set task=multiclass data\.counts=true"):
            labels_of(columns(a=[3, 0], b=[1, 1]), task)

    def test_percentages(self):
        with pytest.raises(DataError, match="divide them by 100"):
            labels_of(columns(a=[33.3, 70.0], b=[66.7, 30.0]))

    def test_arrays(self):
        labels = parse_label_array(np.array([[3, 1], [0, 2]]), LabelOptions("auto", counts=True))
        assert labels.values.tolist() == [[0.75, 0.25], [0, 1]]


class TestAnnotators:
    TARGET = (
        ["cat", "dog", "", "cow", None],
        ["cat", "cat", "dog", "dog", ""],
        ["dog", "cat", None, "cat", ""],
    )

    def parse(self, task="multiclass", target=TARGET, fitted=None, **options):
        return labels_of(
            [pl.Series(f"a{i}", cells) for i, cells in enumerate(target)], task, fitted, **options
        )

    def test_majority(self):
        with pytest.warns(ls.LossSelectWarning, match=r"of 1 rows, such as row 3, are tied.*tied_annotators"):
            labels = self.parse(annotators="majority")
        assert labels.class_names == ("cat", "cow", "dog")
        np.testing.assert_array_equal(labels.values, [0, 0, 2, NAN, NAN])

    def test_mean(self):
        labels = self.parse("auto", annotators="mean")
        assert labels.task == "multiclass"
        third = 1 / 3
        expected = [[2 * third, 0, third], [2 * third, 0, third], [0, 0, 1], [third] * 3, [NAN] * 3]
        np.testing.assert_allclose(labels.values, expected, rtol=1e-6)

    @pytest.mark.parametrize(("annotators", "expected"), [("mean", [1, 0.5, 0]), ("majority", [1, NAN, 0])])
    @pytest.mark.filterwarnings("ignore:.*tied_annotators")
    def test_binary(self, annotators, expected):
        labels = self.parse("binary", [["yes", "yes", "no"], ["yes", "no", ""]], annotators=annotators)
        assert labels.class_names == ("no", "yes")
        np.testing.assert_array_equal(labels.values, expected)
        numbers = self.parse("binary", [[1, 1, 0], [1.0, 0.0, NAN]], annotators=annotators)
        np.testing.assert_array_equal(numbers.values, expected)

    def test_other_files_have_the_same_classes(self):
        train = self.parse(annotators="mean")
        other = self.parse(target=[["dog"], ["dog"]], fitted=train, annotators="mean")
        assert other.values.tolist() == [[0, 0, 1]]
        with pytest.raises(DataError, match="Row 1 of column 'a1': label 'fox'") as caught:
            self.parse(target=[["dog", "cat"], ["dog", "fox"]], fitted=train, annotators="mean")
        assert (caught.value.row, caught.value.column) == (1, "a1")

    def test_a_label_that_looks_like_a_row_number(self):
        with pytest.raises(DataError, match=r"Row 0 of column 'a1' is 'Row 7', but other labels are numbers"):
            self.parse(target=[["1", "2"], ["Row 7", "1"]], annotators="mean")

    def test_probabilities_raise_an_error(self):
        with pytest.raises(DataError, match="contain probabilities, but"):
            self.parse("binary", [[0.5, 0.2], [0.1, 1.0]], annotators="mean")
