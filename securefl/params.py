"""``securefl params``: degree and threshold of the sparse graph for a cohort, how likely each fails, and what a party pays.

Source: the rule of `protocols.degree`.  What it does not say: whether γ and δ are true of the parties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from protocols import degree
from protocols.agreement import Agree, Agreed, Covering, Dropped, Signed
from protocols.bulk import Bulk, Packed
from protocols.kahe_parameters import TIGHTEST, widest
from protocols.primitives.graph import Complete, Harary
from protocols.primitives.shamir import SHARE_SIZE
from protocols.ring import Ring
from protocols.schema import MAX_PARTIES, Message
from protocols.secagg_parameters import SPARSE_FROM, Parameters
from protocols.secagg_types import BOX, PINS, Advert, Boxes, Entry, Listed, Masked, Openings, Sealed
from protocols.suite import ring_bits
from protocols.wire import Limits, encode
from securefl.errors import UserError
from securefl.tables import Sheet, size

BEACON = 40
"""σ that does where the order of the ring is drawn from a public beacon, after the list of keys is fixed."""


LONGEST = 2**31
"""Values of a vector, at most."""


@dataclass(frozen=True)
class Cost:
    """What one party does and sends in one sum without dropouts.

    Attributes:
        agreements: key agreements (X25519).
        shares: Shamir shares dealt, of both secrets.
        checks: signatures verified (Ed25519).
        masks: keystreams of the vector's length.
        up: bytes sent.
        down: bytes received.
    """

    agreements: int
    shares: int
    checks: int
    masks: int
    up: int
    down: int


@dataclass(frozen=True)
class Bounds:
    """Probabilities, at most, over the order of the ring; but for the first also over dropouts at random.

    Attributes:
        both_opened: corrupt holders and a lying server reach a secret that is not to be opened.
        not_connected: the honest survivors fall apart, and the sum of a part opens.
        too_few_stay: some neighbourhood falls below t: the round aborts.
        thin_rounds: some place on the ring is thin: the round aborts; None where the server is trusted and nothing is demanded.
    """

    both_opened: float
    not_connected: float
    too_few_stay: float
    thin_rounds: float | None


@dataclass(frozen=True)
class Choice:
    """The graph for one σ.

    Attributes:
        security: σ, bits; None of the complete graph, where nothing is left to chance.
        degree: k, neighbours of a party.
        threshold: t, shares that rebuild a secret.
        agree: parties that must agree before anything is opened, and smallest number of survivors.
        gap: c_h, survivors that k/2 places on the ring must exceed.
        bounds: how likely it fails; None of the complete graph.
        cost: of one party.
    """

    security: int | None
    degree: int
    threshold: int
    agree: int
    gap: int | None
    bounds: Bounds | None
    cost: Cost


@dataclass(frozen=True)
class Answer:
    """What the command prints.

    Attributes:
        clients, corrupt, dropout: n, A and D in parties.
        semi_honest: whether the server is trusted to follow the protocol.
        dim, bits: values of a vector, and bits of one.
        vector: bytes of such a vector alone.
        choices: for σ = 40 and σ = 80; only the first where no graph reaches 80.
        refused: why there is no second, or empty.
        complete: the complete graph beside them.
    """

    clients: int
    corrupt: int
    dropout: int
    semi_honest: bool
    dim: int
    bits: int
    vector: int
    choices: tuple[Choice, ...]
    refused: str
    complete: Choice

    def as_json(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


def answer(
    clients: int, corrupt: float, dropout: float, *, semi_honest: bool = False, dim: int = 100_000, bits: int = 23
) -> Answer:
    """Compute it.

    Args:
        clients: n.
        corrupt: γ, share of corrupt parties, in [0, 1).
        dropout: δ, share of parties that may vanish, in [0, 1).
        semi_honest: whether the server is trusted to follow the protocol.
        dim: values of a vector.
        bits: width of the ring.

    Raises:
        Misuse: for numbers out of their ranges, or where no graph stands the shares, with the nearest that one does.
    """
    choices, refused = list[Choice](), ""
    for security in (BEACON, degree.SECURITY):
        try:
            s = degree.Setting.of(clients, corrupt, dropout, security=security, semi_honest=semi_honest)
            choices.append(_sparse(s, dim, bits))
        except degree.Infeasible as error:
            if not choices:
                raise
            refused = str(error)
    complete = _complete(clients, s.corrupt, dim, bits)
    vector = Ring(bits).packed_size(dim + 1)
    return Answer(clients, s.corrupt, s.dropouts, semi_honest, dim, bits, vector, tuple(choices), refused, complete)


def _sparse(s: degree.Setting, dim: int, bits: int) -> Choice:
    graph = degree.graph(s)
    k, t, c_h = graph.degree, graph.threshold, graph.gap
    p = Parameters.sparse(
        s.parties, dim, 1, bits=bits, corrupt=s.corrupt, dropouts=s.dropouts, security=s.security, semi_honest=s.semi_honest
    )
    thin = None if c_h is None else degree.thin_rounds(s, k, c_h)
    bounds = Bounds(degree.both_opened(s, k, t), degree.connected(s, k), degree.too_few_stay(s, k, t), thin)
    return Choice(s.security, k, t, p.threshold, c_h, bounds, cost(p))


def _complete(clients: int, corrupt: int, dim: int, bits: int) -> Choice:
    p = Parameters.of(clients, dim, 1, bits=bits, corrupt=corrupt)
    return Choice(None, clients - 1, p.shares, p.threshold, None, None, cost(p))


MEANT = {"--corrupt": "may collude with the server", "--dropout": "may vanish"}
"""Shares of the parties that the command asks for: of those that do what."""


def check_options(numbers: Mapping[str, int | None], shares: Mapping[str, float | None], noise: float, *, kahe: bool) -> None:
    """Refuse what is missing and whatever is out of its range, all of it in one line.

    Args:
        numbers: whole numbers by option; None where none was given.
        shares: shares of the parties, by option.
        noise: standard deviation of the noise.
        kahe: whether the options are for kahe, which needs no share.

    Raises:
        UserError: naming each option with its range.
    """
    n, d = numbers["--clients"] or 0, numbers["--dim"] or 0
    possible = 2 <= n <= MAX_PARTIES and 1 <= d <= LONGEST
    fewest, most = (1, widest(n, d + 1) if possible else TIGHTEST) if kahe else (ring_bits(n, 1) if possible else 2, 64)
    ranges = {
        "--clients": (2 if kahe else 3, MAX_PARTIES),
        "--dim": (1, LONGEST),
        "--bits": (fewest, most),
        "--precision": (2, 63),
        "--max-abs": (1, 2**62),
    }
    wrong = [
        f"{name} is missing: the share of the parties that {MEANT[name]}, in [0, 1)" for name, x in shares.items() if x is None
    ]
    wrong = [] if kahe else wrong
    wrong += [f"{name} must be in [0, 1), not {x:g}" for name, x in shares.items() if x is not None and not 0 <= x < 1]
    for name, (low, high) in ranges.items():
        if (x := numbers[name]) is not None and not low <= x <= high:
            wrong.append(f"{name} must be in {low}..{high}, not {x}")
    wrong += [] if 0 <= noise < 2**40 else [f"--noise must be in [0, 2^40), not {noise:g}"]
    if wrong:
        raise UserError("; ".join(wrong))


# What a party pays


def cost(p: Parameters) -> Cost:
    """What one party does in one sum under these parameters, and the bytes of its messages, which are really encoded."""
    n, sparse = p.parties, isinstance(p.graph, Harary)
    k = p.graph.degree if isinstance(p.graph, Harary) else n - 1
    held = k + isinstance(p.graph, Complete)
    everybody = range(1, n + 1)
    boxes, hashes = bytes(k * BOX), bytes(k * PINS)
    covering = Covering(bytes(32), bytes(32), bytes(64))
    nothing = Bulk(np.empty(0, dtype=p.ring.dtype), bytes(32), b"")
    layout = Packed(p.ring, p.size + 1)
    up: Sequence[Message] = (
        Advert(bytes(32), bytes(32), bytes(64)),
        Boxes(boxes, hashes, b"" if sparse else bytes(32), bytes(32), bytes(64)),
        Masked(nothing, bytes(32), bytes(64)),
        Agree(bytes(64)),
        Openings(bytes(held * SHARE_SIZE), bytes(64)),
    )
    down: Sequence[Message] = (
        Listed(tuple(Entry(u, bytes(32), bytes(32), bytes(64)) for u in everybody)),
        Sealed(tuple(everybody), boxes, hashes),
        Dropped(()),
        Agreed(tuple(Signed(u, bytes(64)) for u in everybody), (covering,) * n if sparse else ()),
    )
    limits = Limits(n, {"masked": layout})
    sent, received = (sum(len(next(encode(message, 0, limits))) for message in messages) for messages in (up, down))
    return Cost(
        agreements=2 * k,  # for the boxes, both ways, and for the masks
        shares=2 * held,
        checks=n + p.threshold + sparse * n,  # the list, the agreement, and on a sparse graph what was signed with each vector
        masks=k + 1,
        up=sent + layout.nbytes,
        down=received,
    )


# Telling


def sheets(a: Answer) -> list[Sheet]:
    """The answer as tables: the graph and its bounds, and what a party pays."""
    graphs = [*a.choices, a.complete]
    heads, figures = ["", *map(_head, graphs)], frozenset(range(1, len(graphs) + 1))
    trust = "follows the protocol" if a.semi_honest else "may lie"
    title = f"{a.clients} parties, {a.corrupt} of them corrupt, {a.dropout} may vanish; the server {trust}"
    rules = [
        ["neighbours, k", *(str(c.degree) for c in graphs)],
        ["threshold, t", *(str(c.threshold) for c in graphs)],
        ["must agree", *(str(c.agree) for c in graphs)],
        ["gap, c_h", *("–" if c.gap is None else str(c.gap) for c in graphs)],
        *(
            [name.replace("_", " "), *(_probability(getattr(c.bounds, name, None)) for c in graphs)]
            for name in ("both_opened", "not_connected", "too_few_stay", "thin_rounds")
        ),
    ]
    pay = [
        ["key agreements", *(str(c.cost.agreements) for c in graphs)],
        ["shares dealt", *(str(c.cost.shares) for c in graphs)],
        ["signatures checked", *(str(c.cost.checks) for c in graphs)],
        ["masks expanded", *(str(c.cost.masks) for c in graphs)],
        ["sent", *(size(c.cost.up) for c in graphs)],
        ["received", *(size(c.cost.down) for c in graphs)],
    ]
    return [
        Sheet(title, heads, rules, _explained(a), figures),
        Sheet("What one party pays for one sum, without dropouts", heads, pay, _beside(a), figures),
    ]


def _head(choice: Choice) -> str:
    if choice.security is None:
        return "complete"
    return f"σ = {choice.security}" + (" (beacon)" if choice.security == BEACON else "")


def _explained(a: Answer) -> str:
    lines = [
        "k neighbours hold shares of a party's secrets, t of them rebuild one.",
        "After every survivor more than c_h of the next k/2 places on the ring must have survived too.",
        "both opened, not connected: probability, at most, that a secret opens that must not, or that honest survivors fall apart.",
        "too few stay, thin rounds: share of rounds, at most, that abort because of honest dropouts.",
        f"The flow has no public beacon: it runs at σ = {degree.SECURITY}.",
    ]
    if a.refused:
        lines.append(f"No graph for σ = {degree.SECURITY}: {a.refused}.")
    if a.clients < SPARSE_FROM:
        lines.append(f"Below {SPARSE_FROM} parties secagg+ takes the complete graph.")
    return "\n".join(lines)


def _beside(a: Answer) -> str:
    lines = [
        f"The vector alone, {a.dim} values of {a.bits} bits, has {size(a.vector)}.",
        f"The complete graph survives {a.clients - a.complete.agree} dropouts, whichever.",
    ]
    return "\n".join(lines)


def _probability(value: float | None) -> str:
    return "–" if value is None else "0" if value == 0 else f"{value:.1e}"
