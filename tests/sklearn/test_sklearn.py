# ruff: noqa: NPY002  # scikit-learn uses the legacy generators of NumPy
import inspect
import pickle
import random
from importlib.resources import files

import joblib
import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import OmegaConf
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris, make_multilabel_classification
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MultiLabelBinarizer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import lossselect as ls
from lossselect.sklearn import TaskClassifier

SMALL = {
    "net": {"name": "mlp", "hidden": [32], "dropout": 0, "input_dropout": 0},
    "max_epochs": 8,
    "batch_size": 16,
    "learning_rate": 0.05,
    "device": "cpu",
}


def small(**arguments):
    return TaskClassifier(**{**SMALL, "random_state": 0, **arguments})


X, Y = load_iris(return_X_y=True)
CANCER, BENIGN = load_breast_cancer(return_X_y=True)
POINTS, LABELS = make_multilabel_classification(n_samples=120, n_classes=4, random_state=0)


class Net(nn.Sequential):
    """A custom net."""

    def __init__(self, num_features, num_outputs):
        super().__init__(nn.Linear(num_features, num_outputs))


ALWAYS = {
    **dict.fromkeys(
        ("check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data"),
        "weights only apply to the loss; standardisation and batches ignore them (see "
        "test_a_weight_equals_repeated_rows)",
    ),
    "check_methods_sample_order_invariance": "the net computes in float32, whose last digit depends on the "
    "position of a row in the batch, but the check requires 1e-7",
}
TUNED = {
    "check_classifiers_train": "predict uses the fitted threshold, but the check requires the class with the "
    "largest probability",
}


@pytest.mark.filterwarnings("ignore::lossselect.LossSelectWarning")
@parametrize_with_checks(
    [TaskClassifier(**SMALL, decision=None), TaskClassifier(**SMALL)],
    expected_failed_checks=lambda model: ALWAYS if model.decision is None else {**ALWAYS, **TUNED},
)
def test_estimator_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_defaults_equal_those_of_the_command_line():
    def config(path):
        return OmegaConf.create((files("lossselect.configs") / path).read_text())

    defaults = {name: p.default for name, p in inspect.signature(TaskClassifier).parameters.items()}
    assert defaults["max_epochs"] == config("trainer/default.yaml").max_epochs
    assert defaults["learning_rate"] == float(config("optimizer/adamw.yaml").lr)
    assert defaults["weight_decay"] == float(config("optimizer/adamw.yaml").weight_decay)
    for name in ("table", "arrays", "breast_cancer"):
        data = config(f"data/{name}.yaml")
        assert defaults["batch_size"] == data.batch_size
        assert defaults["validation_fraction"] == data.val_fraction
    usual = config("model/mlp.yaml")
    assert defaults["net"] == config("model/auto.yaml").name
    net = TaskClassifier(net="mlp", max_epochs=1, decision=None).fit(X, Y).module_.net
    widths = [layer.out_features for layer in net if isinstance(layer, nn.Linear)]
    dropouts = [layer.p for layer in net if isinstance(layer, nn.Dropout)]
    assert widths == [*usual.hidden, 3]
    assert dropouts == [usual.input_dropout, usual.dropout]
    # setting one option keeps the defaults of the others
    net = (
        TaskClassifier(net={"name": "mlp", "hidden": [5]}, max_epochs=1, decision=None).fit(X, Y).module_.net
    )
    assert [layer.p for layer in net if isinstance(layer, nn.Dropout)] == dropouts


