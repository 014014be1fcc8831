"""Loggers in addition to the CSV log; a logger is tested if its package is installed."""

import csv
import importlib.util
import json
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import WandbLogger
from omegaconf import OmegaConf
from paths import ROOT

from lossselect.run import loggers
from lossselect.run.allowed_classes import LOGGERS

CONFIGS = ROOT / "configs" / "logger"
SHORT = (
    "task=binary",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "hydra.run.dir=run",
    "report=false",
)


def needs(*packages):
    there = any(importlib.util.find_spec(package) for package in packages)
    return pytest.mark.skipif(not there, reason=f"needs {' or '.join(packages)}, which the user installs")


def events_of(folder):
    """Return the (tag, step, value) that TensorBoard shows, and the steps from which values were purged."""
    try:
        from tensorboardX.proto.event_pb2 import Event
    except ImportError:
        from tensorboard.compat.proto.event_pb2 import Event
    found, purged = [], []
    for path in sorted(Path(folder).glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (size,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + size])
            place += size + 16
            if event.session_log.status == 1:
                purged.append(event.step)
                found = [entry for entry in found if entry[1] < event.step]
            found += [
                (value.tag, event.step, value.simple_value)
                for value in event.summary.value
                if value.HasField("simple_value")
            ]
    return found, purged


def csv_rows():
    with Path("run/logs/metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@needs("tensorboard", "tensorboardX")
def test_tensorboard_shows_the_values_of_the_csv_log_and_the_test_metrics(command):
    code, _, err = command(*SHORT, "logger=tensorboard")
    assert code == 0, err
    shown = {(tag, step): value for tag, step, value in events_of("run/logs/tensorboard")[0]}
    logged = {
        (name, int(row["step"])): float(value)
        for row in csv_rows()
        for name, value in row.items()
        if name != "step" and value
    }
    assert ("val/f1_macro", 13) in logged
    tested = {tag for tag, _ in shown.keys() - logged.keys()}
    results = json.loads(Path("run/metrics.json").read_text())
    assert tested == {name for name in results if name.startswith("test/")}
    for key, value in logged.items():
        assert shown[key] == pytest.approx(value, rel=1e-6)
    settings = OmegaConf.load("run/logs/tensorboard/hparams.yaml")
    assert settings["optimizer.lr"] == 2e-3
    assert not [*Path().glob("lightning_logs")]


@needs("tensorboard", "tensorboardX")
def test_tensorboard_after_resuming(command):
    more = ("logger=tensorboard", "scheduler=none", "decision=none")
    assert command(*SHORT, *more)[0] == 0
    code, _, err = command(*SHORT, *more, "trainer.max_epochs=3", "resume=auto")
    assert code == 0, err
    found, purged = events_of("run/logs/tensorboard")
    assert purged[0] == 14
    losses = [step for tag, step, _ in found if tag == "train/loss"]
    assert losses == [6, 13, 20]
    assert [int(row["step"]) for row in csv_rows() if row["train/loss"]] == losses


@needs("tensorboard", "tensorboardX")
@needs("mlflow")
@pytest.mark.filterwarnings("ignore")  # in packages that MLflow imports
def test_several_loggers(command, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    # MLflow caches a store by its name for the life of the process
    several = ("logger=[tensorboard,mlflow]", "logger.mlflow.tracking_uri=file:several")
    code, _, err = command(*SHORT, *several)
    assert code == 0, err
    assert events_of("run/logs/tensorboard")[0]
    assert [*Path("several").glob("*/*/metrics/val/loss")]
    assert csv_rows()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_package_that_is_not_installed(name, command, monkeypatch, tmp_path):
    monkeypatch.setattr("lossselect.utils.checks.find_spec", lambda _: None)
    code, out, err = command(*SHORT, f"logger={name}")
    assert (code, out) == (1, "")
    logger = {"tensorboard": "TensorBoard", "wandb": "Wandb", "mlflow": "MLFlow"}[name]
    other = " (or tensorboardX)" if name == "tensorboard" else ""
    assert err == (
        f"{logger}Logger requires a package that is not installed. Run pip install {name}{other}, or set "
        "logger=csv.\n"
    )
    assert not [*tmp_path.iterdir()]


def test_a_folder_is_not_a_package(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "runs_of_mine").mkdir()
    assert importlib.util.find_spec("runs_of_mine")
    assert not loggers.is_installed("runs_of_mine")
    (tmp_path / "runs_of_mine" / "__init__.py").touch()
    importlib.invalidate_caches()
    assert loggers.is_installed("runs_of_mine")


def test_mlflow_skinny_has_no_databases(command, monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(loggers, "is_installed", lambda package: package == "mlflow")
    code, _, err = command(*SHORT, "logger=mlflow")
    assert code == 1
    assert (
        "logger.mlflow.tracking_uri=sqlite:... is a database, which mlflow-skinny does not support. Run pip install mlflow, or"
        in err
    )
    assert not [*tmp_path.iterdir()]
    assert command(*SHORT, "logger=mlflow", "logger.mlflow.tracking_uri=file:runs", "explain=true")[0] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "logger=tensorbord",
            "Unknown logger 'tensorbord'. Did you mean 'tensorboard'? Choose one of: csv,",
        ),
        (
            "logger=tensorboard logger.tensorboard.nam=a",
            "Unknown setting 'logger.tensorboard.nam'. Did you mean 'name'? logger.tensorboard has: _target_,",
        ),
        (
            "logger=tensorboard +logger.tensorboard.namee=a",
            "TensorBoardLogger does not accept its settings logger.*: FileWriter",
        ),
        (
            "logger=tensorboard logger.tensorboard._target_=null",
            "logger.tensorboard._target_ must be the name of a class, got NoneType.",
        ),
        (
            "+logger.mine._target_=torch.nn.ReLU",
            "logger.mine._target_ must create a lightning.pytorch.loggers.logger.Logger, got ReLU.",
        ),
        (
            "logger=tensorboard ~logger.tensorboard._target_",
            "logger.tensorboard must be null or have a _target_",
        ),
        (
            "logger=mlflow logger.run_name=x",
            "Unknown setting 'logger.run_name'. Did you mean 'logger.mlflow.run_name'?",
        ),
        (
            "logger.version=a",
            "Unknown setting 'logger.version'. Set logger= to one of csv,",
        ),
        ("logger.tensorbord=1", "Unknown setting 'logger.tensorbord'. Did you mean 'tensorboard'?"),
        (
            "logger.tensorboard=true",
            "is a setting of a logger that is not in use. Set logger=tensorboard as well.",
        ),
        (
            "logger.mlflow.run_name=a",
            "is a setting of a logger that is not in use. Set logger=mlflow as well.",
        ),
        ("logger.csv=maybe", "logger.csv must be true or false, got 'maybe'."),
        ("logger=[nope]", "Unknown logger 'nope'. Did you mean 'none'? Choose one of: csv,"),
        (
            "logger=tensorboard logger.csv=false",
            "The CSV log is written in addition to other loggers. To switch it off, set +logger.csv=false.",
        ),
        ("logger.csv.name=x", "logger.csv is True and has no settings."),
    ],
)
def test_mistakes(settings, message, command):
    code, _, err = command(*SHORT, *settings.split())
    assert code == 1
    assert message in err
    assert "Traceback" not in err


