"""The net; `lossselect.TaskModule` provides everything else about the task."""

from torch import nn

import lossselect as ls


class DigitNet(ls.TaskModule):
    """Two convolutions and a linear layer for images (N, 1, 8, 8).

    Args:
        task: A multiclass or multilabel task.
        width: Number of channels of the first convolution.
        **kwargs: Passed to `TaskModule`: loss, optimizer, scheduler, bias_init, ...
    """

    def __init__(self, task, width=16, **kwargs):
        super().__init__(task=task, **kwargs)
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Linear(2 * width * 4, task.num_outputs)

    def forward(self, images):
        return self.head(self.features(images))  # raw logits
