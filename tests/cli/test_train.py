"""The command line, as a person uses it. In this process, but for what concerns imports."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import polars as pl
import pytest
import torch
from paths import ROOT

import lossselect as ls

SHORT = ["trainer.max_epochs=2", "trainer.accelerator=cpu"]


def read_csv(path):
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("task", "rows", "first"),
    [("binary", 114, "benign"), ("multiclass", 360, "0"), ("multilabel", 917, "Class1")],
)
def test_a_run_leaves_what_it_promises(task, rows, first, command, tmp_path):
    code, out, _ = command(f"task={task}", "hydra.run.dir=run", *SHORT)
    assert code == 0
    for word in (
        "Plan",
        "Results",
        "test/untuned",
        "f1_macro",
        "Binary cross-entropy" if task != "multiclass" else "Cross-ent",
    ):
        assert word in out

    metrics = json.loads(Path("run/metrics.json").read_text())
    for name in ("loss", "accuracy", "f1_micro", "f1_macro", "auroc", "map"):
        assert metrics[f"test/{name}"] >= 0
        assert metrics[f"val/{name}"] >= 0

    table = read_csv("run/predictions.csv")
    assert len(table) == rows
    assert next(name for name in table[0] if name.startswith("p_")) == f"p_{first}"
    module = ls.TaskModule.load_from_checkpoint("run/checkpoints/best.ckpt")
    names = [name for name in table[0] if name.startswith("p_")]
    probabilities = torch.tensor([[float(row[name]) for name in names] for row in table])
    decided = module.task.decode(module.task.decide(probabilities))
    assert decided == [
        json.loads(row["prediction"]) if task == "multilabel" else row["prediction"] for row in table
    ]
    if task != "multilabel":
        right = sum(row["target"] == row["prediction"] for row in table) / rows
        assert metrics["test/accuracy"] == pytest.approx(right, abs=1e-6)

    logged = read_csv("run/logs/metrics.csv")
    assert {"train/loss", "val/loss", "train/auroc", "val/auroc"} <= set(logged[0])


def test_the_config_is_written_unresolved(command, monkeypatch):
    monkeypatch.setenv("A_SECRET", "hunter2")
    secret = ["+mine=${oc.env:A_SECRET}", "+task.class_names=[no,'${mine}']"]
    code, _, err = command("task=binary", "hydra.run.dir=run", *secret, *SHORT)
    assert code == 0, err
    written = Path("run/.hydra/config.yaml").read_text()
    assert "hunter2" not in written
    assert "${oc.env:A_SECRET}" in written


def test_a_checkpoint_holds_plain_values(command):
    command("task=multilabel", "loss=focal", "loss.gamma=1.5", "hydra.run.dir=run", *SHORT)
    content = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    assert content["hyper_parameters"]["loss"] == {"name": "focal", "gamma": 1.5}
    assert content["hyper_parameters"]["task"]["class_names"][0] == "Class1"
    assert content["TensorData"]["mean"].shape == (103,)


def test_the_same_seed_gives_the_same_metrics(command):
    results = []
    for run in ("a", "b"):
        command("task=binary", "seed=3", f"hydra.run.dir={run}", *SHORT)
        results.append(Path(run, "metrics.json").read_text())
    assert results[0] == results[1]


def test_a_sweep_runs_each_task(command):
    code, *_ = command("-m", "task=binary,multiclass,multilabel", "hydra.sweep.dir=sweep", *SHORT)
    assert code == 0
    assert sorted(path.parent.name for path in Path("sweep").glob("*/metrics.json")) == [
        "0-binary",
        "1-multiclass",
        "2-multilabel",
    ]


@pytest.mark.parametrize(
    ("arguments", "metric"),
    [
        (["task=multilabel"], "val/map"),
        (["task=binary"], "val/loss"),
        (["task=binary", "monitor=val/f1_macro"], "val/f1_macro"),
        (["task=binary", "monitor=train/loss"], None),
    ],
    ids=str,
)
@pytest.mark.parametrize("how", [[], ["-m"]], ids=["a run", "a sweep"])
def test_a_sweeper_is_told_what_a_run_is_judged_by(how, arguments, metric, command, monkeypatch, tmp_path):
    (tmp_path / "told.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Told(Callback):\n"
        "    values = []\n"
        "    def on_job_end(self, job_return, **kwargs):\n"
        "        self.values.append(job_return.return_value)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, _, err = command(
        *how,
        *arguments,
        "+hydra.callbacks.told._target_=told.Told",
        "hydra.run.dir=run",
        "hydra.sweep.dir=.",
        "hydra.sweep.subdir=run",
        *SHORT,
    )
    assert (code, err) == (0, "")
    (value,) = sys.modules.pop("told").Told.values
    if metric is None:  # of the training epoch there is only the log
        with open("run/logs/metrics.csv") as file:
            losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
        assert value == pytest.approx(min(losses))
    else:
        assert value == pytest.approx(json.loads(Path("run/metrics.json").read_text())[metric], abs=1e-6)


@pytest.mark.parametrize(
    "choice",
    [
        ["model=linear"],
        ["optimizer=sgd"],
        ["scheduler=none"],
        ["scheduler=plateau"],
        ["logger=none"],
        ["logger=null", "scheduler=null", "callbacks=null"],
        ["~logger", "~scheduler", "~callbacks"],
        ["monitor=train/loss"],
        ["+trainer.limit_predict_batches=1"],
        ["trainer.precision=bf16-mixed"],
        ["monitor=val/f1_macro"],
        ["loss.weight=[1]", "loss.pos_weight=2", "loss.label_smoothing=0.1"],
        ["data=digits", "task=multiclass"],
        ["experiment=yeast_focal", "task=multilabel"],
    ],
    ids=" ".join,
)
def test_choices(choice, command):
    code, _, err = command("task=binary", *choice, "hydra.run.dir=run", *SHORT)
    assert code == 0, err
    assert Path("run/metrics.json").exists()


def test_parts_of_the_users_own(command, monkeypatch, tmp_path):
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
    assert "NoTask must tell how many classes there are" in err
    own[1] = "+data._target_=torch.nn.Identity"
    code, _, err = command("task=binary", *own, "hydra.run.dir=run3", *SHORT)
    assert code == 1
    assert "data._target_ must make a LightningDataModule, got Identity" in err


MISTAKES = [
    ([], "Say what the task is: task=binary, task=multiclass or task=multilabel."),
    (["task=multilable"], "There is no task 'multilable'. Did you mean 'multilabel'?"),
    (["tsk=binary"], "There is no setting 'tsk'. Did you mean 'task'?"),
    (["task=binary", "lerning=1"], "There is no setting 'lerning'."),
    (["task=binary", "loss=focl"], "There is no loss 'focl'. Did you mean 'focal'?"),
    (
        ["task=binary", "loss=focal", "loss.gama=2"],
        "'loss.gama'. Did you mean 'gamma'? loss=focal has: alpha, beta, gamma",
    ),
    (["task=binary", "loss.gamma=2"], "gamma is an option of loss=focal."),
    (["task=binary", "trainer.max_epoch=3"], "'trainer.max_epoch'. Did you mean 'max_epochs'?"),
    (["task=binary", "x=[1"], "'x=[1' cannot be read: settings look like KEY=VALUE."),
    (["task=binary", "seed"], "'seed' cannot be read: settings look like KEY=VALUE."),
    (["task=binary", "seed=x"], "seed must be a whole number from 0 to 4294967295, got 'x'."),
    (["task=binary", "+epochs=3"], "There is no setting 'epochs', and none that refers to it."),
    (["task=binary", "loss=bce"], "There is no loss 'bce'. Here it is 'cross_entropy', in the form that"),
    (["task=binary", "loss.name=BCEWithLogitsLoss"], "Here it is 'cross_entropy', in the form that the task"),
    (["task=binary", "loss.weight=[]"], "loss.weight must be a list of one number per output, got []."),
    (["task=multilabel", "loss.weight=3"], "loss.weight must be a list of one number per output, got 3."),
    (["task=binary", "optimizer.name=adamw"], "There is no optimizer 'adamw'. Did you mean 'AdamW'?"),
    (["task=binary", "optimizer.lr=abc"], "Optimizer 'AdamW': lr must be a number, got 'abc'."),
    (["task=binary", "optimizer.name=SparseAdam", "~optimizer.weight_decay"], "cannot take a step"),
    (["task=binary", "scheduler.T_max=null"], "The scheduler cannot take a step with {'name': 'Cosine"),
    (["task=binary", "model.hidden=64"], "hidden must be a list of widths, such as [64], got 64."),
    (["task=binary", "model.hidden=[0]"], "a width of hidden must be a whole number of at least 1, got 0."),
    (
        ["task=binary", "callbacks.early_stopping.patience=abc"],
        "callbacks.early_stopping.patience must be a whole number of at least 0, got 'abc'.",
    ),
    (["task=binary", "+callbacks.foo=3"], "callbacks.foo must have a _target_, or be null; it is 3."),
    (["task=binary", "trainer.log_every_n_steps=abc"], "trainer.log_every_n_steps must be a whole number"),
    (["task=binary", "trainer.limit_train_batches=3"], "with a plus: +trainer.limit_train_batches=..."),
    (["task={a:1}"], "task is given as what it cannot be: task takes the name of a variant"),
    (
        ["task=binary", "callbacks.early_stopping.monitor=val/los"],
        "callbacks.early_stopping.monitor: training knows no metric 'val/los'. Did you mean 'val/loss'?",
    ),
    (
        ["task=binary", "scheduler=plateau", "+scheduler.monitor=val/x"],
        "scheduler.monitor: training knows no",
    ),
    (["task=binary", "trainer.max_epochs=abc"], "trainer.max_epochs must be a whole number"),
    (["task=binary", "data.batch_size=0"], "data.batch_size must be a whole number of at least 1, got 0."),
    (["task=binary", "data.val_fraction=2"], "data.val_fraction must be a number between 0 and 1, got 2."),
    (["task=binary", "data.test_fraction=2"], "data.test_fraction must be a number between 0 and 1, got 2."),
    (["task=binary", "data.name=bc"], "There is no data set 'bc'."),
    (["task=binary", "task.threshold=2"], "threshold must be a probability in [0, 1], got 2."),
    (["task=binary", "task.missing=1"], "missing=1 is a label itself"),
    (["task=binary", "+task.class_names=[a,b,c]"], "Binary needs 2 class_names, got 3: a, b, c."),
    (["task=binary", "loss=focal", "loss.gamma=-2"], "gamma must be a number of at least 0, got -2."),
    (["task=multiclass", "loss=focal", "loss.alpha=.2"], "alpha has no effect on the softmax form"),
    (["task=multiclass", "loss.pos_weight=3"], "pos_weight has no effect under softmax"),
    (
        ["task=binary", "loss.label_smoothing=1.5"],
        "label_smoothing must be a number between 0 and 1, got 1.5.",
    ),
    (["task=multilabel", "loss.weight=[1,-2,3]"], "weight must have one value per output, shape (14,)"),
    (["task=binary", "optimizer.lr=-1"], "Optimizer 'AdamW' cannot be built with {'lr': -1"),
    (["task=binary", "optimizer.name=Adm"], "There is no optimizer 'Adm'. Did you mean 'Adam'?"),
    (["task=binary", "scheduler.name=Cosine"], "There is no scheduler 'Cosine'."),
    (["task=binary", "model.dropout=2"], "Net 'mlp' cannot be built"),
    (["task=binary", "model.name=mpl"], "There is no net 'mpl'. Did you mean 'mlp'?"),
    (
        ["task=binary", "monitor=val/auc"],
        "monitor: training knows no metric 'val/auc'. Did you mean 'val/auroc'?",
    ),
    (["task=binary", "monitor=val/acc"], "Did you mean 'val/accuracy'?"),
    (["task=binary", "+trainer.foo=1"], "trainer has no option 'foo'."),
    (["task=binary", "+trainer.logger=true"], "trainer has no option 'logger'."),
    (["task=binary", "trainer.precision=bf17"], "The trainer cannot be built: Precision 'bf17' is invalid."),
    (["task=binary", "+loss.reduction=sum"], "loss.reduction is no setting"),
    (["task=binary", "+task.num_outputs=5"], "task.num_outputs is no setting: the data tell how many"),
    (["task=binary", "loss.name=[a]"], "There is no loss ['a']."),
    (["task=binary", "loss=focal", "loss.gamma=null"], "gamma must be a number of at least 0, got None."),
    (["task=binary", "task.threshold=x"], "threshold must be a number"),
    (["task=binary", "+model.num_features=5"], "model.num_features is no setting: the data tell"),
    (["task=binary", "~loss"], "A run needs loss=...; it cannot be None."),
    (["task=binary", "loss=focal,poly1"], "loss=focal,poly1: several values are a sweep, which -m begins"),
    (
        ["task=binary", "callbacks.early_stoping.patience=1"],
        "Did you mean 'early_stopping'? callbacks has: early_stopping.",
    ),
    (["task=binary", "seed.x=1"], "seed is 0, and has no settings."),
    (
        ["task=binary", "hydra.run.dri=x"],
        "There is no setting 'hydra.run.dri'. Did you mean 'hydra.run.dir'?",
    ),
    (
        ["task=binary", "optimizer=Adam"],
        "Choose one of: adamw, sgd. Others of torch's by optimizer.name=Adam.",
    ),
    (["task=multilabel", "task.top_k=a"], "task.top_k must be a whole number of at least 0, got 'a'."),
    (["task=multiclass", "task.class_names=[a]"], "added with a plus: +task.class_names=..."),
    (
        ["task=binary", "export=[onnx]"],
        "export takes one format, got ['onnx']; others later: lossselect export.",
    ),
    (["task=binary", "loss=focl"], "Choose one of: auto, cross_entropy"),
    (["task=binary", "model=null"], "model=null: a part takes the name of a variant, as in model=mlp"),
    (["task=binary", "~data.batch_size"], "data.batch_size is missing."),
    (["task=binary", "data.val_fraction=1"], "data.val_fraction must lie between 0 and 1, got 1."),
    # what our data show
    (
        ["task=binary", "data=digits"],
        "The labels look like task=multiclass: 10 distinct whole numbers, 0 to 9.",
    ),
    (["task=multiclass", "data=yeast"], "The labels look like task=multilabel: row 0 has 4 ones."),
    (["task=multilabel", "data=digits"], "The labels look like task=multiclass"),
    (["task=multilabel", "data=breast_cancer"], "The labels look like task=binary"),
    (["task=multilabel", "task.threshold=[.5,.4]"], "one number or one per output (14), got 2"),
    (
        ["task=multilabel", "loss.weight=[1,2,3]"],
        "shape (14,) for multilabel with 14 labels, got shape (3,)",
    ),
    (["task=binary", "data.val_fraction=.001"], "455 rows cannot be split at 0.001"),
    (["task=binary", "data.test_fraction=null"], "breast_cancer has no test split of its own"),
    (["task=binary", "hydra.run.dir=/proc/none/x"], "/proc/none"),
    # of a sweep
    (["-m", "task=binary,multilable"], "There is no task 'multilable'. Did you mean 'multilabel'?"),
    (["-m", "task=binary,multiclass", "loss.pos_weight=3"], "pos_weight has no effect under softmax"),
    (["-m", "task=binary", "seed=1,x"], "seed must be a whole number"),
    (["-m", "task=binary", "data=breast_cancer,digits"], "The labels look like task=multiclass"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKES, ids=lambda value: " ".join(value) if value else "none"
)
def test_a_mistake_in_the_config_is_one_message_and_nothing_written(arguments, message, command, tmp_path):
    code, out, err = command(*arguments)
    assert code == 1
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert not list(tmp_path.iterdir())


OWN_DATA = """
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

