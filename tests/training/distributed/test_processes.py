"""Several processes and several micro-batches give the same results as one; with gloo on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
import torch
from new_process import Program, free_port, run_ranks
from paths import ROOT, SCRIPTS
from train_cases import train_in

# in one worker, because tests that run at the same time might take each other's ports
pytestmark = pytest.mark.xdist_group("processes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder with the results of distributed.py in one, two and three processes."""
    folder = tmp_path_factory.mktemp("distributed")
    for ranks in (1, 2, 3):
        run_ranks([SCRIPTS / "distributed.py", ranks, folder], ranks, folder)
    return folder


@pytest.mark.parametrize(
    ("ranks", "dtype", "tolerance", "min_cases"),
    [
        (1, "float64", 1e-12, 70),
        (2, "float64", 1e-12, 40),
        (3, "float64", 1e-12, 40),
        (2, "float32", 1e-6, 40),
    ],
)
def test_gradients_equal_those_of_all_rows_at_once(ranks, dtype, tolerance, min_cases, folder):
    lines = (folder / f"{ranks}.{dtype}.txt").read_text().splitlines()
    assert len(lines) > min_cases
    assert not [line for line in lines if not float(line.split()[0]) <= tolerance]


def _flat(found, path=""):
    if isinstance(found, dict | list | tuple):
        entries = found.items() if isinstance(found, dict) else enumerate(found)
        for key, value in entries:
            yield from _flat(value, f"{path}/{key}")
    elif not isinstance(found, str | None):
        yield path, torch.as_tensor(found).double()


@pytest.fixture(scope="module")
def found(folder):
    """The results by the number of processes, as dicts of tensors."""
    return {ranks: dict(_flat(torch.load(folder / f"{ranks}.pt"))) for ranks in (1, 2, 3)}


@pytest.mark.parametrize("ranks", [2, 3])
def test_results_equal_those_of_one_process(found, ranks):
    one, several = found[1], found[ranks]
    assert one.keys() == several.keys()
    names = ("/multilabel/validated/val/auroc", "/multiclass/confusion", "/binary/temperature")
    for name in (*names, "/several/tested/test/tags/auroc", "/several/kindconfusion"):
        assert name in one
    assert len([name for name in one if "/threshold" in name]) >= 6
    assert one["/multiclass/confusion"].sum() == (one["/multiclass/per_class/positives"]).sum()
    assert one["/built-in/steps"] == several["/built-in/steps"] == 20
    for name, value in one.items():
        counted = "positives" in name or "confusion" in name or "counts" in name
        torch.testing.assert_close(
            several[name], value, rtol=0, atol=0 if counted else 1e-8, equal_nan=True, msg=name
        )


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_results_do_not_depend_on_the_loader(found, ranks):
    """With a custom batch sampler, and with an unknown number of rows."""
    results = found[ranks].items()
    losses = [value for name, value in results if name.startswith("/others/") and name.endswith("/loss")]
    assert len(losses) == 6
    for loss in losses:
        assert abs(loss - found[1]["/others/plain/val/loss"]) <= 1e-6


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_validation_in_fit_equals_validation_of_the_checkpoint(found, ranks):
    """With running means, which differ between processes until DDP makes them equal."""
    for task in ("binary", "multiclass", "multilabel", "several"):
        assert found[ranks][f"/{task}/difference after fit"] <= 1e-6


TRAIN = ROOT / "train.py"
SAME = [
    "task=multilabel",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "model.dropout=0",
    "model.input_dropout=0",
    "report=false",
]
TWO = ["trainer=ddp", "trainer.devices=2", "data.batch_size=32"]


