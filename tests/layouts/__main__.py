"""Write the files of all layouts to a folder, and print how many tries each takes.

python tests/layouts FOLDER [NAME ...]
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from all_layouts import LAYOUTS
from check import check, composer, write


def main() -> None:
    folder, names = Path(sys.argv[1]).resolve(), sys.argv[2:] or [*LAYOUTS]
    counts: dict[str, int] = {}
    with composer():
        for name in names:
            layout = LAYOUTS[name]()
            write(layout, folder / name)
            os.chdir(folder / name)
            faults = check(layout)
            result = f"try {len(layout.tries)}" if not faults else "pending" if layout.pending else "FAULT"
            counts[result] = counts.get(result, 0) + 1
            detail = layout.pending or ("; ".join(faults) if faults else "")
            print(f"{name:32} {result:8} {detail}")
            if not faults:
                print("  ", " && ".join(layout.tries)) if "-v" in sys.argv else None
    print(", ".join(f"{count} {result}" for result, count in sorted(counts.items())), f"of {len(names)}")


main()
