"""Runs several commands of `lossselect` in one process, so that modules are imported only once.

python commands.py FILE COMMANDS, with the commands as JSON; writes their exit codes to the file.
"""

import json
import sys
from pathlib import Path

from lossselect.cli.main import main

if __name__ == "__main__":
    path, codes = Path(sys.argv[1]), []
    for arguments in json.loads(sys.argv[2]):
        sys.argv = ["lossselect", *arguments]
        try:
            main()
            codes.append(0)
        except SystemExit as stopped:
            codes.append(stopped.code or 0)
        path.write_text(json.dumps(codes))