class TestWithinScikitLearn:
    def test_cross_validation_in_two_processes(self):
        scores = [cross_val_score(small(), X, Y, cv=2, n_jobs=n) for n in (None, 2)]
        assert scores[0].min() > 0.9
        np.testing.assert_array_equal(*scores)

    def test_a_grid_over_losses(self):
        grid = {"loss": ["focal", {"name": "cross_entropy", "weight": "balanced"}, "auto"]}
        search = GridSearchCV(small(max_epochs=4), grid, cv=2, error_score="raise").fit(X, Y)
        assert search.best_score_ > 0.85
        assert search.best_estimator_.module_.criterion.name in ("focal", "cross_entropy")

    def test_a_pipeline(self):
        pipeline = make_pipeline(StandardScaler(), small())
        pipeline.set_params(taskclassifier__max_epochs=5)
        assert cross_val_score(pipeline, X, Y, cv=2, scoring="neg_log_loss").min() > -0.5
        assert pipeline.fit(X, Y)[-1].n_iter_ == 5

    def test_a_ranking_metric_of_a_multilabel_task(self):
        assert cross_val_score(small(), POINTS, LABELS, cv=2, scoring="roc_auc").min() > 0.7

    def test_a_fitted_estimator_is_pickled(self, tmp_path):
        model = small(net=Net).fit(X, Y)
        joblib.dump(model, tmp_path / "model.joblib")
        for again in (joblib.load(tmp_path / "model.joblib"), pickle.loads(pickle.dumps(model))):
            np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
        with pytest.raises(NotFittedError):
            clone(model).predict(X)

    def test_feature_names_of_a_data_frame(self):
        frame = pl.DataFrame(X, schema=["a", "b", "c", "d"])
        model = small().fit(frame, pl.Series(Y))
        assert model.feature_names_in_.tolist() == ["a", "b", "c", "d"]
        assert model.score(frame, Y) > 0.9
        with pytest.raises(ValueError, match="feature names"):
            model.predict(frame.rename({"a": "z"}))


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "classes", "task"),
        [
            (np.array(["no", "yes"])[BENIGN], ["no", "yes"], "binary"),
            (BENIGN * 2 - 1, [-1, 1], "binary"),
            (BENIGN.astype(bool), [False, True], "binary"),
            (BENIGN + 5.0, [5.0, 6.0], "binary"),
        ],
    )
    def test_any_two_values(self, labels, classes, task):
        model = small().fit(CANCER, labels)
        assert model.task_.name == task
        assert model.classes_.tolist() == classes
        assert model.classes_.dtype == labels.dtype
        assert model.predict(CANCER).dtype == labels.dtype
        assert model.score(CANCER, labels) > 0.93
        np.testing.assert_array_equal(
            model.predict_proba(CANCER), small().fit(CANCER, BENIGN).predict_proba(CANCER)
        )

    def test_class_names(self):
        names = np.array(["setosa", "versicolor", "virginica"], dtype=object)
        loss = {"name": "cross_entropy", "weight": {"setosa": 3.0}}
        model = small(loss=loss).fit(X, names[Y])
        assert model.task_.names == tuple(names)
        assert model.module_.criterion.weight.tolist() == [3, 1, 1]
        assert model.score(X, names[Y]) > 0.9

    def test_two_classes_as_multiclass(self):
        model = small(task="multiclass").fit(CANCER, BENIGN)
        assert model.task_.num_outputs == 2
        assert model.score(CANCER, BENIGN) > 0.93

    def test_more_classes_than_infer_task_accepts(self):
        many = np.arange(120) % 30
        model = small(decision=None).fit(np.eye(30)[many] + 0.0, many)
        assert model.task_.num_classes == 30

    @pytest.mark.parametrize("form", [np.asarray, sparse.csr_array, np.ndarray.tolist, pl.DataFrame])
    def test_a_matrix_of_labels(self, form):
        model = small(task="multilabel").fit(POINTS, form(LABELS))
        assert model.task_.name == "multilabel"
        assert model.classes_.tolist() == [0, 1, 2, 3]
        assert model.predict_proba(POINTS).shape == LABELS.shape
        np.testing.assert_array_equal(model.predict(POINTS), small().fit(POINTS, LABELS).predict(POINTS))
        exact = (model.predict(POINTS) == LABELS).all(1).mean()
        assert model.score(POINTS, form(LABELS) if form is not pl.DataFrame else LABELS) == exact

    @pytest.mark.parametrize("names", [np.array(["a", "b", "c", "d"]), np.array([7, 1, 10, 3])])
    @pytest.mark.parametrize("task", ["auto", "multilabel"])
    def test_lists_of_labels_raise_an_error(self, names, task):
        lists = [names[row == 1].tolist() for row in LABELS]
        with pytest.raises(ValueError, match=r"MultiLabelBinarizer\(\).fit_transform\(y\)"):
            small(task=task).fit(POINTS, lists)
        matrix = MultiLabelBinarizer().fit_transform(lists)
        assert len(cross_val_score(small(max_epochs=1), POINTS, matrix, cv=2)) == 2

    def test_lists_of_numbers_with_equal_lengths(self):
        with pytest.raises(ValueError, match="Row 0, label '1' of the target is 7"):
            small(task="multilabel").fit(POINTS[:40], [[1, 7], [7, 9], [1, 9], [9, 1]] * 10)

    def test_labels_of_several_types(self):
        labels = np.array(["a", "b"] * 10, dtype=object)
        labels[3] = None
        with pytest.raises(ValueError, match=r"one type.* got str in row 0, NoneType in row 3\."):
            small().fit(POINTS[:20], labels)

    def test_missing_labels_are_ignored_by_the_loss(self):
        holes = LABELS.astype(float)
        holes[::3, 1] = np.nan
        model = small(task="multilabel").fit(POINTS, holes)
        assert model.module_._label_counts.missing > 0
        with pytest.raises(ValueError, match="Input y contains NaN"):
            small().fit(POINTS, holes)

    def test_labels_in_a_single_column(self):
        with pytest.warns(DataConversionWarning):
            small().fit(X, Y[:, None])


