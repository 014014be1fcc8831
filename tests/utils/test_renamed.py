"""Errors about names from before the first release suggest the new names."""

import pytest

import lossselect as ls
from lossselect.data.label_parsing.options import LabelOptions
from lossselect.run.validation import SETTINGS
from lossselect.utils.checks import RENAMED, suggestion
from lossselect.utils.warnings import WARNINGS

TASKS = (ls.Binary(), ls.Multiclass(3, ordinal=True), ls.Multilabel(3))


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_the_new_name_exists_and_the_old_one_does_not(old, new):
    metrics = {name for task in TASKS for name in task.metric_names}
    fields = {name for task in TASKS for name in task.to_dict()} | set(LabelOptions.__dataclass_fields__)
    names = {*SETTINGS, *WARNINGS, *metrics, *fields, "last"}
    assert new in names
    assert old not in names


@pytest.mark.parametrize(
    ("old", "names", "expected"),
    [
        ("val/map", ["val/loss", "val/average_precision"], " It was renamed to 'val/average_precision'."),
        ("data.unseen", ["data.handle_unknown"], " It was renamed to 'data.handle_unknown'."),
        ("map", ["mean_absolute_error", "mape"], " Did you mean 'mape'?"),
    ],
)
def test_an_old_name_suggests_the_new_one(old, names, expected):
    assert suggestion(old, names) == expected


def test_the_command_line_suggests_the_new_name(command):
    for old, new in (("head_bias=zero", "bias_init"), ("monitor=val/map", "val/average_precision")):
        code, _, err = command("task=multilabel", old)
        assert code == 1
        assert f"It was renamed to {new!r}." in err
