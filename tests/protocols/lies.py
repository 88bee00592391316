"""One party that lies in one message to an honest server, under any protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

from adversary import EVERYBODY, Federation, faults, run

from protocols import simulate
from protocols.bulk import Bulk
from protocols.schema import Message
from protocols.session import Address, Letter, Session, client

LIAR = 6
Lie = Callable[[Any, Session, Federation], Message]
"""What is sent instead of a message: from the message, the liar's session and the federation."""


def telling(fed: Federation, lie: Lie, kind: type[Message]) -> simulate.Outcome:
    """A federation in which the messages of ``kind`` from party 6 are replaced."""
    sessions: dict[Address, Session] = {}

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender != client(LIAR) or type(letter.message) is not kind:
            return (letter,)
        return (replace(letter, message=lie(letter.message, sessions[client(LIAR)], fed)),)

    return run(fed, network=network, sessions=sessions)


def check_expelled(fed: Federation, lie: tuple[type[Message], str, str, Lie], counted: Collection[type[Message]]) -> None:
    """The liar is expelled by name, and the others finish with the exact sum; after the ``counted`` messages its input is in it."""
    kind, check, step, forge = lie
    outcome = telling(fed, forge, kind)
    assert faults(outcome) == [(check, f"client {LIAR}", step or None)]
    members = EVERYBODY if kind in counted else EVERYBODY[:-1]
    assert outcome.outputs[0].values.tolist() == fed.sum(members)
    assert outcome.outputs[0].contributors == len(members)


def flipped(message: Any, *_: object) -> Message:
    """One bit of the signature changed."""
    changed: Message = replace(message, signature=bytes([message.signature[0] ^ 1]) + message.signature[1:])
    return changed


def other_data(field: str) -> Lie:
    """Zeros in the place of a vector's bytes."""

    def lie(message: Any, *_: object) -> Message:
        bulk = getattr(message, field)
        data = bytes(len(bulk.data))
        changed: Message = replace(message, **{field: Bulk(bulk.values, hashlib.sha256(data).digest(), data)})
        return changed

    return lie


def false_receipt(message: Any, session: Session, fed: Federation) -> Message:
    """Another receipt with the masked vector, under the liar's own good signature."""
    state: Any = next(value for value in session.remembers if type(value).__name__ == "Covered")
    statement = fed.terms.statement("masked", LIAR, state.L, list(state.u2), message.y.digest, bytes(32))
    changed: Message = replace(message, receipt=bytes(32), signature=fed.parties[LIAR].identity.sign(statement))
    return changed
