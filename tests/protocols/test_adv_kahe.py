"""Cheats against key-additive masking: other sets than agreed, other public elements, ciphertexts that were kept.

Every attack is refused or detected by a named check, or what is left is noise; with what stops it taken out it succeeds.  There are
six parties, t = 4; the victim is party 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from adversary import (
    EVERYBODY,
    MAX_ABS,
    Federation,
    LyingServer,
    both_secrets,
    ending,
    faults,
    pair_keys,
    rebuild,
    run,
    unmask,
)
from kahe_adversary import ELEMENT, KAHE, VICTIM, ciphertexts, draws, enciphered, keys_alone, noise, opened, terms_of_keys
from numpy.typing import NDArray
from scipy.stats import kstest

from protocols import kahe, secagg, simulate, sums
from protocols.agreement import Dropped
from protocols.errors import Abort, Misuse
from protocols.kahe_types import Adding, Enciphered, Folded
from protocols.primitives import negacyclic, rlwe
from protocols.primitives.agree import KeyPair
from protocols.ring import Accumulator
from protocols.secagg_parameters import Parameters
from protocols.session import SERVER, client
from protocols.vector import Vector

RESIDUAL = pytest.raises(Abort, match="kahe-residual")
FALSE_ALARM = 1e-6
"""Probability with which one of the statistical tests fails though nothing is wrong; seeds are fixed, so a pass stays a pass."""


# Another set than U3, and ciphertexts without their keys (37)


def folding(change: Any) -> Any:
    """A server whose sum of ciphertexts is changed before it is opened."""

    def survey(srv: Adding, arrived: Any) -> Any:
        asking, folded, dropped = kahe.survey(srv, arrived)
        total = change(folded.total.total())
        accumulator = Accumulator(kahe.of_vectors(folded.terms).shape.ring, total.size)
        accumulator.add(total)
        return asking, Folded(folded.terms, accumulator), dropped

    return kahe.flow.replace(survey=survey)


def served(fed: Federation, flow: Any) -> Any:
    """A run whose server follows another flow."""
    sessions: dict[Any, Any] = {SERVER: sums.server_session(KAHE, fed.terms, flow=flow)}
    sessions |= {client(u): fed.session(u) for u in fed.parties}
    return simulate.run(sessions, {client(u): [Vector(x)] for u, x in fed.vectors.items()})


@pytest.fixture(scope="module")
def long() -> tuple[Federation, LyingServer, list[NDArray[np.int64]]]:
    """Three elements a vector: what a server has heard, and the keys, which it has not."""
    with pytest.MonkeyPatch.context() as patch:
        keys, fed = draws(patch), enciphered(size=2 * ELEMENT + 10)
        server = LyingServer(fed)
        server.up_to_masks()
    return fed, server, [key.coefficients for key in keys]


SETS = {
    "the victim is missing": lambda c: sum(c[u] for u in EVERYBODY[1:]),
    "the victim twice": lambda c: sum(c.values()) + c[VICTIM],
    "the victim alone": lambda c: c[VICTIM],
    "another in the victim's place": lambda c: sum(c.values()) - c[VICTIM] + c[2],
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("where", ["all elements", "one element"])
def test_ciphertexts_over_another_set_than_the_keys_are_not_opened(name: str, where: str, long: Any) -> None:
    fed, server, keys = long
    c = {u: words.astype(np.uint64) for u, words in ciphertexts(server).items()}
    right, other = sum(c.values()), SETS[name](c)
    total = np.where(np.arange(right.size) // rlwe.DEGREE == 1, other, right) if where == "one element" else other
    with RESIDUAL as refusal:
        opened(fed, total, sum(keys), 6)
    assert where == "all elements" or "element 1 " in str(refusal.value)
    assert opened(fed, right, sum(keys), 6) == [*fed.sum(EVERYBODY), 6]


def test_the_servers_own_step_aborts_and_gives_no_sum() -> None:
    fed = enciphered()
    p: Any = fed.terms.parameters
    outcome = served(fed, folding(lambda total: total + noise("another set", p)))
    assert outcome.outputs == []
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == ("kahe-residual", "decrypt")
    assert served(fed, folding(lambda total: total)).outputs[0].values.tolist() == fed.sum(EVERYBODY)


def test_what_is_left_of_a_wrong_set_is_noise(long: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the check taken out: the element of another set is uniform, the others are the sum."""
    monkeypatch.setattr(rlwe._Opening, "_check", lambda *_: None)
    fed, server, keys = long
    c = {u: words.astype(np.uint64) for u, words in ciphertexts(server).items()}
    right, other = sum(c.values()), SETS["the victim is missing"](c)
    total = np.where(np.arange(right.size) // rlwe.DEGREE == 1, other, right)
    got, true = np.array(opened(fed, total, sum(keys), 6)[:-1]), np.array(fed.sum(EVERYBODY))
    half = 2 ** (fed.terms.parameters.ring.bits - 1)
    wrong = slice(ELEMENT, 2 * ELEMENT)
    assert np.array_equal(np.delete(got, np.r_[wrong]), np.delete(true, np.r_[wrong]))
    assert kstest(got[wrong] / half, "uniform", args=(-1, 2)).pvalue > FALSE_ALARM
    assert abs(np.corrcoef(got[wrong], fed.vectors[VICTIM][wrong])[0, 1]) < 6 / ELEMENT**0.5


def test_control_with_one_mean_over_all_elements_a_wrong_one_passes(long: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why every element is looked at by itself: with many right ones the mean of all hides one."""
    fed, server, keys = long
    p: Any = fed.terms.parameters
    c = {u: words.astype(np.uint64) for u, words in ciphertexts(server).items()}
    right, other = sum(c.values()), SETS["the victim is missing"](c)
    garbage, noise = 4.0**p.shape.spare / 12, p.shape.expected(6)
    many = int(garbage / noise) + 1  # elements from which on the mean is below twice the noise
    assert (garbage + (many - 1) * noise) / many < 2 * noise
    monkeypatch.setattr(rlwe._Opening, "_check", lambda *_: None)
    assert opened(fed, np.where(np.arange(right.size) < rlwe.DEGREE, other, right), sum(keys), 6)[-1] == 6


# A ciphertext that is kept, or comes late (37)


def test_a_kept_ciphertext_of_a_party_that_was_declared_dropped_stays_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others open the victim's s_sk, never its b: the key is under a whole keystream, and no guess opens the ciphertext."""
    keys, fed = draws(monkeypatch), enciphered()
    server = LyingServer(fed)
    L = server.up_to_masks()
    server.agree_on((VICTIM,))
    server.open_all()
    views = dict.fromkeys(EVERYBODY, EVERYBODY[1:])
    assert server.shares(VICTIM, "b", {}, views) == {}
    s_sk = rebuild(server.shares(VICTIM, "s", {}, views), fed.t)
    assert s_sk is not None
    pairs = pair_keys(fed.terms, L, VICTIM, server.publics, {VICTIM: KeyPair.from_secret(s_sk)})
    masked = keys_alone(server.all(Enciphered)[VICTIM])
    y = masked.y.values.copy()
    secagg.apply_masks(y, [k for v, k in pairs.items() if v < VICTIM], [k for v, k in pairs.items() if v > VICTIM])
    guess = terms_of_keys(fed).parameters.ring.centre(y)[:-1]
    assert not np.array_equal(guess, keys[0].coefficients)
    with pytest.raises(Abort, match="kahe-norm"):
        opened(fed, ciphertexts(server)[VICTIM], guess, 1)
    with RESIDUAL:
        opened(fed, ciphertexts(server)[VICTIM], np.zeros(rlwe.DEGREE, np.int64), 1)
    server.tell(VICTIM, Dropped(()))
    server.tell(VICTIM, server.agreed((2, 3, 4, 5)))
    assert ending(server.sessions[VICTIM]) == ("agreed-signature", "open_shares")


def test_control_with_both_secrets_of_the_victim_its_key_and_then_its_input_open() -> None:
    """What "wire-late" and the moved state are for, as with masks: here they guard the key."""
    fed = enciphered()
    server = LyingServer(fed)
    L, b, pairs = both_secrets(fed, server, VICTIM)
    key = unmask(terms_of_keys(fed), L, VICTIM, keys_alone(server.all(Enciphered)[VICTIM]), b, pairs)
    assert opened(fed, ciphertexts(server)[VICTIM], key, 1) == [*fed.vectors[VICTIM].tolist(), 1]


def test_a_late_ciphertext_is_thrown_away_and_in_no_sum() -> None:
    fed, held = enciphered(), list[Any]()

    def network(letter: Any) -> Any:
        if letter.sender == client(6) and isinstance(letter.message, Enciphered):
            held.append(letter)
            return ()
        return (letter, *held) if isinstance(letter.message, Dropped) else (letter,)

    outcome = run(fed, network=network)
    assert set(faults(outcome)) == {("wire-late", "client 6", None)}
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[:-1])


# Public elements, and parameters (38)


def zero(_suite: str) -> negacyclic.Elements:
    """Elements that are zero: a ciphertext is its message and noise."""
    return Fixed(lambda count: np.zeros((count, rlwe.DEGREE), np.uint64))


def few(_suite: str) -> negacyclic.Elements:
    """Elements with one coefficient that is not zero: a product by a key is the key."""

    def words(count: int) -> NDArray[np.uint64]:
        out = np.zeros((count, rlwe.DEGREE), np.uint64)
        out[:, 0] = 1
        return out

    return Fixed(words)


class Fixed(negacyclic.Elements):
    """Public elements of the server's choice."""

    def __init__(self, make: Any) -> None:
        super().__init__("fixed")
        self._make = make

    def words(self, first: int, count: int) -> NDArray[np.uint64]:
        chosen: NDArray[np.uint64] = self._make(count)
        return chosen


@pytest.mark.parametrize("choice", [zero, few])
def test_control_with_public_elements_of_the_servers_choice_a_single_ciphertext_opens(
    choice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rlwe, "elements", choice)
    fed = enciphered()
    server = LyingServer(fed)
    server.up_to_masks()
    monkeypatch.setattr(rlwe._Opening, "_check", lambda *_: None)
    assert opened(fed, ciphertexts(server)[VICTIM], np.zeros(rlwe.DEGREE, np.int64), 1)[:-1] == fed.vectors[VICTIM].tolist()


def test_public_elements_are_the_clients_own_and_no_message_carries_one() -> None:
    """They follow from the suite string, which the client compares with the one that it runs; of any other, they are others."""
    fed = enciphered()
    own = rlwe.elements(fed.terms.suite).words(0, 2)
    assert len(np.unique(own)) == own.size
    for other in (fed.terms.suite + "0", enciphered(n=70).terms.suite, ""):
        assert not (rlwe.elements(other).words(0, 2) == own).any()
        session = fed.session(1, terms=replace(fed.terms, suite=other))
        assert [type(letter.message).__name__ for letter in session.begin()] == ["Farewell"]
        assert ending(session) == ("terms-suite", "advertise")
    raw = {name for kind in kahe.flow.messages() for name in getattr(kind, "__dataclass_fields__", {})}
    assert {"c", "y"} <= raw
    assert not raw & {"a", "A", "elements", "degree", "wire", "width"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"degree": 2048}, "N = 4096 and q = 2\\^64, not N = 2048"),
        ({"modulus": 62}, "not N = 4096 and q = 2\\^62"),
        ({"wire": 63}, "give P = 2, ℓ = \\d+, not 2, 63"),
        ({"wire": 30}, "give P = 2, ℓ = 31, not 2, 30"),
        ({"digits": 1}, "give P = 2, ℓ = \\d+, not 1"),
        ({"digits": 3}, "give P = 2, ℓ = \\d+, not 3"),
        ({"width": 13}, "no headroom"),
        ({"tail": -1}, "tail of the noise must be at least 0"),
    ],
)
def test_parameters_that_a_client_would_not_have_computed_are_none(change: dict[str, int], says: str) -> None:
    with pytest.raises(Misuse, match=says):
        replace(enciphered().terms.parameters, **change)  # type: ignore[type-var]


