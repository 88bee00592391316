"""Inputs and results of a secure sum, and the two checks that tell whether masks cancelled.

Every protocol appends one coordinate that is 1 for each party.  In the opened sum it must equal the number of survivors, and every
other coordinate must lie within survivors · max_abs; masks that don't cancel leave a uniform vector, which passes with
probability below 2·(n·max/R)^d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols.errors import Abort, Misuse
from protocols.ring import Read, Write
from protocols.suite import SumParameters, tail_of

_BLOCK = 32 * 1024


@dataclass(frozen=True, eq=False)
class Vector:
    """A party's input: shape (d,), any integer dtype, |value| ≤ max_abs but where noise is in it (`Parameters.tail`)."""

    values: NDArray[Any]

    def __repr__(self) -> str:
        return "Vector([redacted])"


@dataclass(frozen=True, eq=False)
class Sum:
    """What the server opens.

    Attributes:
        values: shape (d,), int64: the exact sum over the survivors.
        contributors: how many parties are in it.
        left_out: helpers whose answers were left out, where the protocol can tell: they were wrong, or did not fit the others', in
            which case those may be.
    """

    values: NDArray[np.int64]
    contributors: int
    left_out: tuple[int, ...] = ()


def with_count(x: Vector, parameters: SumParameters) -> NDArray[Any]:
    """The input in the ring with the coordinate 1 appended: shape (d + 1,), the ring's dtype.

    Raises:
        Misuse: for a wrong shape or dtype, or a value past max_abs.
    """
    out, write = np.empty(parameters.size + 1, dtype=parameters.ring.dtype), counted(x, parameters)
    for start in range(0, out.size, _BLOCK):  # of values that stay in cache
        write(start, out[start : start + _BLOCK])
    return out


def counted(x: Vector, parameters: SumParameters) -> Write:
    """The same a piece at a time: a function that writes the values from a position on into an array of the ring's dtype.

    Raises:
        Misuse: as `with_count`; a value past max_abs when it is written.  Where the inputs carry noise, only one of 2^62 or more is
            refused: it is reduced like the sum.
    """
    values, most = integers(x.values, parameters.size), _largest(parameters)

    def write(start: int, out: NDArray[Any]) -> None:
        block = _within(values[start : start + out.size], most)
        parameters.ring.lift(block.astype(np.int64, copy=False), out[: block.size])
        out[block.size :] = 1

    return write


def _largest(parameters: SumParameters) -> int:
    """Largest absolute value of an input that is not refused."""
    return 2**62 - 1 if tail_of(parameters) else parameters.max_abs


def bounded_each(xs: Sequence[Vector], parameters: SumParameters) -> NDArray[np.int64]:
    """The inputs themselves, one a row, shape (inputs, d), as int64; there is at least one.

    Raises:
        Misuse: as `counted`.
    """
    most, given = _largest(parameters), [integers(x.values, parameters.size) for x in xs]
    alike = len({values.dtype for values in given}) == 1  # else numpy would find a dtype in common that holds neither's values
    if not (alike and _all_within(rows := np.stack(given), most)):
        rows = np.stack([_within(values, most).astype(np.int64, copy=False) for values in given])
    return rows.astype(np.int64, copy=False)


def signed(x: Vector, size: int, max_abs: int | None) -> Read:
    """The same as int64, not lifted: a function that gives so many values, the coordinate 1 among them, from a position on.

    Args:
        x: the input, shape (size,).
        size: d.
        max_abs: bound of every value; None where noise is in them already, which is neither clamped nor refused below 2^63.

    Raises:
        Misuse: as `counted`.
    """
    values = integers(x.values, size)

    def read(start: int, count: int) -> NDArray[np.int64]:
        given = _within(values[start : start + count], 2**63 - 1 if max_abs is None else max_abs)
        block = given.astype(np.int64, copy=False)  # only now: a cast would wrap what is too large
        return block if block.size == count else np.append(block, np.int64(1))

    return read


def _within(block: NDArray[Any], most: int) -> NDArray[Any]:
    if not _all_within(block, most):
        low, high = int(block.min()), int(block.max())
        raise Misuse(f"an input value of {low if low < -most else high} is past max_abs = {most}")
    return block


def _all_within(block: NDArray[Any], most: int) -> bool:
    return not block.size or (int(block.min()) >= -most and int(block.max()) <= most)


def integers(values: ArrayLike, size: int) -> NDArray[Any]:
    """``values`` as an array of integers of shape (size,).

    Raises:
        Misuse: for another shape, NaN or inf, or a dtype that is not integer.
    """
    array = np.asarray(values)
    if array.shape != (size,):
        raise Misuse(f"an input has shape ({size},), not {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        at = int(np.flatnonzero(~np.isfinite(array))[0])
        raise Misuse(f"an input value is {array[at]} at index {at}: every value must be a whole number")
    if array.dtype.kind not in "iu":
        raise Misuse(f"an input has an integer dtype, not {array.dtype}: round and scale it first")
    return array


def checked_sum(values: NDArray[np.int64], contributors: int, parameters: SumParameters) -> Sum:
    """Check count and range of an opened sum, shape (d + 1,).

    Raises:
        Abort: ``sum-count`` or ``sum-range``; masks did not cancel, or a party sent garbage in its own name.
    """
    if int(values[-1]) != contributors:
        raise Abort("sum-count", f"masks do not cancel: the count is not {contributors}")
    most = contributors * parameters.max_abs + tail_of(parameters)
    if int(values.min()) < -most or int(values.max()) > most:
        raise Abort("sum-range", f"masks do not cancel: a coordinate is past {most}")
    return Sum(values[:-1], contributors)
