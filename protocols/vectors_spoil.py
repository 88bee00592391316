"""Ways to spoil a message, for the test vectors: what is wrong is read off the message's own type, so they fit any protocol.

A few look for fields by name (``signature``, ``dropped``, ``signatures``), and are silent where there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, get_args

import cbor2
import numpy as np

from protocols.bulk import Bulk, Packed
from protocols.errors import Misuse
from protocols.ring import Ring
from protocols.schema import (
    MAX_PARTIES,
    Count,
    Message,
    Record,
    Signature,
    Size,
    Sizes,
    Span,
    Strings,
    actual,
    has_vector,
    is_raw,
    schema,
)
from protocols.session import Address, Letter, client
from protocols.vectors_run import Run
from protocols.wire import canonical, encode


@dataclass(frozen=True)
class Spoilt:
    """A bad message.

    Attributes:
        how: what is wrong with it, in words.
        data: its bytes.
        sender: in whose name it comes, if not in that of the good one.
        again: whether it comes after the good one and not in its place.
    """

    how: str
    data: bytes
    sender: Address | None = None
    again: bool = False


@dataclass(frozen=True)
class Good:
    """A good message in its run.

    Attributes:
        base: the run where everybody stays.
        other: the same one round later, with the same randomness: what a replay is taken from.
        at: number of the message in the run, from 0.
        letter: the message.
        to: the receiver that is looked at.
    """

    base: Run
    other: Run
    at: int
    letter: Letter
    to: Address

    @cached_property
    def data(self) -> bytes:
        """The bytes."""
        return b"".join(self.letter.chunks())

    @property
    def control(self) -> bytes:
        """Control bytes, without their length."""
        return self.data[4 : 4 + int.from_bytes(self.data[:4], "little")]

    @property
    def vectors(self) -> bytes:
        """What follows the control bytes."""
        return self.data[4 + len(self.control) :]

    def framed(self, control: bytes) -> bytes:
        """Other control bytes before the same vectors."""
        return len(control).to_bytes(4, "little") + control + self.vectors

    def encoded(self, changed: Message) -> bytes:
        """The bytes of a changed message."""
        return b"".join(encode(changed, self.letter.epoch, self.letter.limits))

    def siblings(self, of: Run | None = None) -> list[Letter]:
        """All messages of this kind in a run."""
        return [x for x in (of or self.base).letters if type(x.message) is type(self.letter.message)]


Way = Callable[[Good], Iterator[Spoilt]]


# Ways that fit every message


def truncated(good: Good) -> Iterator[Spoilt]:
    """Half a message taken for a whole one."""
    yield Spoilt("the last byte is missing", good.data[:-1])


def trailing_byte(good: Good) -> Iterator[Spoilt]:
    """Bytes after the end of a message."""
    yield Spoilt("a zero byte follows", good.data + b"\0")


def encoding(good: Good) -> Iterator[Spoilt]:
    """Another CBOR encoding of the same content."""
    head, rest = good.control[0], good.control[1:]
    yield Spoilt("the length of the outer array takes two bytes", good.framed(bytes([0x98, head & 0x1F]) + rest))
    yield Spoilt("the outer array is of indefinite length", good.framed(b"\x9f" + rest + b"\xff"))


def bound(good: Good) -> Iterator[Spoilt]:
    """A field past its bound."""
    kind, limits = type(good.letter.message), good.letter.limits
    named = [(name, hint) for name, hint in schema(kind) if not is_raw(hint)]
    tree = cbor2.loads(good.control)
    for place, (name, hint) in enumerate(named, 2):
        if (value := _beyond(hint, tree[place], limits.sizes)) is not None:
            changed = canonical([*tree[:place], value, *tree[place + 1 :]])
            yield Spoilt(f"{name} is past its bound", good.framed(changed))
    for name, hint in [(name, hint) for name, hint in schema(kind) if is_raw(hint)]:
        layout = limits.vectors[get_args(hint)[1].key]
        if isinstance(layout, Packed):
            yield Spoilt(f"every bit of {name} is 1", good.encoded(_with(good.letter.message, name, _ones(layout))))


def _beyond(hint: Any, value: Any, sizes: Sizes) -> Any:
    if isinstance(hint, type):
        return []
    mark = get_args(hint)[1]
    match mark:
        case Size(low, high):
            longer = (low if high is None else high) + 1 - len(value)
            return value + (b"\0" * longer if isinstance(value, bytes) else "x" * longer)
        case Strings():
            size, _, most = mark.of(sizes)
            return bytes(size) * (1 + most)
        case Span(_, high):
            return high + 1
        case Count(_, high):
            most = actual(high, sizes)
            return [*value, *[value[-1] if value else 1] * (most + 1 - len(value))] if most <= MAX_PARTIES else None
    return None


def padding(good: Good) -> Iterator[Spoilt]:
    """Bits hidden in the filling of a packed vector."""
    raw = [get_args(hint)[1].key for _, hint in schema(type(good.letter.message)) if is_raw(hint)]
    layout = good.letter.limits.vectors[raw[-1]] if raw else None
    if isinstance(layout, Packed) and layout.size % (8 * np.dtype(layout.ring.dtype).itemsize):
        yield Spoilt("the last bit of the filling is 1", good.data[:-1] + bytes([good.data[-1] ^ 0x80]))


def _ones(layout: Packed) -> Bulk:
    values = Ring(layout.ring.bits)
    return Bulk.of(Packed(values, layout.size), np.full(layout.size, values.modulus - 1, dtype=values.dtype))


def sender(good: Good) -> Iterator[Spoilt]:
    """A message in the name of another party."""
    mine = good.letter.sender
    yield Spoilt("it comes in another's name", good.data, sender=client(1 + mine.index % len(good.base.setting.inputs)))


def round_(good: Good) -> Iterator[Spoilt]:
    """A message of another round between the same parties with the same randomness."""
    for letter in good.siblings(good.other):
        if letter.sender == good.letter.sender and good.to in letter.to:
            if (data := b"".join(letter.chunks())) != good.data:
                yield Spoilt("it was sent one round later", data)
            return


def twice(good: Good) -> Iterator[Spoilt]:
    """A message that comes a second time."""
    yield Spoilt("it comes after the good one", good.data, again=True)


# Ways that fit messages with certain fields


def vector(good: Good) -> Iterator[Spoilt]:
    """A vector other than the one that was signed."""
    if has_vector(type(good.letter.message)):
        yield Spoilt(
            "the first bit of the vectors is another", good.framed(good.control)[: -len(good.vectors)] + _flip(good.vectors)
        )


def signature(good: Good) -> Iterator[Spoilt]:
    """A signature with one bit changed."""
    for name, changed in _flips(good.letter.message, lambda hint: hint == Signature):
        yield Spoilt(f"one bit of {name} is another", good.encoded(changed))


def field(good: Good) -> Iterator[Spoilt]:
    """A key, box, share or hash with one bit changed."""
    for name, changed in _flips(good.letter.message, lambda hint: hint != Signature):
        yield Spoilt(f"one bit of {name} is another", good.encoded(changed))


def swapped_signature(good: Good) -> Iterator[Spoilt]:
    """A signature that another party has made over its own message."""
    said: Any = good.letter.message
    others: list[Any] = [x.message for x in good.siblings() if x.sender != good.letter.sender]
    if others and hasattr(said, "signature"):
        yield Spoilt("the signature is another party's", good.encoded(replace(said, signature=others[0].signature)))
    for name, items in _lists(said):
        if len(items) > 1 and hasattr(items[0], "signature"):
            one, two, *rest = items
            changed = replace(one, signature=two.signature), replace(two, signature=one.signature), *rest
            yield Spoilt(f"two signatures of {name} have changed places", good.encoded(replace(said, **{name: changed})))


def addressee(good: Good) -> Iterator[Spoilt]:
    """A message that was meant for another receiver."""
    for letter in good.siblings():
        if letter.sender == good.letter.sender and good.to not in letter.to and (data := b"".join(letter.chunks())) != good.data:
            yield Spoilt(f"it was meant for {letter.to[0]}", data)
            return


def members(good: Good) -> Iterator[Spoilt]:
    """A list of parties that is not what it must be."""
    said, me = good.letter.message, good.to.index
    for name, items in _lists(said):
        own = [item for item in items if item == me or getattr(item, "index", None) == me]
        for how, changed in (
            (f"{name} in another order", items[::-1]),
            (f"the first of {name} stands twice", (items[:1] + items)[: len(items)]),
            (f"the last of {name} is missing", items[:-1]),
            (f"the receiver is missing in {name}", tuple(x for x in items if x not in own)),
        ):
            if len(items) > 1 and changed != items:
                with suppress(Misuse):  # a list that is too short to be sent
                    yield Spoilt(how, good.encoded(_with(said, name, changed)))


def survivor_set(good: Good) -> Iterator[Spoilt]:
    """A dropped set that no honest server would tell."""
    said, n = good.letter.message, len(good.base.setting.inputs)
    if not hasattr(said, "dropped"):
        return
    others = tuple(u for u in range(1, n + 1) if u != good.to.index)
    for how, dropped in (
        ("the receiver has dropped", (good.to.index,)),
        ("it does not ascend", others[:2][::-1]),
        ("a party has dropped twice", others[:1] * 2),
        ("all but the receiver have dropped", others),
    ):
        yield Spoilt(how, good.encoded(_with(said, "dropped", dropped)))


def survivor_signature(good: Good) -> Iterator[Spoilt]:
    """Signatures over the survivor set that do not make an agreement."""
    said: Any = good.letter.message
    if type(said).__name__ == "Agree":
        yield from signature(good)
    if type(said).__name__ == "Agreed":
        first, *rest = said.signatures
        flipped = replace(first, signature=_flip(first.signature))
        yield Spoilt("one bit of a signature is another", good.encoded(_with(said, "signatures", [flipped, *rest])))
        every = [replace(one, signature=_flip(one.signature)) for one in said.signatures]
        yield Spoilt("one bit of every signature is another", good.encoded(_with(said, "signatures", every)))
        yield Spoilt("a signer stands twice", good.encoded(_with(said, "signatures", [first, first, *rest[1:]])))
        yield Spoilt("one signer is left", good.encoded(_with(said, "signatures", [first])))


def _with(said: Message, name: str, value: Any) -> Message:
    changed: Message = replace(said, **{name: tuple(value) if isinstance(value, list) else value})  # type: ignore[type-var]
    return changed


def _lists(said: Message) -> list[tuple[str, tuple[Any, ...]]]:
    return [(f.name, value) for f in fields(said) if isinstance(value := getattr(said, f.name), tuple)]  # type: ignore[arg-type]


def _flips(said: Any, wanted: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """Copies of a record in each of which one bit of a wanted field of bytes is another; of a list in the first item's."""
    for name, hint in schema(type(said)):
        value = getattr(said, name)
        if isinstance(value, bytes) and value and wanted(hint):
            yield name, replace(said, **{name: _flip(value)})
        elif isinstance(value, tuple) and value and isinstance(value[0], Record):
            for inner, first in _flips(value[0], wanted):
                yield f"{name}.{inner}", replace(said, **{name: (first, *value[1:])})


def _flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


WAYS: Mapping[str, Way] = {
    "truncated": truncated,
    "trailing_byte": trailing_byte,
    "encoding": encoding,
    "bound": bound,
    "padding": padding,
    "sender": sender,
    "round": round_,
    "twice": twice,
    "vector": vector,
    "field": field,
    "signature": signature,
    "swapped_signature": swapped_signature,
    "addressee": addressee,
    "members": members,
    "survivor_set": survivor_set,
    "survivor_signature": survivor_signature,
}
"""What can be wrong with a message, by the name that the file gets."""
