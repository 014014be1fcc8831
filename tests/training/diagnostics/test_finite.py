"""A loss or a gradient that is not finite ends the run at once, or the step is skipped."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from new_process import run_ranks
from paths import SCRIPTS
from simulated_gpu import simulated_gpu
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainers import quiet_trainer

import lossselect as ls
from lossselect.training.diagnostics.nonfinite import MAX_PENDING, MAX_SKIPPED


class Poisoned(nn.Module):
    """Multiplies its input, or the gradient, by a factor at some calls in training."""

    def __init__(self, factors=None, backward=None):
        super().__init__()
        self.calls, self.factors, self.backward = 0, factors or {}, backward or {}

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            self.calls += 1
            if self.calls in self.backward and x.requires_grad:
                x.register_hook(lambda gradient, by=self.backward[self.calls]: gradient * by)
        return x * self.factors.get(self.calls, 1.0)


def rows(count=64):
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, inputs[:, :3].argmax(1))


def fit(tmp_path, poison, on_nonfinite="stop", extra=(), data=None, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), poison, nn.Linear(8, 3))
    module = ls.TaskModule(
        ls.Multiclass(3), net, on_nonfinite=on_nonfinite, optimizer={"name": "SGD", "lr": 0.1}
    )
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = quiet_trainer(callbacks=[keep, *extra], **{"max_epochs": 2, **options})
    loader = DataLoader(data or rows(), 8)
    return module, trainer, lambda: trainer.fit(module, loader, DataLoader(rows(), 8))


def finite_checkpoints(tmp_path):
    steps = []
    for path in tmp_path.glob("*.ckpt"):
        content = torch.load(path)
        steps.append(content["global_step"])
        assert all(bool(v.isfinite().all()) for v in content["state_dict"].values() if v.is_floating_point())
    return sorted(steps)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_loss_ends_the_run(value, steps, tmp_path):
    extra = [ls.StepsPerExecution(steps)] if steps > 1 else []
    module, trainer, run = fit(tmp_path, Poisoned({5: value}), extra=extra)
    message = r"not finite in step 5 \(epoch 0, batch 4\)\. First non-finite output: net.2 \(Poisoned\)\."
    if value == torch.inf:
        message = r"not finite in step 5 \(epoch 0, batch 4\)\. "
    with pytest.raises(ValueError, match=message):
        run()
    assert trainer.global_step == 4  # the step was not taken
    assert all(bool(weight.isfinite().all()) for weight in module.parameters())
    assert finite_checkpoints(tmp_path) == [1, 2, 3, 4]


def test_a_gradient_ends_the_run(tmp_path):
    module, _, run = fit(tmp_path, Poisoned(backward={5: torch.nan}))
    with pytest.raises(ValueError, match=r"step 5 .*First non-finite gradient in backward: net.1.bias\."):
        run()
    assert all(bool(weight.isfinite().all()) for weight in module.parameters())
    assert finite_checkpoints(tmp_path) == [1, 2, 3, 4]


def test_accumulated_batches(tmp_path):
    _, trainer, run = fit(tmp_path, Poisoned({2: torch.nan}), accumulate_grad_batches=4)
    with pytest.raises(ValueError, match=r"not finite in step 1 "):
        run()
    assert trainer.global_step == 0


def test_inputs(tmp_path):
    data = rows()
    data.tensors[0][19] = torch.nan
    _, _, run = fit(tmp_path, nn.Identity(), data=data)
    with pytest.raises(
        ValueError, match=r"step 3 \(epoch 0, batch 2\)\. The inputs of row 3 of the batch are not finite"
    ):
        run()


def test_skipped(tmp_path):
    whole, _, run = fit(tmp_path / "whole", nn.Identity(), max_epochs=1)
    run()
    module, trainer, run = fit(
        tmp_path / "skipped", Poisoned({5: torch.nan, 7: torch.inf}), "skip", max_epochs=2
    )
    with pytest.warns(UserWarning, match=r"not finite in step 5 .*is skipped.*skipped_step"):
        run()
    assert module._finite_check.skipped == 2
    assert trainer.global_step == 16
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert trainer.callback_metrics["val/loss"].isfinite()  # the running means as well
    for value in module.state_dict().values():
        assert bool(value.isfinite().all())
    # the other steps were taken
    assert not torch.equal(module.net[0].weight, whole.net[0].weight)


def test_skipped_accumulated_batches(tmp_path):
    """Running means are restored to those before the accumulated batches."""
    module, _, run = fit(tmp_path, Poisoned({3: torch.nan}), "skip", max_epochs=1, accumulate_grad_batches=4)
    module.net.append(nn.BatchNorm1d(3))  # its running means depend on the poisoned outputs
    with pytest.warns(UserWarning, match="The step is skipped"):
        run()
    assert module._finite_check.skipped == 1
    for name, value in module.state_dict().items():
        assert bool(value.isfinite().all()), name
    assert module.net[4].num_batches_tracked == 4


def test_overflow_of_a_sum_is_not_an_overflow_of_gradients(tmp_path):
    module, trainer, run = fit(tmp_path, Poisoned(backward=dict.fromkeys(range(99), 1e38)), max_epochs=1)
    module.lr = 0.0
    run()
    assert trainer.global_step == 8


def test_a_skipped_step_changes_nothing(tmp_path):
    module, _, run = fit(
        tmp_path / "a", Poisoned({3: torch.nan}), "skip", max_epochs=1, limit_train_batches=3
    )
    with pytest.warns(UserWarning, match="The step is skipped"):
        run()
    two, _, run = fit(tmp_path / "b", nn.Identity(), max_epochs=1, limit_train_batches=2)
    run()
    for key, value in two.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(value, module.state_dict()[key]), key


def test_too_many_skipped_steps_end_the_run(tmp_path):
    factors = dict.fromkeys(range(3, 99), torch.nan)
    module, _, run = fit(tmp_path, Poisoned(factors), "skip", max_epochs=9)
    with (
        pytest.raises(
            ValueError, match=rf"in step {3 + MAX_SKIPPED} .*as in the {MAX_SKIPPED} steps before it"
        ),
        pytest.warns(UserWarning, match="The step is skipped"),
    ):
        run()
    assert module._finite_check.skipped == MAX_SKIPPED


@pytest.mark.filterwarnings("ignore:.*autocast", "ignore:Detected call of")
def test_a_scaler_that_skips_every_step(tmp_path):
    """float16 with a scaler, as on a GPU, but on a CPU."""
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    _, _, run = fit(
        tmp_path, Poisoned(backward=dict.fromkeys(range(999), torch.inf)), plugins=[precision], max_epochs=9
    )
    with pytest.raises(
        ValueError,
        match=r"float16 overflows: 20 .* up to step \d+ .* dropped to 0.0625\. Set precision=bf16",
    ):
        run()


@pytest.mark.filterwarnings("ignore:.*autocast", "ignore:Detected call of")
@pytest.mark.parametrize("poisoned", [[], range(0, 99, 2)], ids=["a small scale", "every other step"])
def test_a_small_scale_does_not_end_the_run(poisoned, tmp_path):
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=0.05))
    poison = Poisoned(backward=dict.fromkeys(poisoned, torch.inf))
    _, trainer, run = fit(tmp_path, poison, plugins=[precision])
    run()
    assert trainer.global_step == 16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU: tests/training/test_gpu.py")
class TestOnAGPU:
    """Simulated: the host does not wait for results, which may arrive some steps later."""

    ON_GPU = {"accelerator": "gpu", "devices": 1}  # noqa: RUF012

    @pytest.mark.parametrize("behind", [0, 3, 99])
    def test_a_late_result(self, behind, tmp_path):
        with simulated_gpu() as gpu:
            gpu.events_behind = behind
            _, trainer, run = fit(tmp_path, Poisoned(backward={5: torch.nan}), **self.ON_GPU)
            with pytest.raises(ValueError, match=r"not finite in step 5 \(epoch 0, batch 4\)\. "):
                run()
        assert finite_checkpoints(tmp_path) == [1, 2, 3, 4]
        assert trainer.global_step <= 5  # a checkpoint of step 5 would have waited for its result

    def test_it_ends_a_run_without_checkpoints_some_steps_later(self, tmp_path):
        with simulated_gpu() as gpu:
            gpu.events_behind = 99
            module, trainer = self.without_checkpoints(tmp_path, Poisoned(backward={3: torch.nan}))
            with pytest.raises(ValueError, match=r"not finite in step 3 \(epoch 0, batch 2\)\. The weights"):
                trainer.fit(module, DataLoader(rows(256), 8))
        assert trainer.global_step == 2 + MAX_PENDING

    def test_a_gpu_that_is_behind_keeps_its_queue(self, tmp_path):
        """The host waits only for the oldest result, and only if `MAX_PENDING` later ones are pending."""
        with simulated_gpu() as gpu:
            gpu.events_behind = 99
            module, trainer = self.without_checkpoints(tmp_path, nn.Identity(), max_epochs=1)
            trainer.fit(module, DataLoader(rows(256), 8))
            waits = [wait.operation for wait in gpu.waits if "Event" in wait.operation]
        assert waits == [f"Event.synchronize() {MAX_PENDING} events behind"] * (32 - MAX_PENDING)

    def without_checkpoints(self, tmp_path, poison, **options):
        module, trainer, _ = fit(tmp_path, poison, **options, **self.ON_GPU)
        trainer.callbacks[:] = [part for part in trainer.callbacks if not isinstance(part, ModelCheckpoint)]
        return module, trainer

    def test_gradients_whose_squares_overflow(self, tmp_path):
        poison = Poisoned(backward=dict.fromkeys(range(99), 1e25))
        with simulated_gpu():
            module, trainer, run = fit(tmp_path, poison, max_epochs=1, **self.ON_GPU)
            module.lr = 0.0
            run()
        assert trainer.global_step == 8

    def test_a_scaler_that_skips_every_step(self, tmp_path):
        poison = Poisoned(backward=dict.fromkeys(range(999), torch.inf))
        with simulated_gpu() as gpu:
            gpu.events_behind = 99
            _, _, run = fit(tmp_path, poison, max_epochs=9, precision="16-mixed", **self.ON_GPU)
            with pytest.raises(ValueError, match=r"successive steps up to step"):
                run()


def test_sharded_gradients(tmp_path):
    """With FSDP2, each process has a part of each gradient; NaN in one part ends all processes."""
    ends = (("finite", "taken"), ("zero", "taken"), ("gradient", "ended"), ("loss", "ended"))
    expected = "".join(f"{case}: {end}\n" for case, end in ends)
    assert run_ranks([SCRIPTS / "sharded.py"], 2, tmp_path) == [expected, expected]


def test_unknown_choice():
    with pytest.raises(ValueError, match="on_nonfinite='stopp' is not valid"):
        ls.TaskModule(ls.Binary(), nn.Linear(2, 1), on_nonfinite="stopp")
