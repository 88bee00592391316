"""Attacks on SecAgg by a server that knows its messages: rows 1, 2, 5, 8, 22–24, 29–31.

Six parties, of which the last may collude with the server, t = 4, and the first is the victim, unless an attack says otherwise.
Every attack computes the victim's input as far as it can from what honest parties answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.handshake import list_hash
from protocols.primitives.agree import KeyPair
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import Advert, Boxes, Masked, Openings
from securefl.audit.federation import MAX_ABS, Federation
from securefl.audit.judging import by_party, stolen
from securefl.audit.registry import attack
from securefl.audit.secagg_server import SecAggServer, pair_keys, rebuild, unmask
from securefl.audit.target import PAYLOAD, Target
from securefl.audit.verdict import Verdict, broken, combine, harmless

VICTIM, COLLUDER = 1, 6
EVERYBODY = (1, 2, 3, 4, 5, 6)
VIEWS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    1: ((1, 2, 3, 6), ()),
    2: (EVERYBODY, (3,)),
    3: (EVERYBODY, (2,)),
    4: (EVERYBODY, (2, 3)),
    5: (EVERYBODY, (2, 3)),
}
"""U2 and the dropped set told to each honest party: the victim masks with 2, 3 and the colluder, and is alive in every view.

2 and 3 are dead in three views each, so three honest parties and the colluder open their mask keys.  Every view by itself is legal.
"""
SETS = {u: tuple(v for v in u2 if v not in dropped) for u, (u2, dropped) in VIEWS.items()}
Signatures = Mapping[tuple[int, tuple[int, ...]], bytes]


# Row 1: both shares of one client


def different_sets(fed: Federation, signatures: Signatures | None = None) -> tuple[SecAggServer, list[int]]:
    """Tell every party its own view; the server, and what it makes of the answers (nothing if it cannot).

    Args:
        fed: the federation.
        signatures: what to show for (signer, U3); by default what the parties sign in this very attack, over their own views.
    """
    server = SecAggServer(fed)
    L = list_hash(server.up_to_boxes())
    keys = server.mask_pair(COLLUDER)
    for u in EVERYBODY:
        server.tell(u, server.sealed(u, VIEWS[u][0] if u in VIEWS else None))
    colluder = server.collude(COLLUDER)
    for u, (_, dropped) in VIEWS.items():
        server.tell(u, Dropped(dropped))
    said = {u: agree.signature for u, agree in server.all(Agree).items()}
    for u, u3 in SETS.items():
        own = colluder.invited.identity.sign(fed.terms.statement("agree", COLLUDER, L, list(u3)))
        shown = {v: own if v == COLLUDER else said[v] for v in u3} if signatures is None else {v: signatures[v, u3] for v in u3}
        server.tell(u, Agreed(tuple(Signed(v, signature) for v, signature in shown.items())))
    secrets = {v: rebuild(server.shares(v, "s", {COLLUDER: colluder}, SETS), fed.t) for v in (2, 3)}
    b = rebuild(server.shares(VICTIM, "b", {COLLUDER: colluder}, SETS), fed.t)
    if b is None or None in secrets.values():
        return server, []
    known = {v: KeyPair.from_secret(secret) for v, secret in secrets.items() if secret is not None} | {COLLUDER: keys}
    pairs = pair_keys(fed.terms, L, VICTIM, server.publics, known)
    return server, unmask(fed.terms, L, VICTIM, server.all(Masked)[VICTIM], b, pairs)


@attack(
    1,
    "different dropped sets to different parties",
    lie="the victim is alive for everybody, and those with whom it masked are dead for those who can open them",
    notice="every party, in round 4, by agreed-signature: the survivors signed other sets",
    on=["secagg"],
    strikes=["Dropped", "Agreed"],
)
def dropped_sets(target: Target) -> Verdict:
    """Signatures over the sets as each was told."""
    server, found = different_sets(target.cohort())
    return stolen(server, VICTIM, found, honest=VIEWS)


def earlier_agreements(fed: Federation, *, same_session: bool = False) -> dict[tuple[int, tuple[int, ...]], bytes]:
    """Signatures from four honest rounds, in each of which exactly the set of one view had survived."""
    out = {}
    for number, u3 in enumerate(sorted(set(SETS.values()))):
        told = replace(fed, salt=f"earlier {number}") if same_session else fed.at(round=number)
        server = SecAggServer(told)
        server.up_to_masks()
        server.agree_on(v for v in EVERYBODY if v not in u3)
        out.update({(u, u3): agree.signature for u, agree in server.all(Agree).items()})
    return out


@attack(
    8,
    "agreements of earlier rounds",
    lie="every view is shown the signatures that its set got in an earlier round, in which just these had survived",
    notice="every party, in round 4, by agreed-signature: the session identity is in what is signed",
    on=["secagg"],
    strikes=["Agreed"],
)
def old_agreements(target: Target) -> Verdict:
    """Of other rounds, under another occasion."""
    fed = target.cohort()
    server, found = different_sets(fed.at(round=9), earlier_agreements(fed))
    return stolen(server, VICTIM, found, honest=VIEWS)


@attack(
    30,
    "agreements of an earlier session with the same identity",
    lie="parties that lost their journals join one session again and again, and what they signed for other lists is shown",
    notice="every party, in round 4, by agreed-signature: the hash of the list with its fresh keys is in what is signed",
    on=["secagg"],
    strikes=["Agreed"],
)
def same_sid(target: Target) -> Verdict:
    """Fresh randomness gives other keys, so another list."""
    fed = target.cohort()
    server, found = different_sets(fed, earlier_agreements(fed, same_session=True))
    return stolen(server, VICTIM, found, honest=VIEWS)


# Row 2: two survivor sets


def second_set(fed: Federation, epoch: int) -> tuple[SecAggServer, list[int]]:
    """Everybody opens; then everybody is asked again, for the survivors without the victim."""
    server = SecAggServer(fed)
    L = server.up_to_masks()
    server.agree_on()
    server.open_all()
    b = rebuild(server.shares(VICTIM, "b", {}, dict.fromkeys(EVERYBODY, EVERYBODY)), fed.t)
    for u in EVERYBODY:
        server.heard.pop((u, Agree), None)
        server.heard.pop((u, Openings), None)
    rest = EVERYBODY[1:]
    for u in rest:
        server.tell(u, Dropped((VICTIM,)), epoch)
    signed = sorted(server.all(Agree))
    for u in signed:
        server.tell(u, server.agreed(), epoch)
    s = rebuild(server.shares(VICTIM, "s", {}, dict.fromkeys(EVERYBODY, rest)), fed.t)
    if b is None or s is None:
        return server, []
    pairs = pair_keys(fed.terms, L, VICTIM, server.publics, {VICTIM: KeyPair.from_secret(s)})
    return server, unmask(fed.terms, L, VICTIM, server.all(Masked)[VICTIM], b, pairs)


@attack(
    2,
    "the opening round again, without the victim",
    lie="after everybody has opened, a second dropped set and a second list of signatures come",
    notice="every party's session, by wire-late: a state is used once",
    on=["secagg"],
    strikes=["Dropped", "Agreed"],
)
def reopened(target: Target) -> Verdict:
    """Announced as the first, the second and a later message of its kind."""
    fed = target.cohort()
    tries = [(f"as message {epoch + 1}", second_set(fed, epoch)) for epoch in (0, 1, 2)]
    return combine((name, stolen(server, VICTIM, found, honest=EVERYBODY[1:])) for name, (server, found) in tries)


# Row 6: fewer shares than are safe


def open_twice(fed: Federation) -> tuple[SecAggServer, list[int]]:
    """Five parties, 2t = n + 1: 1 and 2 hear that all survived, 3 and 4 that 1 did not; the colluding party 5 signs both."""
    server = SecAggServer(fed)
    if not server.all(Advert):
        return server, []
    L = server.up_to_masks()
    everybody = tuple(fed.parties)
    views = {1: everybody, 2: everybody, 3: everybody[1:], 4: everybody[1:]}
    colluder = server.collude(5)
    for u, u3 in views.items():
        server.tell(u, Dropped(tuple(v for v in everybody if v not in u3)))
    said = server.all(Agree)
    for u, u3 in views.items():
        statement = fed.terms.statement("agree", 5, L, list(u3))
        signers = {v: said[v].signature for v in views if views[v] == u3} | {5: colluder.invited.identity.sign(statement)}
        server.tell(u, Agreed(tuple(Signed(v, signature) for v, signature in signers.items())))
    b = rebuild(server.shares(1, "b", {5: colluder}, views), fed.t)
    s_sk = rebuild(server.shares(1, "s", {5: colluder}, views), fed.t)
    if b is None or s_sk is None:
        return server, []
    pairs = pair_keys(fed.terms, L, 1, server.publics, {1: KeyPair.from_secret(s_sk)})
    return server, unmask(fed.terms, L, 1, server.all(Masked)[1], b, pairs)


@attack(
    6,
    "a threshold below what one colluder needs",
    lie="five parties are told that nobody colludes, so that t = 3 would do; one does, and both shares are asked for in two halves",
    notice="every party, before it sends anything, by policy-corrupt or policy-threshold",
    on=["secagg"],
    strikes=["Dropped"],
)
def lower_threshold(target: Target) -> Verdict:
    """The parameters are legal; the party's own policy asks for more."""
    weak = target.cohort(5, parameters=Parameters.of(5, PAYLOAD, MAX_ABS, corrupt=0))
    server, found = open_twice(weak)
    return stolen(server, VICTIM, found, honest=(1, 2, 3, 4))


