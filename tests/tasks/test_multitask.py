"""Several tasks: their declaration, and the conversion of logits, targets and predictions."""

import copy
import pickle

import pytest
import torch

import lossselect as ls
from lossselect.exceptions import ConfigError, DataError, DataTypeError, OptionTypeError
from lossselect.tasks.registry import as_any_task

SPECIES = ls.Multiclass(3, class_names=("cat", "dog", "owl"), missing=-1)
TAGS = ls.Multilabel(2)
SICK = ls.Binary()
TASK = ls.MultiTask({"species": SPECIES, "tags": TAGS, "sick": SICK})
TARGET = {"species": [0, 2, -1], "tags": [[1, 0], [0, float("nan")], [1, 1]], "sick": [0, 1, float("nan")]}
LOGITS = {
    "species": torch.tensor([[0.0, 3, 1], [2, 1, 0], [0, 0, 4]]),
    "tags": torch.tensor([[1.0, -1], [-2, 2], [3, 3]]),
    "sick": torch.tensor([[-4.0], [5], [0.5]]),
}


def test_widths():
    assert (TASK.num_outputs, TASK.num_probabilities) == (6, 6)
    ordered = ls.MultiTask({"grade": ls.Multiclass(4, ordinal=True), "sick": SICK})
    assert (ordered.num_outputs, ordered.num_probabilities) == (4, 5)


@pytest.mark.parametrize("name", ["probabilities", "predict", "log_odds"])
@pytest.mark.parametrize("joined", [False, True])
def test_results_are_those_of_each_task(name, joined):
    found = getattr(TASK, name)(TASK.join_logits(LOGITS) if joined else LOGITS)
    assert list(found) == ["species", "tags", "sick"]
    for key, part in TASK.tasks.items():
        torch.testing.assert_close(found[key], getattr(part, name)(LOGITS[key]), rtol=0, atol=0)


def test_decode():
    assert TASK.decode(TASK.predict(LOGITS)) == {
        "species": ["dog", "cat", "owl"],
        "tags": [["0"], ["1"], ["0", "1"]],
        "sick": ["0", "1", "1"],
    }
    assert TASK.predict_from_probabilities(TASK.probabilities(LOGITS)).keys() == TASK.tasks.keys()


def test_targets_are_encoded_as_by_each_task():
    encoded = TASK.encode(TARGET)
    for name, part in TASK.tasks.items():
        torch.testing.assert_close(encoded[name], part.encode(TARGET[name]), equal_nan=True)


SOFT = {"species": [[0.2, 0.8, 0], [1, 0, 0]], "tags": [[0.5, 1], [0, 0]], "sick": [1, 0]}


@pytest.mark.parametrize("target", [TARGET, SOFT, {**TARGET, "sick": [0.2, 1, float("nan")]}])
def test_a_target_in_one_tensor_loses_nothing(target):
    packed = TASK.encode_tensor(target)
    is_soft = target is not TARGET
    assert packed.is_floating_point() == is_soft
    assert packed.shape[1] == (6 if is_soft else 4)
    split, expected = TASK.split_target(packed), TASK.encode(target)
    for name, part in TASK.tasks.items():
        found, wanted = (part.to_one_hot(each[name]) for each in (split, expected))
        torch.testing.assert_close(found, wanted, equal_nan=True)
    one_hot = torch.cat([part.to_one_hot(expected[name]) for name, part in TASK.tasks.items()], 1)
    torch.testing.assert_close(TASK.to_one_hot(packed), one_hot, equal_nan=True)
    assert torch.equal(TASK.to_hard_labels(packed), TASK.to_hard_labels(TASK.to_one_hot(packed)))


def test_positions():
    target = {"species": torch.tensor([[0, 1], [2, -1]]), "tags": torch.rand(2, 2, 2).round()}
    task = ls.MultiTask({name: TASK.tasks[name] for name in target})
    packed = task.encode_tensor(target, trailing_dims=1)
    assert packed.shape == (2, 3, 2)
    split = task.split_target(packed)
    assert split["species"].tolist() == [[0, 1], [2, -100]]
    assert torch.equal(split["tags"], target["tags"])
    task.check_target(packed, torch.zeros(2, 5, 2))


def test_integers_may_be_one_hot_rows():
    packed = TASK.encode_tensor({**TARGET, "species": torch.eye(3, dtype=torch.long)})
    assert TASK.split_target(packed)["species"].tolist() == [0, 1, 2]


