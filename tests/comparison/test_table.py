import math

import pytest
from run_folders import write_run

from lossselect.comparison.runs import expand_runs, find_runs, read_run, read_runs
from lossselect.comparison.table import make_tables, mean_of
from lossselect.exceptions import ConfigError, FileMissingError


def table_of(folder):
    (table,) = make_tables(read_runs(find_runs(folder)))
    return table


def test_the_mean_and_its_standard_error():
    mean = mean_of([1, 2, 4, None])
    assert mean.mean == pytest.approx(7 / 3)
    assert mean.error == pytest.approx(math.sqrt((16 + 1 + 25) / 9 / 2 / 3))
    assert mean.n == 3
    assert math.isnan(mean_of([1]).error)
    assert mean_of([]).n == 0


def test_runs_that_differ_only_in_their_seeds_are_one_row(tmp_path):
    for seed, lr, value in ((0, "1e-3", 0.5), (1, "1e-3", 0.3), (0, "1e-2", 0.6), (1, "1e-2", 0.4)):
        words = ("task=binary", f"seed={seed}", f"optimizer.lr={lr}", "report=false")
        write_run(tmp_path / f"{lr}{seed}", *words, metrics={"val/loss": value}, value=value)
    table = table_of(tmp_path)
    assert table.settings == ["optimizer.lr"]
    found = {row.settings["optimizer.lr"]: row for row in table.rows}
    assert [row.is_best for row in (found["0.001"], found["0.01"])] == [True, False]
    assert found["0.001"].metrics["val/loss"] == pytest.approx((0.4, 0.1, 2))
    assert [run.seed for run in found["0.001"].runs] == ["0", "1"]


def test_the_default_stands_for_a_setting_that_a_run_does_not_name(tmp_path):
    write_run(tmp_path / "a", "task=binary", metrics={"val/loss": 1})
    write_run(tmp_path / "b", "task=binary", "+optimizer.lr=1e-1", "model=mlp", metrics={"val/loss": 2})
    rows = table_of(tmp_path).rows
    assert [row.settings for row in rows] == [
        {"optimizer.lr": "0.002", "model": "auto"},
        {"optimizer.lr": "0.1", "model": "mlp"},
    ]


def test_the_best_run_is_not_chosen_by_the_test_rows(tmp_path):
    for name, val, test in (("a", 0.5, 0.1), ("b", 0.4, 0.9)):
        metrics = {"val/loss": val, "test/loss": test, "test/accuracy": 1 - test}
        write_run(tmp_path / name, f"model={name}", metrics=metrics, value=val)
    assert [row.is_best for row in table_of(tmp_path).rows] == [False, True]


def test_a_maximised_monitor(tmp_path):
    for name, value in (("a", 0.5), ("b", 0.4)):
        write_run(
            tmp_path / name, f"model={name}", metrics={"x": 1}, metric="val/mine", mode="max", value=value
        )
    table = table_of(tmp_path)
    assert table.metric == "val/mine"
    assert [row.is_best for row in table.rows] == [True, False]


def test_losses_are_not_compared_with_each_other(tmp_path):
    """The loss of a focal run is always smaller than a cross-entropy."""
    for name, loss, auroc in (("focal", 0.1, 0.8), ("cross_entropy", 0.4, 0.9)):
        metrics = {"val/loss": loss, "val/auroc": auroc}
        write_run(tmp_path / name, f"loss={name}", metrics=metrics, value=loss)
    table = table_of(tmp_path)
    assert table.metric == "val/auroc"
    assert "different losses" in table.note
    assert {row.settings["loss"]: row.is_best for row in table.rows} == {
        "focal": False,
        "cross_entropy": True,
    }


def test_totals_of_several_tasks_with_other_weights_are_not_compared(tmp_path):
    for name, word in (("a", "task.weights=uncertainty"), ("b", "task.losses={sick:focal}"), ("c", "")):
        write_run(tmp_path / name, "task=several", *[word] * bool(word), metrics={"val/loss": 1}, value=1)
    table = table_of(tmp_path)
    assert not any(row.is_best for row in table.rows)
    assert "different losses. Set monitor to a metric other than the loss" in table.note


