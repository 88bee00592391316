"""The catalogue of attacks: numbered rows, and for each the scripts that try it, for any protocol or for those of one family."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from securefl.audit.target import Shape, Target
from securefl.audit.verdict import Verdict

ROWS: dict[int, str] = {
    1: "both shares of one client",
    2: "two survivor sets for one session",
    3: "a different model to each client",
    4: "Sybils: one honest client among the server's own",
    5: "key substitution: a server in the middle",
    6: "downgrade of threshold, cohort, suite",
    7: "crash and retry; the same session twice",
    8: "replay of messages of another round, attempt or run",
    9: "differencing over rounds",
    10: "membership from one exact sum",
    11: "a coordinate that only one client touches",
    12: "overflow and wrap",
    13: "weak randomness",
    14: "bad shares: a helper's, a dealer's",
    15: "garbage: huge, truncated, doubled, late, not canonical",
    16: "poisoning: an update × 100",
    17: "small-order points, second spellings, malleable signatures, bad tags",
    18: "the server's whole state and traffic, searched",
    19: "logs, errors, reprs searched for secrets",
    20: "the exact weighted mean; vectors reweighted by the server",
    21: "resource exhaustion on the network port",
    22: "sparse graph: neighbours opened elsewhere, a ring that is cut",
    23: "sparse graph: an order that is ground",
    24: "a vector declared dropped, late, halved or doubled",
    25: "many sums: a party lost at one step, to open earlier ones",
    26: "feigned abort after opening, retry without one",
    27: "LightSecAgg: left-over helpers asked for another set",
    28: "HE: one ciphertext as the sum, perturbed sums",
    29: "another's key republished; one key for both directions",
    30: "signatures of an earlier session with the same identity; restored machines",
    31: "selective failure: a box that fails for chosen victims",
    32: "registry: strangers, one key under two names",
    33: "sizes, counts and times of messages",
    34: "who took part, who dropped",
    35: "corrupt parties leave out their noise",
    36: "kahe: a key for two vectors",
    37: "kahe: ciphertexts added over another set",
    38: "kahe: parameters from the server",
    39: "kahe: values that overflow their digit",
}
"""The rows of the catalogue."""

NOT_YET: dict[int, str] = {}
"""Rows about parts that do not exist yet; a row with a script that applies is taken off by itself."""
LIVE = frozenset({21})
"""Rows that are played on a server that runs (`securefl.audit.live`)."""

MISSING: dict[int, str] = {
    1: "nobody holds shares of anybody's secrets",
    2: "it has no survivor set that parties sign",
    5: "no script knows its keys: write an Adversary",
    14: "nobody holds shares of anybody's secrets",
    17: "it has no public keys and no signatures",
    21: "a protocol has no port: securefl audit --live HOST:PORT attacks that of a server",
    22: "it has no sparse graph",
    23: "it has no sparse graph",
    25: "each of its handshakes serves one sum",
    27: "it is not LightSecAgg",
    28: "it is not homomorphic",
    29: "no script knows its keys: write an Adversary",
    30: "nothing in it is signed",
    36: "it has no ciphertexts under keys that are added",
    37: "it has no ciphertexts under keys that are added",
    38: "it has no ciphertexts under keys that are added",
    39: "it has no ciphertexts under keys that are added",
}
"""Why a row does not apply where no script is made for the protocol."""

ELSEWHERE: dict[tuple[int, Shape], str] = {
    (5, "secagg+"): "the key round is that of secagg, attacked there",
    (30, "secagg+"): "the round of agreement is that of secagg, attacked there",
    (29, "lightsecagg"): "keys and boxes are those of secagg, attacked there",
    (29, "he"): "keys and boxes are those of secagg, attacked there",
    **dict.fromkeys(((row, "kahe") for row in (2, 5, 22, 23, 29, 30)), "the sum of keys is that of secagg, attacked there"),
}
"""Why a row is not tried on a family that has the part in question."""


def missing(row: int, shape: Shape) -> str:
    """Why a row does not apply to a family."""
    return ELSEWHERE.get((row, shape)) or MISSING.get(row, "no script is made for it")


UPLOAD = "upload"
"""Where an attack strikes that strikes the message with which an input leaves, whatever its name."""
Play = Callable[[Target], Verdict]


@dataclass(frozen=True)
class Attack:
    """One script of the catalogue.

    Attributes:
        row: number in the catalogue; 0 for one of a user's own.
        name: what is tried, in a few words.
        lie: the lie.
        notice: who must notice, in which round, by which check.
        play: tries it on a target.
        on: families that it is made for; empty for any protocol.
        strikes: names of the messages where it strikes, or `UPLOAD`; empty where it strikes the run as a whole.
    """

    row: int
    name: str
    lie: str
    notice: str
    play: Play
    on: tuple[Shape, ...] = ()
    strikes: tuple[str, ...] = ()

    def applies(self, target: Target) -> bool:
        """Whether it is made for the target."""
        return not self.on or target.shape in self.on


ATTACKS: list[Attack] = []
"""All scripts, in the order of the catalogue once `securefl.audit.attacks` is imported."""


def attack(
    row: int, name: str, *, lie: str, notice: str, on: Iterable[Shape] = (), strikes: Iterable[str] = ()
) -> Callable[[Play], Play]:
    """Register a script under a row of the catalogue."""
    if row not in ROWS:
        raise KeyError(f"the catalogue has no row {row}")

    def register(play: Play) -> Play:
        ATTACKS.append(Attack(row, name, lie, notice, play, tuple(on), tuple(strikes)))
        ATTACKS.sort(key=lambda known: known.row)
        return play

    return register
