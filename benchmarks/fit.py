"""Speed of fit, compared with plain torch, Lightning, Transformers, fastai and skorch.

Trains an MLP 64-256-256-C on scikit-learn's digits (binary: digit >= 5; multiclass: the digit; multilabel:
its 4 bits) with 1437 training and 360 validation rows, batch size 64, 20 epochs, Adam with lr 1e-3,
validation after every epoch, and one CPU thread. A second case has 64,000 rows with noise, 1,000 steps per
epoch. All sides start from the same weights and are timed in turn in one process; the first round is a warm-
up. Only lossselect and Lightning + torchmetrics write a CSV log and checkpoints and draw a progress bar.
Their results are compared first. Writes results/fit.json, .md and .svg.

python benchmarks/fit.py [--task binary] [--runs 5] [--quick] [--device cuda] [--compile]
"""

import argparse
import contextlib
import gc
import importlib.util
import io
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from fit_sides import (
    BARE,
    COMPILED,
    FULL,
    METRICS,
    ONE,
    PEERS,
    RAW,
    RAW_FUSED,
    SIDES,
    SIXTEEN,
    TASKS,
    TRAIN_ROWS,
    Case,
    Fit,
    lightning_with_metrics,
    lossselect,
    make_case,
)
from lightning.pytorch import Trainer

RESULTS = Path(__file__).resolve().parent / "results"
EPOCHS, LONG_EPOCHS, LONG_ROWS = 20, 2, 64_000
LONG_SIDES = (RAW, RAW_FUSED, BARE, ONE, SIXTEEN, *COMPILED)
TARGETS = (
    (
        *((ONE, 1.0, BARE), (ONE, 2.0, FULL), (ONE, 1.1, "Transformers"), (ONE, 1.0, "fastai")),
        *((ONE, 1.0, "skorch"), (ONE, 0.45, RAW), (SIXTEEN, 0.6, RAW)),
    ),
    ((SIXTEEN, 0.9, RAW),),
)
"""Minimum ratios of speed (side, ratio, other side), for short and for long epochs."""
SHOWN = ("lossselect", "torch", "lightning", "torchmetrics", "rich", *sum(PEERS.values(), ()))


class Terminal(io.StringIO):
    """Pretends to be a terminal, so that progress bars draw."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def silent() -> Iterator[Terminal]:
    """Capture stdout and stderr, and ignore warnings."""
    terminal = Terminal()
    with (
        contextlib.redirect_stdout(terminal),
        contextlib.redirect_stderr(terminal),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield terminal


def timed(side: Callable[[Case], Fit], case: Case) -> tuple[float, Any]:
    """Return the seconds of a fit, and its result."""
    wait = torch.cuda.synchronize if case.device == "cuda" else lambda: None
    with silent() as shown:
        fit = side(case)
        gc.collect()  # objects of other sides
        wait()
        start = time.perf_counter()
        result = fit()
        wait()
        seconds = time.perf_counter() - start
    if isinstance(result, Trainer) and result.progress_bar_callback and "Epoch" not in shown.getvalue():
        raise RuntimeError("The progress bar did not draw.")
    return seconds, result


def differences(case: Case) -> dict[str, dict[str, float]]:
    """Return the differences of validation metrics between lossselect and the hand-written module.

    Both are trained on the same batches.

    Raises:
        RuntimeError: the weights with 16 steps per execution differ from those with 1.
    """

    def fitted(side: Callable[[Case], Fit], case: Case) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        trainer = timed(side, case)[1]
        return trainer.callback_metrics, trainer.lightning_module.net.state_dict()

    found = {}
    names = [f"val/{name}" for name in ("loss", *METRICS[case.task.name])]
    for dtype, typed in (("float64", case.double()), ("float32", case)):
        expected, _ = fitted(partial(lightning_with_metrics, same_order=True), typed)
        for fused in (False, True):
            actual, weights = fitted(partial(lossselect, fused=fused), typed)
            kind = f"{dtype}, {'' if fused else 'not '}fused"
            found[kind] = {name: float(actual[name]) - float(expected[name]) for name in names}
            _, block_weights = fitted(partial(lossselect, steps=16, fused=fused), typed)
            if not all(torch.equal(weight, block_weights[name]) for name, weight in weights.items()):
                raise RuntimeError(
                    f"The weights with 16 steps per execution differ from those with 1 ({kind})."
                )
    return found


def measure(case: Case, sides: dict[str, Callable[[Case], Fit]], runs: int) -> dict[str, Any]:
    """Return samples per second, the ratio to the raw loop, and seconds of each round, by side."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs + 1):
        for name, side in sides.items():
            seconds[name].append(timed(side, case)[0])
    seconds = {name: times[1:] for name, times in seconds.items()}
    rows = len(case.train[0]) * case.epochs
    return {
        name: {
            "samples/s": round(rows / statistics.median(times)),
            "x raw": round(ratio(times, seconds[RAW]), 3),
            "seconds": [round(s, 4) for s in times],
        }
        for name, times in seconds.items()
    }


def ratio(times: list[float], others: list[float]) -> float:
    """Return the median ratio of the other side's times to these."""
    return statistics.median(other / time for time, other in zip(times, others, strict=True))


def machine(device: str) -> dict[str, Any]:
    """Return the hardware, the date and the versions of packages."""
    cpu, info = platform.processor(), Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].split(": ")[1] if models else cpu
    versions = {"python": platform.python_version()}
    for name in SHOWN:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {"cpu": cpu, "cores": os.cpu_count(), "gpu": gpu, "date": str(date.today()), "versions": versions}


