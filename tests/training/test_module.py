import copy
import enum
import inspect
import math
import pickle
import re
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls
from lossselect.labels.targets import EncodedBatch
from lossselect.losses.class_weights import prior_of
from lossselect.training.checkpoints.content import plain

TASKS = {"binary": ls.Binary(), "multiclass": ls.Multiclass(3), "multilabel": ls.Multilabel(3)}


def labels_of(task, inputs):
    """Labels that a linear net can learn, in a form that users have."""
    if task.name == "multiclass":
        return inputs[:, : task.num_outputs].argmax(1)
    return (inputs[:, : task.num_outputs] > 0).int()


def loader(task, rows=40, batch_size=16, labels=None):
    inputs = torch.randn(rows, 8)
    labels = labels_of(task, inputs) if labels is None else labels
    return DataLoader(TensorDataset(inputs, labels), batch_size=batch_size)


def trainer(tmp_path, **options):
    options = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False} | options
    return L.Trainer(
        default_root_dir=tmp_path, enable_checkpointing=False, enable_model_summary=False, **options
    )


class MyModel(ls.TaskModule):
    """As a user's own project has it."""

    def __init__(self, task, hidden=64, **kwargs):
        super().__init__(task=task, **kwargs)
        self.net = nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, task.num_outputs))

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
class TestTraining:
    def test_learns_logs_and_predicts(self, task, tmp_path):
        module = MyModel(task, optimizer={"name": "Adam", "lr": 0.02})
        run = trainer(tmp_path, max_epochs=15)
        data = loader(task, rows=200)
        run.fit(module, data, data)
        logged = run.callback_metrics
        assert logged["val/accuracy"] > 0.9
        assert {"loss", "accuracy", "f1_micro", "f1_macro", "auroc", "map"} <= {
            name.removeprefix("train/") for name in logged if name.startswith("train/")
        }
        (tested,) = run.test(module, data, verbose=False)
        assert tested["test/loss"] == pytest.approx(logged["val/loss"].item())
        predicted = torch.cat([batch["prediction"] for batch in run.predict(module, data)])
        assert predicted.shape == task.predict(torch.zeros(200, task.num_outputs)).shape
        assert predicted.unique().tolist() == list(
            range(task.num_outputs if task.name == "multiclass" else 2)
        )

    def test_the_logged_loss_is_that_of_the_whole_epoch(self, task, tmp_path):
        module, data = MyModel(task), loader(task, rows=37, batch_size=16)
        (logged,) = trainer(tmp_path).validate(module, data, verbose=False)
        inputs, labels = data.dataset.tensors
        exact = ls.select_loss(task)(module(inputs), task.encode(labels))
        assert logged["val/loss"] == pytest.approx(exact.item(), rel=1e-6)

    def test_the_first_loss_equals_a_plain_loop(self, task, tmp_path):
        module, data = MyModel(task), loader(task, rows=16)
        inputs, labels = data.dataset.tensors
        parameters = [p.detach().clone() for p in module.parameters()]
        loss = ls.select_loss(task)(module(inputs), task.encode(labels))
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        optimizer = {"name": "SGD", "lr": 0.1}
        module.optimizer_spec = optimizer
        trainer(tmp_path).fit(module, data)
        for before, gradient, after in zip(parameters, gradients, module.parameters(), strict=True):
            torch.testing.assert_close(after, before - 0.1 * gradient)

    @pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
    def test_the_logged_loss_keeps_its_digits_in_half_precision(self, task, precision, tmp_path):
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
                loss = super().training_step(batch, batch_idx)
                seen.append(loss)
                return loss

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
        assert content["task"] == content["hyper_parameters"]["task"] == task.to_dict()
        again = MyModel.load_from_checkpoint(tmp_path / "x.ckpt")
        assert again.task == task
        assert again.criterion.options == {"gamma": 1.5}
        inputs = torch.randn(4, 8)
        assert torch.equal(again(inputs), module(inputs))

    def test_a_net_by_name_needs_no_further_argument(self, task, tmp_path):
        module = ls.TaskModule(task, {"name": "mlp", "num_features": 8, "hidden": (4,)})
        run = trainer(tmp_path)
        run.fit(module, loader(task))
        run.save_checkpoint(tmp_path / "x.ckpt")
        again = ls.TaskModule.load_from_checkpoint(tmp_path / "x.ckpt")
        assert torch.equal(again.net[0].weight, module.net[0].weight)


