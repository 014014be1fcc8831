"""The sides that benchmarks/fit.py compares: functions that build everything and return the fit function."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics import classification as tm

import lossselect as ls
from lossselect.data.batches import RowBatches, TensorBatches
from lossselect.training.callbacks.progress import ProgressBar

BATCH, LR, TRAIN_ROWS, VAL_ROWS = 64, 1e-3, 1437, 360
TASKS = {"binary": ls.Binary(), "multiclass": ls.Multiclass(10), "multilabel": ls.Multilabel(4)}
LABELS: dict[str, Callable[[Tensor], Tensor]] = {
    "binary": lambda digits: (digits >= 5).float().unsqueeze(1),
    "multiclass": lambda digits: digits,
    "multilabel": lambda digits: (digits.unsqueeze(1) >> torch.arange(4) & 1).float(),
}
METRICS = {
    "binary": {"accuracy": tm.BinaryAccuracy(), "f1": tm.BinaryF1Score(), "auroc": tm.BinaryAUROC()},
    "multiclass": {
        "accuracy": tm.MulticlassAccuracy(10, average="micro"),
        "f1_macro": tm.MulticlassF1Score(10),
        "auroc": tm.MulticlassAUROC(10),
    },
    "multilabel": {
        "accuracy": tm.MultilabelAccuracy(4),
        "f1_macro": tm.MultilabelF1Score(4),
        "auroc": tm.MultilabelAUROC(4),
    },
}
"""Metrics of the hand-written module, by their names in lossselect."""

Fit = Callable[[], Any]


class Case(NamedTuple):
    """Task and data of a comparison, with tensors on the CPU."""

    task: ls.Task
    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    epochs: int
    device: str
    folder: str

    def net(self) -> nn.Module:
        """Return a net with the same weights at each call, and reset the random numbers."""
        torch.manual_seed(0)
        hidden = (nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
        net = nn.Sequential(*hidden, nn.Linear(256, self.task.num_outputs))
        return net.to(self.device, self.train[0].dtype)

    def double(self) -> "Case":
        """Return the same case in float64."""
        train, val = (
            tuple(part.double() if part.is_floating_point() else part for part in rows)
            for rows in (self.train, self.val)
        )
        return self._replace(train=train, val=val)

    @property
    def softmax(self) -> bool:
        return self.task.activation == "softmax"

    @property
    def loss(self) -> Callable[..., Tensor]:
        return F.cross_entropy if self.softmax else F.binary_cross_entropy_with_logits

    def loaders(self, same_order: bool = False) -> tuple[DataLoader[Any], DataLoader[Any]]:
        """Return loaders that collate samples; `same_order` yields the rows in lossselect's order."""
        train, val = TensorDataset(*self.train), TensorDataset(*self.val)
        if same_order:
            return DataLoader(train, batch_sampler=RowBatches(train, BATCH, True)), DataLoader(val, BATCH)  # type: ignore[arg-type]
        return DataLoader(train, BATCH, shuffle=True), DataLoader(val, BATCH)


def make_case(task: str, epochs: int, device: str, folder: str, rows: int | None = None) -> Case:
    """Return the digits, or `rows` of them drawn at random with noise."""
    generator = torch.Generator().manual_seed(0)
    inputs, digits = map(torch.from_numpy, load_digits(return_X_y=True))
    inputs, labels = (inputs / 16).float(), LABELS[task](digits)
    train, val = torch.randperm(len(inputs), generator=generator).split([TRAIN_ROWS, VAL_ROWS])
    x = inputs[train]
    if rows:
        train = train[torch.randint(0, TRAIN_ROWS, (rows,), generator=generator)]
        x = inputs[train] + 0.1 * torch.randn(rows, 64, generator=generator)
    return Case(TASKS[task], (x, labels[train]), (inputs[val], labels[val]), epochs, device, folder)


