import math

import numpy as np
import pytest
import torch
from module_cases import TASKS, MyModel, labels_of, loader, long_tailed, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossselect as ls
from lossselect.losses.class_weights import class_prior


class TestTrainLabels:
    """Weights, priors and initial biases from the label counts that fit computes before the first step."""

    @pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
    def test_the_first_loss_is_about_the_entropy_of_the_labels(self, task, tmp_path):
        inputs, labels = long_tailed(task)
        module = MyModel(task, bias_init="prior", optimizer={"name": "SGD", "lr": 0.0})
        trainer(tmp_path).fit(module, loader(task, 400, labels=labels))
        counts = ls.count_labels(task, labels)
        prior = class_prior(task, counts)
        entropy = -(prior * np.log(prior)).sum()
        if task.activation == "sigmoid":
            entropy = -(prior * np.log(prior) + (1 - prior) * np.log(1 - prior)).mean()
        chance = math.log(3) if task.name == "multiclass" else math.log(2)
        first = module.trainer.callback_metrics["train/loss"].item()
        assert first == pytest.approx(entropy, rel=0.05)
        assert abs(first - entropy) < 0.1 * abs(chance - entropy)
        nn.init.zeros_(module.net[2].weight)  # without the influence of the inputs it is exactly the entropy
        logits = module(inputs).detach().double()
        assert ls.select_loss(task)(logits, task.encode(labels)).item() == pytest.approx(entropy, rel=1e-6)

    def test_the_head_of_a_custom_net_is_found(self, tmp_path):
        class Own(ls.TaskModule):
            def __init__(self, task, **kwargs):
                super().__init__(task=task, **kwargs)
                self.body = nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten())
                self.head = nn.Linear(18, task.num_outputs)

            def forward(self, x):
                return self.head(self.body(x.unsqueeze(1)))

        module = Own(ls.Multiclass(3), bias_init="prior", optimizer={"name": "SGD", "lr": 0.0})
        before = module.body[0].bias.clone()
        _, labels = long_tailed(ls.Multiclass(3))
        trainer(tmp_path).fit(module, loader(ls.Multiclass(3), 400, labels=labels))
        frequencies = np.bincount(labels, minlength=3) / 400
        np.testing.assert_allclose(module.head.bias.detach(), np.log(frequencies), rtol=1e-5)
        assert torch.equal(module.body[0].bias, before)

    def test_bias_init_zero_and_none(self, tmp_path):
        task = ls.Multiclass(3)
        for bias_init in ("zero", None):
            module = MyModel(task, bias_init=bias_init, optimizer={"name": "SGD", "lr": 0.0})
            before = module.net[2].bias.clone()
            trainer(tmp_path).fit(module, loader(task))
            want = torch.zeros(3) if bias_init else before
            assert torch.equal(module.net[2].bias, want)

    def test_a_net_without_a_last_bias(self, tmp_path):
        task = ls.Multiclass(3)
        module = ls.TaskModule(task, nn.Linear(8, 3, bias=False), bias_init="prior")
        with pytest.warns(
            ls.LossSelectWarning, match="No linear layer or convolution with 3 outputs has a bias"
        ):
            trainer(tmp_path).fit(module, loader(task))

    def test_a_head_that_is_not_the_last_one_registered(self, tmp_path):
        class Own(MyModel):
            def __init__(self, task, **kwargs):
                super().__init__(task, **kwargs)
                self.auxiliary = nn.Linear(8, task.num_outputs)

        with pytest.warns(ls.LossSelectWarning, match="but another layer computed the logits"):
            trainer(tmp_path).fit(Own(ls.Multiclass(3), bias_init="prior"), loader(ls.Multiclass(3)))

    def test_the_bias_is_initialised_once(self, tmp_path):
        task = ls.Binary()
        module = MyModel(task, bias_init="prior", optimizer={"name": "SGD", "lr": 0.5})
        data = loader(task)
        trainer(tmp_path).fit(module, data)
        learned = module.net[2].bias.clone()
        module.lr = 0.0
        trainer(tmp_path).fit(module, data)
        assert torch.equal(module.net[2].bias, learned)

    def test_a_resumed_run_keeps_its_bias(self, tmp_path):
        task, path = ls.Binary(), tmp_path / "a.ckpt"
        data = loader(task)
        first = trainer(tmp_path)
        first.fit(MyModel(task, bias_init="prior", optimizer={"name": "SGD", "lr": 0.5}), data)
        first.save_checkpoint(path)
        learned = first.lightning_module.net[2].bias.clone()
        module = MyModel(task, bias_init="prior", optimizer={"name": "SGD", "lr": 0.5})
        trainer(tmp_path, max_epochs=1).fit(module, data, ckpt_path=path, weights_only=True)
        assert torch.equal(module.net[2].bias, learned)
        loaded = MyModel.load_from_checkpoint(path)
        assert loaded.bias_init is None

    def test_weights_are_counted_and_saved(self, tmp_path):
        task, path = ls.Multiclass(3), tmp_path / "a.ckpt"
        _, labels = long_tailed(task)
        module = MyModel(task, loss={"name": "logit_adjusted", "weight": "balanced"})
        run = trainer(tmp_path)
        run.fit(module, loader(task, 400, labels=labels))
        counts = np.bincount(labels, minlength=3)
        np.testing.assert_allclose(module.criterion.weight, 400 / (3 * counts))
        np.testing.assert_allclose(module.criterion.prior, counts / 400)
        run.save_checkpoint(path)
        again = MyModel.load_from_checkpoint(path)
        assert again.criterion.to_dict() == module.criterion.to_dict()
        assert not again._needs_counts

    def test_counting_does_not_change_the_shuffle(self, tmp_path):
        task = ls.Binary()
        inputs = torch.randn(64, 8)
        data = TensorDataset(inputs, labels_of(task, inputs))

        def trained(**options):
            torch.manual_seed(5)
            module = MyModel(task, **options)
            trainer(tmp_path, max_epochs=2).fit(module, DataLoader(data, batch_size=16, shuffle=True))
            return module.net[0].weight

        count = int(labels_of(task, inputs).sum())
        counted = trained(loss={"name": "cross_entropy", "pos_weight": "auto"})
        assert torch.equal(
            counted, trained(loss={"name": "cross_entropy", "pos_weight": (64 - count) / count})
        )

    def test_a_loader_without_an_end(self, tmp_path):
        class Endless(torch.utils.data.IterableDataset):
            def __iter__(self):
                while True:
                    yield torch.randn(8), torch.tensor([1])

        module = MyModel(ls.Binary(), loss={"name": "cross_entropy", "pos_weight": "auto"})
        with pytest.raises(ValueError, match="a training loader without an end cannot be counted"):
            trainer(tmp_path, max_steps=3).fit(module, DataLoader(Endless(), batch_size=4))
        module.set_label_counts(ls.count_labels(ls.Binary(), [0, 1, 1]))
        with ls.ignore_warnings("class_without_rows"):
            trainer(tmp_path, max_steps=3).fit(module, DataLoader(Endless(), batch_size=4))

    def test_auto_is_chosen_in_fit(self, tmp_path):
        task = ls.Multilabel(3)
        module = MyModel(task, loss="auto")
        with pytest.raises(ValueError, match="loss=auto is chosen from the training labels"):
            module.criterion(torch.zeros(1, 3), torch.zeros(1, 3))
        _, labels = long_tailed(task)
        trainer(tmp_path).fit(module, loader(task, 400, labels=labels))
        options, reasons = ls.suggest_loss(task, ls.count_labels(task, labels))
        assert module.criterion.name == options["name"]
        assert module.criterion.reasons == reasons


