"""The plan: what a task implies and what a run will do, for people and programs."""

import json
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from rich.console import Console

import lossselect as ls
from lossselect.cli import main as cli
from lossselect.reporting.explain import decision_lines
from lossselect.reporting.plan import SUMMARY, Line, Plan, compare_decisions

NASTY = "<script>alert(1)</script> [red] & \"'"


class Cells(HTMLParser):
    """The tags and the texts of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


class TestPlan:
    plan = Plan("<b>Plan</b>", [Line("classes", NASTY, "why [bold]", "a=<i>"), Line("head", "3")])

    def test_a_name_with_markup_is_text(self):
        page = Cells(self.plan._repr_html_())
        assert {*page.tags} == {"table", "caption", "tr", "th", "td", "code"}
        assert NASTY in page.texts
        assert NASTY in str(self.plan)
        assert "why [bold]" in str(self.plan)

    def test_a_summary_fits_on_a_small_terminal(self):
        names = ("mix", *[*SUMMARY][12::-1])  # without those of resumed runs
        plan = Plan("Plan", [Line(name, "a long value " * 50, "reason", "x=1") for name in names])
        console = Console(width=80, color_system=None)
        with console.capture() as printed:
            console.print(plan.summary())
        assert printed.get().count("\n") <= 24
        lines = plan.summary().lines
        assert [line.name for line in lines] == [*SUMMARY][:13]
        assert all(line.value.endswith(" ...") and not line.why + line.change for line in lines)
        assert plan.summary()["task"].value == "a long value a long value a long value a long value ..."

    @pytest.mark.parametrize("name", ["resumed", "previous_run", "outputs"])
    def test_a_summary_contains_whole_paths(self, name):
        path = "/home/me/" + "a_folder/" * 9
        assert (
            Plan("Plan", [Line(name, f"from {path}, after 8 steps")]).summary()[name].value.count(path) == 1
        )

    def test_plain_values(self):
        assert json.loads(self.plan.to_json()) == self.plan.to_dict()
        assert self.plan.to_dict()["lines"][1] == {"name": "head", "value": "3", "why": "", "change": ""}

    def test_a_line_by_name(self):
        assert self.plan["head"].value == "3"
        with pytest.raises(KeyError, match="Choose one of: classes, head"):
            self.plan["loss"]


class TestExplainTask:
    @pytest.mark.parametrize(
        ("task", "head", "activation", "formula"),
        [
            (ls.Binary(), "1 logit", "sigmoid", "Binary cross-entropy"),
            (ls.Multiclass(3), "3 logits", "softmax", "Cross-entropy: -sum_c"),
            (ls.Multilabel(14), "14 logits", "sigmoid", "Binary cross-entropy"),
            (ls.Multiclass(3, ordinal=True), "2 logits", "softmax", "Cross-entropy: -sum_c"),
        ],
    )
    def test_follows_from_the_task(self, task, head, activation, formula):
        plan = ls.explain_task(task)
        assert plan["head"].value == head
        assert plan["activation"].value == f"{activation}, only for predictions and metrics"
        assert formula in plan["loss"].why
        assert plan["target"].value == task.target_spec
        for name in task.metric_names:
            assert name in plan["metrics"].value

    def test_says_what_the_loss_multiplies_by(self):
        assert ls.explain_task(ls.Multiclass(2))["weights"].value == "none"
        plan = ls.explain_task(ls.Multiclass(2, class_names=("a", "b")), "focal", weight=[1, 3], gamma=1)
        assert plan["weights"].value == "weight a: 1, b: 3"
        assert plan["options"].value == "gamma=1"
        assert plan["loss"].why.startswith("as configured. ")

    def test_of_an_unknown_loss(self):
        with pytest.raises(ValueError, match="Unknown loss 'focl'"):
            ls.explain_task(ls.Binary(), "focl")

    def test_needs_no_lightning(self):
        probe = (
            "import sys, lossselect as ls; print(ls.explain_task(ls.Binary())); "
            "assert 'lightning' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True)


class TestExplain:
    @pytest.mark.parametrize(
        ("task", "example"),
        [
            ("binary", "'malignant' is encoded as [0]"),
            ("multiclass", "row 0: '0' is encoded as 0"),
            (
                "multilabel",
                "['Class7', 'Class8', 'Class12', 'Class13'] is encoded as [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1",
            ),
        ],
    )
    def test_writes_nothing_and_trains_nothing(self, task, example, command, tmp_path):
        code, out, err = command(f"task={task}", "explain=json")
        assert code == 0, err
        lines = {line["name"]: line for line in json.loads(out)["lines"]}
        assert example in lines["target"]["why"]
        assert lines["loss"]["change"] == "loss=focal, loss=auto"
        assert [*tmp_path.iterdir()] == []

    def test_the_example_is_what_the_data_hold(self, command, tmp_path):
        (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{i % 7},{'ab'[i % 2]}|c\n" for i in range(40)))
        table = ("data=table", "data.path=a.csv", "data.target=y", "data.delimiter='|'")
        code, out, err = command(
            "task=multilabel", *table, "explain=json", "ignore_warnings=[constant_label,duplicate_rows]"
        )
        assert code == 0, err
        lines = {line["name"]: line for line in json.loads(out)["lines"]}
        row = int(lines["target"]["why"].split("row ")[1].split(":")[0])
        label, code = ("a", "1, 0") if row % 2 == 0 else ("b", "0, 1")
        assert lines["target"]["why"].endswith(f"; row {row}: ['{label}', 'c'] is encoded as [{code}, 1]")

    def test_reasons_of_a_run(self, command):
        given = ("task=auto", "data=yeast", "loss=auto", "seed=1", "trainer.max_epochs=3", "bias_init=null")
        code, out, err = command(*given, "explain=json")
        assert code == 0, err
        lines = {line["name"]: line for line in json.loads(out)["lines"]}
        assert lines["task"]["why"] == "yeast: row 0 has 4 ones"
        assert lines["loss"]["why"]
        assert lines["training"]["value"] == "at most 3 epochs; batches of 64 rows"
        assert "initial bias" not in lines

    def test_the_example_of_lists_is_a_list(self, command):
        code, out, err = command("task=multilabel", "head=chunked", "explain=json")
        assert code == 0, err
        lines = {line["name"]: line for line in json.loads(out)["lines"]}
        assert (
            "'Class7', 'Class8', 'Class12', 'Class13'] is encoded as [6, 7, 11, 12]" in lines["target"]["why"]
        )

    @pytest.mark.parametrize(
        ("given", "name", "change"),
        [
            (["loss.pos_weight=auto"], "weights", "loss.pos_weight=null"),
            (["task.top_k=2"], "decision", "decision=none"),
            (["decision=none"], "decision", "task.threshold=0.3, decision=tuned"),
        ],
    )
    def test_what_changes_it_is_what_may_be_changed(self, given, name, change, command):
        code, out, err = command("task=multilabel", *given, "explain=json")
        assert code == 0, err
        lines = {line["name"]: line for line in json.loads(out)["lines"]}
        assert lines[name]["change"] == change

    @pytest.mark.parametrize(
        ("given", "monitor"),
        [
            ([], "the last epoch"),
            (["+trainer.max_steps=20"], "the epoch with the best val/loss (min)"),
            (["+scheduler.eta_min=0.001"], "the epoch with the best val/loss (min)"),
            (["callbacks.early_stopping.monitor=val/loss"], "the epoch with the best val/loss (min)"),
        ],
    )
    def test_the_last_epoch_is_kept_where_the_learning_rate_is_0_by_then(self, given, monitor, command):
        code, out, err = command("task=multiclass", *given, "explain=json")
        assert code == 0, err
        lines = {line["name"]: line for line in json.loads(out)["lines"]}
        assert lines["checkpoint"]["value"] == monitor

    @pytest.mark.parametrize(
        "given",
        [
            ("monitor=last", "bias_init=zero", "model=linear"),
            ("scheduler=none", "optimizer=sgd", "loss.pos_weight=auto", "trainer.max_epochs=2"),
            ("trainer.accumulate_grad_batches=3", "+trainer.max_steps=3", "scheduler=plateau", "loss=focal"),
            ("trainer.precision=bf16-mixed", "callbacks=none", "decision=none", "bias_init=null"),
            ("callbacks.early_stopping.monitor=val/loss", "+trainer.limit_val_batches=1", "mix=mixup"),
            ("loss=logit_adjusted", "decision.calibration=none", "+trainer.max_time=00:01:00:00"),
        ],
        ids=str,
    )
    def test_what_is_explained_is_what_is_run(self, given, command, tmp_path):
        code, out, err = command(
            "task=binary", "trainer.max_epochs=1", "trainer.accelerator=cpu", *given, "explain=json"
        )
        assert code == 0, err
        run = ("task=binary", "trainer.max_epochs=1", "trainer.accelerator=cpu", *given, "hydra.run.dir=run")
        code, _, err = command(*run, "report=false", "logger=none")
        lines = json.loads((tmp_path / "run" / "plan.json").read_text())["lines"]
        of_run = ("outputs", "settings")
        assert [line for line in lines if line["name"] not in of_run] == json.loads(out)["lines"]

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("monitor=last", {"checkpoint": "as configured", "early stopping": "none"}),
            ("bias_init=zero", {"initial bias": "bias_init=prior"}),
            ("model=linear", {"model": "model=mlp"}),
            ("optimizer=sgd", {"optimizer": "optimizer=adamw, optimizer.lr"}),
            (
                "scheduler=none",
                {"schedule": "scheduler=cosine, scheduler=plateau", "early stopping": "after 20 epochs"},
            ),
            ("+trainer.max_steps=20", {"training": "at most 72 epochs or 20 steps"}),
            ("+trainer.max_time=00:01:00:00", {"training": "72 epochs or 00:01:00:00 (days:"}),
            ("trainer.accumulate_grad_batches=4", {"training": "256 rows per step"}),
            (
                "trainer.devices=2 +trainer.strategy=ddp trainer.accumulate_grad_batches=4",
                {"training": "512 rows per step", "device": "2 processes"},
            ),
            (
                "callbacks.early_stopping.monitor=val/f1",
                {"early stopping": "after 20 epochs without a better val/f1"},
            ),
            ("+scheduler.interval=step", {"checkpoint": "the epoch with the best val/loss"}),
            (
                "+callbacks.es._target_=lightning.pytorch.callbacks.EarlyStopping +callbacks.es.monitor=val/loss",
                {
                    "checkpoint": "the epoch with the best val/loss",
                    "early stopping": "after 3 epochs without a better",
                },
            ),
            (
                "+callbacks.timer._target_=lightning.pytorch.callbacks.Timer +callbacks.timer.duration=00:00:01:00",
                {"checkpoint": "the epoch with the best val/loss", "early stopping": "by Timer"},
            ),
            ("loss=logit_adjusted", {"weights": "counted in the training labels (prior)"}),
            ("loss=logit_adjusted loss.pos_weight=2", {"weights": "counted in the training labels (prior)"}),
        ],
        ids=str,
    )
    def test_each_line_is_true(self, given, said, command):
        code, out, err = command("task=binary", "trainer.accelerator=cpu", *given.split(), "explain=json")
        assert code == 0, err
        lines = {line.pop("name"): " | ".join(line.values()) for line in json.loads(out)["lines"]}
        for name, text in said.items():
            assert text in lines[name]

    def test_a_loss_with_options(self):
        focal = ls.explain_task(ls.Binary(), {"name": "focal", "gamma": 1.5})
        assert focal["options"].value == "gamma=1.5"
        assert focal == ls.explain_task(ls.Binary(), "focal", gamma=1.5)

    def test_what_a_task_brings_along(self):
        task = ls.Multiclass(3, prior_correction=(1, 2, 30), temperature=3)
        assert ls.explain_task(ls.Multiclass(3))["decision"].value == "the most probable class"
        assert ls.explain_task(task)["decision"].value == (
            "the most probable class, with probabilities multiplied by 1, 2, 30; logits are divided by 3"
        )

    @pytest.mark.default_net
    def test_a_run_leaves_its_plan(self, command, tmp_path):
        assert command("task=binary", "trainer.max_epochs=1", "hydra.run.dir=run")[0] == 0
        lines = {
            line["name"]: line for line in json.loads((tmp_path / "run" / "plan.json").read_text())["lines"]
        }
        assert lines["outputs"]["value"] == str(tmp_path / "run")
        assert lines["settings"]["value"] == "task=binary trainer.max_epochs=1"

    @pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
    def test_a_run_prints_a_summary(self, task, command, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        code, out, err = command(f"task={task}", "+trainer.fast_dev_run=true")
        assert code == 0, err
        printed = out[: out.index("explain=true")]
        for name in (
            "task",
            "loss",
            "target",
            "head",
            "weights",
            "decision",
            "metrics",
            "data",
            "model",
            "training",
            "device",
        ):
            assert f"\n  {name} " in printed
        assert printed.count("\n") < 24

    def test_another_value(self, command):
        code, _, err = command("task=binary", "explain=yes")
        assert code == 1
        assert "explain must be true, false or json, got 'yes'." in err


class TestCommands:
    def test_explain(self, command, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["lossselect", "explain", "task=binary"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        assert "1 logit" in capsys.readouterr().out

    def test_settings_alone_are_for_train(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["lossselect", "task=binry"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        assert "Unknown task 'binry'. Did you mean 'binary'?" in capsys.readouterr().err

    def test_an_unknown_command(self, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["lossselect", "pedict"])
        with pytest.raises(SystemExit, match=r"Unknown command .pedict.\. Did you mean .predict.\?"):
            cli.main()

    def test_help(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["lossselect"])
        cli.main()
        said = capsys.readouterr().out
        assert all(f"  {name} " in said for name in cli.COMMANDS)

    def test_version(self, monkeypatch, capsys):
        for command in (
            ["lossselect", "--version"],
            ["lossselect", "predict", "--version"],
            ["lossselect", "train", "--version"],
        ):
            monkeypatch.setattr("sys.argv", command)
            cli.main()
            assert capsys.readouterr().out.startswith("lossselect 0.")


def test_a_decision_that_makes_metrics_worse_is_reported():
    metrics = {
        "test/f1": 0.5, "test/default_decision/f1": 0.4,
        "test/accuracy": 0.8, "test/default_decision/accuracy": 0.9,
        "test/hamming_distance": 0.2, "test/default_decision/hamming_distance": 0.1,
        "test/brier_score": 0.11, "test/default_decision/brier_score": 0.1,
        "test/calibration_error": 0.01, "test/default_decision/calibration_error": 0.02,
        "test/auroc": 0.7, "test/recall/cat": 0.1, "test/default_decision/recall/cat": 0.2,
        "test/mine": 0.1, "test/default_decision/mine": 0.2,
    }  # fmt: skip
    assert compare_decisions(metrics) == (
        "On the test rows, the tuned decision improves f1 (0.4000 to 0.5000), but worsens accuracy (0.9000 to "
        "0.8000), hamming_distance (0.1000 to 0.2000). decision.metric=null keeps the default one. On the test "
        "rows, calibration worsens brier_score (0.1000 to 0.1100). decision.calibration=none leaves it out."
    )
    better = {name: value for name, value in metrics.items() if name.endswith(("f1", "calibration_error"))}
    assert compare_decisions(better) == ""
    equal = {"test/accuracy": 0.9, "test/default_decision/accuracy": 0.9, "test/f1": None}
    assert compare_decisions({**equal, "test/default_decision/f1": None}) == ""


@pytest.mark.parametrize("factors", [(1.5, 3.0, 0.75), (200, 400, 100)])
def test_class_factors_are_shown_relative_to_the_smallest(factors):
    task = ls.Multiclass(3, class_names=("a", "b", "c"), prior_correction=factors, temperature=2)
    lines = [*decision_lines(task, 48, calibrates=True)]
    assert lines[:3] == [
        ("fitted to", "48 labelled validation rows"),
        ("temperature", "2"),
        ("class factors", "a: 2, b: 4, c: 1"),
    ]
    assert "the smallest is 1" in lines[3][1]
    assert task.decision_rule() == "the most probable class, with probabilities multiplied by 2, 4, 1"
    assert not any("factor" in "".join(line) for line in decision_lines(ls.Multiclass(3), 48, False))
