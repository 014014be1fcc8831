"""The forms that a model is exported in. Needs no torch."""

from importlib.util import find_spec

FORMATS = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
"""And the suffix that each takes."""

NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",), "torch_export": ()}
"""The packages that write each, the last of which reads it."""


def needed(form: str, running: bool = False) -> None:
    """ModuleNotFoundError where a package that a format needs is not installed."""
    names = NEEDS[form][-1:] if running else NEEDS[form]
    lacking = [name for name in names if find_spec(name) is None]
    if lacking:
        raise ModuleNotFoundError(
            f"format={form} needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not "
            f"installed: pip install 'lossselect[export]'."
        )
