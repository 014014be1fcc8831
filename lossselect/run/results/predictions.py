"""predictions.csv, and prediction by a custom module."""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lossselect.data.batches import identity
from lossselect.data.datamodule import TensorData
from lossselect.data.splits import Splits
from lossselect.exceptions import ConfigError
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.labels.targets import EncodedPair
from lossselect.reporting.formulas import escape_formula
from lossselect.reporting.tables import (
    format_cells,
    prediction_columns,
    rows_without_prediction,
)
from lossselect.run.build import has_loader
from lossselect.run.trainer import trainer_on
from lossselect.tasks.registry import AnyTask
from lossselect.training.forward import describe
from lossselect.training.module import TaskModule
from lossselect.utils.atomic_write import atomic_write
from lossselect.utils.checks import shorten
from lossselect.utils.distributed import all_gather
from lossselect.utils.names import column_name
from lossselect.utils.warnings import warn

WRITTEN_ROWS = 1 << 17
"""Number of rows of predictions.csv that are written at once."""


def save_predictions(
    trainer: Trainer, module: TaskModule, data: Any, checkpoint: str | None, folder: Path
) -> str:
    """Write predictions.csv, or predictions.pt with trailing dimensions; return its name, "" without rows.

    The weights are those of the `checkpoint`, or those of the module if it is None.
    """
    task = module.task
    if not has_loader(data, "predict"):
        if not has_loader(data, "test"):
            return ""
        data.predict_dataloader = _predict_loaders(data)  # so that the data module's hooks apply
    batches: Any = trainer.predict(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if batches and isinstance(batches[0], list):  # there are several loaders
        batches = [batch for loader in batches for batch in loader]
    _check_outputs(module, batches)
    batches = _gather_batches(batches, getattr(data, "in_blocks", False))
    if not batches or not trainer.is_global_zero:
        return ""
    if next(iter(task.by_task(batches[0]["probabilities"]).values())).ndim > 2:
        with atomic_write(folder / "predictions.pt") as path:
            torch.save(batches, path)
        return "predictions.pt"
    names = ("prediction", "probabilities", *(["top"] if "top" in batches[0] else []))
    outputs = {name: map_tensors(torch.cat, [batch[name] for batch in batches]) for name in names}
    outputs["probabilities"] = map_tensors(lambda parts: parts[0].float(), [outputs["probabilities"]])
    if (missing := rows_without_prediction(outputs["prediction"])).any():
        warn(
            "no_prediction",
            f"{missing.sum()} of {len(missing)} rows in predictions.csv have no prediction, because the net "
            "returned NaN for them. Their cells are empty, and the metrics are NaN. Check these rows for "
            "extreme values.",
        )
    with atomic_write(folder / "predictions.csv") as path, path.open("wb") as file:
        # in parts, as text takes much more memory than numbers; trainer.limit_predict_batches may leave out
        # the last rows
        for start in range(0, len(missing), WRITTEN_ROWS):
            part = slice(start, min(start + WRITTEN_ROWS, len(missing)))
            columns: dict[str, Any] = {"row": range(part.start, part.stop)}
            if isinstance(data, TensorData):
                columns["row"] = data.splits.rows_in_file("test")[part]
                columns |= target_columns(task, data.splits, data.splits.rows["test"][part])
            chosen = {name: map_tensors(lambda v: v[0][part], [output]) for name, output in outputs.items()}  # noqa: B023
            columns |= prediction_columns(task, **chosen)
            escape_formula(columns).write_csv(file, include_header=start == 0)
    return "predictions.csv"


def _predict_loaders(data: Any) -> Callable[[], Any]:
    # Lightning records the arguments of a loader that is created within its hooks, and would pass a
    # positional `batch_size` twice
    loaders = data.test_dataloader()
    as_list = loaders if isinstance(loaders, list | tuple) else [loaders]
    if not all(type(loader) is DataLoader for loader in as_list):
        return data.test_dataloader
    for loader in as_list:  # recorded for all loaders after a hook for loaders has failed in this process
        loader.__dict__.pop("__pl_saved_args", None)
    return lambda: loaders


def make_predictor(module: Any, device: torch.device) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return a function that predicts rows with the hooks and the `predict_step` of a custom module."""
    trainer = trainer_on(device)

    def predict(rows: Tensor) -> dict[str, Tensor]:
        collate: Any = identity
        batch: Any = [EncodedPair(rows, None)]
        outputs: Any = trainer.predict(module, DataLoader(batch, batch_size=None, collate_fn=collate))
        _check_outputs(module, outputs)
        return {**outputs[0]}

    return predict


def _check_outputs(module: TaskModule, batches: list[Any]) -> None:
    """Raise ConfigError if an override of `predict_step` does not return probabilities and predictions."""
    for batch in batches:
        if not isinstance(batch, Mapping) or not {"probabilities", "prediction"} <= batch.keys():
            raise ConfigError(
                f"{type(module).__name__}.predict_step must return a mapping with 'probabilities' and "
                f"'prediction', got {describe(batch)}. Call super().predict_step, and change its result."
            )
        for key in ("probabilities", "prediction"):
            by_task = module.task.by_task(batch[key])
            if not isinstance(by_task, Mapping) or by_task.keys() != module.task.tasks.keys():
                raise ConfigError(
                    f"{type(module).__name__}.predict_step must return {key!r} as a mapping with the keys "
                    f"{shorten([*module.task.tasks])}, got {describe(batch[key])}."
                )


def _gather_batches(batches: list[dict[str, Tensor]], in_blocks: bool) -> list[dict[str, Tensor]]:
    """Gather the batches of all processes in the order of the data.

    Each process predicted consecutive rows if they are `in_blocks`, else every n-th row of n processes.
    """
    parts = all_gather(batches)
    if len(parts) == 1 or in_blocks:
        return [batch for part in parts for batch in part]
    rows = [
        [
            {name: map_tensors(lambda v: v[0][i : i + 1], [value]) for name, value in batch.items()}  # noqa: B023
            for batch in part
            for i in range(_count_rows(batch["prediction"]))
        ]
        for part in parts
    ]
    return [row for turn in zip_longest(*rows) for row in turn if row is not None]


def map_tensors(function: Callable[[list[Any]], Any], values: Sequence[Any]) -> Any:
    """Return the result of a function of several tensors, or for dicts of tensors by task, of each task."""
    if isinstance(values[0], Mapping):
        return {name: function([value[name] for value in values]) for name in values[0]}
    return function([*values])


def _count_rows(prediction: Any) -> int:
    return len(next(iter(prediction.values())) if isinstance(prediction, Mapping) else prediction)


def target_columns(task: AnyTask, splits: Splits, rows: Tensor) -> dict[str, list[str | None]]:
    """Return the columns of decoded targets of rows: "target", of several tasks such as "species.target"."""
    labels: Any = splits.labels
    if isinstance(labels, SparseLabels):  # without creating a dense matrix
        return {"target": format_cells(labels.select(rows).to_lists(task.tasks[""].names))}
    targets = task.split_target(task.encode_tensor(labels[rows.numpy()], 0))
    return {
        column_name(name, "target"): format_cells(part.decode(part.to_hard_labels(targets[name])))
        for name, part in task.tasks.items()
    }
