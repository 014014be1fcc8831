"""Run folders without training, for tests of comparisons."""

import json

import yaml
from omegaconf import OmegaConf

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
    config = OmegaConf.create({"seed": 0, "optimizer": {"lr": 0.002, "name": "AdamW"}})
    choices = {"task": "binary", "model": "auto", "loss": "cross_entropy"}
    for word in words:  # as Hydra does
        key, _, text = word.lstrip("+").partition("=")
        if key in choices:
            choices[key] = text
        else:
            OmegaConf.update(
                config, key, yaml.safe_load(text.replace("e-", ".0e-"))
            )  # YAML reads 1e-3 as text
    config.loss = {"name": choices["loss"]}
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
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
