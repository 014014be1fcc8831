"""NaN logits never become a class: in predict, exports, files, metrics and scikit-learn."""

import csv
import sys

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import lossselect as ls
from lossselect.cli import main as cli
from lossselect.export.formats import FORMATS
from lossselect.export.read import Outputs, load_exported, topk_prediction
from lossselect.reporting.tables import prediction_columns
from lossselect.sklearn import TaskClassifier
from lossselect.tasks.registry import IGNORE_INDEX
from lossselect.training.epochs.epoch import Epoch

NAN, INF = float("nan"), float("inf")
MISSING = IGNORE_INDEX

SOFTMAX = [
    ls.Multiclass(3),
    ls.Multiclass(3, temperature=0.5),
    ls.Multiclass(3, prior_correction=(1, 2, 3)),
    ls.Multiclass(4, ordinal=True),
    ls.Multiclass(100),
]
SIGMOID = [
    ls.Binary(),
    ls.Binary(threshold=0.0),
    ls.Multilabel(3),
    ls.Multilabel(3, threshold=(0.0, 0.5, 1.0), temperature=(1, 2, 3)),
]
RANKED = [
    ls.Multilabel(3, top_k=2),
    ls.Multilabel(3, min_labels=1),
    ls.Multilabel(3, min_labels=2, threshold=0.9),
]


def logits_of(task, rows=6, trailing=()):
    return torch.randn(rows, task.num_outputs, *trailing, generator=torch.Generator().manual_seed(1))


class TestPredict:
    @pytest.mark.parametrize("trailing", [(), (2,), (2, 3)])
    @pytest.mark.parametrize("task", SOFTMAX, ids=str)
    def test_one_nan_of_a_softmax_sample(self, task, trailing):
        logits = logits_of(task, trailing=trailing)
        whole = task.predict(logits)
        for output in range(min(task.num_outputs, 5)):
            with_nan = logits.clone()
            with_nan[(2, output, *(0 for _ in trailing))] = NAN
            expected = whole.clone()
            expected[(2, *(0 for _ in trailing))] = MISSING
            assert torch.equal(task.predict(with_nan), expected)
            assert torch.equal(task.predict_from_probabilities(task.probabilities(with_nan)), expected)

    @pytest.mark.parametrize("trailing", [(), (2, 3)])
    @pytest.mark.parametrize("task", SIGMOID, ids=str)
    def test_one_nan_of_independent_labels(self, task, trailing):
        logits = logits_of(task, trailing=trailing)
        place = (1, task.num_outputs - 1, *(1 for _ in trailing))
        expected = task.predict(logits).clone()
        expected[place] = MISSING
        logits[place] = NAN
        assert torch.equal(task.predict(logits), expected)

    @pytest.mark.parametrize("task", RANKED, ids=str)
    def test_labels_that_are_compared_are_missing_together(self, task):
        logits = logits_of(task)
        expected = task.predict(logits).clone()
        expected[1] = MISSING
        logits[1, 2] = NAN
        assert torch.equal(task.predict(logits), expected)
        assert torch.equal(task.predict_from_probabilities(task.probabilities(logits)), expected)

    def test_probabilities_that_are_partly_nan(self):
        task = ls.Multiclass(3)
        probabilities = torch.tensor([[0.2, NAN, 0.5], [0.2, 0.3, 0.5]])
        assert task.predict_from_probabilities(probabilities).tolist() == [MISSING, 2]

    def test_infinite_logits(self):
        assert ls.Multiclass(3).predict(torch.tensor([[0.0, INF, 0.0], [0.0, -INF, -1.0]])).tolist() == [
            MISSING,
            0,
        ]
        assert ls.Multiclass(2).predict(torch.tensor([[-INF, -INF]])).tolist() == [MISSING]
        assert ls.Binary().predict(torch.tensor([[INF], [-INF]])).tolist() == [[1], [0]]
        assert ls.Multilabel(2, top_k=1).predict(torch.tensor([[INF, -INF]])).tolist() == [[1, 0]]
        assert ls.Multilabel(2, min_labels=1).predict(torch.tensor([[-INF, -INF]])).sum() == 1

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_dtypes(self, dtype):
        logits = torch.tensor([[NAN, 0, 0], [0, 1, 0]], dtype=dtype)
        assert ls.Multiclass(3).predict(logits).tolist() == [MISSING, 1]
        assert ls.Multilabel(3).predict(logits).tolist() == [[MISSING, 1, 1], [1, 1, 1]]

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
    @pytest.mark.parametrize("task", [*SOFTMAX, *SIGMOID, *RANKED], ids=str)
    def test_traced_and_on_another_device(self, task):
        logits = logits_of(task)
        logits[1, 0] = NAN
        expected = task.predict(logits)
        traced = torch.jit.trace(lambda x: task.predict(x), logits_of(task), check_trace=False)
        assert torch.equal(traced(logits), expected)
        assert task.predict(logits.to("meta")).shape == expected.shape

    def test_no_rows(self):
        assert ls.Multiclass(3).predict(torch.zeros(0, 3)).shape == (0,)
        assert ls.Multilabel(3).predict(torch.zeros(0, 3)).shape == (0, 3)


