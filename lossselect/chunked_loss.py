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
from torch.nn.functional import softplus

from .chunked import MOST_ROWS, ChunkedLogits, product
from .losses import LOSSES, formula_takes
from .positives import Positives
from .tasks import IGNORE_INDEX

if TYPE_CHECKING:
    from .criterion import Loss

LINEAR_UP_TO = 40.0
"""Above it softplus(z) is z: float64 knows no difference."""

SOFTMAX = ("cross_entropy", "logit_adjusted")
"""Softmax losses that a chunked head takes; of the sigmoid ones all that are a sum over labels."""


def chunkable(activation: str) -> list[str]:
    """The losses that a chunked head takes: under sigmoid those that are a sum over labels."""
    if activation == "softmax":
        return [*SOFTMAX]
    return [
        name
        for name, forms in LOSSES.items()
        if "sigmoid" in forms and "known" not in formula_takes(forms["sigmoid"])
    ]


def check_chunkable(loss: Any) -> None:
    """ValueError where a loss needs all logits at once."""
    from .criterion import Loss

    ours = isinstance(loss, Loss)
    if not ours or loss.name not in chunkable(loss.task.activation):
        named = loss.name if ours else getattr(loss, "__name__", type(loss).__name__)
        raise ValueError(
            f"Loss {named!r} needs all logits of a row at once, which a chunked head never has. It takes, "
            f"for multilabel: {', '.join(chunkable('sigmoid'))}; for multiclass: {', '.join(SOFTMAX)}. "
            "head=dense takes any loss."
        )


