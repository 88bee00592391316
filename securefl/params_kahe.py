"""``securefl params --protocol kahe``: widths, bounds and security of key-additive masking for one job.

Source: `protocols.kahe_parameters`, which computes all of it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from protocols.errors import Misuse
from protocols.kahe_parameters import KaheParameters, tail
from protocols.primitives.graph import Harary
from protocols.primitives.negacyclic import DEGREE, MODULUS
from protocols.ring import Ring
from protocols.suite import ring_bits
from securefl.params import cost
from securefl.tables import Sheet, size

PRECISION = 16
"""Bits of a value, unless said otherwise."""


@dataclass(frozen=True)
class Answer:
    """What the command prints.

    Attributes:
        clients, corrupt, agree: n, |C|, and how many parties must agree.
        neighbours: of a party in the sum of the keys.
        dim, max_abs, tail: d, bound of a value, and T.
        degree, modulus: N and log2 q.
        width, digits, wire, cut: W, P, ℓ and k.
        elements: ring elements of a ciphertext.
        bits_per_value, masks: bits of a value on the wire, and under masks.
        residual, room: bound of the noise in a coefficient of the sum, and what it must stay below, in units of the last bit kept.
        failure: bound of the probability that some value of the sum is misread.
        classical, quantum: bits of security in the core-SVP model.
        limbs: how the public elements are cut for a party's product and for the sum's: number and bits.
        vector: bytes of the ciphertext.
        keys: bytes that a party sends beside it, for the sum of the keys.
        plain: bytes of the vector under masks.
    """

    clients: int
    corrupt: int
    agree: int
    neighbours: int
    dim: int
    max_abs: int
    tail: int
    degree: int
    modulus: int
    width: int
    digits: int
    wire: int
    cut: int
    elements: int
    bits_per_value: float
    masks: int
    residual: float
    room: float
    failure: float
    classical: float
    quantum: float
    limbs: tuple[tuple[int, int], tuple[int, int]]
    vector: int
    keys: int
    plain: int

    def as_json(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


def answer(
    clients: int,
    dim: int,
    *,
    precision: int | None = None,
    max_abs: int | None = None,
    noise: float = 0.0,
    corrupt: float | None = None,
    bits: int | None = None,
) -> Answer:
    """Compute it.

    Args:
        clients: n.
        dim: d.
        precision: bits of a value, with its sign, 2 to 63; `PRECISION` by default.
        max_abs: bound of a value, in place of the precision.
        noise: standard deviation of Skellam noise in the sum.
        corrupt: γ, share of corrupt parties, in [0, 1); by default |C| = ⌈n/3⌉ − 1.
        bits: lower bound of W.

    Raises:
        Misuse: for numbers out of their ranges, or what does not fit in a coefficient.
    """
    if precision is not None and max_abs is not None:
        raise Misuse("a value is bound by its precision or by max_abs: give one of them")
    digits = PRECISION if precision is None else precision
    if not 2 <= digits <= 63:
        raise Misuse(f"the precision must be 2 to 63 bits, not {digits}")
    if corrupt is not None and not 0 <= corrupt < 1:
        raise Misuse(f"the corrupt share must be in [0, 1), not {corrupt:g}")
    most = 2 ** (digits - 1) - 1 if max_abs is None else max_abs
    colluding = None if corrupt is None else math.floor(corrupt * clients)
    p = KaheParameters.of(clients, dim, most, bits=bits, corrupt=colluding, tail=tail(noise, max(dim, 1)))
    mine, theirs = p.limbs
    masks = ring_bits(clients, most)
    return Answer(
        clients=p.parties,
        corrupt=p.corrupt,
        agree=p.threshold,
        neighbours=p.graph.degree if isinstance(p.graph, Harary) else p.parties - 1,
        dim=p.size,
        max_abs=p.max_abs,
        tail=p.tail,
        degree=DEGREE,
        modulus=MODULUS,
        width=p.width,
        digits=p.digits,
        wire=p.wire,
        cut=p.cut,
        elements=p.shape.elements,
        bits_per_value=p.bits_per_value,
        masks=masks,
        residual=p.residual,
        room=2.0 ** (p.wire - p.digits * p.width - 1),
        failure=p.failure,
        classical=p.lattice.classical,
        quantum=p.lattice.quantum,
        limbs=((mine.number, mine.bits), (theirs.number, theirs.bits)),
        vector=p.upload,
        keys=cost(p.keys).up,
        plain=Ring(masks).packed_size(p.size + 1),
    )


def sheets(a: Answer) -> list[Sheet]:
    """The answer as tables: how values lie in a ciphertext, what holds, and what a party sends."""
    fails = f"below 2^{math.ceil(math.log2(a.failure))}" if a.failure else "never"
    widths = [
        ["W, bits of a value of the sum", str(a.width)],
        ["P, values in a coefficient", str(a.digits)],
        ["ℓ, bits of a coefficient sent", f"{a.wire} of {a.modulus}"],
        ["bits per value", f"{a.bits_per_value:g}, under masks {a.masks}"],
        ["T, tail of the noise in the sum", str(a.tail)],
    ]
    bounds = [
        ["noise in a coefficient", f"{a.residual:.1f}, must be below {a.room:g}"],
        ["a value of the sum is misread", fails],
        ["security", f"2^{a.classical:.0f}, against quantum attackers 2^{a.quantum:.0f}"],
        ["limbs, party", _limbs(a.limbs[0])],
        ["limbs, sum", _limbs(a.limbs[1])],
    ]
    sent = [
        ["ciphertext", f"{size(a.vector)}, {a.elements} elements"],
        ["for the sum of the keys", size(a.keys)],
        ["the vector under masks", size(a.plain)],
    ]
    title = f"{a.clients} parties, {a.corrupt} of them corrupt; {a.dim} values up to {a.max_abs}; N = {a.degree}, q = 2^{a.modulus}"
    note = "How they are computed, and what the security figure rests on: docs/security-parameters.md."
    graph = f"The keys are summed by secagg: {a.neighbours} neighbours each, {a.agree} parties must agree."
    return [
        Sheet(title, ["", ""], widths),
        Sheet("What holds", ["", ""], bounds, note),
        Sheet("What one party sends for one sum", ["", ""], sent, graph),
    ]


def _limbs(limbs: tuple[int, int]) -> str:
    number, bits = limbs
    return f"{number} of {bits} bits"
