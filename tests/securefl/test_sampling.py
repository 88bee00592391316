"""A cohort drawn for each round: with equal chances, of the parameters of its size, and with no ε that is smaller for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_sites import job, linear, replayed, sites, weights
from scipy.stats import chi2

from protocols.errors import Refused
from protocols.policy import Policy
from protocols.rand import Rand, Replay, fresh
from protocols.sums import names
from securefl import Runner, UserError
from securefl.aggregator import Aggregate, ServerAggregator
from securefl.audit.recording import Recording
from securefl.experiment import run_job
from securefl.job import Job
from securefl.parties import Consortium
from securefl.privacy.budget import PartyLedger
from securefl.privacy.store import Store
from securefl.results import RunResult
from securefl.sampling import as_bits, invitation, own_place, places_of, sampled

SITES = sites()
NAMES = tuple(SITES)
FALSE_ALARM = 1e-7
"""Of each test of chances."""
PARTY: dict[str, Any] = {"mechanism": "distributed-party", "epsilon": 8.0, "update_clip": 1.0}
RECORD: dict[str, Any] = {"mechanism": "local-record", "epsilon": 3.0, "sample_rate": 0.5}


class Kept(ServerAggregator):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.aggregates = list[Aggregate]()

    def on_before_step(self, aggregate: Aggregate) -> Aggregate:
        self.aggregates.append(aggregate)
        return aggregate


def runner(seed: str = "cohorts", gone: Mapping[int, Mapping[str, str]] | None = None, **more: Any) -> Runner:
    given = {key: more.pop(key) for key in ("server", "ledgers", "consortium", "recording") if key in more}
    data = more.pop("data", SITES)
    plan = gone or {}
    made = job(**{"clients_per_round": 3, "rounds": 4, **more})
    drop: Callable[..., Mapping[str, str]] = lambda number, _: plan.get(number, {})  # noqa: E731
    return Runner(linear, data, job=made, entropy=replayed, dropouts=drop, sampling=Replay(seed), **given)


def drawn(rounds: int, count: int = 3, seed: str = "cohorts") -> list[list[str]]:
    """The cohorts of such a run, by the same draws."""
    source = Replay(seed)
    return [[NAMES[place - 1] for place in sampled(range(1, 6), count, source())] for _ in range(rounds)]


def chance(counts: Counter[Any], of: int) -> float:
    """Probability of counts that are as unequal, where ``of`` results have equal chances."""
    total = counts.total() / of
    return float(chi2.sf(sum((count - total) ** 2 / total for count in counts.values()) + total * (of - len(counts)), of - 1))


def biased(among: range, count: int, rand: Rand) -> list[int]:
    """As one would first write it: those with the least words modulo 4, ties by place."""
    words = rand.words("who", len(among)) % 4
    return sorted(sorted(among, key=lambda one: (words[one - 1], one))[:count])


def test_every_cohort_has_the_same_chance() -> None:
    """20 sets of 3 of 6, 8000 draws, chi-square; a draw that favours those in front is found."""
    sets = len(list(combinations(range(6), 3)))

    def seen(draw: Callable[[range, int, Rand], list[int]]) -> Counter[tuple[int, ...]]:
        return Counter(tuple(draw(range(1, 7), 3, fresh())) for _ in range(8000))

    assert chance(seen(sampled), sets) > FALSE_ALARM
    assert chance(seen(biased), sets) < FALSE_ALARM


def test_in_rounds_each_site_has_the_same_chance() -> None:
    """Of 5 sites 3 a round: over the cohorts of 300 rounds in clear, chi-square of who is in them."""
    made = runner(protocol="plain-insecure", rounds=300, local_steps=1)
    made.rounds.sampling = fresh
    counts = Counter[str]()
    invite = made.rounds.invite

    def counted() -> None:
        invite()
        counts.update([",".join(member.name for member in made.rounds.invited.roster.members)])

    made.rounds.invite = counted  # type: ignore[method-assign]
    result = made.run()
    assert {record.contributors for record in result.rounds} == {3}
    assert chance(counts, 10) > FALSE_ALARM


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n)), st.integers(1, n))), st.binary())
def test_a_cohort_has_its_size_and_takes_the_absent_last(setting: tuple[int, set[int], int], seed: bytes) -> None:
    n, present, count = setting
    found = invitation(sorted(present), sorted({*range(1, n + 1)} - present), count, Replay(seed)())
    assert found == sorted(set(found))
    assert len(found) == count
    assert len(present & set(found)) == min(count, len(present))
    assert places_of(as_bits(found, n), n, count) == found


@pytest.mark.parametrize("bits", [b"", b"\x07\x00", b"\x47", b"\x03", b"\x0f"])
def test_bits_that_are_no_such_cohort_are_refused(bits: bytes) -> None:
    assert places_of(b"\x07", 6, 3) == [1, 2, 3]
    with pytest.raises(Refused, match="net-cohort"):
        places_of(bits, 6, 3)
    with pytest.raises(Refused, match="net-cohort"):
        own_place([1, 2, 3], 4)


@pytest.mark.parametrize("protocol", names())
def test_each_sum_is_over_the_cohort_and_the_same_under_every_protocol(protocol: str) -> None:
    server = Kept()
    result = runner(protocol=protocol, server=server, w_max=256).run()
    rows = {name: len(fold.train) for name, fold in SITES.items()}  # type: ignore[arg-type]
    cohorts = drawn(4)
    assert [record.aborted for record in result.rounds] == [None] * 4
    assert [(a.contributors, a.weights[0]) for a in server.aggregates] == [(3, sum(rows[n] for n in c)) for c in cohorts]
    assert {record.invited for record in result.rounds} == {3}
    np.testing.assert_array_equal(weights(result), weights(runner(protocol="plain-insecure").run()))


def test_who_is_not_invited_is_no_dropout_and_neither_sends_nor_gets_a_byte() -> None:
    (cohort,) = drawn(1)
    gone = dict.fromkeys(NAMES, "Masked")
    gone = {name: stage for name, stage in gone.items() if name not in cohort}
    result = runner(gone={1: gone}, rounds=1).run()
    assert result.rounds[0].dropped == {}
    assert result.rounds[0].contributors == 3
    for traffic in (result.up, result.down):
        assert {name for name, size in traffic.items() if size} == set(cohort)


def test_parameters_and_noise_are_those_of_the_cohorts_size() -> None:
    sampling = runner(**PARTY)
    alone = Runner(linear, dict(list(SITES.items())[:3]), job=job(**PARTY, rounds=4))
    assert sampling.parameters == alone.parameters
    assert sampling.plan.plan == alone.plan.plan  # type: ignore[attr-defined]
    assert sampling.plan.plan.cohort.clients == 3  # type: ignore[attr-defined]
    everybody = Runner(linear, SITES, job=job(**PARTY, rounds=4))
    assert sampling.plan.plan.share > everybody.plan.plan.share  # type: ignore[attr-defined]


@pytest.mark.parametrize("knobs", [RECORD, PARTY], ids=str)
def test_epsilon_is_as_without_sampling_and_charged_to_those_who_took_part(knobs: dict[str, Any]) -> None:
    """After k rounds of its own a site has spent what it would have in k rounds without sampling: nothing for having been drawn."""
    sampling = runner(**knobs, rounds=4)
    data = SITES if knobs is RECORD else dict(list(SITES.items())[:3])
    without = Runner(linear, data, job=job(**knobs, rounds=4), entropy=replayed)
    assert sampling.noise_multiplier == without.noise_multiplier
    assert sampling.sites["site-0"].spending.planned("site-0") == without.sites["site-0"].spending.planned("site-0")
    spent = {k: record.epsilon["site-0"] for k, record in enumerate(without.run().rounds, 1)}
    result = sampling.run()
    took = Counter(name for cohort in drawn(4) for name in cohort)
    assert min(took.values()) < 4
    zero = runner(**knobs, rounds=1).epsilon()["site-0"]
    assert result.epsilon == pytest.approx([spent.get(took[name], zero) for name in NAMES])


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as made:
        yield made


@pytest.mark.parametrize("knobs", [RECORD, PARTY], ids=str)
def test_the_ledger_of_who_was_not_drawn_stays_as_it_is(store: Store, knobs: dict[str, Any]) -> None:
    ledgers = {name: PartyLedger(store, name, "made") for name in NAMES}
    runner(**knobs, rounds=1, ledgers=ledgers).run()
    (cohort,) = drawn(1)
    for name in NAMES:
        assert bool(store.entries(ledgers[name].place)) == (name in cohort)


def test_a_partys_smallest_cohort_holds_for_what_is_drawn() -> None:
    for least, aborted in ((3, False), (4, True)):
        consortium = Consortium.of(NAMES, Policy(min_cohort=least))
        made = runner(consortium=consortium, rounds=1)
        assert bool(made.run().rounds[0].aborted) == aborted
        assert any("policy-cohort" in line for line in made.warnings) == aborted
    with pytest.raises(UserError, match="privacy.min_cohort is 4, but only 3 sites are invited"):
        runner(min_cohort=4)


def opened(result: RunResult) -> dict[str, str]:
    return {row.what: row.note for row in result.opened}


def test_the_report_says_that_sums_over_changing_cohorts_can_be_combined() -> None:
    """With as many independent sets as sites, each site's rows follow; the test works them out from what the server has."""
    rounds, server = 12, Kept()
    notes = opened(runner(rounds=rounds, server=server).run())
    assert "differ by" in notes["differences of these exact sums"]
    assert "single out each of 5 sites" in notes["combinations of these exact sums"]
    matrix = np.array([[name in cohort for name in NAMES] for cohort in drawn(rounds)], dtype=np.float64)
    found = np.linalg.lstsq(matrix, np.array([a.weights[0] for a in server.aggregates], dtype=np.float64), rcond=None)[0]
    np.testing.assert_allclose(found, [len(fold.train) for fold in SITES.values()])  # type: ignore[arg-type]
    noised = opened(runner(rounds=rounds, **PARTY).run())
    assert not [what for what in noised if what.startswith(("differences", "combinations"))]


