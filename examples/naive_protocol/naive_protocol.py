"""Pairwise masks as one would first write them.  The sum is right, and dropouts are survived; three faults are planted.

Fault 1: every party's key pair is made once, and nothing in a mask says for which round it is.
Fault 2: a party says in clear how many rows it has.
Fault 3: if a party vanishes, the others open the masks that they share with it, and nothing else covers its vector.

What it does not protect: anything, as example 07 shows.
"""

from dataclasses import dataclass
from typing import Annotated

from protocols.bulk import Bulk, Packed
from protocols.flow import Arrived, Broadcast, Flow, Inbox, Input, Output
from protocols.primitives import agree, prg
from protocols.rand import Key, fresh
from protocols.ring import Accumulator
from protocols.schema import PARTIES, Count, Digest, Index, Message, PublicKey, Raw, Span
from protocols.secagg_parameters import Parameters
from protocols.suite import Terms
from protocols.sums import Party, Scheme
from protocols.vector import Sum, Vector, checked_sum, with_count
from protocols.wire import canonical

flow = Flow("naive")
PAIRS = {u: agree.KeyPair.generate(fresh(), "key") for u in range(1, 65)}
"""Fault 1: everybody's key pair, for all rounds to come."""


@dataclass(frozen=True)
class Invited:
    """A party before it has done anything."""

    me: int
    terms: Terms


@dataclass(frozen=True)
class Waiting:
    """A party that waits for the others' keys."""

    me: int
    terms: Terms


@dataclass(frozen=True)
class Hidden:
    """A party that has sent its vector, with the keys of its masks by peer."""

    me: int
    keys: dict[int, Key]


@dataclass(frozen=True)
class Finished:
    """A party that is done."""

    me: int


@dataclass(frozen=True)
class Meeting:
    """Server: keys come in."""

    terms: Terms


@dataclass(frozen=True)
class Adding:
    """Server: masked vectors come in."""

    terms: Terms
    keys: tuple[bytes, ...]
    total: Accumulator


@dataclass(frozen=True)
class Asking:
    """Server: keys of those who vanished come in."""

    adding: Adding
    gone: tuple[int, ...]
    there: tuple[int, ...]


@dataclass(frozen=True)
class Hello(Message):
    """Party → server: its public key."""

    key: PublicKey


@dataclass(frozen=True)
class Everybody(Message):
    """Server → parties: all public keys."""

    keys: Annotated[tuple[PublicKey, ...], Count(2, PARTIES)]


@dataclass(frozen=True)
class Masked(Message):
    """Party → server: the masked vector.  Fault 2: how many rows it was computed from."""

    y: Annotated[Bulk, Raw("masked")]
    rows: Annotated[int, Span(0, 2**32)]


@dataclass(frozen=True)
class Gone(Message):
    """Server → parties: whose vectors did not come."""

    parties: Annotated[tuple[Index, ...], Count(0, PARTIES)]


@dataclass(frozen=True)
class Opened(Message):
    """Party → server.  Fault 3: the keys that it shares with those who are gone, which are all that covers their vectors."""

    keys: Annotated[tuple[Digest, ...], Count(0, PARTIES)]


def mask_key(u: int, v: int, theirs: bytes) -> Key:
    """The key of the mask that two parties share."""
    return agree.derive(PAIRS[u].exchange(theirs), canonical(["naive mask", min(u, v), max(u, v)]))


@flow.client
def greet(invited: Invited) -> tuple[Waiting, Hello]:
    """Send the public key."""
    return Waiting(invited.me, invited.terms), Hello(PAIRS[invited.me].public)


@flow.server(quorum=lambda srv: srv.terms.parameters.parties, within=60.0)
def introduce(srv: Meeting, said: Inbox[Hello]) -> tuple[Adding, Broadcast[Everybody]]:
    """Show everybody all keys."""
    p, keys = srv.terms.parameters, tuple(hello.key for hello in said.values())
    return Adding(srv.terms, keys, Accumulator(p.ring, p.size + 1)), Broadcast(Everybody(keys), tuple(said))


@flow.client(spends=True)
def hide(waiting: Waiting, everybody: Everybody, x: Input[Vector]) -> tuple[Hidden, Masked]:
    """Add the masks shared with later parties, subtract those shared with earlier ones."""
    me, p = waiting.me, waiting.terms.parameters
    keys = {v: mask_key(me, v, key) for v, key in enumerate(everybody.keys, 1) if v != me}
    y = with_count(x, p)
    prg.apply_masks(y, [key for v, key in keys.items() if me < v], [key for v, key in keys.items() if me > v])
    p.ring.reduce(y)
    return Hidden(me, keys), Masked(Bulk.of(Packed(p.ring, p.size + 1), y), abs(int(x.values[-1 - p.parties])))


def absorb(srv: Adding, _u: int, masked: Masked) -> Adding:
    """Add one vector."""
    srv.total.add(masked.y.values)
    return srv


@flow.server(fold=absorb, quorum=lambda srv: srv.terms.parameters.threshold, within=60.0)
def survey(srv: Adding, arrived: Arrived[Masked]) -> tuple[Asking, Broadcast[Gone]]:
    """Ask for the masks of those who vanished."""
    gone = tuple(u for u in srv.terms.roster.indexes if u not in arrived)
    return Asking(srv, gone, arrived), Broadcast(Gone(gone), arrived)


@flow.client
def give(hidden: Hidden, gone: Gone) -> tuple[Finished, Opened]:
    """Give the keys shared with them."""
    return Finished(hidden.me), Opened(tuple(hidden.keys[v].reveal() for v in gone.parties))


@flow.server(quorum=lambda srv: len(srv.there), within=60.0)
def reveal(srv: Asking, said: Inbox[Opened]) -> Output[Sum]:
    """Take the masks off that found no counterpart."""
    p, plus, minus = srv.adding.terms.parameters, list[Key](), list[Key]()
    for u, opened in said.items():
        for v, key in zip(srv.gone, opened.keys, strict=False):
            (minus if u < v else plus).append(Key(key))
    total = srv.adding.total.total()
    prg.apply_masks(total, plus, minus)
    return Output(checked_sum(p.ring.centre(total), len(srv.there), p))


def start(party: Party, terms: Terms) -> Invited:
    """A party's start."""
    return Invited(party.index, terms)


SCHEME = Scheme(
    name="naive",
    parameters=Parameters.of,
    suite=lambda p: f"NaiveMasks_Z{p.ring.bits}",
    flow=flow.check(),
    client_start=start,
    server_start=Meeting,
    layouts=lambda p: {"masked": Packed(p.ring, p.size + 1)},
)
