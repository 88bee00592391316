"""The server's half of a run: the global models, a session for each round, and what the round's sum makes of them.

It holds no row, no key of a party and no single update.  A driver moves the letters: `securefl.simulated_rounds` in one process,
`securefl.transport` between machines.

What it does not protect: the models are the server's; parties bind their sums to exactly the ones that they were shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.batch_types import ServerReady
from protocols.bulk import Bulk
from protocols.errors import Misuse
from protocols.flow import Flow
from protocols.intake import TURNS
from protocols.session import SERVER, Session
from protocols.suite import Occasion, Terms
from securefl.aggregator import ServerAggregator
from securefl.encoding import Encoding
from securefl.round import model_values
from securefl.round_types import NextModel, Starting
from securefl.run_terms import RunTerms


class ServerSide:
    """The server of a run.

    Args:
        about: what the run is.
        models: the global models at the start, one vector of shape (d,), float32, for each that is trained side by side.
        aggregator: what is done with the sum.

    Attributes:
        models: the global models as they are now.
        plan: how updates become the vector of the next round's sum.
        beside: public values of the run that travel with the models, shape (about.beside,), float32.
    """

    def __init__(self, about: RunTerms, models: Sequence[NDArray[np.float32]], aggregator: ServerAggregator) -> None:
        self.about, self.aggregator = about, aggregator
        self.models: list[NDArray[np.float32]] = [model.copy() for model in models]
        self.plan: Encoding = about.plan
        self.beside: NDArray[np.float32] = np.zeros(about.beside, np.float32)

    def occasion(self, run: str, number: int, attempt: int = 0) -> Occasion:
        """Round ``number`` of a run, with the hash of the models, and of what travels with them, that its parties will be shown."""
        weights = Bulk.of(self.about.layout, model_values(self.models, self.plan, self.beside))
        return Occasion(run, number, attempt, weights.digest)

    def start(
        self,
        occasion: Occasion,
        terms: Terms[Any],
        *,
        ready: ServerReady | None = None,
        told: Callable[[int], None] = lambda _contributors: None,
    ) -> Starting:
        """What a round begins with; the arguments are those of `session`."""
        return Starting(occasion, terms, self.about.layout, self.models, self.aggregator, self.plan, ready, told, self.beside)

    def session(
        self,
        flow: Flow,
        occasion: Occasion,
        terms: Terms[Any],
        *,
        turns: int = TURNS,
        ready: ServerReady | None = None,
        told: Callable[[int], None] = lambda _contributors: None,
    ) -> Session:
        """The session of one round.

        Args:
            flow: of the round, with the protocol embedded.
            occasion: from `occasion`.
            terms: of the sum.
            turns: how many vectors may be under way at once.
            ready: what a handshake for several rounds left.
            told: called with the number of contributors, once the sum is open.
        """
        start = self.start(occasion, terms, ready=ready, told=told)
        invited = terms.roster.indexes if ready is None else ready.u2
        return Session(flow, SERVER, {"client": invited}, [start], self.about.limits, turns=turns)

    def opened(self, outputs: Iterable[Any]) -> NextModel:
        """The result of a round that opened its sum; nothing goes on from it yet."""
        return next(found for found in outputs if isinstance(found, NextModel))

    def restore(self, models: Sequence[NDArray[np.float32]], state: Sequence[float]) -> None:
        """Go on from these models and public values.

        Raises:
            Misuse: for another number of models, or of another size.
        """
        if [model.size for model in models] != [model.size for model in self.models]:
            raise Misuse(f"models of {[m.size for m in models]} values do not go on from {[m.size for m in self.models]}")
        self.models, self.plan = [*models], self.plan.at(np.array(state, dtype=np.float32))

    def take(self, outputs: Iterable[Any]) -> NextModel:
        """Go on from the result of a round that opened its sum."""
        opened = self.opened(outputs)
        self.restore(opened.models, opened.state)
        return opened
