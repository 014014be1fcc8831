"""Comparison of losses, modifiers and decisions.

    python benchmarks/choices.py [--seeds 5] [--only yeast]

Trains the net of `model=mlp` with each row of `CHOICES` on each data set with each seed, and evaluates
several decisions of each net on test rows. Runs stored in benchmarks/results/choices.json are not repeated.
Writes tables and a figure for docs/choosing-results.md.

The five multilabel data sets are read from ../shared/data. They are not included, as they state no licence.
shuttle requires `pip install river`. Data sets that are not available are skipped with a message.
"""

import argparse
import importlib.util
import json
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from lightning.pytorch import Trainer, seed_everything
from sklearn import metrics as sk

import lossselect as ls
from lossselect.data.datamodule import TensorData
from lossselect.data.toy import Rows as ToyRows
from lossselect.data.toy import make_splits

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
RESULTS = ROOT / "benchmarks" / "results" / "choices.json"
EPOCHS = 50
NET = {"name": "mlp", "hidden": [1024], "dropout": 0.6, "input_dropout": 0.2, "clip": 3.0}
"""As in configs/model/mlp.yaml. The optimizer is AdamW with lr=1e-3, the schedule that of cosine.yaml."""

CHOICES: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "cross_entropy, bias_init=null": {"bias_init": None},
    "label_smoothing=0.1": {"label_smoothing": 0.1},
    "mix=mixup": {"mix": "mixup"},
    "pos_weight=auto": {"pos_weight": "auto"},
    "weight=balanced": {"weight": "balanced"},
    "weight=effective_number": {"weight": "effective_number"},
    "focal": {"name": "focal"},
    "asymmetric": {"name": "asymmetric"},
    "poly1": {"name": "poly1"},
    "logit_adjusted": {"name": "logit_adjusted"},
    "generalized_cross_entropy": {"name": "generalized_cross_entropy"},
    "zlpr": {"name": "zlpr"},
    "one_vs_rest": {"name": "one_vs_rest"},
}


class Rows(NamedTuple):
    """A data set with features (N, F), labels (N,) or (N, L), and the indices of its test rows."""

    task: str
    features: np.ndarray
    labels: np.ndarray
    test_rows: np.ndarray


def multilabel(name: str) -> Rows | None:
    path = SHARED / f"{name}.npz"
    if not path.exists():
        return None
    with np.load(path) as data:
        features, labels, count = data["X"], data["Y"], int(data["ntrain"])
    return Rows("multilabel", features, labels, np.arange(count, len(features)))


