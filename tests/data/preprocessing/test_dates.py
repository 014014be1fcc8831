"""Columns of dates as features."""

import re
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
import torch
from table_cases import numbers

import lossselect as ls
from lossselect.data.preprocessing.columns import CellParser
from lossselect.data.preprocessing.dates import find_date_format, parse_dates
from lossselect.data.preprocessing.kinds import column_kind
from lossselect.data.preprocessing.table_features import Features
from lossselect.data.readers.tables import TableColumns
from lossselect.exceptions import ConfigError, DataError
from lossselect.training.checkpoints.content import to_plain

DAYS = ["2023-12-31", "2024-01-01", "2024-02-29", None, "2024-03-02"]


def fit(column, train=None, **options):
    frame = pl.DataFrame({"when": column})
    parser = CellParser(tuple(options.pop("null_values", ())))
    train = np.arange(len(frame)) if train is None else train
    return Features.fit(TableColumns(frame), train, parser, **options)


def rows_of(features, column):
    rows, unknown = features.transform(pl.DataFrame({"when": column}), "new.csv", first_row=100)
    return rows[torch.arange(len(column))], unknown


def parsed(cells, date_format="ymd"):
    return parse_dates(pl.Series("when", cells), date_format).to_list()


class TestParsing:
    @pytest.mark.parametrize(
        ("cell", "expected"),
        [
            ("2024-05-31", datetime(2024, 5, 31)),
            (" 2024/5/1 ", datetime(2024, 5, 1)),
            ("2024-05-31T10:20", datetime(2024, 5, 31, 10, 20)),
            ("2024-05-31 10:20:30.25", datetime(2024, 5, 31, 10, 20, 30, 250_000)),
            ("2024-05-31T23:30:00-02:30", datetime(2024, 6, 1, 2)),
            ("2024-05-31T10:00:00+0200", datetime(2024, 5, 31, 8)),
            ("2024-05-31T10:00:00Z", datetime(2024, 5, 31, 10)),
            ("2024-05-31, 12:05 am", datetime(2024, 5, 31, 0, 5)),
            ("2024-05-31 12:05 PM", datetime(2024, 5, 31, 12, 5)),
        ],
    )
    def test_dates_and_times(self, cell, expected):
        assert parsed([cell, None]) == [expected, None]

    @pytest.mark.parametrize(
        ("cell", "date_format", "expected"),
        [
            ("31.05.2024", "dmy", datetime(2024, 5, 31)),
            ("5/31/2024 1:30 pm", "mdy", datetime(2024, 5, 31, 13, 30)),
            ("31/05/24", "%d/%m/%y", datetime(2024, 5, 31)),
            ("3 March 2024", "%d %B %Y", datetime(2024, 3, 3)),
        ],
    )
    def test_formats(self, cell, date_format, expected):
        assert parsed([cell], date_format) == [expected]

    @pytest.mark.parametrize(
        "cell",
        ["2023-02-29", "2024-13-01", "2024-01-01 24:00", "2024-01-01 13:00 pm", "2024-01-01x", "31.05.2024"],
    )
    def test_other_text_raises_an_error(self, cell):
        with pytest.raises(DataError, match=r"Row 1 of column 'when' is .*date such as 2024-05-31") as caught:
            parsed(["2024-01-01", cell])
        assert (caught.value.row, caught.value.value) == (1, cell)

    def test_repeated_dates(self):
        cells = ["2024-05-31", None, "", "2024-05-30", "2024-05-31"] * 3
        expected = [datetime(2024, 5, 31), None, None, datetime(2024, 5, 30), datetime(2024, 5, 31)] * 3
        assert parsed(cells) == expected
        with pytest.raises(DataError, match="Row 15 of column 'when' is 'x'"):
            parsed([*cells, "x"])

    def test_columns_of_dates(self):
        aware = pl.Series([datetime(2024, 1, 1, 12, tzinfo=UTC)]).dt.convert_time_zone("Asia/Tokyo")
        for column in (pl.Series([date(2024, 1, 1)]), pl.Series([datetime(2024, 1, 1)])):
            assert parse_dates(column).to_list() == [datetime(2024, 1, 1)]
        assert parse_dates(aware).to_list() == [datetime(2024, 1, 1, 12)]
        with pytest.raises(DataError, match="must contain dates, got the type Int64"):
            parsed([20240101])

    @pytest.mark.parametrize(
        ("cells", "given", "expected"),
        [
            (["2024-01-02"], None, "ymd"),
            (["2024-01-02"], "%d/%m/%Y", "ymd"),
            (["1/2/2024", "13/2/2024"], None, "dmy"),
            (["1/2/2024", "2/13/2024"], None, "mdy"),
            (["1/2/2024"], "dmy", "dmy"),
            (["1/2/2024", "2/13/2024"], "dmy", "dmy"),
            ([date(2024, 1, 2)], "dmy", "ymd"),
        ],
    )
    def test_the_format_is_recognised(self, cells, given, expected):
        assert find_date_format(pl.Series("when", cells), given) == expected

    def test_an_ambiguous_format_raises_an_error(self):
        with pytest.raises(DataError, match=r"data\.date_format=dmy or data\.date_format=mdy"):
            fit(["1/2/2024", "2/3/2024", "3/4/2024"])


