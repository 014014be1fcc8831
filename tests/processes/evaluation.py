"""Results of training and evaluation in one or several processes: weights, metrics, decisions, predictions.

Run by distributed.py.
"""

from typing import Any

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset
from torchmetrics import ClasswiseWrapper
from torchmetrics import classification as tm

import lossselect as ls
from lossselect.data.datamodule import TensorData
from lossselect.data.toy import load
from lossselect.training.tune import tune_decision

ROWS = 101


def trainer_of(ranks, **options):
    several = {"strategy": "ddp", "devices": ranks} if ranks > 1 else {"devices": 1}
    return L.Trainer(
        accelerator="cpu",
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **several,
        **options,
    )


def user_rows(task):
    """Return random rows with some missing labels."""
    if isinstance(task, ls.MultiTask):
        parts = {name: user_rows(part).tensors for name, part in task.tasks.items()}
        inputs = next(iter(parts.values()))[0]
        return [
            (inputs[row], {name: target[row] for name, (_, target) in parts.items()}) for row in range(ROWS)
        ]
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, 6, generator=generator, dtype=torch.float64)
    noisy = inputs + torch.randn(ROWS, 6, generator=generator, dtype=torch.float64)
    if task.name == "multiclass":
        target = noisy[:, :4].argmax(1)
        target[torch.rand(ROWS, generator=generator) < 0.2] = -100
    else:
        target = (noisy[:, : task.num_outputs] > 0.7).double()
        target[torch.rand(target.shape, generator=generator) < 0.2] = torch.nan
    return TensorDataset(inputs, target)


def of_user(ranks, batch, task, **options):
    """Return results with the user's loaders, and a net whose running means differ between processes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, task.num_outputs))
    module = ls.TaskModule(task, net, optimizer={"name": "SGD", "lr": 0.1}, **options)
    rows = user_rows(task)
    loader = DataLoader(rows, batch)
    trainer = trainer_of(ranks, max_epochs=1)
    found = {"validated": trainer.validate(module, loader, verbose=False)[0]}
    tune_decision(trainer, module, loader)
    found["tested"] = trainer.test(module, loader, verbose=False)[0]
    for name, epoch in module._epochs["test"].first.by_task.items():
        part = module.task.tasks[name]
        found[f"{name}threshold"] = getattr(part, "threshold", None)
        found[f"{name}temperature"] = part.temperature
        found[f"{name}per_class"] = epoch.per_class
        found[f"{name}confusion"] = epoch.confusion_counts
    counting = trainer_of(ranks, max_epochs=1)
    counted = ls.TaskModule(task, nn.Linear(6, task.num_outputs), bias_init="prior")
    counting.fit(counted, loader, loader)
    found["counts"] = counted._label_counts.to_dict()
    # in fit, validation uses the running means of the first process, which a checkpoint contains
    fitting = trainer_of(ranks, max_epochs=1, limit_train_batches=1)
    fitting.fit(module.train(), loader, loader)
    fitted = fitting.callback_metrics
    again = fitting.validate(module, loader, verbose=False)[0]
    found["difference after fit"] = max(
        (abs(float(fitted[name]) - value) if value == value else 0.0) for name, value in again.items()
    )
    return found


class OwnBatches(BatchSampler):
    """A custom batch sampler, which Lightning keeps but gives a distributed sampler."""


class UnknownLength(IterableDataset):
    """Rows of unknown number, distributed in turn over the processes, so that some have one more than others."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        several = torch.distributed.is_initialized()
        first, step = (
            (torch.distributed.get_rank(), torch.distributed.get_world_size()) if several else (0, 1)
        )
        return (self.rows[i] for i in range(first, len(self.rows), step))


