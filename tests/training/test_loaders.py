"""Several validation and test loaders, whose values are logged under the name of each."""

import lightning.pytorch as L
import pytest
import torch
from module_cases import TASKS, MyModel, loader, trainer

from lossselect.exceptions import ConfigError

TASK = TASKS["multiclass"]


def evaluate(stage, module, loaders, folder):
    results = getattr(trainer(folder), {"val": "validate", "test": "test"}[stage])(
        module, loaders, verbose=False
    )
    assert len({tuple(values.items()) for values in results}) == 1
    return results[0]


@pytest.mark.parametrize("stage", ["val", "test"])
@pytest.mark.parametrize("named", ["dict", "loader_names", "unnamed"])
def test_values_of_each_loader(stage, named, tmp_path):
    module, clean, noisy = MyModel(TASK), loader(TASK), loader(TASK, rows=23)
    names = ["0", "1"] if named == "unnamed" else ["clean", "noisy"]
    if named == "loader_names":
        module._loader_names = names
    loaders = dict(zip(names, (clean, noisy), strict=True)) if named == "dict" else [clean, noisy]
    values = evaluate(stage, module, loaders, tmp_path)
    for name, single in zip(names, (clean, noisy), strict=True):
        expected = evaluate(stage, module, single, tmp_path)
        for key, value in expected.items():
            assert values[key.replace("/", f"/{name}/")] == pytest.approx(value, nan_ok=True)
            if single is clean:
                assert values[key] == pytest.approx(value, nan_ok=True)
    assert len(values) == 3 * len(expected)


def test_a_checkpoint_monitors_a_loader_in_fit(tmp_path):
    best = L.callbacks.ModelCheckpoint(tmp_path, monitor="val/noisy/accuracy", mode="max")
    run = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[best]
    )
    run.fit(MyModel(TASK), loader(TASK), {"clean": loader(TASK), "noisy": loader(TASK)})
    assert best.best_model_score is not None
    assert run.callback_metrics["val/accuracy"] == run.callback_metrics["val/clean/accuracy"]


def test_an_override_that_does_not_pass_the_index_of_the_loader(tmp_path):
    class Own(MyModel):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return super().validation_step(batch, batch_idx)

    module, loaders = Own(TASK), [loader(TASK), loader(TASK, rows=23)]
    values = evaluate("val", module, loaders, tmp_path)
    expected = evaluate("val", module, loaders[1], tmp_path)
    assert values["val/1/loss"] == pytest.approx(expected["val/loss"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "Expected 2 names in loader_names, one for each validation loader, got 1: a"),
        ("ab", "got 1: ab"),
        (["a", "a"], "Two validation loaders have the name 'a'"),
        (["a", "b/c"], "The name 'b/c' of a validation loader"),
        (["a", ""], "The name '' of a validation loader"),
    ],
)
def test_names_that_do_not_fit(names, message, tmp_path):
    module = MyModel(TASK, loader_names=names)
    with pytest.raises(ConfigError, match=message):
        evaluate("val", module, [loader(TASK), loader(TASK)], tmp_path)


def test_one_batch_of_each_loader_at_once(tmp_path):
    """With mode="max_size" a batch has a part of each loader, and the user's step chooses one."""

    class Own(MyModel):
        def validation_step(self, batch, batch_idx):
            if batch["a"] is not None:
                self.step(batch["a"])

    module, single = Own(TASK), loader(TASK)
    loaders = L.utilities.CombinedLoader({"a": single, "b": loader(TASK, rows=64)}, "max_size")
    values = evaluate("val", module, loaders, tmp_path)
    assert "val/a/loss" not in values
    with torch.no_grad():
        inputs, labels = single.dataset.tensors
        loss = module.criterion(module(inputs), labels)
    assert values["val/loss"] == pytest.approx(loss.item(), rel=1e-5)
