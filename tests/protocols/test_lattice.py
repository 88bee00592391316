"""What the primal attack takes, against its formulas tried out block by block and dimension by dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocols import lattice
from protocols.lattice import Estimate, estimate, largest_modulus, log2_delta


def root_hermite(block: int) -> float:
    """δ = ((πβ)^(1/β)·β/(2πe))^(1/(2(β−1))), by logarithms."""
    inner = math.log(math.pi * block) / block + math.log(block) - math.log(2 * math.pi * math.e)
    return math.exp(inner / (2 * (block - 1)))


def best(block: int, degree: int, modulus: float, secret: float, error: float) -> tuple[float, int]:
    """Bits to spare in √β·σ ≤ δ^(2β−d−1)·vol^(1/d), over every d with a sample at least; the secret is scaled to the error."""
    d = np.arange(degree + 2, 12 * degree + 2)
    volume = ((d - degree - 1) * modulus + degree * math.log2(error / secret)) / d
    spare = (2 * block - d - 1) * math.log2(root_hermite(block)) + volume - math.log2(math.sqrt(block) * error)
    return float(spare.max()), int(d[spare.argmax()])


@given(
    st.sampled_from([64, 100, 256, 512]),
    st.integers(8, 60),
    st.floats(0.5, 8).map(lambda x: round(x, 2)),
    st.sampled_from([None, 0.25, 1.0, 4.0, 100.0]),
)
@example(64, 40, 1.0, None)
@example(64, 9, 2.0, 100.0)
@example(64, 10, 0.5, 500.0)  # one sample is more than it takes
@example(512, 12, 0.5, None)
@settings(max_examples=60)
def test_the_least_block_that_succeeds_is_found(degree: int, modulus: int, secret: float, error: float | None) -> None:
    found, sizes = estimate(degree, modulus, secret, error), (degree, modulus, secret, error or secret)
    spare, dimension = best(found.block, *sizes)
    if spare < 0:
        assert found.block == 40 * degree
        return
    assert found.dimension == dimension
    assert found.block == 51 or best(found.block - 1, *sizes)[0] < 0


def test_the_easiest_key_takes_the_smallest_block() -> None:
    assert estimate(64, 40, 1.0).block == 51


@pytest.mark.parametrize("block", [51, 100, 382, 1000])
def test_root_hermite_factors(block: int) -> None:
    assert 2 ** log2_delta(block) == pytest.approx(root_hermite(block), rel=1e-12)


def test_bits_of_an_estimate() -> None:
    one = Estimate(1000, 1024)
    assert (one.classical, one.quantum, one.standard) == pytest.approx((292, 265, 292 + 16.4 + 13))
    hinted, proved = lattice.HINTED, lattice.PROVED
    assert (hinted**2, proved) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(("degree", "deviation", "bits"), [(1024, 3.2, 128), (2048, 2.0, 128), (1024, 4.0, 80)])
def test_the_largest_modulus_is_the_last_that_is_hard_enough(degree: int, deviation: float, bits: int) -> None:
    most = largest_modulus(degree, deviation) if bits == 128 else largest_modulus(degree, deviation, bits)
    assert isinstance(most, int)
    assert estimate(degree, most, deviation).classical >= bits > estimate(degree, most + 1, deviation).classical


def test_a_modulus_that_is_just_hard_enough_for_128_bits_is_not_for_129() -> None:
    apart = [s / 100 for s in range(200, 400) if largest_modulus(1024, s / 100, 128) > largest_modulus(1024, s / 100, 129)]
    assert all(largest_modulus(1024, s) == largest_modulus(1024, s, 128) for s in apart)
    assert apart
