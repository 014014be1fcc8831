"""Export of a trained model to a file that runs without lossselect's training code."""

import copy
import json
import re
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lossselect.chunked.linear import ChunkedLinear
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.exceptions import ConfigError, OptionTypeError, UnsupportedError
from lossselect.export.digest import BLANK, NAME, seal
from lossselect.export.formats import FORMATS, SUFFIXES, check_weights_suffice, find_format, require
from lossselect.export.raw import RawInput, raw_features, raw_inputs
from lossselect.export.read import KEY, Outputs, group_outputs, load_exported, output_names
from lossselect.models.stored_weights import check_finite
from lossselect.tasks.registry import AnyTask
from lossselect.training.classifier import Classifier
from lossselect.training.forward import find_logits
from lossselect.utils.atomic_write import atomic_write
from lossselect.utils.warnings import silence

HALF = (torch.float16, torch.bfloat16)
TOLERANCE = 1e-5  # for probabilities, and for logits relative to the largest of their row


def export_model(
    module: Classifier,
    path: str | Path,
    *,
    inputs: Tensor | None = None,
    preparation: Mapping[str, Any] | None = None,
    raw: bool = False,
) -> dict[str, float]:
    """Write a trained module to a file that runs without it, and compare both on `inputs`.

    The exported model accepts `features` (N, ...) for any N, and returns `logits`, `probabilities` and
    `predictions`; of several tasks it has these outputs for each task, such as `species.logits`. It contains
    `forward`, but no hooks such as `on_after_batch_transfer`. Its metadata contain JSON under the key
    "lossselect": the task with class names, thresholds and temperature, and the preparation of features from
    the rows of a file.

    Args:
        module: Trained module on any device; it is exported for the CPU.
        path: File ending in .onnx, .pt2 (torch.export) or .safetensors; written atomically.
        inputs: Inputs (N, ...) of the net, N >= 1, for tracing and for the comparison. Required for a custom
            net; by default, normal random values for a built-in net.
        preparation: Preparation of the features, as in "TensorData" of a checkpoint.
        raw: Whether the exported model scales numbers itself. Its `features` are then float64: a number for
            each column of numbers, NaN where missing, followed by the other features, such as one-hot
            categories. `preparation` is required, and `inputs` are still those of the net. The raw numbers
            for the comparison are computed from them.

    Returns:
        The largest differences of "logits" (relative to the row's largest, or to 1) and of "probabilities",
        the fraction of rows whose "predictions" differ, and the number of "rows".

    Raises:
        ConfigError: the net cannot be exported, the file does not compute the same as the module, or inputs
            of a custom net are missing. With `raw`: an unknown preparation, sparse features, or .safetensors.
        OptionTypeError: module is not a `TaskModule`.
        PackageMissingError: a package that the format requires is not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lossselect import Binary, TaskModule
        >>> module = TaskModule(Binary(), {"name": "linear", "num_features": 8})
        >>> with TemporaryDirectory() as folder:
        ...     export_model(module, f"{folder}/model.safetensors")["predictions"]
        0.0
    """
    if not isinstance(module, Classifier):
        raise OptionTypeError(
            f"Expected a TaskModule to export, got {type(module).__name__}. For a TaskClassifier, pass "
            "model.module_, whose inputs are model.scaling_.transform(X)."
        )
    path = Path(path)
    form = find_format(path)
    if form is None:
        raise ConfigError(f"Expected a path with one of the suffixes {SUFFIXES}, got {path}.")
    require(form, FORMATS[form].to_write)
    for method in (Classifier.compute_logits, Classifier.predict):
        if module._replaces(method):
            raise ConfigError(
                f"{type(module).__name__} overrides {method.__name__}, but an exported model contains only "
                "forward. Override forward instead."
            )
    # a subclass with its own forward may not return the outputs of the net
    plain = not module._replaces(Classifier.forward)
    net = module._arguments.get("net")
    spec = dict(net) if plain and isinstance(net, Mapping) else None
    if inputs is None:
        if spec is None:
            raise ConfigError(
                "Exporting a custom net requires rows of its inputs for tracing. Pass inputs=..."
            )
        inputs = torch.randn(256, spec["num_features"], generator=torch.Generator().manual_seed(0))
    if not isinstance(inputs, Tensor) or not inputs.dim() or not len(inputs):
        received = f"shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ConfigError(
            f"inputs must be one tensor with at least one row, got {received}. A model has one input."
        )
    check_weights_suffice(form, spec is not None, raw)
    check_finite(module.state_dict(), {name for name, _ in module.named_buffers()}, "The module to export")
    model = _copy_for_export(module, plain)
    inputs = inputs.detach().cpu()
    if raw:
        features = raw_features(preparation)
        model.net, inputs = RawInput(features, model.net), raw_inputs(features, inputs)
    metadata = _make_metadata(module, spec, preparation, inputs, raw)
    write = {"onnx": _write_onnx, "torch_export": _write_torch_export, "safetensors": _write_safetensors}
    with atomic_write(path) as temporary, silence():
        with_suffix = temporary.with_name(f"{temporary.name}{FORMATS[form].suffix}")
        try:
            # from a single row torch.export would create a program for exactly one row
            write[form](model, torch.cat([inputs[:1], inputs[-1:]]), metadata, with_suffix)
            seal(with_suffix)
            differences = _compare(model, with_suffix, inputs)
            with_suffix.replace(temporary)
        finally:
            with_suffix.unlink(missing_ok=True)
    return differences