class TestDecision:
    def test_predict_uses_the_fitted_thresholds(self):
        # with 20 validation rows, which a temperature needs
        model = small(validation_fraction=0.2).fit(POINTS, LABELS)
        thresholds = np.array(model.task_.threshold, dtype=np.float32)
        assert (thresholds != 0.5).any()
        assert model.task_.temperature != 1
        probabilities = model.predict_proba(POINTS)
        np.testing.assert_array_equal(model.predict(POINTS), probabilities >= thresholds)
        assert (model.predict(POINTS) != (probabilities >= 0.5)).any()

    def test_options(self):
        model = small(decision={"metric": "precision_at_recall", "recall": 1.0, "calibration": "none"})
        model.fit(CANCER, BENIGN)
        assert model.task_.temperature == 1
        assert model.task_.threshold != 0.5
        np.testing.assert_array_equal(
            model.predict(CANCER), model.predict_proba(CANCER)[:, 1] >= np.float32(model.task_.threshold)
        )

    @pytest.mark.parametrize("without", [{"decision": None}, {"validation_fraction": 0}])
    def test_without_a_decision_no_rows_are_held_out(self, without):
        model = small(**without).fit(CANCER, BENIGN)
        assert model.task_.threshold == 0.5
        assert model.module_._label_counts.rows == len(CANCER)
        np.testing.assert_array_equal(model.predict(CANCER), model.predict_proba(CANCER).argmax(1))

    def test_held_out_rows_are_stratified(self):
        model = small(validation_fraction=0.4, max_epochs=1).fit(X, Y)
        assert model.module_._label_counts.positives.tolist() == [30, 30, 30]

    def test_probabilities_sum_to_1_if_weights_shift_the_logits(self):
        loss = {"name": "cross_entropy", "pos_weight": 10.0}
        model = small(loss=loss, decision="tuned").fit(CANCER, BENIGN)
        assert model.task_.shift > 1
        np.testing.assert_allclose(model.predict_proba(CANCER).sum(1), 1, atol=1e-6)

    def test_the_negative_class_is_not_rounded_to_0(self):
        model = small(net="linear", decision=None).fit(CANCER, BENIGN)
        nn.init.zeros_(model.module_.net[-1].weight)
        nn.init.constant_(model.module_.net[-1].bias, 40)
        no, yes = model.predict_proba(CANCER).T
        assert (yes == 1).all()
        assert ((no > 0) & (no < 1e-15)).all()


