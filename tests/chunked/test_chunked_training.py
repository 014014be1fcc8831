from pathlib import Path

import lightning.pytorch as L
import numpy as np
import polars as pl
import pytest
import torch
from chunked_cases import ROWS, TASKS, WIDTH, C, target_of
from torch import nn

import lossselect as ls
from lossselect.chunked.linear import ChunkedLinear, ChunkedLogits
from lossselect.chunked.options import top_metric_names
from lossselect.data.batches import TensorBatches
from lossselect.labels.sparse_labels import SparseLabels
from lossselect.run.settings import resolve_head


def fit(task, head, tmp_path, steps=1, lists=False, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, task.num_outputs))
    module = ls.TaskModule(task, net, optimizer={"name": "Adam", "lr": 0.01}, head=head, **options)
    inputs = torch.randn(300, WIDTH)
    target = task.encode(task.predict(torch.randn(300, task.num_outputs) - 1.5))
    if lists:
        labels = target.nonzero(as_tuple=True)[1]
        offsets = np.concatenate([[0], target.sum(1).long().cumsum(0).numpy()])
        target = SparseLabels.from_csr(labels, offsets, C)
    data = TensorBatches(inputs, target)
    data.dense = False
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[ls.StepsPerExecution(steps)],
        enable_checkpointing=False,
    )
    trainer.fit(module, data.loader(32, shuffle=True), data.loader(50))
    return module, trainer, data


