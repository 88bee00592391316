"""One round of training, top to bottom: broadcast → receive → train → encode → [secure sum] → decode → step.

The bracket is whatever protocol the job names (`securefl.secure`).  `train` is the one step of the default local flow; a user's own
local flow takes a `Task` and ends in a `Contribution`, with as many steps between as it likes, in parallel where they do not depend
on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from protocols.bulk import Bulk
from protocols.errors import require
from protocols.flow import Broadcast, Flow, Input, Output
from protocols.suite import Occasion
from protocols.vector import Sum, Vector
from securefl.aggregator import Aggregate
from securefl.encode import all_finite
from securefl.encoding import Encoding
from securefl.errors import UserError
from securefl.models import to_vector
from securefl.privacy.plain import LocalTraining, summed, watched
from securefl.recycled import Lent
from securefl.round_types import (
    NOTHING,
    Averaging,
    Contribution,
    GlobalModel,
    Joined,
    NextModel,
    Site,
    Starting,
    Stepping,
    Task,
)
from securefl.secure import Entering, Joining
from securefl.trainer import ClientTrainer, Sums

if TYPE_CHECKING:
    pass


def local_flow() -> Flow:
    """The default local flow: one step that trains and evaluates."""
    flow = Flow("fedavg")
    flow.client(train)
    return flow


def round_flow(local: Flow | None = None) -> Flow:
    """A round of training around ``local``, without its protocol; `securefl.secure.secured` adds that.

    Raises:
        UserError: where the local flow does not lead from `Task` to `Contribution`.
    """
    inner = local or local_flow()
    starts, ends = inner.starts("client"), {p.type for s in inner.of("client") for p in s.gives}
    if starts != [Task] or Contribution not in ends:
        raise UserError(f"the flow {inner.name} must lead from Task to Contribution at the client")
    flow = Flow(inner.name)
    flow.server(broadcast)
    flow.client(receive)
    flow.include(inner)
    flow.client(encode_update)
    flow.server(decode_sum)
    flow.server(step)
    return flow


def broadcast(start: Starting) -> tuple[Entering, Averaging, Broadcast[GlobalModel]]:
    """Send the global model to every party that is in the round."""
    weights = Bulk.of(start.layout, model_values(start.models, start.plan, start.beside))
    message = GlobalModel(start.occasion.round, start.occasion.attempt, weights)
    parties = tuple(start.terms.roster.indexes) if start.ready is None else start.ready.u2
    waiting = Averaging(start.models, start.aggregator, start.plan, start.terms.occasion, start.told)
    return Entering(start.terms, start.ready), waiting, Broadcast(message, parties)


def model_values(
    models: Sequence[NDArray[np.float32]], plan: Encoding, beside: NDArray[np.float32] = NOTHING
) -> NDArray[np.float32]:
    """What a global model's message carries: all models, the encoding's public values of this round, those of the run; float32."""
    return np.concatenate([*models, np.array(plan.state, dtype=np.float32), beside])


def receive(site: Site, model: GlobalModel) -> tuple[Joining, Joined, Task]:
    """Hold ε to the own policy; take the model; expect a sum that is bound to exactly it."""
    site.party.policy.check_epsilon(site.epsilon, site.delta)
    require(all_finite(model.weights.values), "model-finite", "a weight of the global model is not finite")
    terms = site.terms(Occasion(site.run, model.round, model.attempt, model.weights.digest))
    ends = list(accumulate(site.plan.blocks, initial=0))
    state, beside = np.split(model.weights.values[ends[-1] :], [len(site.plan.state)])
    site.shown(beside)
    plan = site.plan.at(state)
    models = tuple(model.weights.values[start:end] for start, end in pairwise(ends))
    return Joining(site.party, terms, site.guard, site.ready), Joined(terms.occasion, plan), Task(site, models)


def train(task: Task) -> Contribution:
    """Train on the own rows, measure the global model on the held-out ones."""
    return contribution(task, [local_update(task, number) for number in range(len(task.site.folds))])


def contribution(task: Task, updates: list[NDArray[np.float64] | NDArray[np.int64]]) -> Contribution:
    """What a site gives beside its updates."""
    site = task.site
    weights = [len(f.train) if site.weight is None else site.weight for f in site.folds]  # type: ignore[arg-type]
    made = Contribution(site, updates, weights, held_out(task) if site.plan.sums else {})
    if site.places is not None:
        with named(site.name):
            beside = site.places.add(updates, site.trainer.read(made.sums).get("loss"))
        made = replace(made, sums={**made.sums, **beside})
    if site.local is None:
        return made
    with named(site.name):
        return site.local.contribute(task, made)


def local_update(task: Task, number: int) -> NDArray[np.float64] | NDArray[np.int64]:
    """Train the model of one fold; as `update_of`."""
    return update_of(task, number, trained(task, number))


def trained(task: Task, number: int) -> Lent:
    """Train the model of one fold; it goes to `update_of`, and nothing of ours holds it meanwhile."""
    site, data = task.site, task.site.folds[number].train
    lent, training = site.factory(number).lend(task.models[number]), site.training[number]
    with named(site.name):
        _before_training(site.trainer, lent.model, data)
        steps, given = (site.steps, training) if site.local is None else site.local.work(task, number, training)
        if watched(training):
            training.begin(lent.model)
        site.trainer.train(lent.model, data, given, steps)
        site.trainer.on_after_training(lent.model, data)
    return lent


def update_of(task: Task, number: int, lent: Lent) -> NDArray[np.float64] | NDArray[np.int64]:
    """What a trained model holds: new parameters minus global ones, shape (d,); or the sum of one step's clipped gradients.

    Raises:
        UserError: where the update is not finite.
    """
    site, training, factory = task.site, task.site.training[number], task.site.factory(number)
    with named(site.name):
        if watched(training):
            training.check_untouched(lent.model)
            if training.left_out:
                site.notices(
                    f"{site.name}: records whose gradient is not finite were left out of training; look for extreme values"
                )
        if summed(training):
            return training.take()
        finite = not site.private or all_finite(to_vector(lent.model))
        if site.private and finite:
            site.private[number].remember(lent.model)
        update = np.subtract(factory.take(lent), task.models[number], dtype=np.float64)
        if not (finite and all_finite(update)):
            raise UserError("the update has a value that is not finite: lower the learning rate")
    return update


def _before_training(trainer: ClientTrainer, model: nn.Module, data: Dataset[Any]) -> None:
    """Call the trainer's hook, if it has one of its own, and hold the model to the global one."""
    if getattr(trainer.on_before_training, "__func__", None) is ClientTrainer.on_before_training:
        return  # it does nothing
    start = to_vector(model).copy()
    trainer.on_before_training(model, data)
    if (to_vector(model) != start).any():
        raise UserError("the trainer changed the global model before training: its update would hold that change")


