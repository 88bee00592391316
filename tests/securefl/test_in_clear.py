"""Rounds without sessions are those with them, bit by bit, and only of a protocol that hides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sites import job, linear, replayed, rows, sites

from protocols import plain, simulate, sums
from protocols.errors import Misuse
from protocols.plugins import Origin
from protocols.policy import MemoryJournal, Policy
from protocols.rand import Replay, fresh
from securefl import ClientTrainer, Job, Runner, experiment
from securefl import runner as runner_module
from securefl.audit.recording import Recording
from securefl.encode import Plan
from securefl.errors import UserError
from securefl.in_clear import ClearRounds, encode_all, notice
from securefl.modules import Copier
from securefl.parties import Consortium
from securefl.results import RunResult
from securefl.round import local_flow
from securefl.round_types import Contribution, Fold, Joined

PLAIN = "plain-insecure"
Gone = Mapping[int, Mapping[str, str]]


def made(*, sessions: bool, gone: Gone | None = None, folds: Any = None, settings: Job | None = None, **options: Any) -> Runner:
    """A run of sums in clear, the same whenever it is made; with sessions also where it could do without."""
    plan = gone or {}
    runner = Runner(
        linear,
        folds or sites(),
        job=settings or job(protocol=PLAIN),
        entropy=replayed,
        dropouts=lambda number, _stages: plan.get(number, {}),
        sampling=Replay("cohorts"),
        **options,
    )
    runner.run_name = "run"
    if sessions:
        runner.rounds._clear = None
    return runner


def told(runner: Runner, result: RunResult) -> list[Any]:
    """All that a run tells, but for times."""
    records = [replace(record, seconds={}) for record in runner.progress.records]
    state = {name: values.tolist() for name, values in result.state.items()}
    return [
        records,
        state,
        result.metrics,
        result.up,
        result.down,
        result.server_saw,
        result.opened,
        result.warnings,
        result.epsilon,
    ]


def both(**options: Any) -> list[Any]:
    """What a run tells, which is the same with sessions and without."""
    consortium = options.pop("consortium", lambda: None)
    first, second = (made(sessions=sessions, consortium=consortium(), **options) for sessions in (False, True))
    assert first.rounds._clear is not None
    clear, sent = told(first, first.run()), told(second, second.run())
    assert clear == sent
    return clear


knobs = st.fixed_dictionaries(
    {"rounds": st.integers(1, 3), "precision": st.integers(12, 24), "local_steps": st.integers(1, 2)},
    optional={
        "update_clip": st.sampled_from([1e-3, 0.05, 8.0]),
        "w_max": st.sampled_from([10, 60]),
        "patience": st.just(1),
        "clients_per_round": st.integers(4, 5),
    },
)
performance = st.sampled_from(
    [
        {},
        {"update_bits": 8},
        {"compression": "mask", "keep": 0.5},
        {"algorithm": "fednova"},
        {"algorithm": "scaffold"},
        {"algorithm": "fedprox", "proximal": 0.1},
        {"algorithm": "qfedavg"},
    ]
)


@settings(max_examples=20)
@given(
    st.lists(st.integers(3, 40), min_size=5, max_size=7),
    knobs,
    performance,
    st.dictionaries(st.integers(1, 3), st.dictionaries(st.sampled_from(["site-0", "site-3", "site-4"]), st.just("Clear"))),
    st.booleans(),
)
def test_a_run_tells_the_same_with_sessions_and_without(
    sizes: list[int], privacy: dict[str, Any], more: dict[str, Any], gone: Gone, local_record: bool
) -> None:
    """Models, scores, bytes by party and message, dropouts, aborts, accounts and warnings, whatever the encoding."""
    record = local_record and not more and "clients_per_round" not in privacy
    mechanism: dict[str, Any] = {"mechanism": "local-record", "sample_rate": 0.4} if record else {"mechanism": "none"}
    wanted = Job.parse({"privacy": {"sample_rate": 1.0, "protocol": PLAIN, **privacy, **mechanism}, "performance": more})
    both(settings=wanted, gone=gone, folds=sites(tuple(sizes)))


def test_more_sites_than_work_side_by_side_are_taken_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """As sessions are; a group of encoded vectors may be shorter still."""
    monkeypatch.setattr(simulate, "TOGETHER", 2)
    whole = both()
    monkeypatch.setattr("securefl.in_clear.TOGETHER", 1)
    assert both() == whole


def test_several_models_and_private_layers_go_without_sessions() -> None:
    def deep() -> torch.nn.Module:
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Linear(6, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))

    pair = {name: (fold, fold) for name, fold in sites().items()}
    both(folds=pair)
    runs = [Runner(deep, sites(), job=job(protocol=PLAIN), entropy=replayed, shared="0.*") for _ in range(2)]
    runs[1].rounds._clear = None
    assert told(runs[0], runs[0].run()) == told(runs[1], runs[1].run())


def test_a_job_gives_the_same_model_as_with_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """From data to result, everybody's randomness out of one seed."""
    wanted = Job.parse({"privacy": {"mechanism": "none", "protocol": PLAIN, "rounds": 2}, "simulation": {"baselines": False}})

    def result() -> RunResult:
        monkeypatch.setattr(runner_module, "fresh", Replay("one"))
        return experiment.run_job(wanted)

    clear = result()
    monkeypatch.setattr(Runner, "_may_be_in_clear", False)
    sent = result()
    assert [line for line in clear.warnings if line not in sent.warnings] == [notice(sums.scheme(PLAIN))]
    assert [v.tolist() for v in clear.state.values()] == [v.tolist() for v in sent.state.values()]
    assert (clear.up, clear.down, clear.server_saw) == (sent.up, sent.down, sent.server_saw)


