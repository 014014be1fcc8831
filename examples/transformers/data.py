"""Texts and their labels from a CSV file, their splits, and batches."""

import csv
from pathlib import Path

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
from torch.utils.data import DataLoader

from lossselect.exceptions import DataError, FileMissingError


def read_columns(path, names):
    """Return the columns of a CSV file, as a list of cells each; an empty cell is an empty string."""
    if not Path(path).is_file():
        raise FileMissingError(f"File not found: {path}. Check the path.")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {*names} <= {*(reader.fieldnames or ())}:
            raise DataError(f"{path} must have the columns {', '.join(names)}, got {reader.fieldnames}.")
        rows = [*reader]
    if not rows:
        raise DataError(f"{path} contains no rows. Add one row per text.")
    return [[(row[name] or "").strip() for row in rows] for name in names]


def read_texts(path, several):
    """Return the texts and labels of a CSV file; `several` labels of a text are separated by |."""
    texts, cells = read_columns(path, ["text", "label"])
    if several:
        return texts, [[name.strip() for name in cell.split("|") if name.strip()] for cell in cells]
    return texts, [cell or None for cell in cells]  # an empty label is missing


def split(task, target, seed, fraction=0.15):
    """Return the rows for training, validation and test, with the same class frequencies."""
    if len(target) * fraction < 1:
        raise DataError(f"{len(target)} texts are too few to split off {fraction:.0%}. Add texts.")
    ones = task.to_one_hot(target).nan_to_num().round().numpy()
    ones = np.hstack([ones, 1 - ones])  # the splitter requires two columns, and a binary task has one
    parts, rows = [], np.arange(len(ones))
    for size in (fraction, fraction / (1 - fraction)):
        splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=size, random_state=seed)
        rest, part = next(splitter.split(ones[rows], ones[rows]))
        parts.append(rows[part])
        rows = rows[rest]
    return rows, parts[1], parts[0]


def make_loader(tokenizer, texts, target=None, max_length=128, **options):
    """Return a loader of batches with input_ids, attention_mask, ... and labels, padded per batch."""

    def collate(rows):
        batch = tokenizer(
            [texts[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
        )
        if target is not None:
            batch["labels"] = target[rows]
        return batch

    return DataLoader(range(len(texts)), collate_fn=collate, **options)
