"""Where sites stand: the counts out of the secure sum are those of the sites' own ranges, which nobody else has."""

from __future__ import annotations

import copy
import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_sites import linear, sites
from stub_runner import refused
from torch import nn

from securefl import ClientTrainer, Job, Runner, places
from securefl.cli import main
from securefl.models import to_vector
from securefl.privacy.budget import PartyLedger
from securefl.privacy.plain import PlainTraining
from securefl.privacy.store import Budget, Store

KNOBS = {"rounds": 3, "sample_rate": 1.0, "places": True}


def runner(protocol: str = "secagg", **privacy: Any) -> Runner:
    return Runner(linear, sites(), job=Job.parse({"privacy": {"mechanism": "none", "protocol": protocol, **KNOBS, **privacy}}))


@given(st.sampled_from(places.KINDS), st.floats(0, 1e9), st.floats(0.01, 100))
def test_a_value_is_in_one_range_and_ranges_double(kind, value, clip):
    ends = places.edges(kind, clip)
    at = places.place(kind, value, clip)
    assert len(ends) == places.BINS - 1
    assert all(high == pytest.approx(2 * low) for low, high in pairwise(ends))
    assert at == sum(value >= end for end in ends)
    assert len(places.ranges(kind, clip)) == places.BINS
    if kind == places.NORM:
        assert (at == places.BINS - 1) == (value >= clip * (1 - 1e-12)) or value == pytest.approx(clip)
    assert places.place(kind, math.nan, clip) == places.BINS - 1


@pytest.mark.parametrize("protocol", ["secagg", "kahe", "plain-insecure"])
def test_counts_are_those_of_the_sites_own_ranges(protocol):
    made = runner(protocol)
    result = made.run()
    for number, record in enumerate(result.rounds):
        own = [site.places.found[number] for site in made.sites.values()]
        for at, kind in enumerate(places.KINDS):
            counts = places.counts(record.metrics, kind)
            assert counts == [sum(one[at] == place for one in own) for place in range(places.BINS)]
            assert sum(counts) == record.contributors
    assert result.places == {name: site.places.found[-1] for name, site in made.sites.items()}


@pytest.mark.parametrize("done", [0, 2])
def test_a_sites_ranges_are_those_of_its_update_and_loss_by_hand(done):
    """Both are recomputed: the model after so many rounds, trained on at each site, and its loss on the held-out rows."""
    made = runner()
    made.run()
    model = linear()
    if done:
        before = runner(rounds=done, places=False)
        before.run()
        (model,) = before.final_models()
    for name, fold in sites().items():
        own = copy.deepcopy(model)
        ClientTrainer().train(own, fold.train, PlainTraining(sample_rate=1.0), made.job.privacy.local_steps)
        x, y = fold.test.tensors
        with torch.no_grad():
            loss = float(nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(-1), y))
        moved = float(np.linalg.norm(to_vector(own) - to_vector(model)))
        values, clip = {places.NORM: moved, places.LOSS: loss}, made.job.privacy.update_clip
        # A value that rounding of earlier rounds could carry over an end of its range says nothing.
        near = {k for k, v in values.items() if places.place(k, 0.99 * v, clip) != places.place(k, 1.01 * v, clip)}
        found = dict(zip(places.KINDS, made.sites[name].places.found[done], strict=True))
        assert len(near) < 2
        assert {k: found[k] for k in values.keys() - near} == {k: places.place(k, values[k], clip) for k in values.keys() - near}


def test_a_site_with_longer_updates_and_a_greater_loss_stands_apart():
    data = sites()
    odd = next(iter(data))
    for fold in (data[odd].train, data[odd].test):
        fold.tensors[0].mul_(30.0)
    knobs = {"mechanism": "none", "protocol": "secagg", "update_clip": 1000.0, **KNOBS}
    result = Runner(linear, data, job=Job.parse({"privacy": knobs})).run()
    norms = {name: found[0] for name, found in result.places.items()}
    assert norms.pop(odd) > max(norms.values())


def test_it_is_listed_as_opened_and_only_where_it_is_asked_for():
    with_them, without = runner().run(), runner(places=False).run()
    name = "sites by the norm of their update and by their loss"
    assert [(e.what, e.coverage) for e in with_them.opened if e.what == name] == [(name, "exact")]
    assert not [e for e in without.opened if e.what == name]
    assert not [key for key in without.rounds[0].metrics if key.startswith(("norm.", "loss."))]
    assert without.places == {}


def test_it_runs_beside_differential_privacy_of_every_site_and_costs_nothing():
    privacy = {"mechanism": "local-record", "epsilon": 3.0, "sample_rate": 0.2}
    one, other = runner(**privacy).run(), runner(places=False, **privacy).run()
    assert one.epsilon == pytest.approx(other.epsilon)
    assert sum(places.counts(one.rounds[0].metrics, places.NORM)) == len(one.sites)


def test_no_epsilon_covers_it_and_every_ledger_has_it():
    """One held-out row more can move a site to another range with certainty: the counts are exact, whatever covers the updates."""
    (what,) = places.TOLD
    names, privacy = list(sites()), {"mechanism": "local-record", "epsilon": 3.0, "sample_rate": 0.2}
    with Store() as store:
        ledgers = {name: PartyLedger(store, name, "made") for name in names}
        for name in names:
            store.set_budget((name, "made"), "record", Budget(3.0, 1e-5))
        knobs = Job.parse({"privacy": {"protocol": "secagg", **KNOBS, **privacy}})
        result = Runner(linear, sites(), job=knobs, ledgers=ledgers).run()
        assert [(one.exact, one.unit) for one in result.opened if one.what == what] == [(True, None)]
        for ledger in ledgers.values():
            assert [entry.times for entry in ledger.exact() if entry.what == what] == [3]


def test_the_table_and_the_json_object_have_them(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    line = ["run", "--clients", "3", "--rounds", "2", "--no-dp", "--no-baselines", "--places"]
    assert main(line) == 0
    out = capsys.readouterr().out
    shown = out[out.index("Where sites stand") :]
    assert "norm of the update" in shown
    assert "site 1" in shown
    assert main([*line, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert sum(tree["history"][0]["metrics"][f"norm.{at}"] for at in range(places.BINS)) == 3


@pytest.mark.parametrize("mechanism", ["distributed-party", "distributed-record", "central"])
def test_beside_noise_in_the_sum_nothing_exact_leaves(mechanism, capsys):
    assert "--places/--no-places is refused with" in refused(capsys, "run", "--mechanism", mechanism, "--places")
