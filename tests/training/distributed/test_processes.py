"""Several processes, and several micro-batches, give the numbers of one; gloo on this machine."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import polars as pl
import pytest
import torch
from paths import ROOT, SCRIPTS

# at the same time they might take each other's ports
pytestmark = pytest.mark.xdist_group("processes")


def output_of(script, *arguments, timeout=240, cwd=None):
    """What a script prints; it starts its other processes itself."""
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("ranks", "group", "dtype", "most", "cases", "least"),
    [
        (1, 4, "float64", 1e-12, "all", 100),
        (2, 1, "float64", 1e-12, "some", 30),
        (3, 4, "float64", 1e-12, "all", 100),
        (2, 4, "float32", 1e-6, "some", 30),
    ],
)
def test_gradients_are_those_of_one_process(ranks, group, dtype, most, cases, least):
    printed = output_of("gradients.py", ranks, group, dtype, cases)
    lines = re.findall(r"^(\S+) (.+, holes .+)$", printed, re.M)
    assert len(lines) > least
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
def test_whatever_the_loader(found, ranks):
    """A batch sampler of the user's own, and rows whose number nobody knows."""
    whole = found[ranks]
    losses = [
        value for name, value in whole.items() if name.startswith("/others/") and name.endswith("/loss")
    ]
    assert len(losses) == 6
    for loss in losses:
        assert abs(loss - found[1]["/others/plain/val/loss"]) <= 1e-6


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_validation_while_fitting_is_what_the_checkpoint_gives(found, ranks):
    """With running means, which differ between processes until they are made equal."""
    for task in ("binary", "multiclass", "multilabel"):
        assert found[ranks][f"/{task}/same again"] <= 1e-6


TRAIN = ROOT / "train.py"
SAME = [
    "task=multilabel",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "model.dropout=0",
    "model.input_dropout=0",
]
TWO = ["trainer=ddp", "trainer.devices=2", "data.batch_size=32"]


def start(arguments, folder, launcher=(), within=(), **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = [*within, sys.executable, *launcher, str(TRAIN), *arguments]
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
        assert "batches of 32 rows, 64 rows a step" in " ".join(said.split())
        assert "2 processes" in said
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
    """The first process alone gets it; how soon it ends is for benchmarks/stops.py to say."""
    run = [*SAME, *settings, "trainer.max_epochs=6", "hydra.run.dir=run", "resume=auto"]
    process = start([*run, "trainer.max_epochs=2000"], tmp_path)
    wait_for(tmp_path / "run" / "logs" / "metrics.csv", process)
    process.send_signal(which)
    result, _, complained = ended(process, timeout=60)
    assert result == code, complained
    assert f"In {tmp_path / 'run'}: checkpoints/best.ckpt, checkpoints/last.ckpt. To go on: " in complained
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]


@pytest.fixture
def two_hosts():
    """Two network namespaces with a wire between them: name and address of each."""
    if shutil.which("ip") is None:
        pytest.skip("no network namespaces on this machine: there is no command ip")
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
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces on this machine: {error}")
        yield [*zip(names, wires, addresses, strict=True)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_two_hosts_of_a_network(one, two_hosts, tmp_path):
    """Each has a network of its own, and reaches the other by a wire alone."""
    settings = [*SAME, "trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2", "data.batch_size=32"]
    hosts = []
    for rank, (name, wire, _) in enumerate(two_hosts):
        launch = ["-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1"]
        launch += [f"--master-addr={two_hosts[0][2]}", "--master-port=29511"]
        within = ["ip", "netns", "exec", name]
        hosts.append(start(settings, tmp_path, launch, within, GLOO_SOCKET_IFNAME=wire))
    results = [ended(host) for host in hosts]
    assert [code for code, _, _ in results] == [0, 0], results
    (run,) = tmp_path.glob("outputs/*/*")
    TestAtTheCommandLine().check_same(run, one)


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