class TestMistakes:
    @pytest.mark.parametrize(
        ("module", "message"),
        [
            (
                ls.TaskModule(TASKS["multilabel"], nn.Linear(8, 4)),
                "(16, 4), but multilabel with 3 labels needs (N, 3)",
            ),
            (ls.TaskModule(TASKS["binary"], nn.Linear(8, 2)), "for two use task=multiclass"),
            (ls.TaskModule(TASKS["binary"], nn.Sequential(nn.Linear(8, 1), nn.Flatten(0))), "no squeeze()"),
            (ls.TaskModule(TASKS["multilabel"]), "TaskModule has no net: pass net=..., or override forward."),
            (
                ls.TaskModule(TASKS["multilabel"], nn.Linear(8, 3), loss=lambda x, y: (x - y) ** 2),
                "The loss must return a scalar tensor, got a tensor of shape (16, 3)",
            ),
            (
                ls.TaskModule(TASKS["multilabel"], nn.Linear(8, 3), loss=lambda x, y: 1.0),
                "The loss must return a scalar tensor, got float",
            ),
        ],
    )
    def test_found_before_the_first_step(self, module, message, tmp_path):
        before = [p.detach().clone() for p in module.parameters()]
        with pytest.raises(ValueError, match=re.escape(message)):
            trainer(tmp_path).fit(
                module, loader(TASKS["multilabel"], labels=torch.randint(0, 2, (40, module.task.num_outputs)))
            )
        assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))

    @pytest.mark.parametrize(
        ("task", "labels", "message"),
        [
            ("multiclass", torch.ones(40, 3), "Row 0 of the target has 3 ones"),
            (
                "multilabel",
                torch.zeros(40, dtype=torch.long),
                "Class indices of shape (N,) belong to task=multiclass",
            ),
            ("binary", 1 + torch.arange(40) % 2, "Row 1 of the target is 2"),
        ],
    )
    def test_labels_that_do_not_fit_in_any_batch(self, task, labels, message, tmp_path):
        module = ls.TaskModule(TASKS[task], nn.Linear(8, TASKS[task].num_outputs))
        with pytest.raises(ValueError, match=re.escape(message)):
            trainer(tmp_path).fit(module, loader(TASKS[task], labels=labels))

    @pytest.mark.parametrize(
        ("task", "loss"),
        [("multilabel", nn.BCEWithLogitsLoss()), ("multiclass", nn.functional.cross_entropy)],
    )
    def test_a_loss_of_torch_that_fits_gives_our_own_number(self, task, loss):
        task = TASKS[task]
        batch = torch.randn(5, 8), labels_of(task, torch.randn(5, 8))
        module = ls.TaskModule(task, nn.Linear(8, 3), loss=loss)
        ours = ls.TaskModule(task, module.net)
        torch.testing.assert_close(module.training_step(batch, 0), ours.training_step(batch, 0))

    def test_a_loss_of_ones_own_is_averaged_over_what_has_a_label(self, tmp_path):
        task = ls.Multiclass(3, missing=-1)
        labels = torch.randint(0, 3, (40,))
        labels[5:20] = -1  # in the second batch nothing but them is left
        labels[16:32] = -1
        own = ls.TaskModule(task, nn.Linear(8, 3), loss=nn.CrossEntropyLoss())
        data = loader(task, labels=labels)
        (got,) = trainer(tmp_path).validate(own, data, verbose=False)
        (ours,) = trainer(tmp_path).validate(ls.TaskModule(task, own.net), data, verbose=False)
        assert got["val/loss"] == pytest.approx(ours["val/loss"])

    def test_outputs_and_target_that_would_broadcast_in_a_loss_of_ones_own(self):
        module = ls.TaskModule(ls.Binary(), nn.Linear(8, 1), loss=lambda x, y: (x - y).square().mean())
        module.forward = lambda inputs: torch.zeros(4, 1, 5)
        with pytest.raises(ValueError, match=r"For outputs of shape \(4, 1, 5\)"):
            module.training_step((torch.zeros(4, 8), torch.zeros(4)), 0)

    def test_bookkeeping_that_was_forgotten(self, tmp_path):
        class Own(MyModel):
            def configure_callbacks(self):
                return []

        with pytest.raises(ValueError, match=r"Own.configure_callbacks must return super\(\)"):
            trainer(tmp_path).fit(Own(ls.Binary()), loader(ls.Binary()))

    @pytest.mark.parametrize("batch", [(1, 2, 3, 4), 5])
    def test_an_unpack_that_returns_no_pair(self, batch):
        module = MyModel(ls.Binary())
        module.unpack = lambda batch: batch
        with pytest.raises(ValueError, match=r"unpack must return \(inputs, target\)"):
            module.training_step(batch, 0)

    def test_several_loaders_are_not_mixed(self, tmp_path):
        module, data = MyModel(ls.Binary()), loader(ls.Binary())
        with pytest.raises(ValueError, match="There are several test loaders"):
            trainer(tmp_path).test(module, [data, data], verbose=False)

    @pytest.mark.parametrize(
        ("validated", "every", "bad"), [(True, 1.0, 1), (True, 1 / 3, 0), (False, 1.0, 1)]
    )
    def test_a_run_that_diverges_ends_and_keeps_the_last_good_weights(self, validated, every, bad, tmp_path):
        class Diverging(MyModel):
            def training_step(self, batch, batch_idx):
                return super().training_step(batch, batch_idx) * (
                    math.nan if self.current_epoch == bad else 1
                )

        data = loader(ls.Binary())
        best = ModelCheckpoint(
            tmp_path, "best", monitor="val/loss" if validated else "train/loss", save_last=True
        )
        run = L.Trainer(
            max_epochs=4,
            callbacks=[best],
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            val_check_interval=every,
        )
        with pytest.raises(ValueError, match=rf"not finite in step \d+ \(epoch {bad}, batch 0\)"):
            run.fit(Diverging(ls.Binary()), data, data if validated else None)
        kept = sorted(tmp_path.glob("*.ckpt"))
        assert len(kept) == (2 if bad else 0)
        for path in kept:
            weights = torch.load(path, weights_only=True)["state_dict"]
            assert all(value.isfinite().all() for value in weights.values())

    def test_a_late_batch_is_checked_too(self, tmp_path):
        labels = torch.zeros(40)
        labels[39] = 2
        with pytest.raises(ValueError, match="Row 7 of the target is 2"):
            trainer(tmp_path).fit(MyModel(TASKS["binary"]), loader(TASKS["binary"], labels=labels))

    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            ({"x": 1}, "A batch must be a pair (inputs, target), got dict of 1."),
            ((1, 2, 3), "got tuple of 3"),
            (torch.zeros(2, 3), "got Tensor of 2"),
        ],
    )
    def test_a_batch_that_is_no_pair(self, batch, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            MyModel(TASKS["binary"]).training_step(batch, 0)

    @pytest.mark.parametrize(
        ("logits", "message"),
        [(torch.zeros(3, 1), "3 rows of logits for 4 rows"), ({"logits": 1}, "as a tensor, got dict")],
    )
    def test_a_net_that_returns_something_else(self, logits, message):
        module = ls.TaskModule(TASKS["binary"])
        module.forward = lambda inputs: logits
        with pytest.raises(ValueError, match=message):
            module.training_step((torch.zeros(4, 8), torch.zeros(4)), 0)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"loss": "focl"}, ValueError, "Did you mean 'focal'?"),
            ({"loss": {"gamma": 2}}, ValueError, "which lacks a 'name'"),
            (
                {"loss": {"name": "focal", "reduction": "sum"}},
                ValueError,
                "reduction='sum' is for loops of your own",
            ),
            ({"loss": 3}, TypeError, "loss must be a name"),
            (
                {"loss": nn.BCEWithLogitsLoss},
                TypeError,
                "loss must be a name, a dict with a name, or a callable",
            ),
            (
                {"loss": ls.select_loss(ls.Multilabel(4))},
                ValueError,
                "The loss was made for multilabel with 4 labels",
            ),
            (
                {"loss": nn.CrossEntropyLoss()},
                ValueError,
                "torch's CrossEntropyLoss takes no raw logits with the targets of multilabel with 3 labels.",
            ),
            ({"loss": nn.BCELoss()}, ValueError, "torch's BCELoss takes no raw logits"),
            ({"loss": partial(nn.functional.nll_loss)}, ValueError, "torch's nll_loss takes no raw logits"),
            ({"loss": nn.SoftMarginLoss()}, ValueError, "torch's SoftMarginLoss takes no raw logits"),
            (
                {"loss": type("Own", (nn.CrossEntropyLoss,), {})()},
                ValueError,
                "torch's CrossEntropyLoss takes no raw logits",
            ),
            (
                {"loss": partial(nn.functional.binary_cross_entropy_with_logits, reduction="sum")},
                ValueError,
                "reduction='sum' is for loops of your own",
            ),
            (
                {"loss": nn.BCEWithLogitsLoss(reduction="sum")},
                ValueError,
                "reduction='sum' is for loops of your own",
            ),
            ({"net": {"name": "mpl"}}, ValueError, "Did you mean 'mlp'?"),
            (
                {"net": {"name": "mlp", "num_features": 8, "depth": 2}},
                ValueError,
                "Net 'mlp' has no option 'depth'",
            ),
            ({"net": {"name": "mlp", "num_features": 8, "dropout": 2}}, ValueError, "cannot be built"),
            ({"task": "binary"}, TypeError, "By name: lossselect.make_task"),
        ],
    )
    def test_at_construction(self, options, error, message):
        with pytest.raises(error, match=re.escape(message)):
            ls.TaskModule(**{"task": ls.Multilabel(3), **options})


