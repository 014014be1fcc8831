"""Terminal output contains no control characters of files, no secrets, and no traceback if stdout fails."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from new_process import run_program, run_python
from omegaconf import OmegaConf
from paths import SCRIPTS
from train_cases import train_in

from lossselect.cli import console
from lossselect.cli import main as cli
from lossselect.reporting.plan import Line, Plan
from lossselect.utils import warnings as guards
from lossselect.utils.redaction import record, record_environment, redact
from lossselect.utils.terminal import escape_controls, escape_controls_in_json

NAMES = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07osc",
    "\x9b31m c1",
    "\u202egnp.exe",
    "\u2066isolated\u2069",
    "zero\u200bwidth",
    "line\rover",
    "plain é 猫",
]
"""Class names of a hostile file."""


def hidden(text):
    """Return the control, invisible and direction-changing characters of a text, by an independent list."""
    turned = "\u061c\u200e\u200f" + "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
    invisible = "\u00ad\u180e\u200b\u200c\u200d\u2060\ufeff\u2028\u2029"
    return {
        c for c in text if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in turned + invisible
    }


@pytest.fixture
def table(tmp_path):
    with (tmp_path / "sent\x1b[2J.csv").open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file)
        write.writerow(["a\x1b[2J", "b\u202e", "kind\u200b"])
        for i in range(240):
            k = i % len(NAMES)
            write.writerow([k + i / 1000, i % 7 - k, NAMES[k]])
    return ["task=multiclass", "data=table", "data.path='sent\x1b[2J.csv'", "data.target='kind\u200b'"]


def test_visible():
    every = "".join(map(chr, (*range(0xD7FF), *range(0xE000, 0x20000), *range(0xE0000, 0xE0080))))
    assert not hidden(escape_controls(every))
    assert escape_controls(every).count("\n") == every.count("\n")
    for character in "aé猫🐈\t\n \u00a0\u0301":
        assert escape_controls(character) == character
    assert escape_controls("\x1b[1m\u202e\udcff\U000e0041") == "\\x1b[1m\\u202e\\udcff\\U000e0041"
    assert json.loads(escape_controls_in_json(json.dumps(NAMES, ensure_ascii=False))) == NAMES
    assert not hidden(escape_controls_in_json(json.dumps(NAMES, ensure_ascii=False)))


def test_a_plan_of_hostile_names():
    plan = Plan("Plan", [Line(*NAMES[:4])])
    assert not hidden(str(plan)) | hidden(plan.to_json()) | hidden(plan._repr_html_())
    assert plan.to_dict()["lines"][0]["name"] == NAMES[0]
    assert json.loads(plan.to_json())["lines"][0]["name"] == NAMES[0]


def test_a_warning_of_hostile_names(capsys):
    with warnings.catch_warnings(), console.print_warnings_in_one_line():
        warnings.simplefilter("always")
        guards.warn("likely_missing_marker", f"The label {NAMES[0]} may mark a missing one.")
    err = capsys.readouterr().err
    assert "Warning: The label \\x1b[31mred\\x1b[0m may mark" in err
    assert not hidden(err)


@pytest.mark.figures
@pytest.mark.filterwarnings("ignore::lossselect.LossSelectWarning")
def test_a_run_on_hostile_names(table, command, tmp_path):
    code, out, err = command(*table, "trainer.max_epochs=2", "hydra.run.dir=run")
    assert code == 0, err
    assert not hidden(out + err)
    assert "\\x1b[31mred" in out
    run = tmp_path / "run"
    assert not hidden((run / "report.html").read_text(encoding="utf-8"))
    pictures = [*(run / "figures").glob("*.svg")]
    assert len(pictures) > 3
    for path in pictures:
        ET.parse(path)  # fails for control characters
    with (run / "per_class.csv").open(newline="", encoding="utf-8") as file:
        assert {row[0] for row in csv.reader(file)} >= set(NAMES)  # tables contain the text unchanged


@pytest.mark.filterwarnings("ignore::lossselect.LossSelectWarning")
@pytest.mark.parametrize("setting", ["explain=json", "check_only=true"])
def test_a_dry_run_on_hostile_names(setting, table, command):
    code, out, err = command(*table, setting)
    assert code == 0, err
    assert not hidden(out + err)
    if setting == "explain=json":
        assert NAMES[0] in json.loads(out)["lines"][1]["value"]


@pytest.mark.parametrize(
    "changed",
    [
        "data.target='kin\x1b'",
        "data.exclude=['\u202e']",
        "data.path='\x1b[2J.csv'",
        "data.path='sent\x1b[2J.cs'",
    ],
)
def test_a_message_with_hostile_names(changed, table, command):
    code, out, err = command(*table, changed)
    assert code == 1
    assert "\\x1b" in err
    assert not hidden(out + err)


@contextlib.contextmanager
def fail_if_blocked():
    """Fail after a minute instead of waiting for a pipe."""

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def lossselect(monkeypatch, capsys, tmp_path):
    """Run a command of lossselect; return its exit code and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lossselect", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, capsys.readouterr().err

    return run


