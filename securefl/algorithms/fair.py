"""q-FedAvg: sites with a greater loss pull more, so that the model serves them more alike.

Source: Li et al., *Fair Resource Allocation in Federated Learning* (ICLR 2020, arXiv 1905.10497), algorithm 2, L = 1/η.

With F_k the training loss of the global model at site k, u_k its update and n sites of equal weight, the paper's step
w − Σ Δ_k / Σ h_k, Δ_k = −L·F_k^q·u_k, h_k = q·F_k^(q−1)·L²‖u_k‖² + L·F_k^q, is here, with f = F / `LOSS_MOST`:

    w + Σ f^q·u / Σ (q·f^(q−1)·L·‖u‖² / LOSS_MOST + f^q)

Needs two sums: Σ f^q·u (d values) and that of the scalars below it, which travel as two coordinates within a public bound.  F is
cut to [`LOSS_LEAST` · `LOSS_MOST`, `LOSS_MOST`], u to privacy.update_clip.

What it does not protect: the sum of the scalars is opened exactly; it tells about the sites' losses together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from securefl.aggregator import Aggregate, ServerAggregator
from securefl.algorithms.base import Algorithm, Local, Pair, cut, refuse_mechanism
from securefl.encode import limit_of
from securefl.encoding import SumSpec
from securefl.errors import UserError
from securefl.privacy.batches import beside, in_blocks

if TYPE_CHECKING:
    from securefl.job import Job
    from securefl.round_types import Contribution, Task

LOSS_MOST = 2.0
"""Largest training loss of a site that is told apart, in nats a row: that of a coin is 0.69."""
LOSS_LEAST = 1e-3
"""Least loss, as a share of the largest."""


class QFedAvg(Algorithm):
    """q-FedAvg.

    Args:
        fairness: q, 0 to 10; 0 is FedAvg with sites of equal weight.

    Raises:
        UserError: for another q.
    """

    name, reads_loss, own_step, uniform = "qfedavg", True, True, True

    def __init__(self, fairness: float = 1.0) -> None:
        if not 0 <= fairness <= 10:
            raise UserError(f"fairness is {fairness}: it must lie in [0, 10]")
        self.fairness, self._rate = fairness, 1.0
        self._pair: Pair | None = None

    def knobs(self) -> dict[str, object]:
        """The keys that choose it."""
        return {"algorithm": self.name, "fairness": self.fairness}

    def refuse(self, job: Job) -> None:
        """Losses of rows are outside every ε."""
        outside = "the loss of a site's rows scales its update, and no noise covers that"
        refuse_mechanism(
            job, self.name, dict.fromkeys(("local-record", "distributed-party", "distributed-record", "central"), outside)
        )

    def specs(self, job: Job, models: int) -> tuple[SumSpec, ...]:
        """Σ h of each model."""
        knobs, q = job.privacy, self.fairness
        self._rate = job.performance.learning_rate
        steepest = max(1.0, LOSS_LEAST ** (q - 1))
        bound = q * steepest / LOSS_MOST / self._rate * knobs.update_clip**2 + 1
        self._pair = Pair(self.name, models, bound, limit_of(knobs.precision))
        return self._pair.specs()

    def local(self) -> Local:
        """A site's part."""
        return _ByLoss(self.fairness, self._known, self._rate)

    def server(self, learning_rate: float, parties: int) -> ServerAggregator:  # noqa: ARG002
        """The server's part."""
        return QServer(self._known, learning_rate=learning_rate)

    @property
    def _known(self) -> Pair:
        if self._pair is None:
            raise UserError("QFedAvg needs its job first: call specs")
        return self._pair

    def opened(self) -> dict[str, str]:
        """Σ h."""
        return {"sum of the sites' scalars of q-FedAvg": "tells about their training losses together"}


class _ByLoss(Local):
    def __init__(self, fairness: float, pair: Pair, rate: float) -> None:
        self._q, self._pair, self._rate = fairness, pair, rate

    def contribute(self, task: Task, contribution: Contribution) -> Contribution:
        share = np.array([self._loss(task, number) for number in range(len(task.site.folds))])
        updates = [cut(np.asarray(u, dtype=np.float64), task.site.plan.clip) for u in contribution.updates]
        squares = np.array([float(np.vdot(u, u)) for u in updates])
        scalars = self._q * share ** (self._q - 1) * squares / (self._rate * LOSS_MOST) + share**self._q
        scaled = [u * s**self._q for u, s in zip(updates, share, strict=True)]
        return replace(contribution, updates=scaled, sums={**contribution.sums, **self._pair.sums(scalars)})

    def _loss(self, task: Task, number: int) -> float:
        """Mean loss of the global model over the training rows, as a share of `LOSS_MOST`, cut to its range."""
        site = task.site
        model, data = site.model(task.models[number]).eval(), site.folds[number].train
        total, rows = 0.0, 0
        with torch.no_grad():
            for _start, block in in_blocks(data):
                x, y = beside(model, *block)
                total += float(site.trainer.loss(model(x), y)) * len(x)
                rows += len(x)
        return min(max(total / rows / LOSS_MOST, LOSS_LEAST), 1.0)


class QServer(ServerAggregator):
    """Divides the sum of scaled updates by the sum of the scalars.

    Args:
        pair: how that travels.
        learning_rate: multiplies the step; 1 is q-FedAvg.
    """

    def __init__(self, pair: Pair, *, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate=learning_rate)
        self._pair = pair

    def step(self, models: Sequence[NDArray[np.float32]], aggregate: Aggregate) -> list[NDArray[np.float32]]:
        """The next parameters."""
        below = self._pair.read(aggregate.sums)
        updates = [
            None if u is None or h <= 0 else u * (aggregate.contributors / h) for u, h in zip(aggregate.updates, below, strict=True)
        ]
        return super().step(models, replace(aggregate, updates=updates))
