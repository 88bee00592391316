"""Every move of an honest party: what its real steps make of each message that a lying server can give it.

Steps are pure, so what a party answers follows from what it was told, and parties share nothing but what the adversary knows.  So
a party's possible ways through the protocol are listed once, by running the steps of `protocols.secagg` themselves: there is no
model of them that could be wrong.  What the adversary sees of a way are bytes; they are told apart as symbols by what made them:
shares by dealer, secret and holder, masks by the key that they expand.

Beside the messages of the round itself the server has those of an earlier round, in which every party signed every U3 that it may
and dropped out once: more than it could get in fact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, product
from time import process_time
from typing import Any, TypeVar

from protocols import handshake, secagg, secagg_labels
from protocols.agreement import Agreed, Dropped, check_agree
from protocols.errors import Misuse, Refused
from protocols.primitives import agree, seal
from protocols.primitives.prg import apply_masks
from protocols.primitives.shamir import SHARE_SIZE
from protocols.rand import Key
from protocols.schema import strings
from protocols.secagg_types import BOX, PINS, Covered, Masked, Sealed
from protocols.suite import Terms
from protocols.vector import Vector
from protocols.wire import canonical
from securefl.audit.symbolic.setting import BOXES, EARLIER, Cast, Setting, Told, step_rand, told
from securefl.audit.symbolic.ways import Consent, Cover, Mask, Relayed, Run

S, B = 0, 1
"""A party's two secrets: s_sk and the seed b."""
IN_CLEAR = b""
"""Stands for the public key of a box whose content can be read in it."""
T = TypeVar("T")


def subsets(items: Iterable[int]) -> Iterator[tuple[int, ...]]:
    """All subsets, the largest first."""
    members = tuple(items)
    return chain.from_iterable(combinations(members, size) for size in range(len(members), -1, -1))


