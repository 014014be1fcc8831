"""Learning rate schedules: Lightning's dict, the interval of a step, the mode of a plateau."""

import math
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader
from trainers import quiet_trainer

import lossselect as ls
from lossselect.chunked.options import top_metric_names
from lossselect.metrics.direction import HIGHER_IS_BETTER, LOWER_IS_BETTER, best_mode
from lossselect.metrics.names import AVERAGES

EPOCHS, BATCHES = 4, 25
STEPS = EPOCHS * BATCHES
LOADER = DataLoader([(torch.randn(3, 5), torch.tensor([0, 1, 2]))] * BATCHES, batch_size=None)


class Rates(ls.TaskModule):
    """Records the learning rate of each step."""

    def __init__(self, scheduler):
        super().__init__(
            ls.Multiclass(3), nn.Linear(5, 3), optimizer={"name": "SGD", "lr": 1.0}, scheduler=scheduler
        )
        self.rates = []

    def on_train_batch_end(self, *_):
        self.rates.append(self.optimizers().param_groups[0]["lr"])


def rates(scheduler):
    module = Rates(scheduler)
    quiet_trainer(max_epochs=EPOCHS, enable_checkpointing=False).fit(module, LOADER, LOADER)
    return module.rates


def constant(**options):
    return lambda optimizer: {"scheduler": schedules.ConstantLR(optimizer), **options}


def linear(factor=1.0):
    """Return the same schedule as Transformers' get_linear_schedule_with_warmup."""

    def rate(step, *, num_warmup_steps, num_training_steps):
        if step < num_warmup_steps:
            return step / num_warmup_steps
        return max(0.0, (num_training_steps - step) / (num_training_steps - num_warmup_steps))

    options = {"num_warmup_steps": 10 * factor, "num_training_steps": STEPS * factor}
    return lambda optimizer: schedules.LambdaLR(optimizer, partial(rate, **options))


@pytest.mark.parametrize("frequency", [1, 5])
@pytest.mark.parametrize("by_name", [False, True])
def test_the_dict_of_lightning(by_name, frequency):
    lightning = {"interval": "step", "frequency": frequency}
    if by_name:
        found = rates({"name": "ExponentialLR", "gamma": 0.5, **lightning})
    else:
        found = rates(lambda optimizer: {"scheduler": schedules.ExponentialLR(optimizer, 0.5), **lightning})
    assert found == [0.5 ** (step // frequency) for step in range(1, STEPS + 1)]


def test_a_dict_with_a_monitor():
    module = Rates(
        lambda o: {
            "scheduler": schedules.ReduceLROnPlateau(o, "max", patience=0),
            "monitor": "val/accuracy",
            "strict": True,
        }
    )
    quiet_trainer(max_epochs=EPOCHS, enable_checkpointing=False).fit(module, LOADER, LOADER)
    (entry,) = module.trainer.lr_scheduler_configs
    assert (entry.monitor, entry.interval, entry.strict) == ("val/accuracy", "epoch", True)
    assert module.rates[-1] < 1  # the accuracy stops rising


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda o: {"interval": "step"}, TypeError, "without the key scheduler"),
        (lambda o: None, TypeError, "scheduler must return a learning rate scheduler, or Lightning's"),
        (lambda o: ([o], []), TypeError, "got tuple"),
        (lambda o: {"scheduler": 3}, TypeError, "scheduler must return"),
        (constant(intervall="step"), ValueError, "Did you mean 'interval'?"),
        (constant(interval="steps"), ValueError, "interval must be 'epoch' or 'step', got 'steps'"),
        (constant(frequency=0), ValueError, "frequency must be an integer >= 1, got 0"),
        (constant(frequency=1.5), TypeError, "frequency must be an integer >= 1, got 1.5"),
    ],
)
def test_an_invalid_dict_for_lightning(returned, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Rates(lambda optimizer: returned(optimizer)).configure_optimizers()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": "steps"}, "interval must be 'epoch' or 'step'"),
        ({"intervall": "step"}, "no option 'intervall'"),
    ],
)
def test_invalid_lightning_keys_with_a_name(options, message):
    with pytest.raises(ValueError, match=message):
        Rates({"name": "ConstantLR", **options}).configure_optimizers()


