"""One message as a tape or a log records it: who sent it to whom, its control bytes, and of each vector its size and hash."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocols.bulk import Bulk
from protocols.schema import Message, raw_fields
from protocols.session import Address, Letter
from protocols.wire import FRAME, Limits, canonical, parse_control
from securefl.audit.chain import is_count

LONGEST = 64
"""Letters of the name of a message, or of the id of a check or step, at most."""
ID = re.compile(f"[A-Za-z0-9_.-]{{1,{LONGEST}}}")
"""An id of a check, or a name of a step."""
ADDRESS = re.compile(r"([a-z][a-z_-]{0,31})(?: ([1-9][0-9]{0,4}))?")


@dataclass(frozen=True)
class Seen:
    """A message.

    Attributes:
        sender: who sent it.
        to: who got it.
        name: of its kind.
        epoch: how many of that kind the sender had sent before in the session.
        size: bytes on the wire.
        control: its control bytes.
        vectors: bytes and SHA-256 of each vector on the wire, by field.
    """

    sender: Address
    to: tuple[Address, ...]
    name: str
    epoch: int
    size: int
    control: bytes
    vectors: Mapping[str, tuple[int, bytes]]

    @classmethod
    def of(cls, letter: Letter) -> Seen:
        """What is recorded of a letter."""
        kind, frames = type(letter.message), letter.chunks()
        control = bytes(next(frames))[4:]
        vectors = {name: _hashed(getattr(letter.message, name)) for name, _ in raw_fields(kind)}
        size = 4 + len(control) + sum(count for count, _ in vectors.values())
        return cls(letter.sender, letter.to, kind.__name__, letter.epoch, size, control, vectors)

    @property
    def digests(self) -> dict[str, bytes]:
        """SHA-256 of each vector, by field."""
        return {name: digest for name, (_, digest) in self.vectors.items()}

    @property
    def fits(self) -> bool:
        """Whether its control bytes begin with its name and its epoch, as those of every message do."""
        head = 1 if self.control[:1] < b"\x98" else 2  # of an array of up to 23 entries, or up to 255
        return self.control[head:].startswith(canonical(self.name) + canonical(self.epoch))

    def parsed(self, kinds: Mapping[str, type[Message]], limits: Limits) -> tuple[type[Message], dict[str, Any]]:
        """Its kind, and its control fields by name.

        Raises:
            Refused: as `protocols.wire.parse_control`.
        """
        kind, _, fields = parse_control(self.control, kinds, limits)
        return kind, fields

    def tree(self) -> dict[str, Any]:
        """As it stands in a tape."""
        return {
            "from": str(self.sender),
            "to": list(map(str, self.to)),
            "type": self.name,
            "epoch": self.epoch,
            "size": self.size,
            "control": base64.b64encode(self.control).decode(),
            "vectors": vectors_tree(self.vectors),
        }

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> Seen:
        """Out of a line of a tape.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: where it is none.
        """
        control = base64.b64decode(tree["control"], validate=True)
        vectors = {name: (_count(count), bytes.fromhex(digest)) for name, (count, digest) in tree["vectors"].items()}
        to = tuple(map(address, tree["to"]))
        return cls(
            address(tree["from"]), to, kind_name(tree["type"]), _count(tree["epoch"]), _count(tree["size"]), control, vectors
        )


Print = tuple[str, dict[str, list[object]]]
"""What tells one message from another: hash of its control bytes, sizes and hashes of its vectors."""


def print_of(seen: Seen) -> Print:
    """What tells a message from another."""
    return hashlib.sha256(seen.control).hexdigest(), vectors_tree(seen.vectors)


def vectors_tree(vectors: Mapping[str, tuple[int, bytes]]) -> dict[str, list[object]]:
    """Sizes and hashes of vectors as they stand in a line."""
    return {name: [count, digest.hex()] for name, (count, digest) in vectors.items()}


def address(text: str) -> Address:
    """An address as it is printed; raises `ValueError` for what is none."""
    match = ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(f"no address: {text!r}")
    return Address(match[1], int(match[2] or 0))


def _count(value: object) -> int:
    if not is_count(value):
        raise ValueError(f"no count: {value!r}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def kind_name(value: object) -> str:
    """The name of a kind of message; raises `ValueError` for what is none."""
    if not isinstance(value, str) or not value.isidentifier() or len(value) > LONGEST:
        raise ValueError(f"no kind of message: {value!r}")
    return value


def _hashed(bulk: Bulk) -> tuple[int, bytes]:
    """Bytes and hash of a vector's wire bytes; those that the layout does not hash are hashed for this."""
    made, count = hashlib.sha256(), 0
    for frame in bulk.frames(FRAME):
        count += len(frame)
        made.update(frame)
    return count, made.digest()


BAD = (ValueError, KeyError, TypeError, AttributeError, binascii.Error)
"""What reading a malformed line raises."""


def why_bad(error: Exception) -> str:
    """What is wrong with something malformed, for whoever wrote it: what is missing, or what its reader said of it."""
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]!r}"
    return "a part of it is of another type" if isinstance(error, AttributeError | TypeError) else str(error)


def a(name: str) -> str:
    """The name of a kind of message with its article."""
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"
