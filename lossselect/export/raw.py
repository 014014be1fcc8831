"""Exported models that take raw numbers: the graph contains the scaling."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lossselect.data.preprocessing.columns import NumberFeatures
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.data.preprocessing.scaling import apply_scales
from lossselect.data.preprocessing.table_features import Features
from lossselect.exceptions import ConfigError


class RawInput(nn.Module):
    """A net with the scaling of its numbers.

    The input is float64 (N, columns), because float32 has too few digits for large offsets, such as those of
    timestamps: a number for each column of numbers, NaN where missing, and then the other features.

    Args:
        features: The fitted features.
        net: The net.
    """

    columns: Tensor
    indicators: Tensor

    def __init__(self, features: Features, net: nn.Module) -> None:
        super().__init__()
        self.net, self.num_numbers = net, len(features.fitted_numbers)
        if not self.num_numbers:
            return  # torch.export.load fails for empty buffers
        convert = _converter(features)
        self.register_buffer("columns", torch.from_numpy(np.cumsum(~convert.indicators) - 1))
        self.register_buffer("indicators", torch.from_numpy(convert.indicators))
        self.kinds = [kind for kind, _, _ in convert.scaler.groups]
        self.parameter_names = []
        for i, (_, columns, parameters) in enumerate(convert.scaler.groups):
            arrays: Mapping[str, np.ndarray] = {"columns": columns, **parameters}
            self.parameter_names.append([*parameters])
            for name, array in arrays.items():
                self.register_buffer(f"{name}_{i}", torch.from_numpy(array))

    def forward(self, features: Tensor) -> Tensor:
        if not self.num_numbers:
            return self.net(features.float())
        groups = [
            (kind, getattr(self, f"columns_{i}"), {name: getattr(self, f"{name}_{i}") for name in names})
            for i, (kind, names) in enumerate(zip(self.kinds, self.parameter_names, strict=True))
        ]
        numbers = features[:, self.columns]
        missing = numbers.isnan()
        scaled = torch.where(missing, 0.0, apply_scales(numbers, groups, torch))
        scaled = torch.where(self.indicators, missing.double(), scaled)
        logits: Tensor = self.net(torch.cat([scaled, features[:, self.num_numbers :]], 1).float())
        return logits


def raw_features(preparation: Any) -> Features:
    """Return the features that a model with raw input scales.

    Raises:
        ConfigError: the preparation is unknown, or is that of a sparse matrix.
    """
    problem = ""
    if not preparation or "features" not in preparation:
        problem = "the preparation of the features is unknown, as the data are not a table or arrays"
    elif preparation["source"] == "sparse matrix":
        problem = "the features are a sparse matrix, which is not the input of a graph"
    if problem:
        raise ConfigError(
            f"A model that takes raw numbers cannot be exported: {problem}. Remove raw=true (of a run: "
            "export_raw=true)."
        )
    features: Features = Preparation.from_dict(preparation).features
    return features


def raw_inputs(features: Features, inputs: Tensor) -> Tensor:
    """Return raw rows (N, columns) whose features are `inputs` (N, num_features), except for rounding."""
    if inputs.shape[1:] != (width := len(features.names),):
        raise ConfigError(
            f"The preparation describes {width} features, so inputs must have shape (N, {width}), got "
            f"{tuple(inputs.shape)}. Pass the features of rows."
        )
    convert = _converter(features)
    numbers = convert.invert(inputs[:, : len(convert)].double().cpu().numpy())
    return torch.cat([torch.from_numpy(numbers), inputs[:, len(convert) :].double().cpu()], 1)


def _converter(features: Features) -> NumberFeatures:
    numbers = features.fitted_numbers
    return NumberFeatures(numbers, range(len(numbers)), len(numbers))
