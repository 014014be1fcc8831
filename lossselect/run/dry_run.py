"""`explain=true` and `check_only=true`: the plan and checks of a run, mostly without Lightning."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import DictConfig

from lossselect.data.batches import TensorBatches
from lossselect.exceptions import DataError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.reporting.explain import plan
from lossselect.reporting.plan import Monitor, print_renderable, print_table
from lossselect.run.build import build_module, decision_settings, describe_training, load_data, prepare
from lossselect.tasks.infer import encode_checked
from lossselect.tasks.label_counts import LabelCounts, warn_no_positives
from lossselect.tasks.registry import Task
from lossselect.tasks.task_names import naming_task
from lossselect.training.classifier import Classifier
from lossselect.training.diagnostics.outputs import check_end

MAX_ROWS = 30  # of the table of label counts


def check_only(config: DictConfig) -> None:
    """Print the plan; with check_only also print the label counts and run the net and loss on a batch."""
    is_custom = "_target_" in config.data
    classifier, data, monitor = (_prepare_custom if is_custom else _prepare_packaged)(config)
    decision = decision_settings(config, classifier, data)
    described = plan(classifier, data, describe_training(config, data, monitor), monitor, decision)
    if config.explain == "json":
        print(described.to_json(), end="")
    else:
        print_renderable(described)
    if not config.check_only:
        return
    if not is_custom:
        for name, task in classifier.task.tasks.items():
            counts = {split: count.by_task[name] for split, count in data.counts.items()}
            title = f"Labels of {name}" if name else "Labels"
            print_table(title, _label_table(task, counts), header=("class", *counts))
            # a chunked head computes no macro averages, for which each label needs positives
            for split in () if classifier._chunked else ("val", "test"):  # as in a run after evaluation
                with naming_task(name):
                    warn_no_positives(counts[split].positives, task, split)
    check_end(classifier.net, classifier.task)
    batch = next(iter(data.train_dataloader()), None)
    if batch is None:
        raise DataError(
            "The training loader is empty (fewer rows than a batch, and drop_last=True?). Add rows, or set "
            "drop_last=False."
        )
    classifier.check_batch(batch)
    print("The net and the loss accept the first batch. Nothing was trained or saved.")


def _prepare_packaged(config: DictConfig) -> tuple[Classifier, Any, Monitor]:
    """Prepare the model for built-in data or data of a file, without Lightning."""
    torch.manual_seed(config.seed)
    splits, task, counts = load_data(config)
    batch_size, num_features = config.data.batch_size, splits.features.shape[1]
    data = SimpleNamespace(splits=splits, counts=counts, num_features=num_features, batch_size=batch_size)
    classifier, monitor = build_module(config, task, data, trains=False)

    def train_dataloader() -> Any:
        labels = splits.labels
        target = labels if isinstance(labels, SparseLabels) else encode_checked(task, labels)
        batches = TensorBatches(splits.features, target, splits.rows["train"], splits.weights)
        batches.dense = not classifier._chunked
        return batches.loader(batch_size, shuffle=True)

    data.train_dataloader = train_dataloader
    return classifier, data, monitor


def _prepare_custom(config: DictConfig) -> tuple[Classifier, Any, Monitor]:
    """Prepare the model for the user's data module."""
    from lossselect.training.lifecycle import count_loader

    module, data, monitor = prepare(config)
    data.prepare_data()
    data.setup("fit")
    if module._needs_counts and (counts := count_loader(module, data.train_dataloader())):
        module.set_label_counts(counts)
    return module, data, monitor


def _label_table(task: Task, counts: Mapping[str, LabelCounts]) -> list[tuple[str, ...]]:
    """Return the number of rows of each class by split; of many classes only the most and least frequent."""
    splits = counts.values()
    order = sorted(range(len(task.names)), key=lambda i: -counts["train"].positives[i])
    rows = [(task.names[i], *(str(split.positives[i]) for split in splits)) for i in order]
    if len(rows) > MAX_ROWS:
        half = MAX_ROWS // 2
        rows[half:-half] = [("...",)]
    missing = ("(missing)", *(str(split.missing) for split in splits))
    return [*rows, missing, ("(rows)", *(str(split.rows) for split in splits))]
