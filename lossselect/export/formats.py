"""The formats of exported models. Needs no torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lossselect.exceptions import ConfigError, PackageMissingError
from lossselect.utils.checks import is_installed


class Format(NamedTuple):
    """The suffix of a format, and the packages that it needs."""

    suffix: str
    to_write: tuple[str, ...] = ()
    """To read, too: a written file is read again, to compare."""
    to_read: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), ("onnxruntime",)),
    "torch_export": Format(".pt2"),
    "safetensors": Format(".safetensors", ("safetensors",), ("safetensors",)),
}
SUFFIXES = ", ".join(form.suffix for form in FORMATS.values())


def find_format(path: str | Path) -> str | None:
    """Return the format with the suffix of a file, if there is one."""
    suffix = Path(path).suffix.lower()
    return next((name for name, form in FORMATS.items() if form.suffix == suffix), None)


def require(form: str, packages: Iterable[str]) -> None:
    """Raise a ModuleNotFoundError if a package that a format needs is not installed."""
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        raise PackageMissingError(
            f"format={form} needs packages that are not installed ({', '.join(missing)}): pip install "
            "'lossselect[export]'."
        )


def check_weights_suffice(form: str, is_named_net: bool) -> None:
    """Raise ConfigError for a format without the net itself, unless the net can be built by its name."""
    if form == "safetensors" and not is_named_net:
        raise ConfigError(
            "format=safetensors stores weights alone, from which only a named net such as mlp can be "
            "rebuilt. Set format=onnx or torch_export, which store the net as well."
        )