@torch.compiler.disable  # type: ignore[untyped-decorator] # it would be unrolled block by block
def chunked_loss(
    loss: "Loss",
    logits: ChunkedLogits,
    target: "Tensor | Positives",
    sample_weight: Tensor | None = None,
    look: Callable[[slice, int, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean that `loss` has of these logits, and its numerator and denominator, to be added up.

    Gradients of inputs, weight and bias are those of the dense head, up to rounding; sums are taken in
    float32 or wider. It is deterministic.

    Args:
        loss: Of `select_loss`; see `check_chunkable`.
        logits: Of a `ChunkedLinear`.
        target: `Positives` (sigmoid), or class indices (N,), -100 where missing (softmax).
        sample_weight: (N,).
        look: Is shown each block of logits: which rows, the first column, and the block, to be left as it is.

    Raises:
        ValueError: a loss that needs all logits at once, a target of another shape.
    """
    check_chunkable(loss)
    loss.check_counted()
    if loss.task.activation == "sigmoid":
        if not isinstance(target, Positives):
            target = Positives.of_target(target)
        given, expected = target.shape, logits.shape
    else:
        if not isinstance(target, Tensor) or target.is_floating_point():
            raise ValueError(
                "A chunked head takes class indices (N,), no soft labels: head=dense takes them."
            )
        given, expected = target.shape, logits.shape[:1]
    if given != expected:
        raise ValueError(
            f"For outputs of shape {tuple(logits.shape)} the target is of shape {tuple(expected)}, got "
            f"{tuple(given)}."
        )
    if target.device != logits.device:
        raise ValueError(f"The outputs are on {logits.device}, the target is on {target.device}. Move one.")
    if sample_weight is not None and sample_weight.shape != expected[:1]:
        raise ValueError(
            f"With a chunked head a weight is one of a row, (N,), got {tuple(sample_weight.shape)}."
        )
    part = (_SigmoidSums if loss.task.activation == "sigmoid" else _SoftmaxSums)(
        loss, logits, target, sample_weight
    )
    part.look = look
    needs = [
        tensor is not None and tensor.requires_grad for tensor in (logits.inputs, logits.weight, logits.bias)
    ]
    if torch.is_grad_enabled() and any(needs):
        mean = _MadeInForward.apply(logits.inputs, logits.weight, logits.bias, part)
    else:
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            mean = part.run(None)
    return mean, part.total.detach(), part.count


class _MadeInForward(torch.autograd.Function):
    """Gradients made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, part: "_Sums") -> Tensor:
        ctx.gradients = _Gradients(part.logits, ctx.needs_input_grad)
        with torch.autocast(inputs.device.type, enabled=False):
            return part.run(ctx.gradients)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("A chunked head has no second derivative (create_graph=True): head=dense has.")
        made, ctx.gradients = ctx.gradients, None
        if made is None:
            raise RuntimeError(
                "The gradients of a chunked head are handed over once: compute the loss again for a second "
                "backward, or use head=dense."
            )
        one = (
            upstream.device.type == "cpu" and upstream.item() == 1
        )  # a pass over them, spared where a look is free
        each = (made.inputs, made.weight, made.bias)
        return (*(g if g is None or one else g.mul_(upstream.to(g.dtype)) for g in each), None)


class _Gradients:
    """Those of inputs, weight and bias, where they are wanted."""

    def __init__(self, logits: ChunkedLogits, wanted: tuple[bool, ...]) -> None:
        wide = torch.promote_types(logits.inputs.dtype, torch.float32)
        of_inputs, of_weight, of_bias = wanted[:3]
        made, weight, bias = logits.inputs, logits.weight, logits.bias
        self.inputs = torch.zeros(made.shape, dtype=wide, device=made.device) if of_inputs else None
        # of several groups of rows they are summed, for which half precision has too few digits
        sums = wide if len(logits) > MOST_ROWS else weight.dtype
        self.weight = torch.empty_like(weight, dtype=sums) if of_weight else None
        self.bias = torch.empty_like(bias, dtype=wide) if bias is not None and of_bias else None


class _Sums:
    """The sums of a loss over all outputs, and with them the gradients."""

    def __init__(
        self, loss: "Loss", logits: ChunkedLogits, target: Any, sample_weight: Tensor | None
    ) -> None:
        self.loss, self.logits, self.target = loss, logits, target
        self.wide = torch.promote_types(
            torch.promote_types(logits.inputs.dtype, logits.weight.dtype), torch.float32
        )
        self.look: Callable[[slice, int, Tensor], None] | None = None
        device = logits.device
        self.total = torch.zeros((), dtype=self._summed(), device=device)
        self.factor = self._factor(sample_weight)
        self.count = self._count().to(self.wide)

    def _summed(self) -> torch.dtype:
        return torch.float32 if self.logits.device.type == "mps" else torch.float64

    def _factor(self, sample_weight: Tensor | None) -> Tensor | None:
        """Of each row (N,): its weight, 0 where nothing is known; None where all are 1."""
        known = self._known()
        if sample_weight is not None:
            weight = sample_weight.to(self.wide)
            return weight if known is None else weight.masked_fill(~known, 0)
        return None if known is None else known.to(self.wide)

    def _known(self) -> Tensor | None:
        raise NotImplementedError

    def _count(self) -> Tensor:
        raise NotImplementedError

    def _rows(self, rows: slice, put: "_Put") -> None:
        raise NotImplementedError

    def run(self, gradients: _Gradients | None) -> Tensor:
        """The mean; 0 where nothing counts."""
        scale = torch.where(self.count > 0, 1 / torch.where(self.count > 0, self.count, 1), 0)
        for start in range(0, len(self.logits), MOST_ROWS):
            rows = slice(start, min(start + MOST_ROWS, len(self.logits)))
            self._rows(rows, _Put(self.logits, gradients, rows, scale))
        if gradients is not None and gradients.inputs is not None:
            gradients.inputs = gradients.inputs.mul_(scale).to(self.logits.inputs.dtype)
        if gradients is not None and gradients.weight is not None:
            gradients.weight = gradients.weight.to(self.logits.weight.dtype)
        if gradients is not None and gradients.bias is not None and self.logits.bias is not None:
            gradients.bias = gradients.bias.to(self.logits.bias.dtype)
        return (self.total * scale).to(self.wide)

    def _columns(self, values: Tensor | None, first: int, end: int) -> Tensor | None:
        return None if values is None else values[first:end].to(self.wide)


class _Put:
    """Takes the gradient of a block of logits back to inputs, weight and bias."""

    def __init__(
        self, logits: ChunkedLogits, gradients: _Gradients | None, rows: slice, scale: Tensor
    ) -> None:
        self.gradients, self.scale, self.first_rows = gradients, scale, rows.start == 0
        self.inputs, self.weight = logits.operands()
        self.inputs = self.inputs[rows]
        self.of_inputs = None
        if gradients is not None and gradients.inputs is not None:
            self.of_inputs = gradients.inputs[rows]

    @property
    def wanted(self) -> bool:
        """Whether there are gradients to be made."""
        return self.gradients is not None

    def __call__(self, first: int, end: int, block: Tensor) -> None:
        """`block` is d total / d logits (n, end - first)."""
        made = self.gradients
        assert made is not None
        narrow = block.to(self.inputs.dtype)
        if self.of_inputs is not None:
            if narrow.dtype == self.of_inputs.dtype:
                self.of_inputs.addmm_(narrow, self.weight(first, end))
            else:
                self.of_inputs.add_(product(narrow, self.weight(first, end)))
        if made.weight is not None:
            place = made.weight[first:end]
            if self.first_rows and place.dtype == narrow.dtype and narrow.dtype == block.dtype:
                torch.mm(narrow.t(), self.inputs, out=place)
                place.mul_(self.scale)
            else:
                part = product(narrow.t(), self.inputs).mul_(self.scale)
                place.copy_(part) if self.first_rows else place.add_(part)
        if made.bias is not None:
            part = block.sum(0).mul_(self.scale)
            made.bias[first:end].copy_(part) if self.first_rows else made.bias[first:end].add_(part)


class _Pairs:
    """Places (row, column) of some rows, in order of columns, of which a block has some.

    On a CPU these are found by their order. On a device that would make it wait: there a block takes all
    of them, those of other blocks with a factor 0 at its first logit.
    """

    def __init__(self, rows: Tensor, columns: Tensor, width: int, chunk: int) -> None:
        self.rows, self.columns, self.chunk = rows, columns, chunk
        self.on_cpu = rows.device.type == "cpu"
        if self.on_cpu:
            self.edges = torch.searchsorted(columns, torch.arange(0, width + chunk, chunk)).tolist()

    @classmethod
    def of_group(cls, rows: Tensor, columns: Tensor, logits: ChunkedLogits, group: slice) -> "_Pairs":
        """Those of a group of rows, counted from its first."""
        if len(logits) > MOST_ROWS:
            among = (rows >= group.start) & (rows < group.stop)
            if rows.device.type == "cpu":
                rows, columns = rows[among], columns[among]
            else:
                columns = columns.where(among, -1)
            rows = rows - group.start
        return cls(rows, columns, logits.shape[1], logits.chunk)

    def of_block(self, first: int, end: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Place in the flattened block, row, and on a device the factor 0 or 1."""
        if self.on_cpu:
            i = first // self.chunk
            among = slice(self.edges[i], self.edges[i + 1])
            rows, columns = self.rows[among], self.columns[among] - first
            return rows * (end - first) + columns, rows, None
        inside = (self.columns >= first) & (self.columns < end)
        rows = self.rows.where(inside, 0)
        return (rows * (end - first) + self.columns - first).where(inside, 0), rows, inside


def _times(values: Tensor, factor: Tensor | None) -> Tensor:
    return values if factor is None else values * factor


class _SigmoidSums(_Sums):
    """Sums over the labels: in closed form of cross-entropy, of others by autograd of each block.

    With y' = (1 - e) y + e / 2 cross-entropy of a logit z is (a + b) softplus(z) - a z, with a = p y' and
    b = 1 - y', p the pos_weight: of all labels as if they were absent, then put right where they are there.
    """

    target: Positives

    def _known(self) -> Tensor | None:
        return None if self.target.missing is None else ~self.target.missing

    def _count(self) -> Tensor:
        width = self.logits.shape[1]
        if self.factor is None:
            count = torch.full((), float(len(self.logits) * width), device=self.logits.device)
        else:
            count = self.factor.sum() * width
        if self.target.unknown is not None:
            rows, _ = self.target.unknown
            count = count - (len(rows) if self.factor is None else self.factor[rows].sum())
        return count

    def _rows(self, rows: slice, put: _Put) -> None:
        positives = _Pairs.of_group(self.target.rows, self.target.labels, self.logits, rows)
        unknown = None
        if self.target.unknown is not None:
            unknown = _Pairs.of_group(*self.target.unknown, self.logits, rows)
        factor = None if self.factor is None else self.factor[rows]
        by_formula = self.loss.name == "cross_entropy"
        for first, end, block in self.logits.blocks(rows):
            if self.look:
                self.look(rows, first, block)
            if by_formula:
                self._cross_entropy(first, end, block, positives, unknown, factor, put)
            else:
                block = self._by_autograd(first, end, block, positives, unknown, factor, put)
            if put.wanted:
                put(first, end, block)

    def _cross_entropy(
        self,
        first: int,
        end: int,
        block: Tensor,
        positives: _Pairs,
        unknown: _Pairs | None,
        factor: Tensor | None,
        put: _Put,
    ) -> None:
        """Adds to the total, and turns the block into its gradient."""
        e = float(self.loss.label_smoothing)
        weight, p = (self._columns(v, first, end) for v in (self.loss.weight, self.loss.pos_weight))
        # a and a + b of a label that is not there, and by how much more they are of one that is
        a0: float | Tensor = (1.0 if p is None else p) * (e / 2)
        s0: float | Tensor = a0 + (1 - e / 2)
        a_more: float | Tensor = (1.0 if p is None else p) * (1 - e)
        s_more: float | Tensor = 0.0 if p is None else (p - 1) * (1 - e)
        if weight is not None:
            a0, s0, a_more, s_more = weight * a0, weight * s0, weight * a_more, weight * s_more
        smoothed = e > 0
        losses = softplus(block, threshold=LINEAR_UP_TO)
        losses = losses.mul_(s0) if isinstance(s0, Tensor) or s0 != 1 else losses
        if smoothed:
            losses.sub_(block * a0)
        summed = losses.sum(1)
        place, row, inside = positives.of_block(first, end)
        column = place - row * (end - first)
        z = block.view(-1)[place]
        soft, slope = softplus(z, threshold=LINEAR_UP_TO), z.sigmoid()

        def of(values: float | Tensor) -> float | Tensor:
            return values[column] if isinstance(values, Tensor) else values

        keep = None if inside is None else inside.to(z.dtype)
        by_row = keep if factor is None else _times(factor[row], keep)
        self.total += _times(summed, factor).sum(dtype=self.total.dtype)
        self.total += _times(of(s_more) * soft - of(a_more) * z, by_row).sum(dtype=self.total.dtype)
        if unknown is not None:
            gap, gap_row, gap_inside = unknown.of_block(first, end)
            gap_keep = None if gap_inside is None else gap_inside.to(z.dtype)
            counted = gap_keep if factor is None else _times(factor[gap_row], gap_keep)
            self.total -= _times(losses.view(-1)[gap], counted).sum(dtype=self.total.dtype)
        if not put.wanted:
            return
        block.sigmoid_()
        if isinstance(s0, Tensor) or s0 != 1:
            block.mul_(s0)
        if smoothed:
            block.sub_(a0)
        more = of(s_more) * slope - of(a_more)
        more = more if isinstance(more, Tensor) else torch.full_like(z, more)
        block.view(-1).index_add_(0, place, _times(more, keep))
        if unknown is not None:
            block.view(-1).index_add_(0, gap, _times(-block.view(-1)[gap], gap_keep))
        if factor is not None:
            block.mul_(factor.unsqueeze(1))

    def _by_autograd(
        self,
        first: int,
        end: int,
        block: Tensor,
        positives: _Pairs,
        unknown: _Pairs | None,
        factor: Tensor | None,
        put: _Put,
    ) -> Tensor:
        """Adds to the total; the gradient of the block."""
        target = torch.zeros_like(block)
        for pairs, value in ((positives, 1.0), (unknown, torch.nan)):
            if pairs is not None:
                place, _, inside = pairs.of_block(first, end)
                filled = torch.full_like(block.view(-1)[place], value)
                filled = filled if inside is None else torch.where(inside, filled, 0)
                target.view(-1).index_add_(0, place, filled)
        with torch.enable_grad():
            leaf = block.detach().requires_grad_(put.wanted)
            losses, _, missing = self.loss._sigmoid(leaf, target, slice(first, end))
            losses = losses if missing is None else losses.masked_fill(missing, 0)
            summed = _times(losses, None if factor is None else factor.unsqueeze(1)).sum()
        self.total += summed.detach()
        return torch.autograd.grad(summed, leaf)[0] if put.wanted else block


class _SoftmaxSums(_Sums):
    """Cross-entropy of the true classes; a first pass over the blocks finds log sum exp of each row.

    With w the classes' weights, e the smoothing, y the true class and u = e / C, a row's loss is
    A lse - (1 - e) w_y z_y - u sum_c w_c z_c, A = (1 - e) w_y + u sum_c w_c.
    """

    target: Tensor

    def _known(self) -> Tensor | None:
        missing = self.target == IGNORE_INDEX
        if missing.device.type == "cpu" and not bool(missing.any()):
            return None
        return ~missing

    def _of_true(self) -> Tensor:
        """The weight of each row's class (N,), with the row's factor."""
        weight = self.loss.weight
        of_rows = torch.ones(len(self.target), dtype=self.wide, device=self.target.device)
        if weight is not None:
            of_rows = weight.to(self.wide)[self.target.clamp(min=0)]
        return _times(of_rows, self.factor)

    def _count(self) -> Tensor:
        return self._of_true().sum()

    def _rows(self, rows: slice, put: _Put) -> None:
        logits, e = self.logits, float(self.loss.label_smoothing)
        target, true = self.target[rows], (1 - e) * self._of_true()[rows]
        factor = None if self.factor is None else self.factor[rows]
        prior = self.loss.offset()
        bias = logits.bias
        if prior is not None:
            bias = prior.to(self.wide) if bias is None else bias + prior.to(bias.device, self.wide)
        width = logits.shape[1]
        weight = self.loss.weight
        if e:
            u = torch.full_like(true, e / width) if factor is None else factor * (e / width)
            of_all = float(width) if weight is None else weight.to(self.wide).sum()
            at_all = true + u * of_all
        else:
            at_all = true
        columns, places = target, torch.arange(len(target), device=target.device)
        if target.device.type == "cpu":
            columns, places = target.sort(stable=True)
            columns, places = (v[int((target < 0).sum()) :] for v in (columns, places))
        pairs = _Pairs(places, columns, width, logits.chunk)

        lse = torch.full_like(true, -torch.inf)
        at_true = torch.zeros_like(true)
        at_weights = torch.zeros_like(true)
        for first, end, block in logits.blocks(rows, bias):
            if self.look:
                self.look(rows, first, block)
            lse = torch.logaddexp(lse, block.logsumexp(1))
            place, row, inside = pairs.of_block(first, end)
            found = block.view(-1)[place]
            at_true.index_add_(0, row, found if inside is None else found * inside)
            if e:
                part = self._columns(weight, first, end)
                at_weights += block.sum(1) if part is None else block @ part
            if end == width and first == 0 and put.wanted:
                break  # of a single block no second pass is needed
        losses = at_all * lse - true * at_true
        losses = losses - u * at_weights if e else losses
        counted = losses if factor is None else losses.masked_fill(factor == 0, 0)
        self.total += counted.sum(dtype=self.total.dtype)
        if not put.wanted:
            return
        shift = (lse - at_all.log()).unsqueeze(1)
        again = [(0, width, block)] if first == 0 else logits.blocks(rows, bias)
        for first, end, block in again:
            block.sub_(shift).exp_()
            if e:
                part = self._columns(weight, first, end)
                block.sub_(u.unsqueeze(1) if part is None else u.unsqueeze(1) * part)
            place, row, inside = pairs.of_block(first, end)
            put_right = -true[row]
            block.view(-1).index_add_(0, place, put_right if inside is None else put_right * inside)
            put(first, end, block)
