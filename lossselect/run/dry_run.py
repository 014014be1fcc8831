"""`explain=true` and `check_only=true`: what a run would do; mostly without Lightning."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from omegaconf import DictConfig

from lossselect.data.batches import TensorBatches, encode_labels
from lossselect.exceptions import DataError
from lossselect.reporting.explain import label_table, plan
from lossselect.reporting.plan import Monitor, print_renderable, print_table
from lossselect.run.build import (
    OwnData,
    build_classifier,
    build_scheduler_spec,
    component_spec,
    decision_settings,
    describe_training,
    own_data,
    prepare,
    to_plain,
)
from lossselect.run.settings import resolve_monitor
from lossselect.training.classifier import Classifier
from lossselect.training.diagnostics.outputs import check_end
from lossselect.utils.warnings import warn_no_positives

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class RowsOfOneBatch:
    """The data of a run as a plan and a first batch need them: what `TensorData` is to Lightning."""

    def __init__(self, own: OwnData, chunked: bool, batch_size: int) -> None:
        self.task, self.chunked, self.batch_size = own.task, chunked, batch_size
        self.splits, self.counts = own.splits, own.counts
        self.num_features = own.splits.features.shape[1]

    def train_dataloader(self) -> Any:
        """As a run has it."""
        splits = self.splits
        target = encode_labels(self.task, splits.labels, dense=not self.chunked)
        batches = TensorBatches(splits.features, target, splits.rows["train"], splits.weights)
        return batches.loader(self.batch_size, shuffle=True)


class DryRun(NamedTuple):
    """What a plan is made of, and a first batch."""

    parts: Classifier
    data: Any
    monitor: Monitor
    decision: dict[str, Any] | None
    trainer: "Trainer | None" = None


def check_only(config: DictConfig) -> None:
    """Print the plan; to check also the labels of data of ours or from a file, and put a batch through."""
    ours = "_target_" not in config.data
    parts, data, monitor, decision, trainer = (_of_ours if ours else _of_theirs)(config)
    made = plan(parts, data, describe_training(config, monitor, trainer), monitor, decision)
    if config.explain == "json":
        print(made.to_json(), end="")
    else:
        print_renderable(made)
    if not config.check_only:
        return
    if ours:
        print_table("Labels", label_table(parts.task, data.counts), header=("class", *data.counts))
        # a chunked head has no macro means
        evaluated = {} if parts._chunked else {"val": "validation", "test": "test"}
        for split, said in evaluated.items():  # as a run would after it
            warn_no_positives(data.counts[split].positives, parts.task, said)
    check_end(parts.net, parts.task)
    batch = next(iter(data.train_dataloader()), None)
    if batch is None:
        raise DataError("The train loader is empty (fewer rows than a batch, under drop_last?).")
    parts.check_batch(batch)
    print("The first batch goes through net and loss. Nothing was trained or saved.")


def _of_ours(config: DictConfig) -> DryRun:
    """Without Lightning."""
    torch.manual_seed(config.seed)
    plain, own = to_plain(config), own_data(config)
    task, splits, counts = own.task, own.splits, own.counts["train"]
    monitor = resolve_monitor(plain, task)
    config.monitor = monitor.metric  # as a run does
    parts = Classifier(
        **build_classifier(config, task, SimpleNamespace(num_features=splits.features.shape[1]))
    )
    parts._optimizer_spec, parts._scheduler_spec = (
        component_spec(config, "optimizer"),
        build_scheduler_spec(config),
    )
    parts.set_label_counts(counts)
    tunes = len(splits.rows["val"]) and plain["trainer"].get("limit_val_batches") != 0
    data = RowsOfOneBatch(own, parts._chunked, config.data.batch_size)
    return DryRun(parts, data, monitor, decision_settings(config, parts) if tunes else None)


def _of_theirs(config: DictConfig) -> DryRun:
    from lossselect.run.results import has_rows_to_tune
    from lossselect.run.trainer import build_trainer
    from lossselect.training.label_counting import count_loader

    module, data, monitor = prepare(config)
    data.prepare_data()
    data.setup("fit")
    if module._needs_counts and (counts := count_loader(module, data.train_dataloader())):
        module.set_label_counts(counts)
    trainer = build_trainer(to_plain(config.trainer))
    decision = decision_settings(config, module) if has_rows_to_tune(trainer, data) else None
    return DryRun(module, data, monitor, decision, trainer)
