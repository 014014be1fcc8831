"""Settings of the trainer with a wrong type: one message, even if Lightning accepts them."""

import inspect
from datetime import timedelta

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import SimpleProfiler

from lossselect.run.settings import RESERVED
from lossselect.run.trainer import build_trainer


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("+trainer.val_check_interval=0", "trainer.val_check_interval must be >= 1, got 0."),
        ("+trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch must be >= 1, got 0."),
        ("+trainer.profiler=5", "trainer.profiler must be a string, or null, got 5."),
        ("+trainer.profiler=[1]", "trainer.profiler must be a string, or null, got [1]."),
        ("+trainer.profiler={a:1}", "trainer.profiler must be a string, or null, got {'a': 1}."),
        ("+trainer.profiler=true", "trainer.profiler must be a string, or null, got True."),
        (
            "trainer.devices={a:1}",
            "trainer.devices must be an integer, or a string, or a list of integers, got",
        ),
        (
            "trainer.devices=true",
            "trainer.devices must be an integer, or a string, or a list of integers, got",
        ),
        ("trainer.devices=[a]", "or a string, or a list of integers, got ['a']."),
        ("+trainer.max_time={hours:x}", "or a mapping of integers, or null, got {'hours': 'x'}."),
        ("trainer.accelerator=[1]", "trainer.accelerator must be a string, got [1]."),
        ("+trainer.strategy=5", "trainer.strategy must be a string, got 5."),
        ("+trainer.plugins=[x]", "trainer.plugins must be null, got ['x']."),
        (
            "trainer.deterministic=maybe",
            "trainer.deterministic must be one of warn, or true or false, or null, got",
        ),
        (
            "trainer.enable_progress_bar=1",
            "trainer.enable_progress_bar must be true or false, or null, got 1.",
        ),
        (
            "+trainer.limit_val_batches=[1]",
            "limit_val_batches must be an integer, or a number, or null, got",
        ),
        (
            "trainer.gradient_clip_val=abc",
            "trainer.gradient_clip_val must be an integer, or a number, or null, got 'abc'.",
        ),
        (
            "+trainer.max_time=5",
            "trainer.max_time must be a string, or a mapping of integers, or null, got 5.",
        ),
        ("+trainer.max_steps=1.5", "trainer.max_steps must be an integer, got 1.5."),
        (
            "trainer.precision=[1]",
            "trainer.precision must be one of 64, 32, 16, transformer-engine",
        ),
    ],
)
@pytest.mark.parametrize("stops", [[], ["explain=true"]], ids=["run", "explain"])
def test_one_message(setting, message, stops, command, tmp_path):
    code, out, err = command("task=binary", setting, *stops)
    assert code == 1
    assert err.startswith("The trainer cannot be built: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not out
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "options",
    [
        {"profiler": "simple"},
        {"profiler": SimpleProfiler()},
        {"plugins": [LightningEnvironment()]},
        {"strategy": "ddp"},
        {"precision": 32},
        {"precision": "bf16-mixed"},
        {"max_time": timedelta(hours=1)},
        {"max_time": {"hours": 1}},
        {"limit_train_batches": 3, "limit_val_batches": 0.5, "deterministic": "warn"},
        {"devices": "auto", "gradient_clip_val": 1},
    ],
    ids=lambda options: " ".join(options),
)
def test_values_that_lightning_documents(options):
    build_trainer({"accelerator": "cpu", "devices": 1, **options})


def test_the_defaults_of_lightning():
    parameters = inspect.signature(Trainer).parameters
    build_trainer({name: parameter.default for name, parameter in parameters.items() if name not in RESERVED})
