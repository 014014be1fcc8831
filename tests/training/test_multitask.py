"""Training of several tasks: the same numbers as those of the tasks by themselves."""

import math

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from trainers import quiet_trainer

import lossselect as ls
from lossselect.exceptions import CheckpointError, ConfigError, DataError

TASKS = {"species": ls.Multiclass(3, missing=-1), "tags": ls.Multilabel(2), "sick": ls.Binary()}
LOSSES = {
    "species": {"name": "focal", "weight": [1.0, 2, 3]},
    "tags": {"name": "cross_entropy", "pos_weight": "auto"},
    "sick": {"name": "cross_entropy", "label_smoothing": 0.1},
}
ROWS = 120


def make_rows(share_missing=0.6, rows=ROWS):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, 8, generator=generator)
    labels = {
        "species": torch.randint(3, (rows,), generator=generator),
        "tags": (inputs[:, :2] + torch.randn(rows, 2, generator=generator) > 0).float(),
        "sick": (inputs[:, 2] > 0).float(),
    }
    for name, values in labels.items():
        missing = torch.rand(values.shape, generator=generator) < share_missing
        values[missing] = -1 if name == "species" else torch.nan
    return inputs, labels


def loader_of(inputs, labels, name=None, batch_size=32):
    def target(i):
        by_task = {key: values[i] for key, values in labels.items()}
        return by_task if name is None else by_task[name]

    return DataLoader([(inputs[i], target(i)) for i in range(len(inputs))], batch_size)


class Backbone(nn.Module):
    """A frozen layer and a head of each task."""

    def __init__(self, tasks, joined):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Linear(8, 16).requires_grad_(False)
        self.heads = nn.ModuleDict()
        for name in tasks:  # equal weights of a head, whichever other heads there are
            torch.manual_seed(len(name))
            self.heads[name] = nn.Linear(16, TASKS[name].num_outputs)
        self.joined = joined

    def forward(self, x):
        hidden = self.body(x).relu()
        return (
            {name: head(hidden) for name, head in self.heads.items()}
            if self.joined
            else self.heads[self.name](hidden)
        )


def fit(task, names, labels_of, loss, weights=None, **options):
    inputs, labels = make_rows()
    net = Backbone(names, joined=len(names) > 1)
    net.name = names[0]
    module = ls.TaskModule(task, net, loss, {"name": "SGD", "lr": 0.5}, **options)
    trainer = quiet_trainer(max_epochs=2, enable_checkpointing=False)
    loader = loader_of(inputs, labels, labels_of)
    trainer.fit(module, loader, loader)
    return module, trainer


@pytest.fixture(scope="module")
def several():
    return fit(ls.MultiTask(TASKS), [*TASKS], None, LOSSES, bias_init="prior")


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_trained_as_by_itself_on_a_frozen_backbone(several, name):
    module, trainer = several
    single, other = fit(TASKS[name], [name], name, LOSSES[name], bias_init="prior")
    for key in ("weight", "bias"):
        found, expected = (getattr(each.net.heads[name], key) for each in (module, single))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for key, expected in other.callback_metrics.items():
        stage, _, metric = key.partition("/")
        found = trainer.callback_metrics[f"{stage}/{name}/{metric}"]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, equal_nan=True)


def test_the_total_is_the_sum_of_the_tasks(several):
    metrics = several[1].callback_metrics
    for stage in ("train", "val"):
        total = sum(metrics[f"{stage}/{name}/loss"] for name in TASKS)
        torch.testing.assert_close(metrics[f"{stage}/loss"], total, rtol=0, atol=1e-6)
        assert total.isfinite()


