"""Write a table as data sets of litdata, for object stores and several nodes; see docs/data.md.

python streaming.py TABLE FOLDER TARGET writes FOLDER/train, FOLDER/val and FOLDER/test. FOLDER may be an
address such as s3://bucket/data. Rows are shuffled, because training shuffles only chunks and their rows.
"""

import sys
from functools import partial

import litdata
import numpy as np
import polars as pl


def make_items(rows, target):
    """Yield an item for each row; labels are class names or lists of names, or 0 and 1."""
    features = rows.drop(target).to_numpy().astype(np.float32)
    for vector, label in zip(features, rows[target].to_list(), strict=True):
        yield {"features": vector, "label": label}


def main(path, folder, target):
    """Write 70 % of the rows as training rows, 10 % as validation rows and 20 % as test rows."""
    table = pl.read_parquet(path) if path.endswith(".parquet") else pl.read_csv(path)
    table = table.sample(fraction=1, shuffle=True, seed=0)
    test, val = len(table) // 5, len(table) // 10
    train = table[test + val :]
    names = [name for name in table.columns if name != target]
    scaled = [(pl.col(name) - train[name].mean()) / (train[name].std() or 1) for name in names]
    table = table.with_columns(scaled)
    for split, rows in {
        "test": table[:test],
        "val": table[test : test + val],
        "train": table[test + val :],
    }.items():
        litdata.optimize(
            partial(make_items, target=target),
            inputs=[*rows.iter_slices(10_000)],
            output_dir=f"{folder}/{split}",
            chunk_bytes="64MB",
            num_workers=1,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
