"""The numerator, the denominator and the gradients of a chunked head's loss, computed in blocks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lossselect.chunked.linear import ChunkedLogits, Observer, flatten_block, product
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.losses.loss import Loss, safe_divide
from lossselect.tasks.registry import IGNORE_INDEX


class Gradients:
    """The required gradients of inputs, weight and bias, filled block by block."""

    def __init__(
        self, logits: ChunkedLogits, count: Tensor, for_inputs: bool, for_weight: bool, for_bias: bool
    ) -> None:
        self.logits, wide = logits, logits.wide
        self.scale = safe_divide(torch.ones_like(count), count).to(wide)
        inputs, weight, bias = self.parts = logits.inputs, logits.weight, logits.bias
        # in the dtype of the weight, sums over groups would lose precision, and float16 would overflow
        is_wide = weight.dtype == torch.float16 or len([*logits.groups()]) > 1
        dtype = wide if is_wide else weight.dtype
        self.inputs = torch.zeros_like(inputs, dtype=wide) if for_inputs else None
        self.weight = torch.empty_like(weight, dtype=dtype) if for_weight else None
        self.bias = torch.empty_like(bias, dtype=wide) if for_bias and bias is not None else None

    def add(self, rows: slice, columns: slice, block: Tensor) -> None:
        """Add the contribution of a block; `block` is the derivative of the numerator by its logits."""
        narrow = block.to(self.logits.dtype)
        if self.inputs is not None:
            values = product(narrow, self.logits.cast_weight(columns))
            self.inputs[rows].addcmul_(values, self.scale)
        if self.weight is not None:
            self._add(self.weight[columns], rows, product(narrow.t(), self.logits.cast_inputs(rows)))
        if self.bias is not None:
            self._add(self.bias[columns], rows, block.sum(0))

    def _add(self, part: Tensor, rows: slice, values: Tensor) -> None:
        if rows.start == 0:
            torch.mul(values, self.scale, out=part)  # the first group; `part` is uninitialised
        else:
            part.addcmul_(values, self.scale)

    def scaled(self, upstream: Tensor) -> list[Tensor | None]:
        """Return the gradients times the upstream one, in the dtypes of inputs, weight and bias."""
        is_one = (
            upstream.device.type == "cpu" and upstream.item() == 1
        )  # saves a pass; only on a CPU is this check free
        pairs = zip((self.inputs, self.weight, self.bias), self.parts, strict=True)
        return [g if g is None else (g if is_one else g.mul_(upstream)).to(part) for g, part in pairs]


class Sums(ABC):
    """Numerator and denominator of a loss over all outputs, computed together with the gradients."""

    def __init__(
        self,
        loss: Loss,
        logits: ChunkedLogits,
        target: Any,
        sample_weight: Tensor | None,
        observe: Observer | None,
    ) -> None:
        self.loss, self.logits, self.target, self.observe = loss, logits, target, observe
        missing, counts = self._count_rows()
        self.weighted = sample_weight is not None or missing is not None
        self.factor = torch.ones_like(counts) if sample_weight is None else sample_weight
        """Weight of each row (N,), 0 for rows without labels."""
        self.factor = self.factor.to(logits.wide)
        if missing is not None:
            self.factor = self.factor.masked_fill(missing, 0)
        self.total = counts.new_zeros(())
        self.count = (counts * self.factor).sum()

    @abstractmethod
    def _count_rows(self) -> tuple[Tensor | None, Tensor]:
        """Return the mask of missing rows (N,), and each row's part of the denominator (N,), in float64."""

    @abstractmethod
    def _process(self, rows: slice, gradients: Gradients | None) -> None:
        """Add a group of rows to the numerator and the gradients."""

    @torch.no_grad()
    def run(self, gradients: Gradients | None = None) -> Tensor:
        """Return the mean, or 0 if the denominator is 0, and fill the gradients."""
        with torch.autocast(self.logits.device.type, enabled=False):
            for rows in self.logits.groups():
                self._process(rows, gradients)
        return safe_divide(self.total, self.count).to(self.logits.wide)

    def _blocks(self, rows: slice, observe: Observer | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Yield the blocks with the offset of the loss; `observe` receives the logits without it."""
        offset = self.loss.offset()
        for columns, block in self.logits.blocks(rows):
            if observe:
                observe(rows, columns, block)
            if offset is not None:
                block.add_(offset[columns])
            yield columns, block

    def _add(self, rows: slice, losses: Tensor) -> None:
        """Add the losses of rows (n,); rows of weight 0 are ignored even if their loss is not finite."""
        factor = self.factor[rows]
        self.total += (losses * factor).masked_fill(factor == 0, 0).sum(dtype=torch.float64)


def find_labels(labels: SparseLabels, rows: slice, columns: slice, block: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of labels in the memory of a block, and their columns.

    On a CPU only labels in the block's columns are returned. Elsewhere, selecting them would make the host
    wait, so all labels are returned. Labels outside the block have the position of the spare element.
    """
    label_rows, label_columns = labels.coo()  # in the order of columns
    if _on_cpu(block):
        bounds = torch.tensor([columns.start, columns.stop])
        start, stop = torch.searchsorted(label_columns, bounds).tolist()
        label_rows, label_columns = label_rows[start:stop], label_columns[start:stop]
    inside = (label_columns >= columns.start) & (label_columns < columns.stop)
    inside &= (label_rows >= rows.start) & (label_rows < rows.stop)
    places = (label_rows - rows.start) * block.shape[1] + label_columns - columns.start
    return places.where(inside, block.numel()), label_columns


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


class SigmoidSums(Sums):
    """Sums over labels: cross-entropy in closed form, other losses by autograd of each block.

    Cross-entropy of a logit z is a softplus(-z) + b softplus(z) with a = p y' and b = 1 - y', where p is
    pos_weight and y' = (1 - e) y + e / 2 the smoothed label. Its gradient is (a + b) sigmoid(z) - a. A block
    is first computed as if all labels were negative; then the values of positive labels are corrected.
    """

    target: SparseLabels

    def _count_rows(self) -> tuple[Tensor | None, Tensor]:
        rows, width = self.logits.shape
        counts = torch.full((rows,), width, dtype=torch.float64, device=self.logits.device)
        unknown = self.target.unknown
        return self.target.missing, counts if unknown is None else counts - unknown.count_per_row()

    def _process(self, rows: slice, gradients: Gradients | None) -> None:
        compute = self._cross_entropy if self.loss.name == "cross_entropy" else self._by_autograd
        for columns, block in self._blocks(rows, self.observe):
            losses, gradient = compute(rows, columns, block, gradients is not None)
            self._add(rows, losses)
            if gradients is not None:
                weighted = gradient.mul_(self.factor[rows].unsqueeze(1)) if self.weighted else gradient
                gradients.add(rows, columns, weighted)

    def _cross_entropy(
        self, rows: slice, columns: slice, block: Tensor, with_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of each row (n,), and the block, which contains its gradient if it is required."""
        e, has_weight = self.loss.label_smoothing, self.loss.weight is not None
        places, labels = find_labels(self.target, rows, columns, block)
        weight, p = self._weights(columns)
        label_weight, label_p = self._weights(labels)
        a, b = p * (e / 2), 1 - e / 2
        label_a, label_b = label_weight * label_p * (1 - e / 2), label_weight * (e / 2)
        unknown = self.target.unknown
        unknown_places = None if unknown is None else find_labels(unknown, rows, columns, block)[0]
        flat = flatten_block(block)
        z = flat[places]

        flat_losses = _softplus(flat)
        losses = flat_losses[:-1].view(block.shape)
        if e:
            losses.mul_(b).add_(_softplus(-block).mul_(a))
        if has_weight:
            losses.mul_(weight)
        flat_losses[places] = label_a * _softplus(-z) + label_b * _softplus(z)
        if unknown_places is not None:
            flat_losses.index_fill_(0, unknown_places, 0)
        if with_gradient:
            block.sigmoid_()
            if e:
                block.mul_(a + b).sub_(a)
            if has_weight:
                block.mul_(weight)
            # for large z sigmoid(z) rounds to 1; sigmoid(-z) is the difference from 1 without rounding
            flat[places] = label_b * z.sigmoid() - label_a * (-z).sigmoid()
            if unknown_places is not None:
                flat.index_fill_(0, unknown_places, 0)
        return losses.sum(1), block

    def _weights(self, labels: slice | Tensor) -> list[Any]:
        """Return weight and pos_weight of some labels, 1 where the loss has no weight."""
        pair, wide = (self.loss.weight, self.loss.pos_weight), self.logits.wide
        return [1.0 if values is None else values[labels].to(wide) for values in pair]

    def _by_autograd(
        self, rows: slice, columns: slice, block: Tensor, with_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of each row (n,) and, if it is required, the gradient of the block."""
        target = self.target.to_dense(columns.start, columns.stop, block.dtype)[rows]
        with torch.enable_grad():
            leaf = block.detach().requires_grad_(with_gradient)
            losses, _, missing = self.loss._sigmoid(leaf, target, columns)
            losses = (losses if missing is None else losses.masked_fill(missing, 0)).sum(1)
            gradient = torch.autograd.grad(losses.sum(), leaf)[0] if with_gradient else block
        return losses.detach(), gradient


def _softplus(z: Tensor) -> Tensor:
    """Return log(1 + exp z); above the threshold it equals z in float64."""
    return softplus(z, threshold=40.0)


class SoftmaxSums(Sums):
    """Cross-entropy of the true classes; a first pass over the blocks computes each row's normaliser.

    With the largest logit m, s = sum_c exp(z_c - m), class weights w, smoothing e, true class y,
    t = (1 - e) w_y and u = e / C, the loss of a row is t (m - z_y + log s) + u sum_c w_c (m - z_c + log s).
    Its gradient is (t + u sum_c w_c) exp(z_c - m) / s - u w_c - t [c = y].
    """

    target: Tensor

    def _count_rows(self) -> tuple[Tensor | None, Tensor]:
        weight, target = self.loss.weight, self.target
        true_weight = torch.ones_like(target) if weight is None else weight[target.clamp(min=0)]
        self.true_weight = true_weight.to(self.logits.wide)
        return target == IGNORE_INDEX, self.true_weight.double()

    def _process(self, rows: slice, gradients: Gradients | None) -> None:
        e, width, wide = self.loss.label_smoothing, self.logits.shape[1], self.logits.wide
        weight = None if self.loss.weight is None else self.loss.weight.to(wide)
        target, factor = self.target[rows], self.factor[rows]
        t, u = (1 - e) * self.true_weight[rows], e / width
        weight_sum = float(width) if weight is None else weight.sum()

        def find_true(columns: slice, block: Tensor) -> Tensor:
            """Return the positions of the true logits in a block, or of the spare element if outside."""
            places = torch.arange(len(target), device=target.device) * block.shape[1] + target - columns.start
            return places.where((target >= columns.start) & (target < columns.stop), block.numel())

        m, s = torch.full_like(t, -torch.inf), torch.zeros_like(t)
        true_logits, weighted_sums = torch.zeros_like(t), torch.zeros_like(t)
        block = torch.empty(0)
        for columns, block in self._blocks(rows, self.observe):
            higher = torch.maximum(m, block.amax(1))
            s = s * (m - higher).exp() + (block - higher.unsqueeze(1)).exp_().sum(1)
            m = higher
            flat = flatten_block(block)
            flat[-1].zero_()
            true_logits += flat[find_true(columns, block)]
            if e:
                weighted_sums += block.sum(1) if weight is None else block @ weight[columns]
        losses = t * ((m - true_logits) + s.log())
        if e:
            losses = losses + u * ((weight_sum * m - weighted_sums) + weight_sum * s.log())
        self._add(rows, losses)
        if gradients is None:
            return
        scale, t = ((t + u * weight_sum) / s * factor).masked_fill(factor == 0, 0), t * factor
        is_single = self.logits.chunk >= width  # then the block still contains the logits
        blocks = [(slice(0, width), block)] if is_single else self._blocks(rows)
        for columns, block in blocks:
            block.sub_(m.unsqueeze(1)).exp_().mul_(scale.unsqueeze(1))
            if e:
                part = block.new_full((block.shape[1],), u) if weight is None else weight[columns] * u
                block.addr_(factor, part, alpha=-1)
            flatten_block(block).index_add_(0, find_true(columns, block), -t)
            gradients.add(rows, columns, block)
