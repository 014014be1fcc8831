"""report.html: its content for all kinds of runs, and its display in a browser."""

import json
import re
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

import lossselect as ls
from lossselect.cli import main as cli
from lossselect.cli.report import write_run_report
from lossselect.data.overview import Column, Overview
from lossselect.reporting.figures import combine, roc, styled
from lossselect.reporting.outcome import Outcome
from lossselect.reporting.overview import print_overview
from lossselect.reporting.page import write_report

NASTY = (
    "<script>alert(1)</script>",
    "</svg></style><img src=x onerror=alert(2)>",
    "=1+1|cmd",
    "a/b\\c.d",
    "n" * 300,
    "\N{GRINNING FACE} \N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED}",
    "$\\frac{1}{2}$ [red]",
    "{{ 7 * 7 }} & \"quoted\" 'too'",
)


def outcome(task, rows=200, missing=0.0, **more):
    """Logits that are correlated with the target."""
    random = torch.Generator().manual_seed(0)
    target = torch.randint(2, (rows, task.num_probabilities), generator=random).double()
    if task.activation == "softmax":
        target = task.to_one_hot(torch.randint(task.num_probabilities, (rows,), generator=random)).double()
    logits = 2 * target[:, : task.num_outputs] - 1 + torch.randn(rows, task.num_outputs, generator=random)
    gone = (
        torch.rand(rows, 1 if task.activation == "softmax" else target.shape[1], generator=random) < missing
    )
    target = target.masked_fill(gone, torch.nan)
    return Outcome(task, more.pop("base_task", None), logits, target, rows=range(rows), **more)


def write_run(folder):
    """A run folder before the evaluation."""
    (folder / "logs").mkdir()
    (folder / "plan.json").write_text(ls.explain_task(ls.Binary()).to_json())
    lines = [
        "epoch,step,train/loss,val/loss,val/average_precision",
        "0,1,,0.7,0.5",
        "0,1,0.6,,",
        "1,3,,0.65,0.6",
    ]
    (folder / "logs" / "metrics.csv").write_text("\n".join(lines) + "\n")


