import json
import re
from pathlib import Path

import pytest
from run_folders import write_run

from lossselect.cli import main as command_line

CSV = "row,target,prediction,p_yes\n" + "".join(
    f"{i},{'yes' if i % 2 else 'no'},{{}},0.7\n" for i in range(40)
)
GOOD = re.sub(r"(yes|no),\{\}", r"\1,\1", CSV)
BAD = CSV.replace("{}", "yes")
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def compare(call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *words: call(command_line.main, "lossselect", "compare", *words)


@pytest.fixture
def runs(tmp_path):
    """Return two run folders: model=mlp is right, and model=linear always says yes."""
    for model, text, value in (("mlp", GOOD, 0.1), ("linear", BAD, 0.4)):
        metrics = {"val/loss": value, "test/accuracy": 1 if model == "mlp" else 0.5, "test/loss": value}
        classes = f"class,f1\nyes,{value}\n{SCRIPT},0.5\n"
        data = {"name": "t.csv", "rows": {"train": 100, "test": 40}}
        write_run(
            tmp_path / model, f"model={model}", metrics=metrics, value=value, predictions=text, per_class=classes,
            data=data,
        )  # fmt: skip
    return ["mlp", "linear"]


def test_prints_runs_intervals_and_differences(runs, compare):
    code, out, err = compare(*runs)
    assert (code, err) == (0, "")
    assert re.search(r"\*\s+mlp\s+mlp\s+0\.1000", out)
    assert "* marks the best by val/loss." in out
    assert re.search(r"mlp\s+1\.000 \[1\.000, 1\.000\]", out)
    assert re.search(r"linear\s+40\s+-0\.500, p=0\.001", out)
    assert "Saved compare.html" in out
    page = Path("compare.html").read_text()
    assert page.count("<svg") == 1  # the log of a run is missing
    assert SCRIPT not in page
    assert SCRIPT.replace("<", "&lt;").replace(">", "&gt;") in page


def test_each_run_has_a_curve(runs, compare):
    """The shortened names of runs may be equal."""
    folders = []
    for end in "ab":
        folder = Path(f"{'long' * 9}{end}")
        Path(runs[0]).rename(folder) if end == "a" else Path(runs[1]).rename(folder)
        (folder / "logs").mkdir()
        (folder / "logs" / "metrics.csv").write_text("epoch,val/loss\n0,1\n1,0.5\n")
        folders.append(str(folder))
    assert compare(*folders)[0] == 0
    page = Path("compare.html").read_text()
    assert page.count("<figure>") == 2
    first = page[page.index("<figure>") : page.index("</figure>")]
    assert first.count("longlonglon\N{HORIZONTAL ELLIPSIS}") == 2  # in the legend


def test_json(runs, compare):
    code, out, _ = compare("mlp", "linear", "--json", "--output", "page.html")
    assert code == 0
    (content,) = json.loads(out)
    assert (content["best"], content["reference"], content["compared_by"]) == (["mlp"], "mlp", "val/loss")
    linear = content["runs"][1]
    assert linear["settings"] == {"model": "linear"}
    assert linear["common_rows"] == 40
    assert linear["differences"]["accuracy"]["value"] == -0.5
    assert linear["intervals"]["accuracy"]["low"] < 0.5 < linear["intervals"]["accuracy"]["high"]
    assert Path("page.html").is_file()


def test_runs_of_other_rows_or_data_are_not_tested(runs, compare, tmp_path):
    other = re.sub(r"(?m)^(\d+),", lambda found: f"{int(found[1]) + 100},", GOOD)
    data = {"name": "other.csv", "rows": {"train": 10}}
    write_run(tmp_path / "c", "model=c", metrics={"val/loss": 1}, value=1, predictions=other, data=data)
    write_run(tmp_path / "d", "model=d", metrics={"val/loss": 1}, value=1)
    code, out, err = compare(*runs, "c", "d")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "c: no test against mlp: there are no common test rows." in text
    assert "d: no intervals: d has no predictions.csv." in text
    assert "c: the data are other.csv (10 train)." in text
    assert "mlp, linear: the data are t.csv (100 train, 40 test)." in text


def test_predictions_that_do_not_agree_with_the_metrics_have_no_intervals(runs, compare, tmp_path):
    """predictions.csv of a multilabel task does not show which labels are missing."""
    metrics = {"val/loss": 1, "test/accuracy": 0.7}
    write_run(tmp_path / "c", "model=c", metrics=metrics, value=1, predictions=GOOD)
    code, out, _ = compare(*runs, "c")
    assert code == 0
    assert "c: no intervals: accuracy is 1.000 by predictions.csv, but 0.700 by metrics.json" in " ".join(
        out.split()
    )


def test_runs_that_failed(runs, compare, tmp_path):
    write_run(tmp_path / "c", "model=c", error="The loss is \x1b[31mnot finite.")
    code, out, err = compare(*runs, "c")
    assert (code, err) == (0, "")
    assert "c: The loss is" in out
    assert "\x1b[31m" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mlp"], "There is only one run, mlp. Give at least two."),
        (["mlp", "missing"], "The folder missing does not exist."),
        (
            ["mlp", "table.csv"],
            "table.csv is a file outside a run folder. Give a run folder, or a file in one.",
        ),
        (["mlp", "linear", "--output=page.pdf"], "must end in .html"),
        (["mlp", "linear", "--jsn"], "Unknown option --jsn"),
    ],
    ids=" ".join,
)
def test_mistakes_are_one_message(words, message, runs, compare, tmp_path):
    (tmp_path / "table.csv").touch()
    before = {*tmp_path.rglob("*")}
    code, out, err = compare(*words)
    assert (code, out) == (1, "")
    assert message in err
    assert "Traceback" not in err
    assert {*tmp_path.rglob("*")} == before


def test_help_lists_the_options(compare):
    code, out, _ = compare("--help")
    assert code == 0
    assert "--json" in out
