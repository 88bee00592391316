"""Attacks on the ciphertexts of key-additive masking: rows 36 and 37.

Six parties, t = 4, the first is the victim; what is done to the sum of the keys is attacked as `secagg`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols import kahe, simulate
from protocols.flow import Flow
from protocols.kahe_parameters import KaheParameters
from protocols.kahe_types import Adding, Enciphered, Folded, key_terms
from protocols.primitives import rlwe
from protocols.primitives.agree import KeyPair
from protocols.primitives.prg import apply_masks
from protocols.rand import Replay
from protocols.ring import Accumulator
from protocols.secagg_types import Shared
from protocols.session import SERVER, Letter
from protocols.vector import Vector
from securefl.audit.federation import Federation, run
from securefl.audit.judging import by_party, noticed, stolen
from securefl.audit.kahe_server import ELEMENT, KaheServer, difference, errors_of, forging, long, parameters_of, watched
from securefl.audit.registry import attack
from securefl.audit.secagg_server import pair_keys, rebuild, self_mask
from securefl.audit.target import Target
from securefl.audit.verdict import Verdict, broken, combine, harmless, unavailable

VICTIM = 1
FALSE_ALARM = 1e-9
"""Probability with which the errors of honest parties are called wrong; seeds are fixed, so it is the same in every run."""
VARIANCE = 16.0
"""Of an error: 64 fair bits."""


# Row 36


@attack(
    36,
    "a restored machine encrypts a second vector",
    lie="the victim's state and journal are restored from an image taken before it encrypted; it is given another input",
    notice="nobody can; the second ciphertext is under a fresh key, so c1 − c2 is noise",
    on=["kahe"],
    strikes=["Enciphered"],
)
def restored(target: Target) -> Verdict:
    """The difference of the ciphertexts, rounded, would be that of the inputs."""
    fed = target.cohort()
    server = KaheServer(fed)
    server.up_to_boxes()
    session, image = server.sessions[VICTIM], server.state(VICTIM, Shared)
    for u in server.sessions:
        server.tell(u, server.sealed(u))
    first = server.ciphertexts()[VICTIM]
    session._values.clear()  # noqa: SLF001  (what an image of the machine holds)
    session._values[Shared] = image  # noqa: SLF001
    session._arrivals._fired.pop("encrypt", None)  # noqa: SLF001
    session._guard = None  # noqa: SLF001
    server.heard.pop((VICTIM, Enciphered))
    session.provide(Vector(-fed.vectors[VICTIM]))
    server.tell(VICTIM, server.sealed(VICTIM))
    if VICTIM not in server.ciphertexts():
        return by_party(server, [VICTIM])
    found, true = difference(parameters_of(fed), first, server.ciphertexts()[VICTIM]), [2 * x for x in fed.secret(VICTIM)]
    if found == true:
        return broken("two vectors under one key: the difference of the inputs", whose="client 1", recovered=found, true=true)
    return harmless("the second ciphertext is under another key: the difference of the two is noise")


@attack(
    36,
    "a retry, and the next round, encrypt again",
    lie="after a round whose ciphertexts have left it is tried again, and a next one follows, with other inputs",
    notice="every party, by journal-spent, for the retry; the next round's keys are fresh",
    on=["kahe"],
    strikes=["Enciphered"],
)
def again(target: Target) -> Verdict:
    """Ciphertexts of one party on two occasions."""
    fed = target.cohort().with_memory()
    seen = list[dict[int, NDArray[np.uint64]]]()
    outcomes = list[simulate.Outcome]()
    for number, occasion in enumerate((fed, fed.at(attempt=1), fed.at(round=1))):
        other = replace(occasion, vectors={u: (-1) ** number * x for u, x in fed.vectors.items()})
        seen.append({})

        def watch(letter: Any, _to: Any, _size: int) -> None:
            if isinstance(letter.message, Enciphered):
                seen[-1][letter.sender.index] = letter.message.c.values.astype(np.uint64)

        outcomes.append(run(other, watch=watch))
    for later, factor in ((1, 2), (2, 0)):
        for u in set(seen[0]) & set(seen[later]):
            found, true = difference(parameters_of(fed), seen[0][u], seen[later][u]), [factor * x for x in fed.secret(u)]
            if found == true:
                return broken("a key served twice", whose=f"client {u}", recovered=found, true=true)
    return noticed(outcomes[1]) or harmless("the retry was answered under fresh keys")


@attack(
    36,
    "errors that are left out, repeated or equal",
    lie="none: the errors in honest ciphertexts, before anything is cut off, looked at by the harness",
    notice="nobody would; their variance is 16 and no two elements of any parties share or mirror them",
    on=["kahe"],
    strikes=["Enciphered"],
)
def errors(target: Target) -> Verdict:
    """c − A·s − Δx of every party."""
    fed = long(target.cohort(), 2 * ELEMENT - 1)
    with watched() as seen:
        outcome = run(fed)
    if not outcome.outputs or len(seen) != len(fed.parties):
        return unavailable(f"an honest round gave no sum: {outcome.abort}")
    found = {u: errors_of(fed, u, one) for u, one in enumerate(seen, 1)}
    complaint = _complaint(found)
    return broken(complaint) if complaint else harmless("variance 16, no element like another")


def _complaint(found: Mapping[int, NDArray[np.int64]]) -> str:
    """What is wrong with the errors of parties: their variance or range; rows that repeat; rows that are related."""
    from scipy.stats import chi2, norm  # noqa: PLC0415

    rows = [(u, row) for u, e in found.items() for row in e]
    pairs = len(rows) * (len(rows) - 1) // 2
    far = norm.isf(FALSE_ALARM / (4 * pairs)) * rlwe.DEGREE**0.5
    for u, e in found.items():
        spread = chi2.ppf([FALSE_ALARM / 40, 1 - FALSE_ALARM / 40], e.size) / e.size * VARIANCE * (1, 1)
        mean = float((e.astype(np.float64) ** 2).mean())
        if not spread[0] <= mean <= spread[1] or np.abs(e).max() > rlwe.LARGEST:
            return f"the errors of client {u} have the mean square {mean:.3g} where it is 16"
    for i, (u, one) in enumerate(rows):
        for v, other in rows[:i]:
            if np.array_equal(one, other):
                return f"client {u} has errors of client {v} again"
            if abs(float(one @ other)) / VARIANCE > far:
                return f"errors of client {u} are related to those of client {v}"
    return ""


# Row 37


Change = Callable[[NDArray[np.uint64], Mapping[int, NDArray[np.uint64]]], NDArray[np.uint64]]
"""From the sum of the ciphertexts and the ciphertexts by party: another sum."""


def _folding(flow: Flow, heard: Mapping[int, NDArray[np.uint64]], change: Change) -> Flow:
    """A server that opens another sum of ciphertexts than that of the survivors."""

    def survey(srv: Adding, arrived: Any) -> Any:
        asking, folded, dropped = flow.step("survey").fn(srv, arrived)
        ring = kahe.of_vectors(folded.terms).shape.ring
        total = change(folded.total.total().astype(np.uint64), heard).astype(ring.dtype)
        ring.reduce(total)
        accumulator = Accumulator(ring, total.size)
        accumulator.add(total)
        return asking, Folded(folded.terms, accumulator), dropped

    return flow.replace(survey=survey)


SETS: dict[str, Change] = {
    "without the victim": lambda total, c: total - c[VICTIM],
    "with the victim twice": lambda total, c: total + c[VICTIM],
    "another in the victim's place": lambda total, c: total - c[VICTIM] + c[2],
    "the victim alone": lambda _total, c: c[VICTIM],
}


@attack(
    37,
    "ciphertexts added over another set than the keys",
    lie="the sum of the ciphertexts lacks the victim's, has it twice, another in its place, or it alone; or one element of it does",
    notice="the server's own step, after round 4, by kahe-residual; a server that takes the check out opens noise",
    on=["kahe"],
    strikes=["Enciphered"],
)
def another_set(target: Target) -> Verdict:
    """A sum that comes out all the same must be the true one."""
    return combine((f"{name}, {where}", _over(target, name, where)) for name in SETS for where in ("whole", "one element"))


def _over(target: Target, name: str, where: str) -> Verdict:
    fed, heard = long(target.cohort(), 2 * ELEMENT + 10), dict[int, NDArray[np.uint64]]()

    def listening(letter: Letter) -> Iterable[Letter]:
        if isinstance(letter.message, Enciphered):
            heard[letter.sender.index] = letter.message.c.values.astype(np.uint64)
        return (letter,)

    def change(total: NDArray[np.uint64], c: Mapping[int, NDArray[np.uint64]]) -> NDArray[np.uint64]:
        other = SETS[name](total, c)
        return other if where == "whole" else np.where(np.arange(total.size) // rlwe.DEGREE == 1, other, total)

    sessions = {SERVER: fed.server(flow=_folding(target.flow, heard, change))}
    return _total(fed, run(fed, sessions=sessions, network=listening))


def _total(fed: Federation, outcome: simulate.Outcome) -> Verdict:
    """Broken by a sum that is not that of all."""
    if not outcome.outputs:
        return noticed(outcome) or harmless("nothing was opened")
    found, true = outcome.outputs[0].values.tolist(), fed.sum(fed.parties)
    if found == true:
        return harmless("the sum is the true one")
    at = next(i for i, (one, other) in enumerate(zip(found, true, strict=True)) if one != other)
    return broken("a sum that is nobody's was taken for one", whose="all", recovered=found[at : at + 5], true=true[at : at + 5])


@attack(
    37,
    "a ciphertext that its key does not open",
    lie="one party adds noise to one element of its ciphertext, too small to leave the range of a sum, and signs it",
    notice="the server's own step, after round 4, by kahe-residual: the round ends",
    on=["kahe"],
    strikes=["Enciphered"],
)
def fits_no_key(target: Target) -> Verdict:
    """Noise that begins in the bits below the digits, where an honest ciphertext has none."""
    fed = long(target.cohort(), ELEMENT + 2)

    def forge(p: KaheParameters, s: NDArray[np.int64], c: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        low = Replay("low")().words("low", c.size).astype(c.dtype)
        p.shape.ring.reduce(low)
        low >>= c.dtype.type(p.digits * p.width - 4)
        low[rlwe.DEGREE :] = 0  # the count stands in the last element
        return s, c + low

    outcome = run(fed, flows={len(fed.parties): forging(target.flow, forge=forge)})
    return _total(fed, outcome)


@attack(
    37,
    "a kept ciphertext of a party that was declared dropped",
    lie="the victim is said to have dropped out; the others open its mask key, and its ciphertext was kept",
    notice="nobody has to: its second mask stays shut, so its key and its ciphertext do; shown all, it refuses by agreed-signature",
    on=["kahe"],
    strikes=["Dropped"],
)
def kept(target: Target) -> Verdict:
    """The victim's masked key without its pair masks is still under a whole keystream."""
    fed = target.cohort()
    server = KaheServer(fed)
    L = server.up_to_masks()
    server.agree_on((VICTIM,))
    server.open_all()
    views = dict.fromkeys(fed.everybody, tuple(u for u in fed.everybody if u != VICTIM))
    s_sk, b = (rebuild(server.shares(VICTIM, secret, {}, views), fed.terms.parameters.keys.shares) for secret in "sb")
    if s_sk is None:
        return by_party(server)
    terms, sent = key_terms(fed.terms), server.all(Enciphered)[VICTIM]
    pairs = pair_keys(terms, L, VICTIM, server.publics, {VICTIM: KeyPair.from_secret(s_sk)})
    y = sent.y.values.copy()
    plus, minus = [k for v, k in pairs.items() if v < VICTIM], [k for v, k in pairs.items() if v > VICTIM]
    apply_masks(y, plus, minus if b is None else [*minus, self_mask(terms, L, VICTIM, b)])
    key = terms.parameters.ring.centre(y)[:-1]
    return stolen(server, VICTIM, server.opens(server.ciphertexts()[VICTIM], key, 1), why="its ciphertext opens")
