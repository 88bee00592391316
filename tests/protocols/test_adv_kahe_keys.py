"""Keys and errors of key-additive masking: a key that serves twice, and errors that are left out, repeated or equal.

Six parties, t = 4; the victim is party 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import comb
from typing import Any

import numpy as np
import pytest
from adversary import (
    EVERYBODY,
    Federation,
    LyingServer,
    ending,
    restore,
    run,
)
from kahe_adversary import ELEMENT, VICTIM, ciphertexts, draws, enciphered
from numpy.typing import NDArray
from scipy.stats import chi2

from protocols import kahe
from protocols.errors import Misuse
from protocols.policy import MemoryJournal
from protocols.primitives import rlwe
from protocols.rand import Rand, Replay, Stream
from protocols.secagg_types import Shared
from protocols.session import client
from protocols.vector import Vector
from securefl.audit.kahe_server import difference, errors_of, parameters_of, watched

FALSE_ALARM = 1e-6
"""Probability with which one of the statistical tests fails though nothing is wrong; seeds are fixed, so a pass stays a pass."""


# A key for two vectors (catalogue: 36)


def differences(fed: Federation, one: NDArray[Any], other: NDArray[Any]) -> list[int]:
    """What c1 − c2 says of x1 − x2 if both are under one key: the difference, rounded to the digits."""
    return difference(parameters_of(fed), one.astype(np.uint64), other.astype(np.uint64))


def second_vector(fed: Federation, server: LyingServer, image: Shared) -> NDArray[Any]:
    """The victim's state is restored, and it encrypts another input."""
    first = ciphertexts(server)[VICTIM]
    session = server.sessions[VICTIM]
    session._values.clear()
    restore(session, image, "encrypt")
    session._guard = None  # a journal that was restored with it
    session.provide(Vector(-fed.vectors[VICTIM]))
    server.tell(VICTIM, server.sealed(VICTIM), epoch=0)
    second = ciphertexts(server)[VICTIM]
    assert not np.array_equal(first, second)
    return first - second


def restored(fed: Federation) -> tuple[LyingServer, Shared]:
    """Rounds 0 to 2, and the image that was taken of the victim before it encrypted."""
    server = LyingServer(fed)
    server.up_to_boxes()
    (image,) = (value for value in server.sessions[VICTIM].remembers if isinstance(value, Shared))
    for u in server.sessions:
        server.tell(u, server.sealed(u))
    return server, image


def test_a_restored_party_encrypts_under_another_key() -> None:
    fed = enciphered()
    server, image = restored(fed)
    first = ciphertexts(server)[VICTIM]
    second_vector(fed, server, image)
    assert differences(fed, first, ciphertexts(server)[VICTIM]) != (2 * fed.vectors[VICTIM]).tolist()


def test_control_with_a_key_that_is_kept_the_difference_of_two_inputs_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    fed, kept = enciphered(), Replay("kept")().words("s", rlwe.DEGREE)
    monkeypatch.setattr(rlwe.Key, "draw", lambda _rand: rlwe.Key(np.bitwise_count(kept).astype(np.int64) - 32))
    server, image = restored(fed)
    first = ciphertexts(server)[VICTIM]
    second_vector(fed, server, image)
    assert differences(fed, first, ciphertexts(server)[VICTIM]) == (2 * fed.vectors[VICTIM]).tolist()


def test_a_retry_after_the_ciphertext_has_left_is_refused() -> None:
    """The first byte of the one message spends input and key; a second attempt of the round is not joined."""
    fed = enciphered()
    journals = {u: MemoryJournal() for u in fed.parties}
    assert run(fed.with_journals(journals)).outputs
    again = run(fed.at(attempt=1).with_journals(journals))
    assert {ending(again.sessions[client(u)]) for u in EVERYBODY} == {("journal-spent", None)}
    assert [step.name for step in kahe.flow.steps if step.spends] == ["encrypt"]


def test_keys_differ_from_party_to_party_and_from_sum_to_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, fed = draws(monkeypatch), enciphered()
    for one in (fed, fed.at(round=1), fed.at(attempt=1)):
        assert run(one).outputs
    rows = [key.coefficients.tobytes() for key in keys]
    assert len(rows) == len(set(rows)) == 18
    for key in keys:
        with pytest.raises(Misuse, match="a key encrypts one vector ever"):
            key.spend()


# Errors left out, repeated or equal (36)


def errors(parties: int = 3, size: int = 2 * ELEMENT - 1) -> dict[int, NDArray[np.int64]]:
    """c − A·s − Δx of every party at k = 0: the flow encrypts whole coefficients, which the test sees before they are cut."""
    fed = enciphered(parties, size)
    with watched() as seen:
        assert run(fed).outputs[0].values.tolist() == fed.sum(fed.parties)
    assert len(seen) == parties
    return {u: errors_of(fed, u, one).reshape(-1) for u, one in enumerate(seen, 1)}


def complaints(found: Mapping[int, NDArray[np.int64]]) -> list[str]:
    """What is wrong with the errors of parties: their variance or range; rows that repeat; rows that are related."""
    out, rows = list[str](), [row for e in found.values() for row in e.reshape(-1, rlwe.DEGREE)]
    for e in found.values():
        spread = chi2.ppf([FALSE_ALARM / 20, 1 - FALSE_ALARM / 20], e.size) / e.size * 16
        if not spread[0] <= float((e.astype(float) ** 2).mean()) <= spread[1] or np.abs(e).max() > 32:
            out.append("variance")
    if len({row.tobytes() for row in rows}) < len(rows):
        out.append("repeated")
    for i, one in enumerate(rows):  # correlations of independent rows are normal, of variance N
        for other in rows[:i]:
            if abs(float(one @ other)) / 16 > 7 * rlwe.DEGREE**0.5:
                out.append("related")
    return sorted(set(out))


def test_errors_have_variance_16_and_are_new_in_every_element_and_party(monkeypatch: pytest.MonkeyPatch) -> None:
    found = errors()
    assert complaints(found) == []
    pooled = np.concatenate(list(found.values()))
    seen = np.bincount(np.clip(pooled, -12, 12) + 12, minlength=25)
    pmf = np.array([comb(64, k) / 2**64 for k in range(65)])
    expected = np.concatenate([[pmf[:21].sum()], pmf[21:44], [pmf[44:].sum()]]) * pooled.size
    assert chi2.sf(((seen - expected) ** 2 / expected).sum(), 24) > FALSE_ALARM


def constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """No errors: half of the bits are 1."""
    monkeypatch.setattr(Stream, "fill", lambda _self, out: out.fill(2**32 - 1))


def repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors of one element in all elements of all parties."""
    row = Replay("row")().words("row", rlwe.DEGREE)
    monkeypatch.setattr(Stream, "fill", lambda _self, out: np.copyto(out, row))


def equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every party has the errors of every other."""
    stream = Rand.stream
    monkeypatch.setattr(Rand, "stream", lambda _self, label: stream(Replay("one")(), label))


def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 of the 64 bits are fixed."""
    fill = Stream.fill

    def half(self: Stream, out: NDArray[np.uint64]) -> None:
        fill(self, out)
        out[:] = out & np.uint64(0xFFFFFFFF) | np.uint64(0xFFFF << 32)

    monkeypatch.setattr(Stream, "fill", half)


@pytest.mark.parametrize(
    ("fault", "says"), [(constant, ["variance"]), (repeated, ["repeated"]), (equal, ["repeated"]), (scaled, ["variance"])]
)
def test_control_errors_left_out_repeated_or_equal_are_found(fault: Any, says: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    found = complaints(errors())
    assert set(says) <= set(found)
