"""Build lossselect/data/yeast.npz from the wheel of river 0.26.1.

    pip download --no-deps river==0.26.1 && python scripts/build_yeast.py river-0.26.1-*.whl

The values have six decimals. Stored as integer millionths they are exact, and the file is a fifth smaller
than with float32.
"""

import csv
import gzip
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

LABELS = 14
DATA = Path(__file__).parent.parent / "lossselect" / "data"


def main(wheel: str) -> None:
    """Write yeast.npz and yeast.LICENSE to lossselect/data."""
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read("river/datasets/yeast.csv.gz")
        license_file = next(name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
        licence = archive.read(license_file)
    rows = list(csv.reader(io.StringIO(gzip.decompress(packed).decode())))[1:]
    table = np.array(rows, dtype=np.float64)
    features = np.round(table[:, :-LABELS] * 1e6).astype(np.int32)
    labels = table[:, -LABELS:].astype(np.uint8)
    assert features.shape == (2417, 103)
    assert np.abs(features / 1e6 - table[:, :-LABELS]).max() < 1e-12
    assert set(np.unique(labels)) == {0, 1}
    np.savez_compressed(DATA / "yeast.npz", features=features, labels=labels)
    (DATA / "yeast.LICENSE").write_bytes(licence)


if __name__ == "__main__":
    main(*sys.argv[1:])
