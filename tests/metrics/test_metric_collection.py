"""`make_metrics` behaves like a torchmetrics.MetricCollection, and each of its metrics like a metric."""

import pickle
import warnings

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torchmetrics
from sklearn import metrics as sk
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection, MetricTracker
from trainers import quiet_trainer

import lossselect as ls

NAN = float("nan")
TASKS = [ls.Binary(threshold=0.3), ls.Multiclass(4), ls.Multilabel(6), ls.Multiclass(4, ordinal=True)]
ids = str


def batches(task, count=3, rows=20, seed=0):
    """Probabilities in float64 and targets, with ties and missing labels."""
    random = torch.Generator().manual_seed(seed)
    data = []
    for _ in range(count):
        logits = torch.randn(rows, task.num_outputs, generator=random, dtype=torch.float64)
        # no ties for ordered classes: their probabilities are products, which differ by rounding
        if not getattr(task, "ordinal", False):
            logits = logits.round(decimals=1)
        target = task.encode(task.predict(torch.randn(rows, task.num_outputs, generator=random)))
        target[::5] = -100 if task.activation == "softmax" else NAN
        data.append((task.probabilities(logits), target))
    return data


def joined(data):
    return tuple(map(torch.cat, zip(*data, strict=True)))


def over_classes(score, y, p):
    """Return the mean over the classes that occur."""
    return np.mean([score(y[:, c], p[:, c]) for c in range(y.shape[1]) if y[:, c].any()])


def reference(task, name, p, target):
    """Return the value of a metric computed by scikit-learn."""
    if task.activation == "softmax":
        known = target != -100
        y, p = target[known].numpy(), p[known].numpy()
        d = task.predict_from_probabilities(torch.from_numpy(p)).numpy()
        one_hot = np.eye(task.num_classes)[y]
        return {
            "accuracy": lambda: sk.accuracy_score(y, d),
            "f1_macro": lambda: sk.f1_score(y, d, average="macro"),
            "auroc": lambda: over_classes(sk.roc_auc_score, one_hot, p),
            "average_precision": lambda: over_classes(sk.average_precision_score, one_hot, p),
            "brier_score": lambda: ((p - one_hot) ** 2).sum(1).mean(),
        }[name]()
    known = ~target.isnan().any(1)
    y, p = target[known].numpy(), p[known].numpy()
    d = p >= (task.threshold if isinstance(task.threshold, float) else np.array(task.threshold))
    macro = {"average": "macro"} if task.num_outputs > 1 else {}
    return {
        "accuracy": lambda: (y == d).mean(),
        "f1_macro": lambda: sk.f1_score(y, d, average="macro"),
        "auroc": lambda: sk.roc_auc_score(y, p, **macro),
        "average_precision": lambda: sk.average_precision_score(y, p, **macro),
        "brier_score": lambda: ((p - y) ** 2).mean(),
    }[name]()


def values(metrics):
    return {name: value.item() for name, value in metrics.compute().items()}


