"""Two models: a server gives hospital 1 the real model, all others one that makes their updates zero: the sum is hospital 1's.

The model's hash is in the session identity, so hospital 1 speaks of another session than the others: its keys are refused by
"advert-signature", and the sum is without it.  Were the hash not in there, the sum would be hospital 1's update.
"""

from dataclasses import replace
from unittest import mock

import numpy as np
from lying_server import ALL, SECRET

from protocols import simulate, suite, sums
from protocols.session import SERVER, client
from protocols.suite import Occasion
from protocols.vector import Vector
from protocols.wire import digest

LIVE, DEAD = digest("live"), digest("dead")
bound = suite.session_id


def unbound(name, occasion, roster, parameters):
    """The session identity without the model."""
    return bound(name, replace(occasion, model=bytes(32)), roster, parameters)


def update(u, model):
    """What a hospital's training gives: the model decides, and one can be made so that nothing is learnt from it."""
    return np.array(SECRET if u == 1 else [u] * 4) * (model == LIVE)


def two_models():
    """The steps of the protocol are played as they are; the lie is in what they are about."""
    scheme, (roster, parties) = sums.scheme("secagg"), sums.enrol(len(ALL))
    parameters = scheme.parameters(len(ALL), 4, 100)
    terms = {model: scheme.terms(Occasion("example", 0, model=model), roster, parameters) for model in (LIVE, DEAD)}
    told = {u: LIVE if u == 1 else DEAD for u in ALL}
    sessions = {SERVER: sums.server_session(scheme, terms[DEAD])}
    sessions |= {client(p.index): sums.client_session(scheme, p, terms[told[p.index]]) for p in parties}
    outcome = simulate.run(sessions, {client(u): [Vector(update(u, told[u]))] for u in ALL})
    refused = [f"{fault.sender} {fault.check}" for fault in sessions[SERVER].faults]
    return f"sum over {outcome.outputs[0].contributors} {outcome.outputs[0].values.tolist()}, refused: {refused or 'nothing'}"


print("model in the session identity:", two_models())
with mock.patch.object(suite, "session_id", unbound):
    print(f"model left out: {two_models()}; hospital 1 has {SECRET}")
