"""`lossselect data`: the overview of a file on the console, and its files."""

import json
from functools import partial

import polars as pl
import pytest
from scipy import sparse

from lossselect.cli import main as cli

ROWS = [
    *zip(
        [i * 7 % 50 for i in range(60)],
        ["Bern", "Chur", "Basel"] * 20,
        ["yes", "no", "yes", "no"] * 15,
        strict=True,
    )
]


@pytest.fixture
def data(command, call, tmp_path):
    """Run `lossselect data` in a folder with a.csv."""
    pl.DataFrame(ROWS, ["age", "city", "y"], orient="row").write_csv(tmp_path / "a.csv")
    return partial(call, cli.main, "lossselect", "data")


def test_shows_rows_labels_and_columns(data):
    code, out, err = data("data.path=a.csv", "data.target=y")
    assert (code, err) == (0, "")
    for text in (" training, ", "3: 1 number, 1 category, 1 target", "binary, 2 classes", "0 to 49"):
        assert text in out
    assert "data.exclude=[city]" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("scaling", "text"),
    [("standard", "standardised"), ("robust", "by median and quartiles"), ("quantile", "by quantiles")],
)
@pytest.mark.parametrize("target", [[], ["data.target=y"]])
def test_names_the_scaling(data, scaling, text, target):
    _, out, _ = data("data.path=a.csv", f"data.scaling={scaling}", *target)
    assert text in " ".join(out.split())


def test_takes_the_settings_of_a_run(data):
    code, out, _ = data(
        "task=multiclass", "data=table", "data.path=a.csv", "data.target=city", "data.exclude=[age]", "seed=3"
    )
    assert code == 0
    assert "multiclass, 3 classes" in out
    assert "not read" in out


