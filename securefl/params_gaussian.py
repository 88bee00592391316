"""``securefl noise`` for ``local-record`` and ``central``: Gaussian noise of every site, or of the server, on clipped gradients.

The noise multiplier is that of the accountant, as in a run.  The error is of the mean gradient of one step, for samples of the
expected size.  What it does not say: how training copes with it, and with ``local-record`` that a site's noise protects its
records from everybody, with ``central`` from all but the server.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protocols.suite import default_corrupt, default_threshold
from securefl.errors import UserError
from securefl.pictures import save
from securefl.results import privacy_tree
from securefl.tables import Sheet

GAUSSIAN = ("local-record", "central")
"""Mechanisms whose noise is Gaussian and not in the sum."""
TIMES = (0.25, 0.5, 1, 2, 4, 10, 100)
"""Cohorts of the table, as multiples of the one that was asked for."""


@dataclass(frozen=True)
class Row:
    """One number of sites.

    Attributes:
        clients: sites.
        site_error: root of the expected squared L2 norm of the error of one site's mean gradient; None with ``central``.
        mean_deviation: standard deviation of a value of the mean over all sites.
        error: root of the expected squared L2 norm of the error of the mean over all sites.
        bits: of a value of the sum, which carries no noise; with ``local-record`` at a run's default precision; None where no
            sum can be formed.
    """

    clients: int
    site_error: float | None
    mean_deviation: float
    error: float
    bits: int | None


@dataclass(frozen=True)
class GaussianAnswer:
    """What the command prints.

    Attributes:
        mechanism: ``local-record`` or ``central``.
        epsilon, delta, accountant, rounds, local_steps, size, clip, rate, rows_a_party: as asked.
        noise_multiplier: standard deviation of the noise on the sum of a step's clipped gradients, divided by the clip.
        spent: ε of all steps with that noise.
        asked: the number of sites that was asked for.
        rows: smaller and larger ones beside it.
    """

    mechanism: str
    epsilon: float
    delta: float
    accountant: str
    rounds: int
    local_steps: int
    size: int
    clip: float
    rate: float
    rows_a_party: int
    noise_multiplier: float
    spent: float
    asked: Row
    rows: tuple[Row, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON-ready data; what is about privacy under the same keys as a run's."""
        tree = asdict(self)
        target, delta, accountant, spent = (tree.pop(key) for key in ("epsilon", "delta", "accountant", "spent"))
        return {**tree, "privacy": privacy_tree("record", [spent], delta, accountant, planned=target)}


def answer(
    epsilon: float,
    delta: float,
    clients: int,
    rounds: int,
    *,
    mechanism: str,
    size: int = 1000,
    clip: float = 1.0,
    rate: float | None = None,
    rows: int | None = None,
    local_steps: int | None = None,
    accountant: str = "rdp",
) -> GaussianAnswer:
    """Compute it.

    Args:
        epsilon: of a record, over all rounds.
        delta: the same, below one over the records of a site; with ``central`` of all.
        clients: sites.
        rounds: of the run.
        mechanism: ``local-record`` or ``central``.
        size: values of a gradient.
        clip: L2 bound of a record's gradient.
        rate: probability of a record to be in a step; by default 1.
        rows: expected number of rows a site.
        local_steps: steps of a site in a round; by default 1, and no other with ``central``.
        accountant: ``rdp`` or ``prv``.

    Raises:
        UserError: for numbers out of their ranges, or an ε that cannot be reached.
    """
    from securefl.privacy import accountant as accounts  # noqa: PLC0415  (Opacus loads in 3 s)

    steps, sampled = 1 if local_steps is None else local_steps, 1.0 if rate is None else rate
    if rows is None or rows < 1:
        raise UserError(f"{mechanism} needs the number of rows a party, at least 1 (--rows)")
    if mechanism == "central" and steps != 1:
        raise UserError("--local-steps is refused with central: a round is one step over all sites")
    for name, value in {"--clients": clients, "--rounds": rounds, "--local-steps": steps, "--dimension": size}.items():
        if value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")
    if not 0 < clip < math.inf:
        raise UserError(f"the clipping bound is {clip}: it must be above 0 and finite")
    records = rows * clients if mechanism == "central" else rows
    if not 0 < delta < 1 / records:
        raise UserError(f"delta is {delta}: it must lie below 1 over the number of records, {1 / records:g}, and above 0")
    sigma = accounts.calibrate(epsilon=epsilon, delta=delta, sample_rate=sampled, steps=rounds * steps, accountant=accountant)

    def row(sites: int) -> Row:
        batch = sampled * rows
        of_site, whole = sigma * clip / batch, sigma * clip / (batch * sites)
        deviation = whole if mechanism == "central" else of_site / math.sqrt(sites)
        root, wide = math.sqrt(size), _bits(mechanism, sites, epsilon, delta, rounds, size, clip, sampled, rows or 0)
        return Row(sites, None if mechanism == "central" else of_site * root, deviation, deviation * root, wide)

    counts = sorted({n for times in TIMES if (n := round(clients * times)) >= 1})
    spent = accounts.epsilon_of(sigma, sampled, rounds * steps, delta, accountant)
    return GaussianAnswer(
        mechanism, epsilon, delta, accountant, rounds, steps, size, clip, sampled, rows, sigma, spent, row(clients),
        tuple(row(n) for n in counts if mechanism == "local-record" or delta < 1 / (rows * n)),
    )  # fmt: skip


