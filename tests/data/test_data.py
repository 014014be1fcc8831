from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

import lossselect as ls
from lossselect.data.batches import TensorBatches
from lossselect.data.datamodule import TensorData, _has_room
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.data.preprocessing.table_rows import TableRows
from lossselect.data.toy import DATASETS, Rows, load, make_splits
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.targets import EncodedPair

FRACTIONS = {"breast_cancer": 0.2, "digits": 0.2, "yeast": None}


def load_split(name, seed=0):
    return load(name, seed=seed, val_fraction=0.2, test_fraction=FRACTIONS[name])


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits_questions"])
class TestToySets:
    def test_splits_are_a_partition_and_seeded(self, name):
        splits, again, other = load_split(name), load_split(name), load_split(name, seed=1)
        everything = torch.cat(list(splits.rows.values())).sort().values
        assert torch.equal(everything, torch.arange(len(splits.labels)))
        for split in splits.rows:
            assert torch.equal(splits.rows[split], again.rows[split])
        assert not torch.equal(splits.rows["val"], other.rows["val"])

    def test_splits_are_stratified(self, name):
        splits = load_split(name)
        labels = splits.labels if splits.labels.ndim == 2 else np.eye(len(splits.class_names))[splits.labels]
        train, val = (labels[splits.rows[split].numpy()].mean(0) for split in ("train", "val"))
        np.testing.assert_allclose(train, val, atol=0.03)

    def test_features_are_standardised_by_the_training_rows(self, name):
        splits = load_split(name)
        train = splits.features[splits.rows["train"]].double()
        torch.testing.assert_close(train.mean(0), torch.zeros(train.shape[1]).double(), atol=1e-6, rtol=0)
        deviation = train.std(0, correction=0)
        assert (((deviation - 1).abs() < 1e-5) | (deviation == 0)).all()  # digits has constant pixels
        assert splits.features.isfinite().all()
        assert splits.features[splits.rows["test"]].mean(0).abs().max() > 1e-3

    def test_each_class_has_a_name(self, name):
        splits = load_split(name)
        width = splits.labels.shape[1] if splits.labels.ndim == 2 else splits.labels.max() + 1
        assert len(splits.class_names) == width


def test_yeast_is_the_published_set():
    rows = DATASETS["yeast"]()
    assert rows.features.shape == (2417, 103)
    assert rows.labels.shape == (2417, 14)
    assert rows.features[0, 0] == pytest.approx(0.004168, abs=1e-12)
    assert rows.labels.sum(1).mean() == pytest.approx(4.237, abs=1e-3)  # cardinality in the literature
    assert rows.test_rows.tolist() == list(range(917))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "x has no test split. Set data.test_fraction"),
        ({"test_fraction": 0.2, "test_rows": np.arange(2)}, "Set data.test_fraction=null"),
    ],
)
def test_invalid_fractions(options, message):
    test = options.pop("test_rows", None)
    rows = Rows(np.zeros((10, 2)), np.arange(10) % 2, ("a", "b"), ("c", "d"), test)
    with pytest.raises(ValueError, match=message):
        make_splits("x", rows, seed=0, val_fraction=0.2, **options)


def test_an_unknown_set():
    with pytest.raises(ValueError, match=r"data set 'yest'\. Did you mean 'yeast'\?"):
        load("yest", seed=0, val_fraction=0.2, test_fraction=None)


class TestBatches:
    def test_batches_have_the_rows_in_order(self):
        inputs, target = torch.arange(20.0).reshape(10, 2), torch.arange(10)
        batches = list(TensorBatches(inputs, target).loader(4))
        assert all(isinstance(batch, EncodedPair) for batch in batches)
        assert [len(batch.target) for batch in batches] == [4, 4, 2]
        assert torch.equal(torch.cat([batch.inputs for batch in batches]), inputs)

    def test_shuffling_keeps_inputs_and_target_together(self):
        loader = TensorBatches(torch.arange(50.0).unsqueeze(1), torch.arange(50)).loader(8, shuffle=True)
        inputs, target = (torch.cat(parts) for parts in zip(*(batch[:2] for batch in loader), strict=True))
        assert torch.equal(inputs.squeeze(1).long(), target)
        assert not torch.equal(target, torch.arange(50))
        assert torch.equal(target.sort().values, torch.arange(50))

    def test_a_single_row(self):
        assert TensorBatches(torch.ones(3, 2), torch.zeros(3))[1].inputs.shape == (2,)