class TestFeatures:
    def test_a_date_becomes_standardised_numbers(self):
        features = fit(DAYS)
        got, unknown = rows_of(features, DAYS)
        cycles = [f"when {name} {axis}" for name in ("month", "weekday") for axis in ("sin", "cos")]
        assert features.names == ["when days", "when days missing", "when year", *cycles]
        assert unknown == {}
        known = got[[0, 1, 2, 4]]
        days, weekdays = np.array([0, 1, 60, 62]), np.array([6, 0, 3, 5]) / 7
        for feature, expected in (
            (0, days),
            (5, np.sin(2 * np.pi * weekdays)),
            (6, np.cos(2 * np.pi * weekdays)),
        ):
            expected = (expected - expected.mean()) / expected.std()
            np.testing.assert_allclose(known[:, feature], expected, rtol=1e-4)
        assert got[3].tolist() == [0, 1, 0, 0, 0, 0, 0]

    def test_hours_are_a_feature_only_if_there_are_times(self):
        hours = ["when days", "when hour sin", "when hour cos"]
        assert fit(["2024-01-01 06:00", "2024-01-01 18:30"]).names == hours
        assert fit(["2024-01-01 00:00", "2024-01-01 12:00"]).names == ["when days", "when hour cos"]
        weekdays = ["when days", "when weekday sin", "when weekday cos"]
        assert fit(["2024-01-01", "2024-01-02"]).names == weekdays

    def test_a_part_of_standard_deviation_1_is_kept(self):
        assert "when year" in fit(["2022-01-01", None, "2024-01-01"]).names

    def test_only_training_rows_are_fitted(self):
        features = fit(["2024-01-03", "2024-01-05", "1999-01-01"], train=np.arange(2))
        got, _ = rows_of(features, ["2024-01-04", "2024-01-06", None])
        np.testing.assert_allclose(got[:, 0], [0, 2, 0])

    def test_a_missing_date_without_missing_training_dates_is_reported(self):
        got, unknown = rows_of(fit(DAYS[:3]), [None, "2024-01-01"])
        assert unknown == {"when": 1}
        assert not got[0].any()

    def test_round_trip_through_plain_values(self):
        features = fit(["13/02/2024", "?", "1/2/2024 3:00"], null_values=["?"])
        again = Features.from_dict(to_plain(features.to_dict()))
        assert again == features
        assert features.dates[0].format == "dmy"
        text = ["1/2/2024", "?", "3/2/2024 04:00"]
        times = [datetime(2024, 2, 1), None, datetime(2024, 2, 3, 4)]
        assert torch.equal(rows_of(again, text)[0], rows_of(features, times)[0])

    def test_an_invalid_date_in_a_new_file_names_the_row(self):
        with pytest.raises(DataError, match=r"Row 101 of .* is 'soon'.*null_values=\[soon\]") as caught:
            rows_of(fit(DAYS), ["2024-01-01", "soon"])
        assert caught.value.row == 101
        with pytest.raises(DataError, match="must contain dates, got the type Int64"):
            rows_of(fit(DAYS), [1, 2])

    def test_an_invalid_date_in_training_names_the_row(self):
        with pytest.raises(DataError, match="Row 3 of column 'when' is 'never'"):
            fit([*DAYS[:3], "never"])

    def test_equal_dates_are_constant(self):
        with pytest.warns(ls.LossSelectWarning, match=r"left out: when\. \[constant_feature\]"):
            features = Features.fit(
                TableColumns(pl.DataFrame({"when": ["2024-01-01"] * 2, "x": [1, 2]})),
                np.arange(2),
                CellParser(),
            )
        assert features.names == ["x"]

    def test_dates_may_be_categories(self):
        assert fit(["2024-01-01", "2024-01-02"], categorical=["when"]).names == [
            "when=2024-01-01",
            "when=2024-01-02",
        ]

    def test_extreme_dates(self):
        got, _ = rows_of(fit(["0001-01-01", "9999-12-31", "0000-01-01"]), ["9999-12-31"])
        assert got.isfinite().all()

    def test_a_table_with_a_date_is_loaded(self, load):
        when = [f"2024-{1 + i % 12:02}-{1 + i % 28:02}" for i in range(60)]
        columns = {"when": when, "x": numbers(60), "y": ["a", "b", "c"] * 20}
        splits = load(columns, val_path=columns)
        assert splits.features.shape == (120, 6)
        assert splits.columns == ("x", "when (dates)")


