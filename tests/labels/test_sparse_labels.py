import numpy as np
import pytest
import torch
from chunked_cases import NAN, TASKS, target_of

import lossselect as ls
from lossselect.labels.sparse_labels import SparseLabels


class TestSparseLabels:
    def test_from_csr(self):
        sparse = SparseLabels.from_csr([5, 1, 2, 0], [0, 2, 2, 4], 6, [False, True, False])
        expected = torch.zeros(3, 6)
        expected[0, [1, 5]] = 1
        expected[1] = NAN
        expected[2, [0, 2]] = 1
        torch.testing.assert_close(sparse.to_dense(), expected, equal_nan=True)
        torch.testing.assert_close(sparse.to_dense(1, 4), expected[:, 1:4], equal_nan=True)
        assert sparse.coo()[1].tolist() == [0, 1, 2, 5]

    def test_from_dense_and_back(self):
        target = target_of(TASKS["multilabel"], True).float()
        sparse = SparseLabels.from_dense(target)
        torch.testing.assert_close(sparse.to_dense(), target, equal_nan=True)
        assert sparse.known_rows().tolist() == (~target.isnan().all(1)).tolist()
        moved = sparse.to("cpu")
        torch.testing.assert_close(moved.to_dense(), target, equal_nan=True)

    @pytest.mark.parametrize("rows", [[2, 0, 1, 2], np.array([0, 3]), torch.tensor([1]), []], ids=str)
    def test_select(self, rows):
        target = target_of(TASKS["multilabel"], True).float()
        sparse = SparseLabels.from_dense(target).select(rows)
        assert len(sparse) == len(rows)
        index = torch.as_tensor(rows, dtype=torch.long)
        torch.testing.assert_close(sparse.to_dense(), target[index], equal_nan=True)
        for form in (sparse.csr(), sparse.coo()):
            assert form[0].dtype == torch.long

    def test_a_form_is_derived_from_the_other(self):
        lists = SparseLabels.from_csr([5, 1, 2, 0], [0, 2, 2, 4], 6)
        pairs = SparseLabels.from_coo(*lists.coo(), 3, 6)
        for actual, expected in zip(pairs.csr(), lists.csr(), strict=True):
            assert actual.tolist() == expected.tolist()
        assert pairs.count_per_row().tolist() == lists.count_per_row().tolist() == [2, 0, 2]
        assert pairs.count_per_label().tolist() == lists.count_per_label().tolist() == [1, 1, 1, 0, 0, 1]

    @pytest.mark.parametrize(
        ("rows", "labels", "message"),
        [
            ([0, 0], [1, 1], "Row 0 has label 1 twice"),
            ([0], [6], "Row 0 has label 6, but labels must be from 0 to 5"),
            ([3], [0], "Expected a row from 0 to 2 for each of the 1 labels, got 3"),
            ([-1], [0], "Expected a row from 0 to 2 for each of the 1 labels, got -1"),
            ([0, 1], [0], "Expected a row from 0 to 2 for each of the 1 labels, got 0, 1"),
        ],
    )
    def test_pairs_that_are_repeated_or_out_of_range(self, rows, labels, message):
        with pytest.raises(ValueError, match=message):
            SparseLabels.from_coo(torch.tensor(rows), torch.tensor(labels), 3, 6)

    def test_pairs_are_sorted(self):
        sparse = SparseLabels.from_coo(torch.tensor([1, 0, 0]), torch.tensor([2, 2, 0]), 3, 6)
        assert [part.tolist() for part in sparse.coo()] == [[0, 0, 1], [0, 2, 2]]
        assert sparse.to_dense()[:2].tolist() == [[1, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0]]

    @pytest.mark.parametrize("rows", [["a"], torch.tensor([0.0]), torch.tensor([[0]])], ids=str)
    def test_rows_that_are_not_integers(self, rows):
        with pytest.raises(TypeError, match="rows must be integers"):
            SparseLabels.from_coo(rows, torch.tensor([1]), 3, 6)

    def test_missing_rows_of_pairs_are_checked(self):
        rows, missing = torch.tensor([0]), torch.tensor([True, False])
        with pytest.raises(ValueError, match=r"missing must be bool of shape \(3,\)"):
            SparseLabels.from_coo(rows, rows, 3, 6, missing=missing)

    def test_unknown_labels_stay_unknown_when_concatenated(self):
        first = torch.tensor([[1, NAN], [0, 1]])
        second = torch.tensor([[1.0, 0], [NAN, NAN]])
        joined = SparseLabels.concatenate([SparseLabels.from_dense(part) for part in (first, second)])
        torch.testing.assert_close(joined.to_dense(), torch.cat([first, second]), equal_nan=True)

    @pytest.mark.parametrize("offsets", [[0, 0, 0], [0]], ids=str)
    def test_rows_without_a_label(self, offsets):
        sparse = SparseLabels.from_csr([], offsets, 20)
        assert torch.equal(sparse.to_dense(), torch.zeros(len(offsets) - 1, 20))

    def test_are_counted(self):
        task, target = TASKS["multilabel"], target_of(TASKS["multilabel"], True)
        sparse, dense = ls.count_labels(task, SparseLabels.from_dense(target)), ls.count_labels(task, target)
        assert (sparse.rows, sparse.missing, sparse.single) == (dense.rows, dense.missing, dense.single)
        np.testing.assert_array_equal(sparse.positives, dense.positives)
        np.testing.assert_array_equal(sparse.negatives, dense.negatives)

    @pytest.mark.parametrize(
        ("lists", "message"),
        [
            (([6], [0, 1], 6), "Row 0 has label 6, but labels must be from 0 to 5"),
            (([-1], [0, 0, 1], 6), "Row 1 has label -1, but labels must be from 0 to 5"),
            (([2, 1, 2], [0, 0, 3], 6), "Row 1 has label 2 twice"),
            (([2], [0, 2], 6), "indptr must rise from 0 to the number of indices"),
            (([2, 3], [0, 2, 1, 2], 6), "indptr must rise from 0"),
            (([2], [1, 1], 6), "indptr must rise from 0"),
            (([2], torch.zeros(0, dtype=torch.long), 6), "indptr must rise from 0"),
            (([2.0], [0, 1], 6), "indices must be integers"),
            (([[1, 2], [3]], [0, 2, 3], 6), "indices must be integers of shape .N,., one flat list"),
            ((["a"], [0, 1], 6), "indices must be integers of shape .N,., one flat list"),
            ((torch.tensor([1], dtype=torch.complex128), [0, 1], 6), "indices must be integers"),
            (([2], [0, 1], "6"), "num_labels must be an integer >= 1, got '6'"),
            (([2], [0, 1], 6.0), "num_labels must be an integer >= 1, got 6.0"),
            (([2], [0, 1], 6, [0]), "missing must be bool of shape"),
            (([2], [0, 1], 6, [True, False]), "missing must be bool of shape"),
        ],
    )
    def test_invalid_lists(self, lists, message):
        with pytest.raises((ValueError, TypeError), match=message):
            SparseLabels.from_csr(*lists)
