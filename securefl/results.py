"""What a run tells while it goes on (events) and when it ends (`RunResult`).  Plain data, no learning library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from protocols.plugins import Origin

if TYPE_CHECKING:
    from securefl.assessment import Assessment
    from securefl.gains import Gains

NOTICE = "Nobody has audited this yet: treat it as research software until somebody independent has."
SIMULATION_ONLY = ("metrics", "site_metrics", "baselines", "dataset.notes", "dataset.rows", "dataset.held_out", "gains")
"""Keys of the JSON object that need the rows of all sites in one place: nobody could know them outside of a simulation."""


@dataclass(frozen=True)
class RoundRecord:
    """One finished or aborted round.

    Attributes:
        number: 1, 2, …
        invited: parties invited.
        contributors: parties in the opened sum; 0 if the round aborted.
        dropped: names of the parties that vanished and the stage at which they did.
        aborted: id of the check that ended the round, or None.
        metrics: metrics on held-out rows of the model *before* this round, out of the secure sum (``auroc``, ``accuracy``,
            ``loss``, ``rows``).
        epsilon: ε spent so far, per party name (empty without differential privacy).
        seconds: wall seconds by step of the round.
    """

    number: int
    invited: int
    contributors: int
    dropped: dict[str, str]
    aborted: str | None
    metrics: dict[str, float]
    epsilon: dict[str, float]
    seconds: dict[str, float]


@dataclass(frozen=True)
class ServerSaw:
    """One row of the table of what reached the server.

    Attributes:
        message: type of the message.
        step: the step that consumed it.
        count: how many arrived.
        size: bytes in all.
        shows: in words, what the server can read from it.
    """

    message: str
    step: str
    count: int
    size: int
    shows: str


@dataclass(frozen=True)
class Opened:
    """One event of something that was opened: the ledger's entry.

    Attributes:
        what: ``update``, ``weight``, ``metrics``, ``feature statistics`` …
        rounds: in how many rounds.
        coverage: ``covered by ε`` or ``exact``.
        note: one line for the report; of what is exact, what it can show.
        unit: what the ε protects, ``record`` or ``party``; None for what is exact.
        event: the numbers of one such event for an accountant (`securefl.privacy.events`); None for what is exact, and for what
            follows from another row.
        bare: whether it is the exact form of what ε covers in another row, for somebody who is trusted with it.
    """

    what: str
    rounds: int
    coverage: str
    note: str = ""
    unit: str | None = None
    event: Mapping[str, Any] | None = None
    bare: bool = False

    @property
    def exact(self) -> bool:
        """Whether no ε covers it."""
        return self.coverage == "exact"


@dataclass(frozen=True)
class SiteBaseline:
    """A site's own model on its own training rows (simulation only), scored like the federated one."""

    name: str
    rows: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class DataSummary:
    """The data of a run.

    Attributes:
        source: where the rows come from, and their licence.
        notes: what the loader had to say: types, missing values, constant columns.
        rows: rows of each site, by name (simulation only).
        held_out: how many of them were held out, in cross-validation once each (simulation only).
    """

    source: str
    notes: tuple[str, ...]
    rows: Mapping[str, int]
    held_out: Mapping[str, int]


@dataclass(frozen=True)
class Preparation:
    """How rows become the numbers that the model takes; it goes into the model's file.

    A feature x becomes (x − shift) / scale, after it was clamped to [low, high] where these are given.

    Attributes:
        features: names, in order.
        classes: what 0 and 1 stand for.
        columns: how each column becomes features: the fields of `securefl.data.types.Coding`.
        shift, scale: for each feature.
        low, high: for each feature, or None.
    """

    features: tuple[str, ...]
    classes: tuple[str, str]
    columns: tuple[Mapping[str, Any], ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True)
