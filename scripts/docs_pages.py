"""The files that GitHub looks for beside README.md are pages of the site too (a hook of MkDocs)."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]

PAGES = {"SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Each file, and the page that it becomes."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages; their links lead to docs/ from without."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **kwargs: object) -> str:
    """Links from docs/ to these files, which GitHub needs as they are, lead to the pages."""
    return re.sub(
        r"\]\((?:\.\./)?(SECURITY|CONTRIBUTING|CHANGELOG)\.md", lambda m: f"]({m[1].lower()}.md", markdown
    )
