"""Graphs: a batch is an object, and the net returns a logit (N,) for targets (N, 1)."""

import lightning.pytorch as L
import pytest
import torch
from ports import assert_same, count_lines, train
from torch import nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryF1Score

import lossselect as ls


class GraphBatch:
    """A batch of graphs, like torch_geometric.data.Batch."""

    def __init__(self, graphs):
        x, edges, y = zip(*graphs, strict=True)
        sizes = torch.tensor([len(nodes) for nodes in x])
        starts = sizes.cumsum(0) - sizes
        self.x, self.y, self.num_graphs = torch.cat(x), torch.stack(y), len(x)
        self.edge_index = torch.cat([edge + start for edge, start in zip(edges, starts, strict=True)], 1)
        self.batch = torch.arange(len(x)).repeat_interleave(sizes)

    def to(self, device, non_blocking=False):
        for name in ("x", "edge_index", "batch", "y"):
            setattr(self, name, getattr(self, name).to(device, non_blocking=non_blocking))
        return self


class GraphNet(nn.Module):
    """A graph convolution and the mean over the nodes of each graph."""

    def __init__(self, num_features, width=16):
        super().__init__()
        self.node, self.neighbour = nn.Linear(num_features, width), nn.Linear(num_features, width)
        self.classifier = nn.Linear(width, 1)

    def forward(self, x, edge_index, batch):
        source, destination = edge_index
        messages = torch.zeros_like(x).index_add(0, destination, x[source])
        hidden = (self.node(x) + self.neighbour(messages)).relu()
        sizes = batch.bincount()
        pooled = hidden.new_zeros(len(sizes), hidden.shape[1]).index_add(0, batch, hidden)
        return self.classifier(pooled / sizes[:, None]).squeeze(-1)


class PlainGraphs(L.LightningModule):
    def __init__(self, num_features, lr):
        super().__init__()
        self.save_hyperparameters()
        self.net = GraphNet(num_features)
        metrics = MetricCollection(
            {"accuracy": BinaryAccuracy(), "f1": BinaryF1Score(), "auroc": BinaryAUROC()},
        )
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def forward(self, x, edge_index, batch):
        return self.net(x, edge_index, batch)

    def shared_step(self, batch, stage):
        logits = self(batch.x, batch.edge_index, batch.batch)
        loss = F.binary_cross_entropy_with_logits(logits, batch.y.squeeze(-1))
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, batch_size=batch.num_graphs)
        return loss, logits.sigmoid(), batch.y.squeeze(-1).long()

    def training_step(self, batch, batch_idx):
        return self.shared_step(batch, "train")[0]

    def validation_step(self, batch, batch_idx):
        _, probabilities, target = self.shared_step(batch, "val")
        self.val_metrics.update(probabilities, target)

    def on_validation_epoch_end(self):
        self.log_dict(self.val_metrics.compute())
        self.val_metrics.reset()

    def test_step(self, batch, batch_idx):
        _, probabilities, target = self.shared_step(batch, "test")
        self.test_metrics.update(probabilities, target)

    def on_test_epoch_end(self):
        self.log_dict(self.test_metrics.compute())
        self.test_metrics.reset()

    def predict_step(self, batch, batch_idx):
        return self(batch.x, batch.edge_index, batch.batch).sigmoid()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


class Graphs(ls.TaskModule):
    def __init__(self, num_features, lr):
        super().__init__(
            ls.Binary(),
            net=GraphNet(num_features),
            optimizer={"name": "Adam", "lr": lr},
            class_dim=None,
        )


@pytest.fixture
def rows():
    rows = []
    for i in range(60):
        nodes = 3 + i % 4
        x = torch.randn(nodes, 5) + i % 2
        rows.append((x, torch.randint(nodes, (2, 2 * nodes)), torch.tensor([i % 2.0])))
    return rows[:36], rows[36:48], rows[48:]


def test_graphs(rows):
    plain = train(lambda: PlainGraphs(5, lr=0.01), rows, GraphBatch)
    assert_same(plain, train(lambda: Graphs(5, lr=0.01), rows, GraphBatch))


def test_two_thirds_of_the_lines_are_deleted():
    assert 3 * count_lines(Graphs) <= count_lines(PlainGraphs)
