"""The columns of a table, or the arrays of a file, that settings name."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lossselect.data.preprocessing.table_features import Features
from lossselect.data.readers.tables import check_columns
from lossselect.exceptions import ConfigError, DataError
from lossselect.utils.checks import as_list, first_duplicate, shorten

ROLES = ("split", "group", "time")
"""Settings of the columns that determine the splits."""


@dataclass(frozen=True)
class NamedColumns:
    """The columns of a table, or the arrays of a file, that settings name.

    Args:
        target: The labels.
        listed: Whether the user set a list of target columns.
        features: The only features; empty if all other columns are features.
        exclude: Columns to leave out.
        sample_weight: The sample weights, or None.
        id: The ids of a table with one row for each label, or None.
        roles: The columns that determine the splits, by setting.
        categorical: Features that are categories although they look like another kind.
        text: Features of free text.
    """

    target: tuple[str, ...] = ()
    listed: bool = False
    features: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    sample_weight: str | None = None
    id: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    categorical: tuple[str, ...] = ()
    text: tuple[str, ...] = ()

    @classmethod
    def create(cls, data: Mapping[str, Any]) -> "NamedColumns":
        """Create the columns from the settings `data`.

        Raises:
            ConfigError: several columns of sample weights, or a column of categories and of free text.
            DataError: an .xml file as target without labels.
        """
        target, categorical, text, weights = (
            tuple(dict.fromkeys(as_names(data.get(name))))
            for name in ("target", "categorical", "text", "sample_weight")
        )
        listed = isinstance(data.get("target"), list | tuple)
        if len(target) == 1 and target[0].endswith(".xml") and Path(target[0]).is_file():
            target, listed = _read_label_names(target[0]), True
        if len(weights) > 1:
            raise ConfigError(
                f"data.sample_weight must be one column, got {len(weights)}: {shorten(weights)}."
            )
        if both := [name for name in text if name in categorical]:
            raise ConfigError(
                f"Column {both[0]!r} cannot be both data.text and data.categorical. Remove it from one of "
                "them."
            )
        single = {name: None if data.get(name) is None else str(data[name]) for name in ("id", *ROLES)}
        return cls(
            target,
            listed and single["id"] is None,
            tuple(as_names(data.get("features"))),
            tuple(as_names(data.get("exclude"))),
            weights[0] if weights else None,
            single.pop("id"),
            {role: name for role, name in single.items() if name is not None},
            categorical,
            text,
        )

    def with_targets(self, targets: Iterable[Sequence[str]]) -> "NamedColumns":
        """Return the columns with the labels of several tasks, which may share columns."""
        names = dict.fromkeys(name for columns in targets for name in columns)
        return replace(self, target=tuple(names), listed=False)

    @property
    def settings(self) -> list[tuple[str, str]]:
        """The columns that are not features, or determine the splits, each with its setting."""
        single = {"sample_weight": self.sample_weight, "id": self.id, **self.roles}
        named = [(setting, name) for setting, name in single.items() if name is not None]
        return [*(("target", name) for name in self.target), *named]

    @property
    def as_text(self) -> list[str]:
        """The columns whose cells are read as text, so that "007" stays "007"."""
        labels = [name for setting, name in self.settings if setting not in ("sample_weight", "time")]
        return [*labels, *self.categorical, *self.text]

    def with_roles_in(self, names: Iterable[str]) -> "NamedColumns":
        """Return the columns without the roles that a file with these names lacks."""
        known = {*names}
        return replace(self, roles={role: name for role, name in self.roles.items() if name in known})

    def fitted_to(self, features: Features) -> "NamedColumns":
        """Return the columns with the kinds of fitted features, to read the cells of another file."""
        categories, texts = ([column.name for column in c] for c in (features.categories, features.texts))
        return replace(self, categorical=tuple(categories), text=tuple(texts))

    def check(self, header: list[str], path: str) -> None:
        """Raise an error unless a table with the columns `header` has them, each with one meaning.

        Raises:
            ConfigError: a column has two meanings.
            DataError: the table lacks a column.
        """
        for setting, name in self.settings:
            if setting != "target":
                check_columns([name], header, f"data.{setting}", path)
            if setting not in ("target", "time") and name in self.features:
                raise ConfigError(
                    f"Column {name!r} cannot be both data.{setting} and a feature (data.features). Remove it "
                    "from data.features."
                )
        if (twice := first_duplicate(name for _, name in self.settings)) is not None:
            first, second = [setting for setting, name in self.settings if name == twice][:2]
            raise ConfigError(f"Column {twice!r} cannot be both data.{first} and data.{second}.")
        for setting in ("exclude", "features"):
            check_columns(getattr(self, setting), header, f"data.{setting}", path)
        targets = {*self.target}
        if both := [name for name in self.features if name in targets]:
            raise ConfigError(
                f"Column {both[0]!r} is the target (data.target) and among the features (data.features), so "
                "the net would see the label. Remove it from data.features."
            )

    def select_features(self, header: Sequence[str], path: str) -> list[str]:
        """Return the columns of `header` that are features; raise a DataError if there are none."""
        only = {*self.features}
        removed = [name for _, name in self.settings if name not in only] + [*self.exclude]
        left_out = {*removed}
        columns = [name for name in dict.fromkeys(self.features or header) if name not in left_out]
        if not columns:
            raise DataError(
                f"{path} has no feature column left after removing {shorten(removed)}. Change data.features "
                "or data.exclude."
            )
        for setting in ("categorical", "text"):
            check_columns(getattr(self, setting), columns, f"data.{setting}", path)
        return columns

    def uses(self, header: Sequence[str], indices: Sequence[str] = ()) -> dict[str, str]:
        """Return the use of each column: the setting that names it, "feature", "index" or "features".

        The last one means that data.features does not name it.

        Args:
            header: All columns.
            indices: Columns without a name that number the rows.
        """
        uses = dict.fromkeys(header, "features" if self.features else "feature")
        for use, names in (("feature", self.features), ("exclude", self.exclude), ("index", indices)):
            uses |= {name: use for name in names if name in uses}
        return uses | {name: setting for setting, name in self.settings if name in uses}


def _read_label_names(path: str) -> tuple[str, ...]:
    """Return the names of the labels in a file of Mulan: <label name="sport"></label>."""
    names = re.findall(r"<label\s+name=[\"']([^\"']+)[\"']", Path(path).read_text(encoding="utf-8"))
    if not names:
        raise DataError(
            f'{path} (data.target) has no label such as <label name="sport"></label>. Name the columns.'
        )
    return tuple(dict.fromkeys(map(html.unescape, names)))


def as_names(setting: Any) -> list[str]:
    """Return one name, several, or none as a list; YAML reads some names as numbers."""
    return [str(name) for name in as_list(setting)]