class Data(LightningDataModule):
    class_names = ("low", "high")
    num_features = 4
    def __init__(self, rows=64, drop_last=False):
        super().__init__()
        self.rows, self.drop_last = rows, drop_last
    def loader(self):
        x = torch.randn(self.rows, 4)
        return DataLoader(TensorDataset(x, (x[:, 0] > 0).int()), batch_size=16, drop_last=self.drop_last)
    def train_dataloader(self):
        return self.loader()
    def val_dataloader(self):
        return self.loader()

class NoTrain(LightningDataModule):
    class_names, num_features = ("low", "high"), 4

class Empty(Data):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(0, 4)), shuffle=True)

class Several(Data):
    def predict_dataloader(self):
        return [self.loader(), self.loader()]

class NoVal(Data):
    val_dataloader = LightningDataModule.val_dataloader

class Images(Data):
    def loader(self):
        x = torch.randn(6, 3, 4, 4)
        return DataLoader(TensorDataset(x, (x[:, 0] > 0).int()), batch_size=4)
    test_dataloader = Data.val_dataloader

def conv(num_outputs):
    return torch.nn.Conv2d(3, num_outputs, 1)

def number(num_outputs):
    return num_outputs
"""


@pytest.fixture
def own(command, monkeypatch, tmp_path):
    """Runs the command on data of the user's own."""
    (tmp_path / "own_data.py").write_text(OWN_DATA)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_data", raising=False)

    def run(data, *arguments):
        return command(
            "task=binary", "~data", f"+data._target_=own_data.{data}", "hydra.run.dir=run", *SHORT, *arguments
        )

    return run


