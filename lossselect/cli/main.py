"""`lossselect`, and `python -m lossselect`: the commands under one name."""

import sys
from importlib import import_module

from lossselect.utils.checks import suggestion
from lossselect.utils.terminal import prepare_streams

COMMANDS = {
    "train": "train, evaluate and predict by a config; the same as train.py",
    "explain": "the plan of such a run, and nothing else",
    "predict": "class names and probabilities for the rows of a new file",
    "export": "a checkpoint's model as ONNX, torch.export or safetensors",
    "report": "the page of a run that ended before it had made one",
}


def main() -> None:
    """Run the command that the first argument names; settings alone are for `train`."""
    prepare_streams()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if "--version" in sys.argv[1:]:
        from lossselect.cli.console import print_version

        print_version()
        return
    if name in ("-h", "--help"):
        print("Usage: lossselect COMMAND KEY=VALUE ...\n")
        for command, text in COMMANDS.items():
            print(f"  {command:10}{text}")
        print("\nlossselect COMMAND --help says more.")
        return
    if name in COMMANDS:
        del sys.argv[1]
    elif "=" not in name and not name.startswith("-"):
        sys.exit(
            f"There is no command {name!r}.{suggestion(name, COMMANDS)} Choose one of: {', '.join(COMMANDS)}."
        )
    if name == "explain":
        if "explain=false" in sys.argv:
            sys.exit("lossselect explain does not train: leave explain=false out, or say lossselect train.")
        if not any(argument.startswith("explain=") for argument in sys.argv):
            sys.argv.append("explain=true")
    # each with its own imports, some of which take seconds
    module = name if name in ("predict", "export", "report") else "train"
    import_module(f"lossselect.cli.{module}").main()
