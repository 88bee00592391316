"""FedNova: sites that take different numbers of steps, without the pull of those that take more.

Source: Wang et al., *Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization* (NeurIPS 2020, arXiv
2007.07481), for plain SGD, where ‖a_i‖₁ = τ_i: x ← x + τ_eff · Σ p_i (u_i / τ_i), with u_i the update of site i after τ_i steps,
p_i = w_i / Σ w and τ_eff = Σ p_i τ_i.

Needs Σ w·u/τ (d values), Σ w, and one scalar more, Σ w·τ.  The scalar travels as two coordinates, within w_max · τ_max.

What it does not protect: Σ w·τ is opened exactly; as τ follows the rows, it is about the sum of their squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from securefl.aggregator import Aggregate, ServerAggregator
from securefl.algorithms.base import Algorithm, Local, Pair, refuse_mechanism, refuse_optimizer
from securefl.encode import limit_of
from securefl.encoding import SumSpec
from securefl.errors import UserError

if TYPE_CHECKING:
    from securefl.job import Job
    from securefl.round_types import Contribution, Task

MOST = 16
"""A site takes at most so many times ``privacy.local_steps``."""


class FedNova(Algorithm):
    """Site i takes τ_i = local_steps · rows / step_rows steps, at least 1 and at most `MOST` · local_steps.

    Args:
        step_rows: rows for which ``privacy.local_steps`` is meant, ≥ 1.

    Raises:
        UserError: for another number.
    """

    name, steers, own_step = "fednova", True, True

    def __init__(self, step_rows: int = 100) -> None:
        if step_rows < 1:
            raise UserError(f"step_rows is {step_rows}: it must be at least 1")
        self.step_rows = step_rows
        self._pair: Pair | None = None
        self._base = 1

    def knobs(self) -> dict[str, object]:
        """The keys that choose it."""
        return {"algorithm": self.name, "step_rows": self.step_rows}

    def refuse(self, job: Job) -> None:
        """Under differential privacy every site takes the planned steps, or Σ w·τ would be outside ε."""
        planned = "ε is for exactly privacy.local_steps at every site, and with equal steps FedNova is FedAvg"
        beside = "Σ w·τ would be opened exactly, beside a sum that noise protects"
        one = "a round is one step at every site"
        refuse_mechanism(
            job, self.name, {"local-record": planned, "distributed-party": beside, "distributed-record": one, "central": one}
        )

    def specs(self, job: Job, models: int) -> tuple[SumSpec, ...]:
        """Σ w·τ of each model."""
        self._base = job.privacy.steps
        self._pair = Pair(self.name, models, float(job.privacy.w_max * MOST * self._base), limit_of(job.privacy.precision))
        return self._pair.specs()

    def local(self) -> Local:
        """A site's part."""
        return _ByRows(self.step_rows, self._known)

    def server(self, learning_rate: float, parties: int) -> ServerAggregator:  # noqa: ARG002
        """The server's part."""
        return NovaServer(self._known, self._base, learning_rate=learning_rate)

    @property
    def _known(self) -> Pair:
        if self._pair is None:
            raise UserError("FedNova needs its job first: call specs")
        return self._pair

    def opened(self) -> dict[str, str]:
        """Σ w·τ."""
        return {"sum of weighted steps": "steps follow the rows of a site: it is about the sum of their squares"}


class _ByRows(Local):
    def __init__(self, step_rows: int, pair: Pair) -> None:
        self._step_rows, self._pair = step_rows, pair

    def steps(self, rows: int, steps: int) -> int:
        return min(max(1, round(steps * rows / self._step_rows)), MOST * steps)

    def contribute(self, task: Task, contribution: Contribution) -> Contribution:
        site = task.site
        refuse_optimizer(FedNova.name, site.trainer)
        taken = [self.steps(len(fold.train), site.steps) for fold in site.folds]  # type: ignore[arg-type]
        scaled = [np.asarray(u, dtype=np.float64) * (site.steps / t) for u, t in zip(contribution.updates, taken, strict=True)]
        weights = [min(w, site.plan.w_max) for w in contribution.weights]
        sums = self._pair.sums([w * t for w, t in zip(weights, taken, strict=True)])
        return replace(contribution, updates=scaled, sums={**contribution.sums, **sums})


class NovaServer(ServerAggregator):
    """Scales the mean of normalised updates by τ_eff.

    Args:
        pair: how Σ w·τ travels.
        base: steps to which the updates were normalised.
        learning_rate: multiplies the step; 1 is FedNova.
    """

    def __init__(self, pair: Pair, base: int, *, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate=learning_rate)
        self._pair, self._base = pair, base

    def step(self, models: Sequence[NDArray[np.float32]], aggregate: Aggregate) -> list[NDArray[np.float32]]:
        """The next parameters; a model whose weights were all zero stays as it was."""
        weighted = self._pair.read(aggregate.sums)
        updates = [
            None if u is None else u * (total / w / self._base)
            for u, w, total in zip(aggregate.updates, aggregate.weights, weighted, strict=True)
        ]
        return super().step(models, replace(aggregate, updates=updates))
