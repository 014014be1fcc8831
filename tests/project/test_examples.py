"""The examples, run as users run them: each in a new process and an empty folder."""

import csv
import functools
import importlib
import json
import os
import random
import re
import shutil
import sys
import zipfile
from importlib.metadata import distributions, version

import numpy as np
import pytest
import yaml
from new_process import run_program, run_python
from paths import ROOT
from PIL import Image, ImageDraw

import lossselect as ls
from lossselect.exceptions import DataError, FileMissingError, LossSelectError

EXAMPLES = ROOT / "examples"


@functools.cache
def installed():
    """The names of the installed distributions."""
    return {re.sub(r"[-_.]+", "-", one.name.lower()) for one in distributions()}


def needs(*names):
    """Skips a test where one of these distributions is not installed."""
    missing = [name for name in names if name not in installed()]
    return pytest.mark.skipif(bool(missing), reason=f"pip install {' '.join(missing)}")


@pytest.fixture
def run(tmp_path):
    """Runs Python in an empty folder and returns what it printed; the examples' own folder stays as it is.

    Without `preloaded`, the process starts without any module.
    """
    files = sorted(EXAMPLES.rglob("*"))

    def run(*arguments, path=ROOT, code=0, preloaded=True):
        variables = {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
        start = run_program if preloaded else run_python
        done = start(arguments, tmp_path, **variables)
        assert done.returncode == code, done.stderr
        if not code:
            assert not re.search("Traceback|Warning|deprecated|litlogger|Tip", done.stderr), done.stderr
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
    script += "print({'lightning', 'hydra', 'omegaconf'} & {*sys.modules})"
    out = run("-c", script, preloaded=False)
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
    settings = ["hydra.sweeper.n_trials=3", "model=mlp", "trainer.max_epochs=3", "report=false"]
    out = run(
        *(ROOT / "train.py", "-m", "--config-dir", EXAMPLES / "sweep"),
        *("experiment=optuna", "trust=[optuna]", "hydra.sweep.dir=sweep", *settings),
    )
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())["best_value"]
    runs = [
        json.loads(path.read_text())["val/average_precision"]
        for path in tmp_path.glob("sweep/*/metrics.json")
    ]
    assert len(runs) == 3
    assert best == pytest.approx(max(runs), abs=1e-6)
    assert len(re.findall(rf"(?m)^ +\*.* {best:.4f} ", out)) == 1, out
    assert best > 0.35  # predictions that ignore the features reach 0.30
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


@needs("hydra-joblib-launcher")
def test_sweep_with_joblib(run, tmp_path):
    settings = ["loss=cross_entropy,focal", "seed=0", "model=mlp", "trainer.max_epochs=2", "report=false"]
    command = [ROOT / "train.py", "-m", "--config-dir", EXAMPLES / "sweep", "experiment=joblib", *settings]
    command.append("hydra.sweep.dir=sweep")
    run(*command, preloaded=False)  # the pool of joblib does not end in a process of multiprocessing
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
        "parts = [part for cell in notebook.cells for part in cell.get('outputs', [])]; "
        "print(*(part.get('text', '') for part in parts)); "
        "print({part.get('name') for part in parts})"
    )
    out = run("-c", script)
    assert "stderr" not in out.splitlines()[-1]  # no warnings
    for before in ("".join(cells[-2]["outputs"][0]["text"]), out):  # as it is stored, and as it is now
        for metric in ("f1_micro", "f1_macro"):
            tuned, untuned, constant = numbers(rf"{metric} +(\S+) +(\S+) +(\S+)", before)
            assert tuned > untuned > constant + 0.08
    assert not [*tmp_path.iterdir()]


