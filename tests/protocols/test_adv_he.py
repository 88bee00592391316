"""Cheats against homomorphic sums: flipped bits, one party's ciphertext as "the sum", other subsets, perturbed sums, lying openers.

Every attack is refused by a named check; with that check taken out it succeeds.  The federation has six parties, t = 4, three
openers; the victim is party 1.  What no check stops is shown as well: one party that hands its key to the server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from adversary import Federation, ending, faults, run, without_check
from he_server import BAD, EITHER, EVERYBODY, VICTIM, HeServer, P, shared
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import he_codec
from protocols.agreement import Agreed, Covering, Dropped
from protocols.bulk import Bulk
from protocols.he_parameters import layouts
from protocols.he_types import Decrypted, Upload
from protocols.primitives import homomorphic
from protocols.rand import Replay
from protocols.session import Letter, client


@EITHER
def test_one_partys_ciphertext_is_not_opened_as_the_sum(name: str) -> None:
    """Alone, or six times over so that count and range fit."""
    for times in (1, 6):
        server = HeServer(shared(name))
        server.up_to_uploads()
        for u in server.agreed_openers():
            assert server.show(u, server.total([VICTIM], times)) is None
            assert ending(server.sessions[u]) == ("summed-tag", "decrypt")


@EITHER
def test_control_without_the_tag_the_victims_input_is_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_check(monkeypatch, "summed-tag")
    fed = shared(name)
    server = HeServer(fed)
    server.up_to_uploads()
    opener = server.agreed_openers()[0]
    assert server.show(opener, server.total([VICTIM], 6)) == [6 * x for x in fed.vectors[VICTIM]]


def multiples(server: HeServer) -> np.ndarray[Any, Any]:
    """The victim twice, and another party not at all."""
    q = np.uint64(homomorphic.modulus(P.shape))
    return (server.total(EVERYBODY[:-1]) + server.total([VICTIM])) % q


FALSE_SUMS: dict[str, tuple[str, Callable[[HeServer], np.ndarray[Any, Any]]]] = {
    "a subset": ("summed-tag", lambda s: s.total(EVERYBODY[1:])),
    "a multiple": ("summed-tag", lambda s: s.total(EVERYBODY, 2)),
    "one twice": ("summed-tag", multiples),
    "zero": ("summed-tag", lambda s: s.total([VICTIM]) * np.uint64(0)),
    "noise": ("summed-tag", lambda s: Replay("n")().words("n", 8192) % np.uint64(homomorphic.modulus(P.shape))),
    "a digit moved": ("summed-tag", lambda s: shifted(s.total(EVERYBODY), 1 << (60 - P.slot))),
    "a word that is q": (
        "ciphertext-range",
        lambda s: s.total(EVERYBODY) * np.uint64(0) + np.uint64(homomorphic.modulus(P.shape)),
    ),
    "words of q and more": ("ciphertext-range", lambda s: s.total(EVERYBODY) * np.uint64(0) + np.uint64(2**60 - 1)),
}


def shifted(total: np.ndarray[Any, Any], by: int) -> np.ndarray[Any, Any]:
    """``by`` added to the first word of c0: the first coefficient of the plaintext grows by p·by/q."""
    out = total.copy()
    out[0] = (int(out[0]) + by) % homomorphic.modulus(P.shape)
    return out


@pytest.mark.parametrize("kind", FALSE_SUMS)
def test_what_is_not_the_sum_over_the_agreed_is_not_opened(kind: str) -> None:
    check, forge = FALSE_SUMS[kind]
    server = HeServer(shared())
    server.up_to_uploads()
    opener = server.agreed_openers()[0]
    assert server.show(opener, forge(server)) is None
    assert ending(server.sessions[opener]) == (check, "decrypt")


def test_a_perturbation_below_the_noise_changes_nothing_and_a_key_opens_once() -> None:
    """Refusals tell a server one bit about the key, which then serves no other sum: a second question is late."""
    fed = shared()
    server = HeServer(fed)
    server.up_to_uploads()
    first, second, third = server.agreed_openers()
    assert server.show(first, shifted(server.total(EVERYBODY), 100)) == fed.sum(EVERYBODY)
    assert server.show(second, shifted(server.total(EVERYBODY), 1 << 40)) is None
    del server.heard[first, Decrypted]
    assert server.show(first, server.total(EVERYBODY)) is None
    assert [fault.check for fault in server.sessions[first].faults] == ["wire-late"]
    assert server.show(third, server.total(EVERYBODY)) == fed.sum(EVERYBODY)


def test_who_was_not_chosen_does_not_open() -> None:
    server = HeServer(shared())
    server.up_to_uploads()
    chosen = server.agreed_openers()
    other = next(u for u in EVERYBODY if u not in chosen)
    assert server.show(other, server.total(EVERYBODY)) is None
    assert ending(server.sessions[other]) == ("opener-own", "decrypt")


def test_different_survivors_to_different_openers_are_refused() -> None:
    server = HeServer(shared())
    server.up_to_uploads()
    for u in EVERYBODY:
        server.tell(u, Dropped((VICTIM,) if u in (4, 5, 6) else ()))
    for u in EVERYBODY:
        server.tell(u, server.agreed() if u in (2, 3) or u == VICTIM else server.agreed((2, 3, 4, 5, 6)))
        assert ending(server.sessions[u]) == ("agreed-signature", "confirm")


@pytest.mark.parametrize(
    ("forge", "check"),
    [
        (lambda signed: (signed[0], signed[0], *signed[2:]), "agreed-signers"),
        (lambda signed: signed[:3], "agreed-count"),
        (lambda signed: (*(replace(one, signature=bytes(64)) for one in signed[:3]), *signed[3:]), "agreed-signature"),
    ],
)
def test_without_agreement_nothing_is_opened(forge: Callable[[Any], Any], check: str) -> None:
    server = HeServer(shared())
    server.up_to_uploads()
    server.agree_on()
    server.tell(VICTIM, Agreed(forge(server.agreed().signatures)))
    assert ending(server.sessions[VICTIM]) == (check, "confirm")


def test_coverings_where_no_graph_is_sparse_are_refused() -> None:
    server = HeServer(shared())
    server.up_to_uploads()
    server.agree_on()
    server.tell(VICTIM, replace(server.agreed(), coverings=(Covering(bytes(32), bytes(32), bytes(64)),)))
    assert ending(server.sessions[VICTIM]) == ("agreed-coverings", "confirm")


# --- what a shared key costs


def test_one_party_that_helps_the_server_opens_every_input() -> None:
    """No check stops this: SECURITY.md says so, and a policy can refuse the protocol."""
    fed = shared()
    server = HeServer(fed)
    L = server.up_to_uploads()
    p, key = fed.terms.parameters, server.collude(BAD).key
    assert L == server.collude(BAD).L
    for u in EVERYBODY:
        slots = homomorphic.decrypt(p.shape, key, server.total([u]))
        assert he_codec.decode(p, key, [u], slots)[:-1].tolist() == fed.vectors[u].tolist()


# --- bits flipped on the way


def flipping(fed: Federation, flips: list[tuple[int, int]]) -> Callable[[Letter], Iterable[Letter]]:
    """A network that flips bits in the ciphertexts of party 6."""

    def network(letter: Letter) -> Iterable[Letter]:
        message: Any = letter.message
        if letter.sender != client(BAD) or not isinstance(message, Upload):
            return (letter,)
        data = bytearray(b"".join([message.seeds.data or b"", message.words.data or b""]))
        for place, bit in flips:
            data[place % len(data)] ^= 1 << bit
        cut = len(message.seeds.data or b"")
        seeds, words = (
            Bulk(getattr(message, field).values, hashlib.sha256(part).digest(), bytes(part))
            for field, part in (("seeds", data[:cut]), ("words", data[cut:]))
        )
        return (replace(letter, message=replace(message, seeds=seeds, words=words)),)

    return network


@given(st.lists(st.tuples(st.integers(0, 64 + 30720 - 1), st.integers(0, 7)), min_size=1, max_size=3, unique=True))
@settings(max_examples=10, deadline=None)
def test_whoever_flips_bits_of_a_ciphertext_takes_its_sender_out_and_the_others_go_on(flips: list[tuple[int, int]]) -> None:
    """Almost every word that comes out is still below q: only the signed digest tells."""
    fed = shared()
    outcome = run(fed, network=flipping(fed, flips))
    assert faults(outcome) == [("upload-signature", "client 6", "survey")]
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[:-1])


def one_flip(letter: Letter) -> Iterable[Letter]:
    """Bit 40 of the first word of c0: bit 22 of the first coefficient, bit 8 of its second digit."""
    message: Any = letter.message
    if letter.sender != client(BAD) or not isinstance(message, Upload):
        return (letter,)
    values = message.words.values.copy()
    values[0] ^= np.uint64(1 << 40)
    return (replace(letter, message=replace(message, words=Bulk.of(layouts(P)["words"], values))),)


def test_control_without_the_signed_digest_a_flipped_bit_ends_the_round_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    without_check(monkeypatch, "upload-signature")
    fed = shared()
    outcome = run(fed, network=one_flip)
    assert faults(outcome) == []
    assert outcome.outputs == []
    assert {ending(outcome.sessions[client(u)]) for u in EVERYBODY} - {None} == {("summed-tag", "decrypt")}


def test_control_without_digest_and_tag_a_flipped_bit_moves_the_sum_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    without_check(monkeypatch, "upload-signature", "summed-tag")
    fed = shared()
    outcome = run(fed, network=one_flip)
    opened, true = outcome.outputs[0].values.tolist(), fed.sum(EVERYBODY)
    assert abs(opened[1] - true[1]) == 256
    assert opened[3:] == true[3:]
