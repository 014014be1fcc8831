import shutil
import warnings

import polars as pl
import pytest
import torch
from train_cases import train_in

import lossselect as ls

SHORT = ("task=multilabel", "trainer.max_epochs=2", "+trainer.limit_train_batches=4", "hydra.run.dir=run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run with the settings SHORT."""
    folder = tmp_path_factory.mktemp("trained")
    train_in(folder, *SHORT)
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    """The folder `run` of such a run, which a test may change."""
    return shutil.copytree(trained, tmp_path / "run")


class TestResume:
    def test_a_run_that_is_complete(self, command, tmp_path):
        """Nothing is trained, and the results do not change."""
        files = ("metrics.json", "predictions.csv", "per_class.csv", "logs/metrics.csv")
        assert command(*SHORT)[0] == 0  # not a copy, in which the path of the best checkpoint differs
        before = [(tmp_path / "run" / name).read_bytes() for name in files]
        code, out, err = command(*SHORT, "resume=auto")
        assert code == 0, err
        assert "after 8 steps" in " ".join(out.split())
        assert before == [(tmp_path / "run" / name).read_bytes() for name in files]

    def test_another_run_in_the_same_folder(self, command, tmp_path, run):
        """Without resume=auto the files of the earlier run are kept."""
        names = ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.json", "logs/metrics.csv")
        before = [(run / name).read_bytes() for name in names]
        code, out, err = command(*SHORT)
        assert code == 0, err
        assert "the files of an earlier run in this folder were moved to previous_run.1" in " ".join(
            out.split()
        )
        assert before == [(tmp_path / "run" / "previous_run.1" / name).read_bytes() for name in names]
        assert command(*SHORT, "resume=auto")[0] == 0
        assert not (tmp_path / "run" / "previous_run.2").exists()

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            (["loss=focal"], "differs from the checkpoint's: cross_entropy is now focal."),
            (["loss.label_smoothing=.1"], "differs from the checkpoint's: label_smoothing."),
            ([], ""),
        ],
    )
    def test_another_loss_is_a_warning(self, command, changed, message, run):
        with warnings.catch_warnings():
            warnings.simplefilter("default", ls.LossSelectWarning)
            code, _, err = command(*SHORT, "resume=auto", "trainer.max_epochs=3", *changed)
        assert code == 0, err
        assert message in err
        assert "loss_changed_on_resume" in err or not message
        assert "with a loss that differs" not in err or message

    def test_fewer_epochs_than_the_checkpoint(self, command):
        assert command(*SHORT, "trainer.max_epochs=3")[0] == 0
        code, _, err = command(*SHORT, "resume=auto", "trainer.max_epochs=1")
        assert code == 1
        assert err == (
            "The checkpoint is from epoch 3, but trainer.max_epochs=1 ends before that. Increase "
            "trainer.max_epochs, or start a new run without resume.\n"
        )

    def test_suggestions_of_a_checkpoint(self, command, run):
        for value, message in (
            ("auot", "Checkpoint not found: auot. Did you mean 'auto'?"),
            ("run", "This is a folder. It contains run/checkpoints/best.ckpt, run/checkpoints/last.ckpt."),
            ("run/checkpoints/lats.ckpt", "Did you mean 'run/checkpoints/last.ckpt'?"),
        ):
            code, _, err = command(*SHORT, f"resume={value}")
            assert code == 1
            assert message in err

    def test_more_epochs(self, command, tmp_path, run):
        code, _, err = command(*SHORT, "resume=auto", "trainer.max_epochs=3")
        assert code == 0, err
        rows = pl.read_csv(tmp_path / "run" / "logs" / "metrics.csv")
        assert rows["step"].to_list() == [3, 3, 7, 7, 11, 11]
        assert rows["val/loss"].drop_nulls().len() == 3

    def test_in_another_folder(self, command, tmp_path, run):
        """The first run's files are not changed."""
        before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        other = ("resume=run/checkpoints/last.ckpt", "hydra.run.dir=other")
        code, _, err = command(*SHORT, *other, "trainer.max_epochs=3")
        assert code == 0, err
        assert torch.load(tmp_path / "other" / "checkpoints" / "best.ckpt")["global_step"] == 12
        code, _, err = command(*SHORT, *other[:1], "hydra.run.dir=third")
        assert code == 1
        assert "the best checkpoint of another folder is not used. Resume in that folder" in err
        assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    def test_within_an_epoch_of_other_batches(self, command, tmp_path):
        steps = ["lightning.pytorch.callbacks.ModelCheckpoint", "run/checkpoints", "step", "3"]
        keys = ["_target_", "dirpath", "filename", "every_n_train_steps"]
        saving = [f"+callbacks.steps.{key}={value}" for key, value in zip(keys, steps, strict=True)]
        assert command(*SHORT, *saving)[0] == 0
        code, _, err = command(
            *SHORT, *saving, "resume=run/checkpoints/step.ckpt", "data.batch_size=32", "hydra.run.dir=b"
        )
        assert code == 1
        assert "batches have changed since (rows a batch: [64], now [32])" in err

    @pytest.mark.filterwarnings("default")
    def test_the_newest_undamaged_checkpoint(self, command, tmp_path):
        assert command(*SHORT, "monitor=val/loss")[0] == 0
        last = tmp_path / "run" / "checkpoints" / "last.ckpt"
        last.write_bytes(last.read_bytes()[:-100])
        code, out, err = command(*SHORT, "monitor=val/loss", "resume=auto")
        assert code == 0, err
        assert f"resume=auto skips a checkpoint. {last} " in err
        assert "best.ckpt,after" in "".join(out.split())
        for path in last.parent.iterdir():
            path.write_bytes(b"no checkpoint")
        code, _, err = command(*SHORT, "monitor=val/loss", "resume=auto")
        assert code == 1
        assert "resume=auto found no usable checkpoint." in err

    def test_no_checkpoint_to_resume_from(self, command):
        code, out, err = command(*SHORT, "resume=auto")
        assert code == 0, err
        assert "resumed no: there is no checkpoint in" in " ".join(out.split())

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                ["resume=auto"],
                "resume=auto resumes from the newest checkpoint in the run folder, but",
            ),
            (["resume=nowhere.ckpt"], "Checkpoint not found: nowhere.ckpt."),
            (["resume=3"], "resume must be auto or the path of a checkpoint, got 3."),
            (
                ["resume=text.ckpt"],
                "text.ckpt (9 bytes) cannot be read as a checkpoint: it was not written by torch",
            ),
        ],
    )
    def test_a_mistake(self, settings, message, command, tmp_path):
        (tmp_path / "text.ckpt").write_text("some text")
        code, _, err = command("task=binary", *settings)
        assert code == 1
        assert message in err
        assert [path.name for path in tmp_path.iterdir()] == ["text.ckpt"]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                ["optimizer=sgd"],
                "The checkpoint was saved with AdamW, CosineAnnealingLR, but this run has SGD,",
            ),
            (["model.hidden=[7]"], "The checkpoint does not fit the net: size mismatch for net."),
            (
                ["task=binary"],
                "The checkpoint was trained for multilabel with 14 labels, but the task is binary.",
            ),
        ],
    )
    def test_another_run(self, settings, message, command, tmp_path, run):
        code, _, err = command(*SHORT, "resume=run/checkpoints/last.ckpt", "hydra.run.dir=other", *settings)
        assert code == 1
        assert err.startswith(message)

    def test_another_task_does_not_change_the_folder(self, command, tmp_path, run):
        files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        code, _, err = command("task=binary", "hydra.run.dir=run", "resume=auto")
        assert code == 1
        assert err.startswith(
            "The checkpoint was trained for multilabel with 14 labels, but the task is binary."
        )
        assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files
