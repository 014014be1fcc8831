"""Build lossselect/data/breast_cancer.npz and digits.npz from the installed scikit-learn.

python scripts/build_samples.py
"""

from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits

DATA = Path(__file__).parent.parent / "lossselect" / "data"


def main() -> None:
    """Write both files and scikit_learn.LICENSE to lossselect/data."""
    for name, load, dtype in (("breast_cancer", load_breast_cancer, "f8"), ("digits", load_digits, "u1")):
        bunch = load()
        features = bunch.data.astype(dtype)
        assert (features == bunch.data).all()
        np.savez_compressed(
            DATA / f"{name}.npz",
            features=features,
            labels=bunch.target.astype("u1"),
            class_names=bunch.target_names.astype(str),
            columns=np.array(bunch.feature_names, dtype=str),
        )
    license_file = next(
        path for path in distribution("scikit-learn").files or () if path.match("licenses/COPYING")
    )
    own, _, bundled = license_file.read_text().partition("\n----\n")  # bundled: licences of binaries
    assert "bundles the following software" in bundled
    (DATA / "scikit_learn.LICENSE").write_text(own)


if __name__ == "__main__":
    main()
