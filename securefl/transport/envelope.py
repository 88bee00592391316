"""What is on the stream between a party and the server: an envelope around the frames of sessions, and a few words about them.

Every message of the stream is bytes of gRPC as they are (generic handlers: no protobuf)::

    0 ‖ one control message, as `protocols.wire` writes it, without vectors
    1 ‖ sitting (4 bytes, little-endian) ‖ flags (1) ‖ up to `FRAME` bytes of a letter

The flag `BEGINS` marks the first frame of a letter.  It is for the receiver's convenience: who lies with it harms its own letters.
The wire has a version of its own, `WIRE`, apart from the package's.

What it does not protect: the bytes say nothing of who sent them; that is the certificate's word, and in a session the signature's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from protocols.errors import Refused, require
from protocols.letters import Letter
from protocols.schema import MAX_PARTIES, Digest, Message, Size, Span
from protocols.wire import FRAME, Decoder, Limits, encode
from securefl.transport.roster import LARGEST

WIRE = 1
"""Version of all that is written here."""
HEAD = 6
"""Bytes before those of a letter."""
MOST_UP, MOST_DOWN = 2 * FRAME, LARGEST + FRAME
"""Most bytes of one message to the server, and to a party, to whom the roster comes in one; gRPC cuts a stream that brings more.
What is larger than a frame and not larger than that is refused here, with its reason."""
CONTROL, LETTER = 0, 1
BEGINS = 1
_PLAIN = Limits(2, {})
Number = Annotated[int, Span(0, 2**32 - 1)]
M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Hello(Message):
    """Party → server: who calls, and what it wants to take part in.

    Attributes:
        wire: version of the wire that it speaks.
        software: name and version, for the log.
        job: hash of its job (`securefl.shared_job`).
        roster: serial number of the newest roster that it has seen.
    """

    wire: Number
    software: Annotated[str, Size(0, 64)]
    job: Digest
    roster: Number


@dataclass(frozen=True)
class Welcome(Message):
    """Server → party: it may take part.

    Attributes:
        wire: version of the wire.
        run: name of the run; a party holds it to its own job.
        roster: the signed roster that the run is over.
    """

    wire: Number
    run: Annotated[str, Size(1, 64)]
    roster: Annotated[bytes, Size(1, LARGEST)]


@dataclass(frozen=True)
class Ready(Message):
    """Party → server: it has made itself ready for the run, and takes its seat."""


@dataclass(frozen=True)
class Convene(Message):
    """Server → party: a sum begins.

    Attributes:
        sitting: its number on this server, from 1; stands before every frame of it.
        stage: what the sum is for.
        round: number of the round.
        attempt: number of the attempt.
    """

    sitting: Number
    stage: Annotated[str, Size(1, 32)]
    round: Number
    attempt: Number


@dataclass(frozen=True)
class Invite(Message):
    """Server → party: a sum of some of the registered begins, to which the party is invited.

    Attributes:
        sitting, stage, round, attempt: as of `Convene`.
        cohort: who is invited, a bit for each place of the roster, the first the lowest of the first byte.
    """

    sitting: Number
    stage: Annotated[str, Size(1, 32)]
    round: Number
    attempt: Number
    cohort: Annotated[bytes, Size(1, (MAX_PARTIES + 7) // 8)]


@dataclass(frozen=True)
class Adjourn(Message):
    """Server → party: a sum is over; ``check`` is empty, or why it came to nothing.  A party counts on neither."""

    sitting: Number
    check: Annotated[str, Size(0, 64)]


@dataclass(frozen=True)
class Dismiss(Message):
    """Server → party: nothing more comes.  ``check`` is empty where the run is done; else why the party is sent away."""

    check: Annotated[str, Size(0, 64)]
    detail: Annotated[str, Size(0, 1024)]


FROM_PARTY = {kind.__name__: kind for kind in (Hello, Ready)}
FROM_SERVER = {kind.__name__: kind for kind in (Welcome, Convene, Invite, Adjourn, Dismiss)}


@dataclass(frozen=True)
class Frame:
    """A part of a letter.

    Attributes:
        sitting: of which sitting.
        begins: whether it is the letter's first.
        chunk: its bytes.
    """

    sitting: int
    begins: bool
    chunk: memoryview


def control(message: Message) -> bytes:
    """A control message on the stream."""
    return bytes([CONTROL]) + b"".join(bytes(part) for part in encode(message, 0, _PLAIN))


@dataclass(frozen=True)
class Parcel:
    """A letter as it goes out: the same bytes for all who get it, cut into frames when they are written.

    Attributes:
        sitting: of which sitting.
        parts: its wire bytes (`protocols.session.Letter.chunks`).
    """

    sitting: int
    parts: tuple[bytes | memoryview, ...] = field(repr=False)

    @classmethod
    def of(cls, letter: Letter, sitting: int) -> Parcel:
        """A letter of a sitting."""
        return cls(sitting, tuple(letter.chunks()))

    def frames(self) -> Iterator[bytes]:
        """What goes onto the stream; a letter that fits one frame is one."""
        flags, held = BEGINS, list[bytes | memoryview]()
        for part in self.parts:
            view = memoryview(part)
            for at in range(0, len(view), FRAME):
                piece = view[at : at + FRAME]
                if held and sum(map(len, held)) + len(piece) > FRAME:
                    yield _frame(self.sitting, flags, held)
                    flags, held = 0, []
                held.append(piece)
        yield _frame(self.sitting, flags, held)


def _frame(sitting: int, flags: int, parts: list[bytes | memoryview]) -> bytes:
    return b"".join([bytes([LETTER]), sitting.to_bytes(4, "little"), bytes([flags]), *parts])


def read(data: bytes, kinds: Mapping[str, type[Message]]) -> Message | Frame:
    """What came on the stream: one of the control messages ``kinds``, or a frame.

    Raises:
        Refused: ``net-envelope`` or ``wire-…`` for what is neither.
    """
    require(data, "net-envelope", "an empty message")
    if data[0] == LETTER:
        require(HEAD < len(data) <= HEAD + FRAME and data[5] in (0, BEGINS), "net-envelope", "a frame of no or too many bytes")
        return Frame(int.from_bytes(data[1:5], "little"), data[5] == BEGINS, memoryview(data)[HEAD:])
    require(data[0] == CONTROL, "net-envelope", f"a message of unknown kind {data[0]}")
    decoder = Decoder(kinds, _PLAIN)
    decoder.feed(memoryview(data)[1:])
    found = decoder.message()
    if found is None or found[1]:
        raise Refused("net-envelope", "a control message with an epoch")
    return found[0]


def expect(data: bytes, kinds: Mapping[str, type[Message]], kind: type[M]) -> M:
    """The control message of one kind that must come now.

    Raises:
        Refused: as `read`, and ``net-envelope`` for another.
    """
    found = read(data, kinds)
    if not isinstance(found, kind):
        raise Refused("net-envelope", f"something else where a {kind.__name__} must come")
    return found


def split(chunk: memoryview, longest: int) -> tuple[memoryview, ...]:
    """The first frame of a letter in two: control bytes, and the vector bytes behind them, which may have to wait."""
    end = 4 + int.from_bytes(chunk[:4], "little")
    return (chunk[:end], chunk[end:]) if 4 < end < len(chunk) and end <= 4 + longest else (chunk,)
