"""`select_loss`: a formula of the table, made a loss of the task with weights, masks and a mean."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from lossselect.exceptions import ConfigError
from lossselect.losses.class_weights import check_named, class_prior, named_weight, prior_logits
from lossselect.losses.form import drop_unset, reject_none, select_formula
from lossselect.losses.functional.dice import REGIONS
from lossselect.losses.options import check_form_of_weight, check_sample_weight, of_samples, per_output
from lossselect.losses.registry import formula_options, formula_takes
from lossselect.tasks.label_counts import LabelCounts
from lossselect.tasks.registry import IGNORE_INDEX, Task, along_classes, as_task
from lossselect.utils.checks import check_float


class Loss(nn.Module):
    """A loss of a task's raw logits; `select_loss` makes it.

    loss = sum_i w_i s_i / sum_i w_i d_i over the elements (sigmoid) or samples (softmax) that have a label:

    - sigmoid: s = weight_l [pos_weight_l y' l(x, 1) + (1 - y') l(x, 0)], d = 1;
    - softmax: s = sum_c weight_c t'_c l(x, c), d = sum_c weight_c t_c, t being 1 at a class index,

    with l the formula's loss of a hard label and y' = (1 - e) y + e / 2, t' = (1 - e) t + e / C the
    smoothed target, e = label_smoothing, and w the weight of the sample, if it has one. With class indices
    and under sigmoid these are torch's numbers; here one-hot and soft forms of the same labels also give
    them. Missing labels (NaN; -100 among indices) count neither above nor below; with none left the mean
    is 0, its gradient 0. A formula that pools (`zlpr` a row's labels, `dice` a region's pixels) gives s
    itself, with d = 1 for each pool that has a label; its smoothed target is the same.

    Shapes:
        logits (N, num_outputs, ...) of any float dtype, computed in float32 or wider; target as
        `task.encode` returns it; sample_weight (N,), or of the positions (N, ...). Returns a scalar in nats
        for "mean" and "sum"; for "none" the w_i s_i, of shape (N, L, ...) (sigmoid) or (N, ...) (softmax,
        zlpr), 0 where the label is missing.

    Raises:
        ValueError: at construction as `select_loss` says; when called, logits or a target of another
            shape, dtype or device, and a value that no canonical target or weight has (looked at on the
            CPU, and on a device at the first call).
        TypeError: a target that is no tensor.
    """

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
        given = {"weight": weight, "pos_weight": pos_weight, "prior": prior}
        options = drop_unset(task, name, options)
        self.formula = select_formula(task, name, {**options, **reject_none(given)})
        self.takes = formula_takes(self.formula)
        if reduction not in ("none", "mean", "sum"):
            raise ConfigError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}.")
        if check_float("label_smoothing", label_smoothing, 0, 1) == 1:
            raise ConfigError("label_smoothing must be below 1: at 1 no label is left.")
        if beta is not None and weight != "effective_number":
            raise ConfigError("beta has no effect without weight=effective_number.")
        if beta is not None and check_float("beta", beta, 0, 1) == 1:
            raise ConfigError("beta must be below 1; towards 1 the weights become those of weight=balanced.")
        self.name, self.task, self.reduction = name, task, reduction
        self.label_smoothing, self.beta, self.options = label_smoothing, beta, options
        self.named = {key: value for key, value in given.items() if check_named(key, value, task)}
        """The options that the train labels tell, by the name that was given for them."""
        told = [*self.named, *(["prior"] if "prior" in self.takes and prior is None else [])]
        self.waits_for = told if counts is None else []
        """Those of them, and a prior, that have not been counted yet."""
        self.counted = told if counts is not None else []
        """Those that have been."""
        if counts is not None:
            counts.check_task(task)
            for key, value in self.named.items():
                given[key] = named_weight(key, value, task, counts, beta)
            if "prior" in told:
                given["prior"] = class_prior(task, counts)
        self.reasons: list[str] = []
        """Why it was chosen, where `loss=auto` has chosen it."""
        self._values_checked = False
        self.weight: Tensor | None
        self.pos_weight: Tensor | None
        self.prior: Tensor | None
        for key, value in given.items():
            numbers = None if key in self.waits_for else per_output(key, value, task)
            # not in the state dict: they are options, kept with the other options in a checkpoint
            self.register_buffer(key, numbers, persistent=False)
        self._try_formula()

    def _try_formula(self) -> None:
        """The formula checks its own options: better now than at the first step."""
        width = self.task.num_probabilities
        logits = torch.zeros(1, width, 1)
        target = logits if self.task.activation == "sigmoid" else torch.zeros(1, 1, dtype=torch.long)
        given = {"known": torch.ones(1, width, 1).bool(), "prior": torch.full((1,), 0.5), "weight": None}
        self.formula(logits, target, **{key: given[key] for key in self.takes}, **self.options)

    @property
    def waiting(self) -> bool:
        """Whether an option is told by train labels that have not been counted yet."""
        return bool(self.waits_for)

    def with_counts(self, counts: LabelCounts) -> "Loss":
        """The same loss with what the train labels tell; itself where they need tell nothing."""
        return Loss(self.task, counts=counts, **self.to_dict()) if self.waiting else self

    def first_logits(self, counts: LabelCounts) -> Tensor:
        """The constant logits (num_outputs,) to start from: of cross-entropy with these weights the best.

        Other losses, and smoothed labels, start there as well.
        """
        weight, pos_weight = (
            None if given is None else given.cpu().numpy() for given in (self.weight, self.pos_weight)
        )
        logits = prior_logits(
            self.task,
            class_prior(self.task, counts),
            weight=weight,
            pos_weight=pos_weight,
            tau=self.tau,
            one_vs_rest=self.name == "one_vs_rest",
        )
        return torch.from_numpy(logits)

    @property
    def tau(self) -> float:
        """How much of the classes' shares the loss adds to the logits itself."""
        if "prior" not in self.takes:
            return 0.0
        return float(self.options.get("tau", formula_options(self.formula)["tau"]))

    def forward(self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        losses, divisors = self._weighted(logits, target, sample_weight, check_values=True)
        if self.reduction == "none":
            return losses
        total, count = _summed(losses, divisors)
        return total if self.reduction == "sum" else safe_divide(total, count)

    def sum_and_count(
        self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor | int]:
        """The mean's numerator and denominator, to be added up over batches and ranks.

        The target is taken to come from `task.encode`: no value is looked at. The denominator is a plain
        number where each loss is known to count once.
        """
        return _summed(*self._weighted(logits, target, sample_weight))

    def _weighted(
        self, logits: Tensor, target: Tensor, sample_weight: Tensor | None, check_values: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The w_i s_i and the w_i d_i, None where these are all 1."""
        self.check_counted()
        self.task.check_logits(logits)
        target = self.task.check_target(target, logits)
        self.check_devices(logits.device)
        if sample_weight is not None:
            check_form_of_weight(sample_weight, logits)
        if check_values and not torch.compiler.is_compiling():
            self._check_values(target.detach(), sample_weight)
        logits = self.task.class_logits(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        target = target.to(logits.dtype) if target.is_floating_point() else target
        weigh = self._sigmoid if self.task.activation == "sigmoid" else self._softmax
        losses, divisors, missing = weigh(logits, target)
        if sample_weight is not None:
            if sample_weight.ndim > 1 and self.name in REGIONS:
                raise ConfigError(
                    f"Loss {self.name!r} pools positions, so a weight is one of a row: sample_weight of "
                    "shape (N,)."
                )
            factor = of_samples(sample_weight, logits, losses)
            losses, divisors = losses * factor, factor if divisors is None else divisors * factor
        if missing is None:
            return losses, divisors
        divisors = torch.ones_like(losses) if divisors is None else divisors
        return losses.masked_fill(missing, 0), divisors.masked_fill(missing, 0)

    def check_counted(self) -> None:
        """ValueError where it waits for the train labels."""
        if self.waiting:
            raise ConfigError(counts_needed(self.name, self.waits_for[0], self.named))

    def check_devices(self, device: torch.device) -> None:
        """ValueError where what the loss holds is not where the logits are."""
        for name in ("weight", "pos_weight", "prior"):
            given = getattr(self, name)
            if given is not None and given.device != device:
                raise ConfigError(
                    f"The loss's {name} is on {given.device}, the logits are on {device}. Move the loss: "
                    f"loss.to({str(device)!r})."
                )

    def offset(self) -> Tensor | None:
        """What the loss adds to the logits of each class itself (C,): tau log prior under softmax."""
        if not self.tau or self.prior is None or self.task.activation == "sigmoid":
            return None
        return self.tau * self.prior.log()

    def _check_values(self, target: Tensor, sample_weight: Tensor | None) -> None:
        """In a loop of one's own the target may never have seen `encode`: look at every one on the
        CPU, and on a device, where a look makes the step wait, at the first."""
        if target.device.type != "cpu" and self._values_checked:
            return
        self._values_checked = True
        target = target.cpu()
        with suppress(RuntimeError):  # torch.vmap lets nobody look at values
            self.task.check_values(target)
            if sample_weight is not None:
                check_sample_weight(sample_weight)

    def _call(
        self, logits: Tensor, target: Tensor, missing: Tensor | None = None, columns: slice = slice(None)
    ) -> Any:
        """The formula with its options, and with what else it takes."""
        given: dict[str, Any] = {}
        if "known" in self.takes and missing is not None:
            given["known"] = ~missing
        if "prior" in self.takes and self.prior is not None:
            given["prior"] = self.prior[columns].view(
                1, -1, *[1] * (logits.ndim - 2)
            )  # wide: shares near 1 are not 1
        if "weight" in self.takes:
            given["weight"] = self.weight
        return self.formula(logits, target, **given, **self.options)

    def _sigmoid(
        self, logits: Tensor, target: Tensor, columns: slice = slice(None)
    ) -> tuple[Tensor, None, Tensor | None]:
        """Of the outputs that are `columns`: losses, their divisors, which are missing."""
        missing = _if_any(target.isnan(), always="known" in self.takes)
        if missing is not None:
            target = target.masked_fill(missing, 0)
        if self.label_smoothing:
            target = torch.lerp(target, torch.full_like(target, 0.5), self.label_smoothing)
        if "known" in self.takes:
            losses, counted = self._call(logits, target, missing)
            missing = ~counted
        elif self.pos_weight is None:
            losses = self._call(logits, target, columns=columns)
        else:
            # the formula is linear in the target; as one call of a scaled target digits would be lost
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
        if not soft and self.label_smoothing:
            target = torch.zeros_like(logits).scatter_(1, target.unsqueeze(1), 1)
            soft = True
        smoothed = target
        if self.label_smoothing:
            uniform = torch.full_like(target, 1 / logits.shape[1])
            smoothed = torch.lerp(target, uniform, self.label_smoothing)
        if pools and missing is not None:
            losses, counted = self._call(logits, smoothed, missing.unsqueeze(1))
            return losses, None, ~counted
        if not soft:
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
        """Plain values, for a checkpoint, of which `select_loss(task, **values)` makes the loss again."""
        values = {"name": self.name, **self.options, "label_smoothing": float(self.label_smoothing)}
        for name in ("weight", "pos_weight", *({"prior"} & self.takes)):
            buffer = getattr(self, name)
            values[name] = self.named.get(name) if buffer is None else buffer.tolist()
        if "weight" in self.waits_for and self.beta is not None:
            values["beta"] = self.beta
        return {**values, "reduction": self.reduction}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Loss":
        # as float16 a pos_weight of 1e5 is inf
        return super()._apply(device_only(fn), recurse)

    def extra_repr(self) -> str:
        shown = {key: value for key, value in self.to_dict().items() if value not in (None, 0)}
        for name in ("weight", "pos_weight", "prior"):
            if isinstance(shown.get(name), list) and len(shown[name]) > 10:
                shown[name] = f"{len(shown[name])} values"
        return ", ".join(f"{key}={value!r}" for key, value in shown.items())


def device_only(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """For `nn.Module._apply`: follow `.to(device)`, but keep the precision that `.half()` would take."""

    def move(tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return fn(tensor)  # which fills it
        device = fn(tensor.new_empty(0)).device
        return tensor.to(device, torch.float32 if device.type == "mps" else tensor.dtype)

    return move


def _if_any(missing: Tensor, always: bool) -> Tensor | None:
    """`missing`, or None where nothing is: on the CPU a look takes less time than masks that hide nothing.

    On a device it would make the step wait, in a compiled one break the graph.
    """
    if always or missing.device.type != "cpu" or torch.compiler.is_compiling():
        return missing
    with suppress(RuntimeError):  # torch.vmap lets nobody look at values
        return missing if bool(missing.any()) else None
    return missing


def _summed(losses: Tensor, divisors: Tensor | None) -> tuple[Tensor, Tensor | int]:
    return losses.sum(), losses.numel() if divisors is None else divisors.sum()


def safe_divide(total: Tensor, count: Tensor | float) -> Tensor:
    """Return total / count; 0 (with a zero gradient) where nothing counts.

    Then the total need not be 0: smoothing moves a part of a label to other classes, whose weights count.
    """
    if isinstance(count, Tensor):
        return torch.where(count > 0, total / torch.where(count > 0, count, 1), 0)
    return total / count if count else total * 0


def counts_needed(loss: str, option: str, named: Mapping[str, str]) -> str:
    """Return the message about an option that waits for the counts of the train labels."""
    what = f"{option}={named[option]}" if option in named else f"The {option} of loss {loss!r}"
    return (
        f"{what} is told by the train labels, which have not been counted: pass "
        "counts=lossselect.count_labels(task, labels) to select_loss. (TaskModule counts them in fit.)"
    )


def select_loss(task: Task, name: str = "cross_entropy", **options: Any) -> Loss:
    """The loss called `name` in the form that the task takes, with every option checked now.

    Args:
        task: Decides the form: sigmoid for binary and multilabel, softmax for multiclass.
        name: A key of `LOSSES`.
        options: The formula's own (`gamma`, `alpha` for focal) and

            - `reduction`: "mean" (default), "sum" or "none";
            - `weight`: a factor >= 0 per class or label, (C,), by position or by name, or "balanced" or
              "effective_number" (with its `beta`, .999 by default), which the train labels tell;
            - `pos_weight`: a factor >= 0 of the positives, one per output or one for all, or "auto", which
              the train labels tell; sigmoid only;
            - `label_smoothing`: in [0, 1);
            - `prior` (of `logit_adjusted`): the share of each class, or of each label's positives; without
              it the train labels tell;
            - `counts`: what `count_labels(task, labels)` says of the train labels.

    Raises:
        ValueError: an unknown name, a loss without the form that the task needs, an option that the
            loss lacks or that would have no effect, a value out of range or of the wrong length; when
            called, what only counts tell where there were none.
        TypeError: an option that is no number.

    Example:
        >>> from lossselect import Multilabel
        >>> task = Multilabel(3)
        >>> loss = select_loss(task, "focal", gamma=2.0)
        >>> loss(torch.zeros(2, 3), task.encode([[1, 0, 1], [0, 0, 1]]))
        tensor(0.1733)
    """
    return Loss(task, name, **options)
