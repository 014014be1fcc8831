"""The sums of a chunked head's loss, some outputs at a time."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lossselect.chunked.gradients import Back, Gradients
from lossselect.chunked.linear import ChunkedLogits, flat_of
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.tasks.registry import IGNORE_INDEX

if TYPE_CHECKING:
    from lossselect.losses.loss import Loss


LINEAR_FROM = 40.0
"""Above it softplus(z) is z: float64 knows no difference."""


class Sums:
    """Numerator and denominator of a loss over all outputs, and with them the gradients."""

    def __init__(
        self,
        loss: "Loss",
        logits: ChunkedLogits,
        target: Any,
        sample_weight: Tensor | None,
        look: Callable[[slice, int, Tensor], None] | None,
    ) -> None:
        self.loss, self.logits, self.target, self.look = loss, logits, target, look
        self.wide = torch.promote_types(
            torch.promote_types(logits.inputs.dtype, logits.weight.dtype), torch.float32
        )
        self.total = torch.zeros((), dtype=torch.float64, device=logits.device)
        known = self._known()
        self.factor = None if known is None else known.to(self.wide)
        """Of each row (N,): its weight, 0 where nothing is known; None where all are 1."""
        if sample_weight is not None:
            self.factor = sample_weight.to(self.wide)
            if known is not None:
                self.factor = self.factor.masked_fill(~known, 0)
        self.count = self._count()

    def _known(self) -> Tensor | None:
        raise NotImplementedError

    def _count(self) -> Tensor:
        raise NotImplementedError

    def _rows(self, rows: slice, back: Back | None) -> None:
        raise NotImplementedError

    def run(self, made: Gradients | None) -> Tensor:
        """The mean; 0 where nothing counts."""
        scale = torch.where(self.count > 0, 1 / torch.where(self.count > 0, self.count, 1), 0)
        narrow = scale.to(self.wide)
        for rows in self.logits.groups():
            self._rows(rows, None if made is None else Back(self.logits, made, rows, narrow))
        if made is not None and made.inputs is not None:
            made.inputs.mul_(narrow)
        return (self.total * scale).to(self.wide)

    def _add(self, losses: Tensor, factor: Tensor | None) -> None:
        """Losses of rows (n,); of a row without a weight nothing counts, whatever it is."""
        if factor is not None:
            losses = (losses * factor).masked_fill(factor == 0, 0)
        self.total += losses.sum(dtype=torch.float64)


class Pairs:
    """Places (row, column) of some rows, in order of columns, of which a block has some.

    On a CPU these are found by their order. On a device that would make it wait: there a block takes all of
    them, those of other blocks at a place that it has to spare.
    """

    def __init__(self, rows: Tensor, columns: Tensor, width: int, chunk: int) -> None:
        self.rows, self.columns, self.chunk = rows, columns, chunk
        self.on_cpu = rows.device.type == "cpu"
        if self.on_cpu:
            self.edges = torch.searchsorted(columns, torch.arange(0, width + chunk, chunk)).tolist()

    @classmethod
    def of_group(cls, rows: Tensor, columns: Tensor, logits: ChunkedLogits, group: slice) -> "Pairs":
        """Those of a group of rows, counted from its first."""
        if group.stop - group.start < len(logits):
            among = (rows >= group.start) & (rows < group.stop)
            if rows.device.type == "cpu":
                rows, columns = rows[among], columns[among]
            else:
                columns = columns.where(among, -1)
            rows = rows - group.start
        return cls(rows, columns, logits.shape[1], logits.chunk)

    def of_block(self, first: int, block: Tensor) -> "Places":
        """Those in the block of the columns from `first` on."""
        width = block.shape[1]
        if self.on_cpu:
            i = first // self.chunk
            among = slice(self.edges[i], self.edges[i + 1])
            rows, columns = self.rows[among], self.columns[among] - first
            return Places(rows * width + columns, rows, columns, None)
        columns = self.columns - first
        inside = (columns >= 0) & (columns < width)
        columns = columns.clamp(0, width - 1)
        return Places((self.rows * width + columns).where(inside, block.numel()), self.rows, columns, inside)


class Places(NamedTuple):
    """In a block with a place to spare: in its flat memory, by row and by column; which are its own."""

    flat: Tensor
    rows: Tensor
    columns: Tensor
    inside: Tensor | None


class Group(NamedTuple):
    """What a pass over some rows knows of them."""

    rows: slice
    positives: Pairs
    unknown: Pairs | None
    factor: Tensor | None


class SigmoidSums(Sums):
    """Sums over the labels: in closed form of cross-entropy, of others by autograd of each block.

    Cross-entropy of a logit z is a softplus(-z) + b softplus(z), a = p y', b = 1 - y', p the pos_weight and
    y' = (1 - e) y + e / 2; its gradient is (a + b) sigmoid(z) - a. A block takes those of labels that are
    absent; where they are there, theirs are put in place.
    """

    target: SparseLabels

    def _known(self) -> Tensor | None:
        return None if self.target.missing is None else ~self.target.missing

    def _count(self) -> Tensor:
        width, unknown = self.logits.shape[1], self.target.unknown
        rows = torch.full((len(self.logits),), width, dtype=torch.float64, device=self.logits.device)
        if unknown is not None:
            rows = rows - unknown.count_per_row()
        return (rows if self.factor is None else rows * self.factor).sum()

    def _rows(self, rows: slice, back: Back | None) -> None:
        positives = Pairs.of_group(*self.target.coo(), self.logits, rows)
        unknown = None
        if self.target.unknown is not None:
            unknown = Pairs.of_group(*self.target.unknown.coo(), self.logits, rows)
        factor = None if self.factor is None else self.factor[rows]
        group = Group(rows, positives, unknown, factor)
        turn = self._cross_entropy if self.loss.name == "cross_entropy" else self._by_autograd
        for first, end, block in self.logits.blocks(rows):
            if self.look:
                self.look(rows, first, block)
            gradient = turn(first, end, block, group, back is not None)
            if back is not None:
                back(first, end, gradient if factor is None else gradient.mul_(factor.unsqueeze(1)))

    def _cross_entropy(self, first: int, end: int, block: Tensor, group: Group, turn: bool) -> Tensor:
        """Adds to the numerator; the block, made its gradient where that is wanted."""
        e = float(self.loss.label_smoothing)
        weight, p = (
            None if given is None else given[first:end].to(self.wide)
            for given in (self.loss.weight, self.loss.pos_weight)
        )
        a: float | Tensor = e / 2 if p is None else p * (e / 2)
        b = 1 - e / 2
        there, gaps = group.positives.of_block(first, block), None
        if group.unknown is not None:
            gaps = group.unknown.of_block(first, block)
        flat = flat_of(block)
        z = flat[there.flat]
        own: Tensor | float = 1.0 if weight is None else weight[there.columns]
        own_a = own * ((1 - e / 2) if p is None else p[there.columns] * (1 - e / 2))
        own_b = own * (e / 2)

        losses, flat_losses = _with_a_spare_place(_softplus(block), there)
        if e:
            losses.mul_(b).add_(_softplus(-block).mul_(a))
        if weight is not None:
            losses.mul_(weight)
        flat_losses[there.flat] = own_a * _softplus(-z) + own_b * _softplus(z)
        if gaps is not None:
            flat_losses.index_fill_(0, gaps.flat, 0)
        self._add(losses.sum(1), group.factor)
        if not turn:
            return block
        block.sigmoid_()
        if e:
            block.mul_(a + b).sub_(a)
        if weight is not None:
            block.mul_(weight)
        # of z far above 0 the sigmoid is 1, and what it lacks is that of -z
        flat[there.flat] = own_b * z.sigmoid() - own_a * (-z).sigmoid()
        if gaps is not None:
            flat.index_fill_(0, gaps.flat, 0)
        return block

    def _by_autograd(self, first: int, end: int, block: Tensor, group: Group, turn: bool) -> Tensor:
        """Adds to the numerator; the gradient of the block."""
        target = self.target.to_dense(first, end, block.dtype)[group.rows]
        with torch.enable_grad():
            leaf = block.detach().requires_grad_(turn)
            losses, _, missing = self.loss._sigmoid(leaf, target, slice(first, end))
            rows = (losses if missing is None else losses.masked_fill(missing, 0)).sum(1)
            self._add(rows.detach(), group.factor)
            return torch.autograd.grad(rows.sum(), leaf)[0] if turn else block


def _softplus(z: Tensor) -> Tensor:
    """log(1 + exp z)."""
    return softplus(z, threshold=LINEAR_FROM)


def _with_a_spare_place(block: Tensor, places: Places) -> tuple[Tensor, Tensor]:
    """A block, and its flat memory with a place to spare where the places need one."""
    if places.inside is None:
        return block, block.view(-1)
    memory = torch.empty(block.numel() + 1, dtype=block.dtype, device=block.device)
    return memory[:-1].view(block.shape).copy_(block), memory


class SoftmaxSums(Sums):
    """Cross-entropy of the true classes; a first pass over the blocks finds each row's normaliser.

    With m the largest logit, s = sum_c exp(z_c - m), w the classes' weights, e the smoothing, y the true
    class, t = (1 - e) w_y and u = e / C, a row's loss is t (m - z_y + log s) + u sum_c w_c (m - z_c + log s),
    and its gradient (t + u sum_c w_c) exp(z_c - m) / s - u w_c - t [c = y].
    """

    target: Tensor

    def _known(self) -> Tensor | None:
        missing = self.target == IGNORE_INDEX
        if missing.device.type == "cpu" and not bool(missing.any()):
            return None
        return ~missing

    def _weight_of_rows(self) -> Tensor:
        weight = self.loss.weight
        if weight is None:
            return torch.ones(len(self.target), dtype=self.wide, device=self.target.device)
        return weight.to(self.wide)[self.target.clamp(min=0)]

    def _count(self) -> Tensor:
        rows = self._weight_of_rows().double()
        return (rows if self.factor is None else rows * self.factor).sum()

    def _rows(self, rows: slice, back: Back | None) -> None:
        e, width, weight = float(self.loss.label_smoothing), self.logits.shape[1], self.loss.weight
        target, t = self.target[rows], (1 - e) * self._weight_of_rows()[rows]
        factor = None if self.factor is None else self.factor[rows]
        u, of_all = e / width, float(width) if weight is None else weight.to(self.wide).sum()
        pairs = self._pairs(target)

        most, s = torch.full_like(t, -torch.inf), torch.zeros_like(t)
        at_true, at_all = torch.zeros_like(t), torch.zeros_like(t)
        block = torch.empty(0)
        for first, end, block in self._blocks(rows, self.look):
            higher = torch.maximum(most, block.amax(1))
            s = s * (most - higher).exp() + (block - higher.unsqueeze(1)).exp_().sum(1)
            most = higher
            places = pairs.of_block(first, block)
            found = flat_of(block)[places.flat]
            found = found if places.inside is None else found.where(places.inside, 0)
            at_true.index_add_(0, places.rows, found)
            if e:
                part = None if weight is None else weight[first:end].to(self.wide)
                at_all += block.sum(1) if part is None else block @ part
        losses = t * ((most - at_true) + s.log())
        if e:
            losses = losses + u * ((of_all * most - at_all) + of_all * s.log())
        self._add(losses, factor)
        if back is None:
            return
        share = (t + u * of_all) / s
        share = share if factor is None else (share * factor).masked_fill(factor == 0, 0)
        own = t if factor is None else t * factor
        single = self.logits.chunk >= width  # then the block is still there
        for first, end, again in [(0, width, block)] if single else self._blocks(rows):
            again.sub_(most.unsqueeze(1)).exp_().mul_(share.unsqueeze(1))
            if e:
                part = torch.full_like(again[0], u) if weight is None else weight[first:end].to(again) * u
                again.sub_(part if factor is None else factor.unsqueeze(1) * part)
            places = pairs.of_block(first, again)
            flat_of(again).index_add_(0, places.flat, -own[places.rows])
            back(first, end, again)

    def _pairs(self, target: Tensor) -> Pairs:
        columns, rows = target, torch.arange(len(target), device=target.device)
        if target.device.type == "cpu":
            columns, rows = target.sort(stable=True)
            columns, rows = (values[int((target < 0).sum()) :] for values in (columns, rows))
        return Pairs(rows, columns, self.logits.shape[1], self.logits.chunk)

    def _blocks(
        self, rows: slice, look: Callable[[slice, int, Tensor], None] | None = None
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Those of the loss, which may add something to the logits; shown are the logits themselves."""
        offset = self.loss.offset()
        for first, end, block in self.logits.blocks(rows):
            if look:
                look(rows, first, block)
            if offset is not None:
                block.add_(offset[first:end])
            yield first, end, block
