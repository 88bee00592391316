"""Black-box attacks on randomness: rows 7 and 13.  No keystream is ever used twice, and none follows from what others know.

Vectors are compared place by place: with k of n places equal, where each is equal by chance with probability 1/R, the verdict is
"reused" if that has probability below 2^-40.  Sound generators that are seeded badly look like good ones, so seeds themselves are
looked at, and masks are recomputed from other randomness.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.flow import Flow, Step
from protocols.rand import Entropy, Rand, Replay, Seed, fresh
from protocols.session import client
from securefl.audit.federation import Federation, run
from securefl.audit.judging import noticed
from securefl.audit.knowledge import Observed, observe
from securefl.audit.registry import UPLOAD, attack
from securefl.audit.target import PAYLOAD, Target
from securefl.audit.verdict import Verdict, broken, combine, harmless, unavailable

CHANCE = 40
"""Bits of the largest probability with which two vectors are taken for one by chance."""
VICTIM = 1


def suspicious(equal: int, places: int, modulus: int) -> bool:
    """Whether so many of the places agree that it is no chance."""
    return equal > 0 and equal * math.log2(modulus) - math.log2(math.comb(places, equal)) > CHANCE


def other_secrets(fed: Federation) -> Federation:
    """The same parties with other secrets."""
    vectors = {u: x.copy() for u, x in fed.vectors.items()}
    for u, x in vectors.items():
        x[: PAYLOAD - 1] = np.arange(1, PAYLOAD) * (37 + u)
    return replace(fed, vectors=vectors)


def masked(target: Target, fed: Federation) -> dict[int, list[NDArray[Any]]]:
    """The vectors with which inputs leave, by party."""
    return observe(fed).uploads(target.uploads)


def entropies(salt: str) -> Callable[[int], Entropy]:
    """Entropy that is the same for a party whenever it is asked for under that name."""
    return lambda u: Replay(f"{salt} {u}")


def compare(fed: Federation, other: Federation, one: list[NDArray[Any]], two: list[NDArray[Any]], u: int, v: int) -> Verdict | None:
    """Whether two uploads have the same masks: y1 − y2 is x1 − x2, or ciphertexts of one input are equal."""
    p = fed.terms.parameters
    for a, b in zip(one, two, strict=False):
        if a.shape == b.shape == (p.size + 1,) and p.ring.modulus:
            x1, x2 = (np.append(f.vectors[w], 1).astype(object) for f, w in ((fed, u), (other, v)))
            left = (a.astype(object) - b.astype(object) - x1 + x2) % p.ring.modulus
            if suspicious(int((left == 0).sum()), left.size, p.ring.modulus):
                found = [int(value) for value in (a.astype(object) - b.astype(object)) % p.ring.modulus][:PAYLOAD]
                centred = [value - p.ring.modulus if value > p.ring.modulus // 2 else value for value in found]
                true = (fed.vectors[u] - other.vectors[v])[:PAYLOAD]
                return broken(
                    "y1 − y2 is x1 − x2: one keystream for two vectors", whose=f"client {u}", recovered=centred, true=true
                )
        elif a.shape == b.shape and a.ndim == 1 and a.size >= 8 and suspicious(int((a == b).sum()), a.size, 256):
            return broken("two ciphertexts of one input are equal", whose=f"client {u}", recovered=a[:PAYLOAD], true=b[:PAYLOAD])
    return None


@attack(
    7,
    "keystreams of two rounds, attempts, models or sessions",
    lie="vectors of one party are subtracted: of two rounds, two attempts, a session whose journal is lost, cloned machines",
    notice="nobody has to: fresh randomness and the session identity keep every keystream apart",
    strikes=[UPLOAD],
)
def twice(target: Target) -> Verdict:
    """With the operating system's randomness, and for other occasions with randomness that repeats."""
    fed = target.federation()
    other = other_secrets(fed)
    one, two = (replace(f, entropy=lambda _: fresh) for f in (fed, other))
    clone, again = (replace(f, entropy=entropies("clone")) for f in (fed, other))
    pairs = {
        "two rounds": (one, two.at(round=1)),
        "two attempts, the journal lost": (one, two.at(attempt=1)),
        "one session twice, the journal lost": (one, two),
        "two rounds of cloned machines": (clone, again.at(round=1)),
        "two models, cloned machines": (clone, again.at(model=b"m" * 32)),
    }
    return combine((name, _apart(target, *both)) for name, both in pairs.items())


