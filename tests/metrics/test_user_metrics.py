"""A user's torchmetrics metrics in `make_metrics` and in a `TaskModule`."""

import contextlib
import inspect

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from simulated_gpu import simulated_gpu
from sklearn import metrics as sk
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics import classification as tm
from torchmetrics.wrappers import ClasswiseWrapper
from trainers import quiet_trainer

import lossselect as ls
from lossselect.exceptions import CheckpointError, ConfigError, OptionTypeError
from lossselect.training.epochs.epoch import Epoch

NAN = float("nan")
NAMES = ("background", "road", "car", "sky")
MULTICLASS = ls.Multiclass(4, class_names=NAMES, missing=-1)


class Seen(torchmetrics.Metric):
    """Keeps what it was updated with."""

    full_state_update = False
    higher_is_better = False

    def __init__(self, ignore_index=None):
        super().__init__()
        self.ignore_index = ignore_index
        self.seen = []
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds, target):
        self.seen.append((preds, target))
        self.count += len(preds)

    def compute(self):
        return self.count


class SeenPredictions(Seen):
    def update(self, predictions, target):
        super().update(predictions, target)


class Returns(Seen):
    """Computes a given value."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def compute(self):
        return self.value


def seen_in(task, metric, logits, target):
    """Return what an epoch passes to a metric."""
    epoch = Epoch(task, "val/", metrics={"seen": metric})
    for index in torch.arange(len(logits)).tensor_split(3):
        epoch.update(torch.zeros(()), 1, logits[index], task.encode(target)[index])
    value = epoch.compute()["val/seen"]
    ((outputs, labels),) = epoch.metrics["seen"].metric.seen
    assert value == len(outputs)
    return outputs, labels


class TestArguments:
    """Probabilities in float32 or predictions, and hard labels, of the rows with a known label."""

    def test_of_a_binary_task(self):
        task, logits = ls.Binary(threshold=0.7), torch.randn(30, 1)
        target = (torch.rand(30) < 0.5).float()
        target[::4] = NAN
        known = ~target.isnan()
        p, labels = seen_in(task, Seen(), logits, target)
        assert p.dtype == torch.float32
        torch.testing.assert_close(p, logits.sigmoid()[known, 0])
        torch.testing.assert_close(labels, target[known].long())
        predictions, _ = seen_in(task, SeenPredictions(), logits, target)
        torch.testing.assert_close(predictions, (logits.sigmoid()[known, 0] >= 0.7).long())

    def test_of_a_multiclass_task_with_positions(self):
        logits, target = torch.randn(6, 4, 5), torch.randint(-1, 4, (6, 5))
        rows, flat = logits.movedim(1, -1).reshape(-1, 4), target.flatten()
        p, labels = seen_in(MULTICLASS, Seen(), logits, target)
        torch.testing.assert_close(p, rows.softmax(1)[flat >= 0])
        torch.testing.assert_close(labels, flat[flat >= 0])
        predictions, _ = seen_in(MULTICLASS, SeenPredictions(), logits, target)
        torch.testing.assert_close(predictions, rows.argmax(1)[flat >= 0])

    def test_soft_labels_are_rounded(self):
        soft = torch.tensor([[0.1, 0.6, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])
        _, labels = seen_in(MULTICLASS, Seen(), torch.randn(2, 4), soft)
        assert labels.tolist() == [1, 0]

    def test_missing_labels_of_a_multilabel_task_are_the_ignore_index(self):
        task, logits = ls.Multilabel(3), torch.randn(4, 3)
        target = torch.tensor([[1, 0, NAN], [NAN, NAN, NAN], [0, 1, 1], [NAN, 1, 0]])
        p, labels = seen_in(task, Seen(ignore_index=-7), logits, target)
        torch.testing.assert_close(p, logits.sigmoid()[[0, 2, 3]])
        assert labels.tolist() == [[1, 0, -7], [0, 1, 1], [-7, 1, 0]]
        with pytest.raises(ConfigError, match=r"'seen' \(Seen\) has no ignore_index.*ignore_index=-100"):
            seen_in(task, Seen(), logits, target)
        assert len(seen_in(task, Seen(), logits[:2], torch.tensor([[1.0, 0, 1], [NAN] * 3]))[0]) == 1


def test_values_equal_scikit_learn():
    logits, target = torch.randn(90, 4), torch.randint(-1, 4, (90,))
    own = {"iou": tm.MulticlassJaccardIndex(4), "each": tm.MulticlassRecall(4, average=None)}
    metrics = ls.make_metrics(MULTICLASS, "val/", [own, tm.MulticlassAUROC(4), "accuracy"])
    p, encoded = MULTICLASS.probabilities(logits), MULTICLASS.encode(target)
    for index in torch.arange(90).tensor_split(4):
        metrics.update(p[index], encoded[index])
    y, d, p = target[target >= 0], logits.argmax(1)[target >= 0], p[target >= 0]
    expected = {
        "val/accuracy": sk.accuracy_score(y, d),
        "val/iou": sk.jaccard_score(y, d, average="macro"),
        "val/multiclass_auroc": sk.roc_auc_score(y, p, multi_class="ovr"),
        **{f"val/each/{k}": v for k, v in zip(NAMES, sk.recall_score(y, d, average=None), strict=True)},
    }
    got = {name: value.item() for name, value in metrics.compute().items()}
    assert got == pytest.approx(expected, abs=1e-6)
    assert metrics.directions == dict.fromkeys(("accuracy", "iou", "each", "multiclass_auroc"), "max")
    batch = metrics(p, MULTICLASS.encode(y))  # the values of this batch
    assert batch["val/iou"].item() == pytest.approx(expected["val/iou"], abs=1e-6)
    metrics.reset()
    metrics.update(p[:20], MULTICLASS.encode(y[:20]))
    first = metrics.compute()["val/iou"].item()
    assert first == pytest.approx(sk.jaccard_score(y[:20], d[:20], average="macro"), abs=1e-6)


def test_collections_are_their_metrics():
    members = MetricCollection([tm.MulticlassF1Score(4), tm.MulticlassPrecision(4)])
    assert {*ls.make_metrics(MULTICLASS, names=members)} == {"MulticlassF1Score", "MulticlassPrecision"}
    nested = ls.make_metrics(MULTICLASS, names={"own": MetricCollection({"f1": tm.MulticlassF1Score(4)})})
    assert {*nested} == {"own_f1"}
    with pytest.raises(ConfigError, match="several metrics are named 'multiclass_f1_score'"):
        ls.make_metrics(MULTICLASS, names=[tm.MulticlassF1Score(4), tm.MulticlassF1Score(4, average="micro")])


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        (torch.tensor(0.5), [""]),
        (2, [""]),
        (torch.tensor([0.5]), [""]),
        ({"a/b": torch.tensor(1), "c": 2.0}, ["/a_b", "/c"]),
        (torch.arange(4), [f"/{name}" for name in NAMES]),
    ],
    ids=str,
)
def test_what_a_metric_may_compute(value, keys):
    metrics = ls.make_metrics(MULTICLASS, names={"own": Returns(value)})
    metrics.update(torch.full((2, 4), 0.25), torch.tensor([0, 1]))
    got = metrics.compute()
    assert [*got] == [f"own{key}" for key in keys]
    assert all(entry.dtype == torch.double and entry.ndim == 0 for entry in got.values())


@pytest.mark.parametrize(
    "value", [torch.zeros(3), torch.zeros(4, 4), (1, 2), None, {"x": torch.zeros(4)}], ids=str
)
def test_other_results_raise_an_error_at_construction(value):
    with pytest.raises(
        ConfigError, match=r"'own' \(Returns\) must compute a scalar, a dict of scalars, or 4 values"
    ):
        ls.TaskModule(MULTICLASS, nn.Linear(3, 4), metrics={"own": Returns(value)})


@pytest.mark.parametrize(
    ("task", "metric", "message"),
    [
        (
            MULTICLASS,
            tm.MulticlassJaccardIndex(5),
            r"probabilities of shape \(M, 4\).*multiclass with 4 classes",
        ),
        (MULTICLASS, tm.MulticlassJaccardIndex(5, validate_args=False), "was built for 5 classes"),
        (MULTICLASS, tm.BinaryAccuracy(), "expected to have the same shape"),
        (MULTICLASS, tm.MultilabelAccuracy(4), r"'own' \(MultilabelAccuracy\) cannot be updated"),
        (
            ls.Binary(),
            tm.MulticlassAccuracy(2),
            r"of shape \(M,\) and targets of shape \(M,\): it was built for 2",
        ),
        (ls.Multilabel(4), tm.MulticlassAccuracy(4), "MulticlassAccuracy is for multiclass tasks"),
        (
            ls.Multilabel(4),
            ClasswiseWrapper(tm.MulticlassRecall(4, average=None)),
            "MulticlassRecall is for multiclass",
        ),
        (ls.Multilabel(4), tm.MultilabelAccuracy(3), r"targets of shape \(M, 4\).*multilabel with 4 labels"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_metrics_that_do_not_fit_the_task(task, metric, message):
    with pytest.raises(ConfigError, match=message):
        ls.TaskModule(task, nn.Linear(3, task.num_outputs), metrics={"own": metric})


WIDTHS = {"binary": {}, "multiclass": {"num_classes": 4}, "multilabel": {"num_labels": 4}}
OPTIONS = {
    "beta": 2.0,
    "min_precision": 0.5,
    "min_recall": 0.5,
    "min_sensitivity": 0.5,
    "min_specificity": 0.5,
}
CURVES = (
    "ConfusionMatrix",
    "Curve",
    "ROC",
    "StatScores",
    "AtFixedRecall",
    "AtFixedPrecision",
    "AtSpecificity",
    "AtSensitivity",
)


def build(cls, **options):
    accepted = inspect.signature(cls).parameters
    return cls(**{name: value for name, value in (OPTIONS | options).items() if name in accepted})


@pytest.mark.parametrize("validate_args", [True, False])
@pytest.mark.parametrize("task", [ls.Binary(), MULTICLASS, ls.Multilabel(4)], ids=str)
def test_each_metric_of_torchmetrics_fits_only_the_right_tasks(task, validate_args):
    """Several would return a wrong value, such as MulticlassAccuracy for several labels."""
    for name in tm.__all__:
        family = next((kind for kind in WIDTHS if name.startswith(kind.capitalize())), None)
        if family is None or name in ("BinaryFairness", "BinaryGroupStatRates"):  # which need groups
            continue
        metric = build(getattr(tm, name), **WIDTHS[family], validate_args=validate_args)
        if family == task.kind or (family, task.kind) == ("binary", "multilabel"):  # of all labels together
            # a curve or a matrix cannot be logged
            with contextlib.suppress(ConfigError) if name.endswith(CURVES) else contextlib.nullcontext():
                ls.make_metrics(task, names=metric)
        else:
            with pytest.raises(ConfigError, match="cannot be updated with"):
                ls.make_metrics(task, names=metric)


def test_a_class_is_not_a_metric():
    with pytest.raises(OptionTypeError, match=r"Pass an object, such as BinaryAccuracy\(\.\.\.\)"):
        ls.make_metrics(ls.Binary(), names=tm.BinaryAccuracy)


def test_without_known_labels_and_with_nan_the_value_is_nan():
    metrics = ls.make_metrics(MULTICLASS, names={"iou": tm.MulticlassJaccardIndex(4)})
    p, missing = torch.full((2, 4), 0.25), torch.tensor([-100, -100])
    metrics.update(p, missing)
    assert metrics.compute()["iou"].isnan()
    metrics.update(p, torch.tensor([0, 1]))
    assert not metrics.compute()["iou"].isnan()
    metrics.update(p * NAN, torch.tensor([0, 1]))
    assert metrics.compute()["iou"].isnan()


def test_the_value_of_a_batch_without_known_labels_or_with_nan_is_nan():
    metrics = ls.make_metrics(MULTICLASS, names={"own": tm.MulticlassAccuracy(4)})
    p, labels = torch.full((2, 4), 0.25), torch.tensor([0, 1])
    assert metrics(p, torch.tensor([-100, -100]))["own"].isnan()
    assert metrics(p * NAN, labels)["own"].isnan()
    assert metrics(torch.cat([p, p * NAN]), labels.repeat(2))["own"].isnan()
    metrics.reset()
    metrics(p, torch.tensor([-100, -100]))
    value = metrics(p, labels)["own"]
    assert value == metrics.compute()["own"] > 0


# --- in a TaskModule


def loader(rows=48, missing=True):
    inputs = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    target = (3 * inputs[:, 0]).long().clamp(0, 3)
    if missing:
        target[::5] = -1
    return DataLoader(TensorDataset(inputs, target), 8)


def fit(metrics, **options):
    torch.manual_seed(0)
    module = ls.TaskModule(
        MULTICLASS, nn.Linear(3, 4), optimizer={"name": "SGD", "lr": 0.3}, metrics=metrics, **options
    )
    trainer = quiet_trainer(max_epochs=2, enable_checkpointing=False, logger=False)
    trainer.fit(module, loader(), loader())
    return module, trainer


def test_a_module_logs_the_chosen_metrics_in_each_stage():
    metric = tm.MulticlassJaccardIndex(4)
    module, trainer = fit([{"iou": metric, "exclude": ["background"]}, "f1_weighted", "recall_none"])
    logged = {"loss", "iou", "f1_weighted", *(f"recall/{name}" for name in NAMES[1:])}
    assert trainer.callback_metrics.keys() == {
        f"{stage}/{name}" for stage in ("train", "val") for name in logged
    }
    (tested,) = trainer.test(module, loader(), verbose=False)
    assert tested.keys() == {f"test/{name}" for name in logged}
    data = loader().dataset
    y, d = data.tensors[1], module.net(data.tensors[0]).argmax(1)
    want = sk.jaccard_score(y[y >= 0], d[y >= 0], average="macro", labels=np.unique(y[y >= 0]))
    assert tested["test/iou"] == pytest.approx(want, abs=1e-6)
    assert not metric.update_called
    assert {*module.state_dict()} == {"net.weight", "net.bias"}
    assert {*module._epochs["test"].first.per_class} == {
        *("positives", "negatives", "predicted", "precision", "recall", "f1")
    }
    assert not any(isinstance(part, torchmetrics.Metric) for part in module.modules())
    assert module._epochs["test"].first.confusion_counts.sum() == (y >= 0).sum()


@pytest.mark.parametrize("metrics", [[], "brier_score", {"own": tm.MulticlassAccuracy(4)}], ids=str)
def test_tables_and_counts_need_no_metric(metrics):
    module, trainer = fit(metrics)
    usual, _ = fit(None)
    trainer.test(module, loader(), verbose=False)
    quiet_trainer().test(usual, loader(), verbose=False)
    for name in ("precision", "recall", "f1", "positives"):
        got, want = (m._epochs["test"].first.per_class[name] for m in (module, usual))
        torch.testing.assert_close(got, want, equal_nan=True)
    torch.testing.assert_close(module._epochs["test"].first.counts, usual._epochs["test"].first.counts)


def test_the_default_monitor_is_always_computed_in_validation():
    epoch = Epoch(ls.Multilabel(3), "val/", metrics="f1_micro")
    assert {*epoch.metrics} == {"val/f1_micro", "val/average_precision"}
    assert {*Epoch(ls.Multilabel(3), "test/", metrics="f1_micro").metrics} == {"test/f1_micro"}
    assert {*Epoch(MULTICLASS, "val/", metrics="f1_micro").metrics} == {"val/f1_micro"}


def test_metrics_can_be_monitored(tmp_path):
    module = ls.TaskModule(
        MULTICLASS,
        nn.Linear(3, 4),
        metrics={"iou": tm.MulticlassJaccardIndex(4, average=None), "count": Seen()},
        scheduler={"name": "ReduceLROnPlateau", "monitor": "val/iou/road"},
    )
    stop = EarlyStopping("val/iou/road", mode="max", patience=1)
    best = ModelCheckpoint(tmp_path, monitor="val/count", mode="min")
    trainer = quiet_trainer(max_epochs=2, callbacks=[stop, best])
    trainer.fit(module, loader(), loader())
    assert stop.best_score == pytest.approx(trainer.callback_metrics["val/iou/road"].item(), abs=1)
    assert best.best_model_score == (loader().dataset.tensors[1] >= 0).sum()
    assert trainer.lr_scheduler_configs[0].scheduler.mode == "max"
    by_count = ls.TaskModule(
        MULTICLASS,
        nn.Linear(3, 4),
        metrics={"count": Seen()},
        scheduler={"name": "ReduceLROnPlateau", "monitor": "val/count"},
    )
    assert by_count.configure_optimizers()["lr_scheduler"]["scheduler"].mode == "min"


def test_a_metric_may_be_used_by_two_modules():
    metric = tm.MulticlassAccuracy(4, average="micro")
    (first, one), (second, two) = fit({"own": metric}), fit({"own": metric})
    assert one.callback_metrics["val/own"] == two.callback_metrics["val/own"]
    own = {id(m._epochs["val"].first.metrics["own"].metric) for m in (first, second)}
    own |= {id(first._epochs[stage].first.metrics["own"].metric) for stage in ("train", "test")}
    assert len(own | {id(metric)}) == 5


def test_tuned_decisions_are_compared_by_built_in_metrics():
    task = ls.Binary()
    rows = TensorDataset(torch.randn(60, 3), (torch.rand(60) < 0.4).float())
    metrics = [{"own": tm.BinaryAccuracy()}, "f1", "auroc"]
    module = ls.TaskModule(task, nn.Linear(3, 1), metrics=metrics)
    trainer = quiet_trainer(max_epochs=1, enable_checkpointing=False)
    data = DataLoader(rows, 20)
    trainer.fit(module, data, data)
    ls.tune_decision(trainer, module, data, metric="f1", shrinkage=0.0)
    (tested,) = trainer.test(module, data, verbose=False)
    names = {"test/loss", "test/own", "test/f1", "test/auroc", "test/default_decision/f1"}
    assert tested.keys() == names


def test_checkpoints_contain_names_but_no_objects(tmp_path):
    for metrics in (["f1_weighted", {"name": "f1", "average": "none"}], {"own": tm.MulticlassAccuracy(4)}):
        module, trainer = fit(metrics)
        trainer.save_checkpoint(tmp_path / "x.ckpt")
        if isinstance(metrics, list):
            again = ls.TaskModule.load_from_checkpoint(tmp_path / "x.ckpt", net=nn.Linear(3, 4))
            assert again._epochs["val"].first.metrics.keys() == module._epochs["val"].first.metrics.keys()
    with pytest.raises(CheckpointError, match=r"Pass metrics=\.\.\. to load_from_checkpoint"):
        ls.TaskModule.load_from_checkpoint(tmp_path / "x.ckpt", net=nn.Linear(3, 4))
    again = ls.TaskModule.load_from_checkpoint(tmp_path / "x.ckpt", net=nn.Linear(3, 4), metrics=None)
    assert "accuracy" in again._epochs["val"].first.metrics


def test_head_chunked_chooses_among_its_metrics():
    task = ls.Multilabel(6)
    target = (torch.rand(48, 6) < 0.3).float()
    data = DataLoader(TensorDataset(torch.randn(48, 3), target), 8)
    module = ls.TaskModule(task, nn.Linear(3, 6), head="chunked", metrics=["ndcg_at_1", "psp_at_3"])
    trainer = quiet_trainer(max_epochs=1, enable_checkpointing=False)
    with pytest.raises(ConfigError, match="psp_at_k requires the counts"):
        trainer.validate(module, data, verbose=False)
    trainer.fit(module.train(), data, data)  # counts the labels
    names = {"train/loss", "val/loss", "val/ndcg_at_1", "val/psp_at_3", "val/precision_at_1"}
    assert trainer.callback_metrics.keys() == names
    for metrics in ("f1_weighted", ["ndcg_at_7"], {"x": "ndcg_at_1"}, tm.MultilabelAccuracy(6)):
        with pytest.raises(ConfigError, match="head=chunked does not support the metric"):
            ls.TaskModule(task, nn.Linear(3, 6), head="chunked", metrics=metrics)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_step_on_a_device_waits_for_it():
    class Waits(L.Callback):
        def __init__(self, gpu):
            self.gpu, self.found = gpu, []

        def on_train_batch_start(self, *arguments):
            self.start = len(self.gpu.waits)

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx > 1 and not trainer.is_last_batch:
                self.found += map(str, self.gpu.waits[self.start :])

    with simulated_gpu() as gpu:
        waits = Waits(gpu)
        own = {"own": tm.MulticlassAccuracy(4), "auc": tm.MulticlassAUROC(4)}
        module = ls.TaskModule(MULTICLASS, nn.Linear(3, 4), metrics=[own, "recall_none", "f1_weighted"])
        options = {"accelerator": "gpu", "enable_checkpointing": False, "callbacks": [waits]}
        trainer = quiet_trainer(max_epochs=2, **options)
        trainer.fit(module, loader(), loader())
        assert waits.found == []
        assert module._epochs["val"].first.metrics["own"].metric.device.type == "cuda"


def test_a_class_whose_name_is_that_of_the_loss():
    class Loss(Seen):
        pass

    with pytest.raises(ConfigError, match="'loss' cannot be the name of a metric"):
        ls.make_metrics(MULTICLASS, names=[Loss()])
