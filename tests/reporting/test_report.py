"""report.html: its content for all kinds of runs."""

import json
import re
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from report_cases import NASTY, WELLS, outcome, write_overview, write_run
from sklearn.metrics import (
    auc,
    average_precision_score,
    confusion_matrix,
    multilabel_confusion_matrix,
    precision_recall_curve,
    roc_curve,
)

import lossselect as ls
from lossselect.cli import main as cli
from lossselect.cli.report import write_run_report
from lossselect.data.overview import Column, Overview
from lossselect.reporting.figures import combine, precision_recall, reliability, roc, styled
from lossselect.reporting.outcome import Outcome
from lossselect.reporting.overview import print_overview
from lossselect.reporting.page import write_report
from lossselect.utils.names import shorten_names


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
        classes = [of.truth[i].argmax() for _, i in sorted(wrong)]
        expected = [i for n, (_, i) in enumerate(sorted(wrong)) if classes[:n].count(classes[n]) < 3]
        assert [row for row, *_ in of.find_errors(7)] == expected[:7]
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

    def test_one_label_does_not_fill_the_table_of_errors(self):
        logits, target = torch.full((90, 40), -9.0), torch.zeros(90, 40)
        logits[:, 4] = 9.0
        logits[7, 1:4] = 2.0
        of = Outcome(ls.Multilabel(40), None, logits, target, rows=range(90))
        assert [said for _, _, said, _ in of.find_errors(20)] == ["4"] * 5 + ["1", "2", "3"]

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
            figure = roc(Outcome(ls.Binary(), None, logits, target)).figure
        assert "AUROC 1.000" in figure.legends[0].get_texts()[0].get_text()

    @pytest.mark.parametrize("digits", [0, 1, 9])
    def test_curves_are_those_of_scikit_learn(self, digits):
        of = outcome(ls.Binary())
        of = Outcome(
            of.task, None, (of.logits * 10**digits).round() / 10**digits, of.target
        )  # with equal scores
        truth, scores, _ = of.labelled()
        fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
        precision, recall, _ = precision_recall_curve(truth, scores)
        with styled("curves"):
            drawn, other = roc(of), precision_recall(of)
        assert drawn.data["false positive rate"].to_numpy() == pytest.approx(fpr)
        assert drawn.data["true positive rate"].to_numpy() == pytest.approx(tpr)
        assert other.data["recall"].to_numpy() == pytest.approx(recall[::-1])
        assert other.data["precision"].to_numpy() == pytest.approx(precision[::-1])
        assert f"AUROC {auc(fpr, tpr):.3f}" in drawn.figure.legends[0].get_texts()[0].get_text()
        area = average_precision_score(truth, scores)
        assert f"AP {area:.3f}" in other.figure.legends[0].get_texts()[0].get_text()

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
            shares = combine(of).figure.axes[0].images[0].get_array()
        assert shares.tolist() == [[1, 1], [1, 1]]

    def test_no_threshold_decides_the_most_probable_labels(self, tmp_path):
        write_run(tmp_path)
        page = write_report(tmp_path, {"": outcome(ls.Multilabel(3, top_k=1))}).read_text()
        assert "threshold" not in page.partition("<main>")[2].partition("<details")[0]

    def test_confused_pairs(self):
        counts = np.array([[8, 2, 0], [5, 5, 0], [0, 1, 9]])
        of = outcome(ls.Multiclass(3, class_names=("a", "b", "c")), confusion=counts)
        assert of.find_confusions(2) == [("b", "a", 5, 0.5), ("a", "b", 2, 0.2)]
        assert len(of.find_confusions(9)) == 3


