import sys

import pytest
from train_cases import OWN_DATA, SHORT


@pytest.fixture
def own(command, monkeypatch, tmp_path):
    """Run the command on a custom data module."""
    (tmp_path / "own_data.py").write_text(OWN_DATA)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_data", raising=False)

    def run(data, *arguments):
        return command(
            "task=binary", "~data", f"+data._target_=own_data.{data}", "hydra.run.dir=run", *SHORT, *arguments
        )

    return run