class TestSampleWeights:
    def test_are_returned_by_unpack_batch(self, tmp_path):
        class Weighted(MyModel):
            def unpack_batch(self, batch):
                return batch

        task = ls.Multiclass(3)
        inputs = torch.randn(40, 8)
        labels, weight = labels_of(task, inputs), torch.rand(40)
        module = Weighted(task, optimizer={"name": "SGD", "lr": 0.0})
        trainer(tmp_path).fit(module, DataLoader(TensorDataset(inputs, labels, weight), batch_size=16))
        want = ls.select_loss(task)(module(inputs), labels, weight)
        torch.testing.assert_close(module.trainer.callback_metrics["train/loss"], want, check_dtype=False)

    def test_a_third_tensor_without_an_override_raises(self):
        with pytest.raises(ValueError, match=r"got a tuple of 3.*or \(inputs, target, sample_weight\)"):
            MyModel(ls.Binary()).training_step((torch.zeros(2, 8), torch.zeros(2), torch.ones(2)), 0)

    def test_negative_weights_and_losses_that_do_not_support_them(self):
        class Weighted(MyModel):
            def unpack_batch(self, batch):
                return batch

        batch = (torch.zeros(2, 8), torch.zeros(2), torch.tensor([1.0, -1.0]))
        with pytest.raises(ValueError, match="Row 1 has the sample weight -1"):
            Weighted(ls.Binary()).check_batch(batch)
        custom = Weighted(ls.Binary(), loss=nn.BCEWithLogitsLoss())
        with pytest.raises(ValueError, match="A custom loss does not support sample weights"):
            custom.check_batch((*batch[:2], torch.ones(2)))


def test_class_labels_with_missing_ones_are_counted(tmp_path):
    task = ls.Multiclass(3)
    inputs = torch.randn(40, 8)
    labels = labels_of(task, inputs).float()
    labels[::4] = float("nan")
    module = MyModel(task, loss={"name": "cross_entropy", "weight": "balanced"}, bias_init="prior")
    run = trainer(tmp_path)
    run.fit(module, loader(task, labels=labels))
    assert module.label_counts.missing == 10
    ls.tune_decision(run, module, loader(task, labels=labels))
    encoded = task.encode(labels)
    assert ls.count_labels(task, encoded).positives.tolist() == module.label_counts.positives.tolist()
    ls.fit_decision(task, module(inputs), encoded)


def test_counting_does_not_change_the_generator_of_a_loader(tmp_path):
    task = ls.Binary()
    data = TensorDataset(torch.arange(32.0).unsqueeze(1).repeat(1, 8), torch.arange(32) % 2)
    seen = {"prior": [], None: []}

    class Watched(MyModel):
        def forward(self, x):
            if self.training:
                seen[self.case].append(x[:, 0].clone())
            return super().forward(x)

    for bias_init in seen:
        batches = DataLoader(data, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1))
        module = Watched(task, bias_init=bias_init)
        module.case = bias_init
        trainer(tmp_path).fit(module, batches)
    assert all(torch.equal(a, b) for a, b in zip(*seen.values(), strict=True))
