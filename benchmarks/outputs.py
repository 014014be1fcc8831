"""Time and memory of last layer and loss by the number of outputs: chunked compared with dense.

python benchmarks/outputs.py [--device cuda] [--rows 1024] [--features 256] [--quick]

For each number of outputs, a separate process runs forward and backward of all sides in turn, and reports
medians. Memory is that of a side's first step, in addition to inputs and weights, in another process. The
loss and the gradients of each side are first compared with dense ones. Writes benchmarks/results/outputs.*.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
LABELS = 5
SIDES = {
    "bce": ("dense", "chunked"),
    "ce": ("dense", "chunked", "torch chunked"),
}
GIGABYTES = 6
"""Limit of memory of a process for the largest number of outputs."""


def sizes(quick):
    return (1_000, 20_000) if quick else (1_000, 10_000, 100_000, 200_000, 1_000_000)


def make(loss, outputs, rows, features, device):
    """Return steps by name, each of which returns loss and gradients of inputs, weight and bias."""
    import torch
    from torch.nn import functional

    import lossselect as ls
    from lossselect.chunked.linear import ChunkedLogits
    from lossselect.chunked.loss import chunked_loss
    from lossselect.labels.sparse_labels import SparseLabels

    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    x = torch.randn(rows, features, device=device, dtype=dtype).requires_grad_()
    weight = (torch.randn(outputs, features, device=device) * 0.05).to(dtype).requires_grad_()
    bias = torch.zeros(outputs, device=device, dtype=dtype).requires_grad_()
    index = torch.randint(0, outputs, (rows,), device=device)
    columns = torch.randint(0, outputs // LABELS, (rows, LABELS)) * LABELS + torch.arange(LABELS)
    offsets = torch.arange(0, rows * LABELS + 1, LABELS)
    labels = SparseLabels.from_csr(columns.flatten(), offsets, outputs).to(device)
    columns = columns.to(device)
    task = ls.Multilabel(outputs) if loss == "bce" else ls.Multiclass(outputs)
    criterion = ls.select_loss(task).to(device)

    def dense():
        logits = functional.linear(x, weight, bias).float()
        if loss == "ce":
            return functional.cross_entropy(logits, index)
        target = torch.zeros_like(logits).scatter_(1, columns, 1)
        return functional.binary_cross_entropy_with_logits(logits, target)

    def chunked():
        target = labels if loss == "bce" else index
        return chunked_loss(criterion, ChunkedLogits(x, weight, bias), target)[0]

    def torch_chunked():
        options = torch.nn.LinearCrossEntropyOptions()
        return functional.linear_cross_entropy(x, weight, index, linear_bias=bias, options=options)

    def step(mean):
        def run():
            x.grad = weight.grad = bias.grad = None
            value = mean()
            value.backward()
            if device == "cuda":
                torch.cuda.synchronize()
            return value.detach(), x.grad, weight.grad, bias.grad

        return run

    steps = {"dense": step(dense), "chunked": step(chunked), "torch chunked": step(torch_chunked)}
    return {
        name: steps[name]
        for name in SIDES[loss]
        if name != "torch chunked" or hasattr(functional, "linear_cross_entropy")
    }


def anonymous():
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024


def peak(run, device):
    """Return the peak of memory in bytes during a call, above that before."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    before, most, done = anonymous(), [0], threading.Event()

    def watch():
        while not done.is_set():
            most[0] = max(most[0], anonymous())
            time.sleep(0.002)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        run()
    finally:  # also if memory is exhausted
        done.set()
        watching.join()
    return most[0] - before


def measure(what, loss, outputs, side, rows, features, device, runs):
    """Return {"seconds": ..., "errors": ...} or {"bytes": ...}, measured in this process."""
    import torch

    if device == "cpu":
        torch.set_num_threads(2)
        if what == "memory" and outputs >= 1_000_000:
            limit = anonymous() + (GIGABYTES << 30)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    steps = make(loss, outputs, rows, features, device)
    if what == "memory":
        return {"bytes": peak(steps[side], device)}
    if outputs >= 1_000_000 and device == "cpu":
        steps = {"chunked": steps["chunked"]}
    errors = {}
    if "dense" in steps:
        expected = steps["dense"]()
        for name, run in steps.items():
            if name != "dense":
                pairs = zip(run(), expected, strict=True)
                errors[name] = max(
                    float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in pairs
                )
        del expected
    seconds = {name: [] for name in steps}
    for i in range(runs + 1):
        for name, run in steps.items():
            if name == "torch chunked" and device == "cpu" and i > (3 if outputs < 100_000 else 1):
                continue  # it is many times slower
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[1:] or values) for name, values in seconds.items()}
    return {"seconds": medians, "errors": errors, "ceiling": ceiling(outputs, rows, features, device)}


