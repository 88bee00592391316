"""Mutants of our own code, as patches of this process: what the harness must flag, row by row.

`python tests/audit/mutants.py` prints the table of docs/audit.md: each mutant, the rows that must flag it, and what they give.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import sum_mutants

from protocols import (
    arrivals,
    errors,
    handshake,
    he_types,
    kahe_parameters,
    policy,
    rand,
    secagg,
    secagg_labels,
    secagg_server,
    secagg_types,
    session,
    suite,
    sums,
    vector,
    wire,
)
from protocols.bulk import Bulk, Packed
from protocols.primitives import agree, prg, rlwe, seal
from protocols.primitives.prg import apply_masks
from protocols.rand import Key, Secret, Seed
from protocols.schema import Raw, Signature, Size, Span
from protocols.suite import Occasion, Parameters, Roster, Terms
from protocols.vector import with_count
from protocols.wire import canonical
from securefl import encode
from securefl.audit import audit_protocol
from securefl.audit.federation import MAX_ABS
from securefl.audit.secagg_server import unpacked
from securefl.audit.target import PAYLOAD

Patch = pytest.MonkeyPatch
Scheme = sums.Scheme


@dataclass(frozen=True)
class Mutant:
    """One mutation.

    Attributes:
        name: what is wrong.
        protocol: what is audited.
        rows: rows that must flag it.
        apply: patches the process, or gives a changed scheme.
    """

    name: str
    protocol: str
    rows: frozenset[int]
    apply: Callable[[Patch, Scheme], Scheme | None]


MUTANTS: list[Mutant] = []


def mutant(name: str, *rows: int, on: str | tuple[str, ...] = "secagg") -> Callable[[Any], Any]:
    """Declare a mutant."""

    def declare(apply: Callable[[Patch, Scheme], Scheme | None]) -> Any:
        MUTANTS.extend(Mutant(name, p, frozenset(rows), apply) for p in ((on,) if isinstance(on, str) else on))
        return apply

    return declare


def without(*checks: str) -> Callable[[Patch, Scheme], None]:
    """Checks taken out of the whole package."""

    def apply(patch: Patch, _scheme: Scheme) -> None:
        def lenient(ok: object, check: str, detail: str = "", *, sender: str | None = None) -> None:
            if check not in checks:
                errors.require(ok, check, detail, sender=sender)

        everywhere(patch, "require", lenient, but="protocols.errors")

    return apply


def everywhere(patch: Patch, name: str, value: object, *, but: str = "") -> None:
    """Replace a name in every module of the package that has it."""
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "protocols" and module_name != but and hasattr(module, name):
            patch.setattr(module, name, value)


ALL = ("secagg", "lightsecagg", "bfv")

# Those that the catalogue lists


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


# One for each further check that an attack rests on

mutant("keys unsigned", 5, on=ALL)(without("listed-signature"))
mutant("smallest number of colluders not asked for", 6)(without("policy-corrupt"))
mutant("strangers accepted", 4, on=ALL)(without("policy-roster"))
mutant("approved models not asked for", 11, on=ALL)(without("policy-model"))
mutant("journal forgets what was joined and spent", 2, on=ALL)(without("journal-replay", "journal-spent"))
mutant("agreement among neighbours only", 22, on="secagg+")(without("agreed-count", "agreed-masked"))
mutant("others' U2 not looked at", 22, on="secagg+")(without("agreed-masked"))
mutant("ring may be cut", 22, on="secagg+")(without("dropped-ring"))
mutant("parameters that trust the server", 22, on="secagg+")(without("policy-server"))
mutant("few holders where many must agree", 22, on="secagg+")(without("policy-threshold"))
mutant("an order that can be ground", 23, on="secagg+")(without("policy-security"))
mutant("ciphertexts unsigned", 15, on="bfv")(without("upload-signature"))
mutant("a second spelling accepted", 15)(without("wire-canonical"))


@mutant("points not looked at", 17, on=("secagg", "lightsecagg", "kahe"))
def points_unchecked(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(agree, "check_public_key", lambda _public: None)


@mutant("model outside of the session identity", 3, on=ALL)
def model_outside(patch: Patch, _scheme: Scheme) -> None:
    bound = suite.session_id
    patch.setattr(suite, "session_id", lambda name, o, roster, p: bound(name, replace(o, model=bytes(32)), roster, p))


@mutant("session and list left out of agreements", 8)
def unbound_agreements(patch: Patch, _scheme: Scheme) -> None:
    bound = Terms.statement

    def statement(terms: Terms, tag: str, signer: int, *content: object) -> bytes:
        return canonical([tag, signer, content[1]]) if tag == "agree" else bound(terms, tag, signer, *content)

    patch.setattr(Terms, "statement", statement)


@mutant("session left out of everything", 8)
def one_session(patch: Patch, _scheme: Scheme) -> None:
    bound = suite.session_id
    still = Occasion("always", 0)
    patch.setattr(suite, "session_id", lambda name, _o, roster, p: bound(name, still, roster, p))


@mutant("bad boxes skipped", 31)
def bad_boxes_skipped(_patch: Patch, scheme: Scheme) -> Scheme:
    def mask(shared: Any, sealed: Any, x: Any) -> Any:
        invited, L, terms = shared.invited, shared.L, shared.invited.terms
        me, held = invited.me, {invited.me: secagg_types.Held(None, shared.own_share)}
        plus, minus = [agree.derive(shared.b, canonical(["self", terms.sid, L, me]))], list[Key]()
        for box in unpacked(sealed, [u for u in sealed.u2 if u != me]):
            try:
                key = handshake.box_key(terms, L, shared.c, shared.entries[box.peer].c_pk, box.peer, me, mine=me)
                plain = seal.unseal(key, box.box, handshake.box_aad(terms, L, box.peer, me))
            except errors.Refused:
                continue
            held[box.peer] = secagg_types.Held(plain[-66:-33], plain[-33:])
            pair = secagg_labels.pair_key(terms, L, shared.s, shared.entries[box.peer].s_pk, me, box.peer)
            (plus if me < box.peer else minus).append(pair)
        y = with_count(x, terms.parameters)
        apply_masks(y, plus, minus)
        bulk = Bulk.of(Packed(terms.parameters.ring, terms.parameters.size + 1), y)
        receipt = secagg_labels.receipt_of(sealed.hashes)
        statement = secagg.masked_statement(terms, me, L, sealed.u2, bulk.digest, receipt)
        masked = secagg_types.Masked(bulk, receipt, invited.identity.sign(statement))
        return secagg_types.Covered(invited, L, sealed.u2, held), masked

    return replace(scheme, flow=scheme.flow.replace(mask=mask))


@mutant("shares not held against their hashes", 14, on=("secagg", "kahe"))
def unpinned_shares(patch: Patch, _scheme: Scheme) -> None:
    """Where a secret does not fit its commitment no share of it is held to its hash."""
    patch.setattr(secagg_server, "_fault", lambda *_: None)


@mutant("answers not held against each other", 14, on="lightsecagg")
def answers_unchecked(_patch: Patch, scheme: Scheme) -> Scheme:
    """Only as many answers are looked at as interpolate the mask."""
    original = scheme.flow.step("recover").fn

    def recover(srv: Any, rand: Any, **answers: Any) -> Any:
        ((name, said),) = answers.items()
        first = list(said)[: srv.summing.terms.parameters.threshold]
        kept = {u: said[u] for u in first} if isinstance(said, dict) else type(said)(first)
        return original(srv, rand=rand, **{name: kept})

    return replace(scheme, flow=scheme.flow.replace(recover=recover))


@mutant("the first opener believed", 14, on="bfv")
def first_opener(_patch: Patch, scheme: Scheme) -> Scheme:
    original = scheme.flow.step("conclude").fn

    def conclude(srv: Any, said: Any) -> Any:
        first = next(iter(said.values()))
        return original(srv, dict.fromkeys(said, first))

    return replace(scheme, flow=scheme.flow.replace(conclude=conclude))


@mutant("a state that is kept", 2, on=("secagg", "lightsecagg"))
def state_kept(patch: Patch, _scheme: Scheme) -> None:
    """Values are copied, not moved, out of a session, and no message is late."""
    collect = session.Session._collect

    def keeping(self: session.Session, step: Any) -> Any:
        kept = {port.type: self._values[port.type] for port in step.values if port.type in self._values}
        arguments = collect(self, step)
        if step.name in ("consent", "open_shares", "answer"):
            state = next(iter(kept.values()))
            self._values[type(state)] = state
            self._arrivals._fired.pop(step.name, None)
        return arguments

    patch.setattr(session.Session, "_collect", keeping)


@mutant("keys may stand twice, labels hold no ids", 29)
def one_pad(patch: Patch, scheme: Scheme) -> None:
    without("listed-distinct", "advert-distinct")(patch, scheme)

    def pair_key(terms: Any, L: bytes, pair: Any, theirs: bytes, _u: int, _v: int) -> Key:
        return agree.derive(pair.exchange(theirs), canonical(["pair", terms.sid, L, *sorted((pair.public, theirs))]))

    everywhere(patch, "pair_key", pair_key)


@mutant("boxes without a direction", 29, on=("secagg", "secagg+"))
def no_direction(patch: Patch, scheme: Scheme) -> None:
    without("box-ids", "box-share-hash")(patch, scheme)

    def box_key(terms: Any, L: bytes, pair: Any, theirs: bytes, _u: int, _v: int, *, mine: int) -> Key:
        return agree.derive(pair.exchange(theirs), canonical(["box", terms.sid, L, *sorted((pair.public, theirs))]))

    everywhere(patch, "box_key", box_key)
    everywhere(patch, "box_aad", lambda terms, L, u, v: canonical([terms.sid, L, *sorted((u, v))]))


@mutant("vectors unsigned", 20)
def vectors_unsigned(_patch: Patch, scheme: Scheme) -> Scheme:
    def absorb(srv: Any, u: int, masked: Any) -> Any:
        masked.y.add_to(srv.total)
        srv.coverings[u] = secagg.Covering(masked.y.digest, masked.receipt, masked.signature)
        return srv

    def unchecked(values: Any, contributors: int, _p: Any) -> Any:
        return vector.Sum(values[:-1].copy(), contributors)

    reveal = scheme.flow.step("reveal").fn
    _patch.setattr(secagg, "checked_sum", unchecked)
    step = scheme.flow.step("survey")
    return replace(
        scheme, flow=scheme.flow.swap(survey=replace(step, fold=absorb), reveal=replace(scheme.flow.step("reveal"), fn=reveal))
    )


@mutant("a vector counted twice", 24)
def counted_twice(patch: Patch, _scheme: Scheme) -> None:
    """No message is late or doubled for a session, and every copy of a vector is added."""
    feed = arrivals.Arrivals.feed

    def adding(self: Any, sender: Any, chunk: Any) -> Any:
        message = feed(self, sender, chunk)
        if not isinstance(message, secagg_types.Masked):
            return message
        first = sender not in vars(self).setdefault("added", set())
        self.added.add(sender)
        if first:
            return message
        step = self._flow.receiver(type(message))
        self._values[step.state.type] = step.fold(self._values[step.state.type], sender.index, message)
        for box in self._inbox.values():  # the copy itself is not looked at again
            box.update({sender: None} if box.get(sender) is message else {})
        for fresh in getattr(self, "_fresh", {}).values():
            fresh[:] = [other for other in fresh if other != sender]
        return None

    patch.setattr(arrivals.Arrivals, "feed", adding)
    patch.setattr(arrivals.Arrivals, "_wanted", lambda self, sender, kind, epoch: True)
    patch.setattr(secagg, "checked_sum", lambda values, count, _p: vector.Sum(values[:-1].copy(), count))


@mutant("values past the bound taken", 12, on=ALL)
def unbounded_values(patch: Patch, _scheme: Scheme) -> None:
    counted = vector.counted

    def wide(x: Any, p: Any) -> Any:
        return counted(x, Wide(p))

    everywhere(patch, "counted", wide)


class Wide:
    """Parameters whose bound is no bound."""

    def __init__(self, p: Any) -> None:
        self._p, self.max_abs = p, 2**40

    def __getattr__(self, name: str) -> Any:
        return getattr(self._p, name)


@mutant("one key under two names", 32, on=ALL)
def doubled_keys(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(Roster, "__post_init__", lambda self: None)


@mutant("secrets that print", 19, on=("secagg", "bfv"))
def printing(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(Secret, "__repr__", lambda self: self._raw.hex())


@mutant("secrets that pickle", 19, on=ALL)
def pickling(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(Secret, "__reduce__", lambda self: (Seed, (self._raw,)))


@mutant("inputs in the log", 19)
def logging_inputs(_patch: Patch, scheme: Scheme) -> Scheme:
    original = scheme.flow.step("mask").fn

    def mask(shared: Any, sealed: Any, x: Any) -> Any:
        logging.getLogger("clinic").debug("masking %s", np.array2string(x.values))
        return original(shared, sealed, x)

    return replace(scheme, flow=scheme.flow.replace(mask=mask))


@mutant("a mask or key that no session is part of", 7, on=("lightsecagg", "kahe"))
def mask_of_no_session(patch: Patch, _scheme: Scheme) -> None:
    everywhere(patch, "for_session", lambda rand, what, _terms, _L: rand.child(what))


@mutant("noise sized for all invited", 35, on=("secagg", "lightsecagg", "kahe"))
def sized_for_all_invited(patch: Patch, _scheme: Scheme) -> None:
    sum_mutants.sized_for_all_invited(patch)


@mutant("metrics taken beside noise", 35)
def metrics_beside_noise(patch: Patch, _scheme: Scheme) -> None:
    sum_mutants.metrics_taken(patch)


# Those of the ciphertexts of kahe


@mutant("one key for every vector", 36, on="kahe")
def kept_key(patch: Patch, _scheme: Scheme) -> None:
    ones = np.bitwise_count(rand.Replay("kept")().words("s", rlwe.DEGREE)).astype(np.int64) - rlwe.LARGEST
    patch.setattr(rlwe.Key, "draw", lambda _rand, _label="s": rlwe.Key(ones))


@mutant("errors left out", 36, on="kahe")
def no_errors(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(rand.Stream, "fill", lambda _self, out: out.fill(2**32 - 1))


@mutant("every party has the same errors", 36, on="kahe")
def same_errors(patch: Patch, _scheme: Scheme) -> None:
    stream = rand.Rand.stream
    patch.setattr(rand.Rand, "stream", lambda _self, label: stream(rand.Replay("one")(), label))


@mutant("residual not looked at", 37, on="kahe")
def no_residual(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(rlwe._Opening, "_check", lambda *_: None)


@mutant("any suite is taken", 38, on="kahe")
def any_suite(patch: Patch, scheme: Scheme) -> None:
    without("terms-suite")(patch, scheme)


@mutant("any parameters are taken", 38, on="kahe")
def any_parameters(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(kahe_parameters.KaheParameters, "__post_init__", lambda _self: None)


@mutant("values clamped after noise", 39, on="kahe")
def clamped(patch: Patch, _scheme: Scheme) -> None:
    signed = vector.signed

    def clipping(x: Any, size: int, most: int | None) -> Any:
        read = signed(x, size, most)
        return read if most is not None else lambda at, count: np.clip(read(at, count), -MAX_ABS, MAX_ABS)

    everywhere(patch, "signed", clipping)


# Those of many sums after one handshake

FAMILY = ("secagg", "secagg+", "kahe")


@mutant("one key for all steps", 25, on=FAMILY)
def one_key(patch: Patch, scheme: Scheme) -> None:
    """Honest parties would refuse it, as one key may not stand twice."""
    without("advert-distinct", "listed-distinct")(patch, scheme)
    generate = agree.KeyPair.generate.__func__  # type: ignore[attr-defined]

    def same(kind: type[agree.KeyPair], source: rand.Rand, label: str) -> agree.KeyPair:
        return generate(kind, rand.Rand(source._seed), label.partition(" ")[0])

    patch.setattr(agree.KeyPair, "generate", classmethod(same))


@mutant("one seed for all steps", 25, on=FAMILY)
def one_seed(patch: Patch, _scheme: Scheme) -> None:
    seed = rand.Rand.seed
    patch.setattr(
        rand.Rand, "seed", lambda self, label: seed(rand.Rand(self._seed), "b") if label.startswith("b ") else seed(self, label)
    )


def scheme_of(one: Mutant, patch: Patch) -> Scheme:
    """The mutated protocol; the patches stay until they are undone."""
    scheme = sums.scheme(one.protocol)
    return one.apply(patch, scheme) or scheme


def target_of(one: Mutant, patch: Patch) -> Any:
    """What is audited of a mutant: its scheme, as the command line configures its protocol."""
    from securefl.audit import Target

    return Target.of(scheme_of(one, patch))


def proof(result: Any) -> str:
    """What an attack that succeeds gives, in a cell."""
    verdict = result.verdict
    if verdict.recovered and verdict.recovered == verdict.true:
        return f"{verdict.whose or 'a party'}: {', '.join(map(str, verdict.recovered[:3]))}, … as it truly is"
    return verdict.why.removeprefix("unavailable: ")


def table() -> str:
    """What the rows that must flag each mutant make of it."""
    lines = ["| mutant | protocol | row | attack that succeeds | what it gives |", "|---|---|---|---|---|"]
    for one in MUTANTS:
        with pytest.MonkeyPatch.context() as patch:
            audit = audit_protocol(target_of(one, patch), rows=one.rows)
        first = {result.row: result for result in reversed(audit.broken)}
        for row in sorted(one.rows):
            found = first.get(row)
            told = f"{found.name} | {proof(found)}" if found else "**none** | **not flagged**"
            lines.append(f"| {one.name} | `{one.protocol}` | {row} | {told} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    print(table())

__all__ = ["MUTANTS", "Mutant", "proof", "scheme_of", "table", "target_of"]
