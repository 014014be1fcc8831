"""Class indices of positions (N, T) or one-hot rows (N, C), and trailing dimensions of size 1."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from trainers import quiet_trainer

import lossselect as ls
from lossselect.chunked.linear import ChunkedLinear
from lossselect.training.lifecycle import count_loader

C = 5
TASK = ls.Multiclass(C, missing=-1)
TAGS = torch.tensor([[0, 1, 0, 0, 0], [0, 0, 0, 0, 1]])
"""Class indices of 5 time steps, which look like one-hot rows of 5 classes."""


def same(found, expected):
    assert torch.equal(found, torch.as_tensor(expected)), found


class TestEncode:
    def test_the_shape_of_the_logits_decides(self):
        same(TASK.encode(TAGS, trailing_dims=1), TAGS)
        same(TASK.encode(TAGS, trailing_dims=0), [1, 4])
        same(TASK.encode(F.one_hot(TAGS, C).movedim(-1, 1), trailing_dims=1), TAGS)

    def test_without_it_exact_one_hot_rows_are_reported(self):
        with pytest.warns(
            ls.LossSelectWarning,
            match=r"Integers of shape \(2, 5\) were read as one-hot rows.*\[one_hot_integers\]",
        ):
            same(TASK.encode(TAGS), [1, 4])
        with pytest.warns(ls.LossSelectWarning, match="one_hot_integers"):
            same(TASK.encode([[0, 1, 0, 0, 0], [-1] * 5]), [1, -100])

    def test_other_values_are_indices(self):
        tags = torch.tensor([[0, 1, 0, 3, 0], [2, 0, -1, 0, 1]])
        same(TASK.encode(tags), tags.masked_fill(tags == -1, -100))

    def test_rows_of_several_ones_are_an_error_with_both_fixes(self):
        with pytest.raises(ValueError, match=r"Row 1 of the target has 2 ones.*") as raised:
            TASK.encode([[0, 1, 0, 0, 0], [0, 1, 0, 0, 1]])
        assert "task=multilabel" in str(raised.value)
        assert "encode(target, trailing_dims=1)" in str(raised.value)

    def test_bools_are_one_hot_rows(self):
        same(TASK.encode(TAGS.bool()), [1, 4])

    def test_floats_are_one_hot_rows(self):
        same(TASK.encode(TAGS.float()), [1, 4])

    def test_a_column(self):
        same(TASK.encode([[3], [-1]]), [3, -100])
        same(TASK.encode([[3], [-1]], trailing_dims=0), [3, -100])
        same(TASK.encode([[3], [-1]], trailing_dims=1), [[3], [-100]])

    def test_counts(self):
        with pytest.warns(ls.LossSelectWarning, match="one_hot_integers"):
            ls.count_labels(TASK, TAGS)
        tags = torch.cat([TAGS, torch.full((1, C), 2)])
        assert ls.count_labels(TASK, tags).positives.tolist() == [8, 2, 5, 0, 0]


class Tagger(nn.Module):
    """Logits (N, C, T) of inputs (N, 3, T)."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv1d(3, C, 1)

    def forward(self, inputs):
        return self.layer(inputs)


def tagged(length, rows=4):
    """A batch of sequences, whose tags look like one-hot rows if the length is 5."""
    target = torch.zeros(rows, length, dtype=torch.long)
    target[torch.arange(rows), torch.randint(length, (rows,))] = 1
    return torch.randn(rows, 3, length), target


def fit(module, batches, callbacks=(), **options):
    loader = DataLoader(batches, batch_size=None)
    trainer = quiet_trainer(max_epochs=2, enable_checkpointing=False, callbacks=[*callbacks], **options)
    trainer.fit(module, loader, loader)
    return trainer


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("lengths", [(5, 3, 5), (3, 5, 1), (5, 5), (1, 2)])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("weight", [None, "balanced"])
def test_sequences_of_any_length(lengths, sanity, steps, weight):
    batches = [tagged(length) for length in lengths]
    module = ls.TaskModule(TASK, Tagger(), {"name": "cross_entropy", "weight": weight})
    options = {"num_sanity_val_steps": sanity}
    with ls.ignore_warnings("class_without_rows", "one_hot_integers"):
        trainer = fit(module, batches, [ls.StepsPerExecution(steps)] if steps > 1 else (), **options)
        logits = [module(inputs) for inputs, _ in batches]
    weights = torch.ones(C) if weight is None else module.criterion.weight.float()
    total = sum(
        F.cross_entropy(z, y, weight=weights, reduction="sum")
        for z, (_, y) in zip(logits, batches, strict=True)
    )
    count = sum(weights[y].sum() for _, y in batches)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx((total / count).item(), rel=1e-5)


@pytest.mark.parametrize("mix", [None, "mixup"])
@pytest.mark.parametrize("form", ["one-hot", "column"])
@pytest.mark.parametrize("sanity", [0, 2])
def test_rows_of_integers_under_a_net_without_positions(form, sanity, mix):
    labels = torch.tensor([0, 3, 1, 4])
    target = F.one_hot(labels, C) if form == "one-hot" else labels[:, None]
    inputs = torch.randn(4, 3)
    module = ls.TaskModule(TASK, nn.Linear(3, C), mix=mix)
    with ls.ignore_warnings("class_without_rows", *(["one_hot_integers"] if mix and not sanity else [])):
        trainer = fit(module, [(inputs, target)], num_sanity_val_steps=sanity)
    expected = F.cross_entropy(module(inputs), labels)
    torch.testing.assert_close(trainer.callback_metrics["val/loss"].float(), expected.detach())