class Plain(L.LightningModule):
    """The same as the `several` fixture without this package, written by hand."""

    def __init__(self):
        super().__init__()
        self.net = Backbone([*TASKS], joined=True)
        labels = make_rows()[1]
        with torch.no_grad():  # the initial biases
            species = labels["species"]
            counts = torch.stack([(species == c).sum() for c in range(3)]) * torch.tensor([1.0, 2, 3])
            self.net.heads["species"].bias.copy_((counts / counts.sum()).log())
            positives, negatives = ((labels["tags"] == value).sum(0).float() for value in (1, 0))
            self.pos_weight = negatives / positives
            self.net.heads["tags"].bias.copy_((positives / negatives * self.pos_weight).log())
            positives, negatives = ((labels["sick"] == value).sum() for value in (1, 0))
            self.net.heads["sick"].bias.copy_((positives / negatives).log())

    def training_step(self, batch, batch_idx):
        inputs, target = batch
        logits = self.net(inputs)
        known = target["species"] >= 0
        log_p = logits["species"].log_softmax(1)[known, target["species"][known]]
        weight = torch.tensor([1.0, 2, 3])[target["species"][known]]
        species = (weight * (1 - log_p.exp()) ** 2 * -log_p).sum() / weight.sum()
        known = ~target["tags"].isnan()
        tags = F.binary_cross_entropy_with_logits(
            logits["tags"], target["tags"].nan_to_num(), pos_weight=self.pos_weight, reduction="none"
        )[known].mean()
        known = ~target["sick"].isnan()
        smoothed = target["sick"] * 0.9 + 0.05
        sick = F.binary_cross_entropy_with_logits(logits["sick"][known, 0], smoothed[known])
        return species + tags + sick

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.5)


def test_trains_like_plain_lightning(several):
    plain = Plain()
    quiet_trainer(max_epochs=2, enable_checkpointing=False).fit(plain, loader_of(*make_rows()))
    for name, weight in plain.net.state_dict().items():
        torch.testing.assert_close(several[0].net.state_dict()[name], weight, rtol=0, atol=1e-6)


def losses_of(weights, log_variances=None):
    """Return the total of one batch, and its mean loss per task."""
    task = ls.MultiTask(TASKS, weights)
    module = ls.TaskModule(task, Backbone([*TASKS], joined=True))
    if log_variances is not None:
        module.criterion.log_variances.data = log_variances
    batch = next(iter(loader_of(*make_rows())))
    out = module.step(batch)
    each = [ls.select_loss(part)(out.logits[name], out.target[name]).detach() for name, part in TASKS.items()]
    return module, out, torch.stack(each)


def test_fixed_weights():
    _, out, each = losses_of({"species": 0.5, "tags": 0})
    torch.testing.assert_close(out.loss, 0.5 * each[0] + each[2])


def test_uncertainty_weights():
    """The sum of exp(-s) L + s / 2, whose minimum is at s = log 2 L."""
    s = torch.tensor([0.3, -1.0, 2.0])
    module, out, each = losses_of("uncertainty", s)
    torch.testing.assert_close(out.loss, ((-s).exp() * each + s / 2).sum())
    out.loss.backward()
    torch.testing.assert_close(module.criterion.log_variances.grad, -(-s).exp() * each + 0.5)


def test_learned_weights_are_trained_saved_and_loaded(tmp_path):
    module, trainer = fit(ls.MultiTask(TASKS, "uncertainty"), [*TASKS], None, "cross_entropy")
    learned = module.criterion.log_variances
    assert (learned != 0).all()
    logged = [trainer.callback_metrics[f"train/{name}/weight"] for name in TASKS]
    torch.testing.assert_close(torch.stack(logged), (-learned.detach()).exp())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    net = Backbone([*TASKS], joined=True)
    loaded = ls.TaskModule.load_from_checkpoint(tmp_path / "last.ckpt", net=net)
    torch.testing.assert_close(loaded.criterion.log_variances, learned)
    assert loaded.task == module.task


def test_a_task_without_labels_in_a_batch_contributes_nothing():
    inputs, labels = make_rows()
    labels["tags"][:] = torch.nan
    for weights in (None, "uncertainty"):
        module = ls.TaskModule(ls.MultiTask(TASKS, weights), Backbone([*TASKS], joined=True))
        out = module.step(next(iter(loader_of(inputs, labels))))
        rest = {name: part for name, part in TASKS.items() if name != "tags"}
        expected = sum(ls.select_loss(part)(out.logits[n], out.target[n]) for n, part in rest.items())
        torch.testing.assert_close(out.loss, expected)
        out.loss.backward()
        assert module.net.heads["tags"].weight.grad.count_nonzero() == 0


