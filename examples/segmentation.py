"""A class for each pixel, some of them not known: python examples/segmentation.py

Trailing dimensions need no setting: the net returns logits (N, classes, height, width), labels are
(N, height, width), and loss, metrics and predictions are of pixels. As in VOC and Cityscapes the outlines of
things are marked 255, "not known", and count nowhere.

The images are drawn here: noise, in which a disc and a square are a little brighter.
"""

import lightning.pytorch as L
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls

SIZE = 32
UNKNOWN = 255


def draw(count):
    """Images (N, 1, 32, 32), and labels (N, 32, 32): 0 nothing, 1 disc, 2 square, 255 not known."""
    row, column = torch.arange(SIZE).view(1, SIZE, 1), torch.arange(SIZE).view(1, 1, SIZE)
    labels = torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    for thing in (1, 2):
        y, x = torch.randint(6, SIZE - 6, (2, count, 1, 1))
        size = torch.randint(4, 7, (count, 1, 1))
        across, down = (row - y).abs(), (column - x).abs()
        away = (across**2 + down**2).sqrt() if thing == 1 else torch.maximum(across, down)
        labels[away < size] = thing
        labels[(away >= size) & (away < size + 1)] = UNKNOWN
    images = (labels > 0).float() + 0.4 * torch.randn(count, SIZE, SIZE)
    return images.unsqueeze(1), labels


class Segmenter(ls.TaskModule):
    """Four convolutions, each of which looks further around."""

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
    """Trains and tests, beside the answer "nothing" for all pixels, and shows a test image."""
    L.seed_everything(0, verbose=False)
    train, val, test = (TensorDataset(*draw(count)) for count in (300, 60, 100))
    task = ls.Multiclass(3, class_names=("nothing", "disc", "square"), missing=UNKNOWN)
    model = Segmenter(task, loss="cross_entropy", optimizer={"name": "AdamW", "lr": 0.01}, bias_init="prior")
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
            print(f"{name} of pixels: {result[f'test/{name}']:.3f}, of the answer 'nothing' {value:.3f}")
    print("A test image (. nothing, o disc, # square, ? not known), and what is made of it:")
    for labels, decided in zip(test.tensors[1][2, ::2], predicted[2, ::2], strict=True):
        print(*("".join(".o#?"[min(k, 3)] for k in line.tolist()) for line in (labels, decided)), sep="   ")


if __name__ == "__main__":
    main()