@dataclass
class World:
    """All ways of all honest parties.

    Attributes:
        setting: what is explored.
        cast: everybody's keys.
        runs: by party, what it can be told up to round 1.
        covers: up to round 2.
        consents: up to round 3.
        tried: how many messages were given to a step.
        refused: how many of them, by check.
        shares: what each share is, by its bytes: a bit.
        seconds: of computing that this took.
    """

    setting: Setting
    cast: Cast
    earlier: World | None = None
    runs: dict[int, list[Run]] = field(default_factory=dict)
    covers: dict[int, list[Cover]] = field(default_factory=dict)
    consents: dict[int, list[Consent]] = field(default_factory=dict)
    tried: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    shares: dict[bytes, int] = field(default_factory=dict)
    seconds: float = 0.0
    _opened: dict[tuple[int, Agreed], int | None] = field(default_factory=dict)
    _good: dict[tuple[object, ...], bool] = field(default_factory=dict)

    @classmethod
    def of(cls, setting: Setting) -> World:
        """Make every move."""
        fed, short = setting.federation(), replace(setting, lies=frozenset())
        before = replace(fed, salt="again") if setting.again else fed.at(round=EARLIER)
        earlier = cls(short, Cast(short, before)) if setting.lies else None
        return cls(setting, Cast(setting, fed), earlier)

    def __post_init__(self) -> None:
        began = process_time()
        lines = self.cast.lines(None if self.earlier is None else self.earlier.cast)
        lists = told(self.cast, lines)
        for u in self.setting.honest:
            self.runs[u] = [run for one in lists if (run := self._run(u, one)) is not None]
        for u in self.setting.honest:
            self.covers[u] = [cover for run in self.runs[u] for cover in self._covers(run)]
            self.consents[u] = [consent for cover in self.covers[u] for consent in self._consents(cover)]
        self.seconds = process_time() - began

    def attempt(self, step: Callable[..., T], *arguments: Any) -> T | None:
        """What a step makes of a message, or None if it refuses it; a step whose check was taken out may break instead."""
        self.tried += 1
        try:
            return step(*arguments)
        except Refused as error:
            self.refused[error.check] += 1
        except (Misuse, LookupError, ValueError):
            self.refused["broke"] += 1
        return None

    def bit(self, dealer: int, secret: int, holder: int) -> int:
        """The bit of one share."""
        return 1 << (2 * (dealer - 1) + secret) * self.setting.parties + holder - 1

    # Round 1

    def _run(self, u: int, one: Told) -> Run | None:
        done = self.attempt(secagg.share, self.cast.states[u], one.listed, step_rand(self.cast.fed, u, 2))
        if done is None:
            return None
        state, sent = done
        L, terms = state.L, self.cast.fed.terms
        holders = [v for v in secagg.holders_of(terms, L, u, state.entries) if v != u]
        boxes = dict(zip(holders, zip(strings(sent.boxes, BOX), strings(sent.hashes, PINS), strict=True), strict=True))
        readable = list[tuple[bytes, int]]()
        for v, (box, _) in boxes.items():
            theirs = state.entries[v].c_pk
            key = handshake.box_key(terms, L, state.c, theirs, u, v, mine=u)
            plain = seal.unseal(key, box, handshake.box_aad(terms, L, u, v))
            bits = self._pin(plain[8 : 8 + SHARE_SIZE], u, S, v) | self._pin(plain[8 + SHARE_SIZE :], u, B, v)
            readable.append((IN_CLEAR if plain in box else theirs, bits))
        if state.own_share is not None:
            self._pin(state.own_share, u, B, u)
        return Run(u, one, L, state, boxes, tuple(readable))

    def _pin(self, share: bytes, dealer: int, secret: int, holder: int) -> int:
        self.shares[share] = self.bit(dealer, secret, holder)
        return self.shares[share]

    # Round 2

    def _covers(self, run: Run) -> Iterator[Cover]:
        offered = {v: self._offers(run, v) for v in self.setting.roster if v != run.party}
        for u2 in subsets(self.setting.roster):
            dealers = [v for v in u2 if v != run.party and v in run.state.entries]
            for chosen in product(*(offered[v] for v in dealers)):
                boxes = dict(zip(dealers, chosen, strict=True))
                lies = run.lies + (len(u2) < len(run.told.lines)) + sum(bool(box.name) for box in chosen)
                done = self.attempt(secagg.mask, run.state, _sealed(u2, boxes), Vector(self.cast.fed.vectors[run.party]))
                if done is not None:
                    yield Cover(run, u2, boxes, *done, self._masks(run, *done), lies)

    def _offers(self, run: Run, v: int) -> list[Relayed]:
        """The boxes that the party takes for v's: boxes are looked at one by one, so what it refuses it refuses in any company."""
        if v not in run.state.entries:
            return []
        u, found = run.party, list[Relayed]()
        for other in self.runs.get(v, ()):
            if u in other.boxes:
                same = other.L == run.L
                found.append(Relayed(*other.boxes[u], other, "" if same else "dealt under another list"))
        if run.state.entries[v].c_pk in self.cast.known:
            found.append(self._made(run, v))
        if BOXES in self.setting.lies:
            found += [Relayed(*box, run, f"what {u} sealed for {w}") for w, box in run.boxes.items()]
            others = [
                other for w in self.runs if w not in (u, v) for other in self.runs[w] if other.L == run.L and u in other.boxes
            ]
            found += [Relayed(*other.boxes[u], other, f"the box of {other.party}") for other in others]
            earlier = [] if self.earlier is None else self.earlier.runs.get(v, [])
            found += [Relayed(*old.boxes[u], None, "its box of an earlier round") for old in earlier if u in old.boxes]
        return [box for box in found if self._takes(run, v, box)]

    def _made(self, run: Run, v: int) -> Relayed:
        """A box of the adversary's own, under a key that it has; what it puts inside it knows anyway."""
        terms, L, u = self.cast.fed.terms, run.L, run.party
        mine, shares = self.cast.known[run.state.entries[v].c_pk], (bytes([v]) * SHARE_SIZE, bytes([100 + v]) * SHARE_SIZE)
        key = handshake.box_key(terms, L, mine, run.state.entries[u].c_pk, v, u, mine=v)
        box = seal.seal(key, secagg_labels.box_content(v, u, *shares), handshake.box_aad(terms, L, v, u))
        pins = [secagg_labels.share_hash(terms, L, v, u, kind, value) for kind, value in zip("sb", shares, strict=True)]
        return Relayed(box, b"".join(pins), None)

    def _takes(self, run: Run, v: int, box: Relayed) -> bool:
        """Whether the party takes this box for v's, among boxes of others that it cannot but take: sealed with its own key."""
        boxes = {v: box}
        for w in run.state.entries:
            if w not in (run.party, v):
                boxes[w] = self._good_box(run, w)
        members = tuple(sorted(run.state.entries))
        return self.attempt(secagg.open_boxes, run.state, _sealed(members, boxes)) is not None

    def _good_box(self, run: Run, w: int) -> Relayed:
        terms, L, u = self.cast.fed.terms, run.L, run.party
        share = bytes(SHARE_SIZE)
        key = handshake.box_key(terms, L, run.state.c, run.state.entries[w].c_pk, w, u, mine=u)
        box = seal.seal(key, secagg_labels.box_content(w, u, share, share), handshake.box_aad(terms, L, w, u))
        return Relayed(box, b"".join(secagg_labels.share_hash(terms, L, w, u, kind, share) for kind in "sb"))

    def _masks(self, run: Run, covered: Covered, sent: Masked) -> tuple[Mask, ...]:
        """The masks in a vector, which must leave the input and its count when they are taken off.

        Raises:
            Misuse: where they do not, so that this would speak of another protocol.
        """
        terms, L, u, state = self.cast.fed.terms, run.L, run.party, run.state
        seed = agree.derive(state.b, canonical(["self", terms.sid, L, u]))
        masks = [Mask(seed.reveal(), 1)]
        for v in covered.held:
            if v != u:
                theirs = state.entries[v].s_pk
                key = secagg_labels.pair_key(terms, L, state.s, theirs, u, v)
                masks.append(Mask(key.reveal(), 1 if u < v else -1, (state.s.public, theirs)))
        for found in (masks, masks[1:]):
            y = sent.y.values.copy()
            apply_masks(y, [Key(m.key) for m in found if m.sign < 0], [Key(m.key) for m in found if m.sign > 0])
            if terms.parameters.ring.centre(y).tolist() == [*self.cast.fed.secret(u), 1]:
                return tuple(found)
        raise Misuse(f"the masks of party {u} are not those that are explored")

    # Rounds 3 and 4

    def _consents(self, cover: Cover) -> Iterator[Consent]:
        for dropped in reversed(list(subsets(self.setting.roster))):
            done = self.attempt(secagg.consent, cover.state, Dropped(tuple(sorted(dropped))))
            if done is not None:
                yield Consent(cover, dropped, done[0], done[1].signature, cover.lies + bool(dropped))

    def good(self, L: bytes, u3: tuple[int, ...], v: int, signature: bytes) -> bool:
        """Whether a signature is v's over this list and set."""
        at = L, u3, v, signature
        if at not in self._good:
            self._good[at] = self.attempt(_checked, self.cast.fed.terms, L, u3, v, signature) is not None
        return self._good[at]

    def opened(self, consent: Consent, agreed: Agreed) -> int | None:
        """The shares that a party opens when it is shown these agreements, as bits; None if it refuses."""
        at = id(consent), agreed
        if at not in self._opened:
            done = self.attempt(secagg.open_shares, consent.state, agreed)
            shares = [] if done is None else strings(done[1].shares, SHARE_SIZE)
            self._opened[at] = None if done is None else sum({self.shares.get(share, 0) for share in shares})
        return self._opened[at]


def _sealed(u2: tuple[int, ...], boxes: Mapping[int, Relayed]) -> Sealed:
    ascending = [boxes[v] for v in sorted(boxes)]
    return Sealed(u2, b"".join(box.box for box in ascending), b"".join(box.pins for box in ascending))


def _checked(terms: Terms[Any], L: bytes, u3: tuple[int, ...], v: int, signature: bytes) -> bool:
    check_agree(terms, L, u3, v, signature, "agree-signature")
    return True
