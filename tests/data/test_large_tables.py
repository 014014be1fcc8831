"""Tests of tables that are larger than the memory, and of the cache of their features."""

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from new_process import run_ranks
from train_cases import read_csv, train_in

from lossselect.cli.predict import predict_file
from lossselect.data.batches import CHUNK_ROWS, RowBatches, shuffle_in_chunks
from lossselect.data.datamodule import TensorData
from lossselect.data.files import load, table_source
from lossselect.data.large_tables import cache
from lossselect.data.readers import tables
from lossselect.exceptions import ConfigError, DataError, StorageError
from lossselect.tasks.registry import make_task

OPTIONS = {"target": "y", "val_path": None, "test_path": None, "val_fraction": 0.2, "test_fraction": 0.2}
ROWS = 1000


@pytest.fixture(autouse=True)
def _folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    # a column at a time, and several batches
    monkeypatch.setattr(tables, "GROUP_BYTES", 16 * ROWS)


def table(rows=ROWS):
    """Return a table with each kind of column, of which some cells are missing."""
    rng = np.random.default_rng(0)
    words = rng.choice(["good", "bad", "movie", "plot", "actor"], (rows, 4))
    return pl.DataFrame(
        {
            "large": rng.normal(size=rows) * 1e3 + 1e9,
            "some": [None if value < 0.1 else value for value in rng.random(rows)],
            "kind": rng.choice(["x", "y", "007", None], rows).tolist(),
            "code": rng.integers(0, 5, rows),
            "flag": rng.random(rows) < 0.5,
            "day": [f"2024-{m:02}-{d:02}" for m, d in rng.integers(1, 13, (rows, 2)).tolist()],
            "text": [" ".join(row) for row in words.tolist()],
            "half": [0.5, *rng.integers(0, 3, rows - 1).tolist()],
            "constant": ["7"] * rows,
            "number": range(rows),
            "weight": rng.random(rows),
            "patient": rng.integers(0, 90, rows),
            "y": rng.choice(["p", "q", "r"], rows),
        }
    )


def load_table(path, max_memory=0, task="multiclass", **options):
    """Return the splits, and the warnings."""
    options = {**OPTIONS, "seed": 0, "text": ["text"], "max_memory": max_memory, **options}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits = load.load_own_data("table", task={"name": task}, path=path, **options)
    return splits, sorted(str(warning.message) for warning in caught)


def folders(kind):
    return sorted(Path("caches").glob(f"lossselect/*/{kind}-*"))


def assert_same(splits, expected):
    rows = torch.arange(len(expected.features))
    assert splits.features.is_mapped
    assert not expected.features.is_mapped
    assert torch.equal(splits.features[rows], expected.features[rows])
    assert splits.features.hashes.equals(expected.features.hashes)
    assert np.array_equal(splits.labels, expected.labels)
    assert all(torch.equal(splits.rows[name], expected.rows[name]) for name in expected.rows)
    assert splits.preparation == expected.preparation


def write_arff(path):
    """Write a table whose columns are all text, which ARFF files do not convert."""
    frame = table().with_columns(pl.all().cast(pl.String).fill_null("?"))
    kinds = [f"@attribute {name} string" for name in frame.columns]
    rows = [",".join(f"'{cell}'" for cell in row).replace("'?'", "?") for row in frame.iter_rows()]
    path.write_text("\n".join(["@relation r", *kinds, "@data", *rows]) + "\n")


def with_comments(path):
    first, *rest = table().write_csv().splitlines()
    path.write_text("\n".join(["# a comment", "", first, *rest[:5], "", *rest[5:]]) + "\n")


WRITERS = {
    "t.csv": lambda path: table().write_csv(path),
    "t.parquet": lambda path: table().write_parquet(path, row_group_size=300),
    "t.arrow": lambda path: table().write_ipc(path),
    "t.jsonl": lambda path: table().write_ndjson(path),
    "t.json": lambda path: table().write_json(path),
    "t.arff": write_arff,
    "t.xlsx": lambda path: table().write_excel(path),
    "comments.csv": with_comments,
}


