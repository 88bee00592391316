"""The scripts of the catalogue.  Importing this package registers them all; another protocol's module joins by being imported here.

`securefl.audit.attacks.traffic` and ``splitting`` hold what black-box attacks are made of; ``network``, ``sums``, ``secrets``,
``randomness``, ``uniform``, ``inference`` and ``noised`` attack any protocol; the others know the messages of one family.
"""

from __future__ import annotations

from securefl.audit.attacks import (
    he,
    inference,
    kahe,
    kahe_values,
    light,
    network,
    noised,
    parties,
    randomness,
    secagg,
    secagg_keys,
    secrets,
    sparse,
    steps,
    sums,
    uniform,
)

__all__ = [
    "he",
    "inference",
    "kahe",
    "kahe_values",
    "light",
    "network",
    "noised",
    "parties",
    "randomness",
    "secagg",
    "secagg_keys",
    "secrets",
    "sparse",
    "steps",
    "sums",
    "uniform",
]
