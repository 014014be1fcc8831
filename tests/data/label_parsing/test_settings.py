"""Tests of the settings of labels that a checkpoint stores to read other files."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from table_cases import labels_of

from lossselect.data.label_parsing.options import LabelOptions
from lossselect.data.label_parsing.settings import LabelSettings
from lossselect.exceptions import CheckpointError, ConfigError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.registry import make_task

MARKERS = (float("nan"), "?", -1)


def settings_of(column, task, target=("y",), **options):
    fitted = labels_of(column, task, **options)
    return LabelSettings(
        target, len(target) > 1, None, LabelOptions(task, **options, fitted=fitted)
    ), make_task(task, class_names=fitted.class_names)


CASES = {
    "single": (["b", "a", None, "b"], "multiclass", {"missing": MARKERS, "handle_unknown": "ignore"}),
    "soft": ([0.1, 0.7, 1.0], "binary", {}),
    "positive": ([1, 2, 2], "binary", {"positive": 1}),
    "lists": (["a|b", "", "c"], "multilabel", {"delimiter": "|", "empty": "negative", "no_label": ("none",)}),
}


@pytest.mark.filterwarnings("ignore:No row of column")
@pytest.mark.parametrize("case", CASES)
def test_stored_settings_read_the_same_labels(case):
    column, task_name, options = CASES[case]
    settings, task = settings_of(column, task_name, **options)
    stored = LabelSettings.stored(settings.to_dict(), task, "x.ckpt")
    assert replace(stored, options=None) == replace(settings, options=None)
    for name, value in vars(settings.options).items():
        if name != "fitted":
            assert getattr(stored.options, name) == value or name == "missing"
    assert str(stored.options.missing) == str(settings.options.missing)
    assert stored.options.fitted.vocabulary == settings.options.fitted.vocabulary
    again = labels_of(column, task_name, stored.options.fitted, **options).values
    expected = settings.options.fitted.values
    if isinstance(expected, SparseLabels):
        assert isinstance(stored.options.fitted.values, SparseLabels)
        again, expected = again.to_dense().numpy(), expected.to_dense().numpy()
    np.testing.assert_array_equal(again, expected)


def test_the_missing_value_of_the_task_is_a_marker():
    settings, task = settings_of(["0", "1", "1"], "binary")
    stored = LabelSettings.stored(settings.to_dict(), replace(task, missing=-1.0), "x.ckpt")
    assert stored.options.missing == (-1.0,)


def places(value, place=()):
    for key, inner in value.items():
        yield (*place, key)
        if isinstance(inner, dict):
            yield from places(inner, (*place, key))


OTHERS = [None, 7, "x", [3], {}, ["a", "a", "b"], object]
"""Values of other types; object stands for a missing key."""
VALID = {
    "target": lambda value: value == ["a", "a", "b"],
    "missing": lambda value: value in ([3], ["a", "a", "b"]),
    "no_label": lambda value: value in ([3], ["a", "a", "b"]),
    "positive": lambda value: value in (None, 7, "x"),
    "notation": lambda value: value == "x",
    "class_names": lambda value: value == ["a", "a", "b"],
}


@pytest.mark.parametrize("case", ["single", "lists"])
@pytest.mark.filterwarnings("ignore:No row of column")
def test_damaged_settings(case):
    """Each key is deleted, and replaced by values of other types."""
    column, task_name, options = CASES[case]
    settings, task = settings_of(column, task_name, **options)
    values = settings.to_dict()
    accepted, messages = [], []
    for place in places(values):
        for other in OTHERS:
            damaged = copy.deepcopy(values)
            inner = damaged
            for key in place[:-1]:
                inner = inner[key]
            if other is object:
                del inner[place[-1]]
            else:
                inner[place[-1]] = other
            try:
                LabelSettings.stored(damaged, task, "x.ckpt")
                accepted.append((place[-1], other))
            except CheckpointError as error:
                messages.append(str(error))
    assert all(message.startswith("x.ckpt is damaged: ") for message in messages)
    optional = (
        "delimiter",
        "empty",
        "uncertain",
        "annotators",
        "hierarchy",
        "id",
        "sample_weight",
        "vocabulary",
    )
    wrong = [
        (key, value)
        for key, value in accepted
        if not VALID.get(key, lambda value: False)(value)
        and not (key in optional and value in (None, "x"))
        and not (key == "class_names" and value is None)
    ]
    assert not wrong


def test_target_columns_of_other_names():
    settings = LabelSettings(("a", "b"), True, None, LabelOptions("multilabel"))
    assert settings.rename(("c", "b")) == ("c", "b")
    with pytest.raises(ConfigError, match="target names 'b' in the place of 'a'"):
        settings.rename(("b", "a"))
    with pytest.raises(ConfigError, match="target must name 2 columns"):
        settings.rename(("a",))
