"""Compares the gradient of each loss over processes and micro-batches with the gradient of all rows at once.

Run by distributed.py.
"""

import lightning.pytorch as L
import torch
from torch import nn

import lossselect as ls
from lossselect.losses.registry import formula_options, formula_takes

WIDTH, FEATURES = 3, 5
SHAPES = {"dice": (4,)}  # dice requires regions
TASKS = {"sigmoid": ls.Multilabel(WIDTH), "softmax": ls.Multiclass(WIDTH, missing=-100)}
SEVERAL = {"species": TASKS["softmax"], "tags": TASKS["sigmoid"], "sick": ls.Binary()}
WEIGHTS = {
    "weight": [0.3, 2.0, 5.0],
    "pos_weight": [3.0, 0.5, 1.0],
    "label_smoothing": 0.1,
    "prior": [0.2, 0.3, 0.5],
}


class Net(nn.Module):
    def __init__(self, trailing):
        super().__init__()
        self.linear, self.trailing = nn.Linear(FEATURES, WIDTH), trailing

    def forward(self, inputs):
        return self.linear(inputs.movedim(1, -1)).movedim(-1, 1) if self.trailing else self.linear(inputs)


def joined(parts):
    """Return the rows of several batches: tensors, tensors by task, or None."""
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return None if any(part is None for part in parts) else torch.cat(parts)


class Batches:
    """A minimal loader, because Lightning treats a list as several loaders."""

    def __init__(self, batches):
        self.batches = [*batches]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class Watched(ls.TaskModule):
    """Compares each gradient that the optimizer gets with that of all rows of its step."""

    def __init__(self, *args, steps=(), **kwargs):
        super().__init__(*args, **kwargs)
        self.steps, self.errors = steps, []

    def unpack_batch(self, batch):
        return batch

    coefficient = 1.0

    def terms(self):
        """Return the terms that a subclass adds to the loss of a step."""
        return 0.0

    def on_before_optimizer_step(self, optimizer):
        rows = [part for micro in self.steps[len(self.errors)] for part in micro]
        inputs, target, weight = (joined(parts) for parts in zip(*rows, strict=True))
        parameters = [*self.parameters()]
        logits = nn.functional.linear(inputs, *parameters) if self._chunked else self.net(inputs)
        weights = () if weight is None else (weight,)
        loss = self.criterion(logits, self.task.encode(target), *weights)
        wanted = torch.autograd.grad(self.coefficient * loss + self.terms(), parameters)
        largest = max(float(gradient.abs().max()) for gradient in wanted)
        pairs = zip(parameters, wanted, strict=True)
        error = float(torch.stack([(p.grad - gradient).abs().max() for p, gradient in pairs]).max())
        self.errors.append(error / largest if largest else error)


class WithTerm(Watched):
    """Adds to half of the criterion a term, which is a plain mean over processes and micro-batches."""

    coefficient = 0.5
    group = 1
    micro_batch = 0
    """The index of the micro-batch in its step."""

    def has_term(self, rank, micro_batch):
        return True

    def term(self, inputs):
        return self.net(inputs).square().mean() + 0.1 * sum(p.square().sum() for p in self.net.parameters())

    def terms(self):
        self.micro_batch = 0
        step = self.steps[len(self.errors)]
        terms = [
            self.term(inputs)
            for micro_batch, parts in enumerate(step)
            for rank, (inputs, _, _) in enumerate(parts)
            if self.has_term(rank, micro_batch)
        ]
        return sum(terms) / len(step[0]) / self.group

    def training_step(self, batch, batch_idx):
        inputs, target, weight = batch
        pair_or_triple = (inputs, target) if weight is None else batch
        mean = self.step(pair_or_triple).loss
        with torch.no_grad():  # the value of the loss must be the mean of the micro-batch
            encoded = self.task.encode(target)
            wanted = self.criterion(self.net(inputs), encoded, *(() if weight is None else (weight,)))
        torch.testing.assert_close(mean.detach(), wanted)
        loss = self.coefficient * mean
        if self.has_term(self.global_rank, self.micro_batch):
            loss = loss + self.term(inputs)
        self.micro_batch += 1
        return loss


class WithLateTerm(WithTerm):
    """Adds the term only from the second micro-batch on, and not in the last process."""

    def has_term(self, rank, micro_batch):
        return micro_batch > 0 and (rank == 0 or rank < self.trainer.world_size - 1)


def rows_of(task, count, trailing, hole, weighted, dtype, generator):
    """Return a micro-batch of a process; `hole` says whether no, some or all labels are missing."""
    if isinstance(task, ls.MultiTask):
        parts = {
            name: rows_of(part, count, trailing, hole, weighted, dtype, generator)
            for name, part in task.tasks.items()
        }
        inputs, _, weight = parts["tags"]
        return inputs, {name: target for name, (_, target, _) in parts.items()}, weight
    inputs = torch.randn(count, FEATURES, *trailing, generator=generator, dtype=dtype)
    if task.activation == "sigmoid":
        target = torch.randint(2, (count, task.num_outputs, *trailing), generator=generator).to(dtype)
        missing, marker = torch.rand(target.shape, generator=generator) < 0.3, torch.nan
    else:
        target = torch.randint(WIDTH, (count, *trailing), generator=generator)
        missing, marker = torch.rand(target.shape, generator=generator) < 0.3, -100
    if hole == "some":
        target[missing] = marker
    elif hole == "all":
        target[:] = marker
    weight = torch.rand(count, generator=generator, dtype=dtype) * 3 if weighted else None
    return inputs, target, weight


