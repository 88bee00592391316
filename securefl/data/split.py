"""Which rows of a site train and which are held out: reproducible from a number, stratified by label.

A split is drawn from the job's seed and the site's name alone, so every site can draw its own without telling anybody
its labels.  All draws come from `protocols.rand` with a seed that anybody can compute: nothing here is secret, and
nothing here protects anything.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from protocols.rand import Rand, Seed
from securefl.data.types import Site, Split
from securefl.errors import UserError


def source(seed: int, purpose: str) -> Rand:
    """Reproducible randomness for one public purpose.

    Args:
        seed: the job's seed, 0 up to 2^256 - 1.
        purpose: a label; two purposes give independent draws.

    Raises:
        UserError: ``seed`` is outside its range.
    """
    if not 0 <= seed < 2**256:
        raise UserError(f"seed is {seed}: 0 up to 2^256 - 1 is allowed")
    return Rand(Seed(seed.to_bytes(32, "little"))).child(purpose)


def shuffled(rand: Rand, label: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same row numbers in an order drawn from ``rand``; shape (rows,), int64."""
    return rows[np.argsort(rand.words(label, rows.size), kind="stable")]


def apportion(quotas: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers that add up to ``total``, each less than one away from its quota.

    Largest remainder; ties go to the first.

    Args:
        quotas: shape (parts,), float64, at least 0, whose sum is less than one away from ``total``.
        total: the sum wanted.

    Returns:
        Shape (parts,), int64.
    """
    whole = np.floor(quotas).astype(np.int64)
    spare = total - int(whole.sum())
    whole[np.argsort(whole - quotas, kind="stable")[:spare]] += 1
    return whole


def plan(dataset_site: Site, *, folds: int | None, holdout: float, seed: int) -> tuple[Split, ...]:
    """Draw the splits of one site, the same for the same (seed, site name, labels).

    Args:
        dataset_site: the site; only its name, labels and owners are read.
        folds: None for one split, K for K-fold cross-validation (K splits, every row in exactly one test part).
        holdout: share of the rows held out when ``folds`` is None, 0 < holdout < 1; not read otherwise.
        seed: the job's seed.

    Returns:
        One `Split` a fold, row numbers ascending.  Each class is cut in proportion, to within one row.  Every train
        part has a row; the test part of a single split is empty where ``holdout`` of the site's rows rounds to none.

    Raises:
        UserError: the site is empty, has fewer rows than folds, or would keep no row to train on; a knob is out of
        range.

    Rows with owners are not drawn by class: an owner's place follows from the owner and ``seed`` alone, so that it is the same at
    every site, and ``holdout`` and the folds' sizes hold on average.
    """
    name, rows = dataset_site.name, dataset_site.y.size
    if rows == 0:
        raise UserError(f"site {name!r} is empty: a site needs at least 1 row")
    if folds is None and not 0 < holdout < 1:
        raise UserError(f"holdout is {holdout}: more than 0 and less than 1 is allowed")
    if folds is not None and folds < 2:
        raise UserError(f"folds is {folds}: 2 or more is allowed")
    if folds is not None and rows < folds:
        raise UserError(f"site {name!r} has {rows} row{'s' * (rows != 1)}, too few for {folds} folds: 2 up to {rows}")
    if dataset_site.owners is not None:
        return _by_owner(name, places(dataset_site.owners, seed), folds, holdout)
    rand = source(seed, f"split of site {name}")
    classes = [
        shuffled(rand, f"class {label}", np.flatnonzero(dataset_site.y == label).astype(np.int64))
        for label in np.unique(dataset_site.y).tolist()
    ]
    if folds is None:
        tests = [_held_out(classes, rows, holdout, name)]
    else:
        # Dealing the classes one after another, without starting again at the first fold, evens out folds and classes at once.
        turn = (np.arange(rows) + rand.below("first fold", folds, 1)[0]) % folds
        tests = [np.concatenate(classes)[turn == fold] for fold in range(folds)]
    everything = np.arange(rows, dtype=np.int64)
    return tuple(Split(train=np.setdiff1d(everything, test), test=np.sort(test)) for test in tests)


def places(owners: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """Where in [0, 1) each owner lies in the splits of ``seed``, shape (rows,), the same for equal owners.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) of the owner, moved by a word that ``seed`` gives.
    """
    (start,) = source(seed, "owners").words("key", 1)
    with np.errstate(over="ignore"):
        z = (owners ^ start) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.asarray((z >> np.uint64(11)).astype(np.float64) * 2.0**-53, dtype=np.float64)


def _by_owner(name: str, place: NDArray[np.float64], folds: int | None, holdout: float) -> tuple[Split, ...]:
    """Held out are the owners below ``holdout``, or in the fold's part of [0, 1)."""
    held = [place < holdout] if folds is None else [(place * folds).astype(np.int64) == fold for fold in range(folds)]
    if any(one.all() for one in held):
        raise UserError(
            f"site {name!r} has too few patients: in a split none is left to train on; another seed or fewer folds are needed"
        )
    return tuple(Split(train=np.flatnonzero(~one), test=np.flatnonzero(one)) for one in held)


def _held_out(classes: list[NDArray[np.int64]], rows: int, holdout: float, name: str) -> NDArray[np.int64]:
    total = math.floor(holdout * rows + 0.5)
    if total == rows:
        raise UserError(
            f"site {name!r} has {rows} row{'s' * (rows != 1)}: with holdout {holdout} none is left to train on; "
            "a smaller holdout is needed"
        )
    parts = apportion(holdout * np.array([rows_of.size for rows_of in classes], dtype=np.float64), total)
    return np.concatenate([rows_of[:part] for rows_of, part in zip(classes, parts.tolist(), strict=True)])
