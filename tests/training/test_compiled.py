"""Compiled steps: no graph break, the same numbers, and training without compilation if it fails."""

import pickle

import lightning.pytorch as L
import pytest
import torch
from torch import nn

import lossselect as ls
from lossselect.data.batches import TensorBatches
from lossselect.training.step import forward_and_loss

TASKS = {
    "binary": ls.Binary(),
    "multiclass": ls.Multiclass(3),
    "multilabel": ls.Multilabel(4),
    "ordinal": ls.Multiclass(4, ordinal=True),
}


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    torch.compiler.reset()  # torch stops compiling a function after eight recompilations


def module_of(task, **options):
    torch.manual_seed(0)
    return ls.TaskModule(
        task, nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, task.num_outputs)), **options
    )


def arrays(task, rows=150):
    inputs = torch.randn(rows, 7)
    return inputs, task.encode(task.predict(inputs[:, : task.num_outputs]))


def fit(module, tmp_path, **options):
    data = TensorBatches(*arrays(module.task))
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **options,
    )
    trainer.fit(module, data.loader(32), data.loader(32))
    return trainer.callback_metrics


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_step_has_no_graph_break(task):
    module, (inputs, target) = module_of(task), arrays(task, 20)
    target = target.masked_fill(
        torch.rand(target.shape) < 0.3, torch.nan if target.is_floating_point() else -100
    )
    explained = torch._dynamo.explain(forward_and_loss)(module, (inputs,), {}, target, torch.rand(20))
    assert explained.graph_break_count == 0, explained.break_reasons
    assert explained.graph_count == 1


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_training_is_the_same(task, tmp_path):
    calls = []

    def counting(graph, inputs):
        def run(*arguments):
            calls.append(len(arguments))
            return graph(*arguments)

        return run

    plain, compiled = module_of(task), module_of(task)
    compiled.compile(backend=counting)
    torch.manual_seed(1)
    want = fit(plain, tmp_path)
    torch.manual_seed(1)
    got = fit(compiled, tmp_path)
    for p, q in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value)
    # all 2 x (5 + 5) steps except the first training step
    assert len(calls) == 19


def test_training_continues_without_a_compiler_that_fails(tmp_path):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here\nin many lines\nand more")

    module, plain = module_of(TASKS["binary"]), module_of(TASKS["binary"])
    module.compile(backend=broken)
    torch.manual_seed(1)
    with pytest.warns(
        ls.LossSelectWarning, match="continues without it: .*no compiler here[.] torch"
    ) as seen:
        fit(module, tmp_path)
    assert sum(isinstance(warning.message, ls.LossSelectWarning) for warning in seen) == 1
    torch.manual_seed(1)
    fit(plain, tmp_path)
    for p, q in zip(plain.parameters(), module.parameters(), strict=True):
        assert torch.equal(p, q)


def test_an_error_in_forward_is_raised_as_it_is(tmp_path):
    class Odd(ls.TaskModule):
        def forward(self, x):
            if self.trainer.global_step:
                raise KeyError("raised by the user's forward")
            return self.net(x)

    torch.manual_seed(0)
    module = Odd(ls.Binary(), nn.Linear(7, 1))
    module.compile(backend="eager")
    with pytest.raises(KeyError, match="raised by the user's forward"):
        fit(module, tmp_path)


def test_the_first_batch_is_checked(tmp_path):
    class EndsInSigmoid(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(7, 1)

        def forward(self, x):
            return self.linear(x).sigmoid()

    module = ls.TaskModule(ls.Binary(), EndsInSigmoid())
    module.compile(backend="eager")
    with pytest.raises(ValueError, match="The net ends in Sigmoid"):
        fit(module, tmp_path)


def test_at_the_command_line(command, monkeypatch):
    received = []
    monkeypatch.setattr(torch, "compile", lambda step, **options: received.append(options) or step)
    assert command("task=binary", "trainer.max_epochs=1", "trainer.compile=true")[0] == 0
    assert (
        command("task=binary", "trainer.max_epochs=1", "trainer.compile=reduce-overhead", "hydra.run.dir=b")[
            0
        ]
        == 0
    )
    assert received == [{}, {"mode": "reduce-overhead"}]
    for value in ("fast", "1", "null"):
        code, _, err = command("task=binary", f"trainer.compile={value}")
        assert code == 1
        assert "trainer.compile must be true, false, default, reduce-overhead," in err


def test_a_compiled_module_can_be_pickled_and_compiles_again(tmp_path):
    module = module_of(TASKS["multiclass"])
    module.compile(backend="eager")
    copy = pickle.loads(pickle.dumps(module))
    assert copy._compiled_step is not module._compiled_step
    assert copy._compiled_step.options == {"backend": "eager"}
    fit(copy, tmp_path)
    assert copy._compiled_step.compiled is not None
