import warnings

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from table_cases import NAN, numbers

import lossselect as ls
from lossselect.data.checks import check_splits
from lossselect.data.splits import split_in_two, split_rows
from lossselect.data.toy import DATASETS
from lossselect.exceptions import DataError
from lossselect.tasks.registry import make_task


class TestSplitRows:
    def test_stratified_partition(self):
        labels = np.repeat([0, 1], [80, 20])
        rows = split_rows(labels, {"test": 0.2, "val": 0.25}, 0, ("a", "b"))
        assert {split: len(index) for split, index in rows.items()} == {"train": 60, "val": 20, "test": 20}
        assert np.array_equal(np.sort(np.concatenate([*rows.values()])), np.arange(100))
        assert [labels[index].mean() for index in rows.values()] == [0.2, 0.2, 0.2]
        again = split_rows(labels, {"test": 0.2, "val": 0.25}, 0, ("a", "b"))
        assert all(np.array_equal(rows[split], again[split]) for split in rows)

    def test_rare_classes_go_to_train(self):
        labels = np.array([0.0] * 20 + [1.0] * 20 + [2.0, 2.0, 3.0, NAN])
        with pytest.warns(
            ls.LossSelectWarning, match=r"2 of 4 classes have fewer rows than there are splits \(3\): c, d"
        ):
            rows = split_rows(labels, {"test": 0.2, "val": 0.25}, 0, ("a", "b", "c", "d"))
        assert {40, 42, 43} <= set(rows["train"].tolist())
        assert np.array_equal(np.sort(np.concatenate([*rows.values()])), np.arange(44))

    def test_classes_of_two_rows_go_to_random_splits(self):
        labels = np.repeat(np.arange(30), 2)
        with pytest.warns(
            ls.LossSelectWarning, match="30 of 30 classes have fewer rows than there are splits"
        ):
            rows = split_rows(labels, {"test": 0.2, "val": 0.2}, 0, [*map(str, range(30))])
        assert set(labels[rows["train"]]) == set(range(30))
        assert len(rows["test"]) == 12
        assert len(rows["val"]) == 10

    def test_too_few_rows_to_stratify(self):
        labels = np.repeat(np.arange(10), 3)
        with pytest.warns(ls.LossSelectWarning, match="too few for a stratified split of 6 rows"):
            rows = split_rows(labels, {"test": 0.2}, 0, [*"abcdefghij"])
        assert len(rows["test"]) == 6

    def test_many_rows_are_split_at_random_and_train_has_each_class(self):
        labels = np.zeros(300_000, dtype=int)
        labels[-4:] = 1
        for seed in range(5):
            rows = split_rows(labels, {"test": 0.9}, seed, ("a", "b"))
            assert set(labels[rows["train"]]) == {0, 1}
            assert abs(len(rows["test"]) - 270_000) <= 2

    @pytest.mark.parametrize("form", ["matrix", "lists"])
    def test_several_labels(self, form):
        rows = [
            [name for name, bit in zip("abc", bits, strict=True) if bit] for bits in np.eye(3, dtype=int)
        ] * 20
        lists = ls.Vocabulary(("a", "b", "c")).encode_lists(rows)
        labels = lists if form == "lists" else lists.to_dense().numpy()
        split = split_rows(labels, {"test": 0.5}, 0, ("a", "b", "c"))
        assert lists.select(split["test"]).count_per_label().tolist() == [10, 10, 10]

    def test_too_few_rows_for_a_split(self):
        with pytest.raises(
            ValueError,
            match=r"3 rows \(0 of them reserved for training\) are too few for a test split of 0\.",
        ):
            split_rows(np.array([0, 0, 0]), {"test": 0.1}, 0, ("a",))


class TestSplitInTwo:
    @pytest.mark.parametrize("stratified", [True, False])
    def test_the_rows_are_those_of_scikit_learn(self, stratified):
        random = np.random.default_rng(0)
        compared = 0
        for seed in range(200):
            num_rows, num_classes = random.integers(2, 600), random.integers(1, 12)
            rows = np.sort(random.choice(1000, num_rows, replace=False))
            strata = random.choice(num_classes, 1000, p=random.dirichlet(np.ones(num_classes))) - 1
            size = random.uniform(0.01, 0.99) if seed % 2 else int(random.integers(1, num_rows))
            classes = strata[rows] if stratified else None
            try:
                others, chosen = train_test_split(rows, test_size=size, random_state=seed, stratify=classes)
            except ValueError:
                with pytest.raises(DataError, match="cannot be split"):
                    split_in_two(rows, strata if stratified else None, size, seed)
                continue
            split = split_in_two(rows, strata if stratified else None, size, seed)
            assert split[0].tolist() == sorted(others)
            assert split[1].tolist() == sorted(chosen)
            compared += 1
        assert compared > 100


