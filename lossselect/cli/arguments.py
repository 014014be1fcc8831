"""The arguments of `train`: Hydra's flags, settings, and answers to common first guesses."""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches

from lossselect.cli import COMMANDS
from lossselect.data.readers.suffixes import ARRAYS, COMPRESSIONS, FORMATS, SEPARATORS
from lossselect.exceptions import ConfigError
from lossselect.losses.registry import LOSSES
from lossselect.models.nets import NETS
from lossselect.run.allowed_classes import OPTIMIZERS
from lossselect.run.settings import list_variants
from lossselect.run.validation import SETTINGS
from lossselect.utils.checks import suggestion

FLAGS = {
    **dict.fromkeys(("--hydra-help", "--resolve", "--run", "-r", "--multirun", "-m"), False),
    **dict.fromkeys(("--shell-completion", "-sc"), False),
    **dict.fromkeys(("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"), True),
    **dict.fromkeys(("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"), True),
}
"""Hydra's flags, and whether each has a value."""

CHOICES = {
    **dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all")),
    **dict.fromkeys(
        ("--info", "-i"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    ),
}
"""Possible values of Hydra's flags; the value of --info may be left out."""


def _file_setting(name: str, value: str) -> str:
    kind = "arrays" if value.endswith((".npy", ".npz")) else "table"
    return f"data={kind} data.path={{value}}"


def _optimizer_setting(name: str, value: str) -> str:
    classes = {full.rpartition(".")[2].lower(): full.rpartition(".")[2] for full in OPTIMIZERS}
    if value in list_variants("optimizer") or value.lower() not in classes:
        return "optimizer={value}"
    return f"optimizer.name={classes[value.lower()]}"


def _device_setting(name: str, value: str) -> str:
    """Return the settings for a device: cuda, cuda:1, cpu, mps, or a number of GPUs."""
    value = value.lower()
    if value in ("cpu", "false", "none", "null", "no") or (value == "0" and "gpus" in name):
        return "trainer=cpu"
    if value == "auto" or value in ("mps", "tpu", "hpu", "xpu"):
        return f"trainer.accelerator={value}"
    if match := re.fullmatch(r"(?:cuda|gpu):(\d+)", value):
        return f"trainer=gpu trainer.devices=[{match[1]}]"
    is_several = value.startswith("[") or (value.isdecimal() and int(value) > 1)
    return f"trainer=gpu trainer.devices={value}" if is_several else "trainer=gpu"


GUESSES: dict[str, str | Callable[[str, str], str]] = {
    "epochs max_epochs n_epochs num_epochs": "trainer.max_epochs={value}",
    "lr learning_rate": "optimizer.lr={value}",
    "wd weight_decay": "optimizer.weight_decay={value}",
    "optim": _optimizer_setting,
    "batch_size bs": "data.batch_size={value}",
    "path file csv": _file_setting,
    "target label labels": "data=table data.path=FILE data.target={value}",
    "val_split validation_split val_size val_fraction": "data.val_fraction={value}",
    "test_split test_size test_fraction": "data.test_fraction={value}",
    "output output_dir out": "hydra.run.dir={value}",
    "checkpoint ckpt": "resume={value}",
    "threshold": "task.threshold={value}",
    "weight": "loss.weight={value}",
    "pos_weight": "loss.pos_weight={value}",
    "label_smoothing": "loss.label_smoothing={value}",
    "gamma": "loss=focal loss.gamma={value}",
    "precision": "trainer.precision={value}",
    "patience": "callbacks.early_stopping.monitor=val/loss callbacks.early_stopping.patience={value}",
    "random_state random_seed": "seed={value}",
    "gpu gpus n_gpus num_gpus cuda device devices accelerator": _device_setting,
}
"""Names that other programs use, and the settings that are meant, or a function that returns them."""

NOT_NEEDED = {
    "metric": "Set metrics={value} to log this metric, monitor=val/{value} to choose the best checkpoint by "
    "it, or decision.metric={value} to tune the thresholds for it.",
    "num_classes n_classes classes num_labels": "The number of classes follows from the data. Remove {key}.",
    "num_workers workers": "The built-in data are held in memory and need no worker processes. Remove {key}.",
}
"""Names that other programs use, and the answer if no single setting is meant."""


FILE_SUFFIXES = (*SEPARATORS, *FORMATS, *COMPRESSIONS, *ARRAYS)
"""Suffixes of the files that data=table and data=arrays read."""

SWITCHES = ("check_only", "explain")
"""Settings that are true when they are named without a value."""


def order_arguments(arguments: Sequence[str]) -> list[str]:
    """Return Hydra's flags followed by the settings; raise ConfigError for anything else.

    Hydra accepts the flags before or after all settings, not between them.
    """
    if "=" in arguments:
        joined = " ".join(arguments).replace(" = ", "=")
        raise ConfigError(f"Settings are written KEY=VALUE: use {joined}, without spaces around =.")
    flags, settings, fixes = list[str](), list[str](), list[str]()
    rest = [*arguments]
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if name in FLAGS and (FLAGS[name] or not equals):
            flags += [name, _flag_value(name, value, rest)] if FLAGS[name] else [name]
        elif not argument.startswith("-") and (equals or argument.startswith("~")):
            settings.append(argument)
        else:
            word = rest[0] if rest and not re.search("=|^-", rest[0]) else None  # may be a value
            fix, uses_word = _correct(argument, word)
            fixes.append(fix)
            rest = rest[uses_word:]
    if fixes:
        raise ConfigError(f"Settings are written KEY=VALUE: use {' '.join(fixes)}.")
    return [*flags, *settings]


def choose_net(settings: Sequence[str]) -> list[str]:
    """Return the settings, with model=mlp or model=tabm if they contain an option of that net, but no model.

    The default, model=auto, has no such options.
    """
    chosen = re.compile(r"\+*(model|model\._target_|experiment|~model)(=|$)")
    options = {match[1] for setting in settings if (match := re.match(r"\+*model\.(\w+)=", setting))}
    if options and not any(chosen.match(setting) for setting in settings):
        for name in ("mlp", "tabm"):
            if options <= inspect.signature(NETS[name]).parameters.keys():
                return [*settings, f"model={name}"]
    return [*settings]


def _flag_value(name: str, value: str, rest: list[str]) -> str:
    """Return the value of one of Hydra's flags; without one, remove it from the start of `rest`."""
    choices = CHOICES.get(name, ())
    is_optional = name in ("--info", "-i")
    if not value and rest and (rest[0] in choices if is_optional else not rest[0].startswith("-")):
        value = rest.pop(0)
    value = value or "all" * is_optional
    if not value:
        raise ConfigError(f"{name} requires a value.")
    if choices and value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
    return value


def _correct(argument: str, word: str | None) -> tuple[str, bool]:
    """Return the setting that an argument means, and whether the next argument, `word`, is its value."""
    name, equals, value = argument.lstrip("-+").partition("=")
    key, is_dashed = name.replace("-", "_"), argument.startswith("-")
    takes_word = not equals and word is not None and (is_dashed or key not in SWITCHES)
    text = value if equals else word if takes_word and word else "true" if key in SWITCHES else "VALUE"
    if settings := _guessed_settings(key, text):
        return settings, takes_word
    if answer := guess(key, text):
        raise ConfigError(f"Unknown setting {key!r}. {answer}")
    if key.split(".")[0] in (*SETTINGS, "hydra"):
        return f"{key}={text}", takes_word
    if group := find_group(name):
        return f"{group}={name}", False
    if name.endswith(FILE_SUFFIXES):
        return _guessed_settings("path", argument), False
    if is_dashed:
        option = argument.partition("=")[0]
        hint = suggestion(key, SETTINGS) or suggestion(option, FLAGS)
        raise ConfigError(
            f"Unknown option {option!r}.{hint} Settings are written KEY=VALUE, without dashes; "
            "--help lists them."
        )
    if name in COMMANDS:
        raise ConfigError(f"{name!r} is a command, not a setting. Run it with: lossselect {name} ...")
    close = get_close_matches(name, list_variants("task"), 1)
    hint = f" Did you mean task={close[0]}?" if close else suggestion(name, SETTINGS)
    raise ConfigError(
        f"{argument!r} is not a setting.{hint} Settings are written KEY=VALUE, for example task=multilabel; "
        "--help lists them."
    )


def find_group(name: str) -> str | None:
    """Return the group of configs with a variant of this name, such as "task" for "binary", or None."""
    if name in LOSSES:
        return "loss"
    groups = dict.fromkeys(("task", "data", *list_variants()))
    return next((group for group in groups if name in list_variants(group) and name != "none"), None)


def is_setting_word(word: str) -> bool:
    """Return whether a word without "=" is a setting, a variant, a common guess or a data file."""
    known = word in SETTINGS or word.endswith(FILE_SUFFIXES) or find_group(word) is not None
    return known or guess(word, "") is not None


def find_value(key: str, arguments: Iterable[str]) -> str:
    """Return the value of a setting as it was typed, or "" if `arguments` do not contain it."""
    pairs = (argument.lstrip("+").partition("=") for argument in arguments)
    return next((value for name, _, value in pairs if name == key), "")


def guess(key: str, value: str, arguments: Iterable[str] = ()) -> str | None:
    """Return the answer to a setting that other programs have, such as "Set optimizer.lr=0.1.", or None.

    The answer leaves out settings that `arguments` already contain.
    """
    if settings := _guessed_settings(key, value, arguments):
        return f"Set {settings}."
    part, _, name = key.rpartition(".")
    answers = (text for names, text in NOT_NEEDED.items() if name in names.split())
    answer = next(answers, None) if part in ("", "data", "model", "task", "trainer") else None
    return answer and answer.format(key=key, value=value.removeprefix("val/"))


def _guessed_settings(key: str, value: str, arguments: Iterable[str] = ()) -> str:
    part, _, name = key.rpartition(".")
    meant = next((meant for names, meant in GUESSES.items() if name in names.split()), "")
    text = meant(name, value) if callable(meant) else meant
    target = text.split()[-1].partition("=")[0] if text else ""
    is_known = key in ("trainer.accelerator", "trainer.devices", target)
    if part and (is_known or not f"{target}.".startswith(f"{part}.")):
        return ""  # optimizer.learning_rate is a guess; logger.path is another setting
    chosen = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    settings = [s for s in text.split() if "{value}" in s or s.partition("=")[0] not in chosen - {key}]
    return " ".join(settings or text.split()).replace("{value}", value)
