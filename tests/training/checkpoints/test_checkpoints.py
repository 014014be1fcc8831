"""Checkpoints are written completely or not at all, and damage is detected."""

import contextlib
import errno
import itertools
import os
import random
import resource
import signal
import time
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import lossselect as ls
from lossselect.data.batches import TensorBatches
from lossselect.exceptions import CheckpointError, StorageError
from lossselect.training.checkpoints.content import read_checkpoint
from lossselect.training.checkpoints.saving import CheckpointFiles
from lossselect.training.checkpoints.validation import check_resumable
from lossselect.training.lifecycle import RunHooks
from lossselect.utils.atomic_write import atomic_write, remove_partial_files


def content(number, size=1000):
    checkpoint = {"state_dict": {}, "weights": torch.full((size,), float(number)), "numbers": [number]}
    ls.TaskModule(ls.Binary()).on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.fixture
def trained(tmp_path):
    data = TensorBatches(torch.randn(32, 4), torch.randint(0, 3, (32,)))
    saving = ModelCheckpoint(tmp_path / "saved", save_last=True)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[saving],
        default_root_dir=tmp_path,
    )
    module = ls.TaskModule(ls.Multiclass(3), nn.Linear(4, 3))
    trainer.fit(module, data.loader(8), data.loader(8))
    return trainer, module, data, tmp_path / "saved" / "last.ckpt"


class TestWriting:
    def test_a_users_trainer_writes_atomically(self, trained):
        trainer, _, _, last = trained
        assert type(trainer.strategy.checkpoint_io) is CheckpointFiles
        assert read_checkpoint(last)["task"] == ls.Multiclass(3).to_dict()
        assert not [*last.parent.glob(".*")]

    def test_the_plugin_of_a_user_is_kept(self, tmp_path):
        class Own(TorchCheckpointIO):
            pass

        plugin = Own()
        trainer = L.Trainer(
            fast_dev_run=1, accelerator="cpu", plugins=[plugin], enable_progress_bar=False, logger=False
        )
        data = TensorBatches(torch.randn(8, 4), torch.randint(0, 3, (8,)))
        trainer.fit(ls.TaskModule(ls.Multiclass(3), nn.Linear(4, 3)), data.loader(8))
        assert trainer.strategy.checkpoint_io is plugin

    def test_the_previous_file_survives_a_full_disk(self, tmp_path, monkeypatch):
        path, files = tmp_path / "a.ckpt", CheckpointFiles()
        files.save_checkpoint(content(1), path)

        def full(content, file):
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            files.save_checkpoint(content(2), path)
        assert read_checkpoint(path)["numbers"] == [1]
        assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]

    def test_the_message_for_a_full_disk(self, tmp_path):
        path, files = tmp_path / "a.ckpt", CheckpointFiles()
        files.save_checkpoint(content(1), path)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, before[1]))  # a longer write fails
        try:
            with pytest.raises(
                StorageError, match=r"a\.ckpt cannot be written: File too large after 1\.\d MB"
            ):
                files.save_checkpoint({**content(2), "weights": torch.zeros(1_000_000)}, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert read_checkpoint(path)["numbers"] == [1]
        assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]

    def test_is_synced_before_it_replaces_the_previous_file(self, tmp_path, monkeypatch):
        path, calls = tmp_path / "a.ckpt", []
        sync, replace = os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", lambda d: calls.append(os.readlink(f"/proc/self/fd/{d}")) or sync(d))
        monkeypatch.setattr(os, "replace", lambda *names: calls.append("replace") or replace(*names))
        CheckpointFiles().save_checkpoint(content(1), path)
        assert calls == [str(tmp_path / ".a.ckpt.part"), "replace", str(tmp_path)]

    def test_partial_files_of_a_killed_process_are_removed(self, tmp_path):
        for name in (".old.ckpt.part", ".other.csv.part", "kept.ckpt"):
            (tmp_path / name).write_text("half")
        CheckpointFiles().save_checkpoint(content(1), tmp_path / "a.ckpt")
        assert sorted(p.name for p in tmp_path.iterdir()) == [".other.csv.part", "a.ckpt", "kept.ckpt"]
        remove_partial_files(tmp_path, ".csv")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ckpt", "kept.ckpt"]

    def test_partial_files_of_a_running_process_are_kept(self, tmp_path):
        """Two runs may save to the same folder: only files older than the first save are removed."""
        CheckpointFiles().save_checkpoint(content(1), tmp_path / "a.ckpt")
        (tmp_path / ".b.ckpt.part").write_text("half")
        CheckpointFiles().save_checkpoint(content(2), tmp_path / "a.ckpt")
        assert (tmp_path / ".b.ckpt.part").exists()

    @pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
    def test_a_process_that_is_killed_while_it_saves(self, folder, tmp_path_factory):
        """Test the file system of temporary files, and another one."""
        if not os.access(folder, os.W_OK) or not hasattr(os, "fork"):
            pytest.skip(f"needs os.fork and {folder}")
        place = Path(folder) / f"lossselect-{os.getpid()}-kills"
        place.mkdir()
        path, chance = place / "a.ckpt", random.Random(0)
        try:
            CheckpointFiles().save_checkpoint(content(0), path)
            for _ in range(5):
                child = os.fork()
                if not child:
                    number = 0
                    while True:
                        number += 1
                        CheckpointFiles().save_checkpoint(content(number, 200_000), path)
                time.sleep(0.02 + chance.random() / 20)
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                found = read_checkpoint(path)
                assert set(found["weights"].tolist()) == {float(found["numbers"][0])}
        finally:
            for file in place.iterdir():
                file.unlink()
            place.rmdir()


