"""Shamir's secret sharing of 32-byte secrets over a fixed prime field above 2^256.

Source: Shamir, CACM 22(11), 1979, as used by Bonawitz et al., CCS 2017 (eprint 2017/281), section 4.  The secret is the
constant term of a uniform polynomial of degree below the threshold; a share is its value at a public x.  Fewer shares
than the threshold are independent of the secret.  Shares carry no proof: the protocol checks a rebuilt secret against
what it must give.

What it does not protect: Python integers are not constant-time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from operator import mul

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse, require
from protocols.rand import Rand

P = 2**256 + 297
"""The first prime above 2^256."""
SECRET_SIZE = 32
SHARE_SIZE = 33
_LIMBS = 17  # of 16 bits, for a share or a weight
_AT_ONCE = 1 << 12  # shares that are made in one product: some 10 MB
_LAZY = 32  # Horner steps between reductions: x is small, so an intermediate value grows by few bits a step


def share(secret: bytes, threshold: int, xs: Sequence[int], rand: Rand, label: str) -> list[bytes]:
    """Share ``secret`` among the holders of ``xs``, any ``threshold`` of whom rebuild it.

    Args:
        secret: 32 bytes, read as a big-endian integer.
        threshold: at least 1, at most ``len(xs)``.
        xs: distinct evaluation points in [1, P); small ones (roster indices) are fastest.
        rand: where the ``threshold - 1`` uniform coefficients come from.
        label: the label of that draw.

    Returns:
        One share for each x, in order, 33 bytes big-endian.

    Raises:
        Misuse: for a secret, threshold or points outside these bounds.
    """
    if len(secret) != SECRET_SIZE:
        raise Misuse(f"a shared secret has {SECRET_SIZE} bytes, not {len(secret)}")
    if not 1 <= threshold <= len(xs):
        raise Misuse(f"the threshold {threshold} is outside 1..{len(xs)}, the number of shares")
    _check_points(xs)
    # Highest degree first, as Horner's rule takes them.
    coefficients = [*rand.below(label, P, threshold - 1), int.from_bytes(secret, "big")]
    chunks = [coefficients[i : i + _LAZY] for i in range(0, threshold, _LAZY)]
    return [_evaluate(chunks, x).to_bytes(SHARE_SIZE, "big") for x in xs]


def share_each(secrets: NDArray[np.uint8], threshold: int, xs: Sequence[int], rand: Rand, label: str) -> NDArray[np.uint8]:
    """As `share`, for many secrets among the same holders; every secret has coefficients of its own.

    One product of floats on limbs of 16 bits for some secrets at a time, exact: 17 of its entries add up to less than
    2^32 · 17 · t < 2^53.

    Args:
        secrets: shape (secrets, 32).
        threshold: as for `share`, below 2^16.
        xs: as for `share`.
        rand: where the coefficients come from.
        label: the label of that draw.

    Returns:
        The shares, shape (secrets, len(xs), `SHARE_SIZE`).

    Raises:
        Misuse: as `share`.
    """
    if secrets.ndim != 2 or secrets.shape[1] != SECRET_SIZE:
        raise Misuse(f"shared secrets have shape (secrets, {SECRET_SIZE}), not {secrets.shape}")
    if not 1 <= threshold <= min(len(xs), 2**16 - 1):
        raise Misuse(f"the threshold {threshold} is outside 1..{min(len(xs), 2**16 - 1)}, the number of shares or 2^16 - 1")
    _check_points(xs)
    count, holders = len(secrets), len(xs)
    coefficients = np.zeros((_LIMBS, count, threshold), dtype=np.float64)  # lowest limb and lowest degree first
    coefficients[: SECRET_SIZE // 2, :, 0] = np.ascontiguousarray(secrets).view(">u2")[:, ::-1].T
    coefficients[:, :, 1:] = (
        uniform(rand.child(label), (threshold - 1) * count).reshape(count, threshold - 1, _LIMBS).transpose(2, 0, 1)
    )
    powers = b"".join([pow(x, j, P).to_bytes(2 * _LIMBS, "little") for j in range(threshold) for x in xs])
    weights = np.moveaxis(np.frombuffer(powers, dtype="<u2").reshape(threshold, holders, _LIMBS), 2, 0).astype(np.float64)
    out, at_once = np.empty((count, holders, SHARE_SIZE), dtype=np.uint8), max(1, _AT_ONCE // holders)
    for start in range(0, count, at_once):
        part = coefficients[:, start : start + at_once].reshape(-1, threshold)
        columns = np.zeros((2 * _LIMBS, len(part) // _LIMBS, holders))
        for i in range(_LIMBS):
            columns[i : i + _LIMBS] += (part @ weights[i]).reshape(_LIMBS, -1, holders)
        limbs = np.moveaxis(_reduced(columns.astype(np.int64)), 0, -1)[..., ::-1].astype(">u2", order="C")
        out[start : start + at_once] = limbs.view(np.uint8)[..., 2 * _LIMBS - SHARE_SIZE :]
    return out


def uniform(rand: Rand, count: int) -> NDArray[np.uint16]:
    """``count`` uniform field elements as limbs of 16 bits, the lowest first; shape (count, 17).

    Of words of 257 bits those of P or more are refused.
    """
    stream, found, missing = rand.stream("candidates"), list[NDArray[np.uint16]](), count
    while missing:
        words = np.empty((2 * missing + 64, 5), dtype=np.uint64)
        stream.fill(words)
        words[:, 4] &= np.uint64(1)
        good = (words[:, 4] == 0) | ((words[:, 0] < P - 2**256) & ~words[:, 1:4].any(axis=1))
        limbs = words[good][:missing].astype("<u8").view("<u2")[:, :_LIMBS]
        found.append(limbs)
        missing -= len(limbs)
    return np.concatenate([np.empty((0, _LIMBS), dtype=np.uint16), *found])


def _reduced(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Values mod P as 17 limbs of 16 bits from 34 entries of the weights 2^(16·i), at most 2^530 in all; the lowest first.

    2^256 is −297 mod P: what lies above is folded down twice, with a multiple of P added that keeps it above zero.
    """
    folded = _carried(columns)
    for multiple, size in ((2**28, _LIMBS + 1), (1, _LIMBS)):
        low = _constant(multiple * P, size, columns.ndim)
        low = np.repeat(np.repeat(low, columns.shape[1], axis=1), columns.shape[2], axis=2)
        low[:16] += folded[:16]
        low[: len(folded) - 16] -= 297 * folded[16:][: len(low)]
        folded = _carried(low)
    less = _carried(folded - _constant(P, _LIMBS, columns.ndim))
    return np.where(less[-1] < 0, folded, less)


