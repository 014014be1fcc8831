"""`lossselect` and `python -m lossselect`: all commands under one name."""

import os
import re
import sys
from glob import glob
from importlib import import_module

from lossselect.cli import COMMANDS
from lossselect.utils.checks import suggestion
from lossselect.utils.terminal import prepare_streams

EXPLAIN = """\
Print the plan of a run without training: each choice, its reason, and the setting that changes it.

  lossselect explain task=multilabel
  lossselect explain task=multiclass data=table data.path=train.csv data.target=species loss=focal
  lossselect explain task=binary explain=json        as JSON, as in plan.json

It has the settings of a run: lossselect train --help lists them.
"""

FILES = ("data.path", "data.val_path", "data.test_path", "output")
"""Settings of a run, or of `lossselect data`, whose values are completed as files."""

CHOICES = {
    **dict.fromkeys(("format", "export"), ("onnx", "torch_export", "safetensors")),
    "on_nonfinite": ("stop", "skip"),
    "bias_init": ("prior", "zero", "null"),
    "data.scaling": ("standard", "robust", "quantile"),
    "decision.calibration": ("temperature", "per_label", "none"),
    "decision.metric": (
        *("auto", "null", "accuracy", "balanced_accuracy", "expected_f1", "f1", "f1_macro", "f1_micro"),
        "precision_at_recall",
    ),
    "device": ("auto", "cpu", "cuda"),
    "explain": ("true", "json"),
    **dict.fromkeys(("check_only", "export_raw", "verbose", "raw", "header", "trust"), ("true", "false")),
}
"""Values that are completed, written down here because their modules would take seconds to import."""


def main() -> None:
    """Run the command that the first argument names; without one, `train`."""
    prepare_streams()
    if "query=" in " ".join(sys.argv[1:]) and "COMP_LINE" in os.environ and not _completes_settings():
        return
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if "--version" in sys.argv[1:]:
        from lossselect.cli.console import print_version

        print_version()
        return
    if name in ("-h", "--help"):
        print("Usage: lossselect COMMAND KEY=VALUE ...\n")
        for command, text in COMMANDS.items():
            print(f"  {command:10}{text}")
        print("\nFor the settings of a command: lossselect COMMAND --help")
        return
    if name in COMMANDS:
        del sys.argv[1]
    elif not re.search("=|^-", name):
        from lossselect.cli.arguments import is_setting_word  # imports OmegaConf

        if not is_setting_word(name):  # otherwise `train` corrects it or raises an error
            sys.exit(
                f"Unknown command {name!r}.{suggestion(name, COMMANDS)} Choose one of: {', '.join(COMMANDS)}."
            )
    if name == "explain" and {"-h", "--help"} & {*sys.argv}:
        print(EXPLAIN, end="")
        return
    if name == "explain":
        if "explain=false" in sys.argv:
            sys.exit("lossselect explain does not train. Remove explain=false, or run lossselect train.")
        if not any(argument.startswith("explain=") for argument in sys.argv):
            sys.argv.append("explain=true")
    # imported when it is needed: some imports take seconds
    module = name if name in ("data", "predict", "evaluate", "export", "compare", "report") else "train"
    import_module(f"lossselect.cli.{module}").main()


def _completes_settings() -> bool:
    """Return whether Hydra completes the settings of a run; complete commands, choices and files here.

    The shell calls `lossselect -sc query=bash` with the command line so far in COMP_LINE.
    """
    program, _, rest = os.environ["COMP_LINE"].partition(" ")
    command, space, settings = rest.lstrip().partition(" ")
    key, equals, start = settings.rpartition(" ")[2].partition("=")
    is_known = equals and key in (*CHOICES, *FILES)
    if space and command in ("train", "explain", "data") and not is_known:
        os.environ["COMP_LINE"] = f"{program} {settings}"  # as Hydra knows no commands
        return True
    if not space:
        words = [name for name in COMMANDS if name.startswith(command)]
    elif key in CHOICES:
        words = [f"{key}={value}" for value in CHOICES[key] if equals and value.startswith(start)]
    else:
        words = [f"{key}={path}" for path in sorted(glob(f"{start}*")) if equals]
    print("\n".join(words))
    return False
