"""The nets of an ensemble: training at once, selection of epochs and weights, checkpoints and resuming."""

import copy

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from scipy.optimize import minimize
from torch import nn

import lossselect as ls
from lossselect.data.datamodule import TensorData
from lossselect.data.splits import Splits
from lossselect.exceptions import CheckpointError
from lossselect.training.checkpoints.net_selection import (
    NetEpoch,
    NetSelection,
    _is_worse,
    _likelihood,
    _lowest_loss,
    mixture_weights,
)
from tests.helpers.module_cases import TASKS, labels_of
from tests.helpers.trainers import quiet_trainer

NETS = {"mlp": {"name": "mlp", "hidden": [16]}, "tabm": {"name": "tabm", "hidden": [8], "num_members": 3}}
SPEC = {"name": "ensemble", "num_features": 8, "nets": NETS}


def make_data(task, rows=160, noise=0.2, val=True, weights=None):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, 8, generator=generator)
    labels = labels_of(task, inputs + noise * torch.randn(rows, 8, generator=generator))
    splits = {"train": torch.arange(rows // 2)}
    if val:
        splits["val"] = torch.arange(rows // 2, rows)
    labels = labels[:, 0] if task.name == "binary" else labels
    return TensorData(
        Splits("test", inputs, labels.numpy(), task.names, splits, {}, weights=weights), task, 16
    )


def make_module(task, **options):
    torch.manual_seed(0)
    return ls.TaskModule(task, SPEC, **{"optimizer": {"name": "AdamW", "lr": 0.01}, **options})


def find_selection(trainer):
    return next(part for part in trainer.callbacks if isinstance(part, NetSelection))


class States(ls.TaskModule):
    """Keeps the state of the net after each epoch."""

    def on_train_epoch_end(self):
        self.__dict__.setdefault("states", []).append(copy.deepcopy(self.net.state_dict()))


class Wreck(Callback):
    """Makes one net useless before the third epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            with torch.no_grad():
                pl_module.net.nets["mlp"][-1].weight.mul_(-50)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_last_epoch_is_kept_unless_an_earlier_one_is_clearly_better(task):
    torch.manual_seed(0)
    module = States(task, SPEC, optimizer={"name": "AdamW", "lr": 0.01})
    data = make_data(task)
    trainer = quiet_trainer(max_epochs=4, enable_checkpointing=False, callbacks=[Wreck()])
    trainer.fit(module, datamodule=data)
    selection = find_selection(trainer)
    assert {name: epoch.epoch for name, epoch in selection.selected.items()} == {"mlp": 2, "tabm": 4}
    kept = {"mlp": module.states[1], "tabm": module.states[3]}
    for name, state in kept.items():
        for key, value in module.net.nets[name].state_dict().items():
            assert torch.equal(value, state[f"nets.{name}.{key}"])
    assert module.net.weights.tolist() == pytest.approx(selection.mixture)
    temperatures = [epoch.temperature for epoch in selection.selected.values()]
    assert module.net.temperatures.tolist() == pytest.approx(temperatures)


def test_an_epoch_that_is_better_by_chance_is_not_kept():
    generator = torch.Generator().manual_seed(0)
    weights = torch.ones(50, 2)
    better = torch.randn(50, 2, generator=generator).double()
    noise = torch.randn(50, 2, generator=generator).double()
    noise -= noise.mean()
    for difference, expected in ((0.01, False), (1.0, True)):
        best, latest = (NetEpoch(1, 0.0, 1.0, values, {}) for values in (better + difference, better + noise))
        assert _is_worse(latest, best, weights) is expected
        latest.log_likelihood[10:20, 0] = -100  # of missing labels
        some = weights.clone()
        some[10:20, 0] = 0
        assert _is_worse(latest, best, 1e-4 * some) is expected
        assert not _is_worse(latest, best, torch.zeros(50, 2))


def test_the_table_of_the_nets():
    task, trainer = TASKS["multiclass"], quiet_trainer(max_epochs=3, enable_checkpointing=False)
    module, data = make_module(task), make_data(task)
    trainer.fit(module, datamodule=data)
    table = find_selection(trainer).table()
    assert table["net"] == ["mlp", "tabm", "together"]
    rows = data.batches["val"][torch.arange(80)]
    module.eval()
    for i, name in enumerate(("mlp", "tabm")):
        logits = module.net.nets[name](rows.inputs) / module.net.temperatures[i]
        expected = float(ls.select_loss(task)(logits, rows.target).detach())
        assert table["log_loss"][i] == pytest.approx(expected, rel=1e-5)
    expected = float(ls.select_loss(task)(module(rows.inputs), rows.target).detach())
    assert table["log_loss"][2] == pytest.approx(expected, rel=1e-5)


def test_without_validation_rows_the_last_epoch_is_kept():
    module, trainer = (
        make_module(TASKS["multiclass"]),
        quiet_trainer(max_epochs=2, limit_val_batches=0, enable_checkpointing=False),
    )
    trainer.fit(module, datamodule=make_data(TASKS["multiclass"], val=False))
    assert module.net.weights.tolist() == [0.5, 0.5]
    assert find_selection(trainer).table() == {}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_step_treats_each_member_like_a_row(task):
    module, data = make_module(task), make_data(task, weights=torch.rand(160))
    batch = data.batches["train"][torch.arange(10)]
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    out = module.train().step(batch)
    logits = module.net.member_logits(batch.inputs)
    weight = data.splits.weights[:10]
    single = [ls.select_loss(task)(logits[:, k], batch.target, weight) for k in range(module.net.num_members)]
    assert out.logits.shape == (40, task.num_outputs)
    assert len(out.target) == 40
    torch.testing.assert_close(out.loss, torch.stack(single).mean())


def test_a_checkpoint_contains_the_best_epochs(tmp_path):
    task = TASKS["multiclass"]
    module, data = make_module(task, bias_init="prior"), make_data(task, noise=1.5)
    trainer = quiet_trainer(max_epochs=8, default_root_dir=tmp_path)
    trainer.fit(module, datamodule=data)
    (path,) = tmp_path.glob("**/*.ckpt")
    loaded = ls.TaskModule.load_from_checkpoint(path)
    for key, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    inputs = torch.randn(5, 8)
    assert torch.equal(loaded.eval()(inputs), module.eval()(inputs))


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("epochs", [1, 3])
def test_resuming_is_bit_exact(tmp_path, epochs):
    task = TASKS["multilabel"]
    whole, data = make_module(task), make_data(task, noise=1.5)
    trainer = quiet_trainer(max_epochs=6, enable_checkpointing=False)
    trainer.fit(whole, datamodule=data)
    expected = find_selection(trainer)
    trainer = quiet_trainer(max_epochs=epochs, default_root_dir=tmp_path)
    data = make_data(task, noise=1.5)
    trainer.fit(make_module(task), datamodule=data)
    (path,) = tmp_path.glob("**/*.ckpt")
    resumed, data = make_module(task), make_data(task, noise=1.5)
    trainer = quiet_trainer(max_epochs=6, default_root_dir=tmp_path / "resumed")
    trainer.fit(resumed, datamodule=data, ckpt_path=path, weights_only=True)
    selection = find_selection(trainer)
    for part in ("best", "selected"):
        epochs = [[e.epoch for e in getattr(s, part).values()] for s in (selection, expected)]
        assert epochs[0] == epochs[1]
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def test_a_second_fit_selects_again():
    task, data = TASKS["multiclass"], make_data(TASKS["multiclass"])
    module = make_module(task)
    quiet_trainer(max_epochs=3, enable_checkpointing=False).fit(module, datamodule=data)
    trainer = quiet_trainer(max_epochs=1, enable_checkpointing=False)
    trainer.fit(module, datamodule=data)
    assert {best.epoch for best in find_selection(trainer).best.values()} == {1}


@pytest.mark.parametrize("weights", [{}, {"kind": 3.0, "tags": 0.5}, {"tags": 0.0}])
def test_the_log_loss_of_several_tasks_is_weighted_like_their_total_loss(weights):
    parts = {"kind": ls.Multiclass(3), "tags": ls.Multilabel(20), "sick": ls.Binary()}
    task = ls.MultiTask(parts, weights)
    generator = torch.Generator().manual_seed(0)
    target = {
        "kind": torch.randint(3, (50,), generator=generator),
        "tags": torch.randint(2, (50, 20), generator=generator).float(),
        "sick": torch.randint(2, (50,), generator=generator).float(),
    }
    target["sick"][::2] = torch.nan
    logits = torch.randn(50, task.num_outputs, generator=generator)
    likelihood, v = _likelihood(task, task.encode_tensor(target))
    loss = ls.TaskModule(task, nn.Identity()).criterion(logits, task.encode(target))
    expected = loss / sum(task.task_weights.values())
    torch.testing.assert_close(-(likelihood(logits) * v).sum() / v.sum(), expected)
    assert v.sum().round() == 50 + 50 * 20 + 25


@pytest.mark.parametrize("weighted", [False, True])
def test_mixture_weights_maximise_the_likelihood(weighted):
    random = np.random.default_rng(0)
    log_likelihood = random.normal(-1, 0.8, (100, 3))
    log_likelihood[:, 1] += 0.05
    label_weights = random.uniform(0, 2, 100) if weighted else None
    v = np.ones(100) if label_weights is None else label_weights / label_weights.mean()

    def objective(free):
        logits = np.append(free, 0)
        weights = np.exp(logits) / np.exp(logits).sum()
        return -v @ np.log(np.exp(log_likelihood) @ weights) - 0.5 / 3 * np.log(weights).sum()

    free = np.append(minimize(objective, np.zeros(2), tol=1e-10).x, 0)
    expected = np.exp(free) / np.exp(free).sum()
    assert (expected > 0.02).all()
    np.testing.assert_allclose(mixture_weights(log_likelihood, label_weights), expected, atol=1e-5)
    if weighted:  # their scale does not matter
        scaled = mixture_weights(log_likelihood, 1e-4 * label_weights)
        np.testing.assert_allclose(scaled, expected, atol=1e-5)


def test_mixture_weights_if_one_net_is_much_better(monkeypatch):
    monkeypatch.setattr("lossselect.training.checkpoints.net_selection.MIN_WEIGHT", 0)
    log_likelihood = np.random.default_rng(0).normal(-1, 0.8, (50_000, 3))
    log_likelihood[:, 1] = log_likelihood.max(1)
    weights = mixture_weights(log_likelihood)
    # at the maximum, the derivative by each weight is the number of labels, including those of the prior
    mixed = np.exp(log_likelihood) @ weights
    gradient = (np.exp(log_likelihood) / mixed[:, None]).sum(0) + 0.5 / 3 / np.array(weights)
    np.testing.assert_allclose(gradient, 50_000.5, rtol=1e-6)


def test_few_rows_do_not_change_the_temperature():
    task = ls.Binary()
    for count, expected in ((6, 1.0), (6000, 0.5)):
        target = torch.tensor([[0.0], [1.0]]).repeat(count // 2, 1)
        likelihood, weights = _likelihood(task, target)
        loss, temperature = _lowest_loss(4 * target - 2, likelihood, weights, count)
        assert temperature == expected
        penalty = 30 * (1 / temperature - 1) ** 2 / (2 * count)
        entropy = ls.select_loss(task)((4 * target - 2) / temperature, target).item()
        assert loss == pytest.approx(penalty + entropy, rel=1e-5)


def test_only_a_part_of_many_likelihoods_is_stored(monkeypatch):
    monkeypatch.setattr("lossselect.training.checkpoints.net_selection.MAX_LABELS", 50)
    task, trainer = TASKS["multilabel"], quiet_trainer(max_epochs=2, enable_checkpointing=False)
    trainer.fit(make_module(task), datamodule=make_data(task))
    selection = find_selection(trainer)
    for stored in (selection.label_weights, selection.selected["tabm"].log_likelihood):
        assert 0 < stored.numel() <= 50 + task.num_outputs
        assert stored.untyped_storage().nbytes() == stored.numel() * stored.itemsize


def test_mixture_weights_leave_out_bad_nets_and_are_equal_for_equal_nets():
    likelihood = np.zeros((1000, 3))
    assert mixture_weights(likelihood) == pytest.approx([1 / 3] * 3)
    likelihood[:, 2] = -5
    assert mixture_weights(likelihood) == pytest.approx([0.5, 0.5, 0])
    assert mixture_weights(np.array([[-99, -1.0]])) == pytest.approx([1 / 6, 5 / 6], abs=1e-3)
    assert mixture_weights(np.empty((0, 2))) == pytest.approx([0.5, 0.5])


def test_missing_labels_and_rows_of_weight_0_do_not_count():
    task = ls.Multilabel(3)
    weights = torch.ones(160)
    weights[120:] = 0
    runs = []
    for corrupted in (False, True):
        data = make_data(task, noise=1.5, weights=weights)
        labels = data.batches["val"].target
        labels[100, 1] = torch.nan
        if corrupted:
            labels[120:] = 1 - labels[120:]
            data.batches["val"].inputs[120:] = 100
        trainer = quiet_trainer(max_epochs=3, enable_checkpointing=False)
        trainer.fit(make_module(task), datamodule=data)
        runs.append(find_selection(trainer))
    assert runs[0].mixture == pytest.approx(runs[1].mixture)
    assert runs[0].table()["log_loss"] == pytest.approx(runs[1].table()["log_loss"])
    assert np.isfinite(runs[0].table()["log_loss"]).all()


def test_a_net_that_returns_nan_gets_no_weight():
    class Diverge(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            with torch.no_grad():
                pl_module.net.nets["mlp"][-1].bias.fill_(torch.nan)

    task = TASKS["multiclass"]
    module, data = make_module(task, on_nonfinite="skip"), make_data(task)
    callback = NetSelection()
    trainer = quiet_trainer(max_epochs=1, enable_checkpointing=False)
    trainer.fit(module, datamodule=data)
    module.net._used = [0, 1]
    Diverge().on_train_epoch_end(trainer, module)
    callback.on_train_epoch_end(trainer, module)
    assert callback.mixture == pytest.approx([0, 1], abs=1e-3)


def test_a_monitored_metric_selects_the_epoch_instead(tmp_path):
    task = TASKS["multiclass"]
    module, data = make_module(task), make_data(task)
    monitor = ModelCheckpoint(tmp_path, monitor="val/loss")
    trainer = quiet_trainer(max_epochs=3, callbacks=[monitor])
    trainer.fit(module, datamodule=data)
    assert find_selection(trainer).table() == {}
    loaded = ls.TaskModule.load_from_checkpoint(monitor.best_model_path)
    assert loaded.net.weights.tolist() == [0.5, 0.5]
    (results,) = quiet_trainer().validate(loaded, datamodule=data, verbose=False)
    assert results["val/loss"] == pytest.approx(float(monitor.best_model_score), rel=1e-5)


def test_a_damaged_state_is_rejected():
    with pytest.raises(CheckpointError, match="the state of NetSelection"):
        NetSelection().load_state_dict({"best": {}, "selected": 3})


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_soft_labels(task):
    data = make_data(task, noise=1.5)
    target = torch.rand(160, task.num_outputs)
    target = target / target.sum(1, keepdim=True) if task.exclusive else target
    for batches in data.batches.values():
        batches.target = target
    module, trainer = make_module(task), quiet_trainer(max_epochs=2, enable_checkpointing=False)
    trainer.fit(module, datamodule=data)
    table = find_selection(trainer).table()
    rows = data.batches["val"][torch.arange(80)]
    loss = ls.select_loss(task)(module.eval()(rows.inputs), rows.target)
    assert table["log_loss"][-1] == pytest.approx(float(loss.detach()), rel=1e-4)


def test_validation_rows_of_weight_0():
    task = TASKS["binary"]
    weights = torch.ones(160)
    weights[80:] = 0
    module, trainer = make_module(task), quiet_trainer(max_epochs=2, enable_checkpointing=False)
    trainer.fit(module, datamodule=make_data(task, weights=weights))
    assert find_selection(trainer).table() == {}
    assert module.net.weights.tolist() == pytest.approx([0.5, 0.5])
