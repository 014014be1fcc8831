"""The sums of a chunked head's loss, some outputs at a time."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lossselect.chunked.gradients import Gradients, GroupGradients
from lossselect.chunked.linear import ChunkedLogits, Observer, flatten_block
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.registry import IGNORE_INDEX

if TYPE_CHECKING:
    from lossselect.losses.loss import Loss


LINEAR_FROM = 40.0
"""Above it softplus(z) equals z in float64."""


class Sums:
    """Numerator and denominator of a loss over all outputs, computed together with the gradients."""

    def __init__(
        self,
        loss: "Loss",
        logits: ChunkedLogits,
        target: Any,
        sample_weight: Tensor | None,
        observe: Observer | None,
    ) -> None:
        self.loss, self.logits, self.target, self.observe = loss, logits, target, observe
        self.total = torch.zeros((), dtype=torch.float64, device=logits.device)
        known = self._known_rows()
        self.factor = sample_weight if sample_weight is not None else known
        """Weight of each row (N,), 0 where nothing is known; None where all are 1."""
        if self.factor is not None:
            self.factor = self.factor.to(logits.wide)
            if known is not None:
                self.factor = self.factor.masked_fill(~known, 0)
        counts = self._count_rows()
        self.count = (counts if self.factor is None else counts * self.factor).sum()

    def _known_rows(self) -> Tensor | None:
        raise NotImplementedError

    def _count_rows(self) -> Tensor:
        """Return what each row contributes to the denominator, float64 (N,)."""
        raise NotImplementedError

    def _process(self, rows: slice, factor: Tensor | None, gradients: GroupGradients | None) -> None:
        """Add a group of rows to the numerator and the gradients."""
        raise NotImplementedError

    @torch.no_grad()
    def run(self, gradients: Gradients | None) -> Tensor:
        """Return the mean, 0 if nothing counts, and fill in the gradients."""
        scale = torch.where(self.count > 0, 1 / torch.where(self.count > 0, self.count, 1), 0)
        narrow = scale.to(self.logits.wide)
        with torch.autocast(self.logits.device.type, enabled=False):
            for rows in self.logits.groups():
                group = None if gradients is None else GroupGradients(self.logits, gradients, rows, narrow)
                self._process(rows, None if self.factor is None else self.factor[rows], group)
            if gradients is not None and gradients.inputs is not None:
                gradients.inputs.mul_(narrow)
        return (self.total * scale).to(self.logits.wide)

    def _blocks(self, rows: slice, observe: Observer | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Yield the blocks with the loss's offset; `observe` is shown the logits without it."""
        offset = self.loss.offset()
        for columns, block in self.logits.blocks(rows):
            if observe:
                observe(rows, columns, block)
            if offset is not None:
                block.add_(offset[columns])
            yield columns, block

    def _add(self, losses: Tensor, factor: Tensor | None) -> None:
        """Add the losses of rows (n,); those of weight 0 do not count, even if they are not finite."""
        if factor is not None:
            losses = (losses * factor).masked_fill(factor == 0, 0)
        self.total += losses.sum(dtype=torch.float64)


class Places(NamedTuple):
    """Positions of pairs in a block: in its flat memory, by row and by column."""

    flat: Tensor
    rows: Tensor
    columns: Tensor
    inside: Tensor | None
    """Which pairs are in the block, if there may be others."""


