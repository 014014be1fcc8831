"""A subclass of `TaskModule` at the command line: `module._target_=own_module.Model`."""

import json
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from omegaconf import OmegaConf
from train_cases import OWN_DATA, SHORT, read_csv

from lossselect.cli import main as cli
from lossselect.run.custom_module import CustomModule

MODULE = """
import torch
from torch import nn
import lossselect as ls

def layers(inputs, hidden, outputs):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

class Model(ls.TaskModule):
    def __init__(self, task, num_features, hidden=8, **kwargs):
        super().__init__(task=task, **kwargs)
        self.net = layers(num_features, hidden, task.num_outputs)

class Child(Model):
    def __init__(self, *args, scale, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = scale

class Inherits(ls.TaskModule):
    pass

class WithNet(ls.TaskModule):
    def __init__(self, task, net, /, scale=1.0, **kwargs):
        super().__init__(task, net, **kwargs)
        self.scale = scale
    def forward(self, inputs):
        return self.net(inputs) * self.scale

class Explicit(ls.TaskModule):
    def __init__(self, task, num_features):
        super().__init__(task)
        self.net = layers(num_features, 8, task.num_outputs)

class SetsScheduler(Model):
    def __init__(self, task, num_features, **kwargs):
        super().__init__(task, num_features, loss="focal", scheduler="ConstantLR", **kwargs)

class HasDefaults(Model):
    def __init__(self, task, num_features, **kwargs):
        own = {"loss": "focal", "optimizer": {"name": "SGD", "lr": 0.5}, "scheduler": "ConstantLR"}
        own |= {"mix": "mixup", "metrics": ["f1"], "bias_init": "zero"}
        super().__init__(task, num_features, **{**own, **kwargs})

class Optimizes(Model):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}

class AddsToTheOptimizer(Model):
    def __init__(self, task, optimizer=None, **kwargs):
        super().__init__(task, optimizer=optimizer, **kwargs)
    def configure_optimizers(self):
        return super().configure_optimizers()

class Nested(ls.TaskModule):
    def __init__(self, task, encoder, sizes=(), **kwargs):
        super().__init__(task, **kwargs)
        assert type(sizes) in (tuple, list)
        self.net = nn.Sequential(encoder, nn.Linear(4, task.num_outputs))

class Fails(Model):
    def __init__(self, task):
        raise KeyError("vocabulary")

class ScalesInHook(Model):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return (3 * batch[0] + self.trainer.training, *batch[1:])

class ScalesInUnpack(Model):
    def unpack_batch(self, batch):
        return 3 * batch[0], batch[1]

class ScalesPredictions(Model):
    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        outputs = super().predict_step(batch, batch_idx)
        return outputs | {"probabilities": outputs["probabilities"] / 2}

class ScalesLogits(Model):
    def compute_logits(self, inputs):
        return 3 * super().compute_logits(inputs)

class ReturnsProbabilities(Model):
    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return super().predict_step(batch, batch_idx)["probabilities"]

class NoNet(ls.TaskModule):
    def __init__(self, task, **kwargs):
        super().__init__(task, **kwargs)

class NoTask(ls.TaskModule):
    def __init__(self):
        super().__init__(ls.Binary(), nn.Linear(30, 1))

class Net(nn.Linear):
    pass

def make(task):
    return Model(task, 30)
"""

TABLE = "a,b,y\n" + "".join(f"{i * 7 % 80 / 10},{i % 5},{'yes' if i % 7 > 3 else 'no'}\n" for i in range(80))


