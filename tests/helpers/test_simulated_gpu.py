"""The simulated GPU of tests/helpers/simulated_gpu.py behaves like CUDA.

Each case is a fact about torch on CUDA: operations that make the host wait or not, and errors. The sources
are the code of the operators in ATen (see tests/helpers/cuda_rules.py), and the documentation of
`torch.cuda.set_sync_debug_mode` and `torch.use_deterministic_algorithms`. On a machine with a GPU, the same cases run on it.
"""

import copy
import io

import numpy as np
import pytest
import torch
from simulated_gpu import SimulatedTensor, pinned, simulated_gpu
from torch.nn.functional import cross_entropy, one_hot

REAL = torch.cuda.is_available()


@pytest.fixture
def gpu():
    if REAL:
        yield None
        return
    with simulated_gpu() as simulated:
        yield simulated


def x(*shape):
    return torch.rand(*(shape or (4,)), device="cuda")


def places(*numbers):
    return torch.tensor(numbers or (0, 2), device="cuda")


def mask():
    return places(1, 0, 1, 0) > 0


def pinned_copy(tensor):
    return tensor.pin_memory()


WAITS = {
    "item": lambda: x(1).item(),
    "tolist": lambda: x().tolist(),
    "bool": lambda: bool(x(1)),
    "float": lambda: float(x(1)),
    "int": lambda: int(x(1)),
    "an index": lambda: [0, 1][places(1)],
    "if any": lambda: 1 if x().isnan().any() else 0,
    "a range": lambda: torch.arange(4)[: places(2)[0]],
    "cpu": lambda: x().cpu(),
    "to cpu": lambda: x().to("cpu"),
    "save": lambda: torch.save(x(), io.BytesIO()),
    "nonzero": lambda: x().nonzero(),
    "where of a mask": lambda: torch.where(mask()),
    "argwhere": lambda: torch.argwhere(mask()),
    "masked_select": lambda: x().masked_select(mask()),
    "index by a mask": lambda: x()[mask()],
    "index by a mask and places": lambda: x(4, 2)[mask(), places(0, 1)],
    "index by a list": lambda: x()[[0, 1]],
    "index by a CPU tensor": lambda: x()[torch.tensor([0, 1])],
    "index_put by a mask": lambda: x().__setitem__(mask(), x(2)),
    # canDispatchToMaskedFill supports only values on the CPU
    "index_put by a mask of a device scalar": lambda: x().__setitem__(mask(), x(1)[0]),
    # a number becomes a CPU tensor (python_variable_indexing.cpp), which _index_put_impl_ copies
    "index_put of a number": lambda: x().__setitem__(places(), 1.0),
    "one element set": lambda: x().__setitem__(0, 1.0),
    "unique": lambda: x().unique(),
    "unique_consecutive": lambda: x().unique_consecutive(),
    "unique of rows": lambda: x(3, 2).unique(dim=0),
    "bincount": lambda: places().bincount(minlength=5),
    "histc": lambda: x().histc(3),
    "equal": lambda: torch.equal(x(), x()),
    "allclose": lambda: torch.allclose(x(), x()),
    "is_nonzero": lambda: torch.is_nonzero(x(1)),
    "repeat_interleave": lambda: torch.repeat_interleave(x(2), places(1, 2)),
    "one_hot": lambda: one_hot(places()),
    "multinomial": lambda: x().multinomial(2),
    "masked_fill with a device scalar": lambda: x().masked_fill(mask(), x(1)[0]),
    # where_self_out copies a CPU scalar to the device
    "where with a CPU tensor": lambda: torch.where(mask(), x(), torch.tensor(0.0)),
    "torch.tensor": lambda: torch.tensor(1, device="cuda"),
    "torch.as_tensor": lambda: torch.as_tensor(3, dtype=torch.float64, device="cuda"),
    "new_tensor": lambda: x().new_tensor([1.0, 2.0]),
    "to cuda": lambda: torch.ones(3).to("cuda"),
    "cuda": lambda: torch.ones(3).cuda(),
    "pinned, blocking": lambda: pinned_copy(torch.ones(3)).cuda(),
    "copy_ from the CPU": lambda: x(3).copy_(torch.ones(3)),
    "copy_ to the CPU": lambda: torch.ones(3).copy_(x(3)),
    "module to cuda": lambda: torch.nn.Linear(2, 2).cuda(),
    "inverse": lambda: torch.linalg.inv(torch.eye(2).pin_memory().to("cuda", non_blocking=True)),
}

