"""Attacks on LightSecAgg: rows 1, 2, 5 and 27.

Six parties, U = 4, T = 1, the last may collude with the server, the first is the victim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols import lagrange, lightsecagg
from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.bulk import Bulk
from protocols.field import Field
from protocols.handshake import box_aad, box_key, list_hash
from protocols.lightsecagg_parameters import HEAD, LightParameters, layouts
from protocols.lightsecagg_types import Answer, KeyAdvert, Padded, Relayed, ShareHash, Shares
from protocols.primitives import seal
from protocols.primitives.agree import KeyPair
from securefl.audit.cheating import pair
from securefl.audit.federation import Federation
from securefl.audit.judging import by_party, stolen
from securefl.audit.light_server import LightServer, boxes_of, unmasked
from securefl.audit.registry import attack
from securefl.audit.target import Target
from securefl.audit.verdict import Verdict, broken

VICTIM, COLLUDER = 1, 6
EVERYBODY = (1, 2, 3, 4, 5, 6)
REST = EVERYBODY[1:]


def answered(fed: Federation) -> tuple[LightServer, dict[int, NDArray[Any]]]:
    """An honest run up to the answers; what the helpers answered."""
    server = LightServer(fed)
    server.up_to_masks()
    server.agree_on()
    for u in EVERYBODY:
        server.tell(u, server.agreed())
    return server, server.answers()


def ask_without_the_victim(server: LightServer, helpers: Iterable[int]) -> None:
    """After the sum: the same helpers asked for the survivors without the victim."""
    for u in helpers:
        server.heard.pop((u, Agree), None)
        server.heard.pop((u, Answer), None)
        server.tell(u, Dropped((VICTIM,)))
    signed = [u for u in helpers if u in server.all(Agree)]
    for u in helpers:
        if signed or server.all(Agree):
            server.tell(u, server.agreed(signed or None))


def differences(p: LightParameters, first: dict[int, NDArray[Any]], second: dict[int, NDArray[Any]]) -> dict[int, NDArray[Any]]:
    """Shares of the victim's mask: sums of shares over all, less those over the others."""
    out = {u: first[u].copy() for u in second if u in first}
    for u, share in out.items():
        p.ring.subtract_from(share, second[u])
    return out


@attack(
    2,
    "a second answer, for the survivors without the victim",
    lie="helpers who have answered are asked again, for all but one",
    notice="every helper's session, by wire-late: a state is used once",
    on=["lightsecagg"],
    strikes=["Dropped", "Agreed"],
)
def second_answer(target: Target) -> Verdict:
    """The difference of two answers is a share of the victim's mask, and U of them are all of it."""
    fed = target.cohort()
    server, first = answered(fed)
    ask_without_the_victim(server, REST)
    second = {u: answer for u, answer in server.answers().items() if u != VICTIM}
    found = unmasked(fed.terms.parameters, server.all(Padded)[VICTIM], differences(fed.terms.parameters, first, second))
    return stolen(server, VICTIM, found, honest=REST)


@attack(
    1,
    "different survivors to different helpers",
    lie="half of the helpers hear that the victim dropped out; each is shown the signatures of the other half too",
    notice="every helper, in round 4, by agreed-signature",
    on=["lightsecagg"],
    strikes=["Dropped", "Agreed"],
)
def two_sets(target: Target) -> Verdict:
    """Answers over both sets give the victim's mask at every helper that answers for the smaller one."""
    return answers_over_both(target.cohort())


@attack(
    30,
    "agreements of an earlier session with the same identity",
    lie="helpers that lost their journals join one session twice, once without the victim; what they signed then is shown",
    notice="every helper, in round 4, by agreed-signature: the hash of the list with its fresh keys is in what is signed",
    on=["lightsecagg"],
    strikes=["Agreed"],
)
def same_sid(target: Target) -> Verdict:
    """Fresh randomness gives other keys, so another list."""
    fed = target.cohort()
    earlier = LightServer(replace(fed, salt="earlier"))
    earlier.up_to_masks()
    earlier.agree_on((VICTIM,))
    return answers_over_both(fed, {u: said.signature for u, said in earlier.all(Agree).items()})


def told_two_sets(fed: Federation) -> tuple[LightServer, dict[int, tuple[int, ...]]]:
    """Rounds 0 to 3: half of the honest helpers hear that all survived, the others all but the victim; who heard which set."""
    server = LightServer(fed)
    server.up_to_masks()
    views: dict[int, tuple[int, ...]] = {u: EVERYBODY if u in (1, 2, 3) else REST for u in EVERYBODY[:-1]}
    for u, u3 in views.items():
        server.tell(u, Dropped(() if u3 == EVERYBODY else (VICTIM,)))
    return server, views


