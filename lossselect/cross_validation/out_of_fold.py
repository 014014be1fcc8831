"""out_of_fold.csv: the predictions of each fold's net for the rows that it was not trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lossselect.data.splits import Splits
from lossselect.reporting.formulas import escape_formula
from lossselect.reporting.tables import prediction_columns
from lossselect.run.results.predictions import target_columns
from lossselect.tasks.registry import AnyTask
from lossselect.training.classifier import Classifier
from lossselect.utils.atomic_write import atomic_write

NAME = "out_of_fold.csv"
BATCH_ROWS = 8192


def save_out_of_fold(
    folder: Path, task: AnyTask, checkpoints: Mapping[str, Path], splits: Mapping[str, Splits], device: Any
) -> None:
    """Write the out-of-fold predictions; if the folds are repeated, a row has the mean probabilities.

    Args:
        folder: The run folder.
        task: The task with the decision of the averaged nets.
        checkpoints: The checkpoint of each training, by name.
        splits: The data of each training, by name, whose validation rows are a fold.
        device: The device that predicts.
    """
    first = next(iter(splits.values()))
    sums = np.zeros((len(first.labels), task.num_probabilities), np.float32)
    counts, nets = np.zeros(len(first.labels), int), np.zeros(len(first.labels), int)
    for number, (name, path) in enumerate(checkpoints.items()):
        rows = splits[name].rows["val"]
        classifier = Classifier.load(path).to(device)
        with torch.inference_mode():
            for part in rows.split(BATCH_ROWS):
                outputs = classifier.predict(first.features[part].to(device))
                of_tasks = [*task.by_task(outputs["probabilities"]).values()]
                sums[part.numpy()] += torch.cat(of_tasks, 1).float().cpu().numpy()
        counts[rows.numpy()] += 1
        nets[rows.numpy()] = number
    used = np.flatnonzero(counts)
    probabilities = torch.from_numpy(sums[used] / counts[used, None])
    is_repeated = counts.max() > 1
    widths = [part.num_probabilities for part in task.tasks.values()]
    by_task = dict(zip(task.tasks, probabilities.split(widths, 1), strict=True))
    predicted = {n: part.predict_from_probabilities(by_task[n]) for n, part in task.tasks.items()}
    columns = {
        "row": used,
        **({} if is_repeated else {"fold": nets[used]}),
        **target_columns(task, first, torch.from_numpy(used)),
        **prediction_columns(task, task.join_values(by_task), task.join_values(predicted)),
    }
    with atomic_write(folder / NAME) as path:
        escape_formula(columns).write_csv(path)
