"""Comparison of `TaskClassifier` with other classifiers on tables.

    python benchmarks/models.py [--sets yeast] [--models lossselect xgboost] [--seeds 3] [--net linear]
                                [--save FILE.json] [--compare OTHER.json] [--markdown FILE.md]

Each model has its default settings, the same training rows of each set (benchmarks/model_sets.py), and one
thread; lossselect holds out its validation rows from them. Classes and labels are those of `predict`, all
other figures are computed from the probabilities of `predict_proba`:

- AUROC is the mean over classes of one class against the others.
- AP is the average precision of class 1 in binary tasks. mAP is its mean over the labels, and like macro
  F1 it leaves out labels without positives in the test rows.
- Log loss is in nats, the mean over rows, and over labels in multilabel tasks. Probabilities are clipped to
  [eps, 1 - eps] with the eps of float64, as in scikit-learn.
- ECE is the sum over 15 bins b of equal width of n_b / n |accuracy_b - confidence_b|, where the confidence is
  the largest probability of a row. In multilabel tasks it is the probability of each label, and the frequency
  of positives replaces the accuracy (`lossselect.metrics.CalibrationError`).
- Seconds are those of `fit`, after a first fit that imports everything.

Sets and libraries that are not installed (benchmarks/requirements-peers.txt) are skipped with a message.
`--save` adds the figures of each fit to a file, and does not repeat the fits in it.
"""

import argparse
import importlib.util
import json
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_sets import SETS, Table, UnavailableError, scikit_learn
from scipy.sparse import issparse
from sklearn import metrics as sk
from sklearn.base import BaseEstimator, clone
from threadpoolctl import threadpool_limits

import lossselect as ls
from lossselect.exceptions import LossSelectError
from lossselect.utils.atomic_write import atomic_write

PEERS = {
    "random_forest": "sklearn",
    "hist_gradient_boosting": "sklearn",
    "mlp": "sklearn",
    "logistic_regression": "sklearn",
    "lightgbm": "lightgbm",
    "xgboost": "xgboost",
    "catboost": "catboost",
}
"""The other models, and the package of each."""

DETERMINISTIC = ("hist_gradient_boosting", "logistic_regression", "lightgbm", "xgboost")
"""Models that do not depend on the seed by default, on sets of this size; they are fitted once."""

FIGURES = {
    "accuracy": "Accuracy",
    "f1_micro": "Micro F1",
    "f1_macro": "Macro F1",
    "auroc": "AUROC",
    "average_precision": "AP",
    "mean_average_precision": "mAP",
    "log_loss": "Log loss",
    "ece": "ECE",
    "seconds": "Seconds of fit",
}
SMALLER_IS_BETTER = ("log_loss", "ece", "seconds")

Results = dict[str, dict[str, float]]
"""The figures of a fit by "set|model|seed"."""


class PerLabel(BaseEstimator):
    """A model for each label, as in `MultiOutputClassifier`, which fails if a label is constant."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def fit(self, x: Any, y: np.ndarray) -> "PerLabel":
        from sklearn.dummy import DummyClassifier

        self.models_ = [clone(self.model if np.ptp(c) else DummyClassifier()).fit(x, c) for c in y.T]
        self.classes_ = [model.classes_ for model in self.models_]
        return self

    def predict(self, x: Any) -> np.ndarray:
        return np.stack([model.predict(x) for model in self.models_], 1)

    def predict_proba(self, x: Any) -> list[np.ndarray]:
        return [model.predict_proba(x) for model in self.models_]


def make_model(name: str, seed: int, sparse: bool, multilabel: bool) -> Any:
    """Return an unfitted model with default settings and one thread."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, StandardScaler

    scaler = MaxAbsScaler() if sparse else StandardScaler()
    match name:
        case "random_forest":
            return RandomForestClassifier(random_state=seed, n_jobs=1)
        case "mlp":
            return make_pipeline(scaler, MLPClassifier(random_state=seed))
        case "hist_gradient_boosting":
            model = HistGradientBoostingClassifier(random_state=seed)
            if sparse:
                model = make_pipeline(FunctionTransformer(lambda x: x.toarray(), accept_sparse=True), model)
        case "logistic_regression":
            model = make_pipeline(scaler, LogisticRegression(random_state=seed))
        case "lightgbm":
            from lightgbm import LGBMClassifier

            model = LGBMClassifier(random_state=seed, n_jobs=1, verbose=-1)
        case "xgboost":
            from xgboost import XGBClassifier

            return XGBClassifier(random_state=seed, n_jobs=1)
        case "catboost":
            from catboost import CatBoostClassifier

            # for each label, because MultiLogloss fails if one is constant
            options = {"thread_count": 1, "verbose": 0, "allow_writing_files": False}
            model = CatBoostClassifier(random_seed=seed, **options)
        case _:
            from lossselect.sklearn import TaskClassifier

            net = name.partition(":")[2]
            options = {"net": json.loads(net) if net.startswith("{") else net} if net else {}
            return TaskClassifier(**options, random_state=seed, device="cpu")
    return PerLabel(model) if multilabel else model


