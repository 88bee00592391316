"""Every lie that the server can put in one message: the party leaves by a named check, before anything else leaves it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from adversary import FIELD, Box, LyingServer, ending, federation, packed, pair, unpacked

from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.handshake import list_hash
from protocols.once import shared_work
from protocols.secagg_types import BOX, Advert, Boxes, Entry, Listed, Masked, Openings, Sealed


def signed(server: LyingServer, u: int, c_pk: bytes, s_pk: bytes) -> Advert:
    """An advert of the colluding party 6, signed with its identity."""
    return Advert(c_pk, s_pk, server.fed.parties[u].identity.sign(server.fed.terms.statement("keys", u, c_pk, s_pk)))


def reordered(listed: Listed, order: Iterable[int]) -> Listed:
    return Listed(tuple(listed.entries[i] for i in order))


def beyond(listed: Listed) -> Listed:
    """An index that nobody has, with a good signature of somebody else: the last entry becomes party 7."""
    last = listed.entries[-1]
    return Listed((*listed.entries[:-1], Entry(7, last.c_pk, last.s_pk, last.signature)))


LISTS: dict[str, tuple[str, Callable[[LyingServer], Listed]]] = {
    "descending": ("listed-order", lambda s: reordered(s.listed(), (1, 0, 2, 3, 4, 5))),
    "a party twice": ("listed-order", lambda s: reordered(s.listed(), (0, 1, 1, 2, 3, 4))),
    "a party outside of the roster": ("listed-order", lambda s: beyond(s.listed())),
    "without oneself": ("listed-own", lambda s: s.listed((2, 3, 4, 5, 6))),
    "other keys for oneself": ("listed-own", lambda s: s.listed(p1=s.all(Advert)[2])),
    "own keys exchanged": ("listed-own", lambda s: s.listed(p1=replace(s.all(Advert)[1], c_pk=s.all(Advert)[1].s_pk))),
    "too few": ("listed-cohort", lambda s: s.listed((1, 2, 3))),
    "somebody's key republished": ("listed-distinct", lambda s: s.listed(p6=signed(s, 6, s.all(Advert)[2].c_pk, pair("s").public))),
    "a mask key as box key": ("listed-distinct", lambda s: s.listed(p6=signed(s, 6, s.all(Advert)[2].s_pk, pair("s").public))),
    "one key for both": ("listed-distinct", lambda s: s.listed(p6=signed(s, 6, pair("s").public, pair("s").public))),
    "swapped keys": ("listed-signature", lambda s: s.listed(p2=replace(s.all(Advert)[2], s_pk=pair("s").public))),
    "signed by another": ("listed-signature", lambda s: s.listed(p2=signed(s, 6, pair("c").public, pair("s").public))),
    "a key of small order": ("public-key-order", lambda s: s.listed(p6=signed(s, 6, pair("c").public, bytes(32)))),
    "a key in a second spelling": (
        "public-key-canonical",
        lambda s: s.listed(p6=signed(s, 6, (FIELD + 9).to_bytes(32, "little"), pair("s").public)),
    ),
}


@pytest.mark.parametrize("lie", LISTS)
def test_a_false_list_is_refused_before_shares_leave(lie: str) -> None:
    check, forge = LISTS[lie]
    server = LyingServer(federation())
    server.tell(1, forge(server))
    assert ending(server.sessions[1]) == (check, "share")
    assert server.all(Boxes) == {}


@pytest.mark.parametrize("lie", LISTS)
def test_what_another_party_of_the_process_found_in_the_true_list_vouches_for_no_other(lie: str) -> None:
    check, forge = LISTS[lie]
    with shared_work():
        server = LyingServer(federation())
        server.tell(2, server.listed())
        assert list_hash(server.listed()) != list_hash(server.listed((1, 2, 3, 4, 5)))
        server.tell(1, forge(server))
        assert ending(server.sessions[1]) == (check, "share")
        assert set(server.all(Boxes)) == {2}


def swapped_boxes(sealed: Sealed) -> Sealed:
    first, second, *rest = opened_mail(sealed)
    return packed(sealed, [replace(first, box=second.box), replace(second, box=first.box), *rest])


def opened_mail(sealed: Sealed) -> list[Box]:
    return unpacked(sealed, range(len(sealed.boxes) // BOX))


SEALED: dict[str, tuple[str, Callable[[LyingServer], Sealed]]] = {
    "descending": ("sealed-set", lambda s: replace(s.sealed(1), u2=(2, 1, 3, 4, 5, 6))),
    "a party twice": ("sealed-set", lambda s: replace(s.sealed(1), u2=(1, 2, 2, 3, 4, 5))),
    "somebody who is not in the list": ("sealed-set", lambda s: replace(s.sealed(1), u2=(1, 2, 3, 4, 5, 7))),
    "without oneself": ("sealed-own", lambda s: replace(s.sealed(1), u2=(2, 3, 4, 5, 6))),
    "too few": ("sealed-cohort", lambda s: s.sealed(1, (1, 2, 3))),
    "a box too few": ("sealed-boxes", lambda s: packed(s.sealed(1), opened_mail(s.sealed(1))[1:])),
    "one box for two": ("box-opens", lambda s: packed(s.sealed(1), opened_mail(s.sealed(1))[:1] * 5)),
    "boxes of others": ("box-opens", lambda s: swapped_boxes(s.sealed(1))),
    "boxes for somebody else": ("box-opens", lambda s: packed(s.sealed(1), opened_mail(s.sealed(2)))),
    "own boxes sent back": ("box-opens", lambda s: packed(s.sealed(1), s.dealt(1))),
    "other share hashes": ("box-share-hash", lambda s: wrong_hashes(s.sealed(1))),
}


def wrong_hashes(sealed: Sealed) -> Sealed:
    first, *rest = opened_mail(sealed)
    return packed(sealed, [replace(first, s_hash=first.b_hash, b_hash=first.s_hash), *rest])


@pytest.mark.parametrize("lie", SEALED)
def test_false_boxes_are_refused_before_the_vector_leaves(lie: str) -> None:
    check, forge = SEALED[lie]
    server = LyingServer(federation())
    server.up_to_boxes()
    server.tell(1, forge(server))
    assert ending(server.sessions[1]) == (check, "mask")
    assert server.all(Masked) == {}


DROPPED = {
    "descending": ("dropped-set", (3, 2)),
    "a party twice": ("dropped-set", (2, 2)),
    "somebody who did not share": ("dropped-set", (7,)),
    "oneself": ("dropped-own", (1,)),
    "too many": ("dropped-cohort", (4, 5, 6)),
}


@pytest.mark.parametrize("lie", DROPPED)
def test_a_false_dropped_set_is_not_signed(lie: str) -> None:
    check, dropped = DROPPED[lie]
    server = LyingServer(federation(7) if dropped == (7,) else federation())
    if dropped == (7,):
        del server.sessions[7], server.heard[7, Advert]
    server.up_to_masks()
    server.tell(1, Dropped(dropped))
    assert ending(server.sessions[1]) == (check, "consent")
    assert server.all(Agree) == {}


def altered(agreed: Agreed, **change: int) -> Agreed:
    first, *rest = agreed.signatures
    return Agreed((replace(first, **change), *rest))  # type: ignore[arg-type]


AGREED: dict[str, tuple[str, Callable[[Agreed], Agreed]]] = {
    "too few": ("agreed-count", lambda a: Agreed(a.signatures[:3])),
    "one signer four times": ("agreed-signers", lambda a: Agreed(a.signatures[:1] * 4)),
    "descending": ("agreed-signers", lambda a: Agreed(a.signatures[::-1])),
    "one who dropped out": ("agreed-signers", lambda a: Agreed((*a.signatures[:4], Signed(6, a.signatures[4].signature)))),
    "a signature of another": ("agreed-signature", lambda a: Agreed((a.signatures[0], *map_signers(a.signatures[1:])))),
    "half of two signatures": (
        "agreed-signature",
        lambda a: Agreed((Signed(1, bytes(64)), Signed(2, bytes(64)), *a.signatures[2:])),
    ),
}


def map_signers(signatures: tuple[Signed, ...]) -> list[Signed]:
    return [Signed(s.index, t.signature) for s, t in zip(signatures, signatures[1:] + signatures[:1], strict=True)]


@pytest.mark.parametrize("lie", AGREED)
def test_without_agreement_nothing_is_opened(lie: str) -> None:
    check, forge = AGREED[lie]
    server = LyingServer(federation())
    server.up_to_masks()
    server.agree_on((6,))
    server.tell(1, forge(server.agreed()))
    assert ending(server.sessions[1]) == (check, "open_shares")
    assert server.all(Openings) == {}


@pytest.mark.parametrize("lie", AGREED)
def test_what_another_party_of_the_process_found_in_true_signatures_vouches_for_no_others(lie: str) -> None:
    check, forge = AGREED[lie]
    with shared_work():
        server = LyingServer(federation())
        server.up_to_masks()
        server.agree_on((6,))
        server.tell(2, server.agreed())
        server.tell(1, forge(server.agreed()))
        assert ending(server.sessions[1]) == (check, "open_shares")
        assert set(server.all(Openings)) == {2}
