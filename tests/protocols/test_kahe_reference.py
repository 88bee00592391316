"""The reference of key-additive masking: sums of few against the flow; products, public elements and opening by definition."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from math import floor

import pytest
from strategies import Case
from test_kahe import TRUSTING, agrees_with_reference, kahe_case, sparse_case

from protocols import kahe_reference
from protocols.errors import Misuse
from protocols.kahe_parameters import KaheParameters
from protocols.primitives import rlwe
from protocols.rand import Replay

N, Q = rlwe.DEGREE, 2**64


def places() -> list[int]:
    """Powers of X in the order in which coefficients stand."""
    return [power for pair in zip(range(N // 2), range(N // 2, N), strict=True) for power in pair]


def words(label: str) -> list[int]:
    return [int(x) for x in Replay(label)().words("words", N)]


@pytest.mark.parametrize(("max_abs", "digits", "wire"), [(1, 2, 8), (2**12, 2, 32), (2**27, 1, 32), (2**49, 1, 54)])
def test_sums_of_two_are_the_flows_in_coefficients_of_any_width(max_abs: int, digits: int, wire: int) -> None:
    """A whole word too; the largest and the smallest values."""
    p = KaheParameters.of(2, 3, max_abs)
    assert (p.digits, p.wire) == (digits, wire)
    agrees_with_reference(Case(p, {1: [max_abs, -max_abs, 1], 2: [max_abs, -max_abs, -max_abs]}))


def test_sums_over_several_elements_are_the_flows() -> None:
    size = 2 * N + 3
    p = KaheParameters.of(2, size, 1000)
    assert (p.digits, p.shape.elements) == (2, 2)
    agrees_with_reference(Case(p, {u: [(-1) ** i * (1000 - (u * i) % 97) for i in range(size)] for u in (1, 2)}))


@pytest.mark.parametrize("stage", ["Enciphered", "Openings"])
def test_who_is_left_is_summed_as_in_the_flow(stage: str) -> None:
    """Two of three are enough and one is not."""
    for gone in ((3,), (2, 3)):
        agrees_with_reference(replace(kahe_case(3, 2), dropouts=dict.fromkeys(gone, stage)))


def test_what_survivors_of_a_sparse_graph_signed_is_the_flows() -> None:
    case = replace(sparse_case(6, 2, degree=4, threshold=3), dropouts={3: "Enciphered"})
    assert agrees_with_reference(case, policy=TRUSTING).total is not None


@pytest.mark.parametrize("stage", ["Masked", "Sum"])
def test_a_stage_that_does_not_exist_is_misuse(stage: str) -> None:
    with pytest.raises(Misuse, match=f"no stage .*{stage}.*Enciphered"):
        replace(kahe_case(2, 1), dropouts={1: stage}).reference("kahe")


def test_products_are_sums_of_shifts_that_come_back_negated() -> None:
    """X^N = −1, by the definition; a short factor of both signs, at the first and the last power as well."""
    element, short = words("element"), dict.fromkeys(range(N), 0) | {0: 3, 1: -32, N // 2: 32, N - 1: -1}
    by_power = dict(zip(places(), element, strict=True))
    expected = [0] * N
    for power, factor in short.items():
        if factor:
            for at, x in by_power.items():
                expected[(at + power) % N] += factor * x * (-1 if at + power >= N else 1)
    got = kahe_reference._product(element, [short[power] for power in places()])
    assert got == [expected[power] % Q for power in places()]


def test_public_elements_are_a_key_stream_of_the_suites_hash() -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = hashlib.sha256(b"securefl rlwe public elements\0suite").digest()
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    stream = b"".join(block.update(i.to_bytes(16, "big")) for i in range(N))
    first, second = kahe_reference._public("suite", 2)
    assert [x.to_bytes(8, "little") for x in [*first, *second]] == [stream[i : i + 8] for i in range(0, len(stream), 8)]
    assert kahe_reference._public("suite", 1) == [first]


@pytest.mark.parametrize(("parties", "max_abs"), [(2, 1000), (3, 1000), (3, 2**40)])
def test_sums_open_up_to_half_a_step_of_the_lowest_digit(parties: int, max_abs: int) -> None:
    """Of the bits that were cut off the mean is taken, whatever element and sum are; then all is rounded, a half upwards."""
    p = KaheParameters.of(parties, 2 * N, max_abs)
    cut, spare, half = 64 - p.wire, 64 - p.digits * p.width, 1 << 64 - p.digits * p.width - 1
    one = [int(power == 0) for power in places()]  # as the sum of keys: the product is the element itself
    low, high = -(1 << p.width - 1), (1 << p.width - 1) - 1
    wanted, public, total = list[int](), list[list[int]](), list[int]()
    for i in range(p.shape.elements):
        sums = [x >> cut for x in words(f"sums {i}")]
        some = [low, high, 0, -1, 1, low + 1, high // 3]
        digits = [some[(place + 3 * j) % 7] for j in range(p.digits) for place in range(N)]
        element = []
        for place, word in enumerate(sums):
            off = (0, -half, half - 1, 1 - half)[place % 4]
            v = sum(digits[j * N + place] << spare + p.width * j for j in range(p.digits)) + off
            element.append(((word << cut) + floor(parties * ((1 << cut) - 1) / 2) - v) % Q)
        wanted, public, total = wanted + digits, [*public, element], total + sums
    assert kahe_reference._opened(p, public, total, one, parties) == wanted
    for at, step in ((1, -1), (2, 1)):  # one past the half, on either side: the lowest digit is the next one
        past = [[(x - step * (place % 4 == at)) % Q for place, x in enumerate(element)] for element in public]
        opened = kahe_reference._opened(p, past, total, one, parties)
        for start in range(0, len(wanted), p.digits * N):
            lowest = [(a - b) % (1 << p.width) for a, b in zip(opened[start : start + N], wanted[start : start + N], strict=True)]
            assert lowest == [step % (1 << p.width) if place % 4 == at else 0 for place in range(N)]
