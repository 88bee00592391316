"""``securefl params``: the figures that others compute, costs counted in real runs, and refusals with what would do."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import agreement, degree, handshake, secagg, simulate, sums
from protocols.policy import Policy
from protocols.primitives.agree import KeyPair
from protocols.primitives.graph import Harary
from protocols.secagg_parameters import Parameters
from protocols.session import SERVER, client
from protocols.suite import Occasion
from protocols.vector import Vector
from securefl import params
from securefl.cli import main

WEAK = Policy(min_corrupt=0, min_threshold=0.1, min_security=1, semi_honest=True)


def printed(capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> str:
    assert main(["params", *options]) == code
    captured = capsys.readouterr()
    assert captured.err == "" if code == 0 else captured.out == ""
    return captured.out or captured.err


@pytest.mark.parametrize(
    ("delta", "trusted", "at40", "at80", "agree"),
    [(0.3, True, (88, 36), (120, 54), 700), (0.3, False, (414, 247), (450, 272), 551), (0.1, False, (96, 67), (120, 87), 551)],
)
def test_a_thousand_parties_of_whom_a_tenth_colludes(
    capsys: pytest.CaptureFixture[str], delta: float, trusted: bool, at40: tuple[int, int], at80: tuple[int, int], agree: int
) -> None:
    options = ["--clients", "1000", "--corrupt", "0.1", "--dropout", str(delta), *(["--semi-honest"] if trusted else [])]
    tree = json.loads(printed(capsys, *options, "--json"))
    assert [(c["security"], c["degree"], c["threshold"], c["agree"]) for c in tree["choices"]] == [
        (40, *at40, agree),
        (80, *at80, agree),
    ]
    assert (tree["corrupt"], tree["dropout"], tree["semi_honest"]) == (100, round(1000 * delta), trusted)
    assert (tree["complete"]["degree"], tree["complete"]["threshold"]) == (999, 551)
    for choice, sigma in zip(tree["choices"], (40, 80), strict=True):
        bounds, cost, k = choice["bounds"], choice["cost"], choice["degree"]
        assert 0 < bounds["both_opened"] <= 2.0 ** -(sigma + 1)
        assert 0 <= bounds["not_connected"] <= 2.0 ** -(sigma + 1)
        assert 0 < bounds["too_few_stay"] <= 2.0**-20
        assert bounds["thin_rounds"] is None if trusted else 0 < bounds["thin_rounds"] <= 0.01
        assert (cost["agreements"], cost["shares"], cost["checks"], cost["masks"]) == (2 * k, 2 * k, 2000 + agree, k + 1)
        assert tree["vector"] < cost["up"] < tree["complete"]["cost"]["up"]
    screen = printed(capsys, *options)
    for word in (f"1000 parties, 100 of them corrupt, {round(1000 * delta)} may vanish", "σ = 40 (beacon)", "complete", "287.6 kB"):
        assert word in screen
    for name, values in (("neighbours, k", (at40[0], at80[0], 999)), ("threshold, t", (at40[1], at80[1], 551))):
        assert re.search(rf"{name} +{' +'.join(map(str, values))}", screen)


def small(n: int, k: int, *, trusted: bool = False) -> Parameters:
    """A sparse graph of few bits of security among few parties."""
    s = degree.Setting(n, 1, 0, 1, semi_honest=trusted)
    graph = Harary(n, k, degree.threshold_bound(s, k) + 1, 1, None if trusted else degree.gap(s, k))
    return replace(Parameters.of(n, 9, 100, corrupt=1, threshold=n - 2), graph=graph)


def played(p: Parameters) -> simulate.Outcome:
    scheme = sums.scheme("secagg+")
    roster, parties = sums.enrol(p.parties)
    terms = scheme.terms(Occasion("cost", 0), roster, p)
    sessions = {client(x.index): sums.client_session(scheme, replace(x, policy=WEAK), terms) for x in parties}
    zeros = Vector(np.zeros(p.size, dtype=np.int64))
    return simulate.run({SERVER: sums.server_session(scheme, terms), **sessions}, {address: [zeros] for address in sessions})


@pytest.mark.parametrize("p", [Parameters.of(7, 40, 100), Parameters.of(2, 1, 100), small(20, 8), small(23, 6, trusted=True)])
def test_the_bytes_are_those_that_every_party_sends_and_gets(p: Parameters) -> None:
    up, down = Counter[int](), Counter[int]()
    for _, sender, to, size in played(p).traffic:
        up[sender.index] += size
        down[to.index] += size
    cost = params.cost(p)
    assert {up[u] for u in range(1, p.parties + 1)} == {cost.up}
    assert {down[u] for u in range(1, p.parties + 1)} == {cost.down}


def test_where_indexes_differ_in_length_the_bytes_are_those_of_an_average_party() -> None:
    p = small(70, 8)
    traffic = played(p).traffic
    for end, expected in (("client", params.cost(p).up), ("server", params.cost(p).down)):
        mean = sum(size for _, sender, _, size in traffic if sender.role == end) / 70
        assert abs(mean - expected) < 0.003 * expected


@pytest.mark.parametrize("p", [Parameters.of(7, 4, 100), small(20, 8)])
def test_the_work_is_what_a_party_does(monkeypatch: pytest.MonkeyPatch, p: Parameters) -> None:
    """The server's part is taken off: five signatures of each party, and one mask of each."""
    done = Counter[str]()

    def count(place: Any, name: str, what: str, amount: Any = lambda _args, _result: 1) -> None:
        original = getattr(place, name)

        def counting(*args: Any, **more: Any) -> Any:
            result = original(*args, **more)
            done[what] += amount(args, result)
            return result

        monkeypatch.setattr(place, name, counting)

    monkeypatch.setattr(simulate, "shared_work", nullcontext)  # every party does its own work
    count(KeyPair, "_exchange", "agreements")
    count(secagg, "shamir_share", "shares", lambda _args, result: len(result))
    count(secagg, "Masks", "masks", lambda args, _result: len(args[0]) + len(args[1]))
    count(secagg, "apply_masks", "unmasks", lambda args, _result: len(args[1]) + len(args[2]))
    for module in (handshake, agreement, secagg):
        count(module, "verify", "checks")
    assert played(p).abort is None
    n, cost = p.parties, params.cost(p)
    assert done == {
        "agreements": n * cost.agreements,
        "shares": n * cost.shares,
        "masks": n * cost.masks,
        "unmasks": n,
        "checks": n * cost.checks + 3 * n,
    }


