"""Arguments of predict, export and report, KEY=VALUE and --KEY VALUE, and options of nets in `train`."""

import pytest

from lossselect.cli.arguments import choose_net
from lossselect.cli.console import Command, parse_arguments
from lossselect.cli.predict import COMMAND
from lossselect.exceptions import ConfigError

ARGUMENTS = {"checkpoint": "a.ckpt", "input": "b=c.csv", "output": "o.csv"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["checkpoint=a.ckpt", "input=b=c.csv", "output=o.csv"],
        ["--checkpoint=a.ckpt", "--input=b=c.csv", "--output=o.csv"],
        ["--checkpoint", "a.ckpt", "--input", "b=c.csv", "--output", "o.csv"],
        ["output=x.csv", "checkpoint=a.ckpt", "--input", "b=c.csv", "output=o.csv"],
    ],
    ids=" ".join,
)
def test_both_forms_are_equivalent(arguments):
    assert parse_arguments(COMMAND, arguments) == ARGUMENTS


@pytest.mark.parametrize("value", ["", "-", "--", "--x", "a b", "[a,b]", "a=b", "'", ";", "%s"])
def test_a_value_is_not_changed(value):
    assert parse_arguments(COMMAND, [*(f"{k}={v}" for k, v in ARGUMENTS.items()), f"keep={value}"]) == {
        **ARGUMENTS,
        "keep": value,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chekpoint", "a"], "lossselect predict has no option 'chekpoint'. Did you mean 'checkpoint'?"),
        (["--chekpoint=a"], "lossselect predict has no option 'chekpoint'. Did you mean 'checkpoint'?"),
        (["check=a"], "lossselect predict has no option 'check'. Did you mean 'checkpoint'?"),
        (["--check=a"], "lossselect predict has no option 'check'. Did you mean 'checkpoint'?"),
        (["input"], "'input' is not a setting. Settings are written KEY=VALUE: checkpoint=best.ckpt input="),
        (["x", "chekpoint=a"], "'x' is not a setting."),
        (["--", "input=a"], "is not a setting."),
        (["--input"], "--input requires a value."),
        (
            ["checkpoint=", "input=a"],
            "checkpoint is required. For example: checkpoint=best.ckpt input=new.csv",
        ),
    ],
    ids=str,
)
def test_mistakes(arguments, message):
    with pytest.raises(ConfigError) as raised:
        parse_arguments(COMMAND, arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_name_that_is_part_of_another():
    command = Command(print, "x", "", {"a": ("A", "a"), "ab": ("B", "b")}, ())
    assert parse_arguments(command, ["ab=1", "a=2"]) == {"ab": "1", "a": "2"}


@pytest.mark.parametrize(
    ("settings", "added"),
    [
        (["task=binary", "model.hidden=[16]"], ["model=mlp"]),
        (["model.hidden=[16],[32]", "model.clip=null"], ["model=mlp"]),
        (["model.num_members=4"], ["model=tabm"]),
        (["model=tabm", "model.hidden=[16]"], []),
        (["model.nets=[mlp]"], []),
        (["model._target_=my.Net", "+model.hidden=3"], []),
        (["experiment=own", "model.hidden=[16]"], []),
        (["model.misspelt=3"], []),
        (["task=binary"], []),
    ],
    ids=str,
)
def test_an_option_of_a_net_chooses_the_net(settings, added):
    assert choose_net(settings) == [*settings, *added]
