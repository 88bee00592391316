"""The tables of docs/security-parameters.md: security, widths, guard bits and limbs of key-additive masking.

    python benchmarks/rlwe_security.py

The rules are those of `protocols.lattice`, `protocols.kahe_parameters` and `protocols.primitives.negacyclic`; nothing is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import typer

from protocols import lattice
from protocols.kahe_parameters import KaheParameters, tail
from protocols.primitives.negacyclic import DEGREE, EXACT, MODULUS, limb_bits, limbs_for
from protocols.primitives.rlwe import LARGEST, MOST_NORM, VARIANCE, most_norm
from protocols.suite import ring_bits

SIGMA = math.sqrt(VARIANCE)
KNOWN = (
    ("Kyber512 (lattice estimator: β = 406)", 512, math.log2(3329), math.sqrt(1.5), math.sqrt(1.5)),
    ("N = 4096, log q = 64, σ = 2.83 (lattice estimator: β = 710)", 4096, 64, 2.83, 2.83),
    ("N = 2048, log q = 54, σ = 3.24 (lattice estimator: β = 356)", 2048, 54, 3.24, 3.24),
    ("HE Standard, ternary, N = 2048, log q = 54 (128 bits)", 2048, 54, math.sqrt(2 / 3), 3.19),
    ("HE Standard, ternary, N = 4096, log q = 109 (128 bits)", 4096, 109, math.sqrt(2 / 3), 3.19),
)
"""Published values, and those of the lattice estimator (commit 27a581b, primal uSVP), that the model must meet."""

Row = Sequence[object]


def calibration() -> Iterator[Row]:
    yield "case", "β here", "HE Standard's cost, bits"
    for case, degree, modulus, secret, error in KNOWN:
        found = lattice.estimate(degree, modulus, secret, error)
        yield case, found.block, f"{found.standard:.1f}"


def security() -> Iterator[Row]:
    yield "what the attacker knows", "σ", "β", "classical", "quantum", "HE Standard's cost", "largest log q for 128 bits"
    cases = [("nothing but ciphertexts", 1.0), *((f"sums over h = {h}, attack on one", math.sqrt(1 - 1 / h)) for h in (5, 3))]
    cases += [("sums over h ≥ 2, hybrid over pairs", lattice.HINTED), ("sums over h ≥ 2, by the theorem", lattice.PROVED)]
    for case, share in cases:
        found, most = lattice.estimate(DEGREE, MODULUS, SIGMA * share), lattice.largest_modulus(DEGREE, SIGMA * share)
        yield (
            case,
            f"{SIGMA * share:.2f}",
            found.block,
            *(f"{x:.0f}" for x in (found.classical, found.quantum, found.standard)),
            most,
        )


def widths() -> Iterator[Row]:
    yield "n", "d", "precision", "W", "P", "ℓ", "bits a value", "masks", "noise of the sum, of", "misread"
    for n, d, bits in (
        *((n, 10**e, 16) for n in (3, 10, 100, 1000, 10_000) for e in (6, 8)),
        *((100, 10**6, b) for b in (8, 24, 32, 40)),
    ):
        p = KaheParameters.of(n, d, 2 ** (bits - 1) - 1)
        room, fails = 2 ** (p.wire - p.digits * p.width - 1), f"2^{math.log2(p.failure):.0f}" if p.failure else "never"
        yield (
            *(n, f"10^{round(math.log10(d))}", bits, p.width, p.digits, p.wire, f"{p.bits_per_value:g}"),
            *(ring_bits(n, p.max_abs), f"{p.residual:.1f} of {room}", fails),
        )


def guard() -> Iterator[Row]:
    yield "n", "σ of the noise in the sum", "T", "T/σ", "W without", "W with"
    for n in (64, 100, 1000):
        for deviation in (100, 10_000, 100_000, 1_000_000):
            t = tail(deviation, 10**6)
            without, noised = (KaheParameters.of(n, 10**6, 2**15 - 1, tail=x).width for x in (0, t))
            yield n, deviation, t, f"{t / deviation:.2f}", without, noised


def limbs() -> Iterator[Row]:
    yield "short factor", "norm", "bits of a limb, at most", "limbs taken"
    factors = [
        ("one key, norm as drawn: 256 on average, 300 at most", most_norm(1)),
        ("one key, all 32", LARGEST * math.sqrt(DEGREE)),
    ]
    factors += [(f"sum of {n} keys, at its bound", most_norm(n)) for n in (2, 100, 1000, 16384, 2**19)]
    factors += [("sum of 1000 keys, all 32000 (past its bound)", 1000 * LARGEST * math.sqrt(DEGREE))]
    for what, norm in factors:
        taken = limbs_for(norm)
        yield what, f"{norm:.0f}", f"{limb_bits(norm):.1f}", f"{taken.number} of {taken.bits} bits"


TABLES = {"Calibration": calibration, "Security": security, "Widths": widths, "Guard bits": guard, "Limbs": limbs}


def lines(rows: Iterator[Row]) -> Iterator[str]:
    """A table in Markdown."""
    for number, row in enumerate(rows):
        yield f"| {' | '.join(map(str, row))} |"
        if number == 0:
            yield "|---" * len(row) + "|"


def main() -> None:
    """Print all tables."""
    print(f"N = {DEGREE}, q = 2^{MODULUS}, σ = {SIGMA:g}, norm of a sum of keys ≤ √({MOST_NORM}·n), rounding constant {EXACT}")
    for title, rows in TABLES.items():
        print(f"\n## {title}\n", *lines(rows()), sep="\n")


if __name__ == "__main__":
    typer.run(main)
