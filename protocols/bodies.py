"""The vectors of a message that is coming, after its control fields: each goes to the parser of its layout as its bytes come.

Channel assumed: none.  Nothing is set aside for a vector before its first byte, and no byte is taken beyond the last one.

What it does not protect: what a vector holds is looked at by its parser, or by who asks for the values.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from protocols.bulk import Bulk, Layout, hashed_on_arrival, is_hashed, is_public
from protocols.errors import Refused
from protocols.once import lately, sharing
from protocols.schema import Message, raw_fields

if TYPE_CHECKING:
    from protocols.wire import Limits


@dataclass(slots=True)
class _Field:
    """A vector that is coming: nothing is set aside for it before its first byte."""

    name: str
    layout: Layout
    left: int
    hashed: bool
    parser: Any = None
    state: Any = None


class _Broadcast:
    """A vector that is the same for many and came in one piece: parser and hash at once, for one after the other."""

    __slots__ = ("_digest", "_vector")

    def __init__(self, layout: Layout, part: bytes) -> None:
        parser = layout.parser()
        parser.feed(part)
        self._vector: NDArray[Any] = parser.vector()
        self._digest = hashlib.sha256(part).digest() if is_hashed(layout) else b""

    def vector(self) -> NDArray[Any]:
        """A copy of the values for whoever asks."""
        return self._vector.copy()

    def digest(self) -> bytes:
        """SHA-256 of the bytes."""
        return self._digest


def _broadcast(layout: Layout, part: memoryview) -> _Broadcast:
    """Read these bytes, or take what the last recipient in this process read, if its bytes were the same."""
    data = bytes(part)
    return lately("vector", (layout, data), lambda: _Broadcast(layout, data))


class Body:
    """A message whose control has been read and whose vectors are coming."""

    __slots__ = ("_values", "epoch", "kind", "skipped", "waiting")

    def __init__(self, kind: type[Message], epoch: int, values: dict[str, Any], limits: Limits) -> None:
        self.kind, self.epoch, self.skipped, self._values = kind, epoch, False, dict(values)
        self.waiting = list[_Field]()
        if raw := raw_fields(kind):
            layouts = [(name, limits.vectors[key]) for name, key in raw]
            self.waiting = [_Field(name, layout, layout.nbytes, hashed_on_arrival(layout)) for name, layout in layouts]
            self._finish()

    def feed(self, view: memoryview) -> None:
        """Take the next bytes.

        Raises:
            Refused: ``wire-trailing`` for bytes after the last vector, and what a parser refuses.
        """
        while view:
            if not self.waiting:
                raise Refused("wire-trailing", "bytes after the end of the message")
            field = self.waiting[0]
            part, view = view[: field.left], view[field.left :]
            if not self.skipped:
                self._take(field, part)
            field.left -= len(part)
            self._finish()

    def _take(self, field: _Field, part: memoryview) -> None:
        if field.parser is None and len(part) == field.left and is_public(field.layout) and sharing():
            field.parser = field.state = _broadcast(field.layout, part)
            return
        self._open(field)
        field.parser.feed(part)
        if field.hashed:
            field.state.update(part)

    def skip(self) -> None:
        """Forget what has come, and read over the rest."""
        self.skipped, self._values = True, {}
        for field in self.waiting:
            field.parser = field.state = None

    def _open(self, field: _Field) -> None:
        if field.parser is None:
            field.parser, field.state = field.layout.parser(), hashlib.sha256() if field.hashed else None

    def _finish(self) -> None:
        while self.waiting and self.waiting[0].left == 0:
            field = self.waiting.pop(0)
            if not self.skipped:
                self._open(field)
                digested = field.state.digest() if field.hashed else None
                self._values[field.name] = Bulk.received(field.parser, digested)

    def build(self) -> Message:
        """The message, when no vector is waited for."""
        return self.kind(**self._values)
