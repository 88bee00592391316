"""Statistics with noise: the sensitivity holds record by record, the noise is what is promised, and without it pandas agrees."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from stub_runner import refused

from protocols import simulate
from protocols.session import client
from securefl.cli import main
from securefl.errors import UserError
from securefl.privacy.budget import PartyLedger
from securefl.privacy.noise_plan import Cohort
from securefl.privacy.store import Budget, Store
from securefl.statistics import Asked, Columns, SecureStatistics, opening, totals
from securefl.statistics.asking import Book
from securefl.statistics.columns import site_tables
from securefl.statistics.noise import planned
from securefl.statistics.noised import Answers
from securefl.statistics.results_noised import Release

PUBLIC = Columns({"a": (0.0, 10.0), "b": (-5.0, 5.0), "c": (100.0, 101.0)}, levels={"k": ["x", "y", "z"], "m": [0, 1]})
ASKED = Asked(
    describe=("a", "b"),
    quantiles=("a", "c"),
    classes=("k",),
    histograms={"b": 7},
    crosstabs=[("k", "m")],
    correlation=("a", "b", "c"),
    bits=8,
)
FALSE_ALARM = 1e-6
"""Probability with which a test of the noise fails although nothing is wrong."""


def tables(rows: int = 400, sites: int = 4, seed: int = 1) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    a = rng.normal(5, 3, (sites, rows))
    b = a / 2 - 3 + rng.normal(0, 1, a.shape)
    c = rng.uniform(99.9, 101.1, a.shape)
    out = {}
    for i in range(sites):
        frame = pd.DataFrame(
            {"a": a[i], "b": b[i], "c": c[i], "k": rng.choice(["x", "y", None], rows), "m": rng.integers(0, 2, rows)}
        )
        frame.loc[rng.random(rows) < 0.1, "a"] = np.nan
        frame.loc[rng.random(rows) < 0.2, "b"] = np.nan
        out[f"site {i}"] = frame
    return out


def pooled(given_: dict[str, pd.DataFrame]) -> pd.DataFrame:
    every = pd.concat(given_.values(), ignore_index=True)
    return every.assign(**{name: every[name].clip(*bounds) for name, bounds in PUBLIC.ranges.items()})


def statistics(given_: dict[str, pd.DataFrame] | None = None, protocol: str = "secagg", **options: Any) -> SecureStatistics:
    return SecureStatistics.simulated(tables() if given_ is None else given_, PUBLIC, protocol, **options)


def ask(asked: Asked = ASKED, epsilon: float = 1.0, delta: float = 1e-6, **options: Any) -> Release:
    return statistics(**options).noised(asked, epsilon=epsilon, delta=delta)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise off."""
    monkeypatch.setattr(totals, "skellam", lambda _rand, _label, size, _share: np.zeros(size, dtype=np.int64))


def test_without_noise_the_numbers_are_those_of_pandas(quiet: None) -> None:
    given_, release = tables(), ask(min_cell=1, epsilon=100.0)
    every = pooled(given_)
    found = release["description"]
    assert found.rows == len(every)
    for at, name in enumerate(("a", "b")):
        assert (found.count[at], found.missing[at]) == (every[name].count(), every[name].isna().sum())
        assert abs(found.mean[at] - every[name].mean()) <= found.mean_error[at] * 1.001 <= 1e-3
        assert abs(found.variance[at] - every[name].var()) <= found.variance_error[at] * 1.001 <= 1e-2
    kinds = every["k"].value_counts()
    assert release["classes"]["k"].counts.tolist() == [kinds["x"], kinds["y"], 0, every["k"].isna().sum()]
    counts, _ = np.histogram(every["b"].dropna(), bins=7, range=(-5, 5))
    assert release["histograms"]["b"].counts.tolist() == [*counts, every["b"].isna().sum()]
    table = release["crosstabs"]["k by m"].counts
    assert table[0][1] == ((every["k"] == "x") & (every["m"] == 1)).sum()
    difference = release["correlation"].matrix - every[["a", "b", "c"]].corr().to_numpy()
    assert np.abs(difference).max() < 5e-3
    for at, name in enumerate(("a", "c")):
        exact = np.quantile(every[name].dropna(), [0.25, 0.5, 0.75], method="inverted_cdf")
        low, high = PUBLIC.ranges[name]
        assert np.abs(release["quantiles"].value[at] - exact).max() <= (high - low) / 2**8
        assert ((release["quantiles"].low[at] <= exact) & (exact <= release["quantiles"].high[at])).all()


