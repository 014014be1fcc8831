"""`lossselect export`, and the export at the end of a run.

lossselect export checkpoint=best.ckpt format=onnx
"""

import copy
import json
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossselect.cli.console import Command, run_command
from lossselect.cli.predict import MODEL, find_trained, parse_bool
from lossselect.exceptions import ConfigError, DataError
from lossselect.export.formats import FORMATS, check_is_checkpoint, find_format
from lossselect.utils.atomic_write import check_output
from lossselect.utils.checks import lookup
from lossselect.utils.redaction import record_environment
from lossselect.utils.terminal import print_safely

MAX_COMPARED = 1 << 27
"""Maximum number of features (512 MB) with which a model is compared with PyTorch."""

if TYPE_CHECKING:
    from torch import Tensor

    from lossselect.data.splits import Splits
    from lossselect.training.module import TaskModule


def export_checkpoint(
    checkpoint: str,
    format: str | None = None,
    output: str | None = None,
    input: str | None = None,
    module: str | None = None,
    raw: str = "false",
) -> None:
    """Export a checkpoint's model, and print how far its outputs differ from PyTorch's."""
    import torch

    from lossselect.data.preprocessing.preparation import Preparation
    from lossselect.run.custom_module import load_trained
    from lossselect.training.checkpoints.content import read_checkpoint

    is_raw = parse_bool("raw", raw)
    checkpoint = find_trained(checkpoint)
    check_is_checkpoint(checkpoint, "export")
    if format:
        suffix = lookup(FORMATS, format, "export format").suffix
        output = output or str(Path(checkpoint).with_suffix(suffix))
        if find_format(output) != format:
            raise ConfigError(f"output={output} must end in {suffix} for format={format}.")
    if not output:
        raise ConfigError(
            f"A format is required. Set format to one of {', '.join(FORMATS)}, or output=FILE.onnx."
        )
    path = Path(output)
    content = read_checkpoint(checkpoint)
    if content["not_plain"]:
        raise ConfigError(
            f"{checkpoint} contains only the weights of a custom net, not the net. Export it in Python: "
            "lossselect.export_model(module, path, inputs=rows)."
        )
    check_output(path)
    trained = load_trained(checkpoint, content, module)
    prepared = content.get("TensorData")
    if input is None:
        rows, description = _rows_of_run(Path(checkpoint), content)
    else:
        if not prepared or "features" not in prepared:
            raise ConfigError(
                f"{checkpoint} contains no preparation of features, as its run was not on data=table or "
                "data=arrays. Remove input."
            )
        preparation = Preparation.stored(prepared, checkpoint)
        parts, left = list[torch.Tensor](), MAX_COMPARED
        for frame in preparation.frames(input, 8192):
            part = preparation.features.transform(frame, input, 0)[0]
            parts.append(part[torch.arange(len(part))])
            if (left := left - parts[-1].numel()) <= 0:
                break
        if not any(map(len, parts)):
            raise DataError(f"{input} has no rows. Add at least one.")
        rows = torch.cat(parts)
        description = f"rows of {input}"
    _export(trained, path, prepared, rows, description, is_raw)


COMMAND = Command(
    export_checkpoint,
    "export",
    "Export the model of a checkpoint, and compare its outputs with PyTorch's.\n\n"
    "  lossselect export checkpoint=runs/first/checkpoints/best.ckpt format=onnx",
    {
        "checkpoint": ("best.ckpt", "checkpoint or run folder, of a built-in net or your own module"),
        "format": ("NAME", "onnx (.onnx), torch_export (.pt2) or safetensors (.safetensors)"),
        "output": ("FILE", "file to write, in the format of its suffix; by default next to the checkpoint"),
        "input": ("FILE", "rows for the comparison, as for predict; by default the run's test rows"),
        "raw": ("true", "the exported model takes raw numbers and scales them; by default scaled features"),
        "module": MODEL["module"],
    },
    required=("checkpoint",),
    epilog="To export the best checkpoint at the end of a run, train with export=onnx.\n"
    "To predict with the file: lossselect predict checkpoint=model.onnx input=new.csv output=out.csv",
)