@pytest.mark.filterwarnings("ignore:Total length of")  # Lightning says of empty loaders what we say too
@pytest.mark.filterwarnings("ignore:`ModelCheckpoint.monitor='val/loss'.` could not find")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["NoTrain"], "`train_dataloader` must be implemented"),
        (
            ["NoVal", "monitor=val/loss"],
            "There is no validation batch, but val/loss chooses the best checkpoint",
        ),
        (
            ["Data", "monitor=val/loss", "+trainer.limit_val_batches=0"],
            "There is no validation batch, but val/loss chooses",
        ),
        (["Data", "+data.rows=0"], "No step was taken: the train loader is empty"),
        (["Data", "+data.rows=10", "+data.drop_last=true"], "No step was taken: the train loader is empty"),
        (["Data", "+trainer.max_steps=0"], "trainer.max_steps or trainer.limit_train_batches allow none."),
        (
            ["Data", "monitor=val/loss", "+trainer.max_steps=1", "trainer.max_epochs=1"],
            "val/loss was never computed",
        ),
        (["Data", "+trainer.val_check_interval=1000"], "`val_check_interval` (1000)"),
        (
            ["Data", "callbacks.early_stopping.monitor=null"],
            "callbacks.early_stopping.monitor must be the name",
        ),
        (
            [
                "Data",
                "scheduler.name=OneCycleLR",
                "~scheduler.T_max",
                "+scheduler.max_lr=.1",
                "+scheduler.total_steps=3",
            ],
            "Tried to step",
        ),
        (["Empty"], "num_samples should be a positive integer value"),
        (
            ["Data", "monitor=val/loss", "+trainer.check_val_every_n_epoch=5"],
            "val/loss was never computed in 2 epochs",
        ),
        (["Dta"], "data._target_=own_data.Dta cannot be made: "),
        (["Data", "+data.cols=3"], "Data.__init__() got an unexpected keyword argument 'cols'"),
        (
            ["Data", "~model", "+model._target_=own_data.number"],
            "model._target_ must make a torch.nn.Module, got int.",
        ),
        (["Data", "loss.weight=[1,2]"], "weight must have one value per output, shape (1,) for binary"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_parts_of_the_users_own_is_one_message(arguments, message, own):
    code, _, err = own(*arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert not Path("run/metrics.json").exists()


def test_data_without_a_test_split(own):
    assert own("Data")[0] == 0
    assert {name.partition("/")[0] for name in json.loads(Path("run/metrics.json").read_text())} == {"val"}


def test_predictions_of_several_loaders_are_one_table(own):
    assert own("Several")[0] == 0
    assert len(read_csv("run/predictions.csv")) == 128


def test_a_setting_that_is_left_out_is_lightnings_default(own):
    code, out, err = own("Data", "~trainer.precision")
    assert code == 0, err
    assert "precision 32-true" in out


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_results_of_an_earlier_run_do_not_stay_beside_those_of_a_failed_one(own):
    assert own("Data")[0] == 0
    assert own("Data", "optimizer=sgd", "optimizer.lr=1e30")[0] == 1
    assert not Path("run/metrics.json").exists()


def test_the_best_by_a_training_metric_is_of_that_epoch(own):
    run = ["Data", "monitor=train/loss", "+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4"]
    assert own(*run, "callbacks=none")[0] == 0
    losses = {
        row["epoch"]: row["train/loss"] for row in read_csv("run/logs/metrics.csv") if row["train/loss"]
    }
    content = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    (state,) = [value for key, value in content["callbacks"].items() if key.startswith("BestCheckpoint")]
    assert state["best_model_score"].item() == pytest.approx(float(losses[str(content["epoch"])]))


@pytest.mark.parametrize("setting", ["loss=auto", "loss.weight=balanced", "loss=logit_adjusted"])
def test_what_the_train_labels_of_ones_own_data_tell(own, setting):
    own_classes = ["task=multiclass", setting]
    code, out, err = own("Data", *own_classes, "check_only=true")
    assert (code, err) == (0, "")
    assert "counted by fit" not in out
    code, out, err = own("Data", *own_classes)
    assert (code, err) == (0, "")
    assert "Told by the train labels" in out


def test_nothing_is_said_to_be_tuned_without_validation_rows(own):
    for arguments in (["NoVal"], ["Data", "+trainer.limit_val_batches=0"]):
        code, out, _ = own(*arguments, "logger=none")
        assert code == 0
        assert "tuned on val" not in out
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


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_a_few_batches_to_see_whether_all_works(command):
    code, out, err = command("task=binary", "+trainer.fast_dev_run=true", "hydra.run.dir=run", *SHORT)
    assert code == 0, err
    assert "Nothing is kept" in out
    assert not list(Path("run").rglob("*.ckpt"))
    command("task=binary", "hydra.run.dir=run", *SHORT)
    before = {
        path: path.read_bytes()
        for path in Path("run").rglob("*")
        if path.suffix in (".ckpt", ".json", ".csv")
    }
    command("task=binary", "+trainer.fast_dev_run=true", "logger=none", "hydra.run.dir=run", *SHORT)
    assert before == {path: path.read_bytes() for path in before}


def test_a_callback_watches_its_own_metric_in_that_ones_direction(command, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "lightning.pytorch.callbacks.EarlyStopping.on_fit_end",
        lambda s, *_: seen.append((s.monitor, s.mode)),
        raising=False,
    )
    command("task=multilabel", "callbacks.early_stopping.monitor=val/loss", "hydra.run.dir=a", *SHORT)
    command("task=multilabel", "scheduler=none", "hydra.run.dir=b", *SHORT)
    command("task=multilabel", "hydra.run.dir=c", *SHORT)  # annealed: nothing is stopped
    assert seen == [("val/loss", "min"), ("val/map", "max")]


def test_a_diverged_run_is_a_mistake_and_keeps_no_such_weights(command):
    code, _, err = command("task=binary", "optimizer=sgd", "optimizer.lr=1e30", "hydra.run.dir=run", *SHORT)
    assert code == 1
    assert "The loss or its gradient is not finite in step 2 (epoch 0, batch 1): it begins in what net" in err
    assert not list(Path("run").rglob("*.ckpt"))


def test_a_failing_job_of_a_sweep_is_told_and_the_others_run(command):
    code, _, err = command(
        "-m", "task=binary", "optimizer=sgd", "optimizer.lr=1e30,.1", "hydra.sweep.dir=sweep", *SHORT
    )
    assert code == 1
    assert "The loss or its gradient is not finite" in err
    assert Path("sweep/1-binary/metrics.json").exists()


@pytest.mark.parametrize("more", [[], ["check_only=true"], ["-m", "seed=1,2"]], ids=str)
def test_an_error_that_is_no_mistake_shows_its_traceback_and_runs_nothing(
    more, command, monkeypatch, tmp_path
):
    monkeypatch.setattr(
        "lossselect.tasks.registry.Binary.metric_names", None
    )  # a TypeError in lossselect itself
    code, _, err = command(*more, "task=binary", "hydra.run.dir=run", *SHORT)
    assert code == 1
    assert "Traceback" in err
    assert "TypeError: Value after * must be an iterable" in err
    assert not list(tmp_path.iterdir())  # Hydra would make a warning of it, and go on


def test_the_seed_holds_for_the_users_own_net(command):
    own = ["~model", "+model._target_=torch.nn.Linear", "+model.in_features=30", "+model.out_features=1"]
    results = []
    for run in ("a", "b"):
        assert command("task=binary", *own, "seed=3", f"hydra.run.dir={run}", *SHORT)[0] == 0
        results.append(Path(run, "metrics.json").read_text())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("arguments", "code", "modules"),
    [
        (["--help"], 0, []),
        (["task=multilable"], 1, []),
        (["task=binary", "loss=focl"], 1, []),
        (["task=binary", "loss=focal", "loss.gama=1"], 1, []),
        (["task=binary", "trainer.max_epoch=1"], 1, []),
        (["task=binary", "data.name=yest"], 1, []),
        (["task=binary", "model.name=mpl"], 1, []),
        (["task=binary", "+model.width=3"], 1, []),
        (["task=multiclass", "loss.pos_weight=2"], 1, ["torch"]),
        (["task=binary", "optimizer.name=Adm"], 1, ["torch"]),
        (["task=binary", "data=digits"], 1, ["torch"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else str(value),
)
def test_the_answer_comes_before_heavy_imports(arguments, code, modules, tmp_path):
    probe = (
        "import sys, lossselect.cli.train\ncode = 0\n"
        "try:\n    lossselect.cli.train.main()\n"
        "except SystemExit as stop:\n    code = stop.code or 0\n"
        "names = [n for n in ('torch', 'lightning', 'torchmetrics') if n in sys.modules]\n"
        "print([code, names])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, *arguments], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.splitlines()[-1] == str([code, modules])


def test_help_is_for_people(command):
    code, out, _ = command("--help")
    assert code == 0
    for words in (
        "task=multilabel",
        "loss       auto, cross_entropy, one_vs_rest, focal",
        "metrics.json",
        "trainer.max_epochs=10",
    ):
        assert words in out


def test_train_py_in_the_repository_is_the_same_command(tmp_path):
    environment = {**os.environ, "HYDRA_FULL_ERROR": ""}
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "task=multilable"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "There is no task 'multilable'. Did you mean 'multilabel'? "
        "Choose one of: auto, binary, multiclass, multilabel.\n"
    )


def test_a_new_row_of_the_table_of_losses_is_a_choice_of_the_command_line(tmp_path):
    """Nothing but the table is touched: no config, no list of names."""
    code = (
        "import sys, lossselect, lossselect.cli.train\n"
        "def squared(logits, target, power=2.0):\n"
        "    return (logits.sigmoid() - target).abs() ** power\n"
        "lossselect.LOSSES['squared'] = {'sigmoid': squared}\n"
        "lossselect.cli.train.main()\n"
    )

    def run(*arguments):
        command = [sys.executable, "-c", code, "hydra.run.dir=run", *SHORT, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    done = run("task=binary", "loss=squared", "loss.power=3")
    assert done.returncode == 0, done.stderr
    assert "squared (sigmoid form)" in done.stdout
    content = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    assert content["hyper_parameters"]["loss"] == {"name": "squared", "power": 3}
    refused = run("task=multiclass", "loss=squared")
    assert "Loss 'squared' has no softmax form, which task=multiclass needs." in refused.stderr


@pytest.mark.parametrize(
    ("epoch", "left"), [(0, "no checkpoint yet"), (1, "checkpoints/best.ckpt, checkpoints/last.ckpt")]
)
def test_an_interrupted_run_says_what_is_left(epoch, left, command, monkeypatch):
    step = ls.TaskModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.current_epoch == epoch and batch_idx == 3:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ls.TaskModule, "training_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    try:
        code, _, said = command("task=binary", "hydra.run.dir=r")
    finally:
        signal.signal(signal.SIGINT, handler)  # which Lightning has put off
    assert code == 130
    assert f"Interrupted after {epoch * 7 + 3} steps. In " in said
    assert said.strip().endswith(f"r: {left}.")
    assert "Traceback" not in said


class TestFolder:
    def test_a_file_in_its_place(self, command, tmp_path):
        (tmp_path / "run").touch()
        code, _, err = command("task=multilabel", "hydra.run.dir=run")
        assert code == 1
        assert err.endswith(
            "run is a file, where a folder is needed: choose another one, hydra.run.dir=FOLDER.\n"
        )

    @pytest.mark.parametrize(
        "written", ["hydra.core.utils._save_config", "lossselect.utils.atomic_write.os.replace"]
    )
    def test_cannot_be_written(self, written, command, monkeypatch):
        def denied(given, to, *_):
            path = f"{to}/config.yaml" if "hydra" in str(to) else str(to)
            raise PermissionError(errno.EACCES, "Permission denied", path)

        monkeypatch.setattr(
            written, (lambda config, name, to: denied(name, to)) if "hydra" in written else denied
        )
        code, _, err = command("task=multilabel", "hydra.run.dir=run")
        assert code == 1
        assert err.endswith("run cannot be written to: choose another one, hydra.run.dir=FOLDER.\n")

    def test_nobody_reads_what_it_says(self, tmp_path):
        """As after `| head -1`: the run goes on to its end."""
        arguments = ["task=multilabel", "trainer.max_epochs=1", "hydra.run.dir=run"]
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, ROOT / "train.py", *arguments], cwd=tmp_path, stdout=write, stderr=write
        )
        os.close(write)
        assert done.returncode == 0
        assert (tmp_path / "run" / "predictions.csv").is_file()


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
        assert "what another run left in this folder is in earlier.1 now" in " ".join(out.split())
        assert before == [(tmp_path / "run" / "earlier.1" / name).read_bytes() for name in names]
        assert command(*self.SHORT, "resume=auto")[0] == 0
        assert not (tmp_path / "run" / "earlier.2").exists()

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            (["loss=focal"], "another loss than the checkpoint's: cross_entropy is focal now."),
            (["loss.label_smoothing=.1"], "another loss than the checkpoint's: label_smoothing."),
            ([], ""),
        ],
    )
    def test_another_loss_is_said(self, command, changed, said):
        assert command(*self.SHORT)[0] == 0
        with warnings.catch_warnings():
            warnings.simplefilter("default", ls.GuardWarning)
            code, _, err = command(*self.SHORT, "resume=auto", "trainer.max_epochs=3", *changed)
        assert code == 0, err
        assert said in err
        assert "other_loss" in err or not said
        assert "another loss" not in err or said

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
            ("run", "That is a folder, which has run/checkpoints/best.ckpt, run/checkpoints/last.ckpt."),
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
        assert "within an epoch of other batches (rows a batch: [64], now [32])" in err

    @pytest.mark.filterwarnings("default")
    def test_the_newest_whole_one(self, command, tmp_path):
        assert command(*self.SHORT, "monitor=val/loss")[0] == 0
        last = tmp_path / "run" / "checkpoints" / "last.ckpt"
        last.write_bytes(last.read_bytes()[:-100])
        code, out, err = command(*self.SHORT, "monitor=val/loss", "resume=auto")
        assert code == 0, err
        assert f"Warning: {last} " in err
        assert "It is passed over. (allow=[damaged_checkpoint]" in err
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
                "The checkpoint is of a run with AdamW, CosineAnnealingLR, and this one has SGD,",
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


def test_a_checkpoint_callback_of_ones_own_may_refer_to_the_monitor(command, tmp_path):
    own = (
        "_target_=lightning.pytorch.callbacks.ModelCheckpoint",
        "dirpath=own",
        "filename=x",
        "every_n_epochs=2",  # else it were as that of the run, of which Lightning takes one
        "monitor='${monitor}'",
    )
    mine = [f"+callbacks.mine.{setting}" for setting in own]
    code, _, err = command("task=binary", "trainer.max_epochs=2", "hydra.run.dir=run", "report=false", *mine)
    assert code == 0, err
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["x.ckpt"]


@pytest.mark.parametrize("what", ["explain=true", "explain=json", "check_only=true"])
def test_a_sweep_that_is_only_looked_at_writes_nothing(what, command, tmp_path):
    code, out, err = command("-m", "task=binary,multiclass", what)
    assert code == 0, err
    for task in ("binary", "multiclass"):
        assert (f"task={task} {what}" in out) == (what != "explain=json")
    assert "10 raw logits" in out
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "given",
    [
        ("-m", "task=binary", "check_only=true,false"),
        ("task=binary", "-m", "seed=0,1", "explain=false,true"),
    ],
    ids=" ".join,
)
def test_a_sweep_is_looked_at_or_run(given, command, tmp_path):
    code, _, err = command(*given)
    assert code == 1
    assert "explain and check_only are for all jobs of a sweep, or for none." in err
    assert not [*tmp_path.iterdir()]