# Aborts and errors


def test_too_few_leave_the_model_and_say_so() -> None:
    gone = {2: dict.fromkeys(["site-0", "site-1"], "Clear")}
    records, *_ = both(gone=gone)
    assert [record.aborted for record in records] == [None, "total: quorum", None]


def test_a_server_s_step_that_aborts_is_named() -> None:
    """Every weight is zero: there is no mean."""
    runs = [made(sessions=sessions) for sessions in (False, True)]
    for runner in runs:
        for site in runner.sites.values():
            site.about = replace(site.about, weight=0)
    first, second = (told(runner, runner.run()) for runner in runs)
    assert first == second
    assert {record.aborted for record in first[0]} == {"decode_sum: weight-total"}


class Failing(ClientTrainer):
    """One site's training fails in its second round."""

    def __init__(self, how: str) -> None:
        super().__init__(learning_rate=0.5)
        self.how, self.rounds = how, 0

    def train(self, model: torch.nn.Module, data: Any, training: Any, steps: int) -> None:
        super().train(model, data, training, steps)
        self.rounds += 1
        if self.how in ("nan", "inf", "raise") and self.rounds == 2 and len(data) == 25:  # site-2
            if self.how == "raise":
                raise ArithmeticError("by hand")
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_({"nan": np.nan, "inf": np.inf}[self.how])

    def evaluate(self, model: torch.nn.Module, data: Any) -> Any:
        sums = super().evaluate(model, data)
        if self.how == "sum" and self.rounds == 2:
            return {name: values + 10**6 for name, values in sums.items()}
        return sums


@pytest.mark.parametrize("how", ["nan", "inf", "raise", "sum"])
def test_errors_are_those_of_sessions(how: str) -> None:
    """Whatever is wrong: the same words, and the same left behind."""
    found = []
    for sessions in (False, True):
        runner = made(sessions=sessions, trainer=Failing(how), settings=job(protocol=PLAIN, rounds=3))
        with pytest.raises((UserError, ArithmeticError)) as caught:
            runner.run()
        notes = getattr(caught.value, "__notes__", [])
        records = [replace(record, seconds={}) for record in runner.progress.records]
        journals = [(party.journal.joined, party.journal.spent) for party in runner.consortium.parties]  # type: ignore[attr-defined]
        found.append((type(caught.value), str(caught.value), notes, records, runner.warnings, runner.rounds.traffic.up, journals))
    assert found[0] == found[1]
    assert "site-" in found[0][1] + "".join(found[0][2])


class Scoreless(Failing):
    """Nothing is asked of a site between its training and its vector; another site fails after the first."""

    def train(self, model: torch.nn.Module, data: Any, training: Any, steps: int) -> None:
        super().train(model, data, training, steps)
        if self.how == "both" and len(data) == 90:  # site-3
            raise ArithmeticError("by hand")
        if self.how in ("both", "one") and len(data) == 25:
            with torch.no_grad():
                next(model.parameters()).fill_(np.nan)

    def sums(self) -> Any:
        return ()

    def read(self, sums: Any) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("how", ["fine", "one", "both", "raise"])
def test_sites_that_only_train_do_so_one_after_the_other_and_the_first_that_fails_is_told(how: str) -> None:
    found = []
    for sessions in (False, True):
        runner = made(sessions=sessions, trainer=Scoreless(how), settings=job(protocol=PLAIN, rounds=3))
        try:
            told_of = told(runner, runner.run())
        except (UserError, ArithmeticError) as error:
            told_of = [type(error), str(error), getattr(error, "__notes__", []), runner.rounds.traffic.up]
        found.append(told_of)
    assert found[0] == found[1]
    assert ("site-2" in str(found[0][:3])) == (how != "fine")


