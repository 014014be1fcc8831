"""Lightning data module of data sets in litdata's format, streamed from a folder or an object store."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lossselect.data.batches import check_enough_rows
from lossselect.data.checks import check_order
from lossselect.data.label_parsing.options import LabelOptions
from lossselect.data.readers.arrays import FEATURES, LABELS
from lossselect.data.readers.litdata_index import check_index, check_installed, is_url
from lossselect.exceptions import ConfigError, DataError, LossSelectError
from lossselect.labels.vocabulary import Vocabulary
from lossselect.tasks.registry import TASKS
from lossselect.utils.checks import SPLIT_NAMES, as_list, shorten, show

SCAN_ROWS = 1024  # rows per batch of the pass over the labels

Key = str | int


class LitData(LightningDataModule):
    """Loaders over data sets of litdata, whose items are dicts or tuples of features and a label.

    Features are converted to float32, and otherwise used as they are stored. Labels are class indices, class
    names, vectors of 0 and 1, or lists of names. Names, and the number of classes of indices, are collected
    in a pass over the training rows, unless the task has `class_names`.

    The order of the training rows follows from `seed` and the epoch: litdata shuffles the chunks, and the
    rows of each chunk. With several processes, an epoch leaves out training rows that do not fill a batch in
    each process. Evaluation takes each row once. `configs/data/litdata.yaml` describes the arguments.

    Raises:
        ConfigError: a setting that does not fit the data.
        DataError: an item or a label that cannot be used.
        FileMissingError: a folder or one of its files does not exist.
        PackageMissingError: litdata is not installed.
    """

    class_names: tuple[str, ...] | None = None
    num_outputs: int | None = None
    num_features: int
    """The number of features in a row; not set if a row is not a vector."""
    in_blocks = True  # each of several processes evaluates consecutive rows

    def __init__(
        self,
        path: str,
        task: Mapping[str, Any],
        val_path: str | None = None,
        test_path: str | None = None,
        val_fraction: float = 0.15,
        test_fraction: float = 0.2,
        seed: int = 0,
        features: Key | Sequence[Key] | None = None,
        target: Key | None = None,
        sample_weight: Key | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        positive: Any = None,
        cache_dir: str | None = None,
        name: str = "litdata",
    ) -> None:
        super().__init__()
        self.path, self.paths = path, {"val": val_path, "test": test_path}
        self.fractions = {"val": val_fraction * (1 if test_path else 1 - test_fraction)}
        self.fractions["test"] = test_fraction
        self.task, self.seed, self.positive, self.cache_dir = task, seed, positive, cache_dir
        self.batch_size, self.num_workers = batch_size, num_workers
        self._keys = as_list(features), target, sample_weight
        self._collate: Collate | None = None

    def setup(self, stage: str) -> None:
        """Read the first item and, if the task requires them, the names or the number of the classes."""
        if self._collate is not None:
            return
        check_installed()
        sizes = {split: _count_rows(self._open(split)) for split in SPLIT_NAMES}
        if empty := [SPLIT_NAMES[split] for split, rows in sizes.items() if not rows]:
            raise DataError(f"The {empty[0]} split has no rows. Add at least one.")
        counts = ", ".join(f"{rows} {SPLIT_NAMES[split]}" for split, rows in sizes.items())
        self.summary = f"{self.path}: {counts} rows, streamed by litdata"
        with _errors(self.path), _quiet():
            item = self._open("train")[0]
        collate = Collate.fit(item, *self._keys)
        if len(collate.shape) == 1:
            self.num_features = collate.shape[0]
        self._find_classes(collate, sizes["train"])
        self._collate = collate

    def _find_classes(self, collate: "Collate", num_rows: int) -> None:
        """Set `class_names` or `num_outputs` if they follow from the data."""
        name, shape = self.task["name"], collate.label_shape
        LabelOptions(name, positive=self.positive)  # raises an error for another task
        if shape is not None and self.positive is not None:
            raise ConfigError("data.positive applies to class names, but the labels are numbers. Remove it.")
        if name == "auto" or self.task.get("class_names") is not None:
            return
        if shape:
            self.num_outputs = shape[-1]
        elif shape is None:
            names: set[str] = set()
            for batch in self._read_labels(collate):
                names.update(*map(as_list, batch))
            self.class_names = self._order(Vocabulary.fit(sorted(names)).names)
        elif TASKS[name].is_sized():
            largest = max(int(batch.nan_to_num().max()) for batch in self._read_labels(collate))
            if largest >= max(num_rows, 2):
                raise DataError(
                    f"The largest label is {largest}, but there are only {num_rows} training rows. Expected "
                    "class indices from 0 to C - 1. Store indices or names, or set +task.class_names=[...]."
                )
            self.num_outputs = largest + 1

    def _read_labels(self, collate: "Collate") -> "Loader":
        dataset = self._open("train")
        dataset.set_batch_size(SCAN_ROWS)
        labels = replace(collate, only_labels=True)
        return Loader(dataset, SCAN_ROWS, num_workers=self.num_workers, collate_fn=labels)

    def _order(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names, for binary with the positive one last."""
        if self.task.get("ordinal"):
            check_order(names)
        if TASKS[self.task["name"]].kind != "binary":
            return names
        if len(names) != 2:
            raise DataError(
                f"task=binary requires two classes, got {len(names)} in the training rows: {shorten(names)}. "
                "Set task=multiclass, or correct the labels."
            )
        if str(self.positive) not in names:
            raise ConfigError(
                f"data.positive must be the name of the positive class, {names[0]!r} or {names[1]!r}, got "
                f"{self.positive!r}. Set data.positive={names[1]}."
            )
        return tuple(sorted(names, key=lambda name: name == str(self.positive)))

    def _open(self, split: str, shuffle: bool = False) -> Any:
        """Return litdata's data set of a split, to be read by a single process."""
        dataset = _open_dataset(self.paths.get(split) or self.path, self.cache_dir, shuffle, self.seed)
        parts = {name: self.fractions[name] for name in ("val", "test") if self.paths[name] is None}
        if split in ("train", *parts) and parts:
            from litdata import train_test_split

            # litdata rounds down, and rejects a sum that rounding makes larger than 1
            shares = [*parts.values(), 1 - sum(parts.values()) - 1e-9]
            datasets = train_test_split(dataset, shares, seed=self.seed)
            dataset = datasets[[*parts, "train"].index(split)]
        dataset.distributed_env = type(dataset.distributed_env)(1, 0, 1)
        dataset.set_drop_last(False)  # litdata's default depends on the environment of the process
        return dataset

    def _loader(self, split: str) -> "Loader":
        trainer, trains = self.trainer, split == "train"
        dataset = self._open(split, shuffle=trains and not (trainer and trainer.overfit_batches))  # type: ignore[attr-defined]
        num_workers = self.num_workers if trains else min(1, self.num_workers)  # to keep the order of rows
        processes = trainer.world_size if trainer else 1
        if trainer:
            env = (processes, trainer.global_rank, trainer.num_nodes)
            dataset.distributed_env = type(dataset.distributed_env)(*env)
        drop_last = trains and processes > 1
        num_rows = _count_rows(dataset) // (self.batch_size if drop_last else 1)
        check_enough_rows(f"{SPLIT_NAMES[split]} split", num_rows, processes)
        dataset.set_num_workers(num_workers)
        dataset.set_batch_size(self.batch_size if trains else 1)  # each process has a multiple of it
        dataset.set_drop_last(drop_last)
        loader = Loader(dataset, self.batch_size, num_workers=num_workers, collate_fn=self._collate)
        if trainer:
            loader.get_epoch = lambda: trainer.current_epoch
        return loader

    def train_dataloader(self) -> "Loader":
        """Return the shuffled loader of the training split."""
        return self._loader("train")

    def val_dataloader(self) -> "Loader":
        """Return the loader of the validation split."""
        return self._loader("val")

    def test_dataloader(self) -> "Loader":
        """Return the loader of the test split."""
        return self._loader("test")


