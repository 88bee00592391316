"""A server that cheats in LightSecAgg: second answers, split views, swapped keys, false lists.

Every attack is refused by a named check; a state used twice gives the victim's input away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from adversary import EVERYBODY, Federation, ending, pair, restore
from light_adversary import BAD, VICTIM, LightServer, light, unmasked

from protocols import lightsecagg
from protocols.agreement import Agree, Agreed, Covering, Dropped, Signed
from protocols.bulk import Bulk
from protocols.lightsecagg_parameters import layouts
from protocols.lightsecagg_types import (
    Answer,
    Covered,
    KeyList,
    Padded,
    Relayed,
    Shares,
)

# One survivor set, one answer


def ask_without_the_victim(server: LightServer, helpers: Iterable[int]) -> None:
    """After the sum: the same helpers asked for the survivors without the victim."""
    for u in helpers:
        del server.heard[u, Agree], server.heard[u, Answer]
        server.tell(u, Dropped((VICTIM,)))
    signed = [u for u in helpers if u in server.all(Agree)]
    for u in helpers:
        server.tell(u, server.agreed(signed or None))


def summed(fed: Federation) -> tuple[LightServer, dict[int, Any], dict[int, Covered]]:
    """An honest run up to the answers; what the helpers answered, and an image of each before it consented."""
    server = LightServer(fed)
    server.up_to_masks()
    images = {u: server.collude(u) for u in EVERYBODY}
    server.agree_on()
    for u in EVERYBODY:
        server.tell(u, server.agreed())
    return server, server.answers(), images


def test_a_second_answer_for_another_set_is_refused() -> None:
    """Every helper that answered for U3 is asked for U3 without the victim; all that comes is "wire-late"."""
    server, answers, _ = summed(light())
    assert sorted(answers) == list(EVERYBODY)
    ask_without_the_victim(server, EVERYBODY[1:])
    assert server.answers().keys() == {VICTIM}
    for u in EVERYBODY[1:]:
        assert {fault.check for fault in server.sessions[u].faults} == {"wire-late"}
        assert [type(value).__name__ for value in server.sessions[u].remembers] == ["Finished"]


def test_control_a_state_used_twice_gives_the_victims_mask() -> None:
    """What the moved state is for: the difference of two sums of shares is a share of the victim's mask, and U of them are all."""
    fed = light()
    server, first, images = summed(fed)
    y = server.all(Padded)[VICTIM]
    for u in EVERYBODY[1:]:
        session = server.sessions[u]
        restore(session, images[u], "consent", "answer")
    ask_without_the_victim(server, EVERYBODY[1:])
    shares = {}
    for u, second in server.answers().items():
        if u != VICTIM:
            shares[u] = first[u].copy()
            fed.terms.parameters.ring.subtract_from(shares[u], second)
    assert len(shares) == 5
    assert unmasked(fed.terms.parameters, y, shares) == fed.vectors[VICTIM].tolist()


def test_helpers_left_over_from_one_set_do_not_answer_for_another() -> None:
    """U of them sign and answer for all six; the two others and the colluder, fewer than U, are asked for all but the victim."""
    fed = light()
    server = LightServer(fed)
    L = server.up_to_masks()
    colluder, rest = server.collude(BAD), tuple(u for u in EVERYBODY if u != VICTIM)
    for u in (1, 2, 3):
        server.tell(u, Dropped(()))
    for u in (4, 5):
        server.tell(u, Dropped((VICTIM,)))
    said = {u: agree.signature for u, agree in server.all(Agree).items()}
    for u3, helpers in ((EVERYBODY, (1, 2, 3)), (rest, (4, 5))):
        own = colluder.invited.identity.sign(fed.terms.statement("agree", BAD, L, list(u3)))
        shown = {**{u: said[u] for u in helpers}, BAD: own}
        for u in helpers:
            server.tell(u, Agreed(tuple(Signed(v, signature) for v, signature in sorted(shown.items()))))
    assert {ending(server.sessions[u]) for u in (4, 5)} == {("agreed-count", "answer")}
    assert sorted(server.answers()) == [1, 2, 3]