class Diverges(Backbone):
    """Returns NaN for one of the tasks, except for the first batch."""

    calls = 0

    def forward(self, x):
        logits = super().forward(x)
        self.calls += 1
        return logits if self.calls == 1 else {**logits, "sick": logits["sick"] * torch.nan}


def validate(module, labels):
    inputs = make_rows()[0]
    return quiet_trainer().validate(module, loader_of(inputs, labels), verbose=False)[0]


@pytest.mark.filterwarnings("ignore:.* have no positive in the validation split")
def test_the_total_leaves_out_only_tasks_without_labels():
    labels = make_rows()[1]
    labels["tags"][:] = torch.nan
    module = ls.TaskModule(ls.MultiTask(TASKS, {"sick": 2.0}), Backbone([*TASKS], joined=True))
    found = validate(module, labels)
    assert math.isnan(found["val/tags/loss"])
    others = [found[f"val/{name}/loss"] * module.task.weights[name] for name in TASKS if name != "tags"]
    assert found["val/loss"] == pytest.approx(sum(others), rel=1e-6)


@pytest.mark.filterwarnings("ignore:.* have no positive in the validation split")
def test_the_total_is_nan_if_a_loss_is_nan_or_no_label_is_known():
    labels = make_rows()[1]
    module = ls.TaskModule(ls.MultiTask(TASKS), Diverges([*TASKS], joined=True))
    found = validate(module, labels)
    assert math.isnan(found["val/loss"])
    assert not math.isnan(found["val/tags/loss"])
    module = ls.TaskModule(ls.MultiTask(TASKS), Backbone([*TASKS], joined=True))
    for name, values in labels.items():
        labels[name] = torch.full_like(values, -1 if name == "species" else torch.nan)
    assert math.isnan(validate(module, labels)["val/loss"])


def test_a_task_without_any_label_is_an_error():
    inputs, labels = make_rows()
    labels["tags"][:] = torch.nan
    loader = loader_of(inputs, labels)
    module = ls.TaskModule(ls.MultiTask(TASKS), Backbone([*TASKS], joined=True), bias_init="prior")
    with pytest.raises(DataError, match=r"All labels of the training split are missing.*Task 'tags'"):
        quiet_trainer(max_epochs=1, enable_checkpointing=False).fit(module, loader)


class WithPenalty(ls.TaskModule):
    def step(self, batch):
        out = super().step(batch)
        out.loss = out.loss + 3
        return out


def test_the_loss_of_an_overridden_step_is_logged():
    inputs, labels = make_rows()
    module = WithPenalty(ls.MultiTask(TASKS, {"sick": 2}), Backbone([*TASKS], joined=True))
    loader = loader_of(inputs, labels)
    trainer = quiet_trainer(max_epochs=1, enable_checkpointing=False)
    (found,) = trainer.validate(module, loader, verbose=False)
    each = [found["val/species/loss"], found["val/tags/loss"], 2 * found["val/sick/loss"]]
    assert found["val/loss"] == pytest.approx(sum(each) + 3, abs=1e-6)


@pytest.mark.parametrize(
    "net", [{"name": "mlp", "num_features": 8}, {"name": "tabm", "num_features": 8}, "features"]
)
def test_built_in_nets_and_heads(net, tmp_path):
    options = {"num_features": 16} if net == "features" else {}
    body = nn.Sequential(nn.Linear(8, 16), nn.ReLU()) if net == "features" else net
    options |= {"bias_init": "prior", "metrics": ["accuracy"], "optimizer": {"name": "AdamW", "lr": 0.01}}
    module = ls.TaskModule(ls.MultiTask(TASKS), body, **options)
    loader = loader_of(*make_rows())
    trainer = quiet_trainer(max_epochs=5, default_root_dir=tmp_path)
    with ls.ignore_warnings("unfitted_layers"):
        trainer.fit(module, loader, loader)
    assert trainer.callback_metrics["train/loss"] < 2.3  # log 3 + 2 log 2 = 2.5 for constant probabilities
    ls.tune_decision(trainer, module, loader)
    assert all(part.temperature != 1 for part in module.task.tasks.values())
    (results,) = trainer.test(module, loader, verbose=False)
    assert {"test/loss", "test/tags/accuracy", "test/default_decision/sick/accuracy"} <= results.keys()
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    given = {"net": nn.Sequential(nn.Linear(8, 16), nn.ReLU())} if net == "features" else {}
    loaded = ls.TaskModule.load_from_checkpoint(tmp_path / "last.ckpt", **given).eval()
    assert loaded.task == module.task
    inputs = make_rows()[0]
    found, expected = loaded.predict(inputs), module.eval().predict(inputs)
    for kind in ("probabilities", "prediction"):
        for name in TASKS:
            assert torch.equal(found[kind][name], expected[kind][name])


