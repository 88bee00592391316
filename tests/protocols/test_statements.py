"""What signatures cover, put together from the traffic alone: of every signed message of every protocol, as its signer did."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from protocols import simulate, sums
from protocols.agreement import Agree
from protocols.bulk import Bulk
from protocols.he_types import Summed
from protocols.policy import Policy
from protocols.primitives.sign import verify
from protocols.schema import raw_fields
from protocols.session import SERVER, client
from protocols.statements import SETS, STAGE, Told, statement
from protocols.suite import Occasion
from protocols.vector import Vector

PROTOCOLS = ("secagg", "lightsecagg", "kahe", "bfv")


def digest(vector: Bulk) -> bytes:
    """SHA-256 of the bytes; some vectors are hashed by those alone who look."""
    return vector.digest if vector.data is None else hashlib.sha256(vector.data).digest()


def told_and_said(protocol: str, *, dropout: bool) -> tuple[list[tuple[int, Told, Any]], Any, set[type]]:
    """Each signed message with what its sender had been told, the terms, and the kinds that the server sent."""
    scheme, n = sums.scheme(protocol), 5
    roster, parties = sums.enrol(n, policy=Policy(min_corrupt=0))
    parameters = scheme.parameters(n, 8, 100)
    terms = scheme.terms(Occasion("statements", 0), roster, parameters)
    told, said, kinds = {u: Told() for u in range(1, n + 1)}, list[tuple[int, Told, Any]](), set[type]()

    def watch(letter: Any, to: Any, _size: int) -> None:
        message = letter.message
        if letter.sender == SERVER:
            kinds.add(type(message))
            told[to.index] = told[to.index].after(type(message), {f.name: getattr(message, f.name) for f in fields(message)})
        elif hasattr(message, "signature"):
            said.append((letter.sender.index, told[letter.sender.index], message))

    sessions: dict[Any, Any] = {SERVER: sums.server_session(scheme, terms)}
    sessions |= {client(p.index): sums.client_session(scheme, p, terms) for p in parties}
    inputs = {client(u): [Vector(np.full(8, u))] for u in range(1, n + 1)}
    upload = next(kind.__name__ for kind in STAGE if STAGE[kind] == 2 and kind in scheme.flow.messages("server"))
    outcome = simulate.run(sessions, inputs, network=simulate.vanish({client(2): upload} if dropout else {}), watch=watch)
    assert outcome.reason is None
    return said, terms, kinds


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_signature_is_over_its_statement(protocol: str, dropout: bool) -> None:
    """With what its sender was told, every signed message has a statement, and the signature is over it and no other."""
    said, terms, kinds = told_and_said(protocol, dropout=dropout)
    stages = [STAGE[type(message)] for _, _, message in said]
    assert set(stages) == {0, 1, 2, 3, 4} if protocol != "bfv" else {0, 1, 2, 3, 4} >= set(stages)
    assert kinds - {Summed} <= set(SETS)  # the sum itself names no set
    for u, told, message in said:
        raw = {name for name, _ in raw_fields(type(message))}
        digests = {name: digest(getattr(message, name)) for name in raw}
        own = {f.name: getattr(message, f.name) for f in fields(message) if f.name not in raw}
        found = statement(terms, u, told, type(message), own, digests)
        assert found is not None
        assert verify(terms.roster.identity(u), message.signature, found)
        if raw:
            assert statement(terms, u, told, type(message), own, {}) is None
        for other in (Told(), told.after(Agree, {})):
            again = statement(terms, u, other, type(message), own, digests)
            assert (again == found) == (other == told or STAGE[type(message)] == 0)


def test_stages_and_sets_go_upwards_in_every_flow() -> None:
    """The rounds of signed messages, and of the sets that the server names, are those of the flow."""
    for protocol in PROTOCOLS:
        flow = sums.scheme(protocol).flow
        signed = [STAGE[kind] for kind in flow.messages("server") if kind in STAGE]
        named = [SETS[kind] for kind in flow.messages("client") if kind in SETS]
        assert signed == sorted(set(signed))
        assert named == sorted(set(named))
        assert named[0] == signed[0] == 0


def test_survivors_are_known_once_both_sets_came() -> None:
    one = Told()
    assert one.u3 is None
    assert Told(u2=(1, 2, 3)).u3 is None
    assert Told(dropped=(2,)).u3 is None
    assert Told(u2=(1, 2, 3), dropped=(2,)).u3 == (1, 3)
    assert (one.L, one.u1, one.keys, one.u2, one.hashes, one.receipt, one.dropped, one.agreed) == (b"", (), *[None] * 6)
