"""Attacks on homomorphic sums: rows 1, 5 and 28.  Six parties, t = 4, three openers; the first party is the victim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols import handshake, he
from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.he_types import Committed, Dealt, Decrypted, Delivered, SeedBox, Upload
from protocols.lightsecagg import box_content
from protocols.lightsecagg_types import KeyAdvert
from protocols.primitives import homomorphic, seal
from protocols.rand import Seed
from securefl.audit.cheating import pair
from securefl.audit.federation import Federation
from securefl.audit.he_server import HeServer, opened
from securefl.audit.judging import by_party, stolen
from securefl.audit.registry import attack
from securefl.audit.target import Target
from securefl.audit.verdict import Verdict, broken, combine, stated

VICTIM, COLLUDER = 1, 6
EVERYBODY = (1, 2, 3, 4, 5, 6)
False_ = Callable[[HeServer], NDArray[Any]]


def shifted(server: HeServer, total: NDArray[Any], by: int) -> NDArray[Any]:
    """``by`` added to the first word of c0: the first coefficient of the plaintext grows by p·by/q."""
    out = total.copy()
    out[0] = (int(out[0]) + by) % homomorphic.modulus(server.fed.terms.parameters.shape)
    return out


@attack(
    28,
    "one party's ciphertext as the sum",
    lie="the openers are shown the victim's ciphertext, alone or so often that count and range fit",
    notice="every opener, in round 4, by summed-tag",
    on=["he"],
    strikes=["Summed"],
)
def as_the_sum(target: Target) -> Verdict:
    """Once, and six times over."""
    fed = target.cohort()
    tries = list[tuple[str, Verdict]]()
    for times in (1, 6):
        server = HeServer(fed)
        server.up_to_uploads()
        shown = [server.show(u, server.total([VICTIM], times)) for u in server.agreed_openers()]
        found = next((values for values in shown if values is not None), [])
        tries.append((f"{times} times", stolen(server, VICTIM, [value // times for value in found])))
    return combine(tries)


@attack(
    28,
    "subsets, multiples and perturbed sums, refusals watched",
    lie="each opener is shown what is not the sum; an opener that refused or opened is asked again",
    notice="every opener, by summed-tag or ciphertext-range; a key that was used opens nothing more",
    on=["he"],
    strikes=["Summed"],
)
def perturbed(target: Target) -> Verdict:
    """One bit for each of three openers is what refusals tell."""
    fed = target.cohort()
    step = 1 << (60 - fed.terms.parameters.slot)
    ways: dict[str, False_] = {
        "a subset": lambda s: s.total(EVERYBODY[1:]),
        "a multiple": lambda s: s.total(EVERYBODY, 2),
        "zero": lambda s: s.total([VICTIM]) * np.uint64(0),
        "a digit moved": lambda s: shifted(s, s.total(EVERYBODY), step),
        "words of q and more": lambda s: s.total(EVERYBODY) * np.uint64(0) + np.uint64(2**60 - 1),
    }
    tries = list[tuple[str, Verdict]]()
    for name, forge in ways.items():
        server = HeServer(fed)
        server.up_to_uploads()
        opener = server.agreed_openers()[0]
        found = server.show(opener, forge(server))
        verdict = by_party(server)
        if found is not None and found != fed.sum(EVERYBODY):
            verdict = broken("what is not the agreed sum was opened", recovered=found, true=fed.sum(EVERYBODY))
        server.heard.pop((opener, Decrypted), None)
        if server.show(opener, server.total(EVERYBODY)) is not None:
            verdict = broken("a key that was used opens a second sum", whose=f"client {opener}")
        tries.append((name, verdict))
    return combine(tries)


@attack(
    28,
    "one party that helps the server",
    lie="a party hands the common key to the server",
    notice="nobody can: every party holds the one key; a policy may refuse the protocol",
    on=["he"],
    strikes=["Upload"],
)
def shared_key(target: Target) -> Verdict:
    """It opens every input."""
    fed = target.cohort()
    server = HeServer(fed)
    server.up_to_uploads()
    found = opened(fed, server.collude(COLLUDER).key, VICTIM, server.all(Upload)[VICTIM])
    why = "one party that helps the server opens every input: all hold one key; a policy with min_corrupt ≥ 1 refuses it"
    return stated(why, whose="client 1", recovered=tuple(found), true=tuple(fed.secret(VICTIM)))


@attack(
    1,
    "different survivors to different parties",
    lie="half of the parties hear that the victim dropped out; each is shown the signatures of the other half too",
    notice="every party, in round 4, by agreed-signature",
    on=["he"],
    strikes=["Dropped", "Agreed"],
)
def two_sets(target: Target) -> Verdict:
    """Openers of both sets would give two sums that differ by the victim."""
    return sums_over_both(target.cohort())


@attack(
    30,
    "agreements of an earlier session with the same identity",
    lie="parties that lost their journals join one session twice, once without the victim; what they signed then is shown",
    notice="every party, in round 4, by agreed-signature: the hash of the list with its fresh keys is in what is signed",
    on=["he"],
    strikes=["Agreed"],
)
def same_sid(target: Target) -> Verdict:
    """Fresh randomness gives other keys, so another list."""
    fed = target.cohort()
    earlier = HeServer(replace(fed, salt="earlier"))
    earlier.up_to_uploads()
    earlier.agree_on((VICTIM,))
    return sums_over_both(fed, {u: said.signature for u, said in earlier.all(Agree).items()})


def sums_over_both(fed: Federation, earlier: Mapping[int, bytes] | None = None) -> Verdict:
    """Half of the parties hear of a smaller set; for it they are shown earlier signatures, or those of everybody.

    The colluder holds the common key like everybody, but opens nothing by it here: what counts is what honest openers say.
    """
    server = HeServer(fed)
    server.up_to_uploads()
    rest, sums = EVERYBODY[1:], dict[tuple[int, ...], list[int]]()
    views = {u: rest if u in (4, 5, 6) else EVERYBODY for u in EVERYBODY}
    for u, u3 in views.items():
        server.tell(u, Dropped(() if u3 == EVERYBODY else (VICTIM,)))
    said = {u: agree.signature for u, agree in server.all(Agree).items()}
    for u, u3 in views.items():
        shown = (
            said if earlier is None else {**(earlier if u3 == rest else {}), **{v: s for v, s in said.items() if views[v] == u3}}
        )
        signers = [v for v in sorted(shown) if v in u3]
        server.tell(u, Agreed(tuple(Signed(v, shown[v]) for v in signers)))
        values = server.show(u, server.total(u3))
        if values is not None:
            sums[u3] = values
    if rest not in sums:
        return by_party(server, [u for u, u3 in views.items() if u3 == rest])
    if EVERYBODY not in sums:  # an honest session opens it in any case
        sums[EVERYBODY] = fed.sum(EVERYBODY)
    found = [a - b for a, b in zip(sums[EVERYBODY], sums[rest], strict=True)]
    return stolen(server, VICTIM, found)


@attack(
    5,
    "swapped keys",
    lie="the victim gets a list in which all keys but its own are the server's, who so learns its seed and deals all others",
    notice="the victim, in round 1, by listed-signature; the common key comes from boxes, never from the server",
    on=["he"],
    strikes=["KeyList"],
)
def swapped_keys(target: Target) -> Verdict:
    """With all seeds the common key of the victim's ciphertext is known."""
    fed = target.cohort()
    server = HeServer(fed)
    terms, mine, rest = fed.terms, server.all(KeyAdvert)[VICTIM], EVERYBODY[1:]
    c = {v: pair(f"c {v}") for v in rest}
    listed = server.key_list()
    forged = replace(listed, entries=tuple(e if e.index == VICTIM else replace(e, c_pk=c[e.index].public) for e in listed.entries))
    server.tell(VICTIM, forged)
    dealt = server.all(Dealt).get(VICTIM)
    if dealt is None:
        return by_party(server, [VICTIM])
    L, seeds = handshake.list_hash(forged), {v: Seed(bytes([v]) * 32) for v in rest}
    boxes = list[SeedBox]()
    for v in rest:
        key = handshake.box_key(terms, L, c[v], mine.c_pk, v, VICTIM, mine=v)
        boxes.append(
            SeedBox(v, seal.seal(key, box_content(v, VICTIM, seeds[v].reveal(), b""), handshake.box_aad(terms, L, v, VICTIM)))
        )
    box = next(box for box in dealt.boxes if box.peer == rest[0])
    key = handshake.box_key(terms, L, c[rest[0]], mine.c_pk, VICTIM, rest[0], mine=rest[0])
    seeds[VICTIM] = Seed(seal.unseal(key, box.box, handshake.box_aad(terms, L, VICTIM, rest[0]))[8:])
    server.tell(VICTIM, Delivered(EVERYBODY, tuple(boxes), tuple(Committed(v, he.commit(terms, L, v, seeds[v])) for v in rest)))
    upload = server.all(Upload).get(VICTIM)
    common = he.common_key(terms, L, EVERYBODY, seeds)
    return stolen(server, VICTIM, [] if upload is None else opened(fed, common, VICTIM, upload), honest=[VICTIM])