class TestDecode:
    def test_missing_predictions_become_none(self):
        logits = torch.tensor([[NAN, 0.0, 0.0], [0.0, 0.0, 1.0]])
        assert ls.Multiclass(3).decode(ls.Multiclass(3).predict(logits)) == [None, "2"]
        task = ls.Binary(class_names=("no", "yes"))
        assert task.decode(task.predict(torch.tensor([[NAN], [1.0]]))) == [None, "yes"]
        task = ls.Multilabel(2)
        assert task.decode(task.predict(torch.tensor([[NAN, NAN], [1.0, -1.0]]))) == [None, ["0"]]

    def test_a_cell_is_empty_if_one_label_is_missing(self):
        task = ls.Multilabel(2)
        prediction = task.predict(torch.tensor([[NAN, 1.0], [1.0, -1.0]]))
        assert task.decode(prediction) == [["1"], ["0"]]  # the labels that are known to be present
        columns = prediction_columns(task, torch.full((2, 2), 0.5), prediction)
        assert columns["prediction"] == [None, '["0"]']


@pytest.mark.parametrize("suffix", [form.suffix for form in FORMATS.values()])
@pytest.mark.parametrize("task", [*SOFTMAX[:4], *SIGMOID, *RANKED], ids=str)
def test_exports_agree(task, suffix, tmp_path):
    module = ls.TaskModule(task, {"name": "linear", "num_features": 5}).eval()
    ls.export_model(module, tmp_path / f"m{suffix}")
    served = load_exported(tmp_path / f"m{suffix}", trust=True)
    features = torch.randn(7, 5)
    for row in (0, 3, 6):
        features[row, row % 5] = NAN
    with torch.inference_mode():
        expected = Outputs(module.net, task)(features)
    outputs = served(features)
    assert torch.equal(outputs.predictions, expected[2])
    assert (outputs.predictions[[0, 3, 6]] == MISSING).all()
    assert (outputs.predictions[[1, 2, 4, 5]] != MISSING).all()


@pytest.mark.parametrize("suffix", [form.suffix for form in FORMATS.values()])
def test_an_export_with_one_nan_logit(suffix, tmp_path):
    """The maximum of ONNX Runtime ignores a NaN that is not the first entry."""

    class Fourth(nn.Module):
        def forward(self, features):
            nan = torch.where(features[:, :1] > 0, torch.nan, 0.0)
            return torch.cat([features[:, :3], features[:, 3:4] + nan, features[:, 4:]], 1)

    if suffix == ".safetensors":
        pytest.skip("the format supports only built-in nets")
    for task in (ls.Multiclass(9), ls.Multiclass(10, ordinal=True), ls.Multilabel(9)):
        module = ls.TaskModule(task, Fourth())
        features = torch.randn(64, 9)
        ls.export_model(module, tmp_path / f"m{suffix}", inputs=features)
        outputs = load_exported(tmp_path / f"m{suffix}", trust=True)(features)
        assert torch.equal(outputs.predictions, task.predict(Fourth()(features)))
        assert (outputs.predictions == MISSING).any()


class TestChunkedHead:
    @pytest.mark.parametrize("task", [ls.Multiclass(50), ls.Multilabel(50, threshold=0.0)], ids=str)
    def test_highest_outputs(self, task, tmp_path):
        module = ls.TaskModule(task, {"name": "linear", "num_features": 4}, head="chunked").eval()
        torch.nn.init.normal_(module.net[-1].weight)
        features = torch.randn(3, 4)
        features[1] = NAN
        found = module.predict_step(features, 0)
        assert (found["prediction"][1] == MISSING).all()
        assert (found["prediction"][[0, 2]] != MISSING).all()
        ls.export_model(module, tmp_path / "m.safetensors")
        ranked = topk_prediction(load_exported(tmp_path / "m.safetensors")(features))
        assert torch.equal(ranked["prediction"], found["prediction"])
        assert torch.equal(ranked["top"][[0, 2]], found["top"][[0, 2]])

    def test_an_infinite_logit(self):
        module = ls.TaskModule(ls.Multiclass(50), {"name": "linear", "num_features": 4}, head="chunked")
        with torch.no_grad():
            module.net[-1].bias[7] = INF
        assert module.predict_step(torch.randn(2, 4), 0)["prediction"].tolist() == [MISSING, MISSING]


