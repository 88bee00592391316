"""The kernels one by one: ``python -m pytest benchmarks/kernels.py --benchmark-group-by=group``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protocols.field import Field
from protocols.primitives import agree, shamir, sign
from protocols.primitives.prg import apply_masks
from protocols.rand import Key, Seed, fresh
from protocols.ring import Ring
from protocols.wire import canonical

SIZE = 1_000_000


@pytest.mark.benchmark(group="masks")
@pytest.mark.parametrize("streams", [1, 31])
def test_masks(benchmark: Any, streams: int) -> None:
    """Keystreams added to 10^6 words."""
    keys, total = [Key(fresh().bytes(str(i), 32)) for i in range(streams)], np.zeros(SIZE, np.uint32)
    benchmark(apply_masks, total, keys, [])
    assert total.any()


@pytest.mark.benchmark(group="packing")
@pytest.mark.parametrize("bits", [17, 23, 32])
def test_pack(benchmark: Any, bits: int) -> None:
    """10^6 values to bytes."""
    ring = Ring(bits)
    values = fresh().words("x", SIZE).astype(np.uint32)
    ring.reduce(values)
    packed = benchmark(ring.pack, values)
    assert np.array_equal(ring.unpack(packed, SIZE), values)


@pytest.mark.benchmark(group="packing")
@pytest.mark.parametrize("bits", [17, 23, 32])
def test_unpack(benchmark: Any, bits: int) -> None:
    """10^6 values from bytes."""
    ring = Ring(bits)
    values = np.arange(SIZE, dtype=np.uint32)
    ring.reduce(values)
    assert np.array_equal(benchmark(ring.unpack, ring.pack(values), SIZE), values)


@pytest.mark.benchmark(group="field")
def test_field_product(benchmark: Any) -> None:
    """A product of 54 by 67 and 67 by 20 000 in the field of LightSecAgg."""
    field = Field(31)
    left, right = field.uniform(fresh(), "a", 54 * 67).reshape(54, 67), field.uniform(fresh(), "b", 67 * 20_000).reshape(67, -1)
    product = benchmark(field.product, left, right)
    column = [sum(int(a) * int(b) for a, b in zip(row, right[:, 7], strict=True)) % field.modulus for row in left]
    assert product[:, 7].tolist() == column


@pytest.mark.benchmark(group="secrets")
def test_share(benchmark: Any) -> None:
    """A secret of 32 bytes among 31 holders, 16 of whom rebuild it."""
    secret = fresh().bytes("secret", 32)
    shares = benchmark(lambda: shamir.share(secret, 16, list(range(1, 32)), fresh(), "coefficients"))
    assert len(shares) == 31


@pytest.mark.benchmark(group="keys")
def test_agree(benchmark: Any) -> None:
    """One key agreement and one derivation."""
    mine, theirs = (agree.KeyPair.from_secret(Seed(fresh().bytes(name, 32))) for name in ("a", "b"))
    key = benchmark(lambda: agree.derive(mine.exchange(theirs.public), b"label"))
    assert key.reveal() == agree.derive(theirs.exchange(mine.public), b"label").reveal()


@pytest.mark.benchmark(group="keys")
def test_verify(benchmark: Any) -> None:
    """One signature checked."""
    key = sign.SigningKey.generate(fresh(), "identity")
    statement = canonical(["statement", 1])
    assert benchmark(sign.verify, key.public, key.sign(statement), statement)