def table(title: str, columns: Iterable[str], lines: dict[str, Iterable[str]]) -> str:
    rows = [
        (title, *columns),
        ("---",) * (1 + len(list(columns))),
        *((name, *cells) for name, cells in lines.items()),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def report(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    machine, found = results["machine"], results["differences"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    parts = [
        f"`{results['command']}`, {machine['date']}. {machine['cpu']}, {machine['cores']} cores, one thread; "
        f"{machine['gpu'] or 'not run on a GPU (--device cuda)'}. {versions}.",
        f"Samples/s of fit (median of {results['runs']} rounds), and in brackets the ratio to the raw loop "
        "(median of the rounds' ratios).",
        *results["missing"],
    ]
    reached = {}
    for (title, tasks), targets in zip(results["cases"].items(), TARGETS, strict=True):
        names = dict.fromkeys(name for sides in tasks.values() for name in sides)
        parts.append(
            table(
                title,
                tasks,
                {name: [format_speed(sides[name]) for sides in tasks.values()] for name in names},
            )
        )
        for one, least, other in targets:
            line = f"{one} >= {least} x {other}{' (1,000 steps per epoch)' if targets is TARGETS[1] else ''}"
            reached[line] = [verdict(sides, one, least, other) for sides in tasks.values()]
    kinds = next(iter(found.values()))
    agree = {kind: [furthest(its[kind]) for its in found.values()] for kind in kinds}
    parts += [
        table("target", found, reached),
        "Largest difference between the last val/loss, accuracy, F1 and AUROC of lossselect and those of "
        "Lightning + torchmetrics (with float32 metrics and without fused Adam) on the same batches. In "
        "float32 the gradient of a mean is rounded differently, which Adam amplifies. With 16 steps per "
        "execution the weights are bit-identical.",
        table("lossselect", found, agree),
    ]
    return "\n\n".join(parts) + "\n"


def format_speed(side: dict[str, Any]) -> str:
    return f"{side['samples/s']:,} ({side['x raw']:.2f})"


def verdict(sides: dict[str, Any], one: str, least: float, other: str) -> str:
    if other not in sides:
        return ""
    value = ratio(sides[one]["seconds"], sides[other]["seconds"])
    return f"{value:.2f}, {'reached' if value >= least else '**missed**'}"


def furthest(found: dict[str, float]) -> str:
    name = max(found, key=lambda name: abs(found[name]))
    return f"{abs(found[name]):.0e} ({name})"


def picture(tasks: dict[str, Any], path: Path) -> None:
    """Draw bars of the ratios to the raw loop."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "fit"}  # reproducible output
    size = (2.2 + 2.6 * len(tasks), 3.4)
    figure, axes = plt.subplots(1, len(tasks), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, (task, sides) in zip(axes[0], tasks.items(), strict=True):
        ratios = [side["x raw"] for side in sides.values()]
        colours = ["tab:blue" if name.startswith(ONE) else "silver" for name in sides]
        axis.bar_label(axis.barh(list(sides), ratios, color=colours), fmt="%.2f", padding=2, fontsize=7)
        axis.axvline(1, color="grey", linewidth=0.8)
        axis.set_title(task, fontsize=9)
        axis.set_xlim(0, 1.2 * max(ratios))
        axis.tick_params(labelsize=8)
    axes[0][0].invert_yaxis()
    figure.suptitle("Samples per second of fit, relative to the raw PyTorch loop", fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def save(results: dict[str, Any]) -> None:
    """Write the results, the tables and the figure."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fit.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "fit.md").write_text(report(results))
    if importlib.util.find_spec("matplotlib"):
        picture(next(iter(results["cases"].values())), RESULTS / "fit.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of fit, compared with other libraries.")
    parser.add_argument("--task", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="run one round of few steps, without writing results"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--compile", action="store_true", help="also measure torch.compile; always on with --device cuda"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    os.environ |= {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40", "HF_HUB_OFFLINE": "1"}
    runs, epochs, long_rows = (1, 3, 6400) if arguments.quick else (arguments.runs, EPOCHS, LONG_ROWS)
    sides = {**SIDES, **(COMPILED if arguments.compile or arguments.device == "cuda" else {})}
    absent = [name for name, modules in PEERS.items() if not all(map(importlib.util.find_spec, modules))]
    sides = {name: side for name, side in sides.items() if name not in absent}
    long_sides = {name: side for name, side in sides.items() if name in LONG_SIDES}
    short, long = f"{TRAIN_ROWS} rows, {epochs} epochs", f"{long_rows:,} rows, {LONG_EPOCHS} epochs"
    results: dict[str, Any] = {
        "command": " ".join(["python benchmarks/fit.py", *sys.argv[1:]]),
        "machine": machine(arguments.device),
        "runs": runs,
        "missing": [
            f"{name} is not installed: pip install -r benchmarks/requirements-peers.txt" for name in absent
        ],
        "differences": {},
        "cases": {short: {}, long: {}},
    }
    with tempfile.TemporaryDirectory() as folder:
        for task in arguments.task:
            case = make_case(task, epochs, arguments.device, folder)
            found = results["differences"][task] = differences(case)
            largest = (f"{kind} {furthest(its)}" for kind, its in found.items())
            print(f"{task}, largest difference from {FULL}: {'; '.join(largest)}", flush=True)
            results["cases"][short][task] = measure(case, sides, runs)
            case = make_case(task, LONG_EPOCHS, arguments.device, folder, long_rows)
            results["cases"][long][task] = measure(case, long_sides, runs)
    print(f"\n{report(results)}")
    if not arguments.quick:
        save(results)


if __name__ == "__main__":
    main()
