"""Tests of the loss that loss=auto chooses; every rule is chosen once."""

import math

import pytest
import torch

import lossselect as ls
from lossselect.losses.auto import RULES

CASES = {
    "soft labels": (ls.Multiclass(2), torch.tensor([[0.9, 0.1]] * 20 + [[0.2, 0.8]])),
    "long-tailed classes": (ls.Multiclass(3), [0] * 100 + [1] * 20 + [2] * 10),
    "labels": (ls.Multilabel(2), [[1, 0]] * 99 + [[0, 1]]),
    "classes": (ls.Multiclass(3), [0] * 99 + [1] * 20 + [2] * 10),
}


def test_each_rule_has_a_case():
    assert set(CASES) == {rule.name for rule in RULES}


@pytest.mark.parametrize("name", CASES)
def test_the_first_rule_that_applies_is_chosen(name):
    task, labels = CASES[name]
    counts = ls.count_labels(task, labels)
    rule = next(rule for rule in RULES if rule.name == name)
    options, reasons = ls.suggest_loss(task, counts)
    assert options == {"name": rule.loss}
    assert reasons == [rule.reason.format(imbalance=counts.imbalance)]
    assert ls.select_loss(task, counts=counts, **options)


def test_reasons_contain_the_numbers():
    _, reasons = ls.suggest_loss(ls.Multiclass(2), ls.count_labels(ls.Multiclass(2), [0] * 50 + [1]))
    assert "The largest class has 50 times the rows" in reasons[0]
    _, reasons = ls.suggest_loss(ls.Binary(), ls.count_labels(ls.Binary(), [0, 1, math.nan, math.nan]))
    assert "Missing labels (0.5 of all)" in reasons[1]
    pixels = torch.tensor([[[[0, 1, 1, math.nan]]]])
    _, reasons = ls.suggest_loss(ls.Binary(), ls.count_labels(ls.Binary(), pixels))
    assert "Missing labels (0.25 of all)" in reasons[1]


def test_ordered_classes_keep_cross_entropy():
    task = ls.Multiclass(3, ordinal=True)
    assert ls.suggest_loss(task, ls.count_labels(task, CASES["long-tailed classes"][1]))[0] == {
        "name": "cross_entropy"
    }


def test_changed_options_do_not_change_the_table():
    task, labels = CASES["classes"]
    ls.suggest_loss(task, ls.count_labels(task, labels))[0]["gamma"] = 3
    assert "gamma" not in ls.suggest_loss(task, ls.count_labels(task, labels))[0]


def test_auto_is_not_supported_by_select_loss():
    with pytest.raises(ValueError, match=r"select_loss\(task, counts=counts, \*\*suggest_loss"):
        ls.select_loss(ls.Binary(), "auto")
