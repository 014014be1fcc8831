"""Token classification: padded positions are -100, and the classes are the last dimension of the logits."""

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

NUM_CLASSES = 4


class Tagger(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.embedding = nn.Embedding(30, 12)
        self.rnn = nn.GRU(12, 8, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(16, num_classes)

    def forward(self, input_ids):
        return self.classifier(self.rnn(self.embedding(input_ids))[0])


def pad_batch(rows):
    tokens, labels = zip(*rows, strict=True)
    labels = pad_sequence(labels, batch_first=True, padding_value=-100)
    return {"input_ids": pad_sequence(tokens, batch_first=True), "labels": labels}


class PlainTokens(L.LightningModule):
    def __init__(self, num_classes, lr):
        super().__init__()
        self.save_hyperparameters()
        self.net = Tagger(num_classes)
        options = {"num_classes": num_classes, "ignore_index": -100}
        metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(average="micro", **options),
                "f1_macro": MulticlassF1Score(average="macro", **options),
            }
        )
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def forward(self, input_ids):
        return self.net(input_ids)

    def shared_step(self, batch, stage):
        logits = self(batch["input_ids"])
        logits, labels = logits.flatten(0, 1), batch["labels"].flatten()
        loss = F.cross_entropy(logits, labels, ignore_index=-100)
        # batches have different numbers of tokens: without these weights the value would be another one
        tokens = int((labels != -100).sum())
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, batch_size=tokens)
        return loss, logits, labels

    def training_step(self, batch, batch_idx):
        return self.shared_step(batch, "train")[0]

    def validation_step(self, batch, batch_idx):
        _, logits, labels = self.shared_step(batch, "val")
        self.val_metrics.update(logits, labels)

    def on_validation_epoch_end(self):
        self.log_dict(self.val_metrics.compute())
        self.val_metrics.reset()

    def test_step(self, batch, batch_idx):
        _, logits, labels = self.shared_step(batch, "test")
        self.test_metrics.update(logits, labels)

    def on_test_epoch_end(self):
        self.log_dict(self.test_metrics.compute())
        self.test_metrics.reset()

    def predict_step(self, batch, batch_idx):
        return self(batch["input_ids"]).movedim(-1, 1).softmax(1)  # (N, C, T), as TaskModule returns them

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


class Tokens(ls.TaskModule):
    def __init__(self, num_classes, lr):
        task = ls.Multiclass(num_classes, missing=-100)
        super().__init__(task, net=Tagger(num_classes), class_dim=-1)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


@pytest.fixture
def rows():
    rows = []
    for i in range(60):
        tokens = torch.randint(1, 30, (4 + i % 5,))
        labels = tokens % NUM_CLASSES
        labels[-1] = -100  # a part of a word
        rows.append((tokens, labels))
    return rows[:36], rows[36:48], rows[48:]


def test_tokens(rows):
    plain = train(lambda: PlainTokens(NUM_CLASSES, lr=0.01), rows, pad_batch)
    assert_same(plain, train(lambda: Tokens(NUM_CLASSES, lr=0.01), rows, pad_batch))


def test_two_thirds_of_the_lines_are_deleted():
    assert 3 * count_lines(Tokens) <= count_lines(PlainTokens)