def test_sums_over_everybody_beside_the_rounds_have_the_protocols_own_threshold() -> None:
    tree = {"data": {"clients": 7}, "privacy": {"mechanism": "none", "clients_per_round": 3, "threshold": 2, "rounds": 1}}
    result = run_job(Job.parse({**tree, "simulation": {"baselines": False}}))
    assert result.rounds[0].contributors == 3
    with pytest.raises(Exception, match="threshold"):
        run_job(Job.parse({**tree, "privacy": {**tree["privacy"], "clients_per_round": None}}))


@pytest.mark.parametrize(
    ("knobs", "line"),
    [
        ({"clients_per_round": 6}, "privacy.clients_per_round is 6: it must be 2 to 5, the number of sites"),
        ({"clients_per_round": 1}, "privacy.clients_per_round = 1 is refused; allowed: a whole number >= 2 and <= 10000"),
        ({"clients_per_round": 2.5}, "privacy.clients_per_round = 2.5 is refused"),
        ({**PARTY, "delta": 0.25}, "privacy.delta is 0.25: it must lie below 1 over all parties or records, 0.2"),
        (
            {"mechanism": "distributed-record", "rows": 10, "delta": 0.025, "epsilon": 8.0},
            "privacy.delta is 0.025: it must lie below 1 over all parties or records, 0.02",
        ),
        (
            {"mechanism": "central", "rows": 10, "delta": 0.025, "epsilon": 8.0},
            "privacy.delta is 0.025: it must lie below 1 over all parties or records, 0.02",
        ),
    ],
    ids=str,
)
def test_bad_values_are_refused_in_one_line(knobs: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        runner(**knobs)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_rounds_a_handshake_and_recordings_are_refused(tmp_path: Path) -> None:
    made = Job.parse({"privacy": {"mechanism": "none", "clients_per_round": 3}, "performance": {"handshake_rounds": 2}})
    with pytest.raises(UserError, match="handshake_rounds = 2 is refused with privacy.clients_per_round: every round has another"):
        Runner(linear, SITES, job=made)
    summed = runner(mechanism="distributed-record", rows=50, epsilon=8.0)
    assert summed.rounds.keys.before is None  # where nothing is said, each round has its own
    with pytest.raises(UserError, match="privacy.clients_per_round is refused with a tape, a log or evidence: it is of one roster"):
        runner(recording=Recording(tape=tmp_path / "run.tape"))
    assert not (tmp_path / "run.tape").exists()


def test_a_cohort_of_everybody_is_a_run_without_sampling() -> None:
    one, other = runner(clients_per_round=5).run(), runner(clients_per_round=None).run()
    np.testing.assert_array_equal(weights(one), weights(other))
    assert replace(one.rounds[0], seconds={}) == replace(other.rounds[0], seconds={})