class TestFused:
    @pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "Adagrad"])
    def test_where_torch_has_one(self, name):
        module = MyModel(ls.Binary(), optimizer={"name": name, "lr": 0.01})
        assert module.configure_optimizers().defaults["fused"] is True

    @pytest.mark.parametrize("given", [{"fused": False}, {"foreach": True}, {"differentiable": True}])
    def test_the_users_word_counts(self, given):
        module = MyModel(ls.Binary(), optimizer={"name": "Adam", **given})
        assert not module.configure_optimizers().defaults["fused"]

    def test_not_where_it_cannot_be(self, tmp_path):
        module = MyModel(ls.Binary())
        module.net.append(nn.Embedding(3, 2, sparse=True))
        assert not module.configure_optimizers().defaults["fused"]
        assert MyModel(ls.Binary(), optimizer="RMSprop").configure_optimizers()

    def test_the_same_numbers(self, tmp_path):
        weights = []
        for fused in (True, False):
            torch.manual_seed(0)
            module = MyModel(ls.Multiclass(3), optimizer={"name": "Adam", "lr": 0.01, "fused": fused})
            data = loader(ls.Multiclass(3))
            trainer(tmp_path, max_epochs=5).fit(module, data, data)
            weights.append(torch.nn.utils.parameters_to_vector(module.parameters()))
        torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


