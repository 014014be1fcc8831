"""Custom losses: assigned in a subclass, or derived from the base classes of torch."""

import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.modules.loss import _Loss, _WeightedLoss

import lossselect as ls

LOGITS, MULTI_HOT = torch.randn(4, 3, requires_grad=True), torch.eye(4, 3)


def with_criterion(task, criterion):
    class Ported(ls.TaskModule):
        def __init__(self):
            super().__init__(task, nn.Linear(8, task.num_outputs))
            self.criterion = criterion

    return Ported()


@pytest.mark.parametrize(
    ("task", "criterion", "error", "message"),
    [
        (
            ls.Multilabel(3),
            nn.CrossEntropyLoss(),
            ValueError,
            "torch's CrossEntropyLoss does not accept raw logits",
        ),
        (
            ls.Multiclass(3),
            nn.BCEWithLogitsLoss(),
            ValueError,
            "torch's BCEWithLogitsLoss does not accept raw logits",
        ),
        (ls.Binary(), nn.BCELoss(), ValueError, "torch's BCELoss does not accept raw logits"),
        (ls.Multilabel(3), ls.select_loss(ls.Multiclass(3)), ValueError, "The loss is for multiclass"),
        (ls.Multilabel(3), nn.BCEWithLogitsLoss(reduction="sum"), ValueError, "reduction='sum'"),
        (ls.Multilabel(3), "focl", ValueError, "Did you mean 'focal'?"),
        (ls.Multilabel(3), nn.BCEWithLogitsLoss, TypeError, "loss must be a name"),
        (ls.Multilabel(3), None, TypeError, "loss must be a name"),
    ],
)
def test_a_criterion_that_does_not_fit_is_rejected_when_it_is_assigned(task, criterion, error, message):
    with pytest.raises(error, match=re.escape(message)):
        with_criterion(task, criterion)


def test_a_criterion_that_fits_may_be_assigned():
    own = nn.BCEWithLogitsLoss()
    module = with_criterion(ls.Multilabel(3), own)
    assert module.criterion is own
    module.criterion = "focal"
    assert module.criterion.name == "focal"


def test_a_function_may_be_assigned():
    own = nn.functional.binary_cross_entropy_with_logits
    module = with_criterion(ls.Multilabel(3), own)
    assert module.criterion is own
    module.criterion = nn.BCEWithLogitsLoss()
    assert isinstance(module.criterion, nn.BCEWithLogitsLoss)
    with pytest.raises(ValueError, match="torch's cross_entropy does not accept raw logits"):
        module.criterion = nn.functional.cross_entropy


def test_a_criterion_that_does_not_support_mixed_targets():
    module = ls.TaskModule(ls.Multiclass(3), nn.Linear(8, 3), mix="mixup")
    with pytest.raises(ValueError, match="mix creates soft labels"):
        module.criterion = nn.MultiMarginLoss()


def test_a_criterion_that_a_chunked_head_cannot_compute():
    module = ls.TaskModule(ls.Multilabel(6), nn.Linear(8, 6), head="chunked")
    with pytest.raises(ValueError, match="chunked"):
        module.criterion = "zlpr"


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), "focal"])
def test_a_task_of_another_kind_is_rejected_when_it_is_assigned(criterion):
    module = with_criterion(ls.Multiclass(3), criterion)
    with pytest.raises(ValueError, match=r"task=multilabel|task is multilabel"):
        module.task = ls.Multilabel(3)
    with pytest.raises(TypeError, match="make_task"):
        module.task = "multilabel"
    module.task = ls.Multiclass(3, class_names=("a", "b", "c"))
    assert module.task.class_names == ("a", "b", "c")


class OfAnotherPackage(_Loss):
    """A loss like those of MONAI and segmentation_models_pytorch."""

    def forward(self, logits, target):
        return (logits.sigmoid() - target).square().mean()


class WeightedOfAnotherPackage(_WeightedLoss, OfAnotherPackage):
    pass


@pytest.mark.parametrize("kind", [OfAnotherPackage, WeightedOfAnotherPackage])
def test_a_loss_derived_from_the_base_classes_of_torch_is_accepted(kind):
    module = ls.TaskModule(ls.Multilabel(3), nn.Identity(), loss=kind())
    loss = module.training_step((LOGITS, MULTI_HOT), 0)["loss"]
    torch.testing.assert_close(loss, (LOGITS.sigmoid() - MULTI_HOT).square().mean())
    with pytest.raises(ValueError, match="reduction='sum'"):
        ls.TaskModule(ls.Multilabel(3), loss=kind(reduction="sum"))


@pytest.mark.parametrize("missing", [255, None])
@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(ignore_index=255), partial(nn.functional.cross_entropy, ignore_index=255)]
)
def test_an_ignore_index_that_cannot_be_in_a_canonical_target(loss, missing):
    with pytest.raises(ValueError, match="all missing labels with -100") as raised:
        ls.TaskModule(ls.Multiclass(3, missing=missing), loss=loss)
    assert ("declare missing=255" in str(raised.value)) == (missing is None)


def test_an_ignore_index_that_can_be_in_a_target():
    for ignored in (-100, 0):
        ls.TaskModule(ls.Multiclass(3), loss=nn.CrossEntropyLoss(ignore_index=ignored))
    targets = torch.tensor([0, 255, 2, 255])
    module = ls.TaskModule(ls.Multiclass(3, missing=255), nn.Identity(), loss=nn.CrossEntropyLoss())
    wanted = nn.functional.cross_entropy(LOGITS, targets, ignore_index=255)
    torch.testing.assert_close(module.training_step((LOGITS, targets), 0)["loss"], wanted)
