import re

import numpy as np
import pytest
import torch

import lossselect as ls
from lossselect.losses.registry import row_options


class TestOptions:
    def test_tensor_options_are_buffers_that_keep_their_precision(self):
        loss = ls.select_loss(ls.Multilabel(2), pos_weight=[1e5, 0.1], weight=[1, 2])
        assert dict(loss.named_buffers()).keys() == {"weight", "pos_weight"}
        assert loss.to("meta").pos_weight.device.type == "meta"
        half = ls.select_loss(ls.Multilabel(2), pos_weight=[1e5, 0.1]).half()
        assert half.pos_weight.tolist() == [1e5, 0.1]
        assert half(torch.full((1, 2), 8.0).half(), torch.zeros(1, 2)).isfinite()

    def test_numpy_numbers_are_numbers(self):
        assert ls.select_loss(ls.Binary(), "focal", gamma=np.float32(1.5), label_smoothing=np.float64(0.1))

    def test_plain_values_recreate_the_loss(self):
        loss = ls.select_loss(ls.Multilabel(2), "focal", gamma=1.5, weight=[1, 2], pos_weight=3)
        again = ls.select_loss(ls.Multilabel(2), **loss.to_dict())
        logits, target = torch.randn(4, 2), torch.rand(4, 2)
        assert torch.equal(loss(logits, target), again(logits, target))

    def test_options_are_not_in_the_state_dict(self):
        assert not ls.select_loss(ls.Multilabel(2), weight=[1, 2]).state_dict()

    @pytest.mark.parametrize(
        ("task", "name", "options", "message"),
        [
            (ls.Binary(), "focl", {}, "Unknown loss 'focl'. Did you mean 'focal'?"),
            (ls.Binary(), "focal", {"gama": 1}, "has no option 'gama'. Did you mean 'gamma'?"),
            (ls.Binary(), "cross_entropy", {"gamma": 1}, "has no option 'gamma'"),
            (
                ls.Multiclass(3),
                "cross_entropy",
                {"pos_weight": 2.0},
                "pos_weight is not supported under softmax",
            ),
            (ls.Multiclass(3), "focal", {"alpha": 0.2}, "alpha has no effect on the softmax form"),
            (ls.Binary(), "focal", {"gamma": -1}, "gamma must be"),
            (ls.Binary(), "focal", {"gamma": float("nan")}, "got nan."),
            (ls.Binary(), "focal", {"alpha": 1.5}, "alpha must be"),
            (ls.Binary(), "cross_entropy", {"label_smoothing": 1.0}, "label_smoothing must be < 1"),
            (
                ls.Binary(),
                "cross_entropy",
                {"label_smoothing": -0.1},
                "label_smoothing must be",
            ),
            (ls.Binary(), "cross_entropy", {"reduction": "avg"}, "reduction must be 'none', 'mean' or 'sum'"),
            (
                ls.Multiclass(3),
                "cross_entropy",
                {"weight": [1, 2]},
                "shape (3,) for multiclass with 3 classes",
            ),
            (ls.Multiclass(3), "cross_entropy", {"weight": [1, -2, 1]}, ">= 0, got -2 for '1'"),
            (ls.Multiclass(3), "cross_entropy", {"weight": [1, float("nan"), 1]}, "got nan for '1'"),
            (ls.Multiclass(3), "cross_entropy", {"weight": [0, 0, 0]}, "nothing would be learned"),
            (ls.Multilabel(2), "cross_entropy", {"pos_weight": 0}, "pos_weight is 0 for all outputs"),
            (
                ls.Multilabel(2),
                "cross_entropy",
                {"weight": [1, 1e300]},
                "must be finite and >= 0, got 1e+300",
            ),
            (ls.Binary(), "cross_entropy", {"weight": [1, 3]}, "Set pos_weight=3"),
            (ls.Multilabel(2), "cross_entropy", {"pos_weight": [1, 2, 3]}, "got shape (3,)"),
        ],
    )
    def test_wrong_options_raise_an_error_at_construction(self, task, name, options, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            ls.select_loss(task, name, **options)

    @pytest.mark.parametrize(
        "options", [{"gamma": "2"}, {"alpha": True}, {"weight": ["a"]}, {"label_smoothing": "x"}]
    )
    def test_options_that_are_not_numbers(self, options):
        with pytest.raises(TypeError, match=next(iter(options))):
            ls.select_loss(ls.Binary(), "focal", **options)

    def test_a_loss_without_the_form_that_the_task_needs(self, monkeypatch):
        monkeypatch.setitem(ls.LOSSES, "only_sigmoid", {"sigmoid": ls.LOSSES["focal"]["sigmoid"]})
        with pytest.raises(
            ValueError, match="'only_sigmoid' has no softmax form, which task=multiclass requires"
        ) as e:
            ls.select_loss(ls.Multiclass(3), "only_sigmoid")
        others = [name for name, forms in ls.LOSSES.items() if "softmax" in forms]
        assert f"Set loss to one of: {', '.join(others)}." in str(e.value)


@pytest.mark.parametrize("task", ["multiclass", ls.Multiclass, [0, 1]])
def test_an_argument_that_is_not_a_task(task):
    for call in (lambda: ls.select_loss(task), lambda: ls.check_task(task, [0, 1])):
        with pytest.raises(TypeError, match="must be a task"):
            call()


@pytest.mark.parametrize(
    "task", [ls.Binary(), ls.Multiclass(3), ls.Multilabel(3)], ids=lambda task: task.name
)
@pytest.mark.parametrize("name", ls.LOSSES)
def test_the_options_in_the_config_group_of_a_loss_are_accepted(task, name):
    if task.activation in ls.LOSSES[name]:
        assert ls.TaskModule(task, loss={"name": name, **row_options(name)}).criterion.name == name


def test_row_options_are_none_if_the_defaults_of_the_forms_differ(monkeypatch):
    def one(logits, target, k=1.0):
        return logits

    def two(logits, target, k=2.0, only=3.0):
        return logits

    monkeypatch.setitem(ls.LOSSES, "odd", {"sigmoid": one, "softmax": two})
    assert row_options("odd") == {
        "k": None,
        "only": 3.0,
        "weight": None,
        "pos_weight": None,
        "beta": None,
        "label_smoothing": 0.0,
    }


@pytest.mark.parametrize(
    ("task", "name", "options", "message"),
    [
        (
            ls.Multilabel(3),
            "asymmetric",
            {"gamma_neg": -1},
            "gamma_neg must be",
        ),
        (ls.Multilabel(3), "asymmetric", {"clip": 1}, "clip must be < 1"),
        (ls.Multiclass(3), "asymmetric", {}, "'asymmetric' has no softmax form"),
        (ls.Multiclass(3), "zlpr", {}, "'zlpr' has no softmax form"),
        (ls.Multilabel(3), "one_vs_rest", {}, "'one_vs_rest' has no sigmoid form"),
        (ls.Binary(), "poly1", {"epsilon": -2}, "epsilon must be"),
        (
            ls.Binary(),
            "generalized_cross_entropy",
            {"q": 0},
            "q must be",
        ),
        (
            ls.Binary(),
            "logit_adjusted",
            {"tau": -1, "prior": [0.5]},
            "tau must be",
        ),
        (ls.Binary(), "logit_adjusted", {"prior": [0.0]}, "prior is 0 for all outputs"),
        (
            ls.Multilabel(2),
            "logit_adjusted",
            {"prior": [0.2, 1]},
            "prior must be > 0 and < 1, got 1 for '1'",
        ),
        (ls.Multiclass(2), "logit_adjusted", {"prior": [0.2, 0.2]}, "sum to 1, got a sum of 0.4"),
        (ls.Multiclass(2), "cross_entropy", {"prior": [0.2, 0.8]}, "has no option 'prior'"),
        (ls.Multilabel(2), "zlpr", {"weight": [1, 2]}, "does not support weight"),
        (
            ls.Multilabel(2),
            "zlpr",
            {"pos_weight": 2},
            "'zlpr' does not support pos_weight: it compares the labels",
        ),
        (
            ls.Multilabel(2),
            "dice",
            {"pos_weight": 2},
            "'dice' does not support pos_weight: it compares the pixels",
        ),
        (ls.Binary(), "dice", {"smooth": 0}, "smooth must be"),
        (ls.Binary(), "sce", {}, "Here it is called 'poly1'"),
        (ls.Multilabel(2), "AsymmetricLoss", {}, "Here it is called 'asymmetric'"),
        (
            ls.Multiclass(2),
            "cross_entropy",
            {"weight": "balnced"},
            "weight='balnced' is not valid. Did you mean 'balanced'?",
        ),
        (ls.Binary(), "cross_entropy", {"weight": "balanced"}, "Set pos_weight=auto"),
        (ls.Binary(), "cross_entropy", {"pos_weight": "balanced"}, "pos_weight='balanced' is not valid."),
        (
            ls.Multiclass(2),
            "cross_entropy",
            {"beta": 0.9},
            "beta has no effect without weight=effective_number.",
        ),
        (
            ls.Multiclass(2),
            "cross_entropy",
            {"weight": "effective_number", "beta": 1},
            "beta must be < 1",
        ),
    ],
)
def test_wrong_options_of_the_formulas_raise_an_error_at_construction(task, name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ls.select_loss(task, name, **options)


@pytest.mark.parametrize("written", ["true", "True"])
def test_weights_of_a_class_called_true(written):
    task = ls.Multiclass(2, class_names=(written, "maybe"))
    assert ls.select_loss(task, weight={True: 3}).weight.tolist() == [3, 1]