def _open_dataset(path: str, cache_dir: str | None, shuffle: bool, seed: int) -> Any:
    if not is_url(path):
        check_index(path)
    from litdata import StreamingDataset

    with _errors(path, " Check the address and your credentials." * is_url(path)), _quiet():
        # window 0: the rows of a chunk are shuffled completely, so that decoding blocks of rows would be slow
        options: Any = {
            "cache_dir": cache_dir,
            "shuffle": shuffle,
            "seed": seed,
            "item_shuffle_window": 0,
            "batch_decode": 0 if shuffle else "auto",
        }
        dataset = StreamingDataset(path, **options)
    if is_url(path):
        check_index(dataset.input_dir.path, path)  # the index that litdata has downloaded
    return dataset


def _count_rows(dataset: Any) -> int:
    return sum(int(end - start) for start, end in dataset.region_of_interest)


@contextmanager
def _errors(path: Any, fix: str = "") -> Iterator[None]:
    """Convert errors of litdata to DataError; those of a worker process end with their message."""
    try:
        yield
    except LossSelectError:
        raise
    except Exception as error:
        text = next(reversed(str(error).strip().splitlines()), "")
        message = f"{path} cannot be read: {type(error).__name__}: {show(text, 300)}.{fix}"
        raise DataError(message) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what litdata logs, and that its tensors share memory with read-only bytes: a batch is a copy."""
    logger = logging.getLogger("litdata")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            yield
    finally:
        logger.setLevel(level)


class Loader:
    """A loader whose order of rows is that of an epoch, so that a resumed run sees the same batches.

    For a `DataLoader` of an iterable data set, Lightning would warn that its length may be inexact. This
    one is exact: each worker yields complete batches.
    """

    get_epoch: Callable[[], int] = staticmethod(lambda: 0)

    def __init__(self, dataset: Any, batch_size: int, **options: Any) -> None:
        self._loader = DataLoader[Any](dataset, batch_size, **options)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        dataset: Any = self._loader.dataset
        dataset.set_epoch(self.get_epoch() + 1)
        with _errors(dataset.input_dir.url or dataset.input_dir.path):
            with _quiet():  # torch warns once; processes of the loader inherit the filter
                batches = iter(self._loader)
                first = [*islice(batches, 1)]
            for batch in chain(first, batches):
                if isinstance(batch, LossSelectError):  # one raised by a worker would contain its traceback
                    raise batch
                yield batch


@dataclass(frozen=True)
class Collate:
    """Creates a batch of items, or returns the error of an item.

    Args:
        features: Keys or positions of the features in an item.
        target: Key or position of the label.
        weight: Key or position of the sample weight, or None.
        shape: Shape of the features of each item.
        label_shape: Shape of each label; None for names and lists of names.
        only_labels: Whether to return only the labels.
    """

    features: tuple[Key, ...]
    target: Key
    weight: Key | None = None
    shape: tuple[int, ...] = ()
    label_shape: tuple[int, ...] | None = None
    only_labels: bool = False

    @classmethod
    def fit(cls, item: Any, features: list[Key], target: Key | None, weight: Key | None) -> "Collate":
        """Return a function for items like this one; entries that are not named have usual names."""
        features = features or [_find_key(item, FEATURES, 0, "features")]
        target = _find_key(item, LABELS, 1, "target") if target is None else target
        collate = cls(tuple(features), target, weight)
        label, shape = collate._read_label(item), tuple(collate._read_features(item).shape)
        return replace(collate, shape=shape, label_shape=_get_shape(label))

    def __call__(self, items: list[Any]) -> Any:
        try:
            return self._make_batch(items)
        except LossSelectError as error:
            return error

    def _make_batch(self, items: list[Any]) -> Any:
        labels = [self._read_label(item) for item in items]
        _check_shapes(labels, self.label_shape, "labels")
        target = labels if self.label_shape is None else torch.stack(labels)
        if self.only_labels:
            return target
        inputs = [self._read_features(item) for item in items]
        _check_shapes(inputs, self.shape, "features")
        if self.weight is None:
            return torch.stack(inputs), target
        weights = [_to_tensor(_pick(item, self.weight, "sample_weight"), "a weight") for item in items]
        return {"inputs": torch.stack(inputs), "target": target, "sample_weight": torch.stack(weights)}

    def _read_label(self, item: Any) -> Any:
        """Return a name or a list of names as it is, and another label as a tensor."""
        label = _pick(item, self.target, "target")
        is_names = isinstance(label, list | tuple) and all(isinstance(entry, str) for entry in label)
        return label if is_names or isinstance(label, str) else _to_tensor(label, "a label, or names")

    def _read_features(self, item: Any) -> Tensor:
        """Return the features of an item; several entries become one vector."""
        parts = [_to_tensor(_pick(item, key, "features"), "features") for key in self.features]
        return (parts[0] if len(parts) == 1 else torch.cat([part.reshape(-1) for part in parts])).float()


def _get_shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _check_shapes(values: list[Any], shape: tuple[int, ...] | None, what: str) -> None:
    for value in values:
        if (other := _get_shape(value)) != shape:
            expected, got = (
                "names" if s is None else f"numbers of shape {s}" if s else "numbers" for s in (shape, other)
            )
            raise DataError(
                f"Expected {expected} as {what}, as in the first item, got {got}. Store the {what} of all "
                "items in the same form."
            )


def _find_key(item: Any, usual: tuple[str, ...], position: int, setting: str) -> Key:
    if not isinstance(item, Mapping):
        return position
    names = [name for name in usual if name in item]
    if len(names) != 1:
        raise ConfigError(
            f"Expected one key of an item to be {', '.join(usual)}, got {shorten([*item])}. Set "
            f"data.{setting} to one of its keys."
        )
    return names[0]


def _pick(item: Any, key: Key, setting: str) -> Any:
    if not isinstance(item, Mapping | tuple | list):
        raise DataError(
            f"Expected items that are dicts or tuples of features and a label, got a {type(item).__name__}. "
            "Write the data set again."
        )
    try:
        return item[key]  # type: ignore[index]
    except (LookupError, TypeError):
        keys = [*item] if isinstance(item, Mapping) else [*range(len(item))]
        raise DataError(
            f"data.{setting} must be a key or a position in each item ({shorten(keys)}), got {key!r}."
        ) from None


def _to_tensor(value: Any, what: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"Expected numbers as {what}, got {show(value)}.") from None
