import math
import warnings

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

import lossselect as ls
from lossselect.training.epochs.epoch import Epoch, OutputBuffer
from lossselect.training.optimizers import best_mode

NAN = float("nan")
TASKS = [ls.Binary(), ls.Multiclass(3), ls.Multilabel(3)]


def computed(task, logits, target, batches=3):
    metrics = ls.make_metrics(task)
    for index in torch.arange(len(logits)).tensor_split(batches):
        metrics.update(task.probabilities(logits[index].double()), task.encode(target[index]))
    return {name: value.item() for name, value in metrics.compute().items()}


def per_column(metric, truth, score, **kwargs):
    """Return the mean over the columns in which both values occur, computed from the rows with a label."""
    values = []
    for j in range(truth.shape[1]):
        known = ~np.isnan(truth[:, j])
        if len(set(truth[known, j])) == 2:
            values.append(metric(truth[known, j], score[known, j], **kwargs))
    return np.mean(values)


def ranking_metrics(y, p):
    """Return scikit-learn's ranking metrics of the known labels, computed row by row."""
    rows = [(y[[i]][:, k], p[[i]][:, k]) for i in range(len(y)) if (k := ~np.isnan(y[i])).any()]

    def precision(y, p, k):
        return y[0, np.argsort(-p[0])[:k]].sum() / k

    return {
        "ranking_loss": np.mean([sk.label_ranking_loss(*row) if row[0].shape[1] > 1 else 0 for row in rows]),
        "coverage_error": np.mean(
            [sk.coverage_error(*row) if row[0].shape[1] > 1 else row[0].sum() for row in rows]
        ),
        **{f"precision_at_{k}": np.mean([precision(*row, k) for row in rows]) for k in (1, 3)},
    }


@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_binary_equals_scikit_learn(threshold):
    task = ls.Binary(threshold=threshold)
    logits, target = torch.randn(60, 1), (torch.rand(60) < 0.4).float()
    target[::7] = NAN
    got = computed(task, logits, target)
    known = ~target.isnan()
    y, p = target[known].numpy(), logits.double().sigmoid()[known, 0].numpy()
    d = p >= threshold
    expected = {
        "accuracy": sk.accuracy_score(y, d),
        "f1": sk.f1_score(y, d),
        "f1_micro": sk.f1_score(y, d, average="micro"),
        "f1_macro": sk.f1_score(y, d, average="macro"),
        "auroc": sk.roc_auc_score(y, p),
        "average_precision": sk.average_precision_score(y, p),
        "balanced_accuracy": sk.balanced_accuracy_score(y, d),
        "brier_score": sk.brier_score_loss(y, p),
        "calibration_error": binary_calibration_error(torch.tensor(p), torch.tensor(y).long()).item(),
    }
    assert got == pytest.approx(expected, abs=1e-6)


