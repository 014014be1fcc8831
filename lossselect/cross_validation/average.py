"""The checkpoint of a run with several trainings: the mean of their calibrated probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lossselect.models.nets import make_net
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import AnyTask, Task, as_any_task
from lossselect.training.checkpoints.content import read_checkpoint
from lossselect.utils.atomic_write import atomic_write

LEFT_OUT = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "run_state")
"""The parts of a checkpoint from which training is resumed."""


def is_averageable(content: Mapping[str, Any]) -> bool:
    """Return whether the net of a checkpoint is built from plain values and has a dense head."""
    arguments = content["arguments"]
    is_plain = isinstance(arguments.get("net"), Mapping) and content["class"] == "TaskModule"
    return is_plain and (arguments.get("head") or {}).get("name") != "chunked"


def save_average(
    checkpoints: Mapping[str, Path], path: Path, counts: LabelCounts | None = None
) -> dict[str, Any] | None:
    """Write a checkpoint that predicts the mean of the probabilities of others, and return its content.

    Its thresholds and class factors are the means of theirs (see `mean_decision`). If calibration has removed
    the shift of a weighted loss, its loss is cross-entropy without weights.

    Args:
        checkpoints: The checkpoints, by names of their nets.
        path: The file to write.
        counts: The label counts of all rows that they were trained on; None if these rows are the same.

    Returns:
        The content; None, and nothing is written, if the nets are the user's own or have a chunked head.
    """
    contents = {name: read_checkpoint(checkpoint) for name, checkpoint in checkpoints.items()}
    first, *_ = contents.values()
    if not all(map(is_averageable, contents.values())):
        return None
    specs = {name: {**content["arguments"]["net"]} for name, content in contents.items()}
    width, *_ = [spec.pop("num_features") for spec in specs.values()]
    spec = {"name": "average", "num_features": width, "nets": specs}
    tasks = [as_any_task(content["task"]) for content in contents.values()]
    task = mean_decision(tasks)
    net: Any = make_net(spec, task)  # an `Average`
    net.set_calibration(tasks)
    weights = {f"net.{name}": value for name, value in net.state_dict().items()}
    for name, content in contents.items():
        for key, value in content["state_dict"].items():
            if key.startswith("net."):
                weights[f"net.nets.{name}.{key.removeprefix('net.')}"] = value
    base, arguments = first["base_task"], {**first["arguments"], "net": spec}
    content = {key: value for key, value in first.items() if key not in LEFT_OUT}
    content |= {
        "task": task.to_dict(),
        "base_task": base and _without_calibration(as_any_task(base)).to_dict(),
        "arguments": arguments,
        "state_dict": weights,
        "buffers": [f"net.{name}" for name, _ in net.named_buffers()],
    }
    if counts is not None:
        content |= {"counts": counts.to_dict(), "loss": None}  # the loss is built from the counts
    if any(part.shift != 0 for task in tasks for part in task.tasks.values()):
        # calibration has removed the weights from the logits, so neither the weighted loss nor the default
        # decision of the trainings applies to them
        content |= {"base_task": None, "loss": None, "arguments": {**arguments, "loss": "cross_entropy"}}
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as temporary:
        torch.save(content, temporary)
    return content


def _without_calibration(task: AnyTask) -> AnyTask:
    parts = {name: replace(part, temperature=1.0, shift=0.0) for name, part in task.tasks.items()}
    return task.with_tasks(parts)


def mean_decision(tasks: Sequence[AnyTask]) -> AnyTask:
    """Return the task, or the tasks, with the mean of the decisions of K trainings; see `_mean_decision`."""
    first = tasks[0]
    parts = {name: _mean_decision([task.tasks[name] for task in tasks]) for name in first.tasks}
    return first.with_tasks(parts)


def _mean_decision(tasks: Sequence[Task]) -> Task:
    """Return the task whose decision is the mean of those of K tasks, and whose logits are calibrated.

    For nets that agree, the mean probabilities p then have the decision of each net: the threshold of an
    output is mean_k t_k, and the factor of class c is 1 / mean_k (1 / f_kc), with factors f_k that are
    divided by their smallest.
    """
    changed: dict[str, Any] = {"temperature": 1.0, "shift": 0.0}
    first = tasks[0]
    names = {field.name for field in fields(first)}
    if "threshold" in names and any(task.threshold != first.threshold for task in tasks):
        values = [np.broadcast_to(np.array(task.threshold), first.num_probabilities) for task in tasks]
        mean = np.mean(values, 0).tolist()
        changed["threshold"] = mean[0] if len(mean) == 1 else tuple(mean)
    if "prior_correction" in names and any(task.prior_correction is not None for task in tasks):
        ones = [1.0] * first.num_probabilities
        factors = np.array(
            [ones if task.prior_correction is None else task.prior_correction for task in tasks]
        )
        changed["prior_correction"] = tuple((1 / (factors.min(1, keepdims=True) / factors).mean(0)).tolist())
    return replace(first, **changed)
