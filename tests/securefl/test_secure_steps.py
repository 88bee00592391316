"""The seam for many sums after one handshake: a flow above embeds one step, and each step goes on from the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from protocols import batch_sums, simulate, sums
from protocols.batch_sums import Batch
from protocols.batch_types import Ready, ServerReady
from protocols.errors import Misuse
from protocols.flow import Flow, Input, Output
from protocols.policy import MemoryJournal, OccasionGuard, StepGuard
from protocols.session import SERVER, Address, Session, client
from protocols.suite import Occasion
from protocols.vector import Sum, Vector
from securefl.secure import MANY, Entering, Joining, flow, secured


@dataclass(frozen=True)
class Site:
    joining: Joining
    number: int


@dataclass(frozen=True)
class Waiting:
    entering: Entering


@dataclass(frozen=True)
class Asked:
    times: int


@dataclass(frozen=True)
class Twice:
    values: list[int]


def toy() -> Flow:
    """A site gives its number three times, the server doubles the sum."""
    ml = Flow("toy")

    @ml.client
    def contribute(site: Site) -> tuple[Joining, Vector]:
        return site.joining, Vector(np.full(3, site.number))

    @ml.server
    def ask(waiting: Waiting) -> tuple[Entering, Asked]:
        return waiting.entering, Asked(2)

    @ml.server
    def double(asked: Asked, total: Input[Sum]) -> Output[Twice]:
        return Output(Twice((asked.times * total.values).tolist()))

    return ml


def sessions(made: Batch, group: batch_sums.Group, terms: Any, model: bytes, guard: type = StepGuard) -> dict[Address, Session]:
    ml, limits = secured(toy(), made), made.limits(terms)
    assert group.server is not None
    at = group.server.terms.at(group.server.step, model)
    peers = {"client": group.server.u2}
    out = {SERVER: Session(ml, SERVER, peers, [Waiting(Entering(at, group.server))], limits)}
    for u, ready in group.ready.items():
        party = group.parties[u]
        own = guard(party.journal)
        out[client(u)] = Session(ml, client(u), {"server": [0]}, [Site(Joining(party, at, own, ready), 10**u)], limits, guard=own)
    return out


@pytest.mark.parametrize("name", ["secagg", "kahe"])
def test_a_flow_above_runs_step_after_step(name: str) -> None:
    made = batch_sums.batch(name)
    roster, parties = sums.enrol(4)
    terms = made.terms(Occasion("toy", 3), roster, made.scheme.parameters(4, 3, 10**4), 3)
    group = batch_sums.handshake(made, parties, terms)
    for step in range(3):
        running = sessions(made, group, terms, bytes([step]) * 32)
        gone = {client(4): made.steps.messages("server")[0].__name__} if step else {}
        outcome = simulate.run(running, network=simulate.vanish(gone))
        assert outcome.abort is None
        assert [x.values for x in outcome.outputs if isinstance(x, Twice)] == [[2220 if step else 22220] * 3]
        (group.server,) = (x for x in outcome.outputs if isinstance(x, ServerReady))
        group.ready = {u: r for u in group.ready for r in running[client(u)].outputs if isinstance(r, Ready)}
    journal = parties[0].journal
    assert isinstance(journal, MemoryJournal)
    assert (journal.joined, journal.spent) == ({"toy": (3, 0)}, {"toy": 5})


def test_what_a_step_needs_and_a_single_sum_does_not_are_told_apart() -> None:
    made = batch_sums.batch("secagg")
    roster, parties = sums.enrol(3)
    parameters = made.scheme.parameters(3, 3, 1000)
    terms = made.terms(Occasion("toy", 0), roster, parameters, 2)
    group = batch_sums.handshake(made, parties, terms)
    with pytest.raises(Misuse, match="StepGuard"):
        simulate.run(sessions(made, group, terms, bytes(32), OccasionGuard))
    single = sums.scheme("secagg").terms(Occasion("toy", 0), roster, parameters)
    for turn in (batch_sums.client_turn, batch_sums.server_turn):
        for ready, at in ((None, terms.at(0)), (group.party(1), single), (group.party(1), terms)):
            with pytest.raises(Misuse, match="a step needs the terms of a step"):
                turn(ready, at)  # type: ignore[arg-type]
    alone = Joining(parties[0], single, StepGuard(parties[0].journal))
    ml = secured(toy(), sums.scheme("secagg"))
    session = Session(ml, client(1), {"server": [0]}, [Site(alone, 1)], made.limits(terms), guard=alone.guard)
    with pytest.raises(Misuse, match="StepGuard"):
        session.begin()


def test_flows_of_many_sums_are_found_by_name() -> None:
    assert {name: flow(name).name for name in MANY} == {name: name for name in MANY}
    with pytest.raises(Misuse, match="secagg-handshake, secagg-step, kahe-step, fedavg"):
        flow("nosuch")
