import math
import re
from functools import partial

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from module_cases import TASKS, MyModel, labels_of, loader, trainer
from torch import nn
from torch.utils.data import DataLoader

import lossselect as ls


class TestErrors:
    @pytest.mark.parametrize(
        ("module", "message"),
        [
            (
                ls.TaskModule(TASKS["multilabel"], nn.Linear(8, 4)),
                "(N, 3) for multilabel with 3 labels, got (16, 4)",
            ),
            (ls.TaskModule(TASKS["binary"], nn.Linear(8, 2)), "For two outputs, set task=multiclass"),
            (
                ls.TaskModule(TASKS["binary"], nn.Sequential(nn.Linear(8, 1), nn.Flatten(0))),
                "do not squeeze()",
            ),
            (ls.TaskModule(TASKS["multilabel"]), "TaskModule has no net. Pass net=..., or override forward."),
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
    def test_a_net_or_loss_that_does_not_fit_raises_before_the_first_step(self, module, message, tmp_path):
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
                "For class indices (N,), set task=multiclass",
            ),
            ("binary", 1 + torch.arange(40) % 2, "Row 1 of the target is 2"),
        ],
    )
    def test_labels_that_do_not_fit_the_task(self, task, labels, message, tmp_path):
        module = ls.TaskModule(TASKS[task], nn.Linear(8, TASKS[task].num_outputs))
        with pytest.raises(ValueError, match=re.escape(message)):
            trainer(tmp_path).fit(module, loader(TASKS[task], labels=labels))

    @pytest.mark.parametrize(
        ("task", "loss"),
        [("multilabel", nn.BCEWithLogitsLoss()), ("multiclass", nn.functional.cross_entropy)],
    )
    def test_a_loss_of_torch_equals_the_built_in_loss(self, task, loss):
        task = TASKS[task]
        batch = torch.randn(5, 8), labels_of(task, torch.randn(5, 8))
        module = ls.TaskModule(task, nn.Linear(8, 3), loss=loss)
        built_in = ls.TaskModule(task, module.net)
        expected = built_in.training_step(batch, 0)
        torch.testing.assert_close(module.training_step(batch, 0)["loss"], expected["loss"])

    def test_a_custom_loss_is_averaged_over_the_known_labels(self, tmp_path):
        task = ls.Multiclass(3, missing=-1)
        labels = torch.randint(0, 3, (40,))
        labels[5:20] = -1
        labels[16:32] = -1  # all labels of the second batch are missing
        custom = ls.TaskModule(task, nn.Linear(8, 3), loss=nn.CrossEntropyLoss())
        data = loader(task, labels=labels)
        (got,) = trainer(tmp_path).validate(custom, data, verbose=False)
        (expected,) = trainer(tmp_path).validate(ls.TaskModule(task, custom.net), data, verbose=False)
        assert got["val/loss"] == pytest.approx(expected["val/loss"])

    def test_logits_and_target_that_would_broadcast_in_a_custom_loss(self):
        module = ls.TaskModule(ls.Binary(), nn.Linear(8, 1), loss=lambda x, y: (x - y).square().mean())
        module.forward = lambda inputs: torch.zeros(4, 1, 5)
        with pytest.raises(ValueError, match=r"For outputs of shape \(4, 1, 5\)"):
            module.training_step((torch.zeros(4, 8), torch.zeros(4)), 0)

    @pytest.mark.parametrize("batch", [(1, 2, 3, 4), 5])
    def test_unpack_batch_that_does_not_return_a_pair(self, batch):
        module = MyModel(ls.Binary())
        module.unpack_batch = lambda batch: batch
        with pytest.raises(ValueError, match=r"unpack_batch must return \(inputs, target\)"):
            module.training_step(batch, 0)

    @pytest.mark.parametrize(
        ("validated", "every", "bad"), [(True, 1.0, 1), (True, 1 / 3, 0), (False, 1.0, 1)]
    )
    def test_a_run_that_diverges_ends_and_keeps_the_last_good_weights(self, validated, every, bad, tmp_path):
        class Diverging(MyModel):
            def training_step(self, batch, batch_idx):
                return self.step(batch).loss * (math.nan if self.current_epoch == bad else 1)

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
        data = DataLoader([*zip(torch.randn(40, 8), labels, strict=True)], batch_size=16)
        with pytest.raises(ValueError, match="Row 7 of the target is 2"):
            trainer(tmp_path).fit(MyModel(TASKS["binary"]), data)

    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            ({"x": 1}, "got a dict with the keys 'x'. Pass batch_keys"),
            ((1, 2, 3), "got a tuple of 3: int, int, int"),
            (torch.zeros(2, 3), "got a tensor of shape (2, 3), torch.float32"),
        ],
    )
    def test_a_batch_that_is_not_a_pair(self, batch, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            MyModel(TASKS["binary"]).training_step(batch, 0)

    @pytest.mark.parametrize(
        ("logits", "message"),
        [
            (torch.zeros(3, 1), "3 rows of logits for 4 rows"),
            ({"logits": 1}, "as a tensor, got a dict with the keys 'logits'"),
        ],
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
            ({"loss": {"gamma": 2}}, ValueError, "has no 'name'"),
            (
                {"loss": {"name": "focal", "reduction": "sum"}},
                ValueError,
                "reduction='sum' is not supported by TaskModule",
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
                "The loss is for multilabel with 4 labels",
            ),
            (
                {"loss": nn.CrossEntropyLoss()},
                ValueError,
                "torch's CrossEntropyLoss does not accept raw logits and targets of task=multilabel.",
            ),
            ({"loss": nn.BCELoss()}, ValueError, "torch's BCELoss does not accept raw logits"),
            (
                {"loss": partial(nn.functional.nll_loss)},
                ValueError,
                "torch's nll_loss does not accept raw logits",
            ),
            ({"loss": nn.SoftMarginLoss()}, ValueError, "torch's SoftMarginLoss does not accept raw logits"),
            (
                {"loss": type("Own", (nn.CrossEntropyLoss,), {})()},
                ValueError,
                "torch's CrossEntropyLoss does not accept raw logits",
            ),
            (
                {"loss": partial(nn.functional.binary_cross_entropy_with_logits, reduction="sum")},
                ValueError,
                "reduction='sum' is not supported by TaskModule",
            ),
            (
                {"loss": nn.BCEWithLogitsLoss(reduction="sum")},
                ValueError,
                "reduction='sum' is not supported by TaskModule",
            ),
            ({"net": {"name": "mpl"}}, ValueError, "Did you mean 'mlp'?"),
            (
                {"net": {"name": "mlp", "num_features": 8, "depth": 2}},
                ValueError,
                "Net 'mlp' has no option 'depth'",
            ),
            ({"net": {"name": "mlp", "num_features": 8, "dropout": 2}}, ValueError, "dropout must be"),
            ({"task": "binary"}, TypeError, "call lossselect.make_task"),
        ],
    )
    def test_invalid_arguments_raise_at_construction(self, options, error, message):
        with pytest.raises(error, match=re.escape(message)):
            ls.TaskModule(**{"task": ls.Multilabel(3), **options})
