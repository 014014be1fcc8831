"""The loss of a chunked head and its gradients, some outputs at a time: no logits or target of (N, C).

A block of outputs is computed, turned into its gradient while it is in the cache, multiplied back, and
discarded; under softmax a first pass finds the normalisers. The gradients are those that backward returns.
"""

from typing import Any

import torch
from torch import Tensor

from lossselect.chunked.linear import ChunkedLogits, Observer
from lossselect.chunked.sums import Gradients, SigmoidSums, SoftmaxSums, Sums
from lossselect.exceptions import ConfigError, DataError, UnsupportedError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.losses.loss import Loss
from lossselect.losses.options import check_sample_weight
from lossselect.losses.registry import LOSSES, formula_takes

SOFTMAX = ("cross_entropy", "logit_adjusted")
"""Softmax losses that a chunked head supports."""


def chunkable(activation: str) -> list[str]:
    """Return the losses that a chunked head supports: under sigmoid those that are a sum over labels."""
    sigmoid = {name: forms["sigmoid"] for name, forms in LOSSES.items() if "sigmoid" in forms}
    sums = [name for name, formula in sigmoid.items() if "known" not in formula_takes(formula)]
    return {"sigmoid": sums, "softmax": [*SOFTMAX]}[activation]


def check_chunkable(loss: Any) -> None:
    """Raise ValueError if a loss needs all logits at once."""
    known = isinstance(loss, Loss)
    if not known or loss.name not in chunkable(loss.task.activation):
        name = loss.name if known else getattr(loss, "__name__", type(loss).__name__)
        raise ConfigError(
            f"Loss {name!r} needs all logits of a row at once, which a chunked head never has. It takes, "
            f"for multilabel: {', '.join(chunkable('sigmoid'))}; for multiclass: {', '.join(SOFTMAX)}. "
            "head=dense takes any loss."
        )


@torch.compiler.disable  # type: ignore[untyped-decorator] # it would be unrolled block by block
def chunked_loss(
    loss: Loss,
    logits: ChunkedLogits,
    target: Tensor | SparseLabels,
    sample_weight: Tensor | None = None,
    observe: Observer | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of `loss` over these logits, and its numerator and denominator.

    Value and gradients are those of `loss` of the matrix of logits, up to rounding: for a logit z of a label
    y cross-entropy is a softplus(-z) + b softplus(z), a = pos_weight y', b = 1 - y', y' the smoothed label;
    under softmax it is sum_c w_c t'_c (log sum_k exp z_k - z_c). Sums are taken in float32 or wider, whatever
    the dtype of inputs and weight. It is deterministic.

    Args:
        loss: From `select_loss`; see `check_chunkable`.
        logits: From a `ChunkedLinear`.
        target: `SparseLabels` (sigmoid), or class indices (N,), -100 where missing (softmax).
        sample_weight: (N,).
        observe: Called with the rows, the columns and the logits of each block, which it must not change.

    Returns:
        The mean, a scalar in float32 or wider, and without a gradient the numerator and the denominator.
    """
    target = _check_arguments(loss, logits, target, sample_weight)
    kind = SoftmaxSums if loss.task.exclusive else SigmoidSums
    sums = kind(loss, logits, target, sample_weight, observe)
    parts = (logits.inputs, logits.weight, logits.bias)
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in parts):
        mean = PrecomputedGradients.apply(*parts, sums)
    else:
        mean = sums.run()
    return mean, sums.total, sums.count


def _check_arguments(loss: Loss, logits: Any, target: Any, sample_weight: Tensor | None) -> Any:
    """Return the target in the form that `Sums` takes."""
    check_chunkable(loss)
    if loss.reduction != "mean":
        raise ConfigError(
            f"A chunked head makes the mean, and with it numerator and denominator; the loss has "
            f"reduction={loss.reduction!r}."
        )
    loss.check_inputs(logits, sample_weight)
    if sample_weight is not None and sample_weight.device.type == "cpu":
        check_sample_weight(sample_weight)
    if loss.task.exclusive:
        if isinstance(target, SparseLabels):
            raise ConfigError(
                f"SparseLabels are a target of task=multilabel: {loss.task} takes class indices."
            )
        target = loss.task.check_target(target, logits)
        if target.is_floating_point():
            raise ConfigError(
                "A chunked head takes class indices (N,), no soft labels: head=dense takes them."
            )
        loss.task.check_values(target)
        return target
    target = target if isinstance(target, SparseLabels) else SparseLabels.from_dense(target)
    if target.shape != logits.shape:
        raise DataError(
            f"For outputs of shape {tuple(logits.shape)} the target is of shape {tuple(logits.shape)}, got "
            f"{tuple(target.shape)}."
        )
    if target.device != logits.device:
        raise ConfigError(f"The outputs are on {logits.device}, the target is on {target.device}. Move one.")
    return target


class PrecomputedGradients(torch.autograd.Function):
    """The mean of a loss, whose gradients are computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, sums: Sums) -> Tensor:
        ctx.gradients = Gradients(sums.logits, sums.count, *ctx.needs_input_grad[:3])
        return sums.run(ctx.gradients)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "A chunked head has no second derivative (create_graph=True): head=dense has."
            )
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise UnsupportedError(
                "The gradients of a chunked head are handed over once: compute the loss again for a second "
                "backward, or use head=dense."
            )
        return (*gradients.scaled(upstream), None)