class Pairs:
    """Pairs (row, column) of a group of rows, in the order of columns.

    On a CPU the pairs of a block are found by their order. On a device that would make the host wait: there a
    block takes all pairs, and those of other blocks point to its spare element.
    """

    def __init__(self, rows: Tensor, columns: Tensor, logits: ChunkedLogits) -> None:
        self.rows, self.columns, self.chunk = rows, columns, logits.chunk
        if _on_cpu(rows):
            firsts = torch.arange(0, logits.shape[1] + self.chunk, self.chunk)
            self.edges = torch.searchsorted(columns, firsts).tolist()

    @classmethod
    def from_labels(cls, labels: SparseLabels, logits: ChunkedLogits, group: slice) -> "Pairs":
        """Return the pairs of a group, whose rows are counted from its first."""
        rows, columns = labels.coo()
        if group.stop - group.start < len(logits):
            in_group = (rows >= group.start) & (rows < group.stop)
            if _on_cpu(rows):
                rows, columns = rows[in_group], columns[in_group]
            else:
                columns = columns.where(in_group, -1)
            rows = rows - group.start
        return cls(rows, columns, logits)

    @classmethod
    def from_classes(cls, target: Tensor, logits: ChunkedLogits) -> "Pairs":
        """Return the pairs of class indices of a group (n,)."""
        rows, columns = torch.arange(len(target), device=target.device), target
        if _on_cpu(target):
            columns, rows = target.sort(stable=True)
            known = slice(int((target < 0).sum()), None)
            rows, columns = rows[known], columns[known]
        return cls(rows, columns, logits)

    def in_block(self, first: int, block: Tensor) -> Places:
        """Return the places in the block of the columns from `first` on."""
        width = block.shape[1]
        if _on_cpu(block):
            i = first // self.chunk
            pairs = slice(self.edges[i], self.edges[i + 1])
            rows, columns = self.rows[pairs], self.columns[pairs] - first
            return Places(rows * width + columns, rows, columns, None)
        columns = self.columns - first
        inside = (columns >= 0) & (columns < width)
        columns = columns.clamp(0, width - 1)
        return Places((self.rows * width + columns).where(inside, block.numel()), self.rows, columns, inside)


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


