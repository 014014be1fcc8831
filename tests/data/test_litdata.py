"""Data sets in litdata's format: loaders, splits, labels, resuming, several processes, and unsafe files."""

import json
import logging
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from paths import ROOT

import lossselect as ls
from lossselect.data.litdata import LitData
from lossselect.data.readers.litdata_index import FORMATS, check_index
from lossselect.exceptions import ConfigError, DataError, FileMissingError

pytest.importorskip("litdata", reason="litdata is not installed")
ROWS = 103
NAMES = ("cat", "dog", "fish")
FOLDERS = {"path": "train", "val_path": "val", "test_path": "test"}
QUIET = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Data sets are opened as in a process without others."""
    for name in ("WORLD_SIZE", "GLOBAL_RANK", "NNODES"):
        monkeypatch.delenv(name, raising=False)


def write(folder, item, rows=ROWS, chunk=20):
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_size=chunk)
    for row in range(rows):
        writer[row] = item(row)
    writer.done()
    writer.merge()
    return str(folder)


def vector(row):
    return np.array([row, row % 3, row % 7], dtype=np.float32)


ITEMS = {
    "indices": lambda row: {"x": vector(row), "y": row % 3},
    "names": lambda row: (vector(row), NAMES[row % 3]),
    "lists": lambda row: {"x": vector(row), "labels": [*NAMES[: row % 3]], "id": f"row {row}"},
    "multi-hot": lambda row: {"x": vector(row), "y": np.array([row % 2, row % 3 == 0], dtype=np.int64)},
    "weights": lambda row: (torch.from_numpy(vector(row)), float(row % 2), 1.0 + row % 4),
    "pickled": lambda row: {"x": vector(row), "y": {1, 2}},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with a data set for each kind of items."""
    root = tmp_path_factory.mktemp("litdata")
    return {name: write(root / name, item) for name, item in ITEMS.items()}


def open_data(path, task="multiclass", stage="fit", **options):
    task = task if isinstance(task, dict) else {"name": task}
    data = LitData(path, task, **options)
    data.setup(stage)
    return data


def rows_of(loader):
    """Return the first feature of each row, which is its number."""
    return [int(row) for inputs, _ in loader for row in inputs[:, 0]]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_splits_are_disjoint_and_only_training_rows_are_shuffled(folders, workers):
    data = open_data(folders["names"], batch_size=8, num_workers=workers)
    train, val, test = map(rows_of, (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()))
    rows = train + val + test
    assert len(set(rows)) == len(rows) >= ROWS - 3  # litdata rounds fractions down
    assert (len(val), len(test)) == (int(ROWS * 0.8 * 0.15), int(ROWS * 0.2))
    assert train != sorted(train)
    assert all(len(set(np.diff(part))) <= 4 for part in (val, test))  # runs of consecutive rows
    assert len(data.train_dataloader()) == -(-len(train) // 8)
    again = open_data(folders["names"], batch_size=8, num_workers=workers)
    assert rows_of(again.train_dataloader()) == train
    assert rows_of(open_data(folders["names"], seed=1).test_dataloader()) != test


def test_each_split_may_have_its_own_folder(folders, tmp_path):
    other = write(tmp_path / "other", ITEMS["names"], rows=5)
    data = open_data(folders["names"], val_path=other, test_path=other, num_workers=1)
    assert sorted(rows_of(data.train_dataloader())) == [*range(ROWS)]
    assert rows_of(data.val_dataloader()) == rows_of(data.test_dataloader()) == [0, 1, 2, 3, 4]
    assert "103 training, 5 validation, 5 test rows" in data.summary


def test_labels_of_each_form_are_batches_of_the_task(folders):
    data = open_data(folders["indices"])
    assert (data.num_features, data.num_outputs, data.class_names) == (3, 3, None)
    inputs, target = next(iter(data.val_dataloader()))
    assert target.tolist() == [row % 3 for row in inputs[:, 0].int().tolist()]
    data = open_data(folders["names"])
    inputs, target = next(iter(data.val_dataloader()))
    assert data.class_names == NAMES
    assert ls.Multiclass(3, class_names=NAMES).encode(target).tolist() == (inputs[:, 0] % 3).tolist()
    data = open_data(folders["lists"], "multilabel")
    _, target = next(iter(data.val_dataloader()))
    assert data.class_names == ("cat", "dog")
    assert ls.Multilabel(2, class_names=data.class_names).encode(target).shape == (len(target), 2)
    data = open_data(folders["multi-hot"], "multilabel")
    assert data.num_outputs == 2
    data = open_data(folders["weights"], "binary", sample_weight=2)
    batch = next(iter(data.val_dataloader()))
    assert batch["sample_weight"].tolist() == (1 + batch["inputs"][:, 0] % 4).tolist()


def test_several_entries_are_one_vector(folders):
    data = open_data(folders["weights"], "binary", features=[0, 2])
    inputs, _ = next(iter(data.val_dataloader()))
    assert data.num_features == 4
    assert (inputs[:, 3] == 1 + inputs[:, 0] % 4).all()


def test_declared_class_names_need_no_pass(folders, monkeypatch):
    monkeypatch.setattr(LitData, "_read_labels", lambda *_: pytest.fail("read the labels"))
    assert open_data(folders["names"], {"name": "multiclass", "class_names": [*NAMES]}).class_names is None
    with pytest.raises(pytest.fail.Exception):
        open_data(folders["names"])


def test_binary_names_end_with_the_positive_one(tmp_path):
    path = write(tmp_path / "mail", lambda row: (vector(row), ("spam", "ham")[row % 2]))
    assert open_data(path, "binary", positive="ham").class_names == ("spam", "ham")
    with pytest.raises(ConfigError, match=r"data\.positive"):
        open_data(path, "binary")


def test_the_folder_is_not_changed(folders, tmp_path):
    copy = shutil.copytree(folders["names"], tmp_path / "copy")
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in copy.iterdir()}
    copy.chmod(0o555)
    data = open_data(str(copy), num_workers=1)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        next(iter(loader))  # not read to its end
        rows_of(loader)
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in copy.iterdir()} == before


