"""Exported models that scale raw numbers themselves."""

import sys

import numpy as np
import polars as pl
import pytest
import torch
from train_cases import train_in

import lossselect as ls
from lossselect.cli import main as cli
from lossselect.data.preprocessing.columns import Category, CellParser, Number
from lossselect.data.preprocessing.preparation import Preparation
from lossselect.data.preprocessing.scaling import SCALINGS, Quantile, Robust, Standard
from lossselect.data.preprocessing.table_features import Features
from lossselect.exceptions import ConfigError
from lossselect.export.raw import raw_features, raw_inputs
from lossselect.export.read import load_exported
from lossselect.export.write import export_model

FEATURES = Features(
    (
        Number("time", Standard(1.7e9, 25.0), True),
        Number("amount", Robust(3.0, 0.5), False),
        Number("rank", Quantile((0.0, 1.0, 1.0, 4.0, 9.0)), True),
    ),
    (Category("kind", ("a", "b"), False),),
    CellParser(),
)
FRAME = pl.DataFrame(
    {
        "time": [1.7e9 + 12.5, None, 1.7e9 - 60, 1.7e9 + 0.25],
        "amount": [3.25, -1e6, 2.0, 3.0],
        "rank": [1.0, 0.5, None, 20.0],
        "kind": ["a", "b", "a", "z"],
    }
)
RAW = [
    [1.7e9 + 12.5, 3.25, 1, 1, 0],
    [np.nan, -1e6, 0.5, 0, 1],
    [1.7e9 - 60, 2, np.nan, 1, 0],
    [1.7e9 + 0.25, 3, 20, 0, 0],
]


def preparation(features=FEATURES):
    return Preparation("table", features, {"width": None}).to_dict()


def module_of(num_features=7):
    net = {"name": "mlp", "num_features": num_features, "hidden": [8]}
    return ls.TaskModule(ls.Multiclass(3), net).eval()


@pytest.fixture(params=[".onnx", ".pt2"])
def suffix(request):
    if request.param == ".onnx":
        pytest.importorskip("onnxruntime")
    return request.param


class TestModel:
    def test_scales_raw_numbers(self, suffix, tmp_path):
        module, path = module_of(), tmp_path / f"m{suffix}"
        found = export_model(module, path, preparation=preparation(), raw=True)
        assert found["rows"] == 256  # random rows
        features, _ = FEATURES.transform(FRAME, "t.csv")
        with torch.inference_mode():
            logits = module(features[torch.arange(4)])
        served = load_exported(path, trust=True)
        for rows in (RAW, np.array(RAW), torch.tensor(RAW, dtype=torch.float64)):
            torch.testing.assert_close(served(rows).logits if rows is not RAW else logits, logits)
            if rows is not RAW:
                torch.testing.assert_close(served(rows[:1]).logits, logits[:1])

    def test_its_metadata_describe_the_input(self, suffix, tmp_path):
        export_model(module_of(), tmp_path / f"m{suffix}", preparation=preparation(), raw=True)
        served = load_exported(tmp_path / f"m{suffix}", trust=True)
        assert served.metadata["raw"] is True
        assert served.metadata["feature_names"] == ["time", "amount", "rank", "kind=a", "kind=b"]
        assert served.metadata["features"] == ["rows", 5]
        assert served.metadata["preparation"]["features"]["numbers"][1]["spread"] == 0.5

    def test_the_default_takes_scaled_features(self, suffix, tmp_path):
        export_model(module_of(), tmp_path / f"m{suffix}", preparation=preparation())
        served = load_exported(tmp_path / f"m{suffix}", trust=True)
        assert served.metadata["raw"] is False
        assert served.metadata["feature_names"][:3] == ["time", "time missing", "amount"]

    def test_onnx_has_a_float64_input(self, tmp_path):
        onnxruntime = pytest.importorskip("onnxruntime")
        export_model(module_of(), tmp_path / "m.onnx", preparation=preparation(), raw=True)
        session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
        (entry,) = session.get_inputs()
        assert (entry.name, entry.type, entry.shape[1]) == ("features", "tensor(double)", 5)

    def test_raw_inputs_are_those_of_the_features(self):
        rows, _ = FEATURES.transform(FRAME, "t.csv")
        inputs = rows[torch.arange(4)]
        found = raw_inputs(FEATURES, inputs)
        expected = torch.tensor(RAW, dtype=torch.float64)
        expected[1, 1], expected[3, 2] = found[1, 1], 9  # of the bounds, only the features are known
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, equal_nan=True)
        assert found[1, 1] < -400

    def test_only_categories(self, suffix, tmp_path):
        features = Features((), FEATURES.categories, CellParser())
        module = module_of(2)
        export_model(module, tmp_path / f"m{suffix}", preparation=preparation(features), raw=True)
        rows = torch.eye(2)
        found = load_exported(tmp_path / f"m{suffix}", trust=True)(rows)
        torch.testing.assert_close(found.logits, module(rows).detach())


