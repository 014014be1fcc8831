import gc

import pytest

from lossselect.cli import precheck, train


@pytest.mark.parametrize("setting", ["seed=0", "folds=1"])
def test_collections_pause_until_the_data_are_loaded(command, monkeypatch, setting):
    """The settings are checked without collections; an error in them does not leave the pause on."""
    states = []

    def record(module, name):
        original = getattr(module, name)

        def recorded(*arguments, **options):
            states.append((name, gc.isenabled()))
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, recorded)

    record(train, "run")
    record(precheck, "check_config")
    record(precheck, "load_data")
    command("task=binary", "explain=true", setting)
    expected = [("run", False), ("check_config", False), ("load_data", True)]
    assert states == (expected if setting == "seed=0" else expected[:2])
    assert gc.isenabled()
    assert gc.get_freeze_count()