LEAKS = """
from lightning.pytorch import Callback
class Leaks(Callback):
    def __init__(self, token):
        self.token = token
    def on_train_start(self, trainer, module):
        raise RuntimeError("401 with " + self.token)
"""


def test_a_secret_in_an_error_is_not_in_the_report(command, tmp_path, monkeypatch):
    name = f"leaks_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(LEAKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("A_SECRET", "hunter2")
    own = (f"+callbacks.own._target_={name}.Leaks", "+callbacks.own.token=${oc.env:A_SECRET}")
    with pytest.raises(RuntimeError):  # a bug of the callback's
        command("task=binary", *own, "hydra.run.dir=run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "401 with ${oc.env:A_SECRET}" in page
    assert not [
        path for path in (tmp_path / "run").rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()
    ]


STOPS = """
from lightning.pytorch import Callback
class Ends(Callback):
    def on_validation_end(self, trainer, module):
        trainer.should_stop = not trainer.sanity_checking
"""


@pytest.mark.filterwarnings("always::lossselect.GuardWarning")
def test_a_run_that_its_own_callback_ends_says_that_its_last_epoch_may_not_be_the_best(
    command, tmp_path, monkeypatch
):
    name = f"stops_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(STOPS)
    monkeypatch.syspath_prepend(tmp_path)
    given = ("task=binary", f"+callbacks.own._target_={name}.Ends", "hydra.run.dir=run", "report=false")
    code, _, err = command(*given)
    assert code == 0
    assert "Warning: Training was ended after epoch 1 of 50, where the learning rate was not yet 0." in err
    code, _, err = command(*given, "monitor=epoch")
    assert (code, err) == (0, "")


def test_a_loader_whose_batch_size_is_given_by_its_place(command, tmp_path, monkeypatch):
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


@pytest.mark.parametrize("name", ["monito", "monitors"])
def test_a_name_that_begins_as_another_is_another(name, command):
    code, _, err = command("task=binary", f"+{name}=val/loss")
    assert code == 1
    assert f"There is no setting '{name}', and none that refers to it. Did you mean 'monitor'?" in err
