"""Black-box attacks on what travels: rows 8, 15, 24, 31 and 33, for any protocol that the seam carries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from protocols import simulate
from protocols.session import SERVER, Address, Farewell, Letter, Session, client
from securefl.audit.attacks.traffic import BENDS, delaying, doubling, kinds, liar, recorded, replaying, spoiling
from securefl.audit.federation import Federation, run
from securefl.audit.judging import judge
from securefl.audit.registry import UPLOAD, attack
from securefl.audit.target import PAYLOAD, Target
from securefl.audit.verdict import Verdict, broken, combine, harmless, inapplicable

OCCASIONS: dict[str, dict[str, object]] = {
    "another round": {"round": 3},
    "another attempt": {"attempt": 1},
    "another run": {"run": "x"},
}


def changed_inputs(fed: Federation) -> Federation:
    """The same parties with other secrets: what a replayed vector would bring back shows."""
    vectors = {u: x.copy() for u, x in fed.vectors.items()}
    for x in vectors.values():
        x[: PAYLOAD - 1] = -x[: PAYLOAD - 1] // 2
    return replace(fed, vectors=vectors)


@attack(
    8,
    "a party's messages of another round, attempt or run",
    lie="each message of one party in turn is replaced by the one that it sent on another occasion",
    notice="the server, on arrival, by the signature over the session identity",
)
def replay_upwards(target: Target) -> Verdict:
    """One kind and one occasion at a time."""
    return _replay(target, "server", lambda sender, _: sender == client(1))


@attack(
    8,
    "the server's messages of another round, attempt or run",
    lie="each message to one party in turn is replaced by the one that it got on another occasion",
    notice="that party, by signatures, boxes and its own entry, which hold the session identity",
)
def replay_downwards(target: Target) -> Verdict:
    """One kind and one occasion at a time."""
    return _replay(target, "client", lambda _, to: to == client(1))


def _replay(target: Target, role: str, ends: object) -> Verdict:
    fed = target.federation()
    tries = list[tuple[str, Verdict]]()
    for what, occasion in list(OCCASIONS.items())[: 1 if target.quick and target.parties > 10 else None]:
        old = recorded(changed_inputs(fed).at(**occasion))
        for kind in kinds(target, role):
            network = replaying(old, kind.__name__, ends)  # type: ignore[arg-type]
            tries.append((f"{kind.__name__} of {what}", judge((fed, run(fed, network=network)))))
    return combine(tries)


@attack(
    15,
    "one party sends garbage",
    lie="each message of one party in turn is cut short, announced as huge, spelled otherwise, made longer, or has a bit flipped",
    notice="the server, on arrival, which expels the sender by name; the others finish",
)
def garbage(target: Target) -> Verdict:
    """Every kind, every way."""
    fed, me = target.federation(), liar(target)
    ways = list(BENDS.items()) if not target.quick or target.parties <= 10 else list(BENDS.items())[::2]
    tries = list[tuple[str, Verdict]]()
    for kind in kinds(target, "server"):
        for how, bend in ways:
            spoilt = list[Letter]()
            verdict = judge((fed, run(fed, network=spoiling(me, kind.__name__, bend, spoilt=spoilt))), finish=True)
            if not spoilt:  # such as what only a few openers send
                continue
            if how == "not canonical" and verdict.status == "harmless":
                verdict = broken("a message in a second spelling is taken", whose=str(me))
            tries.append((f"{kind.__name__} {how}", verdict))
    return combine(tries)


@attack(
    15,
    "messages doubled, late, in another order, from strangers",
    lie="messages of one party come twice, or after their step ran; all come in reverse order; a stranger sends",
    notice="the server's session, which counts each once, notes the others and names the sender",
)
def disorder(target: Target) -> Verdict:
    """Every kind."""
    fed, me = target.federation(), liar(target)
    tries = list[tuple[str, Verdict]]()
    for kind in kinds(target, "server"):
        name = kind.__name__
        tries.append((f"{name} doubled", judge((fed, run(fed, network=doubling(me, name))))))
        tries.append((f"{name} late", judge((fed, run(fed, network=delaying(me, name))))))

    def strange(letter: Letter) -> Iterable[Letter]:
        return (letter, replace(letter, sender=client(target.parties + 1))) if letter.sender == me else (letter,)

    tries.append(("a stranger", judge((fed, run(fed, network=strange)))))
    tries.append(("reverse order", judge((fed, run(fed, network=_reversed(fed))))))
    return combine(tries)


def _reversed(fed: Federation) -> simulate.Network:
    """Letters of a kind wait for those of all others, and arrive last first."""
    held = list[Letter]()

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender == SERVER:
            return (letter,)
        held.append(letter)
        if len(held) < len(fed.parties):
            return ()
        out = held[::-1]
        held.clear()
        return out

    return network


@attack(
    24,
    "a vector late, halved or doubled",
    lie="one party's vector comes after the survivors were told, or half of it, or twice",
    notice="the server's session: half a vector leaves no trace, a second or a late one is not counted",
    strikes=[UPLOAD],
)
def vectors(target: Target) -> Verdict:
    """The messages with which inputs leave."""
    fed, me = target.federation(), liar(target)
    tries = list[tuple[str, Verdict]]()
    for kind in target.uploads:
        name = kind.__name__
        tries.append((f"{name} late", judge((fed, run(fed, network=delaying(me, name))))))
        tries.append((f"{name} twice", judge((fed, run(fed, network=doubling(client(1), name))))))
        for part in (0.5, 0.99):
            tries.append((f"{part:.0%} of {name}", _half(fed, name, me, part)))
    return combine(tries)


def _half(fed: Federation, kind: str, me: Address, part: float) -> Verdict:
    sessions = dict[Address, Session]()

    def network(letter: Letter) -> Iterator[Letter]:
        if letter.sender != me or type(letter.message).__name__ != kind:
            yield letter
            return
        data = b"".join(letter.chunks())
        yield from sessions[SERVER].feed(me, data[: int(part * len(data))])
        yield from sessions[SERVER].gone(me)

    return judge((fed, run(fed, network=network, sessions=sessions)))


@attack(
    31,
    "messages spoilt for one victim alone",
    lie="each message of the server in turn has a bit flipped on its way to one party; what it says on leaving is read",
    notice="that party, which leaves naming nobody and no reason; the others go on",
)
def selective(target: Target) -> Verdict:
    """One kind at a time; a farewell has room for one name, and it holds none of a party that did nothing wrong."""
    fed, victim = target.federation(), client(1)
    tries = list[tuple[str, Verdict]]()
    for kind in kinds(target, "client"):
        for how in ("a control bit flipped", "the last bit flipped"):
            said = list[Letter]()

            def watch(letter: Letter, _to: Address, _size: int, said: list[Letter] = said) -> None:
                if letter.sender == victim and isinstance(letter.message, Farewell):
                    said.append(letter)

            outcome = run(fed, network=spoiling(SERVER, kind.__name__, BENDS[how], victim), watch=watch)
            verdict = judge((fed, outcome))
            if any(len(b"".join(letter.chunks())) > 32 for letter in said):
                verdict = broken("a party that leaves says more than whom it blames")
            tries.append((f"{kind.__name__}, {how}", verdict))
    return combine(tries)


@attack(
    33,
    "sizes and counts against inputs",
    lie="everybody's input is zero in one run and as large as it may be in the other",
    notice="nobody has to: sizes, counts and order of all messages must be the same",
)
def sizes(target: Target) -> Verdict:
    """All deliveries of both runs are compared; times are not."""
    fed = target.federation()
    traffic = list[Counter[tuple[str, Address, Address, int]]]()
    for value in (0, fed.terms.parameters.max_abs, -fed.terms.parameters.max_abs):
        vectors = {u: np.full_like(x, value) for u, x in fed.vectors.items()}
        traffic.append(Counter(run(replace(fed, vectors=vectors)).traffic))
    different = [entry for other in traffic[1:] for entry in (traffic[0] - other) + (other - traffic[0])]
    if different:
        name, sender, to, size = different[0]
        return broken(f"a {name} from {sender} to {to} has {size} bytes for one input and not for another", whose=str(sender))
    count, total = sum(traffic[0].values()), sum(size for (*_, size), _ in traffic[0].items())
    return harmless(f"{count} messages, {total} bytes, the same for all inputs; times are not compared here")


@attack(
    34,
    "who took part, who dropped",
    lie="none: the server sees who answers",
    notice="nobody: visible by design, so nothing may be claimed from choosing parties",
)
def participation(target: Target) -> Verdict:
    """The server counts names on letters."""
    fed = target.federation()
    kind = next((k.__name__ for k in target.uploads), None)
    if kind is None:
        return inapplicable("no input leaves")
    outcome = run(fed, network=simulate.vanish({client(1): kind}))
    sent = {sender.index for name, sender, _, _ in outcome.traffic if name == kind}
    return Verdict("stated", f"the server knows that {len(sent)} of {len(fed.parties)} sent a vector, and that client 1 did not")
