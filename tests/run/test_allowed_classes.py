"""The classes that a config may name, at every position, compared with the reviewed list allowed_classes.json.

A class is added to the list after a review of its arguments: none is loaded, unpickled, imported, evaluated or
executed.
"""

import base64
import importlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from hydra.utils import get_object
from new_process import run_program
from omegaconf import OmegaConf
from paths import SCRIPTS

from lossselect.run.allowed_classes import POSITIONS, Position, find_position, public_name
from lossselect.run.trust import VARIABLE, check_target, check_targets, make_part, trust

pytestmark = pytest.mark.xdist_group("allowed classes")  # enumerating the classes takes seconds

REVIEWED = json.loads((Path(__file__).parent / "allowed_classes.json").read_text())

PLACES = {
    "model": ["model", "model.net", "model._args_[0]", "model.layers[1].norm", "module.encoder"],
    "data": ["data"],
    "optimizer": ["optimizer"],
    "scheduler": ["scheduler"],
    "callbacks": ["callbacks.mine"],
    "metrics": ["metrics", "metrics.iou", "metrics[1]", "metrics[0].iou"],
    "logger": ["logger", "logger.mine"],
    "hydra.launcher": ["hydra.launcher"],
    "hydra.sweeper": ["hydra.sweeper"],
    "hydra.callbacks": ["hydra.callbacks.mine"],
    "a custom setting, and the user's code": ["mine", "models.a", ""],
    None: [
        *("data.transform", "module", "data[0]", "loss", "loss.weight", "task", "head", "mix", "decision"),
        "seed",
        *("trainer", "trainer.strategy", "trainer.profiler", "trainer.plugins[0]", "experiment", "monitor"),
        *("optimizer.lr", "optimizer._args_[0]", "optimizer.params[0]", "scheduler.optimizer", "callbacks"),
        *("callbacks.a.b", "callbacks.a[0]", "logger.a.b", "logger.a[0]", "hydra", "hydra.launcher.x"),
        *("metrics.iou.average", "metrics.iou[0]", "metrics[0][0]"),
        *("hydra.sweeper.sampler", "hydra.callbacks", "hydra.callbacks.a.b", "hydra.job"),
    ],
}
"""Places in a config by position; None for the places where no class is allowed."""

OTHERS = (
    "torch.fx.GraphModule",
    "torch.jit.ScriptModule",
    "torch.jit.ScriptFunction",
    "torch.nn.DataParallel",
    "torch.nn.Module",
    "torch.nn.TripletMarginWithDistanceLoss",
    "torch.nn.parallel.DistributedDataParallel",
    "torch.nn.utils.parametrize.ParametrizationList",
    "torch.ao.quantization.QuantStub",
    "torch.optim.Optimizer",
    "torch.optim.lr_scheduler.LambdaLR",
    "torch.optim.swa_utils.AveragedModel",
    "torchmetrics.Metric",
    "torchmetrics.MetricCollection",
    "torchmetrics.classification.BinaryROC",
    "torchmetrics.wrappers.BootStrapper",
    "torch.utils.data.ConcatDataset",
    "torch.utils.data.DataLoader",
    "torch.utils.data.RandomSampler",
    "torch.utils.data.datapipes.iter.FileOpener",
    "torch.utils.data.datapipes.iter.routeddecoder.RoutedDecoderIterDataPipe",
    "lightning.pytorch.LightningDataModule",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.callbacks.LambdaCallback",
    "lightning.pytorch.demos.boring_classes.BoringDataModule",
    "lightning.pytorch.profilers.SimpleProfiler",
    "lightning.pytorch.strategies.DDPStrategy",
    "lossselect.TaskModule",
    "lossselect.data.datamodule.TensorData",
    "hydra.utils.get_method",
    "hydra.core.plugins.Plugins",
)
"""Some of the classes and functions that no position allows."""


