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


def test_draws_by_its_thread_alone_and_ends_complete(monkeypatch, tmp_path):
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
        logger=CSVLogger(tmp_path, version="a1b2c3"),  # which Lightning would show
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
    """Seconds, which pass when a test says so."""
    now = [100.0]
    monkeypatch.setattr("lossselect.training.callbacks.progress.time.monotonic", lambda: now[0])
    return now


def said_in_fit(capsys, clock, seconds, lines, callbacks=(), start=None, **options):
    """The lines of a fit of 4 batches an epoch that take so many seconds each."""

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


def test_a_line_at_most_each_ten_seconds(capsys, clock):
    said = said_in_fit(capsys, clock, 1, ProgressLines(), max_epochs=20)
    assert [line.split("  ")[0] for line in said] == [f"epoch {n}/20" for n in (1, 4, 7, 10, 13, 16, 19, 20)]
    assert [line.split("  ")[-1] for line in said[:2]] == ["0:01:16 left", "0:01:04 left"]
    assert said[-1].endswith("  0:01:20 in all")
    first = [part.split(" ")[0] for part in said[0].split("  ")[1:-1]]
    assert first == ["val/loss", "val/f1_macro", "train/loss"]
    float(said[0].split("  ")[1].split(" ")[1])


def test_a_long_epoch_has_a_line_each_minute(capsys, clock):
    said = said_in_fit(capsys, clock, 30, ProgressLines(), max_epochs=2)
    assert [line.split("  ")[0] for line in said] == [
        "epoch 1/2, batch 2/4",
        "epoch 1/2, batch 4/4",
        "epoch 1/2",
        "epoch 2/2, batch 2/4",
        "epoch 2/2, batch 4/4",
        "epoch 2/2",
    ]
    assert [line.split("  ")[-1] for line in said[:3]] == ["0:03:00 left", "0:02:00 left", "0:02:00 left"]


@pytest.mark.parametrize(
    ("limits", "end", "left"),
    [
        ({"max_epochs": 10, "max_steps": 8}, "epoch 2/10", "0:00:40 left"),
        ({"max_epochs": -1, "max_steps": 8}, "epoch 2", "0:00:40 left"),
        ({"max_epochs": -1, "max_time": "00:00:01:00"}, None, "-:--:-- left"),
    ],
    ids=str,
)
def test_the_limit_that_comes_first_ends_the_run(limits, end, left, capsys, clock):
    said = said_in_fit(capsys, clock, 10, ProgressLines(), **limits)
    if end is not None:
        assert said[-1].startswith(f"{end}  ")
    assert said[0].endswith(left)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_run_that_goes_on_counts_from_where_it_begins(capsys, clock, tmp_path):
    saves = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
    said_in_fit(capsys, clock, 1, ProgressLines(), [saves], max_epochs=2)
    path = tmp_path / "last.ckpt"
    said = said_in_fit(capsys, clock, 3, ProgressLines(), [saves], path, max_epochs=6)
    assert said[0].startswith("epoch 3/6  ")
    assert said[0].endswith("  0:00:36 left")
    assert said[-1].endswith("  0:00:48 in all")


def test_the_metric_that_chooses_the_best_epoch_is_shown(capsys, clock, tmp_path):
    saves = ModelCheckpoint(tmp_path, "best", monitor="val/average_precision", mode="max")
    said = said_in_fit(capsys, clock, 1, ProgressLines(), [saves], max_epochs=1)
    assert [part.split(" ")[0] for part in said[0].split("  ")[1:-1]] == [
        "val/loss",
        "val/f1_macro",
        "val/average_precision",
        "train/loss",
    ]


def test_of_several_processes_the_first_one_speaks(capsys):
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
    said = [line for line in out.splitlines() if line.startswith("epoch ")]
    assert [line.split("  ")[0] for line in said] == ["epoch 1/3", "epoch 3/3"]
    assert all(character == "\n" or character.isprintable() for character in out + err)


def test_a_run_that_shows_nothing_says_no_line(command):
    code, out, _ = command(
        *("task=binary", "trainer.max_epochs=1", "hydra.run.dir=run", "report=false"),
        *("trainer.enable_progress_bar=false", "logger=none", "decision=none"),
    )
    assert code == 0
    assert "epoch 1/1" not in out