def test_warnings_follow_and_can_be_silenced(data, tmp_path):
    pl.DataFrame({"k": [1] * 40, "x": [*range(40)], "y": ["a", "b"] * 20}).write_csv(tmp_path / "b.csv")
    _, _, err = data("data.path=b.csv", "data.target=y", "data.positive=a", "output=b.json")
    assert "Warning: Columns with a single value" in err
    names = {warning["name"] for warning in json.loads((tmp_path / "b.json").read_text())["warnings"]}
    assert names == {"constant_feature", "index_column"}
    _, _, err = data(
        "data.path=b.csv",
        "data.target=y",
        "data.positive=a",
        "ignore_warnings=[constant_feature,index_column]",
    )
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.target=z"], "a.csv has no column 'z' (data.target)"),
        ([], "A target is required"),
        (["data.target=city"], "sorted"),
        (["data.target=y", "task=multilabel"], "multilabel"),
        (["data.target=y", "data.split=city"], "a split must be"),
        (["data.target=y", "data.batch_size=0"], "data.batch_size must be"),
    ],
)
def test_columns_are_shown_before_the_error(arguments, message, data):
    if message == "sorted":
        arguments, message = [*arguments, "task=binary"], "binary"
    code, out, err = data("data.path=a.csv", *arguments)
    assert code == 1
    assert "one-hot, 3 categories" in out or "labels" in out or "data.split" in out
    assert message in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "File not found: b.csv. Did you mean 'a.csv'?"),
        ("", "b.csv is empty"),
        ("a,y\n", "b.csv has no rows"),
        ("a,a\n1,2\n", "more than one column 'a'"),
        ("a,y\n1,2\n3\n", "has 1 cell"),
        ("PK\x03\x04", "ZIP"),
    ],
)
def test_unreadable_files(content, message, data, tmp_path):
    if content is not None:
        (tmp_path / "b.csv").write_text(content)
    code, out, err = data("data.path=b.csv", "data.target=y", "output=o.json")
    assert (code, out) == (1, "")
    assert message in err
    assert not (tmp_path / "o.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.path=a.csv", "data.targt=y"], "Unknown setting 'data.targt'. Did you mean 'target'?"),
        (["data.path=a.csv", "target=y"], "Unknown setting 'target'. Set data.target=y."),
        (["data.path=a.csv", "optimizer.lr=1"], "optimizer.lr has no effect on lossselect data"),
        (["data.path=a.csv", "-m"], "-m has no effect"),
        (["data.path=a.csv", "+x=1"], "Unknown setting 'x'"),
        (["a.csv"], "use data=table data.path=a.csv"),
        (["data=table"], "A file is required"),
        (["data.path=a.csv", "+data._target_=os.system"], "got a data module"),
        (["data.path=a.csv", "data.target=y", "data.date_format=5"], "data.date_format must be"),
        (["data.path=a.csv", "data.target=y", "data.max_memory=x"], "data.max_memory must be"),
        (["data.path=a.csv", "data.target=y", "~data.exclude"], "data.exclude is required"),
        (["data.path=a.csv", "data.target=y", "output=a.csv"], "output=a.csv is data.path"),
        (["data.path=a.csv", "data.target=y", "output=."], "output=. is a folder."),
        (["data.path=a.csv", "data.target=y", "output=o.txt"], "must end in .json or .csv"),
        (
            ["data.path=a.csv", "data.target=y", "output=no/o.csv"],
            "The folder no of output=no/o.csv does not exist",
        ),
    ],
)
def test_wrong_settings(arguments, message, data, tmp_path):
    before = (tmp_path / "a.csv").read_bytes()
    code, _, err = data(*arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert (tmp_path / "a.csv").read_bytes() == before


def test_a_bug_in_the_outline_is_not_hidden(data, monkeypatch):
    def fail(settings):
        raise KeyError("bug")

    monkeypatch.setattr("lossselect.data.overview.outline", fail)
    with pytest.raises(KeyError, match="bug"):
        data("data.path=a.csv", "data.target=z")


def test_files_have_all_columns(data, tmp_path):
    wide = {f"x{i}": [i, 1, 2, 3] * 10 for i in range(300)}
    pl.DataFrame({**wide, "=cmd|x": [0, 1] * 20, "y": ["a", "b"] * 20}).write_csv(tmp_path / "w.csv")
    settings = ("data.path=w.csv", "data.target=y", "data.positive=a", "ignore_warnings=[duplicate_rows]")
    code, out, _ = data(*settings, "output=o.csv")
    assert code == 0
    assert "Shown are 40 of 302." in out
    assert out.index("data.target") < out.index(
        "data.exclude=[x0]"
    )  # the columns that are not features come first
    columns = pl.read_csv(tmp_path / "o.csv")
    assert columns["name"].to_list() == [*wide, "'=cmd|x", "y"]
    data(*settings, "output=o.json")
    assert len(json.loads((tmp_path / "o.json").read_text())["columns"]) == 302


def test_an_error_is_in_the_file(data, tmp_path):
    code, _, err = data("data.path=a.csv", "data.target=z", "output=o.json")
    assert code == 1
    assert json.loads((tmp_path / "o.json").read_text())["error"] == err.strip()


def test_hidden_characters_are_escaped(data, tmp_path):
    columns = {"\x1b[2Jc": ["\x1b[31mred", "[bold]b"] * 20, "y": ["<b>\x1b", "n"] * 20}
    pl.DataFrame(columns).write_csv(tmp_path / "b.csv")
    _, out, _ = data(
        "data.path=b.csv", "data.target=y", "task=multiclass", "ignore_warnings=[target_leakage]"
    )
    assert "\x1b" not in out
    assert r"\x1b[2Jc" in out
    assert "[bold]b" in out


def test_sample_data_have_labels(data):
    code, out, _ = data("data=digits")
    assert code == 0
    assert "multiclass, 10 classes" in out


def test_libsvm_files_and_sparse_features(data, tmp_path):
    (tmp_path / "d.svm").write_text("1 1:0.5\n2 2:1\n1 1:1\n2 2:0.25\n" * 10)
    code, out, _ = data("data.path=d.svm", "task=multiclass", "ignore_warnings=[duplicate_rows]")
    assert code == 0
    assert "multiclass, 2 classes" in out
    assert "the positive class is unknown" in data("data.path=d.svm", "task=binary")[2]
    sparse.save_npz(tmp_path / "x.npz", sparse.csr_array([[1.0, 0.0]] * 10))
    assert "Set data.target to the file of the labels" in data("data.path=x.npz")[2]


def test_help(data):
    for arguments in ([], ["--help"]):
        assert "lossselect data data.path=train.csv" in data(*arguments)[1]
