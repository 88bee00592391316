"""Vectors on the wire: runs of bytes whose length both sides know beforehand, outside of any codec.

A `Layout` says how a vector lies on the wire; its parser takes the bytes in chunks of any size, holding the vector and little more.

Channel assumed: none.  A vector's bytes are hashed as they come (`Bulk.digest`), and the hash is what protocols sign.

What it does not protect: floats are taken as they come, not-a-number and infinities included; the receiver looks at them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse
from protocols.ring import Accumulator, Group, Unpacker, Write


class Parser(Protocol):
    """Takes the bytes of one vector as they come."""

    def feed(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes."""

    def vector(self) -> NDArray[Any]:
        """What has come, when it is whole."""


class Layout(Protocol):
    """How a vector lies on the wire.

    Its bytes are hashed as they are laid out and as they come, as something that is signed covers them; unless it says
    ``hashed = False``.  Where it says ``public = True``, what many recipients in one process are sent is read once
    (`protocols.once`).
    """

    @property
    def nbytes(self) -> int:
        """Bytes on the wire."""

    def dump(self, values: NDArray[Any]) -> bytes | memoryview:
        """Values to wire bytes."""

    def parser(self) -> Parser:
        """An incremental reader."""


def is_hashed(layout: Layout) -> bool:
    """Whether the bytes of a layout are hashed: all are, but for one that says ``hashed = False``."""
    return getattr(layout, "hashed", True) is not False


def is_public(layout: Layout) -> bool:
    """Whether the vectors of a layout are public and sent to many: none are, but for one that says ``public = True``."""
    return getattr(layout, "public", False) is True


@dataclass(frozen=True)
class Packed:
    """``size`` elements of a ring or field, bit-packed to its width; ``hashed`` as in `Layout`.

    A vector that comes is unpacked on the way.  If it is ``kept``, its bytes are, to be unpacked as they are added up
    (`Bulk.add_to`), and what is wrong with them is refused then: for vectors that a step folds into a sum.
    """

    ring: Group
    size: int
    kept: bool = False
    hashed: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes on the wire."""
        return self.ring.packed_size(self.size)

    def dump(self, values: NDArray[Any]) -> memoryview:
        """Pack shape (size,) of the ring's dtype."""
        if values.shape != (self.size,):
            raise Misuse(f"a vector of {self.size} values was declared, not {values.shape}")
        return self.ring.pack(values)

    def parser(self) -> Unpacker | KeptParser:
        """An incremental unpacker, or a reader of the packed bytes."""
        return KeptParser(self) if self.kept else self.ring.unpacker(self.size)


@dataclass(frozen=True)
class Floats:
    """``size`` little-endian float32, for models sent in clear to the parties."""

    size: int
    public: ClassVar[bool] = True

    @property
    def nbytes(self) -> int:
        """Bytes on the wire."""
        return 4 * self.size

    def dump(self, values: NDArray[Any]) -> bytes:
        """Shape (size,), any float dtype, sent as float32."""
        if values.shape != (self.size,):
            raise Misuse(f"a vector of {self.size} values was declared, not {values.shape}")
        return values.astype("<f4").tobytes()

    def parser(self) -> FloatParser:
        """An incremental reader."""
        return FloatParser(self)


