"""Write the files of all layouts to a folder, and print how many tries each takes.

python tests/helpers/layouts FOLDER [NAME ...]
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from layouts.all_layouts import LAYOUTS
from layouts.check import check, write


def main() -> None:
    """Print a line for each layout, and the counts."""
    folder, names = Path(sys.argv[1]).resolve(), sys.argv[2:] or [*LAYOUTS]
    counts: dict[str, int] = {}
    for name in names:
        layout = LAYOUTS[name]()
        write(layout, folder / name)
        os.chdir(folder / name)
        faults = check(layout)
        result = f"try {len(layout.tries)}" if not faults else "pending" if layout.pending else "FAULT"
        counts[result] = counts.get(result, 0) + 1
        print(f"{name:34} {result:8} {layout.pending or '; '.join(faults) or layout.tries[0]}")
    print(", ".join(f"{count} {result}" for result, count in sorted(counts.items())), f"of {len(names)}")


if __name__ == "__main__":  # pytest imports the module
    main()
