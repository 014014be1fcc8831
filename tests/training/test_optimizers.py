import re

import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from module_cases import MyModel, loader, trainer
from torch import nn

import lossselect as ls
from lossselect.exceptions import OptionTypeError


class TestFused:
    def configure(self, **options):
        return MyModel(ls.Binary(), optimizer={"lr": 0.01, **options}).configure_optimizers().defaults

    def test_is_used_only_on_request(self):
        assert not self.configure(name="AdamW").get("fused")
        assert not MyModel(ls.Binary()).configure_optimizers().defaults.get("fused")
        assert self.configure(name="AdamW", fused=True)["fused"] is True

    @pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "Adagrad"])
    def test_auto_uses_it_if_torch_has_one(self, name):
        assert self.configure(name=name, fused="auto")["fused"] is True

    @pytest.mark.parametrize("options", [{"foreach": True}, {"differentiable": True}])
    def test_auto_does_not_use_it_if_the_user_chooses_another(self, options):
        assert not self.configure(name="Adam", fused="auto", **options)["fused"]

    def test_auto_does_not_use_it_if_not_supported(self):
        module = MyModel(ls.Binary(), optimizer={"name": "AdamW", "fused": "auto"})
        module.net.append(nn.Embedding(3, 2, sparse=True))
        assert not module.configure_optimizers().defaults["fused"]
        assert "fused" not in self.configure(name="RMSprop", fused="auto")

    def test_gives_the_same_weights(self, tmp_path):
        weights = []
        for fused in (True, False):
            torch.manual_seed(0)
            module = MyModel(ls.Multiclass(3), optimizer={"name": "Adam", "lr": 0.01, "fused": fused})
            data = loader(ls.Multiclass(3))
            trainer(tmp_path, max_epochs=5).fit(module, data, data)
            weights.append(torch.nn.utils.parameters_to_vector(module.parameters()))
        torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


class TestOptimizers:
    def configure(self, **specs):
        return MyModel(ls.Binary(), **specs).configure_optimizers()

    def test_adamw_by_default(self):
        assert isinstance(self.configure(), torch.optim.AdamW)

    def test_by_name_with_a_scheduler(self):
        configured = self.configure(
            optimizer={"name": "SGD", "lr": 0.5},
            scheduler={"name": "StepLR", "step_size": 3, "interval": "step"},
        )
        assert configured["optimizer"].param_groups[0]["lr"] == 0.5
        assert configured["lr_scheduler"]["scheduler"].step_size == 3
        assert configured["lr_scheduler"]["interval"] == "step"

    @pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/average_precision", "max")])
    def test_plateau_has_the_mode_of_its_metric(self, monitor, mode):
        configured = self.configure(scheduler={"name": "ReduceLROnPlateau", "monitor": monitor})
        assert configured["lr_scheduler"]["monitor"] == monitor
        assert configured["lr_scheduler"]["scheduler"].mode == mode

    def test_one_cycle_counts_steps(self):
        spec = {"name": "OneCycleLR", "max_lr": 0.1, "total_steps": 10}
        assert self.configure(scheduler=spec)["lr_scheduler"]["interval"] == "step"

    def test_an_optimizer_instance(self):
        module = MyModel(ls.Binary())
        module._optimizer_spec = torch.optim.SGD(module.parameters())
        with pytest.raises(OptionTypeError, match=r"got an instance of SGD\. Pass 'SGD'"):
            module.configure_optimizers()

    def test_names_without_options(self):
        configured = self.configure(optimizer="SGD", scheduler="ReduceLROnPlateau")
        assert isinstance(configured["optimizer"], torch.optim.SGD)
        assert configured["lr_scheduler"]["scheduler"].mode == "min"

    @pytest.mark.parametrize(
        ("spec", "lr"),
        [(None, 1e-3), ("SGD", 1e-3), ("Adadelta", 1.0), ({"name": "SGD", "lr": 0.5}, 0.5)],
    )
    def test_the_learning_rate_is_an_attribute(self, spec, lr):
        module = MyModel(ls.Binary(), optimizer=spec)
        assert module.lr == lr == module.configure_optimizers().defaults["lr"]
        module.lr = 0.25
        assert module.configure_optimizers().defaults["lr"] == 0.25

    def test_a_learning_rate_of_a_subclass(self):
        class WithRate(MyModel):
            lr = 0.1

        assert WithRate(ls.Binary()).configure_optimizers().defaults["lr"] == 0.1

    def test_groups_of_named_parameters(self):
        def groups(named_parameters):
            pairs = list(named_parameters)
            heads = [(name, parameter) for name, parameter in pairs if name.startswith("net.2.")]
            rest = [(name, parameter) for name, parameter in pairs if not name.startswith("net.2.")]
            assert len(heads) == len(rest) == 2
            return torch.optim.SGD([{"params": heads, "lr": 0.1}, {"params": rest}], lr=0.01)

        optimizer = self.configure(optimizer=groups)
        assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
        assert not hasattr(MyModel(ls.Binary(), optimizer=groups), "lr")

    def test_only_trainable_parameters_are_passed(self):
        module = MyModel(ls.Binary(), optimizer=lambda named_parameters: torch.optim.SGD(named_parameters))
        module.net[0].requires_grad_(False)
        (group,) = module.configure_optimizers().param_groups
        assert group["param_names"] == ["net.2.weight", "net.2.bias"]

    def test_frozen_layers_that_are_trained_later(self, tmp_path):
        class Frozen(MyModel):
            def __init__(self, task, **kwargs):
                super().__init__(task, **kwargs)
                self.backbone = self.net[0]

        def groups(named_parameters):
            return torch.optim.SGD([parameter for _, parameter in named_parameters], lr=0.1)

        module, task = Frozen(ls.Binary(), optimizer=groups), ls.Binary()
        before = module.backbone.weight.detach().clone()
        data, callbacks = loader(task), [BackboneFinetuning(1, train_bn=False, verbose=False)]
        fitted = trainer(tmp_path, max_epochs=3, callbacks=callbacks)
        fitted.fit(module, data)
        assert [len(group["params"]) for group in fitted.optimizers[0].param_groups] == [2, 2]
        assert not torch.equal(module.backbone.weight, before)

    def test_callables(self):
        configured = self.configure(
            optimizer=lambda p: torch.optim.SGD(p, lr=0.3),
            scheduler=lambda o: torch.optim.lr_scheduler.ConstantLR(o),
        )
        assert configured["optimizer"].defaults["lr"] == 0.3

    @pytest.mark.parametrize(
        ("specs", "message"),
        [
            ({"optimizer": {"name": "Adm"}}, "Did you mean 'Adam'?"),
            ({"optimizer": {"name": "SGD", "lr": -1}}, "Optimizer 'SGD' cannot be built with {'lr': -1}"),
            (
                {"optimizer": {"name": "SGD", "lr": "fast"}},
                "Optimizer 'SGD': lr must be a number, got 'fast'.",
            ),
            ({"optimizer": {"name": "SGD", "rate": 1}}, "Optimizer 'SGD' has no option 'rate'"),
            ({"scheduler": {"name": "StepLR", "size": 1}}, "Scheduler 'StepLR' has no option 'size'"),
        ],
    )
    def test_invalid_specs(self, specs, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            self.configure(**specs)

    def test_nothing_to_train(self):
        module = MyModel(ls.Binary()).requires_grad_(False)
        with pytest.raises(ValueError, match="No parameter of the module requires a gradient"):
            module.configure_optimizers()
