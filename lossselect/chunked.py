"""The last linear layer and the loss in one, some outputs at a time: no logits or target of (N, C).

With a million outputs the logits of a batch take more memory than everything else, the target as much
again, and most of the time goes into moving them about. Here a block of outputs is made, turned into its
gradient while it is in the cache, multiplied back, and forgotten. Under softmax a first pass finds the
normalisers. The gradients are made in the forward pass; backward hands them over.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from .names import whole
from .positives import Positives
from .tasks import IGNORE_INDEX

if TYPE_CHECKING:
    from .criterion import Loss

BLOCK = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Logits of a block (rows x outputs) where no chunk is given: 4 MiB, about what a core's cache holds, and
256 MiB, enough to keep a GPU busy."""

MOST_ROWS = 8192
"""Of a block: of more rows, some are taken after the others."""

LINEAR_UP_TO = 40.0
"""Above it softplus(z) is z: float64 knows no difference."""

SOFTMAX = ("cross_entropy", "logit_adjusted")
"""Softmax losses that a chunked head takes; of the sigmoid ones all that are a sum over labels."""


class ChunkedLinear(nn.Linear):
    """A linear layer with many outputs, whose logits are never held all at once.

    Called, it returns `ChunkedLogits`, which a `TaskModule` takes in place of logits, and `chunked_loss`.
    Weight and bias are those of `torch.nn.Linear`, whose checkpoints it takes.

    Args:
        in_features: D.
        out_features: C.
        bias: Whether it has one.
        chunk: Outputs at a time; None chooses by the number of rows.

    Raises:
        ValueError: no whole number from 1.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, chunk: int | None = None, **options: Any
    ) -> None:
        super().__init__(in_features, out_features, bias, **options)
        self.chunk = None if chunk is None else whole("chunk", chunk, 1)

    @classmethod
    def of(cls, layer: nn.Linear, chunk: int | None = None) -> "ChunkedLinear":
        """One with the weight and the bias of `layer`, which share the memory."""
        made = cls(layer.in_features, layer.out_features, layer.bias is not None, chunk, device="meta")
        made.weight, made.bias = layer.weight, layer.bias
        return made

    def forward(self, inputs: Tensor) -> "ChunkedLogits":  # type: ignore[override]
        """Of inputs (N, D)."""
        return ChunkedLogits(inputs, self.weight, self.bias, self.chunk)


class ChunkedLogits:
    """The logits inputs @ weight.T + bias (N, C), of which some columns are made at a time.

    Args:
        inputs: Features (N, D).
        weight: (C, D).
        bias: (C,), or None.
        chunk: Columns at a time; None chooses by the number of rows.

    Raises:
        ValueError: inputs of another shape, or a chunk that does not fit the memory.
    """

    def __init__(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, chunk: int | None = None) -> None:
        if inputs.ndim != 2 or inputs.shape[1] != weight.shape[1]:
            raise ValueError(
                f"A chunked head takes rows of features (N, {weight.shape[1]}), got {tuple(inputs.shape)}. "
                "Flatten other dimensions, or use head=dense."
            )
        self.inputs, self.weight, self.bias = inputs, weight, bias
        self.shape = torch.Size((len(inputs), len(weight)))
        self.chunk = _chunk_of(self.shape, chunk, inputs.device)

    def __len__(self) -> int:
        return self.shape[0]

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"The logits of a chunked head are never there all at once, so they have no {name!r}: return "
            "from forward what the head returns, or use head=dense. logits.dense() makes the matrix, "
            "logits.topk(k) the highest of each row."
        )

    @property
    def device(self) -> torch.device:
        """Where they are made."""
        return self.inputs.device

    def dense(self) -> Tensor:
        """The matrix (N, C)."""
        return linear(self.inputs, self.weight, self.bias)

    def blocks(
        self, rows: slice = slice(None), bias: Tensor | None = None
    ) -> Iterator[tuple[int, int, Tensor]]:
        """(first, end, float32 logits (n, end - first)) of the columns in turn, in the same memory.

        Args:
            rows: Which rows.
            bias: In place of their own.
        """
        inputs, weight = self.operands()
        inputs = inputs[rows]
        bias = self.bias if bias is None else bias
        wide = torch.promote_types(inputs.dtype, torch.float32)
        memory = torch.empty(len(inputs) * min(self.chunk, self.shape[1]), dtype=wide, device=self.device)
        for first in range(0, self.shape[1], self.chunk):
            end = min(first + self.chunk, self.shape[1])
            block = memory[: len(inputs) * (end - first)].view(len(inputs), end - first)
            columns = weight(first, end)
            if columns.dtype == wide:
                torch.mm(inputs, columns.t(), out=block)
            else:
                block.copy_(product(inputs, columns.t()))
            yield first, end, block if bias is None else block.add_(bias[first:end])

    def operands(self) -> "tuple[Tensor, Columns]":
        """Inputs and weight in the dtype that their products are taken in: on a CPU float32 or wider."""
        dtype = torch.promote_types(self.inputs.dtype, self.weight.dtype)
        kind = self.device.type
        if torch.is_autocast_enabled(kind) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)
        if kind == "cpu":
            dtype = torch.promote_types(dtype, torch.float32)
        return self.inputs.detach().to(dtype), Columns(self.weight.detach(), dtype)

    @torch.no_grad()
    def topk(self, k: int) -> tuple[Tensor, Tensor]:
        """The k highest logits of each row and their columns, (N, k) each, the highest first.

        Raises:
            ValueError: k is more than there are columns.
        """
        if not 1 <= k <= self.shape[1]:
            raise ValueError(f"k must be from 1 to the number of outputs ({self.shape[1]}), got {k}.")
        best = Highest(k)
        with torch.autocast(self.device.type, enabled=False):
            for first, _, block in self.blocks():
                best.add(first, block)
        return best.values, best.columns


class Columns:
    """Some columns of the logits are some rows of the weight, cast when they are taken."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.weight, self.dtype = weight, dtype

    def __call__(self, first: int, end: int) -> Tensor:
        return self.weight[first:end].to(self.dtype)