@attack(
    1,
    "half the threshold for each of both shares",
    lie="one half of the others hears that the victim survived, the other that it did not; the colluder signs both",
    notice="every party, in round 4, by agreed-count: neither half reaches the threshold",
    on=["secagg"],
    strikes=["Dropped", "Agreed"],
)
def both_halves(target: Target) -> Verdict:
    """Under the parameters as they come for five parties."""
    server, found = open_twice(target.cohort(5))
    return stolen(server, VICTIM, found, honest=(1, 2, 3, 4))


@attack(
    8,
    "lists, boxes and adverts of another occasion",
    lie="the victim gets the list or the boxes of another round, attempt or run, or another's advert of it",
    notice="the victim, by listed-own, box-opens or listed-signature",
    on=["secagg"],
    strikes=["Listed", "Sealed"],
)
def old_messages(target: Target) -> Verdict:
    """None is taken for one of this session."""
    fed = target.cohort()
    tries = list[tuple[str, Verdict]]()
    occasions: list[dict[str, object]] = [{"round": 1}, {"attempt": 1}, {"run": "another"}]
    for occasion in occasions:
        for what in ("list", "boxes", "advert"):
            old, server = SecAggServer(fed), SecAggServer(fed.at(**occasion))
            old.up_to_boxes()
            if what == "boxes":
                server.up_to_boxes()
                server.tell(VICTIM, old.sealed(VICTIM))
            else:
                server.tell(VICTIM, old.listed() if what == "list" else server.listed(p2=old.all(Advert)[2]))
            taken = Masked if what == "boxes" else Boxes
            verdict = (
                broken(f"an old {what} is taken", whose="client 1") if VICTIM in server.all(taken) else by_party(server, [VICTIM])
            )
            tries.append((f"{what} of {occasion}", verdict))
    return combine(tries) if tries else harmless("nothing to try")
