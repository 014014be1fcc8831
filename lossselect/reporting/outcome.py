"""What a net said of the rows of a split, beside what was true."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossselect.exceptions import ConfigError
from lossselect.metrics.calibration_error import calibration_error, sum_in_bins
from lossselect.tasks.registry import Task


@dataclass(frozen=True)
class Outcome:
    """Raw logits and target of a split's rows, and what follows from them.

    Args:
        task: By which is decided.
        base_task: The task before its decision was fitted, if it was.
        logits: (N, num_outputs) as the net returned them.
        target: (N, num_probabilities), NaN where missing.
        split: "test" or "val".
        rows: How the rows are called, in their order; None where that is not known.
        share: Of the split's rows these are.
        per_class: Columns of the table of classes.
        confusion: (C, C) counts, rows being the true classes.
    """

    task: Task
    base_task: Task | None
    logits: Tensor
    target: Tensor
    split: str = "test"
    rows: Sequence[int] | None = None
    share: float = 1.0
    per_class: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    confusion: np.ndarray | None = None

    @property
    def exclusive(self) -> bool:
        """Whether exactly one class is true."""
        return self.task.exclusive

    @property
    def thresholds(self) -> float | tuple[float, ...] | None:
        """By which each output is decided, where one decides."""
        return None if self.task.top_k else self.task.threshold  # type: ignore[return-value]  # a tuple

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs."""
        return self.task.output_names

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(N, K), calibrated if the task is."""
        return self.task.probabilities(self.logits.double()).numpy()

    @cached_property
    def log_odds(self) -> np.ndarray:
        """(N, K), which rank where probabilities are all but 1."""
        return self.task.log_odds(self.logits.double()).numpy()

    @cached_property
    def truth(self) -> np.ndarray:
        """(N, K) of 0 and 1, NaN where missing; a soft label is its likelier value."""
        target = self.target.double()
        if self.exclusive:
            hard = torch.zeros_like(target).scatter_(1, target.nan_to_num(-1).argmax(1, keepdim=True), 1)
        else:
            hard = (target >= 0.5).double()
        return hard.masked_fill(target.isnan(), torch.nan).numpy()

    @cached_property
    def decided(self) -> np.ndarray:
        """(N, K) of 0 and 1."""
        decision = self.task.predict(self.logits)  # as predictions are made
        return self.task.to_one_hot(decision if self.exclusive else decision.float()).numpy()

    @cached_property
    def support(self) -> np.ndarray:
        """How many rows each output is true of."""
        return np.nansum(self.truth, 0).astype(int)

    def known(self, output: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Truth, probability and decision of the rows whose label of that output is known."""
        there = ~np.isnan(self.truth[:, output])
        return (
            self.truth[there, output],
            self.probabilities[there, output],
            self.decided[there, output],
        )

    def ranked(self, output: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Truth, log-odds and decision of the same rows; of all outputs together without one."""
        of: Any = slice(None) if output is None else output
        there = ~np.isnan(self.truth[:, of])
        return self.truth[:, of][there], self.log_odds[:, of][there], self.decided[:, of][there]

    def reliability(self, calibrated: bool) -> tuple[np.ndarray, float]:
        """Count, sum of probabilities and of what came true in each of 15 bins, and the calibration error.

        Args:
            calibrated: By the task's temperature, or as the net says.
        """
        task = self.task if calibrated else self.base_task
        if task is None:
            raise ConfigError("The decision was not fitted: there is nothing before it.")
        probabilities = task.probabilities(self.logits.double())
        truth = torch.from_numpy(self.truth).double()
        known = ~truth.isnan()
        if self.exclusive:
            probabilities, classes = probabilities.max(1)
            truth, known = truth.gather(1, classes[:, None])[:, 0], known.all(1)
        # not CalibrationError.compute(), which would ask other processes, that have none of this
        bins = sum_in_bins(probabilities, truth, known)
        return bins.numpy(), float(calibration_error(bins))

    def counts(self) -> dict[str, np.ndarray]:
        """The confusion matrix of each output by itself, where outputs are decided by themselves."""
        if self.exclusive or self.share < 1:
            return {}
        known = ~np.isnan(self.truth)
        true, said = (self.truth == 1) & known, self.decided == 1
        cells = {
            "true positives": true & said,
            "false positives": known & ~true & said,
            "false negatives": true & ~said,
            "true negatives": known & ~true & ~said,
        }
        return {name: cell.sum(0) for name, cell in cells.items()}

    def most_wrong(self, count: int) -> list[tuple[int, str, str, float]]:
        """The wrong predictions of the highest probability: row, what was true, what was said, how sure.

        Of multilabel each label of a row is a decision.
        """
        if self.rows is None:
            return []
        if self.exclusive:
            says, is_true = self.decided.argmax(1), np.nan_to_num(self.truth, nan=-1).argmax(1)
            sure = self.probabilities[np.arange(len(says)), says]
            wrong = (says != is_true) & ~np.isnan(self.truth).any(1)
            order = np.argsort(np.where(wrong, -sure, 1), kind="stable")[: min(count, int(wrong.sum()))]
            return [
                (self.rows[i], self.names[is_true[i]], self.names[says[i]], float(sure[i])) for i in order
            ]
        sure = np.where(self.decided == 1, self.probabilities, 1 - self.probabilities)
        wrong = (self.decided != self.truth) & ~np.isnan(self.truth)
        order = np.argsort(np.where(wrong, -sure, 1).ravel(), kind="stable")
        found = []
        for place in order[: min(count, int(wrong.sum()))]:
            row, output = divmod(int(place), len(self.names))
            name = self.task.names[0] if self.task.positive_name else f"not {self.names[output]}"
            said = (name, self.names[output])
            decided = int(self.decided[row, output])
            found.append((self.rows[row], said[1 - decided], said[decided], float(sure[row, output])))
        return found

    def confused(self, count: int) -> list[tuple[str, str, int, float]]:
        """The classes that are taken for each other most: true, said, how often, as a share of the true."""
        if self.confusion is None:
            return []
        counts = self.confusion.copy()
        totals = counts.sum(1)
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts.ravel(), kind="stable")[: min(count, int((counts > 0).sum()))]
        pairs = [divmod(int(place), len(counts)) for place in order]
        return [
            (self.task.names[i], self.task.names[j], int(counts[i, j]), float(counts[i, j] / totals[i]))
            for i, j in pairs
        ]