class RunResult:
    """Everything that a run leaves behind.

    Attributes:
        job: the job as plain data, every key present that is not idle (`securefl.job.Job.plain`).
        title: name of the data set and protocol, for headings.
        rounds: one record a round, aborted ones included.
        metrics: final model on held-out rows: ``auroc``, ``accuracy``, with folds also ``auroc_site_mean``.  Exact, from the rows
            of all sites in one place, so in a simulation only; what a server reads out of the secure sum is in ``rounds``.
        site_metrics: the same per site (simulation only).
        local: each site's own model.
        pooled: metrics of the model trained on all rows together (simulation only; empty if not computed).
        epsilon: ε spent by each site, in the order of the sites; empty without differential privacy.
        delta: δ, or None.
        unit: what one ε protects (``record``), or None.
        accountant: ``rdp`` or ``prv``, or None.
        opened: what was opened, covered by ε or exact.
        up, down: bytes each party sent and received over the whole run, by name, in the order of the sites.
        seconds: wall seconds by step, summed over rounds.
        server_saw: what reached the server.
        warnings: lines that the user must see.
        wall: wall seconds of the whole run.
        state: final model as safetensors-ready arrays.
        picture: SVG of the flow that ran.
        data_name: what the data are called; empty stands for the job's.
        noise_multiplier: standard deviation of the noise on the sum of a step's clipped gradients, divided by the clip; or None.
        data: the data, where `securefl.experiment.run_job` loaded them.
        preparation: how rows were made features, where `securefl.experiment.run_job` did it.
        plugin: where the protocol comes from if it is not ours, or None.
        protocol: name of the protocol that ran; empty stands for the job's.
        choice: what ``auto`` took, and why; empty where the job names a protocol.
        assessment: the final model's scores beside another model's, where the data have one.
        gains: what partners with different assays gain over their own models (simulation only), or None.
        places: by site, its ranges of norm and loss in the last round (simulation only; `securefl.places`).
    """

    job: dict[str, Any]
    title: str
    rounds: list[RoundRecord]
    metrics: dict[str, float]
    site_metrics: dict[str, dict[str, float]]
    local: list[SiteBaseline]
    pooled: dict[str, float]
    epsilon: list[float]
    delta: float | None
    unit: str | None
    accountant: str | None
    opened: list[Opened]
    up: dict[str, int]
    down: dict[str, int]
    seconds: dict[str, float]
    server_saw: list[ServerSaw]
    warnings: list[str]
    wall: float
    state: dict[str, Any] = field(repr=False, default_factory=dict)
    picture: str = field(repr=False, default="")
    data_name: str = ""
    noise_multiplier: float | None = None
    data: DataSummary | None = None
    preparation: Preparation | None = field(repr=False, default=None)
    plugin: Origin | None = None
    protocol: str = ""
    choice: str = ""
    assessment: Assessment | None = None
    gains: Gains | None = None
    places: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)

    def after(self, seconds: Mapping[str, float]) -> RunResult:
        """The same result with the seconds of steps that came before the run."""
        return replace(self, seconds=added(self.seconds, seconds), wall=self.wall + sum(seconds.values()))

    @property
    def spent(self) -> str:
        """What ε is called beside its numbers: of whom it is."""
        return "ε" if self.unit is None else f"ε of a {self.unit}"

    @property
    def aborted_rounds(self) -> int:
        """How many rounds ended in an abort and left the model as it was."""
        return sum(record.aborted is not None for record in self.rounds)

    @property
    def sites(self) -> list[str]:
        """Names of the parties, in the order of the sites: that of every list by site."""
        return list(self.up)

    def as_json(self) -> dict[str, Any]:
        """The object that ``securefl run --json`` prints; keys are a public interface.

        Lists by site are in the order of ``sites``.  A figure that does not exist (NaN) is null.
        """
        tree: dict[str, Any] = _finite(self._tree())
        return tree

    def _tree(self) -> dict[str, Any]:
        return {
            "data": self.data_name or self.job["data"]["name"],
            "dataset": self._dataset(),
            "protocol": self.protocol or self.job["privacy"]["protocol"],
            "choice": self.choice or None,
            "plugin": None if self.plugin is None else {key: value or None for key, value in asdict(self.plugin).items()},
            "sites": self.sites,
            "rounds": len(self.rounds),
            "aborted_rounds": self.aborted_rounds,
            "metrics": dict(self.metrics),
            "site_metrics": self.site_metrics,
            "evaluation": None if self.assessment is None else self.assessment.plain(),
            "gains": None if self.gains is None else self.gains.plain(),
            "baselines": {
                "pooled": dict(self.pooled),
                "local": {
                    "site": [site.name for site in self.local],
                    "auroc": [site.metrics.get("auroc") for site in self.local],
                    "accuracy": [site.metrics.get("accuracy") for site in self.local],
                },
            },
            "privacy": privacy_tree(
                self.unit,
                self.epsilon,
                self.delta,
                self.accountant,
                noise_multiplier=self.noise_multiplier,
                opened=[asdict(event) for event in self.opened],
            ),
            "bytes": {
                "up_per_client": round(sum(self.up.values()) / max(1, len(self.up))),
                "down_per_client": round(sum(self.down.values()) / max(1, len(self.down))),
                "up": list(self.up.values()),
                "down": [self.down[name] for name in self.sites],
            },
            "server_saw": [
                {"message": s.message, "step": s.step, "count": s.count, "bytes": s.size, "shows": s.shows} for s in self.server_saw
            ],
            "seconds": self.wall,
            "seconds_by_step": dict(self.seconds),
            "warnings": list(self.warnings),
            "history": [
                {
                    "round": r.number,
                    "invited": r.invited,
                    "contributors": r.contributors,
                    "dropped": r.dropped,
                    "aborted": r.aborted,
                    "metrics": r.metrics,
                }
                for r in self.rounds
            ],
            "simulation_only": list(SIMULATION_ONLY),
            "notice": NOTICE,
            "job": self.job,
        }

    def _dataset(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if self.data is not None:
            out |= {
                "source": self.data.source,
                "notes": list(self.data.notes),
                "rows": [self.data.rows[name] for name in self.sites],
                "held_out": [self.data.held_out[name] for name in self.sites],
            }
        if self.preparation is not None:
            out |= {"features": list(self.preparation.features), "classes": list(self.preparation.classes)}
        return out


def privacy_tree(
    unit: str | None, epsilon: Sequence[float | None], delta: float | None, accountant: str | None, **more: Any
) -> dict[str, Any]:
    """What every command's JSON says about privacy, under the same keys; without differential privacy no ε, and null.

    Args:
        unit: what one ε protects.
        epsilon: spent, one number for each party that has an account.
        delta: at which.
        accountant: that computed it.
        more: what the command has beside it.
    """
    return {"unit": unit, "epsilon": list(epsilon), "delta": delta, "accountant": accountant, **more}


def added(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """The sum of two tables of seconds by step."""
    return {step: first.get(step, 0.0) + second.get(step, 0.0) for step in {**first, **second}}


def _finite(tree: Any) -> Any:
    """The same tree with NaN and infinity, which JSON cannot carry, as None."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
