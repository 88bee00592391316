"""Which parties a round invites where a job samples a cohort for each: ``privacy.clients_per_round`` of the registered, at random.

The server draws, from randomness that it is handed, every set of that size with the same chance; the sum's roster is that cohort,
in the order of the registered, and parameters, noise and bounds are those of its size.

What it does not protect: the server draws and sees who is drawn, so no ε is smaller for it; a server that draws as it likes is held
by each party's smallest cohort alone.  Exact sums over changing cohorts can be combined (`securefl.privacy.differencing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from protocols.errors import Refused, require
from protocols.rand import Entropy, Rand
from protocols.suite import Roster
from securefl.errors import UserError
from securefl.job import Job
from securefl.parties import Consortium


def sampled(among: Sequence[int], count: int, rand: Rand) -> list[int]:
    """``count`` different ones, ascending; every set of so many has the same chance.

    Args:
        among: different numbers, at least ``count``.
        count: how many.
        rand: the randomness; the labels ``place 0``, ``place 1`` … are drawn.
    """
    left = list(among)
    for at in range(count):  # Fisher and Yates, as far as needed
        other = at + rand.below(f"place {at}", len(left) - at, 1)[0]
        left[at], left[other] = left[other], left[at]
    return sorted(left[:count])


def invitation(present: Sequence[int], absent: Sequence[int], count: int, rand: Rand) -> list[int]:
    """A cohort of those present; where they are fewer than ``count``, all of them and some of the absent, who then drop out.

    The size of a cohort is public and fixed, so it is filled up; arguments as for `sampled`.
    """
    if len(present) >= count:
        return sampled(present, count, rand)
    return sorted([*present, *sampled(absent, count - len(present), rand)])


def among(roster: Roster, places: Sequence[int]) -> Roster:
    """The roster of those at these places, in the same order."""
    return Roster(tuple(roster.members[place - 1] for place in places))


def as_bits(places: Sequence[int], registered: int) -> bytes:
    """A cohort as it is told: a bit for each of the registered, the first the lowest of the first byte."""
    return sum(1 << (place - 1) for place in places).to_bytes((registered + 7) // 8, "little")


def places_of(bits: bytes, registered: int, count: int) -> list[int]:
    """The places that are told.

    Args:
        bits: as `as_bits` makes them.
        registered: how many parties the roster has.
        count: how many the job invites.

    Raises:
        Refused: ``net-cohort`` for other bits than a cohort of that size has.
    """
    value = int.from_bytes(bits, "little")
    fits = len(bits) == (registered + 7) // 8 and value >> registered == 0 and value.bit_count() == count
    require(fits, "net-cohort", f"{value.bit_count()} of {8 * len(bits)} places invited, the job invites {count} of {registered}")
    return [place for place in range(1, registered + 1) if value >> (place - 1) & 1]


def own_place(places: Sequence[int], mine: int) -> int:
    """Place in the cohort of the one at ``mine`` on the roster.

    Raises:
        Refused: ``net-cohort`` where it is not invited.
    """
    if mine not in places:
        raise Refused("net-cohort", "a sum to which this party is not invited")
    return places.index(mine) + 1


def refuse_recording(job: Job, what: str) -> None:
    """Refuse to write down a run whose rosters change.

    Raises:
        UserError: with the key.
    """
    if job.privacy.clients_per_round is not None:
        raise UserError(f"privacy.clients_per_round is refused with {what}: it is of one roster, and every round has another")


def cohort_of(registered: Consortium, count: int, entropy: Entropy) -> Consortium:
    """Those invited to a round in one process, each with its place in the cohort.

    Args:
        registered: everybody.
        count: how many are invited; where that is all, nothing is drawn.
        entropy: of the draw.
    """
    if count == len(registered.parties):
        return registered
    places = sampled([*registered.roster.indexes], count, entropy())
    parties = tuple(replace(registered.parties[place - 1], index=at) for at, place in enumerate(places, 1))
    return Consortium(among(registered.roster, places), parties)