def test_sites_that_only_train_all_do_before_the_first_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several copies are out at a time; where anything is measured, one."""
    for trainer, most in ((Scoreless("fine"), 5), (Failing("fine"), 1)):
        out, lend, take, seen = list[int](), Copier.lend, Copier.take, list[int]()
        monkeypatch.setattr(Copier, "lend", lambda self, x, lend=lend, out=out: (out.append(1), lend(self, x))[1])
        monkeypatch.setattr(Copier, "take", lambda self, x, t=take, o=out, s=seen: (s.append(len(o)), o.pop(), t(self, x))[2])
        made(sessions=False, trainer=trainer).run()
        monkeypatch.undo()
        assert max(seen) == most


# When sessions run


def test_sessions_run_where_somebody_looks_at_messages_or_could_refuse(tmp_path: Path) -> None:
    class Own(MemoryJournal):
        """Somebody's own."""

    consortium = Consortium.of(list(sites()), Policy())
    kept = replace(consortium, parties=tuple(replace(party, journal=Own()) for party in consortium.parties))
    assert made(sessions=False).rounds._clear is not None
    assert made(sessions=False, consortium=consortium).rounds._clear is not None
    for options in (
        {"recording": Recording(logs=tmp_path)},
        {"flow": local_flow()},
        {"consortium": kept},
        {"settings": job(protocol="secagg")},
    ):
        runner = made(sessions=False, **options)  # type: ignore[arg-type]
        assert runner.rounds._clear is None
        assert notice(sums.scheme(PLAIN)) not in runner.warnings


def test_a_round_that_a_party_refuses_is_one_of_sessions() -> None:
    """What it says is on the wire: the server gets its farewell."""
    for policy, check in ((Policy(min_cohort=6), "policy-cohort"), (Policy(max_epsilon=1.0), "policy-epsilon")):
        clear = both(consortium=lambda policy=policy: choosy(policy))
        assert any(check in line for line in clear[7])
        assert {row.message for row in clear[5]} == {"Clear", "Farewell", "Sum"}


def choosy(policy: Policy) -> Consortium:
    """Made-up parties, the first with a policy of its own."""
    consortium = Consortium.of(list(sites()), Policy())
    first, *others = consortium.parties
    return replace(consortium, parties=(replace(first, policy=policy), *others))


def test_control_a_party_s_refusal_is_passed_over_unless_policies_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "check", lambda _self, _terms: None)
    runner = made(sessions=False, consortium=choosy(Policy(min_cohort=6)))
    assert [record.contributors for record in runner.run().rounds] == [5, 5, 5]


# Never where anything is hidden


def test_no_protocol_that_hides_vectors_has_a_sum_in_clear() -> None:
    assert [name for name, scheme in sums.SCHEMES.items() if scheme.in_clear is not None] == [PLAIN]
    for scheme in sums.SCHEMES.values():
        if scheme.hides:
            with pytest.raises(Misuse, match="hides vectors"):
                replace(scheme, in_clear=plain.InClear)
            runner = made(sessions=False, settings=job(protocol=scheme.name))
            assert runner.rounds._clear is None
            with pytest.raises(Misuse, match="by its flow alone"):
                ClearRounds(scheme, runner._server, runner.rounds.traffic, runner.rounds.clock)
    with pytest.raises(Misuse, match="hides vectors"):
        replace(sums.scheme(PLAIN), hides=True)


def test_control_a_masked_protocol_with_a_sum_in_clear_would_mask_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the refusal: the run is of `secagg` by name, and no key is exchanged."""
    monkeypatch.setattr(sums.Scheme, "__post_init__", lambda _self: None)
    monkeypatch.setitem(sums.SCHEMES, "secagg", replace(sums.SCHEMES["secagg"], in_clear=plain.InClear, flow=plain.flow))
    result = made(sessions=False, settings=job(protocol="secagg")).run()
    assert result.protocol == "secagg"
    assert {row.message for row in result.server_saw} == {"Clear", "Sum"}


def test_a_plug_in_is_simulated_by_its_flow_alone() -> None:
    from protocols import admission

    foreign = replace(sums.scheme(PLAIN), name="own")
    with pytest.raises(Misuse, match="must run what it simulates"):
        admission.admitted(foreign, "own", Origin("", "", ""))
    assert admission.admitted(replace(foreign, in_clear=None), "own", Origin("", "", "")).in_clear is None


# Randomness


def test_sites_without_randomness_of_their_own_round_apart_from_each_other() -> None:
    """Equal updates, half-way between two whole numbers: every value of every site is rounded by a coin of its own.

    Of 200 · 7 coins between 600 and 800 fall on one side (false alarm 10^-7), and of 200 rows of 7 over 64 are different (10^-9).
    """
    runner = Runner(linear, {f"site-{i}": Fold(rows(20, 1), None) for i in range(4)}, job=job(protocol=PLAIN))
    occasion, plan = runner._server.occasion("run", 1), runner.plan
    assert isinstance(plan, Plan)
    invited = zip(runner.consortium.roster.members, runner.consortium.parties, strict=True)
    joined = [runner.sites[m.name].joining(party, "run", runner.rounds.keys.terms, runner.rounds._copier) for m, party in invited]
    assert all(site.entropy is fresh for site in joined)
    update = np.full(7, 0.5 * plan.step / plan.w_max)
    given = [Contribution(site, [update], [plan.w_max], {s.name: np.zeros(s.size) for s in plan.sums}) for site in joined] * 50
    vectors = encode_all(given, Joined(occasion, plan))
    drawn = np.array([vector.values[:7] for vector in vectors])
    assert set(drawn.ravel().tolist()) == {0, 1}
    assert 600 < drawn.sum() < 800
    assert len({tuple(row) for row in drawn.tolist()}) > 64
