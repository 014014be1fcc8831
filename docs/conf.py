"""Sphinx configuration of the documentation: `python3 make.py docs` builds docs/ into site/.

The site needs no network: nothing is fetched to build or read it, so names of other projects are not links.
"""

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils import unescape
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

import lossselect

DOCS = Path(__file__).resolve().parent

NAVIGATION = {
    "User guide": """
        Get started <self>
        bce-or-ce
        data
        choosing
        choosing-results
        project
        porting
        several-tasks
        runs
        export
        speed
    """,
    "Reference": """
        settings
        errors
        glossary
        api/index
        architecture
    """,
    "Project": """
        contributing
        security
        changelog
    """,
}
"""All pages in their order, by heading of the sidebar; `api/index` lists its own."""

ROOT_PAGES = {
    "README": "index",
    "SECURITY": "security",
    "CONTRIBUTING": "contributing",
    "CHANGELOG": "changelog",
}
"""Files of the root folder that are pages: links to them, which GitHub needs, lead to the pages."""

project = "lossselect"
html_title = "lossselect"
copyright = ""

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
templates_path = ["_templates"]
nitpicky = True
nitpick_ignore_regex = [
    # other libraries: their inventories would have to be fetched
    ("py:.*", r"(collections|os|pathlib|torch|nn|lightning|numpy|torchmetrics)\..*"),
    ("py:exc", "NotFittedError"),
    ("py:class", "Callback"),
    # a base class of TaskModule and two types of results, which are not public
    ("py:class", r"lossselect\..*\.(Classifier|ExportedModel|Plan)"),
]

myst_heading_anchors = 4

default_role = "name"  # below
autodoc_default_options = {"members": True}
autosummary_generate = False  # tables of names only; the pages in docs/api are written by hand
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # overridden methods of Lightning and torch
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shapes"]
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # opened from disk, a browser does not let the search read other pages
html_sidebars = {"**": ["pages.html"]}
html_theme_options = {
    "navbar_center": [],
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "footer_start": [],
    "footer_end": [],
    "logo": {"text": "lossselect"},
}


def map_links(text: str, folder: Path, docname: str) -> str:
    """Point links of a text in `folder` to pages; other files and folders of the repository are downloads."""
    here = (DOCS / docname).parent

    def link(match: re.Match[str]) -> str:
        path, mark, anchor = match[1].partition("#")
        file = Path(os.path.normpath(folder / path))
        if file.parent == DOCS.parent and file.stem in ROOT_PAGES:
            file = DOCS / f"{ROOT_PAGES[file.stem]}.md"
        if file.is_dir():
            file /= "README.md"
        if not path or not file.exists():
            return match[0]
        scheme = "" if file.is_relative_to(DOCS) else "path:"
        return f"]({scheme}{os.path.relpath(file, here)}{mark}{anchor}"

    return re.sub(r"\]\(([\w./#-]+)(?=\))", link, text)


def read_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Map the links of a page, and add the toctrees to the first one."""
    source[0] = map_links(source[0], (DOCS / docname).parent, docname)
    if docname == "index":
        for caption, pages in NAVIGATION.items():
            lines = "\n".join(line.strip() for line in pages.strip().splitlines())
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"


def read_include(app: Sphinx, path: Path, docname: str, content: list[str]) -> None:
    """Map the links of a file that a page includes."""
    content[0] = map_links(content[0], DOCS.parent, docname)


def name_role(role: str, rawtext: str, text: str, lineno: int, inliner: Any, *_: Any) -> Any:
    """Show text in single backticks as code, with a link if it is a name of lossselect's."""
    text = unescape(text)
    literal = nodes.literal(rawtext, text)
    if not re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", text):
        return [literal], []
    env = inliner.document.settings.env
    target = {"refdomain": "py", "reftype": "obj", "refdoc": env.docname}
    target["reftarget"] = text.removesuffix("()")
    context = {key: env.ref_context.get(key) for key in ("py:module", "py:class")}
    return [pending_xref(rawtext, literal, **target, **context, optional=True)], []


def resolve_name(app: Sphinx, env: Any, node: pending_xref, content: nodes.Element) -> nodes.Node | None:
    """Look a name up in lossselect itself; one that is not there stays code."""
    if "optional" not in node:
        return None
    found = env.domains.python_domain.find_obj(env, "lossselect", None, node["reftarget"], None)
    if not found:
        return content
    name, entry = found[0]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)


def prepare_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Take the docstring of a public constant from the module that defines it."""
    home, _, short = name.rpartition(".")
    if home == "lossselect" and what == "data":
        module = ModuleAnalyzer.for_module(f"lossselect.{lossselect._HOME[short]}")
        lines[:] = module.find_attr_docs().get(("", short), [])
    if what in ("attribute", "property") and ":" in lines[0]:
        # an empty comment first: Napoleon takes the words before a colon on the first line for a type
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.add_role("name", name_role)
    app.connect("source-read", read_page)
    app.connect("include-read", read_include)
    app.connect("missing-reference", resolve_name)
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)  # before Napoleon
