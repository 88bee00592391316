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

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protocols.schema import Message
from protocols.session import Letter
from protocols.simulate import Network
from securefl.audit.cheating import CheatingServer
from securefl.audit.federation import Federation, run
from securefl.audit.judging import by_party, judge
from securefl.audit.registry import Attack, Play
from securefl.audit.target import PAYLOAD, Target
from securefl.audit.verdict import Verdict, broken

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

        ``kind`` is what the script is given: `securefl.audit.secagg_server.SecAggServer` and its like also make an honest server's
        messages.
        """
        return cls(name, lambda target: _served(target, script, kind), lie, notice)

    @classmethod
    def network(cls, name: str, rewrite: Callable[[Letter], Any], *, lie: str = "", notice: str = "") -> Adversary:
        """A network that says for every letter what is delivered instead: itself, others, or nothing."""
        return cls(name, lambda target: _rewritten(target, rewrite), lie, notice)

    @classmethod
    def party(cls, name: str, index: int, *, lie: str = "", notice: str = "", **steps: Callable[..., Any]) -> Adversary:
        """A party that runs other functions in the place of the named steps."""
        return cls(name, lambda target: _stepped(target, index, steps), lie, notice)

    @property
    def attack(self) -> Attack:
        """As the registry has them, under no row of the catalogue."""
        return Attack(0, self.name, self.lie, self.notice, self.play)


def _served(target: Target, script: Script, kind: type[CheatingServer]) -> Verdict:
    fed = target.federation()
    server = kind(fed)
    playing, answer = script(server), list[Message]()
    try:
        to, message = next(playing)
        for _ in range(target.bounds.deliveries):
            answer = server.tell(to, message)
            to, message = playing.send(answer)
    except StopIteration as stop:
        return claimed(fed, stop.value) or by_party(server)
    return by_party(server)


def claimed(fed: Federation, claims: Claims) -> Verdict | None:
    """Broken, if one of the claims is right."""
    for u, values in (claims or {}).items():
        found, true = [int(value) for value in values], fed.secret(u)
        if len(found) >= min(PAYLOAD, len(true)) and found == true[: len(found)]:
            return broken("the adversary computes it", whose=f"client {u}", recovered=found, true=true[: len(found)])
    return None


def _rewritten(target: Target, rewrite: Network) -> Verdict:
    fed = target.federation()
    return judge((fed, run(fed, network=rewrite)))


def _stepped(target: Target, index: int, steps: Mapping[str, Callable[..., Any]]) -> Verdict:
    fed = target.federation()
    return judge((fed, run(fed, flows={index: target.flow.replace(**steps)})))