class TestTensorData:
    def test_labels_that_do_not_fit_the_task(self):
        with pytest.raises(ValueError, match="The labels look like task=multiclass: 10 distinct"):
            TensorData(load_split("digits"), ls.Binary())

    def test_the_state_has_the_preparation_of_a_table(self):
        rows, splits = DATASETS["breast_cancer"](), load_split("breast_cancer")
        state = TensorData(splits, ls.Binary()).state_dict()
        assert state["batch_size"] == 64
        table = pl.DataFrame(rows.features, schema=[*rows.columns])
        features, unseen = Preparation.stored(state, "x.ckpt").features.transform(table, "t.csv")
        assert torch.equal(features[torch.arange(len(features))], splits.features)
        assert not unseen

    def test_rows_are_moved_to_the_training_device(self, monkeypatch):
        data = TensorData(load_split("yeast"), ls.Multilabel(14), 16)
        whole = next(iter(data.val_dataloader()))
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        monkeypatch.setattr("lossselect.data.datamodule._has_room", lambda device, *_: device.type == "meta")
        for device in ("meta", "cpu"):
            strategy = SimpleNamespace(root_device=torch.device(device), broadcast=lambda seed: seed)
            data.trainer = SimpleNamespace(
                strategy=strategy, overfit_batches=0, distributed_sampler_kwargs=None
            )
            data.setup("fit")
            batch = next(iter(data.val_dataloader()))
            assert batch.inputs.shape == (16, 103)
            assert {batch.inputs.device.type, batch.target.device.type} == {device}
            data.teardown("fit")
            assert next(iter(data.val_dataloader())).inputs.device.type == "cpu"
        assert torch.equal(batch.inputs, whole.inputs)
        assert torch.equal(batch.target, whole.target)

    def test_rows_of_a_table_are_moved_whole(self):
        rows = TableRows(torch.ones(3, 1), torch.tensor([[0], [1], [2]]), 3, pl.Series([1, 2, 3]))
        assert rows.nbytes == 3 * 4 + 3 * 8
        moved = rows.to(torch.device("meta"))
        batch = moved[torch.tensor([0, 2])]
        assert (batch.device.type, batch.shape, moved.shape) == ("meta", (2, 3), (3, 3))

    def test_rows_that_fit_into_the_memory_of_a_device(self, monkeypatch):
        cuda, inputs, target = torch.device("cuda"), torch.zeros(100, 10), torch.zeros(100)
        size = inputs.nbytes + target.nbytes
        for free, fits in ((8 * size, True), (8 * size - 1, False), (None, False)):
            monkeypatch.setattr("lossselect.data.datamodule.free_memory", lambda device, free=free: free)
            assert _has_room(cuda, inputs, target, None) is fits
            assert not _has_room(cuda, inputs, target, torch.zeros(100))  # sample weights need memory too
            assert not _has_room(torch.device("cpu"), inputs, target, None)
        monkeypatch.setattr("lossselect.data.datamodule.free_memory", lambda device: 1e9)
        assert not _has_room(cuda, inputs, SparseLabels.from_csr([0], [0, 1], 1), None)
        assert not _has_room(cuda, SimpleNamespace(numbers=object(), nbytes=0), target, None)  # a mapped file


def test_the_three_questions_about_digits():
    options = {"seed": 0, "val_fraction": 0.2, "test_fraction": 0.2}
    splits, digits = (load(name, **options) for name in ("digits_questions", "digits"))
    task = splits.known_task
    assert list(task.tasks) == ["digit", "even", "segments"]
    targets = task.split_target(torch.from_numpy(splits.labels))
    assert targets["digit"].tolist() == digits.labels.tolist()
    names = task.decode({name: task.tasks[name].to_hard_labels(part) for name, part in targets.items()})
    row = names["digit"].index("7")
    assert names["even"][row] == "odd"
    assert names["segments"][row] == ["top", "upper right", "lower right"]
    assert all(torch.equal(splits.rows[split], digits.rows[split]) for split in digits.rows)