def _copy_for_export(module: Classifier, plain: bool) -> Outputs:
    """Return a copy of the net on the CPU, for evaluation, with a dense head."""
    net = copy.deepcopy(module.net if plain else module)
    has_spec = isinstance(module._arguments.get("net"), Mapping)  # built-in nets return logits
    model = Outputs(net if plain and has_spec else _Logits(net, module._class_dim, module.task), module.task)
    for layer in model.modules():
        if isinstance(layer, ChunkedLinear):
            layer.__class__ = nn.Linear  # type: ignore[assignment]  # it has the same weights
    # half precision is for training only; float64 is kept, since the net may depend on it
    for value in (*model.parameters(), *model.buffers()):
        if value.dtype in HALF:
            value.data = value.data.float()
    return model.cpu().eval()


class _Logits(nn.Module):
    """Finds the logits in the output of a net."""

    def __init__(self, net: nn.Module, class_dim: int | None, task: AnyTask) -> None:
        super().__init__()
        self.net, self.class_dim, self.task = net, class_dim, task

    def forward(self, features: Tensor) -> Tensor:
        logits = find_logits(self.net(features), self.class_dim, self.task.tasks)
        joined: Tensor = self.task.join_logits(logits)
        return joined


def _make_metadata(module: Classifier, spec: Any, preparation: Any, inputs: Tensor, raw: bool) -> str:
    task, feature_names = module.task, None
    if preparation and "features" in preparation:  # they are computed from the columns of a file
        prepared = Preparation.from_dict(preparation)
        preparation = prepared.to_dict()
        feature_names = (prepared.raw() if raw else prepared).features.names
    described = {
        name: {
            "activation": part.activation,
            "class_names": part.names,
            "output_names": part.output_names,
            "threshold": part.threshold,
            "temperature": part.temperature,
            "shift": part.shift,
        }
        for name, part in task.tasks.items()
    }
    metadata = {
        "made_by": f"lossselect {version('lossselect')}",
        "task": task.to_dict(),
        **described.get("", {"tasks": described}),
        "head": module._head_spec["name"],
        "features": ["rows", *inputs.shape[1:]],
        "raw": raw,
        "feature_names": feature_names,
        "preparation": preparation,
        "net": spec,
    }
    return json.dumps(metadata, ensure_ascii=False, default=Tensor.tolist)


def _trace(model: Outputs, inputs: Tensor) -> Any:
    try:
        rows = torch.export.Dim("rows", min=1)
        return torch.export.export(model, (inputs,), dynamic_shapes={"features": {0: rows}})
    except Exception as error:
        raise ConfigError(f"The net cannot be traced for export: {_summarize(error)}") from None


def _summarize(error: BaseException) -> str:
    """Return the cause of an error, with the operation or the line of the user's code if known."""
    text = str(error)
    if operation := re.search(r"OpOverload\(op='([^']+)'", text) or re.search(r"found for <?([\w:.]+)", text):
        return f"the operation {operation[1]} is not supported."
    if "specialized it to be a constant" in text:
        return "it depends on a fixed number of rows. Use features.shape[0], not len(features) or a number."
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text)
    for file, line, function in reversed(frames):
        if "site-packages" not in file:
            return f"{first} ({file}, line {line}, in {function})"
    return first


