"""A trained model as a file for elsewhere: logits, probabilities, predictions, and what explains them."""

import copy
import json
import os
import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lossselect.chunked.linear import ChunkedLinear
from lossselect.compat.torch import convert_weights
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.exceptions import ConfigError, OptionTypeError, UnsupportedError
from lossselect.export.digest import BLANK, NAME, seal
from lossselect.export.formats import FORMATS, find_format, require, suffixes
from lossselect.export.read import KEY, Outputs, Prediction, load_exported
from lossselect.models.stored_weights import check_finite
from lossselect.training.classifier import Classifier
from lossselect.utils.atomic_write import atomic_write
from lossselect.utils.silence import silence

HALF = (torch.float16, torch.bfloat16)

CLOSE = 1e-5
"""By so much at most probabilities may differ from PyTorch's, and logits relative to those above 1."""


def export_model(
    module: Classifier,
    path: str | Path,
    *,
    inputs: Tensor | None = None,
    preparation: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Write a trained module to a file that serves without it, and compare the two on `inputs`.

    The file takes `features` (N, ...), any N, and returns `logits`, `probabilities` and `predictions`. Beside
    them, under the key "lossselect" of its metadata, it holds as JSON the task with class names, thresholds
    and temperature, and how features are made of a file's rows.

    Args:
        module: On whichever device; it is exported for the CPU.
        path: The file, which is written whole or not at all: .onnx, .pt2 (torch.export) or .safetensors.
        inputs: Rows as the net takes them, to trace it with and to compare on; None takes normally
            distributed ones for a net of ours.
        preparation: What features went through: the "TensorData" of a checkpoint.

    Returns:
        The largest differences that were found: of "logits" (in units of the row's largest, or of 1) and of
        "probabilities"; the share of rows with another decision, "predictions"; and how many "rows".

    Raises:
        ValueError: a net that cannot be exported, which says the operation; a file that does not compute
            what the module does; no inputs for a net of one's own.
        ModuleNotFoundError: a package that the format needs is not installed.
    """
    if not isinstance(module, Classifier):
        raise OptionTypeError(
            f"export_model takes a TaskModule and a path, got {type(module).__name__}. Of a TaskClassifier "
            "pass model.module_, which takes (X - model.mean_) / model.scale_."
        )
    path = Path(path)
    form = find_format(path)
    if form is None:
        raise ConfigError(f"{path} tells no format by its suffix, which must be one of {suffixes()}.")
    require(form, FORMATS[form].to_write)
    own = module._arguments.get("net") if _is_plain(module) else None
    spec = dict(own) if isinstance(own, Mapping) else None
    if inputs is None:
        if spec is None:
            raise ConfigError("A net of your own is traced with rows of its inputs: pass inputs=.")
        inputs = torch.randn(256, spec["num_features"], generator=torch.Generator().manual_seed(0))
    if not isinstance(inputs, Tensor) or not inputs.dim() or not len(inputs):
        came = f"shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ConfigError(
            f"inputs must be a tensor of rows, as the net takes them, got {came}: a model for elsewhere has "
            "one input."
        )
    if form == "safetensors" and spec is None:
        raise ConfigError(
            "format=safetensors holds weights, of which only a net of ours is built again: format=onnx or "
            "torch_export take the net along."
        )
    check_finite(module.state_dict(), {name for name, _ in module.named_buffers()}, "The module to export")
    whole = _whole(module)
    metadata = json.dumps(_facts(module, spec, preparation, inputs), ensure_ascii=False)
    inputs = inputs.detach().cpu()
    write: dict[str, Callable[[Outputs, Tensor, str, Path], None]] = {
        "onnx": _write_onnx,
        "torch_export": _write_torch_export,
        "safetensors": _write_safetensors,
    }
    with atomic_write(path) as temporary, silence():
        named = temporary.with_name(f"{temporary.name}{FORMATS[form].suffix}")
        try:
            # of a single row torch.export would make a program for one row alone
            write[form](whole, torch.cat([inputs[:1], inputs[-1:]]), metadata, named)
            seal(named)
            differences = _compared(whole, named, inputs)
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
    return differences


def _is_plain(module: Classifier) -> bool:
    """Whether its logits are what its net returns, and no subclass's forward comes between."""
    return type(module).forward is Classifier.forward


def _whole(module: Classifier) -> Outputs:
    """The net on the CPU, for evaluation, with a dense head and no trainer."""
    if _is_plain(module):
        net = copy.deepcopy(module.net)
    else:
        kept = vars(module).pop("_trainer", None)  # Lightning's, which is not to be copied
        try:
            net = copy.deepcopy(module)
        finally:
            vars(module)["_trainer"] = kept
    for parent in [*net.modules()]:
        for name, layer in [*parent.named_children()]:
            if isinstance(layer, ChunkedLinear):
                setattr(parent, name, _dense(layer))
    net = _dense(net) if isinstance(net, ChunkedLinear) else net
    whole = Outputs(net, module.task).cpu().eval()
    # half precision is for training; what is float64 is so for a reason
    return convert_weights(whole, lambda value: value.float() if value.dtype in HALF else value)


def _dense(layer: ChunkedLinear) -> nn.Linear:
    made = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    made.weight, made.bias = layer.weight, layer.bias
    return made


def _facts(
    module: Classifier,
    spec: Mapping[str, Any] | None,
    preparation: Mapping[str, Any] | None,
    inputs: Tensor,
) -> dict[str, Any]:
    """What a model says of itself."""
    task = module.task
    return {
        "made_by": f"lossselect {version('lossselect')}",
        "task": task.to_dict(),
        "activation": task.activation,
        "class_names": list(task.names),
        "output_names": list(task.output_names),
        "threshold": task.threshold,
        "temperature": task.temperature,
        "shift": task.shift,
        "head": module._head_spec["name"],
        "features": ["rows", *inputs.shape[1:]],
        "feature_names": _names_of(preparation),
        "preparation": _as_lists(preparation),
        "net": _as_lists(spec),
    }


def _names_of(preparation: Mapping[str, Any] | None) -> list[str] | None:
    """Of the features in their order, where they are made of a file's columns."""
    if not preparation or "features" not in preparation:
        return None
    return Preparation.from_dict(preparation).features.names


def _as_lists(value: Any) -> Any:
    """Tensors as lists, for JSON."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _as_lists(entry) for key, entry in value.items()}
    return [_as_lists(entry) for entry in value] if isinstance(value, list | tuple) else value


def _traced(whole: Outputs, inputs: Tensor) -> Any:
    try:
        rows = torch.export.Dim("rows", min=1)
        return torch.export.export(whole, (inputs,), dynamic_shapes={"features": {0: rows}})
    except Exception as error:
        raise ConfigError(f"The net cannot be traced, which an export needs: {_said(error)}") from None


def _said(error: BaseException) -> str:
    """What went wrong, with the operation or the line of the user's, if it is told."""
    text = str(error)
    if operation := re.search(r"OpOverload\(op='([^']+)'", text) or re.search(r"found for <?([\w:.]+)", text):
        return f"there is no counterpart of the operation {operation[1]}."
    if "specialized it to be a constant" in text:
        return (
            "it would take no other number of rows. Write features.shape[0], not len(features) or a number."
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    place = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text)
    own = [where for where in place if "site-packages" not in where[0]]
    where = f" ({own[-1][0]}, line {own[-1][1]}, in {own[-1][2]})" if own else ""
    return f"{lines[0] if lines else type(error).__name__}{where}"


def _write_onnx(whole: Outputs, inputs: Tensor, metadata: str, path: Path) -> None:
    import onnx

    program = _traced(whole, inputs)
    try:
        made = torch.onnx.export(
            program, input_names=["features"], output_names=[*Prediction._fields], verbose=False
        )
    except Exception as error:
        causes = error
        while causes.__cause__ is not None:
            causes = causes.__cause__  # type: ignore[assignment]
        raise ConfigError(f"The net cannot be written as ONNX: {_said(causes)}") from None
    assert made is not None
    model = made.model_proto
    known = json.loads(metadata)
    plain = {name: json.dumps(known[name], ensure_ascii=False) for name in ("class_names", "threshold")}
    props = {KEY: metadata, **plain, "task": known["task"]["name"], NAME: BLANK}
    onnx.helper.set_model_props(model, props)
    onnx.save(model, path)


def _write_torch_export(whole: Outputs, inputs: Tensor, metadata: str, path: Path) -> None:
    torch.export.save(_traced(whole, inputs), path, extra_files={f"{KEY}.json": metadata})
    comment = f"{NAME}={BLANK}".encode()
    with path.open("r+b") as file:  # of a zip file, whose last two bytes say how long its comment is
        file.seek(-2, os.SEEK_END)
        if file.read(2) != b"\0\0":
            raise UnsupportedError(f"torch.export.save has written a comment into {path}.")
        file.seek(-2, os.SEEK_END)
        file.write(len(comment).to_bytes(2, "little") + comment)


def _write_safetensors(whole: Outputs, inputs: Tensor, metadata: str, path: Path) -> None:
    from safetensors.torch import save

    weights = {name: value.contiguous() for name, value in whole.net.state_dict().items()}
    path.write_bytes(save(weights, {KEY: metadata, NAME: BLANK}))


def _compared(whole: Outputs, path: Path, inputs: Tensor) -> dict[str, float]:
    """How the file's outputs differ from the net's; ValueError where they do too much."""
    served = load_exported(path, trust=True)  # it was written here
    worst = {"logits": 0.0, "probabilities": 0.0}
    # of labels that are equally probable either may be among the highest
    ranks = getattr(whole.task, "top_k", None) or getattr(whole.task, "min_labels", 0)
    others = 0
    # one row by itself too, with which a net may do otherwise
    for place, part in enumerate((inputs[:1], *inputs.split(1024))):
        with torch.inference_mode():
            logits, probabilities, predictions = whole(part)
        found = served(part)
        scale = logits.nan_to_num().abs().flatten(1).amax(1).clamp(min=1)
        worst["logits"] = max(worst["logits"], _gap(found.logits, logits, scale))
        worst["probabilities"] = max(worst["probabilities"], _gap(found.probabilities, probabilities))
        others += int((found.predictions != predictions).reshape(len(part), -1).any(1).sum()) if place else 0
        wrong = found.predictions != whole.task.predict_from_probabilities(found.probabilities)
        if wrong.any() and not ranks:
            raise ConfigError(
                f"The exported model decides {int(wrong.sum())} times otherwise than its own probabilities "
                "say: of these inputs ONNX or torch.export does not decide as the task does."
            )
    if max(worst.values()) > CLOSE:
        raise ConfigError(
            "The exported model does not compute what the net does: probabilities differ by up to "
            f"{worst['probabilities']:.2g}, logits by {worst['logits']:.2g} of the largest. Does the net "
            "draw random numbers, or decide by the values of its inputs, or by how many they are?"
        )
    return {**worst, "predictions": others / len(inputs), "rows": len(inputs)}


def _gap(found: Tensor, needed: Tensor, scale: Tensor | float = 1.0) -> float:
    """The largest difference, in units of each row's scale; infinity where one alone is no number."""
    gap = (found - needed).abs().flatten(1)
    alike = (found == needed) | (found.isnan() & needed.isnan())  # infinity, too
    gap = gap.masked_fill(alike.flatten(1), 0)
    return float((gap / torch.as_tensor(scale).reshape(-1, 1)).nan_to_num(torch.inf).max())
