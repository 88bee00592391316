"""Training over ``auto`` and over kahe: what is taken and said, equal bits, and an abort that leaves the model as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_sites import job, linear, replayed, sites, weights

from protocols import cost, kahe
from protocols.bulk import Bulk
from protocols.kahe_types import Enciphered
from protocols.session import client
from securefl import Runner
from securefl.results import RunResult
from securefl.simulated_rounds import SimulatedRounds


def run(**privacy: object) -> RunResult:
    return Runner(linear, sites(), job=job(**privacy), entropy=replayed).run()


def test_short_vectors_go_by_masks_and_the_result_says_so() -> None:
    result = run(rounds=1)
    tree = result.as_json()
    assert job(rounds=1).privacy.protocol == tree["job"]["privacy"]["protocol"] == "auto"
    assert (tree["protocol"], result.title.split(" · ")[1]) == ("secagg", "secagg")
    assert tree["choice"].startswith("auto takes secagg for 5 parties, ")
    assert "10% dropouts" in tree["choice"]
    assert result.warnings == []
    named = run(rounds=1, protocol="secagg").as_json()
    assert (named["protocol"], named["choice"]) == ("secagg", None)


def test_where_keys_are_cheaper_they_are_taken_and_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "enciphered", lambda _p, _dropout: cost.Cost(cost.Work(), cost.Work(), 0, 0))
    result, plain = run(rounds=2), run(rounds=2, protocol="plain-insecure")
    assert (result.protocol, result.choice[:16], result.title.split(" · ")[1]) == ("kahe", "auto takes kahe ", "kahe")
    assert {row.message for row in result.server_saw} >= {"Enciphered", "Sum"}
    assert (weights(result) == weights(plain)).all()


def test_a_ciphertext_without_its_key_aborts_the_round_and_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of the keys was open by then, so the round is counted as opened."""
    runner = Runner(linear, sites(), job=job(rounds=1, protocol="kahe"), entropy=replayed)
    flow, real = runner.rounds.timed, SimulatedRounds.sessions

    def garbage(*args: Any, **more: Any) -> Any:
        covered, sent = kahe.encrypt(*args, **more)
        layout = runner.protocol.layouts(runner.parameters)["cipher"]
        c = Bulk.of(layout, np.zeros_like(sent.c.values))
        state, me = covered, covered.invited
        both = kahe.secagg.joint_hash(sent.y.digest, c.digest)
        statement = me.terms.statement("masked", me.me, state.L, tuple(state.u2), both, sent.receipt)
        return covered, Enciphered(c, sent.y, sent.receipt, me.identity.sign(statement))

    def sessions(self: SimulatedRounds, number: int) -> Any:
        out = real(self, number)
        out[client(1)].flow = flow.replace(encrypt=garbage)
        out[client(1)]._steps = out[client(1)].flow.of("client")
        return out

    monkeypatch.setattr(SimulatedRounds, "sessions", sessions)
    result = runner.run()
    assert result.rounds[0].aborted == "decrypt: kahe-residual"
    assert result.opened[0].rounds == 1
    start = np.concatenate([p.detach().numpy().ravel() for p in linear().parameters()])
    assert (weights(result) == start).all()