def held_out(task: Task) -> Sums:
    """Sums of metrics of the global models on the site's held-out rows, all folds together."""
    site, total = task.site, {spec.name: np.zeros(spec.size) for spec in task.site.trainer.sums()}
    for number, (fold, vector) in enumerate(zip(site.folds, task.models[: len(site.folds)], strict=True)):
        if fold.test is not None and len(fold.test):  # type: ignore[arg-type]
            if site.trainer.metrics.cut(len(fold.test)):  # type: ignore[arg-type]
                most = site.trainer.metrics.max_rows
                site.notices(f"{site.name} holds out more than {most} rows: evenly spaced ones were scored")
            model = site.factory(number)(vector)
            with named(site.name):
                sums = site.trainer.evaluate(model, fold.test)
                if sums.keys() != total.keys():
                    odd = ", ".join(sorted(sums.keys() ^ total.keys()))
                    raise UserError(f"the trainer's evaluate must give what its sums declares: {odd} is missing or unknown")
                total = {name: total[name] + values for name, values in sums.items()}
    return total


def encode_update(contribution: Contribution, joined: Joined) -> Vector:
    """Clip, weight, scale and round to integers, with weights and metrics as further coordinates; or clip, rotate, round, noise."""
    site, plan = contribution.site, joined.plan
    with named(site.name):
        check_charged(site)
        encoded = plan.encode(contribution.updates, contribution.weights, contribution.sums, joined.occasion, site.entropy())
    tell_limited(site, plan, encoded.clipped, encoded.cut)
    return Vector(encoded.vector)


