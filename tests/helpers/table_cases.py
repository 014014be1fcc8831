"""Helpers for test_load.py, test_table_features.py, test_single_label.py, test_table_labels.py and test_splits.py."""

import numpy as np
import polars as pl

from lossselect.data.label_parsing.single_label import LabelOptions
from lossselect.data.label_parsing.table_labels import parse_label_columns

NAN = float("nan")


OPTIONS = {"val_path": None, "test_path": None, "val_fraction": 0.25, "test_fraction": 0.25, "seed": 0}


def numbers(count, seed=0):
    return np.random.default_rng(seed).normal(size=count)


def labels_of(column, task="multiclass", fitted=None, **options):
    columns = (
        column if isinstance(column, list) and isinstance(column[0], pl.Series) else [pl.Series("y", column)]
    )
    return parse_label_columns(columns, LabelOptions(task, fitted=fitted, **options))