@pytest.mark.filterwarnings("ignore::lossselect.LossSelectWarning")
@pytest.mark.parametrize(
    "settings",
    [
        ["data=table", "data.path={}.csv", "data.target=y"],
        ["data=table", "data.path=a.csv", "data.val_path={}.csv", "data.target=y"],
        ["data=table", "data.path=a.csv", "data.test_path={}.parquet", "data.target=y"],
        ["data=arrays", "data.path={}.npz"],
        ["resume={}.ckpt"],
    ],
    ids=" ".join,
)
def test_a_pipe_instead_of_a_file(settings, command, tmp_path):
    for suffix in ("csv", "parquet", "npz", "ckpt"):
        os.mkfifo(tmp_path / f"pipe.{suffix}")
    (tmp_path / "a.csv").write_text("x,y\n" + "1,0\n2,1\n2,0\n" * 30)
    with fail_if_blocked():
        code, _, err = command("task=binary", *(setting.format("pipe") for setting in settings))
    assert code == 1
    assert err.startswith("Expected a regular file, but pipe.")
    assert " is a named pipe (FIFO). Save its content to a file first." in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "checkpoint=pipe.ckpt", "input=a.csv", "output=out.csv"],
        ["predict", "checkpoint=pipe.onnx", "input=a.csv", "output=out.csv"],
        ["predict", "checkpoint=pipe.safetensors", "input=a.csv", "output=out.csv"],
        ["predict", "checkpoint=pipe.pt2", "trust=true", "input=a.csv", "output=out.csv"],
        ["export", "checkpoint=pipe.ckpt", "format=onnx"],
    ],
    ids=" ".join,
)
def test_a_pipe_instead_of_a_model(arguments, lossselect, tmp_path):
    for argument in arguments[1:]:
        if argument.startswith("checkpoint="):
            os.mkfifo(tmp_path / argument.removeprefix("checkpoint="))
    with fail_if_blocked():
        code, err = lossselect(*arguments)
    assert code == 1
    assert "is a named pipe (FIFO)." in err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Train on a small table; return the path of the checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "a.csv").write_text("x,y\n" + "1,0\n2,1\n2,0\n" * 30)
    settings = ["task=binary", "data=table", "data.path=a.csv", "data.target=y", "trainer.max_epochs=1"]
    settings += ["hydra.run.dir=run", "report=false", "ignore_warnings=[duplicate_rows]"]
    train_in(folder, *settings)
    return folder / "run" / "checkpoints" / "best.ckpt"