def test_warnings_and_logging_of_the_process_are_left_as_they_are(folders):
    filters, level = [*warnings.filters], logging.getLogger("litdata").level
    data = open_data(folders["weights"], "binary")
    for _ in data.train_dataloader():
        assert warnings.filters == filters
    assert logging.getLogger("litdata").level == level


# --- training


class Recorder(Callback):
    """Records the rows of each training batch, and saves a checkpoint after `step` steps."""

    def __init__(self, step, path):
        self.step, self.path, self.batches = step, path, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch[0][:, 0].tolist())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize(("workers", "step"), [(0, 4), (0, 9), (2, 13)])
def test_a_resumed_run_sees_the_same_rows(folders, tmp_path, workers, step):
    def run(start=None):
        seed_everything(0, verbose=False)
        data = open_data(folders["names"], batch_size=8, num_workers=workers)
        net = {"name": "mlp", "num_features": 3}
        model = ls.TaskModule(ls.Multiclass(3, class_names=NAMES), net, bias_init="prior")
        recorder = Recorder(None if start else step, tmp_path / "within.ckpt")
        trainer = Trainer(max_epochs=3, accelerator="cpu", callbacks=[recorder], **QUIET)
        trainer.fit(model, datamodule=data, ckpt_path=start)
        return recorder.batches, model.state_dict()

    batches, weights = run()
    resumed, same = run(tmp_path / "within.ckpt")
    assert len(batches) == 27
    assert batches[:9] != batches[9:18]
    assert resumed == batches[step:]
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_run_from_the_command_line(command, folders):
    settings = f"task=multilabel data=litdata data.path={folders['lists']} trainer.max_epochs=2".split()
    code, out, err = command(*settings, "hydra.run.dir=run", "data.batch_size=16")
    assert code == 0, err
    assert "streamed by" in out
    assert "IterableDataset" not in err
    predictions = pl.read_csv("run/predictions.csv")
    assert predictions["row"].to_list() == [*range(int(ROWS * 0.2))]
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert {"val/f1_macro", "test/f1_macro"} <= metrics.keys()
    model = ls.TaskModule.load_from_checkpoint("run/checkpoints/best.ckpt").eval()
    loader = open_data(folders["lists"], "multilabel").test_dataloader()
    expected = torch.cat([model.task.probabilities(model(inputs)) for inputs, _ in loader])
    assert np.allclose(predictions["p_cat"], expected[:, 0].detach(), atol=1e-6)
    assert command(*settings, "check_only=true")[0] == 0


