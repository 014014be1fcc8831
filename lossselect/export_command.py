"""`lossselect export`, and the export of a run.

lossselect export checkpoint=best.ckpt output=model.onnx
"""

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .console import run_command, settings_of
from .export import export_model
from .formats import FORMATS

if TYPE_CHECKING:
    from .module import TaskModule

USAGE = """\
Write the model of a checkpoint to a file that serves elsewhere, and compare the two.

  lossselect export checkpoint=runs/first/checkpoints/best.ckpt output=model.onnx

  checkpoint=FILE    of a run with a net of ours
  output=FILE        .onnx, .pt2 (torch.export) or .safetensors
  format=NAME        onnx, torch_export or safetensors, where the suffix does not tell
  input=FILE         rows to compare on, as predict takes them; without, normally distributed features

A run exports its own best checkpoint with export=onnx, and compares on its test rows.
The file works with `lossselect predict checkpoint=model.onnx input=new.csv output=out.csv`.
"""


def main() -> None:
    """The command. A user's mistake is one message on stderr and exit code 1, without a traceback."""
    run_command(USAGE, _run)


def _run(arguments: list[str]) -> None:
    known = signature(export_checkpoint).parameters
    needed = {"checkpoint": "best.ckpt", "output": "model.onnx"}
    export_checkpoint(**settings_of(arguments, known, "lossselect export", needed))


def export_checkpoint(
    checkpoint: str, output: str, format: str | None = None, input: str | None = None
) -> None:
    """Export a checkpoint's model, and print how close it is."""
    from .checkpoint import read_checkpoint
    from .data.preparation import Preparation
    from .module import TaskModule

    content = read_checkpoint(checkpoint)
    if content["class"] != "TaskModule" or content["not_plain"]:
        raise ValueError(
            f"{checkpoint} is of a net of your own, which no checkpoint holds. In Python: "
            "lossselect.export_model(module, path, inputs=rows)."
        )
    _check_output(Path(output))
    module = TaskModule.load_from_checkpoint(checkpoint)
    prepared = content.get("TensorData")
    rows = None
    if input is not None:
        if not prepared or "features" not in prepared:
            raise ValueError(
                f"{checkpoint} does not say how to make inputs of a file (it is not of data=table or "
                "data=arrays): leave input out."
            )
        preparation = Preparation.from_dict(prepared)
        parts = [
            preparation.features.transform(frame, input, 0)[0] for frame in preparation.frames(input, 8192)
        ]
        rows = torch.cat([part[torch.arange(len(part))] for part in parts])
    print_differences(output, export_model(module, output, format, inputs=rows, preparation=prepared))


def export_run(module: "TaskModule", data: Any, folder: Path, format: str) -> None:
    """Export a run's model into its folder, and print how close it is on test rows, or on one batch."""
    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.utilities.model_helpers import is_overridden

    from .data.module import TensorData

    preparation = None
    if isinstance(data, TensorData):
        split = next(data.splits.rows[name] for name in ("test", "val", "train") if name in data.splits.rows)
        inputs: Any = data.splits.features[split]
        preparation = data.splits.preparation
    else:
        loaders = [f"{split}_dataloader" for split in ("test", "val", "train")]
        own = next(name for name in loaders if is_overridden(name, data, LightningDataModule))
        batch = next(iter(getattr(data, own)()), None)
        inputs = batch[0] if isinstance(batch, list | tuple) and batch else batch
    path = folder / f"model{FORMATS[format]}"
    print_differences(path, export_model(module, path, inputs=inputs, preparation=preparation))


def print_differences(path: Any, found: Mapping[str, float]) -> None:
    """What was written, and how close it is."""
    other = round(found["decisions"] * found["rows"])
    print(
        f"{path}: {found['rows']} rows compared with PyTorch: probabilities differ by "
        f"{found['probabilities']:.1g} at most, logits by {found['logits']:.1g} of themselves, and {other} "
        "decisions."
    )


def _check_output(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} for output={path}.")
    if path.is_dir():
        raise ValueError(f"output={path} is a folder.")
