"""Parsing of the commands' arguments; printing of errors, warnings and interruptions as one message each."""

import os
import re
import signal
import sys
import time
import traceback
import warnings
from argparse import SUPPRESS, ArgumentError, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple

from lossselect.exceptions import ConfigError
from lossselect.utils.checks import check_options
from lossselect.utils.redaction import redact
from lossselect.utils.terminal import print_safely, sanitize
from lossselect.utils.warnings import LossSelectWarning

REWORDS_ERRORS = "LOSSSELECT_REWORDS_ERRORS"
"""Variable that is set if the first process, rather than the user, has set HYDRA_FULL_ERROR."""

TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1" and REWORDS_ERRORS not in os.environ
"""True if the user has set HYDRA_FULL_ERROR=1, to see the traceback of each error."""


def is_first_process() -> bool:
    """Return whether this is the first process of the run, by its launcher's variables."""
    variables = os.environ
    if "RANK" in variables:  # torchrun
        return variables["RANK"] == "0"
    rank = "LOCAL_RANK" if "LOCAL_RANK" in variables else "SLURM_PROCID"
    return variables.get(rank, "0") == variables.get("NODE_RANK", "0") == "0"


class Command(NamedTuple):
    """A command whose arguments are `KEY=VALUE` or `--KEY VALUE`."""

    run: Callable[..., None]  # called with the arguments as keywords; all values are strings
    name: str
    description: str
    options: Mapping[str, tuple[str, str]]  # an example and the help of each argument
    required: Sequence[str]
    epilog: str = ""


