import re

import numpy as np
import polars as pl
import pytest
import torch
from table_cases import NAN, numbers

import lossselect as ls
from lossselect.data.preprocessing.columns import CellParser
from lossselect.data.preprocessing.table_features import Features
from lossselect.data.readers.tables import TableColumns
from lossselect.exceptions import DataError
from lossselect.training.checkpoints.content import to_plain


def features_of(frame, train=None, **options):
    frame = pl.DataFrame(frame)
    categorical = options.pop("categorical", ())
    train = np.arange(frame.height) if train is None else train
    features = Features.fit(TableColumns(frame), train, CellParser(**options), categorical)
    rows, unknown = features.transform(frame, "t.csv")
    return features, rows[torch.arange(frame.height)], unknown


class TestFeatures:
    def test_numbers_are_standardised_by_the_training_rows(self):
        x = numbers(20) * 5 + 3
        _, got, _ = features_of({"x": x}, train=np.arange(10))
        np.testing.assert_allclose(got[:, 0], (x - x[:10].mean()) / x[:10].std(), rtol=1e-6)

    def test_missing_numbers_are_the_mean_with_an_indicator(self):
        features, got, _ = features_of({"x": [1.0, None, 3.0, None]}, train=np.arange(3))
        assert features.names == ["x", "x missing"]
        np.testing.assert_allclose(got, [[-1, 0], [0, 1], [1, 0], [0, 1]])

    def test_numbers_missing_only_outside_train_are_the_mean(self):
        features, got, _ = features_of({"x": [1.0, 3.0, None]}, train=np.arange(2))
        assert features.names == ["x"]
        np.testing.assert_allclose(got, [[-1], [1], [0]])

    def test_categories_are_one_hot_and_unknown_ones_zero(self):
        features, got, unknown = features_of({"c": ["b", "a", None, "b", "z"]}, train=np.arange(4))
        assert features.names == ["c=a", "c=b", "c missing"]
        np.testing.assert_array_equal(got, [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]])
        assert unknown == {"c": 1}

    def test_booleans_and_numbers_in_text_are_numbers(self):
        features, got, _ = features_of({"b": [True, False], "t": ["1", " 3 "]})
        assert [type(column).__name__ for column in features.numbers] == ["Number", "Number"]
        np.testing.assert_allclose(got, [[1, -1], [-1, 1]])

    def test_null_values_in_text(self):
        features, got, _ = features_of({"x": ["1", "?", "3"]}, null_values=("?",))
        assert features.names == ["x", "x missing"]
        np.testing.assert_allclose(got, [[-1, 0], [0, 1], [1, 0]])

    def test_codes_may_be_categories(self):
        features, _, _ = features_of({"zip": [8001, 1010, 8001]}, categorical=["zip"])
        assert features.names == ["zip=1010", "zip=8001"]

    def test_a_single_row_and_some_rows(self):
        frame = pl.DataFrame({"x": [1.0, 3.0, 2.0], "c": ["a", "b", "a"]})
        features = Features.fit(TableColumns(frame), np.arange(3), CellParser())
        rows, _ = features.transform(frame, "t")
        assert rows[1].shape == (3,)
        assert torch.equal(rows[torch.tensor([1])][0], rows[1])
        assert rows.shape == (3, len(features.names))

    def test_names_of_features_may_be_names_of_columns(self):
        features, got, _ = features_of({"x": [1.0, None], "x missing": [3.0, 5.0], "0": [1.0, 2.0]})
        assert got.shape == (2, len(features.names)) == (2, 4)

    def test_round_trip_through_plain_values(self):
        frame = {"x": [1.0, None, 2.0], "c": ["a", None, "b"]}
        features, got, _ = features_of(frame, null_values=("?",), nan="missing")
        again = Features.from_dict(to_plain(features.to_dict()))
        assert again == features
        rows, _ = again.transform(pl.DataFrame(frame), "t")
        assert torch.equal(rows[torch.arange(3)], got)

    def test_other_orders_of_columns_and_additional_columns(self):
        frame = pl.DataFrame({"x": [1.0, 3.0], "c": ["a", "b"]})
        features = Features.fit(TableColumns(frame), np.arange(2), CellParser())
        other = pl.DataFrame({"more": [0, 0], "c": ["a", "b"], "x": [1.0, 3.0]})
        assert torch.equal(
            features.transform(other, "t")[0][torch.arange(2)],
            features.transform(frame, "t")[0][torch.arange(2)],
        )

    def test_nan_may_mean_missing(self):
        features, _, _ = features_of({"x": [1.0, NAN, 3.0]}, nan="missing")
        assert features.numbers[0].missing
        assert features.numbers[0].scale.mean == 2

    def test_finite_numbers_whose_sum_overflows(self):
        big = [1.7e308, 1.7e308, 0.0]
        assert CellParser().numbers(pl.Series("x", big)).to_list() == big

    @pytest.mark.parametrize(
        ("cells", "expected"),
        [
            ([" 1", "2 ", ""], [1, 2, None]),
            (["?", "2", "-9.0"], [None, 2, None]),
            (["true", "0", None], [1, 0, None]),
            ([1, -9, None], [1, None, None]),
            ([True, False, None], [1, 0, None]),
            ([None, None, None], [None, None, None]),
            (pl.Series(["1", "?", "1"], dtype=pl.Categorical), [1, None, 1]),
        ],
        ids=str,
    )
    def test_all_columns_are_converted_as_each_of_them(self, cells, expected):
        parser = CellParser(("?", "-9"))
        frame = pl.DataFrame({"x #": cells, "y": [1.5, NAN, 2.5], "": ["1", "2", "3"]})
        got = CellParser(("?", "-9"), "missing").number_columns(frame)
        assert got.columns == frame.columns
        assert got[:, 0].to_list() == parser.numbers(frame[:, 0]).to_list() == expected
        assert got[:, 1].to_list() == [1.5, None, 2.5]
        with pytest.raises(DataError, match="Row 11 of column 'y' is nan"):
            parser.number_columns(frame, first_row=10)

    def test_null_values_in_numbers(self):
        features, got, _ = features_of({"x": [1, -999, 3], "z": [1.5, -999.0, 2.5]}, null_values=("-999",))
        assert features.names == ["x", "x missing", "z", "z missing"]
        np.testing.assert_allclose(got[1], [0, 1, 0, 1])

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            ({"x": [1e200, 2e200, 3e200]}, "so large that their standard deviation overflows float64"),
            (
                {"x": [1.0, float("inf")]},
                "Row 1 of column 'x' is inf, but features must be finite. Correct it",
            ),
            (
                {"x": [1.0, 2.0, NAN]},
                "Row 2 of column 'x' is nan, but features must be finite. If NaN means 'missing', train with",
            ),
            (
                {"x": ["1", "2", "n/a"]},
                "Column 'x' contains numbers, but row 2 is 'n/a'. If that means 'missing'",
            ),
            ({"d": ["Jan 1 2020", "Feb 3 2020"]}, "column 'd' contains dates or times in another format"),
            (
                {"d": pl.Series(["10:30"]).str.to_time()},
                "column 'd' contains times of day or durations (Time)",
            ),
            (
                {"p": ["a/1.png", "a/2.JPG"]},
                "column 'p' contains paths of images, such as 'a/1.png' (examples/",
            ),
            (
                {"t": [f"text {i}" for i in range(60)]},
                "column 't' looks like free text or an identifier (60 distinct values",
            ),
            ({"l": [[1], [2]]}, "column 'l' is of type List(Int64)"),
            (
                {"x": [1, 1], "c": ["a", "a"]},
                "All features are constant in the training rows: x, c.",
            ),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_invalid_columns(self, frame, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            features_of(frame)

    def test_all_invalid_columns_are_named_at_once(self):
        with pytest.raises(ValueError, match=r"data\.exclude=\[d,l\]"):
            features_of({"d": ["10:30"] * 2, "l": [[1], [2]], "x": [1, 2]})

    def test_a_number_that_overflows_after_standardisation(self):
        frame = pl.DataFrame({"x": [1.0, 3.0]})
        features = Features.fit(TableColumns(frame), np.arange(2), CellParser())
        with pytest.raises(ValueError, match="Row 6 of column 'x' is too large"):
            features.transform(pl.DataFrame({"x": [1.0, 1e300]}), "new.csv", first_row=5)

    def test_a_column_of_another_type_than_in_training(self):
        frame = pl.DataFrame({"x": [1.0, 3.0]})
        features = Features.fit(TableColumns(frame), np.arange(2), CellParser())
        with pytest.raises(ValueError, match="Column 'x' contains numbers, but row 102 is 'abc'"):
            features.transform(pl.DataFrame({"x": ["1", "2", "abc"]}), "new.csv", first_row=100)
        with pytest.raises(ValueError, match=r"new\.csv has no column 'x' \(a feature of the model\)"):
            features.transform(pl.DataFrame({"y": [1]}), "new.csv")

    def test_a_constant_column_is_left_out_with_a_warning(self):
        with pytest.warns(ls.LossSelectWarning, match=r"left out: k, n\. \[constant_feature\]"):
            features, _, _ = features_of({"x": [1, 2], "k": [3, 3], "n": [None, None]})
        assert features.names == ["x"]

    def test_a_constant_is_found_in_spite_of_rounding(self):
        for value in (0.1, 19.99, 1e-300):
            with ls.ignore_warnings("constant_feature"):
                features, _, _ = features_of({"x": numbers(60), "k": [value] * 60})
            assert features.names == ["x"]

    @pytest.mark.parametrize("cell", ["10:00:00", "Jan 1 2020", "3. March 2021", "1/2/99"])
    def test_dates_of_an_unknown_format(self, cell):
        with pytest.raises(ValueError, match="column 'd' contains dates"):
            features_of({"x": [1, 2], "d": [cell, cell]})

    def test_the_error_for_free_text_names_the_ways_out(self):
        texts = [f"The parcel number {i} arrived late" for i in range(60)]
        with pytest.raises(DataError) as caught:
            features_of({"comment": texts})
        for part in (
            "data.text=[comment]",
            "data.categorical=[comment]",
            "examples/transformers",
            "data.group",
        ):
            assert part in str(caught.value)

    def test_a_long_cell_is_shortened_in_a_message(self):
        with pytest.raises(DataError) as caught:
            features_of({"x": ["1", "2", "3", "a" * 10**6]})
        assert len(str(caught.value)) < 500

    def test_images_that_are_categories(self):
        features, _, _ = features_of({"face": ["a.png", "b.png"] * 5})
        assert features.names == ["face=a.png", "face=b.png"]

    @pytest.mark.parametrize(
        "cells",
        [["51,627", "1,200"], ["$9.50", "$11915.50"], ["37%", "4.5%"], ["-1,5", "2,25"], ["1.234,5", "86,7"]],
    )
    def test_numbers_with_units(self, cells):
        with pytest.raises(
            ValueError, match="column 'p' contains numbers with separators or units"
        ) as caught:
            features_of({"x": [1, 2], "p": cells})
        assert ("data.decimal" in str(caught.value)) == ("," in cells[0])

    def test_a_repeated_header(self):
        frame = {"x": ["1", "2", "?", "x"], "y": ["4", "5", "6", "y"]}
        with pytest.raises(DataError, match=r"Column 'y' .* but row 3 is 'y'\. This line repeats"):
            features_of(frame)

    @pytest.mark.parametrize("cell", ["184000,0", "1.234,5", "-,5"])
    def test_decimal_commas_in_a_column_of_numbers(self, cell):
        for other, expected in ((cell, True), (cell + "%", False), ("1,2,3", False)):
            with pytest.raises(DataError, match="If that means 'missing'") as caught:
                features_of({"x": ["1", "2", "3.5", other]})
            assert ("data.decimal=','" in str(caught.value)) == expected

    def test_infinity_in_text(self):
        frame = {"x": pl.Series(["1.5", "Infinity", "2"])}
        with pytest.raises(DataError, match=r"Row 1 of column 'x' is inf, .*data\.null_values=\[Infinity\]"):
            features_of(frame)
        assert features_of(frame, null_values=("Infinity",))[0].names == ["x", "x missing"]

    def test_a_version_is_not_an_integer(self):
        features = features_of({"c": ["v1", "v2", "v1"]})[0]
        rows, unknown = features.transform(pl.DataFrame({"c": ["v1.0", "v2"]}), "t")
        assert rows[torch.arange(2)].tolist() == [[0, 0], [0, 1]]
        assert unknown == {"c": 1}

    def test_codes_that_are_floats(self):
        parse = CellParser().text
        assert parse(pl.Series("c", [1.0, NAN, 2.0])).to_list() == ["1", None, "2"]
        assert parse(pl.Series("c", [1.0, float("inf")])).to_list() == ["1", "inf"]
        assert parse(pl.Series("c", [1.0, 0.5, None, 1e20])).to_list() == ["1", "0.5", None, "1e+20"]

    def test_a_code_of_1_may_be_written_as_a_float(self):
        frame = pl.DataFrame({"c": ["1", "2", "007"]})
        features = Features.fit(TableColumns(frame), np.arange(3), CellParser(), ["c"])
        rows, unknown = features.transform(pl.DataFrame({"c": ["2.0", "7.0", None]}), "t")
        assert rows[torch.arange(3)].tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
        assert unknown == {"c": 1}

    @pytest.mark.parametrize("name", ["Unnamed: 0", "index"])
    def test_an_index_in_another_order(self, name):
        with pytest.warns(ls.LossSelectWarning, match="has a different integer in each row.*index_column"):
            features_of({name: [7 * i % 61 for i in range(50)], "x": numbers(50)})

    def test_a_code_does_not_depend_on_the_other_cells_of_its_part(self):
        features, train, _ = features_of({"c": [1.0, 0.5, 1.0]}, categorical=["c"])
        rows, unknown = features.transform(pl.DataFrame({"c": [1.0]}), "t")
        assert torch.equal(rows[[0]], train[[0]])
        assert unknown == {}
        text = features_of({"c": ["1.0", "0.5", "1.0"]}, categorical=["c"])[0]
        assert text.transform(pl.DataFrame({"c": [1, 1]}), "t")[1] == {}

    def test_text_that_only_resembles_dates(self):
        features, _, _ = features_of({"v": ["1.2.3", "1.2.4"], "m": ["may", "june"]})
        assert [column.name for column in features.categories] == ["v", "m"]

    def test_columns_of_another_kind_in_a_later_table(self):
        frame = pl.DataFrame({"x": [1.0, 3.0], "c": ["1", "b"]})
        features = Features.fit(TableColumns(frame), np.arange(2), CellParser())
        dates = pl.Series("x", ["2024-01-31"]).str.to_date()
        with pytest.raises(ValueError, match="Column 'x' must contain numbers, got the type Date"):
            features.transform(pl.DataFrame([dates, pl.Series("c", ["b"])]), "t")
        with pytest.raises(ValueError, match=r"Column 'c' must contain categories, got the type List\(Str"):
            features.transform(pl.DataFrame({"x": [1.0], "c": [["b"]]}), "t")
        rows, _ = features.transform(pl.DataFrame({"x": [1.0], "c": [1.0]}), "t")
        assert rows[0].tolist() == [-1, 1, 0]

    def test_a_column_that_counts_the_rows_warns(self):
        with pytest.warns(ls.LossSelectWarning, match=r"Column 'id' counts the rows.*data.exclude=\[id\]"):
            features_of({"id": range(5, 35), "x": numbers(30)})