class TestFeatures:
    def test_are_standardised_with_the_training_rows(self):
        model = small(decision=None).fit(X, Y)
        np.testing.assert_allclose(model.mean_, X.mean(0))
        np.testing.assert_allclose(model.scale_, X.std(0))
        held_out = small().fit(X, Y)
        assert (held_out.mean_ != model.mean_).all()

    def test_an_offset_has_no_effect_in_float64(self):
        model, other = small().fit(X, Y), small().fit(1e9 + X, Y)
        np.testing.assert_allclose(model.predict_proba(X), other.predict_proba(1e9 + X), atol=1e-3)

    def test_a_constant_feature_has_no_effect(self):
        constant = np.hstack([X, np.full((len(X), 1), 0.1)])
        model = small().fit(constant, Y)
        assert model.scale_[-1] == 1
        assert model.n_features_in_ == 5
        moved = constant + np.eye(5)[4] * 1e-9
        np.testing.assert_allclose(model.predict_proba(moved), model.predict_proba(constant), atol=1e-5)

    def test_many_rows_are_predicted_in_batches(self):
        model = small().fit(X, Y)
        many = np.tile(X, (40, 1))
        np.testing.assert_allclose(
            model.predict_proba(many), np.tile(model.predict_proba(X), (40, 1)), rtol=1e-4, atol=1e-7
        )


