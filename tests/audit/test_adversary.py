"""Adversaries of a user's own: a server, a network, a party; what they claim is held against the truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from protocols import secagg, sums
from protocols.agreement import Dropped
from protocols.errors import Misuse, Refused
from protocols.secagg_types import Masked
from protocols.session import Letter
from securefl.audit import Adversary, Audit, CheatingServer, Target, audit_protocol
from securefl.audit.adversary import claimed
from securefl.audit.secagg_server import SecAggServer
from securefl.audit.target import PAYLOAD


def only(adversary: Adversary, protocol: Any = "secagg") -> Audit:
    return audit_protocol(protocol, rows=[0], adversaries=[adversary])


def listening(server: SecAggServer) -> Any:
    """Lists and boxes as an honest server sends them, then different dropped sets."""
    listed = server.listed()
    for u in server.sessions:
        yield u, listed
    for u in server.sessions:
        (masked,) = yield u, server.sealed(u)
        assert isinstance(masked, Masked)
    for u in server.sessions:
        yield u, Dropped(() if u < 4 else (1,))
    for u in list(server.sessions)[1:]:
        yield u, server.agreed(range(2, 7))
    return {1: [0] * PAYLOAD}


def test_a_server_of_ones_own_drives_real_parties() -> None:
    """It does not cheat them here: who is shown signatures over another set than its own leaves."""
    (result,) = only(Adversary.server("listening", listening, kind=SecAggServer)).results
    assert result.row == 0
    assert (result.verdict.status, result.verdict.check, result.verdict.who) == ("refused", "agreed-signature", "client 2")


@pytest.mark.parametrize(
    ("claims", "right"),
    [(lambda x: {1: x}, True), (lambda x: {1: x[:PAYLOAD]}, True), (lambda x: {1: x[:2]}, False), (lambda x: {2: x}, False)],
)
def test_only_a_right_claim_breaks(claims: Any, right: bool) -> None:
    fed = Target.of("secagg").federation()
    assert (claimed(fed, claims(fed.secret(1))) is not None) == right
    assert claimed(fed, None) is None


def test_a_server_without_end_is_stopped() -> None:
    def endless(server: CheatingServer) -> Any:
        while True:
            yield 1, Dropped(())

    target = Target.of("secagg")
    short = replace(target, bounds=replace(target.bounds, deliveries=50))
    assert only(Adversary.server("endless", endless), short).passed


def test_a_network_of_ones_own() -> None:
    def silent(letter: Letter) -> Iterable[Letter]:
        return () if isinstance(letter.message, Masked) else (letter,)

    (result,) = only(Adversary.network("silent", silent)).results
    assert (result.verdict.status, result.verdict.check) == ("refused", "quorum")


def test_a_party_with_other_steps() -> None:
    def mask(shared: Any, sealed: Any, x: Any) -> Any:
        covered, masked = secagg.mask(shared, sealed, x)
        return covered, replace(masked, signature=bytes(64))

    (result,) = only(Adversary.party("unsigned", 3, mask=mask)).results
    assert (result.verdict.check, result.verdict.why) == ("masked-signature", "sent by client 3")
    assert result.verdict.round == 2


# An adversary that is none is refused by its name, and nothing is held against the protocol


def refusal(adversary: Adversary, protocol: Any = "secagg") -> str:
    with pytest.raises(Misuse) as caught:
        only(adversary, protocol)
    assert str(caught.value).startswith(f"the adversary {adversary.name!r}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def failing(*_: Any) -> Any:
    raise KeyError("mine")


def lazy(letter: Letter) -> Any:
    yield letter
    yield None


NETWORKS: dict[str, tuple[Any, str]] = {
    "nothing": (lambda _: None, "(letter,) lets one through, () swallows it; it returned None for an Advert"),
    "a letter": (lambda letter: letter, "rewrite must return an iterable of letters"),
    "no letters": (lambda _: [1], "it gave 1"),
    "one too many": (lazy, "it gave None"),
    "a crash": (failing, "rewrite failed with KeyError: 'mine'"),
}


@pytest.mark.parametrize("what", NETWORKS)
def test_a_network_that_gives_no_letters_is_refused(what: str) -> None:
    rewrite, says = NETWORKS[what]
    assert says in refusal(Adversary.network(what, rewrite))


def test_a_network_may_be_a_generator() -> None:
    def twice(letter: Letter) -> Iterable[Letter]:
        yield letter
        yield letter

    assert only(Adversary.network("twice", twice)).passed


STEPS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"mask": lambda **_: None}, "mask must return (Covered, Masked), as the step does, not None"),
    "one": ({"mask": lambda shared, sealed, x: secagg.mask(shared, sealed, x)[0]}, "mask must return (Covered, Masked)"),
    "no state": ({"mask": lambda shared, sealed, x: (None, secagg.mask(shared, sealed, x)[1])}, "mask must return"),
    "no message": ({"mask": lambda shared, sealed, x: (secagg.mask(shared, sealed, x)[0], b"")}, "mask must return"),
    "a crash": ({"mask": lambda shared, sealed, x: failing()}, "mask failed with KeyError: 'mine'"),
    "other names": ({"mask": lambda a, b, c: None}, "mask failed with TypeError"),
    "no step": ({"masque": failing}, "a party of secagg has no step masque; it has advertise, share, mask"),
    "the server's": ({"collect": failing}, "a party of secagg has no step collect"),
}


@pytest.mark.parametrize("what", STEPS)
def test_a_party_whose_steps_give_something_else_is_refused(what: str) -> None:
    steps, says = STEPS[what]
    assert says in refusal(Adversary.party(what, 3, **steps))


def test_a_party_that_is_not_there_is_refused() -> None:
    assert "there is no party 7: they are 1 to 6" in refusal(Adversary.party("seventh", 7, mask=failing))


def test_a_party_may_leave() -> None:
    def mask(shared: Any, sealed: Any, x: Any) -> Any:
        raise Refused("own-mind", "no more")

    assert only(Adversary.party("leaving", 3, mask=mask)).passed


def returning(claims: Any) -> Any:
    def script(server: CheatingServer) -> Any:
        yield 1, Dropped(())
        return claims

    return script


def yielding(what: Any) -> Any:
    def script(server: CheatingServer) -> Any:
        yield what

    return script


SCRIPTS: dict[str, tuple[Any, str]] = {
    "no generator": (lambda server: None, "its script must be a generator, not give NoneType: it yields"),
    "a crash at once": (failing, "its script failed with KeyError"),
    "nothing": (yielding(None), "its script must yield (index of a party, message), not None"),
    "nobody": (yielding((9, Dropped(()))), "its script must yield (index of a party, message), not (9, Dropped"),
    "no message": (yielding((1, b"")), "its script must yield"),
    "no mapping": (returning([1]), "its script must return a mapping from indexes of parties to values, or None, not [1]"),
    "a claim about nobody": (returning({9: [1]}), "its script must return a mapping"),
    "no values": (returning({1: 5}), "what its script claims failed with TypeError"),
}


@pytest.mark.parametrize("what", SCRIPTS)
def test_a_server_that_does_something_else_is_refused(what: str) -> None:
    script, says = SCRIPTS[what]
    assert says in refusal(Adversary.server(what, script))


def test_a_protocol_that_crashes_when_a_script_tells_it_something_is_still_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the script itself calls `tell`."""

    def script(server: CheatingServer) -> Any:
        server.tell(1, Dropped(()))
        yield 1, Dropped(())

    def crash(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("theirs")

    monkeypatch.setattr("protocols.session.Session.feed", crash)
    for own in (script, returning({})):
        (result,) = only(Adversary.server("own", own)).results
        assert result.verdict.broken
        assert "ZeroDivisionError: theirs" in result.verdict.why


def test_control_an_unchecked_network_is_held_against_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("securefl.audit.adversary._must", lambda *_: None)
    assert only(Adversary.network("nothing", lambda _: [1])).results[0].verdict.broken


def test_a_scheme_that_is_not_registered_is_asked_what_a_registered_one_is(ring: Any) -> None:
    """The engine asks the party's policy, as it does wherever a plug-in runs."""
    strangers = audit_protocol(ring.SCHEME, rows=[4])
    assert strangers.results[0].verdict.check == "policy-roster"
    assert ring.SCHEME.origin is None
    assert "ring" not in sums.names()


@pytest.mark.parametrize("rows", [[99], [], [0], [7, 40]])
def test_rows_among_which_nothing_can_be_tried_are_refused(rows: list[int]) -> None:
    with pytest.raises(Misuse, match=r"rows are numbers of 1 to 39.* nothing to try in"):
        audit_protocol("secagg", rows=rows)


def test_an_audit_that_tried_nothing_has_not_passed() -> None:
    audit = audit_protocol("secagg", rows=[22])  # made for the sparse graph
    assert not audit.passed
    assert audit.report == "secagg: nothing was tried"
