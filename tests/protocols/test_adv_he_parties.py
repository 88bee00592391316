"""Parties that cheat in homomorphic sums: false messages, keys for ciphertexts, garbage, lying openers, bad boxes; false lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tenseal as ts
from adversary import Federation, ending, faults, run
from he_server import BAD, EVERYBODY, VICTIM, HeServer, P, flipped, shared, signed

from protocols import he, he_codec
from protocols.agreement import Agree, Dropped
from protocols.bulk import Bulk
from protocols.he_parameters import HeParameters, layouts
from protocols.he_types import Committed, Dealt, Decrypted, Delivered, Encrypted, SeedBox, Shared, Summed, Upload, Waiting
from protocols.lightsecagg_types import KeyAdvert, KeyList
from protocols.primitives import homomorphic, seal
from protocols.primitives.agree import KeyPair
from protocols.primitives.homomorphic import Ciphertexts
from protocols.rand import Rand, Replay, Seed
from protocols.schema import Message
from protocols.session import SERVER, Letter, Session, client

# --- one party lies to an honest server

Lie = Callable[[Any, Session, Federation], Message]


def own_key(c_pk: bytes) -> Lie:
    return lambda _message, _session, fed: KeyAdvert(c_pk, fed.parties[BAD].identity.sign(fed.terms.statement("keys", BAD, c_pk)))


def uploading(make: Callable[[Ciphertexts], Ciphertexts]) -> Lie:
    """Ciphertexts of the party's own making, under its own signature."""

    def lie(message: Any, session: Session, fed: Federation) -> Message:
        state = next(s for s in session.remembers if isinstance(s, Encrypted))
        return signed(state, make(Ciphertexts(message.seeds.values, message.words.values)), fed)

    return lie


def saved_object(data: bytes) -> Lie:
    """Bytes as SEAL or TenSEAL saves them, as far as they fit, where seeds and words are due."""

    def lie(message: Any, session: Session, fed: Federation) -> Message:
        upload: Any = uploading(lambda fresh: fresh)(message, session, fed)
        whole = data.ljust(64 + 30720, b"\0")[: 64 + 30720]
        words = Bulk.of(layouts(P)["words"], layouts(P)["words"].ring.unpack(whole[64:], 4096))  # type: ignore[attr-defined]
        seeds = Bulk.of(layouts(P)["seeds"], np.frombuffer(whole[:64], np.uint8).reshape(1, 64))
        state = next(s for s in session.remembers if isinstance(s, Encrypted))
        statement = he.upload_statement(fed.terms, BAD, state.L, state.u2, seeds.digest, words.digest)
        return replace(upload, seeds=seeds, words=words, signature=fed.parties[BAD].identity.sign(statement))

    return lie


def context_with_its_secret_key() -> bytes:
    context = ts.context(ts.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[40, 20, 40])
    assert context.has_secret_key()
    data: bytes = context.serialize(save_secret_key=True, save_public_key=False, save_galois_keys=False, save_relin_keys=False)
    return data


def saved_secret_key() -> bytes:
    with homomorphic._File() as file:
        return file.save(homomorphic._engine(P.shape).secret(Seed(bytes(32))))


def too_large(fresh: Ciphertexts) -> Ciphertexts:
    words = fresh.words.copy()
    words[7] = homomorphic.modulus(P.shape)
    return Ciphertexts(fresh.seeds, words)


LIES: dict[str, tuple[type[Message], str, str, Lie]] = {
    "advert signature": (KeyAdvert, "advert-signature", "collect", flipped),
    "advert of small order": (KeyAdvert, "public-key-order", "collect", own_key(bytes(32))),
    "another's key": (KeyAdvert, "advert-distinct", "collect", own_key(HeServer(shared()).all(KeyAdvert)[1].c_pk)),
    "a box too few": (Dealt, "boxes-set", "relay", lambda m, *_: replace(m, boxes=m.boxes[1:])),
    "another commitment": (Dealt, "boxes-signature", "relay", lambda m, *_: replace(m, commitment=bytes(32))),
    "upload signature": (Upload, "upload-signature", "survey", flipped),
    "a word of q": (Upload, "ciphertext-range", "survey", uploading(too_large)),
    "a context with its secret key": (Upload, "upload-object", "survey", saved_object(context_with_its_secret_key())),
    "a secret key": (Upload, "upload-object", "survey", saved_object(saved_secret_key())),
    "agree signature": (Agree, "agree-signature", "gather", flipped),
}


