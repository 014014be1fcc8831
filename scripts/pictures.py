"""Take README's pictures of a real run: docs/images/plan.png and report.png.

python scripts/pictures.py        requires Debian's chromium; takes a minute
"""

import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from lossselect.reporting.plan import Line, Plan

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "hide-scrollbars")


def shoot(page: Path, picture: Path, width: int, height: int) -> None:
    """Save a screenshot of the top of a page."""
    chromium = shutil.which("chromium") or sys.exit("Chromium is required: apt-get install chromium.")
    with tempfile.TemporaryDirectory() as profile:
        options = [f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={picture}"]
        flags = [f"--{flag}" for flag in FLAGS]
        subprocess.run([chromium, *flags, *options, page.as_uri()], check=True, capture_output=True)


def main() -> None:
    """Train on yeast, and take the pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "runs" / "yeast"
        settings = ("task=multilabel", "loss=auto", f"hydra.run.dir={run}")
        subprocess.run([sys.executable, ROOT / "train.py", *settings], check=True, capture_output=True)
        shoot(run / "report.html", IMAGES / "report.png", 1100, 1330)
        lines = json.loads((run / "plan.json").read_text(encoding="utf-8"))["lines"]
        console = Console(record=True, width=82, file=io.StringIO(), force_terminal=True)
        plan = Plan("Plan", [Line(**line) for line in lines if line["name"] != "outputs"])
        console.print(plan.summary())
        count = len(console.export_text(clear=False).splitlines())
        form = (
            '<body style="margin:0;background:#14191e"><pre style="font:13px/1.35 monospace;color:#e4e9ee;'
            'margin:0;padding:14px"><code>{code}</code></pre></body>'
        )
        page = Path(folder) / "plan.html"
        page.write_text(console.export_html(code_format=form, inline_styles=True), encoding="utf-8")
        shoot(page, IMAGES / "plan.png", 700, 18 * count + 28)


if __name__ == "__main__":
    main()
