import copy
import enum
import inspect
import pickle
from collections import Counter, defaultdict
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from module_cases import MyModel, loader, trainer
from torch import nn

import lossselect as ls
from lossselect.training.checkpoints.content import to_plain


class Color(enum.StrEnum):
    RED = "red"


class TestPlainValues:
    @pytest.mark.parametrize(
        ("value", "kept"),
        [
            (np.float64(1.5), 1.5),
            (Color.RED, "red"),
            ({2: np.int64(3), "a": (1, [None, True])}, {2: 3, "a": (1, [None, True])}),
            (ls.Binary(threshold=0.2), ls.Binary(threshold=0.2).to_dict()),
            (range(2), [0, 1]),
        ],
    )
    def test_kept(self, value, kept):
        assert to_plain(value) == kept
        assert type(to_plain(value)) is type(kept)

    @pytest.mark.parametrize(
        "value", [nn.Identity(), len, {1, 2}, b"x", {(1, 2): 3}, object(), Counter("ab"), defaultdict(int)]
    )
    def test_not_kept(self, value):
        with pytest.raises(TypeError):
            to_plain(value)


class TestCheckpoints:
    def saved(self, tmp_path, module):
        run = trainer(tmp_path)
        run.fit(module, loader(module.task))
        run.save_checkpoint(tmp_path / "x.ckpt")
        return tmp_path / "x.ckpt"

    def test_hparams_contain_defaults(self):
        class Sized(ls.TaskModule):
            def __init__(self, width, depth=2, act=nn.ReLU, **kwargs):
                super().__init__(ls.Binary(), **kwargs)

        assert dict(Sized(4, loss="focal").hparams) == {"width": 4, "depth": 2, "loss": "focal"}
        assert Sized(4, depth=3).hparams.depth == 3

    def test_only_arguments_of_the_subclass_are_kept(self, tmp_path):
        class Fixed(MyModel):
            def __init__(self, task, width, folder, backbone, *, weights, sizes):
                self.weights, self.sizes = weights, sizes
                super().__init__(task, hidden=width, loss="focal")

        sizes = np.arange(3)
        weights = torch.tensor([1.0, 2.0])
        module = Fixed(ls.Binary(), 4, Path("a/b"), nn.Identity(), weights=weights, sizes=sizes)
        assert dict(module.hparams) == {"task": ls.Binary().to_dict(), "width": 4, "folder": "a/b"}
        path = self.saved(tmp_path, module)
        with pytest.raises(
            ValueError, match=r"cannot contain: backbone, sizes\. Pass backbone=\.\.\., sizes"
        ):
            Fixed.load_from_checkpoint(path)
        again = Fixed.load_from_checkpoint(path, backbone=nn.Identity(), sizes=sizes)
        assert again.criterion.name == "focal"
        assert torch.equal(again.weights, weights)

    def test_the_call_is_kept_as_it_was(self, tmp_path):
        class Changing(ls.TaskModule):
            def __init__(self, num_features, /, *sizes, task, depth=1, **options):
                depth = depth + 1
                options.pop("note", None)
                options.setdefault("loss", "focal")
                super().__init__(task, **options)
                self.seen = (num_features, sizes, depth)
                self.net = nn.Linear(num_features, task.num_outputs)
                task = num_features = sizes = None

        path = self.saved(tmp_path, Changing(8, 4, 5, task=ls.Binary(), depth=3, note={1: "a"}))
        content = torch.load(path, weights_only=True)
        assert content["arguments"] == {
            "num_features": 8,
            "sizes": (4, 5),
            "task": ls.Binary().to_dict(),
            "depth": 3,
            "note": {1: "a"},
        }
        again = Changing.load_from_checkpoint(path)
        assert again.seen == (8, (4, 5), 4)
        assert again.criterion.name == "focal"

    def test_a_default_that_is_not_plain_need_not_be_passed(self, tmp_path):
        class Default(ls.TaskModule):
            def __init__(self, task, make=nn.Linear):
                super().__init__(task)
                self.net = make(8, task.num_outputs)

        assert Default.load_from_checkpoint(self.saved(tmp_path, Default(ls.Binary()))).task == ls.Binary()

    def test_a_copy_keeps_the_call(self):
        module = MyModel(ls.Binary(), hidden=3)
        assert copy.deepcopy(module)._arguments == module._arguments

    def test_a_wrong_call_raises_the_error_of_init(self):
        with pytest.raises(TypeError, match=r"__init__\(\) got an unexpected keyword argument 'hiden'"):
            MyModel(ls.Binary(), hiden=3)

    def test_a_net_built_in_configure_model(self, tmp_path):
        class Late(ls.TaskModule):
            def configure_model(self):
                if self.net is None:
                    self.net = nn.Linear(8, 1)

        module = Late(ls.Binary())
        path = self.saved(tmp_path, module)
        assert torch.equal(Late.load_from_checkpoint(path).net.weight, module.net.weight)

    def test_a_loss_that_was_changed_is_kept(self, tmp_path):
        module = MyModel(ls.Binary())
        module.criterion = ls.select_loss(ls.Binary(), "focal", gamma=4, pos_weight=3)
        again = MyModel.load_from_checkpoint(self.saved(tmp_path, module))
        assert again.criterion.to_dict() == module.criterion.to_dict()

    def test_an_argument_changed_at_loading_changes_the_loss(self, tmp_path):
        class Focal(MyModel):
            def __init__(self, task, gamma=2.0):
                super().__init__(task, loss={"name": "focal", "gamma": gamma})

        path = self.saved(tmp_path, Focal(ls.Binary(), gamma=3.0))
        assert Focal.load_from_checkpoint(path).criterion.options == {"gamma": 3.0}
        assert Focal.load_from_checkpoint(path, gamma=1.0).criterion.options == {"gamma": 1.0}

    def test_a_tensor_that_changes_later_is_kept_as_it_was(self, tmp_path):
        weight = torch.ones(3)
        module = MyModel(ls.Multilabel(3), loss={"name": "focal", "weight": weight})
        weight *= 5
        again = MyModel.load_from_checkpoint(self.saved(tmp_path, module))
        assert again.criterion.weight.tolist() == module.criterion.weight.tolist() == [1, 1, 1]
        assert module._arguments["loss"]["weight"].tolist() == [1, 1, 1]

    def test_a_subclass_is_not_loaded_as_another_model(self, tmp_path):
        class Scaled(ls.TaskModule):
            def forward(self, x):
                return super().forward(x / 255)

        path = self.saved(tmp_path, Scaled(ls.Binary(), {"name": "linear", "num_features": 8}))
        with pytest.raises(ValueError, match="contains a Scaled, whose forward may differ"):
            ls.TaskModule.load_from_checkpoint(path)
        assert Scaled.load_from_checkpoint(path).task == ls.Binary()

    def test_an_argument_called_task_that_is_not_a_task(self, tmp_path):
        class Named(ls.TaskModule):
            def __init__(self, width, *, task="x"):
                super().__init__(ls.Binary(), nn.Linear(8, 1))
                self.kind = task

        assert Named.load_from_checkpoint(self.saved(tmp_path, Named(3, task="multi"))).kind == "multi"

    def test_numbers_of_numpy_in_a_callback(self, tmp_path):
        class Counting(L.Callback):
            def state_dict(self):
                return {"best": np.float64(0.5), "curve": np.arange(3)}

        run = trainer(tmp_path, callbacks=[Counting()])
        run.fit(MyModel(ls.Binary()), loader(ls.Binary()))
        run.save_checkpoint(tmp_path / "x.ckpt")
        assert MyModel.load_from_checkpoint(tmp_path / "x.ckpt").task == ls.Binary()

    def test_values_of_a_subclass_that_cannot_be_loaded(self, tmp_path):
        class Adding(MyModel):
            def on_save_checkpoint(self, checkpoint):
                checkpoint["mine"] = np.arange(3)

        with pytest.raises(
            ValueError,
            match=r"more than tensors and plain values, for example numpy\S+\. .*save_weights_only",
        ):
            Adding.load_from_checkpoint(self.saved(tmp_path, Adding(ls.Binary())))

    def test_numbers_of_numpy_in_an_optimizer(self, tmp_path):
        module = MyModel(
            ls.Binary(),
            optimizer=lambda p: torch.optim.SGD(p, lr=np.float64(0.1), momentum=np.float32(0.5)),
            scheduler={"name": "StepLR", "step_size": np.int64(2), "gamma": np.float64(0.5)},
        )
        group = torch.load(self.saved(tmp_path, module), weights_only=True)["optimizer_states"][0][
            "param_groups"
        ][0]
        assert (type(group["lr"]), group["momentum"]) == (float, 0.5)

    @pytest.mark.parametrize(
        "place", [None, torch.device("cpu"), {"cuda:0": "cpu"}, lambda storage, _: storage]
    )
    def test_map_location(self, place, tmp_path):
        again = MyModel.load_from_checkpoint(self.saved(tmp_path, MyModel(ls.Binary())), map_location=place)
        assert again.device.type == "cpu"

    def test_weights_only_cannot_be_switched_off(self, tmp_path):
        path = self.saved(tmp_path, MyModel(ls.Binary()))
        assert MyModel.load_from_checkpoint(path, weights_only=True)
        with pytest.raises(ValueError, match="weights_only=False is not supported"):
            MyModel.load_from_checkpoint(path, weights_only=False)

    def test_a_module_within_a_module_keeps_its_own_arguments(self):
        class Outer(ls.TaskModule):
            def __init__(self, task):
                super().__init__(task)
                self.inner = ls.TaskModule(ls.Multiclass(4), nn.Linear(2, 4))

        assert Outer(ls.Binary()).inner.hparams["task"]["name"] == "multiclass"

    def test_a_custom_net_must_be_passed(self, tmp_path):
        path = self.saved(tmp_path, ls.TaskModule(ls.Binary(), nn.Linear(8, 1)))
        with pytest.raises(
            ValueError, match=r"cannot contain: net\. Pass net=\.\.\. to load_from_checkpoint"
        ):
            ls.TaskModule.load_from_checkpoint(path)
        assert ls.TaskModule.load_from_checkpoint(path, net=nn.Linear(8, 1)).task == ls.Binary()

    def test_a_checkpoint_of_another_task_raises(self, tmp_path):
        path = self.saved(tmp_path, MyModel(ls.Multilabel(3, class_names=("a", "b", "c"))))
        with pytest.raises(
            ValueError, match="trained for multilabel with 3 labels, but the task is multiclass"
        ):
            trainer(tmp_path).fit(MyModel(ls.Multiclass(3)), loader(ls.Multiclass(3)), ckpt_path=path)
        with pytest.raises(ValueError, match=r"class names are \['a', 'b', 'c'\], but the task's are"):
            MyModel.load_from_checkpoint(path, task=ls.Multilabel(3, class_names=("c", "b", "a")))

    def test_a_subclass_that_chooses_its_task(self, tmp_path):
        class Own(MyModel):
            def __init__(self, hidden=4):
                super().__init__(ls.Binary(class_names=("n", "p")), hidden)

        path = self.saved(tmp_path, Own())
        assert Own.load_from_checkpoint(path).task.names == ("n", "p")
        trainer(tmp_path, max_epochs=2).fit(Own(), loader(ls.Binary()), ckpt_path=path, weights_only=True)

    def test_a_threshold_that_was_changed_in_a_subclass_that_chooses_its_task(self, tmp_path):
        class Own(MyModel):
            def __init__(self):
                super().__init__(ls.Binary())

        module = Own()
        module.task = ls.Binary(threshold=0.2)
        assert Own.load_from_checkpoint(self.saved(tmp_path, module)).task.threshold == 0.2

    @pytest.mark.parametrize("options", [{}, {"ignore": ["task"]}])
    def test_a_subclass_that_saves_its_hyperparameters_itself(self, options, tmp_path):
        class Saving(MyModel):
            def __init__(self, task, hidden=4):
                super().__init__(task, hidden)
                self.save_hyperparameters(**options)

        path = self.saved(tmp_path, Saving(ls.Binary(class_names=("n", "p")), hidden=8))
        again = Saving.load_from_checkpoint(path)
        assert again.task.names == ("n", "p")
        assert again.net[0].out_features == 8

    def test_numbers_of_numpy_and_losses_of_select_loss_are_kept(self, tmp_path):
        path = self.saved(tmp_path, MyModel(ls.Binary(), loss={"name": "focal", "gamma": np.float64(1.5)}))
        assert MyModel.load_from_checkpoint(path).criterion.options == {"gamma": 1.5}
        path = self.saved(
            tmp_path, MyModel(ls.Binary(), loss=ls.select_loss(ls.Binary(), "focal", pos_weight=2))
        )
        assert MyModel.load_from_checkpoint(path).criterion.pos_weight.item() == 2

    def test_values_that_are_not_plain_are_never_replaced_by_a_default(self, tmp_path):
        def loss(logits, target):
            return (logits.sigmoid() - target).abs().mean()

        path = self.saved(
            tmp_path, MyModel(ls.Binary(), loss=loss, optimizer=lambda p: torch.optim.SGD(p, lr=0.3))
        )
        with pytest.raises(ValueError, match="a checkpoint cannot contain: loss"):
            MyModel.load_from_checkpoint(path)
        again = MyModel.load_from_checkpoint(path, loss=loss)
        assert again(torch.zeros(1, 8)).shape == (1, 1)
        with pytest.raises(ValueError, match=r"does not contain the optimizer that it was trained with"):
            trainer(tmp_path).fit(again, loader(ls.Binary()))

    def test_an_argument_that_the_class_does_not_accept(self, tmp_path):
        path = self.saved(tmp_path, MyModel(ls.Binary()))

        class Renamed(ls.TaskModule):
            def __init__(self, task, width): ...

        with pytest.raises(
            ValueError, match=r"Renamed cannot be built from .*missing a required argument: 'width'"
        ):
            Renamed.load_from_checkpoint(path)

    def test_a_bug_in_the_users_own_init_is_not_hidden(self, tmp_path):
        path = self.saved(tmp_path, MyModel(ls.Binary()))

        class Broken(MyModel):
            def __init__(self, task, **kwargs):
                len(5)

        with pytest.raises(TypeError, match="has no len"):
            Broken.load_from_checkpoint(path)

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"epoch,loss\n1,2\n"])
    def test_a_file_that_is_not_a_checkpoint(self, content, tmp_path):
        path = tmp_path / "x.ckpt"
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"x.ckpt \({len(content)} bytes\) cannot be read as a checkpoint"
        ):
            MyModel.load_from_checkpoint(path)

    def test_a_truncated_file(self, tmp_path):
        path = self.saved(tmp_path, MyModel(ls.Binary()))
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            MyModel.load_from_checkpoint(path)

    def test_a_file_of_something_else(self, tmp_path):
        torch.save({"state_dict": {}}, tmp_path / "x.ckpt")
        with pytest.raises(ValueError, match=r"not a checkpoint of a lossselect\.TaskModule"):
            MyModel.load_from_checkpoint(tmp_path / "x.ckpt")
        with pytest.raises(FileNotFoundError, match="Checkpoint not found"):
            MyModel.load_from_checkpoint(tmp_path / "none.ckpt")

    def test_nothing_in_a_checkpoint_is_executed(self, tmp_path):
        class Hostile:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "executed",))

        torch.save({"hyper_parameters": {}, "task": Hostile()}, tmp_path / "x.ckpt")
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            MyModel.load_from_checkpoint(tmp_path / "x.ckpt")
        assert not (tmp_path / "executed").exists()


