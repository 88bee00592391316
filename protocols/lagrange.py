"""Lagrange coding of a mask: shares are points of one polynomial, and points that do not fit it are found.

Source: So et al., LightSecAgg, MLSys 2022 (arXiv 2109.14236), section 4.  The vectors c_1 … c_U are the values of a polynomial of
degree < U at α_1 … α_U; helper j gets its value at β_j.  With β_j = j and α_l = n + l all points differ.  Any U values give back
all others; the first U − T vectors are the mask's blocks, the last T uniform noise, so T values tell nothing about the mask.

Wrong values are found as in a generalised Reed–Solomon code: m values at β_1 … β_m fit a polynomial of degree < U exactly if
their m − U syndromes Σ v_j·β_j^k·y_j vanish, v_j = 1/Π(β_j − β_i); up to ⌊(m−U)/2⌋ wrong ones are located by Berlekamp and Massey's
algorithm (Massey, Shift-register synthesis and BCH decoding, IEEE Trans. Inf. Theory 15, 1969).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse
from protocols.field import Field


def weights(field: Field, points: Sequence[int]) -> NDArray[Any]:
    """1/Π_{i≠j}(x_j − x_i) for every x_j of distinct ``points``; shape (u,)."""
    x = np.array(points, dtype=np.int64)
    differences = x[:, None] - x[None, :]
    np.fill_diagonal(differences, 1)
    return field.inverse(_row_products(field, field.lift(differences)))


def _row_products(field: Field, factors: NDArray[Any]) -> NDArray[Any]:
    """The product of each row, halves by halves; shape (r, c), result (r,)."""
    while (width := factors.shape[1]) > 1:
        half = width // 2
        products = field.multiply(factors[:, :half], factors[:, half : 2 * half])
        factors = np.concatenate([products, factors[:, 2 * half :]], axis=1)
    return factors[:, 0]


def coefficients(field: Field, sources: Sequence[int], targets: Sequence[int]) -> NDArray[Any]:
    """The matrix that takes values at ``sources`` to values at ``targets``; all points distinct, below q/2.

    Returns:
        Shape (targets, sources), dtype of the field: w_s·Π_i(t − x_i)/(t − x_s).  Equal differences are inverted once.

    Raises:
        Misuse: where a point stands twice.
    """
    if len({*sources, *targets}) != len(sources) + len(targets):
        raise Misuse("the points of an interpolation must differ")
    x, t = np.array(sources, dtype=np.int64), np.array(targets, dtype=np.int64)
    differences = t[:, None] - x[None, :]
    full = _row_products(field, field.lift(differences))
    distinct, where = np.unique(differences, return_inverse=True)
    inverses = field.inverse(field.lift(distinct))[where.reshape(t.size, x.size)]
    return field.multiply(field.multiply(inverses, weights(field, sources)[None, :]), full[:, None])


def betas(indexes: Sequence[int]) -> list[int]:
    """Where the helpers' shares lie: at their roster indexes."""
    return list(indexes)


def alphas(parties: int, count: int) -> list[int]:
    """Where the first ``count`` vectors lie."""
    return list(range(parties + 1, parties + 1 + count))


def syndromes(field: Field, points: Sequence[int], values: Sequence[int], degree: int) -> list[int]:
    """Σ v_j·x_j^k·y_j for k < points − degree: all zero exactly if ``values`` fit a polynomial of degree < ``degree``."""
    q, terms, out = field.modulus, [int(v) * y % field.modulus for v, y in zip(weights(field, points), values, strict=True)], []
    for _ in range(len(points) - degree):
        out.append(sum(terms) % q)
        terms = [term * x % q for term, x in zip(terms, points, strict=True)]
    return out


def misfits(field: Field, points: Sequence[int], rows: Sequence[Sequence[int]], degree: int) -> list[int] | None:
    """The points whose values are wrong.

    Args:
        field: of the values.
        points: x of every value, distinct, none zero.
        rows: one or more vectors of values, each of which must fit a polynomial of degree < ``degree``; wrong at the same points.
        degree: U.

    Returns:
        The fewest points without which every row fits, at most ⌊(m−U)/2⌋ of them; None where more are wrong.
    """
    spare, wrong = len(points) - degree, set[int]()
    for row in rows:
        found = syndromes(field, points, row, degree)
        locator = _shortest_register(field.modulus, found)
        roots = [x for x in points if _at(locator, pow(x, -1, field.modulus), field.modulus) == 0]
        if len(roots) != len(locator) - 1 or len(roots) > spare // 2:
            return None
        wrong |= set(roots)
    kept = [(x, i) for i, x in enumerate(points) if x not in wrong]
    if len(wrong) > spare // 2:
        return None
    for row in rows:
        if any(syndromes(field, [x for x, _ in kept], [row[i] for _, i in kept], degree)):
            return None
    return sorted(wrong)


def _shortest_register(q: int, sequence: Sequence[int]) -> list[int]:
    """Coefficients, lowest first, of the shortest linear recurrence of ``sequence`` (Massey 1969); their number is length + 1."""
    current, before, length, gap, last = [1], [1], 0, 1, 1
    for at, _ in enumerate(sequence):
        discrepancy = sum(c * sequence[at - i] for i, c in enumerate(current) if i <= at) % q
        if discrepancy:
            factor, old = discrepancy * pow(last, -1, q) % q, current
            shifted = [0] * gap + before
            size = max(len(current), len(shifted))
            current = [
                ((current[i] if i < len(current) else 0) - factor * (shifted[i] if i < len(shifted) else 0)) % q
                for i in range(size)
            ]
            if 2 * length <= at:
                length, before, last, gap = at + 1 - length, old, discrepancy, 0
        gap += 1
    return (current + [0] * (length + 1))[: length + 1]


def _at(polynomial: Sequence[int], x: int, q: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * x + coefficient) % q
    return value