OF_STEPS = {
    "num_training_steps": linear(),
    "num_training_steps beyond the run": linear(3),
    "a factor that reaches 0": lambda o: schedules.LambdaLR(o, lambda step: max(0.0, 1 - step / STEPS)),
    "a half cosine": lambda o: schedules.LambdaLR(o, lambda step: (1 + math.cos(math.pi * step / STEPS)) / 2),
    "a warm-up": lambda o: schedules.LambdaLR(o, lambda step: min(1, (step + 1) / (STEPS // 2))),
    "T_max": lambda o: schedules.CosineAnnealingLR(o, STEPS),
    "milestones": lambda o: schedules.MultiStepLR(o, [STEPS // 2, STEPS * 3 // 4]),
    "a sequence": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, total_iters=10), schedules.CosineAnnealingLR(o, STEPS - 10)], [10]
    ),
    "a name": {"name": "PolynomialLR", "total_iters": STEPS},
}
OF_EPOCHS = {
    "a power": lambda o: schedules.LambdaLR(o, lambda epoch: 0.95**epoch),
    "a growing power": lambda o: schedules.LambdaLR(o, lambda epoch: 1.2**epoch),
    "a stair": lambda o: schedules.LambdaLR(o, lambda epoch: 0.1 ** (epoch // 2)),
    "a table": lambda o: schedules.LambdaLR(o, lambda epoch: [1, 1, 0.1, 0.01, 0][epoch]),
    "a factor that reaches 0": lambda o: schedules.LambdaLR(o, lambda epoch: max(0.0, 1 - epoch / EPOCHS)),
    "a warm-up": lambda o: schedules.LambdaLR(o, lambda epoch: min(1, (epoch + 1) / 3)),
    "T_max": lambda o: schedules.CosineAnnealingLR(o, EPOCHS),
    "a longer T_max": lambda o: schedules.CosineAnnealingLR(o, 2 * EPOCHS),
    "defaults": lambda o: schedules.LinearLR(o),
    "a name": {"name": "StepLR", "step_size": 3},
    "one cycle": {"name": "OneCycleLR", "max_lr": 0.1, "total_steps": STEPS},
}


@pytest.mark.parametrize("case", OF_STEPS)
def test_a_schedule_that_seems_to_count_steps(case):
    with pytest.warns(
        ls.LossSelectWarning, match=rf"{EPOCHS} times in this run.* {STEPS}\. .*\[schedule_in_steps\]"
    ):
        rates(OF_STEPS[case])
    spec = OF_STEPS[case]
    for interval in ("step", "epoch"):
        explicit = (
            {**spec, "interval": interval}
            if isinstance(spec, dict)
            else lambda o, i=interval: {"scheduler": spec(o), "interval": i}
        )
        rates(explicit)  # does not warn: warnings are errors in tests
    assert rates(explicit)[-1] > 0


@pytest.mark.parametrize("case", OF_EPOCHS)
def test_a_schedule_of_epochs_does_not_warn(case):
    rates(OF_EPOCHS[case])


@pytest.mark.parametrize(
    "task", [ls.Binary(), ls.Multiclass(6), ls.Multiclass(6, ordinal=True), ls.Multilabel(6)], ids=str
)
def test_the_direction_of_each_metric_is_known(task):
    names = {
        "loss",
        *task.metric_names,
        *AVERAGES[task.name],
        *(top_metric_names(task) if task.num_outputs > 1 else ()),
    }
    assert {best_mode(f"val/{name}") for name in names} == {"min", "max"}
    assert not LOWER_IS_BETTER & HIGHER_IS_BETTER


def test_the_direction_of_an_unknown_metric_is_required():
    with pytest.raises(ValueError, match="Unknown metric 'val/perplexity'"):
        Rates({"name": "ReduceLROnPlateau", "monitor": "val/perplexity"}).configure_optimizers()
    configured = Rates(
        {"name": "ReduceLROnPlateau", "monitor": "val/perplexity", "mode": "min"}
    ).configure_optimizers()
    assert configured["lr_scheduler"]["scheduler"].mode == "min"


def test_the_mode_of_a_plateau():
    explicit = {"name": "ReduceLROnPlateau", "monitor": "val/loss", "mode": "max"}
    assert Rates(explicit).configure_optimizers()["lr_scheduler"]["scheduler"].mode == "max"
    with pytest.warns(
        ls.LossSelectWarning,
        match=r"monitors val/loss with mode='max', but the minimum of this metric is best.*\[plateau_mode\]",
    ):
        configured = Rates(lambda o: schedules.ReduceLROnPlateau(o, mode="max")).configure_optimizers()
    assert configured["lr_scheduler"]["scheduler"].mode == "max"
