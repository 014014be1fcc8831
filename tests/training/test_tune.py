import pytest
import torch
from module_cases import MyModel, loader, long_tailed, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls


class TestTuning:
    def test_from_then_on_the_module_decides_by_it(self, tmp_path):
        task, path = ls.Multilabel(3), tmp_path / "tuned.ckpt"
        _, labels = long_tailed(task)
        data = loader(task, 400, labels=labels)
        module, run = MyModel(task), trainer(tmp_path)
        run.fit(module, data)
        results = ls.tune_decision(run, module, data, metric="f1_micro")
        assert "val/f1_micro" in results
        assert module.base_task == task
        assert module.task.temperature != 1
        (tested,) = run.test(module, data, verbose=False)
        assert tested["test/f1_micro"] > tested["test/default_decision/f1_micro"] == results["val/f1_micro"]
        assert tested["test/calibration_error"] != tested["test/default_decision/calibration_error"]
        assert "test/default_decision/auroc" not in tested
        run.save_checkpoint(path)
        again = MyModel.load_from_checkpoint(path)
        assert (again.task, again.base_task) == (module.task, task)
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
        tuned, untuned = module.task, module.base_task
        wrong = loader(task, labels=torch.full((40,), 2))
        for options, there in (({"metric": "typo"}, data), ({}, wrong)):
            with pytest.raises(ValueError, match=r"typo|of the target is 2"):
                ls.tune_decision(run, module, there, **options)
            assert (module.task, module.base_task) == (tuned, untuned)

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
        module, run = MyModel(task, bias_init="prior"), trainer(tmp_path)
        run.fit(module, data)
        ls.tune_decision(run, module, data, metric="balanced_accuracy")
        run.save_checkpoint(path)
        other = MyModel(task)
        predicted = trainer(tmp_path).predict(other, data, ckpt_path=path, weights_only=True)
        assert (other.task, other.base_task) == (module.task, module.base_task)
        assert torch.equal(predicted[0]["prediction"], module.task.predict(module(next(iter(data))[0])))
        again = MyModel.load_from_checkpoint(path)
        assert again.counts.positives.tolist() == module.counts.positives.tolist()
        ls.tune_decision(run, again, data, metric="balanced_accuracy")
        assert again.task == module.task
        anew = MyModel(task)
        ls.tune_decision(trainer(tmp_path), anew, data, ckpt_path=path, metric="balanced_accuracy")
        assert anew.base_task == module.base_task
        assert anew.task.temperature == module.task.temperature
        run_state = MyModel(task)
        trainer(tmp_path, max_epochs=2).fit(run_state, data, ckpt_path=path, weights_only=True)
        assert run_state.base_task is None  # it is not the same net any more


def test_tune_decision_takes_the_trainer_first(tmp_path):
    with pytest.raises(TypeError, match="takes a Trainer, then a TaskModule"):
        ls.tune_decision(MyModel(ls.Binary()), trainer(tmp_path), loader(ls.Binary()))
