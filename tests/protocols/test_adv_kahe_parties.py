"""Parties that lie in key-additive masking: in one message, in the vector that they encrypt, or about their key; and bad input.

Who lies in a message is expelled by name, and the others finish.  Who lies in its own name shows in residual, norm, count and
range, or has put a value into the sum, as anybody may.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from adversary import EVERYBODY, MAX_ABS, LyingServer, ending, faults, run
from hypothesis import given, settings
from hypothesis import strategies as st
from kahe_adversary import BAD, ELEMENT, KAHE, VICTIM, enciphered, forging, noise
from lies import Lie, check_expelled, flipped, other_data
from numpy.typing import NDArray

from protocols import secagg_labels
from protocols.agreement import Agree
from protocols.bulk import Packed
from protocols.errors import Misuse
from protocols.kahe_parameters import KaheParameters
from protocols.kahe_types import Enciphered
from protocols.lanes import pieces
from protocols.primitives import rlwe
from protocols.rand import Replay
from protocols.ring import Ring
from protocols.schema import Message
from protocols.secagg_labels import joint_hash
from protocols.secagg_types import Advert, Boxes, Openings
from protocols.session import SERVER, Letter, Session, client

# In one message


def another_receipt(message: Any, session: Session, fed: Any) -> Message:
    """As `lies.false_receipt`, over both hashes."""
    state: Any = next(value for value in session.remembers if type(value).__name__ == "Covered")
    both = joint_hash(message.y.digest, message.c.digest)
    statement = fed.terms.statement("masked", BAD, state.L, tuple(state.u2), both, bytes(32))
    changed: Message = replace(message, receipt=bytes(32), signature=fed.parties[BAD].identity.sign(statement))
    return changed


def signed_for_the_key_alone(message: Any, session: Session, fed: Any) -> Message:
    """What a party of the SecAgg flow would sign."""
    state: Any = next(value for value in session.remembers if type(value).__name__ == "Covered")
    statement = fed.terms.statement("masked", BAD, state.L, tuple(state.u2), message.y.digest, message.receipt)
    changed: Message = replace(message, signature=fed.parties[BAD].identity.sign(statement))
    return changed


LIES: dict[str, tuple[type[Message], str, str, Lie]] = {
    "advert signature": (Advert, "advert-signature", "collect", flipped),
    "another hash": (Boxes, "boxes-signature", "relay", lambda m, *_: replace(m, commitment=bytes(32))),
    "masked signature": (Enciphered, "masked-signature", "survey", flipped),
    "another ciphertext": (Enciphered, "masked-signature", "survey", other_data("c")),
    "another masked key": (Enciphered, "masked-signature", "survey", other_data("y")),
    "a ciphertext that is not signed for": (Enciphered, "masked-signature", "survey", signed_for_the_key_alone),
    "a receipt for other shares": (Enciphered, "masked-receipt", "survey", another_receipt),
}


@pytest.mark.parametrize("lie", LIES)
def test_one_that_lies_is_expelled_by_name_and_the_others_finish(lie: str) -> None:
    check_expelled(enciphered(), LIES[lie], {Agree, Openings})


def swapping(letter: Letter) -> Iterable[Letter]:
    """The network puts the victim's ciphertext beside the key of party 6."""
    message: Any = letter.message
    if not isinstance(message, Enciphered):
        return (letter,)
    if letter.sender == client(VICTIM):
        swapping.kept = message.c  # type: ignore[attr-defined]
    if letter.sender == client(BAD):
        return (replace(letter, message=replace(message, c=swapping.kept)),)  # type: ignore[attr-defined]
    return (letter,)


def test_a_ciphertext_beside_another_key_takes_its_sender_out_and_the_others_go_on() -> None:
    fed = enciphered()
    outcome = run(fed, network=swapping)
    assert faults(outcome) == [("masked-signature", "client 6", "survey")]
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[:-1])


