"""How far an honest party can come in SecAgg, by which messages, and what the adversary sees of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protocols.secagg_types import Consenting, Covered, Masked, Shared
from securefl.audit.symbolic.setting import Told


@dataclass(frozen=True, eq=False)
class Run:
    """A party that was told a list and dealt its boxes.

    Attributes:
        party: who.
        told: the list.
        L: its hash.
        state: after round 1.
        boxes: what it sealed for each holder, and the hashes of what is inside.
        readable: shares that whoever has the secret of a public key reads in its boxes.
    """

    party: int
    told: Told
    L: bytes
    state: Shared
    boxes: Mapping[int, tuple[bytes, bytes]]
    readable: tuple[tuple[bytes, int], ...]

    @property
    def lies(self) -> int:
        """How many lies it was told."""
        return self.told.lies


@dataclass(frozen=True)
class Relayed:
    """A box as it is given to its addressee.

    Attributes:
        box: sealed.
        pins: the hashes shown with it.
        run: who sealed it in this round; None for a box of the adversary's, or of an earlier round.
        name: what it is, if not what it should be.
    """

    box: bytes
    pins: bytes
    run: Run | None = None
    name: str = ""


@dataclass(frozen=True)
class Mask:
    """One mask in a vector: the key that expands to it, its sign, and who can make it.

    Attributes:
        key: of the keystream.
        sign: 1 or −1.
        publics: public keys, the secret of any of which gives the key; none for the mask of the seed b.
    """

    key: bytes
    sign: int
    publics: tuple[bytes, ...] = ()


@dataclass(frozen=True, eq=False)
class Cover:
    """A party that has sent its masked vector.

    Attributes:
        run: what it was told before.
        u2: who is said to have dealt.
        boxes: what it was given, by dealer.
        state: after round 2.
        masked: what it sent.
        masks: all masks in it.
        lies: how many it was told so far.
    """

    run: Run
    u2: tuple[int, ...]
    boxes: Mapping[int, Relayed]
    state: Covered
    masked: Masked
    masks: tuple[Mask, ...]
    lies: int

    @property
    def needs(self) -> list[Run]:
        """The ways that others must have gone for these boxes to exist."""
        return [box.run for box in self.boxes.values() if box.run is not None and box.run.party != self.run.party]


@dataclass(frozen=True, eq=False)
class Consent:
    """A party that has signed who survived.

    Attributes:
        cover: what it was told before.
        dropped: who is said to have dropped.
        state: after round 3.
        signature: over L and U3.
        lies: how many it was told so far.
    """

    cover: Cover
    dropped: tuple[int, ...]
    state: Consenting
    signature: bytes
    lies: int


@dataclass(frozen=True, eq=False)
class Way:
    """How far a party comes, and by which messages.

    Attributes:
        run: its list and its boxes.
        cover: its vector, or None where it sent none.
        consents: who survived, as it was told; more than one only where states are used again.
    """

    run: Run
    cover: Cover | None = None
    consents: tuple[Consent, ...] = ()

    @property
    def lies(self) -> int:
        """How many lies lead here."""
        last = self.consents[-1] if self.consents else self.cover or self.run
        return last.lies + max(0, len(self.consents) - 1)


State = dict[int, Way]
"""A way for each party, or for the first few of them."""
