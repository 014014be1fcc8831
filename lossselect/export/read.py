"""Loading and running exported models without Lightning."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lossselect.chunked.options import TOP_K
from lossselect.exceptions import CheckpointError, FileMissingError
from lossselect.export.digest import check_sealed
from lossselect.export.formats import FORMATS, SUFFIXES, find_format, require
from lossselect.models.nets import make_net
from lossselect.models.stored_weights import check_finite, check_net
from lossselect.tasks.registry import IGNORE_INDEX, AnyTask, as_any_task
from lossselect.utils.atomic_write import check_regular_file
from lossselect.utils.checks import first_line
from lossselect.utils.warnings import silence

if TYPE_CHECKING:
    from lossselect.data.preprocessing.preparation import Preparation

KEY = "lossselect"  # the metadata entry with the JSON of `ExportedModel.metadata`


class Prediction(NamedTuple):
    """Logits, probabilities and predictions of a model for some rows."""

    logits: Tensor
    probabilities: Tensor
    predictions: Tensor


class Outputs(nn.Module):
    """A net with raw logits, and the probabilities and predictions of its task, or of each of its tasks."""

    def __init__(self, net: nn.Module, task: AnyTask) -> None:
        super().__init__()
        self.net, self.task = net, task

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the fields of `Prediction`, for several tasks those of each task."""
        values: list[Tensor] = []
        for name, logits in self.task.split_logits(self.net(features)).items():
            task = self.task.tasks[name]
            values += (logits, task.probabilities(logits), task.predict(logits))
        return tuple(values)


def output_names(task: AnyTask) -> list[str]:
    """Return the names of the outputs, such as "logits"; of several tasks with a prefix, "species.logits"."""
    return [f"{name}.{field}".removeprefix(".") for name in task.tasks for field in Prediction._fields]


def group_outputs(task: AnyTask, values: Sequence[Tensor]) -> dict[str, Prediction]:
    """Return the prediction of each task from the outputs of `Outputs`; see `Task.tasks`."""
    width = len(Prediction._fields)
    parts = (values[start : start + width] for start in range(0, len(values), width))
    return {name: Prediction(*part) for name, part in zip(task.tasks, parts, strict=True)}


@dataclass(frozen=True)
class ExportedModel:
    """An exported model.

    Calling it with features returns a `Prediction`, for several tasks a dict of them; calling `run` a tuple.
    """

    path: Path
    metadata: dict[str, Any]
    task: Any
    run: Callable[[Tensor], Any]

    @property
    def preparation(self) -> "Preparation | None":
        """Preparation of the model's input from the rows of a file, if it is known."""
        from lossselect.data.preprocessing.preparation import Preparation

        values = self.metadata.get("preparation") or {}
        if "features" not in values:
            return None
        preparation = Preparation.stored(values, self.path)
        return preparation.raw() if self.is_raw else preparation

    @property
    def is_raw(self) -> bool:
        """Return whether the model takes raw numbers, which it scales."""
        return bool(self.metadata.get("raw"))

    def __call__(self, features: Any) -> Any:
        """Return the prediction for a tensor or an array of features; for several tasks a dict by task."""
        return self.task.join_values(self.predict_tasks(features))

    def predict_tasks(self, features: Any) -> dict[str, Prediction]:
        """Return the prediction of each task; the one of a single task has the name ""."""
        inputs = torch.as_tensor(features)
        with torch.inference_mode():
            return group_outputs(self.task, self.run(inputs.double() if self.is_raw else inputs))


def topk_prediction(outputs: Prediction) -> dict[str, Tensor]:
    """Return the same as `topk_prediction` of a chunked head, computed from all outputs."""
    logits, probabilities, predictions = outputs
    top = logits.topk(min(TOP_K, logits.shape[1]), 1).indices
    if predictions.ndim < 2:
        prediction = top[:, 0].masked_fill(predictions == IGNORE_INDEX, IGNORE_INDEX)  # NaN logits
    else:
        prediction = predictions.gather(1, top)
    return {"top": top, "probabilities": probabilities.gather(1, top), "prediction": prediction}


def load_exported(path: str | Path, trust: bool = False) -> ExportedModel:
    """Load a model that `export_model` wrote.

    Args:
        path: File ending in .onnx, .safetensors or .pt2.
        trust: Whether to read a .pt2 file, from which torch may run code.

    Returns:
        A function of features (N, ...), a tensor or an array, which runs on the CPU. Its result has the
        fields `logits`, `probabilities` and `predictions`, as the task returns them; for several tasks it is
        a dict of such results by task.

    Raises:
        FileMissingError: the file does not exist.
        CheckpointError: the file has another suffix, is damaged, was not written by `export_model`, or is a
            .pt2 without trust=True.
        PackageMissingError: a package that the format requires is not installed.
    """
    path = Path(path)
    check_regular_file(path)
    if not path.is_file():
        raise FileMissingError(f"Model not found: {path}. Check the path.")
    form = find_format(path)
    if form is None:
        raise CheckpointError(f"Expected a model with one of the suffixes {SUFFIXES}, got {path}.")
    if form == "torch_export" and not trust:
        raise CheckpointError(
            f"Reading {path} may run code that the .pt2 file contains. Set trust=true if you trust its "
            "source, or export to .onnx or .safetensors, which contain no code."
        )
    check_sealed(path)
    require(form, FORMATS[form].to_read)
    read = {"onnx": _read_onnx, "safetensors": _read_safetensors, "torch_export": _read_torch_export}
    try:
        return read[form](path)
    except CheckpointError:
        raise
    except Exception as error:  # the libraries raise many types, for example for another version of a format
        problem = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"{path} cannot be read as a model: {problem}. Export it again.") from None


def _parse_metadata(text: str | bytes | None) -> tuple[dict[str, Any], AnyTask]:
    metadata: dict[str, Any] = json.loads(text or "")
    return metadata, as_any_task(metadata["task"])


def _read_onnx(path: Path) -> ExportedModel:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata, task = _parse_metadata(session.get_modelmeta().custom_metadata_map.get(KEY))
    name, names = session.get_inputs()[0].name, output_names(task)
    outputs = {output.name: output.shape for output in session.get_outputs()}
    for part, logits in zip(task.tasks.values(), names[:: len(Prediction._fields)], strict=True):
        width = outputs[logits][1]
        if isinstance(width, int) and width != part.num_outputs:
            raise CheckpointError(f"{path} is damaged: {width} outputs do not fit {part}. Export it again.")

    def run(features: Tensor) -> list[Tensor]:
        values = session.run(names, {name: features.cpu().numpy()})
        return [torch.from_numpy(value) for value in values]

    return ExportedModel(path, metadata, task, run)


def _read_torch_export(path: Path) -> ExportedModel:
    files = {f"{KEY}.json": ""}
    with silence():
        program = torch.export.load(path, extra_files=files)
        module = program.module()
    metadata, task = _parse_metadata(files[f"{KEY}.json"])
    check_finite(program.state_dict, program.graph_signature.buffers, path)
    return ExportedModel(path, metadata, task, module)


def _read_safetensors(path: Path) -> ExportedModel:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(KEY)
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # file is not a dict
    metadata, task = _parse_metadata(text)
    check_net(metadata["net"], task, weights, path)
    check_finite(weights, (), path)
    with torch.device("meta"):
        net = make_net(metadata["net"], task)
    net.load_state_dict(weights, assign=True)
    return ExportedModel(path, metadata, task, Outputs(net, task).eval())
