"""Checks of outputs and labels for mistakes that would go unnoticed in training."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lossselect.chunked.linear import ChunkedLogits
from lossselect.exceptions import ConfigError, DataError
from lossselect.models.head import bias_values
from lossselect.tasks.registry import AnyTask, Task
from lossselect.training.diagnostics.last_operation import (
    LastOperations,
    find_last_nodes,
    find_layer,
    operation_name,
)
from lossselect.training.forward import describe
from lossselect.utils.checks import first_line
from lossselect.utils.distributed import is_sharded
from lossselect.utils.warnings import warn, warn_looks_multiclass

MIN_ROWS = 64  # with fewer rows, outputs may lie between 0 and 1 by chance
# layers whose outputs cannot be raw logits
PROBABILITIES = {"Softmax", "Softmax2d", "Sigmoid", "Hardsigmoid", "LogSigmoid", "exp(LogSoftmax)"}
BOUNDED = {"ReLU", "ReLU6", "Tanh", "Hardtanh", "clamp"}


def check_end(net: nn.Module | None, task: AnyTask) -> None:
    """Raise ConfigError if a sequence of modules ends in one that returns probabilities."""
    name, last = "net", getattr(net, "_orig_mod", net)  # set by torch.compile
    while isinstance(last, nn.Sequential) and len(last):
        neutral = nn.Identity | nn.Flatten | nn.Unflatten | nn.Dropout
        children = [pair for pair in last.named_children() if not isinstance(pair[1], neutral)]
        if not children:
            return
        key, last = children[-1]
        name = f"{name}.{key}"
    _check_last_layer(type(last).__name__, f" ({name})", task, may_warn=False)


def _check_last_layer(layer: str | None, where: str, task: AnyTask, may_warn: bool = True) -> None:
    """Raise ConfigError if a net ends in a layer that returns probabilities; warn of bounded layers."""
    activations = {part.activation for part in task.tasks.values()}
    if layer in PROBABILITIES or (layer == "LogSoftmax" and activations != {"softmax"}):
        raise ConfigError(
            f"The net ends in {layer}{where}, but the loss takes raw logits and applies "
            f"{' and '.join(sorted(activations))} itself. Remove that layer; use "
            "task.probabilities(logits) to predict."
        )
    if layer in BOUNDED and may_warn:
        warn(
            "bounded_outputs",
            f"The net ends in {layer}{where}, so its logits cannot take all values, and neither can its "
            "probabilities. End the net in a linear layer or a convolution.",
        )
    elif layer == "LogSoftmax" and may_warn:
        warn(
            "log_softmax",
            f"The net ends in LogSoftmax{where}, which the loss applies itself. This is harmless, but "
            "redundant: remove that layer.",
        )


def find_nonfinite_row(values: Tensor) -> int | None:
    """Return the index of the first row that contains NaN or infinity."""
    rows = (~values.isfinite()).nonzero()
    return int(rows[0, 0]) if len(rows) else None


def _check_finite(values: Tensor, inputs: Any, what: str) -> None:
    if (row := find_nonfinite_row(values)) is None:
        return
    cause = "Check the layers of the net and the scale of the inputs."
    if isinstance(inputs, Tensor) and (input_row := find_nonfinite_row(inputs)) is not None:
        cause = f"The inputs of row {input_row} contain NaN or infinity. Correct or remove them."
    raise DataError(f"Row {row} of the first batch's {what} is not finite. {cause}", row=row)


def _check_sums(outputs: Tensor, task: AnyTask, what: str) -> None:
    """Raise ConfigError if rows of outputs are probabilities, which sum to 1."""
    tolerance = 1e-2 if outputs.dtype in (torch.float16, torch.bfloat16) else 1e-4
    for name, part in task.split_logits(outputs).items():
        if part.shape[1] == 1 or not len(part):
            continue
        total = part.float().sum(1)
        if bool((part >= 0).all() & ((total - 1).abs() <= tolerance).all()):
            raise ConfigError(
                f"Each row of {what}{f' for task {name!r}' if name else ''} is between 0 and 1 and sums to "
                "1, as after a softmax, but the loss takes raw logits and applies "
                f"{task.tasks[name].activation} itself. Return the logits; use task.probabilities(logits) to "
                "predict."
            )


class OutputChecks:
    """Checks of a module's outputs in its first batches, without any cost afterwards."""

    def __init__(self) -> None:
        self.values_checked = False
        self.graph_checked = False
        self.evaluation_checked = False
        self.gradient_checked = False
        self.initialized_biases: Sequence[Tensor] = ()  # until the check whether the logits contain them
        self.ends_affine = False  # whether the net ends in a linear layer or a convolution

    def call(self, module: Any, inputs: Any) -> Any:
        """Return the logits for `inputs`, and check them in the first batch in evaluation mode."""
        try:
            if module.training or self.evaluation_checked:
                return module.compute_logits(inputs)
            return self._call_in_evaluation(module, inputs)
        except (RuntimeError, TypeError) as error:
            # subclasses (out of memory, not implemented) and lost processes are other causes
            likely = (RuntimeError,) if isinstance(inputs, Tensor) else (RuntimeError, TypeError)
            if type(error) not in likely or (dist.is_available() and dist.is_initialized()):
                raise
            fix = (
                "Correct forward or the inputs. At the command line, HYDRA_FULL_ERROR=1 shows the traceback."
            )
            if isinstance(inputs, Mapping):
                key = next((key for key, value in inputs.items() if isinstance(value, Tensor)), "image")
                fix = f'Name the inputs of forward, such as batch_keys={{"inputs": "{key}"}}.'
            elif isinstance(inputs, list):  # torch collates a tuple as a list
                fix = "If they are arguments of forward, return a tuple or a mapping from unpack_batch."
            raise ConfigError(f"The net fails for {describe(inputs)}: {first_line(error)}. {fix}") from error

    def _call_in_evaluation(self, module: Any, inputs: Any) -> Any:
        self.evaluation_checked = True
        operations = LastOperations()
        # dispatch does not see compiled kernels; of a compiled net only the values of the outputs are checked
        compiled = any(hasattr(part, "_orig_mod") or part._compiled_call_impl for part in module.modules())
        with nullcontext() if compiled else operations:
            outputs = module.compute_logits(inputs)
        if isinstance(outputs, Tensor):
            _check_last_layer(operations.get_layer(outputs), " in evaluation mode", module.task, False)
            if outputs.ndim > 1:
                _check_sums(outputs.detach(), module.task, "the outputs in evaluation mode")
        return outputs

    def check(self, logits: Any, inputs: Any, module: Any) -> None:
        """Check the values of the first batch, and the graph of the first training batch."""
        if self.graph_checked or torch.compiler.is_compiling():
            return
        is_chunked = isinstance(logits, ChunkedLogits)
        if not self.values_checked:
            values, what = (logits.inputs, "inputs of the head") if is_chunked else (logits, "logits")
            _check_finite(values.detach(), inputs, what)
            if not is_chunked:
                _check_sums(values.detach(), module.task, "the first batch's outputs")
            self.values_checked = True
        if not module.training or not torch.is_grad_enabled():
            return
        if not (logits.with_grad if is_chunked else logits.requires_grad):
            raise ConfigError(
                f"The logits have no gradient, so nothing {'but the head ' if is_chunked else ''}would be "
                "trained. Do not detach them in forward (detach(), .data, item(), torch.no_grad(), "
                "conversion to NumPy)."
            )
        if not is_chunked:
            _check_gradients_by_task(logits, module.task)
            nodes = [*find_last_nodes(logits.grad_fn)]
            layers = [*map(find_layer, nodes)]
            for layer in layers:
                places = [name for name, part in module.named_modules() if type(part).__name__ == layer]
                _check_last_layer(layer, f" ({places[0]})" if len(places) == 1 else "", module.task)
            self.ends_affine = all(layer == "Linear" for layer in layers)
            self._check_bias(nodes)
        self.graph_checked = True

    def _check_bias(self, nodes: list[Any]) -> None:
        """Warn if the layer whose bias was initialised did not compute the logits."""
        biases, self.initialized_biases = self.initialized_biases, ()
        used = {id(bias) for bias in bias_values(nodes)} if biases else set()
        if self.ends_affine and not all(id(bias) in used for bias in biases):
            warn(
                "no_head_bias",
                "bias_init=prior has set the bias of the last registered layer with as many outputs as the "
                "task, but another layer computed the logits. Set bias_init=null, or register the head last.",
            )

    def check_gradient(self, module: nn.Module, outputs: Any, may_raise: bool) -> None:
        """Raise ConfigError, if `may_raise`, for a loss other than 0 whose gradient is 0 for all weights."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor) or not bool(loss != 0):
            return
        gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
        # with FSDP2 a process has only parts of gradients, which may be 0 or empty
        sharded = any(map(is_sharded, gradients))
        self.gradient_checked = not gradients or sharded or any(bool(g.count_nonzero()) for g in gradients)
        if not self.gradient_checked and may_raise:
            raise ConfigError(
                f"The loss is {float(loss):.3g}, but its gradient is 0 for all weights, so nothing would be "
                "trained. Remove operations without a gradient from forward or from a custom loss, such as "
                "round(), sign() or a product with 0."
            )


def _check_gradients_by_task(logits: Tensor, task: AnyTask) -> None:
    """Raise ConfigError if the logits of one of several tasks, joined from a mapping, have no gradient."""
    inputs = getattr(logits.grad_fn, "next_functions", ())
    if len(task.tasks) != len(inputs) or operation_name(logits.grad_fn) != "cat":
        return
    for (name, weight), (node, _) in zip(task.task_weights.items(), inputs, strict=True):
        if name and node is None and weight:
            raise ConfigError(
                f"The logits of the task {name!r} have no gradient, so it would not be trained. Do not "
                "detach them in forward, or set the weight of the task to 0."
            )


class FirstEpochChecks:
    """Accumulates, on the device, the range of an epoch's outputs, and whether each row had one label."""

    def __init__(self) -> None:
        self._rows = 0
        self._extremes: list[Tensor] = []
        self._single_labels: list[Tensor] = []

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add rows of outputs (N, C), and their hard labels as `task.to_hard_labels` returns them."""
        if outputs.numel():
            self._rows += len(outputs)
            self._extremes += outputs.aminmax()
            if labels.ndim == 2:
                self._single_labels.append(((labels == 1).sum(1) == 1).all())

    def warn_of_outputs(self) -> None:
        """Warn if all logits lie in [0, 1]."""
        if self._rows < MIN_ROWS:
            return
        lowest, highest = map(float, torch.stack(self._extremes).aminmax())
        if 0 <= lowest < highest <= 1:
            warn(
                "outputs_look_like_probabilities",
                f"All outputs of the first epoch lie between {lowest:.3g} and {highest:.3g}, like "
                "probabilities. If they are, return raw logits: the loss applies the activation itself. If "
                "not (for example, cosines), scale them: logits in this range give no confident predictions.",
            )

    def warn_of_labels(self, task: Task) -> None:
        """Warn of multilabel rows that all have exactly one label."""
        several = task.several_labels and task.num_outputs > 1
        if several and self._single_labels and bool(torch.stack(self._single_labels).all()):
            warn_looks_multiclass()
