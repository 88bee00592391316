"""Attacks by one party that knows its protocol: rows 14 and 17.  It signs what it sends, so only content can give it away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from protocols import lagrange
from protocols.bulk import Bulk
from protocols.flow import Flow
from protocols.handshake import box_aad, box_key
from protocols.he import decrypted_statement
from protocols.he_parameters import layouts as he_layouts
from protocols.he_types import Decrypted
from protocols.lightsecagg_parameters import LightParameters, layouts
from protocols.lightsecagg_recovery import answer_statement
from protocols.lightsecagg_types import Answer
from protocols.primitives import seal, shamir
from protocols.primitives.shamir import SHARE_SIZE
from protocols.rand import Rand
from protocols.schema import Message, Size, schema
from protocols.secagg import holders_of
from protocols.secagg_labels import box_content, opening_statement, share_hash, share_statement
from protocols.secagg_types import Boxes, Openings, Shared
from protocols.session import Letter, client
from protocols.simulate import Network, Outcome, vanish
from securefl.audit.federation import Federation, run
from securefl.audit.judging import judge, round_of
from securefl.audit.registry import attack
from securefl.audit.secagg_server import Box, packed, unpacked
from securefl.audit.target import Target
from securefl.audit.verdict import Verdict, broken, combine, inapplicable

ORDER = 2**252 + 27742317777372353535851937790883648493
"""Order of the base point of Ed25519: added to the second half of a signature it gives another spelling of the same one."""
FIELD = 2**255 - 19


def played(target: Target, liar: int, flow: Flow, network: Network | None = None, *, left_out: str = "") -> Verdict:
    """A round in which one party runs another flow: it is named, or the round ends; no honest party is named, no sum is wrong.

    ``left_out``: the check that leaves a wrong answer out by name, the sum going on.
    """
    fed = target.federation()
    outcome = run(fed, flows={liar: flow}, network=network)
    verdict = _blamed(outcome, liar) or judge((fed, outcome))
    if verdict.status == "harmless" and any(total.left_out == (liar,) for total in outcome.outputs):
        step = target.flow.of("server")[-1].name
        return Verdict("refused", f"client {liar} is left out by name", "server", step, round_of(outcome, "server", step), left_out)
    return verdict


def _blamed(outcome: Outcome, liar: int) -> Verdict | None:
    """Whether anybody but the liar is named by the server, or a sum leaves an honest party's answer out."""
    named = {fault.sender for fault in next(iter(outcome.sessions.values())).faults}
    said = {f"client {u}" for u in re.findall(r"party (\d+)", outcome.abort.detail if outcome.abort is not None else "")}
    left = {f"client {u}" for total in outcome.outputs for u in total.left_out}
    wrong = sorted({*named, *said, *left} - {f"client {liar}"} - {None}, key=str)
    return broken(f"{wrong[0]} is named for what client {liar} did", whose=str(wrong[0])) if wrong else None


# Row 14: shares


@attack(
    14,
    "a helper opens another share than it was dealt",
    lie="one party opens zeros in the place of a share, signed as its own",
    notice="the server, in round 4, by openings-share-hash: the opener is named, not the dealer",
    on=["secagg", "secagg+", "kahe"],
    strikes=["Openings"],
)
def wrong_share(target: Target) -> Verdict:
    """The share of the first dealer."""
    return played(target, 2, zeros_opened(target.flow))


def zeros_opened(flow: Flow) -> Flow:
    """A party of SecAgg that opens zeros in the place of its share of the first dealer's secret, and signs that."""

    def open_shares(consenting: Any, agreed: Any) -> tuple[Any, Openings]:
        finished, said = flow.step("open_shares").fn(consenting, agreed)
        shares = bytes(SHARE_SIZE) + said.shares[SHARE_SIZE:]
        invited = consenting.invited
        statement = opening_statement(invited.terms, invited.me, consenting.L, consenting.u3, shares)
        return finished, Openings(shares, invited.identity.sign(statement))

    return flow.replace(open_shares=open_shares)


def dealer(flow: Flow, change: Callable[[Shared, list[Box], Rand], list[Box]]) -> Flow:
    """A party of SecAgg that deals honestly, then changes what it dealt and signs that."""

    def share(adv: Any, listed: Any, rand: Rand) -> tuple[Shared, Boxes]:
        shared, boxes = flow.step("share").fn(adv, listed, rand)
        invited, L = shared.invited, shared.L
        dealt = unpacked(boxes, [v for v in holders_of(invited.terms, L, invited.me, shared.entries) if v != invited.me])
        sent = packed(boxes, change(shared, dealt, rand))
        statement = share_statement(invited.terms, invited.me, L, sent.commitment, sent.own_hash, sent.hashes)
        return shared, replace(sent, signature=invited.identity.sign(statement))

    return flow.replace(share=share)