def write_overview(folder, count=8):
    """Write an overview whose columns and labels have the given number of nasty names."""
    names = [NASTY[i % 8] * (1 + i // 8) for i in range(count)]
    column = {"kind": "category", "use": "feature", "rows": 9, "missing": 3, "sampled": 9, "distinct": 2}
    columns = [Column(name=n, values=f"{n!r} (5%)", decision=n, change=n, **column) for n in names]
    rows = {"train": 5, "val": 1, "test": 3}
    labels = [(name, rows) for name in names]
    together = [(name, [1] * count) for name in names]
    pairs = [(names[0], names[1], 1, 0.5)]
    overview = Overview(
        NASTY[0], rows, columns, 9, 4, "multilabel", count, labels, rows, rows, rows, together, pairs
    )
    (folder / "data.json").write_text(overview.to_json())


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, as packaged by Debian."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


class TestOutcome:
    def test_binary_decides_and_counts_as_the_task_does(self):
        of = outcome(ls.Binary(class_names=("no", "yes"), threshold=0.3), missing=0.1)
        known = ~np.isnan(of.truth[:, 0])
        cells = confusion_matrix(of.truth[known, 0], of.probabilities[known, 0] >= 0.3)
        assert [int(count[0]) for count in of.counts().values()] == [*cells[[1, 0, 1, 0], [1, 1, 0, 0]]]

    def test_multilabel_counts_each_label(self):
        of = outcome(ls.Multilabel(4, threshold=(0.2, 0.4, 0.6, 0.8)))
        cells = multilabel_confusion_matrix(of.truth, of.probabilities >= [0.2, 0.4, 0.6, 0.8])
        mine = of.counts()
        assert [*mine["true positives"]] == [*cells[:, 1, 1]]
        assert [*mine["false positives"]] == [*cells[:, 0, 1]]
        assert [*mine["false negatives"]] == [*cells[:, 1, 0]]
        assert [*mine["true negatives"]] == [*cells[:, 0, 0]]

    @pytest.mark.parametrize("task", [ls.Multiclass(5), ls.Multiclass(4, ordinal=True)], ids=str)
    def test_most_wrong_of_classes(self, task):
        of = outcome(task, missing=0.2)
        says, sure = of.predicted.argmax(1), of.probabilities
        wrong = [
            (-sure[i, says[i]], i)
            for i in range(200)
            if not np.isnan(of.truth[i]).any() and says[i] != of.truth[i].argmax()
        ]
        expected = [i for _, i in sorted(wrong)[:7]]
        assert [row for row, *_ in of.find_errors(7)] == expected
        for row, true, said, probability in of.find_errors(1000):
            assert of.truth[row, int(true)] == 1
            assert of.predicted[row, int(said)] == 1
            assert probability == of.probabilities[row, int(said)]
        assert len(of.find_errors(1000)) == len(wrong)

    def test_most_wrong_of_labels(self):
        of = outcome(ls.Multilabel(3, class_names=("a", "b", "c")), missing=0.2)
        wrong = of.find_errors(1000)
        assert len(wrong) == int(((of.predicted != of.truth) & ~np.isnan(of.truth)).sum())
        assert [sure for *_, sure in wrong] == sorted((sure for *_, sure in wrong), reverse=True)
        row, true, said, sure = wrong[0]
        name = said.removeprefix("not ")
        probability = of.probabilities[row, "abc".index(name)]
        assert {true, said} == {name, f"not {name}"}
        assert sure == (1 - probability if said.startswith("not") else probability)

    def test_rows_without_a_number_are_not_named(self):
        of = outcome(ls.Binary())
        assert Outcome(of.task, None, of.logits, of.target).find_errors(3) == []

    def test_reliability_before_and_after(self):
        base_task = ls.Multilabel(3)
        of = outcome(ls.Multilabel(3, temperature=2.0), missing=0.1, base_task=base_task)
        (count, says, right), _ = of.reliability(of.task)
        known = ~np.isnan(of.truth)
        assert count.sum() == known.sum()
        assert right.sum() == np.nansum(of.truth)
        assert says.sum() == pytest.approx(of.probabilities[known].sum())
        (_, before, _), _ = of.reliability(base_task)
        assert before.sum() == pytest.approx(of.logits.double().sigmoid().numpy()[known].sum())

    def test_ranks_where_probabilities_are_all_but_one(self):
        logits = torch.linspace(40, 60, 100)[:, None]
        target = torch.arange(100)[:, None].double().ge(50).double()
        with styled("roc"):
            figure = roc(Outcome(ls.Binary(), None, logits, target))
        assert "AUROC 1.000" in figure.legends[0].get_texts()[0].get_text()

    def test_decides_as_predictions_are_made(self):
        logits = torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
        for threshold in logits[:50].sigmoid()[:, 0].tolist():
            task = ls.Binary(threshold=threshold)
            of = Outcome(task, None, logits, torch.zeros(500, 1).double())
            assert (of.predicted == task.predict(logits).numpy()).all()

    def test_labels_together_are_of_rows_that_are_known(self):
        nan = float("nan")
        target = torch.tensor([[1, 1]] * 10 + [[1, nan]] * 90 + [[0, 0]] * 10).double()
        of = Outcome(ls.Multilabel(2), None, torch.zeros(110, 2), target)
        with styled("together"):
            shares = combine(of).axes[0].images[0].get_array()
        assert shares.tolist() == [[1, 1], [1, 1]]

    def test_no_threshold_decides_the_most_probable_labels(self, tmp_path):
        write_run(tmp_path)
        page = write_report(tmp_path, outcome(ls.Multilabel(3, top_k=1))).read_text()
        assert "threshold" not in page.partition("<main>")[2].partition("<details")[0]

    def test_confused_pairs(self):
        counts = np.array([[8, 2, 0], [5, 5, 0], [0, 1, 9]])
        of = outcome(ls.Multiclass(3, class_names=("a", "b", "c")), confusion=counts)
        assert of.find_confusions(2) == [("b", "a", 5, 0.5), ("a", "b", 2, 0.2)]
        assert len(of.find_confusions(9)) == 3


class TestPage:
    @pytest.mark.parametrize(
        "task",
        [
            ls.Binary(class_names=NASTY[:2]),
            ls.Multiclass(8, class_names=NASTY),
            ls.Multilabel(8, class_names=NASTY, threshold=0.4),
        ],
        ids=lambda task: task.name,
    )
    def test_names_are_text(self, task, tmp_path):
        write_run(tmp_path)
        confusion = np.ones((8, 8), int) if task.name == "multiclass" else None
        of = outcome(
            task, per_class={"class": task.output_names, "f1": [0.5] * task.num_outputs}, confusion=confusion
        )
        page = write_report(tmp_path, of).read_text()
        assert page.count("<script>") == 1  # sort.js
        assert "<img" not in page
        assert "49" not in re.findall(r"<bdi>(.*?)</bdi>", page)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page

    def test_the_overview_of_the_data_is_text_and_shortened(self, tmp_path):
        write_run(tmp_path)
        write_overview(tmp_path, 300)
        page = write_report(tmp_path).read_text()
        assert page.count("<script>") == 1
        assert "<img" not in page
        for text in (
            "300 columns",
            "data.json lists all.",
            "the 200 of 300",
            "33.3% of the cells",
            "sample of 4",
        ):
            assert text in page.replace("most frequent ", ""), text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert len(page) < 1e6

    def test_the_overview_on_a_console_has_no_control_characters(self, capsys):
        column = Column(*["\x1b[31m[bold]x"] * 3, 9, 3, 9, 2, *["\x1b[31m[bold]x"] * 3)
        print_overview(Overview("\x1b", {"all": 9}, [column], labels=[("\x1b", {"all": 1})]))
        printed = capsys.readouterr().out
        assert "\x1b" not in printed
        assert "[bold]" in printed

    def test_is_one_file(self, tmp_path):
        write_run(tmp_path)
        page = write_report(tmp_path, outcome(ls.Multilabel(3))).read_text()
        links = {*re.findall(r"https?://[^\s\"'<>]+", page)}
        assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert not re.search(r"url\((?!#)", page.replace("url(data:", ""))

    def test_a_thousand_classes(self, tmp_path):
        write_run(tmp_path)
        task = ls.Multiclass(1000)
        of = outcome(
            task, 1500, per_class={"class": task.names, "f1": [0.1] * 1000}, confusion=np.eye(1000, dtype=int)
        )
        page = write_report(tmp_path, of)
        assert page.stat().st_size < 3e6
        assert "Shown are the 8 of 1000 with the most rows." in page.read_text()
        assert "1,000 classes" in page.read_text()

    def test_pictures_are_files_too(self, tmp_path):
        write_run(tmp_path)
        write_report(tmp_path, outcome(ls.Binary()))
        names = {path.stem for path in (tmp_path / "figures").glob("*.svg")}
        assert names == {"loss", "metrics", "roc", "precision_recall", "reliability", "scores"}
        for path in (tmp_path / "figures").glob("*.png"):
            assert path.read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize("kind", ["one class only", "all missing", "no positive prediction"])
    def test_rows_that_show_little(self, kind, tmp_path):
        write_run(tmp_path)
        task = ls.Multilabel(2, threshold=1.0 if kind == "no positive prediction" else 0.5)
        target = torch.zeros(5, 2) if kind == "one class only" else torch.tensor([[0.0, 1]] * 5)
        target = target.fill_(torch.nan) if kind == "all missing" else target
        of = Outcome(task, None, torch.zeros(5, 2), target, rows=range(5))
        assert "Reliability" in write_report(tmp_path, of).read_text()

    def test_a_random_part_of_the_rows_is_said(self, tmp_path):
        write_run(tmp_path)
        page = write_report(tmp_path, outcome(ls.Binary(), fraction=0.25)).read_text()
        assert "random sample of 25.0 % of the rows" in page


class TestBrowser:
    def test_sorts_and_runs_nothing_else(self, browser, tmp_path):
        write_run(tmp_path)
        task = ls.Multilabel(8, class_names=NASTY)
        f1 = [0.5, 0.9, float("nan"), 0.1, 0.3, 0.2, 0.8, 0.05]
        write_report(tmp_path, outcome(task, per_class={"class": task.names, "f1": f1}))
        browser.get(f"file://{tmp_path}/report.html")
        assert browser.get_log("browser") == []
        table = browser.find_element("css selector", "table.sorts")

        def column(place):
            rows = table.find_elements("css selector", "tbody tr")
            return [row.find_elements("css selector", "td")[place].text for row in rows]

        assert column(0)[0] == NASTY[0]
        assert {*column(0)} == {*NASTY}
        button = table.find_elements("css selector", "thead button")[1]
        button.click()
        assert column(1) == ["0.900", "0.800", "0.500", "0.300", "0.200", "0.100", "0.050", "\N{EN DASH}"]
        assert column(0)[1] == NASTY[6]
        button.click()
        assert column(1)[1:3] == ["0.050", "0.100"]
        assert button.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_fits_a_phone(self, scheme, browser, tmp_path):
        write_run(tmp_path)
        task = ls.Multiclass(8, class_names=NASTY)
        of = outcome(task, per_class={"class": task.names, "f1": [0.5] * 8}, confusion=np.ones((8, 8), int))
        write_overview(tmp_path)
        write_report(tmp_path, of)
        size = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(f"file://{tmp_path}/report.html")
        widths = browser.execute_script("return [document.scrollingElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1] == 390
        ink, paper = browser.execute_script(
            "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
        )
        lightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
        assert (lightness[0] > lightness[1]) == (scheme == "dark")
        text = browser.find_element("css selector", "#roc svg text")
        assert text.value_of_css_property("fill").replace("rgb", "").startswith(ink.replace("rgb", "")[:12])
        assert browser.get_log("browser") == []


@pytest.mark.figures
class TestRun:
    def test_a_run_leaves_a_report(self, command, tmp_path):
        code, out, _ = command("task=binary", "trainer.max_epochs=2", "hydra.run.dir=run")
        assert code == 0
        assert "report.html" in out.splitlines()[-1]
        page = (tmp_path / "run" / "report.html").read_text()
        metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
        assert f"<b>{metrics['test/f1_macro']:.3f}</b>" in page
        assert f"AUROC {metrics['test/auroc']:.3f}" in page
        assert f"AP {metrics['test/average_precision']:.3f}" in page
        assert f"calibrated: error {metrics['test/calibration_error']:.3f}" in page
        assert f"before: error {metrics['test/default_decision/calibration_error']:.3f}" in page
        predictions = pl.read_csv(tmp_path / "run" / "predictions.csv")
        wrong = predictions.filter(pl.col("prediction") != pl.col("target"))
        assert f">{wrong['row'][0]}<" in page
        assert json.loads((tmp_path / "run" / "data.json").read_text())["rows"]["test"] == predictions.height
        assert f"{predictions.height} test" in page
        with pytest.raises(ValueError, match=r"Remove report\.html to replace it"):
            write_run_report(str(tmp_path / "run"))

    OWN = """
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

class Data(LightningDataModule):
    num_outputs, num_features, shuffle, tests = 1, 2, False, True

    def loader(self, shuffle=False):
        inputs = torch.randn(90, 2, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(inputs, inputs[:, :1].gt(0.5).float()), batch_size=30, shuffle=shuffle)

    def train_dataloader(self):
        return self.loader(True)

    def val_dataloader(self):
        return self.loader()

class Shuffled(Data):
    def test_dataloader(self):
        return self.loader(True)

class InOrder(Data):
    def test_dataloader(self):
        return self.loader()
"""

    @pytest.mark.parametrize("kind", ["Data", "InOrder", "Shuffled"])
    @pytest.mark.filterwarnings("ignore:Your `test_dataloader`'s sampler has shuffling enabled")
    @pytest.mark.filterwarnings("ignore:Your `predict_dataloader`'s sampler has shuffling enabled")
    def test_of_data_of_ones_own(self, kind, command, tmp_path, monkeypatch):
        (tmp_path / "own_report.py").write_text(self.OWN)
        monkeypatch.syspath_prepend(tmp_path)
        own = ("~data", f"+data._target_=own_report.{kind}", "trainer.max_epochs=1", "hydra.run.dir=run")
        code, _, err = command("task=binary", *own)
        assert code == 0, err
        page = (tmp_path / "run" / "report.html").read_text()
        assert ("Most confidently wrong" in page) == (kind != "Shuffled")  # its row numbers are unknown
        assert ("There are no test rows. Figures" in page) == (kind == "Data")

    def test_nothing_of_another_run_stays(self, command, tmp_path):
        given = ("trainer.max_epochs=1", "hydra.run.dir=run")
        assert command("task=multiclass", *given, "export=safetensors")[0] == 0
        assert command("task=binary", *given)[0] == 0
        assert not (tmp_path / "run" / "model.safetensors").exists()
        assert not (tmp_path / "run" / "figures" / "confusion.svg").exists()
        assert (tmp_path / "run" / "previous_run.1" / "model.safetensors").exists()
        assert (tmp_path / "run" / "previous_run.1" / "figures" / "confusion.svg").exists()

    def test_none_is_wanted(self, command, tmp_path):
        assert command("task=binary", "trainer.max_epochs=1", "hydra.run.dir=run", "report=false")[0] == 0
        assert not (tmp_path / "run" / "report.html").exists()
        assert not (tmp_path / "run" / "figures").exists()

    def test_of_a_run_that_an_error_ended(self, command, tmp_path):
        given = ("task=binary", "optimizer.lr=1e30", "trainer.max_epochs=2", "hydra.run.dir=run")
        assert command(*given)[0] == 1
        page = (tmp_path / "run" / "report.html").read_text()
        assert "The run did not finish: The loss or its gradient is not finite in step" in page
        assert "1 logit" in page

    def test_a_smoke_test_leaves_none(self, command, tmp_path):
        given = ("task=binary", "optimizer.lr=1e30", "+trainer.fast_dev_run=3", "hydra.run.dir=run")
        assert command(*given)[0] == 1
        assert not (tmp_path / "run" / "report.html").exists()

    def test_of_a_run_that_was_killed(self, tmp_path, monkeypatch, capsys):
        write_run(tmp_path)
        monkeypatch.setattr("sys.argv", ["lossselect", "report", f"run={tmp_path}"])
        cli.main()
        assert capsys.readouterr().out == f"Saved {tmp_path}/report.html\n"
        page = (tmp_path / "report.html").read_text()
        assert "The run has no results, as it did not finish." in page
        assert 'id="loss"' in page

    def test_of_a_log_that_was_cut_short(self, tmp_path):
        write_run(tmp_path)
        with (tmp_path / "logs" / "metrics.csv").open("a") as file:
            file.write('2,5,"0.')
        (tmp_path / "plan.json").write_text("{")
        write_run_report(str(tmp_path))
        assert 'id="loss"' in (tmp_path / "report.html").read_text()

    @pytest.mark.parametrize(
        "part", ["checkpoints", "checkpoints/last.ckpt", "logs/metrics.csv", "plan.json"]
    )
    def test_of_a_part_of_the_run_folder(self, part, tmp_path):
        write_run(tmp_path)
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "checkpoints" / "last.ckpt").touch()
        write_run_report(str(tmp_path / part))
        assert (tmp_path / "report.html").is_file()

    @pytest.mark.parametrize(
        "content", ['{"a": 1}', '{"lines": []}', '{"lines": [{"name": 1}]}', "5", "[1]", ""]
    )
    @pytest.mark.parametrize("name", ["plan.json", "metrics.json", "data.json"])
    def test_of_files_that_hold_something_else(self, name, content, tmp_path):
        write_run(tmp_path)
        (tmp_path / name).write_text(content)
        write_run_report(str(tmp_path))
        assert 'id="loss"' in (tmp_path / "report.html").read_text()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["run=nowhere"], "The folder nowhere does not exist."),
            (["run=."], "is not a run folder"),
            (["rum=x"], "lossselect report has no option 'rum'. Did you mean 'run'?"),
        ],
    )
    def test_mistakes(self, arguments, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["lossselect", "report", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        assert message in capsys.readouterr().err