COLOURS = {"blue": (60, 60, 230), "green": (40, 200, 40), "red": (220, 40, 40)}
SHAPES = ("disc", "square")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A folder of 30 discs and squares in each of three colours, and CSV files of them."""
    folder, draw = tmp_path_factory.mktemp("shapes"), random.Random(0)
    rows = []
    for colour, rgb in COLOURS.items():
        (folder / "photos" / colour).mkdir(parents=True)
        for i in range(30):
            shape = draw.choice(SHAPES)
            image = Image.new("RGB", (30 + i % 3, 30), (30, 30, 30))
            x, y = draw.randint(10, 18), draw.randint(10, 18)
            pen = ImageDraw.Draw(image)
            (pen.ellipse if shape == "disc" else pen.rectangle)((x - 9, y - 9, x + 9, y + 9), rgb)
            image.save(folder / "photos" / colour / f"{i}.png")
            rows.append((f"photos/{colour}/{i}.png", shape, colour))
    texts = {
        "binary.csv": [(path, "yes" if colour == "red" else "no") for path, _, colour in rows],
        "multilabel.csv": [(path, f"{shape} | {colour}") for path, shape, colour in rows],
    }
    for name, pairs in texts.items():
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *pairs])
    return folder


def train_images(run, data, task, *more):
    settings = ["--size", 32, "--batch-size", 8, "--workers", 0, "--accelerator", "cpu"]
    return run(EXAMPLES / "images" / "train.py", "--task", task, "--data", data, *settings, *more)


def predict_images(run, tmp_path, folder):
    script = EXAMPLES / "images" / "predict.py"
    run(script, "run/model.ckpt", folder, "--accelerator", "cpu")
    return [*csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines())]


def test_images_of_a_folder(shapes, run, tmp_path):
    """Trains on a folder, first the last layer and then all; predicts images of all kinds."""
    more = ["--epochs", 5, "--frozen-epochs", 1, "--export", "pt2", "--augmentation", "torch"]
    out = train_images(run, shapes / "photos", "multiclass", *more)
    assert "multiclass with 3 classes: blue, green, red; 62 train, 14 test, 14 val\n" in out
    assert numbers(r"test/accuracy (\S+)", out) > [0.8]
    files = {"checkpoints", "logs", "metrics.json", "model.ckpt", "model.pt2"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files

    (tmp_path / "new").mkdir()
    image = Image.open(shapes / "photos" / "red" / "0.png")
    grey = np.asarray(image.convert("L")).astype(np.uint16)
    variants = {
        "a.jpg": image,
        "b.png": image.convert("RGBA"),
        "c.png": image.convert("L"),
        "d.png": image.convert("P"),
        "e.tif": Image.fromarray(grey * 257),
        "f.webp": image.resize((64, 64)),
    }
    for name, variant in variants.items():
        variant.save(tmp_path / "new" / name)
    rows = predict_images(run, tmp_path, "new")
    assert [row["path"] for row in rows] == [f"new/{name}" for name in variants]
    assert {row["prediction"] for row in rows[:2]} == {"red"}
    for row in rows:
        assert sum(float(row[f"p_{colour}"]) for colour in COLOURS) == pytest.approx(1)


@pytest.mark.parametrize(
    ("task", "more", "columns"),
    [
        ("multilabel", ["--decision", "f1_macro"], ["p_blue", "p_disc", "p_green", "p_red", "p_square"]),
        ("binary", ["--positive", "no", "--loss", "focal"], ["p_no"]),
    ],
)
def test_images_of_a_file(task, more, columns, shapes, run, tmp_path):
    out = train_images(run, shapes / f"{task}.csv", task, "--epochs", 5, *more)
    assert numbers(r"test/f1_macro (\S+)", out) > [0.7]
    rows = predict_images(run, tmp_path, shapes / "photos" / "red")
    assert [*rows[0]] == ["path", "prediction", *columns]
    right = sum({"red", "yes"} & {*row["prediction"].split("|")} != set() for row in rows)
    assert right > 20  # of 30


@needs("timm", "torchvision", "kornia")
def test_images_with_timm_and_kornia(shapes, run, tmp_path):
    net = ["--backbone", "timm:resnet18", "--random-weights", "--frozen-epochs", 1, "--epochs", 4]
    out = train_images(run, shapes / "photos", "multiclass", *net, "--augmentation", "kornia", "--lr", 0.01)
    assert numbers(r"test/accuracy (\S+)", out) > [0.6]
    assert len(predict_images(run, tmp_path, shapes / "photos")) == 90


VISION_MODEL = """
from transformers import ViTConfig, ViTModel
small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
ViTModel(ViTConfig(**small, image_size=32, patch_size=8)).save_pretrained("vit")
"""


@needs("transformers")
def test_images_with_a_local_folder_of_transformers(shapes, run, tmp_path):
    run("-c", VISION_MODEL)
    net = ["--backbone", "transformers:vit", "--frozen-epochs", 1, "--epochs", 6, "--lr", 0.01]
    out = train_images(run, shapes / "photos", "multiclass", *net)
    assert numbers(r"test/accuracy (\S+)", out) > [0.6]
    assert len(predict_images(run, tmp_path, shapes / "photos")) == 90


@pytest.fixture
def load(monkeypatch):
    """A function that imports a module of an example."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names = ("data", "model", "train")
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}

    def load(example, name):
        monkeypatch.syspath_prepend(EXAMPLES / example)
        return importlib.import_module(name)

    yield load
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(others)


