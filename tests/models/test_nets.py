import inspect
from importlib.resources import files

import pytest
from omegaconf import OmegaConf

from lossselect.models.nets import NETS
from lossselect.utils.checks import first_line


@pytest.mark.parametrize("name", NETS)
def test_defaults_equal_those_of_the_command_line(name):
    config = OmegaConf.create((files("lossselect.configs") / f"model/{name}.yaml").read_text())
    options = inspect.signature(NETS[name]).parameters.items()
    defaults = {option: p.default for option, p in options if p.default is not p.empty}
    defaults = {key: [*value] if isinstance(value, tuple) else value for key, value in defaults.items()}
    assert OmegaConf.to_container(config) == {"name": name, **defaults}


@pytest.mark.parametrize(
    ("message", "line"), [("A. B.\nstack", "A. B"), ("no full stop", "no full stop"), ("", "RuntimeError")]
)
def test_the_first_line_of_an_error_can_be_continued(message, line):
    assert first_line(RuntimeError(message)) == line