class FloatParser:
    """Stages float32 bytes as they come."""

    def __init__(self, layout: Floats) -> None:
        self._want, self._data = layout.nbytes, bytearray()

    def feed(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._data += chunk

    @property
    def done(self) -> bool:
        """Whether all bytes have come."""
        return len(self._data) == self._want

    def vector(self) -> NDArray[np.float32]:
        """The values, shape (size,), dtype float32, in the memory of the parser."""
        return np.frombuffer(self._data, dtype="<f4").astype(np.float32, copy=False)


@dataclass(frozen=True)
class Blobs:
    """``count`` strings of ``size`` bytes each, one after the other; ``hashed`` as in `Layout`."""

    count: int
    size: int
    hashed: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes on the wire."""
        return self.count * self.size

    def dump(self, values: NDArray[Any]) -> memoryview:
        """Shape (count, size), dtype uint8; the bytes stay where they are."""
        if values.shape != (self.count, self.size) or values.dtype != np.uint8:
            raise Misuse(f"{self.count} strings of {self.size} bytes were declared, not {values.shape} of {values.dtype}")
        return np.ascontiguousarray(values).reshape(-1).data.toreadonly()

    def parser(self) -> BlobParser:
        """An incremental reader."""
        return BlobParser(self)


class BlobParser:
    """Stages bytes as they come."""

    def __init__(self, layout: Blobs) -> None:
        self._layout, self._data, self._filled = layout, np.empty(layout.nbytes, dtype=np.uint8), 0

    def feed(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes."""
        part = np.frombuffer(chunk, dtype=np.uint8)
        self._data[self._filled : self._filled + part.size] = part
        self._filled += part.size

    @property
    def done(self) -> bool:
        """Whether all bytes have come."""
        return self._filled == self._layout.nbytes

    def vector(self) -> NDArray[np.uint8]:
        """The strings, shape (count, size), dtype uint8, in the memory of the parser."""
        return self._data.reshape(self._layout.count, self._layout.size)


class KeptParser:
    """Stages packed bytes as they come, and leaves them packed; bytes that cannot change and come whole are not copied."""

    def __init__(self, layout: Packed) -> None:
        self.packed = layout
        self._whole: memoryview | None = None
        self._staged: BlobParser | None = None

    def feed(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes."""
        view = memoryview(chunk)
        if self._staged is None and len(view) == self.packed.nbytes and type(view.obj) is bytes:
            self._whole = view
            return
        self._staged = self._staged or BlobParser(Blobs(1, self.packed.nbytes))
        self._staged.feed(view)

    def vector(self) -> NDArray[np.uint8]:
        """The packed bytes, shape (nbytes,), read-only."""
        if self._staged is None:
            return np.frombuffer(b"" if self._whole is None else self._whole, dtype=np.uint8)
        packed = self._staged.vector().reshape(-1)
        packed.flags.writeable = False
        return packed


@dataclass(frozen=True, eq=False)
class Bulk:
    """A vector and the SHA-256 of its bytes on the wire.

    Attributes:
        held: the values, where they were laid out from an array or have come and were unpacked; else None.
        sha256: of the wire bytes, None where the layout says that they are not hashed.
        data: the wire bytes on the sending side; None on the receiving side, but for a layout that is ``kept`` packed.
        layout: how the wire bytes are to be read where ``held`` is None.
        pieces: the wire bytes on the sending side, where they lie in several places and ``data`` is None.
    """

    held: NDArray[Any] | None
    sha256: bytes | None
    data: bytes | memoryview | None = None
    layout: Layout | None = None
    pieces: Sequence[bytes | memoryview] = ()

    @classmethod
    def of(cls, layout: Layout, values: NDArray[Any]) -> Bulk:
        """Lay out ``values`` for sending."""
        data = layout.dump(values)
        return cls(values, hashlib.sha256(data).digest() if is_hashed(layout) else None, data)

    @classmethod
    def by(cls, layout: Packed, write: Write) -> Bulk:
        """Lay out values that ``write`` gives piece by piece (`protocols.ring.Ring.pack_by`): they are never whole in memory."""
        data = layout.ring.pack_by(layout.size, write)
        return cls(None, hashlib.sha256(data).digest() if is_hashed(layout) else None, data, layout)

    @classmethod
    def received(cls, parser: Parser, sha256: bytes | None) -> Bulk:
        """What a parser has read."""
        if isinstance(parser, KeptParser):
            return cls(None, sha256, parser.vector().data, parser.packed)
        return cls(parser.vector(), sha256)

    @classmethod
    def joined(cls, layout: Blobs, pieces: Sequence[bytes | memoryview]) -> Bulk:
        """Strings that lie in different places: they are copied when they are sent, once, and not before.

        Raises:
            Misuse: for a layout that is hashed, or another number of strings or bytes.
        """
        if is_hashed(layout) or [len(piece) for piece in pieces] != [layout.size] * layout.count:
            raise Misuse(f"{layout.count} strings of {layout.size} bytes, not hashed, were declared")
        return cls(None, None, None, layout, tuple(pieces))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the wire bytes.

        Raises:
            Misuse: where the layout says that they are not hashed.
        """
        if self.sha256 is None:
            raise Misuse("the bytes of this vector are not hashed: nothing that is signed may rest on them")
        return self.sha256

    @property
    def values(self) -> NDArray[Any]:
        """Shape (size,), the ring's dtype or float32; of `Blobs` (count, size), uint8; read from the bytes where not ``held``."""
        if self.held is not None:
            return self.held
        if self.layout is None:
            raise Misuse("a vector has neither values nor bytes with a layout")
        whole = replace(self.layout, kept=False) if isinstance(self.layout, Packed) else self.layout
        parser = whole.parser()
        for part in self.frames(self.layout.nbytes):
            parser.feed(part)
        return parser.vector()

    def add_to(self, total: Accumulator) -> None:
        """Add the values to a sum, unpacking them block by block where they are not ``held``.

        Raises:
            Refused: as `protocols.ring.Accumulator.add_packed`; nothing was added.
        """
        if self.held is None and self.data is not None:
            total.add_packed(self.data)
        else:
            total.add(self.values)

    def frames(self, most: int) -> Iterator[bytes | memoryview]:
        """The wire bytes, ``most`` at a time.

        Raises:
            Misuse: for a vector that was received.
        """
        if self.data is not None:
            data = memoryview(self.data)
            yield from (data[start : start + most] for start in range(0, len(data), most))
            return
        if not self.pieces:
            raise Misuse("a received vector has no bytes to send: lay it out with Bulk.of")
        parts, size = list[memoryview](), 0
        for piece in self.pieces:
            rest = memoryview(piece)
            while rest:
                parts.append(rest[: most - size])
                size, rest = size + len(parts[-1]), rest[len(parts[-1]) :]
                if size == most:
                    yield b"".join(parts)
                    parts, size = [], 0
        if parts:
            yield b"".join(parts)