def test_every_protocol_that_hides_gives_the_same_and_opens_one_sum(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def exact(*_: object, **__: object) -> None:
        raise AssertionError("an exact sum beside the noised one")

    monkeypatch.setattr(opening, "secure_totals", exact)
    asked = Asked(describe=("a",), classes=("k",))
    given_ = tables(rows=40)
    found = [
        ask(asked, given_=given_, protocol=name)["description"].as_json()["columns"]
        for name in ("secagg", "secagg+", "lightsecagg", "kahe")
    ]
    assert all(one == found[0] for one in found)


values = st.one_of(st.just(math.nan), st.floats(-20, 120))
records = st.lists(
    st.tuples(values, values, values, st.sampled_from(["x", "y", "z", None]), st.sampled_from([0, 1, None])), min_size=1, max_size=6
)


@given(records, st.data())
@settings(max_examples=60, deadline=None)
def test_one_record_moves_the_vector_by_no_more_than_the_accountant_is_told(rows: list[Any], data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, len(rows) - 1))

    def vector(kept: list[Any]) -> tuple[Any, Any]:
        cells = {name: np.array([row[at] for row in kept], dtype=object) for at, name in enumerate("abckm")}
        book = Book(ASKED, PUBLIC, site_tables({"north": cells}, ["north"]), lambda _: None)
        plan = planned(book.questions, Cohort(4, 3, 1), 2**20, epsilon=1.0, delta=1e-6)
        return plan, np.concatenate([q.sums(0, s) for q, s in plan.scaled(book.questions)])

    plan, whole = vector(rows)
    moved = whole if len(rows) == 1 else whole - vector(rows[:gone] + rows[gone + 1 :])[1]
    event = plan.event(4)
    assert math.sqrt(sum(int(x) ** 2 for x in moved)) <= event.delta2
    assert np.abs(moved).sum() <= event.delta1
    ends = np.cumsum(plan.sizes)[:-1]
    for part, square in zip(np.split(moved, ends), plan.squares, strict=True):
        assert sum(int(x) ** 2 for x in part) <= square


def test_the_bound_of_one_record_is_reached() -> None:
    """A record at the ends of its ranges: the accountant is not told more than there is."""
    row = {"a": [10.0], "b": [5.0], "c": [101.0], "k": ["x"], "m": [1]}
    book = Book(
        ASKED, PUBLIC, site_tables({"north": {n: np.array(v, dtype=object) for n, v in row.items()}}, ["north"]), lambda _: None
    )
    plan = planned(book.questions, Cohort(4, 3, 1), 2**20, epsilon=1.0, delta=1e-6)
    whole = np.concatenate([q.sums(0, s) for q, s in plan.scaled(book.questions)])
    assert sum(int(x) ** 2 for x in whole) == sum(plan.squares)
    assert np.abs(whole).sum() == plan.delta1
    assert sum(plan.split) == pytest.approx(1)
    assert plan.split == pytest.approx([1 / len(plan.split)] * len(plan.split), rel=1e-3)


def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    real = opening.noised_totals

    def watched(consortium: Any, protocol: Any, occasion: Any, plan: Any, own: Any, **options: Any) -> Any:
        total = real(consortium, protocol, occasion, plan, own, **options)
        found.append((plan, own, total))
        return total

    monkeypatch.setattr(opening, "noised_totals", watched)
    return found