class TestReading:
    def test_each_flipped_bit_is_found_or_changes_nothing(self, tmp_path):
        path, found = tmp_path / "a.ckpt", 0
        CheckpointFiles().save_checkpoint(content(3, 20), path)
        whole = path.read_bytes()
        for place, bit in itertools.product(range(len(whole)), range(8)):
            with path.open("r+b") as file:  # writing the whole file would take four times as long
                file.seek(place)
                file.write(bytes([whole[place] ^ 1 << bit]))
            got = None
            with contextlib.suppress(ValueError):
                got = read_checkpoint(path)
            with path.open("r+b") as file:
                file.seek(place)
                file.write(whole[place : place + 1])
            found += got is None
            if got is not None:
                assert torch.equal(got["weights"], torch.full((20,), 3.0)), (place, bit)
                assert (got["numbers"], got["task"]) == ([3], ls.Binary().to_dict())
        assert found > 4 * len(whole)

    def test_a_weight_that_has_changed(self, trained):
        *_, last = trained
        whole = bytearray(last.read_bytes())
        weight = read_checkpoint(last)["state_dict"]["net.weight"].numpy().tobytes()
        place = whole.index(weight)
        whole[place + 5] ^= 4
        last.write_bytes(whole)
        torch.load(last, weights_only=True)  # does not detect it
        with pytest.raises(
            ValueError, match=r"last.ckpt \(\d+ bytes\) is damaged: its part .*data/\d+ has changed"
        ):
            ls.TaskModule.load_from_checkpoint(last, net=nn.Linear(4, 3))

    def test_one_full_stop(self, trained, tmp_path):
        content = read_checkpoint(trained[-1])
        content["loss"]["label_smoothing"] = 7
        torch.save(content, tmp_path / "d.ckpt")
        with pytest.raises(CheckpointError, match=r"got 7\. Use another checkpoint"):
            ls.TaskModule.load_from_checkpoint(tmp_path / "d.ckpt", net=nn.Linear(4, 3))

    def test_generators_of_another_size(self, trained):
        content = read_checkpoint(trained[-1])
        content["run_state"][0]["random"]["torch"] = torch.get_rng_state()[:-1]
        with pytest.raises(
            CheckpointError, match=r"\['random'\] is not the state of random number generators"
        ):
            check_resumable(content, "d.ckpt")

    def test_an_optimizer_of_a_gpu(self, trained):
        """`capturable` requires a GPU, but does not change the structure of the state."""
        content = read_checkpoint(trained[-1])
        content["optimizer_states"][0]["param_groups"][0] |= {"capturable": True, "fused": None}
        check_resumable(content, "d.ckpt")
        del content["optimizer_states"][0]["state"][0]["exp_avg"]
        with pytest.raises(CheckpointError, match="has no 'exp_avg'"):
            check_resumable(content, "d.ckpt")

    @pytest.mark.filterwarnings("ignore:Checkpoint directory")
    def test_another_optimizer_raises_before_labels_are_counted(self, trained):
        class Unread(torch.utils.data.Dataset):
            def __len__(self):
                return 32

        trainer, _, _, last = trained
        trainer.fit_loop.max_epochs = 2
        options = {"loss": {"name": "cross_entropy", "weight": "balanced"}, "optimizer": {"name": "SGD"}}
        module = ls.TaskModule(ls.Multiclass(3), nn.Linear(4, 3), **options)
        with pytest.raises(CheckpointError, match="with AdamW, but this run has SGD"):
            trainer.fit(module, torch.utils.data.DataLoader(Unread(), 8), ckpt_path=last)

    @pytest.mark.filterwarnings("ignore:Checkpoint directory")
    def test_its_weights_are_released_before_training(self, trained):
        trainer, module, data, last = trained
        kept = []

        class Record(L.Callback):
            def on_train_start(self, trainer, _):
                hooks = next(callback for callback in trainer.callbacks if isinstance(callback, RunHooks))
                kept.extend(hooks.run_state.checkpoint)

        trainer.callbacks.append(Record())
        trainer.fit_loop.max_epochs = 2
        trainer.fit(module, data.loader(8), data.loader(8), ckpt_path=last)
        assert kept == ["run_state", "loss", "task"]

    @pytest.mark.filterwarnings("ignore:Checkpoint directory")
    @pytest.mark.parametrize("fraction", [0, 0.3, 0.999])
    def test_resume_from_a_truncated_file(self, fraction, trained):
        trainer, module, data, last = trained
        whole = last.read_bytes()
        last.write_bytes(whole[: int(fraction * len(whole))])
        trainer.fit_loop.max_epochs = 2
        with pytest.raises(ValueError, match=r"last.ckpt \(\d+ bytes\) cannot be read as a checkpoint: "):
            trainer.fit(module, data.loader(8), data.loader(8), ckpt_path=last)

    def test_nothing_is_executed_with_weights_only_false(self, trained, tmp_path):
        trainer, module, data, _ = trained

        class Hostile:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "executed"),)

        torch.save({**content(1), "state_dict": {}, "callbacks": Hostile()}, tmp_path / "h.ckpt")
        with pytest.raises(ValueError, match=r"more than tensors and plain values, for example posix\.mkdir"):
            trainer.test(module, data.loader(8), ckpt_path=tmp_path / "h.ckpt", weights_only=False)
        assert not (tmp_path / "executed").exists()


def test_a_file_is_written_completely_or_not_at_all(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("before")

    def write():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        write()
    assert path.read_text() == "before"
    assert [*tmp_path.iterdir()] == [path]