def start(arguments, folder, launcher=(), within=(), **variables):
    if not within and not launcher:
        return Program([TRAIN, *arguments], folder, **variables)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = [*within, sys.executable, *launcher, str(TRAIN), *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process, timeout=200):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run folder of a run in one process."""
    folder = tmp_path_factory.mktemp("one")
    train_in(folder, *SAME, "hydra.run.dir=run")
    return folder / "run"


class TestAtTheCommandLine:
    def check_same(self, run, one):
        metrics, expected = (json.loads((folder / "metrics.json").read_text()) for folder in (run, one))
        assert metrics.keys() == expected.keys()
        assert max(abs(metrics[name] - expected[name]) for name in expected) <= 1e-5
        rows, expected_rows = (pl.read_csv(folder / "predictions.csv") for folder in (run, one))
        assert rows["row", "target"].equals(expected_rows["row", "target"])
        assert (rows["p_Class1"] - expected_rows["p_Class1"]).abs().max() <= 1e-5
        classes, expected_classes = (pl.read_csv(folder / "per_class.csv") for folder in (run, one))
        assert classes["positives", "predicted"].equals(expected_classes["positives", "predicted"])

    def test_two_processes(self, one, tmp_path):
        code, out, err = finish(start([*SAME, *TWO, "report=true", "hydra.run.dir=run"], tmp_path))
        assert code == 0, err
        assert out.count("Results") == 1
        assert "batches of 32 rows, 64 rows per step" in " ".join(out.split())
        assert "2 processes" in out
        assert "sync_dist" not in err
        assert (tmp_path / "run" / "report.html").is_file()
        self.check_same(tmp_path / "run", one)

    def test_two_hosts_of_torchrun(self, one, two_hosts, tmp_path):
        """With one agent per host; only the process of the first one has a run folder."""
        settings = [*SAME, "trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2", "data.batch_size=32"]
        port, hosts = free_port(), []
        for within, variables, address in two_hosts:
            launch = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=test"]
            launch += ["--rdzv-backend=c10d", f"--rdzv-endpoint={two_hosts[0][2]}:{port}"]
            launch += [f"--local-addr={address}", f"--rdzv-conf=is_host={not hosts}"]
            hosts.append(start(settings, tmp_path, launch, within, **variables))
        results = [finish(host) for host in hosts]
        assert [code for code, _, _ in results] == [0, 0], results
        assert sum(out.count("Results") for _, out, _ in results) == 1
        (run,) = tmp_path.glob("outputs/*/*")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]
        self.check_same(run, one)

    def test_an_error_is_printed_once(self, tmp_path):
        code, _, err = finish(start([*SAME, *TWO, "optimizer.lr=1e30", "hydra.run.dir=run"], tmp_path))
        assert code == 1
        assert err.count("The loss or its gradient is not finite") == 1
        assert "Traceback" not in err

    def test_a_sweep_of_jobs_with_several_processes_raises(self, command, tmp_path):
        code, _, err = command("-m", *SAME, *TWO, "seed=0,1")
        assert code == 1
        assert "Each training would use 2 processes" in err
        assert not [*tmp_path.iterdir()]


def wait_for(path, process):
    for _ in range(1200):
        if path.is_file() or process.poll() is not None:
            return
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("which", "code", "settings"),
    [(signal.SIGTERM, 143, TWO), (signal.SIGINT, 130, TWO), (signal.SIGTERM, 143, [])],
)
def test_a_signal(which, code, settings, tmp_path):
    """Only the first process gets the signal; benchmarks/stops.py measures the time until the run ends."""
    run = [*SAME, *settings, "trainer.max_epochs=6", "hydra.run.dir=run", "resume=auto"]
    process = start([*run, "trainer.max_epochs=2000"], tmp_path)
    wait_for(tmp_path / "run" / "logs" / "metrics.csv", process)
    process.send_signal(which)
    result, _, err = finish(process, timeout=60)
    assert result == code, err
    assert f"In {tmp_path / 'run'}: checkpoints/best.ckpt, checkpoints/last.ckpt. To resume, add" in err
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]


@pytest.fixture
def two_hosts():
    """The command prefix, environment variables and address of each of two hosts.

    The hosts are network namespaces connected by a virtual wire, or this machine twice if it has no namespaces.
    """
    local = [([], {}, "127.0.0.1")] * 2
    if shutil.which("ip") is None:
        yield local
        return
    names = [f"lossselect-{os.getpid()}-{i}" for i in range(2)]
    wires = ["lossselect0", "lossselect1"]
    addresses = ["10.77.0.1", "10.77.0.2"]

    def ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip(
                "link",
                "add",
                wires[0],
                "netns",
                names[0],
                "type",
                "veth",
                "peer",
                "name",
                wires[1],
                "netns",
                names[1],
            )
            for name, wire, address in zip(names, wires, addresses, strict=True):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", wire)
                for device in ("lo", wire):
                    ip("-n", name, "link", "set", device, "up")
        except (OSError, subprocess.CalledProcessError):
            yield local
        else:
            yield [
                (["ip", "netns", "exec", name], {"GLOO_SOCKET_IFNAME": wire}, address)
                for name, wire, address in zip(names, wires, addresses, strict=True)
            ]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