@pytest.mark.parametrize("gone", [0, 1])
def test_the_noise_of_the_opened_sums_has_the_promised_variance(monkeypatch: pytest.MonkeyPatch, gone: int) -> None:
    """χ² of 1001 sums with the survivors' noise, two-sided at `FALSE_ALARM`."""
    found = seen(monkeypatch)
    network = simulate.vanish({client(4): "Masked"}) if gone else None
    release = ask(Asked(histograms={"a": 1000}), epsilon=0.5, network=network)
    (plan, own, total), survivors = found[0], 4 - gone
    assert total.contributors == survivors
    noise = (total.values - sum(own[:survivors])).astype(float)
    ratio = float((noise**2).sum() / (survivors * plan.share))
    assert stats.chi2.ppf(FALSE_ALARM / 2, noise.size) < ratio < stats.chi2.isf(FALSE_ALARM / 2, noise.size)
    cells = release["histograms"]["a"]
    assert cells.noise == pytest.approx(math.sqrt(survivors * plan.share) / plan.scales[0])
    assert release.epsilon == pytest.approx(plan.spent(survivors))
    assert plan.spent(3) <= 0.5
    assert plan.spent(3) > 0.499


def test_the_stated_deviations_are_those_of_the_noise() -> None:
    """2000 answers with noise of the plan's size: each deviation is met to 5 %, three standard deviations of its estimate."""
    book = Book(ASKED, PUBLIC, site_tables(tables(), list(tables())), lambda _: None)
    plan = planned(book.questions, Cohort(4, 3, 1), 2**20, epsilon=30.0, delta=1e-6)
    exact = sum(np.concatenate([q.sums(at, s) for q, s in plan.scaled(book.questions)]) for at in range(4))
    rng, released = np.random.default_rng(5), {"sites": 4, "min_cell": 1, "opened": ()}
    drawn: dict[str, list[Any]] = {"rows": [], "count": [], "mean": [], "variance": [], "std": [], "r": []}
    for _ in range(2000):
        noise = np.rint(rng.normal(0, math.sqrt(4 * plan.share), exact.size)).astype(np.int64)
        release = book.release(plan, exact + noise, 4, released)
        one = release["description"]
        for key in ("count", "mean", "variance", "std"):
            drawn[key].append(getattr(one, key))
        drawn["rows"].append(one.rows)
        drawn["r"].append(release["correlation"].matrix[0, 1])
    quiet = book.release(plan, exact, 4, released)
    one = quiet["description"]
    pairs = [(drawn["rows"], one.rows_noise), (drawn["r"], quiet["correlation"].noise[0, 1])]
    pairs += [(drawn[key], getattr(one, f"{key}_noise")) for key in ("count", "mean", "variance", "std")]
    for samples, stated in pairs:
        assert np.std(np.array(samples, dtype=float), axis=0) == pytest.approx(stated, rel=0.05)


def test_a_quantile_lies_in_its_interval_unless_its_rank_has_more_noise_than_two_deviations() -> None:
    book = Book(Asked(quantiles=("c",)), PUBLIC, site_tables(tables(), list(tables())), lambda _: None)
    plan = planned(book.questions, Cohort(4, 3, 1), 2**20, epsilon=1.0, delta=1e-6)
    exact = sum(np.concatenate([q.sums(at, s) for q, s in plan.scaled(book.questions)]) for at in range(4))
    true = np.quantile(pooled(tables())["c"].dropna(), [0.25, 0.5, 0.75], method="inverted_cdf")
    rng, inside = np.random.default_rng(7), np.zeros(3)
    for _ in range(400):
        noise = np.rint(rng.normal(0, math.sqrt(4 * plan.share), exact.size)).astype(np.int64)
        found = book.release(plan, exact + noise, 4, {"sites": 4, "min_cell": 1, "opened": ()})["quantiles"]
        inside += (found.low[0] <= true) & (true <= found.high[0])
    assert (inside >= 400 * 0.9).all()