DOES_NOT_WAIT = {
    "arithmetic": lambda: (x() * 2 + 1).sum(),
    "a CPU scalar in arithmetic": lambda: x() * torch.tensor(2.0),
    "compare": lambda: (x() > 0.5).any(),
    "factories": lambda: [torch.zeros(3, device="cuda"), torch.full((2,), 3.0, device="cuda")],
    "arange": lambda: torch.arange(5, device="cuda"),
    "randperm": lambda: torch.randperm(5, device="cuda"),
    "new_full": lambda: x().new_full((2,), 3.0),
    "index by places": lambda: x()[torch.arange(2, device="cuda")],
    "a slice": lambda: x()[1:3],
    "an element": lambda: x()[0],
    "a slice set": lambda: x().__setitem__(slice(1, 3), 1.0),
    "index_put by places": lambda: x().__setitem__(torch.arange(2, device="cuda"), x(2)),
    "a number at a mask": lambda: x().__setitem__(x() > 0.5, 0.0),
    "index_fill_": lambda: x().index_fill_(0, torch.arange(2, device="cuda"), 1.0),
    "index_add_": lambda: x().index_add_(0, torch.arange(2, device="cuda"), x(2)),
    "scatter_ of a number": lambda: x().scatter_(0, torch.arange(2, device="cuda"), 1.0),
    "gather": lambda: x().gather(0, torch.arange(2, device="cuda")),
    "masked_fill": lambda: x().masked_fill(x() > 0.5, 0),
    "where with numbers": lambda: torch.where(x() > 0.5, x(), 0.0),
    "where with two numbers": lambda: torch.where(x() > 0.5, 1.0, 0.0),
    "sort": lambda: x().sort(stable=True),
    "topk": lambda: x().topk(2),
    "searchsorted": lambda: torch.searchsorted(x().sort().values, x()),
    "cumsum": lambda: x().cumsum(0),
    "nonzero_static": lambda: torch.nonzero_static(x() > 0.5, size=2),
    "repeat_interleave of a size": lambda: torch.repeat_interleave(
        x(2), torch.full((2,), 2, device="cuda"), output_size=4
    ),
    "one_hot of a width": lambda: one_hot(torch.arange(2, device="cuda"), 5),
    "histc of a range": lambda: x().histc(3, 0, 1),
    "pinned, not blocking": lambda: pinned_copy(torch.ones(3)).to("cuda", non_blocking=True),
    "copy_ from pinned memory": lambda: x(3).copy_(pinned_copy(torch.ones(3)), non_blocking=True),
    "copy_ to pinned memory": lambda: torch.empty(3, pin_memory=True).copy_(x(3), non_blocking=True),
    "to the CPU, not blocking": lambda: x().to("cpu", non_blocking=True),
    "a dtype": lambda: x().double(),
    "loss and backward": lambda: cross_entropy(
        x(4, 3).requires_grad_(), torch.arange(4, device="cuda") % 3
    ).backward(),
    "clipping": lambda: _clipped(),
    "amp": lambda: torch.amp.GradScaler("cuda").scale(x(1)),
    "an event": lambda: torch.cuda.Event().record(),
    "the same device": lambda: x().to("cuda"),
    "copying a module": lambda: copy.deepcopy(x()),
    "checks of shape": lambda: (x().shape, x().dtype, x().is_floating_point(), len(x()), x().numel()),
}


def _clipped():
    weight = x(3).requires_grad_()
    weight.square().sum().backward()
    torch.nn.utils.clip_grad_norm_([weight], 1.0)


@pytest.mark.parametrize("name", WAITS)
def test_operations_that_make_the_host_wait(gpu, name):
    WAITS[name]()  # warm-up: the first call loads CUDA libraries and lazy modules
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
            WAITS[name]()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", DOES_NOT_WAIT)
def test_operations_that_do_not_wait(gpu, name):
    torch.cuda.set_sync_debug_mode("error")
    try:
        DOES_NOT_WAIT[name]()
    finally:
        torch.cuda.set_sync_debug_mode("default")


MIXES = {
    "add": lambda: x(3) + torch.ones(3),
    "matmul": lambda: x(3, 3) @ torch.ones(3, 3),
    "cat": lambda: torch.cat([x(3), torch.ones(3)]),
    "stack of scalars": lambda: torch.stack([x(1)[0], torch.tensor(1.0)]),
    "gather": lambda: x(3).gather(0, torch.tensor([0])),
    "index_add": lambda: x(3).index_add(0, torch.tensor([0]), x(1)),
    "index_put of a CPU value": lambda: x().__setitem__(torch.arange(2, device="cuda"), torch.ones(2)),
    "a CPU tensor indexed": lambda: torch.ones(4)[torch.arange(2, device="cuda")],
    "where": lambda: torch.where(x(3) > 0.5, x(3), torch.ones(3)),
    "loss": lambda: cross_entropy(x(2, 3), torch.tensor([0, 1])),
    "linear": lambda: torch.nn.Linear(3, 2)(x(2, 3)),
    "in place": lambda: torch.ones(3).add_(x(3)),
}


@pytest.mark.parametrize("name", MIXES)
def test_devices_are_not_mixed(gpu, name):
    with pytest.raises(RuntimeError, match=r"device|cpu"):
        MIXES[name]()