class TestOptimizers:
    def configured(self, **specs):
        return MyModel(ls.Binary(), **specs).configure_optimizers()

    def test_adamw_by_default(self):
        assert isinstance(self.configured(), torch.optim.AdamW)

    def test_by_name_with_a_scheduler(self):
        made = self.configured(
            optimizer={"name": "SGD", "lr": 0.5},
            scheduler={"name": "StepLR", "step_size": 3, "interval": "step"},
        )
        assert made["optimizer"].param_groups[0]["lr"] == 0.5
        assert made["lr_scheduler"]["scheduler"].step_size == 3
        assert made["lr_scheduler"]["interval"] == "step"

    @pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/map", "max")])
    def test_plateau_watches_in_the_right_direction(self, monitor, mode):
        made = self.configured(scheduler={"name": "ReduceLROnPlateau", "monitor": monitor})
        assert made["lr_scheduler"]["monitor"] == monitor
        assert made["lr_scheduler"]["scheduler"].mode == mode

    def test_one_cycle_counts_steps(self):
        spec = {"name": "OneCycleLR", "max_lr": 0.1, "total_steps": 10}
        assert self.configured(scheduler=spec)["lr_scheduler"]["interval"] == "step"

    def test_an_optimizer_that_is_made_already(self):
        module = MyModel(ls.Binary())
        module.optimizer_spec = torch.optim.SGD(module.parameters())
        with pytest.raises(TypeError, match="makes an optimizer of its own parameters: pass 'SGD'"):
            module.configure_optimizers()

    def test_by_name_alone(self):
        made = self.configured(optimizer="SGD", scheduler="ReduceLROnPlateau")
        assert isinstance(made["optimizer"], torch.optim.SGD)
        assert made["lr_scheduler"]["scheduler"].mode == "min"

    def test_callables(self):
        made = self.configured(
            optimizer=lambda p: torch.optim.SGD(p, lr=0.3),
            scheduler=lambda o: torch.optim.lr_scheduler.ConstantLR(o),
        )
        assert made["optimizer"].defaults["lr"] == 0.3

    @pytest.mark.parametrize(
        ("specs", "message"),
        [
            ({"optimizer": {"name": "Adm"}}, "Did you mean 'Adam'?"),
            ({"optimizer": {"name": "SGD", "lr": -1}}, "Optimizer 'SGD' cannot be built with {'lr': -1}"),
            (
                {"optimizer": {"name": "SGD", "lr": "fast"}},
                "Optimizer 'SGD': lr must be a number, got 'fast'.",
            ),
            ({"optimizer": {"name": "SGD", "rate": 1}}, "Optimizer 'SGD' has no option 'rate'"),
            ({"scheduler": {"name": "StepLR", "size": 1}}, "Scheduler 'StepLR' has no option 'size'"),
        ],
    )
    def test_mistakes(self, specs, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            self.configured(**specs)

    def test_nothing_to_train(self):
        module = MyModel(ls.Binary()).requires_grad_(False)
        with pytest.raises(ValueError, match="No parameter of the module requires a gradient"):
            module.configure_optimizers()


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
        given = MyModel.load_from_checkpoint(tmp_path / "x.ckpt", task=ls.Binary(threshold=0.3))
        assert given.task.threshold == 0.3

    def test_the_width_may_not(self):
        with pytest.raises(
            ValueError, match="made for multilabel with 3 labels, but the task is multilabel with 4"
        ):
            MyModel(ls.Multilabel(3)).task = ls.Multilabel(4)

    def test_decisions_of_metrics_are_those_of_predictions(self, tmp_path):
        task = TASKS["binary"]
        module, data = MyModel(task), loader(task)
        inputs, labels = data.dataset.tensors
        for probability in task.probabilities(module(inputs))[:, 0].tolist():
            module.task = ls.Binary(threshold=probability)
            (got,) = trainer(tmp_path).validate(module, data, verbose=False)
            right = (module.task.predict(module(inputs)) == module.task.encode(labels)).float().mean()
            assert got["val/accuracy"] == pytest.approx(right.item())


class TestHooks:
    def test_labels_are_encoded_before_they_leave_the_cpu(self, tmp_path):
        seen = []

        class Watching(MyModel):
            def transfer_batch_to_device(self, batch, device, dataloader_idx):
                seen.append(type(batch))
                return super().transfer_batch_to_device(batch, device, dataloader_idx)

        trainer(tmp_path).fit(Watching(TASKS["multiclass"]), loader(TASKS["multiclass"]))
        assert set(seen) == {EncodedBatch}

    def test_unpack_says_what_is_what(self, tmp_path):
        class Dicts(MyModel):
            def unpack(self, batch):
                return batch["x"], batch["y"]

        rows = [{"x": torch.randn(8), "y": i % 2} for i in range(4)]
        module, run = Dicts(ls.Binary()), trainer(tmp_path)
        run.fit(module, DataLoader(rows, batch_size=2))
        assert len(run.predict(module, DataLoader(rows, batch_size=2))) == 2

    def test_a_custom_loss_takes_logits_and_the_canonical_target(self, tmp_path):
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
        (alone,) = trainer(tmp_path).validate(module, data, verbose=False)
        module.validation_step(next(iter(data)), 0)  # an epoch that never came to its end
        (after,) = trainer(tmp_path).validate(module, data, verbose=False)
        assert alone == after


class TestHooksWithoutSuper:
    """Lightning's own hooks do nothing, so nobody calls super() in them."""

    def test_epochs_and_checkpoints(self, tmp_path):
        class Own(MyModel):
            def setup(self, stage): ...
            def on_train_epoch_end(self): ...
            def on_validation_epoch_end(self): ...
            def on_test_epoch_end(self): ...
            def on_save_checkpoint(self, checkpoint): ...
            def on_load_checkpoint(self, checkpoint): ...

        task = TASKS["multilabel"]
        own, ours, data = Own(task), MyModel(task), loader(task)
        own.load_state_dict(ours.state_dict())
        values = []
        for module in (own, ours):
            torch.manual_seed(1)
            run = trainer(tmp_path, max_epochs=2)
            run.fit(module, data, data)
            values.append(dict(run.callback_metrics))
        assert values[0] == values[1]
        assert len(values[0]) == 2 * 10
        assert not own.val_epoch._held
        own.trainer.save_checkpoint(tmp_path / "x.ckpt")
        assert Own.load_from_checkpoint(tmp_path / "x.ckpt").task == task
        with pytest.raises(
            ValueError, match="trained for multilabel with 3 labels, but the task is multiclass"
        ):
            Own.load_from_checkpoint(tmp_path / "x.ckpt", task=ls.Multiclass(3))
        with pytest.raises(
            ValueError, match="trained for multilabel with 3 labels, but the task is multiclass"
        ):
            trainer(tmp_path).fit(
                Own(ls.Multiclass(3)),
                loader(ls.Multiclass(3)),
                ckpt_path=tmp_path / "x.ckpt",
                weights_only=True,
            )
        ours.trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
        assert MyModel.load_from_checkpoint(tmp_path / "weights.ckpt").task == task

    def test_hyperparameters_that_would_not_load(self, tmp_path):
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


class Color(enum.StrEnum):
    RED = "red"


class TestPlainValues:
    @pytest.mark.parametrize(
        ("value", "kept"),
        [
            (np.float64(1.5), 1.5),
            (Color.RED, "red"),
            ({2: np.int64(3), "a": (1, [None, True])}, {2: 3, "a": (1, [None, True])}),
            (ls.Binary(threshold=0.2), ls.Binary(threshold=0.2).to_dict()),
            (range(2), [0, 1]),
        ],
    )
    def test_kept(self, value, kept):
        assert plain(value) == kept
        assert type(plain(value)) is type(kept)

    @pytest.mark.parametrize(
        "value", [nn.Identity(), len, {1, 2}, b"x", {(1, 2): 3}, object(), Counter("ab"), defaultdict(int)]
    )
    def test_not_kept(self, value):
        with pytest.raises(TypeError):
            plain(value)


class TestCheckpoints:
    def saved(self, tmp_path, module):
        run = trainer(tmp_path)
        run.fit(module, loader(module.task))
        run.save_checkpoint(tmp_path / "x.ckpt")
        return tmp_path / "x.ckpt"

    def test_arguments_of_the_subclass_alone_are_kept(self, tmp_path):
        class Fixed(MyModel):
            def __init__(self, task, width, folder, backbone, *, weights, sizes):
                self.weights, self.sizes = weights, sizes
                super().__init__(task, hidden=width, loss="focal")

        sizes = np.arange(3)
        weights = torch.tensor([1.0, 2.0])
        module = Fixed(ls.Binary(), 4, Path("a/b"), nn.Identity(), weights=weights, sizes=sizes)
        assert dict(module.hparams) == {"task": ls.Binary().to_dict(), "width": 4, "folder": "a/b"}
        path = self.saved(tmp_path, module)
        with pytest.raises(
            ValueError, match=r"with backbone and sizes of your own.*Pass backbone=\.\.\., sizes"
        ):
            Fixed.load_from_checkpoint(path)
        again = Fixed.load_from_checkpoint(path, backbone=nn.Identity(), sizes=sizes)
        assert again.criterion.name == "focal"
        assert torch.equal(again.weights, weights)

    def test_the_call_is_kept_whatever_init_does_with_it(self, tmp_path):
        class Changing(ls.TaskModule):
            def __init__(self, num_features, /, *sizes, task, depth=1, **options):
                depth = depth + 1
                options.pop("note", None)
                options.setdefault("loss", "focal")
                super().__init__(task, **options)
                self.seen = (num_features, sizes, depth)
                self.net = nn.Linear(num_features, task.num_outputs)
                task = num_features = sizes = None

        path = self.saved(tmp_path, Changing(8, 4, 5, task=ls.Binary(), depth=3, note={1: "a"}))
        content = torch.load(path, weights_only=True)
        assert content["arguments"] == {
            "num_features": 8,
            "sizes": (4, 5),
            "task": ls.Binary().to_dict(),
            "depth": 3,
            "note": {1: "a"},
        }
        again = Changing.load_from_checkpoint(path)
        assert again.seen == (8, (4, 5), 4)
        assert again.criterion.name == "focal"

    def test_a_default_that_is_no_plain_value_is_not_asked_for(self, tmp_path):
        class Default(ls.TaskModule):
            def __init__(self, task, make=nn.Linear):
                super().__init__(task)
                self.net = make(8, task.num_outputs)

        assert Default.load_from_checkpoint(self.saved(tmp_path, Default(ls.Binary()))).task == ls.Binary()

    def test_a_copy_keeps_the_call(self):
        module = MyModel(ls.Binary(), hidden=3)
        assert copy.deepcopy(module)._arguments == module._arguments

    def test_a_wrong_call_is_answered_by_init(self):
        with pytest.raises(TypeError, match=r"__init__\(\) got an unexpected keyword argument 'hiden'"):
            MyModel(ls.Binary(), hiden=3)

    def test_a_net_made_late(self, tmp_path):
        class Late(ls.TaskModule):
            def configure_model(self):
                if self.net is None:
                    self.net = nn.Linear(8, 1)

        module = Late(ls.Binary())
        path = self.saved(tmp_path, module)
        assert torch.equal(Late.load_from_checkpoint(path).net.weight, module.net.weight)

    def test_a_loss_that_was_changed_is_kept(self, tmp_path):
        module = MyModel(ls.Binary())
        module.criterion = ls.select_loss(ls.Binary(), "focal", gamma=4, pos_weight=3)
        again = MyModel.load_from_checkpoint(self.saved(tmp_path, module))
        assert again.criterion.to_dict() == module.criterion.to_dict()

    def test_an_argument_that_is_changed_at_loading_decides_on_the_loss(self, tmp_path):
        class Focal(MyModel):
            def __init__(self, task, gamma=2.0):
                super().__init__(task, loss={"name": "focal", "gamma": gamma})

        path = self.saved(tmp_path, Focal(ls.Binary(), gamma=3.0))
        assert Focal.load_from_checkpoint(path).criterion.options == {"gamma": 3.0}
        assert Focal.load_from_checkpoint(path, gamma=1.0).criterion.options == {"gamma": 1.0}

    def test_a_tensor_that_changes_later_is_kept_as_it_was(self, tmp_path):
        weight = torch.ones(3)
        module = MyModel(ls.Multilabel(3), loss={"name": "focal", "weight": weight})
        weight *= 5
        again = MyModel.load_from_checkpoint(self.saved(tmp_path, module))
        assert again.criterion.weight.tolist() == module.criterion.weight.tolist() == [1, 1, 1]
        assert module._arguments["loss"]["weight"].tolist() == [1, 1, 1]

    def test_a_subclass_is_not_loaded_as_another_model(self, tmp_path):
        class Scaled(ls.TaskModule):
            def forward(self, x):
                return super().forward(x / 255)

        path = self.saved(tmp_path, Scaled(ls.Binary(), {"name": "linear", "num_features": 8}))
        with pytest.raises(ValueError, match="holds a Scaled, whose forward may differ"):
            ls.TaskModule.load_from_checkpoint(path)
        assert Scaled.load_from_checkpoint(path).task == ls.Binary()

    def test_an_argument_of_ones_own_called_task(self, tmp_path):
        class Named(ls.TaskModule):
            def __init__(self, width, *, task="x"):
                super().__init__(ls.Binary(), nn.Linear(8, 1))
                self.kind = task

        assert Named.load_from_checkpoint(self.saved(tmp_path, Named(3, task="multi"))).kind == "multi"

    def test_numbers_of_numpy_in_a_callback(self, tmp_path):
        class Counting(L.Callback):
            def state_dict(self):
                return {"best": np.float64(0.5), "curve": np.arange(3)}

        run = trainer(tmp_path, callbacks=[Counting()])
        run.fit(MyModel(ls.Binary()), loader(ls.Binary()))
        run.save_checkpoint(tmp_path / "x.ckpt")
        assert MyModel.load_from_checkpoint(tmp_path / "x.ckpt").task == ls.Binary()

    def test_what_a_subclass_put_in_that_does_not_load(self, tmp_path):
        class Adding(MyModel):
            def on_save_checkpoint(self, checkpoint):
                checkpoint["mine"] = np.arange(3)

        with pytest.raises(ValueError, match=r"more than tensors and plain values, numpy\S+ for one\.$"):
            Adding.load_from_checkpoint(self.saved(tmp_path, Adding(ls.Binary())))

    def test_numbers_of_numpy_in_an_optimizer(self, tmp_path):
        module = MyModel(
            ls.Binary(),
            optimizer=lambda p: torch.optim.SGD(p, lr=np.float64(0.1), momentum=np.float32(0.5)),
            scheduler={"name": "StepLR", "step_size": np.int64(2), "gamma": np.float64(0.5)},
        )
        group = torch.load(self.saved(tmp_path, module), weights_only=True)["optimizer_states"][0][
            "param_groups"
        ][0]
        assert (type(group["lr"]), group["momentum"]) == (float, 0.5)

    @pytest.mark.parametrize(
        "place", [None, torch.device("cpu"), {"cuda:0": "cpu"}, lambda storage, _: storage]
    )
    def test_where_it_goes(self, place, tmp_path):
        again = MyModel.load_from_checkpoint(self.saved(tmp_path, MyModel(ls.Binary())), map_location=place)
        assert again.device.type == "cpu"

    def test_weights_only_is_not_to_be_switched_off(self, tmp_path):
        path = self.saved(tmp_path, MyModel(ls.Binary()))
        assert MyModel.load_from_checkpoint(path, weights_only=True)
        with pytest.raises(ValueError, match="weights_only=False is not needed"):
            MyModel.load_from_checkpoint(path, weights_only=False)

    def test_a_module_within_a_module_keeps_its_own_arguments(self):
        class Outer(ls.TaskModule):
            def __init__(self, task):
                super().__init__(task)
                self.inner = ls.TaskModule(ls.Multiclass(4), nn.Linear(2, 4))

        assert Outer(ls.Binary()).inner.hparams["task"]["name"] == "multiclass"

    def test_a_net_of_the_users_own_must_be_passed(self, tmp_path):
        path = self.saved(tmp_path, ls.TaskModule(ls.Binary(), nn.Linear(8, 1)))
        with pytest.raises(
            ValueError, match=r"trained with net of your own.*Pass net=\.\.\. to load_from_checkpoint"
        ):
            ls.TaskModule.load_from_checkpoint(path)
        assert ls.TaskModule.load_from_checkpoint(path, net=nn.Linear(8, 1)).task == ls.Binary()

    def test_a_checkpoint_of_another_task_is_refused(self, tmp_path):
        path = self.saved(tmp_path, MyModel(ls.Multilabel(3, class_names=("a", "b", "c"))))
        with pytest.raises(
            ValueError, match="trained for multilabel with 3 labels, but the task is multiclass"
        ):
            trainer(tmp_path).fit(MyModel(ls.Multiclass(3)), loader(ls.Multiclass(3)), ckpt_path=path)
        with pytest.raises(ValueError, match=r"class names are \['a', 'b', 'c'\], but the task's are"):
            MyModel.load_from_checkpoint(path, task=ls.Multilabel(3, class_names=("c", "b", "a")))

    def test_a_subclass_that_chooses_its_task(self, tmp_path):
        class Own(MyModel):
            def __init__(self, hidden=4):
                super().__init__(ls.Binary(class_names=("n", "p")), hidden)

        path = self.saved(tmp_path, Own())
        assert Own.load_from_checkpoint(path).task.names == ("n", "p")
        trainer(tmp_path, max_epochs=2).fit(Own(), loader(ls.Binary()), ckpt_path=path, weights_only=True)

    def test_a_threshold_that_was_changed_in_a_subclass_that_chooses_its_task(self, tmp_path):
        class Own(MyModel):
            def __init__(self):
                super().__init__(ls.Binary())

        module = Own()
        module.task = ls.Binary(threshold=0.2)
        assert Own.load_from_checkpoint(self.saved(tmp_path, module)).task.threshold == 0.2

    @pytest.mark.parametrize("options", [{}, {"ignore": ["task"]}])
    def test_a_subclass_that_saves_its_hyperparameters_itself(self, options, tmp_path):
        class Saving(MyModel):
            def __init__(self, task, hidden=4):
                super().__init__(task, hidden)
                self.save_hyperparameters(**options)

        path = self.saved(tmp_path, Saving(ls.Binary(class_names=("n", "p")), hidden=8))
        again = Saving.load_from_checkpoint(path)
        assert again.task.names == ("n", "p")
        assert again.net[0].out_features == 8

    def test_numbers_of_numpy_and_losses_of_select_loss_are_kept(self, tmp_path):
        path = self.saved(tmp_path, MyModel(ls.Binary(), loss={"name": "focal", "gamma": np.float64(1.5)}))
        assert MyModel.load_from_checkpoint(path).criterion.options == {"gamma": 1.5}
        path = self.saved(
            tmp_path, MyModel(ls.Binary(), loss=ls.select_loss(ls.Binary(), "focal", pos_weight=2))
        )
        assert MyModel.load_from_checkpoint(path).criterion.pos_weight.item() == 2

    def test_what_was_no_plain_value_is_never_replaced_by_a_default(self, tmp_path):
        def loss(logits, target):
            return (logits.sigmoid() - target).abs().mean()

        path = self.saved(
            tmp_path, MyModel(ls.Binary(), loss=loss, optimizer=lambda p: torch.optim.SGD(p, lr=0.3))
        )
        with pytest.raises(ValueError, match="trained with loss of your own"):
            MyModel.load_from_checkpoint(path)
        again = MyModel.load_from_checkpoint(path, loss=loss)
        assert again(torch.zeros(1, 8)).shape == (1, 1)
        with pytest.raises(ValueError, match=r"The optimizer that .* was trained with is not in it"):
            trainer(tmp_path).fit(again, loader(ls.Binary()))

    def test_an_argument_that_the_class_does_not_take(self, tmp_path):
        path = self.saved(tmp_path, MyModel(ls.Binary()))

        class Renamed(ls.TaskModule):
            def __init__(self, task, width): ...

        with pytest.raises(
            ValueError, match=r"Renamed cannot be built from .*missing a required argument: 'width'"
        ):
            Renamed.load_from_checkpoint(path)

    def test_a_bug_in_the_users_own_init_is_not_hidden(self, tmp_path):
        path = self.saved(tmp_path, MyModel(ls.Binary()))

        class Broken(MyModel):
            def __init__(self, task, **kwargs):
                len(5)

        with pytest.raises(TypeError, match="has no len"):
            Broken.load_from_checkpoint(path)

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"epoch,loss\n1,2\n"])
    def test_a_file_that_is_none(self, content, tmp_path):
        path = tmp_path / "x.ckpt"
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"x.ckpt \({len(content)} bytes\) cannot be read as a checkpoint"
        ):
            MyModel.load_from_checkpoint(path)

    def test_a_truncated_file(self, tmp_path):
        path = self.saved(tmp_path, MyModel(ls.Binary()))
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            MyModel.load_from_checkpoint(path)

    def test_a_file_of_something_else(self, tmp_path):
        torch.save({"state_dict": {}}, tmp_path / "x.ckpt")
        with pytest.raises(ValueError, match=r"no checkpoint of a lossselect\.TaskModule"):
            MyModel.load_from_checkpoint(tmp_path / "x.ckpt")
        with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
            MyModel.load_from_checkpoint(tmp_path / "none.ckpt")

    def test_nothing_in_a_checkpoint_is_executed(self, tmp_path):
        class Hostile:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "executed",))

        torch.save({"hyper_parameters": {}, "task": Hostile()}, tmp_path / "x.ckpt")
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            MyModel.load_from_checkpoint(tmp_path / "x.ckpt")
        assert not (tmp_path / "executed").exists()