def test_a_module_that_mixes_can_be_pickled():
    module = MyModel(ls.Binary(), mix={"name": "mixup", "alpha": 0.5})
    assert pickle.loads(pickle.dumps(module))._mix is not None


def test_another_optimizer_at_loading_leaves_the_loss(tmp_path):
    task, path = ls.Binary(), tmp_path / "a.ckpt"
    run = trainer(tmp_path)
    run.fit(MyModel(task, loss={"name": "cross_entropy", "pos_weight": "auto"}), loader(task))
    run.save_checkpoint(path)
    again = MyModel.load_from_checkpoint(path, optimizer="SGD", bias_init="zero")
    assert not again.criterion.waiting


def test_another_argument_of_a_subclass_at_loading_leaves_the_loss(tmp_path):
    class Named(MyModel):
        def __init__(self, task, title="a", **kwargs):
            super().__init__(task, **kwargs)

    task, path = ls.Binary(), tmp_path / "a.ckpt"
    run, module = trainer(tmp_path), Named(task, loss={"name": "cross_entropy", "pos_weight": "auto"})
    run.fit(module, loader(task))
    run.save_checkpoint(path)
    again = Named.load_from_checkpoint(path, title="b")
    assert torch.equal(again.criterion.pos_weight, module.criterion.pos_weight)


def test_all_arguments_but_the_loss_are_independent_of_it():
    """A new argument of `TaskModule` must be added to `LOSS_INDEPENDENT` or here."""
    from lossselect.training.checkpoints.load import LOSS_INDEPENDENT

    arguments = [*inspect.signature(ls.TaskModule.__init__).parameters][1:]
    assert {*arguments} == {*LOSS_INDEPENDENT, "loss"}
