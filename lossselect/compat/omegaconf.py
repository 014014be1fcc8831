"""Private parts of OmegaConf. Tested with OmegaConf 2.3; see tests/compat/test_others.py."""

from omegaconf import DictConfig, ListConfig


def has_content(node: DictConfig | ListConfig) -> bool:
    """Return whether a node is neither null nor missing (`???`)."""
    return not node._is_none() and not node._is_missing()
