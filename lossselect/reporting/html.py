"""Pages from templates: text is escaped, and only the script of the package runs."""

import base64
import hashlib
import io
import re
import warnings
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lossselect.reporting import figures
from lossselect.utils.names import shorten_names
from lossselect.utils.terminal import escape_controls

UNDEFINED = "\N{EN DASH}"  # sort.js compares cells with it
LONG_NAME = 48
"""Maximum number of characters of a name in a table."""


class Numeric(NamedTuple):
    """The text of a cell that begins with a number, by which its column is sorted."""

    text: str


def render(template: str, **content: Any) -> str:
    """Return the page that a template of this package makes of its content."""
    script = read_asset("sort.js")
    # the digest allows only this script: a script in a class name does not run
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment().get_template(template)
    return page.render(script=Markup(script), style=Markup(read_asset("page.css")), digest=digest, **content)


def read_asset(name: str) -> str:
    """Return the content of a template, style or script of this package."""
    return (files("lossselect.reporting") / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(read_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: escape_controls(value) if type(value) is str else value,
    )
    environment.filters |= {
        "breakable": add_breaks,
        "cell": format_cell,
        "shorten": partial(shorten_names, max_length=LONG_NAME),
    }
    return environment


def add_breaks(text: str) -> Markup:
    """Return text as markup in which a line may end after an underscore."""
    return escape(escape_controls(text)).replace("_", Markup("_<wbr>"))


def format_cell(value: Any) -> str:
    """Return the text of a cell: three digits after the point, or two significant ones of a small number."""
    if value is None or value != value:
        return UNDEFINED
    if isinstance(value, Numeric):
        return value.text
    if not isinstance(value, float | np.floating):
        return str(value)
    size = abs(float(value))
    if size == 0 or 1e-2 <= size < 1e4:
        return f"{value:.3f}"
    return f"{value:#.2g}" if size < 1 else f"{value:.6g}"


def figure_to_svg(figure: Figure, name: str, png: Path | None = None) -> str:
    """Return a figure as SVG, and write it to a PNG file; `name` makes its ids unique in a page."""
    svg = io.StringIO()
    with figures.styled(name), warnings.catch_warnings():
        # an emoji in a class name, in the PNG
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # not Figure.savefig, which draws a figure twice
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
        if png is not None:
            figure.set_layout_engine("none")  # the layout stays, and computing it takes as long as drawing
            figure.set(dpi=130, facecolor="white")
            FigureCanvasAgg(figure).print_png(png)
    return escape_controls(svg.getvalue())  # XML cannot contain control characters


def inline(svg: str) -> Markup:
    """Return an SVG as markup for a page, in the colour of its text."""
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # matplotlib escapes text; the ids of groups would be repeated in each figure
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    return Markup(text.replace(figures.INK, "currentColor"))
