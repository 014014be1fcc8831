import warnings

import polars as pl
import pytest
import torch

import lossselect as ls


class TestResume:
    SHORT = ("task=multilabel", "trainer.max_epochs=2", "+trainer.limit_train_batches=4", "hydra.run.dir=run")

    def test_a_run_that_is_complete(self, command, tmp_path):
        """Nothing is trained again, and its results are what they were."""
        files = ("metrics.json", "predictions.csv", "per_class.csv", "logs/metrics.csv")
        assert command(*self.SHORT)[0] == 0
        before = [(tmp_path / "run" / name).read_bytes() for name in files]
        code, out, err = command(*self.SHORT, "resume=auto")
        assert code == 0, err
        assert "after 8 steps" in " ".join(out.split())
        assert before == [(tmp_path / "run" / name).read_bytes() for name in files]

    def test_begun_anew_in_the_same_folder(self, command, tmp_path):
        """Whoever forgets resume=auto has the files of before."""
        names = ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.json", "logs/metrics.csv")
        for _ in range(2):
            before = [path.read_bytes() for name in names if (path := tmp_path / "run" / name).exists()]
            code, out, err = command(*self.SHORT)
            assert code == 0, err
        assert "what another run left in this folder is in previous_run.1 now" in " ".join(out.split())
        assert before == [(tmp_path / "run" / "previous_run.1" / name).read_bytes() for name in names]
        assert command(*self.SHORT, "resume=auto")[0] == 0
        assert not (tmp_path / "run" / "previous_run.2").exists()

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            (["loss=focal"], "differs from the checkpoint's: cross_entropy is now focal."),
            (["loss.label_smoothing=.1"], "differs from the checkpoint's: label_smoothing."),
            ([], ""),
        ],
    )
    def test_another_loss_is_said(self, command, changed, said):
        assert command(*self.SHORT)[0] == 0
        with warnings.catch_warnings():
            warnings.simplefilter("default", ls.LossSelectWarning)
            code, _, err = command(*self.SHORT, "resume=auto", "trainer.max_epochs=3", *changed)
        assert code == 0, err
        assert said in err
        assert "loss_changed_on_resume" in err or not said
        assert "with a loss that differs" not in err or said

    def test_fewer_epochs_than_have_been(self, command):
        assert command(*self.SHORT, "trainer.max_epochs=3")[0] == 0
        code, _, err = command(*self.SHORT, "resume=auto", "trainer.max_epochs=1")
        assert code == 1
        assert err == (
            "The checkpoint is of epoch 3, and trainer.max_epochs=1 ends before that: say more epochs, or "
            "begin anew without resume.\n"
        )

    def test_hints_at_the_checkpoint_that_is_meant(self, command):
        assert command(*self.SHORT)[0] == 0
        for given, said in (
            ("auot", "There is no checkpoint auot. Did you mean 'auto'?"),
            ("run", "This is a folder. It contains run/checkpoints/best.ckpt, run/checkpoints/last.ckpt."),
            ("run/checkpoints/lats.ckpt", "Did you mean 'run/checkpoints/last.ckpt'?"),
        ):
            code, _, err = command(*self.SHORT, f"resume={given}")
            assert code == 1
            assert said in err

    def test_more_epochs(self, command, tmp_path):
        assert command(*self.SHORT)[0] == 0
        code, _, err = command(*self.SHORT, "resume=auto", "trainer.max_epochs=3")
        assert code == 0, err
        rows = pl.read_csv(tmp_path / "run" / "logs" / "metrics.csv")
        assert rows["step"].to_list() == [3, 3, 7, 7, 11, 11]
        assert rows["val/loss"].drop_nulls().len() == 3

    def test_in_another_folder(self, command, tmp_path):
        """The first run's files are left alone."""
        assert command(*self.SHORT)[0] == 0
        before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        other = ("resume=run/checkpoints/last.ckpt", "hydra.run.dir=other")
        code, _, err = command(*self.SHORT, *other, "trainer.max_epochs=3")
        assert code == 0, err
        assert torch.load(tmp_path / "other" / "checkpoints" / "best.ckpt")["global_step"] == 12
        code, _, err = command(*self.SHORT, *other[:1], "hydra.run.dir=third")
        assert code == 1
        assert "the best checkpoint of another folder is left alone: go on in its own folder" in err
        assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    def test_within_an_epoch_of_other_batches(self, command, tmp_path):
        steps = ["lightning.pytorch.callbacks.ModelCheckpoint", "run/checkpoints", "step", "3"]
        keys = ["_target_", "dirpath", "filename", "every_n_train_steps"]
        saving = [f"+callbacks.steps.{key}={value}" for key, value in zip(keys, steps, strict=True)]
        assert command(*self.SHORT, *saving)[0] == 0
        code, _, err = command(
            *self.SHORT, *saving, "resume=run/checkpoints/step.ckpt", "data.batch_size=32", "hydra.run.dir=b"
        )
        assert code == 1
        assert "batches have changed since (rows a batch: [64], now [32])" in err

    @pytest.mark.filterwarnings("default")
    def test_the_newest_whole_one(self, command, tmp_path):
        assert command(*self.SHORT, "monitor=val/loss")[0] == 0
        last = tmp_path / "run" / "checkpoints" / "last.ckpt"
        last.write_bytes(last.read_bytes()[:-100])
        code, out, err = command(*self.SHORT, "monitor=val/loss", "resume=auto")
        assert code == 0, err
        assert f"Warning: {last} " in err
        assert "It is passed over. (ignore_warnings=[damaged_checkpoint]" in err
        assert "best.ckpt,after" in "".join(out.split())
        for path in last.parent.iterdir():
            path.write_bytes(b"no checkpoint")
        code, _, err = command(*self.SHORT, "monitor=val/loss", "resume=auto")
        assert code == 1
        assert "resume=auto finds no checkpoint to go on from." in err

    def test_nothing_to_go_on_from(self, command):
        code, out, err = command(*self.SHORT, "resume=auto")
        assert code == 0, err
        assert "resumed from nothing: there is no checkpoint in" in " ".join(out.split())

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            (
                ["resume=auto"],
                "resume=auto goes on from the newest checkpoint in the run's folder, and without",
            ),
            (["resume=nowhere.ckpt"], "There is no checkpoint nowhere.ckpt."),
            (["resume=3"], "resume must be auto, or the path of a checkpoint, got 3."),
            (
                ["resume=text.ckpt"],
                "text.ckpt (9 bytes) cannot be read as a checkpoint: it was not written by torch",
            ),
        ],
    )
    def test_a_mistake(self, settings, said, command, tmp_path):
        (tmp_path / "text.ckpt").write_text("some text")
        code, _, err = command("task=binary", *settings)
        assert code == 1
        assert said in err
        assert [path.name for path in tmp_path.iterdir()] == ["text.ckpt"]

    @pytest.mark.parametrize(
        ("settings", "said"),
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
    def test_another_run(self, settings, said, command, tmp_path):
        assert command(*self.SHORT)[0] == 0
        code, _, err = command(
            *self.SHORT, "resume=run/checkpoints/last.ckpt", "hydra.run.dir=other", *settings
        )
        assert code == 1
        assert err.startswith(said)

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            (
                "b",
                "The data have changed: they had 1 features when the checkpoint was saved, and now have 2.",
            ),
            (
                "y",
                "The checkpoint was trained for multiclass with 3 classes, but the task is multiclass with 4",
            ),
        ],
    )
    def test_other_data(self, column, message, command, tmp_path):
        """The error names the data before the weights, whose shapes depend on them."""
        table = pl.DataFrame(
            {"a": [(i * i) % 7 / 3 for i in range(80)], "y": ["xyz"[i % 3] for i in range(80)]}
        )
        values = {"b": [i % 5 / 2 for i in range(80)], "y": ["wxyz"[i % 4] for i in range(80)]}[column]
        settings = ("task=multiclass", "data=table", "data.path=t.csv", "data.target=y", "report=false")
        settings = (
            *settings,
            "trainer.max_epochs=1",
            "hydra.run.dir=run",
            "ignore_warnings=[duplicate_rows]",
        )
        table.write_csv(tmp_path / "t.csv")
        assert command(*settings)[0] == 0
        table.with_columns(pl.Series(column, values)).write_csv(tmp_path / "t.csv")
        code, _, err = command(*settings, "resume=auto", "trainer.max_epochs=2")
        assert code == 1
        assert err.startswith(message)

    def test_another_task_leaves_the_folder_alone(self, command, tmp_path):
        assert command(*self.SHORT)[0] == 0
        files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        code, _, err = command("task=binary", "hydra.run.dir=run", "resume=auto")
        assert code == 1
        assert err.startswith(
            "The checkpoint was trained for multilabel with 14 labels, but the task is binary."
        )
        assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files
