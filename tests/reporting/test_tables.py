import polars as pl
import pytest

from lossselect.cli.predict import predict_file
from lossselect.reporting.formulas import escape_formula
from lossselect.reporting.html import format_cell

FORMULAS = ["=1+2", "=cmd|' /C calc'!A0", "+SUM(A1)", "-2+3", "@A1", "\t=1", "\r=1", "\uff1d1", "-", "+a"]
HARMLESS = ["-1", "+1", "-1.5e3", "a=b", "cat", "", "'=1", '["=1"]', "0"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_and_no_name_is_a_formula(text):
    frame = escape_formula({"class": [text, None], text: [1.0, 2.0]})
    assert frame.columns == ["class", f"'{text}"]
    assert frame["class"].to_list() == [f"'{text}", None]


def test_what_is_no_formula_stays():
    columns = {name: [float(i)] for i, name in enumerate(HARMLESS)}
    frame = escape_formula({"class": HARMLESS, "row": range(len(HARMLESS))})
    assert frame["class"].to_list() == HARMLESS
    assert frame["row"].to_list() == [*range(len(HARMLESS))]
    assert escape_formula(columns).columns == HARMLESS
    assert escape_formula(pl.DataFrame(columns)).equals(pl.DataFrame(columns))


def test_files_of_a_run(command, tmp_path):
    """The tables of a training run, and of predict with keep=."""
    lines = ["a,b,=x,y"]
    lines += [f"{i * i % 97 + i / 7:.3f},{i % 5},=1+{i},{'=cmd|x' if i % 7 > 3 else '-1'}" for i in range(80)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    code, _, said = command(
        *("task=multiclass", "data=table", "data.path=t.csv", "data.target=y", "trainer.max_epochs=1"),
        *("data.features=[a,b]", "hydra.run.dir=r", "+task.class_names=['-1','=cmd|x']"),
    )
    assert code == 0, said
    predict_file("r/checkpoints/best.ckpt", "t.csv", "r/new.csv", keep="=x")
    for name in ("predictions.csv", "per_class.csv", "confusion_matrix.csv", "new.csv"):
        text = (tmp_path / "r" / name).read_text()
        assert "=cmd|x" in text
        assert "-1" in text
        cells = [cell for line in text.splitlines() for cell in line.split(",")]
        assert not [cell for cell in cells if cell.startswith("=")]
    assert "'=1+79" in text


def test_numbers_of_pages_have_at_least_two_digits():
    numbers = [
        0.0,
        0.5,
        1.0,
        0.0123456,
        0.00123456,
        0.002,
        -1.2e-5,
        1234.5678,
        410270.0,
        float("nan"),
        None,
        7,
    ]
    shown = [
        "0.000",
        "0.500",
        "1.000",
        "0.012",
        "0.0012",
        "0.0020",
        "-1.2e-05",
        "1234.568",
        "410270",
        "\N{EN DASH}",
        "\N{EN DASH}",
        "7",
    ]
    assert [*map(format_cell, numbers)] == shown
