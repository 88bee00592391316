"""What a job claims of its records, held against them before training: the public number of rows, δ, and the models that one is in.

What it does not find: a record that comes as several different rows, such as one with another label in every fold.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from securefl.errors import UserError
from securefl.knobs import PrivacyKnobs
from securefl.privacy.batches import count_rows, in_blocks
from securefl.privacy.record_plan import HEADROOM
from securefl.round_types import Fold

ALIKE = 0.05
"""Share of a site's rows that may look like another record of it where folds are held against ``models_per_record``."""


def check_claims(sites: Mapping[str, tuple[Fold, ...]], knobs: PrivacyKnobs, models_per_record: int) -> list[str]:
    """Refuse rows too far above the public number for sums to hold, a δ that lets a row be shown, and folds that understate ε.

    Rows are told apart by their values, so two records that look alike count as one: where few rows do, that is said, not refused.

    Args:
        sites: the folds of every site; over a network the party's own alone.
        knobs: the mechanism, and ``rows`` where it sums gradients record by record.
        models_per_record: in how many folds' training parts a record is, by the caller's word.

    Returns:
        One line for each site in which up to `ALIKE` of the rows are in more folds.

    Raises:
        UserError: naming the site, with the numbers.
    """
    lines = []
    for name, folds in sites.items():
        if knobs.summed and knobs.rows is not None:
            _check_room(name, max(count_rows(fold.train) for fold in folds), knobs.rows)
        if knobs.mechanism == "local-record":  # with sums over records it is held against all of them, when the noise is planned
            _check_delta(name, max(count_rows(fold.train) for fold in folds), knobs.delta)
        if knobs.per_record and models_per_record < len(folds):
            lines += _check_folds(name, folds, models_per_record)
    return lines


def _check_room(name: str, rows: int, public: int) -> None:
    most = HEADROOM * public
    if rows > most:
        raise UserError(
            f"{name} has {rows} training rows where privacy.rows = {public}: sums have room for up to {most}; "
            f"give about the mean over the sites, here at least {math.ceil(rows / HEADROOM)}"
        )


def _check_delta(name: str, rows: int, delta: float) -> None:
    if delta * rows >= 1:
        raise UserError(
            f"{name} has {rows} training rows and privacy.delta = {delta:g}: it must be below one over the rows, {1 / rows:.3g}, "
            "or one of them might be shown"
        )


def _check_folds(name: str, folds: tuple[Fold, ...], claimed: int) -> list[str]:
    counts = [Counter(_digests(fold.train)) for fold in folds]
    total = sum(counts, Counter[bytes]())
    suspect = {row: most for row, many in total.items() if many > claimed * (most := max(count[row] for count in counts))}
    if any(most > 1 for most in suspect.values()):
        # Of records that look alike some may be held out in every fold: with the fewest of those there are as many more of them.
        held = [Counter(_digests(fold.test)) if fold.test is not None else Counter[bytes]() for fold in folds]
        suspect = {row: most + (most > 1) * min(count[row] for count in held) for row, most in suspect.items()}
    over = sum(total[row] > claimed * most for row, most in suspect.items())
    text = f"{over} of {len(total)} different training rows of {name} are in more than models_per_record = {claimed} of its folds"
    if over > ALIKE * len(total):
        raise UserError(f"{text}: ε would be understated; give the true number, or leave it out")
    return [f"{text}: ε holds only if those are different records that look alike"] if over else []


def _digests(data: Dataset[Any]) -> Iterator[bytes]:
    """One for each row: of its features and label as float64."""
    for _, (x, y) in in_blocks(data):
        wide = np.concatenate([part.detach().cpu().double().reshape(len(part), -1).numpy() for part in (x, y)], axis=1)
        yield from (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in wide + 0.0)  # no -0.0
