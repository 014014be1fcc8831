"""Errors that the user can fix; their messages state what was expected, what was received, and the fix.

The command line prints only the message of these errors. Any other exception is a bug and keeps its
traceback.
"""

from typing import Any, Self


class LossSelectError(Exception):
    """Base class of all errors that this package raises deliberately."""

    def add(self, text: str) -> "LossSelectError":
        """Append a sentence to the message, and return the error itself."""
        self.args = (f"{self.args[0]} {text}", *self.args[1:])
        return self


class ConfigError(LossSelectError, ValueError):
    """Raised for an invalid setting or argument, or an invalid combination of them."""


class OptionTypeError(LossSelectError, TypeError):
    """Raised for a setting or an argument of the wrong type."""


class DataError(LossSelectError, ValueError):
    """Raised for invalid labels, features or files.

    Args:
        message: The complete message, including row, column and value.
        row: Index of the first invalid row, counted from 0; None if the error is not about a single row.
        column: Name of the column of the invalid value.
        value: The invalid value.
    """

    def __init__(self, message: str, *, row: Any = None, column: str | None = None, value: Any = None):
        super().__init__(message)
        self.row: int | None = None if row is None else int(row)
        self.column, self.value = column, value
        self.place: tuple[str, ...] = ()
        """The fields with which the message starts, "row" and perhaps "column"; `args` has the rest."""

    @classmethod
    def at(cls, row: Any, column: str | None, problem: str, value: Any = None) -> Self:
        """Return an error whose message is the row, the column unless it is None, and `problem`.

        A change of `row` or `column` also changes the message.
        """
        error = cls(problem, row=row, column=column, value=value)
        error.place = ("row",) if column is None else ("row", "column")
        return error

    def __str__(self) -> str:
        row = f"Row {self.row}" if "row" in self.place else ""
        column = f" of column {self.column!r}" if "column" in self.place else ""
        return row + column + super().__str__()


class DataTypeError(DataError, TypeError):
    """Raised for labels or features of the wrong type, such as text where numbers are expected."""


class UnseenLabelError(DataError):
    """Raised for a label that is not in the vocabulary."""


class FileMissingError(LossSelectError, FileNotFoundError):
    """Raised for a file or a folder that does not exist."""


class StorageError(LossSelectError, OSError):
    """Raised if a disk does not have enough free space."""


class PackageMissingError(LossSelectError, ModuleNotFoundError):
    """Raised for an optional package that is not installed."""


class CheckpointError(LossSelectError, ValueError):
    """Raised for a checkpoint, or an exported model, that is damaged or does not fit."""


class UnsupportedError(LossSelectError, RuntimeError):
    """Raised for an operation that this head, or this version of another library, does not support."""


class TrainingDiverged(LossSelectError, ValueError):  # noqa: N818  # shorter than TrainingDivergedError
    """Raised if the loss, a gradient or a weight is no longer finite."""
