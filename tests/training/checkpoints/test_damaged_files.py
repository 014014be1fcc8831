"""Damaged or malicious checkpoints, exports and arrays raise one error at once."""

import contextlib
import copy
import hashlib
import itertools
import re
import resource
import shutil
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import lossselect as ls
from lossselect.cli import main as cli
from lossselect.data.batches import TensorBatches
from lossselect.data.readers.arrays import read_arrays
from lossselect.export import write as export
from lossselect.export.digest import NAME
from lossselect.export.formats import FORMATS
from lossselect.export.read import load_exported
from lossselect.export.write import export_model
from lossselect.models.stored_weights import check_finite
from lossselect.run.resume import check_start
from lossselect.training.checkpoints.content import read_checkpoint
from lossselect.training.checkpoints.saving import BestCheckpoint
from lossselect.training.checkpoints.validation import check_resumable

NAN, INF = float("nan"), float("inf")
SUFFIXES = [form.suffix for form in FORMATS.values()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a run on a table."""
    folder = tmp_path_factory.mktemp("damaged")
    generator = np.random.default_rng(0)
    rows = [f"{a:.3f},{'uv'[i % 2]},{'xyz'[i % 3]}" for i, a in enumerate(generator.normal(size=60))]
    (folder / "t.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HYDRA_FULL_ERROR", "0")
        assert train(patch) == 0
    return folder


SETTINGS = (
    "task=multiclass", "data=table", "data.path=t.csv", "data.target=y", "model.hidden=[4]", "report=false",
    "trainer.max_epochs=2", "ignore_warnings=[duplicate_rows]", "logger=none",
)  # fmt: skip


def train(patch, *more, run="run"):
    from lossselect.cli import train as training

    patch.setattr(sys, "argv", ["train.py", *SETTINGS, f"hydra.run.dir={run}", *more])
    try:
        training.main()
    except SystemExit as ended:
        return ended.code
    return 0


def call(patch, *arguments):
    patch.setattr(sys, "argv", ["lossselect", *arguments])
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code
    return 0


def read_message(capsys, path):
    message = capsys.readouterr().err.strip()
    assert "Traceback" not in message
    assert len(message.splitlines()) == 1, message
    assert str(path) in message
    return message


# replacements for the value of a key of a checkpoint
DELETED = Ellipsis
VALUES = [DELETED, None, [], [3], 7, "text", {"a": [None]}]


def damaged(content, place, value, same_type=False):
    """Return a copy of the content with another value at a place; None if the type stays the same."""
    changed = copy.deepcopy(content)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if value is DELETED:
        del inner[place[-1]]
        return changed
    old = inner[place[-1]]
    if not same_type and type(old) is type(value) and (not isinstance(old, dict) or not old):
        return None
    inner[place[-1]] = value
    return changed


def loaded_places(content):
    """Yield the keys that are read to build a module or its inputs."""
    for key in (
        "task",
        "class",
        "arguments",
        "not_plain",
        "loss",
        "state_dict",
        "TensorData",
        "counts",
        "base_task",
    ):
        yield (key,)
    yield from (
        ("task", key) for key in ("name", "num_outputs", "temperature", "class_names", "prior_correction")
    )
    yield from (("arguments", key) for key in ("net", "task", "loss", "head", "bias_init", "mix"))
    yield from (("arguments", "net", key) for key in ("name", "num_features", "hidden", "dropout", "clip"))
    yield from (("loss", key) for key in content["loss"])
    yield from (("state_dict", key) for key in content["state_dict"])
    yield from (("TensorData", key) for key in ("source", "features", "reading"))
    yield from (("TensorData", "features", key) for key in ("numbers", "categories", "null_values", "nan"))
    yield from (("TensorData", "features", "numbers", 0, key) for key in ("name", "mean", "std", "missing"))
    yield from (("TensorData", "features", "categories", 0, key) for key in ("name", "values", "missing"))
    yield from (("TensorData", "reading", key) for key in ("separator", "encoding"))
    yield from (("counts", key) for key in content["counts"])


def resumed_places(content):
    """Yield the keys that only a resumed run reads."""
    for key in (
        "loops",
        "optimizer_states",
        "lr_schedulers",
        "callbacks",
        "run_state",
        "global_step",
        "epoch",
    ):
        yield (key,)
    yield ("pytorch-lightning_version",)

    def within(value, place):
        for key, inner in value.items():
            yield (*place, key)
            if isinstance(inner, dict):
                yield from within(inner, (*place, key))

    yield from within(content["loops"]["fit_loop"], ("loops", "fit_loop"))
    for key in ("state", "param_groups"):
        yield ("optimizer_states", 0, key)
    yield from (
        ("optimizer_states", 0, "state", 0, key) for key in content["optimizer_states"][0]["state"][0]
    )
    yield from (("optimizer_states", 0, "param_groups", 0, key) for key in ("lr", "params", "betas"))
    yield from (("lr_schedulers", 0, key) for key in content["lr_schedulers"][0])
    for name, state in content["callbacks"].items():
        yield ("callbacks", name)
        yield from (("callbacks", name, key) for key in state)
    yield from (("run_state", 0, key) for key in content["run_state"][0])
    yield from (("run_state", 0, "random", key) for key in content["run_state"][0]["random"])


FLAGS = ("_is_initial", "_get_lr_called_within_step")


def may_stay(place, value):
    """Return whether a value is accepted: numbers for numbers, None for scores, and missing flags of torch."""
    key = place[-1]
    if value is None:
        return key in ("monitor", "best_model_score", "current_score", "dirpath", "kth_value", "rows", *FLAGS)
    if value is DELETED:
        # without this key, the run simply had no such callback
        return str(key).startswith(("_", "BestCheckpoint{"))
    scores = ("step", "lr", "T_max", "eta_min", "best_model_score", "current_score", "kth_value", "rows")
    return (
        (value == [] and key == "due")
        or (value == 7 and key in scores)
        or (value == [3] and key in ("base_lrs", "_last_lr"))
    )


class TestStructure:
    """Each key that is read is deleted, and replaced with values of other types."""

    def test_keys_read_by_loading(self, run, monkeypatch, capsys):
        monkeypatch.chdir(run)
        content = read_checkpoint("run/checkpoints/best.ckpt")
        reference = self.predictions(monkeypatch, "run/checkpoints/best.ckpt")
        capsys.readouterr()
        failed = []
        for place, value in itertools.product(loaded_places(content), VALUES):
            changed = damaged(content, place, value)
            if changed is None:
                continue
            torch.save(changed, "d.ckpt")
            try:
                found = self.predictions(monkeypatch, "d.ckpt")
                message = capsys.readouterr().err
            except Exception as error:  # the user would see a traceback
                failed.append((place, value, repr(error)))
                continue
            if found is None:
                if len(message.strip().splitlines()) != 1 or "Traceback" in message:
                    failed.append((place, value, message))
            elif not self.may_be(place, found, reference):
                failed.append((place, value, "accepted, with other predictions"))
        assert not failed, "\n".join(map(str, failed))

    def may_be(self, place, found, reference):
        """Return whether predictions are valid: only options of the task and statistics may change them."""
        return found == reference or place[0] == "task" or place[-1] in ("mean", "std")

    def predictions(self, patch, checkpoint):
        if call(patch, "predict", f"checkpoint={checkpoint}", "input=t.csv", "output=o.csv"):
            return None
        with open("o.csv", encoding="utf-8") as file:
            return file.read()

    @pytest.mark.parametrize("key", ["arguments", "state_dict", "class", "task", "TensorData", "loss"])
    @pytest.mark.parametrize("command", ["predict", "export"])
    @pytest.mark.parametrize("value", [[1, 2], None, "x"], ids=str)
    def test_commands(self, key, command, value, run, monkeypatch, capsys):
        monkeypatch.chdir(run)
        torch.save({**read_checkpoint("run/checkpoints/best.ckpt"), key: value}, "d.ckpt")
        more = ["input=t.csv", "output=no.csv"] if command == "predict" else ["output=no.onnx", "input=t.csv"]
        if (key, value) == ("loss", None):
            pytest.skip("None stands for a custom criterion")
        if (command, key, value) == ("predict", "class", "x"):
            pytest.skip("any name may be that of a custom class")
        assert call(monkeypatch, command, "checkpoint=d.ckpt", *more) == 1
        read_message(capsys, "d.ckpt")
        assert not [*run.glob("no.*")]

    def test_keys_read_by_a_resumed_run(self, run, monkeypatch, capsys):
        """Errors are raised before the run folder is touched."""
        monkeypatch.chdir(run)
        content = read_checkpoint("run/checkpoints/best.ckpt")
        module = ls.TaskModule.load_from_checkpoint("run/checkpoints/best.ckpt")
        module._scheduler_spec = {"name": "CosineAnnealingLR", "T_max": 2}
        saving = BestCheckpoint(Path("run/checkpoints"), "last", "max", at_epoch_end=True)
        trainer = Trainer(accelerator="cpu", callbacks=[saving], logger=False)
        check_resumable(content, "d.ckpt")
        check_start(Path("d.ckpt"), content, module, None, trainer)
        failed = []
        for place, value in itertools.product(resumed_places(content), VALUES):
            changed = damaged(content, place, value)
            if changed is None or may_stay(place, value):
                continue
            torch.save(changed, "d.ckpt")
            try:
                found = read_checkpoint("d.ckpt")
                check_resumable(found, "d.ckpt")
                check_start(Path("d.ckpt"), found, module, None, trainer)
            except ValueError as error:
                if "d.ckpt" not in str(error):
                    failed.append((place, value, str(error)))
            except Exception as error:
                failed.append((place, value, repr(error)))
            else:
                failed.append((place, value, "accepted"))
        assert not failed, "\n".join(map(str, failed))

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            (("loops",), [1]),
            (("loops", "fit_loop", "epoch_loop.batch_progress", "total"), "x"),
            (("optimizer_states",), "x"),
            (("optimizer_states", 0, "state", 0, "exp_avg"), DELETED),
            (("optimizer_states", 0, "param_groups", 0, "betas"), None),
            (("lr_schedulers",), DELETED),
            (("lr_schedulers", 0, "last_epoch"), "x"),
            (("callbacks",), None),
            (("run_state", 0, "random", "torch"), [3]),
            (("state_dict",), DELETED),
            (("global_step",), "x"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("setting", ["resume=d.ckpt", "resume=auto"])
    def test_resume_touches_nothing(self, place, value, setting, run, monkeypatch, capsys):
        monkeypatch.chdir(run)
        content = read_checkpoint("run/checkpoints/best.ckpt")
        folder, target = "run", "d.ckpt"
        if setting == "resume=auto":
            folder, target = "other", "other/checkpoints/last.ckpt"
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        torch.save(damaged(content, place, value), target)
        before = {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}
        assert train(monkeypatch, "trainer.max_epochs=4", setting, run=folder) == 1
        message = capsys.readouterr().err.strip()
        assert "Traceback" not in message
        assert target in message
        after = {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}
        files = {path for path in after if ".hydra" not in path.parts and path.name != "train.log"}
        assert {path: after[path] for path in files} == {path: before[path] for path in files}

    def test_an_intact_checkpoint_is_resumed(self, run, monkeypatch):
        monkeypatch.chdir(run)
        settings = ("trainer.max_epochs=3", "resume=run/checkpoints/best.ckpt")
        assert train(monkeypatch, *settings, run="further") == 0

    @pytest.mark.filterwarnings("ignore:Checkpoint directory")
    def test_in_python(self, run, monkeypatch):
        monkeypatch.chdir(run)
        data = TensorBatches(torch.randn(32, 4), torch.arange(32) % 3)
        saving = ModelCheckpoint("own", save_last=True)
        silent = {
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        trainer = Trainer(max_epochs=1, callbacks=[saving], **silent)
        trainer.fit(ls.TaskModule(ls.Multiclass(3), nn.Linear(4, 3)), data.loader(8))
        content = read_checkpoint("own/last.ckpt")
        for place, value in (
            (("optimizer_states", 0, "param_groups", 0, "eps"), "x"),
            (("optimizer_states", 0, "state", 0), 3),
            (("run_state",), "x"),
            (("loops", "fit_loop", "epoch_progress"), DELETED),
        ):
            torch.save(damaged(content, place, value), "d.ckpt")
            trainer = Trainer(max_epochs=2, callbacks=[ModelCheckpoint("own", save_last=True)], **silent)
            with pytest.raises(ValueError, match=r"d\.ckpt is damaged: .*" + re.escape(str(place[-1]))):
                trainer.fit(
                    ls.TaskModule(ls.Multiclass(3), nn.Linear(4, 3)), data.loader(8), ckpt_path="d.ckpt"
                )


class TestWeights:
    """Weights that are not finite raise an error in all functions that read them."""

    @pytest.mark.parametrize("value", [NAN, INF, -INF])
    @pytest.mark.parametrize("how", ["load", "predict", "export", "resume", "evaluate"])
    def test_in_a_checkpoint(self, how, value, run, monkeypatch, capsys):
        monkeypatch.chdir(run)
        content = copy.deepcopy(read_checkpoint("run/checkpoints/best.ckpt"))
        name = [*content["state_dict"]][-1]
        content["state_dict"][name].view(-1)[1] = value
        torch.save(content, "d.ckpt")
        message = rf"d\.ckpt: 1 of \d+ entries of '{re.escape(name)}' are NaN or infinite"
        if how == "load":
            with pytest.raises(ValueError, match=message):
                ls.TaskModule.load_from_checkpoint("d.ckpt")
            return
        if how == "evaluate":
            module = ls.TaskModule.load_from_checkpoint("run/checkpoints/best.ckpt")
            data = TensorBatches(torch.randn(8, 3), torch.arange(8) % 3)
            trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
            with pytest.raises(ValueError, match=message):
                trainer.test(module, data.loader(8), ckpt_path="d.ckpt")
            return
        if how == "resume":
            assert train(monkeypatch, "trainer.max_epochs=3", "resume=d.ckpt") == 1
        else:
            output = "output=no.csv" if how == "predict" else "output=no.onnx"
            assert call(monkeypatch, how, "checkpoint=d.ckpt", "input=t.csv", output) == 1
        assert re.search(message, read_message(capsys, "d.ckpt"))
        assert not [*run.glob("no.*")]

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            (("task", "temperature"), NAN),
            (("task", "prior_correction"), [1.0, INF, 1.0]),
            (("TensorData", "features", "numbers", 0, "mean"), NAN),
            (("TensorData", "features", "numbers", 0, "std"), INF),
            (("TensorData", "features", "numbers", 0, "std"), 0.0),
        ],
        ids=str,
    )
    def test_fitted_values(self, place, value, run, monkeypatch, capsys):
        monkeypatch.chdir(run)
        torch.save(damaged(read_checkpoint("run/checkpoints/best.ckpt"), place, value, True), "d.ckpt")
        assert call(monkeypatch, "predict", "checkpoint=d.ckpt", "input=t.csv", "output=no.csv") == 1
        assert place[-1].replace("std", "deviation") in read_message(capsys, "d.ckpt")

    def test_a_mask_may_be_infinite_and_statistics_may_not(self, tmp_path):
        class Masked(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("mask", torch.tensor([0.0, -INF]))
                self.norm = nn.BatchNorm1d(4)
                self.layer = nn.Linear(4, 3)

            def forward(self, features):
                return self.layer(self.norm(features))

        module = ls.TaskModule(ls.Multiclass(3), Masked())
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        trainer.strategy.connect(module)
        trainer.save_checkpoint(tmp_path / "m.ckpt", weights_only=True)
        loaded = ls.TaskModule.load_from_checkpoint(tmp_path / "m.ckpt", net=Masked())
        assert loaded.net.mask.tolist() == [0, -INF]
        for name, value in (("net.mask", NAN), ("net.norm.running_var", INF)):
            content = read_checkpoint(tmp_path / "m.ckpt")
            content["state_dict"][name][0] = value
            torch.save(content, tmp_path / "d.ckpt")
            with pytest.raises(
                ValueError, match=re.escape(f"1 of {len(content['state_dict'][name])} entries of '{name}'")
            ):
                ls.TaskModule.load_from_checkpoint(tmp_path / "d.ckpt", net=Masked())

    def test_large_finite_weights_are_finite(self):
        check_finite({"w": torch.tensor([3e38, 3e38, -3e38]), "h": torch.full((9,), 6e4).half()}, (), "x")

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_are_not_exported(self, suffix, tmp_path):
        module = ls.TaskModule(ls.Binary(), {"name": "linear", "num_features": 3})
        with torch.no_grad():
            module.net[-1].weight[0, 1] = NAN
        with pytest.raises(ValueError, match=r"1 of 4 entries of 'net\.1\.weight' are NaN or infinite"):
            export_model(module, tmp_path / f"m{suffix}")
        assert not [*tmp_path.iterdir()]

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
    def test_in_an_export_of_another_tool(self, suffix, tmp_path, monkeypatch):
        monkeypatch.setattr("lossselect.export.write.check_finite", lambda *_: None)
        monkeypatch.setattr("lossselect.export.write._compare", lambda *_: {})
        module = ls.TaskModule(ls.Binary(), {"name": "linear", "num_features": 3})
        with torch.no_grad():
            module.net[-1].weight[0, 1] = INF
        export_model(module, tmp_path / f"m{suffix}")
        with pytest.raises(ValueError, match=r"1 of 4 entries of '.*weight' are NaN or infinite"):
            load_exported(tmp_path / f"m{suffix}", trust=True)


class TestFlippedBits:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_in_an_export(self, suffix, tmp_path):
        """Each flipped bit in weights, graph and metadata is detected, or changes nothing."""
        task = ls.Multilabel(3, class_names=("a", "b", "c"), threshold=(0.2, 0.5, 0.7))
        module = ls.TaskModule(task, {"name": "mlp", "num_features": 4, "hidden": [5]})
        path, features = tmp_path / f"m{suffix}", torch.randn(9, 4)
        export_model(module, path)
        expected, whole = load_exported(path, trust=True)(features), path.read_bytes()
        weight = module.net[-1].weight.detach().numpy().tobytes()
        places = [whole.find(weight), whole.find(weight) + 7, whole.find(b'"c"'), whole.rfind(b"sha256")]
        places += [whole.find(b"0.2"), 0, 8, len(whole) - 1, *torch.randint(len(whole), (60,)).tolist()]
        found = 0
        for place in (place for place in places if place >= 0):
            changed = bytearray(whole)
            changed[place] ^= 1 << (place % 8)
            path.write_bytes(changed)
            served = None
            with contextlib.suppress(ValueError):
                served = load_exported(path, trust=True)
            found += served is None
            if served is not None:
                assert all(map(torch.equal, served(features), expected)), place
                assert served.task == task
        assert found == len([place for place in places if place >= 0])
        assert found >= 60

    def test_message(self, run, monkeypatch, capsys):
        monkeypatch.chdir(run)
        settings = ["checkpoint=run/checkpoints/best.ckpt", "output=m.safetensors", "input=t.csv"]
        assert call(monkeypatch, "export", *settings) == 0
        content = bytearray(Path("m.safetensors").read_bytes())
        content[-3] ^= 64
        Path("m.safetensors").write_bytes(content)
        capsys.readouterr()
        assert call(monkeypatch, "predict", "checkpoint=m.safetensors", "input=t.csv", "output=no.csv") == 1
        assert "its content does not match its checksum" in read_message(capsys, "m.safetensors")
        assert not Path("no.csv").exists()

    def test_the_checksum_is_that_of_hashlib(self, tmp_path):
        export_model(
            ls.TaskModule(ls.Binary(), {"name": "linear", "num_features": 3}), tmp_path / "m.safetensors"
        )
        whole = (tmp_path / "m.safetensors").read_bytes()
        digest = re.search(rb'"lossselect\.sha256":"(\w{64})"', whole)[1]
        blank = whole.replace(digest, b"0" * 64)
        assert hashlib.sha256(blank).hexdigest().encode() == digest

    def test_an_export_without_a_checksum(self, tmp_path):
        from safetensors import safe_open
        from safetensors.torch import save_file

        path = tmp_path / "m.safetensors"
        export_model(ls.TaskModule(ls.Binary(), {"name": "linear", "num_features": 3}), path)
        with safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = {key: value for key, value in file.metadata().items() if key != NAME}
        save_file(weights, path, facts)
        with pytest.raises(ValueError, match="contains no checksum"):
            load_exported(path)


@contextlib.contextmanager
def little_memory():
    """Limit the context to 1 GB of additional memory and to 20 s."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), before[1]))
    start = time.monotonic()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - start < 20


def zip_with(path, changed, compression=zipfile.ZIP_STORED):
    """Rewrite a zip file with the parts that `changed(name, content)` yields for each part."""
    with zipfile.ZipFile(path) as file:
        parts = {info.filename: file.read(info) for info in file.infolist()}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in parts.items():
            for part, inner in changed(name, content):
                file.writestr(part, inner)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits the memory of a process on Linux")
class TestClaims:
    """Small files that claim to be large raise an error without allocating memory."""

    @pytest.mark.parametrize(
        "changes",
        [
            {("arguments", "net", "hidden"): [10**9]},
            {("arguments", "net", "hidden"): [10**9], ("arguments", "net", "num_features"): 10**9},
            {("arguments", "net", "hidden"): [10**30]},
            {("arguments", "net", "hidden"): [1] * 10**6},
            {("arguments", "net", "num_features"): 10**9},
            {("task", "num_outputs"): 10**9, ("task", "class_names"): None},
            {("task", "num_outputs"): 10**18, ("task", "class_names"): None},
            {("base_task",): {"name": "multiclass", "num_outputs": 10**9}},
        ],
        ids=lambda changes: str(changes)[:60],
    )
    def test_a_huge_net(self, changes, run, monkeypatch, capsys):
        monkeypatch.chdir(run)
        content = copy.deepcopy(read_checkpoint("run/checkpoints/best.ckpt"))
        for place, value in changes.items():
            content = damaged(content, place, value, same_type=True)
        torch.save(content, "d.ckpt")
        with little_memory(), pytest.raises(ValueError, match=r"d\.ckpt"):
            ls.TaskModule.load_from_checkpoint("d.ckpt")
        with little_memory():
            assert call(monkeypatch, "predict", "checkpoint=d.ckpt", "input=t.csv", "output=no.csv") == 1
        read_message(capsys, "d.ckpt")

    def test_a_task_of_more_classes_than_weights(self, tmp_path):
        module = ls.TaskModule(ls.Multiclass(3), nn.Linear(4, 3))
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        trainer.strategy.connect(module)
        trainer.save_checkpoint(tmp_path / "m.ckpt", weights_only=True)
        content = read_checkpoint(tmp_path / "m.ckpt")
        content["task"]["num_outputs"] = 10**9
        torch.save(content, tmp_path / "m.ckpt")
        with (
            little_memory(),
            pytest.raises(ValueError, match="has 1000000000 outputs, but it contains only 15 weights"),
        ):
            ls.TaskModule.load_from_checkpoint(tmp_path / "m.ckpt", net=nn.Linear(4, 3))

    def test_a_tensor_that_repeats_a_value(self, run, monkeypatch):
        monkeypatch.chdir(run)
        content = copy.deepcopy(read_checkpoint("run/checkpoints/best.ckpt"))
        content["arguments"]["net"]["hidden"] = [10**8]
        for name, value in content["state_dict"].items():
            shape = [10**8 if size == 4 else size for size in value.shape]
            content["state_dict"][name] = torch.zeros(1).expand(shape)
        torch.save(content, "d.ckpt")
        with (
            little_memory(),
            pytest.raises(ValueError, match=r"declares a tensor of shape .*, but the file has only"),
        ):
            ls.TaskModule.load_from_checkpoint("d.ckpt")

    def test_a_sparse_buffer_is_as_large_as_its_values(self, run, monkeypatch):
        monkeypatch.chdir(run)
        content = copy.deepcopy(read_checkpoint("run/checkpoints/best.ckpt"))
        graph = torch.sparse_coo_tensor(
            torch.tensor([[0], [1]]), torch.ones(1), (10**6, 10**6), check_invariants=True
        )
        content["state_dict"]["graph"] = graph
        torch.save(content, "sparse.ckpt")
        assert read_checkpoint("sparse.ckpt")["state_dict"]["graph"].shape == graph.shape

    @pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
    @pytest.mark.parametrize(
        "change",
        [
            ('"hidden": [4]', '"hidden": [1000000000]'),
            ('"num_features": 3', '"num_features": 1000000000'),
            ('"num_outputs": 3', '"num_outputs": 1000000000'),
            ('"num_outputs": 3', '"num_outputs": 1000000000000000000'),
        ],
        ids=str,
    )
    def test_a_huge_net_of_an_export(self, suffix, change, tmp_path, monkeypatch):
        """The checksum is correct, as after a malicious change."""
        written = {}
        for name in ("_write_safetensors", "_write_onnx"):
            write = getattr(export, name)

            def claims(whole, inputs, facts, path, write=write):
                assert change[0] in facts
                written[path] = facts = facts.replace(*change)
                write(whole, inputs, facts, path)

            monkeypatch.setattr(export, name, claims)
        monkeypatch.setattr(export, "_compare", lambda *_: {})
        module = ls.TaskModule(ls.Multiclass(3), {"name": "mlp", "num_features": 3, "hidden": [4]})
        export_model(module, tmp_path / f"m{suffix}")
        if suffix == ".onnx" and "outputs" not in change[0]:
            pytest.skip("the graph is the net")
        with (
            little_memory(),
            pytest.raises(ValueError, match=r"is damaged: (its (net|weights|task)|3 outputs)"),
        ):
            load_exported(tmp_path / f"m{suffix}")

    @pytest.mark.parametrize("kind", ["compressed", "pickle", "more", "overlapping"])
    def test_a_zip_bomb(self, kind, run, monkeypatch, capsys):
        monkeypatch.chdir(run)
        shutil.copy("run/checkpoints/best.ckpt", "d.ckpt")

        def bigger(name, content):
            if kind == "compressed" and name.endswith("data/0"):
                content = bytes(5 << 28)
            elif kind == "pickle" and name.endswith("data.pkl"):
                content += bytes(1 << 22)
            elif kind == "more" and name.endswith("data/0"):
                yield f"{name}1", bytes(1 << 22)
            yield name, content

        zip_with("d.ckpt", bigger, zipfile.ZIP_STORED if kind == "overlapping" else zipfile.ZIP_DEFLATED)
        if kind == "overlapping":  # two entries of the directory point to the same bytes
            whole = bytearray(Path("d.ckpt").read_bytes())
            first, second = [found.start() for found in re.finditer(b"PK\x01\x02", whole)][:2]
            whole[second + 42 : second + 46] = whole[first + 42 : first + 46]
            Path("d.ckpt").write_bytes(whole)
        assert Path("d.ckpt").stat().st_size < 4e6
        with little_memory(), pytest.raises(ValueError, match=r"d\.ckpt .* is damaged: its part"):
            read_checkpoint("d.ckpt")
        with little_memory():
            assert call(monkeypatch, "predict", "checkpoint=d.ckpt", "input=t.csv", "output=no.csv") == 1
        read_message(capsys, "d.ckpt")

    def test_a_file_of_the_format_before_zip(self, tmp_path):
        torch.save({"task": {}, "arguments": {}}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
        with pytest.raises(
            ValueError, match=r"cannot be read as a checkpoint: it was not written by torch\.save"
        ):
            read_checkpoint(tmp_path / "old.ckpt")

    @pytest.mark.parametrize("length", [0, 1 << 62, 10**9])
    def test_a_wrong_length_in_a_safetensors_header(self, length, tmp_path):
        path = tmp_path / "m.safetensors"
        export_model(ls.TaskModule(ls.Binary(), {"name": "linear", "num_features": 3}), path)
        path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
        with little_memory(), pytest.raises(ValueError, match=r"m\.safetensors \(\d+ bytes\) cannot be read"):
            load_exported(path)

    def test_an_array_that_expands(self, tmp_path, monkeypatch):
        monkeypatch.setattr("lossselect.data.readers.arrays.free_memory", lambda: 10**6)
        np.savez_compressed(tmp_path / "d.npz", X=np.zeros((1000, 1000), np.float32), y=np.arange(1000) % 2)
        assert (tmp_path / "d.npz").stat().st_size < 20_000
        with pytest.raises(ValueError, match=r"Array 'X' of .*d\.npz .* GB"):
            read_arrays(str(tmp_path / "d.npz"), None, None)
        monkeypatch.setattr("lossselect.data.readers.arrays.free_memory", lambda: 10**7)
        assert read_arrays(str(tmp_path / "d.npz"), None, None)[0].shape == (1000, 1000)

    @pytest.mark.parametrize("rows", [10**9, 10**15])
    def test_a_wrong_shape_in_an_array_header(self, rows, tmp_path):
        np.savez_compressed(tmp_path / "d.npz", X=np.zeros((4, 2)), y=np.arange(4) % 2)
        other = f"({rows}, 2), }}".encode()

        def longer(name, content):
            shape = b"(4, 2), }"
            yield name, content.replace(shape + b" " * (len(other) - len(shape)), other)

        zip_with(tmp_path / "d.npz", longer)
        with little_memory(), pytest.raises(ValueError, match=r"Array 'X' of .*d\.npz cannot be read"):
            read_arrays(str(tmp_path / "d.npz"), None, None)