def same(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def whole(task, data, **options):
    metrics = ls.make_metrics(task, **options)
    metrics.update(*joined(data))
    return values(metrics)


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "auroc", "average_precision", "brier_score"])
@pytest.mark.parametrize("task", TASKS, ids=ids)
class TestOne:
    """Each metric used independently, compared with scikit-learn."""

    def test_is_updated_independently(self, task, name):
        data = batches(task)
        metrics = ls.make_metrics(task)
        for batch in data:
            metrics[name].update(*batch)
        assert metrics[name].compute().item() == pytest.approx(reference(task, name, *joined(data)))
        for other, metric in metrics.items():
            assert metric.update_called == (other == name)
        with pytest.warns(UserWarning, match="before the ``update`` method"):
            others = {other: value.item() for other, value in metrics.compute().items() if other != name}
        assert all(np.isnan(value) for value in others.values())

    def test_continues_after_an_independent_update(self, task, name):
        """torchmetrics' compute groups would lose the second batch."""
        first, second, third = batches(task)
        metrics = ls.make_metrics(task)
        metrics.update(*first)
        metrics[name].update(*second)
        metrics.update(*third)
        got = values(metrics)
        assert got.pop(name) == pytest.approx(reference(task, name, *joined([first, second, third])))
        want = whole(task, [first, third])
        del want[name]
        same(got, want)

    def test_is_reset_independently(self, task, name):
        first, second, third = batches(task)
        metrics = ls.make_metrics(task)
        metrics.update(*first)
        metrics.compute()
        metrics[name].reset()
        assert not metrics[name].update_called
        metrics.update(*second)
        metrics.update(*third)
        got = values(metrics)
        assert got.pop(name) == pytest.approx(reference(task, name, *joined([second, third])))
        want = whole(task, [first, second, third])
        del want[name]
        same(got, want)

    def test_returns_the_value_of_a_batch(self, task, name):
        data = batches(task)
        metric = ls.make_metrics(task)[name]
        for batch in data:
            assert metric(*batch).item() == pytest.approx(reference(task, name, *batch))
        assert metric.compute().item() == pytest.approx(reference(task, name, *joined(data)))
        assert metric.update_count == 3

    def test_is_cloned_pickled_and_merged(self, task, name):
        first, second, third = batches(task)
        metric = ls.make_metrics(task)[name]
        metric.update(*first)
        other = metric.clone()
        other.reset()
        other.update(*second)
        back = pickle.loads(pickle.dumps(other))
        assert back.compute().item() == pytest.approx(reference(task, name, *second))
        back.update(*third)
        metric.merge_state(back)
        want = reference(task, name, *joined([first, second, third]))
        assert metric.compute().item() == pytest.approx(want)

    def test_is_saved_and_loaded(self, task, name):
        data = batches(task)
        metrics = ls.make_metrics(task)
        metrics.persistent(True)
        for batch in data:
            metrics.update(*batch)
        saved = metrics.state_dict()
        assert any(key.startswith(f"{name}.") for key in saved)
        fresh = ls.make_metrics(task)
        fresh.persistent(True)
        fresh.load_state_dict(saved)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchmetrics does not save the number of updates
            assert fresh[name].compute().item() == pytest.approx(reference(task, name, *joined(data)))


@pytest.mark.parametrize("task", TASKS, ids=ids)
class TestCollection:
    def test_metrics_share_their_states(self, task):
        metrics = ls.make_metrics(task)
        for batch in batches(task):
            metrics.update(*batch)
        assert metrics["auroc"].scores is metrics["average_precision"].scores
        assert metrics["accuracy"].sums is metrics["f1_macro"].sums
        metrics.reset()
        metrics.double()
        metrics.update(*batch)
        assert metrics["auroc"].scores is metrics["average_precision"].scores
        assert metrics["accuracy"].sums is metrics["f1_macro"].sums
        assert metrics["accuracy"].update_count == metrics["f1_macro"].update_count == 1

    def test_returns_the_values_of_a_batch(self, task):
        data = batches(task)
        metrics = ls.make_metrics(task)
        for batch in data:
            same({name: value.item() for name, value in metrics(*batch).items()}, whole(task, [batch]))
        same(values(metrics), whole(task, data))
        assert metrics["auroc"].scores is metrics["average_precision"].scores

    def test_is_cloned_and_pickled(self, task):
        data = batches(task)
        metrics = ls.make_metrics(task, "val/")
        metrics.update(*data[0])
        for copy in (metrics.clone(prefix="best/"), pickle.loads(pickle.dumps(metrics))):
            copy.update(*data[1])
            copy.update(*data[2])
            want = {f"{copy.prefix}{name}": value for name, value in whole(task, data).items()}
            same(values(copy), want)
        same(values(metrics), {f"val/{name}": value for name, value in whole(task, data[:1]).items()})

    def test_higher_is_better_is_correct_for_each_metric(self, task):
        metrics = ls.make_metrics(task)
        target = task.encode(task.predict(3 * torch.randn(60, task.num_outputs)))
        one_hot = torch.nn.functional.one_hot(target, 4) if target.ndim == 1 else target
        found = {}
        for kind, p in (("good", one_hot), ("bad", one_hot.roll(2, 1) if target.ndim == 1 else 1 - one_hot)):
            metrics.reset()
            metrics.update(0.001 + 0.996 * p.double(), target)
            found[kind] = values(metrics)
        for name, metric in metrics.items():
            assert metric.higher_is_better == (found["good"][name] > found["bad"][name]), name
            assert metric.is_differentiable is False
            assert metric.full_state_update is False

    def test_in_a_tracker(self, task):
        tracker = MetricTracker(ls.make_metrics(task), maximize=None)
        for seed in range(3):
            tracker.increment()
            tracker.update(*joined(batches(task, seed=seed)))
        want = [whole(task, batches(task, seed=seed)) for seed in range(3)]
        for name, column in tracker.compute_all().items():
            assert column.tolist() == pytest.approx([row[name] for row in want], nan_ok=True)
        best = tracker.best_metric()
        assert best["accuracy"] == pytest.approx(max(row["accuracy"] for row in want))
        assert best["brier_score"] == pytest.approx(min(row["brier_score"] for row in want))

    def test_metrics_of_other_packages_are_updated(self, task):
        first, second = batches(task, 2)
        metrics = ls.make_metrics(task, "val/")
        metrics.add_metrics({"largest": Largest()})
        metrics.update(*first)
        metrics(*second)
        got = values(metrics)
        assert got.pop("val/largest") == max(first[0].max(), second[0].max())
        same(got, {f"val/{name}": value for name, value in whole(task, [first, second]).items()})
        metrics.reset()
        assert metrics["val/largest"].value == 0


