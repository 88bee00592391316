"""Black-box attacks on what is opened: rows 1, 2, 3, 6, 9, 12, 20 and 26, for any protocol that the seam carries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols import simulate
from protocols.errors import Misuse, SecureSumError
from protocols.policy import Policy
from protocols.session import SERVER, Address, Letter, Session, client
from protocols.suite import Occasion, SumParameters
from protocols.sums import Scheme
from protocols.vector import Vector
from protocols.wire import digest
from securefl.audit.attacks.splitting import Half, Split
from securefl.audit.federation import Federation, ending, run
from securefl.audit.judging import exposed, judge, members, noticed
from securefl.audit.registry import UPLOAD, attack
from securefl.audit.target import PAYLOAD, Target
from securefl.audit.verdict import Verdict, broken, combine, harmless, stated, unavailable

VICTIM = 1


@attack(
    20,
    "the exact sum, with and without dropouts",
    lie="none, or one party vanishes before each message in turn",
    notice="nobody: the sum over the survivors is exact, weights and all",
)
def exact(target: Target) -> Verdict:
    """What comes out must be the sum over a set of parties; without dropouts, over all."""
    fed = target.federation()
    whole = run(fed)
    if not whole.outputs or members(fed, whole.outputs[0]) != fed.everybody:
        reason = whole.reason
        return broken(f"an honest round gives no exact sum{f': {reason}' if reason else ''}", true=fed.sum(fed.everybody)[:PAYLOAD])
    tries = [("all", harmless("the sum over all is exact"))]
    for kind in target.flow.messages("server"):
        gone = simulate.vanish({client(target.parties): kind.__name__})
        tries.append((f"one vanishes before {kind.__name__}", judge((fed, run(fed, network=gone)))))
    return combine(tries)


@attack(
    20,
    "vectors reweighted by the server",
    lie="one party's vector is counted in the place of another's, too",
    notice="the server's own code, by the signature or the tag of each vector; else masks do not cancel",
    strikes=[UPLOAD],
)
def reweighted(target: Target) -> Verdict:
    """The upload of party 1 is delivered a second time as party 2's."""
    fed, kinds = target.federation(), {kind.__name__ for kind in target.uploads}
    seen = dict[str, Letter]()

    def network(letter: Letter) -> Iterator[Letter]:
        name = type(letter.message).__name__
        if name in kinds and letter.sender == client(VICTIM):
            seen[name] = letter
        if name in kinds and letter.sender == client(2) and name in seen:
            yield replace(seen[name], sender=client(2))
        else:
            yield letter

    return judge((fed, run(fed, network=network)))


@attack(
    1,
    "two halves, two stories",
    lie="a server tells one half that all survived and the other that the victim did not; colluders answer both",
    notice="no honest party needs to: neither half reaches the threshold, or signatures over the survivors differ",
)
def two_halves(target: Target) -> Verdict:
    """All sizes of the halves that could reach the threshold; the victim's vector is hidden from the second server."""
    return combine(_splits(target, target.federation()))


@attack(
    6,
    "lower terms for all",
    lie="parameters that stand no collusion and ask for the least threshold; where they are accepted, two halves hear two stories",
    notice="every party, before it sends anything, by its own policy",
)
def downgrade(target: Target) -> Verdict:
    """Accepted lower terms are no breach by themselves; what they let the server open is."""
    fed = target.federation()
    tries = list[tuple[str, Verdict]]()
    sizes = (target.parties, target.parties - 1) if target.shape != "secagg+" else ()
    for n in sizes:
        smaller = replace(target, parties=n, parameters=target.scheme.parameters(n, PAYLOAD + n, fed.terms.parameters.max_abs))
        tries += _lower(smaller)
    suite = replace(fed, terms=replace(fed.terms, suite=fed.terms.suite + "0"))
    tries.append(("another suite", judge((suite, run(suite)))))
    return combine(tries)


def _lower(target: Target) -> Iterator[tuple[str, Verdict]]:
    """Terms below those of the target, and what two stories open under them; one party colludes, and accepts anything."""
    fed = target.federation()
    p = fed.terms.parameters
    for threshold in range(2, p.threshold):
        try:
            lower = target.scheme.parameters(target.parties, target.size, p.max_abs, threshold=threshold, corrupt=0)
        except Misuse:
            continue
        if lower.threshold >= p.threshold:
            continue
        told = replace(fed, terms=target.scheme.terms(fed.terms.occasion, fed.roster, lower))
        helper = replace(fed.parties[target.parties], policy=Policy(min_threshold=0.01, min_corrupt=0, min_security=1))
        told = replace(told, parties={**fed.parties, target.parties: helper})
        yield f"t = {threshold} of {target.parties}", combine(_splits(target, told, max(p.corrupt, 1)))


