"""Predictions as class names."""

from typing import Any

from torch import Tensor

from lossselect.exceptions import ConfigError
from lossselect.labels.values import IGNORE_INDEX


def check_prediction(task: Any, prediction: Tensor) -> Tensor:
    """What `decode` may name: whole numbers, of which a canonical target of 0, 1 and NaN can be made."""
    if not prediction.is_floating_point():
        return prediction
    if bool(((prediction == 0) | (prediction == 1) | prediction.isnan()).all()):
        return task.to_hard_labels(prediction)
    raise ConfigError(
        "decode takes predictions, not probabilities: task.predict(logits), or "
        "task.predict_from_probabilities(probabilities)."
    )


def names_at(names: tuple[str, ...], indices: Any) -> Any:
    """Names in place of indices, in lists nested alike; None where the label is missing."""
    if isinstance(indices, list):
        return [names_at(names, index) for index in indices]
    if indices == IGNORE_INDEX:
        return None
    if not 0 <= indices < len(names):
        raise ConfigError(
            f"There is no class {indices}: decode takes 0 to {len(names) - 1}, {IGNORE_INDEX} if missing."
        )
    return names[indices]
