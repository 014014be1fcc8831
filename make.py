"""Set up `.venv` and run the project in it; needs Python 3.11 to 3.13 with pip, and nothing else.

python3 make.py train task=multilabel    install, then train.py with these settings
python3 make.py test                     install what the tests need, then run them
python3 make.py check                    lint, format, types and the order of imports
python3 make.py docs                     install what the site needs, then build it into site/
python3 make.py build                    sdist and wheel into dist/, checked
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

COMMANDS = {
    "train": ("", [["train.py"]]),
    # a process for each core, and one more as some tests wait for others; each imports torch
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
    "docs": ("[docs]", [["scripts/errors_page.py"], ["-m", "mkdocs", "build", "--strict", "--quiet"]]),
    "build": (
        "[build]",
        [["-m", "build", "-q", "."], ["-m", "twine", "check", "--strict", "dist/*"]],
    ),
}


def install(extra: str) -> None:
    """Install the project with `extra` into `.venv`, unless that has been done for these very files."""
    files = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
    wanted = sha256(b"".join(file.read_bytes() for file in files) + str(ROOT).encode()).hexdigest()
    stamp = VENV / f"installed{extra}"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    if not PYTHON.is_file() and subprocess.run([sys.executable, "-m", "venv", VENV], check=False).returncode:
        shutil.rmtree(VENV, ignore_errors=True)  # half an environment would be taken for a whole one
        sys.exit("No virtual environment could be made: on Debian install python3-venv.")
    run(
        str(PYTHON), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}{extra}"
    )
    stamp.write_text(wanted)


def run(*command: str) -> None:
    """Run a command; where it fails, leave with its exit code."""
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """The command line."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(f"lossselect is tested on Python 3.11 to 3.13; this is {sys.version.split()[0]}.")
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(str(__doc__))
    extra, steps = COMMANDS[sys.argv[1]]
    install(extra)
    if sys.argv[1] != "train":
        os.chdir(ROOT)
    os.environ["NO_MKDOCS_2_WARNING"] = "1"  # Material's own, of what it may become: not about this site
    for step in steps:
        script = [str(ROOT / step[0])] if step[0].endswith(".py") else step
        run(str(PYTHON), *script, *sys.argv[2:])


if __name__ == "__main__":
    main()