class Largest(torchmetrics.Metric):
    full_state_update = True

    def __init__(self):
        super().__init__()
        self.add_state("value", torch.zeros((), dtype=torch.double), dist_reduce_fx="max")

    def update(self, preds, target):
        self.value = torch.maximum(self.value, preds.max())

    def compute(self):
        return self.value


def test_metrics_of_another_task_keep_their_own_decision():
    """An example is the default decision next to the tuned one."""
    p, target = torch.rand(50, 1), (torch.rand(50, 1) < 0.5).float()
    metrics = ls.make_metrics(ls.Binary(threshold=0.5), names=["accuracy"])
    metrics.add_metrics({"other": ls.make_metrics(ls.Binary(threshold=0.9), names=["accuracy"])["accuracy"]})
    for part in (slice(0, 20), slice(20, 50)):
        metrics.update(p[part], target[part])
    got = values(metrics)
    for name, threshold in (("accuracy", 0.5), ("other", 0.9)):
        assert got[name] == pytest.approx(sk.accuracy_score(target, p >= threshold))


def test_metrics_in_a_nested_collection_are_not_merged():
    """torchmetrics merges metrics whose states have the same names and, after one batch, the same values."""
    task = ls.Multilabel(6)
    p = torch.tensor([[0.9, 0.1, 0.1, 0.1, 0.1, 0.1]])
    target = torch.tensor([[1.0, 0, 0, 0, 0, 0]])
    other = torch.tensor([[0, 1.0, 1, 1, 0, 0]])
    nested = MetricCollection({"all": ls.make_metrics(task)})
    metrics = ls.make_metrics(task)
    for y in (target, other):
        nested.update(p, y)
        metrics.update(p, y)
    same({name.removeprefix("all_"): value for name, value in values(nested).items()}, values(metrics))


@pytest.mark.parametrize("task", [ls.Binary(), ls.Multiclass(3)], ids=ids)
@pytest.mark.parametrize("name", ["auroc", "average_precision"])
def test_bins_are_merged(task, name, monkeypatch):
    data = batches(task, 4, 50)
    exact = whole(task, data)[name]
    few = ls.make_metrics(task, names=[name])[name]
    few.update(*data[0])
    monkeypatch.setattr("lossselect.metrics.ranking.MAX_EXACT", 60 * task.num_outputs)
    metric = ls.make_metrics(task, names=[name])[name]
    for batch in data[1:]:
        metric(*batch)
    assert metric.bins.numel() > 1
    few.merge_state(metric)
    assert few.compute().item() == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize("task", TASKS, ids=ids)
def test_many_small_batches_are_concatenated(task, monkeypatch):
    data = batches(task, 10, 4)
    exact = whole(task, data)["auroc"]
    monkeypatch.setattr("lossselect.metrics.ranking.MAX_PARTS", 3)
    metrics = ls.make_metrics(task, names=["auroc", "average_precision"])
    for batch in data:
        metrics.update(*batch)
    assert len(metrics["average_precision"].scores) == len(metrics["auroc"].scores) <= 3
    assert metrics.compute()["auroc"].item() == pytest.approx(exact)


