"""Whole runs of any protocol as test vectors: every message and the opened sum, from seeds that stand in the file.

A run is checked by making it again from its own seeds, parameters and inputs, with the flow's sessions and, where the protocol has
one, with its reference, and comparing byte by byte; the opened sum must also be the plain sum of the inputs.

What it does not protect: every secret of a vector stands in its file.  Its identities and seeds are never to be used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocols import he_reference, kahe_reference, lightsecagg_reference, reference, simulate
from protocols.he_types import Summed, Waiting
from protocols.primitives import homomorphic
from protocols.schema import Message
from protocols.session import SERVER, Address, Letter, Session, client
from protocols.vector import Sum
from protocols.vectors_setting import Setting, header, vector_kinds
from protocols.vectors_tree import Mismatch, Tree
from protocols.wire import encode

LONG = 4096
"""Longest message that is recorded byte by byte; of a longer one length and SHA-256 are."""


def _plain(terms: Any, _identities: Any, inputs: Any, _entropy: Any, dropouts: Any) -> reference.Transcript:
    return reference.plain(terms, inputs, dropouts)


REFERENCES: Mapping[str, Callable[..., reference.Transcript]] = {
    "secagg": reference.secagg,
    "secagg+": reference.secagg,
    "plain-insecure": _plain,
    "lightsecagg": lightsecagg_reference.lightsecagg,
    "kahe": kahe_reference.kahe,
    "bfv": he_reference.homomorphic_sum,
    "ckks": he_reference.homomorphic_sum,
}
"""For each protocol that has one, its reference: a second implementation that must send the same bytes."""


@dataclass(frozen=True)
class Run:
    """What happened.

    Attributes:
        setting: what the run started from.
        events: every letter, and the index of every party that vanished, in order.
        outcome: how it ended.
        error: by how much a slot of an approximate sum was off an integer, at most.
    """

    setting: Setting
    events: tuple[Letter | int, ...]
    outcome: simulate.Outcome
    error: float = 0.0

    @property
    def letters(self) -> list[Letter]:
        """The letters alone."""
        return [event for event in self.events if isinstance(event, Letter)]


def run(setting: Setting) -> Run:
    """Run the sessions against each other.

    Raises:
        Mismatch: where one of them refuses a message of another.
    """
    sessions = {address: setting.session(address) for address in [SERVER, *map(client, setting.inputs)]}
    events, gone, errors = list[Letter | int](), set[Address](), [0.0]

    def network(letter: Letter) -> Iterable[Letter]:
        last = setting.dropouts.get(letter.sender.index) if letter.sender != SERVER else None
        if last == type(letter.message).__name__ and letter.sender not in gone:
            gone.add(letter.sender)
            events.append(letter.sender.index)
        if letter.sender in gone:
            return ()
        events.append(letter)
        errors.append(_slot_error(setting, sessions, letter))
        return (letter,)

    outcome = simulate.run(sessions, {client(u): [setting.vector(u)] for u in setting.inputs}, network=network)
    for fault in [fault for session in sessions.values() for fault in session.faults]:
        raise Mismatch(f"in a run of honest parties a message was {fault}")
    return Run(setting, tuple(events), outcome, max(errors))


def check_run(got: Run) -> None:
    """Compare a run with the plain sum of its inputs, and with the protocol's reference.

    Raises:
        Mismatch: where the sum is another, or the reference sends other bytes or ends otherwise.
    """
    _compare_sum(got)
    _compare_reference(got)


def _compare_sum(got: Run) -> None:
    if got.outcome.abort is not None:
        return
    kinds = tuple(vector_kinds(got.setting.scheme))
    senders = sorted({letter.sender.index for letter in got.letters if isinstance(letter.message, kinds)})
    plain = [sum(column) for column in zip(*(got.setting.inputs[u] for u in senders), strict=True)]
    (total,) = got.outcome.outputs
    if total.values.tolist() != plain or total.contributors != len(senders):
        raise Mismatch(f"the flow opened {total.values.tolist()} over {total.contributors} parties; the inputs add up to {plain}")


def _compare_reference(got: Run) -> None:
    setting, limits = got.setting, got.setting.limits
    if (second := REFERENCES.get(setting.scheme.name)) is None:
        return
    entropy = {u: setting.entropy(u) for u in setting.inputs}
    transcript = second(setting.terms(), setting.keys(), setting.inputs, entropy, setting.dropouts)
    ours = {(type(x.message).__name__, x.sender.index, to.index): b"".join(x.chunks()) for x in got.letters for to in x.to}
    theirs = {(type(x.message).__name__, x.sender, to): x.message for x in transcript.sent for to in x.to}
    for key in [*theirs, *(key for key in ours if key not in theirs and key[0] != "Farewell")]:
        if key not in theirs or b"".join(encode(theirs[key], 0, limits)) != ours.get(key):
            raise Mismatch(f"flow and reference differ in {key[0]} from {_name(key[1])} to {_name(key[2])}")
    abort = got.outcome.abort
    end = (None, abort.step) if abort is not None else (tuple(got.outcome.outputs[0].values.tolist()), None)
    if end != (transcript.total, transcript.aborted):
        raise Mismatch(f"the flow ended in {end}, the reference in {(transcript.total, transcript.aborted)}")


def _slot_error(setting: Setting, sessions: Mapping[Address, Session], letter: Letter) -> float:
    """By how much the slots of an approximate sum are off the integers, seen with the key of the first who opens."""
    if not setting.approximate or not isinstance(letter.message, Summed):
        return 0.0
    p: Any = setting.parameters
    (waiting,) = (value for value in sessions[letter.to[0]].remembers if isinstance(value, Waiting))
    if waiting.key is None:
        return 0.0
    slots = homomorphic.decrypt_raw(p.shape, waiting.key, letter.message.total.values)
    return float(np.abs(slots - np.rint(slots)).max())


def _name(index: int) -> str:
    return str(client(index)) if index else str(SERVER)


# Trees


def run_tree(name: str, setting: Setting) -> Tree:
    """The file of a run.

    Raises:
        Mismatch: where sessions, reference and plain sum do not agree.
    """
    got = run(setting)
    check_run(got)
    lost = ", ".join(f"party {u} vanishes before its {stage}" for u, stage in setting.dropouts.items())
    operations = [_operation(event, setting) for event in got.events]
    if setting.approximate and got.error:
        bound = float(getattr(setting.parameters, "error", 0.0))
        operations.append({"operation": "error", "bound": f"{bound:.3g}", "success": got.error <= bound})
    return {**header(name, lost or "everybody stays to the end", setting), "operations": [*operations, _opened(got)]}


def _operation(event: Letter | int, setting: Setting) -> Tree:
    if isinstance(event, int):
        return {"operation": "vanish", "party": str(client(event)), "success": True}
    return message(event.sender, event.to, event.message, content(b"".join(event.chunks()), setting)) | {"success": True}


def message(sender: Address, to: Iterable[Address], what: Message, data: Mapping[str, object]) -> Tree:
    """One message, without what became of it."""
    return {"operation": "message", "from": str(sender), "to": list(map(str, to)), "type": type(what).__name__, **data}


def content(data: bytes, setting: Setting) -> dict[str, object]:
    """The bytes of a message, or what is recorded of them where they are many."""
    if len(data) <= LONG:
        return {"bytes": data.hex()}
    return {"length": len(data)} if setting.approximate else {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _opened(got: Run) -> Tree:
    if got.outcome.abort is not None:
        return {"operation": "open", "success": False, "check": got.outcome.abort.check, "step": got.outcome.abort.step}
    total: Sum = got.outcome.outputs[0]
    return {"operation": "open", "success": True, "contributors": total.contributors, "sum": total.values.tolist()}
