import lightning.pytorch as L
import pytest
import torch
from module_cases import TASKS, MyModel, loader, trainer
from torch.utils.data import DataLoader

import lossselect as ls


class TestHooks:
    def test_unpack_batch_returns_inputs_and_target(self, tmp_path):
        class Dicts(MyModel):
            def unpack_batch(self, batch):
                return batch["x"], batch["y"]

        rows = [{"x": torch.randn(8), "y": i % 2} for i in range(4)]
        module, run = Dicts(ls.Binary()), trainer(tmp_path)
        run.fit(module, DataLoader(rows, batch_size=2))
        assert len(run.predict(module, DataLoader(rows, batch_size=2))) == 2

    def test_the_replaced_unpack_batch_of_a_module_is_used_to_predict(self, tmp_path):
        module = MyModel(ls.Binary())
        inputs = torch.randn(4, 8)
        expected = module.eval().predict(2 * inputs)["probabilities"]
        module.unpack_batch = lambda batch: (2 * batch[0], batch[1])
        (found,) = trainer(tmp_path).predict(module, DataLoader(list(zip(inputs, [0] * 4, strict=True)), 4))
        torch.testing.assert_close(found["probabilities"], expected)

    def test_an_override_of_step_is_called_in_each_stage(self, tmp_path):
        class Doubled(MyModel):
            calls = ()

            def step(self, batch):
                self.calls += ("train" if self.trainer.training else "evaluation",)
                out = super().step(batch)
                out.loss = 2 * out.loss
                return out

        class Losses(L.Callback):
            def __init__(self):
                self.found = {"train": [], "val": [], "test": []}

            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
                self.found["train"].append(outputs["loss"])

            def on_validation_batch_end(self, trainer, pl_module, outputs, *_):
                self.found["val"].append(outputs["loss"])

            def on_test_batch_end(self, trainer, pl_module, outputs, *_):
                self.found["test"].append(outputs["loss"])

        task, losses = TASKS["binary"], []
        data = loader(task)
        for cls in (MyModel, Doubled):
            torch.manual_seed(0)
            module, recorded = cls(task, optimizer={"name": "SGD", "lr": 0.0}), Losses()
            run = trainer(tmp_path, max_epochs=1, callbacks=[recorded])
            run.fit(module, data, data)
            run.test(module, data, verbose=False)
            losses.append([loss for stage in recorded.found.values() for loss in stage])
        torch.testing.assert_close(losses[1], [2 * loss for loss in losses[0]])
        assert module.calls.count("train") == len(data)
        assert len(module.calls) == len(losses[1]) > 2 * len(data)

    def test_a_custom_loss_gets_logits_and_the_canonical_target(self, tmp_path):
        seen = []

        def loss(logits, target):
            seen.append((logits.shape, target.shape, target.dtype))
            return ((logits.sigmoid() - target) ** 2).mean()

        trainer(tmp_path).fit(
            MyModel(ls.Binary(), loss=loss), loader(ls.Binary(), labels=torch.arange(40) % 2)
        )
        assert seen[0] == ((16, 1), (16, 1), torch.float32)

    def test_an_interrupted_epoch_leaves_nothing_behind(self, tmp_path):
        module, data = MyModel(TASKS["binary"]), loader(TASKS["binary"])
        (first,) = trainer(tmp_path).validate(module, data, verbose=False)
        module.validation_step(next(iter(data)), 0)  # an epoch that does not end
        (second,) = trainer(tmp_path).validate(module, data, verbose=False)
        assert first == second


class TestHooksWithoutSuper:
    """Overrides of hooks that do nothing in Lightning, so that users do not call super() in them."""

    def test_epochs_and_checkpoints(self, tmp_path):
        class Silent(MyModel):
            def setup(self, stage): ...
            def on_train_epoch_end(self): ...
            def on_validation_epoch_end(self): ...
            def on_test_epoch_end(self): ...
            def on_save_checkpoint(self, checkpoint): ...
            def on_load_checkpoint(self, checkpoint): ...

        task = TASKS["multilabel"]
        silent, plain, data = Silent(task), MyModel(task), loader(task)
        silent.load_state_dict(plain.state_dict())
        values = []
        for module in (silent, plain):
            torch.manual_seed(1)
            run = trainer(tmp_path, max_epochs=2)
            run.fit(module, data, data)
            values.append(dict(run.callback_metrics))
        assert values[0] == values[1]
        assert len(values[0]) == 2 * 10
        assert not silent._epochs["val"].first._held
        silent.trainer.save_checkpoint(tmp_path / "x.ckpt")
        assert Silent.load_from_checkpoint(tmp_path / "x.ckpt").task == task
        with pytest.raises(
            ValueError, match="trained for multilabel with 3 labels, but the task is multiclass"
        ):
            Silent.load_from_checkpoint(tmp_path / "x.ckpt", task=ls.Multiclass(3))
        with pytest.raises(
            ValueError, match="trained for multilabel with 3 labels, but the task is multiclass"
        ):
            trainer(tmp_path).fit(
                Silent(ls.Multiclass(3)),
                loader(ls.Multiclass(3)),
                ckpt_path=tmp_path / "x.ckpt",
                weights_only=True,
            )
        plain.trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
        assert MyModel.load_from_checkpoint(tmp_path / "weights.ckpt").task == task

    def test_hyperparameters_that_cannot_be_loaded_are_left_out(self, tmp_path):
        class Data(L.LightningDataModule):
            def __init__(self, pool, rows=40):
                super().__init__()
                self.save_hyperparameters()

            def train_dataloader(self):
                return loader(ls.Binary(), rows=self.hparams.rows)

        run = trainer(tmp_path)
        run.fit(MyModel(ls.Binary()), datamodule=Data(pool=object()))
        run.save_checkpoint(tmp_path / "x.ckpt")
        assert torch.load(tmp_path / "x.ckpt", weights_only=True)["datamodule_hyper_parameters"] == {
            "rows": 40
        }
