"""Buffered asynchronous training: whoever is ready hands in, and K parties who did form the cohort of a secure sum.

Source: Nguyen et al., *Federated Learning with Buffered Asynchronous Aggregation* (AISTATS 2022, arXiv 2106.06639): an update that
was trained from a model τ steps old is scaled by 1/√(1 + τ), and the server steps along the mean over the K of a buffer.

Needs Σ s(τ)·u over the K parties of a buffer; all weigh the same.  τ is public: the server knows which model it gave to whom.

In a simulation: when parties are ready is an argument, and nothing waits.  Every buffer is a sum of its own among K registered
parties, with keys, threshold and session identity of its own, under any protocol.

What it does not protect: a sum over K parties hides one among K, and a threshold of them opens it.  Who was in which buffer is
public, and a party that is in many of them with the same others shows more in the differences.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from protocols.rand import Entropy, fresh
from protocols.suite import Occasion
from protocols.sums import secure_sum
from securefl.aggregator import Aggregate, ServerAggregator
from securefl.algorithms.base import cut
from securefl.encode import Plan, all_finite
from securefl.errors import UserError
from securefl.inputs import folds_of, module_of
from securefl.models import to_vector
from securefl.modules import Copier
from securefl.privacy.plain import PlainTraining
from securefl.round_types import Fold
from securefl.trainer import ClientTrainer

if TYPE_CHECKING:
    from securefl.job import Job


@dataclass(frozen=True)
class Buffer:
    """One step of the server.

    Attributes:
        parties: who was in it, in the order of their arrival.
        staleness: τ of each: steps of the server since the model that it trained from.
        time: when the last of them arrived.
        metrics: of the model before the step, on the held-out rows of these parties.
    """

    parties: tuple[str, ...]
    staleness: tuple[int, ...]
    time: float
    metrics: Mapping[str, float]


def staleness_weight(staleness: int) -> float:
    """1/√(1 + τ)."""
    return 1 / math.sqrt(1 + staleness)


def run_buffered(
    model: nn.Module | Callable[[], nn.Module],
    data: Mapping[str, Fold],
    *,
    job: Job,
    buffer: int,
    arrivals: Sequence[tuple[float, str]],
    trainer: ClientTrainer | None = None,
    server: ServerAggregator | None = None,
    entropy: Callable[[str], Entropy] = lambda _name: fresh,
) -> tuple[nn.Module, list[Buffer]]:
    """Train as parties arrive.

    Args:
        model: the start.
        data: rows of each party.
        job: knobs of steps, clipping, precision, weights, threshold and protocol; ``privacy.mechanism`` must be none.
        buffer: K, parties of one sum, at least 3.
        arrivals: time and name of every arrival, in the order of time.  A party that arrives hands in what it made of the model
            that it got when it was last summed, or at the start, and gets the new one when its buffer is summed.
        trainer: what a party does.
        server: what is done with the mean.
        entropy: by name, a party's randomness.

    Returns:
        The model, and what happened at each step of the server.  Arrivals that fill no buffer are left out.

    Raises:
        UserError: for a mechanism with noise, an unknown party, times out of order, a party that arrives twice in one buffer, or a
            buffer that is too small.
    """
    state = _State(model, data, job, buffer, trainer, server, entropy)
    waiting: list[str] = []
    done, before = [], -math.inf
    for time, name in arrivals:
        if name not in state.folds:
            raise UserError(f"{name!r} arrives, and there is no such party")
        if not before <= time < math.inf:
            raise UserError(f"{name} arrives at {time}, after an arrival at {before}: times must be in order")
        if name in waiting:
            raise UserError(f"{name} arrives at {time}, and waits in the buffer already")
        before, waiting = time, [*waiting, name]
        if len(waiting) == buffer:
            done.append(state.summed(tuple(waiting), time))
            waiting = []
    return state.copier(state.vector), done


class _State:
    """The server's model, and the model that each party has."""

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        data: Mapping[str, Fold],
        job: Job,
        buffer: int,
        trainer: ClientTrainer | None,
        server: ServerAggregator | None,
        entropy: Callable[[str], Entropy],
    ) -> None:
        if job.privacy.mechanism != "none":
            raise UserError(
                f"buffered training is refused with {job.privacy.mechanism}: ε is of rounds in which all parties take part"
            )
        if not 3 <= buffer <= len(data):
            raise UserError(f"a buffer holds 3 to {len(data)} parties, the number there are, not {buffer}")
        self.folds = {name: parts[0] for name, parts in folds_of(data).items()}
        template = module_of(model)
        self.copier, self.vector = Copier(copy.deepcopy(template)), to_vector(template)
        knobs, made = job.privacy, trainer or ClientTrainer(learning_rate=job.performance.learning_rate)
        self.trainers = {name: copy.deepcopy(made) for name in self.folds}
        self.training = {name: PlainTraining(sample_rate=knobs.sample_rate, entropy=entropy(name)) for name in self.folds}
        self.server = server or ServerAggregator(learning_rate=job.performance.server_learning_rate)
        self.plan = Plan(buffer, (self.vector.size,), knobs.update_clip, knobs.w_max, made.sums(), knobs.precision)
        self.knobs, self.version, self._entropy = knobs, 0, entropy
        self._has = dict.fromkeys(self.folds, (0, self.vector))
        self.run = f"buffered-{fresh().bytes('run', 8).hex()}"

    def summed(self, names: tuple[str, ...], time: float) -> Buffer:
        """Sum a buffer, and step."""
        stale = tuple(self.version - self._has[name][0] for name in names)
        self.version += 1
        occasion = Occasion(self.run, self.version, 0, bytes(32))
        vectors = [self._encoded(name, tau, occasion) for name, tau in zip(names, stale, strict=True)]
        total = secure_sum(vectors, max_abs=self.plan.limit, protocol=self.knobs.protocol, threshold=self.knobs.threshold)
        decoded = self.plan.decode(total.values, total.contributors, occasion)
        aggregate = Aggregate(decoded.updates, decoded.weights, decoded.sums, total.contributors, self.version)
        (self.vector,) = self.server.step([self.vector], self.server.on_before_step(aggregate))
        self._has |= dict.fromkeys(names, (self.version, self.vector))
        return Buffer(names, stale, time, self.trainers[names[0]].read(decoded.sums) if self.plan.sums else {})

    def _encoded(self, name: str, stale: int, occasion: Occasion) -> NDArray[np.int64]:
        """One party's vector: what it made of its model, scaled by its age; metrics of the server's model."""
        trainer, fold, start = self.trainers[name], self.folds[name], self._has[name][1]
        model = self.copier(start)
        trainer.on_before_training(model, fold.train)
        trainer.train(model, fold.train, self.training[name], self.knobs.steps)
        trainer.on_after_training(model, fold.train)
        update = np.subtract(to_vector(model), start, dtype=np.float64)
        if not all_finite(update):
            raise UserError(f"{name}: the update has a value that is not finite: lower the learning rate")
        sums = {} if fold.test is None or not self.plan.sums else trainer.evaluate(self.copier(self.vector), fold.test)
        sums = sums or {spec.name: np.zeros(spec.size) for spec in self.plan.sums}
        scaled = cut(update, self.plan.clip) * staleness_weight(stale)
        return self.plan.encode([scaled], [self.plan.w_max], sums, occasion, self._entropy(name)()).vector
