"""The loss of a chunked head and its gradients, computed in blocks without logits or targets of shape (N, C).

Each block of logits is computed, replaced with its gradient while it is in the cache, multiplied with inputs
and weight, and discarded. For softmax, a first pass over the blocks computes the normalisers. backward
returns the gradients that forward has computed.
"""

from typing import Any

import torch
from torch import Tensor

from lossselect.chunked.linear import ChunkedLogits, Observer
from lossselect.chunked.options import check_chunkable
from lossselect.chunked.sums import Gradients, SigmoidSums, SoftmaxSums, Sums
from lossselect.exceptions import ConfigError, DataError, UnsupportedError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.losses.loss import Loss
from lossselect.losses.options import check_sample_weight


@torch.compiler.disable  # type: ignore[untyped-decorator] # the compiler would unroll the loop over blocks
def chunked_loss(
    loss: Loss,
    logits: ChunkedLogits,
    target: Tensor | SparseLabels,
    sample_weight: Tensor | None = None,
    observe: Observer | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of `loss` over the logits, and its numerator and denominator.

    Value and gradients equal those of `loss` for the dense logits, up to rounding. For a logit z with label
    y, sigmoid cross-entropy is a softplus(-z) + b softplus(z) with a = pos_weight y', b = 1 - y' and the
    smoothed label y'. Softmax cross-entropy is sum_c w_c t'_c (log sum_k exp z_k - z_c). Sums are computed in
    float32 or wider, for any dtype of inputs and weight. The result is deterministic.

    Args:
        loss: Loss that `select_loss` returned; see `lossselect.chunked.options.chunkable`.
        logits: Logits that a `ChunkedLinear` returned.
        target: `SparseLabels` (sigmoid), or class indices (N,), -100 where missing (softmax).
        sample_weight: Weight of each row (N,), >= 0.
        observe: Called with the rows, the columns and the logits of each block, which it must not change.

    Returns:
        The mean, a scalar in float32 or wider, then the numerator and the denominator without a gradient.

    Raises:
        ConfigError: the loss, its reduction or the type of the target is not supported.
        DataError: shape or values of the target do not fit the task.
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
    """Return the target in the form that `Sums` requires."""
    check_chunkable(loss)
    if loss.reduction != "mean":
        raise ConfigError(
            f"A chunked head supports only reduction='mean', got {loss.reduction!r}. Set reduction='mean', "
            "or head=dense."
        )
    loss.check_inputs(logits, sample_weight)
    if sample_weight is not None and sample_weight.device.type == "cpu":
        check_sample_weight(sample_weight)
    if loss.task.exclusive:
        if isinstance(target, SparseLabels):
            raise ConfigError(
                f"SparseLabels require task=multilabel, but the task is {loss.task}. Pass class indices of "
                "shape (N,)."
            )
        target = loss.task.check_target(target, logits)
        if target.is_floating_point():
            raise ConfigError(
                "A chunked head does not support soft labels. Pass class indices of shape (N,), or set "
                "head=dense."
            )
        loss.task.check_values(target)
        return target
    target = target if isinstance(target, SparseLabels) else SparseLabels.from_dense(target)
    if target.shape != logits.shape:
        raise DataError(
            f"Expected a target of shape {tuple(logits.shape)}, like the logits, got {tuple(target.shape)}."
        )
    if target.device != logits.device:
        raise ConfigError(
            f"The logits are on {logits.device}, but the target is on {target.device}. Pass "
            f"target.to({str(logits.device)!r})."
        )
    return target


class PrecomputedGradients(torch.autograd.Function):
    """Mean of a loss whose gradients are computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, sums: Sums) -> Tensor:
        ctx.gradients = Gradients(sums.logits, sums.count, *ctx.needs_input_grad[:3])
        return sums.run(ctx.gradients)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "A chunked head does not support second derivatives (create_graph=True). Set head=dense."
            )
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise UnsupportedError(
                "A chunked head supports only one backward for each loss. Compute the loss again, or set "
                "head=dense."
            )
        return (*gradients.scaled(upstream), None)