def ceiling(outputs, rows, features, device):
    """Return the seconds of only the three matrix products, in blocks that fit into the cache."""
    import torch

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    x, chunk = (
        torch.randn(rows, features, device=device).to(dtype),
        min(outputs, 1024 if device == "cpu" else 16384),
    )
    weight, block = (
        torch.randn(chunk, features, device=device).to(dtype),
        torch.randn(rows, chunk, device=device).to(dtype),
    )
    times = []
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(max(1, outputs // chunk)):
            _, _, _ = x @ weight.t(), block @ weight, block.t() @ x
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measure_in_process(*arguments):
    """Return the result of `measure` in a separate process, or {"failed": ...}."""
    command = [sys.executable, __file__, "--measure", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return {"failed": last[:200]}
    return json.loads(done.stdout.splitlines()[-1])


def table(results, settings):
    lines = [
        "| loss | outputs | dense, s | chunked, s | ratio | dense, MB | chunked, MB | ratio "
        "| torch chunked, s (ratio) | only products, s | error |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in results:
        seconds, memory = entry["seconds"], entry["bytes"]
        dense, chunked, torch_chunked = (seconds.get(name) for name in ("dense", "chunked", "torch chunked"))
        cells = [
            entry["loss"].upper(),
            f"{entry['outputs']:,}",
            f"{dense:.3g}" if dense else "-",
            f"{chunked:.3g}",
            f"{chunked / dense:.2f}" if dense else "-",
            f"{memory['dense'] / 1e6:.0f}" if memory["dense"] else f"more than {GIGABYTES} GB",
            f"{memory['chunked'] / 1e6:.0f}" if memory["chunked"] else f"more than {GIGABYTES} GB",
            f"{memory['chunked'] / memory['dense']:.2f}" if memory["dense"] and memory["chunked"] else "-",
            f"{torch_chunked:.3g} ({torch_chunked / chunked:.1f})" if torch_chunked else "-",
            f"{entry['ceiling']:.3g}",
            f"{entry['errors'].get('chunked', 0):.1e}" if entry["errors"] else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    text = (
        f"`python benchmarks/outputs.py`: {settings['rows']} rows of {settings['features']} features, "
        f"{settings['device']}, {settings['machine']}; torch {settings['torch']}, "
        f"Python {settings['python']}, {settings['date']}. Seconds are medians of {settings['runs']} (1 to 3 "
        "for torch chunked), forward and backward. MB are in addition to inputs and weights, and include the "
        "gradient of the weight. The error is the largest difference of loss or gradient from dense, "
        "relative to the largest entry."
    )
    if settings["device"] == "cpu":
        text += " **Not run on a GPU.**"
    return "\n".join([text, "", *lines]) + "\n"


def plot(results, path):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for loss in SIDES:
        entries = [entry for entry in results if entry["loss"] == loss]
        for side in ("dense", "chunked"):
            points = [(e["outputs"], e["seconds"][side]) for e in entries if side in e["seconds"]]
            left.plot(*zip(*points, strict=True), marker="o", label=f"{loss.upper()}, {side}")
            points = [(e["outputs"], e["bytes"][side] / 1e6) for e in entries if e["bytes"][side]]
            right.plot(*zip(*points, strict=True), marker="o", label=f"{loss.upper()}, {side}")
    for axes, label in ((left, "seconds per step"), (right, "MB in addition to inputs and weights")):
        axes.set(xscale="log", yscale="log", xlabel="outputs", ylabel=label)
        axes.grid(alpha=0.3)
    left.legend()
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    import torch

    shape = (options.rows, options.features, options.device, options.runs)
    results = []
    for loss in SIDES:
        for outputs in sizes(options.quick):
            timed = measure_in_process("time", loss, outputs, "", *shape)
            if "failed" in timed:
                sys.exit(f"{loss}, {outputs} outputs: {timed['failed']}")
            memory = {
                side: measure_in_process("memory", loss, outputs, side, *shape).get("bytes")
                for side in ("dense", "chunked")
            }
            results.append({"loss": loss, "outputs": outputs, "bytes": memory, **timed})
            print(json.dumps(results[-1]), flush=True)
    name = (
        torch.cuda.get_device_name()
        if options.device == "cuda"
        else platform.processor() or platform.machine()
    )
    settings = {
        **{key: getattr(options, key) for key in ("device", "rows", "features", "runs")},
        "machine": f"{name}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    text = table(results, settings)
    print("\n" + text)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        kind = "outputs" if options.device == "cpu" else f"outputs-{options.device}"
        (RESULTS / f"{kind}.json").write_text(json.dumps({**settings, "results": results}, indent=1) + "\n")
        (RESULTS / f"{kind}.md").write_text(text)
        plot(results, RESULTS / f"{kind}.svg")


if __name__ == "__main__":
    main()
