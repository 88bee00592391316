"""The end of a run over a network: every party that is there gets the final model.

A sitting like the others, of a flow with one message: models, and the scaling that rows need for them, if it is not by public
ranges.  What the server says is the final model is its word: a party can hold it against nothing but what it was shown in the
rounds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from protocols.bulk import Bulk, Floats
from protocols.errors import require
from protocols.flow import Broadcast, Flow, Output
from protocols.schema import Message, Raw
from protocols.session import SERVER, Session, client
from protocols.wire import Limits
from securefl.encode import all_finite
from securefl.models import from_vector
from securefl.report import model_file
from securefl.shared_scaling import Scaling

if TYPE_CHECKING:
    from securefl.shared_job import SharedJob

STAGE = "model"
flow = Flow("delivery")


@dataclass(frozen=True, eq=False)
class Last:
    """Server: the models, one after the other, and who gets them."""

    weights: Bulk
    to: tuple[int, ...]


@dataclass(frozen=True)
class Waiting:
    """A party: waits for the final model."""


@dataclass(frozen=True, eq=False)
class Delivered:
    """What came, float32: the models one after the other, and the scaling behind them."""

    values: NDArray[np.float32]

    @property
    def digest(self) -> bytes:
        """As it enters the session identity of the sum that assesses the models."""
        return Bulk.of(Floats(self.values.size), self.values).digest


@dataclass(frozen=True)
class FinalModel(Message):
    """Server → every party: the global models after the last round."""

    weights: Annotated[Bulk, Raw("model")]


@flow.server
def deliver(last: Last) -> Broadcast[FinalModel]:
    """Send the final models."""
    return Broadcast(FinalModel(last.weights), last.to)


@flow.client
def keep(_waiting: Waiting, model: FinalModel) -> Output[Delivered]:
    """Take the final models, if they are numbers."""
    require(all_finite(model.weights.values), "model-finite", "a weight of the final model is not finite")
    return Output(Delivered(model.weights.values))


flow.check()


def _limits(shared: SharedJob) -> Limits:
    return Limits(len(shared.cohort), {"model": _layout(shared)})


def _layout(shared: SharedJob) -> Floats:
    return Floats(sum(shared.about.plan.blocks[: shared.about.models]) + shared.about.beside)


def delivered(models: Sequence[NDArray[np.float32]], scaling: Scaling | None) -> Delivered:
    """What is delivered."""
    return Delivered(np.concatenate([*models, *([] if scaling is None else [scaling.values()])]))


def at_server(shared: SharedJob, what: Delivered) -> Session:
    """The server's session."""
    everybody = tuple(shared.cohort.indexes)
    last = Last(Bulk.of(_layout(shared), what.values), everybody)
    return Session(flow, SERVER, {"client": everybody}, [last], _limits(shared))


def at_party(shared: SharedJob, index: int) -> Session:
    """A party's session; its output is `Delivered`."""
    return Session(flow, client(index), {"server": [0]}, [Waiting()], _limits(shared))


def models_of(shared: SharedJob, what: Delivered) -> tuple[list[NDArray[np.float32]], Scaling | None]:
    """The models, and the scaling.

    Raises:
        Refused: ``scaling-form``.
    """
    ends = np.cumsum(shared.about.plan.blocks[: shared.about.models])
    *models, beside = np.split(what.values, ends)
    return models, Scaling.of_values(beside) if beside.size else None


def file_of(shared: SharedJob, models: Sequence[NDArray[np.float32]], scaling: Scaling | None) -> bytes:
    """The models as `securefl.load_model` reads them."""
    prefixes = [f"fold{i}." for i in range(len(models))] if len(models) > 1 else [""]
    state = dict[str, Any]()
    for prefix, vector in zip(prefixes, models, strict=True):
        model = copy.deepcopy(shared.template)
        from_vector(model, vector)
        state |= {prefix + key: value.detach().numpy() for key, value in model.state_dict().items()}
    return model_file(state, shared.job.plain(), shared.preparation(scaling))
