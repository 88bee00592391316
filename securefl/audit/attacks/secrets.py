"""Black-box searches and what follows from them: rows 4, 18, 19, 24 and 32, for any protocol that the seam carries."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from protocols.errors import Misuse
from protocols.session import SERVER, Letter, client
from protocols.simulate import Network
from protocols.suite import Roster
from securefl.audit.attacks.traffic import BENDS, spoiling
from securefl.audit.federation import Federation, run
from securefl.audit.judging import judge, noticed
from securefl.audit.knowledge import Observed, find_run, in_text, observe, payload_of, secret_bytes, spellings, vectors_of, walk
from securefl.audit.registry import UPLOAD, attack
from securefl.audit.target import PAYLOAD, Target, invited_strangers
from securefl.audit.trials import TRIALS
from securefl.audit.verdict import Verdict, broken, combine, harmless, stated, unavailable

VICTIM = 1


@attack(
    18,
    "the server's whole state and traffic",
    lie="none: all that the server got and kept is searched for keys, seeds, inputs, sample counts, and used to open uploads",
    notice="nobody: nothing may be there",
)
def search(target: Target) -> Verdict:
    """In a run of all, and in one in which a party vanishes after its vector has left."""
    fed = target.federation()
    lost = target.flow.messages("server")[-1].__name__
    last = client(target.parties)
    return combine(
        [
            ("all survive", _searched(observe(fed), target)),
            ("one is lost", _searched(observe(fed, _without(last.index, lost)), target)),
        ]
    )


def _without(u: int, kind: str) -> Network:
    return lambda letter: () if letter.sender == client(u) and type(letter.message).__name__ == kind else (letter,)


def _searched(seen: Observed, target: Target) -> Verdict:
    """Secrets as they are, then inputs as they are, then what they are computed from."""
    if not seen.letters:
        return unavailable("nothing reached the server in an honest run")
    traffic, fed = seen.traffic, seen.fed
    held = {secret_bytes(item): where for where, item in seen.view if secret_bytes(item)}
    kept = [bytes(item) for _, item in seen.view if isinstance(item, bytes | bytearray | memoryview)]
    for u, secrets in seen.secrets.items():
        for raw, where in secrets.items():
            if raw in traffic or raw in held or any(raw in piece for piece in kept):
                opened = TRIALS[target.shape](seen, raw) if target.shape in TRIALS else []
                proof = (opened, fed.secret(opened_by(seen, opened))) if opened else (raw, raw)
                return broken(f"the server has {where}", whose=f"client {u}", recovered=proof[0], true=proof[1])
    if (verdict := _inputs(seen, traffic)) is not None:
        return verdict
    opened = TRIALS[target.shape](seen, None) if target.shape in TRIALS else []
    if opened:
        u = opened_by(seen, opened)
        return broken("what the server holds opens one upload", whose=f"client {u}", recovered=opened, true=fed.secret(u))
    what = f"{len(traffic)} bytes and {len(seen.view)} values hold none of {sum(map(len, seen.secrets.values()))} secrets"
    return harmless(what)


def opened_by(seen: Observed, opened: list[int]) -> int:
    """Whose input that is."""
    return next((u for u in seen.fed.parties if seen.fed.secret(u) == opened), 0)


def _inputs(seen: Observed, traffic: bytes) -> Verdict | None:
    fed = seen.fed
    modulus = fed.terms.parameters.ring.modulus
    for u in fed.parties:
        payload, weight = payload_of(fed, u), int(fed.vectors[u][PAYLOAD - 1])
        arrays = [a for letter, _ in seen.letters if letter.sender == client(u) for a in vectors_of(letter.message)]
        arrays += [item for _, item in seen.view if isinstance(item, np.ndarray)] if len(fed.parties) > 1 else []
        clear = any(find_run(array, payload, modulus) for array in arrays)
        if clear or any(spelled in traffic for spelled in spellings(payload)):
            return broken("its input reaches the server in clear", whose=f"client {u}", recovered=payload, true=payload)
        said = [item for letter, _ in seen.letters if letter.sender == client(u) for _, item in walk(_control(letter))]
        if weight in [item for item in said if isinstance(item, int) and not isinstance(item, bool)]:
            return broken("a sample count is sent in clear", whose=f"client {u}", recovered=[weight], true=[weight])
    return None


def _control(letter: Letter) -> dict[str, object]:
    """A message without its vectors."""
    return {name: item for name, item in vars(letter.message).items() if not hasattr(item, "values")}


@attack(
    19,
    "logs, warnings, output, errors, reprs, pickles",
    lie="none, and every message spoilt in turn: whatever is said or can be printed or copied is searched for secrets and inputs",
    notice="nobody: nothing may be there",
)
def said(target: Target) -> Verdict:
    """All text that a run leaves, and the text of every state at every moment."""
    fed = target.federation()
    texts, sink = list[str](), io.StringIO()
    handler = logging.StreamHandler(sink)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            seen = observe(fed)
            texts += _told(seen)
            spoilt = target.flow.messages("client")
            for kind in spoilt[:1] if target.quick and target.parties > 10 else spoilt:
                texts += _told(observe(fed, spoiling(SERVER, kind.__name__, BENDS["a control bit flipped"], client(VICTIM))))
            texts += [str(entry.message) for entry in warned]
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    texts.append(sink.getvalue())
    return _text_verdict(seen, "\n".join(texts))


def _told(seen: Observed) -> Iterator[str]:
    """Errors, states and sessions as text."""
    for session in seen.outcome.sessions.values():
        yield f"{session!r} {session.ended} {session.ended!r} {session.faults} {[str(fault) for fault in session.faults]}"
    for states in seen.states.values():
        yield from (f"{state} {state!r}" for state in states)


def _text_verdict(seen: Observed, text: str) -> Verdict:
    for u, secrets in seen.secrets.items():
        for raw, where in secrets.items():
            if any(spelled in text for spelled in in_text(raw)):
                return broken(f"{where} stands in a text", whose=f"client {u}", recovered=raw, true=raw)
        payload = payload_of(seen.fed, u).tolist()
        if re.search(r"\b" + r"[^\d-]{1,4}".join(str(value).lstrip() for value in payload[:4]) + r"\b", text):
            return broken("its input stands in a text", whose=f"client {u}", recovered=payload, true=payload)
        for where, item in (leaf for state in seen.states.get(u, ()) for leaf in walk(state, type(state).__name__)):
            if secret_bytes(item) is not None and _copies(item):
                return broken(f"{where} can be pickled", whose=f"client {u}")
    return harmless(f"{len(text)} letters of text hold no secret, and none can be pickled")


def _copies(item: object) -> bool:
    try:
        item.__reduce_ex__(2)
    except TypeError:
        return False
    return True


@attack(
    24,
    "a vector declared dropped, but kept",
    lie="the server keeps the victim's vector, says that it never came, and has the others open what the victim's absence asks for",
    notice="nobody has to: what is opened must not take the victim's masks off",
    strikes=[UPLOAD],
)
def kept(target: Target) -> Verdict:
    """The sum of all vectors less the opened sum is the victim's input, unless it has a mask that nobody opens."""
    fed, names = target.federation(), {kind.__name__ for kind in target.uploads}
    caught = dict[str, Letter]()

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender == client(VICTIM) and type(letter.message).__name__ in names:
            caught[type(letter.message).__name__] = letter
        return () if letter.sender == client(VICTIM) and caught else (letter,)

    seen = observe(fed, network)
    p, verdict = fed.terms.parameters, judge((fed, seen.outcome))
    if verdict.broken or not seen.outcome.outputs:
        return verdict
    own = [array for letter in caught.values() for array in vectors_of(letter.message)]
    others = [array for u, arrays in seen.uploads(target.uploads).items() if u != VICTIM for array in arrays]
    if any(array.shape != (p.size + 1,) for array in (*own, *others)):
        return harmless("its vectors are no masked inputs; the sum is that of the others")
    total = sum((array.astype(object) for array in others), start=own[0].astype(object))
    left = [(int(a) - int(b)) % p.ring.modulus for a, b in zip(total, seen.outcome.outputs[0].values, strict=False)]
    found = [value - p.ring.modulus if value > p.ring.modulus // 2 else value for value in left]
    if found == fed.secret(VICTIM):
        return broken(
            "all vectors less the opened sum", whose="client 1", recovered=found[:PAYLOAD], true=fed.secret(VICTIM)[:PAYLOAD]
        )
    return harmless("the victim's vector stays under a mask that nobody opened")


@attack(
    4,
    "a cohort of the server's own",
    lie="the server invites one honest party and its own, whose inputs it knows, and subtracts them from the sum",
    notice="the party, by the identities that it knows out of band",
)
def sybils(target: Target) -> Verdict:
    """All but the first party are the server's."""
    fed = invited_strangers(target.federation())
    outcome = run(fed)
    for total in outcome.outputs:
        found = (total.values - np.array(fed.sum(u for u in fed.parties if u != VICTIM)))[:PAYLOAD].tolist()
        if found == fed.secret(VICTIM)[:PAYLOAD]:
            return broken(
                "the sum less the server's own inputs", whose="client 1", recovered=found, true=fed.secret(VICTIM)[:PAYLOAD]
            )
    return noticed(outcome) or harmless("no sum was opened")


@attack(
    32,
    "a stranger on the roster, another key for a party, one key under two names",
    lie="rosters that the parties do not know, or that give one of them another key",
    notice="every party before it sends anything, by the identities that it knows; the roster itself, for a key that stands twice",
)
def rosters(target: Target) -> Verdict:
    """Revocation, expiry and signed registries: no such part yet."""
    fed = target.federation()
    stranger = invited_strangers(fed).roster.members[-1]
    tries = list[tuple[str, Verdict]]()
    forged = Roster((*fed.roster.members[:-1], stranger))
    tries.append(("a stranger", _invited(fed, forged)))
    tries.append(
        (
            "another key for party 1",
            _invited(fed, Roster((replace(fed.roster.members[0], identity=stranger.identity), *fed.roster.members[1:]))),
        )
    )
    try:
        Roster((*fed.roster.members[:-1], replace(fed.roster.members[0], name="again")))
    except Misuse:
        tries.append(("one key under two names", Verdict("refused", check="misuse")))
    else:
        tries.append(("one key under two names", broken("a roster with one key under two names")))
    return combine(tries)


def _invited(fed: Federation, roster: Roster) -> Verdict:
    told = replace(fed, terms=replace(fed.terms, roster=roster))
    sent = list[str]()
    outcome = run(told, watch=lambda letter, _to, _size: sent.append(type(letter.message).__name__))
    if outcome.outputs:
        return stated("the parties know no identities out of band, so nobody objects")
    return noticed(outcome) or harmless("no sum was opened")
