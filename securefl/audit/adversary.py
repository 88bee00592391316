"""Adversaries of one's own, in about ten lines: a server that says what it likes, a network that rewrites, a party of other steps.

    def greedy(server):
        '''Ask for everybody's share of client 1's seed, although it is the only one.'''
        for u in server.sessions:
            answers = yield u, MyRequest((1,))
        return {1: unmask(server.heard[1, MyVector], answers)}

    audit_protocol("mine", adversaries=[Adversary.server("greedy", greedy)])

What such a server returns is held against the true inputs: only a secret that is right breaks a protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any

from protocols.errors import Abort, Refused
from protocols.flow import Port, Step
from protocols.schema import Message
from protocols.session import Letter
from securefl.audit.cheating import CheatingServer
from securefl.audit.federation import Federation, run
from securefl.audit.judging import by_party, judge
from securefl.audit.registry import Attack, Play
from securefl.audit.seen import a
from securefl.audit.target import PAYLOAD, Target
from securefl.audit.verdict import AdversaryFault, Verdict, broken

Claims = Mapping[int, Sequence[int]] | None
"""What an adversary says the inputs of some parties are: all coordinates, or the first few."""
Script = Callable[[Any], Generator[tuple[int, Message], list[Message], Claims]]
"""A server: yields whom it tells what, is sent what that party answers, and returns what it makes of all that it heard."""


@dataclass(frozen=True)
class Adversary:
    """One attack of a user's own.

    Attributes:
        name: what is tried.
        play: tries it on a target.
        lie: the lie, in one sentence.
        notice: who must notice, and by which check.
    """

    name: str
    play: Play
    lie: str = ""
    notice: str = ""

    @classmethod
    def server(
        cls, name: str, script: Script, *, kind: type[CheatingServer] = CheatingServer, lie: str = "", notice: str = ""
    ) -> Adversary:
        """A server that runs no step: it drives real parties with messages of its own.

        ``script(server)`` is a generator: it yields pairs ``(index of a party, message)``, is sent the list of messages that the
        party answers with (empty where it has left), and returns what it claims: a mapping from index to values, or None.
        ``kind`` is what the script is given: `securefl.audit.secagg_server.SecAggServer` and its like also make an honest server's
        messages.
        """
        return cls(name, lambda target: _served(name, target, script, kind), lie, notice)

    @classmethod
    def network(cls, name: str, rewrite: Callable[[Letter], Iterable[Letter]], *, lie: str = "", notice: str = "") -> Adversary:
        """A network that says for every letter what is delivered instead.

        ``rewrite(letter)`` is called with every `protocols.session.Letter` before it is delivered, and returns an iterable of
        letters: ``(letter,)`` lets it through, ``()`` swallows it, ``(replace(letter, message=…),)`` changes it.
        """
        return cls(name, lambda target: _rewritten(name, target, rewrite), lie, notice)

    @classmethod
    def party(cls, name: str, index: int, *, lie: str = "", notice: str = "", **steps: Callable[..., Any]) -> Adversary:
        """A party that runs other functions in the place of the named steps.

        Each takes what the step takes, by the same names (``securefl draw PROTOCOL`` shows states and messages, the protocol's
        module the functions), and returns what the step returns, as many items in the same order: such as
        ``mask(shared, sealed, x)`` the pair ``(Covered, Masked)``.  It may raise `protocols.errors.Refused`, as the step does.
        """
        return cls(name, lambda target: _stepped(name, target, index, steps), lie, notice)

    @property
    def attack(self) -> Attack:
        """As the registry has them, under no row of the catalogue."""
        return Attack(0, self.name, self.lie, self.notice, self.play)


@contextmanager
def _own_code(name: str, what: str, *through: type[Exception]) -> Iterator[None]:
    """The adversary's own code runs: what goes wrong in it is not the protocol's, but for what real parties do when told."""
    passing: tuple[type[Exception], ...] = (AdversaryFault, *through)
    try:
        yield
    except passing:
        raise
    except Exception as error:
        if any(frame.f_code is CheatingServer.tell.__code__ for frame, _ in walk_tb(error.__traceback__)):
            raise
        text = " ".join(str(error).split())[:200]
        raise AdversaryFault(f"the adversary {name!r}: {what} failed with {type(error).__name__}: {text}") from error


def _must(ok: object, name: str, what: str) -> None:
    if not ok:
        raise AdversaryFault(f"the adversary {name!r}: {what}")


def _served(name: str, target: Target, script: Script, kind: type[CheatingServer]) -> Verdict:
    fed = target.federation()
    server = kind(fed)
    with _own_code(name, "its script"):
        playing = script(server)
    _must(isinstance(playing, Generator), name, f"its script must be a generator, not give {type(playing).__name__}: it yields")
    to_send: Any = None  # as a generator begins
    try:
        for _ in range(target.bounds.deliveries):
            with _own_code(name, "its script", StopIteration):
                said = playing.send(to_send)
            to, message = said if isinstance(said, tuple) and len(said) == 2 else (None, None)
            known = type(to) is int and to in server.sessions and isinstance(message, Message)
            _must(known, name, f"its script must yield (index of a party, message), not {_short(said)}")
            to_send = server.tell(to, message)
    except StopIteration as stop:
        claims = stop.value
        fits = claims is None or (isinstance(claims, Mapping) and all(u in fed.parties for u in claims))
        _must(fits, name, f"its script must return a mapping from indexes of parties to values, or None, not {_short(claims)}")
        with _own_code(name, "what its script claims"):
            return claimed(fed, claims) or by_party(server)
    return by_party(server)


def _short(value: object) -> str:
    return text if len(text := repr(value)) <= 60 else f"{text[:60]}…"


def claimed(fed: Federation, claims: Claims) -> Verdict | None:
    """Broken, if one of the claims is right."""
    for u, values in (claims or {}).items():
        found, true = [int(value) for value in values], fed.secret(u)
        if len(found) >= min(PAYLOAD, len(true)) and found == true[: len(found)]:
            return broken("the adversary computes it", whose=f"client {u}", recovered=found, true=true[: len(found)])
    return None


def _rewritten(name: str, target: Target, rewrite: Callable[[Letter], Iterable[Letter]]) -> Verdict:
    def network(letter: Letter) -> Iterator[Letter]:
        with _own_code(name, "rewrite"):
            given = rewrite(letter)
        need = "rewrite must return an iterable of letters: (letter,) lets one through, () swallows it"
        _must(isinstance(given, Iterable), name, f"{need}; it returned {_short(given)} for {a(type(letter.message).__name__)}")
        letters = iter(given)
        while True:
            try:
                with _own_code(name, "rewrite", StopIteration):
                    arriving = next(letters)
            except StopIteration:
                return
            _must(isinstance(arriving, Letter), name, f"{need}; it gave {_short(arriving)}")
            yield arriving

    fed = target.federation()
    return judge((fed, run(fed, network=network)))


def _stepped(name: str, target: Target, index: int, steps: Mapping[str, Callable[..., Any]]) -> Verdict:
    fed, own = target.federation(), {step.name: step for step in target.flow.of("client")}
    _must(index in fed.parties, name, f"there is no party {index!r}: they are 1 to {len(fed.parties)}")
    unknown = sorted(set(steps) - set(own))
    _must(not unknown, name, f"a party of {target.name} has no step {', '.join(unknown)}; it has {', '.join(own)}")
    flow = target.flow.replace(**{step: _checked(name, own[step], fn) for step, fn in steps.items()})
    return judge((fed, run(fed, flows={index: flow})))


def _checked(name: str, step: Step, fn: Callable[..., Any]) -> Callable[..., Any]:
    """The adversary's function, held to what the step gives."""
    need = f"({', '.join(port.type.__name__ for port in step.gives)})" if len(step.gives) != 1 else step.gives[0].type.__name__

    def wrong(port: Port, item: object) -> bool:
        return item is None or (port.carrier == "message" and not isinstance(item, Message))

    def checked(**taken: Any) -> Any:
        with _own_code(name, step.name, Refused, Abort):
            given = fn(**taken)
        items = given if isinstance(given, tuple) and len(step.gives) != 1 else (given,) if step.gives else ()
        fits = len(items) == len(step.gives) and not any(map(wrong, step.gives, items))
        _must(fits, name, f"{step.name} must return {need}, as the step does, not {_short(given)}")
        return given

    return checked
