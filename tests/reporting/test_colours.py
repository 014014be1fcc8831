"""The colours of figures on light and on dark pages."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from report_cases import outcome

import lossselect as ls
from lossselect.reporting.figures import COLOURS, FRACTIONS, INK, confusion, styled
from lossselect.reporting.html import read_asset

PAPERS, INKS = (
    re.findall(rf"--{name}: (#\w+)", read_asset("page.css")) for name in ("paper", "ink")
)  # of a light and of a dark page
SEEN = {
    "all colours": np.eye(3),
    "no red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "no green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "no blue": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
"""Linear RGB as seen by people; Machado et al., A physiologically-based model for simulation of color vision
deficiency, IEEE TVCG 15, 2009, severity 1."""
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def to_linear(colour):
    values = np.array(to_rgb(colour))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(first, second):
    """The contrast ratio of WCAG 2.2."""
    low, high = sorted((XYZ @ to_linear(colour))[1] for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def to_lab(colour, seen):
    f = np.cbrt(XYZ @ np.clip(seen @ to_linear(colour), 1e-3, 1) / XYZ.sum(1))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize(("paper", "ink"), [*zip(PAPERS, INKS, strict=True)], ids=["light", "dark"])
def test_numbers_of_a_matrix_are_readable(paper, ink):
    counts = np.diag(np.arange(16)) + np.roll(np.diag(np.arange(15, -1, -1)), 1, axis=1)
    with styled("confusion"):
        axes = confusion(outcome(ls.Multiclass(16), confusion=counts)).figure.axes[0]
    (image,) = axes.images
    assert image.cmap is FRACTIONS
    assert image.to_rgba(0.0)[3] == 0  # the colour of the page
    assert len(axes.texts) == 30
    for text in axes.texts:
        column, row = text.get_position()
        *colour, alpha = image.to_rgba(image.get_array()[row, column])
        cell = alpha * np.array(colour) + (1 - alpha) * np.array(to_rgb(paper))
        assert contrast(ink if text.get_color() == INK else text.get_color(), cell) > 3.8


@pytest.mark.parametrize("paper", PAPERS)
def test_curves_are_visible(paper):
    assert min(contrast(colour, paper) for colour in COLOURS) > 2.2


@pytest.mark.parametrize("seen", [*SEEN.values()], ids=[*SEEN])
def test_curves_can_be_told_apart(seen):
    pairs = itertools.combinations([to_lab(colour, seen) for colour in COLOURS], 2)
    assert min(np.linalg.norm(first - second) for first, second in pairs) > 15