@pytest.fixture
def train(command, monkeypatch, tmp_path):
    """Run the command with a class of `MODULE`."""
    (tmp_path / "own_module.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    (tmp_path / "invalid.py").write_text("class Model(:\n")
    (tmp_path / "table.csv").write_text(TABLE)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_module", "broken", "invalid"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def run(name, *arguments):
        return command(
            "task=binary", f"module._target_=own_module.{name}", "report=false", *SHORT, *arguments
        )

    return run


@pytest.fixture
def lossselect(call):
    """Run another command of lossselect, and return its exit code and stderr."""
    return lambda *arguments: call(cli.main, "lossselect", *arguments)[::2]


def plan(printed):
    return {line["name"]: line for line in json.loads(printed)["lines"]}


FILE = ["data=table", "data.path=table.csv", "data.target=y", "data.positive=yes", "hydra.run.dir=run"]
CHECKPOINT = "checkpoint=run/checkpoints/best.ckpt"


def test_a_run_its_checkpoint_and_resuming(train, lossselect):
    code, out, err = train("Model", *FILE, "module.hidden=5", "loss=focal", "export=torch_export")
    assert (code, err) == (0, "")
    assert "Model with Sequential, 21 parameters" in out
    assert "Saved" in out.splitlines()[-1]
    content = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    assert content["class"] == "Model"
    assert content["arguments"]["hidden"] == 5
    assert content["arguments"]["num_features"] == 2
    assert content["loss"]["name"] == "focal"
    new = ("input=table.csv", "output=out.csv")
    assert lossselect("predict", CHECKPOINT, *new, "module=own_module.Model") == (0, "")
    expected = {row["row"]: row["p_yes"] for row in read_csv("run/predictions.csv")}
    predicted = {row["row"]: row["p_yes"] for row in read_csv("out.csv")}
    assert {row: float(predicted[row]) for row in expected} == pytest.approx(
        {row: float(p) for row, p in expected.items()}, abs=1e-6
    )
    rows = pl.read_csv("run/predictions.csv")["row"].to_list()
    pl.read_csv("table.csv")[rows].write_csv("test.csv")
    arguments = ("evaluate", CHECKPOINT, "input=test.csv", "module=own_module.Model")
    assert lossselect(*arguments) == (0, "")
    metrics = [json.loads(Path(folder, "metrics.json").read_text()) for folder in ("run", "evaluation")]
    assert {k: v for k, v in metrics[0].items() if k.startswith("test/")} == metrics[1]
    assert lossselect("export", CHECKPOINT, "output=m.pt2", "module=own_module.Model") == (0, "")
    assert lossselect("report", "run=run") == (0, "")
    for wrong, message in (
        ([], "contains a Model, your own class. Set module to its import path"),
        (["module=own_module.WithNet"], "contains a Model, got module=own_module.WithNet"),
        (["module=own_module.Net"], "module=own_module.Net: expected a subclass of TaskModule"),
        (["module=missing.Model"], "no module 'missing' was found"),
    ):
        for command in (("predict", CHECKPOINT, *new), ("export", CHECKPOINT, "output=m.pt2")):
            code, err = lossselect(*command, *wrong)
            assert code == 1
            assert message in err
            assert "Traceback" not in err
    assert (
        "module is only for a checkpoint" in lossselect("predict", "checkpoint=m.pt2", *new, "module=x.Y")[1]
    )
    resumed = [*FILE, "loss=focal", "resume=auto", "trainer.max_epochs=3"]
    code, _, err = train("Model", *resumed, "module.hidden=6")
    assert code == 1
    assert "the same settings of model, module and head" in err
    code, out, err = train("Model", *resumed, "module.hidden=5")
    assert (code, err) == (0, "")
    assert "Results of epoch 3" in out


@pytest.mark.filterwarnings("ignore:You have overridden")
@pytest.mark.parametrize("name", ["ScalesInHook", "ScalesInUnpack", "ScalesPredictions", "ScalesLogits"])
def test_overrides_apply_to_predictions_of_a_file(name, train, lossselect):
    assert train(name, *FILE, "trainer.max_epochs=2")[0] == 0
    new = ("input=table.csv", "output=out.csv")
    assert lossselect("predict", CHECKPOINT, *new, f"module=own_module.{name}") == (0, "")
    expected = {row["row"]: float(row["p_yes"]) for row in read_csv("run/predictions.csv")}
    predicted = {row["row"]: float(row["p_yes"]) for row in read_csv("out.csv")}
    assert {row: predicted[row] for row in expected} == pytest.approx(expected, abs=1e-6)
    code, err = lossselect("export", CHECKPOINT, "output=m.pt2", f"module=own_module.{name}")
    assert code == 1
    assert f"{name} " in err
    assert "an exported model contains only forward" in err


def test_unpack_batch_is_called_for_the_rows_of_a_file(train):
    for name in ("Model", "ScalesInUnpack"):
        assert train(name, *FILE, "hydra.run.dir=" + name)[0] == 0
    losses = [
        json.loads(Path(name, "metrics.json").read_text())["test/loss"]
        for name in ("Model", "ScalesInUnpack")
    ]
    assert losses[0] != losses[1]


def test_a_predict_step_that_returns_no_predictions(train):
    code, _, err = train("ReturnsProbabilities", *FILE)
    assert code == 1
    assert "ReturnsProbabilities.predict_step must return a mapping" in err


def test_a_sweep_over_an_argument(train):
    code, _, err = train("Model", "-m", "module.hidden=2,3", "hydra.sweep.dir=sweep")
    assert (code, err) == (0, "")
    hidden = [
        torch.load(f"sweep/{job}-binary/checkpoints/best.ckpt", weights_only=True)["arguments"]["hidden"]
        for job in (0, 1)
    ]
    assert hidden == [2, 3]


def test_a_chunked_head(train):
    settings = ["task=multiclass", "head=chunked", "module.hidden=6", "hydra.run.dir=run"]
    code, out, err = train("Model", *settings)
    assert (code, err) == (0, "")
    assert "head=chunked" in out


def test_check_only_runs_a_batch_and_writes_nothing(train):
    code, out, err = train("WithNet", "model=linear", "module.scale=2", "check_only=true")
    assert (code, err) == (0, "")
    assert "The net and the loss accept the first batch" in out
    assert "WithNet with linear" in out
    assert not Path("outputs").exists()


def test_custom_data(train, tmp_path):
    (tmp_path / "own_data.py").write_text(OWN_DATA)
    sys.modules.pop("own_data", None)
    code, out, err = train(
        "Model", "~data", "+data._target_=own_data.Data", "explain=true", "module.hidden=3"
    )
    assert (code, err) == (0, "")
    assert "Model with Sequential, 19 parameters" in out
    code, _, err = train(
        "Model", "~data", "+data._target_=own_data.Data", "explain=true", "module.num_features=4"
    )
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("name", "settings", "lines"),
    [
        # the defaults are those of the class, not of the run
        ("Model", [], {"optimizer": "AdamW", "schedule": "none", "loss": "cross_entropy"}),
        (
            "Model",
            ["optimizer=sgd", "scheduler=cosine"],
            {"optimizer": "SGD, lr=0.1", "schedule": "CosineAnnealingLR, T_max=2"},
        ),
        ("Model", ["mix=mixup"], {"mix": "mixup"}),
        ("Child", ["module.scale=2", "module.hidden=1"], {"model": "Child with Sequential, 33 parameters"}),
        ("Inherits", ["model=linear"], {"model": "Inherits with linear, 32 parameters"}),
        ("WithNet", ["model.hidden=[]"], {"model": "WithNet with mlp, 31 parameters"}),
        ("AddsToTheOptimizer", ["optimizer.lr=2"], {"optimizer": "AdamW, lr=2"}),
        (
            "Nested",
            [
                *("module.encoder._target_=torch.nn.Linear", "module.encoder.in_features=30"),
                *("module.encoder.out_features=4", "module.sizes=[1,2]"),
            ],
            {"model": "Nested with Sequential, 129 parameters"},
        ),
        # what the class does not use is neither shown nor assumed
        ("Explicit", [], {"schedule": "none", "checkpoint": "the epoch with the best val/loss"}),
        (
            "Optimizes",
            [],
            {"optimizer": "Optimizes.configure_optimizers", "checkpoint": "the epoch with the best"},
        ),
        ("SetsScheduler", [], {"schedule": "ConstantLR", "loss": "focal"}),
        (
            "HasDefaults",
            [],
            {"loss": "focal", "optimizer": "SGD, lr=0.5", "schedule": "ConstantLR", "mix": "mixup"},
        ),
        (
            "HasDefaults",
            ["loss=cross_entropy", "optimizer=adamw", "scheduler=none"],
            {"loss": "cross_entropy", "optimizer": "AdamW", "schedule": "none"},
        ),
    ],
    ids=str,
)
def test_plan(name, settings, lines, train):
    code, out, err = train(name, "explain=json", *settings)
    assert (code, err) == (0, "")
    described = plan(out)
    for line, value in lines.items():
        assert described[line]["value"].startswith(value)
    assert described["model"]["why"] == f"own_module.{name}"
    assert ("schedule" in described) == (name != "Optimizes")


def test_none_overrides_a_default_of_the_class(train):
    code, out, _ = train("HasDefaults", "explain=json")
    own = plan(out)
    assert code == 0
    code, out, err = train("HasDefaults", "explain=json", "mix=none", "metrics=null", "bias_init=null")
    assert (code, err) == (0, "")
    typed = plan(out)
    assert own.keys() - typed.keys() == {"mix", "initial bias"}
    assert own["metrics"]["value"] == "loss, f1"
    assert typed["metrics"]["value"].startswith("loss, accuracy, f1, ")


def test_a_config_file_overrides_a_default_of_the_class(train, tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [override /optimizer: sgd, override /scheduler: none]\non_nonfinite: skip\n"
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text)
    for name, expected in (("HasDefaults", 0), ("Explicit", 1)):
        code, out, err = train(name, "experiment=mine", "--config-dir", "conf", "explain=json")
        assert (code, bool(err)) == (expected, bool(expected))
        if code:
            assert "optimizer has no effect" in err
        else:
            assert plan(out)["optimizer"]["value"].startswith("SGD, lr=0.1")
            assert plan(out)["schedule"]["value"] == "none"


@pytest.mark.parametrize("name", ["Explicit", "Optimizes"])
def test_a_module_without_the_settings_of_the_run_trains(name, train):
    code, _, err = train(name, "hydra.run.dir=run")
    assert (code, err) == (0, "")
    assert OmegaConf.load("run/.hydra/config.yaml").scheduler is None


def test_task_module_itself(command):
    code, out, err = command("task=binary", "module._target_=lossselect.TaskModule", "explain=json")
    assert (code, err) == (0, "")
    assert plan(out)["model"]["value"].startswith("mlp")


INVALID = {
    "module=own_module.Model": "set module._target_=own_module.Model",
    "module.hidden=3": "module must have a _target_, got {'hidden': 3}",
    "module._target_=own_module:Model": "Set module._target_=own_module.Model.",
    "module._target_=src/own_module.py:Model": "Set module._target_=src.own_module.Model.",
    "module._target_=own_module": "expected the import path of a class, such as my.Model",
    "module._target_=missing.Model": "contains missing.py or missing/",
    "module._target_=own_module.Modle": "own_module has no 'Modle'. Did you mean 'Model'?",
    "module._target_=broken.Model": "No module named 'no_such_package'. Install this package.",
    "module._target_=invalid.Model": "cannot be imported: SyntaxError: ",
    "module._target_=own_module.make": "expected a subclass of TaskModule, got a function",
    "module._target_=own_module.Net": "set model._target_=own_module.Net",
    "module._target_=lightning.pytorch.LightningModule": "got the class LightningModule. Derive it from",
    "Child": "requires scale. Add module.scale=VALUE",
    "NoTask": "the constructor must accept task",
    "NoNet": "has no net",
    "Fails": "cannot be created: KeyError: 'vocabulary'",
    "SetsScheduler scheduler=none": "The class sets scheduler itself. Remove scheduler.",
    "SetsScheduler loss=cross_entropy": "The class sets loss itself. Remove loss.",
    "Model module.hiden=3": "Did you mean 'hidden'? Its options: hidden",
    "Model module._partial_=true": "has no option '_partial_'",
    "Model module.task=binary": "the run passes task itself. Set task=... instead.",
    "Model module.net=3": "Set model=... instead.",
    "Model module.loss=focal": "module.loss cannot be set: the run passes loss",
    "Model module.num_features=3": "module.num_features cannot be set: it follows",
    "Model module.hidden=a": "cannot be created: TypeError",
    "Model model=mlp": "model has no effect: module._target_=own_module.Model builds its net itself",
    "Model model.hidden=[3]": "model has no effect",
    "Model ~model": "Expected a variant of model",
    "Explicit loss=focal": "loss has no effect: module._target_=own_module.Explicit does not accept it",
    "Explicit scheduler=cosine": "add scheduler to the constructor",
    "Explicit scheduler.T_max=3": "scheduler has no effect",
    "Explicit mix=mixup": "mix has no effect",
    "Explicit task=multiclass head=chunked": "head has no effect",
    "Explicit bias_init=null": "bias_init has no effect",
    "Optimizes optimizer.lr=1": "optimizer has no effect: module._target_=own_module.Optimizes overrides",
    "Model loss=asymmetric task=multiclass": "asymmetric",
    "Model export=safetensors": "safetensors",
}


@pytest.mark.parametrize("line", INVALID)
def test_invalid_settings(line, train, command):
    name, *settings = line.split()
    if "=" in name:
        code, _, err = command("task=binary", name, *settings, "explain=true")
    else:
        code, _, err = train(name, *settings, "explain=true")
    assert code == 1
    assert INVALID[line] in err
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("config", "trusted", "message"),
    [
        (
            "_target_: own_module.Model",
            [],
            "module._target_=own_module.Model: a config may not name a class here",
        ),
        ("_target_: torch.nn.Linear", [], "a config may not name a class here"),
        ("_target_: own_module.Model", ["trust=[own_module]"], ""),
        (
            "{_target_: own_module.Nested, encoder: {_target_: subprocess.Popen}}",
            ["trust=[own_module]"],
            "Popen",
        ),
        (
            "{_target_: own_module.Nested, encoder: {_target_: torch.nn.Linear, in_features: 30, out_features: 4}}",
            ["trust=[own_module]"],
            "",
        ),
    ],
)
def test_a_class_in_a_config_must_be_trusted(config, trusted, message, train, command, tmp_path):
    (tmp_path / "conf" / "module").mkdir(parents=True)
    (tmp_path / "conf" / "module" / "mine.yaml").write_text(config)
    code, _, err = command("--config-dir", "conf", "task=binary", "module=mine", "explain=true", *trusted)
    assert (code, bool(err)) == (int(bool(message)), bool(message))
    assert message in err
    assert ("own_module" in sys.modules) == (not message)  # an untrusted class is not imported


def test_arguments_of_a_chain_of_constructors(train, monkeypatch):
    train("Model", "explain=true")  # writes and imports own_module
    monkeypatch.setenv("LOSSSELECT_TRUST", "own_module")
    part = OmegaConf.create({"_target_": "own_module.Child"})
    custom = CustomModule(part)
    assert custom.accepted[:4] == ["scale", "task", "num_features", "hidden"]
    assert custom.required == ["scale"]
    assert {"loss", "optimizer"} <= {*custom.accepted}
    assert "net" not in custom.accepted
