"""Rows of features in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor


class TableRows:
    """Rows of features, stored as numbers, codes and sparse words; indexing creates a dense batch.

    Args:
        numbers: Shape (N, numbers), a tensor or any object that is indexed by rows like one.
        codes: Shape (N, categories), the index of the feature that is 1 for each category column, or
            `num_features` if none is.
        num_features: The number of features.
        hashes: A hash of each row; equal rows of a file have equal hashes.
        words: A `scipy.sparse.csr_array` (N, words) of the last features; None without text columns.
        is_mapped: Whether the rows are in a file, from which the system reads them when needed.
    """

    def __init__(
        self,
        numbers: Any,
        codes: Tensor,
        num_features: int,
        hashes: pl.Series,
        words: Any = None,
        is_mapped: bool = False,
    ) -> None:
        self.numbers, self.codes, self.hashes, self.words = numbers, codes, hashes, words
        self.is_mapped = is_mapped
        self.shape = (len(numbers), num_features)

    @classmethod
    def concatenate(cls, tables: Sequence["TableRows"]) -> "TableRows":
        """Return the rows of several tables of the same features."""
        if len(tables) == 1:
            return tables[0]
        numbers = torch.cat([table.numbers for table in tables])
        codes = torch.cat([table.codes for table in tables])
        hashes, words = pl.concat([table.hashes for table in tables]), None
        if tables[0].words is not None:
            from scipy.sparse import vstack

            words = vstack([table.words for table in tables], format="csr")
        return cls(numbers, codes, tables[0].shape[1], hashes, words)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def is_movable(self) -> bool:
        """Return whether `to` can move the rows: not if they are in a .npy file or have sparse words."""
        return isinstance(self.numbers, Tensor) and self.words is None

    def to(self, device: torch.device) -> "TableRows":
        """Return the same rows on a device, if they are movable."""
        return TableRows(self.numbers.to(device), self.codes.to(device), self.shape[1], self.hashes)

    @property
    def nbytes(self) -> int:
        """Size of numbers and codes."""
        return int(self.numbers.nbytes + self.codes.nbytes)

    def __getitem__(self, rows: Any) -> Tensor:
        """Return (len(rows), num_features) of the dtype of `numbers`; for a single row (num_features,)."""
        if isinstance(rows, int):
            return self[torch.tensor([rows])][0]
        numbers = self.numbers[rows]
        if not self.codes.shape[1] and self.words is None:
            return numbers
        # an additional column for codes without a feature, removed below
        features = numbers.new_zeros(len(numbers), self.shape[1] + 1)
        features.scatter_(1, self.codes[rows].long(), 1)
        if self.words is not None:
            words = self.words[np.asarray(rows)]
            places = np.repeat(np.arange(len(numbers)), np.diff(words.indptr))
            first = self.shape[1] - words.shape[1]
            features[torch.from_numpy(places), torch.from_numpy(words.indices + first).long()] = (
                torch.from_numpy(words.data).to(features.dtype)
            )
        features = features[:, :-1]
        features[:, : numbers.shape[1]] = numbers
        return features