class TestWeights:
    @pytest.mark.parametrize("task", ["binary", "multilabel"])
    def test_a_weight_equals_repeated_rows(self, task):
        # pairs of opposite rows, so that means, deviations and class frequencies do not depend on the weights
        rows = np.random.RandomState(0).choice([-1.0, 1.0], (20, 6))
        rows, weights = np.vstack([rows, -rows]), np.tile(np.arange(20) % 4, 2)
        labels = np.repeat([1, 0], 20)
        if task == "multilabel":
            labels = np.stack([labels, rows[:, 1] > 0, rows[:, 2] > 0], axis=1).astype(int)
        model = small(decision=None, batch_size=1000)
        with ls.ignore_warnings("duplicate_rows"):
            weighted = model.fit(rows, labels, sample_weight=weights).predict_proba(rows)
            repeated = (
                clone(model).fit(rows.repeat(weights, 0), labels.repeat(weights, 0)).predict_proba(rows)
            )
        np.testing.assert_allclose(weighted, repeated, rtol=1e-3)
        assert abs(weighted - clone(model).fit(rows, labels).predict_proba(rows)).max() > 1e-3

    def test_one_number_is_the_weight_of_every_row(self):
        weighted = small(max_epochs=1).fit(X, Y, np.ones(150)).predict_proba(X)
        np.testing.assert_array_equal(small(max_epochs=1).fit(X, Y, 1.0).predict_proba(X), weighted)
        with pytest.raises(
            ValueError, match=r"sample_weight must be a number or of shape \(150,\), got shape \(150, 1\)"
        ):
            small().fit(X, Y, np.ones((150, 1)))

    def test_a_weight_of_0_removes_the_row(self):
        weights = np.arange(150) % 2
        left_out = small().fit(X[1::2], Y[1::2]).predict_proba(X)
        np.testing.assert_array_equal(small().fit(X, Y, weights).predict_proba(X), left_out)

    def test_the_same_seed_gives_the_same_net(self):
        first, again, other = (small(random_state=s).fit(X, Y).predict_proba(X) for s in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()

    def test_does_not_depend_on_global_seeds(self, monkeypatch):
        first = small().fit(X, Y).predict_proba(X)
        torch.manual_seed(7)
        np.random.seed(7)
        monkeypatch.setenv("PL_GLOBAL_SEED", "7")
        np.testing.assert_array_equal(small().fit(X, Y).predict_proba(X), first)

    def test_a_custom_net_may_draw_from_any_generator(self):
        def net(num_features, num_outputs):
            layer = nn.Linear(num_features, num_outputs)
            nn.init.constant_(layer.weight, np.random.rand() + random.random())
            return layer

        first, again = (small(net=net).fit(X, Y).predict_proba(X) for _ in range(2))
        np.testing.assert_array_equal(first, again)

    @pytest.mark.parametrize("fails", [False, True])
    def test_global_generators_are_restored(self, fails):
        def drawn():
            return random.random(), np.random.rand(), torch.rand(1).item()

        for generator in (random.seed, np.random.seed, torch.manual_seed):
            generator(3)
        expected = drawn()
        for generator in (random.seed, np.random.seed, torch.manual_seed):
            generator(3)
        if fails:
            with pytest.raises(ValueError, match="asymmetric"):
                small(loss="asymmetric").fit(X, Y)
        else:
            small().fit(X, Y).predict(X)
        assert drawn() == expected

    def test_none_draws_from_numpy_as_in_scikit_learn(self):
        np.random.seed(0)
        first = small(random_state=None).fit(X, Y).predict_proba(X)
        second = small(random_state=None).fit(X, Y).predict_proba(X)
        np.random.seed(0)
        np.testing.assert_array_equal(small(random_state=None).fit(X, Y).predict_proba(X), first)
        assert (first != second).any()
        by_state = small(random_state=np.random.RandomState(0)).fit(X, Y).predict_proba(X)
        np.testing.assert_array_equal(by_state, first)


class TestSideEffects:
    def test_nothing_is_written_or_printed(self, tmp_path, monkeypatch, capfd):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("SLURM_NTASKS", "2")  # as in a job whose other process never starts
        monkeypatch.setenv("SLURM_JOB_NAME", "fit")
        small().fit(X, Y).predict(X)
        assert not list(tmp_path.iterdir())
        printed = capfd.readouterr()
        assert printed.out + printed.err == ""

    def test_verbose_shows_a_progress_bar(self, capfd):
        small(verbose=True, max_epochs=2).fit(X, Y)
        assert "Epoch" in capfd.readouterr().out

    def test_filters_and_loggers_are_restored(self):
        import logging
        import warnings

        logger = logging.getLogger("lightning.pytorch")
        before = list(warnings.filters), logger.level
        logger.setLevel(logging.INFO)
        try:
            small(max_epochs=1).fit(X, Y)
            assert logger.level == logging.INFO
        finally:
            logger.setLevel(before[1])
        assert list(warnings.filters) == before[0]

    def test_a_loss_with_parameters_is_not_changed(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones(()))

            def forward(self, logits, target):
                return nn.functional.cross_entropy(logits * self.scale, target)

        loss = Scaled()
        model = small(loss=loss).fit(X, Y)
        assert loss.scale == 1
        assert model.module_.criterion.scale != 1

    def test_ctrl_c_raises_keyboard_interrupt(self):
        class Interrupted(Net):
            def forward(self, inputs):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            small(net=Interrupted).fit(X, Y)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"task": "multilable"}, ValueError, "task 'multilable'. Did you mean 'multilabel'?"),
        ({"loss": "focl"}, ValueError, "Did you mean 'focal'?"),
        (
            {"loss": "asymmetric"},
            ValueError,
            "Loss 'asymmetric' has no softmax form, which task=multiclass requires.",
        ),
        ({"loss": {"name": "focal", "gama": 1}}, ValueError, "has no option 'gama'. Did you mean 'gamma'?"),
        ({"net": "mpl"}, ValueError, "net 'mpl'. Did you mean 'mlp'?"),
        (
            {"net": {"name": "mlp", "hiden": [3]}},
            ValueError,
            "Net 'mlp' has no option 'hiden'. Did you mean 'hidden'?",
        ),
        (
            {"net": nn.Linear(4, 3)},
            TypeError,
            "net must be a function that creates a new net for each fit, got a Linear",
        ),
        ({"net": lambda n, m: 3}, TypeError, "net must return a torch.nn.Module, got int."),
        ({"net": 3}, TypeError, "net must be a name, a dict with a name, or a function, got 3."),
        (
            {"net": lambda n, m: nn.Linear(n, m + 1)},
            ValueError,
            "(16, 4)",
        ),
        ({"max_epochs": 0}, ValueError, "max_epochs must be"),
        ({"max_epochs": 1.5}, TypeError, "max_epochs must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"learning_rate": -1}, ValueError, "learning_rate must be"),
        ({"weight_decay": "a"}, TypeError, "weight_decay must be"),
        ({"validation_fraction": 1}, ValueError, "validation_fraction must be < 1"),
        (
            {"validation_fraction": 0.001},
            ValueError,
            "n_samples=150 is too small to hold out validation_fraction=0.001",
        ),
        (
            {"decision": "tunned"},
            ValueError,
            "decision must be 'tuned', None or a mapping such as {'metric': 'f1_macro'}, got 'tunned'.",
        ),
        ({"decision": True}, TypeError, "a mapping such as {'metric': 'f1_macro'}, got True."),
        ({"decision": {"metrc": "f1"}}, ValueError, "decision has no option 'metrc'. Did you mean 'metric'?"),
        (
            {"decision": {"metric": "f1"}},
            ValueError,
            "decision.metric='f1' is not valid for task=multiclass.",
        ),
        (
            {"decision": {"metric": "f1_macro"}, "validation_fraction": 0},
            ValueError,
            "but validation_fraction=0 holds out no rows",
        ),
        ({"device": "gpuu"}, ValueError, "gpuu"),
        (
            {"task": "binary"},
            ValueError,
            "task=binary requires two classes, but y contains 3: 0, 1, 2. Set task=multiclass.",
        ),
        (
            {"task": "multilabel"},
            ValueError,
            "0 and 1 of shape (N, L), one column per label, got shape (150,)",
        ),
    ],
    ids=lambda value: str(value)[:40].partition(" at 0x")[0],
)
def test_invalid_arguments_raise_an_error(arguments, kind, message):
    with pytest.raises(kind) as raised:
        small(max_epochs=1).set_params(**arguments).fit(X, Y)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        ({}, (X, None), "fit requires y to be passed, but the target y is None"),
        ({}, (X, Y[:-1]), "inconsistent numbers of samples"),
        (
            {},
            (X, np.zeros(150)),
            "task=binary requires at least two classes, but y contains only 1 class: 0.0.",
        ),
        ({}, (X, X[:, 0]), "Unknown label type: continuous"),
        (
            {},
            (X, [[1], [1, 2]] * 75),
            "The rows of y are lists of different lengths.",
        ),
        (
            {"task": "multiclass"},
            (POINTS, LABELS),
            "task=multiclass requires one label per row, got y of shape (120, 4).",
        ),
        ({"task": "multilabel"}, (POINTS, LABELS * 2), "multilabel targets must be 0, 1"),
        ({}, (X * 1e200, Y), "column 0 of X"),
        ({}, (X, Y, -np.ones(150)), "Row 0 has the sample weight -1"),
        ({}, (X, Y, np.zeros(150)), "zero"),
        ({}, (X, Y, (Y == 1) * 1), "class '1'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_invalid_data_raise_an_error(arguments, data, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the message is checked below
        small(max_epochs=1, **arguments).fit(*data)
    assert message in str(raised.value)


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix, sparse.coo_array, sparse.csc_array])
def test_sparse_features(kind):
    rows = np.where(np.abs(X) < 0.5, 0, X)
    model, other = small().fit(kind(rows), Y), small().fit(sparse.csr_array(rows), Y)
    np.testing.assert_array_equal(
        model.predict_proba(kind(rows)), other.predict_proba(sparse.csr_array(rows))
    )
    np.testing.assert_allclose(model.predict_proba(kind(rows)), model.predict_proba(rows), atol=1e-6)
    assert model.scale_.shape == (X.shape[1],)
    assert not model.mean_.any()
    dense = small().fit(X, Y)
    with pytest.raises(ValueError, match=r"Expected a dense X as in fit, got a sparse matrix"):
        dense.predict(kind(rows))


