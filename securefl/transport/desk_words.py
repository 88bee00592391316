"""What is said at the server's desk: one message and one answer, each a control message as on the stream.

What it does not protect: as `securefl.transport.envelope`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocols.schema import Count, Digest, Message, Record, Size
from securefl.transport.envelope import Number
from securefl.transport.roster import LARGEST

SERVICE, METHOD = "securefl.v1.Bundles", "Ask"
LARGEST_BUNDLE, LARGEST_DECISION = (1 << 20) + (1 << 14), 4096
"""Most bytes of a signed bundle and of a signed decision."""
MOST_LISTED, MOST_SAID = 32, 1024
"""Most bundles of a list, the newest, and most decisions of each."""
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


ASKED = {kind.__name__: kind for kind in (Submit, Fetch, Tell, List)}
ANSWERED = {kind.__name__: kind for kind in (Taken, Handed, Listed, Declined)}
