"""Adversaries of a user's own: a server, a network, a party; what they claim is held against the truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from protocols import secagg, sums
from protocols.agreement import Dropped
from protocols.errors import Misuse
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
