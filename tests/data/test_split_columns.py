"""Splits that columns determine: published splits, folds, groups and time."""

import re
import warnings

import numpy as np
import polars as pl
import pytest

import lossselect as ls
from lossselect.data.split_columns import (
    read_groups,
    read_splits,
    read_times,
    split_by_time,
    warn_likely_splits,
)
from lossselect.data.splits import split_rows
from lossselect.exceptions import ConfigError, DataError

ROWS = 60
Y = ["a", "b", "c"] * (ROWS // 3)
X = np.random.default_rng(0).normal(size=ROWS)


def table(**columns):
    return {"x": X, **columns, "y": Y}


def sizes(splits):
    return {split: len(rows) for split, rows in splits.rows.items()}


class TestPublishedSplits:
    @pytest.mark.parametrize(
        "words", [("train", "val", "test"), ("Training", "dev", "TEST"), ("train", "validation", "testing")]
    )
    def test_words(self, load, words):
        cells = [words[i % 3 if i % 4 else 0] for i in range(ROWS)]
        splits = load(table(part=cells), split="part")
        for split, word in zip(("train", "val", "test"), words, strict=True):
            assert splits.rows[split].tolist() == [i for i, cell in enumerate(cells) if cell == word]
        assert splits.columns == ("x",)

    @pytest.mark.parametrize(("name", "marked"), [("is_test", "test"), ("isTest", "test"), ("valid", "val")])
    @pytest.mark.parametrize("cells", [(0, 1), (False, True), ("0", "1"), ("0.0", "1.0")])
    def test_a_flag(self, name, marked, cells):
        column = pl.Series(name, [cells[i % 3 == 0] for i in range(9)])
        rows = read_splits(column)
        assert rows.keys() == {"train", marked}
        assert rows[marked].tolist() == [0, 3, 6]

    def test_a_flag_of_training_rows(self):
        rows = read_splits(pl.Series("is_train", [1, 1, 0, 1]))
        assert rows["test"].tolist() == [2]

    @pytest.mark.parametrize(("fold", "expected"), [(1, {1}), ("1", {1}), ([0, 2], {0, 2})])
    def test_folds(self, fold, expected):
        folds = [i % 4 for i in range(20)]
        rows = read_splits(pl.Series("fold", folds), {"test": fold})
        assert {folds[i] for i in rows["test"]} == expected
        assert {folds[i] for i in rows["train"]} == {0, 1, 2, 3} - expected

    def test_folds_of_two_splits(self, load):
        cells = ["train", "train", "id_val", "val", "id_test", "test"] * 10
        with pytest.raises(DataError, match=r"is 'id_val'.*data.test_fold=id_test.*data.val_fold"):
            load(table(part=cells), split="part")
        splits = load(table(part=cells), split="part", test_fold=["test", "id_test"], val_fold="val")
        assert {cells[i] for i in splits.rows["test"]} == {"test", "id_test"}
        assert {cells[i] for i in splits.rows["val"]} == {"val"}
        with pytest.raises(ConfigError, match=r"'val' is in data.test_fold and data.val_fold"):
            load(table(part=cells), split="part", test_fold="val", val_fold="val")

    def test_other_splits_are_drawn_from_the_training_rows(self, load):
        cells = ["test" if i >= 40 else "train" for i in range(ROWS)]
        splits = load(table(part=cells), split="part", val_fraction=0.25)
        assert sizes(splits) == {"train": 30, "val": 10, "test": 20}
        assert splits.rows["test"].tolist() == [*range(40, 60)]
        assert max(splits.rows["val"]) < 40

    @pytest.mark.parametrize(
        ("cells", "fold", "error", "message"),
        [
            (["train", "extra", "test"], None, DataError, r"Row 1 of column 's' is 'extra', but .*Rename it"),
            (["train", "", "test"], None, DataError, r"Row 1 of column 's' is empty"),
            (["test", "test", "val"], None, DataError, "has no training row"),
            ([1, 2, 3], None, ConfigError, r"contains numbers \(1, 2, 3\).*data.test_fold=3"),
            (["f1", "f2", "f3"], None, DataError, "data.test_fold=f1"),
            ([1, 2, 3], 4, ConfigError, r"no fold '4' \(data.test_fold\).*It contains: 1, 2, 3"),
            ([1, 2, 3], [1, 2, 3], ConfigError, "all folds"),
            (["train", "val", "test"], "test", ConfigError, r"contains 'val'.*Add 'val' to .*data.val_fold"),
            (["1", "2", "Holdout", "TEST"], "Holdout", ConfigError, r"contains 'TEST'"),
        ],
    )
    def test_other_cells(self, cells, fold, error, message):
        with pytest.raises(error, match=message):
            read_splits(pl.Series("s", cells), {"test": fold})

    def test_a_file_and_a_column_for_the_same_split(self, load):
        columns = table(part=["test" if i >= 40 else "train" for i in range(ROWS)])
        with pytest.raises(ConfigError, match=r"contains test rows, but data.test_path is also set"):
            load(columns, split="part", test_path=table())


class TestGroups:
    @pytest.mark.parametrize("labels", [np.arange(400) % 3, np.eye(4, dtype=int)[np.arange(400) % 4]])
    @pytest.mark.parametrize("seed", range(3))
    def test_groups_stay_together_and_classes_are_balanced(self, labels, seed):
        groups = np.random.default_rng(seed).integers(0, 60, 400)
        rows = split_rows(labels, {"test": 0.2, "val": 0.15}, seed, [*"abcd"], groups)
        assert np.array_equal(np.sort(np.concatenate([*rows.values()])), np.arange(400))
        assert not set(groups[rows["train"]]) & set(groups[np.r_[rows["val"], rows["test"]]])
        assert not set(groups[rows["val"]]) & set(groups[rows["test"]])
        assert abs(len(rows["test"]) - 80) <= 8
        assert abs(len(rows["val"]) - 48) <= 8
        for index in (rows["val"], rows["test"]):
            assert np.abs(labels[index].mean(0) - labels.mean(0)).max() < 0.25

    def test_the_same_seed_gives_the_same_splits(self):
        groups = np.arange(200) // 4
        first, second, other = (
            split_rows(np.arange(200) % 2, {"test": 0.2}, seed, ("a", "b"), groups)["test"]
            for seed in (0, 0, 1)
        )
        assert np.array_equal(first, second)
        assert not np.array_equal(first, other)

    def test_a_large_group(self):
        groups = np.r_[np.zeros(100, dtype=int), np.arange(100) % 10 + 1]
        rows = split_rows(np.arange(200) % 2, {"test": 0.2, "val": 0.2}, 0, ("a", "b"), groups)
        assert len(rows["test"]) == 40
        assert set(groups[rows["train"]]) >= {0}

    def test_many_groups(self):
        groups = np.arange(9000) // 3
        rows = split_rows(np.arange(9000) % 2, {"test": 0.2, "val": 0.1}, 0, ("a", "b"), groups)
        assert abs(len(rows["test"]) - 1800) < 10
        assert not set(groups[rows["train"]]) & set(groups[rows["test"]])

    @pytest.mark.parametrize("fraction", [0.01, 0.04, 0.97])
    def test_a_small_or_large_fraction(self, fraction):
        groups = np.random.default_rng(0).integers(0, 500, 5000)
        rows = split_rows(np.arange(5000) % 3, {"test": fraction}, 0, [*"abc"], groups)
        assert abs(len(rows["test"]) / 5000 - fraction) < 0.005

    @pytest.mark.parametrize("seed", range(20))
    def test_few_groups(self, seed):
        """Stratification may put several of three groups in one fold, or only a rare class may be left."""
        rng = np.random.default_rng(seed)
        groups = np.repeat([0, 1, 2], [4, 5, 30])
        with ls.ignore_warnings("rare_class"):
            rows = split_rows(rng.permutation(39) % 2, {"test": 0.2, "val": 0.15}, seed, [*"ab"], groups)
        assert sorted(len({*groups[part].tolist()}) for part in rows.values()) == [1, 1, 1]

    def test_a_class_in_a_single_group_is_trained(self):
        labels = np.r_[np.arange(80) % 2, np.full(8, 2)]
        groups = np.r_[np.arange(80) // 4, np.full(8, 20)]
        with pytest.warns(ls.LossSelectWarning, match=r"1 of 3 classes occur in fewer groups.*: c"):
            rows = split_rows(labels, {"test": 0.2, "val": 0.2}, 0, ("a", "b", "c"), groups)
        assert set(range(80, 88)) <= set(rows["train"])

    def test_a_group_for_each_class(self):
        labels = np.arange(40) % 2
        with (
            pytest.warns(ls.LossSelectWarning, match="2 of 2 classes occur in fewer groups"),
            pytest.raises(DataError, match=r"2 groups .* cannot be divided into 3 splits: 2 of them contain"),
        ):
            split_rows(labels, {"test": 0.2, "val": 0.2}, 0, ("a", "b"), labels)

    def test_a_row_without_a_group(self):
        with pytest.warns(ls.LossSelectWarning, match=r"no group in 2 of 5 rows, such as row 1"):
            groups = read_groups(pl.Series("g", ["p", None, "q", " ", "p "]))
        assert len({*groups}) == 4
        assert groups[0] == groups[4]

    def test_codes_are_read_as_text(self, load):
        splits = load(table(g=[f"{i % 12:03}" for i in range(ROWS)]), group="g", val_fraction=0.2)
        assert splits.columns == ("x",)
        groups = [set((splits.rows[split] % 12).tolist()) for split in ("train", "val", "test")]
        assert not groups[0] & (groups[1] | groups[2])

    def test_groups_in_several_splits_of_a_published_split(self, load):
        columns = table(g=[i // 2 for i in range(ROWS)], s=["train", "test"] * 30)
        with pytest.warns(ls.LossSelectWarning, match="groups of column 'g'") as caught:
            splits = load(columns, split="s", group="g")
        messages = [str(warning.message) for warning in caught]
        for split, effect in (("train", "memorisation"), ("val", "too good")):
            text = next(text for text in messages if effect in text)
            assert text.startswith("Some groups of column 'g' have rows in the ")
            assert f"in the test split ({len(splits.rows[split])}, such as " in text
        assert len(messages) == 2

    @pytest.mark.parametrize("files", [[], ["val"], ["val", "test"]])
    def test_groups_in_validation_and_test_rows(self, load, files):
        part = np.array(["train", "val", "test"]).repeat(20)
        group = [*range(20), *range(40, 60), *range(59, 79)]  # 59 is in both
        frame = pl.DataFrame(table(g=group, s=part))
        paths = {f"{split}_path": frame.filter(pl.col("s") == split) for split in files}
        role = {"exclude": ["s"]} if "test" in files else {"split": "s"}
        with pytest.warns(ls.LossSelectWarning) as caught:
            load(frame.filter(~pl.col("s").is_in(files)), group="g", **role, **paths)
        message = str(caught.pop().message)
        assert "in the validation split and in the test split (1, such as '59')" in message
        assert not caught

    def test_groups_in_two_files(self, load):
        columns = table(g=[f"p{i // 2}" for i in range(ROWS)])
        with pytest.warns(
            ls.LossSelectWarning, match=r"Some groups of column 'g'.*test split \(\d+, such as"
        ):
            load(columns, group="g", test_path=columns)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load(columns, group="g", test_path={"x": X + 1, "y": Y})  # nothing to compare


class TestTime:
    def test_the_most_recent_rows_are_the_test_split(self, load):
        order = np.random.default_rng(0).permutation(ROWS)
        dates = [f"2024-{1 + day // 28:02}-{1 + day % 28:02}" for day in order.tolist()]
        splits = load(table(when=dates), time="when", test_fraction=0.2, val_fraction=0.25)
        assert sizes(splits) == {"train": 36, "val": 12, "test": 12}
        last = {split: order[rows].max() for split, rows in splits.rows.items()}
        first = {split: order[rows].min() for split, rows in splits.rows.items()}
        assert last["train"] < first["val"]
        assert last["val"] < first["test"]
        assert splits.columns == ("x",)

    def test_rows_of_equal_time_stay_together(self):
        rows = split_by_time(np.array([1, 1, 2, 2, 3, 3]), {"test": 0.2})
        assert rows["test"].tolist() == [4, 5]

    def test_a_number_may_also_be_a_feature(self, load):
        splits = load(table(year=[2000 + i // 6 for i in range(ROWS)]), time="year", features=["x", "year"])
        assert splits.columns == ("x", "year")

    def test_dates_that_are_numbers(self, load):
        """01022023 is a later date than 31012020, although it is a smaller number."""
        days = [f"{1 + i % 28:02}{1 + i % 12:02}{2020 + i // 20}" for i in range(ROWS)]
        splits = load(table(when=days), time="when", date_format="%d%m%Y", test_fraction=1 / 3)
        assert sorted(splits.rows["test"].tolist()) == [*range(40, ROWS)]

    def test_numbers_that_are_not_dates_of_the_format(self):
        assert read_times(pl.Series("t", [5, 70, 8]), "%d%m%Y").tolist() == [1, 3, 2]

    def test_numbers_after_blanks(self):
        times = pl.Series("t", [" 5", " 70", " 8.5"])
        assert read_times(times, None).tolist() == [1, 3, 2]

    def test_too_few_times(self):
        with pytest.raises(DataError, match=r"too few different values \(1\) for a test split of 0.2"):
            split_by_time(np.ones(10), {"test": 0.2})

    def test_an_empty_cell(self, load):
        with pytest.raises(DataError, match=r"Row 3 of column 'when' is empty.*data.time=when"):
            load(table(when=[None if i == 3 else i for i in range(ROWS)]), time="when")

    def test_nothing_to_split(self, load):
        with pytest.raises(ConfigError, match=r"data\.time has no effect"):
            load(
                table(t=range(ROWS)), time="t", val_path=table(t=range(ROWS)), test_path=table(t=range(ROWS))
            )


class TestPlan:
    @pytest.mark.parametrize(
        ("options", "method"),
        [
            ({}, "drawn at random, stratified by label"),
            ({"group": "g"}, "drawn as whole groups of column 'g', stratified by label"),
            ({"time": "t"}, "by time (column 't'): the latest rows are the test split"),
            ({"split": "s"}, "as column 's' names them; others drawn at random, stratified by label"),
        ],
    )
    def test_columns(self, load, options, method):
        columns = table(g=[i % 12 for i in range(ROWS)], t=[i * 7 % 30 for i in range(ROWS)])
        columns["s"] = ["test" if i % 5 == 0 else "train" for i in range(ROWS)]
        with ls.ignore_warnings("likely_split_column"):
            assert load(columns, **options).method == method

    def test_files(self, load):
        columns, other = table(), {"x": X + 1, "y": Y}
        method = load(columns, val_path=other).method
        assert re.fullmatch(
            r"validation rows of .*val_path\.csv; others drawn at random, stratified.*", method
        )
        method = load(columns, val_path=other, test_path={"x": X + 2, "y": Y}).method
        assert re.fullmatch(r"validation rows of .*val_path\.csv; test rows of .*test_path\.csv", method)


class TestRoles:
    @pytest.mark.parametrize("role", ["split", "group"])
    def test_a_feature(self, load, role):
        with pytest.raises(ConfigError, match=rf"both data\.{role} and a feature"):
            load(table(g=["train", "test"] * 30), features=["x", "g"], **{role: "g"})

    def test_a_name_that_yaml_reads_as_a_number(self, load):
        columns = table(**{"0": [f"p{i // 4}" for i in range(ROWS)]})
        assert load(columns, group=0, test_path=table()).columns == ("x",)

    @pytest.mark.parametrize("role", ["split", "group", "time"])
    def test_two_roles(self, load, role):
        with pytest.raises(ConfigError, match=f"'y' cannot be both data.target and data.{role}"):
            load(table(), **{role: "y"})
        with pytest.raises(DataError, match=rf"no column 'g' \(data.{role}\)"):
            load(table(), **{role: "g"})


class TestSuspiciousFeatures:
    @pytest.mark.parametrize(
        ("name", "cells"),
        [
            ("part", ["train", "dev", "test", "test"] * 15),
            ("is_test", [0, 1, 0] * 20),
            ("isValid", [True, False, False] * 20),
            ("Usage", ["Training", "Training", "PublicTest", "PrivateTest"] * 15),
            ("fold", [0, 1, 2, 3, 4] * 12),
            ("split", [0, 0, 0, 1, 2] * 12),
        ],
    )
    def test_a_split(self, load, name, cells):
        with pytest.warns(
            ls.LossSelectWarning, match=rf"'{name}' seems to contain the split.*data.split={name}"
        ):
            load(table(**{name: cells}))

    @pytest.mark.parametrize(
        ("name", "cells"),
        [("who", [f"p{i // 2}" for i in range(ROWS)]), ("patient_id", [i * 7 % 30 for i in range(ROWS)])]
        + [(name, [i // 6 for i in range(ROWS)]) for name in ("patient_nbr", "Patienten-Nr", "user")]
        + [("patient_id", [i // 3 + 0.0 if i else None for i in range(ROWS)])],
    )
    def test_groups(self, load, name, cells):
        with pytest.warns(
            ls.LossSelectWarning, match=rf"'{name}' seems to contain patients.*data.group={name}"
        ):
            load(table(**{name: cells}))

    @pytest.mark.parametrize(
        ("numbers", "problem"),
        [
            ([*range(ROWS)], "counts the rows"),
            ([*range(ROWS, 0, -1)], "a different integer"),
            ([row * row for row in range(ROWS)], "a different integer"),
        ],
    )
    def test_identifiers(self, load, numbers, problem):
        with pytest.warns(ls.LossSelectWarning, match=rf"'n' .*{problem}.*data.exclude=\[n\].*index_column"):
            load(table(n=numbers))

    def test_amounts(self, load):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load(table(income=[20_000 + i * 7919 % 9973 for i in range(ROWS)]))

    @pytest.mark.parametrize(
        ("name", "cells"),
        [
            ("colour", ["red", "blue", "green", "red"] * 15),
            ("age", [i * 7 % 30 for i in range(ROWS)]),
            ("smoker", [0, 1, 0] * 20),
            ("latest", [0, 1] * 30),
            ("size", [f"{i // 2},5" for i in range(ROWS)]),
            ("state", ["train"] * 30 + ["bus"] * 30),
            ("city", [f"{chr(65 + i // 2)}ville" for i in range(ROWS)]),
            ("model", [["A4", "320i", "C-220", "Up", "i3s"][i % 5] + "x" * (i // 10) for i in range(ROWS)]),
            ("client_age", [i * 7 % 30 for i in range(ROWS)]),
            ("person", ["adult", "child", "none"] * 20),
        ],
    )
    def test_other_features(self, name, cells):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_likely_splits(pl.DataFrame({name: cells}), has_groups=False)
