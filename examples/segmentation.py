"""A class for each pixel, with missing labels.

    python examples/segmentation.py

Trailing dimensions require no setting. The net returns logits (N, classes, height, width), labels have shape
(N, height, width), and loss, metrics and predictions are computed per pixel. As in VOC and Cityscapes, the
outlines of objects have the label 255, "missing", and are ignored.

The images are generated: a disc and a square, slightly brighter than the noise around them.
"""

import logging
import warnings

import lightning.pytorch as L
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls

SIZE = 32
MISSING = 255


def draw(count):
    """Return images (N, 1, 32, 32) and labels (N, 32, 32): 0 nothing, 1 disc, 2 square, 255 missing."""
    row, column = torch.arange(SIZE).view(1, SIZE, 1), torch.arange(SIZE).view(1, 1, SIZE)
    labels = torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    for shape in (1, 2):
        y, x = torch.randint(6, SIZE - 6, (2, count, 1, 1))
        size = torch.randint(4, 7, (count, 1, 1))
        down, across = (row - y).abs(), (column - x).abs()
        distance = (across**2 + down**2).sqrt() if shape == 1 else torch.maximum(across, down)
        labels[distance < size] = shape
        labels[(distance >= size) & (distance < size + 1)] = MISSING
    images = (labels > 0).float() + 0.4 * torch.randn(count, SIZE, SIZE)
    return images.unsqueeze(1), labels


class Segmenter(ls.TaskModule):
    """Three-by-three convolutions with different dilations, and a linear layer per pixel."""

    def __init__(self, task, width=16, **kwargs):
        super().__init__(task=task, **kwargs)
        layers, channels = [], 1
        for dilation in (1, 2, 4, 1):
            layers += [nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation)]
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.net = nn.Sequential(*layers, nn.Conv2d(width, task.num_outputs, 1))

    def forward(self, images):
        return self.net(images)


def main():
    """Train and test, compare with predicting "nothing" for all pixels, and print a test image."""
    L.seed_everything(0, verbose=False)
    train, val, test = (TensorDataset(*draw(count)) for count in (300, 60, 100))
    task = ls.Multiclass(3, class_names=("nothing", "disc", "square"), missing=MISSING)
    model = Segmenter(task, loss="cross_entropy", optimizer={"name": "AdamW", "lr": 0.01}, bias_init="prior")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advertisements
    warnings.filterwarnings("ignore", module="lightning")  # for example about loaders without workers
    trainer = L.Trainer(
        max_epochs=6,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(train, 10, shuffle=True), DataLoader(val, 60))
    loader = DataLoader(test, 50)
    result = trainer.test(model, loader, verbose=False)[0]
    predicted = torch.cat([batch["prediction"] for batch in trainer.predict(model, loader)])

    truth = task.encode(test.tensors[1])
    nothing = ls.make_metrics(task)
    nothing.update(F.one_hot(torch.zeros_like(truth), 3).movedim(-1, 1).float(), truth)
    for name, value in nothing.compute().items():
        if name in ("accuracy", "f1_macro"):
            print(f"{name} of pixels: {result[f'test/{name}']:.3f}, of predicting 'nothing' {value:.3f}")
    print("Labels of a test image (. nothing, o disc, # square, ? missing), and its prediction:")
    for labels, prediction in zip(test.tensors[1][2, ::2], predicted[2, ::2], strict=True):
        print(
            *("".join(".o#?"[min(k, 3)] for k in line.tolist()) for line in (labels, prediction)), sep="   "
        )


if __name__ == "__main__":
    main()
