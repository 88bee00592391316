"""Sums over records, measured: the claim holds, with noise inside or of a server, and each mutant is flagged."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mechanism_mutants
import numpy as np
import pytest
import record_mutants as mutants
import sum_mutants
import torch
from batch_mutants import one_key, one_seed

from protocols import sums
from securefl.audit import measure_mechanism
from securefl.audit.measured import apart
from securefl.audit.measured.registry import SUMMED, Setting
from securefl.audit.measured.run import claim, registered, setting_of
from securefl.audit.measured.summed import epsilon_of_variance, summed
from securefl.audit.verdict import Verdict
from securefl.errors import UserError
from securefl.job import Job

Patch = pytest.MonkeyPatch
Mutants = dict[str, tuple[Callable[[Patch], None], tuple[str, ...], tuple[str, ...]]]
MEASURES = {name: [one for one in registered() if not one.on or name in one.on] for name in SUMMED}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def setting(mechanism: str = "distributed-record", **privacy: Any) -> Setting:
    return Setting(Job.parse({"privacy": {"mechanism": mechanism, **privacy}}), blocks=(128, 128))


def played(check: str, on: Setting) -> Verdict:
    found: Verdict = next(one.play(on) for one in MEASURES[on.name] if one.check == check)
    return found


OF_SITES: Mutants = {
    "clipping off": (mutants.clipping_off, ("record-clip", "sum-clip"), ("record-rounding", "batch-sampling")),
    "clipping by tensor": (mutants.clip_by_tensor, ("record-clip", "sum-clip"), ("record-rounding", "batch-sampling")),
    "a hundred-thousandth beyond the clip": (mutants.clip_too_far, ("record-clip",), ("record-rounding",)),
    "sums of floats": (mutants.float_sums, ("record-clip",), ("batch-sampling",)),
    "divided by the true size of the batch": (mutants.divided_by_the_true_size, ("record-clip",), ("batch-sampling",)),
    "rounded until a norm fits": (mutants.rounded_until_it_fits, ("record-rounding",), ("record-clip", "sum-clip", "sum-gain")),
    "sampling ignored: whole data set": (
        mechanism_mutants.drawn_by(mechanism_mutants.whole),
        ("batch-sampling",),
        ("record-clip", "sum-fit"),
    ),
    "sampling: batches of fixed size": (
        mechanism_mutants.drawn_by(mechanism_mutants.fixed_size),
        ("batch-sampling",),
        ("record-clip", "sum-fit"),
    ),
    "sampling: every record once in a pass": (
        mechanism_mutants.drawn_by(mechanism_mutants.in_turn),
        ("batch-sampling",),
        ("record-clip",),
    ),
    "one key for all steps": (lambda patch: one_key(patch, sums.scheme("secagg")), ("handshake-steps",), ("record-clip",)),
    "one seed for all steps": (lambda patch: one_seed(patch, sums.scheme("secagg")), ("handshake-steps",), ("record-clip",)),
    "silent with an empty batch": (mutants.silent_batches, ("sum-sizes",), ("record-clip", "batch-sampling")),
    "charged at success only": (sum_mutants.charged_at_success, ("sum-account",), ("sum-sizes",)),
}
MUTANTS: dict[str, Mutants] = {
    "distributed-record": {
        "noise off": (
            mutants.noise_off,
            ("sum-variance", "sum-law", "sum-fit", "sum-worlds", "sum-differencing", "sum-honest"),
            ("record-clip", "sum-clip", "sum-account"),
        ),
        "σ halved": (
            mutants.sigma_halved,
            ("sum-variance", "sum-law", "sum-fit", "sum-differencing", "sum-honest"),
            ("record-clip", "sum-worlds"),
        ),
        "noise of half of the parties": (mutants.half_of_the_parties, ("sum-variance", "sum-law"), ("sum-account",)),
        "the same noise in two models": (mutants.the_same_in_both_models, ("sum-variance",), ("sum-law", "sum-honest")),
        **OF_SITES,
        "an empty batch without noise": (
            mutants.empty_batches_without_noise,
            ("sum-variance", "sum-law", "sum-honest"),
            ("sum-sizes",),
        ),
        "a finer grid at the sites": (mutants.finer_grid, ("sum-clip", "sum-gain"), ("sum-variance", "record-clip")),
        "noise sized for all invited": (sum_mutants.sized_for_all_invited, ("sum-honest", "sum-fit"), ("sum-variance",)),
        "noise of the corrupt counted": (mutants.corrupt_counted, ("sum-honest", "sum-account"), ("sum-variance",)),
        "amplification of half the rate": (mutants.amplified_twice, ("sum-honest", "sum-account"), ("sum-variance",)),
        "one of two models counted": (mutants.one_model_counted, ("sum-honest",), ("sum-variance", "sum-account")),
        "values that are not centred": (sum_mutants.not_centred, ("sum-variance", "sum-law"), ("record-clip",)),
        "accountant told of all invited": (sum_mutants.told_all_invited, ("sum-account",), ("sum-honest",)),
        "metrics taken along": (mutants.metrics_taken, ("sum-alone",), ("sum-variance", "sum-sizes")),
    },
    "central": {
        "noise off": (
            mutants.server_noise(lambda _: 0.0),
            ("central-variance", "sum-fit", "sum-worlds"),
            ("record-clip", "central-trust"),
        ),
        "σ halved": (mutants.server_noise(lambda std: std / 2), ("central-variance", "sum-fit"), ("sum-worlds",)),
        "the same noise in every step": (mutants.server_repeats, ("central-variance",), ("sum-clip",)),
        **OF_SITES,
        "nothing says that the server is trusted": (mutants.trust_unsaid, ("central-trust",), ("central-variance",)),
    },
}
"""Mechanism → mutant → patch, checks that flag it, checks that cannot."""


@pytest.mark.parametrize(("mechanism", "name"), [(m, name) for m, of in MUTANTS.items() for name in of])
def test_every_mutant_is_flagged_by_the_checks_that_are_made_for_it(mechanism: str, name: str, monkeypatch: Patch) -> None:
    """Such as ``record-clip`` and ``record-rounding``, by what a site hands to the sum, and ``handshake-steps``."""
    monkeypatch.setattr(apart, "RUNS", 2500)
    apply, flagging, blind = MUTANTS[mechanism][name]
    apply(monkeypatch)
    on = setting(mechanism)
    for check in flagging:
        verdict = played(check, on)
        assert verdict.broken, (check, verdict.line)
        assert verdict.check == check
    for check in blind:
        assert not played(check, on).broken, (check, played(check, on).line)


@pytest.mark.parametrize("mechanism", SUMMED)
def test_all_that_is_measured_of_sums_over_records_stays_within_the_claim(mechanism: str) -> None:
    """Deterministic, as its seed is fixed."""
    found = measure_mechanism(setting(mechanism))
    assert found.passed, [r.verdict.line for r in found.broken]
    assert [r.notice for r in found.results] == [one.check for one in MEASURES[mechanism]]
    bounds = {r.notice: r.verdict.measured for r in found.results if r.verdict.measured is not None}
    for bound in bounds.values():
        assert bound.lower <= min(bound.claimed, bound.cap)
    assert bounds["sum-fit"].lower < 3 < bounds["sum-fit"].upper
    assert bounds["sum-worlds"].claimed < 1 < bounds["sum-worlds"].cap
    tree, rows = found.as_json(), {r.row for r in found.results}
    assert (tree["unit"], tree["claimed"], tree["cannot_tell"]) == ("record", 3.0, [])
    assert rows == ({9, 10, 16, 20, 25, 33, 34, 35} if mechanism == "distributed-record" else {10, 16, 18, 20, 25, 33, 34})
    assert ("not against the server, which is trusted" in claim(found)) == (mechanism == "central")


def test_the_other_law_of_noise_is_measured_as_well(monkeypatch: Patch) -> None:
    on = setting(noise="discrete-gaussian")
    checks = ("sum-variance", "sum-law", "sum-honest")
    assert not [check for check in checks if played(check, on).broken]
    mutants.sigma_halved(monkeypatch)
    assert all(played(check, on).broken for check in checks)


def test_epsilon_of_the_planned_noise_is_the_one_that_was_asked_for() -> None:
    made = summed(setting())
    planned = made.honest * made.plan.share
    assert epsilon_of_variance(made, made.fewest, planned) == pytest.approx(3.0, rel=1e-4)
    assert epsilon_of_variance(made, made.fewest, planned / 4) > 6
    assert made.spent(made.fewest, made.plan.rounds) == pytest.approx(3.0, rel=1e-4)
    assert made.spent(made.fewest) < made.spent(made.fewest, drawn=False)


def test_a_record_is_drawn_at_the_rate_of_its_site() -> None:
    """200 draws at rate 0.2: fewer than 16 or more than 67 are in it with probability 4e-6."""
    made = summed(setting())
    assert made.drawn is not None
    record, at = made.direction(0)
    found = [int(made.drawn(made.encoding, record)[0][at]) for _ in range(200)]
    hits = sum(value != 0 for value in found)
    assert 15 < hits < 68
    assert made.unit(made.encoding, record)[0][at] == max(found)


def test_what_a_record_moves_is_held_to_the_account_model_by_model() -> None:
    """A record of one clip in both models moves each by one clip: √2 in all, of which no account is kept."""
    made = summed(setting())
    record = np.tile(np.full(128, made.encoding.clip / math.sqrt(128)), 2)
    parts = made.moved(made.occasion("t"), record).astype(np.float64).reshape(made.parts, -1)
    lengths = np.linalg.norm(parts, axis=1)
    assert lengths == pytest.approx([made.plan.radius] * 2, rel=0.02)
    assert (lengths < made.bounds[0]).all()


def test_a_job_s_folds_say_in_how_many_models_a_record_is() -> None:
    def models(folds: int) -> int:
        job = Job.parse({"privacy": {"mechanism": "distributed-record"}, "data": {"folds": folds}})
        return Setting(job, blocks=(8,) * folds).models_per_record

    assert [models(folds) for folds in (1, 2, 5)] == [1, 1, 4]


@pytest.mark.parametrize(("mechanism", "title"), [("distributed-record", "sums over records"), ("central", "a trusted server")])
def test_the_document_has_every_mutant(mechanism: str, title: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## Mutants of {title}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")][1:]
    told = {row[0]: tuple(re.findall(r"`([a-z-]+)`", cell) for cell in row[1:]) for row in rows}
    assert told == {name: (list(flagging), list(blind)) for name, (_, flagging, blind) in MUTANTS[mechanism].items()}


def test_every_check_of_sums_over_records_has_a_mutant() -> None:
    flagging = {check for of in MUTANTS.values() for _, checks, _ in of.values() for check in checks}
    assert {one.check for of in MEASURES.values() for one in of} - flagging == {"epsilon-canaries"}


@pytest.mark.parametrize("mechanism", ["distributed-record", "central"])
def test_a_job_without_the_public_number_of_rows_is_not_measured_with_another(tmp_path: Path, mechanism: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(f'[privacy]\nmechanism = "{mechanism}"\n')
    for named in (None, mechanism):
        with pytest.raises(UserError, match=r"job\.toml: privacy\.rows is missing"):
            setting_of(named, path, quick=True)
    assert setting_of(mechanism, None, quick=True).encoding.plan.rows == 100