class SigmoidSums(Sums):
    """Sums over the labels: cross-entropy in closed form, other losses by autograd of each block.

    Cross-entropy of a logit z is a softplus(-z) + b softplus(z), a = p y', b = 1 - y', p the pos_weight and
    y' = (1 - e) y + e / 2; its gradient is (a + b) sigmoid(z) - a. A block is computed as if all labels were
    negative; the values of positive labels are then put in place.
    """

    target: SparseLabels

    def _known_rows(self) -> Tensor | None:
        return None if self.target.missing is None else ~self.target.missing

    def _count_rows(self) -> Tensor:
        rows, width = self.logits.shape
        counts = torch.full((rows,), width, dtype=torch.float64, device=self.logits.device)
        return counts if self.target.unknown is None else counts - self.target.unknown.count_per_row()

    def _process(self, rows: slice, factor: Tensor | None, gradients: GroupGradients | None) -> None:
        unknown = self.target.unknown
        closed_form = self.loss.name == "cross_entropy"
        if closed_form:
            positive_pairs = Pairs.from_labels(self.target, self.logits, rows)
            unknown_pairs = None if unknown is None else Pairs.from_labels(unknown, self.logits, rows)
        for columns, block in self._blocks(rows, self.observe):
            if closed_form:
                positives = positive_pairs.in_block(columns.start, block)
                gaps = None if unknown_pairs is None else unknown_pairs.in_block(columns.start, block).flat
                losses = self._cross_entropy(columns, block, positives, gaps, gradients is not None)
            else:
                target = self.target.to_dense(columns.start, columns.stop, block.dtype)[rows]
                losses, block = self._by_autograd(columns, block, target, gradients is not None)
            self._add(losses, factor)
            if gradients is not None:
                gradients.add(columns, block if factor is None else block.mul_(factor.unsqueeze(1)))

    def _cross_entropy(
        self, columns: slice, block: Tensor, positives: Places, unknown: Tensor | None, with_gradient: bool
    ) -> Tensor:
        """Return the loss of each row (n,); replace the block by its gradient if that is required."""
        e = float(self.loss.label_smoothing)
        weight, p = (
            None if values is None else values[columns].to(self.logits.wide)
            for values in (self.loss.weight, self.loss.pos_weight)
        )
        a: float | Tensor = e / 2 if p is None else p * (e / 2)
        b = 1 - e / 2
        flat = flatten_block(block)
        z = flat[positives.flat]
        positive_weight: Tensor | float = 1.0 if weight is None else weight[positives.columns]
        positive_a = positive_weight * ((1 - e / 2) if p is None else p[positives.columns] * (1 - e / 2))
        positive_b = positive_weight * (e / 2)

        flat_losses = _softplus(flat)
        losses = flat_losses[:-1].view(block.shape)
        if e:
            losses.mul_(b).add_(_softplus(-block).mul_(a))
        if weight is not None:
            losses.mul_(weight)
        flat_losses[positives.flat] = positive_a * _softplus(-z) + positive_b * _softplus(z)
        if unknown is not None:
            flat_losses.index_fill_(0, unknown, 0)
        if with_gradient:
            block.sigmoid_()
            if e:
                block.mul_(a + b).sub_(a)
            if weight is not None:
                block.mul_(weight)
            # for z far above 0 the sigmoid rounds to 1; sigmoid(-z) keeps the difference
            flat[positives.flat] = positive_b * z.sigmoid() - positive_a * (-z).sigmoid()
            if unknown is not None:
                flat.index_fill_(0, unknown, 0)
        return losses.sum(1)

    def _by_autograd(
        self, columns: slice, block: Tensor, target: Tensor, with_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of each row (n,) and, if it is required, the gradient of the block."""
        with torch.enable_grad():
            leaf = block.detach().requires_grad_(with_gradient)
            losses, _, missing = self.loss._sigmoid(leaf, target, columns)
            losses = (losses if missing is None else losses.masked_fill(missing, 0)).sum(1)
            gradient = torch.autograd.grad(losses.sum(), leaf)[0] if with_gradient else block
        return losses.detach(), gradient


def _softplus(z: Tensor) -> Tensor:
    """Return log(1 + exp z)."""
    return softplus(z, threshold=LINEAR_FROM)


class SoftmaxSums(Sums):
    """Cross-entropy of the true classes; a first pass over the blocks finds each row's normaliser.

    With m the largest logit, s = sum_c exp(z_c - m), w the classes' weights, e the smoothing, y the true
    class, t = (1 - e) w_y and u = e / C, a row's loss is t (m - z_y + log s) + u sum_c w_c (m - z_c + log s),
    and its gradient (t + u sum_c w_c) exp(z_c - m) / s - u w_c - t [c = y].
    """

    target: Tensor

    def _known_rows(self) -> Tensor | None:
        missing = self.target == IGNORE_INDEX
        return None if _on_cpu(missing) and not bool(missing.any()) else ~missing

    def _count_rows(self) -> Tensor:
        weight = self.loss.weight
        if weight is None:
            self.true_weight = torch.ones(len(self.target), dtype=self.logits.wide, device=self.logits.device)
        else:
            self.true_weight = weight.to(self.logits.wide)[self.target.clamp(min=0)]
        return self.true_weight.double()

    def _process(self, rows: slice, factor: Tensor | None, gradients: GroupGradients | None) -> None:
        e, width, wide = float(self.loss.label_smoothing), self.logits.shape[1], self.logits.wide
        weight = None if self.loss.weight is None else self.loss.weight.to(wide)
        t, u = (1 - e) * self.true_weight[rows], e / width
        weight_sum = float(width) if weight is None else weight.sum()
        pairs = Pairs.from_classes(self.target[rows], self.logits)

        m, s = torch.full_like(t, -torch.inf), torch.zeros_like(t)
        true_logits, weighted_sums = torch.zeros_like(t), torch.zeros_like(t)
        block = torch.empty(0)
        for columns, block in self._blocks(rows, self.observe):
            higher = torch.maximum(m, block.amax(1))
            s = s * (m - higher).exp() + (block - higher.unsqueeze(1)).exp_().sum(1)
            m = higher
            places = pairs.in_block(columns.start, block)
            values = flatten_block(block)[places.flat]
            values = values if places.inside is None else values.where(places.inside, 0)
            true_logits.index_add_(0, places.rows, values)
            if e:
                weighted_sums += block.sum(1) if weight is None else block @ weight[columns]
        losses = t * ((m - true_logits) + s.log())
        if e:
            losses = losses + u * ((weight_sum * m - weighted_sums) + weight_sum * s.log())
        self._add(losses, factor)
        if gradients is None:
            return
        share = (t + u * weight_sum) / s
        if factor is not None:
            share, t = (share * factor).masked_fill(factor == 0, 0), t * factor
        is_single = self.logits.chunk >= width  # then the block still holds the logits
        blocks = [(slice(0, width), block)] if is_single else self._blocks(rows)
        for columns, block in blocks:
            block.sub_(m.unsqueeze(1)).exp_().mul_(share.unsqueeze(1))
            if e:
                part = torch.full_like(block[0], u) if weight is None else weight[columns] * u
                block.sub_(part if factor is None else factor.unsqueeze(1) * part)
            places = pairs.in_block(columns.start, block)
            flatten_block(block).index_add_(0, places.flat, -t[places.rows])
            gradients.add(columns, block)
