import signal

import pytest
from new_process import FORKS, Program, run_program

pytestmark = pytest.mark.xdist_group("processes")  # in one worker, which starts the server


def test_a_program_runs_as_python_would_run_it(tmp_path):
    (tmp_path / "own_name.py").write_text("name = __name__")
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, os, sys, own_name\n"
        "atexit.register(print, 'at exit')\n"
        "print(__name__, sys.argv[1:], os.getcwd(), os.environ['OWN'], own_name.name)\n"
        "sys.exit(sys.argv[2])\n"
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    for command in ([script], ["-m", "script"]):
        done = run_program([*command, "a", "wrong"], folder, OWN="own", PYTHONPATH=str(tmp_path))
        printed = f"__main__ ['a', 'wrong'] {folder} own own_name\nat exit\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, printed, "wrong\n")
    done = run_program(["-c", "import sys; print(sys.argv); 1 / 0", 2], folder)
    assert (done.returncode, done.stdout) == (1, "['-c', '2']\n")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert run_program(["-c", "import sys; sys.exit(3)"], folder).returncode == 3


@pytest.mark.skipif(not FORKS, reason="Lightning is imported by each process")
def test_lightning_is_imported(tmp_path):
    done = run_program(
        ["-c", "import sys; print({'lightning', 'pytest', 'lossselect'} & {*sys.modules})"], "."
    )
    assert done.stdout == "{'lightning'}\n"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_signal_is_an_exit_code(tmp_path):
    program = Program(["-c", "import time; print('started', flush=True); time.sleep(99)"], tmp_path)
    assert program.poll() is None
    program.send_signal(signal.SIGKILL)
    program.communicate()
    assert program.returncode == -signal.SIGKILL
