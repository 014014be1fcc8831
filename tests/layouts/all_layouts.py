"""All layouts."""

import columns  # noqa: F401
import formats  # noqa: F401
import lists  # noqa: F401
import splits  # noqa: F401
import uci  # noqa: F401
from cases import LAYOUTS

__all__ = ["LAYOUTS"]
