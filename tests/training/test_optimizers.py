import re

import pytest
import torch
from module_cases import MyModel, loader, trainer
from torch import nn

import lossselect as ls


class TestFused:
    @pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "Adagrad"])
    def test_where_torch_has_one(self, name):
        module = MyModel(ls.Binary(), optimizer={"name": name, "lr": 0.01})
        assert module.configure_optimizers().defaults["fused"] is True

    @pytest.mark.parametrize("given", [{"fused": False}, {"foreach": True}, {"differentiable": True}])
    def test_the_users_word_counts(self, given):
        module = MyModel(ls.Binary(), optimizer={"name": "Adam", **given})
        assert not module.configure_optimizers().defaults["fused"]

    def test_not_where_it_cannot_be(self, tmp_path):
        module = MyModel(ls.Binary())
        module.net.append(nn.Embedding(3, 2, sparse=True))
        assert not module.configure_optimizers().defaults["fused"]
        assert MyModel(ls.Binary(), optimizer="RMSprop").configure_optimizers()

    def test_the_same_numbers(self, tmp_path):
        weights = []
        for fused in (True, False):
            torch.manual_seed(0)
            module = MyModel(ls.Multiclass(3), optimizer={"name": "Adam", "lr": 0.01, "fused": fused})
            data = loader(ls.Multiclass(3))
            trainer(tmp_path, max_epochs=5).fit(module, data, data)
            weights.append(torch.nn.utils.parameters_to_vector(module.parameters()))
        torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


class TestOptimizers:
    def configured(self, **specs):
        return MyModel(ls.Binary(), **specs).configure_optimizers()

    def test_adamw_by_default(self):
        assert isinstance(self.configured(), torch.optim.AdamW)

    def test_by_name_with_a_scheduler(self):
        made = self.configured(
            optimizer={"name": "SGD", "lr": 0.5},
            scheduler={"name": "StepLR", "step_size": 3, "interval": "step"},
        )
        assert made["optimizer"].param_groups[0]["lr"] == 0.5
        assert made["lr_scheduler"]["scheduler"].step_size == 3
        assert made["lr_scheduler"]["interval"] == "step"

    @pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/average_precision", "max")])
    def test_plateau_watches_in_the_right_direction(self, monitor, mode):
        made = self.configured(scheduler={"name": "ReduceLROnPlateau", "monitor": monitor})
        assert made["lr_scheduler"]["monitor"] == monitor
        assert made["lr_scheduler"]["scheduler"].mode == mode

    def test_one_cycle_counts_steps(self):
        spec = {"name": "OneCycleLR", "max_lr": 0.1, "total_steps": 10}
        assert self.configured(scheduler=spec)["lr_scheduler"]["interval"] == "step"

    def test_an_optimizer_that_is_made_already(self):
        module = MyModel(ls.Binary())
        module._optimizer_spec = torch.optim.SGD(module.parameters())
        with pytest.raises(TypeError, match="makes an optimizer of its own parameters: pass 'SGD'"):
            module.configure_optimizers()

    def test_by_name_alone(self):
        made = self.configured(optimizer="SGD", scheduler="ReduceLROnPlateau")
        assert isinstance(made["optimizer"], torch.optim.SGD)
        assert made["lr_scheduler"]["scheduler"].mode == "min"

    def test_callables(self):
        made = self.configured(
            optimizer=lambda p: torch.optim.SGD(p, lr=0.3),
            scheduler=lambda o: torch.optim.lr_scheduler.ConstantLR(o),
        )
        assert made["optimizer"].defaults["lr"] == 0.3

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
    def test_mistakes(self, specs, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            self.configured(**specs)

    def test_nothing_to_train(self):
        module = MyModel(ls.Binary()).requires_grad_(False)
        with pytest.raises(ValueError, match="No parameter of the module requires a gradient"):
            module.configure_optimizers()
