"""Exported models compute the same as their module, and contain metadata that explain them."""

import copy
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn
from train_cases import train_in

import lossselect as ls
from lossselect.cli import main as cli
from lossselect.cli.predict import predict_file
from lossselect.data.loading import load_checked
from lossselect.export import digest, formats
from lossselect.export import write as export
from lossselect.export.read import load_exported
from lossselect.export.write import export_model

SUFFIXES = tuple(form.suffix for form in formats.FORMATS.values())
NAMES = ("a/b", "<b>", "=1", "\N{GRINNING FACE}")
TASKS = [
    ls.Binary(class_names=("no", "yes"), threshold=0.3, temperature=1.7),
    ls.Multiclass(4, class_names=NAMES, temperature=0.5),
    ls.Multiclass(4, prior_correction=(1, 2, 0.5, 1)),
    ls.Multiclass(4, ordinal=True),
    ls.Multilabel(4, class_names=NAMES, threshold=(0.2, 0.4, 0.6, 0.8), temperature=(1, 2, 3, 0.5)),
    ls.Multilabel(4, min_labels=1, threshold=0.9),
    ls.Multilabel(4, top_k=2),
]


def module_of(task, **options):
    net = {"name": "mlp", "num_features": 5, "hidden": [8], "clip": 3.0, "dropout": 0.5}
    return ls.TaskModule(task, net, **options)