def test_no_run_is_the_best_without_a_common_metric(tmp_path):
    write_run(tmp_path / "a", "monitor=val/f1", metrics={"val/f1": 1}, metric="val/f1", value=1)
    write_run(tmp_path / "b", "monitor=val/loss", metrics={"val/loss": 1}, value=1)
    table = table_of(tmp_path)
    assert (table.metric, [row.is_best for row in table.rows]) == ("", [False, False])
    assert "different monitors" in table.note


def test_each_task_has_its_table(tmp_path):
    for task in ("binary", "multilabel"):
        write_run(tmp_path / task, f"task={task}", metrics={"val/loss": 1}, task=task)
    assert [table.task for table in make_tables(read_runs(find_runs(tmp_path)))] == ["binary", "multilabel"]


def test_runs_without_results_are_rows_with_their_error(tmp_path):
    words = ("task=binary", "optimizer.lr=1")
    write_run(tmp_path / "0", *words, "seed=0", metrics={"val/loss": 1}, value=1)
    write_run(tmp_path / "1", *words, "seed=1", error="The loss is not finite.")
    write_run(tmp_path / "2", *words, "seed=2", killed=True)
    table = table_of(tmp_path)
    (row,) = table.rows
    assert (row.finished, len(row.runs)) == (1, 3)
    assert table.errors() == {"The loss is not finite.": ["1"], "not finished": ["2"]}
    assert table.columns()["error"] == ["The loss is not finite.; not finished"]


@pytest.mark.parametrize("name", ["run.json", "metrics.json", ".hydra/overrides.yaml", ".hydra/config.yaml"])
@pytest.mark.parametrize("content", ["", "[", "[1]", '{"seconds": "long"}', "\x00"])
def test_damaged_files_do_not_end_the_comparison(name, content, tmp_path):
    write_run(tmp_path / "a", "task=binary", "model=mlp", metrics={"val/loss": 1}, value=1)
    (write_run(tmp_path / "b", "task=binary", metrics={"val/loss": 2}) / name).write_text(content)
    names = [
        run.name
        for table in make_tables(read_runs(find_runs(tmp_path)))
        for row in table.rows
        for run in row.runs
    ]
    assert sorted(names) == ["a", "b"]


class TestFolders:
    def test_are_sorted_by_their_numbers(self, tmp_path):
        for number in (0, 2, 10, 1):
            write_run(tmp_path / f"{number}-binary")
        assert [path.name[:-7] for path in find_runs(tmp_path)] == ["0", "1", "2", "10"]

    def test_runs_within_runs_are_earlier_ones(self, tmp_path):
        write_run(tmp_path / "a")
        write_run(tmp_path / "a" / "previous" / "1")
        assert find_runs(tmp_path) == [tmp_path / "a"]

    def test_links_and_runs_without_hydra_files(self, tmp_path):
        write_run(tmp_path / "a")
        (tmp_path / "sweep").mkdir()
        (tmp_path / "sweep" / "0").symlink_to(tmp_path / "a")
        (tmp_path / "sweep" / "1").mkdir()
        (tmp_path / "sweep" / "1" / "run.json").write_text("{}")
        assert [path.name for path in find_runs(tmp_path / "sweep")] == ["0", "1"]

    def test_names_are_short_and_differ(self, tmp_path):
        for path in ("x/1/run", "x/2/run"):
            write_run(tmp_path / path)
        assert [run.name for run in read_runs(find_runs(tmp_path))] == ["1/run", "2/run"]
        assert read_runs([tmp_path / "x/1/run"])[0].name == "run"

    def test_a_pattern_a_sweep_and_a_file_of_a_run(self, tmp_path):
        for path in ("sweep/0", "sweep/1", "lr1", "lr2"):
            write_run(tmp_path / path, metrics={})
        (tmp_path / "lr1" / "checkpoints").mkdir()
        parts = [tmp_path / "lr1" / "metrics.json", tmp_path / "lr1" / "checkpoints"]
        words = [tmp_path / "lr*", tmp_path / "sweep", *parts]
        found = expand_runs([str(word) for word in words])
        assert [path.relative_to(tmp_path).as_posix() for path in found] == [
            "lr1",
            "lr2",
            "sweep/0",
            "sweep/1",
        ]

    @pytest.mark.parametrize(
        ("word", "error", "message"),
        [
            ("missing", FileMissingError, "does not exist"),
            ("*.nothing", FileMissingError, "No folder matches"),
            ("empty", ConfigError, "is not a run folder and contains none"),
            ("notes.txt", ConfigError, "is a file outside a run folder"),
        ],
    )
    def test_others_raise(self, word, error, message, tmp_path):
        (tmp_path / "empty").mkdir()
        (tmp_path / "notes.txt").touch()
        with pytest.raises(error, match=message):
            expand_runs([str(tmp_path / word)])
        with pytest.raises(ConfigError, match="No run was given"):
            expand_runs([])


