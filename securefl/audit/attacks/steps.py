"""Attacks on many sums after one handshake (`protocols.batch`): row 25.

The server follows the protocol and keeps all that it hears; a party is lost at one step.  Six parties, or the small ring; the first
is the victim.  With what was opened for it at one step the server tries its vector of another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from protocols import batch_sums, kahe_types
from protocols.batch_terms import StepTerms
from protocols.batch_types import ServerReady
from protocols.errors import Abort
from protocols.primitives import rlwe
from protocols.primitives.agree import KeyPair
from protocols.primitives.shamir import SHARE_SIZE
from protocols.rand import Replay, Seed
from protocols.ring import Accumulator
from protocols.schema import strings
from protocols.secagg_types import Openings
from protocols.session import Letter, client
from protocols.vector import Vector
from securefl.audit.federation import Federation
from securefl.audit.registry import attack
from securefl.audit.secagg_server import pair_keys, rebuild, unmask
from securefl.audit.target import Shape, Target
from securefl.audit.verdict import Verdict, broken, harmless, inapplicable

VICTIM = 1
ON: tuple[Shape, ...] = ("secagg", "secagg+", "kahe")


@dataclass
class Step:
    """What the server has of one step.

    Attributes:
        terms: of the step.
        ready: what it held when the step began.
        upload: the victim's masked vector; kept where it was too late to count.
        openings: what each party opened.
    """

    terms: StepTerms[Any]
    ready: ServerReady
    upload: Any = None
    openings: dict[int, bytes] = field(default_factory=dict)

    def secret(self) -> Seed | None:
        """The victim's secret that was opened: b if it survived, s_sk if not."""
        ready, shares = self.ready, dict[int, bytes]()
        for u, opened in self.openings.items():
            dealers = {v for v in ready.near[u].tolist() if v in ready.u2} | ({u} if ready.dealt[u].own_hash else set())
            if VICTIM in dealers:
                shares[u] = strings(opened, SHARE_SIZE)[sorted(dealers).index(VICTIM)]
        return rebuild(shares, self.terms.parameters.shares)

    def public(self, u: int) -> bytes:
        """The mask key of a party at this step."""
        return self.ready.s_pks[u][32 * self.terms.step : 32 * (self.terms.step + 1)]

    def input(self, b: Seed, s: KeyPair) -> list[int]:
        """The victim's input, if these are its secrets of this step; [] if they are not."""
        L, near = self.ready.L, [v for v in self.ready.near[VICTIM].tolist() if v in self.ready.u2]
        pairs = pair_keys(self.terms, L, VICTIM, {v: self.public(v) for v in near}, {VICTIM: s})
        found = unmask(self.terms, L, VICTIM, self.upload, b, pairs)
        return self._decrypted(found) if found and isinstance(self.upload, kahe_types.Enciphered) else found

    def _decrypted(self, key: list[int]) -> list[int]:
        p = self.terms.parameters.whole
        total = Accumulator(p.shape.ring, p.shape.coefficients)
        self.upload.c.add_to(total)
        try:
            opened = rlwe.open_sum(p.shape, rlwe.elements(self.terms.suite), total.total(), np.array(key), 1)
        except Abort:
            return []
        out: list[int] = opened[:-1].tolist()
        return out


def two_steps(fed: Federation) -> tuple[Step, Step]:
    """Two steps as an honest server plays them; at the second one the victim is lost, though it sent its vector."""
    made = batch_sums.batch(fed.scheme.name)
    terms = made.terms(fed.terms.occasion, fed.roster, fed.terms.parameters, 2)
    about: Any = {"entropy": lambda who: Replay(f"{who} {fed.salt}"), "carried": fed.wired}
    group = batch_sums.handshake(made, fed.parties.values(), terms, **about)
    seen = list[Step]()
    for number in range(2):
        if group.server is None:
            raise Abort("quorum", "the first step was aborted")
        step = Step(terms.at(number), group.server)
        seen.append(step)

        def network(letter: Letter, step: Step = step) -> Iterable[Letter]:
            if isinstance(letter.message, Openings):
                step.openings[letter.sender.index] = letter.message.shares
            if letter.sender == client(VICTIM) and hasattr(letter.message, "y"):
                step.upload = letter.message
            return () if letter.sender == client(VICTIM) and step.terms.step == 1 else (letter,)

        batch_sums.opened(group.step({u: Vector(x) for u, x in fed.vectors.items()}, network=network))
    return seen[0], seen[1]


def tried(target: Target, step: int) -> Verdict:
    """The victim's vector of a step, with b as opened at the step that it survived and s_sk at the one where it was lost."""
    if target.scheme.origin is not None or target.name not in batch_sums.NAMES:
        return inapplicable("each of its handshakes serves one sum")
    fed = (target.federation() if target.shape == "secagg+" else target.cohort()).with_memory()
    steps = two_steps(fed)
    b, s = steps[0].secret(), steps[1].secret()
    if b is None or s is None or steps[step].upload is None:
        return harmless("nothing of the victim was opened")
    found = steps[step].input(b, KeyPair.from_secret(s))
    if found == fed.secret(VICTIM):
        return broken("secrets of two steps open one of them", whose=f"client {VICTIM}", recovered=found, true=fed.secret(VICTIM))
    return harmless("what was opened at one step fits no other")


@attack(
    25,
    "the mask keys of a party lost at a step, for the step before",
    lie="none: a party is lost at the second step, and its mask key of that step is opened; its second mask of the first one was",
    notice="nobody has to: every step has keys of its own; one key twice is refused by advert-distinct",
    on=ON,
)
def earlier_step(target: Target) -> Verdict:
    """The vector that it sent at the first step."""
    return tried(target, 0)


@attack(
    25,
    "a vector kept at the step of its party's loss, with the second mask of the step before",
    lie="the server keeps a vector that it says has not come",
    notice="nobody has to: every step has a seed of its own",
    on=ON,
)
def kept_vector(target: Target) -> Verdict:
    """The vector that was left out of the second step."""
    return tried(target, 1)