def long_tailed(task, rows=400):
    """Inputs, and labels of which the last are rare."""
    inputs = torch.randn(rows, 8)
    if task.name == "multiclass":
        return inputs, torch.multinomial(torch.tensor([0.7, 0.25, 0.05]), rows, replacement=True)
    share = torch.tensor([0.5, 0.2, 0.05])[-task.num_outputs :]
    return inputs, torch.bernoulli(share.expand(rows, -1))


class TestTrainLabels:
    """What fit counts before the first step."""

    @pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
    def test_the_first_loss_is_about_the_entropy_of_the_shares(self, task, tmp_path):
        inputs, labels = long_tailed(task)
        module = MyModel(task, head_bias="prior", optimizer={"name": "SGD", "lr": 0.0})
        trainer(tmp_path).fit(module, loader(task, 400, labels=labels))
        counts = ls.count_labels(task, labels)
        prior = prior_of(task, counts)
        entropy = -(prior * np.log(prior)).sum()
        if task.activation == "sigmoid":
            entropy = -(prior * np.log(prior) + (1 - prior) * np.log(1 - prior)).mean()
        chance = math.log(3) if task.name == "multiclass" else math.log(2)
        first = module.trainer.callback_metrics["train/loss"].item()
        assert first == pytest.approx(entropy, rel=0.05)
        assert abs(first - entropy) < 0.1 * abs(chance - entropy)
        nn.init.zeros_(module.net[2].weight)  # without what inputs add it is exactly that
        logits = module(inputs).detach().double()
        assert ls.select_loss(task)(logits, task.encode(labels)).item() == pytest.approx(entropy, rel=1e-6)

    def test_is_found_in_a_net_of_the_users_own(self, tmp_path):
        class Own(ls.TaskModule):
            def __init__(self, task, **kwargs):
                super().__init__(task=task, **kwargs)
                self.body = nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten())
                self.head = nn.Linear(18, task.num_outputs)

            def forward(self, x):
                return self.head(self.body(x.unsqueeze(1)))

        module = Own(ls.Multiclass(3), head_bias="prior", optimizer={"name": "SGD", "lr": 0.0})
        before = module.body[0].bias.clone()
        _, labels = long_tailed(ls.Multiclass(3))
        trainer(tmp_path).fit(module, loader(ls.Multiclass(3), 400, labels=labels))
        shares = np.bincount(labels, minlength=3) / 400
        np.testing.assert_allclose(module.head.bias.detach(), np.log(shares), rtol=1e-5)
        assert torch.equal(module.body[0].bias, before)

    def test_zero_and_nothing(self, tmp_path):
        task = ls.Multiclass(3)
        for head_bias in ("zero", None):
            module = MyModel(task, head_bias=head_bias, optimizer={"name": "SGD", "lr": 0.0})
            before = module.net[2].bias.clone()
            trainer(tmp_path).fit(module, loader(task))
            want = torch.zeros(3) if head_bias else before
            assert torch.equal(module.net[2].bias, want)

    def test_a_net_without_a_last_bias(self, tmp_path):
        task = ls.Multiclass(3)
        module = ls.TaskModule(task, nn.Linear(8, 3, bias=False), head_bias="prior")
        with pytest.warns(ls.GuardWarning, match="No linear layer or convolution with 3 outputs has a bias"):
            trainer(tmp_path).fit(module, loader(task))

    def test_a_head_that_is_not_the_last_one_registered(self, tmp_path):
        class Own(MyModel):
            def __init__(self, task, **kwargs):
                super().__init__(task, **kwargs)
                self.auxiliary = nn.Linear(8, task.num_outputs)

        with pytest.warns(ls.GuardWarning, match="but another one made the logits"):
            trainer(tmp_path).fit(Own(ls.Multiclass(3), head_bias="prior"), loader(ls.Multiclass(3)))

    def test_happens_once(self, tmp_path):
        task = ls.Binary()
        module = MyModel(task, head_bias="prior", optimizer={"name": "SGD", "lr": 0.5})
        data = loader(task)
        trainer(tmp_path).fit(module, data)
        learned = module.net[2].bias.clone()
        module.optimizer_spec = {"name": "SGD", "lr": 0.0}
        trainer(tmp_path).fit(module, data)
        assert torch.equal(module.net[2].bias, learned)

    def test_a_run_that_goes_on_keeps_its_bias(self, tmp_path):
        task, path = ls.Binary(), tmp_path / "a.ckpt"
        data = loader(task)
        first = trainer(tmp_path)
        first.fit(MyModel(task, head_bias="prior", optimizer={"name": "SGD", "lr": 0.5}), data)
        first.save_checkpoint(path)
        learned = first.lightning_module.net[2].bias.clone()
        module = MyModel(task, head_bias="prior", optimizer={"name": "SGD", "lr": 0.5})
        trainer(tmp_path, max_epochs=1).fit(module, data, ckpt_path=path, weights_only=True)
        assert torch.equal(module.net[2].bias, learned)
        loaded = MyModel.load_from_checkpoint(path)
        assert loaded.head_bias is None

    def test_weights_are_counted_and_kept(self, tmp_path):
        task, path = ls.Multiclass(3), tmp_path / "a.ckpt"
        _, labels = long_tailed(task)
        module = MyModel(task, loss={"name": "logit_adjusted", "weight": "balanced"})
        run = trainer(tmp_path)
        run.fit(module, loader(task, 400, labels=labels))
        counts = np.bincount(labels, minlength=3)
        np.testing.assert_allclose(module.criterion.weight, 400 / (3 * counts))
        np.testing.assert_allclose(module.criterion.prior, counts / 400)
        run.save_checkpoint(path)
        again = MyModel.load_from_checkpoint(path)
        assert again.criterion.to_dict() == module.criterion.to_dict()
        assert not again.needs_counts

    def test_counting_changes_no_shuffle(self, tmp_path):
        task = ls.Binary()
        inputs = torch.randn(64, 8)
        data = TensorDataset(inputs, labels_of(task, inputs))

        def trained(**options):
            torch.manual_seed(5)
            module = MyModel(task, **options)
            trainer(tmp_path, max_epochs=2).fit(module, DataLoader(data, batch_size=16, shuffle=True))
            return module.net[0].weight

        count = int(labels_of(task, inputs).sum())
        counted = trained(loss={"name": "cross_entropy", "pos_weight": "auto"})
        assert torch.equal(
            counted, trained(loss={"name": "cross_entropy", "pos_weight": (64 - count) / count})
        )

    def test_a_loader_without_an_end(self, tmp_path):
        class Endless(torch.utils.data.IterableDataset):
            def __iter__(self):
                while True:
                    yield torch.randn(8), torch.tensor([1])

        module = MyModel(ls.Binary(), loss={"name": "cross_entropy", "pos_weight": "auto"})
        with pytest.raises(ValueError, match="a loader without an end cannot be counted"):
            trainer(tmp_path, max_steps=3).fit(module, DataLoader(Endless(), batch_size=4))
        module.use_counts(ls.count_labels(ls.Binary(), [0, 1, 1]))
        with ls.allow("absent_class"):
            trainer(tmp_path, max_steps=3).fit(module, DataLoader(Endless(), batch_size=4))

    def test_auto_is_chosen_in_fit(self, tmp_path):
        task = ls.Multilabel(3)
        module = MyModel(task, loss="auto")
        with pytest.raises(ValueError, match="loss=auto waits for the counts of the train labels"):
            module.criterion(torch.zeros(1, 3), torch.zeros(1, 3))
        _, labels = long_tailed(task)
        trainer(tmp_path).fit(module, loader(task, 400, labels=labels))
        options, reasons = ls.propose_loss(task, ls.count_labels(task, labels))
        assert module.criterion.name == options["name"]
        assert module.criterion.reasons == reasons