class TestMistakes:
    @pytest.mark.parametrize("prepared", [None, {}, {"mean": torch.zeros(7)}])
    def test_an_unknown_preparation(self, prepared, tmp_path):
        with pytest.raises(ConfigError, match="the preparation of the features is unknown"):
            export_model(module_of(), tmp_path / "m.pt2", preparation=prepared, raw=True)

    def test_a_sparse_matrix(self):
        with pytest.raises(ConfigError, match="the features are a sparse matrix"):
            raw_features({"source": "sparse matrix", "features": {}})

    def test_weights_alone(self, tmp_path):
        pytest.importorskip("safetensors")
        with pytest.raises(ConfigError, match="not the scaling of raw numbers"):
            export_model(module_of(), tmp_path / "m.safetensors", preparation=preparation(), raw=True)

    def test_inputs_of_another_width(self, tmp_path):
        with pytest.raises(ConfigError, match=r"inputs must have shape \(N, 7\), got \(256, 6\)"):
            export_model(module_of(6), tmp_path / "m.pt2", preparation=preparation(), raw=True)

    def test_settings_of_a_run(self, command, tmp_path):
        run = ("task=binary", "trainer.max_epochs=1", "hydra.run.dir=run", "export_raw=true")
        for settings, message in (
            ((), "export_raw=true has no effect without export"),
            (("export=safetensors",), "not the scaling of raw numbers"),
        ):
            code, _, err = command(*run, *settings)
            assert code == 1
            assert message in err
        (tmp_path / "d.libsvm").write_text("0 1:2 2:1\n1 1:1 2:3\n" * 40)
        sparse = ("data=arrays", "data.path=d.libsvm", "ignore_warnings=[duplicate_rows]")
        code, _, err = command(*run, *sparse, "export=torch_export")
        assert code == 1
        assert "the features are a sparse matrix" in err
        assert not (tmp_path / "run").exists()


def table(rows=200):
    rng = np.random.default_rng(0)
    x = np.exp(rng.normal(size=rows))
    days = [f"2024-{m:02}-{d:02}" for m, d in rng.integers(1, 13, (rows, 2)).tolist()]
    return pl.DataFrame(
        {
            "x": [None if u < 0.1 else v for u, v in zip(rng.random(rows), x.tolist(), strict=True)],
            "time": 1.7e9 + rng.normal(size=rows) * 1e3,
            "kind": rng.choice(["a", "b"], rows),
            "day": days,
            "text": [" ".join(words) for words in rng.choice(["good", "bad", "film"], (rows, 3))],
            "y": rng.choice(["p", "q"], rows),
        }
    )


@pytest.mark.parametrize("scaling", SCALINGS)
def test_predictions_of_a_file_are_equal(scaling, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    table().write_csv(tmp_path / "t.csv")
    settings = (
        "data=table",
        "data.path=t.csv",
        "data.target=y",
        "data.text=[text]",
        f"data.scaling={scaling}",
    )
    more = ("trainer.max_epochs=2", "hydra.run.dir=run", "report=false", "export=onnx", "export_raw=true")
    train_in(tmp_path, "task=multiclass", *settings, *more)
    monkeypatch.chdir(tmp_path)
    best = "run/checkpoints/best.ckpt"
    commands = [
        ("export", f"checkpoint={best}", "format=torch_export", "output=m.pt2", "raw=true"),
        ("export", f"checkpoint={best}", "output=n.onnx", "raw=true", "input=t.csv"),
        ("predict", f"checkpoint={best}", "input=t.csv", "output=0.csv"),
        ("predict", "checkpoint=run/model.onnx", "input=t.csv", "output=1.csv"),
        ("predict", "checkpoint=m.pt2", "input=t.csv", "output=2.csv", "trust=true"),
        ("predict", "checkpoint=n.onnx", "input=t.csv", "output=3.csv"),
    ]
    for words in commands:
        monkeypatch.setattr(sys, "argv", ["lossselect", *words])
        cli.main()
    assert "Compared with PyTorch on 200 rows of t.csv" in capsys.readouterr().out
    expected, *others = (pl.read_csv(f"{i}.csv") for i in range(4))
    assert expected["p_p"].n_unique() > 150
    for found in others:
        assert found["prediction"].equals(expected["prediction"])
        np.testing.assert_allclose(found["p_p"], expected["p_p"], atol=1e-5)


def test_predictions_of_arrays_are_equal(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    x = np.exp(rng.normal(size=(200, 4)))
    x[rng.random(200) < 0.1, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(200) % 3)
    settings = (
        "data=arrays",
        "data.path=x.npy",
        "data.target=y.npy",
        "data.nan=missing",
        "data.scaling=robust",
    )
    more = ("trainer.max_epochs=1", "hydra.run.dir=run", "report=false", "export=onnx", "export_raw=true")
    train_in(tmp_path, "task=multiclass", *settings, *more)
    monkeypatch.chdir(tmp_path)
    for checkpoint, output in (("run/checkpoints/best.ckpt", "0.csv"), ("run/model.onnx", "1.csv")):
        words = ("predict", f"checkpoint={checkpoint}", "input=x.npy", f"output={output}")
        monkeypatch.setattr(sys, "argv", ["lossselect", *words])
        cli.main()
    expected, found = (pl.read_csv(f"{i}.csv") for i in range(2))
    np.testing.assert_allclose(found[:, 2:], expected[:, 2:], atol=1e-5)
    served = load_exported("run/model.onnx")
    np.testing.assert_allclose(served(x).probabilities, expected[:, 2:], atol=1e-5)
