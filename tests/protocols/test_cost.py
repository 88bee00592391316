"""``auto``: the choice between secagg and kahe, held against sums that ``benchmarks/cost.py`` measured, and against bytes.

No time is measured here: cost.json holds CPU seconds of one core, recorded once.  It shows that the formula chooses well there; on
another machine all seconds are others, and their ratios much the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, play

from protocols import cost, plugins, secure_sum, sums
from protocols.errors import Misuse
from protocols.kahe_parameters import KaheParameters
from protocols.kahe_types import Enciphered
from protocols.policy import Policy
from protocols.primitives.graph import Harary
from protocols.secagg_parameters import LOST, Parameters
from protocols.secagg_types import Masked

MEASURED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "cost.json").read_text(encoding="utf-8"))
WHERE = [f"n={row['parties']} d={row['size']} {row['dropout']:.0%}" for row in MEASURED]
SLACK, BLUR = 1.1, 0.002
"""By how much what is taken may be slower than the other: a share of it, and seconds within which sums cannot be told apart."""


def arrived(row: dict[str, Any]) -> float:
    """How many parties' vectors came."""
    return float(row["parties"] - round(row["dropout"] * row["parties"]))


def spent(row: dict[str, Any], name: str) -> float:
    """How long a round takes for the vectors, as measured: the same sum as `cost.Cost.seconds`."""
    one = row[name]
    links = one["upload"] / cost.PARTY_LINK + arrived(row) * one["upload"] / cost.SERVER_LINK
    return float(one["client_s"] + one["server_s"] + links)


def choice(row: dict[str, Any]) -> cost.Choice:
    return cost.choose(row["parties"], row["size"], row["max_abs"], dropout=1 - arrived(row) / row["parties"])


@pytest.mark.parametrize("row", MEASURED, ids=WHERE)
def test_what_is_taken_is_the_cheaper_one_as_measured(row: dict[str, Any]) -> None:
    taken = choice(row).name
    other = {"secagg": "kahe", "kahe": "secagg"}[taken]
    assert spent(row, taken) <= SLACK * spent(row, other) + BLUR


def test_control_the_measured_sums_tell_a_wrong_choice() -> None:
    """Taking always the one, or always the other, fails."""
    for always in ("secagg", "kahe"):
        other = {"secagg": "kahe", "kahe": "secagg"}[always]
        assert any(spent(row, always) > SLACK * spent(row, other) + BLUR for row in MEASURED)
    assert {choice(row).name for row in MEASURED} == {"secagg", "kahe"}


@pytest.mark.parametrize("row", [row for row in MEASURED if row["size"] >= 200_000], ids=str)
def test_the_formulas_seconds_are_those_measured(row: dict[str, Any]) -> None:
    """Within a factor of two, of sums that are long enough to be measured well."""
    found = choice(row)
    for name, known in (("secagg", found.secagg), ("kahe", found.kahe)):
        assert known is not None
        for work, measured in ((known.client, row[name]["client_s"]), (known.server, row[name]["server_s"])):
            assert measured / 2 - BLUR < work.seconds(cost.RATES) < 2 * measured + BLUR


@pytest.mark.parametrize(("parties", "size"), [(3, 5), (6, 9000), (4, 40_000)])
def test_bytes_are_exact(parties: int, size: int) -> None:
    """All but the control fields of the message, which are the same in both."""
    for name, kind, p in (
        ("secagg", Masked, Parameters.of(parties, size, 1000)),
        ("kahe", Enciphered, KaheParameters.of(parties, size, 1000)),
    ):
        case = Case(p, {u: [u] * size for u in range(1, parties + 1)})
        (one, *_) = [letter for letter in play(case, protocol=name).letters if isinstance(letter.message, kind)]
        control, *frames = one.chunks()
        known = cost.masked(p, 0.0) if isinstance(p, Parameters) else cost.enciphered(p, 0.0)
        assert sum(map(len, frames)) == known.upload
        assert known.received == parties * known.upload
        assert len(control) < 150


