"""``securefl noise``: what noise inside the sum costs for a privacy loss, and how that changes with the number of parties.

The figures are those of `securefl.privacy.noise_plan`, and of `securefl.privacy.record_plan` for sums over records.  What they do
not say: what a clipped update or gradient is worth, or how training copes with the error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protocols.suite import default_corrupt, default_threshold
from securefl.errors import UserError
from securefl.pictures import save
from securefl.privacy.noise_plan import Cohort, Kind, NoisePlan, calibrate_distributed
from securefl.privacy.record_plan import RecordPlan, calibrate_records
from securefl.results import privacy_tree
from securefl.tables import Sheet

TIMES = (0.25, 0.5, 1, 2, 4, 10, 100)
"""Cohorts of the table, as multiples of the one that was asked for."""
MOST = 1_000_000
"""Largest cohort that is looked at."""


@dataclass(frozen=True)
class Row:
    """One cohort.

    Attributes:
        clients, corrupt, smallest: parties, corrupt ones, least survivors.
        party_deviation: standard deviation of one party's noise a value, in units of the update; for records, of the gradient.
        sum_deviation: the same of the sum where all survive.
        bits: of a value.
        mean_deviation: standard deviation of a value of the mean where all survive, with rounding.
        error: root of the expected squared L2 norm of the error of the mean, in units of the update.
        worst_error: the same where the fewest survive.
        spent: ε where all survive.
    """

    clients: int
    corrupt: int
    smallest: int
    party_deviation: float
    sum_deviation: float
    bits: int
    mean_deviation: float
    error: float
    worst_error: float
    spent: float


@dataclass(frozen=True)
class Answer:
    """What the command prints.

    Attributes:
        mechanism, unit: what is noised, and what ε is about.
        epsilon, delta, rounds, size, clip, noise: as asked.
        dimension, granularity, share: coordinates after padding, step of the grid, variance of a party's noise in squared steps.
        delta1, delta2: norms of a rounded update, in steps.
        wrap: bound of the probability that any value of any round wraps around.
        asked: the cohort asked for.
        rows: smaller and larger ones beside it.
        useful: least number of parties whose mean has an error below the clipping bound; None above a million or 1/δ.
        corrupt_share, dropout_share: what all cohorts have in common; None for the protocols' own rules.
        rate, rows_a_party: sampling rate, and public number of rows a party; None for a unit other than the record.
    """

    mechanism: str
    unit: str
    epsilon: float
    delta: float
    rounds: int
    size: int
    clip: float
    noise: Kind
    dimension: int
    granularity: float
    share: float
    delta1: float
    delta2: float
    wrap: float
    asked: Row
    rows: tuple[Row, ...]
    useful: int | None
    corrupt_share: float | None
    dropout_share: float | None
    rate: float | None = None
    rows_a_party: int | None = None

    @property
    def what(self) -> str:
        """What a party, or a record, adds to a sum."""
        return "update" if self.rate is None else "gradient"

    def as_json(self) -> dict[str, Any]:
        """JSON-ready data; what is about privacy under the same keys as a run's."""
        tree = asdict(self)
        target, unit, delta = (tree.pop(key) for key in ("epsilon", "unit", "delta"))
        return {**tree, "privacy": privacy_tree(unit, [self.asked.spent], delta, "rdp", planned=target)}


@dataclass(frozen=True)
class _Setting:
    """What all cohorts have in common."""

    epsilon: float
    delta: float
    rounds: int
    size: int
    clip: float
    kind: Kind
    corrupt: float | None
    """Share of the parties; None for the protocols' own."""
    dropouts: float | None
    rate: float = 1.0
    rows: int | None = None

    @property
    def most(self) -> float:
        """Above this many parties δ is not below one over the units, or nobody looks."""
        return min(1 / self.delta / (self.rows or 1), MOST + 1)

    def cohort(self, n: int) -> Cohort:
        corrupt = default_corrupt(n) if self.corrupt is None else math.floor(self.corrupt * n + 1e-9)
        if self.dropouts is None:
            return Cohort(n, max(default_threshold(n, corrupt), 1), corrupt)
        return Cohort.of(n, corrupt=corrupt, dropouts=math.floor(self.dropouts * n + 1e-9))

    def plan(self, n: int) -> NoisePlan | RecordPlan:
        if self.rows is not None:
            return calibrate_records(
                epsilon=self.epsilon,
                delta=self.delta,
                cohort=self.cohort(n),
                rounds=self.rounds,
                size=self.size,
                clip=self.clip,
                rate=self.rate,
                rows=self.rows,
                kind=self.kind,
            )
        return calibrate_distributed(
            epsilon=self.epsilon,
            delta=self.delta,
            cohort=self.cohort(n),
            rounds=self.rounds,
            size=self.size,
            clip=self.clip,
            kind=self.kind,
        )

    def plans(self, cohorts: Iterator[int]) -> Iterator[NoisePlan | RecordPlan]:
        """Those of the cohorts that there are plans for."""
        for n in cohorts:
            if 2 <= n < self.most:
                try:
                    yield self.plan(n)
                except UserError:
                    continue


