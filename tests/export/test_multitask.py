"""Export of several tasks: outputs named after the tasks."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import lossselect as ls

TASKS = {
    "species": ls.Multiclass(3, class_names=("cat", "dog", "owl"), temperature=1.5),
    "tags": ls.Multilabel(2, threshold=(0.3, 0.6)),
    "sick": ls.Binary(threshold=0.7),
}


class ByTask(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.heads = nn.ModuleDict({name: nn.Linear(8, task.num_outputs) for name, task in TASKS.items()})

    def forward(self, x):
        hidden = self.body(x).relu()
        return {name: head(hidden) for name, head in self.heads.items()}


def module_of(net):
    torch.manual_seed(0)
    return ls.TaskModule(ls.MultiTask(TASKS), ByTask() if net == "by task" else net).eval()


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors"])
@pytest.mark.parametrize("net", [{"name": "mlp", "num_features": 4}, "by task"], ids=["mlp", "by task"])
def test_predicts_like_the_module(net, suffix, tmp_path):
    if net == "by task" and suffix == ".safetensors":
        pytest.skip("only built-in nets")
    module, path, inputs = module_of(net), tmp_path / f"model{suffix}", torch.randn(50, 4)
    differences = ls.export_model(module, path, inputs=inputs)
    assert differences["rows"] == 50
    assert differences["predictions"] == 0
    model = ls.load_exported(path, trust=True)
    assert model.task == module.task
    found, expected = model(inputs.numpy()), module.predict(inputs)
    assert found.keys() == TASKS.keys()
    for name in TASKS:
        torch.testing.assert_close(found[name].probabilities, expected["probabilities"][name])
        assert torch.equal(found[name].predictions, expected["prediction"][name])


def test_names_in_onnx(tmp_path):
    """A program without this package finds names of outputs, classes and thresholds."""
    onnxruntime = pytest.importorskip("onnxruntime")
    module, path = module_of("by task"), tmp_path / "model.onnx"
    ls.export_model(module, path, inputs=torch.randn(8, 4))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fields = ("logits", "probabilities", "predictions")
    assert [out.name for out in session.get_outputs()] == [
        f"{name}.{field}" for name in TASKS for field in fields
    ]
    (logits,) = session.run(["species.logits"], {"features": np.zeros((5, 4), np.float32)})
    assert logits.shape == (5, 3)
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["lossselect"])
    assert metadata["tasks"]["species"]["class_names"] == ["cat", "dog", "owl"]
    assert metadata["tasks"]["tags"]["threshold"] == [0.3, 0.6]
