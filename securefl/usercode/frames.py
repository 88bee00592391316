"""What passes between a party and the child that runs a job's code: facts as canonical CBOR, arrays as their bytes.

A frame is the length of its head, the length of its body, the head, and the body.  The head holds facts and, for each array, name,
dtype and shape; the body holds the arrays one after the other.  No object is ever built from bytes.

What it does not protect: what an array holds is whatever the child wrote.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Refused, SecureSumError
from protocols.wire import canonical, read_canonical

SIZES = struct.Struct(">IQ")
MOST_HEAD = 1 << 22
"""Bytes of a head: names and shapes of parameters, and the files of the code."""
DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")

Kind = tuple[str, tuple[int, ...]]
"""Dtype and shape of an array."""
Arrays = Mapping[str, NDArray[Any]]


class CodeFault(SecureSumError):
    """What a job's code did wrong in its child: the round goes on without this party's input.

    Attributes:
        check: id of the check, as listed in docs/checks.md.
        detail: one line; it may quote the code, which may quote rows, so it is for the party alone.
    """

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(check, detail)
        self.check, self.detail = check, detail

    def __str__(self) -> str:
        return f"{self.check}: {self.detail}"


def fault(check: str, detail: str) -> CodeFault:
    """A fault, by its id."""
    return CodeFault(check, detail)


def packed(facts: Mapping[str, Any], arrays: Arrays) -> list[bytes | memoryview]:
    """A frame, in parts."""
    whole = {name: np.asarray(values, order="C") for name, values in arrays.items()}
    head = canonical([dict(facts), [[name, str(values.dtype), list(values.shape)] for name, values in whole.items()]])
    body = [values.reshape(-1).view(np.uint8).data for values in whole.values() if values.size]
    return [SIZES.pack(len(head), sum(part.nbytes for part in body)) + head, *body]


def read(
    take: Callable[[int], bytearray], wanted: Callable[[dict[str, Any]], Mapping[str, Kind] | None]
) -> tuple[dict[str, Any], Arrays]:
    """The next frame, checked before a byte of its body is read.

    Args:
        take: gives exactly so many of the next bytes.
        wanted: from the facts, the arrays that must come with them; None takes any of `DTYPES`.

    Raises:
        CodeFault: ``code-frame`` for what is no frame, ``code-answer`` for other arrays than those that are wanted.
    """
    head, body = SIZES.unpack(take(SIZES.size))
    if head > MOST_HEAD:
        raise fault("code-frame", f"a head of {head} bytes, at most {MOST_HEAD}")
    content = bytes(take(head))
    try:
        facts, listed = read_canonical(content, MOST_HEAD)
        kinds: dict[str, Kind] = {name: (dtype, tuple(shape)) for name, dtype, shape in listed}
        sound = isinstance(facts, dict) and all(map(_sound, kinds.items())) and len(kinds) == len(listed)
    except (Refused, TypeError, ValueError):
        raise fault("code-frame", "no frame: its head is not canonical") from None
    if not sound or body != sum(_bytes(kind) for kind in kinds.values()):
        raise fault("code-frame", "a head that does not describe its body")
    expected = wanted(facts)
    if expected is not None and kinds != expected:
        raise fault("code-answer", f"it answers with {_words(kinds)} where {_words(expected)} must come")
    return facts, {name: _array(take, kind) for name, kind in kinds.items()}


def _sound(item: tuple[str, Kind]) -> bool:
    name, (dtype, shape) = item
    sizes = all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**40 for size in shape)
    return isinstance(name, str) and dtype in DTYPES and sizes and len(shape) <= 8


def _bytes(kind: Kind) -> int:
    return math.prod(kind[1]) * np.dtype(kind[0]).itemsize


def _array(take: Callable[[int], bytearray], kind: Kind) -> NDArray[Any]:
    return np.frombuffer(take(_bytes(kind)), dtype=kind[0]).reshape(kind[1])


def _words(kinds: Mapping[str, Kind]) -> str:
    return (
        ", ".join(f"{name[:40]!r} ({dtype}, {'×'.join(map(str, shape)) or '1'})" for name, (dtype, shape) in [*kinds.items()][:4])
        or "nothing"
    )
