"""The forms that a model is exported in. Needs no torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lossselect.exceptions import PackageMissingError
from lossselect.utils.imports import is_installed


class Format(NamedTuple):
    """A form, and what one needs for it."""

    suffix: str
    to_write: tuple[str, ...] = ()
    """Packages; what is written is read again, to compare."""
    to_read: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), ("onnxruntime",)),
    "torch_export": Format(".pt2"),
    "safetensors": Format(".safetensors", ("safetensors",), ("safetensors",)),
}


def find_format(path: str | Path) -> str | None:
    """The format that a file's suffix tells, if it does."""
    suffix = Path(path).suffix.lower()
    return next((name for name, form in FORMATS.items() if form.suffix == suffix), None)


def suffixes() -> str:
    """Those that there are, for messages."""
    return ", ".join(form.suffix for form in FORMATS.values())


def require(form: str, packages: Iterable[str]) -> None:
    """ModuleNotFoundError where a package that a format needs is not installed."""
    lacking = [name for name in packages if not is_installed(name)]
    if lacking:
        raise PackageMissingError(
            f"format={form} needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not "
            f"installed: pip install 'lossselect[export]'."
        )
