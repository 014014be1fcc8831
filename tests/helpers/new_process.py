"""Python programs in new processes, which start with Lightning imported: this saves five seconds for each of them.

On Linux they are forked from a server that has imported it; elsewhere each imports it again.
"""

import atexit
import functools
import multiprocessing
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

FORKS = sys.platform == "linux"
STREAMS = ("stdout", "stderr")


@functools.cache
def _context():
    context = multiprocessing.get_context("forkserver" if FORKS else "spawn")
    context.set_forkserver_preload(["lightning.pytorch", "torchmetrics", "hydra"])
    return context


class Program:
    """A running program `python *arguments`, used like subprocess.Popen with text from pipes."""

    def __init__(self, arguments, cwd, **variables):
        self.args = [str(argument) for argument in arguments]
        self._folder = Path(tempfile.mkdtemp())
        for name in STREAMS:
            (self._folder / name).touch()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        self._process = _context().Process(target=_run, args=(self.args, self._folder, str(cwd), environment))
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):  # for the server, which imports torch
            self._process.start()

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def send_signal(self, which):
        os.kill(self._process.pid, which)

    def communicate(self, timeout=240):
        self._process.join(timeout)
        late = self.returncode is None
        if late:
            self._process.kill()
            self._process.join()
        out, err = ((self._folder / name).read_text() for name in STREAMS)
        shutil.rmtree(self._folder)
        if late:
            raise subprocess.TimeoutExpired(self.args, timeout, out, err)
        return out, err


def run_program(arguments, cwd, timeout=240, **variables):
    """Run `python *arguments`, and return its exit code and output like subprocess.run."""
    program = Program(arguments, cwd, **variables)
    out, err = program.communicate(timeout)
    return subprocess.CompletedProcess(program.args, program.returncode, out, err)


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def run_ranks(arguments, ranks, cwd):
    """Run a program in several processes, as torchrun would start them; return what each of them printed."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    started = [
        Program(arguments, cwd, **({**group, "LOCAL_RANK": str(rank)} if ranks > 1 else {}))
        for rank in range(ranks)
    ]
    printed = [program.communicate() for program in started]
    for program, (_, err) in zip(started, printed, strict=True):
        assert program.returncode == 0, err[-3000:]
    return [out for out, _ in printed]


def run_python(arguments, cwd, timeout=240, **variables):
    """Run `python *arguments` without preloaded modules."""
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    options = {"capture_output": True, "text": True, "timeout": timeout, "check": False}
    return subprocess.run(command, cwd=cwd, env=environment, **options)


def _run(arguments, folder, cwd, environment):
    """Run a script, a module (-m) or code (-c) as Python would do, in this process."""
    for number, name in enumerate(STREAMS, 1):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    os.chdir(cwd)
    first, *rest = arguments
    kind, sys.argv = (first, rest) if first in ("-c", "-m") else ("", arguments)
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [str(Path(sys.argv[0]).parent) if not kind else "", *paths]
    try:
        if kind == "-m":
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            code, sys.argv[0] = sys.argv[0], "-c"
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as stopped:
        code = stopped.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    atexit._run_exitfuncs()  # processes of multiprocessing do not run them
    sys.exit(code)
