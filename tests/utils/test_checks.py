"""Messages for names and values that are not among the known ones."""

import pytest

from lossselect.exceptions import ConfigError
from lossselect.utils.checks import check_choice, lookup


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            lambda: lookup({"cat": 1, "dog": 2}, "dgo", "label", " in threshold"),
            "Unknown label 'dgo' in threshold. Did you mean 'dog'? Choose one of: cat, dog.",
        ),
        (lambda: lookup({"cat": 1}, 7, "label"), "Unknown label 7. Choose one of: cat."),
        (
            lambda: check_choice("data.nan", "erro", ("error", "missing")),
            "data.nan='erro' is not valid. Did you mean 'error'? Choose one of: error, missing.",
        ),
        (
            lambda: check_choice("decision.metric", None, iter(["f1", "f2"]), " for task=binary"),
            "decision.metric=None is not valid for task=binary. Choose one of: f1, f2.",
        ),
    ],
)
def test_message_names_what_is_unknown_and_lists_what_is_known(check, message):
    with pytest.raises(ConfigError) as error:
        check()
    assert str(error.value) == message


def test_known_names_are_found():
    assert lookup({"cat": 1, "dog": 2}, "dog", "label") == 2
    check_choice("data.nan", "missing", ("error", "missing"))