class TestNames:
    def test_the_start_that_all_have_is_left_out(self):
        short = shorten_names(WELLS)
        assert short[0] == "\N{HORIZONTAL ELLIPSIS}plate 3 / well A01"
        assert shorten_names(WELLS, 8)[0] == "\N{HORIZONTAL ELLIPSIS}A01"
        assert len({*short}) == 100

    def test_the_middle_of_a_long_name_is_left_out(self):
        names = ["a" * 20 + "b" * 20, "c" * 20 + "d" * 20, "short"]
        assert shorten_names(names, 9) == [
            "aaaa\N{HORIZONTAL ELLIPSIS}bbbb",
            "cccc\N{HORIZONTAL ELLIPSIS}dddd",
            "short",
        ]

    def test_wide_characters_count_twice(self):
        wide = "\N{CJK UNIFIED IDEOGRAPH-6F22}"
        assert shorten_names([wide * 5, f"{wide * 4}ab"], 10) == [wide * 5, f"{wide * 4}ab"]
        assert shorten_names([wide * 5 + "a"], 10) == [f"{wide * 2}\N{HORIZONTAL ELLIPSIS}{wide}a"]

    def test_names_that_fit_are_unchanged(self):
        assert shorten_names(["a b c", "a b d"]) == ["a b c", "a b d"]

    @given(st.lists(st.text(alphabet="ab (2)\n", max_size=12), unique=True), st.integers(8, 12))
    def test_differ_and_fit(self, names, length):
        short = shorten_names(names, length)
        assert len({*short}) == len(names)
        assert max(map(len, short), default=0) <= length


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
        page = write_report(tmp_path, {"": of}).read_text()
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

    def test_what_is_unknown_of_a_run_is_left_out(self, tmp_path):
        write_run(tmp_path)
        page = write_report(tmp_path).read_text()
        title = f"{tmp_path.name}, loss cross_entropy \\(sigmoid form\\), started [-\\d]+ [:\\d]+ UTC, folder {tmp_path}"
        assert re.search(f"<title>{title}</title>", page)
        assert re.findall(r"<dt>(.*?)</dt>", page) == ["loss", "started", "folder"]
        (tmp_path / ".hydra").mkdir()
        (tmp_path / ".hydra" / "config.yaml").write_text("seed: 3\ndata:\n  name: ${oc.env:SECRET}\n")
        assert "seed 3, started" in write_report(tmp_path).read_text()

    def test_features_are_counted_by_type(self, tmp_path):
        write_run(tmp_path)
        write_overview(tmp_path)
        page = write_report(tmp_path).read_text()
        table = page.partition("Features by type")[2].partition("</table>")[0]
        assert re.findall(r"<td.*?<bdi>(.*?)</bdi>", table) == ["category", "8", "8", "0.333"]

    def test_is_one_file(self, tmp_path):
        write_run(tmp_path)
        page = write_report(tmp_path, {"": outcome(ls.Multilabel(3))}).read_text()
        links = {*re.findall(r"https?://[^\s\"'<>]+", page)}
        assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert not re.search(r"url\((?!#)", page.replace("url(data:", ""))

    def test_a_thousand_classes(self, tmp_path):
        write_run(tmp_path)
        task = ls.Multiclass(1000)
        of = outcome(
            task, 1500, per_class={"class": task.names, "f1": [0.1] * 1000}, confusion=np.eye(1000, dtype=int)
        )
        page = write_report(tmp_path, {"": of})
        assert page.stat().st_size < 3e6
        assert "Shown are the 8 of 1000 with the most rows." in page.read_text()
        assert "1,000 classes" in page.read_text()

    def test_pictures_are_files_too(self, tmp_path):
        write_run(tmp_path)
        write_report(tmp_path, {"": outcome(ls.Binary())})
        names = {path.stem for path in (tmp_path / "figures").glob("*.svg")}
        assert names == {"loss", "metrics", "roc", "precision_recall", "reliability", "scores"}
        for path in (tmp_path / "figures").glob("*.png"):
            assert path.read_bytes().startswith(b"\x89PNG")
        assert {path.stem for path in (tmp_path / "figures").glob("*.csv")} == names

    def test_the_data_of_figures_are_files(self, tmp_path):
        write_run(tmp_path)
        counts = np.arange(64).reshape(8, 8)
        of = outcome(ls.Multiclass(8, class_names=NASTY), confusion=counts)
        write_report(tmp_path, {"": of})
        data = {path.stem: pl.read_csv(path) for path in (tmp_path / "figures").glob("*.csv")}
        assert data["loss"].rows()[-2:] == [("val/loss", 1, 0.7), ("val/loss", 2, 0.65)]
        # a spreadsheet must not run a name
        cells = data["confusion"]
        assert cells["true"].unique(maintain_order=True)[2] == "'" + NASTY[2]
        assert cells["rows"].to_list() == counts.ravel().tolist()
        (count, says, right), _ = of.reliability(of.task)
        bins = data["reliability"]
        assert bins["count"].to_list() == count[count > 0].tolist()
        assert (bins["count"] * bins["fraction that is true"]).sum() == pytest.approx(right.sum())
        assert (bins["count"] * bins["mean probability"]).sum() == pytest.approx(says.sum())
        assert data["scores"]["count"].sum() == 8 * 200
        assert data["roc"]["class"].n_unique() == 9

    def test_a_bin_of_few_rows_has_a_number(self):
        logits = torch.tensor([[3.0]] * 20_000 + [[-2.0]])
        with styled("reliability"):
            figure = reliability(Outcome(ls.Binary(), None, logits, (logits > 0).double())).figure
        assert [text.get_text() for text in figure.axes[1].texts if text.get_text()] == ["1", "20k"]

    @pytest.mark.parametrize("kind", ["one class only", "all missing", "no positive prediction"])
    def test_rows_that_show_little(self, kind, tmp_path):
        write_run(tmp_path)
        task = ls.Multilabel(2, threshold=1.0 if kind == "no positive prediction" else 0.5)
        target = torch.zeros(5, 2) if kind == "one class only" else torch.tensor([[0.0, 1]] * 5)
        target = target.fill_(torch.nan) if kind == "all missing" else target
        of = Outcome(task, None, torch.zeros(5, 2), target, rows=range(5))
        assert "Reliability" in write_report(tmp_path, {"": of}).read_text()

    def test_a_random_part_of_the_rows_is_said(self, tmp_path):
        write_run(tmp_path)
        page = write_report(tmp_path, {"": outcome(ls.Binary(), fraction=0.25)}).read_text()
        assert "random sample of 25.0 % of the rows" in page


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
        assert "Unusual values are the cells that deviate most" in page
        assert json.loads((tmp_path / "run" / "data.json").read_text())["rows"]["test"] == predictions.height
        assert f"{predictions.height} test" in page
        written = datetime.fromtimestamp((tmp_path / "run" / "plan.json").stat().st_mtime, UTC)
        identity = f"seed 0, started {written:%Y-%m-%d %H:%M} UTC, folder {tmp_path / 'run'}"
        title = f"breast_cancer: binary, loss cross_entropy (sigmoid form), {identity}"
        assert f"<title>{title}</title>" in page
        matrix = pl.read_csv(tmp_path / "run" / "confusion_matrix.csv")
        assert matrix["true"].to_list() == matrix.columns[1:] == ["malignant", "benign"]
        for row in matrix.iter_rows(named=True):
            said = predictions.filter(target=row.pop("true"))["prediction"]
            assert row == {name: (said == name).sum() for name in row}
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
        assert command("task=multilabel", *given, "export=safetensors")[0] == 0
        assert command("task=binary", *given)[0] == 0
        assert not (tmp_path / "run" / "model.safetensors").exists()
        assert not (tmp_path / "run" / "figures" / "together.svg").exists()
        assert (tmp_path / "run" / "previous_run.1" / "model.safetensors").exists()
        assert (tmp_path / "run" / "previous_run.1" / "figures" / "together.svg").exists()

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
    @pytest.mark.parametrize("name", ["plan.json", "metrics.json", "data.json", ".hydra/config.yaml"])
    def test_of_files_that_hold_something_else(self, name, content, tmp_path):
        write_run(tmp_path)
        (tmp_path / ".hydra").mkdir()
        (tmp_path / name).write_text(content)
        write_run_report(str(tmp_path))
        assert 'id="loss"' in (tmp_path / "report.html").read_text()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["run=nowhere"], "The folder nowhere does not exist."),
            (["run=."], "is not a run folder"),
            (
                ["run=notes.txt"],
                "notes.txt is a file outside a run folder. Give a run folder, or a file in one.",
            ),
            (["rum=x"], "lossselect report has no option 'rum'. Did you mean 'run'?"),
        ],
    )
    def test_mistakes(self, arguments, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "notes.txt").touch()
        monkeypatch.setattr("sys.argv", ["lossselect", "report", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        assert message in capsys.readouterr().err
