"""The gradients of a chunked head, which are computed with the loss."""

import torch
from torch import Tensor

from lossselect.chunked.linear import ChunkedLogits, product


class Gradients:
    """Those of inputs, weight and bias, where they are wanted, filled block by block."""

    def __init__(self, logits: ChunkedLogits, of_inputs: bool, of_weight: bool, of_bias: bool) -> None:
        inputs, weight, bias = logits.inputs, logits.weight, logits.bias
        self.dtypes = [inputs.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype]
        wide = torch.promote_types(inputs.dtype, torch.float32)
        # sums over several groups of rows, and what float16 cannot hold, are wide until the end
        of = wide if len([*logits.groups()]) > 1 or weight.dtype == torch.float16 else weight.dtype
        new = torch.empty if len(logits) else torch.zeros
        self.inputs = torch.zeros(inputs.shape, dtype=wide, device=inputs.device) if of_inputs else None
        self.weight = new(weight.shape, dtype=of, device=weight.device) if of_weight else None
        self.bias = None
        if bias is not None and of_bias:
            self.bias = new(bias.shape, dtype=wide, device=bias.device)

    def times(self, upstream: Tensor) -> list[Tensor | None]:
        """In the dtypes of what they are of, times what comes from above."""
        one = upstream.device.type == "cpu" and upstream.item() == 1  # spares a pass, where a look is free
        each = zip((self.inputs, self.weight, self.bias), self.dtypes, strict=True)
        return [g if g is None else (g if one else g.mul_(upstream)).to(dtype) for g, dtype in each]


class Back:
    """Takes the gradients of blocks of logits of some rows back to inputs, weight and bias."""

    def __init__(self, logits: ChunkedLogits, made: Gradients, rows: slice, scale: Tensor) -> None:
        self.made, self.scale, self.first_rows = made, scale, rows.start == 0
        inputs, self.weight = logits.operands()
        self.inputs = inputs[rows]
        self.of_inputs = None if made.inputs is None else made.inputs[rows]

    def __call__(self, first: int, end: int, block: Tensor) -> None:
        """`block` is d numerator / d logits (n, end - first)."""
        made, narrow = self.made, block.to(self.inputs.dtype)
        if self.of_inputs is not None:
            if narrow.dtype == self.of_inputs.dtype:
                self.of_inputs.addmm_(narrow, self.weight(first, end))
            else:
                self.of_inputs.add_(product(narrow, self.weight(first, end)))
        if made.weight is not None:
            place = made.weight[first:end]
            if self.first_rows and place.dtype == narrow.dtype == block.dtype:
                torch.mm(narrow.t(), self.inputs, out=place).mul_(self.scale)
            else:
                self._put(place, product(narrow.t(), self.inputs))
        if made.bias is not None:
            self._put(made.bias[first:end], block.sum(0))

    def _put(self, place: Tensor, part: Tensor) -> None:
        part = part.mul_(self.scale)
        place.copy_(part) if self.first_rows else place.add_(part)
