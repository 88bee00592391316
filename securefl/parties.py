"""Who takes part: the registered parties, and what each keeps between rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from protocols.policy import Policy
from protocols.rand import Entropy, fresh
from protocols.suite import Member, Roster
from protocols.sums import Party, enrol
from securefl.errors import UserError, quoted


@dataclass(frozen=True)
class Consortium:
    """Parties that have registered.

    Attributes:
        roster: names and identities in a fixed order.
        parties: for each its signing key, policy and journal.
    """

    roster: Roster
    parties: tuple[Party, ...]

    @classmethod
    def of(cls, names: Sequence[str], policy: Policy, entropy: Entropy = fresh) -> Consortium:
        """Made-up identities for named parties, for simulation; each party's policy knows them all.

        Raises:
            UserError: for fewer than two parties, doubled names, or a name of more than 64 bytes.
        """
        if len(names) < 2 or len(set(names)) != len(names):
            raise UserError(
                f"a federation needs at least 2 sites with names of their own, not {len(names)}: {', '.join(map(quoted, names))}"
            )
        for name in names:
            if not 1 <= len(name.encode()) <= 64:
                raise UserError(f"the site name {name!r} must have 1 to 64 bytes")
        anonymous, parties = enrol(len(names), entropy=entropy)
        roster = Roster(tuple(Member(n, m.identity) for n, m in zip(names, anonymous.members, strict=True)))
        known = replace(policy, registered=frozenset(member.identity for member in roster.members))
        return cls(roster, tuple(replace(p, policy=known) for p in parties))
