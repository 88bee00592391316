"""What is said at the server's desk: one message and one answer, each a control message as on the stream.

What it does not protect: as `securefl.transport.envelope`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from protocols.errors import Refused
from protocols.schema import Count, Digest, Message, Record, Size
from protocols.wire import check_items
from securefl.transport.envelope import CONTROL, Number, read
from securefl.transport.roster import LARGEST

SERVICE, METHOD = "securefl.v1.Bundles", "Ask"
LARGEST_BUNDLE, LARGEST_DECISION = (1 << 20) + (1 << 14), 4096
"""Most bytes of a signed bundle and of a signed decision."""
MOST_LISTED, MOST_SAID = 32, 1024
"""Most bundles of a list, the newest, and most decisions of each."""
MOST_ASKED, MOST_ANSWERED = 8, 16 + MOST_LISTED * (8 + 4 * MOST_SAID)
"""Most items of a message to the server, and of an answer."""
Name = Annotated[str, Size(1, 64)]
Title = Annotated[str, Size(0, 800)]


@dataclass(frozen=True)
class Submit(Message):
    """Author or party → server: a signed bundle."""

    wire: Number
    bundle: Annotated[bytes, Size(1, LARGEST_BUNDLE)]


@dataclass(frozen=True)
class Fetch(Message):
    """Member → server: the bundle of this hash is wanted."""

    wire: Number
    bundle: Digest


@dataclass(frozen=True)
class Tell(Message):
    """Party → server: a signed decision."""

    wire: Number
    decision: Annotated[bytes, Size(1, LARGEST_DECISION)]


@dataclass(frozen=True)
class List(Message):
    """Member → server: what is there?"""

    wire: Number


@dataclass(frozen=True)
class Said(Record):
    """What a party decided, as the server has it."""

    party: Name
    verdict: Name


@dataclass(frozen=True)
class Item(Record):
    """A bundle, as the server has it.

    Attributes:
        bundle: its hash.
        author: who signed it.
        title: what its author calls it.
        added: when it came, ISO 8601.
        decisions: of parties.
    """

    bundle: Digest
    author: Name
    title: Title
    added: Name
    decisions: Annotated[tuple[Said, ...], Count(0, MOST_SAID)]


@dataclass(frozen=True)
class Taken(Message):
    """Server → member: kept, under this hash; the author is the one under whom."""

    bundle: Digest
    author: Name


@dataclass(frozen=True)
class Handed(Message):
    """Server → member: a bundle, and the roster by which its author is known."""

    bundle: Annotated[bytes, Size(1, LARGEST_BUNDLE)]
    roster: Annotated[bytes, Size(1, LARGEST)]


@dataclass(frozen=True)
class Listed(Message):
    """Server → member: the newest bundles, which of them runs here, if one does, and the roster."""

    running: Annotated[bytes, Size(0, 32)]
    roster: Annotated[bytes, Size(1, LARGEST)]
    items: Annotated[tuple[Item, ...], Count(0, MOST_LISTED)]


@dataclass(frozen=True)
class Declined(Message):
    """Server → member: no, and why."""

    check: Annotated[str, Size(0, 64)]
    detail: Annotated[str, Size(0, 1024)]


def hear(data: bytes, kinds: Mapping[str, type[Message]], items: int) -> Message:
    """One message of the desk, counted before it is decoded.

    Raises:
        Refused: as `securefl.transport.envelope.read`, for a frame, and for more items.
    """
    if data[:1] == bytes([CONTROL]):
        check_items(data[5:], items)
    found = read(data, kinds)
    if not isinstance(found, Message):
        raise Refused("net-envelope", "no message of the desk")
    return found


ASKED = {kind.__name__: kind for kind in (Submit, Fetch, Tell, List)}
ANSWERED = {kind.__name__: kind for kind in (Taken, Handed, Listed, Declined)}