def test_pipes_for_predictions(checkpoint, lossselect, tmp_path):
    (tmp_path / "a.csv").write_text("x\n1\n")
    os.mkfifo(tmp_path / "pipe.csv")
    os.mkfifo(tmp_path / "pipe.onnx")
    with socket.socket(socket.AF_UNIX) as one, fail_if_blocked():
        one.bind("socket.csv")
        for wrong, kind in (
            (["input=pipe.csv", "output=out.csv"], "pipe.csv is a named pipe"),
            (["input=/dev/stdin", "output=out.csv"], "/dev/stdin is a"),
            (["input=socket.csv", "output=out.csv"], "socket.csv is a socket"),
            (["input=a.csv", "output=pipe.csv"], "pipe.csv is a named pipe (FIFO). Choose"),
            (["input=a.csv", "output=/dev/null"], "/dev/null is a device. Choose"),
        ):
            if wrong[0] == "input=/dev/stdin" and Path("/dev/stdin").is_file():
                continue
            code, err = lossselect("predict", f"checkpoint={checkpoint}", *wrong)
            assert code == 1
            assert f"Expected a regular file, but {kind}" in err
        code, err = lossselect("export", f"checkpoint={checkpoint}", "output=pipe.onnx")
        assert code == 1
        assert "Expected a regular file, but pipe.onnx is a named pipe (FIFO). Choose" in err
    assert not (tmp_path / "out.csv").exists()
    assert Path("/dev/null").is_char_device()


def test_a_device_instead_of_a_file(command):
    code, _, err = command("task=binary", "data=table", "data.path=/dev/null", "data.target=y")
    assert code == 1
    assert err.startswith("Expected a regular file, but /dev/null is a device.")


SECRETS = {
    "TOKEN": "hunter2-s3cret",
    "LISTED": "[alpha-1, {inner: beta-22}]",
    "LINES": "first-line\nsecond-line",
    "FILE": "./folder//named-secretly.csv",
    "QUOTED": 'it\'s a \\ "thing"',
    "TWO": "qz",
}

PIECES = (
    "hunter2",
    "alpha-1",
    "beta-22",
    "first-line",
    "second-line",
    "named-secretly",
    "it's",
    "it\\'s",
    "qz",
)


