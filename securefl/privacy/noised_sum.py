"""What encodings with noise in the sum have in common, whatever one ε protects: nothing exact beside it, and a ring of its own.

What it does not protect: `securefl.privacy.party` and `securefl.privacy.record` say what each is good for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from securefl.encoding import PartyAccount, SumSpec
from securefl.errors import UserError
from securefl.privacy.divergence import Event


class NoisedSum:
    """Base of the encodings with noise in the sum; ``plan`` is a field of theirs."""

    plan: Any

    @property
    def parties(self) -> int:
        """Parties invited."""
        return int(self.plan.cohort.clients)

    @property
    def sums(self) -> tuple[SumSpec, ...]:
        """None: nothing exact is opened beside a noised sum."""
        return ()

    @property
    def w_max(self) -> int:
        """1: all parties weigh the same."""
        return 1

    @property
    def limit(self) -> int:
        """1: the whole width of the ring belongs to `tail`, as no single value is held to a bound."""
        return 1

    @property
    def bits(self) -> int:
        """Width of the ring."""
        return int(self.plan.bits)

    @property
    def tail(self) -> int:
        """What is left of the ring: a sum past it has wrapped around, with a probability of at most ``plan.wrap`` over the run."""
        return int(2 ** (self.bits - 1)) - 1 - self.parties

    def event(self, survivors: int | None) -> Event | None:
        """What a sum over so many costs each party in it; None for the fewest."""
        event: Event = self.plan.event(self.plan.cohort.smallest if survivors is None else survivors)
        return event

    def account(self, _accountant: str, before: tuple[Event, ...]) -> PartyAccount:
        """What a party spends, told how many survived."""
        from securefl.privacy.party import Account  # noqa: PLC0415  (it is built on this)

        return Account(self.plan, before=before)


def refuse_sums(sums: Mapping[str, object]) -> None:
    """Raise `UserError` for any: it would leave without noise."""
    if sums:
        raise UserError(f"{', '.join(sorted(sums))}: nothing exact leaves beside a noised sum")
