"""What a person at the keyboard sees of mistakes and warnings: a line each."""

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lossselect.cli.errors import message_of
from lossselect.exceptions import ConfigError
from lossselect.utils.checks import check_options
from lossselect.utils.terminal import prepare_streams, print_safely, sanitize
from lossselect.utils.warnings import LossSelectWarning

EXPLAINS = "LOSSSELECT_EXPLAINS"
"""Set for the other processes of a run, as Hydra's switch has been set for them by then."""

TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1" and EXPLAINS not in os.environ
"""Hydra's own switch: show tracebacks of the user's mistakes too."""


def speaks() -> bool:
    """Whether this is the first of several processes, which speaks for all, by what their launcher set."""
    told = os.environ
    if "RANK" in told:  # torchrun
        return told["RANK"] == "0"
    if "LOCAL_RANK" in told:
        return told["LOCAL_RANK"] == told.get("NODE_RANK", "0") == "0"
    return told.get("SLURM_PROCID", "0") == told.get("NODE_RANK", "0") == "0"


def run_command(usage: str, run: Callable[[list[str]], None]) -> None:
    """A small command: its usage, or what it does with its arguments; a mistake is one message.

    Args:
        usage: Printed where there are no arguments, or help is asked for.
        run: Takes the arguments.
    """
    prepare_streams()
    arguments = sys.argv[1:]
    if "--version" in arguments:
        print_version()
        return
    if not arguments or {"-h", "--help"} & set(arguments):
        print(usage)
        return
    with print_errors_in_one_line(arguments), print_warnings_in_one_line(""):
        run(arguments)


def print_version() -> None:
    """Of this package, and of those that its numbers depend on."""
    said = []
    for name in ("lossselect", "torch", "lightning", "torchmetrics"):
        with suppress(PackageNotFoundError):  # an export is served without Lightning
            said.append(f"{name} {version(name)}")
    print(", ".join(said))


def parse_settings(
    arguments: Iterable[str], known: Iterable[str], owner: str, needed: Mapping[str, str]
) -> dict[str, str]:
    """`KEY=VALUE` by key.

    Args:
        arguments: The command line.
        known: Which keys there are.
        owner: What messages call the command.
        needed: The keys that must be there, each with an example of a value.

    Raises:
        ValueError: no such setting, one that cannot be read, or one that is lacking.
    """
    settings: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"{argument!r} cannot be read: settings look like KEY=VALUE.")
        check_options([key], known, owner)
        settings[key] = value
    example = " ".join(f"{key}={value}" for key, value in needed.items())
    for key in needed:
        if not settings.get(key):
            raise ConfigError(f"Say {key}=...: {example}.")
    return settings


@contextmanager
def print_errors_in_one_line(arguments: Iterable[str] = ()) -> Iterator[None]:
    """A user's mistake within it is one message on stderr and exit code 1, without a traceback."""
    try:
        yield
    except KeyboardInterrupt as error:
        print_safely(str(error) or "Interrupted.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = message_of(error, arguments)
        if not speaks() and first_ends():
            sys.exit(1)
        if message is None or TRACEBACKS:
            raise
        print_safely(message if speaks() else f"Another of the run's processes: {message}", file=sys.stderr)
        sys.exit(1)


def first_ends() -> bool:
    """Whether the process that started this one ends too, soon: then it has said what there is to say."""
    first = os.getppid()
    for _ in range(80):  # it may write a report first
        time.sleep(0.1)
        if os.getppid() != first:
            return True
    return False


@contextmanager
def print_warnings_in_one_line(switch: str = "ignore_warnings=[{name}] switches this off.") -> Iterator[None]:
    """Our own warnings are for the person at the keyboard: no file, no line of code."""
    others = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any) -> None:
        if not issubclass(category, LossSelectWarning):
            others(text if (text := sanitize(str(message))) != str(message) else message, category, *place)
            return
        how = f" ({switch.format(name=message.name)})" if switch else ""
        print_safely(f"Warning: {message.message}{how}", file=sys.stderr)

    warnings.showwarning = show  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = others