def predict_probabilities(model: Any, x: Any, y: np.ndarray) -> np.ndarray:
    """Return float64 probabilities (N, C) of the classes, or (N, L) of the labels that y has."""
    p = model.predict_proba(x)
    if y.ndim == 2:
        if isinstance(p, list):  # (N, 2) for each label, or (N, 1) if it is constant in the training rows
            p = np.stack([q @ classes for q, classes in zip(p, model.classes_, strict=True)], 1)
        return np.asarray(p, dtype=np.float64)
    full = np.zeros((len(p), y.max() + 1))
    full[:, model.classes_] = p
    return full / full.sum(1, keepdims=True)  # float32 probabilities do not add up to 1 in float64


def score(y: np.ndarray, predicted: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Return the figures of predicted classes (N,) and probabilities (N, C), or (N, L) for several labels."""
    if y.ndim == 2:
        present = y.any(0)
        found = {
            "f1_micro": sk.f1_score(y, predicted, average="micro"),
            "f1_macro": sk.f1_score(y[:, present], predicted[:, present], average="macro", zero_division=0),
            "mean_average_precision": sk.average_precision_score(y[:, present], p[:, present]),
            "log_loss": np.mean([sk.log_loss(a, b, labels=[0, 1]) for a, b in zip(y.T, p.T, strict=True)]),
        }
    else:
        binary = p.shape[1] == 2
        found = {
            "accuracy": sk.accuracy_score(y, predicted),
            "f1_macro": sk.f1_score(y, predicted, average="macro", zero_division=0),
            "auroc": sk.roc_auc_score(y, p[:, 1] if binary else p, multi_class="ovr"),
            **({"average_precision": sk.average_precision_score(y, p[:, 1])} if binary else {}),
            "log_loss": sk.log_loss(y, p, labels=np.arange(p.shape[1])),
        }
    # two classes as a multiclass task, so that the confidence is the larger of the probabilities
    task = (ls.Multilabel if y.ndim == 2 else ls.Multiclass)(p.shape[1])
    metric = ls.make_metrics(task, names=["calibration_error"])
    metric.update(torch.from_numpy(p), task.encode(y))
    return {
        **{name: float(value) for name, value in found.items()},
        "ece": metric.compute()["calibration_error"].item(),
    }


def fit_and_score(name: str, seed: int, table: Table) -> dict[str, float]:
    """Fit a model to the training rows, and evaluate it on the test rows."""
    model = make_model(name, seed, issparse(table.x), table.y.ndim == 2)
    start = time.perf_counter()
    model.fit(table.x, table.y)
    seconds = time.perf_counter() - start
    predicted = np.asarray(model.predict(table.test_x))
    predicted = predicted.reshape(table.test_y.shape)  # catboost returns (N, 1)
    p = predict_probabilities(model, table.test_x, table.test_y)
    return {**score(table.test_y, predicted, p), "seconds": seconds}


def read(path: Path) -> Results:
    return json.loads(path.read_text()) if path.exists() else {}


def save(path: Path, results: Results) -> None:
    """Write the results as JSON, with one fit per line."""
    lines = (
        f"{json.dumps(key)}: {json.dumps({name: round(value, 5) for name, value in values.items()})}"
        for key, values in results.items()
    )
    with atomic_write(path) as partial:
        partial.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def load(names: Iterable[str]) -> dict[str, Table]:
    """Return the available sets of these names."""
    tables = {}
    for name, make in ((name, make) for group in SETS.values() for name, make in group.items()):
        try:
            if name in names:
                tables[name] = make()
        except UnavailableError as missing:
            print(f"Data set {name} is skipped: {missing}.")
    return tables


def run(tables: Mapping[str, Table], models: list[str], seeds: int, path: Path | None) -> Results:
    """Return the stored results, and those of the fits that were missing."""
    results = read(path) if path else {}
    warm, small = set(), scikit_learn("iris")
    for seed in range(seeds):
        for data, table in tables.items():
            for model in models:
                key = f"{data}|{model}|{seed}"
                if key in results or (seed and model in DETERMINISTIC):
                    continue
                if model not in warm:
                    make_model(model, 0, False, False).fit(small.x, small.y)
                    warm.add(model)
                results[key] = fit_and_score(model, seed, table)
                print(f"{key} {results[key]['seconds']:.1f} s", flush=True)
                if path:
                    save(path, results)
    return results


Means = dict[str, dict[str, dict[str, float]]]
"""The figures of each set and model, means over the seeds."""


def means(results: Results) -> Means:
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for key, values in results.items():
        data, _, rest = key.partition("|")
        found.setdefault(data, {}).setdefault(rest.rpartition("|")[0], []).append(values)
    return {
        data: {
            model: {figure: float(np.mean([run[figure] for run in runs])) for figure in runs[0]}
            for model, runs in models.items()
        }
        for data, models in found.items()
    }


def row(name: str, values: Iterable[float], figure: str) -> list[str]:
    """Return the cells of a row, with all values that round to the best one in bold; NaN is an empty cell."""
    digits = 2 if figure == "seconds" else 3
    rounded = np.array([round(value, digits) for value in values])
    best = (np.nanmin if figure in SMALLER_IS_BETTER else np.nanmax)(rounded)
    texts = ["" if np.isnan(value) else f"{value:.{digits}f}" for value in rounded]
    return [
        name,
        *(f"**{text}**" if value == best else text for text, value in zip(texts, rounded, strict=True)),
    ]


def markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def is_peer(model: str) -> bool:
    return not model.startswith("lossselect")


def worst_difference(found: Means, model: str, figure: str) -> str:
    """Return the smallest difference over the sets to the best of the other peers, with the set."""
    differences = []
    for data, models in found.items():
        peers = [v[figure] for name, v in models.items() if is_peer(name) and name != model and figure in v]
        if peers and figure in models.get(model, {}):
            differences.append((models[model][figure] - max(peers), data))
    return "{:+.3f} ({})".format(*min(differences)) if differences else ""


def tables_of(found: Means, models: list[str]) -> list[str]:
    """Return the summary of the sets and a table for each figure."""
    figures = [name for name in FIGURES if any(name in v for data in found.values() for v in data.values())]

    def values(figure: str, data: str) -> np.ndarray:
        return np.array([found[data].get(model, {}).get(figure, np.nan) for model in models])

    rows = {
        figure: {data: values(figure, data) for data in found if not np.isnan(values(figure, data)).all()}
        for figure in figures
    }
    compared = [figure for figure in ("accuracy", "f1_micro", "mean_average_precision") if figure in figures]
    header = ["Mean over sets", *models]
    lines = [row(FIGURES[figure], np.mean([*rows[figure].values()], 0), figure) for figure in figures]
    lines += [
        [
            f"{FIGURES[figure]}, worst difference to the best peer",
            *(worst_difference(found, m, figure) for m in models),
        ]
        for figure in compared
    ]
    return [
        markdown(header, lines),
        *(
            markdown([FIGURES[figure], *models], [row(data, v, figure) for data, v in rows[figure].items()])
            for figure in figures
        ),
    ]


def report(results: Results) -> str:
    """Return all tables, by group of sets; a mean over sets is empty if the model lacks one of them."""
    found, parts = means(results), []
    present = {model for models in found.values() for model in models}
    models = [*sorted(m for m in present if not is_peer(m)), *(m for m in PEERS if m in present)]
    for title, names in SETS.items():
        group = {name: found[name] for name in names if name in found}
        if group:
            parts += [f"### {title}", *tables_of(group, models)]
    return "\n\n".join(parts)


def net_option(text: str) -> str:
    """Return the text of `--net`; a ValueError makes argparse report a mapping that is not JSON."""
    if text.startswith("{"):
        json.loads(text)
    return text


def main() -> None:
    """Run the command line."""
    all_sets = [name for group in SETS.values() for name in group]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sets", nargs="+", choices=all_sets, default=all_sets, metavar="SET", help="all by default"
    )
    parser.add_argument(
        "--models",
        nargs="*",
        choices=["lossselect", *PEERS],
        metavar="MODEL",
        help=f"lossselect, {', '.join(PEERS)}; by default all that are installed",
    )
    parser.add_argument(
        "--net",
        type=net_option,
        action="append",
        default=[],
        help="also compare lossselect with this net, a name or a mapping in JSON; may be repeated",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", type=Path, metavar="FILE.json", help="read and add results")
    parser.add_argument(
        "--compare", type=Path, nargs="+", default=[], metavar="FILE.json", help="other such files to show"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE.md", help="write the tables instead of printing them"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    models = ["lossselect", *PEERS] if arguments.models is None else arguments.models
    for model, package in PEERS.items():
        if model in models and importlib.util.find_spec(package) is None:
            print(f"Model {model} is skipped: it requires `pip install {package}`.")
            models.remove(model)
    models += [f"lossselect:{net}" for net in arguments.net]
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            results = run(load(arguments.sets), models, arguments.seeds, arguments.save)
    except LossSelectError as error:
        parser.exit(1, f"{error}\n")
    for path in arguments.compare:
        results = {**read(path), **results}
    text = report({key: v for key, v in results.items() if key.partition("|")[0] in arguments.sets})
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
