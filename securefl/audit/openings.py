"""Whether an opened share is the one that its opener had accepted: what a tape shows of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from protocols.evidence import held_by, keeps_own
from protocols.kahe_types import Enciphered
from protocols.primitives.shamir import SHARE_SIZE
from protocols.said import Said
from protocols.schema import strings
from protocols.secagg_labels import share_hash
from protocols.secagg_types import PINS, Boxes, Masked

if TYPE_CHECKING:
    from securefl.audit.sitting import Entry, Walk


def other_shares(walk: Walk, u: int, opening: Entry) -> Iterator[tuple[int, Said, Said | None]]:
    """Dealers of whose secret u opened another share than it accepted, with the statements that prove it.

    Args:
        walk: the sum so far.
        u: the opener.
        opening: its signed shares.

    Yields:
        The dealer, what u signed with its masked vector, and for a share of its own what it signed when it dealt.
    """
    terms, told = walk.terms, walk.told[u]
    masked = walk.entries.get((u, Enciphered)) or walk.entries.get((u, Masked))
    dealt = walk.entries.get((u, Boxes))
    if masked is None or masked.said is None or masked.wrong or dealt is None or dealt.wrong or told.u2 is None or told.u3 is None:
        return
    others, shares = held_by(terms, told.L, u, told.u2), strings(opening.fields["shares"], SHARE_SIZE)
    pinned = dict(zip(others, strings(told.hashes, PINS), strict=True))
    own = [u] * keeps_own(terms)
    for dealer, share in zip(sorted(others + own), shares, strict=False):
        survived = dealer in told.u3
        wanted = dealt.fields["own_hash"] if dealer == u else _half(pinned[dealer], last=survived)
        if share_hash(terms, told.L, dealer, u, "b" if survived else "s", share) != wanted:
            yield dealer, masked.said, dealt.said if dealer == u else None


def _half(pins: bytes, *, last: bool) -> bytes:
    """The hash of one of both shares of a dealer: that of s_sk stands first, that of b last."""
    return pins[32:] if last else pins[:32]
