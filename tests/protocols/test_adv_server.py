"""A cheating server: both shares of a party, different dropped sets, swapped keys, replay.

Every attack is refused by a named check; with that one thing taken out, the attack recovers the victim's input.
The federation has six parties, of which party 6 may collude with the server; t = 4; the victim is party 1.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import replace

import pytest
from adversary import (
    EVERYBODY,
    Box,
    Federation,
    LyingServer,
    ending,
    federation,
    packed,
    pair_keys,
    rebuild,
    restore,
    unmask,
    without_check,
)

from protocols import secagg
from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.errors import Misuse
from protocols.primitives import seal
from protocols.primitives.agree import KeyPair
from protocols.rand import Replay, Seed
from protocols.schema import schema
from protocols.secagg_types import Advert, Boxes, Masked, Openings, Sealed
from protocols.suite import Terms
from protocols.wire import Limits, canonical, encode

VICTIM, COLLUDER = 1, 6


# Both shares of one party


def test_both_shares_cannot_be_said() -> None:
    """The request holds the dropped set and nothing else, and an answer has room for one share a dealer."""
    assert [name for name, _ in schema(Dropped)] == ["dropped"]
    assert [name for name, _ in schema(Openings)] == ["shares", "signature"]
    assert typing.get_type_hints(Openings)["shares"] is bytes
    both = bytes(33) * 2 * len(EVERYBODY)
    with pytest.raises(Misuse, match="Openings.*bound|bound.*Openings"):
        list(encode(Openings(both, bytes(64)), 0, Limits(len(EVERYBODY), {})))


@pytest.mark.parametrize(
    ("epoch", "faults", "left"),
    [(0, ["wire-late", "wire-late"], ["Finished"]), (1, [], ["Finished"]), (2, [], ["Finished"]), (3, ["wire-epoch"], [])],
)
def test_the_opening_round_is_not_replayed_with_another_list(epoch: int, faults: list[str], left: list[str]) -> None:
    """A second set is late, or waits for a state that does not come back, or is out of turn; no share leaves."""
    server = LyingServer(federation())
    server.up_to_masks()
    server.agree_on()
    server.open_all()
    agreed = server.agreed()
    for u, session in server.sessions.items():
        answers = server.tell(u, Dropped((2,) if u == VICTIM else (VICTIM,)), epoch) + server.tell(u, agreed, epoch)
        assert [type(answer).__name__ for answer in answers] == (["Farewell"] if epoch == 3 else [])
        assert [fault.check for fault in session.faults] == faults
        assert [type(value).__name__ for value in session.remembers] == left


def test_control_a_state_used_twice_opens_both_shares() -> None:
    """What "wire-late" and the moved state are for."""
    fed = federation()
    server = LyingServer(fed)
    L = server.up_to_masks()
    images = {u: server.collude(u) for u in EVERYBODY}
    server.agree_on()
    server.open_all()
    b = rebuild(server.shares(VICTIM, "b", {}, dict.fromkeys(EVERYBODY, EVERYBODY)), fed.t)
    for u, session in server.sessions.items():
        restore(session, images[u], "consent", "open_shares")
    del server.sessions[VICTIM], server.heard[VICTIM, Agree], server.heard[VICTIM, Openings]
    server.agree_on((VICTIM,))
    server.open_all()
    s_sk = rebuild(server.shares(VICTIM, "s", {}, dict.fromkeys(EVERYBODY, EVERYBODY[1:])), fed.t)
    assert b is not None
    assert s_sk is not None
    pairs = pair_keys(fed.terms, L, VICTIM, server.publics, {VICTIM: KeyPair.from_secret(s_sk)})
    assert unmask(fed.terms, L, VICTIM, server.all(Masked)[VICTIM], b, pairs) == fed.vectors[VICTIM].tolist()


# Different sets to different parties

VIEWS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    1: ((1, 2, 3, 6), ()),
    2: (EVERYBODY, (3,)),
    3: (EVERYBODY, (2,)),
    4: (EVERYBODY, (2, 3)),
    5: (EVERYBODY, (2, 3)),
}
"""U2 and the dropped set told to each honest party: the victim masks with 2, 3 and the colluder, and is alive in every view.

