"""Wisconsin breast cancer (diagnostic), bundled with scikit-learn, dealt out to made-up sites with label skew.

Source: W. H. Wolberg, W. N. Street, O. L. Mangasarian, 1995; UCI, doi:10.24432/C5DW2B, CC BY 4.0.  569 fine-needle
aspirates, 212 of them malignant (label 1 here; scikit-learn counts the other way round), 30 features of the nuclei.
The measurements are real, the sites are not.
"""

from __future__ import annotations

import numpy as np

from securefl.data.split import apportion, shuffled, source
from securefl.data.types import Dataset, Site
from securefl.errors import UserError

SITES = 5
"""Sites when the user names no number."""
FEWEST_SITES, FEWEST_ROWS = 2, 40
SKEW = 0.6
"""A site's share of malignant rows lies up to this factor above or below that of all rows (0.37): between 0.15 and
0.60."""

RANGES: dict[str, tuple[float, float]] = {
    "mean radius": (6.981, 28.11),
    "mean texture": (9.71, 39.28),
    "mean perimeter": (43.79, 188.5),
    "mean area": (143.5, 2501.0),
    "mean smoothness": (0.053, 0.163),
    "mean compactness": (0.019, 0.345),
    "mean concavity": (0.0, 0.427),
    "mean concave points": (0.0, 0.201),
    "mean symmetry": (0.106, 0.304),
    "mean fractal dimension": (0.05, 0.097),
    "radius error": (0.112, 2.873),
    "texture error": (0.36, 4.885),
    "perimeter error": (0.757, 21.98),
    "area error": (6.802, 542.2),
    "smoothness error": (0.002, 0.031),
    "compactness error": (0.002, 0.135),
    "concavity error": (0.0, 0.396),
    "concave points error": (0.0, 0.053),
    "symmetry error": (0.008, 0.079),
    "fractal dimension error": (0.001, 0.03),
    "worst radius": (7.93, 36.04),
    "worst texture": (12.02, 49.54),
    "worst perimeter": (50.41, 251.2),
    "worst area": (185.2, 4254.0),
    "worst smoothness": (0.071, 0.223),
    "worst compactness": (0.027, 1.058),
    "worst concavity": (0.0, 1.252),
    "worst concave points": (0.0, 0.291),
    "worst symmetry": (0.156, 0.664),
    "worst fractal dimension": (0.055, 0.208),
}
"""Minimum and maximum of each feature, as printed in scikit-learn's description of the data set.

Source: ``load_breast_cancer().DESCR``, "Summary Statistics".  They are published with the data, so scaling by them opens
nothing.  The table is rounded to three digits: a few values lie outside by less than half a unit of the last digit.
"""
CLASSES = ("benign", "malignant")


def load(*, clients: int | None, seed: int) -> Dataset:
    """The 569 rows over ``clients`` sites of equal size (to one row) with evenly spaced shares of malignant rows.

    Which site gets which share, and which rows, is drawn from ``seed``.  Every site has at least 40 rows and both
    classes.

    Args:
        clients: number of sites, 2 up to 14; None for 5.
        seed: the job's seed.

    Raises:
        UserError: ``clients`` or ``seed`` is out of range.
    """
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415 - slow to import

    bunch = load_breast_cancer()
    x, y = np.asarray(bunch.data, dtype=np.float64), 1 - np.asarray(bunch.target, dtype=np.int64)
    features = tuple(str(name) for name in bunch.feature_names)
    count = SITES if clients is None else clients
    most = y.size // FEWEST_ROWS
    if not FEWEST_SITES <= count <= most:
        raise UserError(
            f"clients is {count}: breast-cancer has {y.size} rows and a site needs {FEWEST_ROWS}, "
            f"so {FEWEST_SITES} up to {most} is allowed"
        )
    rand = source(seed, "sites of breast-cancer")
    malignant, benign = (shuffled(rand, f"class {c}", np.flatnonzero(y == c).astype(np.int64)) for c in (1, 0))
    sizes = apportion(np.full(count, y.size / count), y.size)
    tilt = np.linspace(1 - SKEW, 1 + SKEW, count)[shuffled(rand, "shares", np.arange(count, dtype=np.int64))]
    # Sizes differ by one row, so the tilted shares miss the total by a hair; scaling them to it moves each by far less than a row.
    positives = apportion(sizes * tilt * malignant.size / float(sizes @ tilt), malignant.size)
    first, second = np.cumsum(positives)[:-1], np.cumsum(sizes - positives)[:-1]
    rows = [np.sort(np.concatenate(pair)) for pair in zip(np.split(malignant, first), np.split(benign, second), strict=True)]
    return Dataset(
        name="breast-cancer",
        features=features,
        sites=tuple(Site(f"site {i}", x[own], y[own]) for i, own in enumerate(rows, start=1)),
        ranges=np.array([RANGES[name] for name in features], dtype=np.float64),
        fixed_sites=False,
        source="Wisconsin breast cancer (diagnostic), UCI doi:10.24432/C5DW2B, CC BY 4.0, as bundled with scikit-learn",
        notes=(f"{y.size} real rows dealt out to {count} made-up sites with unequal shares of malignant rows",),
        classes=CLASSES,
    )
