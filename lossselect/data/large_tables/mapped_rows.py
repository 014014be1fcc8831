"""Rows of features in memory-mapped files, for tables that are larger than the memory."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lossselect.data.preprocessing.table_features import Features
from lossselect.data.preprocessing.table_rows import TableRows

FILES = {"numbers": np.float32, "codes": np.int32, "hashes": np.uint64}
"""The files of all rows, and their types."""
WORDS = {"word_counts": np.int64, "word_columns": np.int64, "word_values": np.float32}
"""The files of words: how many a row has, and the column and value of each."""


@contextmanager
def open_writer(folder: Path) -> Iterator[Callable[[TableRows], None]]:
    """Yield a function that appends rows to new files in the folder."""
    with ExitStack() as stack:
        types = FILES | WORDS
        files: dict[str, Any] = {name: stack.enter_context((folder / name).open("wb")) for name in types}

        def append(rows: TableRows) -> None:
            arrays = {"numbers": rows.numbers.numpy(), "codes": rows.codes.numpy()}
            arrays["hashes"] = rows.hashes.to_numpy()
            if (words := rows.words) is not None:
                arrays |= {"word_counts": np.diff(words.indptr), "word_columns": words.indices}
                arrays["word_values"] = words.data
            for name, array in arrays.items():
                # unlike `tofile`, `write` states the cause of an error
                files[name].write(np.ascontiguousarray(array, types[name]))

        yield append


def count_numbers(features: Features) -> int:
    """Return the number of features that are numbers, with the indicators of missing cells."""
    numbers = sum(len(number.features) for number in features.numbers)
    return numbers + sum(len(date.features) for date in features.dates)


def map_rows(folder: Path, features: Features) -> TableRows:
    """Return the rows that `open_writer` has written into the folder; the system reads them when needed."""
    hashes = pl.Series(np.fromfile(folder / "hashes", np.uint64))
    num_rows, width = len(hashes), len(features.names)
    num_words = sum(len(text.terms) for text in features.texts)
    numbers = _map(folder / "numbers", torch.float32, num_rows, count_numbers(features))
    codes = _map(folder / "codes", torch.int32, num_rows, len(features.categories))
    words: Any = None
    if num_words:
        from scipy.sparse import csr_array

        starts = np.concatenate([[0], np.cumsum(np.fromfile(folder / "word_counts", np.int64))])
        columns, values = (
            _map(folder / name, dtype, int(starts[-1])).numpy()
            for name, dtype in (("word_columns", torch.int64), ("word_values", torch.float32))
        )
        words = csr_array((num_rows, num_words), dtype=np.float32)
        words.data, words.indices, words.indptr = values, columns, starts  # the constructor copies them
    return TableRows(numbers, codes, width, hashes, words, is_mapped=True)


def _map(file: Path, dtype: torch.dtype, *shape: int) -> Tensor:
    size = int(np.prod(shape))
    if not size:
        return torch.empty(shape, dtype=dtype)
    return torch.from_file(str(file), shared=False, size=size, dtype=dtype).view(shape)