def test_the_loggers_of_the_configs_are_allowed():
    for path in CONFIGS.glob("*.yaml"):
        config = OmegaConf.load(path)
        assert not config or path.stem == "csv" or config["_target_"] in LOGGERS


OWN = """
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

class Recorder(Logger):
    all = []
    def __init__(self, token=None):
        super().__init__()
        assert token in (None, "hunter2")
        self.settings, self.steps, self.ended = {}, [], []
        self.all.append(self)
    name, version = "recorder", "a1"
    @rank_zero_only
    def log_hyperparams(self, params):
        self.settings.update(params)
    @rank_zero_only
    def log_metrics(self, metrics, step=None):
        self.steps.append((step, dict(metrics)))
    def finalize(self, status):
        self.ended.append(status)
"""


@pytest.fixture
def own(command, tmp_path, monkeypatch):
    """Run the command with two custom loggers; return exit code, output and loggers."""
    name = f"own_loggers_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    (tmp_path / "mine" / "logger").mkdir(parents=True)
    (tmp_path / "mine" / "logger" / "two.yaml").write_text(
        f"a: {{_target_: {name}.Recorder, token: '${{mine}}'}}\nb: {{_target_: {name}.Recorder}}\nc: null\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("A_SECRET", "hunter2")

    def run(*arguments):
        settings = (
            "--config-dir",
            "mine",
            *SHORT,
            "+mine=${oc.env:A_SECRET}",
            f"trust=[{name}]",
            "logger=two",
        )
        code, out, err = command(*settings, *arguments)
        module = __import__(name)
        return code, out + err, module.Recorder.all

    return run


def test_custom_loggers_get_metrics_and_unresolved_settings(own):
    code, output, (a, b) = own("loss.label_smoothing=0.1", "optimizer.lr=0.01")
    assert code == 0, output
    assert (a.settings, a.steps, a.ended) == (b.settings, b.steps, b.ended)
    assert a.settings["loss.label_smoothing"] == 0.1
    assert a.settings["optimizer.lr"] == 0.01
    assert a.settings["scheduler.T_max"] == 2
    assert a.settings["callbacks.early_stopping.patience"] == 20
    assert a.settings["mine"] == "${oc.env:A_SECRET}"
    assert "hunter2" not in str(a.settings) + output
    assert not [name for name in a.settings if name.startswith(("logger", "hydra", "trust"))]
    assert [step for step, _ in a.steps] == [6, 6, 13, 13, 14]
    assert {"val/loss", "val/f1_macro", "epoch"} <= set(a.steps[0][1])
    assert {name.partition("/")[0] for name in a.steps[-1][1]} == {"test"}
    assert a.ended == ["success", "success"]
    assert [row["step"] for row in csv_rows()] == ["6", "6", "13", "13"]


def test_loggers_of_a_failed_run(own):
    code, _, (a, b) = own("optimizer.lr=1e30", "optimizer=sgd", "scheduler=none")
    assert code == 1
    assert (a.ended, b.ended) == (["failed"], ["failed"])


def test_a_smoke_test_logs_nothing(own):
    code, output, recorders = own("+trainer.fast_dev_run=true")
    assert code == 0, output
    assert [(one.settings, one.steps) for one in recorders] == [({}, [])] * 2
    assert not Path("run/logs").exists()


def test_settings_by_class_names_are_text():
    config = OmegaConf.create(
        {
            "task": {"name": "multiclass", "class_names": ["a/b <x>", "c"]},
            "loss": {"weight": {"a/b <x>": 2}, "pos_weight": {"c": 1}},
            "mix": {},
            "logger": {"token": "x"},
            "seed": 3,
        }
    )
    assert loggers.unresolved_settings(config) == {
        "task.name": "multiclass",
        "task.class_names": ["a/b <x>", "c"],
        "loss.weight": "{'a/b <x>': 2}",
        "loss.pos_weight.c": 1,
        "seed": 3,
    }


@needs("mlflow")
@pytest.mark.filterwarnings("ignore")  # in packages that MLflow imports
def test_mlflow_with_its_local_file_store(command, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # required since MLflow 3.17
    monkeypatch.setenv("A_SECRET", "hunter2")
    table = tmp_path / "hunter2.csv"
    rows = [f"{i % 7},{i % 5},{('a/b <x>', 'c', 'd-x')[i % 3]}" for i in range(120)]
    table.write_text("\n".join(["x,z,kind", *rows]))
    settings = (
        *SHORT, "task=multiclass", "data=table", "data.path=${oc.env:A_SECRET}.csv", "data.target=kind",
        "loss.weight={d-x:2}", "logger=mlflow", "logger.mlflow.tracking_uri=file:runs",
        "scheduler=none", "ignore_warnings=[duplicate_rows]",
    )  # fmt: skip
    code, _, err = command(*settings)
    assert code == 0, err
    from mlflow.tracking import MlflowClient

    client = MlflowClient("file:runs")
    experiment = client.get_experiment_by_name("lossselect")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    results = json.loads(Path("run/metrics.json").read_text())
    for name in ("test/loss", "test/f1_macro"):
        assert run.data.metrics[name] == pytest.approx(results[name], nan_ok=True)
    logged = [row for row in csv_rows() if row["train/loss"]]
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [entry.step for entry in history] == [int(row["step"]) for row in logged]
    assert [entry.value for entry in history] == pytest.approx([float(row["train/loss"]) for row in logged])
    assert run.data.params["loss.weight"] == "{'d-x': 2}"
    assert run.data.params["data.path"] == "${oc.env:A_SECRET}.csv"
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"hunter2" in path.read_bytes()]

    more = ("trainer.max_epochs=3", "resume=auto", f"logger.mlflow.run_id={run.info.run_id}")
    code, _, err = command(*settings, *more)
    assert code == 0, err
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["trainer.max_epochs"] == "2"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted({entry.step for entry in history}) == [
        int(row["step"]) for row in csv_rows() if row["train/loss"]
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_the_run_of_wandb_ends_with_the_run(fails, monkeypatch):
    exit_codes = []
    monkeypatch.setitem(
        sys.modules, "wandb", SimpleNamespace(finish=lambda exit_code: exit_codes.append(exit_code))
    )
    logger = WandbLogger.__new__(WandbLogger)
    with suppress(OSError), loggers.finish_loggers([logger]):
        if fails:
            raise OSError
    assert exit_codes == [int(fails)]


@needs("wandb")
@pytest.mark.filterwarnings("ignore")  # in packages that wandb imports
def test_wandb_offline_has_a_run_for_each_job(command, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    sweep = ("seed=0,1", "hydra.sweep.dir=runs", "+trainer.limit_train_batches=3")
    code, _, err = command("-m", *(a for a in SHORT if "run.dir" not in a), *sweep, "logger=wandb")
    assert code == 0, err
    files = [*tmp_path.glob("runs/*/wandb/offline-run-*/*.wandb")]
    assert sorted(path.parents[2].name for path in files) == ["0-binary", "1-binary"]
    for path in files:
        for _ in range(100):  # W&B's process writes the end a little later
            if b"test/f1_macro" in (content := path.read_bytes()):
                break
            time.sleep(0.1)
        assert b"test/f1_macro" in content
        assert b"optimizer.lr" in content
    import wandb

    assert wandb.run is None