class TestEqualsMemory:
    @pytest.mark.parametrize("name", WRITERS)
    def test_formats(self, name):
        if name == "t.xlsx":
            pytest.importorskip("fastexcel")
            pytest.importorskip("xlsxwriter")
        WRITERS[name](Path(name))
        options = {"comment": "#"} if name == "comments.csv" else {}
        expected, messages = load_table(name, None, **options)
        assert not folders("rows")
        assert len(messages) == (2 if name == "t.arff" else 3)
        for _ in range(2):  # the second time from the cache
            splits, repeated = load_table(name, **options)
            assert_same(splits, expected)
            assert repeated == messages
        assert len(folders("rows")) == len(folders("features")) == 1
        assert len(folders("table")) == (name not in ("t.parquet", "t.arrow"))

    @pytest.mark.parametrize(
        "options",
        [
            {"group": "patient"},
            {"categorical": ["code"], "exclude": ["constant", "number"]},
            {"sample_weight": "weight", "time": "day"},
            {"categorical": ["half"]},
            {"text": [], "exclude": ["text"], "features": ["large", "kind"]},
            {"target": ["flag", "code"], "task": "multilabel", "positive": None, "exclude": ["y"]},
        ],
    )
    def test_settings(self, options):
        if options.get("target"):
            options = {**options, "target": ["flag", "also"]}
        table().with_columns(also=~pl.col("flag")).write_parquet("t.parquet")
        if options.get("features"):
            options = {name: value for name, value in options.items() if name != "exclude"}
        expected, messages = load_table("t.parquet", None, **options)
        splits, repeated = load_table("t.parquet", **options)
        assert_same(splits, expected)
        assert repeated == messages
        if splits.weights is not None:
            assert torch.equal(splits.weights, expected.weights)

    def test_unseen_cells_of_all_batches_are_counted(self):
        table().write_parquet("t.parquet")
        table(300).with_columns(kind=pl.lit("new")).write_parquet("test.parquet")
        for max_memory in (0, None):
            _, messages = load_table("t.parquet", max_memory, test_path="test.parquet")
            assert any("300 in column 'kind' of test.parquet" in message for message in messages)

    def test_files_of_splits_of_which_one_is_large(self):
        table().write_parquet("t.parquet")
        table(200).with_columns(kind=pl.lit("new")).write_csv("test.csv")
        limit = 1e-4  # in GB: more than the file of 200 rows takes, and less than that of 1000
        options = {"exclude": ["number"], "test_path": "test.csv"}
        expected, messages = load_table("t.parquet", None, **options)
        splits, repeated = load_table("t.parquet", limit, **options)
        assert not list(Path("caches").glob("lossselect/test.csv*"))
        assert_same(splits, expected)
        assert repeated == messages
        assert any("unseen_category" in message for message in messages)

    def test_labels_of_numbers_text_and_missing_cells(self):
        for labels in (["a", None, "b"], [3, 1, None], ["1", "", "2"], [1.0, None, 2.0]):
            pl.DataFrame({"x": np.arange(30) % 7, "y": labels * 10}).write_parquet("t.parquet")
            splits, _ = load_table("t.parquet", text=[])
            codes = {label: code for code, label in enumerate(sorted({*labels} - {None, ""}))}
            assert np.array_equal(splits.labels, [codes.get(y, np.nan) for y in labels * 10], equal_nan=True)


COUNT = """
from lossselect.data.files import load
from lossselect.data.large_tables import features as large_tables
write = large_tables.open_writer
def counting(folder):
    open("writes", "a").write("x")
    return write(folder)
large_tables.open_writer = counting
options = {"target": "y", "val_path": None, "test_path": None, "val_fraction": 0.2, "test_fraction": 0.2, "seed": 0}
print(load.load_own_data("table", task={"name": "multiclass"}, path="t.parquet", max_memory=0, **options).features.shape)
"""
"""A program that adds a letter to a file each time that it writes rows into the cache."""


FULL_DISK = f"""
import shutil, warnings
from pathlib import Path
from lossselect.data.files import load
from lossselect.exceptions import StorageError
warnings.simplefilter("ignore")
shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**9, 0, 10**9)  # what is needed is an estimate
options = {OPTIONS} | dict(seed=0, text=["text"], max_memory=0, cache="disk")
try:
    load.load_own_data("table", task={{"name": "multiclass"}}, path="t.csv", **options)
except StorageError as error:
    print(error)
for folder in Path("disk").glob("*/*-*"):
    print(folder.name.partition("-")[0])
"""


