"""Thousands of random labels and files, none of which may raise an unexpected error.

python benchmarks/fuzz.py [CASES]       10,000 by default: half labels for `encode`, half files

Labels have any shape, dtype and value, or are nested lists. Files contain random bytes, or rows of cells with
unusual quotes, separators and encodings. The result must be a canonical target, or a ValueError, TypeError or
OSError with a message.
"""

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lossselect as ls
from lossselect.data.files.load import load_own_data

TASKS = [ls.Binary(), ls.Multiclass(3), ls.Multilabel(3), ls.Multilabel(3, missing=-1), ls.Multiclass(2)]
EXPECTED = (ValueError, TypeError, OSError)

numbers = st.one_of(
    st.integers(-3, 5), st.floats(width=32), st.booleans(), st.none(), st.text(max_size=3), st.integers()
)
nested = st.recursive(numbers, lambda inner: st.lists(inner, max_size=4), max_leaves=20)
dtypes = st.sampled_from([np.int64, np.int8, np.uint8, np.float32, np.float64, np.bool_, np.float16])
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
likely = hnp.arrays(
    np.float32,
    st.sampled_from([(4,), (4, 1), (4, 3), (3, 3)]),
    elements=st.sampled_from([0.0, 1.0, 2.0, np.nan, 0.5, -1.0]),
)
labels = st.one_of(nested, arrays, likely, arrays.map(torch.from_numpy), likely.map(torch.from_numpy))

cells = st.one_of(
    st.sampled_from(
        ["", "a", "b", "0", "1", "1.5", "nan", "?", '"', "a,b", "a|b", "=1", "\n", " a", "1e5", "é"]
    ),
    st.text(max_size=4),
)
rows = st.lists(st.lists(cells, min_size=0, max_size=4), max_size=12)
headers = st.lists(st.sampled_from(["x", "y", "z", "", "x", "target", "é"]), min_size=1, max_size=4)


def damaged(*labels: str) -> st.SearchStrategy[bytes]:
    """Return files with rows of a number and a label, up to two cells of which are replaced."""
    row = st.tuples(st.integers(0, 99).map(str), st.sampled_from(labels))
    others = st.lists(st.tuples(st.integers(0, 59), st.integers(0, 1), cells), max_size=2)
    return st.tuples(st.lists(row, min_size=20, max_size=60), others).map(as_text)


counts = {"accepted": 0, "rejected": 0}


def as_text(parts: Any) -> bytes:
    """Return the content of a CSV file with replaced cells."""
    whole, others = parts
    table = [
        [*row] for row in whole for _ in range(3)
    ]  # otherwise few classes would have a row in each split
    for row, column, cell in others:
        table[row % len(table)][column] = cell
    return "\n".join(["x,y", *(",".join(row) for row in table)]).encode()


def attempt(run: Any) -> None:
    """Call and count; errors that are not expected are not caught."""
    try:
        run()
        counts["accepted"] += 1
    except EXPECTED as error:
        if not str(error).strip():
            raise RuntimeError(f"{type(error).__name__} without a message") from error
        counts["rejected"] += 1


def check_labels(task: ls.Task, target: Any) -> None:
    """Encode labels, and check that the result is a canonical target."""

    def run() -> None:
        encoded = task.encode(target)
        task.check_values(encoded)
        assert encoded.dtype in (torch.float32, torch.float64, torch.int64)

    attempt(run)


def check_file(content: bytes, suffix: str, task: str, target: Any, options: dict[str, Any]) -> None:
    """Read a file as data=table does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"data{suffix}"
        path.write_bytes(content)
        settings = {**DEFAULTS, "path": str(path), "target": target, **options}
        attempt(lambda: load_own_data(**settings, task={"name": task, "class_names": None}))


odd_files = st.tuples(
    st.one_of(
        st.binary(max_size=200),
        damaged("a", "b", "0", "1", "a|b"),
        st.tuples(headers, rows, st.sampled_from([",", ";", "\t"])).map(
            lambda parts: "\n".join(parts[2].join(row) for row in [parts[0], *parts[1]]).encode()
        ),
    ),
    st.sampled_from([".csv", ".csv", ".csv", ".tsv", ".parquet"]),
    st.sampled_from(["binary", "multiclass", "multilabel", "auto"]),
    st.sampled_from(["y", "y", "y", "target", "", ["x", "y"], ["y"]]),
    st.sampled_from([{}, {}, {"delimiter": "|"}, {"separator": ";"}, {"positive": "a"}, {"missing": ["?"]}]),
)
likely_files = st.one_of(
    st.tuples(damaged(*labels), st.just(".csv"), st.sampled_from([task, "auto"]), st.just("y"), options)
    for task, labels, options in (
        ("binary", ("0", "1"), st.sampled_from([{}, {"missing": ["?"]}])),
        ("binary", ("a", "b"), st.just({"positive": "a"})),
        ("multiclass", ("a", "b", "c"), st.sampled_from([{}, {"missing": ["?"]}])),
        ("multilabel", ("a", "b", "a|b", "b|c"), st.just({"delimiter": "|"})),
    )
)
"""Files that are valid except for the replaced cells."""


def main(cases: int) -> None:
    quick = settings(
        max_examples=cases // 2, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )

    @quick
    @given(st.sampled_from(TASKS), labels)
    def fuzz_labels(task: ls.Task, target: Any) -> None:
        check_labels(task, target)

    @quick
    @given(st.one_of(odd_files, likely_files))
    def fuzz_files(case: tuple[bytes, str, str, Any, dict[str, Any]]) -> None:
        check_file(*case)

    for name, run in (("labels", fuzz_labels), ("files", fuzz_files)):
        counts.update(accepted=0, rejected=0)
        run()
        print(
            f"{name}: {counts['accepted']} accepted, {counts['rejected']} rejected, no unexpected error",
            flush=True,
        )


def defaults() -> dict[str, Any]:
    """Return the settings of data=table."""
    from omegaconf import OmegaConf

    path = Path(__file__).resolve().parent.parent / "configs" / "data" / "table.yaml"
    values: Any = OmegaConf.to_container(OmegaConf.load(path))
    return {key: value for key, value in values.items() if key != "batch_size"} | {"seed": 0}


DEFAULTS = defaults()

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
