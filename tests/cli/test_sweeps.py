import csv
import json
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