def test_one_metric_is_logged_and_reset_by_lightning(tmp_path):
    """Lightning resets only logged metrics: their value is per epoch, and other metrics keep their states."""
    task = ls.Multilabel(3)
    p, target = torch.rand(24, 3), (torch.rand(24, 3) < 0.5).float()
    shown = []

    class Own(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.metrics = ls.make_metrics(task, "val/")
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch, batch_idx):
            return self.weight**2

        def validation_step(self, batch, batch_idx):
            order = torch.arange(3) if self.current_epoch == 0 else torch.arange(3).flip(0)
            self.metrics.update(batch[0][:, order], batch[1])
            self.log("f1", self.metrics["f1_macro"], on_epoch=True)

        def on_validation_epoch_end(self):
            shown.append(self.metrics["f1_macro"].compute().item())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    loader = DataLoader(TensorDataset(p, target), batch_size=5)
    trainer = quiet_trainer(max_epochs=2, default_root_dir=tmp_path, num_sanity_val_steps=0)
    trainer.fit(Own(), loader, loader)
    want = [sk.f1_score(target, q >= 0.5, average="macro") for q in (p, p.flip(1))]
    assert shown == pytest.approx(want)
    assert trainer.callback_metrics["f1"].item() == pytest.approx(want[1])


def log_odds_of(task, logits):
    """Compute log p - log(1 - p) in NumPy, in float64."""
    z = logits.double().numpy()
    if task.activation == "sigmoid":
        return z
    rest = [np.logaddexp.reduce(np.delete(z, c, 1), axis=1) for c in range(z.shape[1])]
    return z - np.stack(rest, 1)


@pytest.mark.parametrize("task", [ls.Binary(), ls.Multiclass(3), ls.Multilabel(3)], ids=ids)
def test_saturated_probabilities_rank_by_log_odds(task):
    """float32 probabilities of logits from 18 to 40 are all 1, and so tied, but their log-odds differ."""
    logits = 18 + 22 * torch.rand(300, task.num_outputs)
    if task.activation == "softmax":
        logits = logits * torch.nn.functional.one_hot(torch.randint(0, 3, (300,)), 3) * 1.5
    noisy = logits + 10 * torch.randn_like(logits)
    labels = noisy.argmax(1) if task.activation == "softmax" else (noisy > 29).float()
    if task.activation == "softmax":
        labels = torch.where(logits.amax(1) + 8 * torch.randn(300) < 40, torch.randint(0, 3, (300,)), labels)
    target = task.encode(labels)
    p = task.probabilities(logits)
    assert p.dtype == torch.float32
    assert (p == 1).float().mean() > 0.3
    y = np.eye(3)[labels.numpy()] if task.activation == "softmax" else labels.numpy()
    z = log_odds_of(task, logits)
    ranked, tied = (
        ls.make_metrics(task, names=["auroc", "average_precision"]),
        ls.make_metrics(task, names=["auroc", "average_precision"]),
    )
    for part in (slice(0, 100), slice(100, 300)):
        log_odds = task.log_odds(logits[part].double())
        ranked.update(p[part], target[part], log_odds=log_odds)
        tied.update(p[part], target[part])
    want = {"auroc": sk.roc_auc_score, "average_precision": sk.average_precision_score}
    for name, score in want.items():
        assert ranked.compute()[name].item() == pytest.approx(score(y, z, average="macro"), abs=1e-9)
        assert tied.compute()[name].item() == pytest.approx(score(y, p.double(), average="macro"), abs=1e-6)
    assert ranked.compute()["auroc"] > tied.compute()["auroc"] + 0.02


def test_log_odds_of_another_shape_raise_an_error():
    metrics = ls.make_metrics(ls.Binary())
    with pytest.raises(
        ValueError, match=r"Expected log_odds of the same shape as the probabilities, \(4, 1\)"
    ):
        metrics.update(torch.rand(4, 1), torch.zeros(4, 1), log_odds=torch.zeros(4))
