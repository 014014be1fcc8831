"""Text: a transformer, batches that are mappings, parameter groups and a warm-up per step."""

from functools import partial
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from ports import assert_same, count_lines, train
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

import lossselect as ls

NUM_CLASSES = 3


class TinyModel(nn.Module):
    """Has the arguments and the outputs of a transformer, for machines without transformers."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.norm = nn.LayerNorm(16)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(16, NUM_CLASSES)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        hidden = self.norm(self.embedding(input_ids)) * attention_mask[..., None]
        logits = self.classifier(self.dropout(hidden.mean(1)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SimpleNamespace(loss=loss, logits=logits)


def make_bert():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=50, num_labels=NUM_CLASSES, **sizes)
    return transformers.AutoModelForSequenceClassification.from_config(config)


def pad_batch(rows, encoding=dict):
    tokens, labels = zip(*rows, strict=True)
    ids = pad_sequence(tokens, batch_first=True)
    return encoding({"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor(labels)})


def make_groups(module, weight_decay):
    """No weight decay for biases and norms."""
    groups = {True: [], False: []}
    for parameter in module.parameters():
        groups[parameter.ndim > 1].append(parameter)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def warm_up(optimizer, warmup_steps, steps):
    """Linear warm-up and linear decay, like transformers.get_linear_schedule_with_warmup."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / warmup_steps, (steps - step) / (steps - warmup_steps))
    )


class PlainText(L.LightningModule):
    def __init__(self, make_net, num_classes, lr, warmup_steps, weight_decay=0.01):
        super().__init__()
        self.save_hyperparameters(ignore=["make_net"])
        self.net = make_net()
        metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                "f1_macro": MulticlassF1Score(num_classes, average="macro"),
            }
        )
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def forward(self, **inputs):
        return self.net(**inputs)

    def training_step(self, batch, batch_idx):
        outputs = self(**batch)
        size = len(batch["labels"])
        self.log("train/loss", outputs.loss, on_step=False, on_epoch=True, batch_size=size)
        return outputs.loss

    def evaluate(self, batch, stage, metrics):
        outputs = self(**batch)
        metrics.update(outputs.logits.argmax(-1), batch["labels"])
        self.log(f"{stage}/loss", outputs.loss, prog_bar=True, batch_size=len(batch["labels"]))

    def validation_step(self, batch, batch_idx):
        self.evaluate(batch, "val", self.val_metrics)

    def on_validation_epoch_end(self):
        self.log_dict(self.val_metrics.compute(), prog_bar=True)
        self.val_metrics.reset()

    def test_step(self, batch, batch_idx):
        self.evaluate(batch, "test", self.test_metrics)

    def on_test_epoch_end(self):
        self.log_dict(self.test_metrics.compute())
        self.test_metrics.reset()

    def predict_step(self, batch, batch_idx):
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        return self(**inputs).logits.softmax(-1)

    def configure_optimizers(self):
        groups = make_groups(self, self.hparams.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.hparams.lr)
        steps = self.trainer.estimated_stepping_batches
        scheduler = warm_up(optimizer, self.hparams.warmup_steps, steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Text(ls.TaskModule):
    def __init__(self, make_net, num_classes, lr, warmup_steps, weight_decay=0.01):
        super().__init__(ls.Multiclass(num_classes), net=make_net())

    def configure_optimizers(self):
        groups = make_groups(self, self.hparams.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.hparams.lr)
        steps = self.trainer.estimated_stepping_batches
        scheduler = warm_up(optimizer, self.hparams.warmup_steps, steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


@pytest.fixture
def rows():
    labels = [i % NUM_CLASSES for i in range(60)]
    rows = [
        (torch.randint(1, 50, (5 + i % 4,)).clamp(max=49 - label), label) for i, label in enumerate(labels)
    ]
    return rows[:36], rows[36:48], rows[48:]


@pytest.mark.parametrize("make_net", [TinyModel, make_bert])
def test_text(rows, make_net):
    options = {"num_classes": NUM_CLASSES, "lr": 0.01, "warmup_steps": 4}
    collate = pad_batch
    if make_net is make_bert:
        transformers = pytest.importorskip("transformers", reason="transformers is not installed")
        collate = partial(pad_batch, encoding=transformers.BatchEncoding)
    plain = train(lambda: PlainText(make_net, **options), rows, collate)
    assert_same(plain, train(lambda: Text(make_net, **options), rows, collate))


def test_two_thirds_of_the_lines_are_deleted():
    assert 3 * count_lines(Text) <= count_lines(PlainText)
