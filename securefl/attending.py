"""A party's driver: what its site does in a run, held to its own job, roster and journal.

What it does not protect: see `securefl.site_side`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from protocols.errors import Refused, require
from protocols.policy import Journal
from protocols.primitives.sign import SigningKey
from protocols.rand import Entropy, fresh
from protocols.session import Session
from protocols.suite import Occasion, Roster, Terms
from protocols.sums import Party
from securefl import delivery
from securefl.apart import train_beside
from securefl.errors import UserError
from securefl.modules import Copier
from securefl.policy_file import PolicyFile
from securefl.sampling import among, own_place, places_of
from securefl.shared_job import SharedJob, is_run_of, job_hash
from securefl.site_side import SiteSide
from securefl.site_stages import SiteStages
from securefl.stages import MARKS
from securefl.transport.roster import SignedRoster
from securefl.transport.sitting import Part, Withdraws
from securefl.usercode.frames import CodeFault

if TYPE_CHECKING:
    from torch import nn

    from securefl.audit.party_log import PartyLog
    from securefl.bundles.signed import SignedBundle
    from securefl.job import Job
    from securefl.own_rows import OwnRows
    from securefl.privacy.budget import PartyLedger
    from securefl.round_types import Contribution, Task
    from securefl.trainer import ClientTrainer


class Attending:
    """One site in one run.

    Args:
        job: the party's own copy.
        name: the party's name on the roster.
        identity: its signing key.
        journal: on its disk.
        rows: its own.
        ledger: its own, or None.
        notices: called with a line that the site's operator must see.
        entropy: of its sampling, noise and rounding.
        policy: its own, from its disk.
        logs: folder for the party's signed log of the run, or of each round where every one has another cohort; None keeps none.
        check: called with the job over its cohort, before anything leaves; gives lines for the operator, or refuses.
        bundle: that the job came in, approved by this party; None for a job file.
        code: model and trainer of the job's own, which run in a child (`securefl.usercode.trainer_of`).
    """

    def __init__(
        self,
        job: Job,
        name: str,
        identity: SigningKey,
        journal: Journal,
        rows: OwnRows,
        *,
        ledger: PartyLedger | None = None,
        notices: Callable[[str], None] = lambda _line: None,
        entropy: Entropy = fresh,
        policy: PolicyFile | None = None,
        logs: Path | None = None,
        check: Callable[[SharedJob], Sequence[str]] = lambda _shared: (),
        bundle: SignedBundle | None = None,
        code: tuple[ClientTrainer, nn.Module] | None = None,
    ) -> None:
        self._job, self._name, self._identity, self._journal, self._rows = job, name, identity, journal, rows
        self._ledger, self._notices, self._entropy, self._check = ledger, notices, entropy, check
        self._policy, self._bundle = policy or PolicyFile(""), bundle
        self._logs, self._code = logs, code
        self._log: PartyLog | None = None
        self._run = ""
        self._shared: SharedJob | None = None
        self._side: SiteSide | None = None
        self._stages: SiteStages | None = None
        self._party: Party | None = None

    @property
    def hash(self) -> bytes:
        """Of the own job, or of the bundle that it came in."""
        return job_hash(self._job) if self._bundle is None else self._bundle.hash

    def suite(self, cohort: Roster) -> str:
        """The suite string of the own job's rounds over a cohort.

        Raises:
            UserError: where the job cannot run with it.
        """
        return self._shared_over(cohort).suite

    def _shared_over(self, cohort: Roster) -> SharedJob:
        return SharedJob.of(self._job, cohort, None if self._bundle is None else self._bundle.hash, self._code)

    def welcome(self, run: str, roster: SignedRoster) -> None:
        """Take part in a run of the own job over a roster that the own consortium signed, and in no other after that.

        Raises:
            Refused: ``net-run`` for a run of another job, ``net-rerun`` for a second run, ``net-member`` where the own identity is
                not on the roster.
            UserError: where the author of the own bundle is not good by this roster, the job cannot run with this cohort, the own
                policy refuses it, or it would exceed a budget.
        """
        if self._bundle is not None:
            vouch(self._bundle, roster)
        if self._shared is not None and self._side is not None:
            require(run == self._run, "net-rerun", f"{run} after {self._run}: one run at a time, and by its operator's will")
            require(roster.cohort == self._shared.cohort, "net-cohort", "another cohort than the run began with")
            return
        cohort = roster.cohort
        mine = roster.place(self._name, self._identity.public)
        shared = self._shared_over(cohort)
        require(is_run_of(run, shared.hash), "net-run", "a run of another job than the party's own")
        about = shared.about
        sums = [(about.protocol.name, about.plan.size), *((one.protocol.name, one.size) for one in shared.stages)]
        for protocol, values in sums:
            self._policy.check_job(self._job, digest=shared.hash.hex(), protocol=protocol, values=values, registered=len(cohort))
        for line in self._check(shared):
            self._notices(line)
        side = SiteSide(
            shared.about,
            self._name,
            self._rows.folds(),  # in rounds, what the stages make of the rows
            copy.deepcopy(shared.trainer),
            entropy=self._entropy,
            notices=self._notices,
            noise_multiplier=shared.about.noise_multiplier,
        )
        stages = SiteStages(shared, run, self._rows, side.trainer, entropy=self._entropy, ledger=self._ledger)
        if self._ledger is not None:
            side.keep_ledger(self._ledger, run)
            stages.refuse_over(about.opened(1, side.spending.noise_multiplier), self._job.privacy.rounds)
        party = replace(
            Party(mine, self._identity, self._policy.over(shared.policy, about.parties, len(cohort))), journal=self._journal
        )
        if shared.stages:
            self._check_epsilon(party, side)
        self._run, self._shared, self._side, self._stages, self._party = run, shared, side, stages, party
        if self._job.privacy.clients_per_round is None:
            self._open_log(mine, cohort)

    def _open_log(self, index: int, cohort: Roster, number: int | None = None) -> None:
        """A log is of one roster: of the run's, or of one round's where each has another."""
        if self._logs is not None:
            from securefl.audit.party_log import PartyLog  # noqa: PLC0415

            self._logs.mkdir(parents=True, exist_ok=True)
            self._seal_log()
            self._log = PartyLog(new_log(self._logs, self._run, index, self._name, number), index, self._identity, cohort)

    def _check_epsilon(self, party: Party, side: SiteSide) -> None:
        """Hold ε of the whole run to the own policy before the first of its sums, as every round does."""
        try:
            party.policy.check_epsilon(side.spending.planned(self._name), side.spending.delta or 0.0)
        except Refused as error:
            raise UserError(f"{self._name} does not take part, by its own {self._policy.explain(error)}") from None

    def _seal_log(self) -> None:
        if self._log is not None:
            self._log.seal()
            self._log = None

    def convene(self, stage: str, number: int, attempt: int, cohort: bytes = b"") -> Part:
        """The part in a round, in a sum beside the rounds, or in the delivery of the final model.

        Args:
            stage: what is begun.
            number: of the round.
            attempt: of it.
            cohort: who is invited, as `securefl.sampling.as_bits`; empty for all.

        Raises:
            Refused: ``net-stage`` for something that the job does not hold, ``net-cohort`` for a cohort that it does not invite.
            Withdraws: from the sum over the final model's scores, where that model did not come yet.
        """
        shared, side, stages, party = self._shared, self._side, self._stages, self._party
        if shared is None or side is None or stages is None or party is None:
            raise Refused("net-stage", "a sum before the run was named")
        if stage == delivery.STAGE and number == self._job.privacy.rounds and not cohort:
            return Part(delivery.at_party(shared, party.index))
        if stage in MARKS:
            require(not cohort, "net-cohort", "a sum beside the rounds is one of all parties")
            if self._job.privacy.clients_per_round is not None:
                self._open_log(party.index, shared.cohort)
            return self._beside(stages, party, stage, number, attempt)
        fits = stage == "round" and 1 <= number <= self._job.privacy.rounds
        require(fits, "net-stage", f"{stage} {number}: the job has {self._job.privacy.rounds} rounds and nothing else")

        roster, place = self._invited(shared, party.index, cohort)
        if cohort:
            self._open_log(place, roster, number)
        from securefl.audit.recorded import Late, Recorded  # noqa: PLC0415

        book = None if self._log is None else Late(self._log)

        def terms(occasion: Occasion) -> Terms[Any]:
            require((occasion.round, occasion.attempt) == (number, attempt), "net-round", "a model of another round")
            found = shared.terms(occasion, roster)
            if book is not None:
                book.begin(shared.about.protocol, found)
            return found

        session = side.session(
            shared.flow, replace(party, index=place), self._run, terms, Copier(shared.template), shown=stages.shown
        )
        return Part(session if book is None else cast("Session", Recorded(session, book)), outside=self._train)

    def _beside(self, stages: SiteStages, party: Party, name: str, number: int, attempt: int) -> Part:
        """The part in a sum beside the rounds, recorded as a round is."""
        try:
            joined = stages.convene(name, number, attempt, party)
        except CodeFault as error:
            self._notices(f"{self._name} drops out of the {name}: {error}")
            raise Withdraws from error
        if joined is None:
            raise Withdraws
        session = joined.session
        if self._log is not None:
            from securefl.audit.recorded import Recorded  # noqa: PLC0415

            self._log.begin(joined.protocol, joined.terms)
            session = cast("Session", Recorded(session, self._log))
        return Part(session, (joined.vector,))

    def _invited(self, shared: SharedJob, mine: int, cohort: bytes) -> tuple[Roster, int]:
        """The roster of a round, and the own place in it."""
        count = self._job.privacy.clients_per_round
        require(bool(cohort) == (count is not None), "net-cohort", f"the job invites {'all parties' if count is None else count}")
        if count is None:
            return shared.cohort, mine
        places = places_of(cohort, len(shared.cohort), count)
        return among(shared.cohort, places), own_place(places, mine)

    def _train(self, task: Task) -> Contribution:
        """Train; where the job's own code fails in its child, the round goes on without this party."""
        try:
            folds = task.site.folds if self._stages is None else self._stages.folds
            return train_beside(replace(task, site=replace(task.site, folds=folds)))
        except CodeFault as error:
            self._notices(f"{self._name} drops out of this round: {error}")
            raise Withdraws from error

    def adjourn(self, session: Session) -> None:
        """Charge what has left; that of the fewest survivors, as the number is the server's word."""
        if self._side is not None:
            self._side.over(None)
        for value in session.outputs:
            if isinstance(value, delivery.Delivered) and self._stages is not None:
                self._stages.take(value)
        if session.ended is not None and session.ended.check.startswith(("policy-", "ledger-")):
            self._notices(f"{self._name} does not take part, by its own {self._policy.explain(session.ended)}")

    def model(self) -> bytes | None:
        """The final model as `securefl.load_model` reads it; None where none came."""
        return None if self._stages is None else self._stages.model

    def figures(self) -> dict[str, Any] | None:
        """The party's own figures, for itself alone: of the final model, and its place in each round; None without either."""
        own = self._side.places if self._side is not None else None
        beside = {} if own is None else {"places": own.plain()}
        try:
            found = None if self._stages is None else self._stages.figures
        except CodeFault as error:
            self._notices(f"{self._name} has no figures of its own: {error}")
            found = None
        return {**(found or {}), **beside} if found or beside else None

    def close(self) -> None:
        """The run is over: seal the log, end what runs for it."""
        if self._side is not None:
            self._side.trainer.close()
        self._seal_log()

    @property
    def epsilon(self) -> float | None:
        """ε spent in this run; None without differential privacy."""
        return None if self._side is None else self._side.epsilon


def vouch(bundle: SignedBundle, roster: SignedRoster) -> None:
    """Hold the author of a bundle to the newest roster.

    Raises:
        UserError: with the check, as `SignedBundle.check`.
    """
    try:
        bundle.check(roster)
    except Refused as error:
        raise UserError(f"the bundle {bundle.hash.hex()} is refused: {error.check} ({error.detail})") from None


def new_log(folder: Path, run: str, index: int, name: str, number: int | None = None) -> Path:
    """Where a log goes, of a run or of one round of it: a party that comes back into either begins another file."""
    from securefl.audit.party_log import log_name  # noqa: PLC0415

    base = f"{run[:16]}-{'' if number is None else f'{number:06d}-'}{log_name(index, name)}"
    names = [base, *(f"{base.removesuffix('.log')}.{again}.log" for again in range(2, 10_000))]
    return next(folder / one for one in names if not (folder / one).exists())
