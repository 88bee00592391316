"""Statistics of masked vectors: what they see of plain laws, and that sound masks are chance to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols import sums
from protocols.errors import Misuse
from protocols.rand import Replay
from protocols.ring import Ring
from securefl.audit import Target
from securefl.audit.attacks import uniform as masks
from securefl.audit.attacks.uniform import FALSE_ALARM, SIZE, serial, told_apart, uniform, width

BITS = 20


def words(label: str, size: int = SIZE) -> NDArray[np.uint64]:
    """Uniform values of BITS bits."""
    return Replay("masked")().words(label, size) & np.uint64(2**BITS - 1)


def small_masks() -> NDArray[np.uint64]:
    return words("small") & np.uint64(0xFF)


def top_bit_gone() -> NDArray[np.uint64]:
    return words("top") & np.uint64(2 ** (BITS - 1) - 1)


def doubled() -> NDArray[np.uint64]:
    return np.repeat(words("doubled", SIZE // 2), 2)


def one_bit_alternates() -> NDArray[np.uint64]:
    return words("alternates") & ~np.uint64(8) | np.arange(SIZE, dtype=np.uint64) % np.uint64(2) * np.uint64(8)


FAULTS: dict[str, tuple[Callable[[], NDArray[np.uint64]], bool, bool]] = {
    "masks of eight bits": (small_masks, True, True),
    "one bit that is never set": (top_bit_gone, True, True),
    "neighbours under one mask": (doubled, True, True),
    "one bit that alternates": (one_bit_alternates, False, True),
    "nothing": (lambda: words("sound"), False, False),
}
"""What is wrong, and whether bytes and neighbours show it."""


@pytest.mark.parametrize("name", FAULTS)
def test_bytes_and_neighbours_show_what_they_are_made_for(name: str) -> None:
    """Sound values are called bad with probability 1e-9, over 28 tests."""
    make, by_bytes, by_neighbours = FAULTS[name]
    values = make()
    for tests, bad in ((list(uniform(values, BITS)), by_bytes), (list(serial(values, BITS)), by_neighbours)):
        assert (min(p for p, _ in tests) < FALSE_ALARM / 28) == bad, tests


@pytest.mark.parametrize(("shift", "mask", "apart"), [(2000, 0xFF, True), (40, 0xFF, True), (2000, 2**BITS - 1, False)])
def test_the_classifier_tells_two_inputs_apart_under_masks_that_are_too_small(shift: int, mask: int, apart: bool) -> None:
    one, two = (words(label) & np.uint64(mask) for label in ("one", "two"))
    moved = (two + np.uint64(shift)) & np.uint64(2**BITS - 1)
    p, why = told_apart(one, moved, BITS)
    assert (p < FALSE_ALARM) == apart, why


def test_the_classifier_is_right_half_of_the_time_about_one_law() -> None:
    """200 pairs of samples: right guesses in all are binomial at most, 6 deviations to either side."""
    right = 0
    for number in range(200):
        _, why = told_apart(words(f"a {number}", 1000), words(f"b {number}", 1000), BITS)
        right += int(why.split(" in ")[1].split()[0])
    assert abs(right - 100_000) < 6 * 224


def test_values_of_a_field_that_fills_its_bits_are_looked_at_whole_and_others_less_the_top() -> None:
    for name in ("secagg", "lightsecagg", "bfv"):
        target = Target.of(name)
        fed = target.long(SIZE, 0)
        kind = {"secagg": 14, "lightsecagg": 31, "bfv": 60}[name]
        size = {"secagg": SIZE + 1, "lightsecagg": SIZE + 1, "bfv": 8192}[name]
        assert width(fed, np.zeros(size, np.uint64)) == kind
        assert width(fed, np.zeros(SIZE - 5, np.uint16)) == 16  # no layout of that size: the type's own width

    class Half:
        bits, modulus = 20, 2**19 + 1

    layout = masks.Packed(Ring(20), 7)
    object.__setattr__(layout, "ring", Half())
    scheme = replace(sums.scheme("secagg"), layouts=lambda _: {"masked": layout})
    fed = replace(Target.of("secagg").federation(), scheme=scheme)
    assert width(fed, np.zeros(7, np.uint32)) == 12


@pytest.mark.parametrize("threshold", [4, 6])
def test_long_inputs_keep_the_threshold_that_is_configured(threshold: int) -> None:
    fed = Target.of("secagg", threshold=threshold).long(50, 3)
    assert (fed.t, fed.terms.parameters.size, set(fed.secret(2))) == (threshold, 50, {3})


def test_a_protocol_that_takes_no_long_inputs_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise Misuse("at most 100 values")

    target = Target.of("secagg")
    narrow = replace(target, scheme=replace(target.scheme, parameters=refuse))
    verdict = masks.statistics(narrow)
    assert (verdict.status, verdict.why) == ("not applicable", "it takes no inputs of 20000 values (at most 100 values)")


def test_all_three_are_tried_on_what_leaves_a_party() -> None:
    """On vectors in clear each of them says so."""
    target = Target.of("plain-insecure")
    low, high = (target.long(SIZE, value) for value in (-1000, 1000))
    sent = [masks.observe(fed).uploads(target.uploads)[1] for fed in (low, high)]
    bad = {why.split()[0] for p, why in masks._tests(low, *sent) if p < FALSE_ALARM}
    assert bad == {"byte", "neighbours", "a"}
