"""A last layer for very many outputs, which computes its logits in blocks and discards each block."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.utils.checks import check_int
from lossselect.utils.devices import free_memory

CPU_BLOCK, GPU_BLOCK = 1 << 20, 1 << 26
"""Default number of logits in a block (rows x outputs): 4 MiB, which fits the cache of a core, and 256 MiB,
which keeps a GPU busy."""

MAX_ROWS = 8192
"""Maximum number of rows in a block; more rows are processed in groups."""

Observer = Callable[[slice, slice, Tensor], None]
"""Function called with the rows, the columns and the logits of each block, which it must not change."""


class ChunkedLinear(nn.Linear):
    """A linear layer with many outputs, whose logits are never all in memory.

    It returns `ChunkedLogits` instead of a tensor, which `TaskModule` and `chunked_loss` accept. Weight, bias
    and checkpoints are the same as for `torch.nn.Linear`.

    Args:
        in_features: Number of features D of the inputs (N, D).
        out_features: Number of outputs C of the logits (N, C).
        bias: Whether to add a bias.
        chunk: Number of outputs in a block, >= 1; None chooses it from the number of rows.
        **options: Passed to `torch.nn.Linear` (device, dtype).

    Raises:
        OptionTypeError, ConfigError: chunk is not an integer >= 1.

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
        """Return a chunked layer that shares the weight and the bias of `layer`."""
        new = cls(layer.in_features, layer.out_features, layer.bias is not None, chunk=chunk, device="meta")
        new.weight, new.bias = layer.weight, layer.bias
        return new

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, chunk={self.chunk}"

    def forward(self, inputs: Tensor) -> "ChunkedLogits":  # type: ignore[override]
        """Return the logits of inputs (N, D)."""
        return ChunkedLogits(inputs, self.weight, self.bias, self.chunk)


_NOT_DENSE = (
    "A chunked head never has all logits at once, {}. Use logits.topk(k) for the highest logits of a row, or "
    "logits.dense() for the full matrix. In forward, the linear layer with the outputs of the task must "
    "come last, or set head=dense."
)


class ChunkedLogits:
    """The logits inputs @ weight.T + bias (N, C), computed in blocks of columns.

    Args:
        inputs: Features (N, D).
        weight: Weight of the layer (C, D).
        bias: Bias of the layer (C,), or None.
        chunk: Number of columns in a block; None chooses it from the number of rows.

    Attributes:
        dtype: The dtype of products: autocast's if enabled; on a CPU float32 or wider, which is equally fast.
        wide: The dtype of a block, float32 or wider.
        with_grad: Whether gradients were enabled when the logits were created.

    Raises:
        ConfigError: the shape of the inputs is wrong, a block does not fit into memory, or the device does
            not support float64.
    """

    def __init__(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, chunk: int | None = None) -> None:
        if inputs.ndim != 2 or inputs.shape[1] != weight.shape[1]:
            raise ConfigError(
                f"Expected inputs of shape (N, {weight.shape[1]}) for a chunked head, got "
                f"{tuple(inputs.shape)}. Flatten other dimensions, or set head=dense."
            )
        if inputs.device.type == "mps":
            raise ConfigError("A chunked head requires float64, which MPS does not support. Set head=dense.")
        self.inputs, self.weight, self.bias, self.device = inputs, weight, bias, inputs.device
        self.shape, self.ndim = torch.Size((len(inputs), len(weight))), 2
        self.chunk = _choose_chunk(*self.shape, chunk, self.device)
        self.dtype = _product_dtype(inputs, weight)
        self.wide = torch.promote_types(self.dtype, torch.float32)
        self.with_grad = torch.is_grad_enabled()

    def is_floating_point(self) -> bool:
        """Return True, as `Task.check_logits` requires."""
        return True

    def __len__(self) -> int:
        return self.shape[0]

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(_NOT_DENSE.format(f"so its logits have no {name!r}"))

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any, **__: Any) -> NoReturn:
        raise OptionTypeError(
            _NOT_DENSE.format(f"but {getattr(function, '__name__', function)} requires them")
        )

    def _raise(self, *_: Any) -> NoReturn:
        raise OptionTypeError(_NOT_DENSE.format("but arithmetic requires them"))

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __neg__ = __pow__ = _raise
    __matmul__ = __rmatmul__ = __lt__ = __le__ = __gt__ = __ge__ = __getitem__ = _raise

    def dense(self) -> Tensor:
        """Return the matrix (N, C)."""
        return linear(self.inputs, self.weight, self.bias)

    def cast_inputs(self, rows: slice) -> Tensor:
        """Return the inputs of some rows in the dtype of products."""
        return self.inputs.detach()[rows].to(self.dtype)

    def cast_weight(self, columns: slice) -> Tensor:
        """Return the weight of some columns in the dtype of products."""
        return self.weight.detach()[columns].to(self.dtype)

    def groups(self) -> Iterator[slice]:
        """Yield groups of at most `MAX_ROWS` rows, or one empty group if there are no rows."""
        for start in range(0, max(len(self), 1), MAX_ROWS):
            yield slice(start, min(start + MAX_ROWS, len(self)))

    def blocks(self, rows: slice) -> Iterator[tuple[slice, Tensor]]:
        """Yield (columns, logits of these rows and columns in `wide`) for all columns in turn.

        All blocks use the same memory, which has a spare element at the end: see `flatten_block`.
        """
        inputs, bias = self.cast_inputs(rows), None if self.bias is None else self.bias.detach()
        width = self.shape[1]
        size = len(inputs) * min(self.chunk, width) + 1
        memory = torch.empty(size, dtype=self.wide, device=self.device)
        for first in range(0, width, self.chunk):
            columns = slice(first, min(first + self.chunk, width))
            block = memory[: len(inputs) * (columns.stop - first)].view(len(inputs), columns.stop - first)
            weight = self.cast_weight(columns)
            with torch.autocast(self.device.type, enabled=False):
                if weight.dtype == self.wide:
                    torch.mm(inputs, weight.t(), out=block)
                else:
                    block.copy_(product(inputs, weight.t()))
            yield columns, block if bias is None else block.add_(bias[columns])

    def topk(self, k: int) -> tuple[Tensor, Tensor]:
        """Return the k highest logits of each row and their columns, (N, k) each, the highest first.

        Raises:
            OptionTypeError: k is not an integer.
            ConfigError: k is less than 1, or exceeds the number of columns.
        """
        highest = Highest(self, check_int("k", k, 1, self.shape[1])).scan()
        return highest.values, highest.columns


