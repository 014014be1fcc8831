"""Segmentation: unlabelled pixels are 255, masks have shape (N, 1, H, W), and the net returns a dict."""

import lightning.pytorch as L
import pytest
import torch
from ports import assert_same, count_lines, train
from torch import nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

import lossselect as ls

NUM_CLASSES = 3


class FCN(nn.Module):
    """Returns a dict, like the nets of torchvision.models.segmentation."""

    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Conv2d(8, num_classes, 1)

    def forward(self, image):
        return {"out": self.classifier(self.body(image))}


class PlainSegmentation(L.LightningModule):
    def __init__(self, num_classes, lr):
        super().__init__()
        self.save_hyperparameters()
        self.net = FCN(num_classes)
        options = {"num_classes": num_classes, "ignore_index": 255}
        metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(average="micro", **options),
                "iou": MulticlassJaccardIndex(**options),
            }
        )
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def forward(self, image):
        return self.net(image)["out"]

    def shared_step(self, batch, stage):
        logits, mask = self(batch["image"]), batch["mask"].squeeze(1).long()
        loss = F.cross_entropy(logits, mask, ignore_index=255)
        # batches have different numbers of labelled pixels
        pixels = int((mask != 255).sum())
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, batch_size=pixels)
        return loss, logits.argmax(1), mask

    def training_step(self, batch, batch_idx):
        return self.shared_step(batch, "train")[0]

    def validation_step(self, batch, batch_idx):
        _, prediction, mask = self.shared_step(batch, "val")
        self.val_metrics.update(prediction, mask)

    def on_validation_epoch_end(self):
        self.log_dict(self.val_metrics.compute())
        self.val_metrics.reset()

    def test_step(self, batch, batch_idx):
        _, prediction, mask = self.shared_step(batch, "test")
        self.test_metrics.update(prediction, mask)

    def on_test_epoch_end(self):
        self.log_dict(self.test_metrics.compute())
        self.test_metrics.reset()

    def predict_step(self, batch, batch_idx):
        return self(batch["image"]).softmax(1)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "val/loss"}


class Segmentation(ls.TaskModule):
    def __init__(self, num_classes, lr):
        super().__init__(
            ls.Multiclass(num_classes, missing=255),
            net=FCN(num_classes),
            optimizer={"name": "AdamW", "lr": lr},
            scheduler={"name": "ReduceLROnPlateau", "patience": 0, "monitor": "val/loss"},
            metrics=["accuracy", {"iou": MulticlassJaccardIndex(num_classes)}],
        )


@pytest.fixture
def rows():
    rows = []
    for _ in range(60):
        mask = torch.randint(NUM_CLASSES, (1, 8, 8), dtype=torch.uint8)
        image = torch.randn(3, 8, 8) + F.one_hot(mask[0].long(), 3).movedim(-1, 0)
        mask[torch.rand(1, 8, 8) < 0.2] = 255
        rows.append({"image": image, "mask": mask})
    return rows[:36], rows[36:48], rows[48:]


def test_segmentation(rows):
    plain = train(lambda: PlainSegmentation(NUM_CLASSES, lr=0.01), rows)
    assert_same(plain, train(lambda: Segmentation(NUM_CLASSES, lr=0.01), rows))


def test_two_thirds_of_the_lines_are_deleted():
    assert 3 * count_lines(Segmentation) <= count_lines(PlainSegmentation)