def test_thresholds_are_those_of_each_task_by_itself(several):
    module, trainer = several
    inputs, labels = make_rows()
    ls.tune_decision(trainer, module, loader_of(inputs, labels))
    with torch.no_grad():
        logits = module.eval()(inputs)
    for name, part in TASKS.items():
        loss, counts = module.criterion.losses[name], ls.count_labels(part, labels[name])
        assert module.task.tasks[name] == ls.fit_decision(
            part, logits[name], labels[name], loss=loss, counts=counts
        )


def test_metrics_by_task():
    _, trainer = fit(
        ls.MultiTask(TASKS),
        [*TASKS],
        None,
        "cross_entropy",
        metrics={"tags": ["f1_micro"], "sick": ["recall"]},
    )
    names = {name for name in trainer.callback_metrics if name.startswith("val/tags")}
    assert names == {"val/tags/loss", "val/tags/f1_micro", "val/tags/average_precision"}  # its monitor
    assert "val/sick/recall" in trainer.callback_metrics
    assert "val/species/accuracy" in trainer.callback_metrics


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"loss": {"other": "focal"}}, "Unknown task 'other'"),
        ({"loss": {"name": "cross_entropy", "pos_weight": 2}}, "pos_weight is not supported under softmax"),
        ({"loss": {"species": {"name": "cross_entropy", "pos_weight": 2}}}, "(Task 'species'.)"),
        ({"loss": {"tags": nn.CrossEntropyLoss()}}, "(Task 'tags'.)"),
        ({"metrics": {"tags": ["accuracy"], "other": ["accuracy"]}}, "Unknown task 'other'"),
        ({"metrics": ["exact_match"]}, "exact_match"),
        ({"metrics": {"tag": ["accuracy"]}}, "Unknown task 'tag' in metrics. Did you mean 'tags'?"),
        ({"head": "chunked"}, "does not support several tasks"),
    ],
)
def test_invalid_options(options, text):
    with pytest.raises(ConfigError) as raised:
        ls.TaskModule(ls.MultiTask(TASKS), Backbone([*TASKS], joined=True), **options)
    assert text in str(raised.value)


class Returns(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.linear, self.output = nn.Linear(8, 6), output

    def forward(self, x):
        return self.output(self.linear(x))


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (lambda z: {"species": z[:, :3], "tags": z[:, 3:5]}, "The task 'sick' is missing from the logits"),
        (
            lambda z: {"species": z[:, :3], "tags": z[:, 3:5], "sick": z[:, 5:], "age": z},
            "logits of the unknown task 'age'",
        ),
        (lambda z: {"species": z[:, :3], "tags": z[:, 2:5], "sick": z[:, 5:]}, "Task 'tags'"),
        (lambda z: z[:, :5], "(N, 6) for several tasks"),
        (lambda z: {"species": z[:, :3].softmax(1), "tags": z[:, 3:5], "sick": z[:, 5:]}, "after a softmax"),
        (lambda z: {"species": z[:, :3], "tags": z[:, 3:5].sigmoid(), "sick": z[:, 5:]}, "Sigmoid"),
    ],
)
def test_invalid_outputs_of_the_net(output, text):
    module = ls.TaskModule(ls.MultiTask(TASKS), Returns(output))
    with pytest.raises(ConfigError) as raised:
        module.check_batch(next(iter(loader_of(*make_rows()))))
    assert text in str(raised.value)
    with pytest.raises(ConfigError) as raised:  # in evaluation mode as well
        ls.TaskModule(ls.MultiTask(TASKS), Returns(output)).eval().predict(torch.randn(4, 8))


