"""A toy protocol with a third role: a committee is set up once and then helps with one sum after another.

A client splits its number additively: one part for each helper, sealed under a key agreed in the setup, and the rest for the
server.  The server says who arrived, the helpers add up the parts of those, and the server adds it all.  Helpers see masked
parts only, the server sees sums of parts only; a helper that colludes with the server changes nothing while another is honest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from protocols.errors import Refused, require
from protocols.flow import Broadcast, Fanout, Flow, Inbox, Input, Output
from protocols.primitives import seal
from protocols.primitives.agree import KeyPair, check_public_key, derive
from protocols.rand import Key, Rand
from protocols.schema import PARTIES, Count, Index, Message, PublicKey, Size, Span
from protocols.wire import canonical

MODULUS = 2**64


@dataclass(frozen=True)
class HelperKey(Message):
    key: PublicKey


@dataclass(frozen=True)
class ClientKey(Message):
    key: PublicKey


@dataclass(frozen=True)
class Call(Message):
    number: Annotated[int, Span(0, 1000)]


@dataclass(frozen=True)
class Part(Message):
    box: Annotated[bytes, Size(8 + seal.OVERHEAD)]


@dataclass(frozen=True)
class Rest(Message):
    value: Annotated[int, Span(0, MODULUS - 1)]


@dataclass(frozen=True)
class Members(Message):
    indexes: Annotated[tuple[Index, ...], Count(1, PARTIES)]


@dataclass(frozen=True)
class Partial(Message):
    value: Annotated[int, Span(0, MODULUS - 1)]


@dataclass(frozen=True)
class Number:
    """A client's input to one sum."""

    value: int


@dataclass(frozen=True)
class Start:
    """What makes the server begin a sum."""


@dataclass(frozen=True)
class Total:
    value: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class NewClient:
    me: int


@dataclass(frozen=True)
class Joined:
    me: int
    keys: Mapping[int, Key]
    done: int


@dataclass(frozen=True)
class NewHelper:
    me: int
    clients: tuple[int, ...]


@dataclass(frozen=True)
class Meeting:
    helper: NewHelper
    pair: KeyPair


@dataclass(frozen=True)
class Ready:
    helper: NewHelper
    keys: Mapping[int, Key]
    done: int


@dataclass(frozen=True)
class Counting:
    ready: Ready
    members: tuple[int, ...]


@dataclass(frozen=True)
class Idle:
    clients: tuple[int, ...]
    helpers: int
    done: int


@dataclass(frozen=True)
class NewServer:
    clients: tuple[int, ...]
    helpers: int


@dataclass(frozen=True)
class Gathering:
    idle: Idle


@dataclass(frozen=True)
class Waiting:
    idle: Idle
    rests: Mapping[int, int]


flow = Flow("committee")
helper = flow.role("helper", many=True)

# Setup, once


@helper
def introduce(new: NewHelper, rand: Rand) -> tuple[Meeting, Broadcast[HelperKey]]:
    """A key for every client to seal to."""
    pair = KeyPair.generate(rand, "helper")
    return Meeting(new, pair), Broadcast(HelperKey(pair.public), new.clients)


@flow.client(quorum=lambda _: 1, within=10.0)
def join(new: NewClient, keys: Inbox[HelperKey], rand: Rand) -> tuple[Joined, Fanout[ClientKey]]:
    """Agree on a key with every helper."""
    pair = KeyPair.generate(rand, "client")
    agreed = {h: _agreed(pair, said.key, new.me, h) for h, said in keys.items()}
    return Joined(new.me, agreed, 0), Fanout({h: ClientKey(pair.public) for h in keys})


@helper(quorum=lambda _: 2, within=10.0)
def meet(meeting: Meeting, keys: Inbox[ClientKey]) -> Ready:
    """Agree on a key with every client; the key pair is forgotten."""
    return Ready(meeting.helper, {u: _agreed(meeting.pair, said.key, u, meeting.helper.me) for u, said in keys.items()}, 0)


@flow.server
def convene(new: NewServer) -> Idle:
    """Nothing to do before the first sum."""
    return Idle(new.clients, new.helpers, 0)


def _agreed(pair: KeyPair, theirs: bytes, u: int, h: int) -> Key:
    check_public_key(theirs)
    return derive(pair.exchange(theirs), canonical(["committee", u, h]))


def _box_key(key: Key, number: int) -> Key:
    return derive(key, canonical(["part", number]))


# A sum, as often as one likes


@flow.server
def call(idle: Idle, start: Input[Start]) -> tuple[Gathering, Broadcast[Call]]:
    """Begin a sum."""
    return Gathering(idle), Broadcast(Call(idle.done), idle.clients)


@flow.client
def contribute(joined: Joined, called: Call, number: Input[Number], rand: Rand) -> tuple[Joined, Fanout[Part], Rest]:
    """Split the number: a part for every helper, the rest for the server."""
    require(called.number == joined.done, "call-number", "sums are called in turn")
    parts = {h: int(rand.words(f"part {h}", 1)[0]) for h in joined.keys}
    boxes = {h: seal.seal(_box_key(joined.keys[h], joined.done), part.to_bytes(8, "big"), b"") for h, part in parts.items()}
    rest = (number.value - sum(parts.values())) % MODULUS
    return Joined(joined.me, joined.keys, joined.done + 1), Fanout({h: Part(box) for h, box in boxes.items()}), Rest(rest)


@flow.server(quorum=lambda _: 2, within=10.0)
def gather(gathering: Gathering, rests: Inbox[Rest]) -> tuple[Waiting, Broadcast[Members]]:
    """Tell the helpers who arrived."""
    helpers = tuple(range(1, gathering.idle.helpers + 1))
    return Waiting(gathering.idle, {u: said.value for u, said in rests.items()}), Broadcast(Members(tuple(rests)), helpers)


@helper
def convened(ready: Ready, members: Members) -> Counting:
    """Wait for the parts of those, and no others."""
    require(len(members.indexes) >= 2 and set(members.indexes) <= set(ready.keys), "members-set", "at least two who joined")
    return Counting(ready, members.indexes)


@helper(quorum=lambda counting: len(counting.members), within=10.0)
def answer(counting: Counting, parts: Inbox[Part]) -> tuple[Ready, Partial]:
    """The sum of the parts of the members; the state goes back to where the next sum begins."""
    ready, total = counting.ready, 0
    for u in counting.members:
        if u not in parts:
            raise Refused("members-part", f"no part of {u}")
        total += int.from_bytes(seal.unseal(_box_key(ready.keys[u], ready.done), parts[u].box, b""), "big")
    return Ready(ready.helper, ready.keys, ready.done + 1), Partial(total % MODULUS)


@flow.server(quorum=lambda waiting: waiting.idle.helpers, within=20.0)
def finish(waiting: Waiting, partials: Inbox[Partial]) -> tuple[Idle, Output[Total]]:
    """Add the rests and what the helpers hold."""
    total = (sum(waiting.rests.values()) + sum(said.value for said in partials.values())) % MODULUS
    idle = waiting.idle
    centred = total - MODULUS if total >= MODULUS // 2 else total
    return Idle(idle.clients, idle.helpers, idle.done + 1), Output(Total(centred, tuple(waiting.rests)))


flow.check()
