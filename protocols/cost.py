"""What a sum costs under masks and under key-additive masking, by formula, and which of the two is cheaper: ``--protocol auto``.

The rounds of the keys are the same in both, and left out.  What differs, for n parties of whom some vanish with the vector in hand:

                    secagg: masks of d values                      kahe: a ciphertext of C coefficients, masks of N values
    a party         k + 1 keystreams of d words; packing           encryption; packing; k + 1 keystreams of N words
    the server      takes in vectors; a keystream of d words for   takes in ciphertexts; the same keystreams, of N words;
                    each survivor, and each pair with a lost one   opens one sum
    bytes           d values of b bits                             C coefficients of ℓ bits, N values of b'

Bytes are exact.  Seconds are these amounts times `RATES`, which ``benchmarks/cost.py`` fits to whole sums that it measures; those
stand in tests/protocols/cost.json, and a test holds the choice against them.  What is compared is how long a round takes for this
work: a party's own, its upload over `PARTY_LINK`, the server's, and its download over `SERVER_LINK`.

What it does not protect: nothing rests on it.  Both protocols hide the same, under the same thresholds; a wrong guess costs time.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

from protocols.errors import Misuse
from protocols.kahe_parameters import KaheParameters
from protocols.primitives.graph import Harary
from protocols.secagg_parameters import LOST, Parameters

EXPECTED = 1 / LOST
"""Share of the parties that is expected to vanish where nothing else is said."""
PARTY_LINK, SERVER_LINK = 12.5e6, 125e6
"""Bytes a second: 100 Mbit/s for a party, 1 Gbit/s for the server."""


@dataclass(frozen=True)
class Work:
    """Amounts of work; as rates, the seconds that one core takes for one of each.

    Attributes:
        mask: bytes of keystream, made and added.
        send: bytes of a vector, packed and hashed.
        take: bytes of a vector, hashed, unpacked and added.
        encrypt: coefficients of a ciphertext.
        decrypt: coefficients of a sum.
        message: messages taken in, whatever their length.
    """

    mask: float = 0.0
    send: float = 0.0
    take: float = 0.0
    encrypt: float = 0.0
    decrypt: float = 0.0
    message: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def seconds(self, rates: Work) -> float:
        """CPU seconds at these rates."""
        return float(sum(amount * rate for amount, rate in zip(astuple(self), astuple(rates), strict=True)))


RATES = Work(mask=1.6e-10, send=1.3e-9, take=1.2e-9, encrypt=1.8e-8, decrypt=2.9e-8, message=2.9e-4)
"""As fitted by ``benchmarks/cost.py`` on one core of an AMD EPYC."""


@dataclass(frozen=True)
class Cost:
    """What the vectors of one sum cost beside the rounds of the keys.

    Attributes:
        client: work of a party.
        server: work of the server.
        upload: bytes of a party's vector.
        received: bytes of all vectors that reach the server.
    """

    client: Work
    server: Work
    upload: int
    received: float

    @property
    def seconds(self) -> float:
        """How long a round takes for it, at `RATES`."""
        links = self.upload / PARTY_LINK + self.received / SERVER_LINK
        return self.client.seconds(RATES) + self.server.seconds(RATES) + links


def masked(p: Parameters, dropout: float) -> Cost:
    """Of the vectors of `protocols.secagg`, where a share ``dropout`` of the parties vanishes with the vector in hand."""
    n, count = p.parties, p.size + 1
    k = p.graph.degree if isinstance(p.graph, Harary) else n - 1
    staying, lost = n - dropout * n, dropout * n
    stream, size = count * (4 if p.ring.bits <= 32 else 8), p.ring.packed_size(count)
    opened = staying * (1 + lost * k / (n - 1))
    client, server = Work(mask=(k + 1) * stream, send=size), Work(mask=opened * stream, take=staying * size, message=staying)
    return Cost(client, server, size, staying * size)


def enciphered(p: KaheParameters, dropout: float) -> Cost:
    """Of the vectors of `protocols.kahe`, and of the masks of the keys."""
    keys, coefficients = masked(p.keys, dropout), p.shape.coefficients
    size, staying = p.shape.ring.packed_size(coefficients), p.parties - dropout * p.parties
    return Cost(
        keys.client + Work(send=size, encrypt=coefficients),
        keys.server + Work(take=staying * size, decrypt=coefficients),
        keys.upload + size,
        keys.received + staying * size,
    )


@dataclass(frozen=True)
class Choice:
    """Which of the two is taken.

    Attributes:
        name: ``secagg`` or ``kahe``.
        secagg: what it costs there.
        kahe: the same; None where it cannot be done.
        why: one line with the figures.
    """

    name: str
    secagg: Cost
    kahe: Cost | None
    why: str


def choose(parties: int, size: int, max_abs: int, *, dropout: float = EXPECTED, **more: int | None) -> Choice:
    """The cheaper of ``secagg`` and ``kahe`` for a sum; ``secagg`` where they are equal.

    Args:
        parties: n.
        size: d.
        max_abs: largest absolute value of a coordinate.
        dropout: share of the parties that is expected to vanish with its vector in hand, in [0, 1).
        more: ``bits``, ``threshold`` and ``corrupt``, as for `Parameters.of`.

    Raises:
        Misuse: for parameters that neither has.
    """
    asked: dict[str, Any] = more
    masks = masked(Parameters.cheapest(parties, size, max_abs, **asked), dropout)
    what = f"{parties} parties, {size} values and {dropout:.0%} dropouts"
    try:
        keys = enciphered(KaheParameters.of(parties, size, max_abs, **asked), dropout)
    except Misuse as error:
        return Choice("secagg", masks, None, f"auto takes secagg for {what}: kahe cannot do it, {error}")
    name = "kahe" if keys.seconds < masks.seconds else "secagg"
    one, other = (keys, masks) if name == "kahe" else (masks, keys)
    there = "secagg" if name == "kahe" else "kahe"
    return Choice(name, masks, keys, f"auto takes {name} for {what}: {_in_words(one)}; {there} {_in_words(other)}")


def _in_words(cost: Cost) -> str:
    client, server = cost.client.seconds(RATES), cost.server.seconds(RATES)
    return f"about {_s(cost.seconds)} a round (party {_s(client)}, {cost.upload / 1e6:.2g} MB; server {_s(server)})"


def _s(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds >= 0.1 else f"{1000 * seconds:.2g} ms"
