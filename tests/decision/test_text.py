"""Tests of lists, thresholds and the description of a decision at the command line."""

from dataclasses import replace

import pytest

import lossselect as ls
from lossselect.decision.text import change_threshold, describe_decision, find_source, split_list
from lossselect.exceptions import ConfigError, OptionTypeError

TAGS = ls.Multilabel(3, class_names=("a", "b, c", "d:e"), threshold=(0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("[]", []),
        ("a", ["a"]),
        ("a, b", ["a", "b"]),
        ("[a,b c]", ["a", "b c"]),
        ("['a, b', c]", ["a, b", "c"]),
        ('["a, b"]', ["a, b"]),
        (r"['it\'s, b','\\']", ["it's, b", "\\"]),
        ("[it's, he's]", ["it's", "he's"]),
        ("'open, b", ["'open", "b"]),
        ("['']", [""]),
        ("a,,b,", ["a", "b"]),
        ("[['x']]", ["['x']"]),
    ],
)
def test_lists(text, expected):
    assert split_list(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.4", 0.4),
        ("[0.5,0.6,0.7]", (0.5, 0.6, 0.7)),
        ("0.5,0.6,0.7", (0.5, 0.6, 0.7)),
        ("{a:0.9}", (0.9, 0.2, 0.3)),
        ("{'b, c': 0.9, d:e: 0}", (0.1, 0.9, 0.0)),
    ],
)
def test_thresholds(text, expected):
    assert change_threshold(TAGS, text) == replace(TAGS, threshold=expected)


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        (TAGS, "x", "threshold must be a number from 0 to 1, a list of numbers or {name: number}, got 'x'"),
        (TAGS, "1.5", "threshold must be a number from 0 to 1, got 1.5"),
        (TAGS, "[0.5]", "one number per output (3), got 1"),
        (TAGS, "{z:0.5}", "Unknown label 'z' in threshold."),
        (TAGS, "", "a number from 0 to 1, a list of numbers or {name: number}, got ''"),
        (TAGS, "[]", "a number from 0 to 1, a list of numbers or {name: number}, got '[]'"),
        (TAGS, "{}", "a number from 0 to 1, a list of numbers or {name: number}, got '{}'"),
        (TAGS, "{a}", "a number from 0 to 1, a list of numbers or {name: number}, got 'a'"),
        (ls.Multiclass(3), "0.5", "the model predicts the most probable class, without a threshold"),
        (ls.Multilabel(3, top_k=2), "0.5", "the 2 most probable labels"),
    ],
)
def test_other_texts(task, text, message):
    with pytest.raises((ConfigError, OptionTypeError)) as caught:
        change_threshold(task, text)
    assert message in str(caught.value)


def test_descriptions():
    assert describe_decision(TAGS, "default") == "Thresholds (default): a: 0.1, b, c: 0.2, d:e: 0.3."
    binary = ls.Binary(class_names=("ham", "spam"), threshold=0.25)
    assert describe_decision(binary, "x") == "Threshold (x): spam: 0.25."
    many = describe_decision(ls.Multilabel(50), "x")
    assert many.endswith("5: 0.5, ... (50 in all).")
    factors = ls.Multiclass(2, prior_correction=(1, 2))
    assert describe_decision(factors, "x") == (
        "Decision (x): the most probable class, with probabilities multiplied by 1, 2."
    )


@pytest.mark.parametrize(
    ("task", "base", "source"),
    [
        (ls.Binary(), None, "default"),
        (ls.Binary(temperature=2), ls.Binary(), "default"),
        (ls.Binary(threshold=0.4), ls.Binary(), "tuned on the validation rows"),
        (ls.Binary(threshold=0.4), None, "set by the run"),
        (ls.Binary(threshold=0.4, temperature=2), ls.Binary(threshold=0.4), "set by the run"),
        (ls.Multiclass(2), None, "default"),
        (ls.Multiclass(2, prior_correction=(1, 2)), ls.Multiclass(2), "tuned on the validation rows"),
    ],
)
def test_sources(task, base, source):
    assert find_source(task, base) == source
