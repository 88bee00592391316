"""Mutants of many sums after one handshake."""

from __future__ import annotations

from mutating import Mutant, Patch, Scheme, declaring, without

from protocols import rand
from protocols.primitives import agree

MUTANTS: list[Mutant] = []
mutant = declaring(MUTANTS)


FAMILY = ("secagg", "secagg+", "kahe")


@mutant("one key for all steps", 25, on=FAMILY)
def one_key(patch: Patch, scheme: Scheme) -> None:
    """Honest parties would refuse it, as one key may not stand twice."""
    without("advert-distinct", "listed-distinct")(patch, scheme)
    generate = agree.KeyPair.generate.__func__  # type: ignore[attr-defined]

    def same(kind: type[agree.KeyPair], source: rand.Rand, label: str) -> agree.KeyPair:
        return generate(kind, rand.Rand(source._seed), label.partition(" ")[0])

    patch.setattr(agree.KeyPair, "generate", classmethod(same))


@mutant("one seed for all steps", 25, on=FAMILY)
def one_seed(patch: Patch, _scheme: Scheme) -> None:
    seed = rand.Rand.seed
    patch.setattr(
        rand.Rand, "seed", lambda self, label: seed(rand.Rand(self._seed), "b") if label.startswith("b ") else seed(self, label)
    )