@pytest.mark.parametrize(
    ("p", "word", "neighbours"),
    [
        (Parameters.of(10, 999, 1000), 4, 9),
        (Parameters.of(10, 999, 1000, bits=32), 4, 9),
        (Parameters.of(10, 999, 1000, bits=33), 8, 9),
        (Parameters.sparse(100, 9999, 1000, corrupt=5, dropouts=20), 4, None),
    ],
    ids=str,
)
def test_amounts_are_those_of_the_table(p: Parameters, word: int, neighbours: int | None) -> None:
    """With a fifth lost: a keystream for each who stays, and for each pair of one who stays and a neighbour who is lost."""
    n, lost, stream = p.parties, p.parties // 5, word * (p.size + 1)
    k = p.graph.degree if isinstance(p.graph, Harary) else neighbours
    assert k is not None
    staying, size = n - lost, p.ring.packed_size(p.size + 1)
    known = cost.masked(p, 0.2)
    nothing = {"take": 0.0, "encrypt": 0.0, "decrypt": 0.0, "message": 0.0}
    assert known.client == cost.Work(**{**nothing, "mask": (k + 1) * stream, "send": size})
    assert known.server.mask == pytest.approx((staying + staying * lost * k / (n - 1)) * stream)
    others = {**nothing, "send": 0.0, "take": staying * size, "message": staying}
    assert known.server == cost.Work(mask=known.server.mask, **others)
    assert (known.upload, known.received) == (size, staying * size)


def test_seconds_are_work_at_its_rates_and_bytes_over_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 Mbit/s for a party, 1 Gbit/s for the server."""
    monkeypatch.setattr(cost, "RATES", cost.Work(1.0, 10.0, 100.0, 1e3, 1e4, 1e5))
    assert cost.Work(1, 2, 3, 4, 5, 6).seconds(cost.RATES) == 654_321
    assert cost.Work(1, 2, 3, 4, 5, 6) + cost.Work(message=1) == cost.Work(1, 2, 3, 4, 5, 7)
    assert cost.Cost(cost.Work(), cost.Work(), 12_500_000, 250e6).seconds == 1 + 2
    assert cost.Cost(cost.Work(mask=1), cost.Work(send=1), 0, 0).seconds == 11


def test_a_tenth_is_lost_by_default_and_masks_are_taken_where_both_cost_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cost.choose(100, 10**6, 32767) == cost.choose(100, 10**6, 32767, dropout=1 / LOST)
    monkeypatch.setattr(cost, "RATES", cost.Work())
    monkeypatch.setattr(cost, "PARTY_LINK", float("inf"))
    monkeypatch.setattr(cost, "SERVER_LINK", float("inf"))
    assert cost.choose(100, 10**6, 32767).name == "secagg"


def test_short_vectors_are_cheaper_under_masks_and_long_ones_of_many_parties_under_keys() -> None:
    """What README and jobs rely on: below a few N nothing changes for anybody."""
    for n in (2, 5, 20, 100):
        for d in (1, 200, 4096):
            assert cost.choose(n, d, 32767).name == "secagg"
    assert cost.choose(100, 10**6, 32767).name == "kahe"
    assert cost.choose(1000, 10**6, 32767).name == "kahe"
    assert cost.choose(5, 10**6, 32767).name == "secagg"


@given(st.integers(2, 300), st.integers(1, 2_000_000), st.integers(1, 2**20), st.floats(0, 0.3))
@settings(max_examples=60, deadline=None)
def test_more_dropouts_never_make_masks_the_cheaper_ones(n: int, d: int, most: int, dropout: float) -> None:
    """A lost party costs masks a keystream for each neighbour; it costs the other nothing but its neighbours' N words."""
    few, many = (cost.choose(n, d, most, dropout=share) for share in (dropout, dropout + 0.1))
    assert few.kahe is not None
    assert many.kahe is not None
    gain = [one.secagg.server.seconds(cost.RATES) - one.kahe.server.seconds(cost.RATES) for one in (few, many) if one.kahe]
    if d > 3 * 8192 and n > 20:
        assert gain[1] > gain[0]
    assert few.kahe.client == many.kahe.client