class TestBuiltInData:
    @pytest.mark.parametrize(
        ("name", "reference"), [("breast_cancer", load_breast_cancer), ("digits", load_digits)]
    )
    def test_the_files_equal_the_sets_of_scikit_learn(self, name, reference):
        rows, expected = DATASETS[name](), reference()
        assert np.array_equal(rows.features, expected.data)
        assert rows.features.dtype == expected.data.dtype
        assert np.array_equal(rows.labels, expected.target)
        assert rows.labels.dtype == expected.target.dtype
        assert rows.class_names == tuple(map(str, expected.target_names))
        assert rows.columns == tuple(expected.feature_names)


class TestChecks:
    def splits(self, load, y, **more):
        return load({"x": numbers(len(y)), "y": y, **more})

    def test_duplicates_between_splits(self, load):
        twice = {"x": [1.0, 2.0, 3.0, 4.0] * 10, "y": ["a", "b"] * 20}
        splits = load(twice)
        task = make_task("multiclass", class_names=splits.class_names)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_splits(task, splits)
        assert [str(warning.message).partition(",")[0] for warning in caught] == [
            "8 of 8 rows of the validation split have the same features as a training row",
            "10 of 10 rows of the test split have the same features as a training row",
        ]

    def test_a_row_in_two_files_of_different_types_is_found(self, load):
        train = {"x": [*numbers(19), 2.0], "y": ["a", "b"] * 10}
        val = {"x": [0.5, 7.5], "y": ["a", "b"]}
        splits = load(train, val_path=val, test_path={"x": [2, 3], "y": ["a", "b"]})
        task = make_task("multiclass", class_names=splits.class_names)
        with pytest.warns(ls.LossSelectWarning, match="1 of 2 rows of the test split"):
            check_splits(task, splits)

    def test_one_class_in_a_split(self, load):
        train = {"x": numbers(20), "y": ["a", "b"] * 10}
        splits = load(train, val_path={"x": [1.0], "y": ["a"]})
        task = make_task("multiclass", class_names=splits.class_names)
        with pytest.warns(ls.LossSelectWarning, match="All rows of the validation split have class 'a'"):
            check_splits(task, splits)

    def test_a_class_that_train_lacks(self, load):
        splits = load(
            {"x": numbers(20), "y": ["a", "b"] * 10}, {"name": "multiclass", "class_names": ["a", "b", "c"]}
        )
        task = make_task("multiclass", class_names=splits.class_names)
        with pytest.warns(ls.LossSelectWarning, match=r"\bc\b.*\[class_without_rows\]"):
            check_splits(task, splits)

    def test_multilabel_rows_of_one_label_each(self, load):
        eye = np.eye(3, dtype=int)[np.arange(40) % 3]
        columns = {"x": numbers(40), **{name: eye[:, i] for i, name in enumerate("abc")}}
        splits = load(columns, "multilabel", target=[*"abc"])
        task = make_task("multilabel", class_names=splits.class_names)
        with pytest.warns(ls.LossSelectWarning, match=r"task=multiclass.*\[looks_multiclass\]"):
            check_splits(task, splits)

    def test_labels_per_row_are_counted_in_labelled_rows(self, load):
        tags = ['["a", "b"]', '["b"]', None, None, '["a"]', "[]"] * 8
        splits = load({"x": numbers(48), "y": tags}, "multilabel")
        counts = check_splits(make_task("multilabel", class_names=splits.class_names), splits)
        known = {split: int(count.rows - count.missing / 2) for split, count in counts.items()}
        assert sum(known.values()) == 32
        assert counts["train"].cardinality == counts["train"].positives.sum() / known["train"]

    def test_all_labels_of_a_split_missing(self, load):
        splits = load(
            {"x": numbers(20), "y": ["a", "b"] * 10}, test_path={"x": [9.0, 8.0], "y": [None, None]}
        )
        task = make_task("multiclass", class_names=splits.class_names)
        with pytest.raises(ValueError, match="All labels of the test split are missing"):
            check_splits(task, splits)

    def test_no_warning_for_the_built_in_data_sets(self):
        from lossselect.data.toy import load as load_toy

        tasks = {"breast_cancer": ls.Binary(), "digits": ls.Multiclass(10), "yeast": ls.Multilabel(14)}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for name, task in tasks.items():
                fraction = None if name == "yeast" else 0.2
                check_splits(task, load_toy(name, seed=0, val_fraction=0.2, test_fraction=fraction))
