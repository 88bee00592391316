"""One handshake for several rounds of a run: the same models, fewer keys made; who is lost is out until the next one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sites import linear, replayed, sites, weights

from protocols import batch, simulate, sums
from protocols.policy import Policy
from securefl import Runner, UserError
from securefl.audit.recording import Recording
from securefl.cli import main
from securefl.handshakes import TOGETHER, Batched, Single, rounds_together
from securefl.job import Job
from securefl.parties import Consortium
from securefl.simulated_rounds import OUT

RECORD: dict[str, Any] = {"mechanism": "distributed-record", "epsilon": 8.0, "delta": 1e-4, "rows": 56, "rounds": 6}


def runner(each: int | None, gone: Mapping[int, Mapping[str, str]] | None = None, **privacy: Any) -> Runner:
    performance = {} if each is None else {"handshake_rounds": each}
    job = Job.parse({"privacy": {**RECORD, **privacy}, "performance": performance})
    made = Runner(
        linear, sites(), job=job, entropy=replayed, dropouts=None if gone is None else lambda number, _: gone.get(number, {})
    )
    made.run_name = "always the same"
    return made


@pytest.mark.parametrize("protocol", ["secagg", "secagg+", "kahe"])
def test_the_model_is_that_of_a_handshake_in_every_round(protocol: str) -> None:
    """4 rounds of one handshake and 2 of the next, against six rounds of six; updates as well as gradients."""
    for more in ({}, {"mechanism": "none", "rows": None, "epsilon": None, "delta": None}):
        knobs = {k: v for k, v in {**RECORD, **more, "protocol": protocol}.items() if v is not None}
        models = []
        for each in (1, 4):
            job = Job.parse({"privacy": knobs, "performance": {"handshake_rounds": each}})
            made = Runner(linear, sites(), job=job, entropy=replayed)
            made.run_name = "always the same"
            models.append(weights(made.run()))
        np.testing.assert_array_equal(*models)


def test_each_handshake_is_of_as_many_rounds_as_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = runner(4), list[int]()
    step = made.rounds.keys.protocol.handshake.step("collect").fn

    def counted(srv: Any, arrived: Any) -> Any:
        seen.append(srv.terms.steps)
        return step(srv, arrived)

    flow = batch.handshake.replace(collect=counted)
    monkeypatch.setattr("protocols.batch.handshake", flow)
    made = runner(4)
    result = made.run()
    assert seen == [4, 2]
    assert [record.contributors for record in result.rounds] == [5] * 6


def test_who_is_lost_is_out_until_the_next_handshake_and_is_charged_for_no_more() -> None:
    made = runner(3, {2: {"site-1": "Masked"}})
    result = made.run()
    assert [record.contributors for record in result.rounds] == [5, 4, 4, 5, 5, 5]
    assert [record.dropped for record in result.rounds[:4]] == [{}, {"site-1": "Masked"}, {"site-1": OUT}, {}]
    alone = runner(1, {2: {"site-1": "Masked"}, 3: {"site-1": "Advert"}}).run()
    assert result.epsilon == pytest.approx(alone.epsilon)


def test_who_is_lost_in_a_handshake_is_out_of_its_rounds() -> None:
    result = runner(3, {1: {"site-2": "BatchBoxes"}, 4: {"site-3": "BatchAdvert"}}).run()
    assert [record.contributors for record in result.rounds] == [4] * 6
    assert result.rounds[1].dropped == {"site-2": OUT}
    assert result.rounds[4].dropped == {"site-3": OUT}


def test_a_handshake_that_fails_and_a_round_that_aborts_are_followed_by_a_new_one() -> None:
    few = {f"site-{i}": "BatchAdvert" for i in range(3)}
    late = {f"site-{i}": "Agree" for i in range(3)}
    made = runner(4, {1: few, 3: late})
    result = made.run()
    assert [record.aborted for record in result.rounds] == ["handshake: quorum", None, "gather: quorum", None, None, None]
    assert [record.contributors for record in result.rounds] == [0, 5, 0, 5, 5, 5]
    journal = made.consortium.parties[0].journal
    assert journal.joined == {"always the same": (4, 0)}


def test_a_party_that_wants_no_such_handshake_does_not_take_part() -> None:
    consortium = Consortium.of(list(sites()), Policy(max_steps=3))
    made = Runner(linear, sites(), job=Job.parse({"privacy": RECORD}), consortium=consortium)
    records = made.run().rounds
    assert [record.aborted for record in records[:3]] == ["handshake: policy-steps"] * 3
    assert [record.aborted for record in records[3:]] == [None] * 3  # three rounds are left


def test_a_round_that_was_broken_off_is_followed_by_a_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    made, real, seen = runner(6), simulate.run, [0]

    def broken(*words: Any, **more: Any) -> Any:
        outcome = real(*words, **more)
        seen[0] += 1
        if seen[0] == 3:  # a handshake, a round, and this one
            raise KeyboardInterrupt
        return outcome

    monkeypatch.setattr(simulate, "run", broken)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    result = made.run()
    assert [record.aborted for record in result.rounds] == [None, "round: broken off", None, None, None, None]


def test_the_command_line_shares_handshakes_unless_something_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--mechanism", "distributed-record", "--rows", "80", "--rounds", "4", "--no-baselines", "--json"]

    def handshakes(*more: str) -> int:
        assert main([*words, *more]) == 0
        saw = json.loads(capsys.readouterr().out)["server_saw"]
        return sum(row["count"] for row in saw if row["message"] in ("Advert", "BatchAdvert")) // 5

    assert handshakes() == 1
    assert handshakes("--handshake-rounds", "3") == 2
    assert handshakes("--handshake-rounds", "1") == 4
    assert handshakes("--tape", str(tmp_path / "tape")) == 4
    assert main([*words, "--handshake-rounds", "2", "--tape", str(tmp_path / "other")]) == 2
    assert "refused with a tape" in capsys.readouterr().err


def test_steps_of_training_share_handshakes_unless_something_speaks_against_it() -> None:
    assert isinstance(runner(None).rounds.keys, Batched)
    assert isinstance(runner(None, {}).rounds.keys, Single)
    assert isinstance(runner(1).rounds.keys, Single)
    assert isinstance(runner(None, protocol="lightsecagg").rounds.keys, Single)
    secagg = sums.scheme("secagg")
    assert rounds_together(None, secagg, parties=5, stepwise=True, alone="") == TOGETHER
    assert rounds_together(None, secagg, parties=10_000, stepwise=True, alone="") == 3
    assert rounds_together(None, secagg, parties=5, stepwise=False, alone="") == 1


def test_what_cannot_be_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"handshake_rounds = 2 is refused for lightsecagg: .* secagg, secagg\+, kahe"):
        runner(2, protocol="lightsecagg")
    with pytest.raises(UserError, match="one handshake of 10000 parties prepares 1 to 3 sums"):
        rounds_together(4, sums.scheme("secagg"), parties=10_000, stepwise=True, alone="")
    job = Job.parse({"privacy": RECORD, "performance": {"handshake_rounds": 2}})
    with pytest.raises(UserError, match="refused with a tape"):
        Runner(linear, sites(), job=job, recording=Recording(tape=tmp_path / "tape"))
