from datetime import date

import numpy as np
import polars as pl
import pytest

from lossselect.data.preprocessing import statistics
from lossselect.data.preprocessing.columns import CellParser
from lossselect.data.preprocessing.statistics import Statistics, sample_array, sample_rows, summarize

NAN = float("nan")


PLAIN = CellParser()


def of(values, parser=PLAIN, date_format=None, **options):
    return summarize(pl.DataFrame({"a": pl.Series(values, **options)}), parser, {"a": date_format})["a"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 1, None, 3], ("number", 1, 2, "1 to 3")),
        ([0.5, NAN, 0.5, None], ("number", 2, 1, "0.5")),
        ([True, False, True, None], ("number", 1, 2, "false to true")),
        ([" x", "x ", "", "y"], ("category", 1, 2, "'x' (50%), 'y' (25%)")),
        (["1", " 2.5", "1", None], ("number", 1, 2, "1 to 2.5")),
        (["a", "b", "c", "d"], ("category", 0, 4, "")),  # all different: no frequent values
        (
            ["a", "b", "c", "d", "a", "a", "b", "c"],
            ("category", 0, 4, "'a' (38%), 'b' (25%), 'c' (25%), ..."),
        ),
        ([date(2024, 5, 1), None, date(2023, 1, 2)], ("date", 1, 2, "2023-01-02 to 2024-05-01")),
        (["", None, " "], ("number", 3, 0, "")),
    ],
)
def test_kinds(values, expected):
    found = of(values, strict=False)
    assert (found.kind, found.missing, found.distinct, found.values) == expected
    assert found.rows == found.sampled == len(values)


def test_an_empty_column_has_no_range():
    assert of([None, None], dtype=pl.Float64) == Statistics("number", 2, 2, 2, 0, "")
    assert of([None, None], dtype=pl.Null) == Statistics("other", 2, 2, 2)


def test_marks_are_missing():
    parser = CellParser(("NA", "-9"))
    assert of(["NA", "x", "x", "x"], parser).missing == 1
    assert of([-9, 2, 3], parser) == Statistics("number", 3, 1, 3, 2, "2 to 3")


def test_dates_in_text_have_a_range_of_dates():
    found = of(["31.01.2024", "01.02.2024", ""], date_format="dmy")
    assert (found.kind, found.values, found.missing) == ("date", "2024-01-31 to 2024-02-01", 1)


def test_lists_are_only_counted():
    assert of([[1], None, [2, 3]]) == Statistics("other", 3, 1, 3)


def test_long_cells_are_shortened_and_controls_escaped():
    values = of(["x" * 1000, "x" * 1000, "\x1b[31m", "\x1b[31m"]).values
    assert len(values) < 100
    assert "\x1b" not in values


def test_values_of_large_tables_are_counted_in_a_sample(monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLE_ROWS", 200)
    monkeypatch.setattr(sample_rows, "__defaults__", (200,))
    numbers = np.arange(1000.0)
    numbers[::10] = NAN
    found = of(numbers)
    assert found == Statistics("number", 1000, 100, 200, found.distinct, "1 to 999")
    assert 150 < found.distinct <= 200
    texts = pl.Series(["a", "b", "", "NA", None] * 200)
    found = of(texts, CellParser(("NA",)))
    assert (found.missing, found.distinct, found.sampled) == (600, 2, 200)
    assert "'a' (" in found.values
    assert of(["  ", "a"] * 500).missing == 500


def test_samples_are_from_all_parts():
    rows = sample_rows(np.arange(10_000), 100)
    assert len(rows) == 100
    assert (rows[0], rows[-1]) == (0, 9999)
    assert np.diff(rows).max() < 200
    assert sample_rows(rows) is rows
    assert sample_array(np.zeros((300_000, 2), np.float32)).shape == (50_000, 2)
