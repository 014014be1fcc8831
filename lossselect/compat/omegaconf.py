"""Private parts of OmegaConf. Tested with OmegaConf 2.3; see tests/compat/test_others.py."""

from omegaconf import DictConfig, ListConfig


def full_key(node: DictConfig) -> str:
    """Return the place of a node in its config, such as "model.net"."""
    return node._get_full_key(None)


def has_content(node: DictConfig | ListConfig) -> bool:
    """Return whether a node is neither null nor missing (`???`)."""
    return not node._is_none() and not node._is_missing()