def run_command(command: Command) -> None:
    """Run a command, or print its help; print an error as one message, and exit with code 1."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        _make_parser(command).print_help()
    else:
        with print_errors_in_one_line(arguments), print_warnings_in_one_line(""):
            settings = parse_arguments(command, arguments)
            announce(*(settings.get(key, "") for key in ("checkpoint", "input", "run")))
            command.run(**settings)


def announce(*names: str) -> None:
    """Print on a terminal what is read next, as the first results take seconds."""
    if sys.stdout.isatty() and any(names):
        print_safely(f"Reading {', '.join(name for name in names if name)} ...", flush=True)


def _make_parser(command: Command) -> ArgumentParser:
    parser = ArgumentParser(
        f"lossselect {command.name}",
        "%(prog)s KEY=VALUE ... (or --KEY VALUE ...)",
        command.description,
        command.epilog,
        formatter_class=RawDescriptionHelpFormatter,
        argument_default=SUPPRESS,
        allow_abbrev=False,
        exit_on_error=False,
    )
    for key, (example, text) in command.options.items():
        parser.add_argument(f"--{key}", metavar=example, help=text)
    return parser


def parse_arguments(command: Command, arguments: Iterable[str]) -> dict[str, str]:
    """Return the arguments by name; raise ConfigError for an unknown, a malformed or a missing one."""
    # data.separator=... is accepted too, as messages about a file suggest it
    pattern = rf"^(?:data\.)?({'|'.join(command.options)})="
    options = [re.sub(pattern, r"--\1=", argument) for argument in arguments]
    try:
        namespace, others = _make_parser(command).parse_known_args(options)
    except ArgumentError as error:
        raise ConfigError(f"{error.argument_name} requires a value.") from None
    if others:
        key, equals, _ = others[0].partition("=")
        if equals or (len(key) > 2 and key.startswith("--")):
            check_options([key.removeprefix("--")], command.options, f"lossselect {command.name}")
        raise ConfigError(
            f"{others[0]!r} is not a setting. Settings are written KEY=VALUE: {_example(command)}."
        )
    # argparse of Python 3.11 drops a value "--"
    settings = {key: "--" if value == [] else value for key, value in vars(namespace).items()}
    for key in command.required:
        if not settings.get(key):
            raise ConfigError(f"{key} is required. For example: {_example(command)}.")
    return settings


def _example(command: Command) -> str:
    return " ".join(f"{key}={command.options[key][0]}" for key in command.required)


def print_version() -> None:
    """Print the versions of this package and of the packages that affect its results."""
    from importlib.metadata import PackageNotFoundError, version  # imported late: takes 10 ms

    versions = []
    for name in ("lossselect", "torch", "lightning", "torchmetrics"):
        with suppress(PackageNotFoundError):  # predicting with an export needs no Lightning
            versions.append(f"{name} {version(name)}")
    print(", ".join(versions))


@contextmanager
def print_errors_in_one_line(arguments: Iterable[str] = (), in_callback: bool = False) -> Iterator[None]:
    """Print an error that the user can fix as one message without a traceback, and exit with code 1.

    Hydra turns errors of a callback into warnings and continues: `in_callback` makes other errors exit too.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        print_safely(str(error) or "Interrupted.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from lossselect.cli.errors import get_message  # loads Hydra

        message, is_first = get_message(error, arguments), is_first_process()
        if not is_first and first_process_ends():
            sys.exit(1)
        if message is None or TRACEBACKS:
            if not in_callback:
                raise
            message = traceback.format_exc()
        print_safely(message if is_first else f"In another process of the run: {message}", file=sys.stderr)
        sys.exit(1)


def first_process_ends() -> bool:
    """Wait up to 8 s for the process that started this one to print the error; return whether it ended."""
    parent = os.getppid()
    for _ in range(80):  # it may first write a report
        time.sleep(0.1)
        if os.getppid() != parent:
            return True
    return False


@contextmanager
def print_warnings_in_one_line(hint: str = "ignore_warnings=[{name}] silences this.") -> Iterator[None]:
    """Print this package's warnings once, without file and line of code, and sanitise other warnings."""
    show_other = warnings.showwarning
    shown = set()

    def show(message: Any, category: type[Warning], *place: Any) -> None:
        if issubclass(category, LossSelectWarning):
            if message.message in shown:  # by an earlier run of a sweep
                return
            shown.add(message.message)
            suffix = f" ({hint.format(name=message.name)})" if hint else ""
            print_safely(f"Warning: {message.message}{suffix}", file=sys.stderr)
        else:
            text = sanitize(str(message))
            show_other(text if text != str(message) else message, category, *place)

    warnings.showwarning = show  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = show_other


@contextmanager
def quiet(is_quiet: bool) -> Iterator[None]:
    """Print nothing to stdout if `is_quiet`."""
    if not is_quiet:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def describe_error(error: BaseException) -> str:
    """Return the message for an error or a signal that ends a run."""
    from lossselect.cli.errors import get_message

    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        return f"Ended by {signal.Signals(error.code - 128).name}."
    message = get_message(error) if isinstance(error, Exception) else str(error)
    return message or f"{type(error).__name__}: {error}".removesuffix(": ")


@contextmanager
def report_early_end(trainer: Any, folder: Path, run_folder: Path, writes_report: bool) -> Iterator[None]:
    """Write the report of a run that ends with an error; list the checkpoints of a run ended by a signal.

    `folder` contains the checkpoints; it may be that of a fold in the `run_folder`.

    After a signal there is no time for a report, and the exit code is 143 or 130.
    """
    # before a checkpoint can be saved, SIGTERM exits with the same code as later
    previous_handler = signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    try:
        yield
    except Exception as error:
        # if only the export failed, the report exists and is complete
        if writes_report and not (folder / "report.html").exists():
            from lossselect.reporting.page import write_report

            with suppress(OSError):  # a full disk may be the error
                write_report(folder, ended=redact(describe_error(error)))
        raise
    except (SystemExit, KeyboardInterrupt) as stopped:
        is_terminated = getattr(stopped, "code", None) == 143
        # Lightning exits after a KeyboardInterrupt in fit; a `Stopped` has the path of its checkpoint
        is_interrupted = any(isinstance(error, KeyboardInterrupt) for error in (stopped, stopped.__context__))
        if not (is_terminated or is_interrupted or hasattr(stopped, "path")):
            raise
        if not is_first_process():
            first_process_ends()  # otherwise Lightning might kill it before it prints its message
            raise
        names = ", ".join(sorted(f"checkpoints/{path.name}" for path in folder.glob("checkpoints/*.ckpt")))
        summary = f"after {trainer.global_step} steps. In {folder}: {names or 'no checkpoint yet'}."
        if names:
            summary += f" To resume, add hydra.run.dir={run_folder} resume=auto to the same settings."
        if not is_terminated:
            raise KeyboardInterrupt(f"Interrupted {summary}") from None
        print_safely(f"Terminated {summary}", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