def reseal(shared: Shared, box: Box, content: bytes, shares: tuple[bytes, bytes] | None = None) -> Box:
    """The box for one peer with other content; hashes of ``shares``, or those that were there."""
    me, terms, L, v = shared.invited.me, shared.invited.terms, shared.L, box.peer
    key = box_key(terms, L, shared.c, shared.entries[v].c_pk, me, v, mine=me)
    sealed = seal.seal(key, content, box_aad(terms, L, me, v))
    if shares is None:
        return replace(box, box=sealed)
    hashes = [share_hash(terms, L, me, v, secret, share) for secret, share in zip("sb", shares, strict=True)]
    return Box(v, sealed, *hashes)


def redealt(flow: Flow, secret: str, value: bytes | None) -> Flow:
    """Shares of another secret, each with its right hash; ``value`` for every share, or shares of a fresh secret."""

    def change(shared: Shared, boxes: list[Box], rand: Rand) -> list[Box]:
        me, terms, L = shared.invited.me, shared.invited.terms, shared.L
        everybody, out = sorted({*(box.peer for box in boxes), *([] if shared.own_share is None else [me])}), list[Box]()
        fresh = shamir.share(rand.bytes("other", 32), terms.parameters.shares, everybody, rand, "share other")
        dealt = dict(zip(everybody, fresh if value is None else [value] * len(everybody), strict=True))
        for box in boxes:
            key = box_key(terms, L, shared.c, shared.entries[box.peer].c_pk, me, box.peer, mine=me)
            plain = seal.unseal(key, box.box, box_aad(terms, L, me, box.peer))
            new = dealt[box.peer]
            shares = (new, plain[-SHARE_SIZE:]) if secret == "s" else (plain[-2 * SHARE_SIZE : -SHARE_SIZE], new)
            out.append(reseal(shared, box, box_content(me, box.peer, *shares), shares))
        return out

    return dealer(flow, change)


@attack(
    14,
    "a dealer shares another secret than it committed to",
    lie="one party deals shares of another secret, zeros or points outside of the field, with their right hashes",
    notice="the server, in round 4, by rebuilt-secret: the dealer is named and the round ends",
    on=["secagg", "secagg+", "kahe"],
    strikes=["Boxes"],
)
def wrong_secret(target: Target) -> Verdict:
    """Both secrets; the mask key is opened where the dealer vanishes."""
    liar = target.parties
    values = {"another secret": None, "zeros": bytes(SHARE_SIZE), "outside of the field": b"\xff" * SHARE_SIZE}
    gone = vanish({client(liar): target.uploads[0].__name__})
    return combine(
        (f"{secret}: {name}", played(target, liar, redealt(target.flow, secret, value), gone if secret == "s" else None))
        for secret in ("s", "b")
        for name, value in values.items()
    )


@attack(
    14,
    "a helper answers wrong",
    lie="one helper moves its answer so that the sum would move by one, and signs it",
    notice="the server, in round 4: it is left out and named where enough answer, else answers-fit ends the round",
    on=["lightsecagg"],
    strikes=["Answer"],
)
def wrong_answer(target: Target) -> Verdict:
    """Among three parties of whom two open, one answer too many is there: an error is seen, not located."""
    three = replace(target, parties=3, parameters=target.scheme.parameters(3, 8, 1000, corrupt=0), policy=_least(target))
    return combine([("among three", _answers(three, 1)), ("as configured", _answers(target, 1))])


def _least(target: Target) -> Any:
    return replace(target.own_policy, min_corrupt=0)


def _answers(target: Target, liar: int) -> Verdict:
    p = target.parameters
    if not isinstance(p, LightParameters):
        return inapplicable("its parameters are not LightSecAgg's")
    helpers = list(range(1, p.threshold + 1))
    row = lagrange.coefficients(p.ring, helpers, lagrange.alphas(p.parties, p.blocks))
    by = pow(int(np.asarray(row)[0][helpers.index(liar)]), -1, p.ring.modulus)

    def answer(consenting: Any, agreed: Any) -> tuple[Any, Answer]:
        finished, said = target.flow.step("answer").fn(consenting, agreed)
        values = said.share.values.copy()
        values[0] = (int(values[0]) + by) % p.ring.modulus
        bulk, invited = Bulk.of(layouts(p)["answer"], values), consenting.invited
        statement = answer_statement(invited.terms, invited.me, consenting.L, consenting.u3, bulk.digest)
        return finished, Answer(bulk, invited.identity.sign(statement))

    return played(target, liar, target.flow.replace(answer=answer), left_out="answers-fit")


@attack(
    14,
    "an opener gives another sum",
    lie="one of the three openers adds one to a coordinate, and signs it",
    notice="the server, in round 4, by openers-differ: two give the same sum, and the one that differs is left out by name",
    on=["he"],
    strikes=["Decrypted"],
)
def wrong_opening(target: Target) -> Verdict:
    """Each party in turn; who is no opener says nothing."""
    fed = target.federation()
    p = fed.terms.parameters

    def decrypt(waiting: Any, summed: Any) -> tuple[Any, Decrypted]:
        finished, said = target.flow.step("decrypt").fn(waiting, summed)
        values = said.values.values.copy()
        values[0] += 1
        bulk, invited = Bulk.of(he_layouts(p)["opened"], values), waiting.invited
        statement = decrypted_statement(invited.terms, invited.me, waiting.L, waiting.u3, bulk.digest)
        return finished, Decrypted(bulk, invited.identity.sign(statement))

    lying = target.flow.replace(decrypt=decrypt)
    return combine((f"client {u}", played(target, u, lying, left_out="openers-differ")) for u in fed.parties)