def test_different_survivors_to_different_helpers_are_refused() -> None:
    """Signatures over another set do not count, whoever shows them."""
    server = LightServer(light())
    server.up_to_masks()
    for u in EVERYBODY:
        server.tell(u, Dropped((VICTIM,) if u in (4, 5, 6) else ()))
    for u in EVERYBODY:
        shown = server.agreed() if u != VICTIM and u not in (4, 5, 6) else server.agreed((2, 3, 4, 5, 6))
        server.tell(u, shown)
        assert ending(server.sessions[u]) == ("agreed-signature", "answer")
    assert server.answers() == {}


def test_coverings_where_no_graph_is_sparse_are_refused() -> None:
    server = LightServer(light())
    server.up_to_masks()
    server.agree_on()
    server.tell(VICTIM, replace(server.agreed(), coverings=(Covering(bytes(32), bytes(32), bytes(64)),)))
    assert ending(server.sessions[VICTIM]) == ("agreed-coverings", "answer")


# A server that lies about keys and boxes


def test_swapped_keys_are_refused() -> None:
    """A server in the middle cannot sign keys of its own."""
    server = LightServer(light())
    listed = server.key_list()
    forged = replace(listed, entries=(*listed.entries[:-1], replace(listed.entries[-1], c_pk=pair("server").public)))
    for u in EVERYBODY[:-1]:
        server.tell(u, forged)
        assert ending(server.sessions[u]) == ("listed-signature", "share")
    assert server.all(Shares) == {}


@pytest.mark.parametrize(
    ("forge", "check"),
    [
        (lambda entries: (entries[1], entries[0], *entries[2:]), "listed-order"),
        (lambda entries: entries[1:], "listed-own"),
        (lambda entries: (replace(entries[0], c_pk=entries[1].c_pk), *entries[1:]), "listed-own"),
        (lambda entries: entries[:3], "listed-cohort"),
        (lambda entries: (*entries[:-1], replace(entries[-1], c_pk=entries[1].c_pk)), "listed-distinct"),
        (lambda entries: (*entries[:-1], replace(entries[-1], c_pk=bytes(32))), "public-key-order"),
    ],
)
def test_a_false_list_is_refused_before_shares_leave(forge: Callable[[Any], Any], check: str) -> None:
    server = LightServer(light())
    server.tell(VICTIM, KeyList(forge(server.key_list().entries)))
    assert ending(server.sessions[VICTIM]) == (check, "share")


def filled(relayed: Relayed) -> Relayed:
    """The slot of a party that is not in U2, with something in it."""
    values = relayed.boxes.values.copy()
    values[lightsecagg.slot(VICTIM, BAD)] = 1
    return replace(relayed, boxes=Bulk.of(layouts(light().terms.parameters)["boxes"], values))


@pytest.mark.parametrize(
    ("u2", "forge", "check"),
    [
        (EVERYBODY, lambda r: replace(r, u2=(2, 1, 3, 4, 5, 6)), "sealed-set"),
        (EVERYBODY, lambda r: replace(r, u2=EVERYBODY[1:]), "sealed-own"),
        ((1, 2, 3), lambda r: r, "sealed-cohort"),
        (EVERYBODY, lambda r: replace(r, hashes=r.hashes[1:]), "sealed-boxes"),
        ((1, 2, 3, 4, 5), filled, "boxes-slots"),
        (
            EVERYBODY,
            lambda r: replace(r, boxes=Bulk.of(layouts(light().terms.parameters)["boxes"], r.boxes.values[::-1].copy())),
            "box-opens",
        ),
    ],
)
def test_false_boxes_are_refused_before_the_vector_leaves(
    u2: tuple[int, ...], forge: Callable[[Relayed], Relayed], check: str
) -> None:
    server = LightServer(light())
    listed = server.key_list()
    for u in EVERYBODY:
        server.tell(u, listed)
    server.tell(VICTIM, forge(server.relayed(VICTIM, u2)))
    assert ending(server.sessions[VICTIM]) == (check, "mask")
    assert server.all(Padded) == {}


@pytest.mark.parametrize(
    ("dropped", "check"), [((6, 6), "dropped-set"), ((3, 2), "dropped-set"), ((1,), "dropped-own"), ((2, 3, 4), "dropped-cohort")]
)
def test_a_false_dropped_set_is_not_signed(dropped: tuple[int, ...], check: str) -> None:
    server = LightServer(light())
    server.up_to_masks()
    server.tell(VICTIM, Dropped(dropped))
    assert ending(server.sessions[VICTIM]) == (check, "consent")