def tell_limited(site: Site, plan: Encoding, clipped: Sequence[bool], cut: Sequence[int]) -> None:
    """Tell the site's operator what of its input was limited; the arguments are those of `securefl.encoding.Encoded`."""
    if cut:
        site.notices(weight_was_cut(site.name, plan.w_max))
    if any(clipped) and not plan.tail:  # where noise is sized by the bound, it is meant to cut
        site.notices(
            f"{site.name}: an update was longer than privacy.update_clip = {plan.clip:g} and was cut to it; "
            "lower the learning rate, or raise privacy.update_clip"
        )


def weight_was_cut(name: str, w_max: int) -> str:
    """What the operator of a site with more rows than ``w_max`` is told."""
    return f"{name}: more than privacy.w_max = {w_max} rows, so it counts like one of {w_max}; a larger w_max would count them all"


def check_charged(site: Site) -> None:
    """Every model's training steps of this round must stand in its account, or ε would not cover the update.

    Raises:
        UserError: where a trainer or a local flow left the private path.
    """
    for training, before in zip(site.training, site.charged, strict=True):
        if before is not None and (took := charged(training) or 0) != before + site.steps:
            raise UserError(f"{took - before} of {site.steps} steps went through training.private: ε would not cover the update")


class named:  # noqa: N801  (a `with` statement reads it as a function)
    """Errors inside name the site: ours in their one line, others in a note below their traceback."""

    def __init__(self, site: str) -> None:
        self._site = site

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None) -> None:
        """Name it; the error goes on."""
        if isinstance(error, UserError):
            error.args = (f"{self._site}: {error}", *error.args[1:])
        elif isinstance(error, Exception):
            error.add_note(f"This was raised at the site {self._site}.")


def charged(training: LocalTraining) -> int | None:
    """Steps in the account of a model, or None where there is no account."""
    return getattr(training, "steps_taken", None)


def decode_sum(averaging: Averaging, total: Input[Sum]) -> Stepping:
    """Read the weighted means, the total weights and the metrics from the opened sum."""
    averaging.told(total.contributors)
    decoded = averaging.plan.decode(total.values, total.contributors, averaging.occasion)
    aggregate = Aggregate(decoded.updates, decoded.weights, decoded.sums, total.contributors, averaging.occasion.round)
    return Stepping(averaging.models, averaging.aggregator, aggregate, decoded.state)


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def step(stepping: Stepping) -> Output[NextModel]:
    """The server's step along the mean update."""
    aggregate = stepping.aggregator.on_before_step(stepping.aggregate)
    if not isinstance(aggregate, Aggregate):
        raise UserError(f"on_before_step of {type(stepping.aggregator).__name__} must give an Aggregate, not {_kind(aggregate)}")
    models = stepping.aggregator.step(stepping.models, aggregate)
    if not isinstance(models, list | tuple):
        raise UserError(f"step of {type(stepping.aggregator).__name__} must give a list of parameters, not {_kind(models)}")
    shapes = [model.shape for model in stepping.models]
    if [np.shape(model) for model in models] != shapes or not all(np.isfinite(model).all() for model in models):
        raise UserError(f"the server's step must give finite parameters of shapes {shapes}: the model was left as it was")
    stepping.aggregator.on_after_step(models, aggregate)
    return Output(NextModel(models, aggregate, stepping.state))
