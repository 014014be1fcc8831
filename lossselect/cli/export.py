"""`lossselect export`, and the export of a run.

lossselect export checkpoint=best.ckpt format=onnx
"""

import warnings
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lossselect.cli.console import parse_settings, run_command
from lossselect.exceptions import ConfigError, DataError, FileMissingError
from lossselect.export.formats import FORMATS, find_format
from lossselect.export.write import export_model
from lossselect.utils.atomic_write import check_regular_file
from lossselect.utils.checks import lookup
from lossselect.utils.redaction import record_environment
from lossselect.utils.terminal import print_safely

if TYPE_CHECKING:
    from lossselect.data.splits import Splits
    from lossselect.training.module import TaskModule

USAGE = """\
Write the model of a checkpoint to a file that serves elsewhere, and compare the two.

  lossselect export checkpoint=runs/first/checkpoints/best.ckpt format=onnx

  checkpoint=FILE    of a run with a net of ours
  format=NAME        onnx (.onnx), torch_export (.pt2) or safetensors (.safetensors)
  output=FILE        with one of these suffixes, which tells the format; without, it is beside the checkpoint
  input=FILE         rows to compare on, as predict takes them; without, the test rows of the checkpoint's run

A run exports its own best checkpoint with export=onnx, and compares on its test rows.
The file works with `lossselect predict checkpoint=model.onnx input=new.csv output=out.csv`.
"""


def main() -> None:
    """The command. A user's mistake is one message on stderr and exit code 1, without a traceback."""
    run_command(USAGE, _run)


def _run(arguments: list[str]) -> None:
    known = signature(export_checkpoint).parameters
    needed = {"checkpoint": "best.ckpt"}
    export_checkpoint(**parse_settings(arguments, known, "lossselect export", needed))


def export_checkpoint(
    checkpoint: str, format: str | None = None, output: str | None = None, input: str | None = None
) -> None:
    """Export a checkpoint's model, and print how close it is."""
    if not (format or output):
        raise ConfigError(f"Say format=..., one of {', '.join(FORMATS)}, or output=model.onnx.")
    if format is not None:
        lookup(FORMATS, format, "format")
        output = output or str(Path(checkpoint).with_suffix(FORMATS[format].suffix))
        if find_format(output) != format:
            raise ConfigError(f"output={output} must end in {FORMATS[format].suffix} for format={format}.")
    path = Path(str(output))
    from lossselect.data.preprocessing.preparation import Preparation
    from lossselect.training.checkpoints.content import read_checkpoint
    from lossselect.training.checkpoints.validation import check_loadable
    from lossselect.training.classifier import Classifier

    content = read_checkpoint(checkpoint)
    check_loadable(content, checkpoint)
    if content["class"] != "TaskModule" or content["not_plain"]:
        raise ConfigError(
            f"{checkpoint} is of a net of your own, which no checkpoint holds. In Python: "
            "lossselect.export_model(module, path, inputs=rows)."
        )
    _check_output(path)
    module = Classifier.load(checkpoint)
    prepared = content.get("TensorData")
    if input is None:
        rows, which = _rows_of_run(Path(checkpoint), content)
    else:
        if not prepared or "features" not in prepared:
            raise ConfigError(
                f"{checkpoint} does not say how to make inputs of a file (it is not of data=table or "
                "data=arrays): leave input out."
            )
        preparation = Preparation.stored(prepared, checkpoint)
        parts = [
            preparation.features.transform(frame, input, 0)[0] for frame in preparation.frames(input, 8192)
        ]
        if not any(map(len, parts)):
            raise DataError(f"{input} has no rows.")
        rows, which = torch.cat([part[torch.arange(len(part))] for part in parts]), f"rows of {input}"
    _print_differences(path, export_model(module, path, inputs=rows, preparation=prepared), which)


def _rows_of_run(checkpoint: Path, content: Mapping[str, Any]) -> tuple[torch.Tensor | None, str]:
    """Test rows of a checkpoint's run, and what to call them; None where they are not at hand."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from lossselect.run.build import load_data
    from lossselect.training.checkpoints.content import check_same_task

    made_up = "rows of normally distributed features"
    settings = checkpoint.resolve().parent.parent / ".hydra" / "config.yaml"
    if not settings.is_file():
        return None, made_up
    record_environment()
    try:
        config: Any = OmegaConf.load(settings)
        if "_target_" in config.data:
            return None, f"{made_up} (the run's data are your own: input=FILE, or in Python)"
        with warnings.catch_warnings(action="ignore"):  # the run has said them
            own = load_data(config)
        check_same_task(content, own.task)
        seen = content.get("TensorData") or {}
        if not _are_same(own.splits.preparation, {key: seen.get(key) for key in own.splits.preparation}):
            raise DataError("its data are others now")
    except (OSError, ValueError, TypeError, OmegaConfBaseException) as error:
        return None, f"{made_up} (the run's test rows are not at hand: {error})"
    split, rows = _rows_of(own.splits)
    return rows, f"{split} rows"


def _are_same(one: Any, other: Any) -> bool:
    """Whether what a checkpoint keeps of its data is what is made of them now."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_are_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_are_same, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return bool(one == other)


def export_run(module: "TaskModule", data: Any, folder: Path, format: str) -> None:
    """Export a run's model into its folder, and print how close it is on test rows, or on one batch."""
    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.utilities.model_helpers import is_overridden

    from lossselect.data.datamodule import TensorData

    inputs: Any
    preparation = None
    if isinstance(data, TensorData):
        split, inputs = _rows_of(data.splits)
        which, preparation = f"{split} rows", data.splits.preparation
    else:
        loaders = [f"{split}_dataloader" for split in ("test", "val", "train")]
        own = next(name for name in loaders if is_overridden(name, data, LightningDataModule))
        batch = next(iter(getattr(data, own)()), None)
        inputs = None if batch is None else module.unpack_batch(batch)[0]
        which = f"rows of a {own.removesuffix('_dataloader')} batch"
    path = folder / f"model{FORMATS[format].suffix}"
    _print_differences(path, export_model(module, path, inputs=inputs, preparation=preparation), which)


def _rows_of(splits: "Splits") -> tuple[str, torch.Tensor]:
    """The split to compare on, and its features."""
    split = next(name for name in ("test", "val", "train") if name in splits.rows)
    return split, splits.features[splits.rows[split]]


def _print_differences(path: Path, found: Mapping[str, float], which: str) -> None:
    """What was written, and how close it is."""
    other = round(found["predictions"] * found["rows"])
    print_safely(
        f"{path}: {found['rows']} {which} compared with PyTorch: probabilities differ by "
        f"{found['probabilities']:.1g} at most, logits by {found['logits']:.1g} of the largest, and {other} "
        f"predictions{', where a probability is at its threshold' * bool(other)}."
    )


def _check_output(path: Path) -> None:
    check_regular_file(path, "Name a file.")
    if not path.parent.is_dir():
        raise FileMissingError(f"There is no folder {path.parent} for output={path}.")
    if path.is_dir():
        raise ConfigError(f"output={path} is a folder.")