@pytest.mark.parametrize("lie", LIES)
def test_one_that_lies_is_expelled_by_name_and_the_others_finish(lie: str) -> None:
    kind, check, step, forge = LIES[lie]
    fed, sessions = shared(), dict[Any, Session]()

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender != client(BAD) or type(letter.message) is not kind:
            return (letter,)
        return (replace(letter, message=forge(letter.message, sessions[client(BAD)], fed)),)

    outcome = run(fed, network=network, sessions=sessions)
    assert faults(outcome) == [(check, "client 6", step)]
    members = EVERYBODY if kind is Agree else EVERYBODY[:-1]
    assert outcome.outputs[0].values.tolist() == fed.sum(members)


@pytest.mark.parametrize(
    ("other", "check"),
    [
        (replace(P, degree=8192), "wire-trailing"),
        (replace(P, degree=2048, modulus=54, slot=42), "wire-truncated"),
        (replace(P, modulus=58), "wire-truncated"),
        (HeParameters.bfv(6, 20_000, 1000, threshold=4), "wire-trailing"),
    ],
)
def test_ciphertexts_of_another_degree_modulus_or_number_are_refused(other: HeParameters, check: str) -> None:
    """Sizes are fixed by the parameters in sid: more bytes are refused as they come, fewer leave no trace at the deadline."""
    fed = shared()

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender == client(BAD) and isinstance(letter.message, Upload):
            x = np.zeros(other.ciphertexts * other.shape.slots, np.uint64)
            fresh = homomorphic.encrypt(other.shape, Seed(bytes(32)), x, Replay("o")())
            seeds, words = Bulk.of(layouts(other)["seeds"], fresh.seeds), Bulk.of(layouts(other)["words"], fresh.words)
            limits = replace(letter.limits, vectors=layouts(other))
            return (replace(letter, message=Upload(seeds, words, letter.message.signature), limits=limits),)
        return (letter,)

    outcome = run(fed, network=network)
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[:-1])
    assert faults(outcome) == ([] if check == "wire-truncated" else [(check, "client 6", None)])


# --- garbage


def liar(fed: Federation, change: Callable[[Seed, Any], Any]) -> Any:
    """The flow of a party that changes its slots, knowing the key, and signs what it encrypts."""

    def encrypt(shared: Shared, delivered: Delivered, x: Any, rand: Rand) -> Any:
        state, _ = he.encrypt(shared, delivered, x, rand)
        slots = change(state.key, he_codec.encode(P, state.key, BAD, x))
        return state, signed(state, homomorphic.encrypt(P.shape, state.key, slots, Replay("liar")()), fed)

    return he.flow.replace(encrypt=encrypt)


def noise(_key: Seed, slots: Any) -> Any:
    return Replay("garbage")().words("slots", slots.size) & np.uint64(2**P.slot - 1)


def retagged(change: Callable[[Any], None]) -> Callable[[Seed, Any], Any]:
    """Other digits under a right tag."""

    def slots(key: Seed, honest: Any) -> Any:
        digits, out = he_codec._digits(P, honest[: P.data_slots], P.size + 1), np.zeros_like(honest)
        change(digits)
        he_codec._fill(P, digits, 1, out[: P.data_slots])
        tag = (he_codec.weighted(P, key, out[: P.data_slots]) + int(he_codec.pads(P, key)[BAD - 1])) % he_codec.FIELD.modulus
        he_codec._fill(P, np.array([tag], np.uint64), P.tag_limbs, out[P.data_slots :])
        return out

    return slots


def counted_twice(digits: Any) -> None:
    digits[-1] += 1


def far_out(digits: Any) -> None:
    digits[0] = 12_100 - sum(int(shared().vectors[u][0]) + 1000 for u in EVERYBODY[:-1])


@pytest.mark.parametrize(
    ("change", "check"), [(noise, "summed-tag"), (retagged(counted_twice), "summed-count"), (retagged(far_out), "summed-range")]
)
def test_garbage_in_ones_own_name_makes_the_openers_refuse(change: Callable[[Seed, Any], Any], check: str) -> None:
    """A party may encrypt what it likes; a sum that no honest parties could have made ends the round, and is not opened."""
    fed = shared()
    outcome = run(fed, flows={BAD: liar(fed, change)})
    endings = [ending(outcome.sessions[client(u)]) for u in EVERYBODY]
    assert sorted(end for end in endings if end) == [(check, "decrypt")] * 3
    assert outcome.outputs == []
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == ("quorum", "conclude")


# --- openers that lie


