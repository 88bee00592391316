"""A round of a simulation whose protocol hides nothing: the same steps by the same functions, without sessions and messages.

Every vector would reach the server in clear, and all parties lie in one process: so the vectors are added up where they are.
Models, randomness, accounts, journals, aborts and errors are those of the sessions, bit by bit; bytes are counted as those of the
messages that sessions would have sent, from their sizes.  A protocol says that it can (`protocols.sums.Scheme.in_clear`), and none
that hides anything can say so.

Sessions run wherever somebody looks at messages or could say no to them: where a tape, a log or evidence is written, with a ledger,
with a journal or a local flow of one's own, and in a round that a party's policy or the encoding refuses.

What it does not protect: anything.  It shows nothing of a protocol either: what sessions and messages do is not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Abort, Misuse, Refused
from protocols.letters import SERVER, Address, Letter, client
from protocols.rand import Rand, fresh
from protocols.schema import Message
from protocols.simulate import Outcome, together
from protocols.suite import Occasion, Terms
from protocols.sums import InClear, Party, Scheme
from protocols.vector import Sum, Vector
from securefl.encode import Plan, all_finite, round_each, round_unbiased, scale
from securefl.models import ModelFactory
from securefl.privacy.plain import PlainTraining
from securefl.recycled import Lent
from securefl.round import (
    broadcast,
    check_charged,
    contribution,
    decode_sum,
    encode_update,
    named,
    step,
    tell_limited,
    train,
    trained,
    update_of,
)
from securefl.round_types import Contribution, Joined, Site, Starting, Task
from securefl.server_side import ServerSide
from securefl.site_side import SiteSide
from securefl.timing import StepClock, Traffic

T = TypeVar("T")
TOGETHER = 64 * 1024
"""Values of the vectors that are encoded in one call, and then added: they stay in cache."""


@dataclass
class Opened(Outcome):
    """What became of a round without sessions; ``failed`` is why it gave no result, or None."""

    failed: Abort | None = None

    @property
    def abort(self) -> Abort | None:
        """Why there is no result, or None."""
        return self.failed


def notice(protocol: Scheme) -> str:
    """What whoever reads the result must know."""
    return (
        f"{protocol.name} hides nothing, so its rounds were simulated without messages: bytes are those that its messages have; "
        "a tape or logs make it send them"
    )


class ClearRounds:
    """Rounds of one run.

    Args:
        protocol: one with ``in_clear``.
        server: the server's half of the run.
        traffic: where bytes are counted.
        clock: where seconds are counted.
    """

    def __init__(self, protocol: Scheme, server: ServerSide, traffic: Traffic, clock: StepClock) -> None:
        if protocol.in_clear is None:
            raise Misuse(f"the sums of {protocol.name} are formed by its flow alone")
        self._begin, self._server, self._traffic = protocol.in_clear, server, traffic
        (kind,) = protocol.flow.messages("server")
        self._adds = protocol.flow.receiver(kind).name
        self._broadcast, self._train = clock.measured("broadcast", broadcast), clock.measured("train", train_all)
        self._encode, self._add = clock.measured("encode_update", encode_all), clock.measured(self._adds, add_all)
        self._total = clock.measured(self._adds, _total)
        self._decode, self._step = clock.measured("decode_sum", decode_sum), clock.measured("step", step)

    def run(
        self,
        parties: Sequence[tuple[SiteSide, Party]],
        gone: Mapping[int, str],
        occasion: Occasion,
        terms: Callable[[Occasion], Terms[Any]],
        model: ModelFactory,
        told: Callable[[int], None],
    ) -> Opened | None:
        """One round; None where it has to be one of sessions, and then nothing has happened.

        Args:
            parties: those invited, in the order of the roster.
            gone: for an index, before which message it vanishes.
            occasion: of the round.
            terms: from an occasion, the terms of the sum.
            model: makes a model with given parameters.
            told: called with the number of contributors, once the sum is open.

        Raises:
            UserError, Misuse: as the sessions.
        """
        start = self._server.start(occasion, terms(occasion), told=told)
        sites = [side.joining(party, occasion.run, terms, model, plan=start.plan) for side, party in parties]
        joined = _joined(start, sites)
        if joined is None:
            return None
        _, averaging, sent = self._broadcast(start)
        self._traffic.downloaded(self._size(SERVER, sent.message), sent.to)
        adding = self._begin(self._server.about.parameters)
        models = np.split(sent.message.weights.values, [*accumulate(joined.plan.blocks)])[:-1]
        lost = {index for index, stage in gone.items() if stage == type(adding.message).__name__}
        for group in _pieces(sites, together(self._server.about.limits)):
            made = self._train(group, models)
            for some in _pieces(made, max(1, TOGETHER // joined.plan.size)):
                vectors = self._encode(some, joined)
                self._add(adding, [x for one, x in zip(some, vectors, strict=True) if one.site.party.index not in lost])
            for site in group:
                site.guard.bind(joined.occasion)
                site.guard.spend()
        arrived = [site.party.index for site in sites if site.party.index not in lost]
        self._traffic.uploaded(type(adding.message), self._size(client(1), adding.message), arrived)
        try:
            total = _of_step(self._adds, self._total, adding)
            stepping = _of_step("decode_sum", self._decode, averaging, total)
            return Opened({}, [_of_step("step", self._step, stepping).value])
        except Abort as abort:
            return Opened({}, failed=abort)

    def _size(self, sender: Address, message: Message) -> int:
        """Bytes of a message on the wire."""
        return sum(map(len, Letter(sender, (), message, 0, self._server.about.limits).chunks()))


def train_all(sites: Sequence[Site], models: Sequence[NDArray[np.float32]]) -> list[Contribution]:
    """`securefl.round.train` of several sites; an algorithm's own part gets models of its own, as it could write into them.

    Where no code but the trainers' runs, all sites train before the first update is read: code that is used stays in cache.
    """
    tasks = [Task(site, tuple(models) if site.local is None else tuple(map(np.copy, models))) for site in sites]
    if not all(map(_only_trains, sites)):
        return [train(task) for task in tasks]
    lent, error = list[list[Lent]](), None
    try:
        for task in tasks:
            lent.append([trained(task, number) for number in range(len(task.site.folds))])
    except Exception as failure:  # noqa: BLE001  (raised again, after what is wrong with a site before)
        error = failure
    made = [
        contribution(task, [update_of(task, number, one) for number, one in enumerate(own)])
        for task, own in zip(tasks, lent, strict=False)
    ]
    if error is not None:
        raise error
    return made


def _only_trains(site: Site) -> bool:
    """Whether nothing of a site is asked, told or kept between its training and the encoding of its update."""
    beside = site.plan.sums or site.private or site.places is not None or site.local is not None
    return not beside and all(type(training) is PlainTraining for training in site.training)


def encode_all(contributions: Sequence[Contribution], joined: Joined) -> list[Vector]:
    """`securefl.round.encode_update` of several sites, rounded together."""
    plan, rands, own = joined.plan, list[Rand](), any(one.site.entropy is not fresh for one in contributions)
    if type(plan) is not Plan:
        return [encode_update(one, joined) for one in contributions]
    real = np.empty((len(contributions), plan.size))
    for one, out in zip(contributions, real, strict=True):
        site = one.site
        with named(site.name):
            check_charged(site)
            rands += [site.entropy()] if own else []
            clipped, cut = scale(plan, one.updates, one.weights, one.sums, out)
        tell_limited(site, plan, clipped, cut)
    rounded = round_each(real, rands) if own else round_unbiased(real, fresh())  # one source of them all is as good as many
    return [*map(Vector, rounded)]


def add_all(adding: InClear, vectors: Sequence[Vector]) -> None:
    """Add them up."""
    adding.add(*vectors)


def _total(adding: InClear) -> Sum:
    return adding.total()


def _pieces(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """So many at a time."""
    return (items[first : first + most] for first in range(0, len(items), most))


def _joined(start: Starting, sites: Sequence[Site]) -> Joined | None:
    """What the sites go by, if each of them takes part; None where one would refuse to."""
    try:
        for policy in {id(site.party.policy): site.party.policy for site in sites}.values():
            policy.check(start.terms)
        for site in sites:
            site.party.policy.check_epsilon(site.epsilon, site.delta)
        plan = start.plan.at(np.array(start.plan.state, dtype=np.float32))
    except Refused:
        return None
    return Joined(start.occasion, plan) if all(map(all_finite, start.models)) else None


def _of_step(name: str, fn: Callable[..., Any], *args: Any) -> Any:
    """Run a step; an abort says in which one."""
    try:
        return fn(*args)
    except Abort as abort:
        abort.step = abort.step or name
        raise