def _bits(
    mechanism: str, sites: int, epsilon: float, delta: float, rounds: int, size: int, clip: float, rate: float, rows: int
) -> int | None:
    """Bits of a value of the sum, as a run with the default precision has them; None where there is no such sum."""
    from securefl.encode import Plan  # noqa: PLC0415
    from securefl.knobs import PrivacyKnobs  # noqa: PLC0415
    from securefl.privacy.noise_plan import Cohort  # noqa: PLC0415
    from securefl.privacy.record import central_plan  # noqa: PLC0415
    from securefl.privacy.record_plan import RecordPlan  # noqa: PLC0415

    knobs, corrupt = PrivacyKnobs(), default_corrupt(sites)
    try:
        if mechanism == "local-record":
            return Plan(sites, (size,), knobs.update_clip, knobs.w_max, (), knobs.precision).bits
        cohort = Cohort(sites, max(default_threshold(sites, corrupt), 1), corrupt)
        return central_plan(RecordPlan(knobs.noise, cohort, epsilon, delta, rounds, size, clip, rate, rows)).bits
    except UserError:
        return None


def draw(a: GaussianAnswer, path: Path) -> None:
    """Error of the mean and bits of a value against the number of parties, as a picture."""
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    parties = [row.clients for row in a.rows]
    left.loglog(parties, [row.error / a.clip for row in a.rows], marker=".", label="mean over all sites")
    if a.asked.site_error is not None:
        left.loglog(parties, [(row.site_error or 0.0) / a.clip for row in a.rows], ":", label="a site's own")
    left.axhline(1, color="gray", linewidth=0.8)
    left.set(xlabel="parties", ylabel="error / bound of a gradient (L2)")
    left.legend()
    formed = [row for row in a.rows if row.bits is not None]
    right.semilogx([row.clients for row in formed], [row.bits or 0 for row in formed], marker=".")
    right.set(xlabel="parties", ylabel="bits of a value")
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(f"{a.mechanism}: ε = {a.epsilon:g}, δ = {a.delta:g} a record, {a.rounds} rounds, {a.size} values", fontsize=10)
    save(figure, path)


def sheets(a: GaussianAnswer) -> list[Sheet]:
    """The answer as tables: the noise, and the numbers of sites."""
    whose = "every site, in its own training" if a.mechanism == "local-record" else "the server, which is trusted"
    plan = [
        ["noise multiplier", f"{a.noise_multiplier:.4g}", f"clips of noise on the sum of a step's gradients, by {whose}"],
        ["a value of the mean", f"{a.asked.mean_deviation:.4g}", "standard deviation, over all sites"],
        ["error of the mean", f"{a.asked.error:.4g}", f"L2; {a.asked.error / a.clip:.4g} times the bound of a gradient"],
    ]
    if a.asked.bits is not None:
        default = ", at a run's default precision" if a.mechanism == "local-record" else ""
        plan.append(["bits of a value", str(a.asked.bits), f"of the sum, which carries no noise{default}"])
    if a.asked.site_error is not None:
        plan.append(["error at a site", f"{a.asked.site_error:.4g}", "L2, of its own mean gradient"])
    plan.append(["ε of all steps", f"{a.spent:.4g}", f"by {a.accountant}"])
    title = (
        f"{a.mechanism}: ε = {a.epsilon:g}, δ = {a.delta:g} for every record over {a.rounds * a.local_steps} steps, "
        f"{a.asked.clients} parties of {a.rows_a_party} rows each, sampled at {a.rate:g}"
    )
    heads = ["parties", "bits", "a value of the mean", "error / bound"]
    cells = [
        [str(r.clients), "–" if r.bits is None else str(r.bits), f"{r.mean_deviation:.3g}", f"{r.error / a.clip:.3g}"]
        for r in a.rows
    ]
    strong = next((i for i, r in enumerate(a.rows) if r.clients == a.asked.clients), None)
    explained = f"In units of the gradient, whose L2 norm is at most {a.clip:g}; of one step, with samples of the expected size."
    return [
        Sheet(title, ["", "", ""], plan, explained, frozenset({1})),
        Sheet("The same privacy with fewer or more parties", heads, cells, "", frozenset(range(len(heads))), strong),
    ]
