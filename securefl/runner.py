"""`Runner`: model, data and trainer in, a `RunResult` out; every round is one secure sum.

It looks through what it is given, puts server and sites together and runs the rounds (`securefl.simulated_rounds`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from protocols.flow import Flow
from protocols.policy import MemoryJournal
from protocols.rand import Entropy, fresh
from protocols.suite import SumParameters
from protocols.sums import Scheme, foreign, notice
from securefl.aggregator import ServerAggregator
from securefl.algorithms import Algorithm, server_of, with_algorithm
from securefl.claims import check_claims
from securefl.cohort import expected_aborts, short_sums
from securefl.encode import limit_of
from securefl.encoding import Encoding
from securefl.errors import UserError
from securefl.handshakes import handshakes, rounds_together
from securefl.in_clear import notice as sent_nothing
from securefl.inputs import effective, folds_of, hints, look_through, module_of, refuse_kinds, refuse_own_steps
from securefl.job import Job
from securefl.metrics import BinaryMetrics, best_of
from securefl.models import shapes_of, threads_for, to_vector
from securefl.modules import Copier
from securefl.parties import Consortium
from securefl.privacy.budget import Ledgers
from securefl.privacy.composition import ALONE, Before
from securefl.privacy.spending import Spending
from securefl.private_layers import Layered, models_of, one_pattern
from securefl.results import RoundRecord, RunResult
from securefl.resume import Checkpoint, Progress
from securefl.round import round_flow, weight_was_cut
from securefl.round_types import Fold
from securefl.run_result import result_of
from securefl.run_terms import RunTerms
from securefl.sampling import refuse_recording
from securefl.secure import secured
from securefl.server_side import ServerSide
from securefl.simulated_rounds import Dropouts, SimulatedRounds, at_random
from securefl.site_side import SiteSide, epsilon_of
from securefl.timing import StepClock
from securefl.trainer import ClientTrainer

if TYPE_CHECKING:
    from securefl.audit.recording import Recording

OWN_DATA = "own data"
"""What a user's data are called where no name is given."""


def wanted(recording: Recording | None) -> Recording | None:
    """The recording, where anything is to be written."""
    return recording if recording is not None and recording.needed else None