def _apart(target: Target, one: Federation, two: Federation) -> Verdict:
    """What two vectors of one party that leave on two occasions say of each other."""
    if target.shape == "he":  # ciphertexts hide by their randomness: compared for one input
        two = replace(two, vectors=one.vectors)
    first, second = masked(target, one), masked(target, two)
    if not first or not second:
        return unavailable("no vector leaves: with this randomness no round comes to that")
    for u in first.keys() & second.keys():
        if (verdict := compare(one, two, first[u], second[u], u, u)) is not None:
            return verdict
    return harmless("no keystream repeats")


@attack(
    13,
    "masks of one value, of several parties, or that follow from what is public",
    lie="vectors are compared coordinate by coordinate and party by party, and masks are recomputed with other randomness",
    notice="nobody has to: every mask is uniform, a party's own, and depends on its private randomness",
    strikes=[UPLOAD],
)
def masks(target: Target) -> Verdict:
    """Who knows all but a party's randomness must not know its mask."""
    fed = target.federation()
    vectors = masked(target, fed)
    tries = [("coordinates of one vector", _coordinates(fed, vectors)), ("vectors of two parties", _parties(fed, vectors, target))]
    guess = masked(target, replace(fed, entropy=entropies("adversary"), vectors={u: x * 0 for u, x in fed.vectors.items()}))
    tries.append(("recomputed with the adversary's own randomness", _recomputed(fed, vectors, guess)))
    return combine(tries)


