import io
import threading
import time
from types import SimpleNamespace

import lightning.pytorch as L
import torch
from torch import nn

import lossselect as ls
from lossselect.data.batches import TensorBatches
from lossselect.progress import ProgressBar, _Drawing


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
            seen.append((type(thread), thread.refresh_per_second, progress.refresh == progress.soft_refresh))

    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[ProgressBar(), Watching()],
    )
    trainer.fit(module, data.loader(16), data.loader(16))
    shown = terminal.getvalue()
    assert "Epoch 1/1" in shown
    assert "4/4" in shown
    assert "train/loss" in shown
    assert seen == [(_Drawing, 5, True)] * 8
    assert trainer.progress_bar_callback.progress.live._refresh_thread is None


def test_nothing_is_drawn_while_nothing_changes():
    live = SimpleNamespace(_lock=threading.RLock(), refresh=lambda: drawn.append(None))
    thread, drawn = _Drawing(live, 1000), []
    thread.start()
    for _ in range(3):
        thread.refresh_cond = True
        while thread.refresh_cond:
            time.sleep(0.001)
    time.sleep(0.02)
    thread.stop()
    thread.join(10)
    assert len(drawn) == 3


def test_a_notebook_shows_the_end(monkeypatch):
    bar, drawn = ProgressBar(), []
    console, live = SimpleNamespace(is_jupyter=True), SimpleNamespace(is_started=True)
    live.refresh = lambda: drawn.append("refresh")
    bar.progress = SimpleNamespace(console=console, live=live, stop=lambda: drawn.append("stop"))
    bar._stop_progress()
    assert drawn == ["refresh", "stop"]