main = partial(run_command, COMMAND)


def _rows_of_run(checkpoint: Path, content: Mapping[str, Any]) -> "tuple[Tensor | None, str]":
    """Return the test rows of a checkpoint's run (None if not available) and their description."""
    import torch
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from lossselect.run.build import load_data
    from lossselect.training.checkpoints.content import check_same_task

    random_rows = "rows of normally distributed features"
    settings = checkpoint.resolve().parent.parent / ".hydra" / "config.yaml"
    if not settings.is_file():
        return None, random_rows
    record_environment()
    try:
        config: Any = OmegaConf.load(settings)
        if "_target_" in config.data:
            raise DataError("the run used custom data; set input=FILE, or export in Python")
        with warnings.catch_warnings(action="ignore"):  # the run has already issued them
            splits, task, _ = load_data(config)
        check_same_task(content, task)
        stored = content.get("TensorData") or {}
        stored = {key: stored.get(key) for key in splits.preparation}
        # compared as JSON, as a checkpoint may contain lists for tuples
        if len({json.dumps(part, default=torch.Tensor.tolist) for part in (splits.preparation, stored)}) > 1:
            raise DataError("the data have changed since the run")
    except (OSError, ValueError, TypeError, OmegaConfBaseException) as error:
        return None, f"{random_rows} (the run's test rows are not available: {error})"
    return _rows_to_compare(splits)


def export_run(module: "TaskModule", data: Any, folder: Path, format: str, raw: bool) -> None:
    """Export a run's model to its folder, and compare it with PyTorch on test rows or on one batch."""
    from lossselect.data.datamodule import TensorData
    from lossselect.run.build import has_loader

    path = folder / f"model{FORMATS[format].suffix}"
    if isinstance(data, TensorData):
        _export(module, path, data.splits.preparation, *_rows_to_compare(data.splits), raw)
        return
    split = next(split for split in ("test", "val", "train") if has_loader(data, split))
    batch = next(iter(getattr(data, f"{split}_dataloader")()), None)
    inputs = None if batch is None else module.unpack_batch(batch)[0]
    _export(module, path, None, inputs, f"rows of a {split} batch", raw)


def _rows_to_compare(splits: "Splits") -> "tuple[Tensor, str]":
    split = next(name for name in ("test", "val", "train") if name in splits.rows)
    rows = splits.rows[split][: max(1, MAX_COMPARED // splits.features.shape[1])]
    return splits.features[rows], f"{split} rows"


def _check_hooks(module: Any, rows: "Tensor") -> None:
    """Raise ConfigError if hooks or the `predict_step` of a custom module change the probabilities."""
    import torch

    from lossselect.run.results.predictions import make_predictor
    from lossselect.training.classifier import Classifier
    from lossselect.training.module import TaskModule

    if type(module) in (Classifier, TaskModule):
        return
    copied = copy.deepcopy(module).cpu().eval()
    with torch.inference_mode():
        expected = copied.predict(rows.cpu())["probabilities"]
    predicted = make_predictor(copied, torch.device("cpu"))(rows.cpu())["probabilities"]
    if not torch.allclose(predicted, expected, rtol=0, atol=1e-5, equal_nan=True):
        raise ConfigError(
            f"{type(module).__name__} changes inputs or outputs in a hook, unpack_batch or predict_step, but "
            "an exported model contains only forward. Change them in forward instead."
        )


def _export(module: Any, path: Path, preparation: Any, inputs: Any, description: str, raw: bool) -> None:
    """Export a model, and print the differences from PyTorch on the inputs."""
    from lossselect.export.write import export_model

    if preparation is not None and inputs is not None:
        _check_hooks(module, inputs[:1024])
    differences = export_model(module, path, inputs=inputs, preparation=preparation, raw=raw)
    changed = round(differences["predictions"] * differences["rows"])
    print_safely(
        f"Saved {path}. Compared with PyTorch on {differences['rows']} {description}, probabilities differ "
        f"by at most {differences['probabilities']:.1g}, logits by {differences['logits']:.1g} of the "
        f"largest logit, and {changed} predictions differ"
        f"{', with a probability at its threshold' * bool(changed)}."
    )
