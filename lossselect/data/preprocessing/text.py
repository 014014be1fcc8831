"""Words of free text as features: the TF-IDF of scikit-learn, stored as plain values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from lossselect.data.preprocessing.columns import column_error
from lossselect.exceptions import CheckpointError
from lossselect.utils.checks import check_float
from lossselect.utils.warnings import warn

MAX_TERMS = 5000
"""Maximum number of words and pairs of words that are features of a column, the most frequent ones."""
MAX_FITTED = 50_000
"""Maximum number of training rows from which the words are counted, evenly spaced."""
MAX_CHARACTERS = 100_000
"""Maximum length of a cell; the rest of a longer one is ignored."""
BLOCK_CELLS = 1 << 14
"""Number of cells that are converted at once."""
OPTIONS: dict[str, Any] = {"ngram_range": (1, 2), "sublinear_tf": True, "dtype": np.float32}
"""Options of `TfidfVectorizer`."""


@dataclass(frozen=True)
class Text:
    """A column of free text: the TF-IDF of each term, a word or two consecutive ones; 0 where missing.

    Args:
        name: The column's name.
        terms: The terms, in the order of the features.
        idf: The inverse document frequency of each term.
    """

    name: str
    terms: tuple[str, ...]
    idf: tuple[float, ...]

    @property
    def features(self) -> list[str]:
        """Names of its features."""
        return [f"{self.name}: {term}" for term in self.terms]

    def check(self) -> None:
        """Raise an error unless there are different terms, each with a finite idf."""
        if len({*self.terms}) != len(self.idf) or not self.terms:
            raise CheckpointError(f"Column {self.name!r} must have an idf for each of its terms.")
        for idf in self.idf:
            check_float(f"The idf of column {self.name!r}", idf)

    def words(self, text: pl.Series) -> Any:
        """Return a `scipy.sparse.csr_array` (N, terms) of the TF-IDF of text, null where missing."""
        from scipy.sparse import csr_array, vstack
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(vocabulary=self.terms, **OPTIONS)
        vectorizer.idf_ = np.array(self.idf, dtype=np.float32)
        parts = [csr_array(vectorizer.transform(cells)) for cells in _blocks(text)]
        return vstack(parts, format="csr") if parts else csr_array((0, len(self.terms)), dtype=np.float32)


def fit_text(text: pl.Series) -> Text:
    """Return a column of free text, fitted to cells of training rows, null where missing.

    Raises:
        DataError: no word occurs in two rows.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(max_features=MAX_TERMS, min_df=2, **OPTIONS)
    try:
        vectorizer.fit(cell for cells in _blocks(text) for cell in cells)
    except ValueError:  # the vocabulary is empty
        raise column_error(
            text.name,
            "has no word of two letters or more that occurs in two training rows, so it has no features "
            f"(data.text). Remove it from data.text, and leave it out with data.exclude=[{text.name}].",
        ) from None
    terms = tuple(vectorizer.get_feature_names_out().tolist())
    return Text(text.name, terms, tuple(vectorizer.idf_.tolist()))


def join_words(columns: Sequence[Any]) -> Any:
    """Return the words of several columns side by side, None for no column."""
    from scipy.sparse import hstack

    return hstack(columns, format="csr") if columns else None


def _blocks(text: pl.Series) -> Iterator[list[str]]:
    for start in range(0, len(text), BLOCK_CELLS):
        yield text[start : start + BLOCK_CELLS].str.head(MAX_CHARACTERS).fill_null("").to_list()


def warn_if_long(text: pl.Series, first_row: int = 0) -> None:
    """Warn about cells whose end is ignored."""
    if (text.str.len_bytes().max() or 0) > MAX_CHARACTERS:  # type: ignore[operator]
        lengths = text.str.len_chars()
        if count := int((lengths > MAX_CHARACTERS).sum()):
            row = first_row + (lengths.arg_max() or 0)
            warn(
                "long_text",
                f"{count} cells of column {text.name!r} are longer than {MAX_CHARACTERS} characters, such as "
                f"row {row}. Only their first {MAX_CHARACTERS} characters are used.",
            )