def test_where_only_a_beacon_would_do_the_other_is_refused_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--clients", "110", "--corrupt", "0.33", "--dropout", "0.2"]
    tree = json.loads(printed(capsys, *options, "--json"))
    assert [c["security"] for c in tree["choices"]] == [40]
    assert "σ = 80" in tree["refused"]
    assert "there is one" in tree["refused"]
    assert "No graph for σ = 80" in printed(capsys, *options)


def test_of_few_parties_it_says_that_the_complete_graph_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Below 64 parties secagg+ takes the complete graph" in printed(
        capsys, "--clients", "30", "--corrupt", ".2", "--dropout", ".05"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("100", ".3", ".3"), ["no degree below n − 1 = 99", "25 corrupt (0.25 of n) or 22 dropouts (0.22 of n)"]),
        (("100", ".4", ".3"), ["--corrupt and --dropout: no", "γ + 2δ = 1 must be at most 0.9", "there is one"]),
        (("100", ".6", ".35", "--semi-honest"), ["γ + δ = 0.95 must be at most 0.9", "there is one"]),
        (("3", "0", "0"), ["use the complete graph"]),
        (("2", "0", "0"), ["--clients must be in 3..16384, not 2"]),
        (("20000", ".1", ".1"), ["--clients must be in 3..16384, not 20000"]),
        (("100", "1", ".1"), ["--corrupt must be in [0, 1), not 1"]),
        (("100", ".1", "nan"), ["--dropout must be in [0, 1), not nan"]),
        (("1000", ".1", ".1", "--bits", "8"), ["--bits must be in 11..64, not 8"]),
        (("1000", ".1", ".1", "--bits", "65"), ["--bits must be in 11..64, not 65"]),
        (("1000", ".1", ".1", "--dim", "0"), ["--dim must be in 1..2147483648, not 0"]),
        (("100", ".6", ".3", "--dim", "0", "--bits", "99"), ["--dim must be in", "--bits must be in 2..64, not 99"]),
        (("1", "2", "-1"), ["--clients must be in", "--corrupt must", "--dropout must be in [0, 1), not -1"]),
        (("many", ".1", ".1"), ["--clients", "integer"]),
    ],
)
def test_what_cannot_work_is_one_line(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: list[str]) -> None:
    n, gamma, delta, *more = options
    line = printed(capsys, "--clients", n, "--corrupt", gamma, "--dropout", delta, *more, code=2)
    assert line.startswith("securefl: ")
    assert line.count("\n") == 1
    for word in words:
        assert word in line


def test_the_three_numbers_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params", "--clients", "100"]) == 2
    err = capsys.readouterr().err
    assert "--corrupt is missing: the share of the parties that may collude with the server, in [0, 1); --dropout is missing" in err
    for given, missing in (("--corrupt", "--dropout"), ("--dropout", "--corrupt")):
        assert main(["params", "--clients", "100", given, "0.95", "--dim", "0"]) == 2
        err = capsys.readouterr().err
        assert f"{missing} is missing" in err
        assert f"{given} is missing" not in err
        assert "--dim must be in" in err
