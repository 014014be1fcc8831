"""libsvm files, and files of the extreme classification repository."""

import bz2
import gzip
import warnings

import numpy as np
import pytest
from sklearn.datasets import dump_svmlight_file

from lossselect.data.files.array_source import read_array_source
from lossselect.data.files.columns import NamedColumns
from lossselect.data.label_parsing.options import LabelOptions
from lossselect.data.label_parsing.table_labels import parse_label_columns
from lossselect.data.readers.formats import open_table
from lossselect.data.readers.libsvm import is_libsvm, read_libsvm
from lossselect.data.readers.tables import TableOptions
from lossselect.exceptions import ConfigError, DataError
from lossselect.utils.warnings import LossSelectWarning

HEADER = "3 5 4\n0,3 0:1.5 4:-2\n 1:3\n2 \n"
ONE_BASED = {"width": 4, "first_index": 1, "rate_of_index_0": 0.0, "num_labels": None}


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="a.libsvm"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write_file


def source(path, task="auto", train=None, fitted=None, **settings):
    options = LabelOptions(task, fitted=fitted)
    return read_array_source(path, NamedColumns.create(settings), options, train)


def read_by_hand(text):
    """Return labels and {index: value} of each row."""
    rows = []
    for line in text.splitlines():
        label, _, features = line.partition(" ")
        pairs = (pair.split(":") for pair in features.split())
        rows.append(([*label.split(",")] if label else [], {int(i): float(value) for i, value in pairs}))
    return rows


