"""Install the project in `.venv` and run it there. Requires only Python 3.11 to 3.13 with venv and pip.

python3 make.py train task=multilabel    install, then run train.py with these settings
python3 make.py test                     install the test requirements, then run the tests
python3 make.py check                    check lint, format, types and the order of imports
python3 make.py docs                     install the documentation requirements, then build site/
python3 make.py build                    build sdist and wheel in dist/, and check them
"""

import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

INSTALLING = (
    "Installing into .venv, which takes a minute or two and 1.5 GB on disk. PyTorch for CPUs is a "
    "download of about 200 MB, PyTorch with CUDA one of several GB. pip prints each package:"
)

COMMANDS = {
    "train": ("", [["train.py"]]),
    # one process more than cores, as some tests wait for others; at most 4, as each imports torch
    "test": ("[test]", [["-m", "pytest", "-n", f"{min(os.cpu_count() or 1, 3) + 1}", "--dist", "loadgroup"]]),
    "check": (
        "[test]",
        [
            ["-m", "ruff", "check", "."],
            ["-m", "ruff", "format", "--check", "."],
            ["-m", "mypy"],
            ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        ],
    ),
    "docs": (
        "[docs]",
        [
            ["scripts/settings_page.py"],
            ["scripts/errors_page.py"],
            ["-c", "import shutil; shutil.rmtree('site', ignore_errors=True)"],
            # -W: warnings are errors; -E: all pages are read, so that each build reports all warnings
            ["-m", "sphinx", "-W", "--keep-going", "-E", "-q", "-d", "build/doctrees", "docs", "site"],
        ],
    ),
    "build": (
        "[build]",
        [["-m", "build", "-q", "."], ["-m", "twine", "check", "--strict", "dist/*"]],
    ),
}


def install(extra: str) -> None:
    """Install the project with `extra` in `.venv`, unless it is installed with the same requirements."""
    files = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
    wanted = sha256(b"".join(file.read_bytes() for file in files) + str(ROOT).encode()).hexdigest()
    stamp = VENV / f"installed{extra}"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    if not PYTHON.is_file() and subprocess.run([sys.executable, "-m", "venv", VENV], check=False).returncode:
        shutil.rmtree(VENV, ignore_errors=True)  # else the next call would use the incomplete environment
        sys.exit("The virtual environment could not be created. On Debian, install python3-venv.")
    print(INSTALLING, file=sys.stderr, flush=True)
    pip = (str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install")
    run(*pip, "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}{extra}")
    stamp.write_text(wanted)


def run(*command: str) -> None:
    """Run a command; if it fails, exit with its exit code."""
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Run the command that the first argument names."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(
            f"lossselect requires Python 3.11 to 3.13, got {sys.version.split()[0]}. Use another Python."
        )
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(str(__doc__))
    extra, steps = COMMANDS[sys.argv[1]]
    install(extra)
    if sys.argv[1] != "train":
        os.chdir(ROOT)
        # otherwise each of the many processes of the tests compiles the package again
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for step in steps:
        script = [str(ROOT / step[0])] if step[0].endswith(".py") else step
        run(str(PYTHON), *script, *sys.argv[2:])


if __name__ == "__main__":
    main()
