"""The examples, run as users run them: each in a new process and an empty folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions, version

import pytest
from paths import ROOT

EXAMPLES = ROOT / "examples"


def needs(*names):
    """Skips a test where one of these distributions is not installed."""
    there = {re.sub(r"[-_.]+", "-", one.name.lower()) for one in distributions()}
    missing = [name for name in names if name not in there]
    return pytest.mark.skipif(bool(missing), reason=f"pip install {' '.join(missing)}")


@pytest.fixture
def run(tmp_path):
    """Runs Python in an empty folder and returns what it printed; the examples' own folder stays as it is."""
    files = sorted(EXAMPLES.rglob("*"))

    def run(*arguments, path=ROOT, code=0):
        environment = {
            **os.environ,
            "PYTHONPATH": f"{path}{os.pathsep}{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == code, done.stderr
        if not code:
            assert "Traceback" not in done.stderr
        return done.stdout + (done.stderr if code else "")

    yield run
    assert sorted(EXAMPLES.rglob("*")) == files


def numbers(pattern, text):
    """The numbers of a pattern's groups, where it is first found."""
    found = re.search(pattern, text)
    assert found, text
    return [float(number) for number in found.groups()]


def test_plain_torch_needs_no_lightning(run, tmp_path):
    script = f"import runpy, sys; runpy.run_path({str(EXAMPLES / 'plain_torch.py')!r}, run_name='__main__'); "
    out = run("-c", script + "print({'lightning', 'hydra', 'omegaconf'} & {*sys.modules})")
    assert out.endswith("set()\n")
    for task in ("binary", "multiclass with 10 classes", "multilabel with 3 labels"):
        accuracy, constant = numbers(rf"{task} +accuracy (\S+), constant prediction ([.\d]+)", out)
        assert accuracy > 0.9 > 0.6 > constant
    assert not [*tmp_path.iterdir()]


def test_segmentation(run, tmp_path):
    out = run(EXAMPLES / "segmentation.py")
    f1, constant = numbers(r"f1_macro of pixels: (\S+), of predicting 'nothing' (\S+)", out)
    assert f1 > 0.75 > 0.35 > constant
    assert not [*tmp_path.iterdir()]


def test_text(run, tmp_path):
    out = run(EXAMPLES / "text.py")
    (tuned,), (untuned,), (constant,) = (
        numbers(rf"Macro-F1 {of}: (\S+)", out)
        for of in ("with tuned thresholds", "with threshold 0.5", "of 'all topics'")
    )
    assert tuned > 0.9
    assert tuned > untuned > 0.5 > constant
    assert out.endswith("['delivery', 'payment', 'product']\n")
    assert not [*tmp_path.iterdir()]


@needs("jsonargparse")
def test_lightning_cli(run, tmp_path):
    script = [EXAMPLES / "lightning_cli.py"]
    config = ["--config", EXAMPLES / "lightning_cli.yaml"]
    run(*script, "fit", *config, "--model.loss=focal")
    out = run(*script, "test", *config, "--ckpt_path", "checkpoints/best.ckpt")
    assert numbers(r"test/accuracy\W+([.\d]+)", out) > [0.85]
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "lightning_logs"}


@pytest.mark.parametrize(
    ("settings", "constant", "first"),
    [
        ([], 0.73, "['top', 'upper left', 'middle', 'lower right', 'bottom']"),
        (["task=multiclass", "loss=focal", "loss.gamma=1"], 0.12, "5"),
    ],
    ids=["segments", "digits"],
)
def test_subclass(settings, constant, first, run, tmp_path):
    out = run("-m", "sevenseg.train", *settings, "hydra.run.dir=run", path=EXAMPLES / "subclass")
    assert numbers(r"test/accuracy (\S+)", out) > [max(0.9, constant)]
    assert f"The first test images:\n  {first}\n" in out
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_subclass_is_refused_what_its_task_has_not(run):
    arguments = ["-m", "sevenseg.train", "task=multiclass", "loss=asymmetric", "hydra.run.dir=run"]
    out = run(*arguments, path=EXAMPLES / "subclass", code=1)
    assert "Loss 'asymmetric' has no softmax form, which task=multiclass requires." in out


@needs("pip", "setuptools")
def test_subclass_can_be_installed(run, tmp_path):
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("pip install 'setuptools>=77', which makes the wheel")
    project = shutil.copytree(EXAMPLES / "subclass", tmp_path / "project")
    run("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", ".", project)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
        metadata = archive.read("sevenseg-0.1.0.dist-info/METADATA").decode()
    files = [
        path for kind in ("py", "yaml") for path in (EXAMPLES / "subclass" / "sevenseg").rglob(f"*.{kind}")
    ]
    assert {str(path.relative_to(EXAMPLES / "subclass").as_posix()) for path in files} <= names
    assert "Requires-Dist: lossselect" in metadata


@needs("hydra-optuna-sweeper")
def test_sweep_with_optuna(run, tmp_path):
    settings = ["hydra.sweeper.n_trials=3", "trainer.max_epochs=3", "hydra.sweep.dir=sweep"]
    out = run(
        *(ROOT / "train.py", "-m", "--config-dir", EXAMPLES / "sweep"),
        *("experiment=optuna", "trust=[optuna]", *settings),
    )
    (best,) = numbers(r"Best value: ([.\d]+)", out)
    runs = [
        json.loads(path.read_text())["val/average_precision"]
        for path in tmp_path.glob("sweep/*/metrics.json")
    ]
    assert len(runs) == 3
    assert best == pytest.approx(max(runs), abs=1e-6)
    assert best > 0.35  # predictions that ignore the features reach 0.30
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


@needs("hydra-joblib-launcher")
def test_sweep_with_joblib(run, tmp_path):
    settings = ["loss=cross_entropy,focal", "seed=0", "trainer.max_epochs=2", "hydra.sweep.dir=sweep"]
    run(ROOT / "train.py", "-m", "--config-dir", EXAMPLES / "sweep", "experiment=joblib", *settings)
    runs = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("sweep/*/metrics.json")}
    assert runs.keys() == {"0-multilabel", "1-multilabel"}
    assert all(metrics["test/average_precision"] > 0.35 for metrics in runs.values())
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


@needs("nbclient", "ipykernel")
def test_notebook(run, tmp_path):
    stored = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    cells = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    script = (
        "import nbformat, nbclient; "
        f"notebook = nbformat.read({str(EXAMPLES / 'notebook.ipynb')!r}, 4); "
        "nbclient.NotebookClient(notebook, timeout=200).execute(cwd='.'); "
        "print(*(part.get('text', '') for cell in notebook.cells for part in cell.get('outputs', [])))"
    )
    out = run("-c", script)
    for before in ("".join(cells[-2]["outputs"][0]["text"]), out):  # as it is stored, and as it is now
        for metric in ("f1_micro", "f1_macro"):
            tuned, untuned, constant = numbers(rf"{metric} +(\S+) +(\S+) +(\S+)", before)
            assert tuned > untuned > constant + 0.08
    assert not [*tmp_path.iterdir()]