def test_multiclass_equals_scikit_learn():
    task = ls.Multiclass(4)  # class 3 does not occur, so the means exclude it
    logits, target = torch.randn(60, 4), torch.randint(0, 3, (60,)).float()
    target[::7] = NAN
    got = computed(task, logits, target)
    known = ~target.isnan()
    y, p = target[known].numpy(), logits.double().softmax(1)[known].numpy()
    one_hot = np.eye(4)[y.astype(int)]
    expected = {
        "accuracy": sk.accuracy_score(y, p.argmax(1)),
        "f1_micro": sk.f1_score(y, p.argmax(1), average="micro"),
        "f1_macro": sk.f1_score(y, p.argmax(1), average="macro"),
        "auroc": per_column(sk.roc_auc_score, one_hot, p),
        "average_precision": per_column(sk.average_precision_score, one_hot, p),
        "balanced_accuracy": sk.recall_score(y, p.argmax(1), average="macro", labels=[0, 1, 2]),
        "brier_score": ((p - one_hot) ** 2).sum(1).mean(),
        "calibration_error": multiclass_calibration_error(torch.tensor(p), torch.tensor(y).long(), 4).item(),
    }
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("threshold", [0.5, (0.2, 0.5, 0.7, 0.9)])
def test_multilabel_equals_scikit_learn(threshold):
    task = ls.Multilabel(4, threshold=threshold)
    logits, target = torch.randn(60, 4), (torch.rand(60, 4) < 0.4).float()
    target[:, 3] = 0  # label 3 has no positives, so the macro means exclude it
    target[torch.rand(60, 4) < 0.2] = NAN
    got = computed(task, logits, target)
    y, p = target.numpy(), logits.double().sigmoid().numpy()
    d, known = (p >= np.array(threshold)), ~np.isnan(y)
    expected = {
        "accuracy": (d == y)[known].mean(),
        "f1_micro": sk.f1_score(y[known], d[known]),
        "f1_macro": np.mean([sk.f1_score(y[known[:, j], j], d[known[:, j], j]) for j in range(3)]),
        "auroc": per_column(sk.roc_auc_score, y, p),
        "average_precision": per_column(sk.average_precision_score, y, p),
        "balanced_accuracy": np.mean(
            [sk.balanced_accuracy_score(y[known[:, j], j], d[known[:, j], j]) for j in range(3)]
        ),
        "brier_score": sk.brier_score_loss(y[known], p[known]),
        "calibration_error": binary_calibration_error(
            torch.tensor(p[known]), torch.tensor(y[known]).long()
        ).item(),
        "hamming_distance": (d != y)[known].mean(),
        "exact_match": ((d == y) | ~known).all(1).mean(),
        **ranking_metrics(y, p),
    }
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "task", [ls.Binary(), ls.Multiclass(3), ls.Multilabel(3)], ids=lambda task: task.name
)
def test_batch_size_does_not_matter(task):
    logits = torch.randn(30, task.num_outputs)
    target = task.encode(task.predict(torch.randn(30, task.num_outputs)))
    assert computed(task, logits, target, batches=1) == computed(task, logits, target, batches=15)


def test_a_single_class_gives_nan_rankings_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = computed(ls.Binary(), torch.randn(6, 1), torch.zeros(6))
    assert math.isnan(got["auroc"])
    assert math.isnan(got["average_precision"])
    assert 0 <= got["accuracy"] <= 1


def test_soft_labels_are_rounded():
    soft = computed(
        ls.Binary(), torch.tensor([[1.0], [-1.0], [1.0]]), torch.tensor([0.8, 0.3, 0.5]), batches=1
    )
    assert soft["accuracy"] == 1
    rows = torch.tensor([[0.7, 0.2, 0.1], [NAN, NAN, NAN], [0.1, 0.1, 0.8]])
    assert computed(ls.Multiclass(3), torch.eye(3), rows, batches=1)["accuracy"] == 1


def test_a_label_without_known_values_is_ignored():
    task = ls.Multilabel(3)
    logits, target = torch.randn(40, 3), (torch.rand(40, 3) < 0.5).float()
    target[:, 1] = NAN
    others = computed(ls.Multilabel(2), logits[:, [0, 2]], target[:, [0, 2]])
    assert computed(task, logits, target) == pytest.approx(others)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
class TestUndefined:
    def test_without_any_label(self, task):
        got = computed(task, torch.randn(6, task.num_outputs), torch.full((6, task.num_outputs), NAN))
        assert all(math.isnan(value) for value in got.values())

    def test_a_net_that_diverged(self, task):
        logits, target = torch.randn(6, task.num_outputs), task.predict(torch.randn(6, task.num_outputs))
        logits[3] = NAN
        assert all(math.isnan(value) for value in computed(task, logits, target).values())

    def test_before_the_first_batch_and_after_an_empty_one(self, task):
        metrics = ls.make_metrics(task)
        empty = torch.zeros(0, task.num_outputs)
        metrics.update(empty, task.encode(torch.zeros(0, task.num_outputs)))
        with pytest.warns(UserWarning, match="was called before the ``update`` method"):
            assert all(value.isnan() for value in metrics.compute().values())

    @pytest.mark.parametrize("value", [-0.1, 3.0])
    def test_logits_raise_an_error(self, task, value):
        target = task.encode(task.predict(torch.zeros(2, task.num_outputs)))
        outputs = torch.full((2, task.num_outputs), value)
        with pytest.raises(
            ValueError, match=rf"probabilities from 0 to 1, got {value:g}\. Pass task\.probabilities"
        ):
            ls.make_metrics(task).update(outputs, target)

    def test_invalid_targets_raise_an_error(self, task):
        with pytest.raises(ValueError, match=r"task\.encode\(target\)"):
            ls.make_metrics(task).update(torch.full((2, task.num_outputs), 0.5), torch.zeros(2))
        with pytest.raises(TypeError, match="got list"):
            ls.make_metrics(task).update(torch.full((2, task.num_outputs), 0.5), [0, 1])


