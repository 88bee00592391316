"""Mutants that the catalogue of attacks lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from mutating import ALL, Mutant, Patch, Scheme, declaring, everywhere, without
from numpy.typing import NDArray

from protocols import he_types, policy, rand, secagg, secagg_types, wire
from protocols.bulk import Bulk, Packed
from protocols.primitives import agree, prg, seal
from protocols.rand import Key, Secret, Seed
from protocols.schema import Raw, Signature, Size, Span
from protocols.secagg_parameters import Parameters
from protocols.suite import Terms
from protocols.vector import with_count
from securefl import encode
from securefl.audit.target import PAYLOAD

MUTANTS: list[Mutant] = []
mutant = declaring(MUTANTS)


@mutant("self-mask left out", 24)
def self_mask_left_out(patch: Patch, _scheme: Scheme) -> None:
    dropped, derive, masks = set(), agree.derive, prg.Masks.__init__

    def noting(secret: Secret, info: bytes) -> Key:
        key = derive(secret, info)
        if info.startswith(b"\x84\x64self"):
            dropped.add(key.reveal())
        return key

    def fewer(self: prg.Masks, plus: Any, minus: Any, dtype: Any) -> None:
        masks(self, [k for k in plus if k.reveal() not in dropped], [k for k in minus if k.reveal() not in dropped], dtype)

    everywhere(patch, "derive", noting)
    patch.setattr(prg.Masks, "__init__", fewer)


@mutant("wrong sign", 20)
def wrong_sign(patch: Patch, _scheme: Scheme) -> None:
    masks = prg.Masks
    patch.setattr(secagg, "Masks", lambda plus, minus, dtype: masks(minus, plus, dtype))


@mutant("seeds of 32 bits", 13, on=ALL)
def short_seeds(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(rand.Rand, "seed", lambda self, label: Seed(self._key(label)[:4] + bytes(28)))


@mutant("seeds cut to 32 bits when they are used", 13)
def cut_seeds(patch: Patch, _scheme: Scheme) -> None:
    derive = agree.derive
    everywhere(patch, "derive", lambda secret, info: derive(Seed(secret.reveal()[:4] + bytes(28)), info))


@mutant("randomness that is always the same", 7, on=ALL)
def constant_randomness(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(rand.os, "urandom", lambda size: bytes(size))


@mutant("masks that follow from public values", 13)
def public_masks(patch: Patch, _scheme: Scheme) -> None:
    everywhere(patch, "derive", lambda _secret, info: Key(wire.digest([info[:-70]])))


@mutant("mask reused in the next round", 7)
def mask_reused(_patch: Patch, scheme: Scheme) -> Scheme:
    original, masks = scheme.flow.step("mask").fn, dict[int, Any]()

    def mask(shared: Any, sealed: Any, x: Any) -> Any:
        covered, masked = original(shared, sealed, x)
        me, p = shared.invited.me, shared.invited.terms.parameters
        old = masks.setdefault(me, masked.y.values - with_count(x, p))
        y = with_count(x, p) + old
        p.ring.reduce(y)
        bulk = Bulk.of(Packed(p.ring, p.size + 1), y)
        statement = secagg.masked_statement(shared.invited.terms, me, shared.L, sealed.u2, bulk.digest, masked.receipt)
        return covered, replace(masked, y=bulk, signature=shared.invited.identity.sign(statement))

    return replace(scheme, flow=scheme.flow.replace(mask=mask))


@mutant("one mask value for all coordinates", 13)
def scalar_mask(patch: Patch, _scheme: Scheme) -> None:
    stream = prg._stream

    def flat(key: Key) -> Any:
        first = bytearray(4)
        stream(key)(bytes(4), first)

        def fill(zeros: memoryview, out: bytearray) -> None:
            out[: len(zeros)] = bytes(first) * (len(zeros) // 4)

        return fill

    patch.setattr(prg, "_stream", flat)


def stream_of(change: Callable[[NDArray[np.uint32]], NDArray[np.uint32]]) -> Callable[[Patch, Scheme], None]:
    """Keystreams of which every block of words is changed."""

    def apply(patch: Patch, _scheme: Scheme) -> None:
        stream = prg._stream

        def changed(key: Key) -> Any:
            fill = stream(key)

            def fewer(zeros: memoryview, out: bytearray) -> None:
                fill(zeros, out)
                words = np.frombuffer(out, np.uint32, len(zeros) // 4)
                words[:] = change(words)

            return fewer

        patch.setattr(prg, "_stream", changed)

    return apply


mutant("masks of eight bits", 13, on=("secagg", "secagg+"))(stream_of(lambda words: words & 0xFF))
mutant("neighbours under one mask value", 13)(stream_of(lambda words: np.repeat(words[::2], 2)[: words.size]))


@mutant("shares sent in clear", 18, on=ALL)
def clear_boxes(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(seal, "seal", lambda _key, plain, _aad: plain + bytes(16))
    patch.setattr(seal, "unseal", lambda _key, box, _aad: box[:-16])


@mutant("clipping off", 16)
def clipping_off(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(encode, "_clip", lambda x, _bound: (x, False))


@mutant("signature check off", 1, 5, on=ALL)
def signatures_off(patch: Patch, _scheme: Scheme) -> None:
    everywhere(patch, "verify", lambda *_: True)


mutant("consistency check off", 1, on=ALL)(without("agreed-signature"))


@mutant("threshold off by one", 1)
def lower_threshold(patch: Patch, _scheme: Scheme) -> None:
    everywhere(patch, "default_threshold", lambda n, c: (n + c) // 2)
    patch.setattr(Parameters, "__post_init__", lambda self: None)


mutant("agreement of one fewer than the threshold", 27, on="lightsecagg")(without("agreed-count"))


@dataclass(frozen=True)
class WeighedMasked(secagg_types.Message):
    """The masked vector, and a sample count beside it."""

    y: Annotated[Bulk, Raw("masked")]
    receipt: secagg_types.Digest
    signature: Signature
    weight: Annotated[int, Span(0, 2**32)]


WeighedMasked.__name__ = "Masked"


@mutant("weights in clear", 18, 33)
def clear_weights(_patch: Patch, scheme: Scheme) -> Scheme:
    flow, original = scheme.flow, scheme.flow.step("mask").fn

    def mask(shared: Any, sealed: Any, x: Any) -> Any:
        covered, m = original(shared, sealed, x)
        return covered, WeighedMasked(m.y, m.receipt, m.signature, abs(int(x.values[PAYLOAD - 1])))

    sends, takes = flow.step("mask"), flow.step("survey")
    sends = replace(sends, fn=mask, gives=(sends.gives[0], replace(sends.gives[1], type=WeighedMasked)))
    takes = replace(takes, takes=(takes.takes[0], replace(takes.takes[1], type=WeighedMasked)))
    return replace(scheme, flow=flow.swap(mask=sends, survey=takes))


@dataclass(frozen=True)
class KeyedUpload(he_types.Message):
    """The ciphertexts, in a context that holds the secret key."""

    seeds: Annotated[Bulk, Raw("seeds")]
    words: Annotated[Bulk, Raw("words")]
    signature: Signature
    context: Annotated[bytes, Size(32)]


KeyedUpload.__name__ = "Upload"


@mutant("HE context with its secret key", 18, on="bfv")
def key_in_context(_patch: Patch, scheme: Scheme) -> Scheme:
    flow, original = scheme.flow, scheme.flow.step("encrypt").fn

    def encrypt(shared: Any, delivered: Any, x: Any, rand: Any) -> Any:
        encrypted, m = original(shared, delivered, x, rand)
        return encrypted, KeyedUpload(m.seeds, m.words, m.signature, encrypted.key.reveal())

    sends, takes = flow.step("encrypt"), flow.step("survey")
    sends = replace(sends, fn=encrypt, gives=(sends.gives[0], replace(sends.gives[1], type=KeyedUpload)))
    takes = replace(takes, takes=(takes.takes[0], replace(takes.takes[1], type=KeyedUpload)))
    return replace(scheme, flow=flow.swap(encrypt=sends, survey=takes))


mutant("HE tag off", 28, on=("bfv", "ckks"))(without("summed-tag"))


@mutant("L left out of signatures", 30, on=ALL)
def without_list(patch: Patch, _scheme: Scheme) -> None:
    bound = Terms.statement

    def statement(terms: Terms, tag: str, signer: int, *content: object) -> bytes:
        return bound(terms, tag, signer, *(content[1:] if tag == "agree" else content))

    patch.setattr(Terms, "statement", statement)


@mutant("input spent at success only", 26, on=ALL)
def never_spent(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(policy.MemoryJournal, "spend", lambda self, occasion: None)