@pytest.fixture(autouse=True)
def nothing_is_trusted(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def is_allowed(name, place):
    try:
        check_target(name, place)
    except ValueError:
        return False
    return True


def canonical(cls):
    return f"{cls.__module__}.{cls.__qualname__}"


@pytest.fixture(scope="module")
def classes():
    """Map each name of an installed class to its defining name, in the packages that a config may name."""
    done = run_program([SCRIPTS / "classes.py"], ".")
    assert done.returncode == 0, done.stderr
    return {**dict.fromkeys(OTHERS), **json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("position", PLACES, ids=str)
def test_only_reviewed_classes_are_allowed(position, classes):
    assert len(classes) > 5000
    reviewed = set()
    every = {name for names in REVIEWED.values() for name in names}
    for name in every if str(position).startswith("a custom") else REVIEWED.get(position, ()):
        module, _, last = name.rpartition(".")
        try:
            reviewed.add(canonical(getattr(importlib.import_module(module), last)))
        except (ImportError, AttributeError):  # another version, or a package that is not installed
            continue
    for place in PLACES[position]:
        allowed = {defining or name for name, defining in classes.items() if is_allowed(name, place)}
        assert allowed == reviewed, place


def test_the_table_is_the_reviewed_list():
    """The table also contains classes of versions that are not installed here."""
    assert len(POSITIONS) == len(REVIEWED)
    for position, names in REVIEWED.items():
        for place in PLACES[position]:
            assert sorted(find_position(place).classes) == names
    for place in PLACES[None]:
        assert find_position(place) is None


def test_a_new_class_is_noticed(classes, monkeypatch):
    more = tuple(Position(p.pattern, p.what, p.classes | {"torch.nn.DataParallel"}) for p in POSITIONS)
    monkeypatch.setattr("lossselect.run.allowed_classes.POSITIONS", more)
    with pytest.raises(AssertionError):
        test_only_reviewed_classes_are_allowed("optimizer", classes)


def test_allowed_classes_read_no_data():
    data = torch.utils.data
    for names in REVIEWED.values():
        for name in names:
            try:
                cls = get_object(name)
            except Exception:  # another version, or a package that is not installed
                continue
            assert not issubclass(cls, data.Dataset | data.DataLoader | data.Sampler | torch.jit.ScriptModule)


@pytest.mark.parametrize("name", OTHERS)
def test_other_classes_are_allowed_nowhere(name):
    for place in ["", "mine", *(place for places in PLACES.values() for place in places)]:
        assert not is_allowed(name, place), place


def test_a_class_by_the_module_that_defines_it():
    assert public_name("torch.nn.modules.linear.Linear") == "torch.nn.Linear"
    assert public_name("lightning.pytorch.callbacks.early_stopping.EarlyStopping")
    for name in (
        "torch.nn.modules.Linear",
        "torch.ao.nn.quantized.Linear",
        "torch.os.Linear",
        "evil.Linear",
        "",
    ):
        assert public_name(name) is None


def test_a_part_is_checked_when_it_is_created(monkeypatch):
    """The check does not depend on the earlier check of the whole config."""
    trust([])
    config = OmegaConf.create(
        {
            "shared": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1},
            "model": {"_target_": "torch.nn.Sequential", "_args_": ["${shared}"]},
            "optimizer": "${shared}",
            "scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR", "optimizer": "${shared}"},
        }
    )
    assert make_part(config.model, "model")(torch.zeros(3, 2)).shape == (3, 1)
    for place in ("optimizer", "scheduler"):
        with pytest.raises(ValueError, match=rf"{place}.*_target_=torch.nn.Linear: a config may"):
            make_part(config[place], place)


MARK = "executed"


class Pickled:
    def __reduce__(self):
        return os.mkdir, (MARK,)


PICKLE = pickle.dumps(Pickled())

INLINE = f"datapipe: [[['x.pickle', !!binary {base64.b64encode(PICKLE).decode()}]]]"

FROM_DISK = """datapipe:
        _target_: torch.utils.data.datapipes.iter.FileOpener
        mode: b
        datapipe: {_target_: torch.utils.data.datapipes.iter.FileLister, root: sent, masks: "*.pickle"}"""

LAYER = """
_target_: torch.nn.Linear
in_features: 30
out_features: 1
bias:
  _target_: torch.utils.data.ConcatDataset
  datasets:
      _target_: torch.utils.data.datapipes.iter.routeddecoder.RoutedDecoderIterDataPipe
      """


@pytest.mark.parametrize("how", [INLINE, FROM_DISK], ids=["inline", "from disk"])
@pytest.mark.parametrize("settings", [["explain=true"], ["check_only=true"], []], ids=str)
def test_a_pickle_in_a_config(how, settings, command, tmp_path):
    (tmp_path / "sent" / "model").mkdir(parents=True)
    (tmp_path / "sent" / "model" / "nice.yaml").write_text(LAYER + how)
    (tmp_path / "sent" / "x.pickle").write_bytes(PICKLE)
    code, _, err = command("--config-dir=sent", "task=binary", "model=nice", *settings)
    assert code == 1
    assert "model.bias._target_=torch.utils.data.ConcatDataset: a config may name only layers" in err
    assert not (tmp_path / MARK).exists()
    assert not (tmp_path / "outputs").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", [INLINE, FROM_DISK], ids=["inline", "from disk"])
def test_the_pickle_could_be_executed(how, command, tmp_path):
    (tmp_path / "sent" / "model").mkdir(parents=True)
    (tmp_path / "sent" / "model" / "nice.yaml").write_text(LAYER + how)
    (tmp_path / "sent" / "x.pickle").write_bytes(PICKLE)
    command("--config-dir=sent", "task=binary", "model=nice", "explain=true", "trust=[torch]")
    assert (tmp_path / MARK).exists()


