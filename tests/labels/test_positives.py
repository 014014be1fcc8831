import numpy as np
import pytest
import torch
from chunked_cases import NAN, TASKS, target_of

import lossselect as ls
from lossselect.labels.label_lists import LabelLists
from lossselect.labels.positives import Positives


class TestPositives:
    def test_of_lists(self):
        made = Positives.of_lists([5, 1, 2, 0], [0, 2, 2, 4], 6, [False, True, False])
        want = torch.zeros(3, 6)
        want[0, [1, 5]] = 1
        want[1] = NAN
        want[2, [0, 2]] = 1
        torch.testing.assert_close(made.matrix(), want, equal_nan=True)
        torch.testing.assert_close(made.matrix(1, 4), want[:, 1:4], equal_nan=True)
        assert made.labels.tolist() == [0, 1, 2, 5]

    def test_of_target_and_back(self):
        target = target_of(TASKS["multilabel"], True).float()
        made = Positives.of_target(target)
        torch.testing.assert_close(made.matrix(), target, equal_nan=True)
        assert made.known_rows().tolist() == (~target.isnan().all(1)).tolist()
        moved = made.to("cpu")
        torch.testing.assert_close(moved.matrix(), target, equal_nan=True)

    def test_of_rows(self):
        lists = LabelLists(
            np.array([1, 4, 0, 2, 3]), np.array([0, 2, 2, 5]), 6, np.array([False, True, False])
        )
        made = Positives.of_rows(lists, np.array([2, 0, 1, 2]))
        np.testing.assert_array_equal(made.matrix().numpy(), lists.multi_hot([2, 0, 1, 2]))

    @pytest.mark.parametrize(
        ("rows", "labels"),
        [
            ([0, 0], [2, 1]),
            ([1, 0], [2, 2]),
            ([0, 0], [1, 1]),
            ([0], [6]),
            ([3], [0]),
            ([-1], [0]),
            ([0, 1], [0]),
        ],
    )
    def test_pairs_in_another_order_or_out_of_range(self, rows, labels):
        with pytest.raises(
            ValueError, match="Positives are pairs of a row from 0 to 2 and a label from 0 to 5"
        ):
            Positives(torch.tensor(rows), torch.tensor(labels), 3, 6)

    @pytest.mark.parametrize("rows", [[0], torch.tensor([0.0]), torch.tensor([[0]])], ids=str)
    def test_no_tensors_of_long(self, rows):
        with pytest.raises(TypeError, match="Positives are rows and labels as two tensors of long"):
            Positives(rows, torch.tensor([1]), 3, 6)

    @pytest.mark.parametrize("offsets", [[0, 0, 0], [0]], ids=str)
    def test_rows_without_a_label(self, offsets):
        made = Positives.of_lists([], offsets, 20)
        assert torch.equal(made.matrix(), torch.zeros(len(offsets) - 1, 20))

    def test_are_counted(self):
        task, target = TASKS["multilabel"], target_of(TASKS["multilabel"], True)
        got, want = ls.count_labels(task, Positives.of_target(target)), ls.count_labels(task, target)
        assert (got.rows, got.missing, got.single) == (want.rows, want.missing, want.single)
        np.testing.assert_array_equal(got.positives, want.positives)
        np.testing.assert_array_equal(got.negatives, want.negatives)

    @pytest.mark.parametrize(
        ("lists", "said"),
        [
            (([6], [0, 1], 6), "Row 0 has label 6, but labels are from 0 to 5"),
            (([-1], [0, 0, 1], 6), "Row 1 has label -1, but labels are from 0 to 5"),
            (([2, 1, 2], [0, 0, 3], 6), "Row 1 has label 2 twice"),
            (([2], [0, 2], 6), "offsets must rise from 0 to the number of indices"),
            (([2, 3], [0, 2, 1, 2], 6), "offsets must rise from 0"),
            (([2], [1, 1], 6), "offsets must rise from 0"),
            (([2], torch.zeros(0, dtype=torch.long), 6), "offsets must rise from 0"),
            (([2.0], [0, 1], 6), "indices must be whole numbers"),
            (([[1, 2], [3]], [0, 2, 3], 6), "indices must be whole numbers of shape .N,., one list for all"),
            ((["a"], [0, 1], 6), "indices must be whole numbers of shape .N,., one list for all"),
            ((torch.tensor([1], dtype=torch.complex128), [0, 1], 6), "indices must be whole numbers"),
            (([2], [0, 1], "6"), "num_labels must be a whole number of at least 1, got '6'"),
            (([2], [0, 1], 6.0), "num_labels must be a whole number of at least 1, got 6.0"),
            (([2], [0, 1], 6, [0]), "missing must be true or false for each of 1 rows"),
            (([2], [0, 1], 6, [True, False]), "missing must be true or false for each of 1 rows"),
        ],
    )
    def test_lists_that_are_none(self, lists, said):
        with pytest.raises((ValueError, TypeError), match=said):
            Positives.of_lists(*lists)
