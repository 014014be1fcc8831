from pathlib import Path

import pytest
from train_cases import SHORT

MISTAKES = [
    (["seed=1"], "A task is required. Set task=binary, task=multiclass, task=multilabel or task=several."),
    (["task=multilable"], "Unknown task 'multilable'. Did you mean 'multilabel'?"),
    (["tsk=binary"], "Unknown setting 'tsk'. Did you mean 'task'?"),
    (["task=binary", "lerning=1"], "Unknown setting 'lerning'."),
    (["task=binary", "data=csv"], "For your own file, set data=table data.path=FILE data.target=COLUMN."),
    (["task=binary", "loss=focl"], "Unknown loss 'focl'. Did you mean 'focal'?"),
    (
        ["task=binary", "loss=focal", "loss.gama=2"],
        "'loss.gama'. Did you mean 'gamma'? loss=focal has: alpha, beta, gamma",
    ),
    (["task=binary", "loss.gamma=2"], "gamma is an option of loss=focal."),
    (["task=binary", "trainer.max_epoch=3"], "'trainer.max_epoch'. Did you mean 'max_epochs'?"),
    (["task=binary", "x=[1"], "'x=[1' cannot be read as KEY=VALUE."),
    (["task=binary", "seed=x"], "seed must be an integer from 0 to 4294967295, got 'x'."),
    (["task=binary", "loss=bce"], "Unknown loss 'bce'. Here it is called 'cross_entropy'"),
    (["task=binary", "loss.name=BCEWithLogitsLoss"], "Here it is called 'cross_entropy'"),
    (["task=binary", "loss.weight=[]"], "loss.weight must be balanced, effective_number, a list"),
    (["task=multilabel", "loss.weight=3"], "loss.weight must be balanced, effective_number, a list"),
    (["task=binary", "optimizer.name=adamw"], "Unknown optimizer 'adamw'. Did you mean 'AdamW'?"),
    (["task=binary", "optimizer.lr=abc"], "Optimizer 'AdamW': lr must be a number, got 'abc'."),
    (["task=binary", "optimizer.name=SparseAdam", "~optimizer.weight_decay"], "A step of the optimizer with"),
    (["task=binary", "scheduler.T_max=null"], "A step of the scheduler with {'name': 'Cosine"),
    (["task=binary", "model.hidden=64"], "hidden must be a list of widths, such as [64], got 64."),
    (["task=binary", "model.hidden=[0]"], "hidden[0] must be an integer >= 1, got 0."),
    (
        ["task=binary", "callbacks.early_stopping.patience=abc"],
        "callbacks.early_stopping.patience must be an integer >= 0, got 'abc'.",
    ),
    (["task=binary", "+callbacks.foo=3"], "callbacks.foo must be null or have a _target_, got 3."),
    (["task=binary", "trainer.log_every_n_steps=abc"], "trainer.log_every_n_steps must be an integer"),
    (["task=binary", "trainer.limit_train_batches=3"], "add a plus: +trainer.limit_train_batches=..."),
    (["task={a:1}"], "task must be the name of a variant"),
    (
        ["task=binary", "callbacks.early_stopping.monitor=val/los"],
        "Unknown metric 'val/los' of callbacks.early_stopping.monitor. Did you mean 'val/loss'?",
    ),
    (
        ["task=binary", "scheduler=plateau", "+scheduler.monitor=val/x"],
        "Unknown metric 'val/x' of scheduler.monitor.",
    ),
    (["task=binary", "trainer.max_epochs=abc"], "trainer.max_epochs must be auto or an integer"),
    (["task=binary", "data.batch_size=0"], "data.batch_size must be an integer >= 1, got 0."),
    (["task=binary", "data.val_fraction=2"], "data.val_fraction must be a number from 0 to 1, got 2."),
    (["task=binary", "data.test_fraction=2"], "data.test_fraction must be a number from 0 to 1, got 2."),
    (["task=binary", "data.name=bc"], "Unknown data set 'bc'."),
    (["task=binary", "task.threshold=2"], "threshold must be a number from 0 to 1, got 2."),
    (["task=binary", "task.missing=1"], "missing=1 is a valid label"),
    (["task=binary", "+task.class_names=[a,b,c]"], "Binary requires 2 class_names, got 3: a, b, c."),
    (["task=binary", "loss=focal", "loss.gamma=-2"], "gamma must be a number >= 0, got -2."),
    (["task=multiclass", "loss=focal", "loss.alpha=.2"], "alpha has no effect on the softmax form"),
    (["task=multiclass", "loss.pos_weight=3"], "pos_weight is not supported under softmax"),
    (
        ["task=binary", "loss.label_smoothing=1.5"],
        "label_smoothing must be a number from 0 to 1, got 1.5.",
    ),
    (["task=multilabel", "loss.weight=[1,-2,3]"], "weight must have one value per output, shape (14,)"),
    (["task=binary", "optimizer.lr=-1"], "Optimizer 'AdamW' cannot be built with {'lr': -1"),
    (["task=binary", "optimizer.name=Adm"], "Unknown optimizer 'Adm'. Did you mean 'Adam'?"),
    (["task=binary", "scheduler.name=Cosine"], "Unknown scheduler 'Cosine'."),
    (["task=binary", "model.dropout=2"], "dropout must be a number from 0 to 1"),
    (["task=binary", "model.name=mpl"], "Unknown net 'mpl'. Did you mean 'mlp'?"),
    (
        ["task=binary", "monitor=val/auc"],
        "Unknown metric 'val/auc' of monitor. Did you mean 'val/auroc'?",
    ),
    (["task=binary", "monitor=val/acc"], "Did you mean 'val/accuracy'?"),
    (["task=binary", "+trainer.foo=1"], "trainer has no option 'foo'."),
    (["task=binary", "+trainer.logger=true"], "trainer has no option 'logger'."),
    (
        ["task=binary", "trainer.precision=bf17"],
        "trainer.precision must be one of 64, 32, 16, transformer-",
    ),
    (["task=binary", "+loss.reduction=sum"], "loss.reduction cannot be set."),
    (
        ["task=binary", "+task.num_outputs=5"],
        "task.num_outputs cannot be set. The number of classes follows from the data.",
    ),
    (["task=binary", "loss.name=[a]"], "Unknown loss ['a']."),
    (["task=binary", "loss=focal", "loss.gamma=null"], "gamma must be a number >= 0, got None."),
    (["task=binary", "task.threshold=x"], "threshold must be a number"),
    (["task=binary", "+model.num_features=5"], "model.num_features cannot be set."),
    (["task=binary", "~loss"], "Expected a variant of loss, got None."),
    (
        ["task=binary", "loss=focal,poly1"],
        "loss=focal,poly1 has several values, which requires a sweep. Add -m",
    ),
    (
        ["task=binary", "callbacks.early_stoping.patience=1"],
        "Did you mean 'early_stopping'? callbacks has: early_stopping.",
    ),
    (["task=binary", "seed.x=1"], "seed is 0 and has no settings."),
    (["task.x=1"], "task is not set. Choose a variant first: task=auto, task=binary, task=multi"),
    (
        ["task=binary", "hydra.run.dri=x"],
        "Unknown setting 'hydra.run.dri'. Did you mean 'hydra.run.dir'?",
    ),
    (
        ["task=binary", "optimizer=Adam"],
        "Choose one of: adamw, sgd. For another one of torch, set optimizer.name=Adam.",
    ),
    (["task=multilabel", "task.top_k=a"], "task.top_k must be an integer >= 0, got 'a'."),
    (["task=multiclass", "task.class_names=[a]"], "add a plus: +task.class_names=..."),
    (
        ["task=binary", "export=[onnx]"],
        "export must be one format, got ['onnx'].",
    ),
    (["task=binary", "loss=focl"], "Choose one of: auto, cross_entropy"),
    (["task=binary", "model=null"], "model=null is not the name of a variant."),
    (["task=binary", "~data.batch_size"], "data.batch_size is required."),
    (["task=binary", "data.val_fraction=1"], "data.val_fraction must be > 0 and < 1, got 1."),
    # labels that do not fit the task
    (
        ["task=binary", "data=digits"],
        "The labels look like task=multiclass: 10 distinct integers, 0 to 9.",
    ),
    (["task=multiclass", "data=yeast"], "The labels look like task=multilabel: row 0 has 4 ones."),
    (["task=multilabel", "data=digits"], "The labels look like task=multiclass"),
    (["task=multilabel", "data=breast_cancer"], "The labels look like task=binary"),
    (["task=multilabel", "task.threshold=[.5,.4]"], "one number per output (14), got 2"),
    (
        ["task=multilabel", "loss.weight=[1,2,3]"],
        "shape (14,) for multilabel with 14 labels, got shape (3,)",
    ),
    (["task=binary", "data.val_fraction=.001"], "455 rows of 2 classes cannot be split into 454 and 1"),
    (["task=binary", "data.test_fraction=null"], "breast_cancer has no test split. Set data.test_fraction"),
    (["task=binary", "hydra.run.dir=/proc/none/x"], "/proc/none"),
    # sweeps
    (["-m", "task=binary,multilable"], "Unknown task 'multilable'. Did you mean 'multilabel'?"),
    (["-m", "task=binary,multiclass", "loss.pos_weight=3"], "pos_weight is not supported under softmax"),
    (["-m", "task=binary", "seed=1,x"], "seed must be an integer"),
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


@pytest.mark.filterwarnings("ignore:Total length of")  # Lightning also warns of empty loaders
@pytest.mark.filterwarnings("ignore:`ModelCheckpoint.monitor='val/loss'.` could not find")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["NoTrain"], "`train_dataloader` must be implemented"),
        (
            ["NoVal", "monitor=val/loss"],
            "monitors val/loss, but there are no validation batches",
        ),
        (
            ["Data", "monitor=val/loss", "+trainer.limit_val_batches=0"],
            "but there are no validation batches",
        ),
        (["Data", "+data.rows=0"], "the training loader has no rows. Add at least one."),
        (
            ["Data", "+data.rows=10", "+data.drop_last=true"],
            "has 10 rows, fewer than batch_size=",
        ),
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
        (["Dta"], "data._target_=own_data.Dta cannot be created: "),
        (["Data", "+data.cols=3"], "Data.__init__() got an unexpected keyword argument 'cols'"),
        (
            ["Data", "~model", "+model._target_=own_data.number"],
            "model._target_ must create a torch.nn.modules.module.Module, got int.",
        ),
        (["Data", "loss.weight=[1,2]"], "weight must have one value per output, shape (1,) for binary"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_custom_parts_is_one_message(arguments, message, own):
    code, _, err = own(*arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert not Path("run/metrics.json").exists()


def test_a_diverged_run_saves_no_weights(command):
    code, _, err = command("task=binary", "optimizer=sgd", "optimizer.lr=1e30", "hydra.run.dir=run", *SHORT)
    assert code == 1
    assert (
        "The loss or its gradient is not finite in step 2 (epoch 0, batch 1). First non-finite output: net"
        in err
    )
    assert not list(Path("run").rglob("*.ckpt"))


def test_a_failing_job_of_a_sweep_is_reported_and_the_others_run(command):
    code, _, err = command(
        "-m", "task=binary", "optimizer=sgd", "optimizer.lr=1e30,.1", "hydra.sweep.dir=sweep", *SHORT
    )
    assert code == 1
    assert "The loss or its gradient is not finite" in err
    assert Path("sweep/1-binary/metrics.json").exists()


@pytest.mark.parametrize("more", [[], ["check_only=true"], ["-m", "seed=1,2"]], ids=str)
def test_a_bug_shows_its_traceback_and_runs_nothing(more, command, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "lossselect.tasks.registry.Binary.metric_names", None
    )  # a TypeError in lossselect itself
    code, _, err = command(*more, "task=binary", "hydra.run.dir=run", *SHORT)
    assert code == 1
    assert "Traceback" in err
    assert "TypeError: 'NoneType' object is not iterable" in err
    assert not list(tmp_path.iterdir())  # by default Hydra prints a warning and continues


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
    with pytest.raises(RuntimeError):  # a bug in the callback
        command("task=binary", *own, "hydra.run.dir=run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "401 with ${oc.env:A_SECRET}" in page
    assert not [
        path for path in (tmp_path / "run").rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()
    ]


@pytest.mark.parametrize("name", ["monito", "monitors"])
def test_a_name_that_begins_like_another_is_unknown(name, command):
    code, _, err = command("task=binary", f"+{name}=val/loss")
    assert code == 1
    assert f"Unknown setting '{name}', and no other setting refers to it. Did you mean 'monitor'?" in err
