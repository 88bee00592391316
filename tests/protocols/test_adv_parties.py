"""Bad boxes and bad dealers: selective failure, and shares of another secret than was committed to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from adversary import (
    EVERYBODY,
    ending,
    federation,
    run,
)

from protocols import secagg, simulate
from protocols.bulk import Bulk, Packed
from protocols.errors import Refused
from protocols.flow import Flow
from protocols.primitives import agree, seal
from protocols.primitives.prg import apply_masks
from protocols.rand import Key, Rand
from protocols.secagg_types import (
    Covered,
    Held,
    Masked,
    Sealed,
    Shared,
)
from protocols.session import SERVER, client
from protocols.vector import Vector, with_count
from protocols.wire import canonical
from securefl.audit.attacks.parties import dealer as dealing
from securefl.audit.attacks.parties import redealt as redealing
from securefl.audit.attacks.parties import reseal
from securefl.audit.attacks.secagg_keys import garbled_boxes
from securefl.audit.secagg_server import Box, unpacked

BAD, VICTIM = 6, 1
Shares = tuple[bytes, bytes]


def dealer(change: Callable[[Shared, list[Box], Rand], list[Box]]) -> Flow:
    return dealing(secagg.flow, change)


def one_bad(forge: Callable[[Shared, Box], Box]) -> Flow:
    """A party with one bad box, the victim's."""

    def change(shared: Shared, boxes: list[Box], _rand: Rand) -> list[Box]:
        return [forge(shared, box) if box.peer == VICTIM else box for box in boxes]

    return dealer(change)


# A bad box


JUNK = bytes(33)
BAD_BOXES: dict[str, tuple[str, Callable[[Shared, Box], Box]]] = {
    "noise": ("box-opens", lambda _, box: replace(box, box=bytes(len(box.box)))),
    "other ids inside": ("box-ids", lambda shared, box: reseal(shared, box, secagg.box_content(BAD, 2, JUNK, JUNK))),
    "its own id in the place of the dealer's": (
        "box-ids",
        lambda shared, box: reseal(shared, box, secagg.box_content(VICTIM, BAD, JUNK, JUNK)),
    ),
    "zeros inside": ("box-ids", lambda shared, box: reseal(shared, box, bytes(8 + 2 * len(JUNK)))),
    "shares that were not hashed": (
        "box-share-hash",
        lambda shared, box: reseal(shared, box, secagg.box_content(BAD, VICTIM, JUNK, JUNK)),
    ),
}


@pytest.mark.parametrize("kind", BAD_BOXES)
def test_who_gets_a_bad_box_leaves_naming_its_sender_and_the_others_go_on(kind: str) -> None:
    check, forge = BAD_BOXES[kind]
    fed = federation()
    outcome = run(fed, flows={BAD: one_bad(forge)})
    victim = outcome.sessions[client(VICTIM)]
    assert ending(victim) == (check, "mask")
    assert [(fault.check, fault.sender) for fault in victim.faults] == [(check, "client 6")]
    assert outcome.sessions[SERVER].accused == {client(VICTIM): BAD}
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[1:])
    assert [name for name, sender, _, _ in outcome.traffic if sender == client(VICTIM)] == ["Advert", "Boxes", "Farewell"]


def tolerant_mask(shared: Shared, sealed: Sealed, x: Vector) -> tuple[Covered, Masked]:
    """`protocols.secagg.mask` with one thing left out: a party whose box does not open is skipped."""
    invited, L, terms = shared.invited, shared.L, shared.invited.terms
    me, held = invited.me, {invited.me: Held(None, shared.own_share)}
    plus, minus = [agree.derive(shared.b, canonical(["self", terms.sid, L, me]))], list[Key]()
    y = with_count(x, terms.parameters)
    for box in unpacked(sealed, [u for u in sealed.u2 if u != me]):
        entry = shared.entries[box.peer]
        try:
            key = secagg.box_key(terms, L, shared.c, entry.c_pk, box.peer, me, mine=me)
            plain = seal.unseal(key, box.box, secagg.box_aad(terms, L, box.peer, me))
        except Refused:
            continue
        held[box.peer] = Held(plain[-66:-33], plain[-33:])
        (plus if me < box.peer else minus).append(secagg.pair_key(terms, L, shared.s, entry.s_pk, me, box.peer))
    apply_masks(y, plus, minus)
    bulk = Bulk.of(Packed(terms.parameters.ring, terms.parameters.size + 1), y)
    return Covered(invited, L, sealed.u2, held), Masked(bulk, bytes(32), invited.identity.sign(b""))


def test_boxes_broken_on_the_way_make_the_recipient_leave_before_it_masks() -> None:
    server, stolen = garbled_boxes(federation())
    assert ending(server.sessions[VICTIM]) == ("box-opens", "mask")
    assert stolen == []


def test_control_a_party_that_skips_bad_boxes_is_left_with_the_colluders_mask() -> None:
    fed = federation()
    flows = {VICTIM: secagg.flow.replace(mask=tolerant_mask)}
    _, stolen = garbled_boxes(fed, {u: fed.session(u, flow=flows.get(u)) for u in fed.parties})
    assert stolen == fed.vectors[VICTIM].tolist()


# A bad dealer


def redealt(secret: str, value: bytes | None) -> Flow:
    return redealing(secagg.flow, secret, value)


@pytest.mark.parametrize(
    "value",
    [None, bytes(33), b"\xff" * 33, b"\x01" + bytes(32)],
    ids=["another secret", "zero", "outside of the field", "more than 32 bytes hold"],
)
@pytest.mark.parametrize("secret", ["s", "b"])
def test_a_dealer_whose_secret_is_another_than_it_committed_to_is_named(secret: str, value: bytes | None) -> None:
    fed = federation()
    network = simulate.vanish({client(BAD): "Masked"}) if secret == "s" else None
    outcome = run(fed, flows={BAD: redealt(secret, value)}, network=network)
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == ("rebuilt-secret", "reveal")
    assert "party 6" in outcome.abort.detail
    assert outcome.outputs == []


def test_a_bad_dealer_changes_nothing_while_its_secret_stays_shut() -> None:
    """Each party has one secret opened: shares of the other are never combined."""
    fed = federation()
    assert run(fed, flows={BAD: redealt("s", None)}).outputs[0].values.tolist() == fed.sum(EVERYBODY)