def test_control_with_the_key_alone_signed_a_swapped_ciphertext_ends_the_round_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sits on the line could stop every round, and nobody would be named."""
    for module in ("protocols.secagg", "protocols.secagg_labels"):
        monkeypatch.setattr(f"{module}.joint_hash", lambda vector, _beside: vector)
    assert secagg_labels.joint_hash(b"1", b"2") == b"1"
    outcome = run(enciphered(), network=swapping)
    assert faults(outcome) == []
    assert outcome.outputs == []
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == ("kahe-residual", "decrypt")


def test_half_a_ciphertext_leaves_no_trace() -> None:
    """Neither does its key: the masked key follows the ciphertext in one message."""
    fed, sessions = enciphered(), dict[Any, Session]()

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender != client(BAD) or not isinstance(letter.message, Enciphered):
            return (letter,)
        data = b"".join(letter.chunks())
        cut = len(data) - letter.limits.vectors["masked"].nbytes // 2
        return [*sessions[SERVER].feed(client(BAD), data[:cut]), *sessions[SERVER].gone(client(BAD))]

    outcome = run(fed, network=network, sessions=sessions)
    assert faults(outcome) == []
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[:-1])


# Wrong length, ring or version: refused, the sender named


def cut_short(data: bytes, _: Any) -> bytes:
    return data[:-1]


def too_long(data: bytes, _: Any) -> bytes:
    return data + bytes(1)


def of_another_ring(data: bytes, message: Any) -> bytes:
    """One bit more a coefficient: the bytes of a longer ciphertext."""
    values = message.c.values
    head = 4 + int.from_bytes(data[:4], "little")
    wide = bytes(Packed(Ring(40), values.size).dump(values.astype(np.uint64)))
    return data[:head] + wide + bytes(message.y.data)


def of_another_version(data: bytes, _: Any) -> bytes:
    """A message that another version might have."""
    return data.replace(b"Enciphered", b"Enciphere2")


def of_masks(data: bytes, _: Any) -> bytes:
    """The message of the SecAgg flow, whose fields are the same but for the ciphertext."""
    head = 4 + int.from_bytes(data[:4], "little")
    control = data[4:head].replace(b"\x6aEnciphered", b"\x66Masked")
    return len(control).to_bytes(4, "little") + control + data[head:]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (too_long, "wire-trailing"),
        (of_another_ring, "wire-trailing"),
        (of_another_version, "wire-kind"),
        (of_masks, "wire-kind"),
        (cut_short, None),
    ],
)
def test_a_message_of_another_length_ring_or_version_expels_its_sender(
    change: Callable[[bytes, Any], bytes], check: str | None
) -> None:
    """One that is cut short is waited for, and its sender has dropped out when it is gone."""
    fed, sessions = enciphered(), dict[Any, Session]()

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender != client(BAD) or not isinstance(letter.message, Enciphered):
            return (letter,)
        data = change(b"".join(letter.chunks()), letter.message)
        return [*sessions[SERVER].feed(client(BAD), data), *sessions[SERVER].gone(client(BAD))]

    outcome = run(fed, network=network, sessions=sessions)
    assert faults(outcome) == ([] if check is None else [(check, "client 6", None)])
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[:-1])


def test_a_signed_message_whose_masked_key_is_padded_is_added_in_neither_part() -> None:
    """Bits past the end of the masked key, under a good signature: the ciphertext beside it stays out too."""
    fed, sessions = enciphered(), dict[Any, Session]()

    def network(letter: Letter) -> Iterable[Letter]:
        message: Any = letter.message
        if letter.sender != client(BAD) or not isinstance(message, Enciphered):
            return (letter,)
        y = bytes(message.y.data)[:-1] + bytes([message.y.data[-1] | 0x80])
        state: Any = next(value for value in sessions[client(BAD)].remembers if type(value).__name__ == "Covered")
        both = joint_hash(hashlib.sha256(y).digest(), message.c.digest)
        statement = fed.terms.statement("masked", BAD, state.L, tuple(state.u2), both, message.receipt)
        signed = replace(message, signature=fed.parties[BAD].identity.sign(statement))
        data = b"".join(replace(letter, message=signed).chunks())
        return sessions[SERVER].feed(client(BAD), data[: -len(y)] + y)

    outcome = run(fed, network=network, sessions=sessions)
    assert faults(outcome) == [("vector-padding", "client 6", "survey")]
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[:-1])


@given(st.integers(1, 200_000))
def test_ciphertexts_have_no_filling_that_could_be_refused_after_their_key_was_added(size: int) -> None:
    p: Any = KAHE.parameters(6, size, MAX_ABS)
    assert all(piece.padded == piece.size for piece in pieces(p.shape.coefficients, p.shape.ring.lanes))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([1.0, np.nan, 0, 0, 0]), "nan at index 1"),
        (np.array([1.0, 2, 3, 4, np.inf]), "inf at index 4"),
        (np.zeros(5), "integer dtype"),
        (np.zeros(6, np.int64), r"shape \(5,\)"),
        (np.array([0, 0, 0, 0, MAX_ABS + 1]), "past max_abs"),
        (np.array([0, -(2**63), 0, 0, 0]), "past max_abs"),
        (np.array([2**64 - 5, 0, 0, 0, 0], np.uint64), "past max_abs"),
    ],
)
def test_a_wrong_input_of_ones_own_ends_the_session_and_nothing_leaves(values: NDArray[Any], says: str) -> None:
    fed = enciphered()
    fed.vectors[VICTIM] = values
    server = LyingServer(fed)
    server.up_to_boxes()
    with pytest.raises(Misuse, match=says):
        server.tell(VICTIM, server.sealed(VICTIM))
    assert ending(server.sessions[VICTIM]) == ("misuse", None)
    assert server.all(Enciphered) == {}


# In one's own name: keys and ciphertexts that do not belong together


def oversized(p: KaheParameters, s: NDArray[np.int64], c: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Every coefficient of the key at its limit, and the ciphertext of another."""
    return np.full_like(s, rlwe.LARGEST), c


