"""Secure sums between machines without any learning: each party adds one vector of integers, the server opens the sum.

    hall = Hall(run, adding.hash, roster, …)
    total = await adding.open(hall, number=1)        # at the server

    await Link(target, credentials, adding.hash, Adder(adding, credentials, journal, vector), …).attend()   # at each party

What it does not protect: an exact sum shows what sums show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from protocols.errors import Misuse, require
from protocols.policy import Journal, Policy
from protocols.session import Session
from protocols.suite import Occasion, Roster, Terms
from protocols.sums import Party, client_session, scheme, server_session
from protocols.vector import Sum, Vector
from protocols.wire import canonical
from securefl.transport.enrolment import Credentials
from securefl.transport.hall import Hall
from securefl.transport.roster import SignedRoster
from securefl.transport.sitting import Part

STAGE = "sum"


@dataclass(frozen=True)
class Adding:
    """What all agree to.

    Attributes:
        protocol: name of the protocol.
        size: d, values of a vector.
        max_abs: largest absolute value of one.
        sums: how many sums there may be in a run.
    """

    protocol: str
    size: int
    max_abs: int
    sums: int = 1

    @property
    def hash(self) -> bytes:
        """Stands for it, as a job's hash does."""
        return hashlib.sha256(canonical(["securefl sums", self.protocol, self.size, self.max_abs, self.sums])).digest()

    def terms(self, cohort: Roster, run: str, number: int, attempt: int = 0) -> Terms[Any]:
        """The terms of one sum."""
        found = scheme(self.protocol)
        return found.terms(Occasion(run, number, attempt), cohort, found.parameters(len(cohort), self.size, self.max_abs))

    async def open(self, hall: Hall, number: int, *, turns: int = 1) -> Sum:
        """Open one sum with those in the hall.

        Raises:
            Abort: where it cannot be opened.
        """
        terms = self.terms(hall.cohort, hall.run, number)
        session = server_session(scheme(self.protocol), terms, turns=turns)
        await hall.sit(STAGE, terms.occasion, session)
        if session.ended is not None:
            raise session.ended
        found: Sum = session.outputs[0]
        return found


class Adder:
    """A party of such sums (`securefl.transport.link.Attendant`).

    Args:
        adding: what is summed, by the party's own view.
        credentials: the party's.
        journal: on its disk.
        vector: by the number of a sum, what it adds: shape (d,), int64.
        policy: its own bounds; the registered identities are those of the roster.
    """

    def __init__(
        self,
        adding: Adding,
        credentials: Credentials,
        journal: Journal,
        vector: Callable[[int], NDArray[Any]],
        policy: Policy | None = None,
    ) -> None:
        self._adding, self._journal, self._vector = adding, journal, vector
        self._policy = policy or scheme(adding.protocol).policy
        self._name, self._identity = credentials.entry.name, credentials.identity
        self._run, self._cohort, self._party = "", None, None

    _cohort: Roster | None
    _party: Party | None

    def welcome(self, run: str, roster: SignedRoster) -> None:
        """Take part in this run.

        Raises:
            Refused: ``net-member`` where the own identity is not on the roster.
        """
        identity, cohort = self._identity, roster.cohort
        if identity is None:
            raise Misuse("a server adds nothing")
        mine = roster.place(self._name, identity.public)
        policy = replace(self._policy, registered=frozenset(m.identity for m in cohort.members))
        self._run, self._cohort, self._party = run, cohort, Party(mine, identity, policy, self._journal)

    def convene(self, stage: str, number: int, attempt: int, cohort: bytes = b"") -> Part:
        """One sum, of everybody.

        Raises:
            Refused: ``net-stage`` for something else.
        """
        roster, party = self._cohort, self._party
        fits = roster is not None and stage == STAGE and 1 <= number <= self._adding.sums and not cohort
        require(fits, "net-stage", f"{stage} {number}: there are {self._adding.sums} sums and nothing else")
        if roster is None or party is None:
            raise Misuse("a sum before the run was named")
        terms = self._adding.terms(roster, self._run, number, attempt)
        return Part(client_session(scheme(self._adding.protocol), party, terms), (Vector(self._vector(number)),))

    def adjourn(self, session: Session) -> None:
        """Nothing is kept."""
