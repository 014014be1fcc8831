"""An `Example:` of a docstring is code on the site: an extension of Griffe, which knows `Examples:` alone."""

import re
from typing import Any

import griffe


class CodeInExamples(griffe.Extension):
    """Calls them what Griffe looks for; the source stays as it is."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