FORGERIES = {
    "a ciphertext of noise": ("kahe-residual", lambda p, s, _: (s, noise("c", p))),
    "another key than encrypted": ("kahe-residual", lambda _, s, c: (s[::-1].copy(), c)),
    "one coefficient of the key off by one": (
        "kahe-residual",
        lambda _, s, c: (np.append(s[:-1], s[-1] + (1 if s[-1] < 32 else -1)), c),
    ),
    "an oversized key": ("kahe-norm", oversized),
    "the count": ("sum-count", lambda p, s, c: (s, lifted(p, c, 5, 1))),
    "a value": ("sum-range", lambda p, s, c: (s, lifted(p, c, 0, 7 * MAX_ABS))),
}


def lifted(p: KaheParameters, c: NDArray[Any], at: int, by: int) -> NDArray[Any]:
    """``by`` added to one value of the lowest digit, in the ciphertext."""
    out = c.copy()
    out[at] += out.dtype.type(by << (p.wire - p.digits * p.width))
    p.shape.ring.reduce(out)
    return out


@pytest.mark.parametrize("name", FORGERIES)
def test_garbage_in_ones_own_name_ends_the_round_without_a_sum(name: str) -> None:
    check, forge = FORGERIES[name]
    outcome = run(enciphered(), flows={BAD: forging(forge)})
    assert faults(outcome) == []
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == (check, "decrypt")
    assert outcome.outputs == []


def test_control_without_the_residual_the_garbage_of_one_party_is_taken_for_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count and range see it in a vector of this length; in one element of a wide digit they need not."""
    monkeypatch.setattr(rlwe._Opening, "_check", lambda *_: None)
    without_count = run(enciphered(), flows={BAD: forging(FORGERIES["a ciphertext of noise"][1])})
    assert without_count.abort is not None
    assert without_count.abort.check in {"sum-count", "sum-range"}
    fed = enciphered(size=ELEMENT + 2)

    def first_element(p: KaheParameters, s: NDArray[np.int64], c: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Noise of a few bits above the digits' lowest in all but the last element, which holds the count."""
        low = noise("low", p) >> c.dtype.type(p.digits * p.width - 4)
        low[rlwe.DEGREE :] = 0
        out = c + low
        p.shape.ring.reduce(out)
        return s, out

    outcome = run(fed, flows={BAD: forging(first_element)})
    assert outcome.outputs
    assert outcome.outputs[0].values.tolist() != fed.sum(EVERYBODY)


def test_a_key_at_its_limits_with_its_own_ciphertext_is_too_long_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound keeps products exact; with it taken out this cohort's sum is right, as its limbs have room left."""
    draw, count = rlwe.Key.draw, [0]

    def last_is_long(rand: Any, label: str = "s") -> rlwe.Key:
        count[0] += 1
        return rlwe.Key(np.full(rlwe.DEGREE, rlwe.LARGEST, np.int64)) if count[0] == 6 else draw(rand, label)

    monkeypatch.setattr(rlwe.Key, "draw", last_is_long)
    fed = enciphered()
    outcome = run(fed)
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == ("kahe-norm", "decrypt")
    count[0] = 0
    monkeypatch.setattr(rlwe, "MOST_NORM", 2**30)
    assert run(fed).outputs[0].values.tolist() == fed.sum(EVERYBODY)


# Values that leave their digit (catalogue: 39)