@pytest.mark.parametrize("convert", [lambda v: v.numpy(), np.asarray, lambda v: np.add(v, 1)])
def test_numpy_does_not_accept_device_tensors(gpu, convert):
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        convert(x())


NOT_DETERMINISTIC = {
    "cumsum of floats": lambda: x().cumsum(0),
    "bincount with weights": lambda: places(0, 1).bincount(x(2)),
    "histc": lambda: x().histc(3, 0, 1),
    "median with places": lambda: x(2, 3).median(1),
    "put_": lambda: x().put_(places(), x(2)),
    "a mean over positions": lambda: cross_entropy(x(2, 3, 4), torch.zeros(2, 4, dtype=torch.long, device="cuda")),
    "pooling": lambda: torch.nn.AdaptiveAvgPool2d(2)(x(1, 1, 4, 4).requires_grad_()).sum().backward(),
    "interpolation": lambda: torch.nn.functional.interpolate(
        x(1, 1, 4, 4).requires_grad_(), scale_factor=2, mode="bicubic"
    ).sum().backward(),
    "scatter_reduce": lambda: x().scatter_reduce(0, places(), x(2), "prod"),
}  # fmt: skip

DETERMINISTIC = {
    "cumsum of integers": lambda: places().cumsum(0),
    "bincount": lambda: places().bincount(),
    "index_add": lambda: x().index_add(0, places(), x(2)),
    "scatter_add": lambda: x().scatter_add(0, places(), x(2)),
    "index_put": lambda: x().__setitem__(places(), x(2)),
    "gather": lambda: x().requires_grad_().gather(0, places()).sum().backward(),
    "a loss of rows": lambda: cross_entropy(x(2, 3), places(0, 1)),
    "losses of positions": lambda: cross_entropy(
        x(2, 3, 4), torch.zeros(2, 4, dtype=torch.long, device="cuda"), reduction="none"
    ),
    "median": lambda: x().median(),
    "scatter_reduce": lambda: x().scatter_reduce(0, places(), x(2), "sum"),
}


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", NOT_DETERMINISTIC)
def test_operations_without_a_deterministic_form(gpu, deterministic, name):
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        NOT_DETERMINISTIC[name]()


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_operations_with_a_deterministic_form(gpu, deterministic, name):
    DETERMINISTIC[name]()


# Tests of the simulation itself.

simulation = pytest.mark.skipif(REAL, reason="this machine has a real GPU")


@simulation
def test_values_and_gradients_equal_those_of_the_cpu():
    def run(device):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).to(device)
        optimizer = torch.optim.AdamW(net.parameters(), fused=True)
        inputs, target = torch.randn(16, 4), torch.arange(16) % 3
        for _ in range(3):
            optimizer.zero_grad()
            cross_entropy(net(inputs.to(device)), target.to(device)).backward()
            optimizer.step()
        return [weight.detach().cpu() for weight in net.parameters()]

    expected = run("cpu")
    with simulated_gpu():
        got = run("cuda")
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@simulation
def test_a_wait_has_file_and_line():
    with simulated_gpu() as gpu:
        value = torch.ones(1, device="cuda")
        value.item()
    (wait,) = gpu.waits
    assert wait.file == __file__
    line = test_a_wait_has_file_and_line.__code__.co_firstlineno + 4
    assert str(wait) == f"item() at {__file__}:{line}"


@simulation
def test_pageable_memory_may_wait_which_torch_does_not_report():
    with simulated_gpu() as gpu:
        gpu.raises = True
        torch.ones(3).to("cuda", non_blocking=True)
        pinned(torch.ones(3))[1:].to("cuda", non_blocking=True)  # views share their memory
    assert [wait.operation for wait in gpu.waits] == ["copy to the device through pageable memory"]


@simulation
def test_a_device_that_is_behind_reaches_events_late():
    with simulated_gpu() as gpu:
        gpu.events_behind = 2
        events = [torch.cuda.Event() for _ in range(4)]
        for event in events:
            event.record()
        assert [event.query() for event in events] == [True, True, False, False]
        events[2].synchronize()
        assert [event.query() for event in events] == [True, True, True, False]
    assert [wait.operation for wait in gpu.waits] == ["Event.synchronize() 1 events behind"]


@simulation
def test_it_ends_with_the_context():
    with simulated_gpu():
        value = x()
        assert isinstance(value, SimulatedTensor)
        assert value.device == torch.device("cuda:0")
        assert value.is_cuda
        assert not value.is_cpu
    assert not torch.cuda.is_available()
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(3, device="cuda")


@simulation
def test_files_contain_cpu_tensors(tmp_path):
    with simulated_gpu():
        net = torch.nn.Linear(3, 2).cuda()
        torch.save(net.state_dict(), tmp_path / "weights.pt")
        bias = net.bias.detach().cpu()
    loaded = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert torch.equal(loaded["bias"], bias)
    assert type(loaded["bias"]) is torch.Tensor
