"""Two runs in one folder: the second raises an error and changes nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from socket import gethostname

import pytest

from lossselect.cli import precheck
from lossselect.run import lock as run_lock
from lossselect.run.lock import LOCK, lock_folder, unlock_folders

SHORT = ("task=binary", "trainer.max_epochs=1", "+trainer.limit_train_batches=1", "report=false")

HOLDER = """
import os, sys, time
from pathlib import Path
from lossselect.run.lock import lock_folder
lock_folder(Path(sys.argv[1]))
if "fork" in sys.argv and not os.fork():  # like a worker of a data loader
    time.sleep(30)
    os._exit(0)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Start a process that locks a folder and lives until it is killed."""
    started = []

    def start(folder, *how):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, folder, *how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout.readline() == "locked\n"
        return process

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def files_in(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("more", [[], ["resume=auto"], ["task=multilabel"]], ids=str)
def test_a_second_run_is_rejected_and_changes_nothing(more, command, holder, tmp_path):
    assert command(*SHORT, "hydra.run.dir=run")[0] == 0
    alive = holder("run")
    before = files_in("run")
    code, _, err = command(*SHORT, "hydra.run.dir=run", "seed=3", *more)
    assert code == 1
    assert err == (
        f"Another run is using the folder {tmp_path / 'run'} (process {alive.pid} on {gethostname()}). Wait until it ends, stop "
        "it, or set hydra.run.dir to another folder.\n"
    )
    assert files_in("run") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_nothing_is_locked_where_nothing_is_written(command, holder):
    holder("run")
    assert command(*SHORT, "hydra.run.dir=run", "check_only=true")[0] == 0
    assert command(*SHORT, "hydra.run.dir=run", "explain=true")[0] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_and_its_workers_lock_nothing(command, holder):
    killed = holder("run", "fork")
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert (Path("run") / LOCK).exists()
    code, _, err = command(*SHORT, "hydra.run.dir=run")
    assert code == 0, err
    assert not (Path("run") / LOCK).exists()


def test_an_error_ends_the_lock(command):
    too_many = ("task=binary", "hydra.run.dir=run", "+trainer.limit_val_batches=0", "monitor=val/loss")
    assert command(*too_many)[0] == 1
    assert not (Path("run") / LOCK).exists()
    assert command(*SHORT, "hydra.run.dir=run")[0] == 0


class TestSweep:
    ARGUMENTS = ("-m", *SHORT, "seed=0,1", "hydra.sweep.dir=sweep")

    def test_before_any_job_starts(self, command, holder):
        alive = holder("sweep/1-binary")
        code, _, err = command(*self.ARGUMENTS)
        assert code == 1
        assert f"{Path('sweep/1-binary').absolute()} (process {alive.pid} on {gethostname()})" in err
        assert [*files_in("sweep")] == [Path("sweep/1-binary") / LOCK]

    def test_when_a_job_starts(self, command, holder, monkeypatch):
        """The jobs of some sweepers are not known before, and two sweeps may start at the same time."""
        monkeypatch.setattr(precheck, "check_unlocked", lambda folder: None)
        alive = holder("sweep/1-binary")
        code, _, err = command(*self.ARGUMENTS)
        assert code == 1
        assert f"{Path('sweep/1-binary').absolute()} (process {alive.pid} on {gethostname()})" in err
        assert (Path("sweep") / "0-binary" / "metrics.json").exists()
        assert not (Path("sweep") / "1-binary" / "plan.json").exists()

    def test_jobs_unlock_their_folders(self, command):
        assert command(*self.ARGUMENTS)[0] == 0
        assert not [*Path("sweep").rglob(LOCK)]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(run_lock.NOT_SUPPORTED[0], "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    lock_folder(tmp_path / "run")
    unlock_folders()
    assert (tmp_path / "run").is_dir()
