import pytest
import torch
from module_cases import TASKS, MyModel, labels_of, loader, trainer
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls
from lossselect.exceptions import ConfigError


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
class TestTraining:
    def test_learns_logs_and_predicts(self, task, tmp_path):
        module = MyModel(task, optimizer={"name": "Adam", "lr": 0.02})
        run = trainer(tmp_path, max_epochs=15)
        data = loader(task, rows=200)
        run.fit(module, data, data)
        logged = run.callback_metrics
        assert logged["val/accuracy"] > 0.9
        assert {"loss", "accuracy", "f1_micro", "f1_macro", "auroc", "average_precision"} <= {
            name.removeprefix("train/") for name in logged if name.startswith("train/")
        }
        (tested,) = run.test(module, data, verbose=False)
        assert tested["test/loss"] == pytest.approx(logged["val/loss"].item())
        predicted = torch.cat([batch["prediction"] for batch in run.predict(module, data)])
        assert predicted.shape == task.predict(torch.zeros(200, task.num_outputs)).shape
        assert predicted.unique().tolist() == list(
            range(task.num_outputs if task.name == "multiclass" else 2)
        )

    def test_the_logged_loss_is_the_mean_over_the_whole_epoch(self, task, tmp_path):
        module, data = MyModel(task), loader(task, rows=37, batch_size=16)
        (logged,) = trainer(tmp_path).validate(module, data, verbose=False)
        inputs, labels = data.dataset.tensors
        exact = ls.select_loss(task)(module(inputs), task.encode(labels))
        assert logged["val/loss"] == pytest.approx(exact.item(), rel=1e-6)

    def test_the_first_loss_equals_a_plain_loop(self, task, tmp_path):
        module, data = MyModel(task, optimizer={"name": "SGD", "lr": 0.1}), loader(task, rows=16)
        inputs, labels = data.dataset.tensors
        parameters = [p.detach().clone() for p in module.parameters()]
        loss = ls.select_loss(task)(module(inputs), task.encode(labels))
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        trainer(tmp_path).fit(module, data)
        for before, gradient, after in zip(parameters, gradients, module.parameters(), strict=True):
            torch.testing.assert_close(after, before - 0.1 * gradient)

    @pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
    def test_the_logged_loss_is_accurate_in_half_precision(self, task, precision, tmp_path):
        inputs = torch.randn(3000, 8)
        data = DataLoader(TensorDataset(inputs, labels_of(task, inputs)), batch_size=100)
        module = MyModel(task)
        run = trainer(tmp_path, precision=precision)
        (logged,) = run.validate(module, data, verbose=False)
        expected = ls.select_loss(task)(
            torch.cat([module(x.to(module.dtype)).float() for x in inputs.split(100)]),
            task.encode(data.dataset.tensors[1]),
        )
        assert logged["val/loss"] == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
    def test_the_loss_is_float32_in_half_precision(self, task, precision, tmp_path):
        seen = []

        class Watching(MyModel):
            def training_step(self, batch, batch_idx):
                outputs = super().training_step(batch, batch_idx)
                seen.append(outputs["loss"])
                return outputs

        inputs = torch.randn(32, 8).to(torch.bfloat16 if precision == "bf16-true" else torch.float32)
        data = DataLoader(TensorDataset(inputs, labels_of(task, inputs)), batch_size=16)
        module = Watching(task)
        expected = ls.select_loss(task)(
            module(inputs[:16].float()), task.encode(data.dataset.tensors[1][:16])
        )
        trainer(tmp_path, precision=precision).fit(module, data, data)
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in seen)
        torch.testing.assert_close(seen[0], expected, rtol=0.02, atol=0.01)

    def test_checkpoint_round_trip(self, task, tmp_path):
        module, data = MyModel(task, hidden=16, loss={"name": "focal", "gamma": 1.5}), loader(task)
        run = trainer(tmp_path)
        run.fit(module, data)
        run.save_checkpoint(tmp_path / "x.ckpt")
        content = torch.load(tmp_path / "x.ckpt", weights_only=True)
        assert content["task"] == task.to_dict()
        cli_task = content["hyper_parameters"]["task"]  # in the form that LightningCLI reads
        assert cli_task["class_path"].endswith(f".{type(task).__name__}")
        assert type(task)(**cli_task["init_args"]) == task
        again = MyModel.load_from_checkpoint(tmp_path / "x.ckpt")
        assert again.task == task
        assert again.criterion.options == {"gamma": 1.5}
        inputs = torch.randn(4, 8)
        assert torch.equal(again(inputs), module(inputs))

    def test_a_checkpoint_of_a_built_in_net_needs_no_net_to_load(self, task, tmp_path):
        module = ls.TaskModule(task, {"name": "mlp", "num_features": 8, "hidden": (4,)})
        run = trainer(tmp_path)
        run.fit(module, loader(task))
        run.save_checkpoint(tmp_path / "x.ckpt")
        again = ls.TaskModule.load_from_checkpoint(tmp_path / "x.ckpt")
        assert torch.equal(again.net[-1].weight, module.net[-1].weight)


