"""Paths in the repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "processes"
"""Programs that tests run in separate processes."""