def _splits(target: Target, fed: Federation, colluders: int | None = None) -> Iterator[tuple[str, Verdict]]:
    c = fed.terms.parameters.corrupt if colluders is None else colluders
    colluding = fed.everybody[len(fed.everybody) - c :] if c else ()
    honest = [u for u in fed.everybody if u not in colluding]
    middle = len(honest) // 2
    sizes = range(max(2, middle - 1), min(len(honest), middle + 2)) if target.quick else range(2, len(honest))
    for kind in target.uploads:
        for size in sizes:
            first = frozenset([VICTIM, *honest[1:size]])
            halves = Half(first, {}), Half(frozenset(honest) - first, {VICTIM: kind.__name__})
            one, other = Split(fed, halves, colluding).play()
            yield f"{size} and {len(honest) - size} honest, {len(colluding)} in both", judge(one, other)


@attack(
    3,
    "a model that zeroes everybody's update but the victim's",
    lie="the victim is told one model, all others another one, under which their updates are zero",
    notice="everybody, by the first signature: the model's hash is in the session identity; else masks do not cancel",
)
def two_models(target: Target) -> Verdict:
    """The sum must not be the victim's input."""
    fed = target.federation()
    live, dead = (replace(fed.terms, occasion=replace(fed.terms.occasion, model=digest(m))) for m in ("live", "dead"))
    sessions: dict[Address, Session] = {SERVER: fed.server(terms=dead)}
    inputs = dict[Address, list[object]]()
    for u in fed.parties:
        sessions[client(u)] = fed.session(u, terms=live if u == VICTIM else dead)
        inputs[client(u)] = [Vector(fed.vectors[u] if u == VICTIM else fed.vectors[u] * 0)]
    outcome = simulate.run(sessions, inputs, max_deliveries=fed.deliveries)
    secret = fed.secret(VICTIM)
    for total in outcome.outputs:
        if total.values.tolist() == secret:
            return broken(
                "the sum is the victim's input", whose="client 1", recovered=total.values[:PAYLOAD], true=secret[:PAYLOAD]
            )
    return noticed(outcome) or harmless("the sum is without the victim")


@attack(
    26,
    "feigned abort, then a retry without the victim",
    lie="a round is opened, called failed, and done again without one party",
    notice="every party, by its journal: an input is spent when its masked form leaves",
)
def retry(target: Target) -> Verdict:
    """Also where the first attempt ends after masking, and where both are open at once."""
    fed = target.federation().with_memory()
    first = run(fed)
    again = run(fed.at(attempt=1), only=[u for u in fed.parties if u != VICTIM])
    return judge((fed, again), (fed, first))


@attack(
    2,
    "the same session a second time",
    lie="after the sum is opened, the server starts the same session again with parties that were restarted, without the victim",
    notice="every party, by its journal: no (round, attempt) is joined twice",
)
def same_session(target: Target) -> Verdict:
    """What a party keeps on its disk outlives its process."""
    fed = target.federation().with_memory()
    first = run(fed)
    again = run(fed, only=[u for u in fed.parties if u != VICTIM])
    return judge((fed, again), (fed, first))


@attack(
    9,
    "sums over cohorts that differ by one",
    lie="two rounds are opened, one with the victim and one without, and the inputs do not change in between",
    notice="nobody can: each sum is right; reported as a risk, closed by noise or by cohorts that differ by more",
)
def differencing(target: Target) -> Verdict:
    """The rank of who was in which sum tells whose input follows."""
    fed = target.federation()
    everybody, without = fed.everybody, fed.everybody[1:]
    first, second = run(fed.at(round=1)), run(fed.at(round=2), only=without)
    if not first.outputs or not second.outputs:
        return noticed(second) or noticed(first) or harmless("no two sums were opened")
    found = (first.outputs[0].values - second.outputs[0].values)[:PAYLOAD]
    names = ", ".join(f"client {u}" for u in exposed([everybody, without], everybody))
    return Verdict(
        "stated",
        f"exact sums over {len(everybody)} and {len(without)} parties give {names} away if inputs repeat; only noise closes this",
        whose=names,
        recovered=tuple(found.tolist()),
        true=tuple(fed.secret(VICTIM)[:PAYLOAD]),
    )


