"""Shamir's sharing: any threshold rebuilds, one share fewer fits every secret, what is out of range is refused."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols.errors import Misuse, Refused
from protocols.primitives import shamir
from protocols.primitives.shamir import Lagrange, P, lagrange_weights, share, share_each
from protocols.rand import Rand, Replay, Seed

SECRETS = st.binary(min_size=32, max_size=32)


class Chosen(Rand):
    """Gives coefficients that the test chose."""

    __slots__ = ("_values",)

    def __init__(self, values: list[int]) -> None:
        super().__init__(Seed(bytes(32)))
        self._values = values

    def below(self, label: str, bound: int, count: int) -> list[int]:
        assert (bound, count) == (P, len(self._values))
        return self._values


def is_prime(n: int) -> bool:
    """Miller-Rabin with 40 fixed bases."""
    s = ((n - 1) & -(n - 1)).bit_length() - 1
    for base in range(2, 42):
        x = pow(base, (n - 1) >> s, n)
        if x in (1, n - 1):
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(s - 1)):
            return False
    return True


def test_the_field_is_the_first_prime_above_256_bits() -> None:
    assert [k for k in range(1, 298) if is_prime(2**256 + k)] == [297]
    assert P == 2**256 + 297


POINTS = st.lists(st.one_of(st.integers(1, 300), st.integers(1, P - 1)), min_size=1, max_size=12, unique=True)


@given(SECRETS, POINTS, st.data())
@example(b"\xff" * 32, list(range(1, 11)), None)
@example(bytes(32), list(range(1, 101)), None)
@settings(deadline=None)
def test_any_threshold_of_the_shares_rebuilds(secret: bytes, xs: list[int], data: st.DataObject | None) -> None:
    t = data.draw(st.integers(1, len(xs))) if data else 2 * len(xs) // 3 + 1
    shares = share(secret, t, xs, Replay(secret)(), "share")
    assert [len(one) for one in shares] == [shamir.SHARE_SIZE] * len(xs)
    chosen = data.draw(st.permutations(range(len(xs)))) if data else list(reversed(range(len(xs))))
    helpers = chosen[:t]
    assert Lagrange([xs[i] for i in helpers]).combine([shares[i] for i in helpers]) == secret


@given(SECRETS, POINTS, st.data())
@settings(deadline=None)
def test_shares_are_values_of_the_polynomial(secret: bytes, xs: list[int], data: st.DataObject) -> None:
    rest = data.draw(st.lists(st.integers(0, P - 1), max_size=len(xs) - 1))
    shares = share(secret, len(rest) + 1, xs, Chosen(rest), "share")
    for x, one in zip(xs, shares, strict=True):
        powers = range(len(rest), 0, -1)
        value = int.from_bytes(secret, "big") + sum(a * pow(x, e, P) for a, e in zip(rest, powers, strict=True))
        assert int.from_bytes(one, "big") == value % P


@given(SECRETS, SECRETS, st.lists(st.integers(1, 300), min_size=2, max_size=8, unique=True))
@settings(deadline=None)
def test_one_share_too_few_fits_every_secret(secret: bytes, other: bytes, xs: list[int]) -> None:
    """For each other secret exactly one choice of coefficients gives the same t-1 shares: they tell nothing."""
    t = len(xs)
    seen = share(secret, t, xs, Replay(secret + other)(), "share")[: t - 1]
    points = [(0, int.from_bytes(other, "big"))]
    points += [(x, int.from_bytes(one, "big")) for x, one in zip(xs, seen, strict=False)]
    coefficients = interpolate(points)
    assert coefficients[0] == int.from_bytes(other, "big")
    assert share(other, t, xs, Chosen(coefficients[:0:-1]), "share")[: t - 1] == seen


def interpolate(points: list[tuple[int, int]]) -> list[int]:
    """Coefficients, lowest first, of the polynomial through ``points`` (Lagrange's basis, multiplied out)."""
    out = [0] * len(points)
    for i, (x, y) in enumerate(points):
        basis, scale = [1], y
        for j, (other, _) in enumerate(points):
            if j != i:
                basis = [(low - other * high) % P for low, high in zip([0, *basis], [*basis, 0], strict=True)]
                scale = scale * pow(x - other, -1, P) % P
        out = [(a + scale * b) % P for a, b in zip(out, basis, strict=True)]
    return out


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_a_single_share_is_uniform(secret: bytes) -> None:
    """Chi-square over the top and the bottom nibble of a share, 15 degrees of freedom: 50 is passed by 1 in 10^5."""
    rand, draws = Replay("uniform")(), 1600
    values = [int.from_bytes(share(secret, 2, [1, 2], rand, f"{i}")[0], "big") for i in range(draws)]
    for nibbles in ([value * 16 // P for value in values], [value % 16 for value in values]):
        counts = np.bincount(nibbles, minlength=16)
        assert ((counts - draws / 16) ** 2).sum() / (draws / 16) < 50


def test_a_secret_shared_once_is_the_share() -> None:
    secret = bytes(range(32))
    assert share(secret, 1, [5, 9], Replay("one")(), "share") == [b"\0" + secret] * 2


@given(st.lists(SECRETS, min_size=1, max_size=4))
@settings(deadline=None)
def test_weights_serve_all_secrets(secrets: list[bytes]) -> None:
    rand, xs = Replay("weights")(), [3, 1, 4, 15, 9]
    lagrange = Lagrange(xs)
    for i, secret in enumerate(secrets):
        assert lagrange.combine(share(secret, 5, xs, rand, f"{i}")) == secret


@given(st.lists(st.integers(1, 2**14) | st.integers(1, P - 1), min_size=1, max_size=40, unique=True), st.data())
@settings(deadline=None)
def test_many_secrets_at_once_are_those_of_one_after_another(xs: list[int], data: st.DataObject) -> None:
    """Any shares, also such as make no secret: the value they interpolate to, modulo P, or None where it has more than 256 bits."""
    lagrange, dealers = Lagrange(xs), data.draw(st.integers(1, 4))
    edges = st.sampled_from([0, 1, P - 1, P, 2**264 - 1, 2**256 - 1, 2**256])
    values = [[data.draw(edges | st.integers(0, 2**264 - 1)) for _ in range(dealers)] for _ in xs]
    shares = np.array([[list(value.to_bytes(33, "big")) for value in row] for row in values], dtype=np.uint8)
    for i, secret in enumerate(lagrange.combine_each(shares)):
        expected = sum(w * row[i] for w, row in zip(lagrange_weights([xs])[0], values, strict=True)) % P
        assert secret == (expected.to_bytes(32, "big") if expected < 2**256 else None)
        if all(row[i] < P for row in values) and secret is not None:
            assert lagrange.combine([row[i].to_bytes(33, "big") for row in values]) == secret


@given(st.lists(st.integers(1, 2**20) | st.integers(1, P - 1), min_size=1, max_size=50, unique=True))
@settings(deadline=None)
def test_weights_are_those_of_the_definition(xs: list[int]) -> None:
    for x, weight in zip(xs, lagrange_weights([xs])[0], strict=True):
        others = [other for other in xs if other != x]
        assert weight * prod([other - x for other in others]) % P == prod(others) % P


@given(st.lists(st.lists(st.integers(1, 300) | st.integers(1, P - 1), min_size=1, max_size=8, unique=True).map(tuple), max_size=6))
@settings(deadline=None)
def test_interpolations_made_together_are_those_made_one_by_one(point_sets: list[tuple[int, ...]]) -> None:
    made = Lagrange.for_each([*point_sets, *point_sets])
    assert set(made) == set(point_sets)
    for xs, lagrange in made.items():
        shares = [x.to_bytes(33, "big") for x in xs]
        each = np.frombuffer(b"".join(shares), dtype=np.uint8).reshape(len(xs), 1, 33)
        assert lagrange.combine_each(each) == Lagrange(xs).combine_each(each)


def test_the_most_points_are_exact_where_all_limbs_are_largest() -> None:
    """One point more is refused."""
    most, weight = 2**16 - 1, 2**256 - 1
    shares = np.full((most + 1, 2, 33), 255, dtype=np.uint8)
    expected = most * weight * (2**264 - 1) % P
    assert Lagrange([], [weight] * most).combine_each(shares[1:]) == [expected.to_bytes(32, "big")] * 2
    with pytest.raises(Misuse):
        Lagrange([], [weight] * (most + 1)).combine_each(shares)


@pytest.mark.parametrize("value", [2**256 - 1, 2**256, P - 1])
def test_a_value_above_256_bits_is_no_secret(value: int) -> None:
    share_of = np.array(list(value.to_bytes(33, "big")), dtype=np.uint8).reshape(1, 1, 33)
    assert Lagrange([1]).combine_each(share_of) == [value.to_bytes(32, "big") if value < 2**256 else None]


def test_shares_in_another_shape_are_misuse() -> None:
    for shape in ((1, 2, 33), (2, 2, 32), (3, 2, 33)):
        with pytest.raises(Misuse):
            Lagrange([1, 2]).combine_each(np.zeros(shape, dtype=np.uint8))


def test_shares_outside_the_field_are_refused() -> None:
    lagrange, fine = Lagrange([1, 2]), bytes(33)
    for bad in (P.to_bytes(33, "big"), b"\xff" * 33, bytes(32), bytes(34), b""):
        with pytest.raises(Refused) as refused:
            lagrange.combine([fine, bad])
        assert refused.value.check == "share-range"


@pytest.mark.parametrize("value", [2**256, P - 1])
def test_a_rebuilt_value_above_256_bits_is_refused(value: int) -> None:
    with pytest.raises(Refused) as refused:
        Lagrange([1]).combine([value.to_bytes(33, "big")])
    assert refused.value.check == "share-range"


def test_the_largest_secret_is_rebuilt() -> None:
    assert Lagrange([1]).combine([(2**256 - 1).to_bytes(33, "big")]) == b"\xff" * 32


@pytest.mark.parametrize("xs", [[], [0, 1], [1, 1], [-1, 2], [1, P], [P + 1, 2]])
def test_other_points_are_misuse(xs: list[int]) -> None:
    with pytest.raises(Misuse):
        Lagrange(xs)
    with pytest.raises(Misuse):
        share(bytes(32), 1, xs, Replay("points")(), "share")


@pytest.mark.parametrize(("secret", "t"), [(bytes(31), 2), (bytes(33), 2), (bytes(32), 0), (bytes(32), 4)])
def test_other_secrets_and_thresholds_are_misuse(secret: bytes, t: int) -> None:
    with pytest.raises(Misuse):
        share(secret, t, [1, 2, 3], Replay("misuse")(), "share")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_share_a_point(count: int) -> None:
    with pytest.raises(Misuse):
        Lagrange([1, 2]).combine([bytes(33)] * count)


# Many secrets at once


@given(st.integers(1, 12), POINTS, st.data())
@settings(deadline=None)
def test_many_secrets_are_shared_at_once_and_each_is_rebuilt_by_any_threshold(
    count: int, xs: list[int], data: st.DataObject
) -> None:
    secrets = data.draw(st.lists(SECRETS, min_size=count, max_size=count))
    t = data.draw(st.integers(1, len(xs)))
    array = np.frombuffer(b"".join(secrets), dtype=np.uint8).reshape(count, 32)
    shares = share_each(array, t, xs, Replay(secrets[0])(), "many")
    assert shares.shape == (count, len(xs), 33)
    places = data.draw(st.permutations(range(len(xs))))[:t]
    rebuild = Lagrange([xs[i] for i in places])
    for secret, row in zip(secrets, shares, strict=True):
        assert rebuild.combine([row[i].tobytes() for i in places]) == secret


def test_shares_of_many_are_values_of_the_polynomials_that_were_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against integers, with the coefficients 0, 1 and P − 1 and points of every size, in several products."""
    chosen = [0, 1, P - 1, 2**256, 297, 2**256 + 296, 12345678901234567890]
    xs, t, count = [1, 2, 300, 2**40 + 1, P - 2, P - 1], 4, 7
    coefficients = [[chosen[(i + 3 * j) % 7] for j in range(t - 1)] for i in range(count)]
    limbs = [[value >> 16 * i & 0xFFFF for i in range(17)] for row in coefficients for value in row]
    monkeypatch.setattr(shamir, "uniform", lambda _rand, _count: np.array(limbs, dtype=np.uint16))
    monkeypatch.setattr(shamir, "_AT_ONCE", 2 * len(xs))
    secrets = [bytes(32), b"\xff" * 32, *[bytes([i]) * 32 for i in range(5)]]
    array = np.frombuffer(b"".join(secrets), dtype=np.uint8).reshape(count, 32)
    shares = share_each(array, t, xs, Replay("x")(), "many")
    for secret, drawn, row in zip(secrets, coefficients, shares, strict=True):
        values = [(int.from_bytes(secret, "big") + sum(a * x ** (j + 1) for j, a in enumerate(drawn))) % P for x in xs[:3]]
        values += [(int.from_bytes(secret, "big") + sum(a * pow(x, j + 1, P) for j, a in enumerate(drawn))) % P for x in xs[3:]]
        assert [int.from_bytes(share.tobytes(), "big") for share in row] == values


@given(st.lists(st.integers(0, 2**530 - 1) | st.sampled_from([P - 1, P, 2 * P - 1, 2**256, 2**530 - 1]), min_size=1, max_size=9))
def test_values_are_reduced_as_integers_are(values: list[int]) -> None:
    columns = np.array([[value >> 16 * i & 0xFFFF for value in values] for i in range(34)], dtype=np.int64)[:, :, None]
    reduced = shamir._reduced(columns)
    assert reduced.shape == (17, len(values), 1)
    assert reduced.min() >= 0
    assert reduced.max() < 2**16
    assert [sum(int(reduced[i, at, 0]) << 16 * i for i in range(17)) for at in range(len(values))] == [v % P for v in values]


def test_coefficients_are_uniform_on_the_field() -> None:
    """The mean of 4000 is within 6 deviations of (P − 1)/2, and about half have the top bit that only values from 2^255 on have."""
    drawn = shamir.uniform(Replay("uniform")(), 4000)
    values = [sum(int(limb) << 16 * i for i, limb in enumerate(row)) for row in drawn]
    assert len(set(values)) == 4000
    assert max(values) < P
    assert abs(sum(values) / 4000 / P - 0.5) < 6 / (12 * 4000) ** 0.5
    assert abs(sum(value >> 255 for value in values) - 2000) < 6 * 1000**0.5


def test_words_past_the_field_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """P − 1 is the largest word of 257 bits that stays; what has the top bit and more is refused."""
    words = [P - 1, P, 2**256 + 2**64, 2**256 + 2**128, 2**256 + 2**192, 2**257 - 1, 2**256, 5]

    class Given:
        def fill(self, out: NDArray[np.uint64]) -> None:
            rows = [[word >> 64 * i & 2**64 - 1 for i in range(5)] for word in words]
            out[:] = np.resize(np.array(rows, dtype=np.uint64), out.shape)
            out[:, 4] += np.uint64(6)

    monkeypatch.setattr(Rand, "stream", lambda *_: Given())
    drawn = shamir.uniform(Replay("x")(), 3)
    assert [sum(int(limb) << 16 * i for i, limb in enumerate(row)) for row in drawn] == [P - 1, 2**256, 5]


@pytest.mark.parametrize(
    ("shape", "t", "xs", "words"),
    [
        ((2, 31), 1, [1], "have shape"),
        ((32,), 1, [1], "have shape"),
        ((2, 32), 0, [1], "the threshold 0 is outside 1..1"),
        ((2, 32), 3, [1, 2], "the threshold 3 is outside 1..2"),
        ((2, 32), 1, [1, 1], "distinct"),
        ((2, 32), 1, [0], "distinct and in"),
    ],
)
def test_many_secrets_out_of_bounds_are_refused(shape: tuple[int, ...], t: int, xs: list[int], words: str) -> None:
    with pytest.raises(Misuse, match=words):
        share_each(np.zeros(shape, dtype=np.uint8), t, xs, Replay("x")(), "many")
