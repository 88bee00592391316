"""Mutants without the further checks that an attack rests on, one for each."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import sum_mutants
from mutating import ALL, Mutant, Patch, Scheme, declaring, everywhere, without

from protocols import arrivals, errors, handshake, secagg, secagg_labels, secagg_server, secagg_types, session, suite, vector
from protocols.bulk import Bulk, Packed
from protocols.primitives import agree, seal
from protocols.primitives.prg import apply_masks
from protocols.rand import Key, Secret, Seed
from protocols.suite import Occasion, Roster, Terms
from protocols.vector import with_count
from protocols.wire import canonical
from securefl.audit.secagg_server import unpacked

MUTANTS: list[Mutant] = []
mutant = declaring(MUTANTS)


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
