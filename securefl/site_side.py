"""One site's half of a run: its rows, trainer, accounts and ledger, and a session for each round that it joins.

Nothing of it but the session's letters leaves the site.

What it does not protect: as `securefl.privacy`; a site that is asked twice for one round is kept from it by its journal alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.batch_types import Ready
from protocols.flow import Flow
from protocols.policy import Journal, OccasionGuard
from protocols.rand import Entropy
from protocols.session import Session, client
from protocols.suite import Occasion, Terms
from protocols.sums import Party
from securefl.encoding import Encoding
from securefl.models import ModelFactory
from securefl.places import Own
from securefl.privacy.budget import PartyLedger, RunCharges
from securefl.privacy.plain import LocalTraining, counted
from securefl.privacy.prepared import local_training
from securefl.privacy.spending import Spending
from securefl.private_layers import PrivateLayers
from securefl.resume import Charged
from securefl.round import charged
from securefl.round_types import Fold, Site
from securefl.run_terms import RunTerms
from securefl.trainer import ClientTrainer


class SiteSide:
    """A site in a run.

    Args:
        about: what the run is, by the site's own reckoning.
        name: the site's name.
        folds: its rows, one entry for each model trained side by side.
        trainer: how it trains; the site's own copy.
        entropy: of its sampling, noise and rounding.
        notices: called with a line that the site's operator must see.
        noise_multiplier: from `RunTerms.noise_multiplier`, which takes a while to find.
        private: for each model, what keeps the layers that never leave the site; empty where all are shared.

    Attributes:
        training: for each model, where batches come from; keeps the site's account.
        spending: what the run costs the site.
        places: the site's own place among the others, where the job opens them.
    """

    def __init__(
        self,
        about: RunTerms,
        name: str,
        folds: tuple[Fold, ...],
        trainer: ClientTrainer,
        *,
        entropy: Entropy,
        notices: Callable[[str], None],
        noise_multiplier: float | None,
        private: tuple[PrivateLayers, ...] = (),
    ) -> None:
        self.about, self.name, self.folds, self.trainer = about, name, folds, trainer
        self._guard: OccasionGuard | None = None
        self._entropy, self._notices, self._private = entropy, notices, private
        knobs = about.job.privacy
        self.training: tuple[LocalTraining, ...] = tuple(
            local_training(knobs, noise_multiplier=noise_multiplier, entropy=entropy, encoding=about.plan) for _ in folds
        )
        self.spending = Spending(knobs, about.plan, {name: self.training}, about.models_per_record, about.before)
        self._charges = RunCharges({}, "", [])
        self._sums = list[int | None]()
        self.places = Own(knobs.update_clip) if knobs.places else None
        self._local = about.algorithm.local()

    def keep_ledger(self, ledger: PartyLedger, run: str) -> None:
        """Charge every input to a ledger before it leaves.

        Raises:
            UserError: where all rounds together would exceed a budget.
        """
        self._charges = RunCharges({self.name: ledger}, run, self.about.opened(1, self.spending.noise_multiplier))
        self._charges.check(self.about.job.privacy.rounds)

    @property
    def epsilon(self) -> float | None:
        """ε spent so far; None without differential privacy."""
        return self.spending.epsilon().get(self.name)

    def joining(
        self,
        party: Party,
        run: str,
        terms: Callable[[Occasion], Terms[Any]],
        model: ModelFactory,
        *,
        plan: Encoding | None = None,
        guard: Callable[[Journal], OccasionGuard] = OccasionGuard,
        ready: Ready | None = None,
        shown: Callable[[NDArray[np.float32]], None] = lambda _beside: None,
    ) -> Site:
        """What the site takes part in one round with: where a session starts from.

        Args:
            party: place in the roster, identity, policy and journal.
            run: name of the run.
            terms: from an occasion, the terms that this site expects.
            model: makes an untrained model, or one with given parameters.
            plan: how updates become the vector of the sum; that of the first round unless given, as its public values come with
                the models.
            guard: from the journal, what is asked before something leaves.
            ready: what a handshake for several rounds left.
            shown: called with the public values of the run that came with the models; it may refuse.
        """
        self._guard = guard(self._charges.journal(self.name, party.journal))
        return Site(
            name=self.name,
            party=party,
            folds=self.folds,
            trainer=self.trainer,
            training=self.training,
            model=model,
            plan=plan or self.about.plan,
            steps=self.about.job.privacy.steps,
            weight=self.about.weight,
            epsilon=self.spending.planned(self.name),
            delta=self.spending.delta or 0.0,
            run=run,
            terms=terms,
            entropy=self._entropy,
            notices=self._notices,
            charged=tuple(charged(training) for training in self.training),
            guard=self._guard,
            ready=ready,
            shown=shown,
            local=self._local,
            places=self.places,
            private=self._private,
        )

    def session(
        self,
        flow: Flow,
        party: Party,
        run: str,
        terms: Callable[[Occasion], Terms[Any]],
        model: ModelFactory,
        **options: Any,
    ) -> Session:
        """The session of one round; ``flow`` is that of the round, with the protocol embedded, the rest as for `joining`."""
        site = self.joining(party, run, terms, model, **options)
        return Session(flow, client(party.index), {"server": [0]}, [site], self.about.limits, guard=self._guard)

    def over(self, contributors: int | None) -> None:
        """The round is over, or broken off: charge the account if the input has left, as over so many contributors or the fewest.

        A site counts only on a number of contributors that it knows itself, or simulates.
        """
        spent = self._guard is not None and self._guard.spent
        for layers in self._private:
            layers.settle(opened=spent and contributors is not None)
        if self._local is not None:
            self._local.over(left=spent)
        self.spending.charge([self.name] if spent else [], contributors)
        self._sums += [contributors] if spent else []
        self._charges.settle(self.about.plan.event(contributors))
        self._guard = None

    def charged(self) -> Charged:
        """What is in the account."""
        return Charged(tuple(self._sums), tuple(one.steps_taken for one in self.training if counted(one)))

    def recharge(self, found: Charged) -> None:
        """Charge a new account with what an earlier part of the run has."""
        for contributors in found.sums:
            self.spending.charge([self.name], contributors)
            self._sums.append(contributors)
        for one, steps in zip([one for one in self.training if counted(one)], found.steps, strict=True):
            one.restore(steps)


def epsilon_of(sites: Sequence[SiteSide]) -> dict[str, float]:
    """ε spent by each site so far, by name; empty without differential privacy."""
    return {name: value for site in sites for name, value in site.spending.epsilon().items()}
