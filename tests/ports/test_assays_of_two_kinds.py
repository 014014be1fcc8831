"""Assays of two kinds: active or not in some of many assays, and a toxicity class; each may be missing."""

import lightning.pytorch as L
import pytest
import torch
from ports import assert_same, count_lines, train
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassF1Score, MultilabelAUROC

import lossselect as ls

NUM_ASSAYS, NUM_CLASSES, HIDDEN = 6, 3, 16


class Encoder(nn.Module):
    """An encoder with a head of each kind."""

    def __init__(self, num_features):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(num_features, HIDDEN), nn.ReLU(), nn.Dropout(0.2))
        self.activity, self.toxicity = nn.Linear(HIDDEN, NUM_ASSAYS), nn.Linear(HIDDEN, NUM_CLASSES)

    def forward(self, x):
        hidden = self.body(x)
        return {"activity": self.activity(hidden), "toxicity": self.toxicity(hidden)}


class PlainModule(L.LightningModule):
    def __init__(self, num_features, lr, toxicity_weight):
        super().__init__()
        self.save_hyperparameters()
        self.net = Encoder(num_features)
        names = [f"{stage}_{task}" for stage in ("train", "val", "test") for task in ("activity", "toxicity")]
        self.losses = nn.ModuleDict({name: MeanMetric() for name in names})
        self.auroc = nn.ModuleDict(
            {f"{stage}_auroc": MultilabelAUROC(NUM_ASSAYS, ignore_index=-1) for stage in ("val", "test")}
        )
        self.f1 = nn.ModuleDict(
            {
                f"{stage}_f1": MulticlassF1Score(NUM_CLASSES, average="macro", ignore_index=-100)
                for stage in ("val", "test")
            }
        )

    def shared_step(self, batch, stage):
        x, target = batch
        logits = self.net(x)
        known = ~target["activity"].isnan()
        losses = F.binary_cross_entropy_with_logits(
            logits["activity"], target["activity"].nan_to_num(), reduction="none"
        )
        num_known = known.sum()
        activity = (losses * known).sum() / num_known.clamp(min=1)
        tested = target["toxicity"] >= 0
        toxicity = F.cross_entropy(
            logits["toxicity"], target["toxicity"].where(tested, -100), reduction="sum"
        )
        toxicity = toxicity / tested.sum().clamp(min=1)
        # batches have different numbers of results, so the loss of an epoch is not a mean over batches
        self.losses[f"{stage}_activity"].update(activity, num_known)
        self.losses[f"{stage}_toxicity"].update(toxicity, tested.sum())
        if stage != "train":
            shown = target["activity"].nan_to_num(nan=-1).long()
            self.auroc[f"{stage}_auroc"].update(logits["activity"].sigmoid(), shown)
            self.f1[f"{stage}_f1"].update(logits["toxicity"], target["toxicity"].where(tested, -100))
        return activity + self.hparams.toxicity_weight * toxicity

    def log_epoch(self, stage):
        parts = {task: self.losses[f"{stage}_{task}"].compute() for task in ("activity", "toxicity")}
        for task, loss in parts.items():
            self.log(f"{stage}/{task}/loss", loss)
            self.losses[f"{stage}_{task}"].reset()
        total = parts["activity"] + self.hparams.toxicity_weight * parts["toxicity"]
        self.log(f"{stage}/loss", total)
        if stage != "train":
            for task, name, metric in (("activity", "auroc", self.auroc), ("toxicity", "f1", self.f1)):
                computed = metric[f"{stage}_{name}"]
                self.log(f"{stage}/{task}/{'f1_macro' if name == 'f1' else name}", computed.compute())
                computed.reset()

    def training_step(self, batch, batch_idx):
        return self.shared_step(batch, "train")

    def on_train_epoch_end(self):
        self.log_epoch("train")

    def validation_step(self, batch, batch_idx):
        self.shared_step(batch, "val")

    def on_validation_epoch_end(self):
        self.log_epoch("val")

    def test_step(self, batch, batch_idx):
        self.shared_step(batch, "test")

    def on_test_epoch_end(self):
        self.log_epoch("test")

    def predict_step(self, batch, batch_idx):
        logits = self.net(batch[0])
        return torch.cat([logits["activity"].sigmoid(), logits["toxicity"].softmax(1)], 1)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


class Port(ls.TaskModule):
    def __init__(self, num_features, lr, toxicity_weight):
        tasks = {"activity": ls.Multilabel(NUM_ASSAYS), "toxicity": ls.Multiclass(NUM_CLASSES, missing=-1)}
        task = ls.MultiTask(tasks, weights={"toxicity": toxicity_weight})
        super().__init__(task, Encoder(num_features), optimizer={"name": "AdamW", "lr": lr})

    def predict_step(self, batch, batch_idx):
        return torch.cat([*super().predict_step(batch, batch_idx)["probabilities"].values()], 1)


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(72, 10, generator=generator)
    activity = (x @ torch.randn(10, NUM_ASSAYS, generator=generator) > 0).float()
    activity[::6], activity[1::6] = 0, 1  # each assay has both results in each split
    toxicity = torch.arange(72) % NUM_CLASSES
    measured = torch.rand(72, NUM_ASSAYS, generator=generator) < 0.4
    measured[::6] = measured[1::6] = True
    activity[~measured] = torch.nan
    toxicity[torch.rand(72, generator=generator) < 0.6] = -1
    toxicity[::8] = torch.arange(9) % NUM_CLASSES
    rows = [(x[i], {"activity": activity[i], "toxicity": toxicity[i]}) for i in range(72)]
    return rows[:36], rows[36:54], rows[54:]


def test_assays_of_two_kinds(rows):
    """With 60 % of the labels missing, losses, metrics, weights and probabilities are the same."""
    options = {"num_features": 10, "lr": 0.01, "toxicity_weight": 0.5}
    plain, port = (train(lambda kind=kind: kind(**options), rows) for kind in (PlainModule, Port))
    assert_same(plain, port)


def test_most_lines_are_deleted():
    assert 6 * count_lines(Port) <= count_lines(PlainModule)