def agreed_by_the_colluder(server: LightServer, u3: tuple[int, ...]) -> bytes:
    """The colluder's signature over any survivors."""
    state = server.collude(COLLUDER)
    return state.invited.identity.sign(server.fed.terms.statement("agree", COLLUDER, state.L, list(u3)))


def answers_over_both(fed: Federation, earlier: Mapping[int, bytes] | None = None) -> Verdict:
    """Half of the helpers hear of a smaller set; for it they are shown earlier signatures, or those of everybody."""
    server, views = told_two_sets(fed)
    said = {u: agree.signature for u, agree in server.all(Agree).items()}
    for u, u3 in views.items():
        own = agreed_by_the_colluder(server, u3)
        shown = {v: said[v] for v in views if v in u3 and (earlier is None or views[v] == u3)} | {COLLUDER: own}
        if earlier is not None and u3 == REST:
            shown |= {v: earlier[v] for v in REST if v not in shown}
        server.tell(u, Agreed(tuple(Signed(v, signature) for v, signature in sorted(shown.items()))))
    return _by_rank(fed, server, views)


@attack(
    27,
    "left-over helpers asked for all but the victim",
    lie="U helpers sign and answer for all; those who are left, fewer than U, are asked for the survivors without the victim",
    notice="those helpers, in round 4, by agreed-count; nothing is known of the victim's mask",
    on=["lightsecagg"],
    strikes=["Agreed"],
)
def left_over(target: Target) -> Verdict:
    """Each answer beyond T would be an equation on the victim's mask."""
    fed = target.cohort()
    server, views = told_two_sets(fed)
    said = {u: agree.signature for u, agree in server.all(Agree).items()}
    for u3, helpers in ((EVERYBODY, (1, 2, 3)), (REST, (4, 5))):
        own = agreed_by_the_colluder(server, u3)
        shown = {**{u: said[u] for u in helpers}, COLLUDER: own}
        for u in helpers:
            server.tell(u, Agreed(tuple(Signed(v, signature) for v, signature in sorted(shown.items()))))
    return _by_rank(fed, server, views)


def _by_rank(fed: Federation, server: LightServer, views: Mapping[int, tuple[int, ...]]) -> Verdict:
    """How many equations on the victim's mask the answers give, beyond the T that its noise takes."""
    p, answers = fed.terms.parameters, server.answers()
    held = server.collude(COLLUDER).held
    whole = {u: a for u, a in answers.items() if views[u] == EVERYBODY}
    whole[COLLUDER] = _total(p, [held[v].share for v in EVERYBODY])
    smaller = {u: a for u, a in answers.items() if views[u] == REST}
    shares = {COLLUDER: held[VICTIM].share}
    if len(whole) >= p.threshold:
        shares |= differences(p, {u: _extended(p, whole, u) for u in smaller}, smaller)
    beyond = len(shares) - p.noise
    if beyond > 0 and len(shares) >= p.threshold:
        return stolen(server, VICTIM, unmasked(p, server.all(Padded)[VICTIM], shares), honest=views)
    if beyond > 0:
        found, true = combination(p, fed, server, shares)
        return broken(
            f"{beyond} equations on the victim's mask: combinations of its input", whose="client 1", recovered=found, true=true
        )
    return by_party(server, views)


def _total(p: LightParameters, shares: list[NDArray[Any]]) -> NDArray[Any]:
    out = shares[0].copy()
    for share in shares[1:]:
        p.ring.add_into(out, share)
    return out


def _extended(p: LightParameters, known: dict[int, NDArray[Any]], u: int) -> NDArray[Any]:
    """The answer that helper ``u`` would have given, from U others."""
    chosen = list(known)[: p.threshold]
    matrix = lagrange.coefficients(p.ring, chosen, [u])
    return np.asarray(p.ring.product(matrix, np.stack([known[v] for v in chosen]))).reshape(-1)


