"""All layouts; importing their modules registers them."""

from layouts import columns, formats, lists, splits, uci
from layouts.cases import LAYOUTS

__all__ = ["LAYOUTS", "columns", "formats", "lists", "splits", "uci"]
