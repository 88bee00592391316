"""The seam between the layers: an ML flow above, any protocol below, one `Vector` in and one `Sum` out.

The protocol's flow is embedded in the ML flow as it is: that of a single sum, or that of one step after a handshake for many.  Two
glue steps hand over the start values: `enter` at the server and `join` at a party, which binds the party's journal to the occasion
before anything leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protocols import batch, kahe_batch
from protocols.batch_sums import Batch, client_turn, server_turn
from protocols.batch_types import Ready, ServerReady
from protocols.errors import Misuse
from protocols.flow import Flow, Port, Step
from protocols.plugins import refuse_shadow
from protocols.policy import OccasionGuard, StepGuard
from protocols.suite import Terms
from protocols.sums import Party, Scheme, names, scheme


@dataclass(frozen=True)
class Joining:
    """A party is about to join a secure sum.

    Attributes:
        party: who.
        terms: of the sum.
        guard: its journal, not bound yet; a `StepGuard` where a handshake was joined before.
        ready: what that handshake, or the sum before, left with the party.
    """

    party: Party
    terms: Terms[Any]
    guard: OccasionGuard
    ready: Ready | None = None


@dataclass(frozen=True)
class Entering:
    """The server is about to open a secure sum.

    Attributes:
        terms: of the sum.
        ready: what a handshake, or the sum before, left with the server.
    """

    terms: Terms[Any]
    ready: ServerReady | None = None


def secured(ml: Flow, protocol: Scheme | Batch) -> Flow:
    """The ML flow with the protocol's flow embedded: what both layers look like together.

    Args:
        ml: gives `Joining` and `Vector` at a party and `Entering` at the server, and takes the `Sum`.
        protocol: the security flow of a single sum; or many sums after one handshake, of which this is one step: a party then
            also gives the `Ready` of the next one, the server its `ServerReady`.
    """
    many = isinstance(protocol, Batch)
    scheme, inner = (protocol.scheme, protocol.steps) if isinstance(protocol, Batch) else (protocol, protocol.flow)
    flow = Flow(f"{ml.name} over {scheme.name}").include(ml)
    (client_start,), (server_start,) = inner.starts("client"), inner.starts("server")

    def join(joining: Joining) -> object:
        """Enter the secure sum; the journal is bound to this occasion."""
        if many != isinstance(joining.guard, StepGuard):
            raise Misuse("a journal is bound by a StepGuard in the steps after a handshake, and only there")
        joining.guard.bind(joining.terms.occasion)
        if scheme.origin is not None:  # nobody knows that its own steps ask
            joining.party.policy.check(joining.terms)
        return client_turn(joining.ready, joining.terms) if many else scheme.client_start(joining.party, joining.terms)

    def convening(entering: Entering) -> object:
        """Open the secure sum."""
        return server_turn(entering.ready, entering.terms) if many else scheme.server_start(entering.terms)

    flow.add(Step("enter", "server", convening, (Port("value", Entering, "entering"),), (Port("value", server_start),)))
    flow.add(Step("join", "client", join, (Port("value", Joining, "joining"),), (Port("value", client_start),)))
    return flow.include(inner).check()


MANY = {"secagg-handshake": batch.handshake, "secagg-step": batch.steps, "kahe-step": kahe_batch.steps}
"""Flows of many sums after one handshake, by name."""


def flow(name: str) -> Flow:
    """A flow by name: a protocol's own, one of `MANY`, or ``fedavg`` for a round of training over SecAgg.

    Raises:
        Misuse: for a name that is none of these, or a plug-in that is refused.
    """
    if name in MANY:
        return MANY[name]
    if name != "fedavg" and name not in names():
        raise Misuse(f"no protocol {name!r}; there are {', '.join((*names(), *MANY, 'fedavg'))}")
    refuse_shadow(name)
    if name == "fedavg":
        from securefl.round import round_flow  # noqa: PLC0415  (loads torch)

        return secured(round_flow(), scheme("secagg"))
    return scheme(name).flow