def test_a_checkpoint_of_other_tasks(several, tmp_path):
    trainer = several[1]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    others = {"species": TASKS["species"], "tags": ls.Multilabel(5), "sick": TASKS["sick"]}
    net = Backbone([*TASKS], joined=True)
    for tasks in (others, {**TASKS, "more": ls.Binary()}):
        with pytest.raises(CheckpointError, match="was trained for several tasks: species"):
            ls.TaskModule.load_from_checkpoint(tmp_path / "last.ckpt", net=net, task=ls.MultiTask(tasks))


def test_a_head_needs_the_features_that_it_was_declared_with():
    module = ls.TaskModule(ls.Binary(), nn.Linear(8, 5), num_features=6)
    with pytest.raises(ConfigError, match=r"features of shape \(N, 6\), got a tensor of shape \(4, 5\)"):
        module(torch.zeros(4, 8))
    for net in (None, {"name": "mlp", "num_features": 8}):
        with pytest.raises(ConfigError, match="num_features adds a head to a net"):
            ls.TaskModule(ls.Binary(), net, num_features=6)


def test_the_weights_of_a_new_task_are_used():
    module = ls.TaskModule(ls.MultiTask(TASKS), Backbone([*TASKS], joined=True))
    batch = next(iter(loader_of(*make_rows())))
    out = module.step(batch)
    losses = {n: ls.select_loss(part)(out.logits[n], out.target[n]) for n, part in TASKS.items()}
    module.task = ls.MultiTask(TASKS, {"sick": 5.0})
    torch.testing.assert_close(module.step(batch).loss, sum(losses.values()) + 4 * losses["sick"])
    module.criterion = ls.TaskModule(ls.MultiTask(TASKS, {"tags": 3.0}), nn.Identity()).criterion
    torch.testing.assert_close(module.step(batch).loss, sum(losses.values()) + 4 * losses["sick"])
    with pytest.raises(ConfigError, match="cannot be changed to or from 'uncertainty'"):
        module.task = ls.MultiTask(TASKS, "uncertainty")
    with pytest.raises(
        ConfigError, match="loss is for the tasks species, tags, sick, but the task is several"
    ):
        module.task = ls.MultiTask(dict(reversed(TASKS.items())))


@pytest.mark.parametrize("other", [{"sick": 5.0}, None, "uncertainty"])
def test_weights_that_changed_since_the_checkpoint(other, tmp_path):
    loader = loader_of(*make_rows())

    def fit(weights, epochs, path=None):
        module = ls.TaskModule(ls.MultiTask(TASKS, weights), Backbone([*TASKS], joined=True))
        trainer = quiet_trainer(max_epochs=epochs, enable_checkpointing=False)
        trainer.fit(module, loader, ckpt_path=path, weights_only=True)
        return trainer

    path = tmp_path / "a.ckpt"
    fit({"sick": 2.0}, 1).save_checkpoint(path)
    if other == "uncertainty":
        with pytest.raises(
            CheckpointError, match="weights of tasks are set, but the weights of this run are"
        ):
            fit(other, 2, path)
    else:
        with pytest.warns(ls.LossSelectWarning, match="checkpoint's: weights of tasks"):
            fit(other, 2, path)


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, logits, target):
        return self.weight * logits.square().mean()


def test_names_in_a_checkpoint_do_not_depend_on_other_losses():
    for loss in ("cross_entropy", lambda logits, target: logits.square().mean()):
        criterion = ls.TaskModule(
            ls.MultiTask(TASKS), nn.Identity(), {"species": loss, "sick": Learned()}
        ).criterion
        assert [*criterion.state_dict()] == ["parts.2.weight"]


class Named(nn.Module):
    """Heads whose names are also those of other parts of the path."""

    def __init__(self, task):
        super().__init__()
        self.net = nn.Linear(8, 16)
        self.heads = nn.ModuleDict({name: nn.Linear(16, t.num_outputs) for name, t in task.tasks.items()})

    def forward(self, x):
        return {name: head(self.net(x)) for name, head in self.heads.items()}


