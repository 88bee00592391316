"""The public parameters of SecAgg and SecAgg+ (`protocols.secagg`): what the security argument needs is computed here or refused.

Source: Bonawitz et al., CCS 2017 (eprint 2017/281), sections 6.2 and 7, for the threshold against an active server; the rule of
headroom is arithmetic.  Degree and threshold of a sparse graph: `protocols.degree`.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from protocols import degree
from protocols.errors import Misuse
from protocols.primitives.graph import Complete, Graph, Harary
from protocols.ring import Ring
from protocols.suite import SECAGG, SECAGG_PLUS, check_sizes, check_tail, default_corrupt, default_threshold, ring_bits

SPARSE_FROM = 64
"""Fewest parties for whom a sparse graph is taken: among fewer it has nearly as many edges and survives fewer dropouts."""
LOST = 10
"""One of so many parties may vanish on a sparse graph where nothing else is said."""


@dataclass(frozen=True)
class Parameters:
    """The public parameters of one secure sum, equal for every party.

    Attributes:
        parties: n, number of invited parties.
        size: d, coordinates of every input vector.
        max_abs: largest absolute value of an input coordinate, at least 1.
        ring: Z_2^b of the masked vectors.
        threshold: parties that must agree, and smallest number of survivors; on the complete graph also the Shamir threshold t.
        corrupt: |C|, how many parties may collude with the server.
        graph: who masks with whom; a sparse one has its own Shamir threshold.
        tail: T, bound of the noise in the sum that the inputs carry; 0 where there is none.  With noise an input is not held to
            max_abs: whether a noised value is past a bound would tell of the value.

    Raises:
        Misuse: where a bound is broken, with the bound and the values.
    """

    parties: int
    size: int
    max_abs: int
    ring: Ring
    threshold: int
    corrupt: int
    graph: Graph = Complete()
    tail: int = 0

    def __post_init__(self) -> None:
        n, t, c = self.parties, self.threshold, self.corrupt
        check_sizes(n, self.size, self.max_abs)
        check_tail(self.tail)
        if self.most(n) >= self.ring.half:
            raise Misuse(
                f"no headroom: n·max{' + T' * (self.tail > 0)} = {n}·{self.max_abs}{f' + {self.tail}' * (self.tail > 0)} must be "
                f"below R/2 = 2^{self.ring.bits - 1}; {ring_bits(n, self.max_abs, self.tail)} bits would do"
            )
        if not 0 <= c < n:
            raise Misuse(f"the number of corrupt parties must be in [0, {n - 1}], not {c}")
        the, allowed = f"the threshold t = {t}", degree.allowed_thresholds(n, c, lying=self.lying_server)
        if t > n:
            raise Misuse(f"{the} is above n = {n}: no sum could ever be opened; {allowed}")
        if type(self.graph) not in (Complete, Harary):
            raise Misuse(f"no bounds are known for a graph of type {type(self.graph).__name__}")
        if isinstance(self.graph, Harary):
            if self.graph.parties != n:
                raise Misuse(f"the graph has {self.graph.parties} places for {n} parties")
            degree.check(self.graph, c, t)
        if self.lying_server and not 2 * t > n + c:
            raise Misuse(f"{the} breaks 2t > n + |C| = {n + c}: the server could open two different sums; {allowed}")
        if not t - c >= 2:
            raise Misuse(f"{the} breaks t − |C| ≥ 2 with |C| = {c}: one honest party would stand alone in the sum; {allowed}")

    @property
    def suite(self) -> str:
        """The suite string: the whole configuration by name."""
        return f"{SECAGG_PLUS if isinstance(self.graph, Harary) else SECAGG}{self.ring.bits}"

    @property
    def shares(self) -> int:
        """t, shares that rebuild a secret: the threshold, or that of a neighbourhood."""
        return self.graph.threshold if isinstance(self.graph, Harary) else self.threshold

    @property
    def lying_server(self) -> bool:
        """Whether the parameters hold against a server that does not follow the protocol."""
        return not (isinstance(self.graph, Harary) and self.graph.gap is None)

    @property
    def security(self) -> float:
        """σ, bits of statistical security of the graph; infinite on the complete one."""
        return self.graph.security if isinstance(self.graph, Harary) else math.inf

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
        tail: int = 0,
    ) -> Parameters:
        """Parameters with the defaults filled in: |C| = ⌈n/3⌉ − 1, the least threshold, the least ring with headroom."""
        check_sizes(parties, size, max_abs)
        c = default_corrupt(parties) if corrupt is None else corrupt
        t = default_threshold(parties, c) if threshold is None else threshold
        return cls(parties, size, max_abs, Ring(ring_bits(parties, max_abs, tail) if bits is None else bits), t, c, tail=tail)

    @classmethod
    def sparse(
        cls,
        parties: int,
        size: int,
        max_abs: int,
        *,
        bits: int | None = None,
        threshold: int | None = None,
        corrupt: int | None = None,
        dropouts: int | None = None,
        security: int = degree.SECURITY,
        semi_honest: bool = False,
        tail: int = 0,
    ) -> Parameters:
        """Parameters on a sparse graph, its degree and threshold computed (`protocols.degree`).

        |C| is ⌈n/3⌉ − 1 by default, dropouts are n/10.  The number that must agree is ⌊(n+|C|)/2⌋ + 1, the least that is safe;
        with a semi-honest server it is n − D, as the graph is connected for so many survivors.
        """
        check_sizes(parties, size, max_abs)
        c = default_corrupt(parties) if corrupt is None else corrupt
        lost = parties // LOST if dropouts is None else dropouts
        graph = degree.graph(degree.Setting(parties, c, lost, security=security, semi_honest=semi_honest))
        least = parties - lost if semi_honest else default_threshold(parties, c)
        return cls(
            parties,
            size,
            max_abs,
            Ring(ring_bits(parties, max_abs, tail) if bits is None else bits),
            least if threshold is None else threshold,
            c,
            graph,
            tail,
        )

    @classmethod
    def preferably_sparse(
        cls,
        parties: int,
        size: int,
        max_abs: int,
        *,
        bits: int | None = None,
        threshold: int | None = None,
        corrupt: int | None = None,
        tail: int = 0,
    ) -> Parameters:
        """`sparse` parameters, or those of the complete graph where no sparser one is safe, and below `SPARSE_FROM` parties."""
        if parties >= SPARSE_FROM:
            with suppress(degree.Infeasible):
                return cls.sparse(parties, size, max_abs, bits=bits, threshold=threshold, corrupt=corrupt, tail=tail)
        return cls.of(parties, size, max_abs, bits=bits, threshold=threshold, corrupt=corrupt, tail=tail)

    @classmethod
    def cheapest(
        cls,
        parties: int,
        size: int,
        max_abs: int,
        *,
        bits: int | None = None,
        threshold: int | None = None,
        corrupt: int | None = None,
        tail: int = 0,
    ) -> Parameters:
        """Parameters with the defaults filled in, on the sparse graph where it is cheaper: if k ≤ n/2.

        A threshold that was asked for is that of the complete graph.
        """
        if threshold is None:
            sparse = cls.preferably_sparse(parties, size, max_abs, bits=bits, corrupt=corrupt, tail=tail)
            if isinstance(sparse.graph, Harary) and sparse.graph.degree <= parties // 2:
                return sparse
        return cls.of(parties, size, max_abs, bits=bits, threshold=threshold, corrupt=corrupt, tail=tail)

    @cached_property
    def content(self) -> list[object]:
        """What enters the session identity."""
        sizes = [self.parties, self.size, self.max_abs, self.ring.bits, self.threshold, self.corrupt]
        return [*sizes, self.graph.content, self.tail]

    def most(self, contributors: int) -> int:
        """Largest absolute value of a coordinate of a sum."""
        return contributors * self.max_abs + self.tail
