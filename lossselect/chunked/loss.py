"""The loss of a chunked head and its gradients, some outputs at a time: no logits or target of (N, C).

With a million outputs the logits of a batch take more memory than everything else, the target as much
again, and most of the time goes into moving them about. Here a block of outputs is made, turned into its
gradient while it is in the cache, multiplied back, and forgotten. Under softmax a first pass finds the
normalisers. The gradients are made in the forward pass; backward hands them over.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lossselect.chunked.gradients import Gradients
from lossselect.chunked.linear import ChunkedLogits
from lossselect.chunked.sums import SigmoidSums, SoftmaxSums, Sums
from lossselect.exceptions import ConfigError, DataError, UnsupportedError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.losses.options import check_sample_weight
from lossselect.losses.registry import LOSSES, formula_takes

if TYPE_CHECKING:
    from lossselect.losses.loss import Loss


SOFTMAX = ("cross_entropy", "logit_adjusted")
"""Softmax losses that a chunked head takes."""


def chunkable(activation: str) -> list[str]:
    """The losses that a chunked head takes: under sigmoid those that are a sum over labels."""
    sums = [
        name
        for name, forms in LOSSES.items()
        if "sigmoid" in forms and "known" not in formula_takes(forms["sigmoid"])
    ]
    return {"sigmoid": sums, "softmax": [*SOFTMAX]}[activation]


def check_chunkable(loss: Any) -> None:
    """ValueError where a loss needs all logits at once."""
    from lossselect.losses.loss import Loss

    ours = isinstance(loss, Loss)
    if not ours or loss.name not in chunkable(loss.task.activation):
        named = loss.name if ours else getattr(loss, "__name__", type(loss).__name__)
        raise ConfigError(
            f"Loss {named!r} needs all logits of a row at once, which a chunked head never has. It takes, "
            f"for multilabel: {', '.join(chunkable('sigmoid'))}; for multiclass: {', '.join(SOFTMAX)}. "
            "head=dense takes any loss."
        )


@torch.compiler.disable  # type: ignore[untyped-decorator] # it would be unrolled block by block
def chunked_loss(
    loss: "Loss",
    logits: ChunkedLogits,
    target: "Tensor | SparseLabels",
    sample_weight: Tensor | None = None,
    look: Callable[[slice, int, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean that `loss` has of these logits, and its numerator and denominator, to be added up.

    Value and gradients are those of `loss` of the matrix of logits, up to rounding: of a logit z of a label
    y cross-entropy is a softplus(-z) + b softplus(z), a = pos_weight y', b = 1 - y', y' the smoothed label;
    under softmax it is sum_c w_c t'_c (log sum_k exp z_k - z_c). Sums are taken in float32 or wider, whatever
    the dtype of inputs and weight. It is deterministic.

    Args:
        loss: Of `select_loss`; see `check_chunkable`.
        logits: Of a `ChunkedLinear`.
        target: `SparseLabels` (sigmoid), or class indices (N,), -100 where missing (softmax).
        sample_weight: (N,).
        look: Is shown each block of logits: which rows, the first column, and the block, to be left as it is.

    Returns:
        The mean, a scalar in float32 or wider, and without a gradient the numerator and the denominator.

    Raises:
        ValueError: a loss that needs all logits at once, or has another reduction; a target or weight of
            another shape or device; on a CPU a value that no canonical target or weight has.

    Example:
        >>> from lossselect import Multilabel, SparseLabels, select_loss
        >>> from lossselect.chunked import ChunkedLinear
        >>> head, task = ChunkedLinear(8, 1000), Multilabel(1000)
        >>> target = SparseLabels.from_csr(indices=[3, 999, 5], indptr=[0, 2, 3], num_labels=1000)
        >>> mean, total, count = chunked_loss(select_loss(task), head(torch.zeros(2, 8)), target)
        >>> mean.backward()
        >>> int(count)
        2000
    """
    target = _checked(loss, logits, target, sample_weight)
    made = SoftmaxSums if loss.task.exclusive else SigmoidSums
    sums = made(loss, logits, target, sample_weight, look)
    parts = (logits.inputs, logits.weight, logits.bias)
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in parts):
        mean = PrecomputedGradients.apply(*parts, sums)
    else:
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            mean = sums.run(None)
    return mean, sums.total.detach(), sums.count


def _checked(loss: "Loss", logits: ChunkedLogits, target: Any, sample_weight: Tensor | None) -> Any:
    """The target in the form that is taken."""
    check_chunkable(loss)
    loss.check_counted()
    loss.check_devices(logits.device)
    if loss.reduction != "mean":
        raise ConfigError(
            f"A chunked head makes the mean, and with it numerator and denominator; the loss has "
            f"reduction={loss.reduction!r}."
        )
    if logits.shape[1] != loss.task.num_outputs:
        raise ConfigError(
            f"The head has {logits.shape[1]} outputs, but {loss.task} needs "
            f"{loss.task.num_outputs}. Build it with task.num_outputs."
        )
    rows = logits.shape[:1]
    if not loss.task.exclusive:
        target = target if isinstance(target, SparseLabels) else SparseLabels.from_dense(target)
        expected = logits.shape
    elif isinstance(target, Tensor) and not target.is_floating_point():
        loss.task.check_values(target)
        expected = rows
    else:
        if isinstance(target, SparseLabels):
            raise ConfigError(
                f"SparseLabels are a target of task=multilabel: {loss.task} takes class indices."
            )
        raise ConfigError("A chunked head takes class indices (N,), no soft labels: head=dense takes them.")
    if target.shape != expected:
        raise DataError(
            f"For outputs of shape {tuple(logits.shape)} the target is of shape {tuple(expected)}, got "
            f"{tuple(target.shape)}."
        )
    if target.device != logits.device:
        raise ConfigError(f"The outputs are on {logits.device}, the target is on {target.device}. Move one.")
    if sample_weight is not None:
        if sample_weight.shape != rows:
            raise ConfigError(
                f"With a chunked head a weight is one of a row, (N,), got {tuple(sample_weight.shape)}."
            )
        if sample_weight.device.type == "cpu":
            check_sample_weight(sample_weight)
    return target


class PrecomputedGradients(torch.autograd.Function):
    """Gradients made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, sums: "Sums") -> Tensor:
        ctx.made = Gradients(sums.logits, *ctx.needs_input_grad[:3])
        with torch.autocast(inputs.device.type, enabled=False):
            return sums.run(ctx.made)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "A chunked head has no second derivative (create_graph=True): head=dense has."
            )
        made, ctx.made = ctx.made, None
        if made is None:
            raise UnsupportedError(
                "The gradients of a chunked head are handed over once: compute the loss again for a second "
                "backward, or use head=dense."
            )
        return (*made.times(upstream), None)
