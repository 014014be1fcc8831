"""The arguments of `TaskClassifier` for Lightning: optimizer, scheduler, callbacks, trainer_options."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from lossselect.exceptions import ConfigError
from lossselect.sklearn import TaskClassifier

X, Y = load_iris(return_X_y=True)
SMALL = {
    "net": {"name": "mlp", "hidden": [32], "dropout": 0, "input_dropout": 0},
    "max_epochs": 8,
    "batch_size": 16,
    "device": "cpu",
    "random_state": 0,
}


def small(**arguments):
    return TaskClassifier(**{**SMALL, **arguments})


class Recorder(Callback):
    """Records what Lightning calls it with."""

    def __init__(self):
        self.epochs = self.steps = 0

    def __repr__(self):
        return "Recorder()"  # in the names of tests

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs += 1
        self.rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        self.optimizer = type(trainer.optimizers[0])
        self.logged = {*trainer.callback_metrics}
        copies.append(self)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps += 1


copies = []


def fit(**arguments):
    """Fit with a recorder; return the estimator, and the copy of the recorder that was used."""
    copies.clear()
    recorder = Recorder()
    model = small(callbacks=[recorder, *arguments.pop("callbacks", [])], **arguments).fit(X, Y)
    assert model.callbacks[0] is recorder
    assert recorder.epochs == 0  # each fit uses copies
    return model, copies[-1]


@pytest.mark.filterwarnings("ignore::lossselect.LossSelectWarning")
@parametrize_with_checks(
    [
        TaskClassifier(
            net=SMALL["net"],
            max_epochs=8,
            batch_size=16,
            device="cpu",
            decision=None,
            optimizer={"name": "AdamW", "lr": 0.05},
            scheduler={"name": "StepLR", "step_size": 4},
            # not EarlyStopping: scikit-learn compares hashes, and those of tensors always differ
            callbacks=[Recorder()],
            trainer_options={"gradient_clip_val": 10.0},
        )
    ],
    expected_failed_checks=lambda model: dict.fromkeys(
        (
            "check_sample_weight_equivalence_on_dense_data",
            "check_sample_weight_equivalence_on_sparse_data",
            "check_methods_sample_order_invariance",
        ),
        "see tests/sklearn/test_sklearn.py",
    ),
)
def test_estimator_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("arguments", "expected", "rate"),
    [
        ({}, torch.optim.AdamW, 0),
        ({"learning_rate": 0.5, "scheduler": None}, torch.optim.AdamW, 0.5),
        ({"optimizer": "SGD", "scheduler": None}, torch.optim.SGD, 1e-3),
        ({"optimizer": {"name": "Adam", "lr": 0.25}, "scheduler": None}, torch.optim.Adam, 0.25),
        (
            {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.5), "scheduler": None},
            torch.optim.SGD,
            0.5,
        ),
        (
            {"optimizer": {"name": "SGD", "lr": 1.0}, "scheduler": {"name": "StepLR", "step_size": 5}},
            torch.optim.SGD,
            0.1,
        ),
        (
            {
                "optimizer": {"name": "SGD", "lr": 1.0},
                "scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 5),
            },
            torch.optim.SGD,
            0.1,
        ),
    ],
    ids=["default", "rate", "name", "mapping", "function", "schedule", "schedule function"],
)
def test_optimizer_and_scheduler(arguments, expected, rate):
    model, recorder = fit(**arguments)
    assert recorder.optimizer is expected
    # the last epoch ends before the scheduler's last step
    assert recorder.rates == pytest.approx([rate], abs=0.04 if not arguments else 1e-9)
    assert recorder.steps == 8 * 8
    assert {"train/loss", "val/loss"} <= recorder.logged
    assert model.n_iter_ == 8


def test_early_stopping_and_repeated_fits():
    model, _ = fit(
        callbacks=[EarlyStopping("val/loss", patience=0, min_delta=0.05)],
        max_epochs=50,
        optimizer={"name": "SGD", "lr": 0.5},
    )
    assert 1 < model.n_iter_ < 50
    first, epochs = model.predict_proba(X), model.n_iter_
    for again in (
        model.fit(X, Y),
        clone(model).fit(X, Y),
        pickle.loads(pickle.dumps(clone(model))).fit(X, Y),
    ):
        assert again.n_iter_ == epochs
        np.testing.assert_array_equal(again.predict_proba(X), first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), first)


def test_a_metric_of_held_out_rows_without_a_decision():
    model, recorder = fit(callbacks=[EarlyStopping("val/loss")], decision=None)
    assert model.module_._label_counts.rows == 128
    assert model.task_.temperature == 1
    model, recorder = fit(scheduler="ReduceLROnPlateau", decision=None)
    assert model.module_._label_counts.rows == 128
    model, recorder = fit(callbacks=[EarlyStopping("train/loss", min_delta=10, patience=2)], decision=None)
    assert model.module_._label_counts.rows == 150
    assert model.n_iter_ == 3
    assert "val/loss" not in recorder.logged


def test_options_of_the_trainer():
    assert small(trainer_options={"max_steps": 20}).fit(X, Y).n_iter_ == 3
    options = {"accumulate_grad_batches": 4, "gradient_clip_val": 1.0, "check_val_every_n_epoch": 100}
    model, recorder = fit(trainer_options=options)
    assert "val/loss" not in recorder.logged
    assert model.get_params()["trainer_options"] is options
    plain = small().fit(X, Y).predict_proba(X)
    assert (model.predict_proba(X) != plain).any()
    # validation in each epoch, and single steps, change nothing
    np.testing.assert_array_equal(fit()[0].predict_proba(X), plain)


def test_a_checkpoint_callback_writes_to_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(callbacks=[ModelCheckpoint(tmp_path / "kept")])
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_grid_over_optimizers():
    grid = {"optimizer": [None, "SGD", {"name": "Adam", "lr": 0.05}], "scheduler": ["cosine", None]}
    search = GridSearchCV(small(callbacks=[EarlyStopping("val/loss")]), grid, cv=2, error_score="raise")
    assert search.fit(X, Y).best_params_["optimizer"] == {"name": "Adam", "lr": 0.05}


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"optimizer": "SDG"}, ValueError, "Did you mean 'SGD'?"),
        ({"optimizer": {"name": "SGD", "lrr": 1}}, ValueError, "has no option 'lrr'"),
        (
            {"optimizer": "SGD", "learning_rate": 0.1},
            ValueError,
            "learning_rate=0.1 has no effect, because optimizer is set. Set lr in optimizer",
        ),
        ({"optimizer": "SGD", "weight_decay": 0}, ValueError, "weight_decay=0 has no effect"),
        ({"max_epochs": "aut"}, TypeError, "max_epochs must be auto or an integer >= 1, got 'aut'"),
        ({"net": {"name": "mlp", "num_features": 99}}, ValueError, "num_features, which follows from X"),
        ({"net": {"name": "mlp", "dropout": 1}}, ValueError, "dropout=1 sets all units to 0"),
        ({"scheduler": "cosin"}, ValueError, "Unknown scheduler 'cosin'"),
        ({"callbacks": EarlyStopping("val/loss")}, TypeError, "callbacks must be a list of Lightning's"),
        ({"callbacks": [EarlyStopping]}, TypeError, "callbacks must be a list of Lightning's callbacks"),
        (
            {"callbacks": [EarlyStopping("val/loss")], "validation_fraction": 0},
            ValueError,
            "val/loss is monitored, but validation_fraction=0 holds out no rows",
        ),
        ({"trainer_options": 3}, TypeError, "trainer_options must be a mapping of arguments"),
        ({"trainer_options": {"max_epochs": 3}}, ValueError, "'max_epochs'. Set max_epochs of the estimator"),
        ({"trainer_options": {"devices": 2}}, ValueError, "'devices'. Set device of the estimator"),
        ({"trainer_options": {"callbacks": []}}, ValueError, "'callbacks'. Set callbacks of the estimator"),
        ({"trainer_options": {"precison": 16}}, ValueError, "Did you mean 'precision'?"),
        ({"trainer_options": {"gradient_clip_val": "a"}}, ValueError, "gradient_clip_val must be"),
    ],
    ids=lambda value: str(value)[:40].partition(" at 0x")[0],
)
def test_invalid_arguments(arguments, kind, message):
    with pytest.raises(kind) as raised:
        small(**arguments).fit(X, Y)
    assert message in str(raised.value)


def test_several_nets_by_default():
    x, y = load_iris(return_X_y=True)
    model = TaskClassifier(max_epochs=5, random_state=0).fit(x, y)
    assert [*model.module_.net.nets] == ["mlp", "mlp_deep", "tabm", "tabm_ple"]
    assert float(model.module_.net.weights.sum()) == pytest.approx(1)
    again = TaskClassifier(max_epochs=5, random_state=0).fit(x, y)
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    equal = TaskClassifier(max_epochs=5, random_state=0, validation_fraction=0).fit(x, y)
    assert equal.module_.net.weights.tolist() == pytest.approx([1 / 4] * 4)
    single = TaskClassifier(net={"name": "auto", "nets": ["tabm"]}, max_epochs=1, random_state=0).fit(x, y)
    assert type(single.module_.net).__name__ == "TabM"


@pytest.mark.parametrize(("load", "log_loss"), [(load_iris, 0.2), (load_wine, 0.15)])
def test_a_linear_net_is_trained_long_enough(load, log_loss):
    """With fewer steps, or a lower learning rate of the bias, it stays at 0.3 on iris."""
    x, y = load(return_X_y=True)
    model = TaskClassifier(net="linear", random_state=0).fit(x, y)
    assert sklearn_log_loss(y, model.predict_proba(x)) < log_loss


def test_a_time_limit():
    x, y = load_iris(return_X_y=True)
    model = TaskClassifier(max_epochs=100_000, time_limit=1, random_state=0).fit(x, y)
    assert model.n_iter_ < 10_000


def test_lightning_is_imported_by_fit():
    code = (
        "import sys; from lossselect.sklearn import TaskClassifier\n"
        "model = TaskClassifier(optimizer='SGD', trainer_options={'max_steps': 3})\n"
        "model.get_params(), repr(model)\n"
        "assert not {'torch', 'lightning'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("scaling", ["robust", "quantile"])
def test_scaling(scaling):
    x = np.exp(np.random.default_rng(0).normal(size=(300, 3)))
    y = (x[:, 0] > 1).astype(int)
    model = TaskClassifier(scaling=scaling, max_epochs=3, random_state=0).fit(x, y)
    features = model.scaling_.transform(x)
    assert features.abs().max() <= (3 if scaling == "robust" else 5.2)
    with torch.inference_mode():
        logits = model.module_(features)
    np.testing.assert_allclose(
        model.predict_proba(x)[:, 1], model.task_.probabilities(logits)[:, 0], atol=1e-6
    )
    default = TaskClassifier(max_epochs=3, random_state=0).fit(x, y)
    assert not np.allclose(model.predict_proba(x), default.predict_proba(x), atol=1e-3)
    np.testing.assert_array_equal(default.mean_, model.mean_)  # statistics of the same rows


def test_scaling_of_sparse_features():
    x = csr_array(np.eye(20))
    with pytest.raises(ConfigError, match=r"scaling='robust' requires a dense X"):
        TaskClassifier(scaling="robust").fit(x, [0, 1] * 10)
    with pytest.raises(ConfigError, match="Unknown scaling 'minmax'"):
        TaskClassifier(scaling="minmax").fit(x.toarray(), [0, 1] * 10)
