"""What the adversary derives from the vectors with the secrets that it has: sums in which every other mask cancels."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import TypeVar

from protocols.agreement import Agreed
from securefl.audit.symbolic.ways import Mask, State

K = TypeVar("K", int, bytes)


@dataclass(frozen=True)
class Knowledge:
    """What the adversary derives in a state.

    Attributes:
        seeds: parties whose seed b it has.
        keys: parties whose mask key s_sk it has.
        publics: public keys whose secrets it has.
        bits: shares that it has.
        opened: what was shown to each party that opened.
    """

    seeds: frozenset[int]
    keys: frozenset[int]
    publics: frozenset[bytes]
    bits: int
    opened: Mapping[int, Agreed]

    def has(self, party: int, mask: Mask) -> bool:
        """Whether it can make a mask in that party's vector."""
        return party in self.seeds if not mask.publics else not self.publics.isdisjoint(mask.publics)


def combinations_of(state: State, known: Knowledge, absent: Container[bytes] = ()) -> list[dict[int, int]]:
    """A basis of what the vectors add up to without masks that are not known: coefficients of the inputs, by party.

    Args:
        state: whose vectors.
        known: what is derived there.
        absent: mask keys of those who are not in the state yet; their vectors may cancel any mask shared with them.
    """
    rows = dict[int, dict[bytes, int]]()
    for u, way in state.items():
        if way.cover is not None:
            row = dict[bytes, int]()
            for mask in way.cover.masks:
                if not known.has(u, mask) and not any(public in absent for public in mask.publics):
                    row[mask.key] = row.get(mask.key, 0) + mask.sign
            rows[u] = {key: times for key, times in row.items() if times}
    while lone := _alone(rows):
        for u in lone:
            del rows[u]
    return _kernel(rows)


def _alone(rows: Mapping[int, Mapping[bytes, int]]) -> list[int]:
    """Parties with a mask that is in no other vector."""
    count = dict[bytes, int]()
    for masks in rows.values():
        for key in masks:
            count[key] = count.get(key, 0) + 1
    return [u for u, masks in rows.items() if any(count[key] == 1 for key in masks)]


def _kernel(rows: Mapping[int, Mapping[bytes, int]]) -> list[dict[int, int]]:
    """Combinations of rows that leave no mask, in whole numbers."""
    out = list[dict[int, int]]()
    pivots = list[tuple[bytes, dict[bytes, Fraction], dict[int, Fraction]]]()
    for u, masks in rows.items():
        row, made = {key: Fraction(sign) for key, sign in masks.items()}, {u: Fraction(1)}
        for pivot, other, how in pivots:
            if factor := row.get(pivot, Fraction(0)):
                row = _minus(row, factor, other)
                made = _minus(made, factor, how)
        if not row:
            scale = lcm(*(value.denominator for value in made.values())) * (1 if next(iter(made.values())) > 0 else -1)
            out.append({v: int(value * scale) for v, value in made.items()})
            continue
        pivot, lead = next(iter(row.items()))
        pivots.append((pivot, {key: value / lead for key, value in row.items()}, {v: value / lead for v, value in made.items()}))
    return out


def _minus(row: Mapping[K, Fraction], factor: Fraction, other: Mapping[K, Fraction]) -> dict[K, Fraction]:
    out = {key: row.get(key, Fraction(0)) - factor * other.get(key, Fraction(0)) for key in {**row, **other}}
    return {key: value for key, value in out.items() if value}