def answer(
    epsilon: float,
    delta: float,
    clients: int,
    rounds: int,
    *,
    mechanism: str = "distributed-party",
    kind: Kind = "skellam",
    size: int = 1000,
    clip: float = 1.0,
    corrupt: int | None = None,
    dropouts: int | None = None,
    rate: float | None = None,
    rows: int | None = None,
) -> Answer:
    """Compute it.

    Args:
        epsilon: of a party, or a record, over all rounds.
        delta: the same, below one over the number of parties, or of records.
        clients: n.
        rounds: sums that are opened.
        mechanism: ``distributed-party``, or ``distributed-record`` with ``rows``.
        kind: law of the noise.
        size: values of an update.
        clip: L2 bound of an update.
        corrupt: |C|; by default as in the protocols.  Other cohorts of the table have the same share of them, and of dropouts.
        dropouts: parties that may vanish; by default as many as the protocols' threshold allows.
        rate: for records, the sampling rate; by default 1.
        rows: for records, the public number of rows a party.

    Raises:
        UserError: for numbers out of their ranges, or that belong to the other mechanism.
    """
    records = mechanism == "distributed-record"
    if records and rows is None:
        raise UserError("distributed-record needs the public number of rows a party (--rows)")
    if not records and (rows is not None or rate is not None):
        raise UserError(f"--rows and --sample-rate are refused with {mechanism}: they belong to distributed-record")
    if not 2 <= clients <= MOST:
        raise UserError(f"the number of parties is {clients}: it must be 2 to {MOST}")
    setting = _Setting(
        epsilon, delta, rounds, size, clip, kind,
        None if corrupt is None else corrupt / clients,
        None if dropouts is None else dropouts / clients,
        1.0 if rate is None else rate, rows,
    )  # fmt: skip
    plan = setting.plan(clients)
    others = setting.plans(round(clients * times) for times in TIMES)
    beside = {p.cohort.clients: _row(p) for p in others}
    _, delta2, delta1 = plan.bounds
    return Answer(
        mechanism=mechanism,
        unit="record" if records else "party",
        epsilon=epsilon,
        delta=delta,
        rounds=rounds,
        size=size,
        clip=clip,
        noise=kind,
        dimension=plan.dimension,
        granularity=plan.granularity,
        share=plan.share,
        delta1=delta1,
        delta2=delta2,
        wrap=plan.wrap,
        asked=_row(plan),
        rows=tuple(beside[n] for n in sorted(beside)),
        useful=_useful(setting),
        corrupt_share=setting.corrupt,
        dropout_share=setting.dropouts,
        rate=setting.rate if records else None,
        rows_a_party=rows,
    )


def _row(plan: NoisePlan | RecordPlan) -> Row:
    n, party = plan.cohort.clients, plan.granularity * math.sqrt(plan.share)
    return Row(
        clients=n,
        corrupt=plan.cohort.corrupt,
        smallest=plan.cohort.smallest,
        party_deviation=party,
        sum_deviation=party * math.sqrt(n),
        bits=plan.bits,
        mean_deviation=plan.deviation(n),
        error=plan.error(n),
        worst_error=plan.error(plan.cohort.smallest),
        spent=plan.spent(n),
    )


def _useful(setting: _Setting) -> int | None:
    """The least cohort, to 5 %, whose mean is closer to the true one than the clipping bound."""
    cohorts = [n for n in sorted({round(2 * 1.05**step) for step in range(270)}) if n < setting.most]
    low, high = 0, len(cohorts)
    while low < high:  # the error falls with the parties, but for the rounding of shares
        middle = (low + high) // 2
        good = any(p.error(p.cohort.clients) < p.clip for p in setting.plans(iter(cohorts[middle : middle + 1])))
        low, high = (low, middle) if good else (middle + 1, high)
    return cohorts[low] if low < len(cohorts) else None


# Telling