def _constant(value: int, limbs: int, dimensions: int) -> NDArray[np.int64]:
    """A number as limbs along the first of so many axes; what is too large for 16 bits stays in the highest."""
    low = [value >> 16 * i & 0xFFFF for i in range(limbs - 1)]
    return np.array([*low, value >> 16 * (limbs - 1)], dtype=np.int64).reshape(-1, *[1] * (dimensions - 1))


def _carried(limbs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same values with limbs of 16 bits but for the highest, which has the sign."""
    for i in range(len(limbs) - 1):
        limbs[i + 1] += limbs[i] >> 16
        limbs[i] &= 0xFFFF
    return limbs


class Lagrange:
    """Interpolation at zero from the values at ``xs``: one set of weights for all secrets that the same helpers open.

    Args:
        xs: distinct evaluation points in [1, P), in the order in which shares will be given; as many as the threshold.

    Raises:
        Misuse: for no points, or points that are equal or out of range.
    """

    __slots__ = ("_weights",)

    def __init__(self, xs: Sequence[int], weights: Sequence[int] | None = None) -> None:
        self._weights = lagrange_weights([xs])[0] if weights is None else weights

    @classmethod
    def for_each(cls, point_sets: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], Lagrange]:
        """The interpolation of each set of points; raises as the constructor."""
        distinct = list(dict.fromkeys(point_sets))
        return {xs: cls(xs, weights) for xs, weights in zip(distinct, lagrange_weights(distinct), strict=True)}

    def combine(self, shares: Sequence[bytes]) -> bytes:
        """The 32-byte secret that ``shares``, in the order of the points, interpolate to.

        Raises:
            Misuse: if there is not one share for each point.
            Refused: ``share-range`` for a share that is not 33 bytes below P, or a rebuilt value of 2^256 or more.
        """
        if len(shares) != len(self._weights):
            raise Misuse(f"{len(self._weights)} points take as many shares, not {len(shares)}")
        require(set(map(len, shares)) == {SHARE_SIZE}, "share-range", f"a share has {SHARE_SIZE} bytes")
        values = [int.from_bytes(one, "big") for one in shares]
        require(max(values) < P, "share-range", "a share is outside the field")
        secret: int = sum(map(mul, self._weights, values)) % P
        require(secret < 2**256, "share-range", "the rebuilt value has more than 256 bits")
        return secret.to_bytes(SECRET_SIZE, "big")

    def combine_each(self, shares: NDArray[np.uint8]) -> list[bytes | None]:
        """The secrets of several dealers from shares at the same points; None where `combine` finds a value of 2^256 or more.

        One product of floats on limbs of 16 bits, exact: each of its entries is below 2^32 · points < 2^53.  A share of P or more
        counts as its residue: what comes of shares is for the caller to check.

        Args:
            shares: shape (points, dealers, `SHARE_SIZE`).

        Raises:
            Misuse: for another shape.
        """
        t, dealers = len(self._weights), shares.shape[1]
        if shares.shape != (t, dealers, SHARE_SIZE) or t >= 2**16:
            raise Misuse(f"shares of {t} points, below 2^16, have shape ({t}, dealers, {SHARE_SIZE}), not {shares.shape}")
        limbs = np.zeros((t, dealers, 2 * _LIMBS), dtype=np.uint8)
        limbs[:, :, 2 * _LIMBS - SHARE_SIZE :] = shares
        values = limbs.view(">u2").astype(np.float64).reshape(t, -1)
        weights = np.frombuffer(b"".join([w.to_bytes(2 * _LIMBS, "big") for w in self._weights]), dtype=">u2").reshape(t, -1)
        products = (weights.astype(np.float64).T @ values).astype(np.int64).reshape(_LIMBS, dealers, _LIMBS)
        columns = np.zeros((dealers, 2 * _LIMBS), dtype=np.int64)  # of the weight 2^(16·i), highest first, after one that is zero
        for i, part in enumerate(products):
            columns[:, i + 1 : i + 1 + _LIMBS] += part
        cuts = [(columns >> shift & 0xFFFF).astype(">u2") for shift in (0, 16, 32, 48)]
        out = list[bytes | None]()
        for row in range(dealers):
            secret = sum(int.from_bytes(cut[row].tobytes(), "big") << 16 * i for i, cut in enumerate(cuts)) % P
            out.append(secret.to_bytes(SECRET_SIZE, "big") if secret < 2**256 else None)
        return out


def lagrange_weights(point_sets: Sequence[Sequence[int]]) -> list[list[int]]:
    """The weights w_i = Π_{j≠i} x_j / (x_j − x_i) of interpolation at zero for each set of points, with one inversion for all.

    Raises:
        Misuse: for a set without points, or points that are equal or out of range.
    """
    for xs in point_sets:
        if not xs:
            raise Misuse("interpolation needs at least one point")
        _check_points(xs)
    # w_i = Π_j x_j / (x_i · Π_{j≠i} (x_j − x_i))
    gaps = [product for xs in point_sets for product in _gaps(xs)]
    inverses = iter(_invert([x * gap % P for x, gap in zip([x for xs in point_sets for x in xs], gaps, strict=True)]))
    numerators = [prod(xs) % P for xs in point_sets]
    return [[top * next(inverses) % P for _ in xs] for top, xs in zip(numerators, point_sets, strict=True)]


def _gaps(xs: Sequence[int]) -> list[int]:
    """Π_{j≠i} (x_j − x_i) for each i; of small points as many factors at once as fit a machine word."""
    width = max(xs).bit_length()
    if width > 20:
        return [prod([other - x for other in xs if other != x]) for x in xs]
    points, at_once = np.array(xs, dtype=np.int64), 62 // width
    factors = points[None, :] - points[:, None]
    np.fill_diagonal(factors, 1)
    rows = np.multiply.reduceat(factors, np.arange(0, len(xs), at_once), axis=1).tolist()
    return [prod(row) for row in rows]


def _evaluate(chunks: list[list[int]], x: int) -> int:
    value = 0
    for chunk in chunks:
        for coefficient in chunk:
            value = value * x + coefficient
        value %= P
    return value


def _check_points(xs: Sequence[int]) -> None:
    if len(set(xs)) != len(xs) or min(xs) < 1 or max(xs) >= P:
        raise Misuse("evaluation points are distinct and in 1..P-1")


def _invert(values: list[int]) -> list[int]:
    """Inverses mod P of values that are not 0 mod P, with one inversion (Montgomery's trick)."""
    before = [1]
    for value in values:
        before.append(before[-1] * value % P)
    rest, out = pow(before[-1], -1, P), list[int]()
    for value, product in zip(reversed(values), reversed(before[:-1]), strict=True):
        out.append(rest * product % P)
        rest = rest * value % P
    return out[::-1]