class TestSampleWeights:
    def test_unpack_returns_them(self, tmp_path):
        class Weighted(MyModel):
            def unpack(self, batch):
                return batch

        task = ls.Multiclass(3)
        inputs = torch.randn(40, 8)
        labels, weight = labels_of(task, inputs), torch.rand(40)
        module = Weighted(task, optimizer={"name": "SGD", "lr": 0.0})
        trainer(tmp_path).fit(module, DataLoader(TensorDataset(inputs, labels, weight), batch_size=16))
        want = ls.select_loss(task)(module(inputs), labels, weight)
        torch.testing.assert_close(module.trainer.callback_metrics["train/loss"], want, check_dtype=False)

    def test_a_third_that_nobody_spoke_of_is_none(self):
        with pytest.raises(ValueError, match=r"got tuple of 3.*A weight for each sample is a third"):
            MyModel(ls.Binary()).training_step((torch.zeros(2, 8), torch.zeros(2), torch.ones(2)), 0)

    def test_negative_ones_and_losses_that_take_none(self):
        class Weighted(MyModel):
            def unpack(self, batch):
                return batch

        batch = (torch.zeros(2, 8), torch.zeros(2), torch.tensor([1.0, -1.0]))
        with pytest.raises(ValueError, match="Row 1 has the sample weight -1"):
            Weighted(ls.Binary()).check_batch(batch)
        own = Weighted(ls.Binary(), loss=nn.BCEWithLogitsLoss())
        with pytest.raises(ValueError, match="A loss of your own takes no weights of samples"):
            own.check_batch((*batch[:2], torch.ones(2)))


