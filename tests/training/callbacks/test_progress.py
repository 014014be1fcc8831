import io
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from trainers import quiet_trainer

import lossselect as ls
from lossselect.data.batches import TensorBatches
from lossselect.training.callbacks.progress import Pace, ProgressBar, ProgressLines, is_terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_only_the_thread_draws_and_the_last_state_is_complete(monkeypatch, tmp_path):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    data = TensorBatches(torch.randn(64, 4), torch.randint(0, 3, (64,)))
    module = ls.TaskModule(ls.Multiclass(3), nn.Linear(4, 3))
    seen = []

    class Watching(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            progress = trainer.progress_bar_callback.progress
            thread = progress.live._refresh_thread
            seen.append((thread.refresh_per_second, progress.refresh == progress.soft_refresh))

    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=CSVLogger(tmp_path, version="a1b2c3"),  # Lightning's bar would show the version
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[ProgressBar(), Watching()],
    )
    trainer.fit(module, data.loader(16), data.loader(16))
    shown = terminal.getvalue()
    assert "Epoch 2/2" in shown
    assert "4/4" in shown
    for metric in ("val/loss", "val/accuracy", "train/loss"):
        assert metric in shown
    for other in ("v_num", "train/accuracy", "it/s"):
        assert other not in shown
    assert seen == [(5, True)] * 8
    assert trainer.progress_bar_callback.progress.live._refresh_thread is None


def test_a_notebook_shows_the_end(monkeypatch):
    bar, drawn = ProgressBar(), []
    console, live = SimpleNamespace(is_jupyter=True), SimpleNamespace(is_started=True)
    live.refresh = lambda: drawn.append("refresh")
    bar.progress = SimpleNamespace(console=console, live=live, stop=lambda: drawn.append("stop"))
    bar._stop_progress()
    assert drawn == ["refresh", "stop"]


def test_a_terminal_that_cannot_redraw_gets_lines(monkeypatch):
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert is_terminal()
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert not is_terminal()


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test advances."""
    now = [100.0]
    monkeypatch.setattr("lossselect.training.callbacks.progress.time.monotonic", lambda: now[0])
    return now


def lines_of_fit(capsys, clock, seconds, lines, callbacks=(), start=None, **options):
    """Return the lines that are printed in a fit with 4 batches per epoch, of `seconds` each."""

    class Slow(L.Callback):
        def on_train_batch_start(self, *_):
            clock[0] += seconds

    data = TensorBatches(torch.randn(64, 4), torch.randint(0, 2, (64, 2)).float())
    module = ls.TaskModule(ls.Multilabel(2), nn.Linear(4, 2))
    trainer = quiet_trainer(
        callbacks=[Slow(), lines, *callbacks], enable_checkpointing=bool(callbacks), **options
    )
    trainer.fit(module, data.loader(16), data.loader(16), ckpt_path=start, weights_only=True)
    return capsys.readouterr().out.splitlines()


def test_at_most_one_line_in_ten_seconds(capsys, clock):
    lines = lines_of_fit(capsys, clock, 1, ProgressLines(), max_epochs=20)
    assert [line.split("  ")[0] for line in lines] == [f"epoch {n}/20" for n in (1, 4, 7, 10, 13, 16, 19, 20)]
    assert [line.split("  ")[-1] for line in lines[:2]] == ["0:01:16 left", "0:01:04 left"]
    assert lines[-1].endswith("  0:01:20 in total")
    first = [part.split(" ")[0] for part in lines[0].split("  ")[1:-1]]
    assert first == ["val/loss", "val/f1_macro", "train/loss"]
    float(lines[0].split("  ")[1].split(" ")[1])


def test_a_long_epoch_has_a_line_every_minute(capsys, clock):
    lines = lines_of_fit(capsys, clock, 30, ProgressLines(), max_epochs=2)
    assert [line.split("  ")[0] for line in lines] == [
        "epoch 1/2, batch 2/4",
        "epoch 1/2, batch 4/4",
        "epoch 1/2",
        "epoch 2/2, batch 2/4",
        "epoch 2/2, batch 4/4",
        "epoch 2/2",
    ]
    assert [line.split("  ")[-1] for line in lines[:3]] == ["0:03:00 left", "0:02:00 left", "0:02:00 left"]


@pytest.mark.parametrize(
    ("limits", "end", "left"),
    [
        ({"max_epochs": 10, "max_steps": 8}, "epoch 2/10", "0:00:40 left"),
        ({"max_epochs": -1, "max_steps": 8}, "epoch 2", "0:00:40 left"),
        ({"max_epochs": -1, "max_time": "00:00:01:00"}, None, "-:--:-- left"),
    ],
    ids=str,
)
def test_the_time_left_uses_the_limit_that_is_reached_first(limits, end, left, capsys, clock):
    lines = lines_of_fit(capsys, clock, 10, ProgressLines(), **limits)
    if end is not None:
        assert lines[-1].startswith(f"{end}  ")
    assert lines[0].endswith(left)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_resumed_run_measures_from_where_it_starts(capsys, clock, tmp_path):
    saves = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
    lines_of_fit(capsys, clock, 1, ProgressLines(), [saves], max_epochs=2)
    path = tmp_path / "last.ckpt"
    lines = lines_of_fit(capsys, clock, 3, ProgressLines(), [saves], path, max_epochs=6)
    assert lines[0].startswith("epoch 3/6  ")
    assert lines[0].endswith("  0:00:36 left")
    assert lines[-1].endswith("  0:00:48 in total")


def test_the_monitor_is_shown(capsys, clock, tmp_path):
    saves = ModelCheckpoint(tmp_path, "best", monitor="val/average_precision", mode="max")
    lines = lines_of_fit(capsys, clock, 1, ProgressLines(), [saves], max_epochs=1)
    assert [part.split(" ")[0] for part in lines[0].split("  ")[1:-1]] == [
        "val/loss",
        "val/f1_macro",
        "val/average_precision",
        "train/loss",
    ]


def test_only_rank_0_prints(capsys):
    lines = ProgressLines()
    progress = SimpleNamespace(processed=1, started=1, ready=4)
    loop = SimpleNamespace(batch_progress=SimpleNamespace(current=progress))
    trainer = SimpleNamespace(
        is_global_zero=False, current_epoch=0, max_epochs=2, max_steps=-1, global_step=0,
        num_training_batches=4, progress_bar_metrics={},
        fit_loop=SimpleNamespace(epoch_progress=SimpleNamespace(current=progress), epoch_loop=loop),
    )  # fmt: skip
    lines.on_train_start(trainer, None)
    trainer.current_epoch = 1
    for trainer.is_global_zero, count in ((False, 0), (True, 1)):
        lines.last_epoch = 0
        lines.on_train_end(trainer, None)
        assert len(capsys.readouterr().out.splitlines()) == count
    assert Pace(trainer).remaining() == "-:--:--"


def test_a_pipe_gets_lines_and_no_control_characters(command):
    code, out, err = command("task=binary", "trainer.max_epochs=3", "hydra.run.dir=run", "report=false")
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 3/3"]
    assert all(character == "\n" or character.isprintable() for character in out + err)


def test_no_lines_without_a_progress_bar(command):
    code, out, _ = command(
        *("task=binary", "trainer.max_epochs=1", "hydra.run.dir=run", "report=false"),
        *("trainer.enable_progress_bar=false", "logger=none", "decision=none"),
    )
    assert code == 0
    assert "epoch 1/1" not in out