def test_wider_digits_for_one_party_give_no_sum() -> None:
    """Sound parameters, but not those of the others: another sid, so nobody's keys are in its list."""
    fed = enciphered()
    terms = replace(fed.terms, parameters=KAHE.parameters(6, 5, MAX_ABS, bits=20))
    assert terms.sid != fed.terms.sid
    server = LyingServer(fed, {u: fed.session(u, terms=terms if u == VICTIM else None) for u in EVERYBODY})
    listed = server.listed()
    for u in EVERYBODY:
        server.tell(u, listed)
        assert ending(server.sessions[u]) == ("listed-signature", "share")


def test_a_sum_in_which_one_honest_party_stands_alone_is_refused() -> None:
    keys = enciphered().terms.parameters.keys  # type: ignore[attr-defined]
    with pytest.raises(Misuse, match=r"t − \|C\| ≥ 2"):
        replace(keys, threshold=6, corrupt=5)
    assert Parameters.of(6, rlwe.DEGREE, rlwe.LARGEST).threshold - keys.corrupt >= 2


def test_with_every_other_key_of_the_sum_the_last_ciphertext_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """What "one honest party in the sum" would cost: colluders subtract their keys, as they would their inputs."""
    keys, fed = draws(monkeypatch), enciphered()
    server = LyingServer(fed)
    server.up_to_masks()
    total = sum(key.coefficients for key in keys)
    rest = total - sum(key.coefficients for key in keys[1:])
    assert opened(fed, ciphertexts(server)[VICTIM], rest, 1)[:-1] == fed.vectors[VICTIM].tolist()