def test_repeated_entries_of_sparse_features_are_added():
    rows = np.where(np.abs(X) < 0.5, 0, X)
    full = sparse.csr_array(rows)
    entries = np.repeat(full.data / 2, 2), np.repeat(full.indices, 2), full.indptr * 2
    repeated = sparse.csr_array(entries, shape=full.shape)
    model = small().fit(repeated, Y)
    np.testing.assert_array_equal(model.predict_proba(repeated), small().fit(full, Y).predict_proba(full))
    assert repeated.nnz == 2 * full.nnz  # the user's matrix is unchanged


def test_a_number_far_out_of_the_training_range_raises_an_error():
    model = small().fit(X, Y)
    with pytest.raises(ValueError, match=r"Row 1 of column 2 of X"):
        model.predict([[1, 1, 1, 1], [1, 1, 1e60, 1]])


def test_suspicious_labels_raise_a_warning():
    one_each = np.eye(3, dtype=int)[Y]
    with pytest.warns(ls.LossSelectWarning, match="looks_multiclass"):
        small(max_epochs=1).fit(X, one_each)
    with ls.ignore_warnings("looks_multiclass"):
        small(max_epochs=1).fit(X, one_each)


def test_metrics_that_are_not_shown_do_not_warn():
    small(max_epochs=1).fit(np.tile(X, (2, 1)), np.tile(Y, 2))
