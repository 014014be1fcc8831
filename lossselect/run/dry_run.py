"""`explain=true` and `check_only=true`: what a run would do; mostly without Lightning."""

from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from omegaconf import DictConfig

from lossselect.data.batches import TensorBatches, encode_labels
from lossselect.exceptions import DataError
from lossselect.reporting.explain import label_table, plan
from lossselect.reporting.plan import Monitor, print_renderable, print_table
from lossselect.run.build import (
    build_classifier,
    build_scheduler_spec,
    component_spec,
    decision_settings,
    describe_training,
    load_data,
    prepare,
    to_plain,
)
from lossselect.run.settings import resolve_monitor
from lossselect.training.classifier import Classifier
from lossselect.training.diagnostics.outputs import check_end
from lossselect.utils.warnings import warn_no_positives

Prepared: TypeAlias = tuple[Classifier, Any, Monitor, dict[str, Any] | None, Any]
"""What a plan describes: classifier, data, monitor, options of the decision, Lightning's trainer."""


def check_only(config: DictConfig) -> None:
    """Print the plan; with check_only also check the labels of our data, and put a batch through."""
    is_custom = "_target_" in config.data
    classifier, data, monitor, decision, trainer = (_prepare_custom if is_custom else _prepare_packaged)(
        config
    )
    described = plan(classifier, data, describe_training(config, monitor, trainer), monitor, decision)
    if config.explain == "json":
        print(described.to_json(), end="")
    else:
        print_renderable(described)
    if not config.check_only:
        return
    if not is_custom:
        print_table("Labels", label_table(classifier.task, data.counts), header=("class", *data.counts))
        # a chunked head has no macro means
        evaluated = {} if classifier._chunked else {"val": "validation", "test": "test"}
        for split, name in evaluated.items():  # as a run would after it
            warn_no_positives(data.counts[split].positives, classifier.task, name)
    check_end(classifier.net, classifier.task)
    batch = next(iter(data.train_dataloader()), None)
    if batch is None:
        raise DataError("The train loader is empty (fewer rows than a batch, under drop_last?).")
    classifier.check_batch(batch)
    print("The first batch goes through net and loss. Nothing was trained or saved.")


def _prepare_packaged(config: DictConfig) -> Prepared:
    """Prepare for data of ours or from a file, without Lightning."""
    torch.manual_seed(config.seed)
    plain, (splits, task, counts) = to_plain(config), load_data(config)
    monitor = resolve_monitor(plain, task)
    config.monitor = monitor.metric  # as a run does
    batch_size, num_features = config.data.batch_size, splits.features.shape[1]
    data = SimpleNamespace(splits=splits, counts=counts, num_features=num_features, batch_size=batch_size)
    classifier = Classifier(**build_classifier(config, task, data))
    classifier._optimizer_spec = component_spec(config, "optimizer")
    classifier._scheduler_spec = build_scheduler_spec(config)
    classifier.set_label_counts(counts["train"])

    def train_dataloader() -> Any:
        target = encode_labels(task, splits.labels, dense=not classifier._chunked)
        batches = TensorBatches(splits.features, target, splits.rows["train"], splits.weights)
        return batches.loader(batch_size, shuffle=True)

    data.train_dataloader = train_dataloader
    tunes = len(splits.rows["val"]) and plain["trainer"].get("limit_val_batches") != 0
    return classifier, data, monitor, decision_settings(config, classifier) if tunes else None, None


def _prepare_custom(config: DictConfig) -> Prepared:
    """Prepare for the user's own data module."""
    from lossselect.run.results import has_rows_to_tune
    from lossselect.run.trainer import build_trainer
    from lossselect.training.lifecycle import count_loader

    module, data, monitor = prepare(config)
    data.prepare_data()
    data.setup("fit")
    if module._needs_counts and (counts := count_loader(module, data.train_dataloader())):
        module.set_label_counts(counts)
    trainer = build_trainer(to_plain(config.trainer))
    decision = decision_settings(config, module) if has_rows_to_tune(trainer, data) else None
    return module, data, monitor, decision, trainer