@pytest.mark.parametrize("form", ["one-hot", "column"])
def test_rows_of_integers_under_a_custom_chunked_head(form):
    labels = torch.tensor([0, 3, 1, 4])
    target = F.one_hot(labels, C) if form == "one-hot" else labels[:, None]
    inputs, head = torch.randn(4, 3), ChunkedLinear(3, C)
    with ls.ignore_warnings("class_without_rows"):
        trainer = fit(ls.TaskModule(TASK, head), [(inputs, target)])
    expected = F.cross_entropy(F.linear(inputs, head.weight, head.bias), labels)
    torch.testing.assert_close(trainer.callback_metrics["val/loss"].float(), expected.detach())


# dynamo warns once per process
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("loss", ["cross_entropy", F.binary_cross_entropy_with_logits])
@pytest.mark.parametrize("task", [ls.Binary(), ls.Multilabel(2)], ids=["binary", "multilabel"])
def test_a_compiled_step_with_one_position(task, loss):
    net = nn.Sequential(nn.Linear(3, task.num_outputs), nn.Unflatten(1, (task.num_outputs, 1)))
    module = ls.TaskModule(task, net, loss)
    module.compile(backend="eager")
    target = torch.randint(2, (4, task.num_outputs))
    inputs = torch.randn(4, 3)
    with ls.ignore_warnings("class_without_rows", "looks_multiclass", "no_positives", "one_class"):
        trainer = fit(module, [(inputs, target)] * 2)
    expected = F.binary_cross_entropy_with_logits(net(inputs)[..., 0], target.float())
    torch.testing.assert_close(trainer.callback_metrics["val/loss"].float(), expected.detach())
    assert module._compiled_step.compiled is not None


def test_several_ones_in_the_first_batch():
    target = torch.tensor([[0, 1, 0, 0, 1]])
    with pytest.raises(
        ValueError, match="Row 0 of the target has 2 ones, but a multiclass row must have exactly one"
    ):
        ls.TaskModule(TASK, nn.Linear(3, C)).training_step((torch.randn(1, 3), target), 0)


@pytest.mark.parametrize(
    ("batches", "positives"),
    [
        ([F.one_hot(torch.tensor([0, 3]), C), F.one_hot(torch.tensor([3, 3]), C)], [1, 0, 0, 3, 0]),
        ([TAGS, torch.tensor([[2, 2, 2]])], [8, 2, 3, 0, 0]),
        ([TAGS, torch.tensor([[2, 2, 2, 2, 2]])], [8, 2, 5, 0, 0]),
        ([torch.tensor([[2], [3]]), torch.tensor([[4], [3]])], [0, 0, 1, 2, 1]),
    ],
)
def test_counts_of_a_loader_before_the_first_step(batches, positives):
    module = ls.TaskModule(TASK, nn.Linear(3, C))
    with ls.ignore_warnings("one_hot_integers"):
        counts = count_loader(module, [(torch.randn(len(y), 3), y) for y in batches])
    assert counts.positives.tolist() == positives


class TestSizeOne:
    @pytest.mark.parametrize("positions", [1, 4])
    @pytest.mark.parametrize(
        ("task", "labels", "canonical"),
        [
            (TASK, (3,), (3,)),
            (ls.Binary(), (3, 1), (3, 1)),
            (ls.Multilabel(2), (3, 2), (3, 2)),
        ],
        ids=["multiclass", "binary", "multilabel"],
    )
    def test_a_module(self, task, labels, canonical, positions):
        target = torch.randint(2, (*labels, positions))
        logits = torch.randn(3, task.num_outputs, positions, requires_grad=True)
        module = ls.TaskModule(task, nn.Identity())
        loss = module.step((logits, target)).loss
        reference = F.cross_entropy if task is TASK else F.binary_cross_entropy_with_logits
        expected = reference(logits, target if task is TASK else target.float())
        torch.testing.assert_close(loss, expected)

    def test_an_image_of_one_row_under_binary(self):
        logits = torch.randn(3, 1, 1, 6, requires_grad=True)
        mask = torch.randint(2, (3, 1, 6))  # (N, H, W)
        expected = F.binary_cross_entropy_with_logits(logits, mask.unsqueeze(1).float())
        loss = ls.TaskModule(ls.Binary(), nn.Identity()).step((logits, mask)).loss
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(ls.select_loss(ls.Binary())(logits, ls.Binary().encode(mask)), expected)

    def test_a_loss_metrics_and_a_decision(self):
        logits, target = torch.randn(6, C, 1), torch.tensor([[0], [1], [2], [3], [4], [0]])
        encoded = TASK.encode(target)
        expected = F.cross_entropy(logits, target)
        torch.testing.assert_close(ls.select_loss(TASK)(logits, encoded), expected)
        metrics = ls.make_metrics(TASK, names=["accuracy"])
        metrics.update(TASK.probabilities(logits), encoded)
        assert metrics.compute()["accuracy"].item() == pytest.approx(
            (logits.argmax(1) == target).double().mean()
        )
        assert ls.fit_decision(TASK, logits, target) == ls.fit_decision(TASK, logits[..., 0], target[:, 0])

    @pytest.mark.parametrize(
        ("task", "outputs", "target"),
        [
            (ls.Binary(), (4, 1), torch.zeros(4)),
            (ls.Multilabel(4), (4, 4), torch.zeros(4)),
            (TASK, (4, C, 4), torch.zeros(4, dtype=torch.long)),
            (TASK, (4, C, 4), torch.zeros(1, 4, dtype=torch.long)),
        ],
    )
    def test_shapes_that_would_broadcast_are_still_rejected(self, task, outputs, target):
        with pytest.raises(ValueError, match=re.escape(f"For outputs of shape {outputs}")):
            ls.select_loss(task)(torch.zeros(outputs), target)
