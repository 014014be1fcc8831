"""`select_loss` and `Loss`, which applies a formula to a task, with weights, masks and a reduction."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lossselect.exceptions import ConfigError
from lossselect.losses.class_weights import class_prior, count_option, is_counted
from lossselect.losses.functional.dice import REGIONS
from lossselect.losses.options import check_sample_weight, check_weight_shape, expand_weight, per_output
from lossselect.losses.registry import formula_options, formula_takes, select_formula
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import IGNORE_INDEX, Task, as_task
from lossselect.tasks.tensors import along_classes
from lossselect.utils.checks import check_float


class Loss(nn.Module):
    """A loss of a task's raw logits, created by `select_loss`.

    loss = sum_i w_i s_i / sum_i w_i d_i over the elements (sigmoid) or samples (softmax) that have a label:

    - sigmoid: s = weight_l [pos_weight_l y' l(x, 1) + (1 - y') l(x, 0)], d = 1;
    - softmax: s = sum_c weight_c t'_c l(x, c), d = sum_c weight_c t_c, with t = 1 at a class index.

    l is the formula's loss of a hard label, y' = (1 - e) y + e / 2 and t' = (1 - e) t + e / C the smoothed
    target with e = label_smoothing, and w the sample weight. The values equal torch's under sigmoid and for
    class indices; one-hot and soft forms of the same labels give the same values. Missing labels (NaN, or
    -100 among indices) are ignored; if no label is left, the mean and its gradient are 0. A formula that
    pools elements (`zlpr` the labels of a row, `dice` the pixels of a region) returns s itself, with d = 1
    for each pool that has a label.

    Shapes:
        logits (N, num_outputs, ...) of any float dtype, computed in float32 or wider; target as
        `task.encode` returns it; sample_weight (N,) or (N, ...), >= 0. Returns a scalar in nats for "mean"
        and "sum"; for "none" the w_i s_i, of shape (N, L, ...) (sigmoid) or (N, ...) (softmax, zlpr), 0 where
        the label is missing.

    Raises:
        ConfigError, OptionTypeError: at construction, see `select_loss`.
        ConfigError: when called, logits or weights of another shape, dtype or device.
        DataError: when called, a target of another shape or dtype, or an invalid value in a target or weight
            (checked on the CPU; on a device only in the first call).
        DataTypeError: when called, a target that is not a tensor.
    """

    __jit_unused_properties__: ClassVar = ["tau"]  # torch.jit.script would compile it

    def __init__(
        self,
        task: Task,
        name: str = "cross_entropy",
        *,
        reduction: str = "mean",
        weight: Any = None,
        pos_weight: Any = None,
        beta: float | None = None,
        label_smoothing: float = 0.0,
        prior: Any = None,
        counts: LabelCounts | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        task = as_task(task)
        values = {"weight": weight, "pos_weight": pos_weight, "prior": prior}
        modifiers = [key for key, value in values.items() if value is not None]
        self.formula, self.options = select_formula(task, name, options, modifiers)
        self.takes = formula_takes(self.formula)
        if reduction not in ("none", "mean", "sum"):
            raise ConfigError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}.")
        if check_float("label_smoothing", label_smoothing, 0, 1) == 1:
            raise ConfigError(
                "label_smoothing must be < 1, got 1: at 1 the target would no longer depend on the label."
            )
        if beta is not None and weight != "effective_number":
            raise ConfigError("beta has no effect without weight=effective_number. Set that, or remove beta.")
        if beta is not None and check_float("beta", beta, 0, 1) == 1:
            raise ConfigError("beta must be < 1, got 1. Set weight=balanced, the limit for beta near 1.")
        self.name, self.task, self.reduction = name, task, reduction
        self.label_smoothing, self.beta = label_smoothing, beta
        self.counted = {key: value for key, value in values.items() if is_counted(key, value, task)}
        """The options to compute from the training labels, such as {"weight": "balanced"}."""
        if "prior" in self.takes and prior is None:
            self.counted["prior"] = None
        self.waiting = bool(self.counted) and counts is None
        """True while `counted` has not been computed yet."""
        if counts is not None:
            counts.check_task(task)
            values |= {
                key: count_option(key, value, task, counts, beta) for key, value in self.counted.items()
            }
        self.reasons: list[str] = []
        """The reasons why `loss=auto` chose this loss."""
        self._values_checked = False
        self.weight: Tensor | None
        self.pos_weight: Tensor | None
        self.prior: Tensor | None
        for key, value in values.items():
            numbers = None if isinstance(value, str) else per_output(key, value, task)
            # not in the state dict, because a checkpoint stores them as options
            self.register_buffer(key, numbers, persistent=False)
        self._try_formula()

    def _try_formula(self) -> None:
        """Call the formula once, so that it checks its options now rather than at the first step."""
        width = self.task.num_probabilities
        logits = torch.zeros(1, width, 1)
        target = logits if self.task.activation == "sigmoid" else torch.zeros(1, 1, dtype=torch.long)
        extra = {"known": torch.ones(1, width, 1).bool(), "prior": torch.full((1,), 0.5), "weight": None}
        self.formula(logits, target, **{key: extra[key] for key in self.takes}, **self.options)

    def with_counts(self, counts: LabelCounts) -> "Loss":
        """Return the loss with the options that `counts` determine; itself if it does not need them."""
        return Loss(self.task, counts=counts, **self.to_dict()) if self.waiting else self

    def first_logits(self, counts: LabelCounts) -> Tensor:
        """Return the constant logits (num_outputs,) that training starts from.

        They minimise the cross-entropy of the training labels with these weights. Sigmoid: the log-odds of
        each label's frequency. Softmax: the log of each class frequency; for ordered classes the log-odds
        of a class above k, given at least k, at output k. The tau log prior that the loss adds is subtracted.
        """
        prior = class_prior(self.task, counts)
        weight, pos_weight = (1 if w is None else w.cpu().numpy() for w in (self.weight, self.pos_weight))
        if self.task.activation == "sigmoid":
            odds = prior / (1 - prior)
            return torch.from_numpy(np.log(odds * np.maximum(pos_weight, 1e-6)) - self.tau * np.log(odds))
        frequency = np.maximum(prior * weight, 1e-9 * (prior * weight).max()) * prior**-self.tau
        frequency = frequency / frequency.sum()
        if self.name == "one_vs_rest":
            return torch.from_numpy(np.log(frequency / (1 - frequency)))
        if self.task.ordinal:
            at_least = frequency[::-1].cumsum()[::-1]
            return torch.from_numpy(np.log(at_least[1:] / frequency[:-1]))
        return torch.from_numpy(np.log(frequency))

    @property
    def tau(self) -> float:
        """The factor of the log prior that the loss itself adds to the logits."""
        if "prior" not in self.takes:
            return 0.0
        return float(self.options.get("tau", formula_options(self.formula)["tau"]))

    def offset(self) -> Tensor | None:
        """Return what the loss adds to the logits under softmax, tau log prior (C,), or None."""
        if not self.tau or self.prior is None or self.task.activation == "sigmoid":
            return None
        return self.tau * self.prior.log()

    @torch.jit.unused  # a scripted `TaskModule` contains its loss, but does not call it
    def forward(self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        if self.reduction == "none":
            return self._weighted(logits, target, sample_weight, check_values=True)[0]
        total, count = self.sum_and_count(logits, target, sample_weight, check_values=True)
        return total if self.reduction == "sum" else safe_divide(total, count)

    def sum_and_count(
        self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None, check_values: bool = False
    ) -> tuple[Tensor, Tensor | int]:
        """Return the numerator and the denominator of the mean, to be summed over batches and ranks.

        By default values are not checked: the target should come from `task.encode`. The denominator is an
        int if all losses have the weight 1.
        """
        losses, divisors = self._weighted(logits, target, sample_weight, check_values)
        return losses.sum(), losses.numel() if divisors is None else divisors.sum()

    def _weighted(
        self, logits: Tensor, target: Tensor, sample_weight: Tensor | None, check_values: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the w_i s_i, and the w_i d_i or None if these are all 1."""
        self.check_inputs(logits, sample_weight)
        target = self.task.check_target(target, logits)
        if check_values and not torch.compiler.is_compiling():
            self._check_values(target.detach(), sample_weight)
        logits = self.task.class_logits(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        target = target.to(logits.dtype) if target.is_floating_point() else target
        weighted = self._sigmoid if self.task.activation == "sigmoid" else self._softmax
        losses, divisors, missing = weighted(logits, target)
        if sample_weight is not None:
            if sample_weight.ndim > 1 and self.name in REGIONS:
                raise ConfigError(
                    f"Loss {self.name!r} pools positions and supports only one weight per row, got "
                    f"sample_weight of shape {tuple(sample_weight.shape)}. Pass sample_weight of shape (N,)."
                )
            factor = expand_weight(sample_weight, logits, losses)
            losses, divisors = losses * factor, factor if divisors is None else divisors * factor
        if missing is None:
            return losses, divisors
        divisors = torch.ones_like(losses) if divisors is None else divisors
        return losses.masked_fill(missing, 0), divisors.masked_fill(missing, 0)

    def check_inputs(self, logits: Any, sample_weight: Tensor | None) -> None:
        """Raise ConfigError for missing counts, and for a wrong shape or device of logits or weights."""
        if self.waiting:
            option, value = next(iter(self.counted.items()))
            subject = f"{option}={value}" if value else f"The {option} of loss {self.name!r}"
            raise ConfigError(
                f"{subject} is computed from the training labels, which have not been counted. Pass "
                "counts=lossselect.count_labels(task, labels) to select_loss; TaskModule counts them in fit."
            )
        self.task.check_logits(logits)
        for name in ("weight", "pos_weight", "prior"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.device != logits.device:
                raise ConfigError(
                    f"The loss's {name} is on {tensor.device}, but the logits are on {logits.device}. Call "
                    f"loss.to({str(logits.device)!r})."
                )
        if sample_weight is not None:
            check_weight_shape(sample_weight, logits)

    def _check_values(self, target: Tensor, sample_weight: Tensor | None) -> None:
        """Check values on the CPU; on a device, where the check blocks, only in the first call."""
        if target.device.type != "cpu" and self._values_checked:
            return
        self._values_checked = True
        target = target.cpu()
        with suppress(RuntimeError):  # torch.vmap does not allow a check of values
            self.task.check_values(target)
            if sample_weight is not None:
                check_sample_weight(sample_weight)

    def _call(
        self, logits: Tensor, target: Tensor, missing: Tensor | None = None, columns: slice = slice(None)
    ) -> Any:
        extra: dict[str, Any] = {"weight": self.weight, "known": None if missing is None else ~missing}
        if self.prior is not None:  # in float64, in which a prior near 1 does not round to 1
            extra["prior"] = self.prior[columns].view(1, -1, *[1] * (logits.ndim - 2))
        return self.formula(logits, target, **{key: extra[key] for key in self.takes}, **self.options)

    def _sigmoid(
        self, logits: Tensor, target: Tensor, columns: slice = slice(None)
    ) -> tuple[Tensor, None, Tensor | None]:
        """Return the losses of some columns, their divisors, and a mask of the missing ones."""
        pools = "known" in self.takes
        missing = _if_any(target.isnan(), always=pools)
        if missing is not None:
            target = target.masked_fill(missing, 0)
        if self.label_smoothing:
            target = torch.lerp(target, torch.full_like(target, 0.5), self.label_smoothing)
        if pools:
            losses, counted = self._call(logits, target, missing)
            missing = ~counted
        elif self.pos_weight is None:
            losses = self._call(logits, target, columns=columns)
        else:
            # two calls: the formula is linear, but in one call with a scaled target float32 would lose digits
            positive = self._call(logits, torch.ones_like(target), columns=columns)
            negative = self._call(logits, torch.zeros_like(target), columns=columns)
            pos_weight = along_classes(self.pos_weight[columns], logits)
            losses = pos_weight * target * positive + (1 - target) * negative
        if self.weight is not None:
            losses = losses * along_classes(self.weight[columns], losses)
        return losses, None, missing

    def _softmax(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        soft, pools = target.is_floating_point(), "known" in self.takes
        missing = _if_any(target.isnan().any(1) if soft else target == IGNORE_INDEX, always=pools)
        if missing is not None:
            target = target.masked_fill(missing.unsqueeze(1) if soft else missing, 0)
        smoothed = target
        if self.label_smoothing:
            if not soft:
                target = torch.zeros_like(logits).scatter_(1, target.unsqueeze(1), 1)
            smoothed = torch.lerp(target, torch.full_like(target, 1 / logits.shape[1]), self.label_smoothing)
        if pools and missing is not None:
            losses, counted = self._call(logits, smoothed, missing.unsqueeze(1))
            return losses, None, ~counted
        if not target.is_floating_point():
            losses = self._call(logits, target)
            if self.weight is None:
                return losses, None, missing
            divisors = self.weight.to(losses)[target]
            return losses * divisors, divisors, missing
        weight = torch.ones((), dtype=logits.dtype, device=logits.device)
        if self.weight is not None:
            weight = along_classes(self.weight, logits)
        return self._call(logits, weight * smoothed), (weight * target).sum(1), missing

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint; `select_loss(task, **values)` recreates the loss."""
        values = {"name": self.name, **self.options, "label_smoothing": float(self.label_smoothing)}
        for name in ("weight", "pos_weight", *({"prior"} & self.takes)):
            buffer = getattr(self, name)
            values[name] = self.counted.get(name) if buffer is None else buffer.tolist()
        if self.waiting and self.beta is not None:
            values["beta"] = self.beta
        return {**values, "reduction": self.reduction}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Loss":
        def move(tensor: Tensor) -> Tensor:
            if tensor.is_meta:
                return fn(tensor)  # allocates it
            # keep the dtype: as float16 a pos_weight of 1e5 would be inf
            device = fn(tensor.new_empty(0)).device
            return tensor.to(device, torch.float32 if device.type == "mps" else tensor.dtype)

        return super()._apply(move, recurse)

    def extra_repr(self) -> str:
        shown = {key: value for key, value in self.to_dict().items() if value not in (None, 0)}
        for name, value in shown.items():
            if isinstance(value, list) and len(value) > 10:
                shown[name] = f"{len(value)} values"
        return ", ".join(f"{key}={value!r}" for key, value in shown.items())


def _if_any(missing: Tensor, always: bool) -> Tensor | None:
    """Return `missing`; on the CPU, where masks cost more time than a check, None if nothing is missing."""
    if always or missing.device.type != "cpu" or torch.compiler.is_compiling():
        return missing
    with suppress(RuntimeError):  # torch.vmap does not allow a check of values
        return missing if bool(missing.any()) else None
    return missing


def safe_divide(total: Tensor, count: Tensor | float) -> Tensor:
    """Return total / count, or 0 with a zero gradient if the count is 0.

    The total can be nonzero then: smoothing moves a part of a label to other classes, which have weights.
    """
    if isinstance(count, Tensor):
        return torch.where(count > 0, total / torch.where(count > 0, count, 1), 0)
    return total / count if count else total * 0


def select_loss(task: Task, name: str = "cross_entropy", **options: Any) -> Loss:
    """Return the loss called `name` in its form for the task, with all options checked.

    Args:
        task: Decides the form: sigmoid for binary and multilabel, softmax for multiclass.
        name: A key of `LOSSES`.
        options: The options of the formula (such as `gamma` and `alpha` of focal) and

            - `reduction`: "mean" (default), "sum" or "none";
            - `weight`: factors >= 0 of the classes or labels, (C,), by position or by name; "balanced" or
              "effective_number" computes them from the training labels;
            - `beta`: of weight="effective_number", in [0, 1), by default 0.999;
            - `pos_weight`: under sigmoid, factors >= 0 of the positives, one per output or one for all;
              "auto" computes them from the training labels;
            - `label_smoothing`: in [0, 1);
            - `prior`: of `logit_adjusted`, the frequency of each class, or of the positives of each label;
              by default computed from the training labels;
            - `counts`: `count_labels(task, labels)` of the training labels.

    Raises:
        ConfigError: an unknown name, a loss without a form for the task, an option that it lacks or
            that would have no effect, a value out of range or of the wrong length.
        DataError: `counts` with another number of classes than the task.
        OptionTypeError: an option that is not a number, or a `task` that is not a task.

    Example:
        >>> from lossselect import Multilabel
        >>> task = Multilabel(3)
        >>> loss = select_loss(task, "focal", gamma=2.0)
        >>> loss(torch.zeros(2, 3), task.encode([[1, 0, 1], [0, 0, 1]]))
        tensor(0.1733)
    """
    return Loss(task, name, **options)
