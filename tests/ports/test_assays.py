"""Binary assays: a molecule has results in some of many assays (NaN: not measured) and a weight."""

import lightning.pytorch as L
import pytest
import torch
from ports import assert_same, count_lines, train
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MultilabelAUROC, MultilabelAveragePrecision

import lossselect as ls

NUM_ASSAYS = 12


def make_mlp(num_features, num_outputs):
    return nn.Sequential(nn.Linear(num_features, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, num_outputs))


class PlainAssays(L.LightningModule):
    def __init__(self, num_features, num_assays, lr, weight_decay):
        super().__init__()
        self.save_hyperparameters()
        self.net = make_mlp(num_features, num_assays)
        # batches have different numbers of results, so the loss is not a mean over batches
        self.losses = nn.ModuleDict({f"{stage}_loss": MeanMetric() for stage in ("train", "val", "test")})
        metrics = MetricCollection(
            {
                "auroc": MultilabelAUROC(num_assays, ignore_index=-1),
                "average_precision": MultilabelAveragePrecision(num_assays, ignore_index=-1),
            }
        )
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def forward(self, x):
        return self.net(x)

    def shared_step(self, batch, stage):
        x, target, weight = batch
        logits = self(x)
        known = ~target.isnan()
        losses = F.binary_cross_entropy_with_logits(logits, target.nan_to_num(), reduction="none")
        weights = weight[:, None] * known
        loss = (losses * weights).sum() / weights.sum()
        self.losses[f"{stage}_loss"].update(loss, weights.sum())
        return loss, logits.sigmoid(), target.nan_to_num(nan=-1).long()

    def log_epoch(self, stage, metrics=None):
        loss = self.losses[f"{stage}_loss"]
        self.log(f"{stage}/loss", loss.compute())
        loss.reset()
        if metrics is not None:
            self.log_dict(metrics.compute())
            metrics.reset()

    def training_step(self, batch, batch_idx):
        return self.shared_step(batch, "train")[0]

    def on_train_epoch_end(self):
        self.log_epoch("train")

    def validation_step(self, batch, batch_idx):
        _, probabilities, target = self.shared_step(batch, "val")
        self.val_metrics.update(probabilities, target)

    def on_validation_epoch_end(self):
        self.log_epoch("val", self.val_metrics)

    def test_step(self, batch, batch_idx):
        _, probabilities, target = self.shared_step(batch, "test")
        self.test_metrics.update(probabilities, target)

    def on_test_epoch_end(self):
        self.log_epoch("test", self.test_metrics)

    def predict_step(self, batch, batch_idx):
        return self(batch[0]).sigmoid()

    def configure_optimizers(self):
        return torch.optim.AdamW(
            self.parameters(), lr=self.hparams.lr, weight_decay=self.hparams.weight_decay
        )


class Assays(ls.TaskModule):
    def __init__(self, num_features, num_assays, lr, weight_decay):
        super().__init__(
            ls.Multilabel(num_assays),
            net=make_mlp(num_features, num_assays),
            optimizer={"name": "AdamW", "lr": lr, "weight_decay": weight_decay},
            batch_keys=(0, 1, 2),
        )


@pytest.fixture
def rows():
    x = torch.randn(60, 10)
    y = (x @ torch.randn(10, NUM_ASSAYS) > 0).float()
    y[::6], y[1::6] = 0, 1  # each assay has both results in each split
    y[
        (torch.rand(60, 1) < 0.7) & (torch.rand(60, NUM_ASSAYS) < 0.5) & (torch.arange(60)[:, None] % 6 > 1)
    ] = torch.nan
    rows = [*zip(x, y, torch.rand(60) + 0.1, strict=True)]
    return rows[:36], rows[36:48], rows[48:]


def test_assays(rows):
    options = {"num_features": 10, "num_assays": NUM_ASSAYS, "lr": 0.01, "weight_decay": 0.1}
    plain = train(lambda: PlainAssays(**options), rows)
    assert_same(plain, train(lambda: Assays(**options), rows))


def test_two_thirds_of_the_lines_are_deleted():
    assert 3 * count_lines(Assays) <= count_lines(PlainAssays)
