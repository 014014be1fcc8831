"""The net: all else about the task is in `lossselect.TaskModule`."""

from torch import nn

import lossselect as ls


class DigitNet(ls.TaskModule):
    """Two convolutions and a linear layer for images (N, 1, 8, 8).

    Args:
        task: Of which there is one output for each class or label.
        width: Channels of the first convolution.
        kwargs: Of `TaskModule`: loss, optimizer, scheduler, bias_init, ...
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