def test_mixed_batches_train(tmp_path):
    for task in TASKS.values():
        for loss in ("cross_entropy", "focal"):
            module = MyModel(task, loss=loss, mix={"name": "mixup", "alpha": 1.0})
            run = trainer(tmp_path)
            run.fit(module, loader(task), loader(task))
            assert run.callback_metrics["train/loss"].isfinite()


class TestTuning:
    def test_from_then_on_the_module_decides_by_it(self, tmp_path):
        task, path = ls.Multilabel(3), tmp_path / "tuned.ckpt"
        _, labels = long_tailed(task)
        data = loader(task, 400, labels=labels)
        module, run = MyModel(task), trainer(tmp_path)
        run.fit(module, data)
        results = ls.tune_decision(run, module, data, metric="f1_micro")
        assert "val/f1_micro" in results
        assert module.untuned == task
        assert module.task.temperature != 1
        (tested,) = run.test(module, data, verbose=False)
        assert tested["test/f1_micro"] > tested["test/untuned/f1_micro"] == results["val/f1_micro"]
        assert tested["test/calibration_error"] != tested["test/untuned/calibration_error"]
        assert "test/untuned/auroc" not in tested
        run.save_checkpoint(path)
        again = MyModel.load_from_checkpoint(path)
        assert (again.task, again.untuned) == (module.task, task)
        ls.tune_decision(run, again, data, metric="f1_micro")  # anew, not on top of it
        assert again.task == module.task

    def test_nothing_to_tune_to(self, tmp_path):
        with pytest.raises(ValueError, match="There is no validation row to tune the decision to"):
            ls.tune_decision(
                trainer(tmp_path, limit_val_batches=0), MyModel(ls.Binary()), loader(ls.Binary())
            )

    def test_a_mistake_leaves_the_decision_that_there_was(self, tmp_path):
        task = ls.Binary()
        data, run, module = loader(task), trainer(tmp_path), MyModel(task)
        run.fit(module, data)
        ls.tune_decision(run, module, data)
        tuned, untuned = module.task, module.untuned
        wrong = loader(task, labels=torch.full((40,), 2))
        for options, there in (({"metric": "typo"}, data), ({}, wrong)):
            with pytest.raises(ValueError, match=r"typo|of the target is 2"):
                ls.tune_decision(run, module, there, **options)
            assert (module.task, module.untuned) == (tuned, untuned)

    def test_soft_labels_are_calibrated_as_they_are(self, tmp_path):
        """Logits whose softmax is the target need no temperature."""
        task = ls.Multiclass(3)
        logits = torch.randn(400, 3)
        module, run = ls.TaskModule(task, nn.Identity()), trainer(tmp_path)
        ls.tune_decision(run, module, DataLoader(TensorDataset(logits, logits.softmax(1)), batch_size=64))
        assert module.task.temperature == pytest.approx(1, abs=1e-3)

    def test_a_checkpoint_that_is_evaluated_decides_as_it_did(self, tmp_path):
        task, path = ls.Multiclass(3), tmp_path / "tuned.ckpt"
        _, labels = long_tailed(task)
        data = loader(task, 400, labels=labels)
        module, run = MyModel(task, head_bias="prior"), trainer(tmp_path)
        run.fit(module, data)
        ls.tune_decision(run, module, data, metric="balanced_accuracy")
        run.save_checkpoint(path)
        other = MyModel(task)
        predicted = trainer(tmp_path).predict(other, data, ckpt_path=path, weights_only=True)
        assert (other.task, other.untuned) == (module.task, module.untuned)
        assert torch.equal(predicted[0]["prediction"], module.task.predict(module(next(iter(data))[0])))
        again = MyModel.load_from_checkpoint(path)
        assert again.counts.positives.tolist() == module.counts.positives.tolist()
        ls.tune_decision(run, again, data, metric="balanced_accuracy")
        assert again.task == module.task
        anew = MyModel(task)
        ls.tune_decision(trainer(tmp_path), anew, data, ckpt_path=path, metric="balanced_accuracy")
        assert anew.untuned == module.untuned
        assert anew.task.temperature == module.task.temperature
        going_on = MyModel(task)
        trainer(tmp_path, max_epochs=2).fit(going_on, data, ckpt_path=path, weights_only=True)
        assert going_on.untuned is None  # it is not the same net any more