class FakeTrainer:
    """One of several processes."""

    overfit_batches, num_nodes, current_epoch = 0, 1, 0

    def __init__(self, rank, world_size):
        self.global_rank, self.world_size = rank, world_size


def test_processes_evaluate_each_row_once_and_train_equal_numbers_of_batches(folders, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets it before the process group exists
    data = open_data(folders["names"], batch_size=16)
    parts = {"train": [], "test": []}
    for rank in (0, 1):
        data.trainer = FakeTrainer(rank, 2)
        parts["train"].append([len(target) for _, target in data.train_dataloader()])
        parts["test"].append(rows_of(data.test_dataloader()))
    data.trainer = None
    assert parts["train"] == [[16, 16], [16, 16]]
    assert parts["test"][0] + parts["test"][1] == rows_of(
        data.test_dataloader()
    )  # blocks in the order of the data
    assert [len(rows) for rows in parts["test"]] == [10, 10]
    data.trainer = FakeTrainer(0, 30)
    with pytest.raises(DataError, match="30 processes"):
        data.test_dataloader()


# --- wrong input


@pytest.mark.parametrize(
    ("kind", "task", "options", "error", "match"),
    [
        ("indices", "multiclass", {"features": "z"}, DataError, r"data\.features .*\(x, y\), got 'z'"),
        ("names", "multiclass", {"target": 2}, DataError, r"\(0, 1\), got 2"),
        ("names", "multiclass", {"features": 1}, DataError, "Expected numbers as features, got '"),
        ("names", "multiclass", {"positive": "cat"}, ConfigError, r"data\.positive cannot be combined"),
        ("weights", "binary", {"positive": "1"}, ConfigError, "labels are numbers"),
        ("names", "binary", {}, DataError, "two classes, got 3"),
        ("names", {"name": "multiclass", "ordinal": True}, {}, ConfigError, "'cat' is not a number"),
        ("names", "multiclass", {"test_fraction": 0.001}, DataError, "test split has no rows"),
    ],
)
def test_settings_that_do_not_fit_the_items(folders, kind, task, options, error, match):
    with pytest.raises(error, match=match):
        open_data(folders[kind], task, **options)


@pytest.mark.parametrize(
    ("item", "task", "match"),
    [
        (
            lambda row: (np.zeros(2 + row // 90), row % 2),
            "binary",
            r"numbers of shape \(2,\) as features.*\(3,\)",
        ),
        (lambda row: (np.zeros(2), np.zeros(2 + row // 90)), "multilabel", r"\(2,\) as labels.*\(3,\)"),
        (
            lambda row: (np.zeros(2), 10**9 if row == 5 else 0),
            "multiclass",
            "The largest label is 1000000000",
        ),
        (lambda row: {"a": np.zeros(2), "y": 0}, "multiclass", r"got a, y\. Set data\.features"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_items_that_differ(tmp_path, item, task, match, workers):
    path = write(tmp_path / "data", item)
    empty = write(tmp_path / "other", item, rows=3)
    with pytest.raises((ConfigError, DataError), match=match) as caught:
        for _ in open_data(
            path, task, val_path=empty, test_path=empty, num_workers=workers
        ).train_dataloader():
            pass
    assert "Traceback" not in str(caught.value)


def change_index(folder, change):
    path = folder / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def test_pickled_fields_are_not_read(folders, monkeypatch):
    monkeypatch.setattr("pickle.loads", lambda *_: pytest.fail("loaded a pickle"))
    with pytest.raises(DataError, match="'pickle'") as caught:
        open_data(folders["pickled"])
    assert caught.value.value == "pickle"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda index: index["config"].update(data_format=["graph", "int"]), "'graph'"),
        (lambda index: index["config"].update(data_format=["pickle:int", "int"]), "'pickle'"),
        (
            lambda index: index["config"].update(
                data_spec=index["config"]["data_spec"].replace("builtins.tuple", "collections.defaultdict")
            ),
            "defaultdict",
        ),
        (lambda index: index["chunks"][0].update(filename="../chunk.bin"), "outside"),
        (lambda index: index["chunks"].clear(), "no rows"),
        (lambda index: index.pop("config"), "damaged"),
    ],
)
def test_an_unsafe_index(folders, tmp_path, change, match):
    copy = shutil.copytree(folders["names"], tmp_path / "copy")
    change_index(copy, change)
    with pytest.raises(DataError, match=match):
        check_index(str(copy))


def test_the_formats_that_are_read_run_no_code():
    """A new format of litdata is rejected until somebody has reviewed it."""
    import inspect

    from litdata.streaming import serializers

    known = serializers._get_serializers(None)
    assert set(FORMATS) <= known.keys()
    unsafe = {name for name, part in known.items() if "pickle.loads" in inspect.getsource(type(part))}
    assert unsafe == {"pickle", "graph"}


def test_damaged_files(folders, tmp_path):
    copy = shutil.copytree(folders["names"], tmp_path / "copy")
    chunk = sorted(copy.glob("*.bin"))[1]
    chunk.write_bytes(chunk.read_bytes()[:90])
    task = {"name": "multiclass", "class_names": NAMES}
    for workers in (0, 1):
        data = open_data(str(copy), task, num_workers=workers)
        with pytest.raises(DataError, match="cannot be read: ") as caught:
            rows_of(data.train_dataloader())
        assert "\n" not in str(caught.value)
    chunk.unlink()
    with pytest.raises(FileMissingError, match="chunk-0-1"):
        open_data(str(copy))
    with pytest.raises(FileMissingError, match=r"no index\.json"):
        check_index(str(tmp_path))


def test_an_address_is_passed_to_litdata(monkeypatch):
    def fail(path, **options):
        raise OSError(f"asked for {path}, {options['cache_dir']}")

    monkeypatch.setattr("litdata.StreamingDataset", fail)
    with pytest.raises(DataError, match=r"asked for s3://bucket/data, cache.*credentials"):
        open_data("s3://bucket/data", cache_dir="cache")


def test_the_index_of_an_address_is_checked(folders, monkeypatch):
    """litdata has downloaded it to its cache."""
    import litdata

    opened = litdata.StreamingDataset
    monkeypatch.setattr("litdata.StreamingDataset", lambda path, **_: opened(folders["pickled"]))
    with pytest.raises(DataError, match="s3://bucket/data stores a field as 'pickle'"):
        open_data("s3://bucket/data")


def test_an_overview_names_check_only(folders):
    from lossselect.cli.data import _load

    with pytest.raises(ConfigError, match="check_only=true"):
        _load(None, {"_target_": "lossselect.data.litdata.LitData", "path": folders["names"]})


@pytest.mark.slow
def test_the_predictions_of_two_processes_are_in_the_order_of_the_data(folders, tmp_path):
    settings = (
        f"task=multiclass data=litdata data.path={folders['names']} data.batch_size=8 trainer=ddp".split()
    )
    settings += ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=2", "report=false"]
    program = [sys.executable, ROOT / "train.py", *settings, "hydra.run.dir=run"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    model = ls.TaskModule.load_from_checkpoint(tmp_path / "run/checkpoints/best.ckpt").eval()
    loader = open_data(folders["names"]).test_dataloader()
    expected = torch.cat([model.task.probabilities(model(inputs)) for inputs, _ in loader])
    predictions = pl.read_csv(tmp_path / "run/predictions.csv")["p_cat"]
    assert np.allclose(predictions, expected[:, 0].detach(), atol=1e-6)


@pytest.mark.slow
def test_the_example_converts_a_table(command, tmp_path):
    rows = [f"{row},{row % 5},{NAMES[row % 3]}" for row in range(100)]
    (tmp_path / "train.csv").write_text("\n".join(["a,b,kind", *rows]) + "\n")
    program = [sys.executable, ROOT / "examples" / "streaming.py", "train.csv", "folder", "kind"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    paths = [f"data.{name}=folder/{folder}" for name, folder in FOLDERS.items()]
    code, out, err = command("task=multiclass", "data=litdata", *paths, "check_only=true")
    assert code == 0, err
    assert "70 training, 10 validation, 20 test rows" in " ".join(out.split())
    train = open_data("folder/train", val_path="folder/val", test_path="folder/test").train_dataloader()
    inputs = torch.cat([inputs for inputs, _ in train])
    assert torch.allclose(inputs.mean(0), torch.zeros(2), atol=1e-5)
