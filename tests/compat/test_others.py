"""Tests of the private parts of other libraries that the other compat modules use."""

import logging

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torchmetrics import MeanMetric

from lossselect.compat import hydra as compat_hydra
from lossselect.compat import torch as compat_torch
from lossselect.compat import torchmetrics as compat_metrics
from lossselect.exceptions import UnsupportedError


class TestTorch:
    def test_the_largest_of_each(self):
        tensors = [torch.tensor([1.0, -3.0]), torch.tensor([torch.nan, 1.0]), torch.tensor([1e30, 1e30])]
        first, second, third = compat_torch.largest_of_each(tensors)
        assert first == 3
        assert second.isnan()
        assert third == torch.tensor(1e30)  # not computed from the square, which would be infinite

    def test_hooks(self):
        layer = nn.Linear(2, 2)
        assert not compat_torch.has_forward_hooks(layer)
        layer.register_forward_pre_hook(lambda *arguments: None)
        assert compat_torch.has_forward_hooks(layer)

    def test_each_operation_is_dispatched(self):
        seen = []

        class Mode(compat_torch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                seen.append(func)
                return func(*args, **(kwargs or {}))

        with Mode():
            torch.ones(2) + 1
        assert torch.ops.aten.add.Tensor in seen
        assert compat_torch.tree_leaves({"a": [1, 2], "b": 3}) == [1, 2, 3]


class TestTorchmetrics:
    def test_the_number_of_updates(self):
        metric = MeanMetric()
        metric.update(2.0)
        assert metric.update_count == 1
        assert metric.compute() == 2
        assert compat_metrics.computed_value(metric) == 2
        compat_metrics.set_update_count(metric, 5)
        assert metric.update_called
        assert metric.update_count == 5
        assert compat_metrics.computed_value(metric) is None

    def test_states_are_shared(self):
        metric, other = MeanMetric(), MeanMetric()
        other.update(2.0)
        compat_metrics.share_states(metric, other, None, name="mean")
        assert metric.compute() == 2
        assert metric.name == "mean"
        assert metric.update_count == 1
        compat_metrics.share_states(metric, other, torch.tensor(7.0))
        assert metric.compute() == 7


class TestHydra:
    def test_classes_logging_and_sources_are_checked(self, monkeypatch):
        resolved, configured = [], []
        for owner, name in (
            (compat_hydra.logging_config, "configure_logging"),
            (compat_hydra._instantiate2, "_resolve_target"),
            (compat_hydra.ConfigRepository, "initialize_sources"),
            (compat_hydra.Hydra, "get_mode"),
        ):
            monkeypatch.setattr(owner, name, getattr(owner, name))

        def resolve(target, full_key):
            resolved.append(target)
            return compat_hydra.resolve_target(target, full_key)

        compat_hydra.install_checks(resolve, configured.append, compat_hydra.initialize_sources)
        assert instantiate({"_target_": "collections.Counter"}) == {}
        assert resolved == ["collections.Counter"]
        compat_hydra.logging_config.configure_logging({"root": {}})
        assert configured == [{"root": {}}]
        assert logging.getLogger("hydra") is not None

    def test_a_hydra_without_one_of_the_functions(self, monkeypatch):
        monkeypatch.setattr(compat_hydra, "configure_log", None)
        with pytest.raises(UnsupportedError, match=r"does not support Hydra 1\.\S+: it could not check"):
            compat_hydra.install_checks(print, print, print)

    def test_the_mode_of_a_config_or_an_override_is_found(self, tmp_path, command):
        path = tmp_path / "configs" / "experiment" / "sweeps.yaml"
        path.parent.mkdir(parents=True)
        path.write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
        for given in (["hydra.mode=MULTIRUN"], ["--config-dir=configs", "experiment=sweeps"]):
            code, out, said = command("task=binary", "check_only=true", *given)
            assert code == 0, said
            assert "task=binary check_only=true" in out  # printed above the plan of each job of a sweep
        code, out, _ = command("task=binary", "check_only=true")
        assert "task=binary check_only=true" not in out
