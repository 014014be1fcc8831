import functools
import gc
import importlib.metadata
import os
import re
import sys

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader

# a full collection takes 0.3 s with all imported modules, and by default there is one every few seconds
gc.set_threshold(10_000, 10, 20)
# each Trainer looks for plugins in the metadata of all installed packages, which takes 5 ms
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _unpatched_loaders(monkeypatch):
    """Undo patches: Lightning wraps these methods in train_dataloader(), and keeps them wrapped on errors."""
    for cls in (DataLoader, BatchSampler):
        for name in ("__init__", "__setattr__", "__delattr__"):
            monkeypatch.setattr(cls, name, getattr(cls, name))


SLOW = (
    *(
        "cli/",
        "errors/test_messages.py",
        "export/",
        "project/",
        "reporting/test_report.py",
        "run/",
        "sklearn/",
    ),
    *("training/checkpoints/", "training/distributed/", "training/test_compiled.py", "training/test_gpu.py"),
    *("training/test_device_semantics.py", "training/callbacks/", "chunked/test_chunked_training.py"),
    *("data/test_own_data.py", "tasks/test_missing_predictions.py", "tasks/test_fourth_task.py"),
)
"""Tests that start processes, whole runs, a browser or a compiler; `pytest -m "not slow"` skips them."""


def pytest_collection_modifyitems(items):
    for item in items:
        path = item.path.as_posix().partition("/tests/")[2]
        if path.startswith(SLOW):
            item.add_marker("slow")


def pytest_collection_finish():
    import hypothesis  # noqa: F401  # when it is imported, it searches for references, which are then frozen

    # the imported modules and the tests stay until the end, so later collections need not visit them
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    if "gpu" in item.keywords and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    # the tensors of the tests are tiny: a second thread makes them slower
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_sync():
    """Leave out the waits for the disk, which only matter if the machine stops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def call(monkeypatch, capsys):
    """Return a function that runs a program, given its `main` and the words of the command line.

    It returns exit code, stdout and stderr.
    """

    def run(main, *words):
        monkeypatch.setattr(sys, "argv", [*words])
        try:
            main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def command(request, monkeypatch, tmp_path, call):
    """Return a function that runs the command in an empty folder and returns exit code, stdout and stderr.

    Reports have figures only in tests marked `figures`, because drawing takes longer than most runs. For the
    same reason, model=mlp is added unless a setting is about the model or the test is marked `default_net`.
    """
    # imported here, because tests of the core run without Hydra
    from quick_hydra import compose_quickly

    from lossselect.cli import train
    from lossselect.data import loading

    if "figures" not in request.keywords:
        monkeypatch.setattr("lossselect.reporting.page._draw_pictures", lambda *_: {})
        monkeypatch.setattr("lossselect.reporting.page._draw_outcome", lambda *_: {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    compose_quickly()
    loading.load_checked.cache_clear()  # cached data would not issue warnings again
    adds_net = "default_net" not in request.keywords

    def run(*words):
        about_model = re.compile(r"[+~]*(model|module|experiment|data\._target_)|--")
        if adds_net and not any(map(about_model.match, words)) and any("task=" in word for word in words):
            words = (*words, "model=mlp")
        return call(train.main, "train.py", *words)

    return run
