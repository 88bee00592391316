"""Early stopping by the metric out of the secure sums."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stub_runner import refused
from torch import nn
from torch.utils.data import TensorDataset

from securefl import Fold, Runner
from securefl.cli import main
from securefl.job import Job
from securefl.metrics import best_of

RUN = ["run", "--clients", "3", "--no-baselines", "--json"]


def ran(capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, object]:
    assert main([*RUN, *more]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("patience", [1, 3])
def test_a_run_that_does_not_improve_stops_and_spends_for_the_rounds_that_ran(patience, capsys):
    still = ("--rounds", "8", "--mechanism", "local-record", "--learning-rate", "1e-12")
    short, whole = ran(capsys, *still, "--patience", str(patience)), ran(capsys, *still)
    assert (short["rounds"], whole["rounds"]) == (1 + patience, 8)
    assert 0 < max(short["privacy"]["epsilon"]) < max(whole["privacy"]["epsilon"]) <= 3
    line = f"stopped after round {1 + patience}: auroc has not improved for {patience} rounds (privacy.patience)"
    assert line in short["warnings"]
    assert not [line for line in whole["warnings"] if "stopped" in line]


def test_a_run_that_improves_goes_on(capsys):
    tree = ran(capsys, "--rounds", "3", "--no-dp", "--learning-rate", "0.001", "--sample-rate", "1", "--patience", "2")
    scores = [record["metrics"]["auroc"] for record in tree["history"]]
    assert scores[1] > scores[0], "an untrained model guesses"
    assert tree["rounds"] == 3


@pytest.mark.parametrize(("gone", "ran"), [({2, 3}, 5), (set(), 3)])
def test_a_round_that_aborts_is_none_that_brought_nothing(gone, ran):
    rows = Fold(*[TensorDataset(torch.linspace(-1, 1, 40).reshape(-1, 1), (torch.arange(40) >= 20).float())] * 2)
    job = Job.parse({"privacy": {"mechanism": "none", "rounds": 8, "patience": 2}, "performance": {"learning_rate": 1e-12}})
    runner = Runner(
        nn.Linear(1, 1),
        dict.fromkeys("ABC", rows),
        job=job,
        dropouts=lambda number, _: dict.fromkeys("ABC", "Advert") if number in gone else {},
    )
    result = runner.run()
    assert [record.number for record in result.rounds if record.aborted] == sorted(gone)
    assert len(result.rounds) == ran


@given(st.lists(st.fixed_dictionaries({}, optional={"auroc": st.floats(0, 1), "loss": st.floats(0, 9)}), max_size=8))
def test_the_best_round_is_the_first_of_the_highest_auroc_else_of_the_least_loss(rounds):
    key, place = best_of(rounds)
    for wanted, better in (("auroc", max), ("loss", min)):
        values = [metrics[wanted] for metrics in rounds if wanted in metrics]
        if values:
            first = next(at for at, metrics in enumerate(rounds) if metrics.get(wanted) == better(values))
            assert (key, place) == (wanted, first)
            return
    assert place is None


@pytest.mark.parametrize("mechanism", ["distributed-party", "distributed-record", "central"])
def test_where_no_metric_leaves_there_is_nothing_to_stop_by(mechanism, capsys):
    assert "--patience is refused with" in refused(capsys, *RUN, "--mechanism", mechanism, "--patience", "2")


def test_over_a_network_it_is_refused(tmp_path: Path):
    from protocols.policy import Policy
    from securefl.errors import UserError
    from securefl.parties import Consortium
    from securefl.shared_job import SharedJob

    roster = Consortium.of(["site 1", "site 2", "site 3"], Policy()).roster
    with pytest.raises(UserError, match="patience is refused over a network"):
        SharedJob.of(Job.parse({"privacy": {"patience": 2}, "data": {"clients": 3}}), roster)