def _coordinates(fed: Federation, vectors: dict[int, list[NDArray[Any]]]) -> Verdict:
    p = fed.terms.parameters
    for u, arrays in vectors.items():
        for array in arrays:
            if array.shape != (p.size + 1,):
                continue
            mask = (array.astype(object) - np.append(fed.vectors[u], 1).astype(object)) % p.ring.modulus
            value, count = Counter(mask.tolist()).most_common(1)[0]
            if count > 1 and suspicious(count - 1, p.size, p.ring.modulus):
                found = [
                    (int(y) - int(array[-1]) + 1) % p.ring.modulus for y in array[:PAYLOAD]
                ]  # the last coordinate is known to be 1
                centred = [x - p.ring.modulus if x > p.ring.modulus // 2 else x for x in found]
                why = f"one mask value, {value}, for {count} coordinates"
                return broken(why, whose=f"client {u}", recovered=centred, true=fed.vectors[u][:PAYLOAD])
    return harmless("no mask value repeats within a vector")


def _parties(fed: Federation, vectors: dict[int, list[NDArray[Any]]], target: Target) -> Verdict:
    known = sorted(vectors)
    for i, u in enumerate(known):
        for v in known[i + 1 :]:
            if target.shape != "he" and (verdict := compare(fed, fed, vectors[u], vectors[v], u, v)) is not None:
                return verdict
    return harmless("no two parties have one mask")


def _recomputed(fed: Federation, vectors: dict[int, list[NDArray[Any]]], guess: dict[int, list[NDArray[Any]]]) -> Verdict:
    """Masks that do not depend on private randomness are those of a run that the adversary makes by itself, on zeros."""
    p = fed.terms.parameters
    for u in vectors.keys() & guess.keys():
        for a, b in zip(vectors[u], guess[u], strict=False):
            if a.shape != (p.size + 1,) or a.shape != b.shape:
                continue
            found = [(int(x) - int(y)) % p.ring.modulus for x, y in zip(a, b, strict=True)][:PAYLOAD]
            centred = [x - p.ring.modulus if x > p.ring.modulus // 2 else x for x in found]
            if centred == fed.secret(u)[:PAYLOAD]:
                why = "the mask follows from what is public: a run with the adversary's own randomness has the same"
                return broken(why, whose=f"client {u}", recovered=centred, true=fed.secret(u)[:PAYLOAD])
    return harmless("masks depend on private randomness")


@attack(
    13,
    "seeds of few bits",
    lie="the bytes of all seeds and keys of two rounds are compared, and seeds are changed in single places before they are used",
    notice="nobody has to: every byte of a secret varies, and every bit counts",
    strikes=[UPLOAD],
)
def seeds(target: Target) -> Verdict:
    """Constant bytes betray a short seed; a changed bit without effect betrays one that is cut when it is used."""
    fed = replace(target.federation(), entropy=lambda _: fresh)
    runs = [observe(fed), observe(fed.at(round=1))]
    return combine([("all bytes vary", _varied(runs)), ("all bits count", _counted(target))])


def _varied(runs: list[Observed]) -> Verdict:
    groups: dict[tuple[str, int], set[bytes]] = {}
    for seen in runs:
        for secrets in seen.secrets.values():
            for raw, where in secrets.items():
                groups.setdefault((where, len(raw)), set()).add(raw)
    for (where, size), values in groups.items():
        if len(values) < 6:
            continue
        fixed = [i for i in range(size) if len({raw[i] for raw in values}) == 1]
        if len(fixed) > 1:  # by chance with probability below 2^-70
            left = 8 * (size - len(fixed))
            return broken(f"{len(fixed)} of {size} bytes of {where} never change: 2^{left} guesses find it")
    return harmless(f"{sum(map(len, groups.values()))} secrets of {len(groups)} kinds vary in every byte")


def _counted(target: Target) -> Verdict:
    """Every seed in the state with which an input is masked is changed in single bits: the masked input must change each time."""
    step = next((s for s in target.flow.of("client") if s.spends), None)
    if step is None or step.state is None:
        return harmless("no step spends an input")
    ignored = list[str]()
    run(target.federation(), flows={VICTIM: _probing(target.flow, step, ignored)})
    if ignored:
        return broken(f"bits of {ignored[0]} have no effect on what is sent: it is cut before it is used")
    return harmless("every bit of the seeds counts that was tried")


def _probing(flow: Flow, step: Step, ignored: list[str]) -> Flow:
    """The flow with one step that is run again for every changed seed, on the side."""
    at, original = step.state.name if step.state is not None else "", step.fn

    def sent(arguments: dict[str, Any]) -> list[bytes]:
        again = {name: Rand(Seed(bytes(31) + b"p")) if isinstance(item, Rand) else item for name, item in arguments.items()}
        result = original(**again)
        items = result if isinstance(result, tuple) else (result,)
        return [array.tobytes() for item in items for array in _arrays(item)]

    def probe(**arguments: Any) -> Any:
        before = sent(arguments)
        for name, changed in _changed(arguments[at]):
            if sent({**arguments, at: changed}) == before:
                ignored.append(name)
        return original(**arguments)

    return flow.replace(**{step.name: probe})


def _arrays(item: object) -> Iterator[NDArray[Any]]:
    yield from (value.values for value in vars(item).values() if hasattr(value, "values") and isinstance(value.values, np.ndarray))


def _changed(state: Any) -> Iterator[tuple[str, Any]]:
    if not is_dataclass(state) or isinstance(state, type):
        return
    for field in fields(state):
        value = getattr(state, field.name)
        if isinstance(value, Seed):
            for place in (0, 5, 16, 31):
                raw = bytearray(value.reveal())
                raw[place] ^= 0x10
                yield f"{type(state).__name__}.{field.name}", replace(state, **{field.name: Seed(bytes(raw))})


@attack(
    7,
    "a retry after the vector has left",
    lie="the server ends a round once it has all vectors, and starts the next attempt of it",
    notice="every party, by its journal, whatever became of the first attempt",
)
def after_masking(target: Target) -> Verdict:
    """No second vector of one round leaves, so none can be subtracted."""
    fed = target.federation().with_memory()
    names = {kind.__name__ for kind in target.uploads}
    stopped = [False]

    def network(letter: Any) -> Any:
        stopped[0] = stopped[0] or type(letter.message).__name__ in names
        return () if stopped[0] and letter.sender.role == "server" else (letter,)

    first = observe(fed, network)
    second = observe(replace(other_secrets(fed), entropy=entropies("restarted")).at(attempt=1))
    again = second.uploads(target.uploads)
    if first.uploads(target.uploads) and again:
        return broken(f"{len(again)} inputs left a second time for one round", whose=f"client {min(again)}")
    return noticed(second.outcome) or harmless(f"{client(VICTIM)} sends nothing twice")