def test_a_module_that_mixes_can_be_pickled():
    module = MyModel(ls.Binary(), mix={"name": "mixup", "alpha": 0.5})
    assert pickle.loads(pickle.dumps(module)).mix is not None


def test_class_labels_with_holes_are_counted(tmp_path):
    task = ls.Multiclass(3)
    inputs = torch.randn(40, 8)
    labels = labels_of(task, inputs).float()
    labels[::4] = float("nan")
    module = MyModel(task, loss={"name": "cross_entropy", "weight": "balanced"}, head_bias="prior")
    run = trainer(tmp_path)
    run.fit(module, loader(task, labels=labels))
    assert module.counts.missing == 10
    ls.tune_decision(run, module, loader(task, labels=labels))
    encoded = task.encode(labels)
    assert ls.count_labels(task, encoded).positives.tolist() == module.counts.positives.tolist()
    ls.fit_decision(task, module(inputs), encoded)


def test_counting_leaves_a_loaders_own_generator(tmp_path):
    task = ls.Binary()
    data = TensorDataset(torch.arange(32.0).unsqueeze(1).repeat(1, 8), torch.arange(32) % 2)
    seen = {"prior": [], None: []}

    class Watched(MyModel):
        def forward(self, x):
            if self.training:
                seen[self.said].append(x[:, 0].clone())
            return super().forward(x)

    for head_bias in seen:
        batches = DataLoader(data, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1))
        module = Watched(task, head_bias=head_bias)
        module.said = head_bias
        trainer(tmp_path).fit(module, batches)
    assert all(torch.equal(a, b) for a, b in zip(*seen.values(), strict=True))


def test_another_optimizer_at_loading_leaves_the_loss(tmp_path):
    task, path = ls.Binary(), tmp_path / "a.ckpt"
    run = trainer(tmp_path)
    run.fit(MyModel(task, loss={"name": "cross_entropy", "pos_weight": "auto"}), loader(task))
    run.save_checkpoint(path)
    again = MyModel.load_from_checkpoint(path, optimizer="SGD", head_bias="zero")
    assert not again.criterion.waiting


def test_a_batch_is_checked_as_it_will_be_mixed():
    module = MyModel(ls.Binary(), mix="cutmix")
    with pytest.raises(ValueError, match="cutmix cuts boxes of images"):
        module.check_batch((torch.randn(4, 8), torch.tensor([0, 1, 1, 0])))


def test_tune_decision_takes_the_trainer_first(tmp_path):
    with pytest.raises(TypeError, match="takes a Trainer, then a TaskModule"):
        ls.tune_decision(MyModel(ls.Binary()), trainer(tmp_path), loader(ls.Binary()))


def test_an_argument_that_is_no_matter_of_the_loss_leaves_it_as_it_was():
    """Each that there is, so that none is forgotten."""
    from lossselect.training.checkpoints.load import NO_MATTER_OF_THE_LOSS

    arguments = [*inspect.signature(ls.TaskModule.__init__).parameters][1:]
    assert {*arguments} == {*NO_MATTER_OF_THE_LOSS, "loss"}
