"""A cheating server: both shares of a party, different dropped sets, swapped keys, replay.

Every attack is refused by a named check; with that one thing taken out, the attack recovers the victim's input.
The federation has six parties, of which party 6 may collude with the server; t = 4; the victim is party 1.
"""

from __future__ import annotations

import typing
from dataclasses import replace

import pytest
from adversary import EVERYBODY, LyingServer, both_secrets, ending, federation, unmask, without_check

from protocols.agreement import Dropped
from protocols.errors import Misuse
from protocols.once import shared_work
from protocols.schema import schema
from protocols.secagg_types import Advert, Boxes, Masked, Openings
from protocols.suite import Terms
from protocols.wire import Limits, canonical, encode
from securefl.audit.attacks.secagg import VIEWS, earlier_agreements
from securefl.audit.attacks.secagg import different_sets as split
from securefl.audit.attacks.secagg_keys import man_in_the_middle

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
    L, b, pairs = both_secrets(fed, server, VICTIM)
    assert unmask(fed.terms, L, VICTIM, server.all(Masked)[VICTIM], b, pairs) == fed.vectors[VICTIM].tolist()


# Different sets to different parties


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


@pytest.mark.parametrize("occasion", [{"round": 9}, {"attempt": 1}, {"run": "another"}])
def test_agreements_of_another_occasion_are_refused(occasion: dict[str, object]) -> None:
    fed = federation()
    server, stolen = split(fed.at(**occasion), earlier_agreements(fed))
    assert [ending(server.sessions[u]) for u in VIEWS] == [("agreed-signature", "open_shares")] * 5
    assert stolen == []


@pytest.mark.parametrize("occasion", [{"round": 9}, {"attempt": 1}, {"run": "another"}])
def test_agreements_that_another_party_of_the_process_found_good_serve_no_other_session(occasion: dict[str, object]) -> None:
    """What parties of one process share, they share within one session."""
    fed = federation()
    old, server = LyingServer(fed), LyingServer(fed.at(**occasion))
    with shared_work():
        for each in (old, server):
            each.up_to_masks()
            each.agree_on()
        agreed = old.agreed()
        old.tell(2, agreed)
        server.tell(VICTIM, agreed)
    assert set(old.all(Openings)) == {2}
    assert ending(server.sessions[VICTIM]) == ("agreed-signature", "open_shares")
    assert server.all(Openings) == {}


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


@pytest.mark.parametrize("occasion", [{"round": 1}, {"attempt": 1}, {"run": "another"}])
def test_a_list_that_another_party_of_the_process_found_good_serves_no_other_session(occasion: dict[str, object]) -> None:
    """A restored machine makes the keys of the earlier session again, so that the list of that session holds its own."""
    fed = federation()
    old, server = LyingServer(fed), LyingServer(replace(fed.at(**occasion), salt=fed.salt))
    assert server.all(Advert)[VICTIM].c_pk == old.all(Advert)[VICTIM].c_pk
    with shared_work():
        old.tell(2, old.listed())
        server.tell(VICTIM, old.listed())
    assert set(old.all(Boxes)) == {2}
    assert ending(server.sessions[VICTIM]) == ("listed-signature", "share")
    assert server.all(Boxes) == {}


# Swapped keys


def test_swapped_keys_are_refused() -> None:
    server, stolen = man_in_the_middle(federation())
    assert ending(server.sessions[VICTIM]) == ("listed-signature", "share")
    assert stolen == []


def test_control_with_unsigned_keys_the_server_stands_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    without_check(monkeypatch, "listed-signature")
    fed = federation()
    _, stolen = man_in_the_middle(fed)
    assert stolen == fed.vectors[VICTIM].tolist()
