"""FedProx and FedSGD: what a site does is another thing, what is summed is the same.

Sources: Li et al., *Federated Optimization in Heterogeneous Networks* (MLSys 2020, arXiv 1812.06127); FedSGD is the case of one
step over all rows in McMahan et al. (AISTATS 2017, arXiv 1602.05629).

Need the sums of FedAvg, Σ w·u (d values) and Σ w.

What it does not protect: as FedAvg.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from securefl.algorithms.base import Algorithm, Local, Steered, as_parameters, refuse_mechanism
from securefl.errors import UserError
from securefl.privacy.plain import LocalTraining

if TYPE_CHECKING:
    from securefl.job import Job
    from securefl.round_types import Contribution, Task


class FedProx(Algorithm):
    """Local objective F(w) + μ/2·‖w − w_t‖²: sites with other rows stay near the global model w_t.

    Needs the sums of FedAvg.  The gradient of the proximal term, μ(w − w_t), depends on no row: with DP-SGD it is added after the
    noise, and ε is the same.

    Args:
        proximal: μ, ≥ 0; 0 is FedAvg.

    Raises:
        UserError: for another μ.
    """

    name, steers = "fedprox", True

    def __init__(self, proximal: float = 0.01) -> None:
        if not 0 <= proximal < math.inf:
            raise UserError(f"proximal is {proximal}: it must be finite and at least 0")
        self.proximal = proximal

    def knobs(self) -> dict[str, object]:
        """The keys that choose it."""
        return {"algorithm": self.name, "proximal": self.proximal}

    def refuse(self, job: Job) -> None:
        """Where a round is a single step there is nothing to hold back."""
        one = "a round is one step from the global model, where the proximal term is zero"
        refuse_mechanism(job, self.name, {"distributed-record": one, "central": one})

    def local(self) -> Local:
        """A site's part."""
        return _NearTheGlobal(self.proximal)


class _NearTheGlobal(Local):
    def __init__(self, proximal: float) -> None:
        self._proximal = proximal
        self._steered: list[Steered] = []

    def training(self, task: Task, number: int, training: LocalTraining) -> LocalTraining:
        start: list[torch.Tensor] = []

        def direction(parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
            if not start:
                start.extend(as_parameters(task.models[number], parameters))
            return [self._proximal * (p.detach() - s) for p, s in zip(parameters, start, strict=True)]

        self._steered.append(Steered(training, FedProx.name, direction))
        return self._steered[-1]

    def contribute(self, task: Task, contribution: Contribution) -> Contribution:
        steered, self._steered = self._steered, []
        for one in steered:
            one.check(task.site.steps)
        return contribution


class FedSGD(Algorithm):
    """One step a round: the server steps along the mean gradient over all sites.

    Needs the sums of FedAvg.  With distributed-record and central every job is of this kind.
    """

    name = "fedsgd"

    def refuse(self, job: Job) -> None:
        """More than one step is FedAvg."""
        if job.privacy.steps != 1:
            raise UserError(
                f"performance.algorithm = fedsgd is one step a round, and privacy.local_steps is {job.privacy.steps}: set it to 1"
            )