class Highest:
    """`Observer` that collects the k highest logits of each row and their columns, (N, k) each."""

    def __init__(self, logits: ChunkedLogits, k: int) -> None:
        self.logits = logits
        self.values = torch.full((len(logits), k), -torch.inf, dtype=logits.wide, device=logits.device)
        self.columns = torch.zeros(len(logits), k, dtype=torch.long, device=logits.device)

    def __call__(self, rows: slice, columns: slice, block: Tensor) -> None:
        """Update the highest logits with a block."""
        k = self.values.shape[1]
        values, places = block.topk(min(k, block.shape[1]), 1)
        values = torch.cat([self.values[rows], values], 1)
        candidates = torch.cat([self.columns[rows], places + columns.start], 1)
        self.values[rows], order = values.topk(k, 1)
        self.columns[rows] = candidates.gather(1, order)

    @torch.no_grad()
    def scan(self) -> Self:
        """Compute all blocks; only needed if no loss is computed from them."""
        for rows in self.logits.groups():
            for columns, block in self.logits.blocks(rows):
                self(rows, columns, block)
        return self


def flatten_block(block: Tensor) -> Tensor:
    """Return the flat memory of a block of `ChunkedLogits.blocks`, with the spare element at the end."""
    return block.as_strided((block.numel() + 1,), (1,))


def _product_dtype(inputs: Tensor, weight: Tensor) -> torch.dtype:
    kind, dtype = inputs.device.type, torch.promote_types(inputs.dtype, weight.dtype)
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    return torch.promote_types(dtype, torch.float32) if kind == "cpu" else dtype


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b in float32 or wider, for any dtype of a and b."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).float()


@lru_cache(maxsize=64)
def _choose_chunk(rows: int, width: int, chunk: int | None, device: torch.device) -> int:
    """Return the number of outputs in a block; cached, to query the memory once for each shape."""
    rows = max(1, min(rows, MAX_ROWS))
    if chunk is None:
        return max(256, (CPU_BLOCK if device.type == "cpu" else GPU_BLOCK) // rows)
    chunk = min(chunk, width)
    needed, free = 8 * rows * chunk, free_memory(device)  # the block and a temporary tensor of the same size
    if free is not None and needed > free:
        raise ConfigError(
            f"Blocks of {rows} x {chunk} logits require {needed / 1e9:.1f} GB with a copy, but "
            f"{free / 1e9:.1f} GB are free. Set head.chunk={max(1, int(chunk * free / needed / 2))}, or "
            "remove it to choose it automatically."
        )
    return chunk
