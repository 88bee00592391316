"""Products in Z[X]/(X^N + 1) modulo 2^64 by Python's integers: polynomials evaluated at 2^128 (Kronecker substitution)."""

from __future__ import annotations

from typing import Any

import numpy as np

SLOT = 16  # bytes of a coefficient: 4096 products of 64 by 32 bits fit


def natural(pairs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Coefficients in the order of their powers, from the order 0, N/2, 1, N/2 + 1, …"""
    return np.concatenate([pairs[0::2], pairs[1::2]])


def paired(powers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The inverse of `natural`."""
    return powers.reshape(2, -1).T.reshape(-1)


def _integer(values: list[int]) -> int:
    return int.from_bytes(b"".join(value.to_bytes(SLOT, "little") for value in values), "little")


def product(element: np.ndarray[Any, Any], factor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """element·factor, both and the result in the order of `protocols.primitives.negacyclic`; uint64."""
    a, s = [int(x) for x in natural(element)], [int(x) for x in natural(factor)]
    degree, total = len(a), [0] * (2 * len(a))
    for sign in (1, -1):
        part = (_integer(a) * _integer([max(sign * x, 0) for x in s])).to_bytes(2 * degree * SLOT, "little")
        for i in range(2 * degree):
            total[i] += sign * int.from_bytes(part[i * SLOT : (i + 1) * SLOT], "little")
    return paired(np.array([(total[i] - total[i + degree]) % 2**64 for i in range(degree)], dtype=np.uint64))
