"""Integers to the slots of ciphertexts and back, and the tag that binds a sum to those who are in it.

Source: the digits are arithmetic (`protocols.he_parameters`); the tag is a universal hash under a one-time pad (Wegman and Carter,
JCSS 22, 1981) that is linear, so that the sum of tags is the tag of the sum: of data slots s_j, party u adds one more value,
t_u = Σ κ_j·s_j + r_u modulo 2^61 − 1.  κ and the pads r come from the key that all parties share and the server lacks.  The pads
make the t_u uniform, so nothing of κ shows; a sum over other parties, or of other slots, has the tag of U3 with probability 2^−61,
whatever was done to the ciphertexts: the tag is checked on the integers that they decrypt to.

What it does not protect: every party has κ and r; it can tag what it likes, and if it helps the server, for anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import require
from protocols.field import Field
from protocols.he_parameters import TAG, HeParameters
from protocols.rand import Rand, Seed
from protocols.vector import Vector, with_count

FIELD = Field(TAG)
_BLOCK = 1 << 14


def encode(p: HeParameters, key: Seed, me: int, x: Vector) -> NDArray[np.uint64]:
    """The slots of a party's vector, the coordinate that counts and the tag: shape (ciphertexts·slots,), uint64.

    Raises:
        Misuse: for an input of a wrong shape or dtype, or a value past max_abs.
    """
    out = np.zeros(p.ciphertexts * p.shape.slots, np.uint64)
    offset = p.ring.centre(with_count(x, p))
    offset += p.max_abs
    data = out[: p.data_slots]
    _fill(p, offset.view(np.uint64), p.limbs, data)
    tag = np.array([(weighted(p, key, data) + int(pads(p, key)[me - 1])) % FIELD.modulus], np.uint64)
    _fill(p, tag, p.tag_limbs, out[p.data_slots :])
    return out


def decode(p: HeParameters, key: Seed, u3: Sequence[int], slots: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The sum over ``u3`` in opened slots, shape (d + 1,), the coordinate that counts last.

    Raises:
        Refused: ``summed-tag`` where they are not the sum over exactly these parties, ``summed-count`` or ``summed-range`` where
            one of them put in what no honest party does.
    """
    data, n = slots[: p.data_slots], len(u3)
    limbs = _digits(p, slots[p.data_slots :], p.tag_limbs)
    tag = sum(int(limb) << (p.limb * i) for i, limb in enumerate(limbs))
    expected = weighted(p, key, data) + sum(int(pads(p, key)[u - 1]) for u in u3)
    require((tag - expected) % FIELD.modulus == 0, "summed-tag", "not the sum over the parties that were agreed on")
    parts = _digits(p, data, (p.size + 1) * p.limbs).reshape(p.size + 1, p.limbs)
    values = parts[:, 0].copy()
    for i in range(1, p.limbs):
        values += parts[:, i] << np.uint64(p.limb * i)
    sums = (values - np.uint64(n * p.max_abs)).view(np.int64)  # modulo 2^64 on the way, exact at the end
    require(int(sums[-1]) == n, "summed-count", f"the count is not {n}")
    most = n * p.max_abs
    require(int(sums.min()) >= -most and int(sums.max()) <= most, "summed-range", f"a coordinate is past {most}")
    return sums


def weighted(p: HeParameters, key: Seed, data: NDArray[np.uint64]) -> int:
    """Σ κ_j·s_j, not reduced: in halves of 31 and 26 bits, of which 64 products fit a word; slots are below 2^52."""
    kappa, total = FIELD.uniform(Rand(key), "kappa", p.data_slots), 0
    for start in range(0, p.data_slots, _BLOCK):
        k, s = kappa[start : start + _BLOCK], data[start : start + _BLOCK]
        runs = np.arange(0, k.size, 64)
        for i, left in ((0, k & _mask(31)), (31, k >> np.uint64(31))):
            for j, right in ((0, s & _mask(26)), (26, s >> np.uint64(26))):
                sums = np.add.reduceat(left * right, runs)
                total += ((int((sums >> np.uint64(32)).sum()) << 32) + int((sums & _mask(32)).sum())) << (i + j)
    return total


def _mask(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)


def pads(p: HeParameters, key: Seed) -> NDArray[Any]:
    """r_1 … r_n."""
    return FIELD.uniform(Rand(key), "pads", p.parties)


def _fill(p: HeParameters, values: NDArray[np.uint64], limbs: int, slots: NDArray[np.uint64]) -> None:
    """Cut ``values`` in limbs and add them to ``slots``, which are zero, as digits."""
    digits = values
    if limbs > 1:
        digits = np.stack([values >> np.uint64(p.limb * i) & _mask(p.limb) for i in range(limbs)], axis=1).reshape(-1)
    for j in range(p.digits):
        part = digits[j :: p.digits]
        slots[: part.size] |= part << np.uint64(p.digit * j)


def _digits(p: HeParameters, slots: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    """The first ``count`` digits of ``slots``."""
    used = slots[: -(-count // p.digits)]
    return np.stack([used >> np.uint64(p.digit * j) & _mask(p.digit) for j in range(p.digits)], axis=1).reshape(-1)[:count]
