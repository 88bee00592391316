"""The seam between the layers: an ML flow above, any protocol below, one `Vector` in and one `Sum` out.

The protocol's flow is embedded in the ML flow as it is.  Two glue steps hand over the start values: `enter` at the server and
`join` at a party, which binds the party's journal to the occasion before anything leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protocols.errors import Misuse
from protocols.flow import Flow, Port, Step
from protocols.plugins import refuse_shadow
from protocols.policy import OccasionGuard
from protocols.suite import Terms
from protocols.sums import Party, Scheme, names, scheme


@dataclass(frozen=True)
class Joining:
    """A party is about to join a secure sum."""

    party: Party
    terms: Terms[Any]
    guard: OccasionGuard


@dataclass(frozen=True)
class Entering:
    """The server is about to open a secure sum."""

    terms: Terms[Any]


def secured(ml: Flow, protocol: Scheme) -> Flow:
    """The ML flow with the protocol's flow embedded: what both layers look like together.

    Args:
        ml: gives `Joining` and `Vector` at a party and `Entering` at the server, and takes the `Sum`.
        protocol: the security flow.
    """
    flow = Flow(f"{ml.name} over {protocol.name}").include(ml)
    (client_start,), (server_start,) = protocol.flow.starts("client"), protocol.flow.starts("server")

    def join(joining: Joining) -> object:
        """Enter the secure sum; the journal is bound to this occasion."""
        joining.guard.bind(joining.terms.occasion)
        if protocol.origin is not None:  # nobody knows that its own steps ask
            joining.party.policy.check(joining.terms)
        return protocol.client_start(joining.party, joining.terms)

    def enter(entering: Entering) -> object:
        """Open the secure sum."""
        return protocol.server_start(entering.terms)

    flow.add(Step("enter", "server", enter, (Port("value", Entering, "entering"),), (Port("value", server_start),)))
    flow.add(Step("join", "client", join, (Port("value", Joining, "joining"),), (Port("value", client_start),)))
    return flow.include(protocol.flow).check()


def flow(name: str) -> Flow:
    """A flow by name: a protocol's own, or ``fedavg`` for a round of training over SecAgg.

    Raises:
        Misuse: for a name that is neither, or a plug-in that is refused.
    """
    if name != "fedavg" and name not in names():
        raise Misuse(f"no protocol {name!r}; there are {', '.join((*names(), 'fedavg'))}")
    refuse_shadow(name)
    if name == "fedavg":
        from securefl.round import round_flow  # noqa: PLC0415  (loads torch)

        return secured(round_flow(), scheme("secagg"))
    return scheme(name).flow
