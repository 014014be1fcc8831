import json
from pathlib import Path

import pytest
import torch
from train_cases import SHORT, read_csv


def test_custom_parts(command, monkeypatch, tmp_path):
    (tmp_path / "own_parts.py").write_text(
        "import torch\n"
        "from lightning.pytorch import LightningDataModule\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "class Data(LightningDataModule):\n"
        "    def setup(self, stage):\n"
        "        self.class_names = ('low', 'high')\n"
        "        x = torch.randn(64, 4)\n"
        "        self.set = TensorDataset(x, (x[:, 0] > 0).int())\n"
        "    def train_dataloader(self): return DataLoader(self.set, batch_size=16)\n"
        "    val_dataloader = test_dataloader = predict_dataloader = train_dataloader\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self, inputs, num_outputs): super().__init__(inputs, num_outputs)\n"
        "class NoTask(Data):\n"
        "    def setup(self, stage): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = [
        "~data",
        "+data._target_=own_parts.Data",
        "~model",
        "+model._target_=own_parts.Net",
        "+model.inputs=4",
    ]
    code, out, err = command("task=binary", *own, "hydra.run.dir=run", *SHORT)
    assert code == 0, err
    assert "low, high" in out
    assert {row["prediction"] for row in read_csv("run/predictions.csv")} <= {
        "low",
        "high",
    }
    own[1] = "+data._target_=own_parts.NoTask"
    code, _, err = command("task=multiclass", *own, "hydra.run.dir=run2", *SHORT)
    assert code == 1
    assert "NoTask must have an attribute class_names or num_outputs" in err
    own[1] = "+data._target_=torch.nn.Identity"
    code, _, err = command("task=binary", *own, "hydra.run.dir=run3", *SHORT)
    assert code == 1
    assert (
        "data._target_ must create a lightning.pytorch.core.datamodule.LightningDataModule, got Identity"
        in err
    )


def test_data_without_a_test_split(own):
    assert own("Data")[0] == 0
    assert {name.partition("/")[0] for name in json.loads(Path("run/metrics.json").read_text())} == {"val"}


def test_predictions_of_several_loaders_are_one_table(own):
    assert own("Several")[0] == 0
    assert len(read_csv("run/predictions.csv")) == 128


def test_a_removed_setting_has_lightnings_default(own):
    code, out, err = own("Data", "~trainer.precision")
    assert code == 0, err
    assert "precision 32-true" in out


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_a_failed_run_removes_the_results_of_an_earlier_one(own):
    assert own("Data")[0] == 0
    assert own("Data", "optimizer=sgd", "optimizer.lr=1e30")[0] == 1
    assert not Path("run/metrics.json").exists()


def test_the_best_epoch_by_a_training_metric(own):
    run = ["Data", "monitor=train/loss", "+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4"]
    assert own(*run, "callbacks=none")[0] == 0
    losses = {
        row["epoch"]: row["train/loss"] for row in read_csv("run/logs/metrics.csv") if row["train/loss"]
    }
    content = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    (state,) = [value for key, value in content["callbacks"].items() if key.startswith("BestCheckpoint")]
    assert state["best_model_score"].item() == pytest.approx(float(losses[str(content["epoch"])]))


@pytest.mark.parametrize("setting", ["loss=auto", "loss.weight=balanced", "loss=logit_adjusted"])
def test_settings_that_need_the_training_labels_of_custom_data(own, setting):
    settings = ["task=multiclass", setting]
    code, out, err = own("Data", *settings, "check_only=true")
    assert (code, err) == (0, "")
    assert "counted by fit" not in out
    code, out, err = own("Data", *settings)
    assert (code, err) == (0, "")
    assert "From the training labels" in out


def test_nothing_is_tuned_without_validation_rows(own):
    for arguments in (["NoVal"], ["Data", "+trainer.limit_val_batches=0"]):
        code, out, _ = own(*arguments, "logger=none")
        assert code == 0
        assert "tuned for" not in out
        assert "calibrated" not in out


def test_data_without_a_validation_split(own):
    assert own("NoVal", "monitor=train/loss", "callbacks=none")[0] == 0
    assert Path("run/checkpoints/best.ckpt").exists()


def test_predictions_with_trailing_dimensions_are_tensors(own):
    code, out, err = own("Images", "~model", "+model._target_=own_data.conv")
    assert code == 0, err
    assert "metrics.json, predictions.pt" in out
    first, second = torch.load("run/predictions.pt", weights_only=True)
    assert first["probabilities"].shape == first["prediction"].shape == (4, 1, 4, 4)
    assert len(second["prediction"]) == 2


def test_the_seed_applies_to_a_custom_net(command):
    own = ["~model", "+model._target_=torch.nn.Linear", "+model.in_features=30", "+model.out_features=1"]
    results = []
    for run in ("a", "b"):
        assert command("task=binary", *own, "seed=3", f"hydra.run.dir={run}", *SHORT)[0] == 0
        results.append(Path(run, "metrics.json").read_text())
    assert results[0] == results[1]


def test_a_loader_with_a_positional_batch_size(command, tmp_path, monkeypatch):
    name = f"placed_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(PLACED)
    monkeypatch.syspath_prepend(tmp_path)
    own = (
        "~data",
        f"+data._target_={name}.Data",
        "trainer.max_epochs=1",
        "hydra.run.dir=run",
        "report=false",
    )
    code, _, err = command("task=binary", *own)
    assert code == 0, err
    assert len((tmp_path / "run" / "predictions.csv").read_text().splitlines()) == 65


PLACED = """
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset
class Data(LightningDataModule):
    num_features, num_outputs = 3, 1
    def train_dataloader(self):
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, (x[:, 0] > 0).float()), 16)
    val_dataloader = test_dataloader = train_dataloader
"""


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_loader_that_is_none_is_one_message(split, own, tmp_path):
    """Lightning raises a TypeError: for "train" before the first step, for "val" in its sanity check."""
    code = f"class NoLoader(Data):\n    def {split}_dataloader(self):\n        return None\n"
    with (tmp_path / "own_data.py").open("a") as file:
        file.write(code)
    code, _, err = own("NoLoader")
    assert code == 1
    assert err.startswith("Training cannot start: An invalid dataloader was returned from")
    assert "Traceback" not in err


def test_test_rows_of_another_width_are_one_message(own, tmp_path):
    code = "class Wide(Data):\n    def test_dataloader(self):\n        wide = TensorDataset(torch.zeros(8, 9), torch.ones(8))\n        return DataLoader(wide, 4)\n"
    with (tmp_path / "own_data.py").open("a") as file:
        file.write(code)
    code, _, err = own("Wide")
    assert code == 1
    assert err.startswith("The net fails for a tensor of shape (4, 9), torch.float32: mat1 and mat2 shapes")
