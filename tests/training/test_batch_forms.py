"""A batch stays as the loader returned it, in hooks, steps and callbacks; its parts are found in many forms."""

from collections import UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from module_cases import trainer
from simulated_gpu import SimulatedTensor, simulated_gpu
from torch import nn
from torch.utils.data import DataLoader, Dataset

import lossselect as ls
from lossselect.data.datamodule import TensorData
from lossselect.data.splits import Splits
from lossselect.exceptions import ConfigError, DataError, OptionTypeError

TASK = ls.Multiclass(3)
X, Y = torch.randn(8, 4), torch.arange(8) % 3
Pair = namedtuple("Pair", "image diagnosis")
Named = namedtuple("Named", "image label path")
LabelFirst = namedtuple("LabelFirst", "label image")
PATHS = [f"{i}.png" for i in range(8)]


@dataclass
class Scan:
    image: torch.Tensor
    label: torch.Tensor
    path: list


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x, scale):
        return self.layer(x) * scale


class TakesBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, batch):
        return self.layer(batch["image"])


class TakesObject(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, data):
        return self.layer(data.x)


class TakesMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x, mask=None):
        return self.layer(x) * mask


class TakesNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, **batch):
        return self.layer(batch["image"])


SCALE = torch.full((8, 1), 2.0)
FORMS = {
    "pair": (nn.Linear(4, 3), (X, Y), {}),
    "list": (nn.Linear(4, 3), [X, Y], {}),
    "a named pair": (nn.Linear(4, 3), Pair(X, Y), {}),
    "mapping with one tensor": (nn.Linear(4, 3), {"image": X, "label": Y, "path": PATHS}, {}),
    "mapping for any names": (TakesNames(), {"image": X, "label": Y, "path": PATHS}, {}),
    "mapping of another type": (nn.Linear(4, 3), UserDict(image=X, targets=Y), {}),
    "mapping of arguments": (TwoInputs(), {"x": X, "scale": SCALE, "labels": Y, "path": PATHS}, {}),
    "a mask that is an input": (TakesMask(), {"x": X, "mask": SCALE, "labels": Y}, {}),
    "pair with a mapping": (TwoInputs(), ({"x": X, "scale": SCALE, "idx": Y}, Y), {}),
    "pair with a tuple": (TwoInputs(), ((X, SCALE), Y), {}),
    "pair with a list": (TwoInputs(), ([X, SCALE], Y), {}),
    "named tuple": (nn.Linear(4, 3), Named(X, Y, PATHS), {}),
    "dataclass": (nn.Linear(4, 3), Scan(X, Y, PATHS), {}),
    "object for one parameter": (TakesObject(), SimpleNamespace(x=X, y=Y, edge_index=SCALE), {}),
    "mapping for a parameter batch": (TakesBatch(), {"image": X, "label": Y}, {}),
    "attributes as arguments": (TwoInputs(), SimpleNamespace(x=X, scale=SCALE, y=Y, idx=Y), {}),
    "batch_keys": (
        nn.Linear(4, 3),
        {"image": X, "other": SCALE, "diagnosis": Y},
        {"inputs": "image", "target": "diagnosis"},
    ),
    "batch_keys as a tuple": (
        nn.Linear(4, 3),
        {"image": X, "other": SCALE, "diagnosis": Y},
        ("image", "diagnosis"),
    ),
    "batch_keys with several inputs": (
        TwoInputs(),
        {"image": X, "factor": SCALE, "diagnosis": Y},
        {"inputs": ["image", "factor"], "target": "diagnosis"},
    ),
    "batch_keys of a tuple": (nn.Linear(4, 3), (X, Y, PATHS), (0, 1)),
    "batch_keys of a list, target first": (TwoInputs(), [Y, X, SCALE], {"inputs": (1, 2), "target": 0}),
    "batch_keys with a list of one input": (nn.Linear(4, 3), {"i": X, "y": Y}, {"inputs": ["i"]}),
    "batch_keys of a tuple, several inputs": (TwoInputs(), (X, SCALE, Y), {"target": 2}),
    "a named pair that starts with the labels": (nn.Linear(4, 3), LabelFirst(Y, X), {}),
    "batch_keys of a named tuple": (nn.Linear(4, 3), Pair(X, Y), {"inputs": "image", "target": "diagnosis"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_inputs_and_target_of_a_batch(form):
    net, batch, keys = FORMS[form]
    layer = getattr(net, "layer", net)
    factor = 2 if isinstance(net, TwoInputs | TakesMask) else 1
    out = ls.TaskModule(TASK, net, batch_keys=keys or None).step(batch)
    torch.testing.assert_close(out.logits, layer(X) * factor)
    torch.testing.assert_close(out.loss, nn.functional.cross_entropy(layer(X) * factor, Y))
    assert torch.equal(out.target, Y)


@pytest.mark.parametrize("form", FORMS)
def test_prediction_with_and_without_labels(form):
    net, batch, keys = FORMS[form]
    module = ls.TaskModule(TASK, net, batch_keys=keys or None).eval()
    expected = module.predict_step(batch, 0)["probabilities"]
    assert expected.shape == (8, 3)
    if isinstance(batch, dict | UserDict):
        unlabelled = {k: v for k, v in batch.items() if k not in ("label", "labels", "targets", "diagnosis")}
        torch.testing.assert_close(module.predict_step(unlabelled, 0)["probabilities"], expected)


@pytest.mark.parametrize("batch", [X, (X,), [X]])
def test_prediction_for_inputs_alone(batch):
    assert ls.TaskModule(TASK, nn.Linear(4, 3)).predict_step(batch, 0)["prediction"].shape == (8,)
    module = ls.TaskModule(TASK, nn.Linear(4, 3), batch_keys=(0, 1))
    assert module.predict_step(batch, 0)["prediction"].shape == (8,)


def test_prediction_with_an_override_that_requires_labels():
    class Own(ls.TaskModule):
        def unpack_batch(self, batch):
            return batch["x"], batch["y"]

    with pytest.raises(ConfigError, match=r"Own.unpack_batch fails for a batch to predict .*KeyError: 'y'"):
        Own(TASK, nn.Linear(4, 3)).predict_step({"x": X}, 0)


def test_sample_weights_in_a_tuple():
    net, weight = nn.Linear(4, 3), torch.rand(8)
    module = ls.TaskModule(TASK, net, batch_keys=(0, 1, 2))
    torch.testing.assert_close(module.step((X, Y, weight)).loss, ls.select_loss(TASK)(net(X), Y, weight))
    assert module.predict_step((X, Y), 0)["prediction"].shape == (8,)


@pytest.mark.parametrize("weights", ["sample_weight", "sample_weights"])
def test_sample_weights_in_a_mapping(weights):
    net, weight = nn.Linear(4, 3), torch.rand(8)
    out = ls.TaskModule(TASK, net).step({"x": X, "y": Y, weights: weight})
    torch.testing.assert_close(out.loss, ls.select_loss(TASK)(net(X), Y, weight))
    assert out.weight is weight


@pytest.mark.parametrize(
    ("batch", "keys", "error", "message"),
    [
        (
            {"image": X, "diagnosis": Y},
            None,
            DataError,
            "a dict with the keys 'image', 'diagnosis'. Pass batch_keys",
        ),
        ({"x": X, "y": Y, "mask": Y}, None, ConfigError, r"may be in 'y' or 'mask'.*batch_keys"),
        (
            {"x": X, "y": Y},
            {"target": "label"},
            ConfigError,
            r"batch_keys contains 'label'.*the keys 'x', 'y'",
        ),
        ({"x": X, "y": Y}, {"inputs": ["x", "z"], "target": "y"}, ConfigError, "batch_keys contains 'z'"),
        ((X, Y), {"target": "label"}, ConfigError, "it is a tuple of 2"),
        (SimpleNamespace(x=X), None, DataError, "got a SimpleNamespace"),
        (X, None, DataError, r"got a tensor of shape \(8, 4\)"),
        (
            (X, Y, SCALE),
            None,
            DataError,
            r"got a tuple of 3: \(8, 4\), \(8,\), \(8, 1\).*batch_keys=\(0, 1\)",
        ),
        ((X, Y, PATHS), (0, 1, 2), DataError, "Expected numbers as sample weights, got a list of 8: str"),
        ((X, Y), (0, 1, 2), ConfigError, r"batch_keys contains 2.*a tuple of 2"),
        (None, None, DataError, "got a NoneType"),
    ],
)
def test_a_batch_of_another_form(batch, keys, error, message):
    with pytest.raises(error, match=message):
        ls.TaskModule(TASK, nn.Linear(4, 3), batch_keys=keys).step(batch)


TWICE = [("x", "x"), {"inputs": ["x", "z"], "target": "x"}, {"target": "y", "weight": "y"}]


@pytest.mark.parametrize("keys", ["label", ("image",), {"label": "y"}, 3, *TWICE])
def test_batch_keys_of_another_form(keys):
    with pytest.raises((ConfigError, OptionTypeError), match="batch_keys"):
        ls.TaskModule(TASK, nn.Linear(4, 3), batch_keys=keys)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x, attention_mask=None):
        return self.layer(x)


@pytest.mark.parametrize("name", ["attn_mask", "attention_masks", "weight"])
def test_a_warning_about_an_entry_that_is_not_used(name):
    with pytest.warns(UserWarning, match=f"The entry '{name}' of the batch is not used"):
        ls.TaskModule(TASK, Masked()).step({"x": X, name: SCALE, "y": Y})


def test_no_warning_about_other_entries():
    ls.TaskModule(TASK, Masked()).step({"x": X, "index": Y, "path": PATHS, "y": Y})


def test_several_tensors_for_a_single_input():
    with pytest.raises(ConfigError, match=r'a dict with the keys .image., .size.*batch_keys={"inputs"'):
        ls.TaskModule(TASK, nn.Linear(4, 3)).step({"image": X, "size": SCALE, "y": Y})
    with pytest.raises(ConfigError, match=r'batch_keys={"inputs": "scan"}'):
        ls.TaskModule(TASK, nn.Linear(4, 3)).step({"path": PATHS, "scan": X, "size": SCALE, "y": Y})


def test_a_list_for_an_optional_argument():
    """It may be a list of inputs, such as crops, so it is not unpacked."""
    with pytest.raises(ConfigError, match="If they are arguments of forward, return a tuple or a mapping"):
        ls.TaskModule(TASK, Masked()).step(([X, SCALE], Y))
    assert ls.TaskModule(TASK, Masked()).step(((X, SCALE), Y)).loss.isfinite()


def test_inputs_that_forward_lacks():
    with pytest.raises(ConfigError, match="forward requires 'scale', but the batch provides x, size"):
        ls.TaskModule(TASK, TwoInputs()).step({"x": X, "size": SCALE, "y": Y})


# Hooks and callbacks


class Scans(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, row):
        return {"image": X[row], "label": Y[row], "path": PATHS[row]}


class Collects(L.Callback):
    """Collects the keys of batches and of outputs."""

    def __init__(self):
        self.batches, self.outputs = [], []

    def _collect(self, outputs, batch):
        self.batches.append(sorted(batch))
        self.outputs.append(sorted(outputs))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self._collect(outputs, batch)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self._collect(outputs, batch)

    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self._collect(outputs, batch)

    def on_predict_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self._collect(outputs, batch)


def test_hooks_steps_and_callbacks_get_the_batch_of_the_loader(tmp_path):
    seen = []

    class Own(ls.TaskModule):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            seen.append(sorted(batch))
            return batch

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return {**batch, "image": batch["image"] * 0 + 1}

        def training_step(self, batch, batch_idx):
            seen.append(batch["path"])
            return super().training_step(batch, batch_idx)

    collects, data = Collects(), DataLoader(Scans(), batch_size=4)
    module, run = Own(TASK, nn.Linear(4, 3)), trainer(tmp_path, callbacks=[collects])
    run.fit(module, data, data)
    assert run.callback_metrics["val/auroc"] == 0.5  # all inputs are 1
    run.test(module, data, verbose=False)
    run.predict(module, data)
    assert collects.batches == [["image", "label", "path"]] * 10
    assert collects.outputs[:8] == [["logits", "loss", "target"]] * 8
    assert seen[-1] == ["image", "label", "path"]
    assert PATHS[:4] in seen


def test_a_pair_of_the_data_module_of_this_package(tmp_path):
    class Own(ls.TaskModule):
        def training_step(self, batch, batch_idx):
            x, y = batch
            assert len(x) == len(y)
            return super().training_step(batch, batch_idx)

    rows = {"train": torch.arange(6), "val": torch.arange(6, 8)}
    splits = Splits("rows", X, Y.numpy(), ("a", "b", "c"), rows, {})
    trainer(tmp_path).fit(Own(TASK, nn.Linear(4, 3)), datamodule=TensorData(splits, TASK))


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")
def test_a_hook_returns_a_plain_tuple_for_encoded_rows(tmp_path):
    """The target is canonical: its -100 is not read as a class index."""

    class Own(ls.TaskModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            x, y = batch
            return x + 1, y

    task, rows = ls.Multiclass(3, missing=9), {"train": torch.arange(6), "val": torch.arange(6, 12)}
    labels = (torch.arange(12) % 3).index_fill(0, torch.tensor([0, 7]), 9)
    splits = Splits("rows", torch.randn(12, 4), labels.numpy(), ("a", "b", "c"), rows, {})
    run = trainer(tmp_path)
    run.fit(Own(task, nn.Linear(4, 3)), datamodule=TensorData(splits, task))
    assert run.callback_metrics["val/loss"].isfinite()


class TestGpu:
    """On a device, targets are encoded once, before the transfer; hooks may replace them."""

    @pytest.fixture
    def gpu(self):
        if torch.cuda.is_available():
            pytest.skip("there is a real GPU")
        with simulated_gpu() as simulated:
            yield simulated

    @staticmethod
    def fit(module, batches, evaluate=False):
        encoded = []
        encode = ls.TaskModule._encode

        def count(self, target):
            encoded.append(isinstance(target, SimulatedTensor))
            return encode(self, target)

        options = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
        run = L.Trainer(accelerator="gpu", devices=1, max_epochs=1, enable_checkpointing=False, **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ls.TaskModule, "_encode", count)
            loader = DataLoader(batches, batch_size=None)
            if evaluate:
                return encoded, run.validate(module, loader, verbose=False)[0]["val/loss"]
            run.fit(module, loader)
        return encoded, run.callback_metrics["train/loss"].item()

    @pytest.mark.parametrize("evaluate", [False, True])
    @pytest.mark.parametrize("labels", [Y, Y.int(), nn.functional.one_hot(Y)])
    def test_targets_are_encoded_once_on_the_cpu(self, gpu, labels, evaluate):
        batches = [{"x": X, "y": labels, "name": "first"}] * 3
        module = ls.TaskModule(TASK, nn.Linear(4, 3), optimizer={"name": "SGD", "lr": 0.0})
        encoded, loss = self.fit(module, batches, evaluate)
        assert encoded == [False] * len(batches)
        net = module.net.cpu()
        assert loss == pytest.approx(nn.functional.cross_entropy(net(X), Y).item(), rel=1e-5)

    @pytest.mark.parametrize("evaluate", [False, True])
    def test_names_and_targets_by_task(self, gpu, evaluate):
        names = [*"abc"]
        named = [names[y] for y in Y.tolist()]
        sick = (X[:, 0] > 0).float()
        task = ls.MultiTask({"kind": ls.Multiclass(3, class_names=names), "sick": ls.Binary()})
        for task_, target in (
            (task.tasks["kind"], named),
            (task, {"kind": Y, "sick": sick}),
            (task, {"sick": sick, "kind": named}),
        ):
            module = ls.TaskModule(
                task_, nn.Linear(4, task_.num_outputs), optimizer={"name": "SGD", "lr": 0.0}
            )
            encoded, loss = self.fit(module, [(X, target)] * 3, evaluate)
            assert encoded == [False] * 3
            logits = module.net.cpu()(X)
            expected = nn.functional.cross_entropy(logits[:, :3], Y)
            if task_ is task:
                expected += nn.functional.binary_cross_entropy_with_logits(logits[:, 3], sick)
            assert loss == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("evaluate", [False, True])
    @pytest.mark.parametrize("change", ["a new tensor", "in place", "a view"])
    def test_a_hook_changes_the_target(self, gpu, change, evaluate):
        class Flips(ls.TaskModule):
            def on_after_batch_transfer(self, batch, dataloader_idx):
                inputs, target = batch
                if change == "in place":
                    target.copy_(2 - target)
                else:
                    target = target.flip(0) if change == "a view" else 2 - target
                return inputs, target

        module = Flips(TASK, nn.Linear(4, 3), optimizer={"name": "SGD", "lr": 0.0})
        _, loss = self.fit(module, [(X, Y.clone())] * 2, evaluate)
        wanted = Y.flip(0) if change == "a view" else 2 - Y
        expected = nn.functional.cross_entropy(module.net.cpu()(X), wanted)
        assert loss == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("evaluate", [False, True])
    def test_an_own_transfer_changes_the_target(self, gpu, evaluate):
        class Flips(ls.TaskModule):
            def transfer_batch_to_device(self, batch, device, dataloader_idx):
                return batch[0].to(device), (2 - batch[1]).to(device)

        module = Flips(TASK, nn.Linear(4, 3), optimizer={"name": "SGD", "lr": 0.0})
        _, loss = self.fit(module, [(X, Y)] * 2, evaluate)
        expected = nn.functional.cross_entropy(module.net.cpu()(X), 2 - Y)
        assert loss == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("evaluate", [False, True])
    def test_a_hook_corrects_the_target(self, gpu, evaluate):
        class FromOne(ls.TaskModule):
            def on_after_batch_transfer(self, batch, dataloader_idx):
                return batch[0], batch[1] - 1

        module = FromOne(TASK, nn.Linear(4, 3), optimizer={"name": "SGD", "lr": 0.0})
        _, loss = self.fit(module, [(X, Y + 1)] * 2, evaluate)
        assert loss == pytest.approx(nn.functional.cross_entropy(module.net.cpu()(X), Y).item(), rel=1e-5)

    def test_values_are_checked_before_the_transfer(self, gpu):
        with pytest.raises(DataError, match="Row 7 of the target is 5"):
            self.fit(ls.TaskModule(TASK, nn.Linear(4, 3)), [(X, Y.clone().index_fill(0, torch.tensor(7), 5))])

    def test_values_by_task_are_checked_before_the_transfer(self, gpu):
        task = ls.MultiTask({"kind": ls.Multiclass(3), "sick": ls.Binary()})
        target = {"kind": Y, "sick": torch.zeros(len(Y)).index_fill(0, torch.tensor(7), 2)}
        with pytest.raises(DataError, match=r"Row 7 of the target is 2.*Task 'sick'"):
            self.fit(ls.TaskModule(task, nn.Linear(4, 4)), [(X, target)])

    @pytest.mark.parametrize("change", ["a new tensor", "in place", "another key"])
    def test_a_hook_changes_the_target_of_a_task(self, gpu, change):
        class Changes(ls.TaskModule):
            def on_after_batch_transfer(self, batch, dataloader_idx):
                inputs, target = batch
                if change == "in place":
                    target["sick"].neg_().add_(1)
                elif change == "a new tensor":
                    target = {**target, "sick": 1 - target["sick"]}
                else:
                    target["sick"] = 1 - target.pop("healthy")
                return inputs, target

        task = ls.MultiTask({"kind": ls.Multiclass(3), "sick": ls.Binary()})
        module = Changes(task, nn.Linear(4, 4), optimizer={"name": "SGD", "lr": 0.0})
        key = "healthy" if change == "another key" else "sick"
        healthy = (torch.arange(len(Y)) % 3 == 0).float()
        _, loss = self.fit(module, [(X, {"kind": Y, key: healthy.clone()}) for _ in range(2)])
        logits = module.net.cpu()(X)
        expected = nn.functional.cross_entropy(logits[:, :3], Y)
        expected += nn.functional.binary_cross_entropy_with_logits(logits[:, 3], 1 - healthy)
        assert loss == pytest.approx(expected.item(), rel=1e-5)

    def test_a_step_with_a_part_of_the_batch(self, gpu):
        class Part(ls.TaskModule):
            def training_step(self, batch, batch_idx):
                return self.step(batch["labelled"])

        module = Part(TASK, nn.Linear(4, 3), optimizer={"name": "SGD", "lr": 0.0})
        _, loss = self.fit(module, [{"labelled": (X, Y), "unlabelled": X}])
        expected = nn.functional.cross_entropy(module.net.cpu()(X), Y)
        assert loss == pytest.approx(expected.item(), rel=1e-5)
