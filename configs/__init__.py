"""The Hydra groups of `train.py`, as the package `lossselect.configs`.

Importing it adds the group `loss` from the table of losses: a new row there is a new option here.
"""

from hydra.core.config_store import ConfigStore

from lossselect.losses.registry import LOSSES, row_options

ConfigStore.instance().store(group="loss", name="auto", node={"name": "auto"})
for _name in LOSSES:
    ConfigStore.instance().store(group="loss", name=_name, node={"name": _name, **row_options(_name)})