class TestCache:
    def test_a_modified_file_or_another_setting_is_converted_again(self):
        table().write_parquet("t.parquet")
        load_table("t.parquet")
        load_table("t.parquet", seed=1)
        assert len(folders("rows")) == 2
        table().with_columns(pl.col("large") * 2).write_parquet("t.parquet")
        splits, _ = load_table("t.parquet")
        assert_same(splits, load_table("t.parquet", None)[0])
        assert len(folders("rows")) == 3

    def test_another_order_of_the_features(self):
        table().write_parquet("t.parquet")
        for names in (["large", "some"], ["some", "large"]):
            splits, _ = load_table("t.parquet", text=[], features=names)
            assert_same(splits, load_table("t.parquet", None, text=[], features=names)[0])

    def test_another_setting_that_changes_only_the_rows_of_another_file(self):
        rows = [(f"{i % 7}", "xy"[i % 2], "pq"[i % 3 > 0]) for i in range(60)]
        for name, quote in (("t.csv", ""), ("test.csv", "'")):
            Path(name).write_text("a,c,y\n" + "".join(f"{a},{quote}{c}{quote},{y}\n" for a, c, y in rows))
        options = {"test_path": "test.csv", "text": []}
        assert any("unseen" in message for message in load_table("t.csv", **options)[1])
        splits, messages = load_table("t.csv", quote="single", **options)
        assert_same(splits, load_table("t.csv", None, quote="single", **options)[0])
        assert not any("unseen" in message for message in messages)

    def test_a_file_overwritten_with_the_same_size_and_time_is_converted_again(self):
        table().write_csv("t.csv")
        stat = os.stat("t.csv")
        load_table("t.csv")
        content = Path("t.csv").read_text().replace("movie", "bread")
        Path("t.csv").write_text(content)
        os.utime("t.csv", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert os.stat("t.csv").st_size == stat.st_size
        assert_same(load_table("t.csv")[0], load_table("t.csv", None)[0])

    def test_a_file_under_another_name_of_its_folder(self):
        table().write_parquet("t.parquet")
        expected = load_table("./t.parquet", val_path="./t.parquet")[1]
        assert load_table("t.parquet", val_path="t.parquet")[1] == expected
        assert len(folders("rows")) == 1

    def test_tables_in_use_are_not_deleted(self):
        table().write_csv("t.csv")
        for name in ("large", "some", "code", "weight", "patient"):
            load_table("t.csv", features=[name], text=[])
        assert len(folders("table")) == 5
        for folder in folders("table"):
            os.utime(folder, (0, 0))
        load_table("t.csv", features=["day"], text=[])
        assert len(folders("table")) == cache.KEPT

    def test_the_folders_of_a_file_are_limited(self):
        table().write_parquet("t.parquet")
        for seed in range(cache.KEPT + 2):
            load_table("t.parquet", seed=seed)
        assert len(folders("rows")) == len(folders("features")) == cache.KEPT

    def test_nothing_is_left_of_a_failed_conversion(self, monkeypatch):
        frame = table()
        frame.write_parquet("t.parquet")
        bad = frame.with_columns(
            large=pl.when(pl.col("number") == 950).then(1e300).otherwise(pl.col("large"))
        )
        bad.write_parquet("bad.parquet")
        load_table("t.parquet")
        with pytest.raises(DataError, match="Row 950 of column 'large'") as caught:
            load_table("t.parquet", val_path="bad.parquet")
        assert caught.value.row == 950
        assert not list(Path("caches").glob("lossselect/*/.part-*"))
        assert len(folders("rows")) == 1

    def test_files_of_a_killed_process_are_removed(self):
        table().write_parquet("t.parquet")
        load_table("t.parquet")
        rest = folders("rows")[0].parent / ".part-1"
        rest.mkdir()
        load_table("t.parquet", seed=1)
        assert not rest.exists()

    def test_rows_stay_readable_after_their_files_were_deleted(self):
        table().write_parquet("t.parquet")
        splits, _ = load_table("t.parquet")
        shutil.rmtree("caches")
        assert_same(splits, load_table("t.parquet", None)[0])

    @pytest.mark.slow
    def test_processes_that_need_the_same_rows_write_them_once(self, tmp_path):
        table().drop("text").write_parquet("t.parquet")
        Path("count.py").write_text(COUNT)
        printed = run_ranks(["count.py"], 2, tmp_path)
        assert printed[0] == printed[1] == "(1000, 18)\n"
        assert Path("writes").read_text() == "x"

    def test_too_little_space(self, monkeypatch):
        table().write_parquet("t.parquet")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 0, 10))
        with pytest.raises(StorageError, match=r"Set data\.cache"):
            load_table("t.parquet")
        assert not folders("rows")

    @pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)"),
        ],
    )
    def test_a_disk_that_becomes_full_during_the_conversion(self, name, error, monkeypatch):
        def fail(*_, **__):
            raise error

        WRITERS[name](Path(name))
        monkeypatch.setattr(pl.LazyFrame, "sink_parquet", fail)
        with pytest.raises(
            StorageError, match=r"caches.* cannot be written \(No space left.*Set data\.cache"
        ):
            load_table(name)
        assert not folders("table")
        assert not list(Path("caches").glob("lossselect/*/.part*"))

    @pytest.mark.slow
    @pytest.mark.parametrize(("size", "kinds"), [("32k", set()), ("160k", {"features", "table"})])
    def test_a_disk_that_is_full(self, size, kinds, tmp_path):
        """A process that may mount a private file system has a small one for the cache."""
        WRITERS["t.csv"](Path("t.csv"))
        (tmp_path / "disk").mkdir()
        mount = f"mount -t tmpfs -o size={size} tmpfs disk && exec {sys.executable} -c "
        unshare = [shutil.which("unshare") or "false", "-rm", "sh", "-c"]
        if subprocess.call([*unshare, f"{mount} pass"], stderr=subprocess.DEVNULL):
            pytest.skip("this process must not mount file systems")
        printed = subprocess.check_output([*unshare, mount + shlex.quote(FULL_DISK)], text=True).splitlines()
        assert "disk/t.csv-" in printed[0]
        assert "cannot be written (No space left on device). Set data.cache" in printed[0]
        assert {*printed[1:]} == kinds

    def test_a_folder_that_cannot_be_written(self):
        table().write_parquet("t.parquet")
        Path("file").touch()
        with pytest.raises(StorageError, match=r"file.* cannot be written.*Set data\.cache"):
            load_table("t.parquet", cache="file/folder")