def sheets(a: Answer) -> list[Sheet]:
    """The answer as tables: the plan, and the cohorts."""
    plan = [
        ["noise of a party", f"{a.asked.party_deviation:.4g}", f"{math.sqrt(a.share):.4g} steps, standard deviation of a value"],
        ["noise of the sum", f"{a.asked.sum_deviation:.4g}", f"{a.asked.sum_deviation / a.granularity:.4g} steps, if all survive"],
        ["a value of the mean", f"{a.asked.mean_deviation:.4g}", "standard deviation, with rounding"],
        ["error of the mean", f"{a.asked.error:.4g}", f"L2; {a.asked.error / a.clip:.4g} times the bound of {_a(a)}"],
        ["", f"{a.asked.worst_error:.4g}", f"if only {a.asked.smallest} survive"],
        ["step of the grid", f"{a.granularity:.4g}", f"the bound of {_a(a)} is {a.clip / a.granularity:.4g} steps"],
        ["after rounding", f"{a.delta2 * a.granularity:.5g}", f"{a.delta2:.5g} steps, L2{', checked' if a.rate is None else ''}"],
        ["values, padded", str(a.dimension), f"of {a.size}"],
        ["bits of a value", str(a.asked.bits), f"wrap-around in any round below {_probability(a.wrap)}"],
        ["ε if all survive", f"{a.asked.spent:.4g}", f"{a.epsilon:g} if {a.asked.smallest} do"],
    ]
    title = (
        f"{a.mechanism}: ε = {a.epsilon:g}, δ = {a.delta:g} for every {a.unit} over {a.rounds} rounds of {a.noise} noise, "
        f"{a.asked.clients} parties, {a.asked.corrupt} of them corrupt, at least {a.asked.smallest} survive"
        + ("" if a.rate is None else f"; {a.rows_a_party} rows a party expected, sampled at {a.rate:g}")
    )
    cells = [
        [str(r.clients), str(r.corrupt), str(r.smallest), f"{r.party_deviation:.3g}", str(r.bits), f"{r.mean_deviation:.3g}",
         f"{r.error / a.clip:.3g}"]
        for r in a.rows
    ]  # fmt: skip
    heads = ["parties", "corrupt", "least survivors", "a party's noise", "bits", "a value of the mean", "error / bound"]
    strong = next((i for i, r in enumerate(a.rows) if r.clients == a.asked.clients), None)
    return [
        Sheet(title, ["", "", ""], plan, _explained(a), frozenset({1})),
        Sheet("The same privacy with fewer or more parties", heads, cells, _verdict(a), frozenset(range(len(heads))), strong),
    ]


def _explained(a: Answer) -> str:
    lines = [
        f"In units of the {a.what}, whose L2 norm is at most {a.clip:g}. A party's own noise protects nobody: it is to be masked.",
        f"Sized for {a.asked.smallest - a.asked.corrupt} honest survivors; with fewer the noise is less and ε above {a.epsilon:g}.",
    ]
    return "\n".join(lines)


def _verdict(a: Answer) -> str:
    where = f"{a.size} values at ε = {a.epsilon:g} over {a.rounds} rounds"
    if a.useful is None:
        most = min(MOST, math.ceil(1 / a.delta / (a.rows_a_party or 1)) - 1)
        return f"{where}: no number of parties up to {most} brings the error of the mean below the bound of {_a(a)}."
    return f"{where}: the error of the mean is below the bound of {_a(a)} from about {a.useful} parties on."


def _a(a: Answer) -> str:
    return "an update" if a.rate is None else "a gradient"


def _probability(value: float) -> str:
    return "10^-300" if value < 1e-300 else f"{value:.1e}"


def draw(a: Answer, path: Path) -> None:
    """Error of the mean and bits of a value against the number of parties, as a picture."""
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    n = a.asked.clients
    setting = _Setting(
        a.epsilon, a.delta, a.rounds, a.size, a.clip, a.noise, a.corrupt_share, a.dropout_share, a.rate or 1.0, a.rows_a_party
    )
    plans = list(setting.plans(iter(sorted({round(n * 10 ** (step / 8)) for step in range(-12, 17)}))))
    parties = [p.cohort.clients for p in plans]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.loglog(parties, [p.error(p.cohort.clients) / p.clip for p in plans], marker=".", label="all survive")
    left.loglog(parties, [p.error(p.cohort.smallest) / p.clip for p in plans], ":", label="the fewest survive")
    left.axhline(1, color="gray", linewidth=0.8)
    left.set(xlabel="parties", ylabel=f"error of the mean / bound of {_a(a)} (L2)")
    left.legend()
    right.semilogx(parties, [p.bits for p in plans], marker=".")
    right.set(xlabel="parties", ylabel="bits of a value")
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(
        f"{a.noise} noise, ε = {a.epsilon:g}, δ = {a.delta:g} a {a.unit}, {a.rounds} rounds, {a.size} values", fontsize=10
    )
    save(figure, path)
