"""The formats of exported models. Does not import torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lossselect.exceptions import ConfigError, PackageMissingError
from lossselect.utils.checks import is_installed


class Format(NamedTuple):
    """The suffix of a format, and the packages that it requires."""

    suffix: str
    to_write: tuple[str, ...] = ()
    """Includes the packages for reading: each written file is read again and compared."""
    to_read: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), ("onnxruntime",)),
    "torch_export": Format(".pt2"),
    "safetensors": Format(".safetensors", ("safetensors",), ("safetensors",)),
}
SUFFIXES = ", ".join(form.suffix for form in FORMATS.values())


def find_format(path: str | Path) -> str | None:
    """Return the format with the suffix of a file, or None."""
    suffix = Path(path).suffix.lower()
    return next((name for name, form in FORMATS.items() if form.suffix == suffix), None)


def check_is_checkpoint(path: str, command: str) -> None:
    """Raise ConfigError for an exported model, which `lossselect COMMAND` cannot read."""
    if find_format(path):
        raise ConfigError(
            f"lossselect {command} requires a checkpoint (.ckpt) or a run folder, got the exported model "
            f"{path}. To predict with it: lossselect predict checkpoint={path} input=new.csv output=out.csv."
        )


def require(form: str, packages: Iterable[str]) -> None:
    """Raise PackageMissingError if a package that a format requires is not installed."""
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        raise PackageMissingError(
            f"format={form} requires packages that are not installed: {', '.join(missing)}. Run pip install "
            "'lossselect[export]'."
        )


def check_weights_suffice(form: str, is_named_net: bool, raw: bool = False) -> None:
    """Raise ConfigError if a format stores only weights, and they are not the whole model.

    They are for a built-in net (`is_named_net`) that does not scale its input (`raw`).
    """
    if form == "safetensors" and raw:
        raise ConfigError(
            "format=safetensors stores only the weights of the net, not the scaling of raw numbers. Set "
            "format=onnx or format=torch_export."
        )
    if form == "safetensors" and not is_named_net:
        raise ConfigError(
            "format=safetensors stores only weights, from which only a built-in net such as mlp can be "
            "rebuilt. Set format=onnx or format=torch_export, which store the net as well."
        )