def opener(fed: Federation, change: Callable[[Any], Any]) -> Any:
    """A party that signs another sum than it decrypted."""

    def decrypt(waiting: Waiting, summed: Summed) -> Any:
        finished, said = he.decrypt(waiting, summed)
        bulk = Bulk.of(layouts(P)["opened"], change(said.values.values.copy()))
        statement = he.decrypted_statement(fed.terms, waiting.invited.me, waiting.L, waiting.u3, bulk.digest)
        return finished, Decrypted(bulk, waiting.invited.identity.sign(statement))

    return he.flow.replace(decrypt=decrypt)


def by(amount: int) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[0] = (int(values[0]) + amount) % P.ring.modulus
        return values

    return change


def chosen() -> tuple[int, ...]:
    """The three openers of the federation: its randomness repeats."""
    server = HeServer(shared())
    server.up_to_uploads()
    return server.agreed_openers()


def test_an_opener_that_lies_is_left_out_by_name() -> None:
    fed, openers = shared(), chosen()
    for liar in openers:
        outcome = run(fed, flows={liar: opener(fed, by(1))})
        assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY)
        assert outcome.outputs[0].left_out == (liar,)


def test_openers_that_all_differ_end_in_an_abort() -> None:
    fed, openers = shared(), chosen()
    outcome = run(fed, flows={u: opener(fed, by(i)) for i, u in enumerate(openers)})
    assert outcome.outputs == []
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == ("openers-differ", "conclude")


def test_two_openers_that_lie_alike_move_the_sum_within_its_range() -> None:
    """The limit that SECURITY.md states; beyond its range or with another count the server refuses even then."""
    fed, openers = shared(), chosen()
    outcome = run(fed, flows={u: opener(fed, by(1)) for u in openers[:2]})
    assert outcome.outputs[0].values.tolist() == [fed.sum(EVERYBODY)[0] + 1, *fed.sum(EVERYBODY)[1:]]
    assert outcome.outputs[0].left_out == openers[2:]
    outcome = run(fed, flows={u: opener(fed, by(7000 - fed.sum(EVERYBODY)[0])) for u in openers[:2]})
    assert outcome.abort is not None
    assert outcome.abort.check == "sum-range"


def test_a_sum_that_its_opener_did_not_sign_expels_it() -> None:
    fed, liar = shared(), chosen()[0]

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender == client(liar) and isinstance(letter.message, Decrypted):
            return (replace(letter, message=flipped(letter.message)),)
        return (letter,)

    outcome = run(fed, network=network)
    assert faults(outcome) == [("decrypted-signature", f"client {liar}", "conclude")]
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY)


# --- bad boxes, lists and sets


def dealer(fed: Federation, forge: Callable[[Shared, SeedBox], SeedBox]) -> Any:
    """A party whose box for the victim is forged."""

    def share(adv: Any, listed: KeyList, rand: Rand) -> Any:
        state, sent = he.share(adv, listed, rand)
        return state, replace(sent, boxes=tuple(forge(state, x) if x.peer == VICTIM else x for x in sent.boxes))

    return he.flow.replace(share=share)


def resealed(content: bytes) -> Callable[[Shared, SeedBox], SeedBox]:
    def forge(state: Shared, _box: SeedBox) -> SeedBox:
        terms, L = state.invited.terms, state.L
        key = he.box_key(terms, L, state.c, state.entries[VICTIM].c_pk, BAD, VICTIM, mine=BAD)
        return SeedBox(VICTIM, seal.seal(key, content, he.box_aad(terms, L, BAD, VICTIM)))

    return forge


def ids(u: int, v: int) -> bytes:
    return u.to_bytes(4, "big") + v.to_bytes(4, "big")


BAD_BOXES: dict[str, tuple[str, Callable[[Shared, SeedBox], SeedBox]]] = {
    "noise": ("box-opens", lambda _, x: replace(x, box=bytes(len(x.box)))),
    "other ids inside": ("box-ids", resealed(ids(BAD, 2) + bytes(32))),
    "a seed that was not committed to": ("box-share-hash", resealed(ids(BAD, VICTIM) + bytes(32))),
}


@pytest.mark.parametrize("kind", BAD_BOXES)
def test_who_gets_a_bad_box_leaves_naming_its_sender_and_the_others_go_on(kind: str) -> None:
    """A dealer that tells one party another seed cannot make it encrypt under another key."""
    check, forge = BAD_BOXES[kind]
    fed = shared()
    outcome = run(fed, flows={BAD: dealer(fed, forge)})
    victim = outcome.sessions[client(VICTIM)]
    assert ending(victim) == (check, "encrypt")
    assert [(fault.check, fault.sender) for fault in victim.faults] == [(check, "client 6")]
    assert outcome.sessions[SERVER].accused == {client(VICTIM): BAD}
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[1:])