REJECTED = {
    "a data set as a layer's argument": "model: {_target_: torch.nn.Linear, bias: {_target_: torch.utils.data.Dataset}}",
    "a data set in a list": "model: {_target_: torch.nn.Sequential, _args_: [{_target_: torch.utils.data.Dataset}]}",
    "a partial data set": "model: {_target_: torch.nn.Linear, bias: {_target_: torch.utils.data.Dataset, _partial_: true}}",
    "a data set by interpolation": "mine: {_target_: torch.utils.data.Dataset}\nmodel: {_target_: torch.nn.Linear, bias: '${mine}'}",
    "an optimizer as a layer": "model: {_target_: torch.optim.SGD}",
    "an optimizer as a layer by interpolation": "mine: {_target_: torch.optim.SGD}\nmodel: {_target_: torch.nn.Linear, bias: '${mine}'}",
    "a layer as an optimizer": "optimizer: {_target_: torch.nn.Linear}",
    "a layer as an optimizer's argument": "optimizer: {_target_: torch.optim.SGD, lr: {_target_: torch.nn.ReLU}}",
    "a layer as a scheduler": "scheduler: {_target_: torch.nn.ReLU}",
    "a layer as a callback": "callbacks: {x: {_target_: torch.nn.ReLU}}",
    "a layer as a callback of Hydra by interpolation": "mine: {_target_: torch.nn.ReLU}\nhydra: {callbacks: {x: '${mine}'}}",
    "a layer as a logger": "logger: {_target_: torch.nn.ReLU}",
    "a layer as a metric": "metrics: {_target_: torch.nn.ReLU}",
    "a layer as an argument of a metric": "metrics: {x: {_target_: torchmetrics.classification.BinaryAccuracy, threshold: {_target_: torch.nn.ReLU}}}",
    "a metric of another package": "metrics: [{_target_: evil.Evil}]",
    "a layer as data": "data: {_target_: torch.nn.ReLU}",
    "a mix": "mix: {_target_: torch.nn.ReLU}",
    "a loss": "loss: {_target_: torch.nn.BCELoss}",
    "a profiler": "trainer: {profiler: {_target_: lightning.pytorch.profilers.SimpleProfiler}}",
    "a graph": "model: {_target_: torch.fx.GraphModule, root: {}, graph: x}",
    "commands of SLURM": "defaults: [{override /hydra/launcher: submitit_slurm}]\nhydra: {mode: MULTIRUN, launcher: {setup: [touch executed]}}",
    "a line in a script of SLURM": 'defaults: [{override /hydra/launcher: submitit_slurm}]\nhydra: {mode: MULTIRUN, launcher: {partition: "x\\ntouch executed #"}}',
    "settings of W&B": "logger: {_target_: lightning.pytorch.loggers.WandbLogger, settings: {_executable: touch}}",
    "a custom handler": "hydra: {job_logging: {handlers: {x: {class: evil.Evil}}, root: {handlers: [x]}}}",
    "a queue of the log": "hydra: {job_logging: {handlers: {x: {class: logging.StreamHandler, queue: evil.Evil}}, root: {handlers: [x]}}}",
    "without the check": "hydra: {callbacks: {check: null}, job: {env_set: {PYTHONPATH: x}}}",
    "without the check, another class": "hydra: {callbacks: {check: null}}\nmodel: {_target_: evil.Evil}",
    "a config that contains itself": "mine: {a: '${mine}', _target_: torch.nn.ReLU}\nmodel: '${mine}'",
}


@pytest.mark.parametrize("title", REJECTED)
def test_rejected(title, command, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(f"open({MARK!r}, 'w').close()\n")
    (tmp_path / "sent" / "experiment").mkdir(parents=True)
    (tmp_path / "sent" / "experiment" / "x.yaml").write_text(f"# @package _global_\n{REJECTED[title]}\n")
    code, _, err = command("--config-dir=sent", "task=binary", "experiment=x", "trainer.max_epochs=1")
    assert code == 1, err
    assert not (tmp_path / MARK).exists()
    assert "Traceback" not in err
    reasons = (
        "a config may",
        "must be a single line",
        "a config may only use",
        "some variables",
        "cannot contain itself",
        "Interpolation to",
    )
    assert any(reason in err for reason in reasons), err


@pytest.mark.parametrize("argument", ["setup", "teardown", "srun_args", "additional_parameters"])
def test_arguments_of_the_slurm_launcher_in_a_custom_config(argument):
    """Its structured config does not have all arguments of its class."""
    launcher = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"}
    config = OmegaConf.create({"hydra": {"launcher": {**launcher, argument: ["touch executed"]}}})
    with pytest.raises(ValueError, match=rf"hydra\.launcher\.{argument} can run commands"):
        check_targets(config)


def test_configs_in_a_package_are_not_imported(command, tmp_path):
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text(f"open({MARK!r}, 'w').close()\n")
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "mine.yaml").write_text(
        "defaults: [train, _self_]\nhydra: {searchpath: [pkg://evil]}\n"
    )
    code, _, err = command("--config-dir=sent", "--config-name=mine", "task=binary", "explain=true")
    assert code == 1
    assert "hydra.searchpath=pkg://evil: a config may not import evil." in err
    assert not (tmp_path / MARK).exists()


def test_an_argument_on_the_command_line(command):
    code, out, err = command(
        *(
            "task=binary",
            "hydra/launcher=submitit_slurm",
            "hydra.launcher.setup=[module load x]",
            "explain=true",
        )
    )
    assert code == 0, err
    assert out