@attack(
    12,
    "extreme values, values past the bound, more parties than planned, a ring without headroom",
    lie="inputs at both bounds, one past it, NaN; a roster that is not that of the parameters; a ring that is too narrow",
    notice="the party itself and the parameters, before anything leaves",
)
def overflow(target: Target) -> Verdict:
    """The sum is exact at the bounds, and what is past them is refused by whoever has it."""
    fed = target.federation()
    p = fed.terms.parameters
    tries = list[tuple[str, Verdict]]()
    for value in (p.max_abs, -p.max_abs):
        full = replace(fed, vectors={u: np.full_like(x, value) for u, x in fed.vectors.items()})
        outcome = run(full)
        right = bool(outcome.outputs) and outcome.outputs[0].values.tolist() == full.sum(full.everybody)
        verdict = harmless("the sum is exact") if right else broken("the sum at the bound is wrong", true=full.sum(full.everybody))
        tries.append((f"all at {value}", verdict))
    for what, bad in (("past the bound", np.full(p.size, p.max_abs + 1)), ("NaN", np.full(p.size, np.nan))):
        tries.append((what, _past(fed, bad)))
    n = target.parties
    refusals: dict[str, Callable[[], object]] = {
        "a ring without headroom": lambda: _headroom(target.scheme.parameters(n, p.size, 2**20, bits=n.bit_length())),
        "more parties than planned": lambda: _sid(target.scheme, fed, n - 1),
    }
    for what, act in refusals.items():
        try:
            act()
        except Misuse:
            tries.append((what, Verdict("refused", check="misuse")))
        else:
            tries.append((what, broken("parameters without headroom, or for another cohort, are taken")))
    return combine(tries)


def _headroom(p: SumParameters) -> None:
    """Raises where a protocol took a wider ring than it was asked for."""
    if p.ring.modulus > 2 * p.parties * p.max_abs:
        raise Misuse("a ring with headroom was taken instead")


def _sid(scheme: Scheme, fed: Federation, parties: int) -> bytes:
    p = fed.terms.parameters
    return scheme.terms(Occasion("x", 0), fed.roster, scheme.parameters(parties, p.size, p.max_abs)).sid


def _past(fed: Federation, bad: NDArray[Any]) -> Verdict:
    """Party 1 has a wrong input: nothing of it leaves, and the session ends."""
    sent = list[str]()

    def watch(letter: Letter, _to: Address, _size: int) -> None:
        if letter.sender == client(VICTIM):
            sent.append(type(letter.message).__name__)

    sessions = dict[Address, Session]()
    try:
        outcome = run(replace(fed, vectors={**fed.vectors, VICTIM: bad}), watch=watch, sessions=sessions)
    except Misuse:
        session = sessions[client(VICTIM)]
        end = ending(session) or ("", None)
        return Verdict("refused", who="client 1", check=end[0])
    except SecureSumError as error:
        return unavailable(str(error))
    total = next(iter(outcome.outputs), None)
    return broken("a value past the bound went into the sum", recovered=[] if total is None else total.values[:PAYLOAD])


@attack(
    11,
    "a coordinate that only one client touches",
    lie="the server plants a model in which one coordinate is moved by one party alone, and reads it off the sum",
    notice="a party whose policy names the models that it accepts; an exact sum hides nothing of such a coordinate",
)
def planted(target: Target) -> Verdict:
    """With a list of approved models it is refused; without one, or with a planted model that was approved, only noise helps."""
    fed = target.federation()
    policy = replace(fed.parties[VICTIM].policy, models=frozenset({digest("approved")}))
    strict = run(fed.with_policy(policy))
    lone = {u: np.concatenate([x[: PAYLOAD - 1] * (u == VICTIM), x[PAYLOAD - 1 :]]) for u, x in fed.vectors.items()}
    outcome = run(replace(fed, vectors=lone))
    seen = chain.from_iterable(total.values[: PAYLOAD - 1].tolist() for total in outcome.outputs)
    refused = noticed(strict)
    if refused is None or strict.outputs:
        return broken("a model that no party approved is accepted by parties that list theirs")
    return stated(
        f"refused by {refused.check} where the policy lists models; else the coordinate is read off the sum",
        whose="client 1",
        recovered=tuple(seen),
        true=tuple(lone[VICTIM][: PAYLOAD - 1].tolist()),
    )
