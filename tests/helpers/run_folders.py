"""Run folders without training, for tests of comparisons."""

import json

import yaml

RECORD = {
    "started": "2026-01-31T12:00:00+00:00",
    "seconds": 2.0,
    "fit_seconds": 1.0,
    "task": "binary",
    "metric": "val/loss",
    "mode": "min",
    "value": None,
    "error": "",
}


def write_run(folder, *words, metrics=None, predictions="", per_class="", data=None, **record):
    """Write a run folder with the settings `words`, such as "seed=1"; without metrics it has not finished."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([*words]))
    config = {"seed": 0, "task": {"name": "binary"}, "optimizer": {"lr": 0.002, "name": "AdamW"}}
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    choices = {"task": "binary", "model": "auto", "loss": "cross_entropy"}
    hydra = {"hydra": {"runtime": {"choices": choices}}}
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if record != {"killed": True}:
        (folder / "run.json").write_text(json.dumps({**RECORD, **record}))
    for name, text in (("predictions.csv", predictions), ("per_class.csv", per_class)):
        if text:
            (folder / name).write_text(text)
    if data is not None:
        (folder / "data.json").write_text(json.dumps(data))
    return folder
