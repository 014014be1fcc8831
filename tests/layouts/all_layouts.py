"""All layouts."""

import formats  # noqa: F401
import notations  # noqa: F401
import splits  # noqa: F401
import uci  # noqa: F401
from cases import LAYOUTS

__all__ = ["LAYOUTS"]
