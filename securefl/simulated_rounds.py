"""The rounds of a run whose parties all live in this process, one after the other, and what is noted of them.

Each party has a session of its own that gets nothing but messages; what crosses between them is real bytes, counted.  A round that
aborts leaves the model as it was, is not retried, and its training steps are charged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from protocols import simulate
from protocols.flow import Flow
from protocols.once import shared_work
from protocols.rand import Entropy, fresh
from protocols.session import SERVER, Session, client
from securefl.handshakes import Handshakes
from securefl.in_clear import ClearRounds
from securefl.modules import Copier
from securefl.parties import Consortium
from securefl.privacy.differencing import Cohorts
from securefl.results import RoundRecord
from securefl.resume import Progress
from securefl.sampling import cohort_of
from securefl.server_side import ServerSide
from securefl.site_side import SiteSide, epsilon_of
from securefl.timing import StepClock, Traffic, beside
from securefl.trainer import ClientTrainer

if TYPE_CHECKING:
    from securefl.audit.recording import Recording

OUT = "out since an earlier round"
"""Where a party is lost that was lost before, of a handshake that prepares several rounds."""

Dropouts = Callable[[int, Sequence[str]], Mapping[str, str]]
"""From the number of a round and the stages (messages that a party sends), who vanishes in it, and before which message."""


def at_random(names: Sequence[str], p: float) -> Dropouts:
    """Each party vanishes with probability ``p`` before a random message."""

    def gone(_number: int, stages: Sequence[str]) -> Mapping[str, str]:
        if not p:
            return {}
        rand = fresh()
        uniform = rand.words("who", len(names)) * 2.0**-64
        where = rand.below("where", len(stages), len(names))
        return {name: stages[w] for name, u, w in zip(names, uniform, where, strict=True) if u < p}

    return gone


class SimulatedRounds:
    """The rounds of a run in one process.

    Args:
        run: gives the name of the run.
        registered: gives the registered parties, before each round.
        server: the server's half of the run.
        sites: the other halves, by name.
        keys: where the secrets of the sums come from.
        flow: of a round, with the protocol embedded.
        template: the model, with any parameters.
        trainer: reads metrics out of the sums.
        clock: measures the steps.
        dropouts: who vanishes.
        sampling: where the cohorts of rounds are drawn from.
        recording: writes down what the server and each party saw, if anything is to be written.
        in_clear: whether rounds go without sessions where they can: `securefl.in_clear`.
        on_notice: called with lines that the user should see.

    Attributes:
        about: what the run is.
        timed: the flow of a round, with every step measured.
        progress: how far the run is.
        traffic: bytes by party since the run began or went on.
        cohorts: who was in which sum that was opened.
        invited: who is in the round.
    """

    def __init__(
        self,
        run: Callable[[], str],
        registered: Callable[[], Consortium],
        server: ServerSide,
        sites: Mapping[str, SiteSide],
        keys: Handshakes,
        flow: Flow,
        *,
        template: nn.Module,
        trainer: ClientTrainer,
        clock: StepClock,
        dropouts: Dropouts,
        sampling: Entropy,
        recording: Recording | None,
        in_clear: bool,
        on_notice: Callable[[str], None],
    ) -> None:
        self.about, self._run, self._registered, self._server, self.sites = server.about, run, registered, server, sites
        self.keys, self.timed, self._trainer = keys, clock.timed(flow), trainer
        self.clock, self._dropouts, self.sampling = clock, dropouts, sampling
        self._recording, self._notice = recording, on_notice
        self.traffic, self.cohorts, self.invited = Traffic([*sites]), Cohorts([*sites]), registered()
        self.progress, self._told, self._copier = Progress(), list[int](), Copier(template)
        self._clear = ClearRounds(self.about.protocol, server, self.traffic, clock) if in_clear else None

    @property
    def in_clear(self) -> bool:
        """Whether rounds go without sessions where they can."""
        return self._clear is not None

    @property
    def stages(self) -> list[str]:
        """Names of the messages that a party sends in the secure sum of the next round: where it may vanish."""
        return self.keys.stages()

    @property
    def _after_opening(self) -> set[str]:
        """Steps of the server in which the sum is open, even if the round then aborts."""
        flow = self.keys.flow
        last, steps = flow.receiver(flow.messages("server")[-1]), flow.of("server")
        return {step.name for step in steps[steps.index(last) :]} | {"decode_sum", "step"}

    def go_on(self, progress: Progress) -> None:
        """Go on after the rounds of an earlier part of the run."""
        self.progress = progress
        first = self.keys.flow.messages("server")[0].__name__
        for record in progress.records:
            gone = {name: first if stage == OUT else stage for name, stage in record.dropped.items()}
            self.cohorts.add(record.number, self.keys.flow, gone, record.contributors or None)

    def next(self) -> RoundRecord:
        """The next round; one that an exception breaks off is in the records too, as aborted, with what it has cost and opened."""
        self.progress.begun += 1
        number, opened = self.progress.begun, self.progress.opened
        self._told.clear()
        try:
            self.progress.records.append(self._round(number))
        except BaseException:
            self.progress.opened = opened + bool(self._told)
            self.keys.broken_off()
            self.progress.records.append(self._record(number, {}, 0, "round: broken off", {}))
            raise
        return self.progress.records[-1]

    def _round(self, number: int) -> RoundRecord:
        self.clock.start_round()
        self.invite()
        index = {member.name: i for i, member in enumerate(self.invited.roster.members, 1)}
        gone = {name: stage for name, stage in self._dropouts(number, self.stages).items() if name in index}
        network = simulate.vanish({client(index[name]): stage for name, stage in gone.items()})
        out = list[str]()
        contributors, opened, watch = None, None, beside(self.traffic.watch, self._recording)
        try:
            with shared_work():
                failed = self.keys.begin(number, network, watch)
                if failed is not None:
                    return self._record(number, gone, 0, f"handshake: {failed.check}", {})
                out = [name for name, place in index.items() if not self.keys.present(place)]
                outcome = self._without_sessions(number, {index[name]: stage for name, stage in gone.items()})
                if outcome is None:
                    sessions = self.sessions(number)
                    outcome = simulate.run(sessions, network=network, watch=watch)
                    self.keys.end(sessions, outcome)
            if outcome.abort is None:
                opened = self._server.take(outcome.outputs)
                contributors = opened.aggregate.contributors
        finally:
            for site in self.sites.values():
                site.over(contributors)
            if self._told:
                apart = [*out, *(name for name in self.sites if name not in index)]
                absent = dict.fromkeys(apart, self.keys.flow.messages("server")[0].__name__)
                self.cohorts.add(number, self.keys.flow, {**gone, **absent}, self._told[0])
        gone = {**gone, **dict.fromkeys(out, OUT)}
        for address, session in outcome.sessions.items():
            left = session.ended
            name = [*index][address.index - 1]
            if address != SERVER and left is not None and left.check.startswith(("policy-", "ledger-")):
                self._notice(f"{name} does not take part, by its own {left.check.split('-')[0]}: {left.check} ({left.detail})")
        abort = outcome.abort
        self.progress.opened += abort is None or (abort.step in self._after_opening and abort.check not in ("quorum", "deadline"))
        metrics = dict[str, float]()
        if opened is not None:
            metrics = self.about.metrics(self._trainer, opened.aggregate.sums)
        if self._recording is not None:
            self._recording.end(outcome, contributors)
        return self._record(
            number, gone, contributors or 0, None if abort is None else f"{abort.step or 'round'}: {abort.check}", metrics
        )

    def invite(self) -> None:
        """Draw the cohort of the next round; between the rounds of a handshake all stay invited."""
        self.invited = cohort_of(self._registered(), self.about.parties, self.sampling)
        self.keys.invite(self.invited)
        self.traffic.names = [member.name for member in self.invited.roster.members]

    def sessions(self, number: int) -> dict[Any, Session]:
        """The sessions of a round, by address."""
        run = self._run()
        occasion = self._server.occasion(run, number)
        terms = self.keys.terms(occasion)
        if self._recording is not None:
            self._recording.begin(self.about.protocol, terms, self.invited.parties)
        sessions = {SERVER: self._server.session(self.timed, occasion, terms, ready=self.keys.server, told=self._told.append)}
        for party, member in zip(self.invited.parties, self.invited.roster.members, strict=True):
            if self.keys.present(party.index):
                sessions[client(party.index)] = self.sites[member.name].session(
                    self.timed,
                    party,
                    run,
                    self.keys.terms,
                    self._copier,
                    plan=self._server.plan,
                    guard=self.keys.guard,
                    ready=self.keys.ready(party.index),
                )
        return sessions

    def _without_sessions(self, number: int, gone: Mapping[int, str]) -> simulate.Outcome | None:
        """What became of a round whose vectors were added up where they are; None where it has to be one of sessions."""
        if self._clear is None:
            return None
        invited = zip(self.invited.roster.members, self.invited.parties, strict=True)
        parties = [(self.sites[member.name], party) for member, party in invited]
        occasion = self._server.occasion(self._run(), number)
        return self._clear.run(parties, gone, occasion, self.keys.terms, self._copier, self._told.append)

    def _record(
        self, number: int, gone: Mapping[str, str], contributors: int, aborted: str | None, metrics: dict[str, float]
    ) -> RoundRecord:
        return RoundRecord(
            number=number,
            invited=self.about.parties,
            contributors=contributors,
            dropped=dict(gone),
            aborted=aborted,
            metrics=metrics,
            epsilon=epsilon_of([*self.sites.values()]),
            seconds=self.clock.round(),
        )