class TestForms:
    def test_soft_and_hard_batches_in_one_epoch(self, tmp_path):
        task = ls.Multiclass(3)
        labels = torch.eye(3)[torch.randint(0, 3, (40,))]
        labels[3] = torch.tensor([0.5, 0.25, 0.25])  # the other batches are one-hot
        run = trainer(tmp_path)
        data = loader(task, labels=labels)
        run.fit(MyModel(task), data, data)
        exact = ls.select_loss(task)(run.model(data.dataset.tensors[0]), labels)
        assert run.callback_metrics["val/loss"] == pytest.approx(exact.item())

    def test_a_target_may_be_encoded_twice(self, tmp_path):
        class Plain(MyModel):
            def on_after_batch_transfer(self, batch, dataloader_idx):
                return batch[0] + 1, batch[1]

        task = ls.Multiclass(3, missing=-1)
        labels = torch.randint(-1, 3, (40,))
        trainer(tmp_path).fit(Plain(task), loader(task, labels=labels))


class TestTask:
    def test_thresholds_may_change(self, tmp_path):
        module, data = MyModel(ls.Binary()), loader(ls.Binary())
        run = trainer(tmp_path)
        module.task = ls.Binary(threshold=1.0)
        (got,) = run.validate(module, data, verbose=False)
        positive = sum(int(y.sum()) for _, y in data)
        assert got["val/accuracy"] == pytest.approx(1 - positive / 40)
        run.fit(module, data)
        run.save_checkpoint(tmp_path / "x.ckpt")
        assert MyModel.load_from_checkpoint(tmp_path / "x.ckpt").task.threshold == 1.0
        changed = MyModel.load_from_checkpoint(tmp_path / "x.ckpt", task=ls.Binary(threshold=0.3))
        assert changed.task.threshold == 0.3

    def test_the_number_of_outputs_may_not_change(self):
        with pytest.raises(
            ConfigError, match="is for multilabel with 3 labels, but the task is multilabel with 4"
        ):
            MyModel(ls.Multilabel(3)).task = ls.Multilabel(4)

    def test_metrics_use_the_same_predictions_as_predict(self, tmp_path):
        task = TASKS["binary"]
        module, data = MyModel(task), loader(task)
        inputs, labels = data.dataset.tensors
        for probability in task.probabilities(module(inputs))[:, 0].tolist():
            module.task = ls.Binary(threshold=probability)
            (got,) = trainer(tmp_path).validate(module, data, verbose=False)
            right = (module.task.predict(module(inputs)) == module.task.encode(labels)).float().mean()
            assert got["val/accuracy"] == pytest.approx(right.item())


def test_mixed_batches_train(tmp_path):
    for task in TASKS.values():
        for loss in ("cross_entropy", "focal"):
            module = MyModel(task, loss=loss, mix={"name": "mixup", "alpha": 1.0})
            run = trainer(tmp_path)
            run.fit(module, loader(task), loader(task))
            assert run.callback_metrics["train/loss"].isfinite()


def test_check_batch_mixes_the_batch():
    module = MyModel(ls.Binary(), mix="cutmix")
    with pytest.raises(ConfigError, match="cutmix requires images"):
        module.check_batch((torch.randn(4, 8), torch.tensor([0, 1, 1, 0])))
