"""Sums over sites without any training: what each site adds stays hidden, the totals are opened exactly, or with noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols import simulate
from protocols.rand import Entropy, fresh
from protocols.session import SERVER, client
from protocols.suite import Occasion, Terms
from protocols.sums import Scheme, client_session, server_session
from protocols.vector import Sum, Vector
from securefl.encode import Plan, decode, encode
from securefl.encoding import Decoded, SumSpec
from securefl.parties import Consortium
from securefl.privacy.samplers import skellam
from securefl.timing import beside

if TYPE_CHECKING:
    from securefl.audit.recording import Recording
    from securefl.statistics.noise import StatisticsPlan


def secure_totals(
    consortium: Consortium,
    protocol: Scheme,
    occasion: Occasion,
    specs: Sequence[SumSpec],
    values: Sequence[Mapping[str, ArrayLike]],
    *,
    precision: int = 16,
    threshold: int | None = None,
    watch: simulate.Watch | None = None,
    network: simulate.Network | None = None,
    entropy: Entropy = fresh,
    recording: Recording | None = None,
) -> Decoded:
    """Sum named statistics of all parties in one secure sum.

    Args:
        consortium: the parties.
        protocol: how the sum is formed.
        occasion: for what; one that no party has joined before.
        specs: names, sizes and public bounds.
        values: for each party, in the order of the roster, its value of each name.
        precision: bits of one party's coordinate.
        threshold: parties needed to open the sum; by default the least that is safe.
        watch: called on every delivery.
        network: what happens to letters, such as `protocols.simulate.vanish`; by default all arrive.
        entropy: where stochastic rounding takes its randomness from.
        recording: writes down what the server and each party saw.

    Raises:
        UserError: for a value past its bound.
        Abort: where the sum cannot be opened.
    """
    n = len(consortium.parties)
    plan = Plan(n, sums=tuple(specs), precision=precision)
    parameters = protocol.parameters(n, plan.size, plan.limit, bits=plan.bits, threshold=threshold)
    terms = protocol.terms(occasion, consortium.roster, parameters)
    vectors = [Vector(encode(plan, [], [], own, entropy()).vector) for own in values]
    total = _opened(consortium, protocol, terms, vectors, watch=watch, network=network, recording=recording)
    return decode(plan, total.values, total.contributors)


def noised_totals(
    consortium: Consortium,
    protocol: Scheme,
    occasion: Occasion,
    plan: StatisticsPlan,
    values: Sequence[NDArray[np.int64]],
    *,
    threshold: int | None = None,
    watch: simulate.Watch | None = None,
    network: simulate.Network | None = None,
    entropy: Entropy = fresh,
    recording: Recording | None = None,
) -> Sum:
    """Sum integers of all parties in one secure sum, with noise of each of them inside; nothing exact is opened beside.

    Args:
        consortium: the parties.
        protocol: how the sum is formed.
        occasion: for what; one that no party has joined before.
        plan: the noise.
        values: for each party its integers, shape (plan.size,), int64.
        threshold: parties needed to open the sum; by default the least that is safe.
        watch: called on every delivery.
        network: what happens to letters; by default all arrive.
        entropy: where each party's noise comes from.
        recording: writes down what the server and each party saw.

    Raises:
        Misuse: for a protocol whose sums carry no noise.
        Abort: where the sum cannot be opened.
    """
    parameters: Any = protocol.noised(len(consortium.parties), plan.size, 1, tail=plan.tail, bits=plan.bits, threshold=threshold)
    terms = protocol.terms(occasion, consortium.roster, parameters)
    vectors = [Vector(own + skellam(entropy(), "noise", plan.size, plan.share)) for own in values]
    return _opened(consortium, protocol, terms, vectors, watch=watch, network=network, recording=recording)


def _opened(
    consortium: Consortium,
    protocol: Scheme,
    terms: Terms[Any],
    vectors: Sequence[Vector],
    *,
    watch: simulate.Watch | None,
    network: simulate.Network | None,
    recording: Recording | None,
) -> Sum:
    sessions = {SERVER: server_session(protocol, terms)}
    sessions |= {client(party.index): client_session(protocol, party, terms) for party in consortium.parties}
    inputs = {client(party.index): [vector] for party, vector in zip(consortium.parties, vectors, strict=True)}
    if recording is not None:
        recording.begin(protocol, terms, consortium.parties)
    outcome = simulate.run(sessions, inputs, network=network, watch=beside(watch, recording))
    if recording is not None:
        recording.end(outcome, outcome.outputs[0].contributors if outcome.outputs else None)
    if outcome.reason is not None:
        raise outcome.reason
    total: Sum = outcome.outputs[0]
    return total
