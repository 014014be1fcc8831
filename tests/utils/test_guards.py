import re
import warnings

import pytest
import torch

import lossselect as ls
from lossselect.utils.warnings import WARNINGS, warn


def test_each_warning_contains_its_name():
    for name in WARNINGS:
        with pytest.warns(ls.LossSelectWarning, match=rf"something \[{name}\]$"):
            warn(name, "something")


def test_a_name_silences_only_its_own_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ls.ignore_warnings("one_class", "index_column"):
            warn("one_class", "two\nlines")
            with pytest.raises(ls.LossSelectWarning):
                warn("class_without_rows", "something")
        with pytest.raises(ls.LossSelectWarning):
            warn("one_class", "something")


def test_unknown_names():
    with (
        pytest.raises(ValueError, match=r"Unknown warning 'one_clas'\. Did you mean 'one_class'\?"),
        ls.ignore_warnings("one_clas"),
    ):
        pass
    with pytest.raises(ValueError, match="Unknown warning 'x'"):
        warn("x", "something")


# --- the loss


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (ls.Multiclass(2, class_names=("cat", "dog")), {"weight": {"dgo": 2}}, "Unknown name 'dgo' in weight. Did you mean 'dog'? Choose one of: cat, dog."),
        (ls.Multilabel(2), {"pos_weight": {"2": 3}}, "Unknown name '2' in pos_weight."),
        (ls.Multiclass(2), {"weight": {"0": -1}}, "weight must be finite and >= 0, got -1 for '0'."),
        (ls.Multiclass(2), {"weight": {0: float("nan")}}, "weight must be finite and >= 0, got nan for '0'."),
        (ls.Multiclass(3), {"weight": [1, 2]}, "weight must have one value per output, shape (3,)"),
        (ls.Multiclass(3), {"pos_weight": {"0": 2}}, "pos_weight is not supported under softmax"),
    ],
    ids=str,
)  # fmt: skip
def test_invalid_weights(task, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ls.select_loss(task, **options)


def test_weights_by_class_name():
    task = ls.Multiclass(3, class_names=("cat", "dog", "fish"))
    named = ls.select_loss(task, weight={"fish": 4, "cat": 2})
    assert named.weight.tolist() == [2, 1, 4]
    assert ls.select_loss(task, **named.to_dict()).weight.tolist() == [2, 1, 4]
    binary = ls.select_loss(ls.Binary(class_names=("ham", "spam")), pos_weight={"spam": 3})
    assert binary.pos_weight.tolist() == [3]


def test_weights_on_another_device():
    loss = ls.select_loss(ls.Multiclass(2), weight=[1, 2])
    logits = torch.zeros(1, 2, device="meta")
    message = "The loss's weight is on cpu, but the logits are on meta. Call loss.to('meta')."
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(logits, torch.zeros(1, dtype=torch.long, device="meta"))