def test_a_killed_run_has_no_record(tmp_path):
    run = read_run(write_run(tmp_path / "a", "seed=3", killed=True), "a")
    assert (run.record, run.error, run.seed, run.task) == (None, "not finished", "3", "binary")


def test_equal_values_that_are_typed_differently_are_equal(tmp_path):
    for seed, lr in enumerate(("1e-3", "0.001")):
        write_run(
            tmp_path / str(seed), f"optimizer.lr={lr}", f"seed={seed}", metrics={"val/loss": 1}, value=1
        )
    table = table_of(tmp_path)
    assert (table.settings, len(table.rows)) == ([], 1)


def test_two_runs_of_the_same_seed_are_not_repetitions(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, "seed=0", metrics={"val/loss": 1}, value=1)
    assert [len(row.runs) for row in table_of(tmp_path).rows] == [1, 1]


def test_settings_of_config_files_are_compared_too(tmp_path):
    for seed, batch_size in enumerate((64, 32)):
        run = write_run(tmp_path / str(seed), f"seed={seed}", metrics={"val/loss": 1}, value=1)
        with (run / ".hydra" / "config.yaml").open("a") as file:
            file.write(f"data:\n  batch_size: {batch_size}\n")
    assert [row.settings for row in table_of(tmp_path).rows] == [
        {"data.batch_size": "64"},
        {"data.batch_size": "32"},
    ]


def test_losses_of_config_files_are_not_compared_with_each_other(tmp_path):
    for name, loss in (("a", "focal"), ("b", "poly1")):
        metrics = {"val/loss": 1, "val/auroc": 0.5}
        run = write_run(tmp_path / name, f"experiment={name}", metrics=metrics, value=1)
        path = run / ".hydra" / "config.yaml"
        path.write_text(path.read_text().replace("cross_entropy", loss))
    assert table_of(tmp_path).metric == "val/auroc"


def test_runs_of_different_data_have_no_best(tmp_path):
    for name, value in (("a", 0.1), ("b", 0.2)):
        write_run(tmp_path / name, f"data.path={name}.csv", metrics={"val/loss": value}, value=value)
    table = table_of(tmp_path)
    assert not any(row.is_best for row in table.rows)
    assert "different data" in table.note


def test_rows_may_have_different_metrics(tmp_path):
    write_run(tmp_path / "a", "head=dense", metrics={"test/accuracy": 1, "test/f1_micro": 1})
    write_run(tmp_path / "b", "head=chunked", metrics={"test/precision_at_k": 1})
    assert table_of(tmp_path).metrics


def test_a_run_of_an_earlier_version_has_metrics_but_no_record(tmp_path):
    write_run(tmp_path / "a", "model=a", metrics={"val/loss": 1}, killed=True)
    write_run(tmp_path / "b", "model=b", metrics={"val/loss": 2}, value=2)
    table = table_of(tmp_path)
    assert table.columns()["finished"] == [1, 1]
    assert [row.is_best for row in table.rows] == [True, False]
