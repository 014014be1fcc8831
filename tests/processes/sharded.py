"""Checks steps whose loss or gradient is not finite in one of two processes, with weights sharded by FSDP2.

python sharded.py in each process; prints for each case whether the step was taken or training ended.
"""

import os
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lossselect.exceptions import TrainingDiverged
from lossselect.training.diagnostics.nonfinite import FiniteCheck
from lossselect.training.distributed.loss_averaging import StepMean

RANKS = 2


def main(rank):
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    for case in ("finite", "zero", "gradient", "loss"):
        torch.manual_seed(0)
        net = nn.Linear(3, 3, bias=False)  # 3 rows, so that the processes have parts of different sizes
        fully_shard(net, mesh=mesh)
        loss = net(torch.ones(2, 3)).square().mean()
        loss.backward()
        if case == "zero":
            mean = StepMean()  # multiplies sharded gradients by a scalar
            zero, one = torch.tensor([0.0, 1.0], dtype=torch.float64)
            mean.load_state_dict({"sum": one, "first": zero, "micro_batches": 1, "parts": None}, net)
            mean.finish(net, group=2)
        if case == "gradient" and rank == 1:
            net.weight.grad.to_local().fill_(torch.nan)
        module = SimpleNamespace(
            trainer=SimpleNamespace(precision_plugin=None, global_step=0, current_epoch=0, world_size=RANKS),
            device=torch.device("cpu"),
            parameters=net.parameters,
            named_parameters=net.named_parameters,
        )
        watch = FiniteCheck("stop")
        watch.add_loss(loss * torch.nan if case == "loss" and rank == 1 else loss)
        try:
            watch.check_step(module, torch.optim.SGD(net.parameters(), 0.1))
            end = "taken"
        except TrainingDiverged:
            end = "ended"
        print(f"{case}: {end}", flush=True)
    dist.barrier()
    dist.destroy_process_group()
    # fully_shard keeps the group, and on a busy machine its threads outlive it and make the interpreter abort
    os._exit(0)


if __name__ == "__main__":
    main(int(os.environ["LOCAL_RANK"]))