def test_multilabel_with_one_label_equals_binary():
    logits, target = torch.randn(20, 1), (torch.rand(20, 1) < 0.5).float()
    one, binary = computed(ls.Multilabel(1), logits, target), computed(ls.Binary(), logits, target)
    assert one["auroc"] == pytest.approx(binary["auroc"])
    assert one["average_precision"] == pytest.approx(binary["average_precision"])


def test_a_custom_module_logs_them_with_log_dict(tmp_path):
    task = ls.Multilabel(3)
    p, target = torch.rand(12, 3), (torch.rand(12, 3) < 0.5).float()

    class Own(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.metrics = ls.make_metrics(task, "val/")

        def validation_step(self, batch, batch_idx):
            self.metrics.update(*batch)
            self.log_dict(self.metrics)

    run = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    (logged,) = run.validate(Own(), DataLoader(TensorDataset(p, target), batch_size=5), verbose=False)
    whole = ls.make_metrics(task, "val/")
    whole.update(p, target)
    assert logged == pytest.approx({name: value.item() for name, value in whole.compute().items()})
    within = MetricCollection({"all": ls.make_metrics(task)})
    within.update(p, target)
    assert within.compute()["all_average_precision"] == whole.compute()["val/average_precision"]


def test_computing_between_batches_changes_nothing():
    task = ls.Multilabel(2)
    p, target = torch.rand(20, 2), (torch.rand(20, 2) < 0.5).float()
    target[:10, 1] = NAN
    metrics = ls.make_metrics(task)
    metrics.update(p[:10], target[:10])
    metrics.compute()
    metrics.update(p[10:], target[10:])
    whole = ls.make_metrics(task)
    whole.update(p, target)
    assert metrics.compute() == whole.compute()


def test_prefix():
    metrics = ls.make_metrics(ls.Binary(), "val/")
    metrics.update(torch.tensor([[0.9], [0.1]]), torch.tensor([[1.0], [0.0]]))
    assert metrics.compute().keys() == {f"val/{name}" for name in ls.Binary().metric_names}
    assert metrics.clone(postfix="_best").compute().keys() == {
        f"val/{n}_best" for n in ls.Binary().metric_names
    }


@pytest.mark.parametrize("task", [ls.Binary(threshold=0.2), ls.Multiclass(3), ls.Multilabel(3)], ids=str)
def test_calling_adds_a_batch_and_returns_its_values(task):
    logits = torch.randn(20, task.num_outputs)
    p, target = task.probabilities(logits), task.encode(task.predict(torch.randn(20, task.num_outputs)))
    metrics = ls.make_metrics(task)
    first, second = metrics(p[:10], target[:10]), metrics(p[10:], target[10:])
    assert {k: v.item() for k, v in first.items()} == pytest.approx(
        computed(task, logits[:10], target[:10], 1), nan_ok=True
    )
    whole = ls.make_metrics(task)
    whole.update(p, target)
    torch.testing.assert_close(metrics.compute(), whole.compute(), equal_nan=True)
    assert second.keys() == first.keys() == set(task.metric_names)


class TestEpoch:
    def run(self, logits, target, sizes, task=None):
        epoch = Epoch(task or ls.Multilabel(3), "val/")
        loss = ls.select_loss(epoch.task)
        for x, y in zip(logits.split(sizes), target.split(sizes), strict=True):
            total, count = loss.sum_and_count(x, y)
            epoch.update(total, count, x, y)
        return epoch

    def test_loss_is_a_sum_over_a_count_not_a_mean_of_means(self):
        logits, target = torch.randn(10, 3), torch.randint(0, 2, (10, 3)).float()
        target[7:, 1:] = NAN
        exact = ls.select_loss(ls.Multilabel(3))(logits, target)
        got = self.run(logits, target, [7, 1, 2]).compute()["val/loss"]
        torch.testing.assert_close(got, exact, check_dtype=False)

    def test_flushing_early_changes_nothing(self, monkeypatch):
        logits, target = torch.randn(10, 3), torch.randint(0, 2, (10, 3)).float()
        whole = self.run(logits, target, [4, 4, 2]).compute()
        monkeypatch.setattr("lossselect.training.epochs.epoch.MAX_HELD_BYTES", 1)
        pieces = self.run(logits, target, [4, 4, 2])
        assert not pieces._held
        for name, value in pieces.compute().items():
            torch.testing.assert_close(value, whole[name])

    def test_reusing_the_batch_tensors_changes_nothing(self):
        logits, target = torch.randn(8, 3), torch.randint(0, 2, (8, 3)).float()
        expected = self.run(logits, target, [8]).compute()
        epoch = self.run(logits, target, [8])
        logits.zero_(), target.zero_()
        assert epoch.compute() == expected

    def test_reset_removes_all_batches(self):
        epoch = self.run(torch.randn(4, 3), torch.zeros(4, 3), [4])
        epoch.reset()
        assert epoch.compute() == {}

    def test_logits_whose_float32_sigmoid_is_1_are_ranked(self):
        logits = torch.arange(18.0, 30.0).unsqueeze(1)
        epoch = self.run(logits, (logits > 24).float(), [12], ls.Binary())
        assert epoch.compute()["val/auroc"].item() == pytest.approx(1)

    @pytest.mark.parametrize(
        "task", [ls.Multiclass(3), ls.Multilabel(3), ls.Binary()], ids=lambda task: task.name
    )
    def test_trailing_dimensions_of_any_length(self, task):
        epoch = Epoch(task, "")
        logits = [torch.randn(2, task.num_outputs, length) for length in (5, 9)]
        for x in logits:
            y = task.encode(task.predict(x))
            epoch.update(torch.tensor(1.0), torch.tensor(1.0), x, y)
        assert epoch.compute()["accuracy"] == 1


class TestRanking:
    @pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
    def test_logits_whose_float64_probabilities_are_1_are_ranked(self, task):
        """The float64 sigmoid of 50 and of 60 is 1."""
        epoch = Epoch(task, "val/")
        logits = 50 + 10 * torch.rand(40, task.num_outputs, dtype=torch.float64)
        if task.activation == "softmax":
            logits = torch.stack([logits[:, 0], -logits[:, 0], -logits[:, 0] - 50], 1)
            target = (logits[:, 0] < 55).long()
        else:
            target = (logits > 55).double()
        epoch.update(torch.zeros(()), torch.ones(()), logits, target)
        values = epoch.compute()
        assert values["val/auroc"] == 1
        assert values["val/average_precision"] == pytest.approx(1)

    @pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
    @pytest.mark.parametrize("name", ["auroc", "average_precision"])
    def test_bins_are_nearly_exact_and_store_no_outputs(self, task, name, monkeypatch):
        logits = torch.randn(3000, task.num_outputs, dtype=torch.float64) - 8  # scores below 0.01
        target = task.encode(task.predict(logits + 8 + torch.randn_like(logits)))
        holes = torch.rand(target.shape) < 0.2
        target = target.masked_fill(holes, -100 if task.activation == "softmax" else NAN)
        exact, binned = (ls.make_metrics(task, names=[name]) for _ in range(2))
        exact.update(task.probabilities(logits), target)
        monkeypatch.setattr("lossselect.metrics.ranking.MAX_EXACT", 2000)
        for x, y in zip(logits.split(500), target.split(500), strict=True):
            binned.update(task.probabilities(x), y)
        ranking = binned[name]
        assert ranking.bins.numel() > 1
        assert not ranking.scores
        assert binned.compute()[name].item() == pytest.approx(exact.compute()[name].item(), abs=2e-3)
        binned.reset()
        assert ranking.bins.numel() == 1

    def test_bins_with_a_class_without_positives_and_with_nan(self, monkeypatch):
        monkeypatch.setattr("lossselect.metrics.ranking.MAX_EXACT", 1)
        metrics = ls.make_metrics(ls.Multilabel(2), names=["auroc", "average_precision"])
        metrics.update(torch.tensor([[0.9, 0.1], [0.2, 0.3]]), torch.tensor([[1.0, 0], [0, 0]]))
        assert metrics.compute()["auroc"] == 1
        metrics.update(torch.tensor([[NAN, 0.1]]), torch.tensor([[1.0, 0]]))
        assert metrics.compute()["auroc"].isnan()


class TestEpochTables:
    def test_per_class(self):
        task = ls.Multilabel(3)
        logits, target = torch.randn(60, 3), (torch.rand(60, 3) < 0.4).float()
        target[:, 2] = 0
        epoch = Epoch(task, "test/")
        epoch.update(torch.zeros(()), torch.ones(()), logits, target)
        epoch.compute()
        table, decided = epoch.per_class, (logits >= 0).numpy()
        for i in range(2):
            y, d = target[:, i].numpy(), decided[:, i]
            precision, recall, f1, _ = sk.precision_recall_fscore_support(y, d, average="binary")
            got = [
                table[name][i].item() for name in ("precision", "recall", "f1", "auroc", "average_precision")
            ]
            want = [
                precision,
                recall,
                f1,
                sk.roc_auc_score(y, logits[:, i]),
                sk.average_precision_score(y, logits[:, i]),
            ]
            assert got == pytest.approx(want, abs=1e-6)
        assert table["positives"].tolist() == target.sum(0).tolist()
        assert table["predicted"].tolist() == decided.sum(0).tolist()
        assert all(table[name][2].isnan() for name in ("f1", "auroc", "average_precision"))

    def test_confusion_matrix(self):
        task = ls.Multiclass(3)
        logits, target = torch.randn(60, 3), torch.randint(0, 3, (60,))
        epoch = Epoch(task, "test/")
        epoch.update(torch.zeros(()), torch.ones(()), logits, target)
        epoch.compute()
        np.testing.assert_array_equal(epoch.confusion_counts, sk.confusion_matrix(target, logits.argmax(1)))
        assert Epoch(ls.Multiclass(2000), "test/").confusion is None
        assert Epoch(ls.Multilabel(2), "test/").confusion is None
        assert Epoch(task, "train/").confusion is None

    @pytest.mark.parametrize("shape", [(60, 1), (20, 1, 3)])
    def test_confusion_matrix_of_a_binary_task(self, shape):
        task = ls.Binary(threshold=0.3)
        logits, target = torch.randn(shape), torch.randint(0, 2, shape).float()
        target[0], target[1], logits[2] = torch.nan, 0.8, torch.nan  # missing, soft and not predicted
        epoch = Epoch(task, "test/")
        epoch.update(torch.zeros(()), torch.ones(()), logits, target)
        epoch.compute()
        known = ~(target.isnan() | logits.isnan())
        cells = sk.confusion_matrix(target[known] >= 0.5, logits[known].sigmoid() >= 0.3)
        np.testing.assert_array_equal(epoch.confusion_counts, cells)

    def test_train_has_fewer_metrics(self):
        task = ls.Multilabel(9)
        assert {*Epoch(task, "train/").metrics} == {f"train/{name}" for name in task.train_metrics}
        assert {*Epoch(task, "val/").metrics} == {f"val/{name}" for name in task.metric_names}
        assert len(task.train_metrics) < len(task.metric_names)


def test_ordered_classes():
    task = ls.Multiclass(4, ordinal=True)
    logits, target = torch.randn(60, 3), torch.randint(0, 4, (60,))
    metrics = ls.make_metrics(task)
    metrics.update(task.probabilities(logits), target)
    got, decided = metrics.compute(), task.predict(logits)
    assert got["mean_absolute_error"] == pytest.approx((decided - target).abs().float().mean().item())
    assert got["quadratic_kappa"] == pytest.approx(
        sk.cohen_kappa_score(target, decided, weights="quadratic"), abs=1e-6
    )


def test_an_unknown_metric_raises_an_error():
    with pytest.raises(ValueError, match="metric 'acuracy'"):
        ls.make_metrics(ls.Binary(), names=["acuracy"])


def test_the_number_of_stored_outputs_is_bounded(monkeypatch):
    monkeypatch.setattr("lossselect.training.epochs.epoch.MAX_BUFFERED_OUTPUTS", 1000)
    kept = OutputBuffer()
    for start in range(0, 4000, 100):
        kept.add(torch.arange(start, start + 100.0).unsqueeze(1), torch.arange(start, start + 100))
    logits, target = kept.rows()
    assert 300 < len(logits) <= 1000
    assert torch.equal(logits.squeeze(1), target.float())
    halves = (target < 2000).sum() / len(target)
    assert 0.35 < halves < 0.65  # early and late rows are equally frequent


def test_stored_outputs_are_filtered_only_when_their_fraction_falls(monkeypatch):
    monkeypatch.setattr("lossselect.training.epochs.epoch.MAX_BUFFERED_OUTPUTS", 1000)
    buffer, filtered = OutputBuffer(), []
    monkeypatch.setattr(
        buffer,
        "_thin_out",
        lambda fraction: (filtered.append(fraction), OutputBuffer._thin_out(buffer, fraction)),
    )
    for _ in range(40):
        buffer.add(torch.zeros(100, 1), torch.zeros(100))
    assert filtered == [0.5, 0.25]


@pytest.mark.parametrize("task", [*TASKS, ls.Multiclass(4, ordinal=True), ls.Multilabel(9)], ids=str)
def test_best_mode_is_correct_for_each_metric(task):
    """Perfect outputs have a better value than maximally wrong ones."""
    target = task.encode(task.predict(torch.randn(60, task.num_outputs)))
    if task.name == "multilabel":
        target[0] = 1
    one_hot = torch.nn.functional.one_hot(target, task.num_probabilities) if target.ndim == 1 else target
    metrics = ls.make_metrics(task)
    metrics.update(one_hot.double() * 0.998 + 0.001, target)
    good = metrics.compute()
    metrics.reset()
    wrong = 1 - one_hot.double() if target.ndim > 1 else one_hot.roll(task.num_probabilities // 2, 1).double()
    metrics.update(wrong * 0.998 + 0.001, target)
    bad = metrics.compute()
    for name in task.metric_names:
        sign = 1 if best_mode(f"val/{name}") == "max" else -1
        assert sign * (good[name] - bad[name]) > 0, name


def test_calibration_error_counts_beyond_float32():
    metrics = ls.make_metrics(ls.Binary(), names=["calibration_error"])
    metric = metrics["calibration_error"]
    metric.calibration_error_sums += torch.tensor([[2.0**24], [2.0**23], [2.0**22]], dtype=torch.double) * (
        torch.arange(15) == 7
    )
    metric.update(torch.full((1000, 1), 0.5), torch.ones(1000, 1))
    assert metric.sums[0, 7] == 2**24 + 1000


def test_a_row_without_known_labels_is_not_an_exact_match():
    metrics = ls.make_metrics(ls.Multilabel(2), names=["exact_match"])
    target = torch.tensor([[1, 0], [0, NAN], [NAN, NAN]])
    metrics.update(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.9]]), target)
    assert metrics.compute()["exact_match"] == 0.5


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
def test_outputs_in_the_same_bin_are_tied(name, monkeypatch):
    logits, target = 4 * torch.randn(400, 1, dtype=torch.float64), torch.randint(0, 2, (400, 1)).float()
    for setting, value in (("MAX_EXACT", 1), ("MAX_BINS", 17), ("MIN_BINS", 17)):
        monkeypatch.setattr(f"lossselect.metrics.ranking.{setting}", value)
    metrics = ls.make_metrics(ls.Binary(), names=[name])
    metrics.update(logits.sigmoid(), target)
    binned = (logits / 5).round()  # 17 bins from -40 to 40
    score = {"auroc": sk.roc_auc_score, "average_precision": sk.average_precision_score}[name]
    assert metrics.compute()[name].item() == pytest.approx(score(target, binned))


def test_tied_labels_are_ranked_as_in_scikit_learn():
    p, target = (torch.rand(50, 5) * 3).round() / 4 + 0.1, (torch.rand(50, 5) < 0.4).float()
    metrics = ls.make_metrics(ls.Multilabel(5), names=["ranking_loss", "coverage_error"])
    metrics.update(p, target)
    got = metrics.compute()
    assert got["ranking_loss"].item() == pytest.approx(sk.label_ranking_loss(target, p))
    assert got["coverage_error"].item() == pytest.approx(sk.coverage_error(target, p))


def test_an_argument_that_is_not_a_task_raises_an_error():
    with pytest.raises(TypeError, match="must be a task"):
        ls.make_metrics("binary")