class TestRows:
    def test_the_columns_are_the_indices_of_the_file(self, write):
        content = read_libsvm(write("1 1:0.5 3:2\n# a comment\n\n-1 2:1e-3 # another\n"))
        assert content.features.toarray().tolist() == [[0, 0.5, 0, 2], [0, 0, 0.001, 0]]
        assert content.labels.tolist() == [1, -1]
        assert content.reading == ONE_BASED
        assert not len(content.queries)

    @pytest.mark.parametrize("zero_based", [True, False])
    def test_as_scikit_learn_writes_them(self, zero_based, tmp_path):
        rng = np.random.default_rng(0)
        dense = rng.normal(size=(30, 7)) * (rng.random((30, 7)) < 0.5)
        labels = (rng.random((30, 4)) < 0.4).astype(int)
        path = str(tmp_path / "a.svm")
        dump_svmlight_file(dense, labels, path, zero_based=zero_based, multilabel=True, comment="made")
        content = read_libsvm(path)
        assert content.reading["first_index"] == (0 if zero_based else 1)
        columns = content.features.toarray()[:, 0 if zero_based else 1 :]
        np.testing.assert_allclose(columns, dense, rtol=1e-15)  # 16 digits are written
        assert content.labels.tolist() == labels.nonzero()[1].tolist()
        assert content.bounds.tolist() == [0, *labels.sum(1).cumsum()]

    def test_a_row_without_labels_and_features_is_not_dropped(self, tmp_path):
        path = str(tmp_path / "a.svm")
        dense, labels = np.eye(3)[[0, 1, 2, 0]], np.array([[1, 1], [0, 0], [0, 0], [0, 1]])
        dump_svmlight_file(dense, labels, path, multilabel=True)
        assert len(read_libsvm(path).bounds) == 5
        dump_svmlight_file(dense * [[1], [1], [0], [1]], labels, path, multilabel=True)
        with pytest.raises(DataError, match=r"Row 2 of .* is an empty line") as caught:
            read_libsvm(path)
        assert caught.value.row == 2

    def test_other_empty_lines_of_several_labels(self, write):
        assert read_libsvm(write("1,2 1:1\n# a\n3 1:2 # b\n\n \n")).labels.tolist() == [1, 2, 3]

    @pytest.mark.parametrize(("compress", "suffix"), [(gzip.compress, ".gz"), (bz2.compress, ".bz2")])
    def test_compressed(self, compress, suffix, write):
        path = write(compress(HEADER.encode()), f"a.txt{suffix}")
        assert is_libsvm(path)
        assert read_libsvm(path).features.toarray().tolist() == [[1.5, 0, 0, 0, -2], [0, 3, 0, 0, 0], [0] * 5]

    def test_queries(self, write):
        path = write("1 qid:7 1:0.5\n0 qid:7 2:1\n2 qid:9 1:1\n")
        assert read_libsvm(path, with_queries=True).queries.tolist() == [7, 7, 9]
        assert read_libsvm(path).features.nnz == 3
        with pytest.raises(DataError, match=r"Row 1 of .* has no query \(qid\)"):
            read_libsvm(write("1 qid:7 1:0.5\n0 2:1\n"), with_queries=True)

    @pytest.mark.parametrize(
        ("content", "message", "row"),
        [
            ("", "has no rows", None),
            ("# nothing\n", "has no rows", None),
            ("1 1:1\n1 2:1\n0 3:1 2:1\n1 1:1\n", "Row 2 of .* is '0 3:1 2:1', .*sorted and unique", 2),
            ("1 1:1\n0 2:1 2:1\n", "Row 1 .*sorted and unique", 1),
            ("1 1:1\n1 -2:1\n", "Row 1 .*Invalid index -2", 1),
            ("1 1:1\n# b\n1 a:1\n", "Row 1 of .* is '1 a:1', which cannot be read", 1),
            ("1 1:1\n1 2\n", "Row 1 of .* is '1 2', which cannot be read", 1),
            ("spam 1:1\nham 2:1\n", "Row 0 of .* is 'spam 1:1', which cannot be read", 0),
            ("1 1:1\n1 99999999999:1\n", "Row 1 .*too large", 1),
            ("1 1:1\n1 2:nan\n", "Row 1 of column 'x2' of .* is nan", 1),
            ("1 1:1\n1 2:inf\n", "Row 1 of column 'x2' of .* is inf", 1),
            ("x,y\n1,2\n", "Row 0 of .* is 'x,y'.*To read a table, set data=table", 0),
            ("1 1:1\n1 " + "7" * 10_000 + "\n", "Row 1 of .{0,400}, which cannot be read", 1),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_invalid_rows(self, content, message, row, write):
        with pytest.raises(DataError, match=message) as caught:
            read_libsvm(write(content))
        assert caught.value.row == row

    def test_another_kind_of_file(self, write):
        with pytest.raises(ConfigError, match=r"contains gzip data\. Rename it to a\.libsvm\.gz"):
            read_libsvm(write(gzip.compress(b"1 1:1\n")))
        with pytest.raises(ConfigError, match=r"got b\.csv\. Set data=table"):
            is_libsvm("b.csv")
        with pytest.raises(ConfigError, match=r"Expected arrays, but b\.h5 contains HDF5 data"):
            is_libsvm("b.h5")
        with pytest.raises(ConfigError, match="is a URL"):
            is_libsvm("https://example.org/a9a")
        for name in ("a9a", "a9a.t", "news20.scale.bz2", "train.txt", "b.svm"):
            assert is_libsvm(name)
        assert not is_libsvm("b.npz")

    @pytest.mark.parametrize("name", ["a.svm", "a.libsvm.gz", "a.txt", "a.csv", "x.txt"])
    def test_as_a_table(self, name, write):
        content = (
            (HEADER if name[0] == "x" else "1 1:0.5 3:2\n").replace("0:1.5 4:-2", "0:1.5 1:7 4:-2").encode()
        )
        with pytest.raises(ConfigError, match="data=arrays"):
            open_table(write(gzip.compress(content) if name.endswith("gz") else content, name))

    def test_a_table_of_times_is_a_table(self, write):
        path = write("7 12:30 13:00\n8 12:40 13:10\n", "a.txt")
        assert open_table(path, TableOptions(separator=" ", header=False)).header[0] == "column 0"


class TestHeader:
    def test_counts_of_the_labels_read_by_hand(self, write):
        rng = np.random.default_rng(0)
        lines = ["40 30 12"]
        for _ in range(40):
            labels = np.flatnonzero(rng.random(12) < 0.2)
            indices = np.flatnonzero(rng.random(30) < 0.3)
            pairs = " ".join(
                f"{i}:{value:.4f}" for i, value in zip(indices, rng.normal(size=30), strict=False)
            )
            lines.append(f"{','.join(map(str, labels))} {pairs}")
        text = "\n".join(lines[1:])
        content = source(write("\n".join(lines), "a.txt"))
        expected = read_by_hand(text)
        counts = np.zeros(12, dtype=int)
        for labels, _ in expected:
            counts[[*map(int, labels)]] += 1
        assert content.labels.count_per_label().tolist() == counts.tolist()
        assert content.labels.count_per_row().tolist() == [len(labels) for labels, _ in expected]
        assert content.features.shape == (40, 30)
        for row, (_, pairs) in zip(content.features.toarray(), expected, strict=True):
            assert {i: value for i, value in enumerate(row.tolist()) if value} == pairs

    @pytest.mark.parametrize(
        ("content", "message", "row"),
        [
            ("3 5 4\n0 0:1\n1 1:1\n", r"Expected 3 rows, as in the header of .* \(3 5 4\), got 2", None),
            ("2 5 4\n0 0:1\n\n1 1:1\n1 1:1\n", "Expected 2 rows, .* got 3", None),
            ("2 5 4\n0 0:1\n1 1:1 5:1\n", "Row 1 has index 5, but the header .* indices from 0 to 4", 1),
            ("2 5 4\n0 0:1\n4 1:1\n", "Row 1 has label 4, but labels must be from 0 to 3", 1),
            ("2 5 4\n0 0:1\n-1 1:1\n", "Row 1 has label -1", 1),
            ("2 5 4\n0 0:1\n1.5 1:1\n", "Row 1 of .* has the label 1.5, but labels must be integers", 1),
            ("2 5 4\n0 0:1\n2,2 1:1\n", "Row 1 has label 2 twice", 1),
            ("2 5 4\n0 0:1\n0, 2 1:1\n", "Row 1 of .* is '0, 2 1:1', which cannot be read", 1),
            ("1 0 4\n0 0:1\n", "Expected numbers of rows, features and labels > 0", None),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_contradictions(self, content, message, row, write):
        with pytest.raises(DataError, match=message) as caught:
            source(write(content))
        assert caught.value.row == row


class TestOtherFiles:
    def test_a_narrower_file_has_the_width_of_the_training_file(self, write):
        content = read_libsvm(write("1 1:1\n"), ONE_BASED)
        assert content.features.toarray().tolist() == [[0, 1, 0, 0]]

    def test_index_zero_is_an_error_if_the_training_file_starts_at_one(self, write):
        path = write("1 1:1\n0 0:1 2:1\n")
        with pytest.raises(DataError, match=r"Row 1 of .* has index 0, but .* start at 1") as caught:
            read_libsvm(path, ONE_BASED)
        assert caught.value.row == 1
        assert read_libsvm(path, {**ONE_BASED, "first_index": 0}).features.shape == (2, 4)

    @pytest.mark.parametrize(
        ("train", "other", "warns"),
        [  # numbers of rows, and of those with index 0
            ((40, 40), (1, 0), True),  # all training rows have index 0
            ((40, 20), (20, 0), True),
            ((40, 20), (19, 0), False),  # 2**-19 > 1e-6
            ((40, 20), (40, 1), False),
            ((40, 1), (40, 0), False),
            ((40, 0), (40, 0), False),
        ],
    )
    def test_indices_that_start_at_one_in_the_other_file_only(self, train, other, warns, write):
        def rows(total, zeros):
            return "".join(f"1 {'0:1 ' * (i < zeros)}1:1 2:1 3:1\n" for i in range(total))

        reading = read_libsvm(write(rows(*train))).reading
        assert reading["rate_of_index_0"] == train[1] / train[0]
        with warnings.catch_warnings(record=True, action="always") as caught:
            content = read_libsvm(write(rows(*other)), reading)
        assert content.features.shape == (other[0], 4)
        assert [warning.message.name for warning in caught] == ["shifted_indices"] * warns

    def test_larger_indices_are_left_out(self, write):
        with pytest.warns(LossSelectWarning, match=r"above 3, .* are left out: 4, 9\. Check") as caught:
            content = read_libsvm(write("1 1:1\n0 2:1 4:1 9:1\n"), ONE_BASED)
        assert caught[0].message.name == "unseen_feature"
        assert content.features.toarray().tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]

    def test_another_header(self, write):
        train = {"width": 6, "first_index": 0, "rate_of_index_0": 0.5, "num_labels": 4}
        with pytest.raises(DataError, match="Expected 6 features per row as in training, got 5"):
            source(write(HEADER), train=train)
        with pytest.raises(DataError, match=r"Expected a header with 9 labels .* got a header with 4 labels"):
            source(write(HEADER), train={**train, "width": 5, "num_labels": 9})
        with pytest.raises(DataError, match=r"Expected a header with 4 labels .* got no header"):
            source(write("1 1:1\n"), train=train)


class TestLabels:
    def labels(self, path, task="auto"):
        content = source(path, task)
        return parse_label_columns(
            content.labels, LabelOptions(task, positive=1 if task == "binary" else None)
        )

    def test_one_label_per_row(self, write):
        path = write("+1 1:1\n-1 2:1\n+1.0 3:1\n")
        assert self.labels(path, "binary").values.tolist() == [1, 0, 1]
        assert self.labels(write("2 1:1\n10 2:1\n"), "multiclass").class_names == ("2", "10")

    def test_several_labels(self, write):
        labels = self.labels(write("1,7 1:1\n3 2:1\n 3:1\n7,3,1 3:2\n"))
        assert labels.task == "multilabel"
        assert labels.class_names == ("1", "3", "7")
        assert labels.values.to_dense().tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]]

    def test_a_single_label_in_each_row_of_a_multilabel_task(self, write):
        labels = self.labels(write("1 1:1\n3 2:1\n"), "multilabel")
        assert labels.values.to_dense().tolist() == [[1, 0], [0, 1]]

    @pytest.mark.parametrize(
        ("content", "task", "message"),
        [
            ("1 1:1\n1,2 2:1\n", "multiclass", "Row 1 has 2 labels, but task=multiclass"),
            ("1 1:1\n2:1\n", "binary", "Row 1 has 0 labels, but task=binary"),
            ("1 1:1\n9007199254740993 2:1\n", "multiclass", "Row 1 of .* has the label 9007199254740992"),
            ("1 1:1\ninf 2:1\n", "multiclass", "Row 1 of .* has the label inf"),
            ("1,nan 1:1\n", "multilabel", "Row 0 of .* has the label nan"),
            ("0.25 1:1\n1.5 2:1\n", "multiclass", "1.5|0.25"),
        ],
    )
    def test_invalid_labels(self, content, task, message, write):
        with pytest.raises(DataError, match=message):
            self.labels(write(content), task)

    def test_queries_are_groups(self, write):
        path = write("1 qid:7 1:0.5\n0 qid:7 2:1\n2 qid:9 1:1\n")
        with pytest.warns(LossSelectWarning, match=r"have queries \(qid\)\. Set data\.group=qid"):
            source(path)
        groups = source(path, group="qid").roles["group"]
        assert groups.to_list() == [7, 7, 9]

    @pytest.mark.parametrize("name", ["target", "features", "sample_weight"])
    def test_settings_for_other_files(self, name, write):
        with pytest.raises(ConfigError, match=rf"data\.{name}=a cannot be used"):
            source(write("1 1:1\n"), **{name: "a"})