@pytest.mark.parametrize(
    "settings",
    [
        ["data=table", "data.target=y", "data.path=${oc.env:TOKEN}"],
        ["data=table", "data.target=y", "data.path=${oc.env:FILE}"],
        ["data=table", "data.target=y", "data.path=${oc.env:LINES}"],
        ["data=table", "data.target=y", "data.path=${oc.env:TWO}"],
        ["data=table", "data.target=y", 'data.path="${oc.env:NOT_SET,${oc.env:TOKEN}}.csv"'],
        ["data=table", "data.target=y", "data.path=${oc.env:TOKEN}/${oc.env:TWO}.csv"],
        ["seed=${oc.env:TOKEN}"],
        ["seed=${oc.env:QUOTED}"],
        ['loss.weight="${oc.decode:${oc.env:LISTED}}"'],
        ["task=${oc.env:TOKEN}"],
        ["monitor=${oc.env:TOKEN}"],
        ["resume=${oc.env:TOKEN}"],
        ["optimizer.lr=${oc.env:TOKEN}"],
        ["trainer.precision=${oc.env:TOKEN}"],
        ["trainer.accelerator=${oc.env:TOKEN}"],
        ["+logger.x=${oc.env:TOKEN}"],
        ["+callbacks.x=${oc.env:TOKEN}"],
        ["+callbacks.x._target_=${oc.env:TOKEN}"],
        ["+variable=TOKEN", "seed=${oc.env:${variable}}"],
        ["+callbacks.x._target_=own_secret.Fails", "+callbacks.x.token=${oc.env:TOKEN}"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("stops", [[], ["explain=true"]], ids=["run", "explain"])
def test_a_message_has_no_secret(settings, stops, command, tmp_path, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "own_secret.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Fails(Callback):\n"
        "    def __init__(self, token):\n"
        "        raise ValueError(f'{token} does not open')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, out, err = command("task=binary", *settings, *stops, "trainer.max_epochs=1")
    if not (stops and "own_secret" in str(settings)):  # explain creates no callbacks
        assert code == 1
        assert "${oc.env:" in err
    for piece in PIECES:
        assert piece not in out + err
    for path in tmp_path.rglob("report.html"):
        assert "hunter2" not in path.read_text(encoding="utf-8")


CRASHES = """
import warnings
from lightning.pytorch import Callback
class Crashes(Callback):
    def __init__(self, token):
        self.token = token
    def on_train_start(self, *_):
        warnings.warn(f"careful with {self.token}")
        raise RuntimeError(f"cannot log in with {self.token}") from KeyError(self.token)
"""


def run_several(commands, cwd, program=run_python, **options):
    """Run several commands in one process; return their exit codes and the finished process."""
    arguments = (SCRIPTS / "commands.py", "codes.json", json.dumps(commands))
    done = program(arguments, cwd, **options)
    assert done.returncode == 0, done.stderr
    return json.loads((cwd / "codes.json").read_text()), done


def run_prepared(code):
    """Return a function like `run_program` for a script, with code that changes the streams of its process.

    This is faster than a new process that starts with these streams.
    """

    def run(arguments, cwd):
        path, *words = map(str, arguments)
        start = f"import os, runpy, sys\nsys.argv = {[path, *words]}\n{code}\n"
        return run_program(["-c", f"{start}runpy.run_path({path!r}, run_name='__main__')"], cwd)

    return run


SHORT = ("task=binary", "trainer.max_epochs=1", "report=false", "hydra.run.dir=run")


@pytest.mark.parametrize("full", ["1"])
def test_a_traceback_has_no_secret(full, tmp_path):
    (tmp_path / "own_crash.py").write_text(CRASHES)
    own = ("+callbacks.x._target_=own_crash.Crashes", "+callbacks.x.token=${oc.env:TOKEN}")
    arguments = ["-m", "lossselect", *SHORT, *own]
    done = run_program(arguments, tmp_path, HYDRA_FULL_ERROR=full, TOKEN="hunter2-s3cret")
    assert done.returncode == 1
    assert "RuntimeError: cannot log in with ${oc.env:TOKEN}" in done.stderr
    assert "careful with ${oc.env:TOKEN}" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path


@pytest.mark.filterwarnings("ignore::lossselect.LossSelectWarning")
def test_the_plan_has_no_secret(command, monkeypatch, tmp_path):
    (tmp_path / "hunter2.csv").write_text("x,y\n" + "1,0\n2,1\n2,0\n" * 30)
    monkeypatch.setenv("NAMED", "hunter2.csv")
    table = (
        "task=binary",
        "data=table",
        "data.path=${oc.env:NAMED}",
        "data.target=y",
        "ignore_warnings=[duplicate_rows]",
    )
    code, out, err = command(*table, "trainer.max_epochs=1", "hydra.run.dir=run")
    assert code == 0, err
    assert "hunter2" not in out + err
    for name in ("plan.json", "report.html"):
        assert "hunter2" not in (tmp_path / "run" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        ("hunter2", "with hunter2x, xhunter2", "with ${oc.env:V}x, x${oc.env:V}"),
        ("ab", "File not found: ab. about", "File not found: ${oc.env:V}. about"),
        ("a", "a file 'a' as", "a file '${oc.env:V}' as"),
        ("12", "row 12, got '12'", "row 12, got '${oc.env:V}'"),
        ("true", "must be true", "must be true"),
        ("", "nothing", "nothing"),
        ("  ", "a  b", "a  b"),
        ("$1\\g<0>", "is $1\\g<0>.", "is ${oc.env:V}."),
        ("/mnt/secret-x", "/mnt/secret-x/a.csv, secret-x", "${oc.env:V}/a.csv, ${oc.env:V}"),
        ("/mnt/data", "data.path=/mnt/data/a.csv", "data.path=${oc.env:V}/a.csv"),
    ],
)
def test_redacted(value, text, shown):
    record_environment()
    record("V", value)
    assert redact(text) == shown
    record_environment()
    assert redact(text) == text


def test_recorded_variables(monkeypatch):
    """Only variables that a config reads are recorded."""
    monkeypatch.setenv("READ", "one-value")
    monkeypatch.setenv("OTHER", "other-value")
    record_environment()
    config = OmegaConf.create({"a": "${oc.env:READ}", "b": "${oc.env:NOT_SET,default-value}"})
    assert dict(config) == {"a": "one-value", "b": "default-value"}
    text = "one-value other-value default-value"
    assert redact(text) == "${oc.env:READ} other-value default-value"
    record_environment()


CLOSED = {
    ">&-": run_prepared("os.close(1); sys.stdout = None"),
    "2>&-": run_prepared("os.close(2); sys.stderr = None"),
    ">&- 2>&- <&-": run_prepared("os.closerange(0, 3); sys.stdin = sys.stdout = sys.stderr = None"),
}


@pytest.mark.parametrize("streams", CLOSED)
def test_closed_streams(streams, checkpoint, tmp_path):
    (tmp_path / "a.csv").write_text("x\n1\n2\n")
    missing = ["predict", "checkpoint=none.ckpt", "input=a.csv", "output=out.csv"]
    commands = [
        ["train", *SHORT],
        ["predict", f"checkpoint={checkpoint}", "input=a.csv", "output=out.csv"],
        ["export", f"checkpoint={checkpoint}", "output=model.safetensors"],
        ["explain", "task=binary"],
        ["report", "run=run"],
    ]
    commands = commands if streams == ">&-" else commands[1:2]  # run the slow commands only once
    codes, done = run_several([*commands, missing], tmp_path, CLOSED[streams])
    assert codes == [0] * len(commands) + [1]
    assert (tmp_path / "run" / "metrics.json").is_file() == (streams == ">&-")
    assert done.stderr.count("\n") == (streams == ">&-")  # the error of the last command
    assert "Traceback" not in done.stderr
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("streams", CLOSED)
def test_a_new_process_with_closed_streams(streams, tmp_path):
    words = [sys.executable, "-m", "lossselect", "report", "run=none"]
    command = ["bash", "-c", f'"$@" {streams}', "bash", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    message = "The folder none does not exist. Set run to a run folder.\n"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (message if streams == ">&-" else "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
def test_a_full_disk_behind_stdout(tmp_path):
    code = "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
    codes, done = run_several([["explain", "task=binary"]], tmp_path, run_prepared(code))
    assert codes == [1]
    assert done.stderr.startswith("No space left on device")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("trains", [False, True])
def test_an_output_of_ascii(trains, tmp_path):
    rows = "".join(f"{i % 3},{i},{('Katze', 'chat é', '猫')[i % 3]}\n" for i in range(90))
    (tmp_path / "a.csv").write_text(f"x,y,kind\n{rows}", encoding="utf-8")
    table = ("task=multiclass", "data=table", "data.path=a.csv", "data.target=kind", "trainer.max_epochs=1")
    if trains:
        files = ("checkpoint=run/checkpoints/best.ckpt", "input=a.csv", "output=out.csv")
        commands = [["train", *table, "hydra.run.dir=run"], ["predict", *files]]
        commands += [["explain", *table, "+task.class_names=[猫]"]]
        variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        codes, done = run_several(commands, tmp_path, **variables)
    else:  # as with PYTHONIOENCODING=ascii:strict
        code = "sys.stdout.reconfigure(encoding='ascii'); sys.stderr.reconfigure(encoding='ascii')"
        codes, done = run_several([["explain", *table]], tmp_path, run_prepared(code))
    assert codes == ([0, 0, 1] if trains else [0])
    assert "Traceback" not in done.stderr
    assert "chat \\xe9, \\u732b" in done.stdout
    assert (done.stdout + done.stderr).isascii()
    if trains:
        for name in ("plan.json", "per_class.csv", "predictions.csv", "report.html"):
            assert "猫" in (tmp_path / "run" / name).read_text(encoding="utf-8")
        assert "p_猫" in (tmp_path / "out.csv").read_text(encoding="utf-8")