class TestMetrics:
    @pytest.mark.parametrize("task", [*SOFTMAX[:4], ls.Binary(), ls.Multilabel(3), *RANKED], ids=str)
    def test_are_nan_and_count_no_class(self, task):
        logits = logits_of(task, 8)
        logits[0] = NAN
        target = torch.zeros(8, dtype=torch.long)
        if task.activation == "sigmoid":
            target = torch.zeros(8, task.num_outputs)
        epoch = Epoch(task, "val/")
        epoch.update(torch.zeros(()), 8, logits, target)
        values = epoch.compute()
        assert all(value.isnan() for name, value in values.items() if name != "val/loss")
        scores = epoch.per_class
        assert all(scores[name].isnan().all() for name in ("precision", "recall", "f1"))
        if task.activation == "softmax":
            rest = task.predict(logits[1:])
            expected = torch.bincount(rest, minlength=task.num_classes)
            assert torch.equal(scores["predicted"], expected)
            assert torch.equal(epoch.confusion_counts[0], expected)
            assert epoch.confusion_counts.sum() == 7

    def test_rows_without_a_prediction_are_misses(self):
        task = ls.Multiclass(2)
        metrics = ls.make_metrics(task)
        metrics.update(torch.tensor([[NAN, NAN], [0.9, 0.1]]), torch.tensor([0, 0]))
        tp, fp, fn, tn = metrics["accuracy"].summarize().tolist()
        assert (tp, fp, fn, tn) == ([1, 0], [0, 0], [1, 0], [0, 2])


def test_scikit_learn_raises_an_error():
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(60, 3)), np.arange(60) % 3
    model = TaskClassifier(max_epochs=1, random_state=0, decision=None).fit(features, labels)
    with torch.no_grad():
        next(model.module_.net.parameters())[0] = 3e38
    features[:2] = model.mean_  # their standardised features are 0
    with pytest.raises(ValueError, match=r"returned NaN for \d+ of 60 rows of X \(the first is row 2\)"):
        model.predict(features)


@pytest.fixture
def trained(command, tmp_path):
    """A run on a table in the current folder."""
    generator = np.random.default_rng(0)
    rows = [
        "a,b,y",
        *(f"{a:.4f},{b:.4f},{'xyz'[i % 3]}" for i, (a, b) in enumerate(generator.normal(size=(90, 2)))),
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")

    def train(*arguments):
        code, _, err = command(
            "task=multiclass", "data=table", "data.path=t.csv", "data.target=y", "model=linear",
            "trainer.max_epochs=1", "hydra.run.dir=run", "report=false", *arguments,
        )  # fmt: skip
        assert code == 0, err
        return command

    return train


def overflowing(path):
    """Save finite weights that overflow to inf - inf for rows with a large second feature."""
    content = torch.load(path, weights_only=True)
    for name, value in content["state_dict"].items():
        if name.endswith("weight"):
            value[:, 0], value[:, 1] = 1.0, 1.0
            value[0, 0], value[0, 1] = 3e38, -3e38
            value[1], value[2] = 0.0, 0.0
    torch.save(content, path)


@pytest.mark.parametrize("suffix", [".ckpt", ".onnx", ".safetensors", ".pt2"])
def test_a_file_of_predictions(suffix, trained, tmp_path, monkeypatch, capsys):
    trained()
    model = "run/checkpoints/best.ckpt"
    overflowing(model)
    if suffix != ".ckpt":
        module = ls.TaskModule.load_from_checkpoint(model)
        prepared = torch.load(model, weights_only=True)["TensorData"]
        model = f"m{suffix}"
        ls.export_model(module, model, preparation=prepared, inputs=torch.zeros(2, 2))
    (tmp_path / "new.csv").write_text("a,b\n0.1,0.2\n50,70\n-0.3,0.1\n60,90\n")
    more = ["trust=true"] if suffix == ".pt2" else []
    arguments = ["predict", f"checkpoint={model}", "input=new.csv", "output=out.csv", "batch_size=2", *more]
    monkeypatch.setattr(sys, "argv", ["lossselect", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert ended.value.code == 1
    assert "2 of 4 rows in out.csv have no prediction, because the net returned NaN for them" in printed.err
    assert "the first is row 1" in printed.err
    assert "Traceback" not in printed.err
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["row"] for row in rows] == ["0", "1", "2", "3"]
    assert [bool(row["prediction"]) for row in rows] == [True, False, True, False]


@pytest.mark.filterwarnings("always::lossselect.LossSelectWarning")
def test_a_run_with_rows_that_have_no_prediction(trained, monkeypatch):
    """A named warning reports these rows, and their cells are empty."""
    command, forward = trained("decision=none"), ls.TaskModule.forward

    def nan_in_the_first_row(self, inputs):
        logits = forward(self, inputs)
        return (
            logits.index_fill(0, torch.tensor([0]), NAN)
            if self.trainer.testing or self.trainer.predicting
            else logits
        )

    monkeypatch.setattr(ls.TaskModule, "forward", nan_in_the_first_row)
    arguments = ("task=multiclass", "data=table", "data.path=t.csv", "data.target=y", "model=linear")
    code, _, err = command(*arguments, "trainer.max_epochs=1", "hydra.run.dir=other")
    assert code == 0, err
    assert "1 of 18 rows in predictions.csv have no prediction, because the net returned NaN for them" in err
    assert "(ignore_warnings=[no_prediction] silences this.)" in err
    predictions = pl.read_csv("other/predictions.csv")
    assert predictions["prediction"].null_count() == 1
    assert predictions["prediction"][0] is None
    table = pl.read_csv("other/confusion_matrix.csv")
    assert table.select(pl.exclude("true")).to_numpy().sum() == 17