def shuttle(seed: int) -> Rows | None:
    """Return a binary data set with 1 % anomalies, 4,000 training and 20,000 test rows."""
    spec = importlib.util.find_spec("river")
    if spec is None or spec.origin is None:
        return None
    frame = pl.read_csv(Path(spec.origin).parent / "datasets" / "shuttle.csv.gz")
    labels = frame["anomaly"].to_numpy()
    random = np.random.default_rng(seed)
    rare, common = (random.permutation(np.flatnonzero(labels == value)) for value in (1, 0))
    train, test = (
        [rare[a : a + k // 100], common[a * 99 : a * 99 + k - k // 100]] for a, k in ((0, 4000), (40, 20000))
    )
    rows = np.concatenate([*train, *test])
    return Rows("binary", frame.drop("anomaly").to_numpy()[rows], labels[rows], np.arange(4000, 24000))


def digits(seed: int, noise: float = 0.0) -> Rows:
    """Return digits whose training rows are long-tailed (90 to 5 per class) or have wrong labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    random = np.random.default_rng(seed)
    order = random.permutation(len(bunch.target))
    test, rest = order[:797], order[797:]
    labels = bunch.target.copy()
    kept = rest
    if noise:
        wrong = rest[random.random(len(rest)) < noise]
        labels[wrong] = (labels[wrong] + random.integers(1, 10, len(wrong))) % 10
    else:
        sizes = np.maximum(90 * 100 ** (-np.arange(10) / 9), 5).round().astype(int)
        kept = np.concatenate([rest[labels[rest] == c][:size] for c, size in enumerate(sizes)])
    rows = np.concatenate([kept, test])
    return Rows("multiclass", bunch.data[rows], labels[rows], np.arange(len(kept), len(rows)))


DATA: dict[str, Callable[[int], Rows | None]] = {
    **{n: lambda seed, n=n: multilabel(n) for n in ("yeast", "emotions", "birds", "enron", "flags")},
    "shuttle": shuttle,
    "digits_long_tailed": digits,
    "digits_40%_wrong": lambda seed: digits(seed, noise=0.4),
}
"""Functions that return each data set for a seed."""

DECISIONS: dict[str, dict[str, dict[str, Any]]] = {
    "multilabel": {
        "threshold=0.5": {"metric": None, "calibration": "none"},
        "expected_f1": {},
        "f1_micro, one for all": {"metric": "f1_micro", "per_label": False},
        "f1_macro, one for all": {"metric": "f1_macro", "per_label": False},
        "f1_macro, per label": {"metric": "f1_macro"},
        "f1_macro, per label, unshrunk": {"metric": "f1_macro", "shrinkage": 0.0},
        "at least one, expected_f1": {},
    },
    "binary": {
        "threshold=0.5": {"metric": None, "calibration": "none"},
        "expected_f1": {},
        "f1": {"metric": "f1"},
        "balanced_accuracy": {"metric": "balanced_accuracy"},
    },
    "multiclass": {
        "argmax": {"metric": None, "calibration": "none"},
        "balanced_accuracy": {"metric": "balanced_accuracy"},
        "f1_macro": {"metric": "f1_macro"},
    },
}


def fits(choice: str, options: dict[str, Any], task: ls.Task) -> bool:
    """Return whether the task supports the choice."""
    loss = {k: v for k, v in options.items() if k not in ("bias_init", "mix")}
    try:
        ls.select_loss(task, **loss)
    except ValueError:
        return False
    return not (choice == "weight=effective_number" and task.activation == "sigmoid")


def fit_and_score(rows: Rows, options: dict[str, Any], seed: int) -> dict[str, dict[str, float]]:
    """Train a net, tune each decision on the validation rows, and evaluate it on the test rows."""
    seed_everything(seed, verbose=False)
    width = (
        None
        if rows.task == "binary"
        else rows.labels.max() + 1
        if rows.task == "multiclass"
        else rows.labels.shape[1]
    )
    task = ls.make_task(rows.task, num_outputs=None if width is None else int(width))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        columns = tuple(f"x{i}" for i in range(rows.features.shape[1]))
        data_set = ToyRows(rows.features, rows.labels, task.names, columns, rows.test_rows)
        splits = make_splits("", data_set, seed, val_fraction=0.15)
        data = TensorData(splits, task)
        module = ls.TaskModule(
            task,
            {**NET, "num_features": data.num_features},
            {"name": "cross_entropy", **{k: v for k, v in options.items() if k not in ("bias_init", "mix")}},
            {"name": "AdamW", "lr": 1e-3, "weight_decay": 1e-2},
            {"name": "CosineAnnealingLR", "T_max": EPOCHS},
            options.get("bias_init", "prior"),
            options.get("mix"),
        )
        trainer = Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        trainer.fit(module, datamodule=data)
        module.eval()
        with torch.inference_mode():
            val, test = (module(splits.features[splits.rows[split]]) for split in ("val", "test"))
        scores = {}
        for name, decision in DECISIONS[rows.task].items():
            start = (
                ls.make_task(**{**task.to_dict(), "min_labels": 1}) if name.startswith("at least") else task
            )
            tuned = ls.fit_decision(
                start, val, splits.labels_of("val"), **decision, loss=module.criterion, counts=module.counts
            )
            scores[name] = score(tuned, test, splits.labels_of("test"))
        return scores


def score(task: ls.Task, logits: torch.Tensor, labels: np.ndarray) -> dict[str, float]:
    """Return metrics of a decision on the test rows, by scikit-learn; ECE and Brier score by lossselect."""
    p, predicted = task.probabilities(logits.double()).numpy(), task.predict(logits).numpy().squeeze()
    metrics = ls.make_metrics(task, names=["brier_score", "calibration_error"])
    metrics.update(torch.from_numpy(p), task.encode(labels))
    values = {name: value.item() for name, value in metrics.compute().items()}
    if task.name == "multilabel":
        present = labels.any(0)
        return values | {
            "f1_micro": sk.f1_score(labels, predicted, average="micro"),
            "f1_macro": sk.f1_score(
                labels[:, present], predicted[:, present], average="macro", zero_division=0
            ),
            "average_precision": sk.average_precision_score(
                labels[:, present], p[:, present], average="macro"
            ),
        }
    if task.name == "binary":
        return values | {
            "f1": sk.f1_score(labels, predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
            "average_precision": sk.average_precision_score(labels, p[:, 0]),
        }
    return values | {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "f1_macro": sk.f1_score(labels, predicted, average="macro", zero_division=0),
    }


def baselines(rows: Rows) -> dict[str, dict[str, float]]:
    """Evaluate one-vs-rest logistic regression and a forest of 200 trees, trained on all training rows."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train = np.setdiff1d(np.arange(len(rows.features)), rows.test_rows)
    x, y, tx, ty = (a[i] for i in (train, rows.test_rows) for a in (rows.features, rows.labels))
    regression = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(max_iter=1000)))
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, model in {
            "logistic regression": regression,
            "forest of 200": RandomForestClassifier(200, random_state=0),
        }.items():
            model.fit(x, y)
            p = model.predict_proba(tx)
            if isinstance(p, list):  # constant labels have a single column
                p = np.stack([q[:, 1] if q.shape[1] == 2 else np.zeros(len(q)) for q in p], 1)
            predicted = model.predict(tx)
            found[name] = {
                "f1_micro": sk.f1_score(ty, predicted, average="micro"),
                "f1_macro": sk.f1_score(ty, predicted, average="macro", zero_division=0),
                "average_precision": sk.average_precision_score(ty, p, average="macro"),
            }
    return found


