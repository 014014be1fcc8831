"""Configs and checkpoints that contain somebody else's code: none of it is executed."""

import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

import lossselect as ls
from lossselect.cli import predict
from lossselect.run.trust import VARIABLE, find_trusted

MARK = "executed"
TOUCH = f"touch {MARK}"

HOSTILE = {
    "os.system": "callbacks: {x: {_target_: os.system, command: $TOUCH}}",
    "subprocess": "model: {_target_: subprocess.run, args: [touch, $MARK]}",
    "open": "data: {_target_: builtins.open, file: $MARK, mode: w}",
    "eval": "optimizer: {_target_: builtins.eval, _args_: [\"open('$MARK', 'w')\"]}",
    "a method": "callbacks: {x: {_target_: pathlib.Path.write_text, self: {_target_: pathlib.Path, _args_: [$MARK]}, data: x}}",
    "a function of torch": "model: {_target_: torch.utils.collect_env.run, command: $TOUCH}",
    "a module that torch imports": "model: {_target_: torch.os.system, command: $TOUCH}",
    "a module that lightning imports": "model: {_target_: lightning.pytorch.trainer.trainer.os.system, command: $TOUCH}",
    "a class that torch imports": "model: {_target_: torch.utils.collect_env.subprocess.Popen, args: [touch, $MARK]}",
    "a function of lossselect": "callbacks: {x: {_target_: lossselect.utils.atomic_write.atomic_write, path: $MARK}}",
    "a private module of torch": "model: {_target_: torch._utils_internal.os.system, command: $TOUCH}",
    "torch.hub": "model: {_target_: torch.hub.load, repo_or_dir: ., model: evil, source: local}",
    "within a part": "callbacks: {x: {_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: {_target_: os.system, command: $TOUCH}}}",
    "within a list": "model: {_target_: torch.nn.Sequential, _args_: [{_target_: os.system, command: $TOUCH}]}",
    "partial": "optimizer: {_target_: os.system, _partial_: true}",
    "from a variable": "callbacks: {x: {_target_: '${oc.env:EVIL}', command: $TOUCH}}",
    "from another setting": "seed: 0\nmodel: '${evil}'\nevil: {_target_: os.system, command: $TOUCH}",
    "created by a resolver": "evil: '{_target_: os.system, command: $MARK}'\nmodel: '${oc.create:${evil}}'",
    "a logger": "logger: {_target_: os.system, command: $TOUCH}",
    "a module in the folder": "model: {_target_: evil.Evil}",
    "a callback of Hydra": "hydra: {callbacks: {x: {_target_: os.system, command: $TOUCH}}}",
    "a launcher of Hydra": "hydra: {launcher: {_target_: evil.Evil}}",
    "a sweeper of Hydra": "hydra: {sweeper: {_target_: evil.Evil}}",
    "a handler of the log": "hydra: {job_logging: {handlers: {file: {'()': os.system, command: $TOUCH}}}}",
    "a handler of the log by torch": "hydra: {job_logging: {handlers: {x: {'()': torch.utils.collect_env.run, command: $TOUCH}}, root: {handlers: [x]}}}",
    "a class of the log": "hydra: {job_logging: {handlers: {x: {class: torch.utils.collect_env.run, command: $TOUCH}}, root: {handlers: [x]}}}",
    "a handler of Hydra's log": "hydra: {hydra_logging: {version: 1, handlers: {x: {'()': torch.utils.collect_env.run, command: $TOUCH}}, root: {handlers: [x]}}}",
    "a module that logging imports, of the log": "hydra: {job_logging: {handlers: {x: {'()': logging.os.system, command: $TOUCH}}, root: {handlers: [x]}}}",
    "a config of logging, of the log": "hydra: {job_logging: {handlers: {x: {'()': logging.config.dictConfig, config: {version: 1}}}, root: {handlers: [x]}}}",
    "an argument of the log": "hydra: {job_logging: {handlers: {x: {class: logging.StreamHandler, stream: 'ext://os.environ'}}, root: {handlers: [x]}}}",
    "a config that trusts itself": "trust: [os]\ncallbacks: {x: {_target_: os.system, command: $TOUCH}}",
    "trust by a variable": "hydra: {job: {env_set: {LOSSSELECT_TRUST: os}}}\nmodel: {_target_: os.system, command: $TOUCH}",
    "a path by a variable": "hydra: {job: {env_set: {PYTHONPATH: sent}}}\ntrainer: {devices: 2, strategy: ddp}",
    "a name that is not a string": "model: {_target_: {_target_: os.system, command: $TOUCH}}",
}