2 and 3 are dead in three views each, so three honest parties and the colluder open their mask keys.  Every view by itself is legal.
"""
SETS = {u: tuple(v for v in u2 if v not in dropped) for u, (u2, dropped) in VIEWS.items()}


def split(fed: Federation, signatures: Mapping[tuple[int, tuple[int, ...]], bytes] | None = None) -> tuple[LyingServer, list[int]]:
    """Tell every party its own view; the server, and what it makes of the answers (nothing if it cannot).

    Args:
        fed: the federation.
        signatures: what to show for (signer, U3); by default what the parties sign in this very attack, over their own views.
    """
    server = LyingServer(fed)
    L = secagg.list_hash(server.up_to_boxes())
    keys = server.mask_pair(COLLUDER)
    for u in EVERYBODY:
        server.tell(u, server.sealed(u, VIEWS[u][0] if u in VIEWS else None))
    colluder = server.collude(COLLUDER)
    for u, (_, dropped) in VIEWS.items():
        server.tell(u, Dropped(dropped))
    said = {u: agree.signature for u, agree in server.all(Agree).items()}
    for u, u3 in SETS.items():
        own = colluder.invited.identity.sign(fed.terms.statement("agree", COLLUDER, L, list(u3)))
        shown = {v: own if v == COLLUDER else said[v] for v in u3} if signatures is None else {v: signatures[v, u3] for v in u3}
        server.tell(u, Agreed(tuple(Signed(v, signature) for v, signature in shown.items())))
    secrets = {v: rebuild(server.shares(v, "s", {COLLUDER: colluder}, SETS), fed.t) for v in (2, 3)}
    b = rebuild(server.shares(VICTIM, "b", {COLLUDER: colluder}, SETS), fed.t)
    if b is None or None in secrets.values():
        return server, []
    known = {v: KeyPair.from_secret(secret) for v, secret in secrets.items() if secret is not None} | {COLLUDER: keys}
    pairs = pair_keys(fed.terms, L, VICTIM, server.publics, known)
    return server, unmask(fed.terms, L, VICTIM, server.all(Masked)[VICTIM], b, pairs)


def test_different_dropped_sets_are_refused() -> None:
    server, stolen = split(federation())
    assert [ending(server.sessions[u]) for u in VIEWS] == [("agreed-signature", "open_shares")] * 5
    assert server.all(Openings) == {}
    assert stolen == []


def test_two_dropped_sets_over_one_u2_are_refused() -> None:
    server = LyingServer(federation())
    server.up_to_masks()
    for u in EVERYBODY:
        server.tell(u, Dropped(() if u in {1, 2, 3} else (2,)))
    for u in EVERYBODY:
        server.tell(u, server.agreed((1, 3, 4, 5, 6)))
    assert {ending(session) for session in server.sessions.values()} == {("agreed-signature", "open_shares")}


def test_control_without_agreement_the_victim_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without_check(monkeypatch, "agreed-signature")
    fed = federation()
    _, stolen = split(fed)
    assert stolen == fed.vectors[VICTIM].tolist()


# Replay


def earlier_agreements(fed: Federation) -> dict[tuple[int, tuple[int, ...]], bytes]:
    """Signatures from four honest rounds, in each of which exactly the set of one view had survived."""
    out = {}
    for number, u3 in enumerate(sorted(set(SETS.values()))):
        server = LyingServer(fed.at(round=number))
        server.up_to_masks()
        server.agree_on(v for v in EVERYBODY if v not in u3)
        out.update({(u, u3): agree.signature for u, agree in server.all(Agree).items()})
    return out


@pytest.mark.parametrize("occasion", [{"round": 9}, {"attempt": 1}, {"run": "another"}])
def test_agreements_of_another_occasion_are_refused(occasion: dict[str, object]) -> None:
    fed = federation()
    server, stolen = split(fed.at(**occasion), earlier_agreements(fed))
    assert [ending(server.sessions[u]) for u in VIEWS] == [("agreed-signature", "open_shares")] * 5
    assert stolen == []


def test_control_with_signatures_that_bind_no_session_old_agreements_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Terms.statement

    def unbound(terms: Terms, tag: str, signer: int, *content: object) -> bytes:
        return canonical([tag, signer, content[1]]) if tag == "agree" else bound(terms, tag, signer, *content)

    monkeypatch.setattr(Terms, "statement", unbound)
    fed = federation()
    _, stolen = split(fed.at(round=9), earlier_agreements(fed))
    assert stolen == fed.vectors[VICTIM].tolist()


@pytest.mark.parametrize("occasion", [{"round": 1}, {"attempt": 1}, {"run": "another"}])
@pytest.mark.parametrize(("kind", "check", "step"), [("list", "listed-own", "share"), ("boxes", "box-opens", "mask")])
def test_lists_and_boxes_of_another_occasion_are_refused(occasion: dict[str, object], kind: str, check: str, step: str) -> None:
    old, server = LyingServer(federation()), LyingServer(federation().at(**occasion))
    old.up_to_boxes()
    if kind == "list":
        server.tell(VICTIM, old.listed())
    else:
        server.up_to_boxes()
        server.tell(VICTIM, replace(old.sealed(VICTIM), u2=EVERYBODY))
    assert ending(server.sessions[VICTIM]) == (check, step)


def test_the_advert_of_another_occasion_is_refused_by_the_other_parties() -> None:
    old, server = LyingServer(federation()), LyingServer(federation().at(attempt=1))
    listed = server.listed(p2=old.all(Advert)[2])
    server.tell(VICTIM, listed)
    assert ending(server.sessions[VICTIM]) == ("listed-signature", "share")


# Swapped keys


def man_in_the_middle(fed: Federation) -> tuple[LyingServer, list[int]]:
    """Show the victim a list in which all keys but its own are the server's."""
    server, rand, terms = LyingServer(fed), Replay("mallory")(), fed.terms
    c = {v: KeyPair.generate(rand, f"c {v}") for v in EVERYBODY if v != VICTIM}
    s = {v: KeyPair.generate(rand, f"s {v}") for v in EVERYBODY if v != VICTIM}
    honest = server.all(Advert)
    listed = server.listed(**{f"p{v}": Advert(c[v].public, s[v].public, honest[v].signature) for v in c})
    L, mine = secagg.list_hash(listed), honest[VICTIM]
    server.tell(VICTIM, listed)
    dealt = server.all(Boxes).get(VICTIM)
    if dealt is None:
        return server, []
    shares, forged = dict[int, bytes](), list[Box]()
    for box in server.dealt(VICTIM):
        v, junk = box.peer, bytes(33)
        key = secagg.box_key(terms, L, c[v], mine.c_pk, VICTIM, v, mine=v)
        shares[v] = seal.unseal(key, box.box, secagg.box_aad(terms, L, VICTIM, v))[-33:]
        back = secagg.box_key(terms, L, c[v], mine.c_pk, v, VICTIM, mine=v)
        sealed = seal.seal(back, secagg.box_content(v, VICTIM, junk, junk), secagg.box_aad(terms, L, v, VICTIM))
        hashes = [secagg.share_hash(terms, L, v, VICTIM, secret, junk) for secret in ("s", "b")]
        forged.append(Box(v, sealed, *hashes))
    server.tell(VICTIM, packed(Sealed(EVERYBODY, b"", b""), forged))
    b: Seed | None = rebuild(shares, fed.t)
    assert b is not None
    pairs = pair_keys(terms, L, VICTIM, {VICTIM: mine.s_pk, **{v: pair.public for v, pair in s.items()}}, s)
    return server, unmask(terms, L, VICTIM, server.all(Masked)[VICTIM], b, pairs)


def test_swapped_keys_are_refused() -> None:
    server, stolen = man_in_the_middle(federation())
    assert ending(server.sessions[VICTIM]) == ("listed-signature", "share")
    assert stolen == []


def test_control_with_unsigned_keys_the_server_stands_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    without_check(monkeypatch, "listed-signature")
    fed = federation()
    _, stolen = man_in_the_middle(fed)
    assert stolen == fed.vectors[VICTIM].tolist()
