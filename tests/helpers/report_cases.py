"""Outcomes and run folders for tests of report.html."""

import torch

import lossselect as ls
from lossselect.data.overview import Column, Overview
from lossselect.reporting.outcome import Outcome

NASTY = (
    "<script>alert(1)</script>",
    "</svg></style><img src=x onerror=alert(2)>",
    "=1+1|cmd",
    "a/b\\c.d",
    "n" * 300,
    "\N{GRINNING FACE} \N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED}",
    "$\\frac{1}{2}$ [red]",
    "{{ 7 * 7 }} & \"quoted\" 'too'",
)


def outcome(task, rows=200, missing=0.0, **more):
    """Logits that are correlated with the target."""
    random = torch.Generator().manual_seed(0)
    target = torch.randint(2, (rows, task.num_probabilities), generator=random).double()
    if task.activation == "softmax":
        target = task.to_one_hot(torch.randint(task.num_probabilities, (rows,), generator=random)).double()
    logits = 2 * target[:, : task.num_outputs] - 1 + torch.randn(rows, task.num_outputs, generator=random)
    gone = (
        torch.rand(rows, 1 if task.activation == "softmax" else target.shape[1], generator=random) < missing
    )
    target = target.masked_fill(gone, torch.nan)
    return Outcome(task, more.pop("base_task", None), logits, target, rows=range(rows), **more)


def write_run(folder):
    """A run folder before the evaluation."""
    (folder / "logs").mkdir()
    (folder / "plan.json").write_text(ls.explain_task(ls.Binary()).to_json())
    lines = [
        "epoch,step,train/loss,val/loss,val/average_precision",
        "0,1,,0.7,0.5",
        "0,1,0.6,,",
        "1,3,,0.65,0.6",
    ]
    (folder / "logs" / "metrics.csv").write_text("\n".join(lines) + "\n")


def write_overview(folder, count=8):
    """Write an overview whose columns and labels have the given number of nasty names."""
    names = [NASTY[i % 8] * (1 + i // 8) for i in range(count)]
    column = {"kind": "category", "use": "feature", "rows": 9, "missing": 3, "sampled": 9, "distinct": 2}
    columns = [Column(name=n, values=f"{n!r} (5%)", decision=n, change=n, **column) for n in names]
    rows = {"train": 5, "val": 1, "test": 3}
    labels = [(name, rows) for name in names]
    together = [(name, [1] * count) for name in names]
    pairs = [(names[0], names[1], 1, 0.5)]
    overview = Overview(
        NASTY[0], rows, columns, 9, 4, "multilabel", count, labels, rows, rows, rows, together, pairs
    )
    (folder / "data.json").write_text(overview.to_json())


WELLS = [f"Experiment 2024 / plate 3 / well {row}{i:02d}" for row in "ABCDEFGHIJ" for i in range(1, 11)]
