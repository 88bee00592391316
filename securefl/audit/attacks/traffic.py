"""What a network or a lying party does to letters, for any protocol: bytes changed, letters doubled, held back or replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from protocols.schema import Message
from protocols.session import SERVER, Address, Letter, client
from protocols.simulate import Network
from securefl.audit.federation import Federation, run
from securefl.audit.target import Target

Bend = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Bent(Letter):
    """A letter whose bytes are not those of its message; in the pieces that a driver would feed."""

    pieces: tuple[bytes, ...] = ()

    def chunks(self) -> Iterable[bytes]:  # type: ignore[override]
        """The pieces."""
        return iter(self.pieces)


def bent(letter: Letter, bend: Bend) -> Bent:
    """The letter with its bytes changed; control and vector bytes stay apart, as no driver feeds two messages in one piece."""
    data = b"".join(letter.chunks())
    head = 4 + int.from_bytes(data[:4], "little")
    changed = bend(data)
    pieces = tuple(piece for piece in (changed[:head], changed[head:]) if piece)
    return Bent(letter.sender, letter.to, letter.message, letter.epoch, letter.limits, pieces)


def flip(place: int) -> Bend:
    """One bit of the byte at that place changed."""

    def bend(data: bytes) -> bytes:
        out = bytearray(data)
        out[place % len(out)] ^= 4
        return bytes(out)

    return bend


def long_head(data: bytes) -> bytes:
    """The same content in a longer spelling: the head of the list in two bytes."""
    length = int.from_bytes(data[:4], "little")
    control, rest = data[4 : 4 + length], data[4 + length :]
    spelled = bytes([0x98, control[0] & 0x1F]) + control[1:]
    return len(spelled).to_bytes(4, "little") + spelled + rest


BENDS: dict[str, Bend] = {
    "cut short": lambda data: data[:-1],
    "huge": lambda data: b"\xff\xff\xff\x7f" + data[4:],
    "not canonical": long_head,
    "bytes after the end": lambda data: data + b"\0",
    "a control bit flipped": lambda data: flip(4 + int.from_bytes(data[:4], "little") - 5)(data),
    "the last bit flipped": flip(-1),
    "a vector bit flipped": lambda data: flip(9 + int.from_bytes(data[:4], "little"))(data),
    "the head flipped": flip(5),
}
"""Ways to spoil a message."""


def spoiling(sender: Address, kind: str, bend: Bend, to: Address | None = None, *, spoilt: list[Letter] | None = None) -> Network:
    """A network that spoils the messages of one kind from one sender, or those of them that go to one recipient.

    ``spoilt`` is filled, if given.
    """
    seen = [] if spoilt is None else spoilt

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender != sender or type(letter.message).__name__ != kind:
            return (letter,)
        seen.append(letter)
        if to is None:
            return (bent(letter, bend),)
        rest = tuple(a for a in letter.to if a != to)
        mine = (bent(replace(letter, to=(to,)), bend),) if to in letter.to else ()
        return (*mine, replace(letter, to=rest)) if rest else mine

    return network


def doubling(sender: Address, kind: str) -> Network:
    """A network that delivers the messages of one kind from one sender twice."""
    return lambda letter: (letter,) * (2 if letter.sender == sender and type(letter.message).__name__ == kind else 1)


def delaying(sender: Address, kind: str) -> Network:
    """A network that holds one sender's messages of a kind back until the server has gone on."""
    held = list[Letter]()
    seen = set[str]()

    def network(letter: Letter) -> Iterable[Letter]:
        name = type(letter.message).__name__
        if letter.sender == sender and name == kind:
            held.append(letter)
            return ()
        new, out = letter.sender == SERVER and name not in seen, list[Letter]([letter])
        if letter.sender == SERVER:
            seen.add(name)
        if new and held:
            out += held
            held.clear()
        return out

    return network


def recorded(fed: Federation) -> dict[tuple[str, Address, Address], Letter]:
    """Every letter of an honest run, by name, sender and recipient."""
    out = dict[tuple[str, Address, Address], Letter]()

    def watch(letter: Letter, to: Address, _size: int) -> None:
        out[type(letter.message).__name__, letter.sender, to] = replace(letter, to=(to,))

    run(fed, watch=watch)
    return out


def replaying(old: Mapping[tuple[str, Address, Address], Letter], kind: str, ends: Callable[[Address, Address], bool]) -> Network:
    """A network that delivers, in the place of letters of a kind between certain ends, those of another run."""

    def network(letter: Letter) -> Iterable[Letter]:
        if type(letter.message).__name__ != kind:
            return (letter,)
        out = list[Letter]()
        for to in letter.to:
            there = old.get((kind, letter.sender, to)) if ends(letter.sender, to) else None
            out.append(replace(letter, to=(to,)) if there is None else there)
        return out

    return network


def kinds(target: Target, to: str) -> list[type[Message]]:
    """Kinds of messages that a role takes."""
    return target.flow.messages(to)


def liar(target: Target) -> Address:
    """The party that lies: the last."""
    return client(target.parties)