def rounded(values: Any) -> Any:
    """Round all numbers to five decimals."""
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items()}
    return round(values, 5)


def save(results: dict[str, Any]) -> None:
    """Write the results as JSON, with one run per line."""
    lines = (f"{json.dumps(key)}: {json.dumps(values)}" for key, values in rounded(results).items())
    RESULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def run(seeds: int, only: list[str]) -> dict[str, Any]:
    """Return the stored results, and those of the runs that were missing."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for seed in range(seeds):
        for name, load in DATA.items():
            rows = load(seed) if not only or name in only else None
            if rows is None:
                if seed == 0 and not only:
                    print(f"Data set {name} is not available and is skipped.")
                continue
            if rows.task == "multilabel" and f"{name}|baselines" not in results:
                results[f"{name}|baselines"] = baselines(rows)
            task = (
                ls.Multilabel(2)
                if rows.task == "multilabel"
                else ls.make_task(rows.task, num_outputs=None if rows.task == "binary" else 2)
            )
            for choice, options in CHOICES.items():
                key = f"{name}|{choice}|{seed}"
                if key in results or not fits(choice, options, task):
                    continue
                start = time.perf_counter()
                results[key] = fit_and_score(rows, options, seed)
                save(results)
                print(f"{key} {time.perf_counter() - start:.1f} s", flush=True)
    return results


LOSS_COLUMNS = {
    "multilabel": ["f1_micro", "f1_macro", "average_precision"],
    "binary": ["f1", "balanced_accuracy", "average_precision"],
    "multiclass": ["accuracy", "balanced_accuracy", "f1_macro"],
}
PLAIN = {"multilabel": "threshold=0.5", "binary": "threshold=0.5", "multiclass": "argmax"}
FITTED = {"multilabel": "expected_f1", "binary": "expected_f1", "multiclass": "argmax"}
"""The default and the tuned decision in the tables of losses."""


class Summary:
    """The results as means over the seeds with standard errors."""

    def __init__(self, results: dict[str, Any], seeds: int) -> None:
        self.results, self.seeds = results, seeds

    def values(self, data: str, choice: str, decision: str, metric: str) -> np.ndarray:
        """Return the values of a metric, one for each available seed."""
        runs = (self.results.get(f"{data}|{choice}|{seed}") for seed in range(self.seeds))
        return np.array([run[decision][metric] for run in runs if run and metric in run[decision]])

    def cell(self, data: str, choice: str, decision: str, metric: str) -> str:
        """Return mean and standard error, such as "0.712 ± 0.003"."""
        values = self.values(data, choice, decision, metric)
        if not len(values):
            return ""
        error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        return f"{values.mean():.3f} ± {error:.3f}"


def task_of(data: str) -> str:
    """Return the name of the task of a data set."""
    return "binary" if data == "shuttle" else "multiclass" if data.startswith("digits") else "multilabel"


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """Return a Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def report(results: dict[str, Any], seeds: int) -> str:
    """Return the tables of docs/choosing-results.md."""
    found, parts = Summary(results, seeds), []
    available = [data for data in DATA if any(key.startswith(f"{data}|cross_entropy|") for key in results)]
    for kind in ("multilabel", "binary", "multiclass"):
        sets = [data for data in available if task_of(data) == kind]
        if not sets:
            continue
        for data in sets:
            columns = LOSS_COLUMNS[kind]
            header = [data, *columns, *([f"{c} at 0.5" for c in columns[:2]] if kind != "multiclass" else [])]
            header += ["ECE", "Brier", "ECE after T", "Brier after T"]
            lines = [
                [choice, *(f"{values[c]:.3f}" for c in columns), *[""] * (len(header) - 4)]
                for choice, values in results.get(f"{data}|baselines", {}).items()
            ]
            for choice in CHOICES:
                if not len(found.values(data, choice, PLAIN[kind], "brier_score")):
                    continue
                line = [choice, *(found.cell(data, choice, FITTED[kind], c) for c in columns)]
                if kind != "multiclass":
                    line += [found.cell(data, choice, PLAIN[kind], c) for c in columns[:2]]
                calibrated = FITTED[kind] if kind != "multiclass" else "balanced_accuracy"
                for decision in (PLAIN[kind], calibrated):
                    line += [
                        found.cell(data, choice, decision, c) for c in ("calibration_error", "brier_score")
                    ]
                lines.append(line)
            parts.append(markdown(header, lines))
        parts.append(f"Decisions for {kind}, with the same nets (cross_entropy):")
        columns = LOSS_COLUMNS[kind][:2] if kind != "multiclass" else LOSS_COLUMNS[kind]
        header = ["decision", *(f"{data} {c}" for data in sets for c in columns)]
        parts.append(
            markdown(
                header,
                [
                    [d, *(found.cell(data, "cross_entropy", d, c) for data in sets for c in columns)]
                    for d in DECISIONS[kind]
                ],
            )
        )
    return "\n\n".join(parts)


