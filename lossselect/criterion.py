"""`select_loss`: a formula of the table, made a loss of the task with weights, masks and a mean."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from .losses import LOSSES, MODIFIERS, find_loss, formula_options
from .names import check_options, nearest, number, some
from .tasks import IGNORE_INDEX, Task, along_classes, as_task

MOST_WEIGHT = 1e30
"""What counts as finite: times a loss of 1e4 it still is, in float32."""


class Loss(nn.Module):
    """A loss of a task's raw logits; `select_loss` makes it.

    loss = sum_i s_i / sum_i d_i over the elements (sigmoid) or samples (softmax) that have a label:

    - sigmoid: s = weight_l [pos_weight_l y' l(x, 1) + (1 - y') l(x, 0)], d = 1;
    - softmax: s = sum_c weight_c t'_c l(x, c), d = sum_c weight_c t_c, t being 1 at a class index,

    with l the formula's loss of a hard label and y' = (1 - e) y + e / 2, t' = (1 - e) t + e / C the
    smoothed target, e = label_smoothing. With class indices and under sigmoid these are torch's numbers;
    here one-hot and soft forms of the same labels also give them. Missing labels (NaN; -100 among
    indices) count neither above nor below; with none left the mean is 0, its gradient 0.

    Shapes:
        logits (N, num_outputs, ...) of any float dtype, computed in float32 or wider; target as
        `task.encode` returns it. Returns a scalar in nats for "mean" and "sum"; for "none" the s_i,
        of shape (N, L, ...) (sigmoid) or (N, ...) (softmax), 0 where the label is missing.

    Raises:
        ValueError: at construction as `select_loss` says; when called, logits or a target of another
            shape, dtype or device, and a value that no canonical target has (looked at on the CPU, and
            on a device at the first call).
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
        label_smoothing: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        task = as_task(task)
        self.formula = _formula(task, name, options, pos_weight)
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}.")
        if number("label_smoothing", label_smoothing, 0, 1) == 1:
            raise ValueError("label_smoothing must be below 1: at 1 no label is left.")
        self.name, self.task, self.reduction = name, task, reduction
        self.label_smoothing, self.options = label_smoothing, options
        self._values_checked = False
        self.weight: Tensor | None
        self.pos_weight: Tensor | None
        # not in the state dict: they are options, kept with the other options in a checkpoint
        self.register_buffer("weight", _per_output("weight", weight, task), persistent=False)
        self.register_buffer("pos_weight", _per_output("pos_weight", pos_weight, task), persistent=False)
        # the formula checks its own options: better now than at the first step
        logits = torch.zeros(1, task.num_outputs)
        target = logits if task.activation == "sigmoid" else torch.zeros(1, dtype=torch.long)
        self.formula(logits, target, **options)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        losses, divisors = self._weighted(logits, target, check_values=True)
        if self.reduction == "none":
            return losses
        return losses.sum() if self.reduction == "sum" else divide(losses.sum(), divisors.sum())

    def sum_and_count(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The mean's numerator and denominator, to be added up over batches and ranks.

        The target is taken to come from `task.encode`: no value is looked at.
        """
        losses, divisors = self._weighted(logits, target)
        return losses.sum(), divisors.sum()

    def _weighted(self, logits: Tensor, target: Tensor, check_values: bool = False) -> tuple[Tensor, Tensor]:
        """The s_i and the d_i."""
        self.task.check_logits(logits)
        self.task.check_target(target, logits)
        for name in ("weight", "pos_weight"):
            given = getattr(self, name)
            if given is not None and given.device != logits.device:
                raise ValueError(
                    f"The loss's {name} is on {given.device}, the logits are on {logits.device}. Move "
                    f"the loss: loss.to({str(logits.device)!r})."
                )
        if check_values and not torch.compiler.is_compiling():
            self._check_values(target.detach())
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        target = target.to(logits.dtype) if target.is_floating_point() else target
        weigh = self._sigmoid if self.task.activation == "sigmoid" else self._softmax
        losses, divisors, missing = weigh(logits, target)
        return losses.masked_fill(missing, 0), divisors.masked_fill(missing, 0)

    def _check_values(self, target: Tensor) -> None:
        """In a loop of one's own the target may never have seen `encode`: look at every one on the
        CPU, and on a device, where a look makes the step wait, at the first."""
        if target.device.type != "cpu" and self._values_checked:
            return
        self._values_checked = True
        target = target.cpu()
        with suppress(RuntimeError):  # torch.vmap lets nobody look at values
            self.task.check_values(target)

    def _sigmoid(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        missing = target.isnan()
        target = target.masked_fill(missing, 0)
        if self.label_smoothing:
            target = torch.lerp(target, torch.full_like(target, 0.5), self.label_smoothing)
        if self.pos_weight is None:
            losses = self.formula(logits, target, **self.options)
        else:
            # the formula is linear in the target; as one call of a scaled target digits would be lost
            positive = self.formula(logits, torch.ones_like(target), **self.options)
            negative = self.formula(logits, torch.zeros_like(target), **self.options)
            losses = along_classes(self.pos_weight, logits) * target * positive + (1 - target) * negative
        if self.weight is not None:
            losses = losses * along_classes(self.weight, logits)
        return losses, torch.ones_like(losses), missing

    def _softmax(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        soft = target.is_floating_point()
        missing = target.isnan().any(1) if soft else target == IGNORE_INDEX
        target = target.masked_fill(missing.unsqueeze(1) if soft else missing, 0)
        if not soft and self.label_smoothing:
            target = torch.zeros_like(logits).scatter_(1, target.unsqueeze(1), 1)
            soft = True
        if not soft:
            losses = self.formula(logits, target, **self.options)
            if self.weight is None:
                return losses, torch.ones_like(losses), missing
            divisors = self.weight.to(losses)[target]
            return losses * divisors, divisors, missing
        weight = torch.ones((), dtype=logits.dtype, device=logits.device)
        if self.weight is not None:
            weight = along_classes(self.weight, logits)
        divisors = (weight * target).sum(1)
        if self.label_smoothing:
            uniform = torch.full_like(target, 1 / logits.shape[1])
            target = torch.lerp(target, uniform, self.label_smoothing)
        return self.formula(logits, weight * target, **self.options), divisors, missing

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint, of which `select_loss(task, **values)` makes the loss again."""
        values = {"name": self.name, **self.options, "label_smoothing": float(self.label_smoothing)}
        for name in ("weight", "pos_weight"):
            buffer = getattr(self, name)
            values[name] = None if buffer is None else buffer.tolist()
        return {**values, "reduction": self.reduction}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Loss":
        # as float16 a pos_weight of 1e5 is inf
        return super()._apply(device_only(fn), recurse)

    def extra_repr(self) -> str:
        shown = {key: value for key, value in self.to_dict().items() if value not in (None, 0)}
        for name in ("weight", "pos_weight"):
            if len(shown.get(name, ())) > 10:
                shown[name] = f"{len(shown[name])} values"
        return ", ".join(f"{key}={value!r}" for key, value in shown.items())


def device_only(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """For `nn.Module._apply`: follow `.to(device)`, but keep the precision that `.half()` would take."""

    def move(tensor: Tensor) -> Tensor:
        device = fn(tensor.new_empty(0)).device
        return tensor.to(device, torch.float32 if device.type == "mps" else tensor.dtype)

    return move


def divide(total: Tensor, count: Tensor) -> Tensor:
    """total / count; 0 (with a zero gradient) where nothing counts."""
    return total / torch.where(count > 0, count, 1)


def select_loss(task: Task, name: str = "cross_entropy", **options: Any) -> Loss:
    """The loss called `name` in the form that the task takes, with every option checked now.

    Args:
        task: Decides the form: sigmoid for binary and multilabel, softmax for multiclass.
        name: A key of `LOSSES`.
        options: The formula's own (`gamma`, `alpha` for focal) and

            - `reduction`: "mean" (default), "sum" or "none";
            - `weight`: a factor >= 0 per output, (C,);
            - `pos_weight`: a factor >= 0 of the positives, one per output or one for all; sigmoid only;
            - `label_smoothing`: in [0, 1).

    Raises:
        ValueError: an unknown name, a loss without the form that the task needs, an option that the
            loss lacks or that would have no effect, a value out of range or of the wrong length.
        TypeError: an option that is no number.

    Example:
        >>> from lossselect import Multilabel
        >>> task = Multilabel(3)
        >>> loss = select_loss(task, "focal", gamma=2.0)
        >>> loss(torch.zeros(2, 3), task.encode([[1, 0, 1], [0, 0, 1]]))
        tensor(0.1733)
    """
    return Loss(task, name, **options)


def _formula(task: Task, name: str, options: Mapping[str, Any], pos_weight: Any) -> Callable[..., Tensor]:
    """The form of a loss that the task takes, where it has one and all of the options."""
    forms = find_loss(name)
    formula = forms.get(task.activation)
    if formula is None:
        having = [other for other, its in LOSSES.items() if task.activation in its]
        raise ValueError(
            f"Loss {name!r} has no {task.activation} form, which task={task.name} needs. "
            f"Losses for {task.name}: {', '.join(having)}."
        )
    if task.activation == "softmax" and pos_weight is not None:
        raise ValueError(
            f"pos_weight has no effect under softmax (task={task.name}), which has no negatives to weigh "
            "against. Give the classes their factors with weight."
        )
    for option in options:
        others = [other for other, its in forms.items() if option in formula_options(its)]
        if others and task.activation not in others:
            raise ValueError(
                f"{option} has no effect on the {task.activation} form of {name!r}, which task={task.name} "
                f"takes: only the {others[0]} form has it. For a factor per class use weight."
            )
    modifiers = [key for key in MODIFIERS if key != "pos_weight" or task.activation == "sigmoid"]
    allowed = [*formula_options(formula), *modifiers, "reduction"]
    check_options(options, allowed, f"Loss {name!r} for task={task.name}")
    return formula


def _by_name(name: str, values: Mapping[Any, Any], task: Task) -> list[Any]:
    """A value for each output of `{"cat": 2}`; 1 for those that it does not name."""
    # a name such as true is read as a truth value from a command line
    given = {str(key).lower() if isinstance(key, bool) else str(key): value for key, value in values.items()}
    for key in given:
        if key not in task.output_names:
            if key in task.names:
                raise ValueError(
                    f"{name} is given for {key!r}, the negative class, which has no output of its own. "
                    "To weigh "
                    f"the positive class against it: pos_weight={{{task.names[1]}: ...}}."
                )
            raise ValueError(
                f"{name} is given for {key!r}, but {task.describe()} has no such "
                f"output.{nearest(key, task.output_names)} There are: {some(task.output_names)}."
            )
    return [given.get(output, 1.0) for output in task.output_names]


def _per_output(name: str, values: Any, task: Task) -> Tensor | None:
    """An option as float64 of shape (num_outputs,), checked."""
    if values is None:
        return None
    if isinstance(values, Mapping):
        values = _by_name(name, values, task)
    try:
        given = torch.as_tensor(values, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a list of numbers, one per output, got {values!r}.") from None
    if name == "pos_weight" and given.ndim == 0:
        given = given.expand(task.num_outputs)
    if given.shape != (task.num_outputs,):
        fix = ""
        if task.num_outputs == 1 and given.shape == (2,):
            ratio = f"{given[1] / given[0]:g}" if given[0] else "..."
            fix = f" To weigh the positive class against the negative one use pos_weight={ratio}."
        raise ValueError(
            f"{name} must have one value per output, shape ({task.num_outputs},) for {task.describe()}, "
            f"got shape {tuple(given.shape)}.{fix}"
        )
    bad = ~((given >= 0) & (given <= MOST_WEIGHT))
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        label = f" for {task.output_names[i]!r}"
        raise ValueError(f"{name} must be finite and at least 0, got {given[i]:g}{label}.")
    if not bool((given > 0).any()):
        raise ValueError(f"{name} is 0 for every output: nothing would be learned.")
    return given.clone()