class TestExportModel:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("task", TASKS, ids=str)
    def test_computes_the_same(self, task, suffix, tmp_path):
        module = module_of(task)
        found = export_model(module, tmp_path / f"model{suffix}")
        assert found["predictions"] == 0
        assert max(found["logits"], found["probabilities"]) <= 1e-5
        assert [path.name for path in tmp_path.iterdir()] == [f"model{suffix}"]
        served = load_exported(tmp_path / f"model{suffix}", trust=True)
        assert served.task == task
        assert module.training
        module.eval()
        for rows in (1, 2, 7):
            features = 3 * torch.randn(rows, 5)
            with torch.inference_mode():
                logits = module(features)
            outputs = served(features)
            torch.testing.assert_close(outputs.logits, logits, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(outputs.probabilities, task.probabilities(logits), rtol=0, atol=1e-5)
            assert torch.equal(outputs.predictions, task.predict(logits))

    @pytest.mark.parametrize("task", [ls.Binary(), ls.Multilabel(4), ls.Multiclass(4, ordinal=True)], ids=str)
    def test_extreme_logits_of_several_nets(self, task, tmp_path):
        class Mean(nn.Module):
            def forward(self, features):
                return task.mean_logits(torch.stack([features, 0.9 * features], 1))

        inputs = 40 * torch.linspace(-1, 1, 101)[:, None] * torch.linspace(1, 0.3, task.num_outputs)
        module = ls.TaskModule(task, Mean())
        assert export_model(module, tmp_path / "m.onnx", inputs=inputs)["logits"] < 1e-6

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_log_sigmoid_in_a_net(self, dtype, tmp_path):
        module = ls.TaskModule(ls.Multilabel(4), nn.LogSigmoid())
        inputs = torch.linspace(-1e4, 40, 404, dtype=dtype).reshape(101, 4)
        assert export_model(module, tmp_path / "m.onnx", inputs=inputs)["logits"] < 1e-6

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_metadata(self, suffix, tmp_path):
        task = TASKS[4]
        prepared = {"mean": torch.tensor([0.1, 2.0]), "std": torch.tensor([1.0, 3.0])}
        export_model(module_of(task), tmp_path / f"m{suffix}", preparation=prepared)
        facts = load_exported(tmp_path / f"m{suffix}", trust=True).metadata
        assert facts["class_names"] == list(NAMES)
        assert facts["threshold"] == [0.2, 0.4, 0.6, 0.8]
        assert facts["temperature"] == [1, 2, 3, 0.5]
        assert facts["activation"] == "sigmoid"
        assert facts["features"] == ["rows", 5]
        assert torch.equal(torch.tensor(facts["preparation"]["mean"]), prepared["mean"])

    def test_onnx_metadata_are_readable_without_lossselect(self, tmp_path):
        onnx = pytest.importorskip("onnx")
        export_model(module_of(TASKS[1]), tmp_path / "m.onnx")
        model = onnx.load(tmp_path / "m.onnx")
        onnx.checker.check_model(model)
        assert [value.name for value in model.graph.input] == ["features"]
        assert [value.name for value in model.graph.output] == ["logits", "probabilities", "predictions"]
        facts = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(facts["class_names"]) == list(NAMES)
        assert facts["task"] == "multiclass"

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_chunked_head_is_exported_as_dense(self, suffix, tmp_path):
        module = module_of(ls.Multiclass(50), head="chunked")
        export_model(module, tmp_path / f"m{suffix}")
        features = torch.randn(3, 5)
        served = load_exported(tmp_path / f"m{suffix}", trust=True)
        assert served(features).logits.shape == (3, 50)
        assert module._chunked
        values, columns = module.eval()(features).topk(5)
        torch.testing.assert_close(served(features).logits.gather(1, columns), values, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
    def test_a_subclass_with_trailing_dimensions(self, suffix, tmp_path):
        class Pixels(ls.TaskModule):
            def __init__(self, task):
                super().__init__(task=task)
                self.layer = nn.Conv2d(3, task.num_outputs, 3, padding=1)

            def forward(self, images):
                return self.layer(images / 2)

        module = Pixels(ls.Multiclass(4))
        images = torch.randn(6, 3, 8, 8)
        found = export_model(module, tmp_path / f"m{suffix}", inputs=images)
        assert found["rows"] == 6
        outputs = load_exported(tmp_path / f"m{suffix}", trust=True)(images[:1])
        assert outputs.predictions.shape == (1, 8, 8)
        torch.testing.assert_close(outputs.logits, module(images[:1]), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
    def test_float64_is_kept(self, suffix, tmp_path):
        class Since(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("origin", torch.tensor([1.7e9 + 37], dtype=torch.float64))

            def forward(self, features):
                seconds = features[:, :1].double() * 1e9 + features[:, 1:].double()
                return (seconds - self.origin).float()

        inputs = torch.tensor([[1.7, float(i)] for i in range(80)])
        module = ls.TaskModule(ls.Binary(), Since())
        export_model(module, tmp_path / f"m{suffix}", inputs=inputs)
        outputs = load_exported(tmp_path / f"m{suffix}", trust=True)(inputs)
        assert torch.equal(outputs.predictions, module.task.predict(module(inputs)))

    def test_half_precision_is_exported_as_float32(self, tmp_path):
        module = module_of(ls.Binary()).bfloat16()
        assert export_model(module, tmp_path / "m.onnx")["predictions"] == 0
        assert module.net[-1].weight.dtype == torch.bfloat16

    def test_does_not_change_the_module(self, tmp_path):
        module = module_of(TASKS[4]).double()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        export_model(module, tmp_path / "m.safetensors", inputs=torch.randn(5, 5).double())
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        assert module.training
        logits = torch.zeros(2, 4)  # tracing must not replace constants of the task with traced tensors
        assert module.task.predict(logits).tolist() == [[1, 1, 0, 0]] * 2


class Branching(nn.Module):
    def forward(self, features):
        return features[:, :1] if features.sum() > 0 else -features[:, :1]


class Drawing(nn.Module):
    def forward(self, features):
        return nn.functional.dropout(features, 0.5)[:, :1]


class Odd(nn.Module):
    def forward(self, features):
        return torch.special.bessel_j0(features)[:, :1]


class TestMistakes:
    @pytest.mark.parametrize(
        ("net", "name", "message"),
        [
            (Branching(), "m.onnx", r"cannot be traced for export: .*data-dependent"),
            (Branching(), "m.pt2", r"cannot be traced for export: .*data-dependent"),
            (
                Drawing(),
                "m.pt2",
                "does not compute the same as the net: .*whether the net draws random numbers",
            ),
            (Odd(), "m.onnx", "the operation .*bessel_j0 is not supported"),
            (Branching(), "m.safetensors", "only a built-in net such as mlp can be rebuilt. Set format=onnx"),
        ],
    )
    def test_nets_that_cannot_be_exported(self, net, name, message, tmp_path, capsys):
        module = ls.TaskModule(ls.Binary(), net)
        with pytest.raises(ValueError, match=message):
            export_model(module, tmp_path / name, inputs=torch.randn(300, 4))
        assert [*tmp_path.iterdir()] == []
        assert capsys.readouterr() == ("", "")

    def test_decisions_of_another_threshold(self, tmp_path, monkeypatch):
        write = export._write_torch_export
        other = ls.Binary(threshold=0.4)

        def write_other(model, *arguments):
            model = copy.deepcopy(model)
            model.task = other
            write(model, *arguments)

        monkeypatch.setattr(export, "_write_torch_export", write_other)
        with pytest.raises(ValueError, match=r"\d+ predictions of the exported model do not match its own"):
            export_model(module_of(ls.Binary()), tmp_path / "m.pt2", inputs=torch.randn(300, 5))
        assert [*tmp_path.iterdir()] == []

    def test_a_custom_forward_is_exported(self, tmp_path):
        class Doubled(ls.TaskModule):
            def forward(self, inputs):
                return 2 * self.net(inputs)

        module = Doubled(ls.Binary(), {"name": "linear", "num_features": 5})
        with pytest.raises(ValueError, match="only a built-in net such as mlp can be rebuilt"):
            export_model(module, tmp_path / "m.safetensors", inputs=torch.randn(4, 5))
        export_model(module, tmp_path / "m.pt2", inputs=torch.randn(4, 5))
        inputs = torch.randn(3, 5)
        outputs = load_exported(tmp_path / "m.pt2", trust=True)(inputs)
        torch.testing.assert_close(outputs.logits, 2 * module.net(inputs))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"path": "m.bin"}, "Expected a path with one of the suffixes .onnx, .pt2"),
            (
                {"path": "m.onnx", "inputs": torch.zeros(0, 5)},
                r"one tensor with at least one row, got shape \(0, 5\)",
            ),
            (
                {"path": "m.onnx", "inputs": {"x": torch.zeros(1, 5)}},
                "one tensor with at least one row, got dict",
            ),
        ],
    )
    def test_arguments(self, options, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=message.replace("?", r"\?")):
            export_model(module_of(ls.Binary()), **options)

    @pytest.mark.parametrize("module", ["m.onnx", nn.Linear(2, 1)])
    def test_not_a_module(self, module, tmp_path):
        with pytest.raises(TypeError, match=r"Expected a TaskModule to export, got (str|Linear)"):
            export_model(module, tmp_path / "m.onnx")

    def test_a_custom_net_requires_inputs(self, tmp_path):
        with pytest.raises(ValueError, match="Pass inputs="):
            export_model(ls.TaskModule(ls.Binary(), nn.Linear(3, 1)), tmp_path / "m.onnx")

    def test_a_net_that_treats_one_row_differently(self, tmp_path):
        class Counting(nn.Module):
            def forward(self, features):
                return features[:, :1] * (1 if features.shape[0] > 1 else 2)

        with pytest.raises(ValueError, match="or the number of inputs"):
            export_model(ls.TaskModule(ls.Binary(), Counting()), tmp_path / "m.pt2", inputs=torch.ones(8, 4))

    def test_nan_equals_nan(self, tmp_path):
        inputs = torch.randn(8, 5)
        inputs[3] = torch.nan
        found = export_model(module_of(ls.Binary()), tmp_path / "m.pt2", inputs=inputs)
        assert (found["logits"], found["probabilities"], found["rows"]) == (0, 0, 8)

    def test_logits_are_compared_by_the_largest_of_their_row(self, tmp_path):
        found = export._max_difference(
            torch.tensor([[1000.0, 1e-3]]), torch.tensor([[1000.0, 0.0]]), torch.tensor([1000.0])
        )
        assert found == pytest.approx(1e-6)
        one = torch.ones(1)
        assert export._max_difference(torch.tensor([[torch.nan]]), torch.tensor([[0.0]]), one) == torch.inf
        assert export._max_difference(torch.tensor([[torch.inf]]), torch.tensor([[torch.inf]]), one) == 0

    def test_a_single_row_of_inputs(self, tmp_path):
        module = module_of(ls.Binary())
        export_model(module, tmp_path / "m.pt2", inputs=torch.randn(1, 5))
        assert len(load_exported(tmp_path / "m.pt2", trust=True)(torch.randn(7, 5)).predictions) == 7

    def test_an_impossible_export_raises_before_the_run(self, command, tmp_path):
        own = ("~model", "+model._target_=torch.nn.Linear", "+model.in_features=30", "+model.out_features=1")
        code, _, err = command("task=binary", *own, "export=safetensors")
        assert code == 1
        assert "only a built-in net such as mlp can be rebuilt. Set format=onnx" in err
        assert not [*tmp_path.iterdir()]

    @pytest.mark.parametrize("name", ["onnx", "safetensors"])
    def test_a_missing_package(self, name, monkeypatch, command):
        monkeypatch.setattr("lossselect.utils.checks.find_spec", lambda _: None)
        code, _, err = command("task=binary", f"export={name}")
        assert code == 1
        assert f"format={name} requires" in err
        assert "pip install 'lossselect[export]'" in err

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("damage", ["empty", "cut", "foreign"])
    def test_files_that_are_damaged(self, suffix, damage, tmp_path):
        path = tmp_path / f"m{suffix}"
        export_model(module_of(ls.Binary()), path)
        content = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "cut": content[: len(content) // 2], "foreign": b"hello" * 99}[damage]
        )
        with pytest.raises(ValueError, match=r"m\.\w+ \(\d+ bytes\) cannot be read as a model"):
            load_exported(path, trust=True)

    def test_torch_prints_nothing_about_a_damaged_file(self, tmp_path):
        (tmp_path / "m.pt2").write_bytes(b"")
        settings = ("predict", "checkpoint=m.pt2", "input=x.csv", "output=y.csv", "trust=true")
        done = subprocess.run(
            [sys.executable, "-m", "lossselect", *settings], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert done.stderr.startswith("m.pt2 (0 bytes) cannot be read as a model: it contains no checksum")
        assert len(done.stderr.splitlines()) == 1

    def test_a_model_of_another_tool(self, tmp_path):
        onnx = pytest.importorskip("onnx")
        export_model(module_of(ls.Binary()), tmp_path / "m.onnx")
        model = onnx.load(tmp_path / "m.onnx")
        del model.metadata_props[:]
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(ValueError, match=r"was not written by lossselect export"):
            load_exported(tmp_path / "m.onnx")
        for facts in (
            "{",
            "{}",
            '{"task": {"name": "os.system"}, "features": []}',
            '{"task": 3, "features": 1}',
        ):
            onnx.helper.set_model_props(model, {"lossselect": facts, digest.NAME: digest.BLANK})
            onnx.save(model, tmp_path / "m.onnx")
            digest.seal(tmp_path / "m.onnx")
            with pytest.raises(ValueError, match=r"m\.onnx cannot be read as a model: \w+Error: "):
                load_exported(tmp_path / "m.onnx")

    def test_a_file_that_may_run_code_needs_trust(self, tmp_path):
        export_model(module_of(ls.Binary()), tmp_path / "m.pt2")
        with pytest.raises(ValueError, match=r"may run code .* trust=true"):
            load_exported(tmp_path / "m.pt2")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a run on a table."""
    folder = tmp_path_factory.mktemp("export")
    lines = [f"{i % 17},{'ab'[i % 2]},{(i * 7) % 5},{'xyz'[i % 3]}" for i in range(120)]
    (folder / "t.csv").write_text("\n".join(["n,c,m,y", *lines]) + "\n")
    table = (
        "data=table",
        "data.path=t.csv",
        "data.target=y",
        "trainer.max_epochs=2",
        "hydra.run.dir=run",
    )
    more = ("task=multiclass", "report=false", "ignore_warnings=[duplicate_rows]")
    train_in(folder, *table, *more)
    return folder


class TestCommand:
    def call(self, monkeypatch, capsys, *arguments):
        monkeypatch.setattr(sys, "argv", ["lossselect", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_predictions_equal_those_of_the_checkpoint(self, suffix, run, monkeypatch, capsys):
        monkeypatch.chdir(run)
        best = "run/checkpoints/best.ckpt"
        code, out, err = self.call(
            monkeypatch, capsys, "export", f"checkpoint={best}", f"output=m{suffix}", "input=t.csv"
        )
        assert (code, err) == (0, "")
        assert "Compared with PyTorch on 120 rows of t.csv," in out
        served = load_exported(f"m{suffix}", trust=True)
        assert served.metadata["feature_names"] == ["n", "m", "c=a", "c=b"]
        (frame,) = served.preparation.frames("t.csv", 8192)
        rows, _ = served.preparation.features.transform(frame, "t.csv")
        from_arrays, from_tensors = served(rows[range(120)].numpy()), served(rows[range(120)])
        assert all(map(torch.equal, from_arrays, from_tensors))
        assert "and 0 predictions" in out
        settings = ("input=t.csv", "keep=[n]")
        assert (
            self.call(monkeypatch, capsys, "predict", f"checkpoint={best}", *settings, "output=a.csv")[0] == 0
        )
        probe = (
            "import sys; sys.modules['lightning'] = sys.modules['torchmetrics'] = None\n"
            "from lossselect.cli import predict; predict.main()"
        )
        more = ("output=b.csv", *(["trust=true"] if suffix == ".pt2" else []))
        subprocess.run(
            [sys.executable, "-c", probe, f"checkpoint=m{suffix}", *settings, *more],
            check=True,
            capture_output=True,
        )
        a, b = (
            [row.split(",") for row in (run / name).read_text().splitlines()] for name in ("a.csv", "b.csv")
        )
        assert a[0] == b[0] == ["row", "prediction", "p_x", "p_y", "p_z", "n"]
        assert len(a) == 121
        for one, other in zip(a[1:], b[1:], strict=True):
            assert (one[:2], one[5]) == (other[:2], other[5])
            assert [float(p) for p in one[2:5]] == pytest.approx([float(p) for p in other[2:5]], abs=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["checkpoint=run/checkpoints/best.ckpt"],
                "one of onnx, torch_export, safetensors, or output=",
            ),
            (
                ["checkpoint=run/checkpoints/best.ckpt", "output=no/m.onnx"],
                "The folder no of output=no/m.onnx does not exist",
            ),
            (["checkpoint=run/checkpoints/bst.ckpt", "output=m.onnx"], "Did you mean"),
            (
                ["checkpoint=run/checkpoints/best.ckpt", "output=m.onnx", "input=u.csv"],
                "File not found: u.csv",
            ),
            (
                ["checkpoint=run/checkpoints/best.ckpt", "output=m.onnx", "input=head.csv"],
                "head.csv has no rows.",
            ),
            (["checkpint=x"], "Did you mean 'checkpoint'?"),
            (["checkpoint=m.onnx", "format=safetensors"], "lossselect export requires a checkpoint (.ckpt)"),
            (["checkpoint=run/checkpoints/best.ckpt", "format=onx"], "Did you mean 'onnx'?"),
            (["checkpoint=run/checkpoints/best.ckpt", "format=onnx", "output=m.pt2"], "must end in .onnx"),
            (["x"], "Settings are written KEY=VALUE"),
        ],
    )
    def test_mistakes(self, arguments, message, run, monkeypatch, capsys):
        monkeypatch.chdir(run)
        (run / "m.onnx").unlink(missing_ok=True)
        (run / "head.csv").write_text("n,c,m,y\n")
        code, _, err = self.call(monkeypatch, capsys, "export", *arguments)
        assert code == 1
        assert message in err
        assert not (run / "m.onnx").exists()

    def test_compares_on_the_test_rows_of_the_run(self, run, monkeypatch, capsys, tmp_path):
        monkeypatch.chdir(run)
        settings = ("checkpoint=run/checkpoints/best.ckpt", "format=onnx")
        code, out, _ = self.call(monkeypatch, capsys, "export", *settings)
        rows = len((run / "run/predictions.csv").read_text().splitlines()) - 1
        assert code == 0
        assert f"best.onnx. Compared with PyTorch on {rows} test rows," in out
        (tmp_path / "t.csv").write_text((run / "t.csv").read_text().replace("16,", "160,"))
        for reason in ("the data have changed since the run", "t.csv"):
            monkeypatch.chdir(tmp_path)
            load_checked.cache_clear()  # otherwise the process would not read the file again
            settings = (f"checkpoint={run}/run/checkpoints/best.ckpt", "output=m.onnx")
            code, out, _ = self.call(monkeypatch, capsys, "export", *settings)
            assert code == 0
            assert "256 rows of normally distributed features (the run's test rows are not available" in out
            assert reason in out
            (tmp_path / "t.csv").unlink(missing_ok=True)

    def test_without_the_run_folder(self, run, monkeypatch, capsys, tmp_path):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "best.ckpt").write_bytes((run / "run/checkpoints/best.ckpt").read_bytes())
        code, out, _ = self.call(monkeypatch, capsys, "export", "checkpoint=best.ckpt", "format=onnx")
        assert code == 0
        assert "Compared with PyTorch on 256 rows of normally distributed features," in out

    def test_predict_requires_trust(self, run, monkeypatch, capsys):
        monkeypatch.chdir(run)
        (run / "x.pt2").write_bytes(b"")
        settings = ("checkpoint=x.pt2", "input=t.csv", "output=o.csv")
        code, _, err = self.call(monkeypatch, capsys, "predict", *settings)
        assert code == 1
        assert "trust=true" in err
        code, _, err = self.call(monkeypatch, capsys, "predict", *settings, "trust=maybe")
        assert "trust must be true or false, got 'maybe'." in err
        assert not (run / "o.csv").exists()


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_a_run_exports_its_model(task, command, tmp_path):
    settings = (f"task={task}", "trainer.max_epochs=2", "hydra.run.dir=run", "export=onnx", "report=false")
    code, out, err = command(*settings)
    assert code == 0, err
    assert "and 0 predictions differ." in out
    module = ls.TaskModule.load_from_checkpoint("run/checkpoints/best.ckpt")
    assert load_exported("run/model.onnx").task == module.task


@pytest.mark.figures
def test_a_failed_export_keeps_the_report(command, tmp_path, monkeypatch):
    def fail(module, path, **_):
        return export_model(module, path, inputs=torch.zeros(0, 30))

    monkeypatch.setattr("lossselect.export.write.export_model", fail)
    settings = ("task=binary", "trainer.max_epochs=1", "hydra.run.dir=run", "export=onnx")
    code, out, err = command(*settings)
    assert code == 1
    assert "inputs must be one tensor with at least one row" in err
    assert "metrics.json, predictions.csv" in out
    page = (tmp_path / "run" / "report.html").read_text()
    assert 'id="roc"' in page
    assert "ended before its time" not in page


def test_an_unknown_format(command, tmp_path):
    code, _, err = command("task=binary", "export=onxx")
    assert code == 1
    assert "Unknown export format 'onxx'. Did you mean 'onnx'?" in err
    assert [*tmp_path.iterdir()] == []


def test_an_export_of_weights_that_have_changed_is_removed(command, tmp_path):
    settings = ("task=binary", "hydra.run.dir=run", "report=false", "logger=none")
    assert command(*settings, "trainer.max_epochs=1")[0] == 0
    stale = tmp_path / "run" / "checkpoints" / "best.safetensors"
    export_model(ls.TaskModule.load_from_checkpoint("run/checkpoints/best.ckpt"), stale)
    assert command(*settings, "trainer.max_epochs=2", "resume=auto")[0] == 0
    assert not stale.exists()
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


def test_predictions_of_a_chunked_head_have_the_same_columns(command, tmp_path, monkeypatch, capsys):
    rows = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    np.savez("d.npz", X=rows, y=np.arange(120) % 9)
    settings = ("task=multiclass", "data=arrays", "data.path=d.npz", "head=chunked", "trainer.max_epochs=1")
    code, _, err = command(*settings, "hydra.run.dir=run", "export=safetensors", "report=false")
    assert code == 0, err
    for model, output in (("checkpoints/best.ckpt", "a.csv"), ("model.safetensors", "b.csv")):
        predict_file(f"run/{model}", "d.npz", output)
    a, b = (pl.read_csv(name) for name in ("a.csv", "b.csv"))
    assert a.columns == b.columns
    assert a["prediction"].equals(b["prediction"])
    assert "top_5" in a.columns