REASONS = (
    "a config may name only",
    "a config may not name a class here",
    "a config may only use the standard library's logging",
    "some variables make a run's processes load other code",
    "A config cannot set trust",
    "must be the name of a class",
)
"""The errors for hostile configs; any other error would be accidental."""


@pytest.fixture
def hostile(command, tmp_path, monkeypatch):
    """Run a config from somebody else."""
    monkeypatch.setenv("EVIL", "os.system")
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "evil.py").write_text(
        f"import torch\nopen({MARK!r}, 'w').close()\nclass Evil(torch.nn.Module): pass\n"
    )
    (tmp_path / "hubconf.py").write_text(f"open({MARK!r}, 'w')\n")

    def run(text, *arguments):
        folder = tmp_path / "sent" / "experiment"
        folder.mkdir(parents=True, exist_ok=True)
        text = text.replace("$TOUCH", f"'{TOUCH}'").replace("$MARK", MARK)
        (folder / "sent.yaml").write_text(f"# @package _global_\n{text}\n")
        flags = [argument for argument in arguments if argument == "-m"]
        settings = [argument for argument in arguments if argument != "-m"]
        sent = str(tmp_path / "sent")
        return command(*flags, "--config-dir", sent, "task=binary", "experiment=sent", *settings)

    return run


@pytest.mark.parametrize("title", HOSTILE)
@pytest.mark.parametrize("how", [(), ("-m", "seed=0,1")], ids=["a run", "a sweep"])
def test_a_hostile_config(title, how, hostile, tmp_path):
    code, _, err = hostile(HOSTILE[title], *how)
    assert code == 1, err
    assert not (tmp_path / MARK).exists()
    assert "Traceback" not in err
    assert any(reason in err for reason in REASONS), err
    assert not (tmp_path / "outputs").exists() or "of the log" in title


def test_messages(hostile):
    assert hostile("model: {_target_: evil.Evil}")[2].strip() == (
        "model._target_=evil.Evil: a config may name only layers and losses of torch.nn here (see SECURITY.md). "
        "If you trust it, add trust=[evil] to the command line."
    )
    assert (
        "model._target_=torch.os.system: a config may name only layers"
        in hostile(HOSTILE["a module that torch imports"])[2]
    )
    assert "A config cannot set trust" in hostile(HOSTILE["a config that trusts itself"])[2]


def test_the_command_line_trusts(hostile, tmp_path):
    hostile("model: {_target_: evil.Evil}", "trust=[evil]", "check_only=true")
    assert (tmp_path / MARK).exists()  # the code of these tests does work


def test_parts_of_torch_and_lightning(command, tmp_path):
    """A config may name them without trust on the command line."""
    folder = tmp_path / "mine"
    (folder / "model").mkdir(parents=True)
    (folder / "optimizer").mkdir()
    (folder / "model" / "plain.yaml").write_text(
        "{_target_: torch.nn.Linear, in_features: 30, out_features: 1}"
    )
    (folder / "optimizer" / "plain.yaml").write_text("{_target_: torch.optim.SGD, _partial_: true, lr: 0.1}")
    (folder / "callbacks").mkdir()
    (folder / "callbacks" / "plain.yaml").write_text(
        "x: {_target_: lightning.pytorch.callbacks.LearningRateMonitor}"
    )
    chosen = ["model=plain", "optimizer=plain", "callbacks=plain", "scheduler=none", "trainer.max_epochs=1"]
    code, _, err = command("--config-dir", str(folder), "task=binary", *chosen, "hydra.run.dir=run")
    assert code == 0, err
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.parametrize("value", ["3", "true", "{a:b}"])
def test_a_value_that_is_not_a_name_cannot_be_trusted(value):
    with pytest.raises(TypeError, match="trust must be a name or a list of names, got"):
        find_trusted([f"trust={value}"])


