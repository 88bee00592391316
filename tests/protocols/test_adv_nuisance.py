"""One party that wants the round to fail, or the server to choke: the others finish, and it is named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from adversary import EVERYBODY, SCHEME, Federation, faults, federation, limits, run

from protocols import simulate, sums, wire
from protocols.agreement import Agree
from protocols.errors import Refused
from protocols.policy import Policy
from protocols.schema import Message
from protocols.secagg_types import Advert, Boxes, Covered, Masked
from protocols.session import SERVER, Address, Letter, Session, client
from protocols.vector import Vector
from protocols.wire import Decoder

BAD = 6


def ahead_of_time(fed: Federation, *, then: type[Message] | None) -> simulate.Outcome:
    """Party 6 agrees to a set without itself before there is one, then sends no vector, or a broken one."""
    sessions: dict[Address, Session] = {}

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender != client(BAD) or not isinstance(letter.message, Masked):
            return (letter,)
        state = next(v for v in sessions[client(BAD)].remembers if isinstance(v, Covered))
        statement = fed.terms.statement("agree", BAD, state.L, [u for u in state.u2 if u != BAD])
        agree = replace(letter, message=Agree(fed.parties[BAD].identity.sign(statement)))
        broken = replace(letter, message=replace(letter.message, receipt=bytes(32)))
        return (agree, broken) if then is Masked else (agree,)

    return run(fed, network=network, sessions=sessions)


@pytest.mark.parametrize("then", [None, Masked])
def test_a_signature_sent_before_its_round_by_one_who_then_drops_out_does_not_count(then: type[Message] | None) -> None:
    """Shown to the others, a signer outside of U3 would make all of them leave."""
    fed = federation()
    outcome = ahead_of_time(fed, then=then)
    broken = [] if then is None else [("masked-receipt", "client 6", "survey")]
    assert faults(outcome) == [*broken, ("wire-late", "client 6", None)]
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[:-1])


def shared_references(levels: int, fan: int) -> bytes:
    """A list of lists, each of which refers ``fan`` times to the one before: written out it has fan^levels items."""
    items = [b"\xd8\x1c\x82\x00\x00"]
    items += [b"\xd8\x1c" + bytes([0x80 | fan]) + (b"\xd8\x1d" + bytes([level])) * fan for level in range(levels - 1)]
    return bytes([0x80 | len(items)]) + b"".join(items)


@pytest.mark.parametrize(("kind", "levels", "fan"), [(Advert, 8, 9), (Boxes, 10, 20)])
def test_a_small_message_that_unfolds_to_a_huge_one_is_refused_before_it_does(
    monkeypatch: pytest.MonkeyPatch, kind: type[Message], levels: int, fan: int
) -> None:
    unfolded = list[object]()
    monkeypatch.setattr(wire, "canonical", lambda tree: unfolded.append(tree) or b"")
    bomb = shared_references(levels, fan)
    decoder = Decoder({kind.__name__: kind}, limits(federation()))
    with pytest.raises(Refused) as refused:
        decoder.feed(len(bomb).to_bytes(4, "little") + bomb)
    assert refused.value.check == "wire-canonical"
    assert unfolded == []


def test_the_policy_holds_for_every_protocol() -> None:
    """A party that accepts SecAgg only does not send its vector in clear because the server names another protocol."""
    fed = federation()
    plain = sums.scheme("plain-insecure")
    party = replace(fed.parties[1], policy=Policy(suites=frozenset({fed.terms.suite})))
    assert fed.terms.suite == SCHEME.suite(fed.terms.parameters)
    session = sums.client_session(plain, party, plain.terms(fed.terms.occasion, fed.roster, fed.terms.parameters))
    letters = session.begin() + session.provide(Vector(fed.vectors[1]))
    assert [type(letter.message).__name__ for letter in letters] == ["Farewell"]
    assert session.ended is not None
    assert session.ended.check == "policy-suite"
    assert letters[0].to == (SERVER,)