class TestTraining:
    @pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
    def test_equals_the_dense_head(self, task, tmp_path):
        dense, trainer, data = fit(task, None, tmp_path)
        expected = trainer.callback_metrics
        for head, steps in (("chunked", 1), ({"name": "chunked", "chunk": 5}, 8)):
            module, trainer, _ = fit(task, head, tmp_path, steps)
            for p, q in zip(dense.parameters(), module.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
            got = trainer.callback_metrics
            names = {f"val/{name}" for name in ("loss", *top_metric_names(task, C, counted=False))}
            assert {name for name in got if name.startswith("val/")} == names
            for name in {*names, "train/loss"} & set(expected):
                assert got[name].item() == pytest.approx(expected[name].item(), rel=1e-4)
            (tested,) = trainer.test(module, data.loader(50), verbose=False)
            assert tested["test/loss"] == pytest.approx(got["val/loss"].item())
            batches = trainer.predict(module, data.loader(50))
            p = dense.task.probabilities(dense(data.inputs)).topk(5, 1)
            assert torch.equal(torch.cat([batch["top"] for batch in batches]), p.indices)
            torch.testing.assert_close(
                torch.cat([batch["probabilities"] for batch in batches]), p.values, rtol=1e-3, atol=1e-4
            )

    def test_lists_stay_lists(self, tmp_path):
        one, other = (fit(TASKS["multilabel"], "chunked", tmp_path, 4, lists)[0] for lists in (False, True))
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q)

    def test_no_matrix_is_created(self, tmp_path, monkeypatch):
        def fail(*_):
            raise AssertionError("a matrix (N, C)")

        monkeypatch.setattr(ChunkedLogits, "dense", fail)
        block = SparseLabels.to_dense
        monkeypatch.setattr(SparseLabels, "to_dense", lambda *args: block(*args) if args[1:] else fail())
        fit(TASKS["multilabel"], "chunked", tmp_path, lists=True)

    def test_values_from_the_training_labels(self, tmp_path):
        settings = {"loss": {"name": "cross_entropy", "pos_weight": "auto"}, "bias_init": "prior"}
        dense, _, _ = fit(TASKS["multilabel"], None, tmp_path, **settings)
        module, trainer, data = fit(TASKS["multilabel"], "chunked", tmp_path, **settings)
        for p, q in zip(dense.parameters(), module.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        expected = trainer.callback_metrics["val/psp_at_5"].item()
        path = tmp_path / "counted.ckpt"
        trainer.save_checkpoint(path)
        net = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, C))
        again = ls.TaskModule.load_from_checkpoint(path, net=net)
        (values,) = trainer.validate(again, data.loader(50), verbose=False)
        assert values["val/psp_at_5"] == pytest.approx(expected)

    def test_a_subclass_that_builds_its_net_later(self, tmp_path):
        class Own(ls.TaskModule):
            def __init__(self, task, **options):
                super().__init__(task, **options)
                self.body, self.last = nn.Linear(WIDTH, 16), nn.Linear(16, task.num_outputs)

            def forward(self, x):
                return self.last(self.body(x).relu())

        module = Own(TASKS["multiclass"], head="chunked")
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        data = TensorBatches(torch.randn(40, WIDTH), torch.randint(0, C, (40,)))
        trainer.fit(module, data.loader(8), data.loader(8))
        assert isinstance(module.last, ChunkedLinear)
        assert "val/accuracy_at_1" in trainer.callback_metrics
        path = tmp_path / "own.ckpt"
        trainer.save_checkpoint(path)
        again = Own.load_from_checkpoint(path)
        torch.testing.assert_close(again.last.weight, module.last.weight)
        dense = Own.load_from_checkpoint(path, head=None)
        assert type(dense.last) is nn.Linear
        expected = trainer.predict(module, data.loader(40))[0]["top"]
        assert torch.equal(dense(data.inputs).topk(5, 1).indices, expected)

    def test_settings_that_contradict_it(self):
        task = TASKS["multilabel"]
        with pytest.raises(ValueError, match="Loss 'dice' requires all logits"):
            ls.TaskModule(task, nn.Linear(8, C), "dice", head="chunked")
        with pytest.raises(ValueError, match="head=chunked does not support mix"):
            ls.TaskModule(task, nn.Linear(8, C), mix="mixup", head="chunked")
        with pytest.raises(ValueError, match="head=chunked does not support torch"):
            ls.TaskModule(task, nn.Sequential(nn.Linear(8, C)), head="chunked").compile()
        with pytest.raises(ValueError, match=r"Unknown head 'chunkd'\. Did you mean 'chunked'"):
            ls.TaskModule(task, nn.Linear(8, C), head="chunkd")
        with pytest.raises(ValueError, match="Head 'dense' has no option 'chunk'"):
            ls.TaskModule(task, nn.Linear(8, C), head={"name": "dense", "chunk": 3})
        with pytest.raises(
            ValueError,
            match=r"requires the last layer to be a plain torch\.nn\.Linear .* but net\.1 is a Conv1d",
        ):
            ls.TaskModule(task, nn.Sequential(nn.Linear(8, 8), nn.Conv1d(8, C, 1)), head="chunked")

    def short(self, tmp_path, module, target=None):
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            enable_checkpointing=False,
        )
        inputs = torch.randn(40, WIDTH)
        target = torch.randint(0, C, (40,)) if target is None else target
        data = TensorBatches(inputs, target)
        with ls.ignore_warnings("class_without_rows", "no_positives"):
            trainer.fit(module, data.loader(8), data.loader(8))
        return trainer

    def test_a_subclass_may_call_its_layer_head(self, tmp_path):
        class Own(ls.TaskModule):
            def __init__(self, task, **options):
                super().__init__(task, **options)
                self.head = nn.Linear(WIDTH, task.num_outputs)

            def forward(self, x):
                return self.head(x)

        assert "val/auroc" in self.short(tmp_path, Own(TASKS["multiclass"])).callback_metrics
        assert (
            "val/ndcg_at_3" in self.short(tmp_path, Own(TASKS["multiclass"], head="chunked")).callback_metrics
        )

    def test_a_head_of_two_names(self, tmp_path):
        class Own(ls.TaskModule):
            def __init__(self, task):
                super().__init__(task, head="chunked")
                self.last = nn.Linear(16, task.num_outputs)
                self.net = nn.Sequential(nn.Linear(WIDTH, 16), self.last)

        module = Own(TASKS["multiclass"])
        assert "val/ndcg_at_3" in self.short(tmp_path, module).callback_metrics
        assert module.last is module.net[1]

    def test_a_head_that_is_not_a_layer(self, tmp_path):
        class Own(ls.TaskModule):
            def __init__(self, task):
                super().__init__(task, head="chunked")
                self.w = nn.Parameter(torch.randn(WIDTH, task.num_outputs))

            def forward(self, x):
                return x @ self.w

        with pytest.raises(ValueError, match="head=chunked had no effect: forward returned a tensor"):
            self.short(tmp_path, Own(TASKS["multiclass"]))

        class Unused(Own):
            def __init__(self, task):
                super().__init__(task)
                self.unused = nn.Linear(8, task.num_outputs)

        with pytest.raises(ValueError, match="head=chunked had no effect: forward returned a tensor"):
            self.short(tmp_path, Unused(TASKS["multiclass"]))

    def test_logits_without_a_gradient(self, tmp_path):
        class Own(ls.TaskModule):
            def forward(self, x):
                with torch.no_grad():
                    return self.net(x)

        net = nn.Sequential(nn.Linear(WIDTH, 16), nn.Linear(16, C))
        with pytest.raises(ValueError, match="have no gradient, so nothing but the head would be trained"):
            self.short(tmp_path, Own(TASKS["multiclass"], net, head="chunked"))

    def test_inputs_that_are_not_finite(self, tmp_path):
        net = nn.Sequential(nn.Linear(WIDTH, 16), nn.Linear(16, C))
        with torch.no_grad():
            net[0].bias[0] = torch.nan
        with pytest.raises(ValueError, match="Row 0 of the first batch's inputs of the head is not finite"):
            self.short(tmp_path, ls.TaskModule(TASKS["multiclass"], net, head="chunked"))

    def test_a_layer_with_hooks_raises(self):
        net = nn.Sequential(nn.Linear(WIDTH, 16), nn.Linear(16, C))
        net[1].register_forward_hook(lambda module, inputs, outputs: outputs * 3)
        with pytest.raises(ValueError, match=r"net.1 is a Linear with hooks"):
            ls.TaskModule(TASKS["multiclass"], net, head="chunked")

    def test_a_net_that_has_a_chunked_layer_is_chunked(self):
        net = nn.Sequential(nn.Linear(WIDTH, 16), ChunkedLinear(16, C, chunk=5))
        module = ls.TaskModule(TASKS["multiclass"], net)
        assert module._chunked
        assert ls.TaskModule(TASKS["multiclass"], net, head={"name": "chunked", "chunk": 3}).net[1].chunk == 3
        with pytest.raises(ValueError, match="Loss 'focal' requires all logits"):
            ls.TaskModule(TASKS["multiclass"], net, "focal")
        with pytest.raises(ValueError, match="does not support temperature"):
            module.task = ls.Multiclass(C, temperature=3.0)
        with pytest.raises(ValueError, match="tune_decision does not support head=chunked"):
            ls.tune_decision(L.Trainer(logger=False, enable_checkpointing=False), module)

    def test_the_monitor_of_a_plateau_schedule(self, tmp_path):
        _, trainer, _ = fit(TASKS["multilabel"], "chunked", tmp_path, scheduler="ReduceLROnPlateau")
        assert trainer.lr_scheduler_configs[0].monitor == "val/precision_at_1"

    def test_a_dense_head_accepts_sparse_labels(self):
        module = ls.TaskModule(TASKS["multilabel"], nn.Linear(WIDTH, C))
        inputs, target = torch.randn(ROWS, WIDTH), target_of(TASKS["multilabel"], True).float()
        torch.testing.assert_close(
            module.check_batch((inputs, SparseLabels.from_dense(target))),
            module.check_batch((inputs, target)),
        )

    def test_a_head_of_another_width(self, tmp_path):
        class Own(ls.TaskModule):
            def __init__(self, task):
                super().__init__(task)
                self.last = ChunkedLinear(WIDTH, C + 1)

            def forward(self, x):
                return self.last(x)

        message = r"shape \(N, 23\) for multiclass with 23 classes, got \(2, 24\)"
        with pytest.raises(ValueError, match=message):
            Own(TASKS["multiclass"]).check_batch((torch.zeros(2, WIDTH), torch.tensor([0, 1])))


