"""A plain LightningModule and the TaskModule that it is ported to, trained with the same seed and loaders."""

import inspect
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader
from trainers import quiet_trainer


class Losses(Callback):
    """Records the loss of each training step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].detach())


class Run(NamedTuple):
    """Results of fit, test and predict of a module."""

    losses: torch.Tensor
    metrics: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    probabilities: torch.Tensor


def train(make_module, rows, collate=None, **options):
    """Fit a module, then test it and predict; everything starts from the same seed."""
    torch.manual_seed(0)
    module = make_module()
    train_rows, val_rows, test_rows = rows
    losses = Losses()
    trainer = quiet_trainer(max_epochs=2, callbacks=[losses], enable_checkpointing=False, **options)
    loader = DataLoader(train_rows, batch_size=8, shuffle=True, collate_fn=collate)
    trainer.fit(module, loader, DataLoader(val_rows, batch_size=6, collate_fn=collate))
    metrics = dict(trainer.callback_metrics)
    loader = DataLoader(test_rows, batch_size=6, collate_fn=collate)
    metrics |= trainer.test(module, loader, verbose=False)[0]
    outputs: Any = trainer.predict(module, loader)
    # TaskModule also returns the predictions
    outputs = [batch["probabilities"] if isinstance(batch, dict) else batch for batch in outputs]
    return Run(
        torch.stack(losses.values),
        {name: torch.as_tensor(value) for name, value in metrics.items()},
        module.net.state_dict(),
        torch.cat([batch.flatten() for batch in outputs]),
    )


def assert_same(plain, port):
    """Compare the loss of each step, the logged values, the trained weights and the probabilities."""
    close = {"rtol": 0, "atol": 1e-6, "equal_nan": False, "check_dtype": False}
    torch.testing.assert_close(port.losses, plain.losses, **close)
    assert plain.metrics.keys() <= port.metrics.keys()
    torch.testing.assert_close({name: port.metrics[name] for name in plain.metrics}, plain.metrics, **close)
    torch.testing.assert_close(port.weights, plain.weights, **close)
    torch.testing.assert_close(port.probabilities, plain.probabilities, **close)


def count_lines(definition):
    """Return the number of lines of a class or a function, without blank lines and comments."""
    lines = map(str.strip, inspect.getsource(definition).splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)