def of_other_loaders(ranks, folder):
    """Return results with other loaders, validated by the same module outside of fit and in fit."""
    task = ls.Multilabel(5)
    torch.manual_seed(0)
    module = ls.TaskModule(task, nn.Linear(6, 5), optimizer={"name": "SGD", "lr": 0.0})
    rows = user_rows(task)
    trainer = trainer_of(
        ranks, max_epochs=1, limit_train_batches=1, callbacks=[ls.CheckpointOnSignal(folder + ".ckpt")]
    )
    own = DataLoader(rows, batch_sampler=OwnBatches(SequentialSampler(rows), 4, False))
    loaders = {
        "own batches": own,
        "plain": DataLoader(rows, 4),
        "unknown length": DataLoader(UnknownLength(rows), 4),
    }
    found = {title: trainer.validate(module, loader, verbose=False)[0] for title, loader in loaders.items()}
    for title, loader in loaders.items():
        trainer.fit(module, DataLoader(rows, 4), loader)
        metrics = trainer.callback_metrics.items()
        found[f"{title} in fit"] = {name: float(value) for name, value in metrics if "val/" in name}
        trainer.fit_loop.epoch_progress.reset()
    return found


def of_one_labelled(ranks):
    """Return metrics with list states of rows whose labels are all missing except in the first process."""
    task = ls.Multiclass(4, missing=-100)
    lists = {"auc": tm.MulticlassAUROC(4), "ap": ClasswiseWrapper(tm.MulticlassAveragePrecision(4, None))}
    torch.manual_seed(0)
    module = ls.TaskModule(task, nn.Linear(6, 4), metrics=lists)
    inputs, target = user_rows(task).tensors
    target[torch.arange(ROWS) % 6 > 0] = -100  # divisible by 2 and 3
    return trainer_of(ranks).validate(module, DataLoader(TensorDataset(inputs, target), 4), verbose=False)[0]


def of_built_in(ranks, batch):
    """Return results of training on a built-in data set, with `batch` rows in each process."""
    splits = load("yeast", seed=0, val_fraction=0.2, test_fraction=None)
    task = ls.Multilabel(14, class_names=splits.class_names)
    torch.manual_seed(0)
    module = ls.TaskModule(
        task,
        nn.Linear(splits.features.shape[1], 14),
        {"name": "cross_entropy", "pos_weight": "auto"},
        {"name": "SGD", "lr": 0.5, "momentum": 0.9},
        bias_init="prior",
    )
    data = TensorData(splits, task, batch)
    data.seed = 7
    trainer = trainer_of(ranks, max_epochs=2, accumulate_grad_batches=2)
    trainer.fit(module, datamodule=data)
    assert module._step_mean.equal_counts
    return {
        "steps": trainer.global_step,
        "weight": module.net.weight.detach(),
        "logged": {k: v.item() for k, v in trainer.callback_metrics.items()},
        "tested": trainer.test(module, datamodule=data, verbose=False)[0],
    }


def evaluate(ranks, batch, file):
    """Write all results to a file, in the first process."""
    multiclass, multilabel = ls.Multiclass(4, missing=-100), ls.Multilabel(5)
    chosen: dict[str, list[Any]] = {
        "multiclass": [{"auc": tm.MulticlassAUROC(4), "each": tm.MulticlassRecall(4, average=None)}],
        "multilabel": [{"iou": tm.MultilabelJaccardIndex(5, ignore_index=-100)}, "jaccard_weighted"],
    }
    for task in (multiclass, multilabel):
        chosen[task.name] += [*task.metric_names, "recall_none", "mcc"]
    found = {
        "multiclass": of_user(ranks, batch, multiclass, metrics=chosen["multiclass"]),
        "multilabel": of_user(ranks, batch, multilabel, metrics=chosen["multilabel"]),
        "binary": of_user(ranks, batch, ls.Binary()),
        "several": of_user(ranks, batch, ls.MultiTask({"kind": multiclass, "tags": multilabel})),
        "built-in": of_built_in(ranks, batch),
        "one labelled": of_one_labelled(ranks),
        "others": of_other_loaders(ranks, str(file)),
    }
    if ranks == 1 or torch.distributed.get_rank() == 0:
        torch.save(found, file)
