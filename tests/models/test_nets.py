import inspect
from importlib.resources import files

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import lossselect as ls
from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.models.auto import check_spec
from lossselect.models.ensemble import Members
from lossselect.models.nets import MEMBER_NETS, NETS, make_net
from lossselect.utils.checks import first_line


@pytest.mark.parametrize("name", ["mlp", "linear", "tabm"])
def test_defaults_equal_those_of_the_command_line(name):
    config = OmegaConf.create((files("lossselect.configs") / f"model/{name}.yaml").read_text())
    options = inspect.signature(NETS[name]).parameters.items()
    defaults = {option: p.default for option, p in options if p.default is not p.empty}
    defaults = {key: [*value] if isinstance(value, tuple) else value for key, value in defaults.items()}
    for derived in ("columns", "features"):
        defaults.pop(derived, None)
    assert OmegaConf.to_container(config) == {"name": name, **defaults}


@pytest.mark.parametrize("name", ["mlp", "linear", "tabm"])
@pytest.mark.parametrize("encoding", ["none", "ple", "periodic"])
@pytest.mark.parametrize("columns", [None, [0, 2]])
def test_every_net_supports_every_encoding(name, encoding, columns):
    options = {"encoding": encoding, "columns": columns}
    net = make_net({"name": name, "num_features": 3, **options}, ls.Multiclass(4)).eval()
    assert net(torch.randn(5, 3)).shape == (5, 4)


def test_an_encoding_adds_its_outputs_to_the_features():
    net = make_net({"name": "linear", "num_features": 3, "encoding": "ple", "columns": [1]}, ls.Multiclass(2))
    (head,) = (layer for layer in net.modules() if isinstance(layer, nn.Linear))
    assert head.in_features == 3 + 12 + 1  # and a constant


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "tabm", "encoding": "fourier"}, "Unknown encoding 'fourier'. Choose one of: none, ple"),
        ({"name": "tabm", "scaling": "max"}, "Unknown scaling 'max'"),
        ({"name": "tabm", "num_members": 0}, "num_members must be an integer >= 1, got 0"),
        ({"name": "tabm", "hidden": "64"}, "hidden must be a list of widths"),
        ({"name": "mlp", "encoding": "ple", "columns": [3]}, r"columns\[0\] must be an integer from 0 to 2"),
        ({"name": "mlp", "encoding": "ple", "columns": [1, 1]}, "columns must be different indices"),
        ({"name": "mlp", "encoding": "ple", "columns": "all"}, "columns must be a list of indices"),
        ({"name": "ensemble", "nets": ["mlp"]}, "nets must be a mapping"),
        (
            {"name": "ensemble", "nets": {"a": {"name": "ensemble", "nets": {}}}},
            "nets.a must be a mapping whose name is one of mlp, linear, tabm, got",
        ),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises((ConfigError, OptionTypeError), match=message):
        make_net({"num_features": 3, **options}, ls.Multiclass(2))


@pytest.mark.parametrize("name", NETS)
def test_nets_with_members_are_known_by_name(name):
    options = {"nets": {"a": {"name": "mlp"}}} if name in ("ensemble", "average") else {}
    net = make_net({"name": name, "num_features": 3, **options}, ls.Binary())
    assert isinstance(net, Members) is (name in MEMBER_NETS)


def test_options_of_auto():
    check_spec({"name": "auto", "nets": ["mlp", "tabm"]})
    with pytest.raises(ConfigError, match=r"Net 'auto' has no option 'hidden'.*such as mlp"):
        check_spec({"name": "auto", "hidden": [64]})
    with pytest.raises(ConfigError, match="Unknown net 'forest' in nets"):
        check_spec({"name": "auto", "nets": ["forest"]})
    with pytest.raises(OptionTypeError, match=r"nets must be a list of mlp, mlp_deep, .* or null, got 'mlp'"):
        check_spec({"name": "auto", "nets": "mlp"})


@pytest.mark.parametrize(
    ("message", "line"), [("A. B.\nstack", "A. B"), ("no full stop", "no full stop"), ("", "RuntimeError")]
)
def test_the_first_line_of_an_error_can_be_continued(message, line):
    assert first_line(RuntimeError(message)) == line