class TestCommand:
    @pytest.fixture
    def files(self, tmp_path):
        generator = np.random.default_rng(0)
        inputs = generator.standard_normal((400, 6)).astype(np.float32)
        rows, labels = np.nonzero(inputs @ generator.standard_normal((6, C)) > 2.5)
        offsets = np.concatenate([[0], np.bincount(rows, minlength=400).cumsum()])
        np.save(tmp_path / "X.npy", inputs)
        np.savez(tmp_path / "Y.npz", indices=labels, offsets=offsets, num_labels=C)
        np.save(tmp_path / "y.npy", (inputs @ generator.standard_normal((6, C))).argmax(1))

    ARRAYS = (
        "data=arrays",
        "data.path=X.npy",
        "trainer.max_epochs=3",
        "ignore_warnings=[class_without_rows,rare_class,constant_label,no_positives]",
    )

    @pytest.mark.parametrize(("task", "target"), [("multilabel", "Y.npz"), ("multiclass", "y.npy")])
    def test_a_run(self, task, target, files, command, monkeypatch):
        settings = (f"task={task}", f"data.target={target}", *self.ARRAYS, "hydra.run.dir=run")
        code, out, message = command(*settings, "head=chunked", "head.chunk=7")
        assert code == 0, message
        assert "in chunks of 7 (head=chunked)" in " ".join(out.split())
        table = pl.read_csv("run/predictions.csv")
        assert table.columns[:5] == ["row", "target", "prediction", "top_1", "p_1"]
        assert len(table) == 80
        from lossselect.cli.predict import predict_file

        predict_file("run/checkpoints/best.ckpt", "X.npy", "again.csv")
        again = pl.read_csv("again.csv")
        rows = table["row"].to_list()
        assert again[rows]["top_1"].to_list() == table["top_1"].to_list()
        np.testing.assert_allclose(again[rows]["p_3"], table["p_3"], rtol=1e-5)

    def test_auto(self, files, command, monkeypatch):
        settings = ("task=multilabel", "data.target=Y.npz", *self.ARRAYS, "check_only=true")
        assert "head=chunked" not in command(*settings)[1]
        monkeypatch.setattr("lossselect.run.settings.MIN_OUTPUTS_CHUNKED", C)
        assert "(head=chunked)" in " ".join(command(*settings)[1].split())
        assert "(head=chunked)" not in " ".join(command(*settings, "head=dense")[1].split())
        code, out, _ = command(*settings, "~head")
        assert code == 0
        assert "(head=chunked)" not in " ".join(out.split())
        assert "(head=chunked)" not in " ".join(command(*settings, "loss=zlpr")[1].split())
        assert "(head=chunked)" not in " ".join(command(*settings, "decision.metric=f1_macro")[1].split())
        assert "(head=chunked)" not in " ".join(
            command(*settings, "monitor=val/average_precision")[1].split()
        )
        assert "(head=chunked)" not in " ".join(command(*settings, "trainer.compile=true")[1].split())
        assert "(head=chunked)" in " ".join(command(*settings, "monitor=val/ndcg_at_3")[1].split())

    def test_auto_by_the_memory(self, monkeypatch):
        config = {
            "head": {"name": "auto"},
            "monitor": None,
            "model": {},
            "trainer": {},
            "data": {"batch_size": 64},
            "loss": {"name": "cross_entropy"},
        }
        monkeypatch.setattr("lossselect.utils.devices.total_memory", lambda: 4 * 16 * 64 * 1000)
        monkeypatch.setattr("lossselect.run.settings.MAX_BYTES_UNCHECKED", 0)
        assert resolve_head(config, ls.Multilabel(1000))["name"] == "dense"
        assert resolve_head(config, ls.Multilabel(1001))["name"] == "chunked"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["head=chunked", "head.chunk=0"], "head.chunk must be"),
            (["head=chunked", "head.chunk=x"], "got 'x'"),
            (["head=dense", "+head.chunk=3"], "Head 'dense' has no option 'chunk'"),
            (["head=chunked", "loss=dice"], "Loss 'dice' requires all logits of a row at once"),
            (["head=chunked", "mix=mixup"], "head=chunked does not support mix"),
            (
                ["head=chunked", "trainer.compile=true"],
                "head=chunked does not support trainer.compile",
            ),
            (["head=chunked", "decision.calibration=none"], "decision.calibration=none requires all outputs"),
            (
                ["head=chunked", "monitor=val/average_precision"],
                "Unknown metric 'val/average_precision'",
            ),
            (["monitor=val/ndcg_at_5"], "Unknown metric 'val/ndcg_at_5' of monitor"),
            (["head=chunked", "task.top_k=2"], "top_k requires all outputs"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_mistakes(self, arguments, message, files, command, tmp_path):
        before = sorted(tmp_path.iterdir())
        settings = ("task=multilabel", "data.target=Y.npz", *self.ARRAYS)
        code, _, err = command(*settings, *arguments)
        assert code == 1
        assert message in err
        assert sorted(tmp_path.iterdir()) == before

    def test_monitors(self, files, command):
        settings = ("task=multilabel", "data.target=Y.npz", *self.ARRAYS, "head=chunked", "scheduler=none")
        code, _, message = command(*settings, "hydra.run.dir=run")
        assert code == 0, message
        assert "best val/precision_at_1 (max)" in Path("run/plan.json").read_text()
        assert command(*settings, "hydra.run.dir=other", "monitor=val/psp_at_3")[0] == 0