class TestLimit:
    def test_half_of_the_free_memory_by_default(self, monkeypatch):
        table().write_parquet("t.parquet")
        monkeypatch.setattr(table_source, "free_memory", lambda: 1 << 19)
        assert load_table("t.parquet", None)[0].features.is_mapped
        monkeypatch.setattr(table_source, "free_memory", lambda: 1 << 30)
        assert not load_table("t.parquet", None)[0].features.is_mapped

    def test_rows_of_ids_need_the_memory(self):
        pl.DataFrame({"id": [1, 1, 2], "x": [1.0, 1.0, 2.0], "y": ["a", "b", "a"]}).write_csv("t.csv")
        with pytest.raises(ConfigError, match=r"data\.id requires the table in memory"):
            load_table("t.csv", task="multilabel", id="id", text=[])


class TestOrder:
    @pytest.mark.parametrize("num_rows", [1, CHUNK_ROWS, CHUNK_ROWS + 1, 300_001])
    def test_each_row_occurs_once(self, num_rows):
        order = shuffle_in_chunks(num_rows, torch.Generator().manual_seed(0))
        assert torch.equal(order.sort().values, torch.arange(num_rows))

    def test_neighbours_come_from_many_places_of_the_file_but_few_pages(self):
        order = shuffle_in_chunks(2_000_000, torch.Generator().manual_seed(0))
        batch = order[:1000]
        assert len((batch // CHUNK_ROWS).unique()) > 500
        assert len((order[: 1 << 18] // CHUNK_ROWS).unique()) == (1 << 18) // CHUNK_ROWS

    def test_a_table_larger_than_the_page_cache_is_shuffled_in_chunks_and_resumes_so(self, monkeypatch):
        table().write_parquet("t.parquet")
        monkeypatch.setattr(load, "stays_in_memory", lambda size: False)
        splits, _ = load_table("t.parquet")
        data = TensorData(splits, make_task("multiclass", num_outputs=3))
        sampler = data.train_dataloader().sampler
        assert isinstance(sampler, RowBatches)
        assert sampler.in_chunks
        monkeypatch.setattr(load, "stays_in_memory", lambda size: True)
        other = TensorData(load_table("t.parquet")[0], make_task("multiclass", num_outputs=3))
        assert not other.train_dataloader().sampler.in_chunks
        other.load_state_dict(data.state_dict())
        assert other.train_dataloader().sampler.in_chunks


@pytest.mark.slow
def test_a_run_equals_the_run_in_memory_and_predicts(tmp_path):
    table().drop("text", "number", "constant").write_csv("t.csv")
    settings = ["task=multiclass", "data=table", "data.path=t.csv", "data.target=y", "data.exclude=[patient]"]
    settings += ["trainer.max_epochs=5", "report=false"]
    train_in(tmp_path, *settings, "hydra.run.dir=a")
    train_in(tmp_path, *settings, "hydra.run.dir=b", "data.max_memory=0")
    first, second = (json.loads(Path(run, "metrics.json").read_text()) for run in "ab")
    assert first == second
    assert read_csv(tmp_path / "a/predictions.csv") == read_csv(tmp_path / "b/predictions.csv")
    assert "features in " in Path("b/plan.json").read_text()
    predict_file("b/checkpoints/best.ckpt", "t.csv", "out.csv")
    assert len(read_csv(tmp_path / "out.csv")) == ROWS
