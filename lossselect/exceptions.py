"""Errors that are the user's to fix. Their messages say what was expected, what was received, and the fix.

The command line prints such an error as one message; any other exception is a bug, and keeps its traceback.
"""

from typing import Any, Self


class LossSelectError(Exception):
    """Base class of the errors that this package raises on purpose."""

    def add(self, text: str) -> "LossSelectError":
        """Return the error itself with a sentence added to its message."""
        self.args = (f"{self} {text}", *self.args[1:])
        return self


class ConfigError(LossSelectError, ValueError):
    """Raised for a setting, an argument or a combination of them that cannot be used."""


class OptionTypeError(LossSelectError, TypeError):
    """Raised for a setting or an argument of the wrong type."""


class DataError(LossSelectError, ValueError):
    """Raised for labels, features or a file that cannot be used.

    Args:
        message: The whole message, which names row, column and value itself.
        row: The first row at fault, an integer counted from 0; None if no single row is at fault.
        column: Its column's name.
        value: What was found there.
    """

    def __init__(self, message: str, *, row: Any = None, column: str | None = None, value: Any = None):
        super().__init__(message)
        self.row: int | None = None if row is None else int(row)
        self.column, self.value = column, value

    @classmethod
    def at(cls, row: Any, column: str | None, problem: str, value: Any = None) -> Self:
        """Return the error of a row, and of a column unless it is None; `problem` continues the message."""
        place = f"Row {row}" if column is None else f"Row {row} of column {column!r}"
        return cls(place + problem, row=row, column=column, value=value)

    def counted_from(self, first: int) -> "DataError":
        """Return the error itself, found in a block of rows that starts at row `first` of the data."""
        if self.row is not None:
            message = str(self).removeprefix(f"Row {self.row}")
            self.row += first
            self.args = (f"Row {self.row}{message}", *self.args[1:])
        return self


class DataTypeError(DataError, TypeError):
    """Raised for labels or features of the wrong type, such as text where numbers are expected."""


class UnseenLabelError(DataError):
    """Raised for a label that is not in the vocabulary."""


class FileMissingError(LossSelectError, FileNotFoundError):
    """Raised for a file or a folder that does not exist."""


class StorageError(LossSelectError, OSError):
    """Raised for a disk without enough room."""


class PackageMissingError(LossSelectError, ModuleNotFoundError):
    """Raised for an optional package that is not installed."""


class CheckpointError(LossSelectError, ValueError):
    """Raised for a checkpoint, or an exported model, that is damaged or does not fit."""


class UnsupportedError(LossSelectError, RuntimeError):
    """Raised for an operation that this head, or this version of another library, does not support."""


class TrainingDiverged(LossSelectError, ValueError):  # noqa: N818  # as its users would say it
    """Raised where the loss, a gradient or a weight is no longer finite."""
