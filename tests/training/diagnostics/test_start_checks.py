"""Empty data, useless labels and wrong monitors are reported before the first step, with any Trainer."""

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from module_cases import MyModel
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from trainers import quiet_trainer

import lossselect as ls
from lossselect.exceptions import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore:Total length of `DataLoader` across ranks is zero")

TASK = ls.Multiclass(3, class_names=("a", "b", "c"), missing=-1)


def rows(count, classes=3):
    return TensorDataset(torch.randn(count, 8), torch.arange(count) % classes)


class Untensored(Dataset):
    """A data set whose labels are not in a tensor."""

    def __init__(self, count, classes=3, first=0):
        self.rows = [(torch.randn(8), first + row % classes) for row in range(count)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


class Stream(IterableDataset):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return iter(Untensored(self.count).rows)


def fit(train, val=None, callbacks=(), cls=MyModel, settings=None, steps=0, **options):
    """Return the number of steps; if fit raises an error, it must do so after `steps`."""
    module = cls(TASK, **(settings or {}))
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = quiet_trainer(
        **{"max_epochs": 1, "enable_checkpointing": saves, **options}, callbacks=[*callbacks]
    )
    loaders = [DataLoader(part, 8) if isinstance(part, Dataset) else part for part in (train, val)]
    try:
        trainer.fit(module, *loaders)
    except (ConfigError, DataError):
        assert trainer.global_step == steps
        raise
    return trainer.global_step


class TestEmptyData:
    @pytest.mark.parametrize(
        ("loader", "message"),
        [
            (DataLoader(rows(0), 8), "the training loader has no rows. Add at least one."),
            (
                DataLoader(rows(3), 8, drop_last=True),
                "the training loader has 3 rows, fewer than batch_size=8, and drop_last=True",
            ),
            (
                DataLoader(rows(3), batch_sampler=[]),
                "the training loader has 3 rows, but its sampler yields none",
            ),
            (DataLoader(Stream(0), 8), "the training loader yields nothing"),
            ([DataLoader(rows(8), 8), DataLoader(rows(0), 8)], "the training loader has no rows"),
        ],
        ids=["no rows", "drop_last", "sampler", "stream", "second"],
    )
    def test_is_an_error(self, loader, message):
        with pytest.raises(DataError, match=message):
            fit(loader)

    def test_is_an_error_if_it_has_to_be_counted(self):
        with pytest.raises(DataError, match="the training loader has no rows"):
            fit(rows(0), settings={"bias_init": "prior"})

    def test_streams(self):
        assert fit(DataLoader(Stream(20), 8), DataLoader(Stream(20), 8), max_epochs=2) == 6

    @pytest.mark.parametrize(
        ("options", "steps"),
        [
            ({"limit_train_batches": 0}, 0),
            ({"limit_val_batches": 0}, 3),
            ({"fast_dev_run": True}, 1),
            ({"overfit_batches": 1}, 1),
            ({"limit_train_batches": 0.5}, 1),
        ],
        ids=str,
    )
    def test_limits(self, options, steps):
        """No warning claims that a class has no rows, because the other batches may have some."""
        data = Untensored(24)
        data.rows.sort(key=lambda pair: pair[1])
        assert fit(data, data, **options) == steps


class TestLabels:
    def missing(self, kind, count=24):
        if kind is Untensored:
            return Untensored(count, 1, first=-1)
        return TensorDataset(torch.randn(count, 8), torch.full((count,), -1))

    @pytest.mark.parametrize("kind", [TensorDataset, Untensored])
    @pytest.mark.parametrize("settings", [{}, {"bias_init": "prior"}], ids=["", "counted"])
    def test_all_missing_in_training(self, kind, settings):
        with pytest.raises(DataError, match="All labels of the training split are missing"):
            fit(self.missing(kind), settings=settings, steps=0 if settings or kind is TensorDataset else 3)

    @pytest.mark.parametrize("kind", [TensorDataset, Untensored])
    def test_all_missing_in_validation(self, kind):
        with pytest.raises(DataError, match="All labels of the validation split are missing"):
            fit(rows(24), self.missing(kind), steps=0 if kind is TensorDataset else 3)

    @pytest.mark.parametrize("settings", [{}, {"bias_init": "prior"}], ids=["", "counted"])
    def test_one_class_in_training(self, settings):
        with pytest.raises(DataError, match="All rows of the training split have class 'a', but training"):
            fit(rows(24, 1), settings=settings)

    def test_one_class_in_training_that_is_not_in_memory(self):
        with pytest.raises(DataError, match="All rows of the training split have class 'a', but training"):
            fit(Untensored(24, 1), settings={"bias_init": "prior"})
        with pytest.warns(ls.LossSelectWarning, match=r"No training row has b, c.*\[class_without_rows\]"):
            fit(Untensored(24, 1))

    @pytest.mark.parametrize("data", [rows(24, 1), Untensored(24, 1)], ids=["tensors", "others"])
    def test_one_class_in_validation(self, data):
        with pytest.warns(ls.LossSelectWarning) as issued:
            fit(rows(24), data, max_epochs=3)
        (warning,) = (w.message for w in issued if isinstance(w.message, ls.LossSelectWarning))
        assert warning.name == "one_class"
        assert "All rows of the validation split have class 'a'" in warning.message

    def test_soft_labels_are_not_one_class(self):
        inputs, target = torch.randn(24, 8), 0.1 + 0.2 * torch.rand(24, 1)
        module = MyModel(ls.Binary())
        with ls.ignore_warnings("class_without_rows"):
            quiet_trainer(max_epochs=1, enable_checkpointing=False).fit(
                module, DataLoader(TensorDataset(inputs, target), 8)
            )

    def test_labels_that_a_hook_changes(self):
        class FromOne(MyModel):
            def unpack_batch(self, batch):
                return batch[0], batch[1] - 1

        class Data(L.LightningDataModule):
            def train_dataloader(self):
                return DataLoader(data, 8)

            val_dataloader = train_dataloader

            def on_after_batch_transfer(self, batch, dataloader_idx):
                return batch[0], batch[1] - 1

        data = TensorDataset(torch.randn(24, 8), torch.arange(24) % 3 + 1)
        assert fit(data, data, cls=FromOne) == 3
        quiet_trainer(max_epochs=1, enable_checkpointing=False).fit(MyModel(TASK), datamodule=Data())


def log_mine(module):
    module.log("val/mine", 1.0)


class LogsMore(MyModel):
    def on_validation_epoch_end(self):
        self.log("val/mine", 1.0)
        self.log("val/my_accuracy", 1.0)


class LogsInForward(MyModel):
    def forward(self, inputs):
        if not torch.is_grad_enabled():
            self.log("val/mine", 1.0)
        return super().forward(inputs)


class LogsByFunction(ls.TaskModule):
    def __init__(self, task):
        super().__init__(task, torch.nn.Linear(8, task.num_outputs))

    def validation_step(self, *arguments):
        log_mine(self)
        return super().validation_step(*arguments)


class LogsByAttribute(ls.TaskModule):
    def __init__(self, task):
        super().__init__(task, torch.nn.Linear(8, task.num_outputs))
        self.on_validation_epoch_end = lambda: log_mine(self)


class LogsByCallback(L.Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        log_mine(pl_module)


class InheritsLogging(LogsByCallback):
    pass


class OnlyBuilt(ls.TaskModule):
    """A module whose methods during training are those of the package."""

    def __init__(self, task, **kwargs):
        super().__init__(task, torch.nn.Linear(8, task.num_outputs), **kwargs)

    def configure_optimizers(self):
        return super().configure_optimizers()


PLATEAU = {"name": "ReduceLROnPlateau", "monitor": "val/los", "mode": "min"}


class TestMonitors:
    @pytest.mark.parametrize(
        ("callbacks", "settings", "message"),
        [
            (
                [EarlyStopping("val_loss")],
                {},
                "Unknown metric 'val_loss' of EarlyStopping.monitor. Did you mean",
            ),
            ([EarlyStopping("val/f1_marco")], {}, "Did you mean 'val/f1_macro'? Choose one of: val/loss, "),
            ([ModelCheckpoint(monitor="val/los")], {}, "'val/los' of ModelCheckpoint.monitor"),
            ([], {"scheduler": PLATEAU}, "'val/los' of ReduceLROnPlateau.monitor"),
        ],
        ids=["underscore", "stopping", "checkpoint", "scheduler"],
    )
    def test_a_misspelt_metric(self, callbacks, settings, message, tmp_path):
        with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
            fit(rows(24), rows(24), callbacks, OnlyBuilt, settings)

    def test_a_misspelt_metric_of_a_module_with_its_own_forward(self, tmp_path):
        with pytest.raises(ConfigError, match=r"Unknown metric 'val_loss' of EarlyStopping\.monitor"):
            fit(rows(24), rows(24), [EarlyStopping("val_loss")], LogsInForward)

    def test_a_metric_of_one_of_several_loaders(self):
        loaders = {"clean": DataLoader(rows(24), 8), "noisy": DataLoader(rows(24), 8)}
        fit(rows(24), loaders, [EarlyStopping("val/noisy/f1_macro", mode="max")])
        with pytest.raises(ConfigError, match=r"'val/nosy/loss' .* Did you mean 'val/noisy/loss'"):
            fit(rows(24), loaders, [EarlyStopping("val/nosy/loss")], OnlyBuilt, num_sanity_val_steps=0)

    @pytest.mark.parametrize("options", [{}, {"limit_val_batches": 0}], ids=str)
    @pytest.mark.parametrize("callback", [EarlyStopping, ModelCheckpoint])
    def test_without_validation(self, callback, options, tmp_path):
        val = rows(24) if options else None
        with pytest.raises(DataError, match=f"{callback.__name__} monitors val/loss, but there are no valid"):
            fit(rows(24), val, [callback(monitor="val/loss")], OnlyBuilt, **options)

    @pytest.mark.parametrize(
        "options", [{}, {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2, "max_epochs": 2}], ids=str
    )
    def test_known_metrics(self, options, tmp_path):
        names = ["val/loss", "val/f1_macro", "train/loss", "train/accuracy", "epoch", "step"]
        callbacks = [ModelCheckpoint(tmp_path, f"{i}", name) for i, name in enumerate(names)]
        assert fit(rows(24), rows(24), callbacks, **options) in (3, 6)

    def test_metrics_with_other_names_than_those_logged(self, tmp_path):
        metrics = ["recall_none", "f0.5", {"acc": "accuracy"}]
        names = ["val/recall/b", "val/f0.5", "val/acc"]
        callbacks = [ModelCheckpoint(tmp_path, f"{i}", name) for i, name in enumerate(names)]
        assert fit(rows(24), rows(24), callbacks, settings={"metrics": metrics}) == 3
        with pytest.raises(ConfigError, match=r"val/f0\.5, val/recall/a, val/recall/b"):
            fit(rows(24), rows(24), [EarlyStopping("val/recal")], OnlyBuilt, {"metrics": metrics})

    @pytest.mark.parametrize(
        ("cls", "more"),
        [
            *((cls, []) for cls in (LogsMore, LogsInForward, LogsByFunction, LogsByAttribute)),
            *((OnlyBuilt, [callback()]) for callback in (LogsByCallback, InheritsLogging)),
            (OnlyBuilt, [LambdaCallback(on_validation_epoch_end=lambda _, module: log_mine(module))]),
        ],
    )
    def test_metrics_that_the_user_logs(self, cls, more, tmp_path):
        callbacks = [*more, ModelCheckpoint(tmp_path, monitor="val/mine"), EarlyStopping("val/mine")]
        assert fit(rows(24), rows(24), callbacks, cls) == 3

    def test_a_name_that_contains_that_of_a_metric_is_not_a_mistake(self, tmp_path):
        assert fit(rows(24), rows(24), [EarlyStopping("val/my_accuracy")], LogsMore) == 3

    @pytest.mark.parametrize("cls", [LogsMore, LogsByFunction])
    def test_a_likely_mistake_next_to_own_metrics_is_a_warning(self, cls, tmp_path):
        callbacks = [ModelCheckpoint(tmp_path, monitor="val/los")]
        with (
            pytest.warns(ls.LossSelectWarning, match=r"Did you mean 'val/loss'.*\[unknown_monitor\]"),
            pytest.raises(MisconfigurationException, match="could not find the monitored key"),
        ):
            fit(rows(24), rows(24), callbacks, cls)

    def test_a_monitor_that_may_be_missing(self):
        assert fit(rows(24), rows(24), [EarlyStopping("val/los", strict=False, verbose=False)]) == 3
