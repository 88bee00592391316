"""All measurements of one mechanism, each bounded in a process of its own; what came of them as data and as a table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from securefl.audit.audit import Result
from securefl.audit.bounded import bounded
from securefl.audit.target import Bounds
from securefl.errors import UserError


@dataclass(frozen=True)
class Measurement:
    """What a mechanism was found to give away.

    Attributes:
        setting: what was measured, a `securefl.audit.measured.registry.Setting`.
        results: one for each measurement, ``notice`` its check.
        seconds: wall time.
    """

    setting: Any
    results: tuple[Result, ...]
    seconds: float

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return f"mechanism {self.setting.name}"

    @property
    def broken(self) -> tuple[Result, ...]:
        """Measurements that refute the claim."""
        return tuple(result for result in self.results if result.verdict.broken)

    @property
    def untold(self) -> tuple[Result, ...]:
        """Measurements that could not have refuted it: the claim lies above the most that so many trials show."""
        return tuple(result for result in self.results if result.verdict.status == "cannot tell")

    @property
    def left_out(self) -> dict[int, str]:
        """Rows of the catalogue that a mechanism is asked about and nothing is measured of, and why."""
        from securefl.audit.measured.registry import UNASKED  # noqa: PLC0415  (loads torch)

        return UNASKED.get(self.setting.name, {})

    @property
    def passed(self) -> bool:
        """Whether some could have refuted it, and none does.  That is no proof of the claim."""
        return len(self.untold) < len(self.results) and not self.broken

    def as_json(self) -> dict[str, Any]:
        """As a tree that JSON holds; no claim is None."""
        claimed = self.setting.claimed
        return {
            "mechanism": self.setting.name,
            "claimed": None if math.isinf(claimed) else claimed,
            "delta": self.setting.delta,
            "unit": self.setting.unit,
            "noise": self.setting.job.privacy.noise if self.setting.in_sum and not self.setting.server else None,
            "quick": self.setting.quick,
            "passed": self.passed,
            "cannot_tell": [result.notice for result in self.untold],
            "not_applicable": [{"row": row, "why": why} for row, why in self.left_out.items()],
            "seconds": round(self.seconds, 3),
            "results": [result.as_json() for result in self.results],
        }


def setting_of(mechanism: str | None, job: Path | None, *, quick: bool, seed: str = "audit", noise: str | None = None) -> Any:
    """The mechanism of a job, or a named one with the job's other knobs, or with the defaults.

    Raises:
        UserError: for a mechanism that does not exist yet, or a job that is refused, or lacks the public number of rows that its
            sums are divided by.
    """
    from securefl.audit.measured.registry import Setting, known  # noqa: PLC0415  (loads torch)
    from securefl.options import read_job  # noqa: PLC0415

    given = {} if mechanism is None else {"privacy.mechanism": known(mechanism)}  # of the command line, so it overrides
    given |= {} if noise is None else {"privacy.noise": noise}
    checked = read_job(job, given)
    if job is not None and checked.privacy.summed and checked.privacy.rows is None:
        raise UserError(
            f"{job}: privacy.rows is missing: {checked.privacy.mechanism} divides a sum by the public number of rows of a site, "
            "and its δ is held against it; name it in the job, as a run demands too"
        )
    setting = Setting(checked, seed, quick)
    if not setting.in_sum:
        return setting
    setting = setting if job is None else replace(setting, **_shape(checked))
    from securefl.audit.measured.summed import summed  # noqa: PLC0415

    summed(setting)  # what cannot be is refused before anything is tried
    return setting


def _shape(job: Any) -> dict[str, Any]:
    """Parties and blocks of a job with its own data and model."""
    from securefl.data import of_job  # noqa: PLC0415  (pandas takes its time)
    from securefl.models import build, to_vector  # noqa: PLC0415

    data = of_job(job)
    size = int(to_vector(build(job.model, len(data.features), 0)).size)
    return {"parties": len(data.sites), "blocks": (size,) * job.data.splits}


def registered() -> Sequence[Any]:
    """Every `securefl.audit.measured.registry.Measure`, once all modules are loaded that have some."""
    from securefl.audit.measured import apart, beside, game, gradients, inside, noise, pipeline, reconstruction, registry, sampling  # noqa: PLC0415, I001  (in the order in which they are shown)
    from securefl.audit.measured import handshake, records, trusted  # noqa: PLC0415

    del game, gradients, noise, pipeline, reconstruction, sampling  # imported to register what they measure
    del inside, apart, beside, handshake, records, trusted
    return registry.MEASURES


def measure_mechanism(
    mechanism: Any,
    *,
    checks: Iterable[str] | None = None,
    bounds: Bounds | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Measurement:
    """Measure everything that applies.

    Args:
        mechanism: its name, or a `securefl.audit.measured.registry.Setting`.
        checks: ids of those to measure; None: all.
        bounds: what one measurement may use.
        tell: told the name of each.
    """
    import torch  # noqa: PLC0415

    setting = setting_of(mechanism, None, quick=True) if isinstance(mechanism, str) else mechanism
    began, limits, results = time.perf_counter(), bounds or Bounds(60.0 if setting.quick else 600.0), list[Result]()
    if setting.in_sum:  # once, before there are children
        _ = setting.encoding
    if setting.summed:
        setting.training(1, label="once")  # what it loads
    if setting.name in ("local-record", "central"):
        _ = setting.noise_multiplier
    wanted = None if checks is None else set(checks)
    for one in registered():
        if (one.on and setting.name not in one.on) or (wanted is not None and one.check not in wanted):
            continue
        tell(f"{setting.name}: {one.name}")

        def play(one: Any = one) -> Any:
            torch.set_num_threads(1)  # threads do not survive a fork
            return one.play(setting)

        verdict, seconds = bounded(play, limits)
        results.append(Result(one.row, one.name, verdict, seconds, one.how, one.check))
    return Measurement(setting, tuple(results), time.perf_counter() - began)


def claim(measurement: Measurement) -> str:
    """What is claimed, in a line."""
    setting = measurement.setting
    if not setting.private:
        return "no ε is claimed"
    what = f"ε = {setting.claimed:g} at δ = {setting.delta:g} is claimed for one {setting.unit}"
    if setting.name == "central":
        what = f"{what}, but not against the server, which is trusted"
    elif setting.in_sum:
        return f"{what} over {setting.job.privacy.rounds} rounds, by {setting.job.privacy.noise} noise of {setting.parties} parties"
    return f"{what} over {setting.steps} steps, by noise of {setting.noise_multiplier:.3g} clips"


def show(console: Console, measurement: Measurement, colours: dict[str, str]) -> None:
    """The table: each measurement, its verdict, the measured interval and its cap."""
    title = f"{measurement.name}: {claim(measurement)}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, ratio in (("check", 3), ("verdict", 5), ("measured", 4)):
        table.add_column(name, ratio=ratio)
    table.add_column("s", justify="right")
    for r in measurement.results:
        interval = "" if r.verdict.measured is None else r.verdict.measured.line
        text = Text(f"{r.verdict.status}: {r.verdict.why}", colours.get(r.verdict.status, ""))
        table.add_row(r.notice, text, interval, f"{r.seconds:.1f}")
    console.print(table)
    if measurement.left_out:
        rows = ", ".join(f"{row} ({why})" for row, why in measurement.left_out.items())
        console.print(f"not applicable: {rows}", markup=False)
    found = f"{len(measurement.broken) or 'nothing'} refuted in {measurement.seconds:.0f} s"
    console.print("; ".join([found, *without_answer(measurement), "a bound from below proves no ε"]))


def without_answer(measurement: Measurement) -> list[str]:
    """The line for measurements that cannot tell, if there are any."""
    names = [result.notice for result in measurement.untold]
    return [f"{len(names)} of {len(measurement.results)} cannot tell: {', '.join(names)}"] if names else []