def steps_of(task, ranks, group, trailing, holes, weighted, dtype):
    """Return two groups of micro-batches, the second one shorter, as [step][micro-batch][process]."""
    generator = torch.Generator().manual_seed(3)
    steps = []
    for step, micros in enumerate((group, (group + 1) // 2)):
        steps.append([])
        for micro in range(micros):
            if not holes:
                parts = [(4 + micro + rank, "none") for rank in range(ranks)]
            elif step == 0 and micro == 0 and group > 1:
                parts = [(3, "all")] * ranks  # all labels of the first micro-batch are missing
            else:
                parts = [(2 + rank + step, "all" if rank == 1 else "some") for rank in range(ranks)]
            steps[-1].append(
                [rows_of(task, n, trailing, hole, weighted, dtype, generator) for n, hole in parts]
            )
    return steps


def custom_loss(logits, target):
    """Return a custom loss: the mean over the known labels."""
    return nn.functional.cross_entropy(logits, target, reduction="sum") / (target != -100).sum().clamp(min=1)


def cases():
    """Yield (name, task, loss, trailing dimensions) for each loss without and with options, and a module class if needed."""
    for name, forms in ls.LOSSES.items():
        for activation, formula in forms.items():
            task, takes = TASKS[activation], formula_takes(formula)
            allowed = {"label_smoothing"}
            if "known" not in takes:
                allowed |= {"weight", "pos_weight"} if activation == "sigmoid" else {"weight"}
            elif name == "dice":
                allowed |= {"weight"}
            allowed |= {"prior"} & takes
            assert not allowed & formula_options(formula).keys()
            options = {key: WEIGHTS[key] for key in allowed}
            plain = {key: options[key] for key in {"prior"} & takes}
            for title, used in (("", plain), (" weighted", options)):
                yield f"{name} {activation}{title}", task, {"name": name, **used}, SHAPES.get(name, ())
    yield "cross_entropy binary", ls.Binary(), {"name": "cross_entropy", "pos_weight": 3.0}, ()
    yield "custom", TASKS["softmax"], custom_loss, ()
    for title, kind in (("with a term", WithTerm), ("with a late term", WithLateTerm)):
        yield f"weighted sigmoid {title}", TASKS["sigmoid"], {"name": "focal", "pos_weight": 3.0}, (), kind
        weighted = {"name": "cross_entropy", "weight": WEIGHTS["weight"]}
        yield f"weighted softmax {title}", TASKS["softmax"], weighted, (), kind
    for weights in (None, {"species": 3.0, "sick": 0.2}, "uncertainty"):
        several, loss = ls.MultiTask(SEVERAL, weights), {"species": {"name": "focal", "weight": [1, 2, 3]}}
        for kind in (Watched, WithTerm, WithLateTerm):
            yield f"several tasks, weights {weights}, {kind.__name__}", several, loss, (), kind
    yield "chunked sigmoid", TASKS["sigmoid"], {"name": "cross_entropy", "pos_weight": 3.0}, ()
    yield "chunked softmax", TASKS["softmax"], {"name": "cross_entropy", "weight": WEIGHTS["weight"]}, ()


def compare(ranks, group, dtype, some=False):
    """Return lines with the largest relative error and the name of each case, in the first process.

    Each case is run with missing labels and sample weights, and with neither. With `some`, most cases are run
    only with both.
    """
    lines = []
    options = {"strategy": "ddp", "devices": ranks} if ranks > 1 else {"devices": 1}
    for title, task, loss, trailing, *kinds in cases():
        width = task.num_outputs
        one = some and not title.startswith("cross_entropy") and not kinds
        for holes in (True,) if one else (False, True):
            weighted = holes and not callable(loss)  # with both, or with neither
            torch.manual_seed(0)
            steps = steps_of(task, ranks, group, trailing, holes, weighted, dtype)
            net = Net(trailing)
            net.linear = nn.Linear(FEATURES, width)
            head = {"name": "chunked", "chunk": 2} if title.startswith("chunked") else None
            kind = kinds[0] if kinds else Watched
            options_of_module = {"metrics": ["f1_micro"], "head": head}  # few metrics, to save time
            module = kind(task, net, loss, {"name": "SGD", "lr": 0.5}, steps=steps, **options_of_module)
            module.group = group
            trainer = L.Trainer(
                max_epochs=1,
                accelerator="cpu",
                precision="64-true" if dtype is torch.float64 else "32-true",
                accumulate_grad_batches=group,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                **options,
            )
            rank = trainer.global_rank
            trainer.fit(module, Batches(micro[rank] for step in steps for micro in step))
            assert len(module.errors) == 2, module.errors
            if rank == 0:
                worst = float(torch.tensor(module.errors).max())  # tensor.max() keeps NaN
                lines.append(f"{worst:.1e} {title}, missing labels {holes}, sample weights {weighted}")
    return lines