def combination(
    p: LightParameters, fed: Federation, server: LightServer, shares: dict[int, NDArray[Any]]
) -> tuple[list[int], list[int]]:
    """A combination of the victim's blocks in which its noise cancels: what the server computes of it, and what it is.

    Two shares f(β) with T = 1: both are combinations of the blocks of z; eliminating the noise block leaves one of z alone, and
    with y = x + z the same one of x.
    """
    q, helpers = p.ring.modulus, list(shares)[: p.noise + 1]
    rows = np.asarray(lagrange.coefficients(p.ring, lagrange.alphas(p.parties, p.threshold), helpers)).astype(object)
    kernel = _kernel([[int(rows[i][p.blocks + j]) for i in range(len(helpers))] for j in range(p.noise)], q)
    weights = [sum(k * int(rows[i][b]) for i, k in enumerate(kernel)) % q for b in range(p.blocks)]
    mask = sum(k * shares[u].astype(object) for u, k in zip(helpers, kernel, strict=True)) % q
    y = _blocks(p, server.all(Padded)[VICTIM].y.values)
    x = _blocks(p, np.append(fed.vectors[VICTIM], 1).astype(object) % q)
    found = (sum(w * block for w, block in zip(weights, y, strict=True)) - mask) % q
    true = sum(w * block for w, block in zip(weights, x, strict=True)) % q
    size = p.size + 1 - (p.blocks - 1) * p.block  # beyond it the last block is filling, which the server does not see
    return [int(v) for v in found[:size]], [int(v) for v in true[:size]]


def _blocks(p: LightParameters, values: NDArray[Any]) -> NDArray[Any]:
    out = np.zeros(p.blocks * p.block, dtype=object)
    out[: p.size + 1] = values.astype(object)
    return out.reshape(p.blocks, p.block)


def _kernel(rows: list[list[int]], q: int) -> list[int]:
    """A vector that all rows map to zero, one more long than there are rows; for one row at hand, by its two entries."""
    (a, b), *more = rows
    if more:
        raise ValueError("one noise block is eliminated at a time")
    return [b, (q - a) % q]


# Row 5: a server in the middle


@attack(
    5,
    "swapped keys",
    lie="the victim gets a list in which all keys but its own are the server's, who so reads the shares meant for the others",
    notice="the victim, in round 1, by listed-signature",
    on=["lightsecagg"],
    strikes=["KeyList"],
)
def swapped_keys(target: Target) -> Verdict:
    """U shares of the victim's mask are all of it."""
    fed = target.cohort()
    server = LightServer(fed)
    p, terms, mine = fed.terms.parameters, fed.terms, server.all(KeyAdvert)[VICTIM]
    c = {v: pair(f"c {v}") for v in REST}
    listed = server.key_list()
    entries = tuple(e if e.index == VICTIM else replace(e, c_pk=c[e.index].public) for e in listed.entries)
    forged = replace(listed, entries=entries)
    server.tell(VICTIM, forged)
    if VICTIM not in server.all(Shares):
        return by_party(server, [VICTIM])
    L, dealt = list_hash(forged), boxes_of(server.all(Shares)[VICTIM], p)
    ring: Field = p.ring
    shares = dict[int, NDArray[Any]]()
    slots, hashes = lightsecagg.slots_of(p), list[ShareHash]()
    for v in REST:
        shares[v] = ring.unpack(_open(terms, L, c[v], mine.c_pk, v, dealt[lightsecagg.slot(VICTIM, v)].tobytes()), p.block)
        box, pinned = _junk(terms, L, c[v], mine.c_pk, v)
        slots[lightsecagg.slot(VICTIM, v)] = np.frombuffer(box, dtype=np.uint8)
        hashes.append(ShareHash(v, pinned))
    server.tell(VICTIM, Relayed(Bulk.of(layouts(p)["boxes"], slots), EVERYBODY, tuple(hashes)))
    padded = server.all(Padded).get(VICTIM)
    return stolen(server, VICTIM, [] if padded is None else unmasked(p, padded, shares), honest=[VICTIM])


def _open(terms: Any, L: bytes, mine: KeyPair, theirs: bytes, v: int, box: bytes) -> bytes:
    """The packed share in the victim's box for ``v``."""
    key = box_key(terms, L, mine, theirs, VICTIM, v, mine=v)
    return seal.unseal(key, box, box_aad(terms, L, VICTIM, v))[HEAD:]


def _junk(terms: Any, L: bytes, mine: KeyPair, theirs: bytes, v: int) -> tuple[bytes, bytes]:
    """A box from ``v`` to the victim with a share of zeros, and its hash."""
    p = terms.parameters
    packed, salt = bytes(p.ring.pack(np.zeros(p.block, dtype=p.ring.dtype))), bytes(32)
    key = box_key(terms, L, mine, theirs, v, VICTIM, mine=v)
    content = lightsecagg.box_content(v, VICTIM, salt, packed)
    box = seal.seal(key, content, box_aad(terms, L, v, VICTIM))
    return box, lightsecagg.share_hash(terms, L, v, VICTIM, salt, packed)
