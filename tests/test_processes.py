"""Several processes, and several micro-batches, give the numbers of one; gloo on this machine."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

SCRIPTS = Path(__file__).parent / "processes"


def output_of(script, *arguments, timeout=240, cwd=None):
    """What a script prints; it starts its other processes itself."""
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("ranks", "group", "dtype", "most"),
    [
        (1, 4, "float64", 1e-12),
        (2, 1, "float64", 1e-12),
        (3, 4, "float64", 1e-12),
        (2, 4, "float32", 1e-6),
    ],
)
def test_gradients_are_those_of_one_process(ranks, group, dtype, most):
    lines = re.findall(r"^(\S+) (.+, holes .+)$", output_of("gradients.py", ranks, group, dtype), re.M)
    assert len(lines) > 100
    assert not [(error, case) for error, case in lines if not float(error) <= most]


def _flat(found, path=""):
    if isinstance(found, dict | list | tuple):
        entries = found.items() if isinstance(found, dict) else enumerate(found)
        for key, value in entries:
            yield from _flat(value, f"{path}/{key}")
    elif not isinstance(found, str | None):
        yield path, torch.as_tensor(found).double()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By how many processes: metrics and the like, each by a name."""
    folder = tmp_path_factory.mktemp("found")
    for ranks, batch in ((1, 60), (2, 30), (3, 20)):
        output_of("evaluation.py", ranks, batch, folder / f"{ranks}.pt")
    return {ranks: dict(_flat(torch.load(folder / f"{ranks}.pt"))) for ranks in (1, 2, 3)}


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_is_found_is_what_one_process_finds(found, ranks):
    one, several = found[1], found[ranks]
    assert one.keys() == several.keys()
    for name in ("/multilabel/validated/val/auroc", "/multiclass/confusion", "/binary/temperature"):
        assert name in one
    assert len([name for name in one if "/threshold" in name]) >= 6
    assert one["/multiclass/confusion"].sum() == (one["/multiclass/per_class/positives"]).sum()
    assert one["/ours/steps"] == several["/ours/steps"] == 20
    for name, value in one.items():
        counted = "positives" in name or "confusion" in name or "counts" in name
        torch.testing.assert_close(
            several[name], value, rtol=0, atol=0 if counted else 1e-8, equal_nan=True, msg=name
        )


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_validation_while_fitting_is_what_the_checkpoint_gives(found, ranks):
    """With running means, which differ between processes until they are made equal."""
    for task in ("binary", "multiclass", "multilabel"):
        assert found[ranks][f"/{task}/same again"] <= 1e-6


TRAIN = Path(__file__).parent.parent / "train.py"
SAME = [
    "task=multilabel",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "model.dropout=0",
    "model.input_dropout=0",
]
TWO = ["trainer=ddp", "trainer.devices=2", "data.batch_size=32"]


def start(arguments, folder, launcher=()):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(TRAIN), *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ended(process, timeout=200):
    said, complained = process.communicate(timeout=timeout)
    return process.returncode, said, complained


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder of a run of one process."""
    folder = tmp_path_factory.mktemp("one")
    code, _, complained = ended(start([*SAME, "hydra.run.dir=run"], folder))
    assert code == 0, complained
    return folder / "run"


class TestAtTheCommandLine:
    def check_same(self, run, one):
        metrics, wanted = (json.loads((folder / "metrics.json").read_text()) for folder in (run, one))
        assert metrics.keys() == wanted.keys()
        assert max(abs(metrics[name] - wanted[name]) for name in wanted) <= 1e-5
        rows, those = (pl.read_csv(folder / "predictions.csv") for folder in (run, one))
        assert rows["row", "target"].equals(those["row", "target"])
        assert (rows["p_Class1"] - those["p_Class1"]).abs().max() <= 1e-5
        classes, these = (pl.read_csv(folder / "per_class.csv") for folder in (run, one))
        assert classes["positives", "predicted"].equals(these["positives", "predicted"])

    def test_two_processes(self, one, tmp_path):
        code, said, complained = ended(start([*SAME, *TWO, "hydra.run.dir=run"], tmp_path))
        assert code == 0, complained
        assert said.count("Results") == 1
        assert "by 2 processes of 32 rows" in " ".join(said.split())
        assert "sync_dist" not in complained
        self.check_same(tmp_path / "run", one)

    def test_two_hosts_of_torchrun(self, one, tmp_path):
        """Two agents on this host, as on two; only the first one's process has the run's folder."""
        launch = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
        launch += [f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=test", "--local-addr=127.0.0.1"]
        settings = [*SAME, "trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2", "data.batch_size=32"]
        hosts = [start(settings, tmp_path, launch) for _ in range(2)]
        results = [ended(host) for host in hosts]
        assert [code for code, _, _ in results] == [0, 0], results
        assert sum(said.count("Results") for _, said, _ in results) == 1
        (run,) = tmp_path.glob("outputs/*/*")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]
        self.check_same(run, one)

    def test_a_mistake_is_said_once(self, tmp_path):
        code, _, complained = ended(start([*SAME, *TWO, "optimizer.lr=1e30", "hydra.run.dir=run"], tmp_path))
        assert code == 1
        assert complained.count("The loss or its gradient is not finite") == 1
        assert "Traceback" not in complained

    def test_a_sweep_of_several_processes_each(self, tmp_path):
        code, _, complained = ended(start(["-m", *SAME, *TWO, "seed=0,1"], tmp_path))
        assert code == 1
        assert "Each job of this sweep (-m) would be 2 processes, which it cannot start" in complained
        assert not [*tmp_path.iterdir()]


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
