"""Several processes, and several micro-batches, give the numbers of one; gloo on this machine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "processes"


def output_of(script, *arguments, timeout=240, cwd=None):
    """What a script prints; it starts its other processes itself."""
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("ranks", "group", "dtype", "most"),
    [
        (1, 4, "float64", 1e-12),
        (2, 1, "float64", 1e-12),
        (3, 4, "float64", 1e-12),
        (2, 4, "float32", 1e-6),
    ],
)
def test_gradients_are_those_of_one_process(ranks, group, dtype, most):
    lines = re.findall(r"^(\S+) (.+, holes .+)$", output_of("gradients.py", ranks, group, dtype), re.M)
    assert len(lines) > 100
    assert not [(error, case) for error, case in lines if not float(error) <= most]