def test_the_minimum_applies_to_the_noised_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = seen(monkeypatch)
    release = ask(Asked(describe=("a",), histograms={"b": 200}, correlation=("a", "b")), epsilon=2.0, min_cell=40)
    plan, _, total = found[0]
    raw = np.split(total.values, np.cumsum(plan.sizes)[:-1])[2] / plan.scales[2]
    counts = release["histograms"]["b"].counts.tolist()
    assert None in counts
    assert counts == [None if 0 < max(round(x), 0) < 40 else max(round(x), 0) for x in raw]
    few = ask(
        Asked(describe=("a",), quantiles=("a",), correlation=("a", "b")),
        given_=tables(rows=3),
        epsilon=100.0,
        min_cell=40,
        delta=0.01,
    )
    assert np.isnan(few["description"].mean).all()
    assert np.isnan(few["quantiles"].value).all()
    assert math.isnan(few["correlation"].matrix[0, 1])
    assert few["description"].count == (None,)


def test_no_rows_and_more_noise_than_rows_give_no_numbers_and_no_error() -> None:
    empty = {f"site {i}": pd.DataFrame({"a": [], "b": [], "c": [], "k": [], "m": []}, dtype=object) for i in range(4)}
    release = ask(given_=empty, epsilon=0.1)
    assert json.dumps([release.as_json(), release["description"].as_json(), release["correlation"].as_json()], allow_nan=False)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: ask(epsilon=0.0), "epsilon is 0"),
        (lambda: ask(epsilon=-1.0), "epsilon is -1"),
        (lambda: ask(epsilon=math.inf), "finite"),
        (lambda: ask(epsilon=math.nan), "finite"),
        (lambda: ask(epsilon=1e-6), "larger epsilon"),
        (lambda: ask(delta=0.0), r"\(0, 1\)"),
        (lambda: ask(delta=1 / 400), "site 0: delta is 0.0025: it must be below 1 over its rows"),
        (lambda: ask(Asked()), "nothing is asked"),
        (lambda: ask(Asked(describe=("q",))), "no public range"),
        (lambda: ask(Asked(classes=("a",))), "no public levels"),
        (lambda: ask(Asked(describe=("a", "a"))), "each once"),
        (lambda: ask(Asked(correlation=("a",))), "at least two columns"),
        (lambda: ask(Asked(quantiles=("a",), probabilities=(1.5,))), "probability"),
        (lambda: ask(Asked(quantiles=("a",), probabilities=())), "at least one probability"),
        (lambda: ask(Asked(quantiles=("a",), bits=17)), "bits of a grid"),
        (lambda: ask(protocol="plain-insecure"), "share of the noise"),
        (lambda: ask(protocol="bfv"), "carry no noise"),
    ],
)
def test_bad_input_is_one_line(call: Callable[[], object], word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        call()
    assert "\n" not in str(caught.value)


def ledgers(store: Store, data: str = "made") -> dict[str, PartyLedger]:
    return {name: PartyLedger(store, name, data) for name in tables()}


def test_a_release_is_charged_by_who_survived_and_a_second_one_adds_up() -> None:
    with Store() as store:
        first = ask(network=simulate.vanish({client(4): "Boxes"}), ledgers=ledgers(store))
        assert store.entries(("site 3", "made")) == []
        ledger = ledgers(store)["site 0"]
        assert ledger.statement("record", 1e-6).spent.epsilon == pytest.approx(first.epsilon)
        assert ledger.statement("party", 1e-6).spent.epsilon == 0
        ask(ledgers=ledgers(store))
        twice = ledger.statement("record", 1e-6).spent.epsilon
        assert first.epsilon < twice < 2 * first.epsilon
        assert ledger.exact() == []


def test_a_release_past_a_budget_and_exact_sums_under_one_are_refused_before_anything_leaves() -> None:
    with Store() as store:
        store.set_budget(("site 2", "made"), "record", Budget(1.05, 1e-6))
        ask(ledgers=ledgers(store))
        before = store.entries(("site 0", "made"))
        with pytest.raises(UserError, match=r"site 2 has ε = .* of 1.05 of a record left for the data set made .* needs ε = 1"):
            ask(ledgers=ledgers(store))
        with pytest.raises(UserError, match="nothing that is opened without noise"):
            statistics(ledgers=ledgers(store)).describe(["a"])
        assert store.entries(("site 0", "made")) == before


def test_exact_sums_stand_in_the_ledger_without_an_epsilon() -> None:
    with Store() as store:
        statistics(ledgers=ledgers(store)).describe(["a"])
        (entry,) = ledgers(store)["site 0"].exact()
        assert "rows" in entry.what
        assert "difference" in entry.event.shows  # type: ignore[union-attr]


def _budget(capsys: pytest.CaptureFixture[str], path: str) -> Any:
    assert main(["budget", path, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_shows_noise_epsilon_and_split_and_keeps_to_the_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "ledger.db")
    assert main(["budget", path, "--set", "site 1/breast-cancer", "2", "1e-5"]) == 0
    capsys.readouterr()
    base = [
        "stats",
        "--columns",
        "mean radius,mean texture",
        "--correlation",
        "--ledger",
        path,
        "--epsilon",
        "1.9",
        "--delta",
        "1e-5",
    ]
    assert main([*base, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    privacy = tree["privacy"]
    assert (privacy["unit"], privacy["planned"], privacy["delta"]) == ("record", 1.9, 1e-5)
    assert len(privacy["epsilon"]) == len(tree["sites"])
    assert 0 < min(privacy["epsilon"]) == max(privacy["epsilon"]) <= 1.9
    assert privacy["accountant"] == "rdp"
    account = _budget(capsys, path)["accounts"][0]["privacy"]
    assert all(account[key] == privacy[key] for key in ("unit", "delta", "accountant"))
    assert account["epsilon"] == pytest.approx(privacy["epsilon"][:1])
    for kept, row in zip(account["opened"], privacy["opened"], strict=True):
        assert {**row, "run": kept["run"], "note": "", "event": None} == {**kept, "event": None}
        assert kept["event"].keys() == row["event"].keys()
    assert [event["coverage"] for event in privacy["opened"]] == ["covered by ε"]
    assert tree["description"]["columns"]["mean radius"]["mean_noise"] > 0
    assert tree["classes"]["label"]["noise"] > 0
    assert "site 1 has ε" in refused(capsys, *base).replace("'", "")
    assert main([*base[:4], "--epsilon", "1.9", "--delta", "1e-5"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("±", "of 1.9 for one record", "covered by ε"))


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--epsilon", "1"), "--epsilon and --delta belong together"),
        (("--delta", "1e-5"), "--epsilon and --delta belong together"),
        (("--epsilon", "1", "--delta", "0.1"), "below 1 over its rows"),
        (("--epsilon", "0", "--delta", "1e-5"), "epsilon is 0"),
        (("--ledger-data", "x"), "without a ledger"),
        (("--ledger", "/nowhere/ledger.db"), "No such file"),
    ],
)
def test_bad_options_are_one_line(capsys: pytest.CaptureFixture[str], args: tuple[str, ...], word: str) -> None:
    assert word in refused(capsys, "stats", *args)


def test_answers_are_of_their_own_questions() -> None:
    """Equal questions are told apart by place, not by content."""
    asked = Asked(histograms={"a": 3, "b": 3})
    book = Book(asked, PUBLIC, site_tables(tables(), list(tables())), lambda _: None)
    plan = planned(book.questions, Cohort(4, 3, 1), 2**20, epsilon=1.0, delta=1e-6)
    answers = Answers(plan, book.questions, np.arange(8) * plan.scales[0], 4, {"sites": 4, "min_cell": 1, "opened": ()})
    assert [answers.of(question)[0].tolist() for question in book.questions] == [[0, 1, 2, 3], [4, 5, 6, 7]]
