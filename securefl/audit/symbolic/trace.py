"""A state that must not be, told in words, and proved: what the adversary derives is computed from the bytes that it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from protocols import secagg_labels
from protocols.primitives.agree import KeyPair, derive
from protocols.primitives.prg import expand
from protocols.primitives.shamir import Lagrange
from protocols.rand import Key, Seed
from protocols.wire import canonical
from securefl.audit.symbolic.search import Attack
from securefl.audit.symbolic.ways import Consent, Cover, Mask, Way
from securefl.audit.symbolic.world import B, S, World


def story(world: World, attack: Attack) -> list[str]:
    """The attack, one message a line, then what follows from the answers."""
    setting, out = world.setting, list[str]()
    out.append(f"{setting.name}: party {_names(setting.colluding)} helps" if setting.colluding else setting.name)
    for u, way in sorted(attack.state.items()):
        out += [f"party {u} {line}" for line in _way(way, attack)]
    for u in setting.honest:
        for secret, letter, known in ((B, "b", attack.knowledge.seeds), (S, "s_sk", attack.knowledge.keys)):
            if u in known:
                holders = [x for x in setting.roster if attack.knowledge.bits & world.bit(u, secret, x)]
                out.append(f"{letter} of {u} follows from the shares of {_names(holders)}")
    out += [f"both secrets of party {u} are open" for u in attack.both]
    if attack.learned:
        found = proved(world, attack)
        what = " ".join(f"{_sign(factor)} x_{u}" for u, factor in sorted(attack.learned.items())).removeprefix("+ ")
        out.append(f"so {what} opens: {', '.join(map(str, found.recovered))}; in truth {', '.join(map(str, found.true))}")
    return out


def _way(way: Way, attack: Attack) -> Iterable[str]:
    members = ", ".join(map(str, way.run.told.lines))
    yield f"is told the list {members}, and deals"
    if way.cover is None:
        return
    odd = [f"; as the box of {v} it gets {box.name}" for v, box in way.cover.boxes.items() if box.name]
    yield f"is told that {_names(way.cover.u2)} dealt{''.join(odd)}; it masks"
    for consent in way.consents:
        yield _consent(way.cover, consent, attack)


def _consent(cover: Cover, consent: Consent, attack: Attack) -> str:
    u, u3 = cover.run.party, consent.state.u3
    begin = f"is told that {_names(consent.dropped) or 'nobody'} dropped; it signs {_names(u3)}"
    if u not in attack.knowledge.opened:
        return begin
    signers = [signed.index for signed in attack.knowledge.opened[u].signatures]
    opened = [f"{'b' if v in u3 else 's_sk'} of {v}" for v in consent.state.held if v in u3 or v != u]
    return f"{begin}, is shown signatures of {_names(signers)}, and opens its shares of {', '.join(opened)}"


def _names(indexes: Iterable[int]) -> str:
    return ", ".join(map(str, indexes))


def _sign(factor: int) -> str:
    return ("+" if factor > 0 else "−") + ("" if abs(factor) == 1 else f" {abs(factor)}")


@dataclass(frozen=True)
class Proof:
    """A combination of inputs as it was computed, and as it truly is: the values, then the count."""

    recovered: tuple[int, ...]
    true: tuple[int, ...]


def proved(world: World, attack: Attack) -> Proof:
    """Take every known mask off the combination of vectors, with secrets that are put together from shares."""
    fed, rebuilt = world.cast.fed, _Rebuilt(world, attack)
    ring = fed.terms.parameters.ring
    total = np.zeros(fed.terms.parameters.size + 1, dtype=object)
    true = np.zeros(fed.terms.parameters.size + 1, dtype=object)
    for u, factor in attack.learned.items():
        cover, times = attack.state[u].cover, factor
        if cover is None:
            continue
        true += times * np.array([*fed.secret(u), 1], dtype=object)
        total += times * cover.masked.y.values.astype(object)
        for mask in cover.masks:
            if attack.knowledge.has(u, mask):
                stream = expand(rebuilt.key(cover, mask), total.size, ring.dtype)
                total -= times * mask.sign * stream.astype(object)
    centred = [(int(value) + ring.half) % ring.modulus - ring.half for value in total]
    return Proof(tuple(centred), tuple(map(int, true)))


class _Rebuilt:
    """Secrets of honest parties, out of the shares that the adversary has."""

    def __init__(self, world: World, attack: Attack) -> None:
        self._world, self._attack = world, attack
        self._pairs = dict(world.cast.known)
        for u in attack.knowledge.keys:
            pair = KeyPair.from_secret(self._secret(u, S))
            self._pairs[pair.public] = pair

    def _secret(self, u: int, secret: int) -> Seed:
        world, t = self._world, self._world.cast.fed.terms.parameters.shares
        by_bit = {bit: share for share, bit in world.shares.items()}
        wanted = [(x, world.bit(u, secret, x)) for x in world.setting.roster]
        found = {x: by_bit[bit] for x, bit in wanted if self._attack.knowledge.bits & bit}
        chosen = dict(list(found.items())[:t])
        return Seed(Lagrange(list(chosen)).combine(list(chosen.values())))

    def key(self, cover: Cover, mask: Mask) -> Key:
        """The key of a mask, made from secrets that the adversary has."""
        terms, run = self._world.cast.fed.terms, cover.run
        if not mask.publics:
            return derive(self._secret(run.party, B), canonical(["self", terms.sid, run.L, run.party]))
        mine, theirs = mask.publics
        for v in cover.state.held:
            if v != run.party and run.state.entries[v].s_pk == theirs:
                if mine in self._pairs:
                    return secagg_labels.pair_key(terms, run.L, self._pairs[mine], theirs, run.party, v)
                return secagg_labels.pair_key(terms, run.L, self._pairs[theirs], mine, v, run.party)
        return Key(mask.key)