# Row 17: points and signatures


def with_keys(fed: Federation, liar: int, **keys: bytes) -> Network:
    """A network in which one party's advert has other keys, under its own good signature."""

    def network(letter: Letter) -> Iterable[Letter]:
        message: Any = letter.message
        if letter.sender != client(liar) or not hasattr(message, "c_pk"):
            return (letter,)
        content = replace(message, **{name: key for name, key in keys.items() if hasattr(message, name)})
        statement = fed.terms.statement("keys", liar, *content.keys)
        return (replace(letter, message=replace(content, signature=fed.parties[liar].identity.sign(statement))),)

    return network


@attack(
    17,
    "points of small order, second spellings of a point",
    lie="one party advertises, signed, a key of small order, one that is not canonical, or the point zero",
    notice="the server, in round 0, by public-key-order or public-key-canonical, as every party would",
    on=["secagg", "secagg+", "lightsecagg", "he", "kahe"],
    strikes=["Advert", "KeyAdvert"],
)
def points(target: Target) -> Verdict:
    """Each in the place of the key for boxes."""
    fed, liar = target.federation(), target.parties
    low = 325606250916557431795983626356110631294008115727848805560023387167927233504
    bad = {"zero": bytes(32), "one": (1).to_bytes(32, "little"), "order 8": low.to_bytes(32, "little")}
    bad |= {"p + 9": (FIELD + 9).to_bytes(32, "little"), "a high bit": (9 + 2**255).to_bytes(32, "little")}
    tries = list[tuple[str, Verdict]]()
    for name, key in bad.items():
        outcome = run(fed, network=with_keys(fed, liar, c_pk=key))
        verdict = judge((fed, outcome))
        if verdict.check == "" or not verdict.check.startswith("public-key"):
            verdict = broken(f"the point {name} is taken for a key", whose=f"client {liar}")
        tries.append((name, verdict))
    return combine(tries)


@attack(
    17,
    "signatures in a second spelling",
    lie="the order of the group is added to the second half of a signature",
    notice="the server, on arrival, by advert-signature and all that follow it: one signature has one spelling; where it does not "
    "look unless it must, by openings-signature and agree-signature",
    on=["secagg", "secagg+", "lightsecagg", "he", "kahe"],
    strikes=["Agree"],
)
def malleable(target: Target) -> Verdict:
    """Every kind of message with a signature, one after another."""
    fed, liar = target.federation(), client(1)  # the first: what comes after enough others have may not be looked at
    tries = list[tuple[str, Verdict]]()
    for kind in target.flow.messages("server"):
        names = [name for name, hint in schema(kind) if name == "signature" and get_args(hint)[1:] == (Size(64),)]
        if names:
            sent = list[Letter]()
            verdict = judge((fed, run(fed, network=_respelled(liar, kind, sent))))
            if sent and verdict.status == "harmless":
                verdict = _where_it_counts(target, kind)
            tries.append((kind.__name__, verdict))
    return combine(tries)


def _where_it_counts(target: Target, kind: type[Message]) -> Verdict:
    """A signature that nobody looks at unless it matters, where it does.

    One under a party's shares tells who sent a wrong one; one under U3 counts where no other can be spared.
    """
    fed, liar = target.federation(), client(1)
    if kind is Openings:
        outcome = run(fed, flows={1: zeros_opened(target.flow)}, network=_respelled(liar, kind, []))
        verdict = judge((fed, outcome))
        return verdict if verdict.check == "openings-signature" else _taken(liar)
    spared = {client(u): kind.__name__ for u in list(fed.parties)[fed.terms.parameters.threshold :]}
    without, respelled = vanish(spared), _respelled(liar, kind, [])

    def network(letter: Letter) -> Iterable[Letter]:
        return [out for kept in without(letter) for out in respelled(kept)]

    verdict = judge((fed, run(fed, network=network)))
    return verdict if verdict.check == "agree-signature" else _taken(liar)


def _taken(liar: object) -> Verdict:
    return broken("a signature in another spelling is taken", whose=str(liar))


def _respelled(sender: object, kind: type[Message], sent: list[Letter]) -> Network:
    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender != sender or type(letter.message) is not kind:
            return (letter,)
        message: Any = letter.message
        second = int.from_bytes(message.signature[32:], "little") + ORDER
        spelled = message.signature[:32] + second.to_bytes(32, "little")
        sent.append(replace(letter, message=replace(message, signature=spelled)))
        return (sent[-1],)

    return network
