"""A last layer with very many outputs, whose logits are made some at a time and never held.

`chunked_loss` makes the loss and the gradients of it.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.utils.checks import check_int
from lossselect.utils.devices import free_memory

BLOCK = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Logits of a block (rows x outputs) where no chunk is given: 4 MiB, about what a core's cache holds, and
256 MiB, enough to keep a GPU busy."""

MAX_ROWS = 8192
"""Of a block: of more rows, some are taken after the others."""


class ChunkedLinear(nn.Linear):
    """A linear layer with many outputs, whose logits are never held all at once: it returns no tensor.

    What it returns are `ChunkedLogits`, which a `TaskModule` takes in place of logits, and `chunked_loss`.
    Weight and bias are those of `torch.nn.Linear`, whose checkpoints it takes.

    Args:
        in_features: D.
        out_features: C.
        bias: Whether it has one.
        chunk: Outputs at a time; None chooses by the number of rows.

    Raises:
        ValueError: no whole number from 1.

    Example:
        >>> logits = ChunkedLinear(8, 1_000_000)(torch.zeros(2, 8))
        >>> logits.shape
        torch.Size([2, 1000000])
        >>> values, columns = logits.topk(3)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        chunk: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, **options)
        self.chunk = None if chunk is None else check_int("chunk", chunk, 1)

    @classmethod
    def of(cls, layer: nn.Linear, chunk: int | None = None) -> "ChunkedLinear":
        """One with the weight and the bias of `layer`, which share the memory."""
        made = cls(layer.in_features, layer.out_features, layer.bias is not None, chunk=chunk, device="meta")
        made.weight, made.bias = layer.weight, layer.bias
        return made

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, chunk={self.chunk}"

    def forward(self, inputs: Tensor) -> "ChunkedLogits":  # type: ignore[override]
        """Of inputs (N, D)."""
        return ChunkedLogits(inputs, self.weight, self.bias, self.chunk)


_NOT_THERE = (
    "The logits of a chunked head are never there all at once, {}: logits.topk(k) has the highest of each "
    "row, logits.dense() makes the matrix. In forward nothing may come after the last linear layer, the one "
    "with as many outputs as the task, unless with head=dense."
)


class ChunkedLogits:
    """The logits inputs @ weight.T + bias (N, C), of which some columns are made at a time.

    Args:
        inputs: Features (N, D).
        weight: (C, D).
        bias: (C,), or None.
        chunk: Columns at a time; None chooses by the number of rows.

    Raises:
        ValueError: inputs of another shape, a chunk that does not fit the memory, a device without float64.
    """

    def __init__(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, chunk: int | None = None) -> None:
        if inputs.ndim != 2 or inputs.shape[1] != weight.shape[1]:
            raise ConfigError(
                f"A chunked head takes rows of features (N, {weight.shape[1]}), got {tuple(inputs.shape)}. "
                "Flatten other dimensions, or use head=dense."
            )
        if inputs.device.type == "mps":
            raise ConfigError("A chunked head adds up in float64, which MPS has not: head=dense.")
        self.inputs, self.weight, self.bias = inputs, weight, bias
        self.shape = torch.Size((len(inputs), len(weight)))
        self.chunk = _chunk_of(*self.shape, chunk, inputs.device)
        self.dtype = _dtype_of_products(inputs, weight)
        self.with_grad = torch.is_grad_enabled()
        """Whether gradients may go back from here."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(_NOT_THERE.format(f"so they have no {name!r}"))

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any, **__: Any) -> NoReturn:
        raise OptionTypeError(_NOT_THERE.format(f"and {getattr(function, '__name__', function)} needs them"))

    def _refuse(self, *_: Any) -> NoReturn:
        raise OptionTypeError(_NOT_THERE.format("and arithmetic needs them"))

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __neg__ = __pow__ = _refuse
    __matmul__ = __rmatmul__ = __lt__ = __le__ = __gt__ = __ge__ = __getitem__ = _refuse

    @property
    def device(self) -> torch.device:
        """Where they are made."""
        return self.inputs.device

    def dense(self) -> Tensor:
        """The matrix (N, C)."""
        return linear(self.inputs, self.weight, self.bias)

    @property
    def wide(self) -> torch.dtype:
        """Of a block."""
        return torch.promote_types(self.dtype, torch.float32)

    def groups(self) -> Iterator[slice]:
        """The rows, so many at a time as a block has."""
        for start in range(0, len(self), MAX_ROWS):
            yield slice(start, min(start + MAX_ROWS, len(self)))

    def blocks(self, rows: slice = slice(None)) -> Iterator[tuple[int, int, Tensor]]:
        """(first, end, logits (n, end - first) in float32 or wider) of the columns in turn.

        All in the same memory, which has a place to spare at the end: see `flat_of`.

        Args:
            rows: Which rows.
        """
        inputs, weight = self.operands()
        inputs, bias = inputs[rows], None if self.bias is None else self.bias.detach()
        size = len(inputs) * min(self.chunk, self.shape[1]) + 1
        memory = torch.empty(size, dtype=self.wide, device=self.device)
        for first in range(0, self.shape[1], self.chunk):
            end = min(first + self.chunk, self.shape[1])
            block = memory[: len(inputs) * (end - first)].view(len(inputs), end - first)
            columns = weight(first, end)
            with torch.autocast(self.device.type, enabled=False):
                if columns.dtype == self.wide:
                    torch.mm(inputs, columns.t(), out=block)
                else:
                    block.copy_(product(inputs, columns.t()))
            yield first, end, block if bias is None else block.add_(bias[first:end])

    def operands(self) -> "tuple[Tensor, Columns]":
        """Inputs and weight in the dtype that their products are taken in."""
        return self.inputs.detach().to(self.dtype), Columns(self.weight.detach(), self.dtype)

    @torch.no_grad()
    def topk(self, k: int) -> tuple[Tensor, Tensor]:
        """The k highest logits of each row and their columns, (N, k) each, the highest first.

        Raises:
            TypeError: k is no whole number.
            ValueError: k is more than there are columns.
        """
        k = check_int("k", k, 1, self.shape[1])
        best = Highest(len(self), k, torch.empty(0, dtype=self.wide, device=self.device))
        for rows in self.groups():
            for first, _, block in self.blocks(rows):
                best.add(rows, first, block)
        return best.values, best.columns