@pytest.mark.parametrize(
    ("cells", "formats"),
    [
        (["14:35", "7:05"], "data.date_format=%H:%M"),
        (["1:35 PM", "11:05 AM"], "data.date_format='%I:%M %p'"),
        (["14:35:10", "07:05:59"], "data.date_format=%H:%M:%S"),
        (["31.12.23", "1.2.24"], "data.date_format='%d.%m.%y'"),
        (["12/31/23", "1/2/24"], "data.date_format='%m/%d/%y'"),
        (["3 May 2024", "31 May 2024"], "data.date_format='%d %b %Y'"),
        (["Jan 5, 2024", "Feb 28, 2023"], "data.date_format='%b %d, %Y'"),
        (["05-Feb-1998", "6-Mar-2021"], "data.date_format='%d-%b-%Y'"),
        (["05-FEB-98", "06-MAR-21"], "data.date_format='%d-%b-%y'"),
        (["09/January/1992", "01/May/1993"], "data.date_format='%d/%B/%Y'"),
        (["05FEB1998", "16MAR2021"], "data.date_format='%d%b%Y'"),
        (["5. Feb 1998 10:20", "16. Mar 2021 1:05"], "data.date_format='%d. %b %Y %H:%M'"),
        (["Jan-1992", "May-1993"], "data.date_format='%b-%Y'"),
        (["JAN 1992", "MAY 1993"], "data.date_format='%b %Y'"),
        (["19/06/24 02:00", "1/7/24 14:05"], "data.date_format='%d/%m/%y %H:%M'"),
    ],
)
def test_the_format_is_named_in_the_error(cells, formats):
    column = pl.Series("when", cells * 10)
    kind, problem = column_kind(column, CellParser())
    assert kind == "other"
    assert formats.partition("=")[2].strip("'") in problem
    name = formats.partition("=")[2].strip("'")
    assert parse_dates(column, name).null_count() == 0
    assert column_kind(column, CellParser(), name) == ("date", "")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1/2/24", "3/4/24"], ["'%d/%m/%y'", "'%m/%d/%y'"]),
        (["16.12.90", "Jan-1992"], ["'%d.%m.%y'"]),
        (["January 92", "May 93"], []),
        (["n/a", *(f"{i:02d}-May-1992" for i in range(1, 25))], ["'%d-%b-%Y'"]),
    ],
)
def test_formats_that_fit_all_dates_or_the_example_are_suggested(cells, expected):
    _, problem = column_kind(pl.Series("when", cells * 10), CellParser())
    assert re.findall(r"date_format=('.*?')", problem) == expected
    assert "another format" in problem
    assert column_kind(pl.Series("when", ["n/a", *cells[:1]] * 20), CellParser()) == ("category", "")


@pytest.mark.parametrize(
    ("cell", "fix"),
    [
        ("16.12.1990", "train with data.date_format=dmy."),
        ("1/2/2024 02:00", "train with data.date_format=dmy or data.date_format=mdy."),
        ("Jan-1992", "'%b-%Y'"),
        ("soon", "train with data.date_format set to it."),
    ],
)
def test_a_format_that_fits_the_cell_is_named(cell, fix):
    with pytest.raises(DataError) as caught:
        parsed(["2024-05-31", cell])
    assert fix in str(caught.value)


@pytest.mark.parametrize("date_format", ["dmy", "%d.%m.%Y"])
def test_a_format_without_effect_is_an_error(load, date_format):
    columns = {"x": numbers(40), "y": ["a", "b"] * 20}
    with pytest.raises(ConfigError, match=r"data\.date_format has no effect: no feature of .*path\.csv"):
        load(columns, date_format=date_format)
    when = [f"{1 + i % 28}.01.2024" for i in range(40)]
    load({**columns, "when": when}, date_format=date_format)
    load({**columns, "when": when}, date_format=date_format, time="when")
    with ls.ignore_warnings("constant_feature"):
        load({**columns, "when": when[:1] * 40}, date_format=date_format)
