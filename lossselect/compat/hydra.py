"""Parts of Hydra that resolve classes, configure logging, search for configs, compose them, and run jobs.

Hydra has no public hook to check the names in a config before they are imported, and composes each config
twice. Tested with Hydra 1.3; see tests/compat/test_others.py.
"""

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any

from hydra import __version__
from hydra._internal import logging_config
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.instantiate import _instantiate2
from hydra.core.utils import JobReturn

from lossselect.exceptions import UnsupportedError

# imports the class named by `_target_`; arguments (target, full_key)
resolve_target: Any = getattr(_instantiate2, "_resolve_target", None)
configure_log: Any = getattr(logging_config, "configure_logging", None)
# creates the sources of configs on the search path; arguments (repository, search_path)
initialize_sources: Any = getattr(ConfigRepository, "initialize_sources", None)
# returns hydra.mode of a config; arguments (hydra, config_name, overrides)
get_mode: Any = getattr(Hydra, "get_mode", None)
# raises the error of a failed job, after a line on stderr
return_value: Any = JobReturn.return_value

PACKAGED = frozenset({"pkg://hydra.conf", "pkg://lossselect.configs", "structured://"})
"""The search path of configs unless a user extends it."""


def install_checks(
    resolve: Callable[..., Any], configure: Callable[..., Any], initialize: Callable[..., Any]
) -> None:
    """Replace the functions above by checks that call them; raise UnsupportedError if one is missing."""
    if None in (resolve_target, configure_log, initialize_sources):
        raise UnsupportedError(
            f"lossselect does not support Hydra {__version__}: it could not check the classes and files "
            "that a config names. Run pip install 'hydra-core<1.4'."
        )
    logging_config.configure_logging = configure
    _instantiate2._resolve_target = resolve  # also applies to the classes that Hydra itself instantiates
    ConfigRepository.initialize_sources = initialize  # type: ignore[method-assign]
    if get_mode is not None:
        Hydra.get_mode = get_mode_quickly  # type: ignore[method-assign]


def get_mode_quickly(self: Any, config_name: str | None, overrides: Sequence[str]) -> Any:
    """Return hydra.mode of a config; None without composing it if only packaged configs can be part of it.

    No packaged config sets the mode, and composing takes as long as a tenth of importing torch.
    """
    paths = {entry.path for entry in self.config_loader.get_search_path().get_path()}
    may_set = any(name in text for text in overrides for name in ("hydra.mode", "hydra.searchpath"))
    return None if paths <= PACKAGED and not may_set else get_mode(self, config_name, overrides)


def silence_failed_jobs() -> None:
    """Raise the error of a failed job without Hydra's line "Error executing job with overrides: ..."."""

    def get(job: JobReturn) -> Any:
        with redirect_stderr(io.StringIO()):
            return return_value.fget(job)

    JobReturn.return_value = property(get, return_value.fset)  # type: ignore[assignment]
