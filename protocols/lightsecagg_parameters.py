"""Public parameters of LightSecAgg (`protocols.lightsecagg`), and the sizes that follow from them.

Source: So et al., LightSecAgg, MLSys 2022 (arXiv 2109.14236), section 3, for T < U ≤ n − D; 2U > n + |C| so that a
lying server has one set of survivors at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from protocols.bulk import Blobs, Layout, Packed
from protocols.degree import allowed_thresholds
from protocols.errors import Misuse
from protocols.field import Field
from protocols.primitives import seal
from protocols.suite import check_sizes, check_tail, default_corrupt, default_threshold

SALT = 32
"""Bytes of the salt that hides a share behind its hash."""
HEAD = 2 * 4 + SALT
"""Bytes of a box before the packed share: both ids and the salt."""


@dataclass(frozen=True)
class LightParameters:
    """The public parameters of one sum under LightSecAgg, equal for every party.

    Attributes:
        parties: n, number of invited parties.
        size: d, coordinates of every input vector.
        max_abs: largest absolute value of an input coordinate, at least 1.
        ring: F_q of the masked vectors, q > 2·n·max_abs.
        threshold: U, answers that recover the mask of the sum, and smallest number of survivors.
        corrupt: |C|, how many parties may collude with the server.
        noise: T, noise blocks: so many shares of a mask tell nothing about it.
        dropouts: D, how many parties may vanish.
        tail: T, bound of the noise in the sum that the inputs carry; 0 where there is none.

    Raises:
        Misuse: where a bound is broken, with the bound and the values.
    """

    parties: int
    size: int
    max_abs: int
    ring: Field
    threshold: int
    corrupt: int
    noise: int
    dropouts: int
    tail: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.parties, self.size, self.max_abs)
        check_tail(self.tail)
        n, u, c, t, d = self.parties, self.threshold, self.corrupt, self.noise, self.dropouts
        if not 2 * (n * self.max_abs + self.tail) < self.ring.modulus:
            noise = f" + 2·T = 2·{n}·{self.max_abs} + 2·{self.tail}" if self.tail else f" = 2·{n}·{self.max_abs}"
            raise Misuse(f"no headroom: 2·n·max{noise} must be below q = {self.ring.title}")
        if not 0 <= c < n:
            raise Misuse(f"the number of corrupt parties must be in [0, {n - 1}], not {c}")
        the, allowed = f"the threshold U = {u}", allowed_thresholds(n, c, most=n if u + d == n else n - d)
        if d < 0 or u > n - d:
            raise Misuse(f"{the} breaks U ≤ n − D = {n} − {d}: D dropouts would leave too few answers; {allowed}")
        if not 2 * u > n + c:
            raise Misuse(
                f"the threshold U = {u} breaks 2U > n + |C| = {n + c}: the server could open two different sums; {allowed}"
            )
        if not u - c >= 2:
            raise Misuse(f"{the} breaks U − |C| ≥ 2 with |C| = {c}: one honest party would stand alone in the sum; {allowed}")
        if not t >= max(c, 1):
            raise Misuse(f"T = {t} noise blocks break T ≥ max(|C|, 1) with |C| = {c}: colluding holders would learn of a mask")
        if not t < u:
            raise Misuse(f"T = {t} noise blocks break T < U = {u}: no block would be left for the mask")

    @classmethod
    def of(
        cls,
        parties: int,
        size: int,
        max_abs: int,
        *,
        bits: int | None = None,
        threshold: int | None = None,
        corrupt: int | None = None,
        noise: int | None = None,
        dropouts: int | None = None,
        tail: int = 0,
    ) -> LightParameters:
        """Parameters with the defaults filled in: |C| = ⌈n/3⌉ − 1, T = max(|C|, 1), the smallest field with headroom.

        U is n − D where only the tolerated dropouts D are given, the least that is safe where nothing is; D is n − U by default.
        ``bits`` is a lower bound of the field's width.
        """
        check_sizes(parties, size, max_abs)
        check_tail(tail)
        c = default_corrupt(parties) if corrupt is None else corrupt
        least = default_threshold(parties, c) if dropouts is None else parties - dropouts
        u = least if threshold is None else threshold
        t = max(c, 1) if noise is None else noise
        d = parties - u if dropouts is None else dropouts
        field = Field.holding(parties, max_abs + -(-tail // parties), bits=bits or 0)
        return cls(parties, size, max_abs, field, u, c, t, d, tail)

    @property
    def blocks(self) -> int:
        """U − T, in how many blocks a mask is cut."""
        return self.threshold - self.noise

    @property
    def block(self) -> int:
        """Values of a block and of a share: ⌈(d + 1)/(U − T)⌉."""
        return -(-(self.size + 1) // self.blocks)

    @property
    def box(self) -> int:
        """Bytes of a sealed share."""
        return HEAD + self.ring.packed_size(self.block) + seal.OVERHEAD

    @property
    def security(self) -> float:
        """Infinite: nothing is left to chance but the answers' check."""
        return math.inf

    @property
    def lying_server(self) -> bool:
        """True: 2U > n + |C|."""
        return True

    @cached_property
    def content(self) -> list[object]:
        """What enters the session identity."""
        sizes = [self.parties, self.size, self.max_abs, self.ring.bits]
        return [*sizes, self.threshold, self.corrupt, self.noise, self.dropouts, self.tail]


def boxes_layout(p: LightParameters) -> Blobs:
    """A slot for every other party of the roster; not hashed: boxes are sealed, and what they hold is pinned by signed hashes."""
    return Blobs(p.parties - 1, p.box, hashed=False)


def layouts(parameters: LightParameters) -> Mapping[str, Layout]:
    """Layouts of the raw fields of `protocols.lightsecagg_types`."""
    p = parameters
    return {
        "masked": Packed(p.ring, p.size + 1),
        "boxes": boxes_layout(p),
        "answer": Packed(p.ring, p.block, kept=True),
    }
