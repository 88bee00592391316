"""The values and the message of a round of training: what its steps (`securefl.round`) take and give.

What it does not protect: a `Site`, a `Task` and a `Contribution` hold what never leaves a site; nothing here keeps them there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from protocols.batch_types import Ready, ServerReady
from protocols.bulk import Bulk
from protocols.policy import OccasionGuard
from protocols.rand import Entropy
from protocols.schema import Message, Raw, Span
from protocols.suite import Occasion, Terms
from protocols.sums import Party
from securefl.aggregator import Aggregate, ServerAggregator
from securefl.encoding import Encoding
from securefl.models import ModelFactory
from securefl.places import Own
from securefl.privacy.plain import LocalTraining
from securefl.private_layers import PrivateLayers
from securefl.trainer import ClientTrainer, Sums

if TYPE_CHECKING:
    from securefl.algorithms.base import Local

Updates = Sequence[NDArray[np.float64] | NDArray[np.int64]]
NOTHING = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows of one site for one of the models that are trained side by side; map-style data sets of (features, label)."""

    train: Dataset[Any]
    test: Dataset[Any] | None


@dataclass(frozen=True, eq=False)
class Site:
    """A party with its rows: all that stays at home.

    Attributes:
        name: the site's name.
        party: its place in the roster, identity, policy and journal.
        folds: its rows, one entry for each model trained side by side.
        trainer: how it trains.
        training: for each model, where batches come from; keeps the site's ε over all rounds.
        model: makes an untrained model, or one with given parameters.
        plan: how updates become the vector of the sum.
        steps: optimizer steps in a round.
        weight: public weight of every site, or None: its rows.
        epsilon: what all planned rounds together cost by the site's own account, at ``delta``; infinite without an account.
        delta: 0 without an account.
        run: name of the run.
        terms: from an occasion, the terms that this site expects.
        entropy: randomness of stochastic rounding.
        notices: called with a line that the site's operator must see.
        charged: for each model, steps in its account when the round began; None without an account.
        guard: the party's journal, bound when the round is known.
        ready: what a handshake for several rounds left with the party; None where each round has its own.
        shown: called with the public values of the run that came with the models, before anything leaves; it may refuse.
        local: its part of the job's algorithm, over all rounds; None for FedAvg.
        places: takes the site's own place of each round; None where the job opens none.
        private: for each model, what makes it where some of its layers are the site's own; empty where all are shared.
    """

    name: str
    party: Party
    folds: tuple[Fold, ...]
    trainer: ClientTrainer
    training: tuple[LocalTraining, ...]
    model: ModelFactory
    plan: Encoding
    steps: int
    weight: int | None
    epsilon: float
    delta: float
    run: str
    terms: Callable[[Occasion], Terms[Any]]
    entropy: Entropy
    notices: Callable[[str], None]
    charged: tuple[int | None, ...]
    guard: OccasionGuard
    ready: Ready | None = None
    shown: Callable[[NDArray[np.float32]], None] = lambda _beside: None
    local: Local | None = None
    places: Own | None = None
    private: tuple[PrivateLayers, ...] = ()

    def factory(self, number: int) -> ModelFactory:
        """What makes the model of fold ``number``."""
        return self.private[number] if self.private else self.model


@dataclass(frozen=True, eq=False)
class Starting:
    """Server: a round begins with these models, among those that a handshake for several rounds left, or all."""

    occasion: Occasion
    terms: Terms[Any]
    layout: Any
    models: Sequence[NDArray[np.float32]]
    aggregator: ServerAggregator
    plan: Encoding
    ready: ServerReady | None = None
    told: Callable[[int], None] = lambda _: None  # how many are in the sum, once that is open
    beside: NDArray[np.float32] = field(default_factory=lambda: NOTHING)  # public values of the run, which travel with the models


@dataclass(frozen=True, eq=False)
class Averaging:
    """Server: waits for the sum."""

    models: Sequence[NDArray[np.float32]]
    aggregator: ServerAggregator
    plan: Encoding
    occasion: Occasion
    told: Callable[[int], None] = lambda _: None


@dataclass(frozen=True, eq=False)
class Stepping:
    """Server: the aggregate is open."""

    models: Sequence[NDArray[np.float32]]
    aggregator: ServerAggregator
    aggregate: Aggregate
    state: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class NextModel:
    """The result of a round, and the public values of the next."""

    models: list[NDArray[np.float32]]
    aggregate: Aggregate
    state: tuple[float, ...] = ()


@dataclass(frozen=True)
class GlobalModel(Message):
    """Server → every party: the global model and public values of encoding and run; their hash enters the session identity."""

    round: Annotated[int, Span(0, 2**32 - 1)]
    attempt: Annotated[int, Span(0, 2**32 - 1)]
    weights: Annotated[Bulk, Raw("model")]


@dataclass(frozen=True)
class Joined:
    """A party's occasion of this round, and how it encodes in it."""

    occasion: Occasion
    plan: Encoding


@dataclass(frozen=True, eq=False)
class Task:
    """A party's work in this round: the site and the global models, one vector of shape (d,) for each fold.

    Behind them come the further vectors of an algorithm, as many for each.
    """

    site: Site
    models: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True, eq=False)
class Contribution:
    """What a party will put into the sum, before it is encoded.

    Attributes:
        site: the site.
        updates: for each model, new parameters minus global ones, shape (d,), float64; or the sum of its clipped gradients in
            whole numbers, int64, where the step is taken on the sum over all sites.
        weights: for each model, the number of training rows.
        sums: metrics of the global models on held-out rows, as declared by the trainer.
    """

    site: Site = field(repr=False)
    updates: Updates = field(repr=False)
    weights: Sequence[int] = field(repr=False)
    sums: Sums = field(default_factory=dict, repr=False)
