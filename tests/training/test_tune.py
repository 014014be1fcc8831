import pytest
import torch
from module_cases import MyModel, loader, long_tailed, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls
from lossselect.exceptions import DataError, OptionTypeError


class TestTuning:
    def test_the_module_uses_the_fitted_decision(self, tmp_path):
        task, path = ls.Multilabel(3), tmp_path / "tuned.ckpt"
        _, labels = long_tailed(task)
        data = loader(task, 400, labels=labels)
        module, run = MyModel(task), trainer(tmp_path)
        run.fit(module, data)
        results = ls.tune_decision(run, module, data, metric="f1_micro")
        assert "val/f1_micro" in results
        assert module._base_task == task
        assert module.task.temperature != 1
        (tested,) = run.test(module, data, verbose=False)
        assert tested["test/f1_micro"] > tested["test/default_decision/f1_micro"] == results["val/f1_micro"]
        assert tested["test/calibration_error"] != tested["test/default_decision/calibration_error"]
        assert "test/default_decision/auroc" not in tested
        run.save_checkpoint(path)
        again = MyModel.load_from_checkpoint(path)
        assert (again.task, again._base_task) == (module.task, task)
        ls.tune_decision(run, again, data, metric="f1_micro")  # starts from the default decision
        assert again.task == module.task

    def test_without_validation_rows(self, tmp_path):
        with pytest.raises(DataError, match="The validation split has no row"):
            ls.tune_decision(
                trainer(tmp_path, limit_val_batches=0), MyModel(ls.Binary()), loader(ls.Binary())
            )

    def test_an_error_keeps_the_previous_decision(self, tmp_path):
        task = ls.Binary()
        data, run, module = loader(task), trainer(tmp_path), MyModel(task)
        run.fit(module, data)
        ls.tune_decision(run, module, data)
        tuned, untuned = module.task, module._base_task
        wrong = loader(task, labels=torch.full((40,), 2))
        for options, rows in (({"metric": "typo"}, data), ({}, wrong)):
            with pytest.raises(ValueError, match=r"typo|of the target is 2"):
                ls.tune_decision(run, module, rows, **options)
            assert (module.task, module._base_task) == (tuned, untuned)

    def test_soft_labels_are_calibrated_without_rounding(self, tmp_path):
        """Logits whose softmax is the target need no temperature."""
        task = ls.Multiclass(3)
        logits = torch.randn(400, 3)
        module, run = ls.TaskModule(task, nn.Identity()), trainer(tmp_path)
        ls.tune_decision(run, module, DataLoader(TensorDataset(logits, logits.softmax(1)), batch_size=64))
        assert module.task.temperature == pytest.approx(1, abs=1e-3)

    def test_a_checkpoint_contains_the_decision(self, tmp_path):
        task, path = ls.Multiclass(3), tmp_path / "tuned.ckpt"
        _, labels = long_tailed(task)
        data = loader(task, 400, labels=labels)
        module, run = MyModel(task, bias_init="prior"), trainer(tmp_path)
        run.fit(module, data)
        ls.tune_decision(run, module, data, metric="balanced_accuracy")
        run.save_checkpoint(path)
        other = MyModel(task)
        predicted = trainer(tmp_path).predict(other, data, ckpt_path=path, weights_only=True)
        assert (other.task, other._base_task) == (module.task, module._base_task)
        assert torch.equal(predicted[0]["prediction"], module.task.predict(module(next(iter(data))[0])))
        again = MyModel.load_from_checkpoint(path)
        assert again._label_counts.positives.tolist() == module._label_counts.positives.tolist()
        ls.tune_decision(run, again, data, metric="balanced_accuracy")
        assert again.task == module.task
        tuned_again = MyModel(task)
        ls.tune_decision(trainer(tmp_path), tuned_again, data, ckpt_path=path, metric="balanced_accuracy")
        assert tuned_again._base_task == module._base_task
        assert tuned_again.task.temperature == module.task.temperature
        resumed = MyModel(task)
        trainer(tmp_path, max_epochs=2).fit(resumed, data, ckpt_path=path, weights_only=True)
        assert resumed._base_task is None  # further training changes the net, so the decision is dropped


def test_the_trainer_is_the_first_argument(tmp_path):
    with pytest.raises(OptionTypeError, match="Expected a Trainer and a TaskModule, got MyModel and Trainer"):
        ls.tune_decision(MyModel(ls.Binary()), trainer(tmp_path), loader(ls.Binary()))
