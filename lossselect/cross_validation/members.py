"""The trainings of a run with `folds` or `repeats`: their configs, folders and checks."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lossselect.comparison.runs import flatten_config, read_run
from lossselect.exceptions import ConfigError
from lossselect.run.data_settings import MAX_SEED
from lossselect.run.settings import Member, is_member, list_members, packaged_config, report_options
from lossselect.utils.checks import check_int

MAY_CHANGE = ("trainer.", "callbacks.", "time_limit", "hydra")
"""Starts of the settings that may differ after resuming, as in an ordinary run."""
RUN_FOLDER = "${hydra:runtime.output_dir}"
"""The run folder in the settings of loggers."""


def check_members(config: Mapping[str, Any], overrides: Iterable[str]) -> None:
    """Raise ConfigError for invalid `folds`, `fold` or `repeats`, and settings that contradict them."""
    folds, fold, repeats = (config[key] for key in ("folds", "fold", "repeats"))
    if repeats is not None:
        check_int("repeats", repeats, 2)
        check_int("seed", config["seed"] + repeats - 1, 0, MAX_SEED)
    if folds is not None:
        check_int("folds", folds, 2)
    if fold is not None:
        if folds is None:
            raise ConfigError(f"fold={fold} requires folds, their number. Set folds=5, or remove fold.")
        check_int("fold", fold, 0, folds - 1)
        if repeats is not None:
            raise ConfigError("fold and repeats cannot be combined. Remove one of them.")
    if folds is not None:
        _check_data(config["data"], folds, overrides)
    is_own = "_target_" in config["model"] or config.get("module")
    if list_members(config) and config["export"] and is_own:
        raise ConfigError(
            "export is not available with folds or repeats for your own nets, which are not averaged. Remove "
            "export, and export each checkpoint."
        )
    if list_members(config) and (report_options(config["report"]) or {}).get("learning_curve"):
        raise ConfigError(
            "report.learning_curve is not available with folds or repeats. Remove it, or run it by itself."
        )
    resume = config["resume"]
    if list_members(config) and resume not in (None, "auto"):
        raise ConfigError(
            f"A run with folds or repeats has a checkpoint for each training, got resume={resume}. Set "
            "resume=auto and hydra.run.dir=FOLDER."
        )


def _check_data(data: Mapping[str, Any], folds: int, overrides: Iterable[str]) -> None:
    if "_target_" in data:
        raise ConfigError(
            f"folds={folds} requires data=table, data=arrays or built-in data, whose rows it divides. For "
            "your own data module, divide the rows there, or set repeats."
        )
    names = ("val_path", "val_fold", "time")
    used = [name for name in names if data.get(name) is not None]
    is_typed = any(override.lstrip("+").startswith("data.val_fraction=") for override in overrides)
    default = packaged_config("data", data["name"]).val_fraction
    used += ["val_fraction"] if is_typed or data["val_fraction"] != default else []
    if used:
        why = "would train on rows that are later than the validation rows" if used[0] == "time" else ""
        why = why or "draws the validation rows from all rows that are not test rows"
        raise ConfigError(f"folds={folds} {why}. Remove data.{used[0]}, or folds.")


def member_config(config: DictConfig, member: Member) -> DictConfig:
    """Return the config of one training, which is an ordinary run without a report and an export."""
    changed = config.copy()
    if "seed" in config.data:
        changed.data.seed = config.data.seed  # no longer ${seed}: the test rows are the same
    changed.repeats, changed.report, changed.export, changed.export_raw = None, False, None, False
    for key, value in member.settings.items():
        changed[key] = value
    if config.logger:  # each training logs to its own folder
        text = OmegaConf.to_yaml(config.logger).replace(RUN_FOLDER, f"{RUN_FOLDER}/{member.name}")
        changed.logger = OmegaConf.create(text)
    return changed


def write_settings(folder: Path, config: DictConfig, overrides: Iterable[str]) -> None:
    """Create the folder of a training, with its settings as Hydra writes them."""
    settings = folder / ".hydra"
    settings.mkdir(parents=True, exist_ok=True)
    OmegaConf.save([*overrides], settings / "overrides.yaml")
    OmegaConf.save(config, settings / "config.yaml")


def check_same_members(folder: Path, configs: Mapping[str, DictConfig]) -> None:
    """Raise ConfigError if the trainings in the folder of a resumed run have other settings."""
    for path in sorted(folder.glob("*/checkpoints")):
        name = path.parent.name
        if not is_member(name):
            continue
        if name not in configs:
            raise ConfigError(
                f"The run in {folder} was started with other folds or repeats: it contains {name}. Set the "
                "same, or start a new run without resume."
            )
        before, now = read_run(path.parent, name).config, flatten_config(configs[name])
        keys = (key for key in now if not key.startswith(MAY_CHANGE) and before.get(key) != now[key])
        if (key := next(keys, None)) is not None and before:  # otherwise the file is missing or damaged
            raise ConfigError(
                f"{name} in {folder} was trained with {key}={before.get(key)}, and this run has "
                f"{key}={now[key]}. Set the same, or start a new run without resume."
            )
