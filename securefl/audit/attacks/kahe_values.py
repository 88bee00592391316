"""Attacks on the parameters and values of key-additive masking: rows 38 and 39."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse
from protocols.kahe_parameters import KaheParameters
from protocols.kahe_types import Enciphered
from protocols.primitives import rlwe
from protocols.rand import Replay
from protocols.session import Letter, client
from securefl.audit.federation import MAX_ABS, Federation, run
from securefl.audit.judging import by_party, noticed
from securefl.audit.kahe_server import ELEMENT, KaheServer, forging, long, parameters_of
from securefl.audit.registry import attack
from securefl.audit.target import Target
from securefl.audit.verdict import Verdict, broken, combine, harmless, stated, unavailable

VICTIM, LIAR = 1, 6


# Row 38


@attack(
    38,
    "public elements of the server's choice",
    lie="the victim is told another suite, whose elements A could be zero or sparse",
    notice="the victim, before anything leaves, by terms-suite: the suite names A, and the party computes it",
    on=["kahe"],
)
def elements(target: Target) -> Verdict:
    """No message has a place for A; the suite is the only handle."""
    fed = target.cohort()
    own = rlwe.elements(fed.terms.suite).words(0, 2)
    if len(np.unique(own)) < own.size - 1:
        return broken("the public elements are not uniform")
    parts = list[tuple[str, Verdict]]()
    for name, suite in (
        ("another version", fed.terms.suite + "0"),
        ("none", ""),
        ("a sparse graph's", fed.terms.suite.replace("_", "+_", 1)),
    ):
        session = fed.session(VICTIM, terms=replace(fed.terms, suite=suite))
        session.begin()
        server = KaheServer(fed, {VICTIM: session})
        if session.ended is None and not np.array_equal(rlwe.elements(suite).words(0, 2), own):
            parts.append((name, broken(f"the victim goes on with the elements of the suite {suite!r}", whose="client 1")))
        else:
            parts.append((name, by_party(server)))
    return combine(parts)


CHANGES: dict[str, dict[str, int]] = {
    "N = 2048": {"degree": 2048},
    "q = 2^62": {"modulus": 62},
    "nothing is cut off": {"wire": 64},
    "too much is cut off": {"wire": 30},
    "one digit": {"digits": 1},
    "three digits": {"digits": 3},
    "digits without headroom": {"width": 13},
}


@attack(
    38,
    "parameters that the party would not have computed",
    lie="N, q, ℓ, P or W are other than what follows from n, d and the bound of the values",
    notice="the party's own parameters, which refuse to exist with the numbers; nothing leaves",
    on=["kahe"],
)
def parameters(target: Target) -> Verdict:
    """Each of them alone."""
    fed, parts = target.cohort(), list[tuple[str, Verdict]]()
    for name, change in CHANGES.items():
        try:
            replace(parameters_of(fed), **change)  # type: ignore[arg-type]
        except Misuse as error:
            parts.append((name, Verdict("refused", str(error), "client 1", check="parameters")))
        else:
            parts.append((name, broken(f"parameters with {change} are taken", whose="client 1")))
    return combine(parts)


@attack(
    38,
    "one honest party in the sum",
    lie="a threshold and a number of colluders between which one honest party stands alone: all other keys are known",
    notice="the party's own parameters: t − |C| ≥ 2",
    on=["kahe"],
)
def alone(target: Target) -> Verdict:
    """With every other key the last ciphertext opens, as with masks."""
    p = parameters_of(target.cohort())
    try:
        replace(p.keys, threshold=p.parties, corrupt=p.parties - 1)
    except Misuse as error:
        return Verdict("refused", str(error), "client 1", check="parameters")
    return broken("a sum with one honest party is taken", whose="client 1")


# Row 39


@attack(
    39,
    "a value that wraps into its neighbour",
    lie="one party encrypts a value whole turns of its digit too large, past its own check",
    notice="nobody: the neighbour in the coefficient moves by one a turn, less than the party could move it in its own name",
    on=["kahe"],
    strikes=["Enciphered"],
)
def wrapped(target: Target) -> Verdict:
    """One turn, and three back."""
    return combine((f"{turns} turns", _wrapped(target, turns)) for turns in (1, -3))


def _wrapped(target: Target, turns: int) -> Verdict:
    fed, place = long(target.cohort(), ELEMENT - 1), 7
    width = parameters_of(fed).width

    def values(given: NDArray[Any]) -> NDArray[Any]:
        out = given.copy()
        out[place] += turns << width
        return out

    outcome = run(fed, flows={LIAR: forging(target.flow, values=values)})
    if not outcome.outputs:
        return noticed(outcome) or harmless("nothing was opened")
    moved = np.array(outcome.outputs[0].values) - np.array(fed.sum(fed.parties))
    where = np.flatnonzero(moved).tolist()
    if where not in ([], [place + rlwe.DEGREE]) or np.abs(moved).max() > abs(turns):
        return broken("a value moves more than its neighbour by a step a turn", whose="all", recovered=moved[where][:5])
    by = [int(x) for x in moved[where]]
    return stated("the neighbour moves by one a turn, as a lie about it would", whose="its neighbour", recovered=by, true=[0])


@attack(
    39,
    "a value past its bound, from an honest party",
    lie="the party's own code hands over a value that does not fit its digit",
    notice="its own caller, before anything leaves, by misuse",
    on=["kahe"],
    strikes=["Enciphered"],
)
def past_its_bound(target: Target) -> Verdict:
    """Past max_abs, past the digit, past 64 bits."""
    parts = list[tuple[str, Verdict]]()
    for value in (MAX_ABS + 1, 1 << parameters_of(target.cohort()).width, -(2**63)):
        fed = target.cohort()
        fed.vectors[LIAR] = fed.vectors[LIAR].copy()
        fed.vectors[LIAR][0] = value
        parts.append((str(value), _handed_over(fed)))
    return combine(parts)


def _handed_over(fed: Federation) -> Verdict:
    sent = list[Letter]()
    try:
        outcome = run(fed, watch=lambda letter, _to, _size: sent.append(letter))
    except Misuse as error:
        left = any(isinstance(letter.message, Enciphered) and letter.sender == client(LIAR) for letter in sent)
        return broken("the ciphertext left all the same") if left else Verdict("refused", str(error), check="misuse")
    if not outcome.outputs:
        return noticed(outcome) or harmless("nothing was opened")
    return broken("a value past its bound is in the sum", whose="all", recovered=outcome.outputs[0].values[:5])


@attack(
    39,
    "noised values at their limit",
    lie="none: values are at their bound before noise is added, and single ones go past it",
    notice="nobody may: noise is neither clamped nor refused, and the sum is exact",
    on=["kahe"],
    strikes=["Enciphered"],
)
def noised(target: Target) -> Verdict:
    """With a tail in the parameters only the sum must fit."""
    fed, size, spread = target.cohort(), 64, 200
    base: Any = fed.scheme.parameters(len(fed.parties), size, MAX_ABS)
    p = KaheParameters.over(base.keys, size, MAX_ABS, tail=10 * spread)
    drawn = Replay("noise")().words("noise", len(fed.parties) * size).astype(np.int64).reshape(-1, size) % (2 * spread + 1) - spread
    fed = replace(
        fed,
        terms=replace(fed.terms, parameters=p),
        vectors={u: np.full(size, (-1) ** u * MAX_ABS) + drawn[u - 1] for u in fed.parties},
    )
    outcome = run(fed)
    if not outcome.outputs:
        return unavailable(f"noised values give no sum: {outcome.abort}")
    found, true = outcome.outputs[0].values.tolist(), fed.sum(fed.parties)
    if found != true:
        return broken("noise was clamped: the sum is another", whose="all", recovered=found[:5], true=true[:5])
    return harmless("single values past the bound, and an exact sum")
