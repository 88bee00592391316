"""Health analytics under every protocol: what comes out has the bits of the same job without masks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import made_eicu
import made_molecules
import numpy as np
import pandas as pd
import pytest
import torch
from made_sites import linear, replayed, sites, weights

from protocols.rand import Replay
from securefl import Runner
from securefl.algorithms.buffered import run_buffered
from securefl.experiment import run_job
from securefl.job import Job
from securefl.models import to_vector
from securefl.results import RunResult
from securefl.statistics import Columns, SecureStatistics, associate, described_by, kaplan_meier

PROTOCOLS = ["secagg", "secagg+", "kahe", "lightsecagg", "bfv", "ckks"]
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
PLAIN = "plain-insecure"


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites round and draw their batches by their name, and masks and subspaces by a fixed run, so that bits can be compared."""
    made = Runner.__init__

    def seeded(self: Runner, *args: Any, **more: Any) -> None:
        made(self, *args, entropy=lambda name: Replay(f"every {name}"), **more)
        self.run_name = "the same"

    monkeypatch.setattr(Runner, "__init__", seeded)


def same(one: RunResult, other: RunResult) -> None:
    assert [record.aborted for record in one.rounds] == [None] * len(one.rounds)
    assert one.state.keys() == other.state.keys()
    assert all((one.state[name] == array).all() for name, array in other.state.items())
    assert [record.metrics for record in one.rounds] == [record.metrics for record in other.rounds]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_eicu.write(tmp_path_factory.mktemp("every") / "eicu", made_eicu.tables(patients=150))


@pytest.mark.usefixtures("repeatable")
@each_protocol
def test_scaling_training_figures_and_groups_of_eicu(protocol: str, folder: Path) -> None:
    def ran(name: str) -> RunResult:
        privacy = {"mechanism": "none", "rounds": 1, "sample_rate": 1.0, "w_max": 1024, "protocol": name}
        data = {"name": "eicu", "dir": str(folder), "folds": 2}
        return run_job(Job.parse({"data": data, "privacy": privacy, "simulation": {"baselines": False}}))

    found, plain = ran(protocol), ran(PLAIN)
    same(found, plain)
    assert found.assessment is not None
    assert found.assessment.secure
    assert found.assessment.groups is not None
    assert found.preparation == plain.preparation
    assert asdict(found.assessment) == asdict(plain.assessment)


@pytest.mark.usefixtures("repeatable")
@each_protocol
def test_partners_with_different_assays(protocol: str, tmp_path: Path) -> None:
    where = made_molecules.write(tmp_path, made_molecules.frame(values=False))

    def ran(name: str) -> RunResult:
        privacy = {"mechanism": "none", "rounds": 2, "local_steps": 2, "sample_rate": 0.3, "protocol": name}
        tree = {"data": {"name": "tox21", "dir": str(where)}, "privacy": privacy, "model": {"hidden": 8}}
        torch.manual_seed(1)  # of dropout
        return run_job(Job.parse(tree | {"simulation": {"baselines": False}}))

    found = ran(protocol)
    same(found, ran(PLAIN))
    assert {name.split(".")[0] for name in found.state} == {"trunk"}


@pytest.mark.usefixtures("repeatable")
@each_protocol
@pytest.mark.parametrize(
    ("privacy", "performance"),
    [
        ({}, {"algorithm": "fedprox"}),
        ({}, {"algorithm": "fedyogi", "server_learning_rate": 0.1, "server_schedule": "cosine"}),
        ({}, {"compression": "mask", "keep": 0.5}),
        ({}, {"compression": "low-rank", "rank": 1, "update_bits": 8}),
        ({"places": True}, {}),
        ({"groups": 3}, {}),
    ],
    ids=["fedprox", "fedyogi", "mask", "low-rank", "places", "groups"],
)
def test_algorithms_fewer_bytes_places_and_groups(
    protocol: str, privacy: dict[str, Any], performance: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("securefl.algorithms.groups.LONELY", 1.0)  # five sites are too few for groups, and enough to add up

    def ran(name: str) -> RunResult:
        knobs = {"mechanism": "none", "rounds": 2, "sample_rate": 1.0, "protocol": name, **privacy}
        return Runner(linear, sites(), job=Job.parse({"privacy": knobs, "performance": performance})).run()

    found = ran(protocol)
    same(found, ran(PLAIN))
    assert np.abs(weights(found)).max() > 0


@each_protocol
def test_buffers_of_parties_as_they_arrive(protocol: str) -> None:
    def ran(name: str) -> np.ndarray[Any, Any]:
        job = Job.parse({"privacy": {"mechanism": "none", "sample_rate": 1.0, "protocol": name}})
        arrivals = [(float(at), f"site-{at % 5}") for at in range(6)]
        model, steps = run_buffered(linear, sites(), job=job, buffer=3, arrivals=arrivals, entropy=replayed)
        assert len(steps) == 2
        return to_vector(model)

    assert (ran(protocol) == ran(PLAIN)).all()


def tables() -> dict[str, pd.DataFrame]:
    """Three sites with months, events, arms and a variant, in a fixed pattern."""
    at = np.arange(60)
    return {
        f"site {site}": pd.DataFrame(
            {
                "month": (7 * at + 3 * site) % 13,
                "died": ((at + site) % 3 > 0).astype(int),
                "arm": np.where(at % 2, "new", "usual"),
                "rs1": (at * (site + 1)) % 3,
            }
        )
        for site in range(3)
    }


KNOWN = Columns({"month": (0, 12)}, {"died": [0, 1], "arm": ["usual", "new"]})


@each_protocol
def test_curves_associations_and_groups_without_training(protocol: str) -> None:
    def asked(name: str) -> list[dict[str, Any]]:
        statistics = SecureStatistics.simulated(tables(), KNOWN, name)
        found = (
            kaplan_meier(statistics, "month", "died", intervals=12, by="arm"),
            associate(statistics, "died", ["rs1"]),
            described_by(statistics, "arm", ["month"]),
        )
        return [without_opened(one.as_json()) for one in found]

    found = asked(protocol)
    assert found == asked(PLAIN)
    assert found[0]["log_rank"]["p"] > 0
    assert found[1]["variants"]["rs1"]["p"] is not None


def without_opened(tree: Any) -> Any:
    """The same without the list of what was opened, which names what the server sees under each protocol."""
    if isinstance(tree, list):
        return [without_opened(one) for one in tree]
    return {key: without_opened(one) for key, one in tree.items() if key != "opened"} if isinstance(tree, dict) else tree