class Runner:
    """Federated training of one model over several sites.

    Args:
        model: a module, or a callable that makes one; the start of training.  With ``shared``, may map site names to such.
        data: for each site its `Fold` (training and held-out rows, map-style data sets of (features, label)), or several, one for
            each model that is trained side by side in cross-validation.
        trainer: what a site does; every site gets a copy of its own.
        server: what the server does with the sum.
        job: the knobs; those that name built-in data, models and baselines belong to ``securefl run`` and are refused here.
        name: what the data are called in the result.
        flow: a local flow of your own from `securefl.round_types.Task` to `securefl.round_types.Contribution`.
        models_per_record: in how many of the models one record takes part; by default in all.
        consortium: registered parties; by default made up.
        entropy: by site name, where its sampling, noise and rounding come from; by default the operating system.
        dropouts: who vanishes; by default each party with probability ``job.simulation.dropout`` before a random message.
        on_notice: called with each new line of ``warnings``, as it comes up.
        recording: writes down what the server and each party saw (`securefl.audit.recording`).
        ledgers: by site name, its own `securefl.privacy.budget.PartyLedger`, charged before each of its inputs leaves.
        before: noised sums of the same records that were opened before: ε is over these and the training.
        sampling: where the server draws the cohorts of rounds from; by default the operating system.
        algorithm: what sites and server do (`securefl.algorithms`); by default as the job says.
        shared: pattern of names of parameters, such as ``trunk.*``: these enter the sum, the others never leave their site.

    Attributes:
        warnings: lines that the user should see; what is known before training is there before it.
        layered: the models of all sites where some of their layers are private, else None.
        rounds: what runs them, and has noted what they took.

    Raises:
        UserError, Misuse: for anything that cannot work, before training.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module] | Mapping[str, nn.Module | Callable[[], nn.Module]],
        data: Mapping[str, Fold | Sequence[Fold]],
        *,
        trainer: ClientTrainer | None = None,
        server: ServerAggregator | None = None,
        job: Job | None = None,
        name: str = OWN_DATA,
        flow: Flow | None = None,
        models_per_record: int | None = None,
        consortium: Consortium | None = None,
        entropy: Callable[[str], Entropy] = lambda _name: fresh,
        dropouts: Dropouts | None = None,
        on_notice: Callable[[str], None] = lambda _line: None,
        recording: Recording | None = None,
        ledgers: Ledgers | None = None,
        before: Before = ALONE,
        sampling: Entropy = fresh,
        algorithm: Algorithm | None = None,
        shared: str | None = None,
    ) -> None:
        refuse_kinds(job, trainer, server)
        refuse_own_steps(job, trainer, flow)
        chosen = with_algorithm(job or Job(), algorithm, own_flow=flow is not None)
        self.job, self.name = effective(chosen, trainer, server, own_dropouts=dropouts is not None), name
        knobs, performance = self.job.privacy, self.job.performance
        self.trainer = copy.deepcopy(trainer) if trainer is not None else ClientTrainer(learning_rate=performance.learning_rate)
        self.folds = folds_of(data)
        metrics = getattr(self.trainer, "metrics", BinaryMetrics())
        self.trainer.metrics = replace(metrics, limit=limit_of(knobs.precision), folds=self._models)
        self.models_per_record = self._models if models_per_record is None else models_per_record
        if not 1 <= self.models_per_record <= self._models:
            raise UserError(f"models_per_record is {models_per_record}: it must lie in 1 … {self._models}, the number of folds")
        self.warnings, self._on_notice = list[str](), on_notice
        pattern = one_pattern(shared, self.job, own_flow=flow is not None)
        self.layered = None if pattern is None else Layered(models_of(model, self.folds, self._checked), pattern, self._models)
        each = None if self.layered is None else self.layered.templates
        self.template = each[next(iter(each))] if each else self._checked(model)
        policy = replace(short_sums(knobs).policy, min_cohort=knobs.min_cohort or 2)
        self.consortium = consortium or Consortium.of(list(self.folds), policy)
        if [member.name for member in self.consortium.roster.members] != list(self.folds):
            raise UserError("the consortium has other names than the data, or another order: each site needs its own party")
        vector, n = to_vector(self.template) if self.layered is None else self.layered.start, len(self.folds)
        self.about = RunTerms.of(
            self.job,
            n,
            vector.size,
            self.trainer.sums(),
            models=self._models,
            models_per_record=self.models_per_record,
            own_flow=flow is not None,
            before=before,
            algorithm=algorithm,
            shapes=shapes_of(self.template),
        )
        self.server = server_of(self.about.algorithm, self.job, n, server)
        self._server = ServerSide(self.about, self.about.start(vector), self.server)
        self.warnings += [line for line in (notice(self.protocol.name, self.parameters), foreign(self.protocol)) if line]
        if "model" in self.protocol.layouts(self.parameters):
            raise UserError(f"the protocol {self.protocol.name} has a layout named 'model': that name is the learning flow's")
        if flow is None:
            look_through(self.folds, self.trainer, each or self.template, sample_rate=knobs.sample_rate, private=self._private)
            for line in hints(self.trainer, self.template, self.folds):
                self._notice(line)
        recording, clock, dropout = wanted(recording), StepClock(time.perf_counter), self.job.simulation.dropout
        self.run_name = f"run-{fresh().bytes('run', 8).hex()}"
        keys = handshakes(
            self.protocol,
            self.parameters,
            self.consortium,
            run=lambda: self.run_name,
            rounds=knobs.rounds,
            each=self._together(recorded=recording is not None, vanishing=dropouts is not None or dropout > 0),
            timed=clock.timed,
        )
        self.flow = secured(round_flow(flow), keys.protocol)
        self.sites = self._enrolled({name: entropy(name) for name in self.folds}, ledgers or {})
        self.rounds = SimulatedRounds(
            lambda: self.run_name,
            lambda: self.consortium,
            self._server,
            self.sites,
            keys,
            self.flow,
            template=self.template,
            trainer=self.trainer,
            clock=clock,
            dropouts=dropouts or at_random([*self.folds], dropout),
            sampling=sampling,
            recording=recording,
            in_clear=recording is None and not flow and not ledgers and self._may_be_in_clear,
            on_notice=self._notice,
        )
        self._wall, self._done = 0.0, False
        self._say_beforehand()

    def _together(self, *, recorded: bool, vanishing: bool) -> int:
        """Rounds of one handshake."""
        asked, knobs = self.job.performance.handshake_rounds, self.job.privacy
        if recorded:
            refuse_recording(self.job, "a tape, a log or evidence")
            if asked not in (None, 1):
                raise UserError(
                    f"performance.handshake_rounds = {asked} is refused with a tape, a log or evidence: they are of single sums"
                )
            return 1
        sampled, alone = knobs.clients_per_round is not None, "dropouts" if vanishing else ""
        n = self.about.parties
        return rounds_together(asked, self.protocol, parties=n, stepwise=knobs.summed, alone=alone, sampled=sampled)

    @property
    def _may_be_in_clear(self) -> bool:
        """Whether the protocol has rounds without sessions, and no party a journal that would miss them."""
        own = any(type(party.journal) is not MemoryJournal for party in self.consortium.parties)
        return self.protocol.in_clear is not None and not own

    @property
    def _models(self) -> int:
        return len(next(iter(self.folds.values())))

    @property
    def _private(self) -> bool:
        return self.job.privacy.per_record

    @property
    def protocol(self) -> Scheme:
        """What forms the sums."""
        return self.about.protocol

    @property
    def parameters(self) -> SumParameters:
        """Of every sum."""
        return self.about.parameters

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        return self.rounds.progress

    @property
    def stages(self) -> list[str]:
        """Names of the messages that a party sends in the secure sum of the next round: where it may vanish."""
        return self.rounds.stages

    @property
    def plan(self) -> Encoding:
        """How updates become the vector of the next round's sum."""
        return self._server.plan

    @plan.setter
    def plan(self, plan: Encoding) -> None:
        self._server.plan = plan

    @property
    def models(self) -> list[NDArray[np.float32]]:
        """The global models as they are now, one vector of shape (d,) for each fold."""
        return self._server.models[: self._models]

    @models.setter
    def models(self, models: list[NDArray[np.float32]]) -> None:
        self._server.models = [*models, *self._server.models[len(models) :]]

    def _checked(self, given: object) -> nn.Module:
        from securefl.privacy import models as checks  # noqa: PLC0415

        model = copy.deepcopy(module_of(given))
        if self.job.model.fix:
            model, diff = checks.fix_model(model)
            if diff:
                self._notice(f"the model was changed:\n{diff}")
        checks.refuse_running_statistics(model)
        if self._private:
            checks.check_model(model)
        return model

    def _enrolled(self, entropy: Mapping[str, Entropy], ledgers: Ledgers) -> dict[str, SiteSide]:
        sigma = self.about.noise_multiplier
        sites = {
            name: SiteSide(
                self.about,
                name,
                folds,
                copy.deepcopy(self.trainer),
                entropy=entropy[name],
                notices=self._notice,
                noise_multiplier=sigma,
                private=() if self.layered is None else self.layered.parts[name],
            )
            for name, folds in self.folds.items()
        }
        for name, ledger in ledgers.items():
            if name in sites:
                sites[name].keep_ledger(ledger, self.run_name)
        return sites

    def _say_beforehand(self) -> None:
        knobs, dropout = self.job.privacy, self.job.simulation.dropout
        for line in check_claims(self.folds, knobs, self.models_per_record):
            self._notice(line)
        if dropout > 0:
            aborts = f"about {expected_aborts(self.job, self.about.parties):.1f} of {knobs.rounds} round{'s' * (knobs.rounds != 1)}"
            self._notice(f"each party vanishes with probability {dropout:g} in a round: expect {aborts} to abort")
        if line := self.plan.forecast():
            self._notice(line)
        if self.rounds.in_clear:
            self._notice(sent_nothing(self.protocol))
        for name, folds in self.folds.items():
            rows = [len(fold.train) for fold in folds]  # type: ignore[arg-type]
            if max(rows) > knobs.w_max and self.about.weight is None and not self.plan.tail:
                self._notice(weight_was_cut(name, knobs.w_max))

    def epsilon(self) -> dict[str, float]:
        """ε spent by each site so far; empty without differential privacy."""
        return epsilon_of([*self.sites.values()])

    @property
    def noise_multiplier(self) -> float | None:
        """Standard deviation of a site's own noise on the sum of a step's clipped gradients, divided by the clip; None without."""
        return self.spending.noise_multiplier

    @property
    def spending(self) -> Spending:
        """Of the first site: what all have in common."""
        return next(iter(self.sites.values())).spending

    def run(self, on_event: Callable[[RoundRecord], None] | None = None) -> RunResult:
        """Train all rounds and score the final model.  A run that was broken off goes on after the round that broke off.

        Args:
            on_event: called after each round.

        Raises:
            UserError: for an update that cannot be used, or where this Runner has given its result.
        """
        rounds = self.job.privacy.rounds
        if self._done:
            raise UserError(
                f"all {rounds} rounds have run, and the noise was made for no more: go on with a new Runner that starts from "
                "final_models(); what it spends of ε adds to what was spent"
            )
        with threads_for(self.template):
            began = time.perf_counter()
            try:
                while self.progress.begun < rounds and not self._stopped():
                    record = self.rounds.next()
                    if on_event is not None:
                        on_event(record)
            finally:
                self._wall += time.perf_counter() - began
            if all(record.aborted for record in self.progress.records):
                self._notice("every round was aborted: the model is the one that it began with")
            result = result_of(self, self._wall)
        self._done = True
        return result

    def public(self) -> tuple[tuple[NDArray[np.float32], ...], NDArray[np.float32]]:
        """The global models, and the encoding's public values."""
        return tuple(self._server.models), np.array(self._server.plan.state, dtype=np.float32)

    def go_on(self, found: Checkpoint) -> None:
        """Go on after the last round of a checkpoint of the same run, from `securefl.resume.read`."""
        self._server.restore(found.models, [float(value) for value in found.state])
        for name, site in self.sites.items():
            site.recharge(found.sites[name])
        self.rounds.go_on(found.progress)
        self._notice(f"resumed after round {found.progress.begun}: bytes, messages and times are those since then")
        if self.job.privacy.mechanism != "none":
            self._notice(
                "what rounds after a checkpoint spent before the run was stopped is not in ε: with --checkpoint 1 one a stop"
            )

    def _stopped(self) -> bool:
        """Whether the rounds that were asked for have brought nothing; the user is told.

        A round without the metric, such as one that aborted, says nothing of the model and does not count.
        """
        patience = self.job.privacy.patience
        if patience is None:
            return False
        scored = [record.metrics for record in self.progress.records]
        key, best = best_of(scored)
        if best is None or sum(key in metrics for metrics in scored[best + 1 :]) < patience:
            return False
        self._notice(f"stopped after round {self.progress.begun}: {key} has not improved for {patience} rounds (privacy.patience)")
        return True

    def _notice(self, line: str) -> None:
        if line not in self.warnings:
            self.warnings.append(line)
            self._on_notice(line)

    def final_models(self, site: str | None = None) -> list[nn.Module]:
        """The global models as modules, one for each fold; with private layers those of one ``site``, which has its own.

        Raises:
            UserError: with private layers without the name of a site.
        """
        if self.layered is not None:
            if site not in self.folds:
                raise UserError(f"with private layers every site has a model of its own: name one of {', '.join(self.folds)}")
            return self.layered.models(str(site), self.models)
        model = Copier(self.template)
        return [model(vector) for vector in self.models]

    def scored_models(self) -> list[nn.Module] | dict[str, list[nn.Module]]:
        """`final_models`, or with private layers those of each site by its name: a simulation can have them all."""
        return self.final_models() if self.layered is None else {name: self.final_models(name) for name in self.folds}
