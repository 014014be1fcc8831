"""The gradients of a chunked head, which are computed with the loss."""

import torch
from torch import Tensor

from lossselect.chunked.linear import ChunkedLogits, product


class Gradients:
    """The gradients of inputs, weight and bias, where they are required, filled block by block."""

    def __init__(self, logits: ChunkedLogits, for_inputs: bool, for_weight: bool, for_bias: bool) -> None:
        inputs, weight, bias = logits.inputs, logits.weight, logits.bias
        self.dtypes = [inputs.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype]
        wide = torch.promote_types(inputs.dtype, torch.float32)
        # sums over several groups of rows, and what float16 cannot hold, are wide until the end
        several_groups = len([*logits.groups()]) > 1
        weight_dtype = wide if several_groups or weight.dtype == torch.float16 else weight.dtype
        new = torch.empty if len(logits) else torch.zeros
        self.inputs = torch.zeros(inputs.shape, dtype=wide, device=inputs.device) if for_inputs else None
        self.weight = new(weight.shape, dtype=weight_dtype, device=weight.device) if for_weight else None
        self.bias = None
        if bias is not None and for_bias:
            self.bias = new(bias.shape, dtype=wide, device=bias.device)

    def scaled(self, upstream: Tensor) -> list[Tensor | None]:
        """Return the gradients times the upstream one, in the dtypes of inputs, weight and bias."""
        is_one = upstream.device.type == "cpu" and upstream.item() == 1  # spares a pass, where a look is free
        pairs = zip((self.inputs, self.weight, self.bias), self.dtypes, strict=True)
        return [g if g is None else (g if is_one else g.mul_(upstream)).to(dtype) for g, dtype in pairs]


class GroupGradients:
    """Adds what the blocks of a group of rows contribute to the gradients."""

    def __init__(self, logits: ChunkedLogits, gradients: Gradients, rows: slice, scale: Tensor) -> None:
        self.logits, self.gradients, self.scale = logits, gradients, scale
        self.is_first_group = rows.start == 0
        self.inputs = logits.cast_inputs(rows)
        self.inputs_gradient = None if gradients.inputs is None else gradients.inputs[rows]

    def add(self, columns: slice, block: Tensor) -> None:
        """Add `block`, the derivative of the loss's numerator by the logits of these columns."""
        gradients, narrow = self.gradients, block.to(self.inputs.dtype)
        if self.inputs_gradient is not None:
            weight = self.logits.cast_weight(columns)
            if narrow.dtype == self.inputs_gradient.dtype:
                self.inputs_gradient.addmm_(narrow, weight)
            else:
                self.inputs_gradient.add_(product(narrow, weight))
        if gradients.weight is not None:
            part = gradients.weight[columns]
            if self.is_first_group and part.dtype == narrow.dtype == block.dtype:
                torch.mm(narrow.t(), self.inputs, out=part).mul_(self.scale)
            else:
                self._put(part, product(narrow.t(), self.inputs))
        if gradients.bias is not None:
            self._put(gradients.bias[columns], block.sum(0))

    def _put(self, part: Tensor, values: Tensor) -> None:
        values = values.mul_(self.scale)
        part.copy_(values) if self.is_first_group else part.add_(values)