@pytest.mark.parametrize("names", [("net", "sick"), ("heads", "sick"), ("sick", "heads"), ("net", "heads")])
def test_the_prior_of_each_task_is_set_in_its_head(names):
    task = ls.MultiTask({name: ls.Binary() for name in names})
    module = ls.TaskModule(task, Named(task), bias_init="prior")
    module.set_label_counts(ls.count_labels(task, {names[0]: [0, 0, 0, 1], names[1]: [0, 1, 1, 1]}))
    assert module.net.heads[names[0]].bias.item() == pytest.approx(-math.log(3))
    assert module.net.heads[names[1]].bias.item() == pytest.approx(math.log(3))
    assert module._bias_source == "the class frequencies in the training rows"


class Detached(Backbone):
    def forward(self, x):
        logits = super().forward(x)
        return {**logits, "sick": logits["sick"].detach()}


def test_a_task_without_a_gradient():
    inputs, labels = make_rows()
    with pytest.raises(ConfigError, match="logits of the task 'sick' have no gradient"):
        ls.TaskModule(ls.MultiTask(TASKS), Detached([*TASKS], True)).step(
            next(iter(loader_of(inputs, labels)))
        )
    module = ls.TaskModule(ls.MultiTask(TASKS, {"sick": 0}), Detached([*TASKS], True))
    assert module.step(next(iter(loader_of(inputs, labels)))).loss.isfinite()


@pytest.mark.parametrize(
    "keys", [["species", "tags", "sick"], {"species": "kind", "tags": "tags", "sick": "ill"}]
)
def test_labels_in_separate_entries_of_a_batch(keys):
    inputs, labels = make_rows()
    names = keys if isinstance(keys, dict) else {name: name for name in keys}
    flat = {
        "image": inputs,
        **{key: labels[name] for name, key in names.items()},
        "path": ["x"] * len(inputs),
    }
    found = {}
    for batch, options in (
        (flat, {"batch_keys": {"inputs": "image", "target": keys}}),
        ((inputs, labels), {}),
    ):
        module = ls.TaskModule(ls.MultiTask(TASKS), Backbone([*TASKS], True), **options)
        found[len(batch)] = module.step(batch).loss
        assert module.predict_step(batch, 0)["prediction"]["sick"].shape == (ROWS, 1)
    assert len({loss.item() for loss in found.values()}) == 1
    with pytest.raises(ConfigError, match="contains 'ill' as two of"):
        ls.TaskModule(ls.MultiTask(TASKS), nn.Identity(), batch_keys=("x", {"sick": "ill", "tags": "ill"}))


def test_sample_weights_by_task():
    module = ls.TaskModule(ls.MultiTask(TASKS), Backbone([*TASKS], True), batch_keys=(0, 1, 2))
    inputs, labels = make_rows()
    with pytest.raises(DataError, match="Expected numbers as sample weights, got a dict"):
        module.step((inputs, labels, {"sick": torch.ones(ROWS)}))


def test_counts_of_other_tasks():
    module = ls.TaskModule(ls.MultiTask(TASKS), Backbone([*TASKS], True))
    with pytest.raises(DataError, match="The counts have 2 classes, but the task is several tasks"):
        module.set_label_counts(ls.count_labels(ls.Binary(), [0, 1]))
    single = ls.TaskModule(ls.Binary(), nn.Linear(8, 1))
    with pytest.raises(DataError, match="counts are of the tasks species, tags, sick"):
        single.set_label_counts(ls.count_labels(ls.MultiTask(TASKS), make_rows()[1]))


def test_mix_does_not_fit_the_loss_of_a_task():
    loss = {"species": nn.MultiMarginLoss()}
    with pytest.raises(ConfigError, match="MultiMarginLoss does not support"):
        ls.TaskModule(ls.MultiTask(TASKS), nn.Identity(), loss, mix="mixup")


def test_no_head_of_a_task_is_found():
    task = ls.MultiTask({"a": ls.Binary(), "b": ls.Binary()})
    net = nn.ModuleList([nn.Linear(8, 1), nn.Linear(8, 1)])
    module = ls.TaskModule(task, net, bias_init="prior")
    with pytest.warns(ls.LossSelectWarning, match=r"the layer of each task, with its name .* heads\.b"):
        module.set_label_counts(ls.count_labels(task, {"a": [0, 1], "b": [0, 1]}))
