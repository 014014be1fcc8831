"""Private parts of Hydra: where it resolves classes, configures logs and looks for configs.

Hydra has no public hook by which a package can check what a config names before it is imported. Tested with
Hydra 1.3; see tests/compat/test_others.py.
"""

from collections.abc import Callable
from typing import Any

from hydra import __version__
from hydra._internal import logging_config
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.instantiate import _instantiate2

from lossselect.exceptions import UnsupportedError

# imports the class that `_target_` names: (target, full_key)
resolve_target: Any = getattr(_instantiate2, "_resolve_target", None)
configure_log: Any = getattr(logging_config, "configure_logging", None)
# looks for configs on the search path: (repository, search_path)
initialize_sources: Any = getattr(ConfigRepository, "initialize_sources", None)


def install_checks(
    resolve: Callable[..., Any], configure: Callable[..., Any], initialize: Callable[..., Any]
) -> None:
    """Replace the three functions above, which the new ones call; UnsupportedError if one is missing."""
    if None in (resolve_target, configure_log, initialize_sources):
        raise UnsupportedError(
            f"lossselect does not know Hydra {__version__} and cannot tell it what a config may name: "
            "pip install 'hydra-core<1.4'."
        )
    logging_config.configure_logging = configure
    _instantiate2._resolve_target = resolve  # for Hydra's own parts too
    ConfigRepository.initialize_sources = initialize  # type: ignore[method-assign]
