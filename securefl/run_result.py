"""The result of a run in one process: the final models scored, and all that its rounds have noted, as a `RunResult`.

What it does not protect: it scores on the held-out rows of all sites, which only a simulation has in one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols import draw
from securefl.evaluation import evaluate
from securefl.results import RunResult

if TYPE_CHECKING:
    from securefl.runner import Runner


def result_of(runner: Runner, wall: float) -> RunResult:
    """What a run whose rounds have ended gives; ``wall``: seconds that its rounds took.

    Raises:
        UserError: where the final models cannot be scored.
    """
    models, rounds, spending, about = runner.scored_models(), runner.rounds, runner.spending, runner.about
    metrics, site_metrics = evaluate(runner.trainer, models, runner.folds)
    of_state = next(iter(models.values())) if isinstance(models, dict) else models
    prefixes = [f"fold{i}." for i in range(len(of_state))] if len(of_state) > 1 else [""]
    opened, plan, protocol = rounds.progress.opened, runner.plan, about.protocol
    return RunResult(
        job=runner.job.plain(),
        title=f"{runner.name} · {protocol.name}",
        rounds=list(rounds.progress.records),
        metrics=metrics,
        site_metrics=site_metrics,
        local=[],
        pooled={},
        epsilon=list(runner.epsilon().values()),
        delta=spending.delta,
        unit=spending.unit,
        accountant=spending.accountant,
        places={name: site.places.found[-1] for name, site in runner.sites.items() if site.places and site.places.found},
        opened=[*about.opened(opened, spending.noise_multiplier), *(rounds.cohorts.shown() if not plan.tail else [])],
        up=rounds.traffic.up,
        down=rounds.traffic.down,
        seconds=rounds.clock.total(),
        server_saw=rounds.traffic.server_saw(runner.flow, opened, plan.size, hidden=protocol.hides, before=rounds.keys.before),
        warnings=list(runner.warnings),
        wall=wall,
        state={
            p + k: v.detach().cpu().numpy()
            for p, m in zip(prefixes, of_state, strict=True)
            for k, v in m.state_dict().items()
            if runner.layered is None or k in runner.layered.names
        },
        picture=draw.svg(runner.flow),
        data_name=runner.name,
        noise_multiplier=spending.noise_multiplier,
        plugin=protocol.origin,
        protocol=protocol.name,
        choice=about.choice,
    )