def test_it_says_what_it_takes_and_why() -> None:
    choice = cost.choose(100, 10**6, 32767, dropout=0.1)
    assert choice.kahe is not None
    said = f"{cost._in_words(choice.kahe)}; secagg {cost._in_words(choice.secagg)}"
    assert choice.why == f"auto takes kahe for 100 parties, 1000000 values and 10% dropouts: {said}"
    short = cost.choose(5, 10, 100, dropout=0.1)
    assert short.kahe is not None
    said = f"{cost._in_words(short.secagg)}; kahe {cost._in_words(short.kahe)}"
    assert short.why == f"auto takes secagg for 5 parties, 10 values and 10% dropouts: {said}"
    wide = cost.choose(5, 10**6, 2**58)
    assert (wide.name, wide.kahe, wide.secagg) == ("secagg", None, cost.masked(Parameters.cheapest(5, 10**6, 2**58), cost.EXPECTED))
    assert "kahe cannot do it, " in wide.why
    with pytest.raises(Misuse, match=r"2t > n \+ \|C\|"):
        cost.choose(5, 10, 10, threshold=2)


@pytest.mark.parametrize(
    ("party", "server", "upload", "said"),
    [
        (0.05449, 2.5, 2_450_001, "about 2.8 s a round (party 54 ms, 2.5 MB; server 2.5 s)"),
        (0.1, 0.0, 100, "about 0.1 s a round (party 0.1 s, 0.0001 MB; server 0 ms)"),
        (0.0, 0.5, 0, "about 0.5 s a round (party 0 ms, 0 MB; server 0.5 s)"),
    ],
)
def test_times_and_sizes_in_words(monkeypatch: pytest.MonkeyPatch, party: float, server: float, upload: int, said: str) -> None:
    monkeypatch.setattr(cost, "RATES", cost.Work(mask=1.0))
    assert cost._in_words(cost.Cost(cost.Work(mask=party), cost.Work(mask=server), upload, 0.0)) == said


# By name


def test_auto_is_a_choice_and_no_protocol() -> None:
    scheme, why = sums.chosen("auto", 5, 100, 1000)
    assert (scheme.name, why[:23]) == ("secagg", "auto takes secagg for 5")
    assert sums.chosen("auto", 100, 10**6, 32767)[0].name == "kahe"
    assert sums.chosen("kahe", 5, 100, 1000) == (sums.SCHEMES["kahe"], "")
    assert plugins.AUTO not in sums.names()
    assert plugins.AUTO in plugins.RESERVED
    with pytest.raises(Misuse, match="auto is secagg or kahe by the sizes of a sum"):
        sums.scheme("auto")
    assert sums.SCHEMES["kahe"].policy == sums.SCHEMES["secagg"].policy == Policy()


def test_what_auto_may_take_has_equal_thresholds_stages_and_places_of_the_input() -> None:
    """What is planned for the one holds for the other."""
    for n in (2, 5, 64, 400):
        one, other = Parameters.cheapest(n, 10, 1000), KaheParameters.of(n, 10, 1000)
        for name in ("threshold", "corrupt", "graph", "security", "lying_server"):
            assert getattr(one, name) == getattr(other, name)
    masks, keys = (sums.SCHEMES[name].flow for name in ("secagg", "kahe"))
    assert [kind.__name__.replace("Enciphered", "Masked") for kind in keys.messages("server")] == [
        kind.__name__ for kind in masks.messages("server")
    ]


def test_the_library_sum_takes_it_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[str]()

    def watch(letter: Any, *_: Any) -> None:
        seen.append(type(letter.message).__name__)

    x = [np.arange(50) * u for u in range(1, 6)]
    assert secure_sum(x, max_abs=1000, watch=watch).values.tolist() == np.sum(x, axis=0).tolist()
    assert "Masked" in seen
    monkeypatch.setattr(cost, "RATES", cost.Work(mask=1.0))
    assert secure_sum([np.arange(20_000)] * 5, max_abs=20_000, watch=watch).values.tolist() == (5 * np.arange(20_000)).tolist()
    assert "Enciphered" in seen
