import csv
import json
import re
import sys
from pathlib import Path

import pytest
from train_cases import SHORT


def test_a_sweep_runs_each_task(command):
    code, *_ = command("-m", "task=binary,multiclass,multilabel", "hydra.sweep.dir=sweep", *SHORT)
    assert code == 0
    assert sorted(path.parent.name for path in Path("sweep").glob("*/metrics.json")) == [
        "0-binary",
        "1-multiclass",
        "2-multilabel",
    ]


@pytest.mark.parametrize(
    ("arguments", "metric"),
    [
        (["task=multilabel"], "val/average_precision"),
        (["task=binary"], "val/loss"),
        (["task=binary", "monitor=val/f1_macro"], "val/f1_macro"),
        (["task=binary", "monitor=train/loss"], None),
    ],
    ids=str,
)
@pytest.mark.parametrize("how", [[], ["-m"]], ids=["a run", "a sweep"])
def test_a_sweeper_gets_the_value_of_the_monitor(how, arguments, metric, command, monkeypatch, tmp_path):
    (tmp_path / "recorder.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Recorder(Callback):\n"
        "    values = []\n"
        "    def on_job_end(self, job_return, **kwargs):\n"
        "        self.values.append(job_return.return_value)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, _, err = command(
        *how,
        *arguments,
        "+hydra.callbacks.recorder._target_=recorder.Recorder",
        "hydra.run.dir=run",
        "hydra.sweep.dir=.",
        "hydra.sweep.subdir=run",
        *SHORT,
    )
    assert (code, err) == (0, "")
    (value,) = sys.modules.pop("recorder").Recorder.values
    if metric is None:  # metrics.json has no training metrics
        with open("run/logs/metrics.csv") as file:
            losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
        assert value == pytest.approx(min(losses))
    else:
        assert value == pytest.approx(json.loads(Path("run/metrics.json").read_text())[metric], abs=1e-6)


@pytest.mark.parametrize("what", ["explain=true", "explain=json", "check_only=true"])
def test_a_dry_run_of_a_sweep_writes_nothing(what, command, tmp_path):
    code, out, err = command("-m", "task=binary,multiclass", what)
    assert code == 0, err
    for task in ("binary", "multiclass"):
        assert (f"task={task} {what}" in out) == (what != "explain=json")
    assert "10 logits" in out
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "task=binary", "check_only=true,false"),
        ("task=binary", "-m", "seed=0,1", "explain=false,true"),
    ],
    ids=" ".join,
)
def test_all_jobs_of_a_sweep_are_dry_runs_or_none(arguments, command, tmp_path):
    code, _, err = command(*arguments)
    assert code == 1
    assert "explain and check_only must be the same for all jobs of a sweep." in err
    assert not [*tmp_path.iterdir()]


SWEEP = ("-m", "task=binary", "hydra.sweep.dir=sweep", "model=linear", *SHORT)


def read_summary():
    with open("sweep/summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_ends_with_a_table_of_means_over_seeds(command):
    code, out, err = command(*SWEEP, "seed=0,1", "optimizer.lr=1e-5,1e-2")
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if re.match(r"\d-binary", line)]
    assert len(lines) == 4
    assert len(out.splitlines()) < 20
    rows = {row["optimizer.lr"]: row for row in read_summary()}
    assert [rows[lr]["best"] for lr in ("1e-05", "0.01")] == ["", "best"]
    for lr, row in rows.items():
        values = []
        for folder in row["run"].split():
            metrics = json.loads(Path(f"sweep/{folder}/metrics.json").read_text())
            values.append(metrics["test/accuracy"])
            record = json.loads(Path(f"sweep/{folder}/run.json").read_text())
            assert record["value"] == pytest.approx(metrics["val/loss"])
            assert f"optimizer.lr={lr}" in Path(f"sweep/{folder}/.hydra/overrides.yaml").read_text()
        assert float(row["test/accuracy"]) == pytest.approx(sum(values) / 2)
        assert float(row["test/accuracy (standard error)"]) == pytest.approx(abs(values[0] - values[1]) / 2)
    assert "0.01" in Path("sweep/summary.html").read_text()


@pytest.mark.parametrize("verbose", ["auto", "true"])
def test_a_failed_job_is_a_line_and_a_row_with_its_message(command, verbose):
    code, out, err = command(*SWEEP, "optimizer.lr=1e-2,1e30", f"verbose={verbose}")
    assert code == 1
    lines = re.findall(r"(?m)^(.*) failed after .* The loss or its gradient is not finite", out)
    assert lines == ["1-binary"]
    assert re.fullmatch(r"1-binary: The loss or its gradient is not finite .*\n", err)  # no line of Hydra
    good, failed = read_summary()
    assert (good["finished"], failed["finished"]) == ("1", "0")
    assert failed["error"].startswith("The loss or its gradient is not finite")
    page = Path("sweep/summary.html").read_text()
    assert page.count("not finite") == 1
    assert page.index("</table>") < page.index("not finite")


def test_jobs_of_an_earlier_sweep_in_the_same_folder_are_left_out(command):
    assert command(*SWEEP, "seed=0,1,2")[0] == 0
    code, out, _ = command(*SWEEP, "seed=3,4")
    assert code == 0
    assert "are left out: 1." in out
    assert [row["seed"] for row in read_summary()] == ["3 4"]


def test_a_verbose_sweep_prints_plans(command):
    code, out, _ = command(*SWEEP, "verbose=true")
    assert code == 0
    assert out.startswith("Plan")
    assert "Results of epoch" in out


def test_a_run_that_is_not_verbose_prints_one_line(command):
    code, out, err = command("task=binary", "hydra.run.dir=run", "verbose=false", "model=linear", *SHORT)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"run: val/loss [\d.]+, test/accuracy .* s \[task=binary .*\]\n", out)


def test_an_interrupted_run_records_why(command, monkeypatch):
    monkeypatch.setattr(
        "lossselect.run.results.evaluation.evaluate", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    code, *_ = command("task=binary", "hydra.run.dir=run", "model=linear", *SHORT)
    assert code == 130
    record = json.loads(Path("run/run.json").read_text())
    assert record["error"].startswith("Interrupted after 14 steps")
    assert record["fit_seconds"] > 0


def test_a_smoke_test_of_each_job_saves_no_table(command):
    code, out, err = command(*SWEEP, "seed=0,1", "+trainer.fast_dev_run=true")
    assert code == 0, err
    assert out.count("Smoke test passed") == 2
    assert not [*Path("sweep").glob("summary.*")]