class Highest:
    """The k highest of each row, of blocks that come one after another."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.values, self.columns = torch.empty(0), torch.empty(0, dtype=torch.long)

    def add(self, first: int, block: Tensor) -> None:
        """Take in the columns from `first` on."""
        values, columns = block.topk(min(self.k, block.shape[1]), 1)
        columns = columns + first
        if self.values.numel():
            values, columns = torch.cat([self.values, values], 1), torch.cat([self.columns, columns], 1)
            values, order = values.topk(min(self.k, values.shape[1]), 1)
            columns = columns.gather(1, order)
        self.values, self.columns = values, columns


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32 or wider, whatever the dtype of the two."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).float()


def _chunk_of(shape: torch.Size, chunk: int | None, device: torch.device) -> int:
    rows = max(1, min(shape[0], MOST_ROWS))
    if chunk is None:
        return max(256, BLOCK.get(device.type, BLOCK["cuda"]) // rows)
    chunk = min(chunk, shape[1])
    needed, free = 8 * rows * chunk, free_memory(device)  # the block, and a temporary as large
    if free is not None and needed > free:
        raise ValueError(
            f"{chunk} outputs at a time make blocks of {rows} x {chunk} logits, {needed / 1e9:.1f} GB with a "
            f"copy, and {free / 1e9:.1f} GB are free: head.chunk={max(1, int(chunk * free / needed / 2))}, "
            "or leave it out, and it is chosen."
        )
    return chunk


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free, as far as one can tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            entries = dict(line.split(":", 1) for line in file)
        return int(entries["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None


def check_chunkable(loss: Any) -> None:
    """ValueError where a loss needs all logits at once."""
    from .criterion import Loss
    from .losses import LOSSES, formula_takes

    sigmoid = [
        name
        for name, its in LOSSES.items()
        if "sigmoid" in its and "known" not in formula_takes(its["sigmoid"])
    ]
    named = loss.name if isinstance(loss, Loss) else getattr(loss, "__name__", type(loss).__name__)
    if not isinstance(loss, Loss) or loss.name not in (
        SOFTMAX if loss.task.activation == "softmax" else sigmoid
    ):
        raise ValueError(
            f"Loss {named!r} needs all logits of a row at once, which a chunked head never has. It takes, "
            f"for binary and multilabel: {', '.join(sigmoid)}; for multiclass: {', '.join(SOFTMAX)}. "
            "head=dense takes any loss."
        )
    if getattr(loss.task, "ordered", False):
        raise ValueError("Ordered classes need all logits of a row at once: head=dense.")


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
