"""Prints the classes that a config may name as JSON: each of their import paths, mapped to the defining one.

Runs in a separate process, because importing every module of Hydra and Lightning changes loggers.
"""

import importlib
import json
import pkgutil
import sys
import warnings

import hydra_plugins
import torch
import torchmetrics.classification

import lossselect

PACKAGES = ("lightning.pytorch", "lightning.fabric", "hydra")
ROOTS = ("hydra", "hydra_plugins", "lightning", "lossselect", "torch", "torchmetrics")


def main():
    warnings.simplefilter("ignore")
    packages = [lossselect, hydra_plugins, torch.utils.data, torch.nn, torch.optim, torch.ao]
    packages.append(torchmetrics.classification)
    packages += map(importlib.import_module, PACKAGES)
    for package in packages:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda _: None):
            if "__main__" not in module.name and ".test" not in module.name:
                try:
                    importlib.import_module(module.name)
                except Exception:  # requires a package that is not installed, or another platform
                    continue
    found = {}
    for path, module in list(sys.modules.items()):
        if path.partition(".")[0] in ROOTS and type(module).__name__ == "module":
            for name, value in list(vars(module).items()):
                if isinstance(value, type):
                    canonical = f"{value.__module__}.{value.__qualname__}"
                    found |= {f"{path}.{name}": canonical, canonical: canonical}
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
