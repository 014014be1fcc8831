"""`explain=true` and `check_only=true`: what a run would do, without Lightning."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import nn

from .chunked import ChunkedLogits
from .chunked_loss import chunked_loss
from .config import head_of, loss_options, monitor_of
from .data.batches import LabelRows, PositiveRows, TensorBatches
from .explain import label_table, plan
from .guards import warn_of_no_positives
from .head import set_head_bias, use_chunked
from .infer import check_task
from .label_lists import LabelLists
from .mixing import make_mix
from .nets import make_net
from .parts import decision_of, net_of, own_data, plain_values, scheduler_of, spec_of
from .plan import Plan, print_table, show
from .rules import loss_by_name
from .torch_losses import check_mixes
from .watch import OutputWatch, check_end

if TYPE_CHECKING:
    from .criterion import Loss
    from .tasks import Task


@dataclass
class Parts:
    """What a `TaskModule` of the run would be made of."""

    task: "Task"
    net: nn.Module
    criterion: "Loss"
    head_spec: dict[str, Any]
    optimizer_spec: Any
    scheduler_spec: Any
    mix: Any = None
    started_from: str = ""
    chunked: bool = field(init=False)

    def __post_init__(self) -> None:
        self.chunked = self.head_spec["name"] == "chunked"
        self.whole = nn.ModuleDict({"net": self.net})
        if self.chunked:
            use_chunked(self.whole, self.task, self.head_spec.get("chunk"))

    def parameters(self) -> Any:
        """Of the net."""
        return self.whole.parameters()

    def check_batch(self, batch: Any) -> None:
        """Raise what training on it would."""
        batch = self.mix(batch, self.task) if self.mix else batch
        logits = self.whole["net"](batch.inputs)
        if isinstance(logits, ChunkedLogits):
            OutputWatch().look_at_chunked(logits, self.whole)
            chunked_loss(self.criterion, logits, batch.target, batch.weight)
            return
        self.task.check_logits(logits)
        self.task.check_target(batch.target, logits)
        OutputWatch().look(logits, batch.inputs, self.whole, self.task)
        self.criterion.sum_and_count(logits, batch.target, batch.weight)


def check_own_data(config: DictConfig) -> None:
    """Print the plan of data of ours or from a file; to check also the labels, and put a batch through."""
    torch.manual_seed(config.seed)
    plain, own = plain_values(config), own_data(config)
    task, splits, counts = own.task, own.splits, own.counts["train"]
    net = net_of(config, task, SimpleNamespace(num_features=splits.features.shape[1]))
    if isinstance(net, dict):
        net = make_net(net, task.num_outputs)
    loss = loss_by_name(task, **loss_options(plain["loss"])).with_counts(counts)
    mix = spec_of(config.mix)
    check_mixes(mix, loss)
    steps = spec_of(config.optimizer), scheduler_of(config)
    parts = Parts(task, net, loss, head_of(plain, task), *steps, make_mix(mix))
    if config.head_bias is not None:
        prior = config.head_bias == "prior"
        logits = loss.first_logits(counts) if prior else torch.zeros(task.num_outputs)
        if set_head_bias(parts.whole, task, logits) is not None:
            parts.started_from = "the shares of the train labels" if prior else "0"
    options = plain["trainer"]
    devices = options.get("devices")
    trainer = SimpleNamespace(
        max_epochs=options["max_epochs"],
        strategy=SimpleNamespace(root_device=torch.device(_device(options.get("accelerator")))),
        precision=options.get("precision"),
        world_size=(devices if isinstance(devices, int) and devices > 0 else 1) * options.get("num_nodes", 1),
    )
    data = SimpleNamespace(
        splits=splits,
        counts=own.counts,
        num_features=splits.features.shape[1],
        batch_size=config.data.batch_size,
    )
    decision = decision_of(config, parts) if len(splits.rows["val"]) else None
    print_plan(plan(parts, data, trainer, monitor_of(plain, task), decision), config)  # type: ignore[arg-type]
    if not config.check_only:
        return
    print_table("Labels", label_table(task, own.counts), header=("class", *own.counts))
    evaluated = {} if parts.chunked else {"val": "validation", "test": "test"}  # which has no macro means
    for split, said in evaluated.items():  # as a run would after it
        warn_of_no_positives(own.counts[split].positives, task, said)
    check_end(net, task)
    if isinstance(splits.labels, LabelLists):
        target: Any = (PositiveRows if parts.chunked else LabelRows)(splits.labels)
    else:
        target = check_task(task, splits.labels)
    batches = TensorBatches(splits.features, target, splits.rows["train"], splits.weights)
    parts.check_batch(next(iter(batches.loader(config.data.batch_size, shuffle=True))))
    print("The first batch goes through net and loss. Nothing was trained or saved.")


def print_plan(plan: Plan, config: DictConfig) -> None:
    """As the setting `explain` says."""
    if config.explain == "json":
        print(plan.to_json(), end="")
    else:
        show(plan)


def _device(accelerator: Any) -> str:
    """Where Lightning would train."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda:0"
    return "mps:0" if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available() else "cpu"
