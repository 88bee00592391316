"""Noise inside the sum, measured: the claim holds for both laws, and each mutant is flagged by the checks that are made for it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sum_mutants as mutants
import torch
from scipy import stats

from securefl import UserError
from securefl.audit import measure_mechanism
from securefl.audit.measured import apart, inside
from securefl.audit.measured.registry import Setting
from securefl.audit.measured.run import registered
from securefl.audit.measured.summed import Summed, epsilon_of_variance, summed
from securefl.audit.verdict import Verdict
from securefl.job import Job

Patch = pytest.MonkeyPatch
MEASURES = [one for one in registered() if "distributed-party" in one.on]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def setting(noise: str = "skellam", **privacy: Any) -> Setting:
    return Setting(Job.parse({"privacy": {"mechanism": "distributed-party", "noise": noise, **privacy}}), blocks=(128, 128))


def played(check: str, on: Setting) -> Verdict:
    found: Verdict = next(one.play(on) for one in MEASURES if one.check == check)
    return found


MUTANTS: dict[str, tuple[Callable[[Patch], None], tuple[str, ...], tuple[str, ...]]] = {
    "noise off": (
        mutants.noise_by(mutants.off),
        ("sum-variance", "sum-law", "sum-fit", "sum-worlds", "sum-differencing", "sum-honest"),
        ("sum-clip", "sum-gain", "sum-account"),
    ),
    "σ halved": (
        mutants.sigma_halved,
        ("sum-variance", "sum-law", "sum-fit", "sum-differencing", "sum-honest"),
        ("sum-clip", "sum-worlds"),
    ),
    "noise of half of the parties": (mutants.half_of_the_parties, ("sum-variance", "sum-law"), ("sum-account",)),
    "noise on half of the values": (
        mutants.noise_by(mutants.half_of_the_values),
        ("sum-variance", "sum-law", "sum-honest"),
        ("sum-clip",),
    ),
    "uniform noise of the same variance": (mutants.noise_by(mutants.uniform), ("sum-law",), ("sum-variance", "sum-honest")),
    "the same noise at all parties": (mutants.noise_by(mutants.the_same), ("sum-variance", "sum-law"), ("sum-clip",)),
    "the same noise in every round": (mutants.machines_repeat, ("sum-variance", "sum-differencing"), ()),
    "clipping off": (mutants.clipping_off, ("sum-clip",), ("sum-variance", "sum-honest")),
    "clipping off, any norm taken": (
        mutants.both(mutants.clipping_off, mutants.rounded_once),
        ("sum-clip",),
        ("sum-variance", "sum-honest"),
    ),
    "clipping by block": (mutants.clip_of_each_block, ("sum-clip",), ("sum-variance", "sum-gain")),
    "clipping by block, any norm taken": (
        mutants.both(mutants.clip_of_each_block, mutants.rounded_once),
        ("sum-clip",),
        ("sum-variance", "sum-gain"),
    ),
    "rounded once, whatever the norm": (mutants.rounded_once, ("sum-clip",), ("sum-variance", "sum-gain")),
    "noise sized for all invited": (mutants.sized_for_all_invited, ("sum-honest", "sum-fit"), ("sum-variance", "sum-clip")),
    "noise of the corrupt counted": (mutants.corrupt_counted, ("sum-honest", "sum-account"), ("sum-variance", "sum-clip")),
    "amplification by parties that take part": (
        mutants.amplified,
        ("sum-honest", "sum-account"),
        ("sum-variance", "sum-clip"),
    ),
    "a finer grid at the parties": (mutants.finer_grid, ("sum-gain", "sum-clip"), ("sum-variance", "sum-honest")),
    "a coarser grid at the parties": (mutants.coarser_grid, ("sum-gain",), ("sum-variance", "sum-clip")),
    "values that are not centred": (mutants.not_centred, ("sum-variance", "sum-law", "sum-gain"), ("sum-clip",)),
    "accountant told of all invited": (mutants.told_all_invited, ("sum-account",), ("sum-variance", "sum-honest")),
    "charged at success only": (mutants.charged_at_success, ("sum-account",), ("sum-variance", "sum-honest")),
    "metrics taken along": (mutants.metrics_taken, ("sum-alone",), ("sum-variance", "sum-sizes")),
    "weights in the vector": (mutants.weights_go_along, ("sum-alone",), ("sum-sizes",)),
    "silent without an update": (mutants.silent_without_an_update, ("sum-sizes",), ("sum-account",)),
}
"""Mutant → patch, checks that flag it, checks that cannot."""


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_flagged_by_the_checks_that_are_made_for_it(name: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(apart, "RUNS", 1500)
    apply, flagging, blind = MUTANTS[name]
    apply(monkeypatch)
    on = setting()
    for check in flagging:
        verdict = played(check, on)
        assert verdict.broken, (check, verdict.line)
        assert verdict.check == check
    for check in blind:
        assert not played(check, on).broken, check


@pytest.mark.parametrize("noise", ["skellam", "discrete-gaussian"])
def test_all_that_is_measured_of_noise_inside_the_sum_stays_within_the_claim(noise: str) -> None:
    """Deterministic, as its seed is fixed."""
    found = measure_mechanism(setting(noise))
    assert found.passed, [r.verdict.line for r in found.broken]
    assert [r.notice for r in found.results] == [one.check for one in MEASURES]
    bounds = {r.notice: r.verdict.measured for r in found.results if r.verdict.measured is not None}
    for bound in bounds.values():
        assert bound.lower <= min(bound.claimed, bound.cap)
    for check in ("sum-fit", "sum-honest"):
        assert bounds[check].lower < 3 < bounds[check].upper
    assert bounds["sum-worlds"].claimed < 1 < bounds["sum-worlds"].cap
    tree = found.as_json()
    assert (tree["unit"], tree["claimed"], tree["cannot_tell"]) == ("party", 3.0, [])
    assert {r.row for r in found.results} == {9, 10, 16, 20, 25, 33, 34, 35}


@pytest.mark.parametrize("noise", ["skellam", "discrete-gaussian"])
@pytest.mark.parametrize("check", ["sum-variance", "sum-law", "sum-honest"])
def test_noise_of_either_law_is_flagged_where_it_is_halved(check: str, noise: str, monkeypatch: Patch) -> None:
    on = setting(noise)
    assert not played(check, on).broken
    mutants.sigma_halved(monkeypatch)
    assert played(check, on).broken


@pytest.mark.parametrize(("kind", "variance"), [("skellam", 0.4), ("skellam", 30.0), ("skellam", 1e6), ("discrete-gaussian", 2.0)])
def test_classes_have_the_probabilities_of_the_law(kind: str, variance: float) -> None:
    bounds, expected = inside.classes(kind, variance)
    if kind == "skellam":
        below = stats.skellam(variance / 2, variance / 2).cdf(bounds)
    else:
        k = np.arange(-60, 61)
        mass = np.exp(-(k**2) / (2 * variance))
        below = np.array([mass[k < bound].sum() for bound in bounds]) / mass.sum()
    assert np.cumsum(expected)[:-1] == pytest.approx(below, abs=1e-6)
    assert expected.sum() == pytest.approx(1)


@pytest.mark.parametrize("variance", [0.3, 4.0, 1000.0])
def test_sound_noise_is_called_unsound_as_seldom_as_stated(variance: float) -> None:
    """At 20 % for what is too small or too large and as much for what repeats: 160 of 300 have 3e-6 at 40 %."""
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(300):
        noise = rng.poisson(variance / 2, (10, 200)) - rng.poisson(variance / 2, (10, 200))
        wrong += bool(inside.amiss(noise, variance, alarm=0.2))
    assert wrong < 160


def test_epsilon_of_the_planned_noise_is_the_one_that_was_asked_for() -> None:
    for noise in ("skellam", "discrete-gaussian"):
        made = summed(setting(noise))
        planned = made.honest * made.plan.share
        assert epsilon_of_variance(made, made.fewest, planned) == pytest.approx(3.0, rel=1e-4)
        assert epsilon_of_variance(made, made.fewest, planned / 4) > 6


def test_another_unit_is_measured_by_the_same_functions() -> None:
    """A unit that hands in twice its vector, as an encoding of records might: what it moves is twice as far."""
    made = summed(setting())
    doubled = Summed(made.setting, made.encoding, made.plan, made.scheme, lambda e, x: made.unit(e, 2 * x))
    half = np.full(made.size, made.encoding.clip / 4 / math.sqrt(made.size))
    occasion = made.occasion("t")
    ratio = np.linalg.norm(doubled.moved(occasion, half)) / np.linalg.norm(made.moved(occasion, half))
    assert ratio == pytest.approx(2, rel=0.05)


def test_the_sum_of_real_sessions_is_the_sum_that_is_measured() -> None:
    made = summed(setting(protocol="kahe"))
    occasion = made.occasion("t")
    sent = {u: made.sent(occasion, u) for u in range(1, 13)}
    total, contributors = made.through_protocol(sent, (3, 7), occasion)
    assert contributors == 10
    np.testing.assert_array_equal(total, made.total(x for u, x in sent.items() if u not in (3, 7)))


def test_noise_too_small_for_a_fit_cannot_tell(monkeypatch: Patch) -> None:
    monkeypatch.setattr(apart, "NEAR", 1e6)
    monkeypatch.setattr(apart, "RUNS", 100)
    found = played("sum-fit", setting())
    assert found.status == "cannot tell"


def test_sums_without_noise_are_refused() -> None:
    with pytest.raises(UserError, match="the sums of none carry no noise"):
        summed(Setting(Job.parse({"privacy": {"mechanism": "none"}})))


def test_a_threshold_of_all_parties_leaves_no_sums_to_subtract() -> None:
    found = played("sum-differencing", setting(threshold=12))
    assert found.status == "harmless"
    assert found.why == "no sum is opened over fewer than all 12 parties"


def test_the_document_has_every_mutant() -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    section = page.partition("\n## Mutants of noise inside the sum\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")][1:]
    told = {row[0]: tuple(re.findall(r"`([a-z-]+)`", cell) for cell in row[1:]) for row in rows}
    assert told == {name: (list(flagging), list(blind)) for name, (_, flagging, blind) in MUTANTS.items()}
    elsewhere = {"handshake-steps"}  # whose mutants are among those of sums over records
    assert {check for _, flagging, _ in MUTANTS.values() for check in flagging} == {one.check for one in MEASURES} - elsewhere