@pytest.mark.parametrize(
    ("arguments", "trusted"),
    [
        (["trust=[a,b.c]"], ["a", "b.c"]),
        (["trust=a", "seed=1"], ["a"]),
        (["+model._target_=mine.Net", "loss=focal"], ["mine.Net"]),
        (["model._target_=mine.Net,mine.Other", "-m"], ["mine.Net", "mine.Other"]),
        (["task=binary", "+note=trust"], []),
        (
            ["hydra.launcher.setup=[ls]", "+logger.wandb.settings.x=1"],
            ["hydra.launcher.setup", "logger.wandb.settings"],
        ),
    ],
)
def test_trusted_by(arguments, trusted):
    assert find_trusted(arguments) == trusted


class Evil:
    def __reduce__(self):
        return os.system, (TOUCH,)


def _a_checkpoint(path):
    module = ls.TaskModule(ls.Binary(), {"name": "mlp", "num_features": 30})
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    return content


def _within(content, path):
    torch.save({**content, "epoch": Evil()}, path)


def _pickled(content, path):
    path.write_bytes(pickle.dumps({**content, "epoch": Evil()}))


def _old_format(content, path):
    torch.save({**content, "epoch": Evil()}, path, _use_new_zipfile_serialization=False)


def _net(content, path):
    content["arguments"]["net"] = {"_target_": "os.system", "command": TOUCH}
    torch.save(content, path)


def _named_class(content, path):
    torch.save({**content, "class": "os.system", "arguments": {"command": TOUCH}}, path)


def _loss(content, path):
    content["arguments"]["loss"] = {"name": "os.system", "command": TOUCH}
    torch.save(content, path)


def _optimizer(content, path):
    content["arguments"]["optimizer"] = {"name": "os.system", "command": TOUCH}
    torch.save(content, path)


def _climbing(content, path):
    torch.save(content, path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(f"../{MARK}", "x")


def _a_module(content, path):
    torch.save(nn.Linear(2, 1), path)


@pytest.mark.parametrize(
    "write",
    [_within, _pickled, _old_format, _net, _named_class, _loss, _optimizer, _climbing, _a_module],
    ids=lambda write: write.__name__,
)
def test_a_hostile_checkpoint(write, command, tmp_path, monkeypatch):
    path = tmp_path / "sent.ckpt"
    write(_a_checkpoint(path), path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError)):
        ls.TaskModule.load_from_checkpoint(path).configure_optimizers()
    with pytest.raises((ValueError, TypeError, FileNotFoundError)):
        predict.predict_file(str(path), str(tmp_path / "rows.csv"), str(tmp_path / "out.csv"))
    code, _, err = command("task=binary", f"resume={path}", "hydra.run.dir=run")
    assert code == 1
    assert "Traceback" not in err
    assert not [*tmp_path.rglob(MARK)]


def test_the_checkpoints_could_be_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _within(_a_checkpoint(None), tmp_path / "sent.ckpt")
    torch.load(tmp_path / "sent.ckpt", weights_only=False)
    assert (tmp_path / MARK).exists()


def test_a_secret_is_not_written(command, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hunter2-secret")
    (tmp_path / "with_secrets.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n"
        "from torch import nn\n"
        "class Logger(CSVLogger):\n"
        "    def __init__(self, token, **options):\n"
        "        super().__init__(**options)\n"
        "        assert token == 'hunter2-secret'\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, num_features, num_outputs, token):\n"
        "        super().__init__(num_features, num_outputs)\n"
        "        assert token == 'hunter2-secret'\n"
    )
    (tmp_path / "sent" / "experiment").mkdir(parents=True)
    (tmp_path / "sent" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults: [{override /logger: none}, {override /model: none}]\n"
        "logger: {_target_: with_secrets.Logger, save_dir: '${hydra:runtime.output_dir}', token: '${token}'}\n"
        "model: {_target_: with_secrets.Net, token: '${token}'}\n"
        "token: ${oc.env:MY_TOKEN}\n"
    )
    (tmp_path / "sent" / "model").mkdir()
    (tmp_path / "sent" / "model" / "none.yaml").write_text("{}")
    short = ["trainer.max_epochs=1", "+trainer.limit_train_batches=2", "hydra.run.dir=run"]
    code, out, err = command(
        *("--config-dir", str(tmp_path / "sent"), "task=binary", "experiment=mine", "trust=[with_secrets]"),
        *short,
    )
    assert code == 0, err
    assert "${oc.env:MY_TOKEN}" in (tmp_path / "run" / ".hydra" / "config.yaml").read_text()
    assert len([*(tmp_path / "run").rglob("*")]) > 10
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
    assert "hunter2" not in out + err