def picture(results: dict[str, Any], seeds: int) -> None:
    """Draw docs/choosing.svg: the difference of each choice from plain cross-entropy for each data set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "choices"}  # reproducible output
    found = Summary(results, seeds)
    sets = [
        data for data in DATA if len(found.values(data, "cross_entropy", PLAIN[task_of(data)], "brier_score"))
    ]
    figure, axes = plt.subplots(
        1, len(sets), figsize=(2.1 * len(sets), 4.6), sharey=True, layout="constrained"
    )
    for axis, data in zip(np.atleast_1d(axes), sets, strict=True):
        kind = task_of(data)
        metric = {"multilabel": "f1_macro", "binary": "f1", "multiclass": "f1_macro"}[kind]
        base = found.values(data, "cross_entropy", FITTED[kind], metric)
        for y, choice in enumerate(CHOICES):
            values = found.values(data, choice, FITTED[kind], metric)
            if len(values) and len(values) == len(base):
                difference = values - base
                error = difference.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0
                axis.errorbar(difference.mean(), -y, xerr=2 * error, fmt="o", color="tab:blue", markersize=4)
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set_title(data.replace("_", "\n"), fontsize=9)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("F1" if kind == "binary" else "macro-F1", fontsize=8)
    np.atleast_1d(axes)[0].set_yticks([-y for y in range(len(CHOICES))], list(CHOICES), fontsize=8)
    figure.suptitle(
        "Difference from plain cross-entropy on the test rows, same seed and decision (± 2 standard errors)",
        fontsize=9,
    )
    figure.savefig(ROOT / "docs" / "choosing.svg", metadata={"Date": None})


def write(results: dict[str, Any], seeds: int) -> None:
    """Write the tables between the marks in docs/choosing-results.md."""
    page = ROOT / "docs" / "choosing-results.md"
    text = page.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n\n{report(results, seeds)}\n\n{END}{after}")


BEGIN, END = "<!-- tables of benchmarks/choices.py -->", "<!-- end of tables -->"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        help="names of data sets, separated by commas",
    )
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)  # the nets are small
    results = run(arguments.seeds, arguments.only)
    print(report(results, arguments.seeds))
    write(results, arguments.seeds)
    picture(results, arguments.seeds)


if __name__ == "__main__":
    main()