def test_mean_logits():
    torch.manual_seed(0)
    logits, shifts, temperatures = torch.randn(4, 3, 6), torch.randn(3, 6), torch.rand(3, 6) + 0.5
    found = TASK.mean_logits(logits, None, shifts, temperatures)
    start = 0
    for part in TASK.tasks.values():
        columns = slice(start, start + part.num_outputs)
        start = columns.stop
        wanted = part.mean_logits(logits[..., columns], None, shifts[:, columns], temperatures[:, columns])
        torch.testing.assert_close(found[:, columns], wanted)


def test_plain_values_recreate_it():
    weighted = ls.MultiTask(TASK.tasks, {"tags": 2})
    for task in (TASK, weighted, ls.MultiTask(TASK.tasks, "uncertainty")):
        assert as_any_task(task.to_dict()) == task == pickle.loads(pickle.dumps(task))
        assert hash(as_any_task(task.to_dict())) == hash(task)
    assert weighted.weights == {"species": 1.0, "tags": 2.0, "sick": 1.0}


def test_counts():
    counts = ls.count_labels(TASK, TARGET)
    assert counts.missing == 3
    for name, part in TASK.tasks.items():
        expected = ls.count_labels(part, TARGET[name])
        assert counts[name].to_dict() == expected.to_dict()
    assert (counts + counts)["tags"].positives.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("tasks", "weights", "error", "text"),
    [
        ({"a/b": SICK, "c": TAGS}, None, ConfigError, "without slashes"),
        ({"": SICK, "c": TAGS}, None, ConfigError, "becomes part of names"),
        ({" a": SICK, "c": TAGS}, None, ConfigError, "blank"),
        ({"a\n": SICK, "c": TAGS}, None, ConfigError, "control characters"),
        ({"accuracy": SICK, "c": TAGS}, None, ConfigError, "'accuracy', which is the name of a metric"),
        ({"recall": SICK, "c": TAGS}, None, ConfigError, "name of a metric"),
        ({"f1_macro": SICK, "c": TAGS}, None, ConfigError, "name of a metric"),
        ({"f2": SICK, "c": TAGS}, None, ConfigError, "name of a metric"),
        ({"precision_at_7": SICK, "c": TAGS}, None, ConfigError, "name of a metric"),
        ({"loss": SICK, "c": TAGS}, None, ConfigError, "name of a metric or of a setting"),
        ({"name": SICK, "c": TAGS}, None, ConfigError, "name of a metric or of a setting"),
        ({"a.b": SICK, "a": TAGS}, None, ConfigError, "'a.b' of a task starts with that of the task 'a'"),
        ({"a": SICK}, None, ConfigError, "at least two"),
        ({"a": SICK, "b": "binary"}, None, OptionTypeError, "mapping of tasks"),
        ([SICK, TAGS], None, OptionTypeError, "mapping of tasks"),
        ({"a": SICK, "b": TAGS}, {"c": 1}, ConfigError, "Unknown task 'c'"),
        ({"a": SICK, "b": TAGS}, {"a": -1}, ConfigError, "weights['a']"),
        ({"a": SICK, "b": TAGS}, {"a": 0, "b": 0}, ConfigError, "nothing would be trained"),
        ({"a": SICK, "b": TAGS}, "equal", ConfigError, "'uncertainty'"),
        ({"a": SICK, "b": TAGS}, [1, 2], OptionTypeError, "mapping"),
    ],
)
def test_invalid_declarations(tasks, weights, error, text):
    with pytest.raises(error) as raised:
        ls.MultiTask(tasks, weights)
    assert text in str(raised.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tags": None}, "The task 'tags' is missing from the target."),
        ({"other": [1, 2, 3]}, "unknown task 'other'"),
        ({"species": [0, 7, 1]}, "(Task 'species'.)"),
        ({"sick": [0, 1]}, "same number of rows"),
    ],
)
def test_invalid_targets(change, text):
    target = {name: value for name, value in {**TARGET, **change}.items() if value is not None}
    with pytest.raises(DataError) as raised:
        TASK.encode(target)
    assert text in str(raised.value)


def test_the_row_of_an_invalid_label_is_known():
    with pytest.raises(DataError, match="Row 1 of the target is 7") as raised:
        TASK.encode({**TARGET, "species": [0, 7, 1]})
    assert raised.value.row == 1


