"""The average of nets that were trained one after another, such as those of the folds of a run."""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from lossselect.exceptions import CheckpointError
from lossselect.tasks.registry import AnyTask


class Average(nn.Module):
    """The mean of the calibrated probabilities of K trained nets: (N, F) -> logits (N, num_outputs).

    The buffers `shifts` and `temperatures`, each (K, num_probabilities), contain the calibration of each net
    (see `Task.mean_logits`). The nets stay in evaluation mode.

    Args:
        nets: The nets by name, each (N, F) -> (N, num_outputs).
        task: The task, which averages the probabilities.
    """

    shifts: Tensor
    temperatures: Tensor

    def __init__(self, nets: Mapping[str, nn.Module], task: AnyTask) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)
        self.task = task
        shape = (len(nets), task.num_probabilities)
        self.register_buffer("shifts", torch.zeros(shape))
        self.register_buffer("temperatures", torch.ones(shape))
        self.register_load_state_dict_post_hook(_check_temperatures)

    def set_calibration(self, tasks: Sequence[AnyTask]) -> None:
        """Use the shift and the temperature of the task of each net, numbers or (num_probabilities,)."""
        for k, task in enumerate(tasks):
            for values, field in ((self.shifts, "shift"), (self.temperatures, "temperature")):
                parts = task.tasks.values()
                each = [torch.tensor(getattr(t, field)).expand(t.num_probabilities) for t in parts]
                values[k] = torch.cat(each)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of this module; its nets stay in evaluation mode."""
        super().train(mode)
        self.nets.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the mean probability, (N, num_outputs)."""
        logits = torch.stack([net(x) for net in self.nets.values()], 1)
        return self.task.mean_logits(logits, None, self.shifts, self.temperatures)


def _check_temperatures(net: Average, _: object) -> None:
    if not net.temperatures.is_meta and not bool((net.temperatures > 0).all()):
        raise CheckpointError(
            f"The temperatures of averaged nets must be > 0, got {net.temperatures.tolist()}."
        )