def _write_onnx(model: Outputs, inputs: Tensor, metadata: str, path: Path) -> None:
    import onnx

    program = _trace(model, inputs)
    try:
        exported = torch.onnx.export(
            program,
            input_names=["features"],
            output_names=output_names(model.task),
            custom_translation_table={torch.ops.aten.log_sigmoid.default: _log_sigmoid},
            verbose=False,
        )
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        problem = _summarize(cause).rstrip(".")
        raise ConfigError(f"The net cannot be written as ONNX: {problem}. Set format=torch_export.") from None
    assert exported is not None
    values = json.loads(metadata)
    names = ("class_names", "threshold") if "class_names" in values else ("tasks",)
    plain = {name: json.dumps(values[name], ensure_ascii=False) for name in names}
    properties = {KEY: metadata, **plain, "task": values["task"]["name"], NAME: BLANK}
    proto = exported.model_proto  # a new object at each access
    onnx.helper.set_model_props(proto, properties)
    onnx.save(proto, path)


def _log_sigmoid(x: Any) -> Any:
    """Return min(x, 0) - log(1 + exp(-|x|)) in ONNX.

    By default, torch.onnx computes log(sigmoid(x)) from a rounded sigmoid: -inf from x = -18 on, and wrong by
    0.6 at -16.
    """
    from onnxscript import opset18

    op: Any = opset18
    one = op.CastLike(op.Constant(value_float=1.0), x)
    return op.Sub(op.Neg(op.Relu(op.Neg(x))), op.Log(op.Add(one, op.Exp(op.Neg(op.Abs(x))))))


def _write_torch_export(model: Outputs, inputs: Tensor, metadata: str, path: Path) -> None:
    torch.export.save(_trace(model, inputs), path, extra_files={f"{KEY}.json": metadata})
    with zipfile.ZipFile(path, "a") as archive:
        if archive.comment:
            raise UnsupportedError(
                f"torch.export.save of this version of torch has written a comment into {path}."
            )
        archive.comment = f"{NAME}={BLANK}".encode()


def _write_safetensors(model: Outputs, inputs: Tensor, metadata: str, path: Path) -> None:
    from safetensors.torch import save

    weights = {name: value.contiguous() for name, value in model.net.state_dict().items()}
    path.write_bytes(save(weights, {KEY: metadata, NAME: BLANK}))


def _compare(model: Outputs, path: Path, inputs: Tensor) -> dict[str, float]:
    """Return the differences between the outputs of file and net; ConfigError if they are too large."""
    exported = load_exported(path, trust=True)  # this process wrote it
    largest = {"logits": 0.0, "probabilities": 0.0}
    changed = 0
    # a net may treat a single row differently
    for i, rows in enumerate((inputs[:1], *inputs.split(1024))):
        with torch.inference_mode():
            computed = group_outputs(model.task, model(rows))
        differs = torch.zeros(len(rows), dtype=torch.bool)
        for task_name, actual in exported.predict_tasks(rows).items():
            expected, task = computed[task_name], model.task.tasks[task_name]
            scale = expected.logits.nan_to_num().abs().flatten(1).amax(1).clamp(min=1)
            for name, unit in (("logits", scale), ("probabilities", torch.ones_like(scale))):
                difference = _max_difference(getattr(actual, name), getattr(expected, name), unit)
                largest[name] = max(largest[name], difference)
            differs |= (actual.predictions != expected.predictions).reshape(len(rows), -1).any(1)
            wrong = actual.predictions != task.predict_from_probabilities(actual.probabilities)
            # with equal probabilities, either label may be among the highest
            if wrong.any() and not (task.top_k or task.min_labels):
                raise ConfigError(
                    f"{int(wrong.sum())} predictions of the exported model do not match its own "
                    "probabilities. For these inputs ONNX or torch.export computes another decision than the "
                    "task. Use another format."
                )
        changed += int(differs.sum()) if i else 0
    if max(largest.values()) > TOLERANCE:
        raise ConfigError(
            "The exported model does not compute the same as the net: probabilities differ by up to "
            f"{largest['probabilities']:.2g}, logits by up to {largest['logits']:.2g} of the row's largest. "
            "Check whether the net draws random numbers, or branches on the values or the number of inputs."
        )
    return {**largest, "predictions": changed / len(inputs), "rows": len(inputs)}


def _max_difference(actual: Tensor, expected: Tensor, unit: Tensor) -> float:
    """Return the largest difference, in each row's unit; infinity where only one is NaN."""
    equal = (actual == expected) | (actual.isnan() & expected.isnan())  # also for infinity
    difference = (actual - expected).abs().masked_fill(equal, 0).flatten(1)
    return float((difference / unit[:, None]).nan_to_num(torch.inf, posinf=torch.inf).max())