def test_a_target_must_be_a_mapping():
    with pytest.raises(DataError, match="must be a mapping with the keys species, tags, sick"):
        TASK.encode(torch.zeros(3, 3))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tags": None}, "The task 'tags' is missing from the logits"),
        ({"other": torch.zeros(3, 1)}, "logits of the unknown task 'other'"),
        ({"tags": torch.zeros(3, 5)}, "(N, 2) for multilabel with 2 labels, got (3, 5)"),
        ({"sick": torch.zeros(4, 1)}, "same rows and positions"),
        ({"sick": torch.zeros(3, 1, 4)}, "same rows and positions"),
    ],
)
def test_invalid_logits(change, text):
    logits = {name: value for name, value in {**LOGITS, **change}.items() if value is not None}
    with pytest.raises(ConfigError) as raised:
        TASK.predict(logits)
    assert text in str(raised.value)


def test_joined_logits_of_another_width():
    with pytest.raises(ConfigError, match=r"\(N, 6\) for several tasks \(species: 3, tags: 2, sick: 1\)"):
        TASK.predict(torch.zeros(3, 5))


def test_equal_tasks_have_the_same_order():
    """The order of the tasks is that of the outputs."""
    parts = {"a": ls.Binary(), "b": ls.Multiclass(3)}
    task, other = ls.MultiTask(parts), ls.MultiTask(dict(reversed(parts.items())))
    assert task == ls.MultiTask(parts)
    assert hash(task) == hash(ls.MultiTask(parts))
    assert task != other
    assert task != ls.MultiTask(parts, {"a": 2.0})
    assert task != parts["a"]
    assert ls.MultiTask(parts, {"a": 2.0}) == ls.MultiTask(parts, {"b": 1.0, "a": 2})


def test_is_immutable_and_can_be_copied():
    class Own(ls.MultiTask):
        pass

    task = Own({"a": ls.Binary(), "b": ls.Multiclass(3)}, {"a": 2.0})
    with pytest.raises(TypeError):
        task.tasks["c"] = ls.Binary()
    with pytest.raises(TypeError):
        task.weights["a"] = 3.0
    assert copy.deepcopy(task) == task
    assert isinstance(task.with_tasks({"a": ls.Binary(threshold=0.3), "b": ls.Multiclass(3)}), Own)
    task = ls.MultiTask(task.tasks, task.weights)
    assert pickle.loads(pickle.dumps(task)) == task


def test_functions_of_one_task():
    task = ls.MultiTask({"a": ls.Binary(), "b": ls.Multiclass(3)})
    labels = {"a": [0, 1], "b": [2, 0]}
    assert ls.check_task(task, labels) is task
    with pytest.raises(DataError, match=r"Row 1 of the target is 2.*Task 'a'"):
        ls.check_task(task, {**labels, "a": [0, 2]})
    for function in (ls.make_metrics, ls.select_loss):
        with pytest.raises(OptionTypeError, match=r"got several: a, b. Call .* such as task.tasks\['a'\]"):
            function(task)
    with pytest.raises(DataError, match="Call infer_task for the labels of each task"):
        ls.infer_task(labels)
    with pytest.raises(ConfigError, match=r"call lossselect\.MultiTask"):
        ls.make_task("several")
    with pytest.raises(DataTypeError, match="or as a mapping by task, got list"):
        task.predict([1.0, 2.0])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("other", [ls.Binary(), ls.Multiclass(3), ls.Multilabel(2)])
def test_positions_are_recognised_before_the_logits_are_known(count, other):
    """Class indices (N, 3) of positions look like one-hot rows of 3 classes."""
    task = ls.MultiTask({"word": ls.Multiclass(3), "other": other})
    columns = () if other.exclusive else (other.num_outputs,)
    target = {"word": torch.full((4, count), 2), "other": torch.ones(4, *columns, count, dtype=torch.long)}
    expected = task.encode_tensor(target, 1)
    found = task.settle(task.encode_tensor(target), 1)
    assert torch.equal(found, expected)
    assert found.shape[2:] == (count,)


def test_targets_of_different_positions():
    task = ls.MultiTask({"mask": ls.Multiclass(3), "sick": ls.Binary()})
    with pytest.raises(
        DataError, match=r"same rows and positions, but the shape of 'mask' is \(4, 1, 5, 5\)"
    ):
        task.encode_tensor({"mask": torch.zeros(4, 5, 5).long(), "sick": torch.zeros(4)})
    with pytest.raises(DataError, match="same rows and positions"):
        task.join_target({"mask": torch.zeros(4).long(), "sick": torch.zeros(4)})
