"""SCAFFOLD: control variates take the drift of each site's rows out of its steps.

Source: Karimireddy et al. (ICML 2020, arXiv 1910.06378), option II, with sites weighed as in FedAvg.

Site i steps along g − c_i + c and then sets c_i ← c_i − c − u_i/(Kη), with u_i its update after K steps of size η.  The server
adds |S|/N times the mean of what the c_i changed by to c.  Here control variates are kept in units of an update, C = Kη·c: C_i
changes by −u_i − C, which is a vector like u_i and is clipped and encoded as one.

Needs Σ w·u and Σ w·ΔC (d values each) and Σ w.  C travels beside the model, in the same hashed message; C_i never leaves its site.

A site takes its new C_i over when its vector has left, as only then its steps are in its account, and it is shown another model or
C than the last time: a round that was aborted changes nothing.  A site whose vector was lost on its way in a round that the others
finished does not know that; C is then off by its last change.

What it does not protect: as FedAvg, for two sums in place of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from securefl.aggregator import Aggregate, ServerAggregator
from securefl.algorithms.base import Algorithm, Local, Steered, as_parameters, cut, refuse_mechanism, refuse_optimizer
from securefl.errors import UserError
from securefl.privacy.plain import LocalTraining

if TYPE_CHECKING:
    from securefl.job import Job
    from securefl.round_types import Contribution, Task

Shown = list[NDArray[np.float32]]


class Scaffold(Algorithm):
    """SCAFFOLD with plain SGD at the sites.

    With local-record the c_i are made of steps that have their noise, so ε covers them.  With distributed-party update and
    change are clipped together and under one noise.
    """

    name, steers, own_step, extra = "scaffold", True, True, 1

    def refuse(self, job: Job) -> None:
        """Where there is no drift, or no fixed bound to clip both vectors with."""
        one = "a round is one step, in which no site drifts, and c_i would hold gradients that no noise covers"
        refuse_mechanism(job, self.name, {"distributed-record": one, "central": one})
        if job.privacy.clip_quantile is not None:
            raise UserError(
                "performance.algorithm = scaffold is refused with privacy.clip_quantile: the bound would follow updates and "
                "control variates together"
            )

    def local(self) -> Local:
        """A site's part."""
        return _Controlled()

    def server(self, learning_rate: float, parties: int) -> ServerAggregator:
        """The server's part."""
        return ScaffoldServer(parties, learning_rate=learning_rate)

    def opened(self) -> dict[str, str]:
        """Σ w·ΔC."""
        return {"sum of weighted changes of control variates": "like the sum of updates, of which it is made"}


class _Controlled(Local):
    def __init__(self) -> None:
        self._own: list[NDArray[np.float64]] = []  # C_i of each model
        self._next: list[NDArray[np.float64]] | None = None  # what they become if the round is finished
        self._shown: Shown = []
        self._steered: list[Steered] = []

    def training(self, task: Task, number: int, training: LocalTraining) -> LocalTraining:
        if number == 0:
            self._settle(task)
        site = task.site
        refuse_optimizer(Scaffold.name, site.trainer)
        common = task.models[len(site.folds) + number]
        drift = (common - self._own[number]) / (site.steps * site.trainer.learning_rate)
        held: list[torch.Tensor] = []

        def direction(parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
            if not held:
                held.extend(as_parameters(drift, parameters))
            return held

        self._steered.append(Steered(training, Scaffold.name, direction))
        return self._steered[-1]

    def _settle(self, task: Task) -> None:
        """Take over the C_i of the last round, if it was finished."""
        shown = [vector.copy() for vector in task.models]
        if not self._own:
            self._own = [np.zeros(len(vector)) for vector in task.models[: len(task.site.folds)]]
        elif self._next is not None and any((a != b).any() for a, b in zip(shown, self._shown, strict=True)):
            self._own = self._next
        self._shown, self._next = shown, None

    def over(self, *, left: bool) -> None:
        if not left:
            self._next = None

    def contribute(self, task: Task, contribution: Contribution) -> Contribution:
        steered, self._steered = self._steered, []
        for one in steered:
            one.check(task.site.steps)
        plan, count = task.site.plan, len(contribution.updates)
        updates = [np.asarray(u, dtype=np.float64) for u in contribution.updates]
        changes = [-u - c for u, c in zip(updates, task.models[count:], strict=True)]
        if plan.tail:  # one bound over all vectors
            whole = cut(np.concatenate([*updates, *changes]), plan.clip)
            parts = np.split(whole, np.cumsum([v.size for v in (*updates, *changes)])[:-1])
            updates, changes = parts[:count], parts[count:]
        else:
            changes = [cut(change, plan.clip) for change in changes]
        self._next = [own + change for own, change in zip(self._own, changes, strict=True)]
        return replace(contribution, updates=[*updates, *changes], weights=[*contribution.weights] * 2)


class ScaffoldServer(ServerAggregator):
    """x ← x + η_g · mean update; C ← C + |S|/N · mean change.

    Args:
        parties: N, invited parties.
        learning_rate: η_g.
    """

    def __init__(self, parties: int, *, learning_rate: float = 1.0) -> None:
        super().__init__(learning_rate=learning_rate)
        self._parties = parties

    def step(self, models: Sequence[NDArray[np.float32]], aggregate: Aggregate) -> list[NDArray[np.float32]]:
        """The next parameters, then the next control variates; where weights were all zero they stay as they were."""
        half, share = len(models) // 2, aggregate.contributors / self._parties
        rates = [self.learning_rate] * half + [share] * half
        return [
            model if update is None else (model + rate * update).astype(np.float32)
            for model, update, rate in zip(models, aggregate.updates, rates, strict=True)
        ]