def past_its_digit(place: int, by: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Values as given, but ``by`` more at one place; nobody checks them."""

    def values(given: NDArray[Any]) -> NDArray[Any]:
        out = given.copy()
        out[place] += by
        return out

    return values


def same(_p: KaheParameters, s: NDArray[np.int64], c: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    return s, c


@pytest.mark.parametrize("turns", [1, -1, 3])
def test_a_value_that_wraps_moves_its_neighbour_by_one_step_a_turn(turns: int) -> None:
    """Places 7 and N + 7 share a coefficient: whole turns of the lower digit are small lies in the upper one."""
    fed = enciphered(size=ELEMENT - 1)
    width = fed.terms.parameters.ring.bits
    outcome = run(fed, flows={BAD: forging(same, values=past_its_digit(7, turns << width))})
    moved = np.array(fed.sum(EVERYBODY))
    moved[7 + rlwe.DEGREE] += turns
    assert outcome.outputs[0].values.tolist() == moved.tolist()
    over_the_top = run(fed, flows={BAD: forging(same, values=past_its_digit(7 + rlwe.DEGREE, turns << width))})
    assert over_the_top.outputs[0].values.tolist() == fed.sum(EVERYBODY)


def test_the_neighbour_of_the_count_cannot_be_moved_unseen() -> None:
    """The count stands beside value N − 1 of an element of 2N − 1 values: one that wraps there shows."""
    fed = enciphered(size=ELEMENT - 1)
    width = fed.terms.parameters.ring.bits
    outcome = run(fed, flows={BAD: forging(same, values=past_its_digit(rlwe.DEGREE - 1, 1 << width))})
    assert outcome.abort is not None
    assert outcome.abort.check == "sum-count"


def test_an_honest_party_refuses_before_anything_leaves() -> None:
    fed = enciphered(size=ELEMENT - 1)
    fed.vectors[BAD] = past_its_digit(7, 1 << fed.terms.parameters.ring.bits)(fed.vectors[BAD])
    with pytest.raises(Misuse, match="past max_abs = 1000"):
        run(fed)


@given(st.integers(0, 2**32), st.integers(1, 400))
@settings(max_examples=12, deadline=None)
def test_noised_values_are_neither_clamped_nor_refused_and_their_sum_is_exact(seed: int, spread: int) -> None:
    """With a tail in the parameters only the sum must fit: single values go past max_abs."""
    p = KAHE.parameters(6, 64, MAX_ABS)
    noised = KaheParameters.over(p.keys, 64, MAX_ABS, tail=10 * spread)  # type: ignore[attr-defined]
    fed = replace(enciphered(size=64), terms=replace(enciphered(size=64).terms, parameters=noised))
    drawn = Replay(f"{seed}")().words("noise", 6 * 64).astype(np.int64).reshape(6, 64) % (2 * spread + 1) - spread
    fed.vectors.update({u: np.full(64, (-1) ** u * MAX_ABS) + drawn[u - 1] for u in EVERYBODY})
    total = np.sum(list(fed.vectors.values()), axis=0)
    assert max(np.abs(x).max() for x in fed.vectors.values()) > MAX_ABS or spread < 2
    assert run(fed).outputs[0].values.tolist() == total.tolist()


def test_control_values_clamped_after_noise_are_found_in_the_sum() -> None:
    """The mutant "clamped after noise": the mean of the sum moves, which the exact sum above would show."""
    p = KAHE.parameters(6, 64, MAX_ABS)
    noised = KaheParameters.over(p.keys, 64, MAX_ABS, tail=500)  # type: ignore[attr-defined]
    fed = replace(enciphered(size=64), terms=replace(enciphered(size=64).terms, parameters=noised))
    fed.vectors.update({u: np.full(64, MAX_ABS + 10) for u in EVERYBODY})
    assert run(fed).outputs[0].values.tolist() == [6 * (MAX_ABS + 10)] * 64
    clamped = run(fed, flows={BAD: forging(same, values=lambda given: np.clip(given, -MAX_ABS, MAX_ABS))})
    assert clamped.outputs[0].values.tolist() == [6 * MAX_ABS + 50] * 64


def test_a_sum_past_its_tail_aborts() -> None:
    p = KAHE.parameters(6, 64, MAX_ABS)
    noised = KaheParameters.over(p.keys, 64, MAX_ABS, tail=500)  # type: ignore[attr-defined]
    fed = replace(enciphered(size=64), terms=replace(enciphered(size=64).terms, parameters=noised))
    fed.vectors.update({u: np.full(64, MAX_ABS + 100) for u in EVERYBODY})
    outcome = run(fed)
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == ("sum-range", "decrypt")
