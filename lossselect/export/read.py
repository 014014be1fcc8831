"""Exported models, read and run without Lightning."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lossselect.chunked.options import TOP_K
from lossselect.exceptions import CheckpointError, FileMissingError
from lossselect.export.digest import NAME, is_sealed
from lossselect.export.formats import FORMATS, find_format, require, suffixes
from lossselect.models.stored_weights import check_finite, check_net
from lossselect.tasks.registry import IGNORE_INDEX, Task, make_task
from lossselect.utils.atomic_write import check_regular_file
from lossselect.utils.silence import silence

if TYPE_CHECKING:
    from lossselect.data.preprocessing.preparation import Preparation

KEY = "lossselect"
"""Of the metadata."""


class Prediction(NamedTuple):
    """What a model returns for some rows."""

    logits: Tensor
    probabilities: Tensor
    predictions: Tensor


class Outputs(nn.Module):
    """A net with what its task makes of the logits.

    Args:
        net: Returns raw logits.
        task: With its thresholds and temperature.
    """

    def __init__(self, net: nn.Module, task: Task) -> None:
        super().__init__()
        self.net, self.task = net, task

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, probabilities and predictions."""
        logits = self.net(features)
        return logits, self.task.probabilities(logits), self.task.predict(logits)


@dataclass(frozen=True)
class ExportedModel:
    """An exported model: called with features it returns a `Prediction`."""

    path: Path
    metadata: dict[str, Any]
    """Its metadata."""
    task: Task
    run: Callable[[Tensor], Any]
    """Takes features, and returns logits, probabilities and predictions."""

    @property
    def preparation(self) -> "Preparation | None":
        """How its features are made of a file's rows, if it is told."""
        from lossselect.data.preprocessing.preparation import Preparation

        values = self.metadata.get("preparation") or {}
        return Preparation.stored(values, self.path) if "features" in values else None

    def __call__(self, features: Any) -> Prediction:
        """What the model returns for rows of features, a tensor or an array."""
        features = torch.as_tensor(features)
        with torch.inference_mode():
            return Prediction(*self.run(features))


def top_prediction_of(said: Prediction) -> dict[str, Tensor]:
    """What `predict_step` returns of a chunked head: see `top.top_prediction`."""
    top = said.logits.topk(min(TOP_K, said.logits.shape[1]), 1).indices
    ranked = {"top": top, "probabilities": said.probabilities.gather(1, top)}
    if said.predictions.ndim < 2:
        missing = said.predictions == IGNORE_INDEX  # of NaN logits
        return {**ranked, "prediction": top[:, 0].masked_fill(missing, IGNORE_INDEX)}
    return {**ranked, "prediction": said.predictions.gather(1, top)}


def load_exported(path: str | Path, trust: bool = False) -> ExportedModel:
    """A model that `export_model` wrote.

    Args:
        path: .onnx, .safetensors or .pt2.
        trust: Whether a .pt2, of which torch may run code when it reads it, is to be read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these, or was not written by us; a .pt2 that is not trusted.
        ModuleNotFoundError: a package that runs it is not installed.
    """
    path = Path(path)
    check_regular_file(path)
    if not path.is_file():
        raise FileMissingError(f"There is no model {path}.")
    form = find_format(path)
    if form is None:
        raise CheckpointError(f"{path} is no exported model: these end in {suffixes()}.")
    if form == "torch_export" and not trust:
        raise CheckpointError(
            f"{path}: torch may run code that a .pt2 file brings along when it reads it. If it is yours, say "
            "trust=true; .onnx and .safetensors need no trust."
        )
    sealed = is_sealed(path)
    read = {"onnx": _read_onnx, "safetensors": _read_safetensors, "torch_export": _read_torch_export}
    served = read[form](path)
    if not sealed:
        raise CheckpointError(
            f"{path} holds no checksum ({NAME}), so it is not as lossselect export wrote it."
        )
    return served


def _read_metadata(path: Path, text: str | None) -> tuple[dict[str, Any], Task]:
    """What a model says of itself, and its task; ValueError where it cannot be read."""
    if not text:
        raise CheckpointError(
            f"{path} was not written by lossselect export: it does not say what it decides."
        )
    try:
        metadata: dict[str, Any] = json.loads(text)
        return metadata, make_task(**metadata["task"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged: what it says of its task cannot be read: {error}"
        ) from None


def _damaged(path: Path, error: BaseException) -> ValueError:
    said = next(iter(str(error).splitlines()), type(error).__name__)
    return CheckpointError(f"{path} ({path.stat().st_size} bytes) cannot be read as a model: {said}")


def _read_onnx(path: Path) -> ExportedModel:
    require("onnx", FORMATS["onnx"].to_read)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _damaged(path, error) from None
    metadata, task = _read_metadata(path, session.get_modelmeta().custom_metadata_map.get(KEY))
    name, logits = session.get_inputs()[0].name, session.get_outputs()[0].shape
    if isinstance(logits[1], int):
        _check_width(path, task, logits[1])

    def run(features: Tensor) -> list[Tensor]:
        values = session.run([*Prediction._fields], {name: features.cpu().numpy()})
        return [torch.from_numpy(value) for value in values]

    return ExportedModel(path, metadata, task, run)


def _check_width(path: Path, task: Task, width: int) -> None:
    """Raise a ValueError if a model returns logits of another width than its task has."""
    if width != task.num_outputs:
        raise CheckpointError(f"{path} is damaged: its net returns {width} outputs, but its task is {task}.")


def _read_torch_export(path: Path) -> ExportedModel:
    metadata = {f"{KEY}.json": ""}
    try:
        with silence():
            loaded = torch.export.load(path, extra_files=metadata)
            program = loaded.module()
    except (RuntimeError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None
    content: Any = metadata[f"{KEY}.json"]
    told = _read_metadata(path, content.decode() if isinstance(content, bytes) else content)
    check_finite(loaded.state_dict, loaded.graph_signature.buffers, path)
    return ExportedModel(path, *told, program)


def _read_safetensors(path: Path) -> ExportedModel:
    require("safetensors", FORMATS["safetensors"].to_read)
    from safetensors import SafetensorError, safe_open

    from lossselect.models.nets import make_net

    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get(KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except SafetensorError as error:
        raise _damaged(path, error) from None
    metadata, task = _read_metadata(path, metadata)
    if not isinstance(spec := metadata.get("net"), dict):
        raise CheckpointError(f"{path} is damaged: it does not say which net its weights are of.")
    check_net(spec, task.num_outputs, weights, path)
    check_finite(weights, (), path)
    with torch.device("meta"):
        net = make_net(spec, task.num_outputs)
    try:
        net.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise _damaged(path, error) from None
    return ExportedModel(path, metadata, task, Outputs(net, task).eval())