def plain_loop(case: Case, train: Iterable[Any], val: Iterable[Any], **options: Any) -> Fit:
    net = case.net()
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, **options)

    def fit() -> None:
        for _ in range(case.epochs):
            net.train()
            for x, y in train:
                loss = case.loss(net(x.to(case.device)), y.to(case.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            net.eval()
            with torch.inference_mode():
                losses = [case.loss(net(x.to(case.device)), y.to(case.device)) * len(x) for x, y in val]
            (torch.stack(losses).sum() / VAL_ROWS).item()

    return fit


class Batches(NamedTuple):
    """Batches of rows of whole tensors."""

    x: Tensor
    y: Tensor
    shuffle: bool

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        if not self.shuffle:
            return zip(self.x.split(BATCH), self.y.split(BATCH), strict=True)
        order = torch.randperm(len(self.x), device=self.x.device).split(BATCH)
        return ((self.x[rows], self.y[rows]) for rows in order)


def raw(case: Case, **options: Any) -> Fit:
    train, val = ([part.to(case.device) for part in split] for split in (case.train, case.val))
    return plain_loop(case, Batches(*train, True), Batches(*val, False), **options)


def raw_loader(case: Case) -> Fit:
    return plain_loop(case, *case.loaders())


class Bare(LightningModule):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.net, self.loss, self.softmax = case.net(), case.loss, case.softmax

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = self.loss(self.net(x), y)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val/loss", self.loss(self.net(x), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LR)


class WithMetrics(Bare):
    def __init__(self, case: Case) -> None:
        super().__init__(case)
        metrics = MetricCollection(METRICS[case.task.name])
        self.train_metrics, self.val_metrics = metrics.clone("train/"), metrics.clone("val/")

    def _step(self, batch: Any, stage: str, metrics: MetricCollection) -> Tensor:
        x, y = batch
        logits = self.net(x)
        loss = self.loss(logits, y)
        scores = logits.detach()
        metrics.update(scores.softmax(1) if self.softmax else scores.sigmoid(), y.long())
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True)
        self.log_dict(metrics, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._step(batch, "train", self.train_metrics)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._step(batch, "val", self.val_metrics)


RUN = count()


def trainer_of(
    case: Case, extras: bool = True, callbacks: Iterable[Any] = (), bar: type[Any] = RichProgressBar
) -> Trainer:
    """Return a trainer; `extras` adds a CSV logger, a progress bar and checkpoints."""
    folder = f"{case.folder}/{next(RUN)}"
    more = [ModelCheckpoint(folder, monitor="val/loss"), bar()] if extras else []
    return Trainer(
        max_epochs=case.epochs,
        accelerator="gpu" if case.device == "cuda" else "cpu",
        devices=1,
        logger=CSVLogger(folder) if extras else False,
        enable_checkpointing=extras,
        enable_progress_bar=extras,
        enable_model_summary=False,
        callbacks=[*more, *callbacks],
    )


def fit_of(trainer: Trainer, *arguments: Any) -> Fit:
    def fit() -> Trainer:
        trainer.fit(*arguments)
        return trainer

    return fit


def bare_lightning(case: Case) -> Fit:
    return fit_of(trainer_of(case, extras=False), Bare(case), *case.loaders())


def lightning_with_metrics(case: Case, same_order: bool = False) -> Fit:
    return fit_of(trainer_of(case), WithMetrics(case), *case.loaders(same_order))


def lossselect(case: Case, steps: int = 1, compiled: bool = False, fused: bool | str = "auto") -> Fit:
    optimizer = {"name": "Adam", "lr": LR, "fused": fused}  # "auto" is the default of the command line
    module = ls.TaskModule(case.task, case.net(), optimizer=optimizer)
    train, val = (TensorBatches(x, case.task.encode(y)) for x, y in (case.train, case.val))
    loaders = train.loader(BATCH, shuffle=True), val.loader(BATCH)
    callbacks = [ls.StepsPerExecution(steps)] if steps > 1 else []
    if compiled:  # in an extra epoch, so that the time of compilation is not measured
        torch.compiler.reset()
        module.compile()
        trainer_of(case._replace(epochs=1), False, callbacks).fit(module, *loaders)
        module.net.load_state_dict(case.net().state_dict())
    return fit_of(trainer_of(case, callbacks=callbacks, bar=ProgressBar), module, *loaders)


def transformers(case: Case) -> Fit:
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = case.net()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.net(x)
            return {"loss": case.loss(logits, labels), "logits": logits}

    def accuracy(outputs: Any) -> dict[str, float]:
        predicted = outputs.predictions.argmax(1) if case.softmax else outputs.predictions > 0
        return {"accuracy": (predicted == outputs.label_ids).mean()}

    settings = TrainingArguments(
        f"{case.folder}/{next(RUN)}",
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        num_train_epochs=case.epochs,
        learning_rate=LR,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=case.device == "cpu",
        dataloader_pin_memory=case.device != "cpu",
    )
    data = ([{"x": x, "labels": y} for x, y in zip(*rows, strict=True)] for rows in (case.train, case.val))
    return Trainer(Model(), settings, None, *data, compute_metrics=accuracy).train


def fastai(case: Case) -> Fit:
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    from fastai.metrics import accuracy, accuracy_multi

    train, val = (list(zip(*rows, strict=True)) for rows in (case.train, case.val))
    loaders = DataLoaders(DataLoader(train, bs=BATCH, shuffle=True), DataLoader(val, bs=BATCH))
    metric = accuracy if case.softmax else accuracy_multi
    learner = Learner(loaders.to(case.device), case.net(), loss_func=case.loss, lr=LR, wd=0, metrics=metric)

    def fit() -> None:
        with learner.no_logging():  # fastai's progress bar is not imported
            learner.fit(case.epochs)

    return fit


def skorch(case: Case) -> Fit:
    from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier
    from skorch.callbacks import EpochScoring
    from skorch.dataset import Dataset
    from skorch.helper import predefined_split

    def accuracy(net: Any, data: Any, y: Any) -> float:
        predicted = net.predict(data)[:, 1] > 0.5  # the columns are 1 - p and p
        return float((predicted == case.val[1].numpy()).mean())

    kind, callbacks = NeuralNetClassifier, None
    (x, y), (val_x, val_y) = case.train, case.val
    if case.task.name == "binary":
        kind, y, val_y = NeuralNetBinaryClassifier, y.squeeze(1), val_y.squeeze(1)
    if case.task.name == "multilabel":  # skorch has no accuracy for it
        kind, callbacks = NeuralNet, [("valid_acc", EpochScoring(accuracy, lower_is_better=False))]
    net = kind(
        case.net(),
        criterion=nn.CrossEntropyLoss if case.softmax else nn.BCEWithLogitsLoss,
        optimizer=torch.optim.Adam,
        lr=LR,
        batch_size=BATCH,
        max_epochs=case.epochs,
        iterator_train__shuffle=True,
        train_split=predefined_split(Dataset(val_x, val_y)),
        callbacks=callbacks,
        callbacks__print_log=None,
        device=case.device,
    )
    return lambda: net.fit(x, y)


RAW, RAW_FUSED, BARE, FULL = "raw loop", "raw loop, fused Adam", "Lightning, bare", "Lightning + torchmetrics"
ONE, SIXTEEN = "lossselect", "lossselect, 16 steps"
SIDES: dict[str, Callable[[Case], Fit]] = {
    RAW: raw,
    RAW_FUSED: partial(raw, fused=True),
    "raw loop, DataLoader": raw_loader,
    BARE: bare_lightning,
    FULL: lightning_with_metrics,
    "Transformers": transformers,
    "fastai": fastai,
    "skorch": skorch,
    ONE: lossselect,
    SIXTEEN: partial(lossselect, steps=16),
    f"{SIXTEEN}, Adam not fused": partial(lossselect, steps=16, fused=False),
}
COMPILED = {
    f"{ONE}, compiled": partial(lossselect, compiled=True),
    f"{SIXTEEN}, compiled": partial(lossselect, steps=16, compiled=True),
}
PEERS = {"Transformers": ("transformers", "accelerate"), "fastai": ("fastai",), "skorch": ("skorch",)}
"""Modules that these sides require."""
