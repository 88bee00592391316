"""A party's half of the sums beside the rounds of a run: what it adds to them, what it takes from them, held to its own view.

Each is charged to the party's ledger when its masked input leaves, as a round is, and asks the party's policy as a round does.

What it does not protect: see `securefl.shared_scaling` and `securefl.shared_assessment`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse, Refused, require
from protocols.rand import Entropy
from protocols.session import Session
from protocols.suite import Terms
from protocols.sums import Party, Scheme, client_session
from protocols.vector import Vector
from securefl import delivery
from securefl.shared_assessment import own_figures, own_scores
from securefl.shared_scaling import Scaling
from securefl.stages import ASSESSMENT, NUMBER, SCALING

if TYPE_CHECKING:
    from securefl.own_rows import OwnRows
    from securefl.privacy.budget import PartyLedger
    from securefl.results import Opened
    from securefl.round_types import Fold
    from securefl.shared_job import SharedJob
    from securefl.trainer import ClientTrainer


@dataclass(frozen=True, eq=False)
class Joined:
    """A party's part in a stage.

    Attributes:
        session: not begun.
        protocol: of the sum.
        terms: likewise.
        vector: what the party adds.
    """

    session: Session
    protocol: Scheme
    terms: Terms[Any]
    vector: Vector = field(repr=False)


class SiteStages:
    """The sums beside the rounds, at one party.

    Args:
        shared: the job, by the party's own reckoning.
        run: name of the run.
        rows: the party's own.
        trainer: that scores; the party's own copy.
        entropy: of noise and rounding.
        ledger: the party's own, or None.

    """

    def __init__(
        self,
        shared: SharedJob,
        run: str,
        rows: OwnRows,
        trainer: ClientTrainer,
        *,
        entropy: Entropy,
        ledger: PartyLedger | None,
    ) -> None:
        self._shared, self._run, self._rows, self._trainer, self._entropy = shared, run, rows, trainer, entropy
        self._ledger, self._folds = ledger, None if shared.scaling is not None else rows.folds()
        self._scaling: Scaling | None = None
        self._final: delivery.Delivered | None = None

    _folds: tuple[Fold, ...] | None

    def refuse_over(self, opened: Sequence[Opened], rounds: int) -> None:
        """Refuse, before anything leaves, a run whose sum for scaling and rounds would exceed a budget together.

        Args:
            opened: what one round opens.
            rounds: how many there are.

        Raises:
            UserError: naming the budget.
        """
        if self._ledger is None or self._shared.scaling is None:
            return
        from securefl.privacy.budget import charges_of, refuse_over  # noqa: PLC0415
        from securefl.privacy.composition import merged  # noqa: PLC0415

        stage = self._shared.scaling.stage
        known = {entry.run for entry in self._ledger.store.entries(self._ledger.place)}
        first = () if stage.occasion(self._run, 0).run in known else charges_of(stage.opened)
        each = [replace(c, event=merged([(c.event, rounds)])[0]) if c.unit is not None else c for c in charges_of(opened)]
        refuse_over({self._ledger.party: self._ledger}, [*first, *each])

    # Scaling

    def shown(self, beside: NDArray[np.float32]) -> None:
        """Take the scaling that came with the models, the same in every round.

        Raises:
            Refused: ``scaling-form``, ``scaling-range``; ``scaling-changed`` for another one than was taken before.
        """
        scaling = self._shared.scaling
        if scaling is None:
            return
        found = Scaling.of_values(beside)
        scaling.check(found)
        before = self._scaling
        same = before is None or bool((before.values() == beside).all())
        require(same, "scaling-changed", "features are scaled otherwise than in the rounds before")
        self._scaling = found

    @property
    def folds(self) -> tuple[Fold, ...]:
        """Training and held-out rows, made ready once it is known how.

        Raises:
            UserError: for values that are too far out to be scaled.
        """
        if self._folds is None:
            self._folds = self._rows.folds(self._shared.scaler(self._scaling), self._shared.fills(self._scaling))
        return self._folds

    # The final model

    def take(self, final: delivery.Delivered) -> None:
        """The final model came; what it does not hold against what was shown in the rounds is not taken.

        Raises:
            Refused: as `shown`.
        """
        models, found = delivery.models_of(self._shared, final)
        if found is not None:
            self.shown(final.values[sum(model.size for model in models) :])
        self._final = final

    @property
    def model(self) -> bytes | None:
        """The final model as `securefl.load_model` reads it; None where none came."""
        if self._final is None:
            return None
        return delivery.file_of(self._shared, *delivery.models_of(self._shared, self._final))

    @property
    def figures(self) -> dict[str, Any] | None:
        """The party's own figures of the final model, for itself alone; None without a model, or one to compare it with."""
        if self._final is None or not self._shared.public.compared:
            return None
        return own_figures(self._scores(self._final), self._rows)

    def _scores(self, final: delivery.Delivered) -> Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        models, _ = delivery.models_of(self._shared, final)
        return own_scores(self._shared, self._trainer, models, self.folds)

    # The sums

    def convene(self, name: str, number: int, attempt: int, party: Party) -> Joined | None:
        """The part in a stage; None where the party has nothing to put in yet.

        Args:
            name: of the stage.
            number: which the server names.
            attempt: likewise.
            party: the party, with the policy of its rounds.

        Raises:
            Refused: ``net-stage`` for a sum that the job does not hold.
            UserError: for rows that it cannot be made from.
        """
        stage = next((one for one in self._shared.stages if one.name == name), None)
        if stage is None or number != NUMBER:
            raise Refused("net-stage", f"{name} {number}: the job has no such sum")
        if name == ASSESSMENT and self._final is None:
            return None
        model = bytes(32) if self._final is None or name == SCALING else self._final.digest
        terms = stage.terms(stage.occasion(self._run, attempt, model), self._shared.cohort)
        policy = stage.policy(party.policy)
        own = replace(party, policy=policy if name == ASSESSMENT else replace(policy, models=None))
        if self._ledger is not None:
            from securefl.privacy.budget import ChargingJournal, charges_of  # noqa: PLC0415

            journal = ChargingJournal(party.journal, self._ledger, terms.occasion.run, charges_of(stage.opened))
            own = replace(own, journal=journal)
        return Joined(client_session(stage.protocol, own, terms), stage.protocol, terms, self._vector(name))

    def _vector(self, name: str) -> Vector:
        shared, rows, rand = self._shared, self._rows, self._entropy()
        if name == SCALING and shared.scaling is not None:
            return shared.scaling.vector(rows.site, rows.parts, rand)
        if shared.assessment is None or self._final is None:
            raise Misuse(f"nothing to add to {name}")
        return shared.assessment.vector(self._scores(self._final), rows.compared(), rand)