def test_swapped_keys_are_refused() -> None:
    """A server in the middle would read the seeds; it cannot sign keys of its own."""
    server = HeServer(shared())
    listed, mine = server.key_list(), KeyPair.generate(Replay("server")(), "c")
    forged = replace(listed, entries=(*listed.entries[:-1], replace(listed.entries[-1], c_pk=mine.public)))
    for u in EVERYBODY[:-1]:
        server.tell(u, forged)
        assert ending(server.sessions[u]) == ("listed-signature", "share")
    assert server.all(Dealt) == {}


@pytest.mark.parametrize(
    ("forge", "check"),
    [
        (lambda entries: (entries[1], entries[0], *entries[2:]), "listed-order"),
        (lambda entries: entries[1:], "listed-own"),
        (lambda entries: entries[:3], "listed-cohort"),
        (lambda entries: (*entries[:-1], replace(entries[-1], c_pk=entries[1].c_pk)), "listed-distinct"),
    ],
)
def test_a_false_list_is_refused_before_seeds_leave(forge: Callable[[Any], Any], check: str) -> None:
    server = HeServer(shared())
    server.tell(VICTIM, KeyList(forge(server.key_list().entries)))
    assert ending(server.sessions[VICTIM]) == (check, "share")


@pytest.mark.parametrize(
    ("u2", "forge", "check"),
    [
        (EVERYBODY, lambda d: replace(d, u2=(2, 1, 3, 4, 5, 6)), "sealed-set"),
        (EVERYBODY, lambda d: replace(d, u2=EVERYBODY[1:]), "sealed-own"),
        ((1, 2, 3), lambda d: d, "sealed-cohort"),
        (EVERYBODY, lambda d: replace(d, boxes=d.boxes[1:]), "sealed-boxes"),
        (EVERYBODY, lambda d: replace(d, commitments=d.commitments[1:]), "sealed-boxes"),
        (
            EVERYBODY,
            lambda d: replace(d, commitments=tuple(Committed(x.peer, bytes(32)) for x in d.commitments)),
            "box-share-hash",
        ),
    ],
)
def test_false_boxes_are_refused_before_the_vector_leaves(
    u2: tuple[int, ...], forge: Callable[[Delivered], Delivered], check: str
) -> None:
    server = HeServer(shared())
    listed = server.key_list()
    for u in EVERYBODY:
        server.tell(u, listed)
    server.tell(VICTIM, forge(server.delivered(VICTIM, u2)))
    assert ending(server.sessions[VICTIM]) == (check, "encrypt")
    assert server.all(Upload) == {}


def test_different_sets_of_dealers_give_different_keys_and_no_sum() -> None:
    """Told another U2, a party encrypts under another key: its ciphertexts are signed for that set, and no sum has a tag."""
    fed = shared()
    server = HeServer(fed)
    listed = server.key_list()
    for u in EVERYBODY:
        server.tell(u, listed)
    for u in EVERYBODY:
        server.tell(u, server.delivered(u, EVERYBODY if u != VICTIM else EVERYBODY[:-1]))
    assert server.collude(VICTIM).key != server.collude(2).key
    openers = server.agreed_openers()
    assert [server.show(u, server.total(EVERYBODY)) for u in openers if u != VICTIM] == [None] * sum(u != VICTIM for u in openers)


@pytest.mark.parametrize(
    ("dropped", "check"), [((6, 6), "dropped-set"), ((3, 2), "dropped-set"), ((1,), "dropped-own"), ((2, 3, 4), "dropped-cohort")]
)
def test_a_false_dropped_set_is_not_signed(dropped: tuple[int, ...], check: str) -> None:
    server = HeServer(shared())
    server.up_to_uploads()
    server.tell(VICTIM, Dropped(dropped))
    assert ending(server.sessions[VICTIM]) == (check, "consent")


def test_a_late_upload_is_left_out() -> None:
    """It comes after its step ran, whole and signed: noted, and not in the sum."""
    fed, sessions, late = shared(), dict[Any, Session](), list[Letter]()

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender == client(BAD) and isinstance(letter.message, Upload):
            late.append(letter)
            return ()
        if late and isinstance(letter.message, Agree):
            return (letter, late.pop())
        return (letter,)

    outcome = run(fed, network=network, sessions=sessions)
    assert ("wire-late", "client 6", None) in faults(outcome)
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[:-1])