def test_images_are_read_upright_and_in_the_same_form(load, tmp_path):
    data = load("images", "data")
    half = Image.new("RGB", (40, 20), "black")
    half.paste("white", (20, 0, 40, 20))  # the right half
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was rotated: the right half is the lower one
    half.save(tmp_path / "rotated.png", exif=exif)
    half.save(tmp_path / "half.png")
    clear = Image.new("RGBA", (20, 20), (200, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(tmp_path / "deep.png")

    def read(name):
        image = data.read_image(tmp_path / name, 10)
        assert (image.shape, str(image.dtype)) == ((3, 10, 10), "torch.uint8")
        return image.float().mean(0)

    rotated, half = read("rotated.png"), read("half.png")
    assert rotated[1].mean() < 20 < 230 < rotated[8].mean()
    assert half[:, 1].mean() < 20 < 230 < half[:, 8].mean()
    assert read("clear.png").unique().tolist() == [255]
    assert read("deep.png").unique().tolist() == [40000 // 257]


def _write(path, text):
    path.write_text(text)
    return path.name


def _copy(shapes, to, names=COLOURS):
    for name in names:
        shutil.copytree(shapes / "photos" / name, to / name)
    return to.name


WRONG_IMAGES = {
    "a missing folder": (lambda s, t: "nowhere", FileMissingError, "File not found: nowhere."),
    "an empty folder": (lambda s, t: ".", DataError, ". has no subfolders"),
    "a folder without images": (
        lambda s, t: (t / "a" / "cat").mkdir(parents=True) or "a",
        DataError,
        "The folder a/cat contains no images.",
    ),
    "one class": (lambda s, t: _copy(s, t / "a", ["red"]), DataError, "got only ['red']"),
    "other columns": (
        lambda s, t: _write(t / "a.csv", "file,label\n1.png,x\n"),
        DataError,
        "a.csv must have the columns path and label, got ['file', 'label'].",
    ),
    "no rows": (lambda s, t: _write(t / "a.csv", "path,label\n"), DataError, "a.csv contains no rows."),
    "a missing image": (
        lambda s, t: _write(t / "a.csv", "path,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(20))),
        FileMissingError,
        ".png. Check the path, or remove its row.",
    ),
    "an image that is none": (
        lambda s, t: (_copy(s, t / "a"), [_write(path, "text") for path in (t / "a").rglob("*.png")])[0],
        DataError,
        ".png cannot be read as an image: cannot identify image file",
    ),
    "too few images": (
        lambda s, t: _write(t / "a.csv", "path,label\n1.png,x\n2.png,y\n"),
        DataError,
        "2 images are too few to split off 15%.",
    ),
}


@pytest.mark.parametrize(("make", "kind", "message"), WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_wrong_images(make, kind, message, load, shapes, tmp_path, monkeypatch):
    train = load("images", "train")
    monkeypatch.chdir(tmp_path)
    args = train.parse_arguments(["--task", "multiclass", "--data", str(make(shapes, tmp_path))])
    with pytest.raises(kind) as caught:
        train.read_splits(args)
    assert message in str(caught.value)


def test_an_unknown_class_of_validation_images(load, shapes, tmp_path):
    train = load("images", "train")
    _copy(shapes, tmp_path / "val")
    (tmp_path / "val" / "green").rename(tmp_path / "val" / "gren")
    data = ["--data", str(shapes / "photos"), "--val", str(tmp_path / "val")]
    with pytest.raises(LossSelectError) as caught:
        train.read_splits(train.parse_arguments(["--task", "multiclass", *data]))
    assert "label 'gren' is not among the class_names. Did you mean 'green'?" in str(caught.value)
    assert "This is about the val images." in str(caught.value)


def test_a_damaged_image_is_named(load, shapes, tmp_path):
    data = load("images", "data")
    (path := tmp_path / "1.png").write_bytes((shapes / "photos" / "red" / "0.png").read_bytes()[:100])
    with pytest.raises(DataError, match=r"1\.png cannot be read as an image: "):
        data.read_image(path, 8)


def test_wrong_images_at_the_command_line(shapes, run, tmp_path):
    arguments = ["--task", "multilabel", "--data", shapes / "photos"]
    out = run(EXAMPLES / "images" / "train.py", *arguments, code=1)
    assert out.startswith("Error: Expected a CSV file with the columns path and label")
    assert "Traceback" not in out
    assert not [*tmp_path.iterdir()]


TOPICS = {
    "account": "password login profile",
    "delivery": "parcel courier tracking",
    "payment": "card invoice refund",
}
TEXT_MODEL = """
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
words = {word: i for i, word in enumerate([*special, *%r])}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
ends = [("[CLS]", 2), ("[SEP]", 3)]
tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
names = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained("tiny")
small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
config = BertConfig(vocab_size=len(words), initializer_range=0.2, **small)
BertForSequenceClassification(config).save_pretrained("tiny")
"""


@needs("transformers")
def test_transformers(run, tmp_path):
    draw, rows = random.Random(0), []
    for _ in range(200):
        topics = draw.sample([*TOPICS], draw.randrange(3))
        words = [word for topic in topics for word in draw.sample(TOPICS[topic].split(), 2)]
        words += draw.sample(["hello", "please", "my", "is"], draw.randrange(1, 4))
        draw.shuffle(words)
        rows.append((" ".join(words), "|".join(topics)))
    with (tmp_path / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    run("-c", TEXT_MODEL % " ".join(TOPICS.values()).split())
    folder, cpu = EXAMPLES / "transformers", ["--accelerator", "cpu"]
    data = ["--task", "multilabel", "--data", "train.csv", "--model", "tiny"]
    out = run(folder / "train.py", *data, "--lr", 3e-3, "--epochs", 6, "--batch-size", 8, *cpu)
    assert numbers(r"test/f1_macro (\S+)", out) > [0.7]
    run(folder / "predict.py", "run", "train.csv", *cpu)
    predictions = [*csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines())]
    assert [*predictions[0]] == ["text", "prediction", *(f"p_{topic}" for topic in TOPICS)]
    right = sum(row["prediction"] == label for row, (_, label) in zip(predictions, rows, strict=True))
    assert right > 120
    out = run(folder / "predict.py", "run", "nowhere.csv", code=1)
    assert out == "Error: File not found: nowhere.csv. Check the path.\n"


def test_wrong_texts(load, tmp_path):
    """The module that reads texts does not require transformers."""
    data = load("transformers", "data")
    (path := tmp_path / "a.csv").write_text("text,topic\nhello,x\n")
    with pytest.raises(DataError, match=r"must have the columns text, label, got \['text', 'topic'\]"):
        data.read_texts(path, several=False)
    path.write_text("text,label\n")
    with pytest.raises(DataError, match="contains no rows"):
        data.read_texts(path, several=False)
    path.write_text("text,label\na,x | y\nb,\n")
    assert data.read_texts(path, several=True) == (["a", "b"], [["x", "y"], []])
    assert data.read_texts(path, several=False) == (["a", "b"], ["x | y", None])
    with pytest.raises(DataError, match="2 texts are too few to split off 15%"):
        data.split(ls.Binary(), ls.Binary().encode([0, 1]), seed=0)