class Columns:
    """Some columns of the logits are some rows of the weight, cast when they are taken."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.weight, self.dtype = weight, dtype

    def __call__(self, first: int, end: int) -> Tensor:
        return self.weight[first:end].to(self.dtype)


class Highest:
    """The k highest of each row, of blocks that come one after another.

    Args:
        rows: How many.
        k: How many of each.
        like: Of the dtype and on the device of the blocks.
    """

    def __init__(self, rows: int, k: int, like: Tensor) -> None:
        self.values = torch.full((rows, k), -torch.inf, dtype=like.dtype, device=like.device)
        self.columns = torch.zeros(rows, k, dtype=torch.long, device=like.device)

    def add(self, rows: slice, first: int, block: Tensor) -> None:
        """Take in the columns of some rows from `first` on."""
        k = self.values.shape[1]
        values, columns = block.topk(min(k, block.shape[1]), 1)
        values = torch.cat([self.values[rows], values], 1)
        columns = torch.cat([self.columns[rows], columns + first], 1)
        self.values[rows], order = values.topk(k, 1)
        self.columns[rows] = columns.gather(1, order)


def flat_of(block: Tensor) -> Tensor:
    """The memory of a block of `ChunkedLogits.blocks`, and the place to spare behind it."""
    return block.as_strided((block.numel() + 1,), (1,))


def _dtype_of_products(inputs: Tensor, weight: Tensor) -> torch.dtype:
    """That of autocast where it is on; on a CPU float32 or wider, which is no slower there."""
    kind, dtype = inputs.device.type, torch.promote_types(inputs.dtype, weight.dtype)
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    return torch.promote_types(dtype, torch.float32) if kind == "cpu" else dtype


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32 or wider, whatever the dtype of the two."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).float()


@lru_cache(maxsize=64)
def _chunk_of(rows: int, width: int, chunk: int | None, device: torch.device) -> int:
    """How many outputs at a time; looked at once for a shape."""
    rows = max(1, min(rows, MAX_ROWS))
    if chunk is None:
        return max(256, BLOCK.get(device.type, BLOCK["cuda"]) // rows)
    chunk = min(chunk, width)
    needed, free = 8 * rows * chunk, free_memory(device)  # the block, and a temporary as large
    if free is not None and needed > free:
        raise ConfigError(
            f"{chunk} outputs at a time make blocks of {rows} x {chunk} logits, {needed / 1e9:.1f} GB with a "
            f"copy, and {free / 1e9:.1f} GB are free: head.chunk={max(1, int(chunk * free / needed / 2))}, "
            "or leave it out, and it is chosen."
        )
    return chunk
