"""Multilabel images: augmentation on the device, in batches that are dicts or pairs."""

import lightning.pytorch as L
import pytest
import torch
from ports import assert_same, count_lines, train
from simulated_gpu import simulated_gpu
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score

import lossselect as ls

NUM_LABELS = 4


class SmallCNN(nn.Sequential):
    def __init__(self, num_outputs):
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(8, num_outputs),
        )


def augment(images):
    flipped = torch.rand(len(images), device=images.device) < 0.5
    images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
    return images + 0.1 * torch.randn_like(images)


class PlainImages(L.LightningModule):
    def __init__(self, num_labels, lr):
        super().__init__()
        self.save_hyperparameters()
        self.net = SmallCNN(num_labels)
        self.criterion = nn.BCEWithLogitsLoss()
        metrics = MetricCollection(
            {
                "f1_macro": MultilabelF1Score(num_labels, average="macro"),
                "f1_micro": MultilabelF1Score(num_labels, average="micro"),
                "average_precision": MultilabelAveragePrecision(num_labels),
            }
        )
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def forward(self, image):
        return self.net(image)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training:
            batch["image"] = augment(batch["image"])
        return batch

    def shared_step(self, batch):
        logits, target = self(batch["image"]), batch["label"]
        return self.criterion(logits, target.float()), logits.sigmoid(), target

    def training_step(self, batch, batch_idx):
        loss, _, target = self.shared_step(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(target))
        return loss

    def validation_step(self, batch, batch_idx):
        loss, probabilities, target = self.shared_step(batch)
        self.val_metrics.update(probabilities, target)
        self.log("val/loss", loss, prog_bar=True, batch_size=len(target))

    def on_validation_epoch_end(self):
        self.log_dict(self.val_metrics.compute(), prog_bar=True)
        self.val_metrics.reset()

    def test_step(self, batch, batch_idx):
        loss, probabilities, target = self.shared_step(batch)
        self.test_metrics.update(probabilities, target)
        self.log("test/loss", loss, batch_size=len(target))

    def on_test_epoch_end(self):
        self.log_dict(self.test_metrics.compute())
        self.test_metrics.reset()

    def predict_step(self, batch, batch_idx):
        return self(batch["image"]).sigmoid()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9, nesterov=True)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.trainer.max_epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


class Images(ls.TaskModule):
    def __init__(self, num_labels, lr, max_epochs):
        super().__init__(
            ls.Multilabel(num_labels),
            net=SmallCNN(num_labels),
            optimizer={"name": "SGD", "lr": lr, "momentum": 0.9, "nesterov": True},
            scheduler={"name": "CosineAnnealingLR", "T_max": max_epochs},
        )

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training:
            batch["image"] = augment(batch["image"])
        return batch


class PlainPairs(PlainImages):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        images, labels = batch
        return (augment(images), labels) if self.trainer.training else batch

    def shared_step(self, batch):
        return super().shared_step(dict(zip(("image", "label"), batch, strict=True)))

    def predict_step(self, batch, batch_idx):
        return self(batch[0]).sigmoid()


class Pairs(Images):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        images, labels = batch
        return (augment(images), labels) if self.trainer.training else batch


@pytest.fixture
def rows():
    labels = (torch.rand(60, NUM_LABELS) < 0.5).long()
    labels[::6], labels[1::6] = 0, 1  # each label occurs in each split
    rows = [{"image": torch.randn(3, 12, 12) + label[0], "label": label} for label in labels]
    return rows[:36], rows[36:48], rows[48:]


def test_dicts(rows):
    plain = train(lambda: PlainImages(NUM_LABELS, lr=0.1), rows)
    assert_same(plain, train(lambda: Images(NUM_LABELS, lr=0.1, max_epochs=2), rows))


def test_pairs(rows):
    rows = [[(row["image"], row["label"]) for row in split] for split in rows]
    plain = train(lambda: PlainPairs(NUM_LABELS, lr=0.1), rows)
    assert_same(plain, train(lambda: Pairs(NUM_LABELS, lr=0.1, max_epochs=2), rows))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU")
def test_augmentation_on_the_device(rows):
    cpu = train(lambda: Images(NUM_LABELS, lr=0.1, max_epochs=2), rows)
    with simulated_gpu():
        gpu = train(lambda: Images(NUM_LABELS, lr=0.1, max_epochs=2), rows, accelerator="gpu")
        torch.testing.assert_close(gpu.losses.cpu(), cpu.losses)


def test_two_thirds_of_the_lines_are_deleted():
    assert 3 * count_lines(Images) <= count_lines(PlainImages)
