"""Budgets: charged before an input leaves, refused before training, units apart; in runs and at the command line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sites import job, linear, replayed, sites
from stub_runner import refused

from protocols.errors import Misuse, Refused
from protocols.policy import MemoryJournal
from protocols.suite import Occasion
from securefl import Runner, UserError
from securefl.cli import main
from securefl.privacy.accountant import epsilon_of
from securefl.privacy.budget import Charge, ChargingJournal, PartyLedger, RunCharges, charges_of
from securefl.privacy.divergence import SkellamEvent
from securefl.privacy.events import DpSgdEvent, ExactEvent, plain
from securefl.privacy.noise_plan import Cohort, calibrate_distributed
from securefl.privacy.rows import digest_of
from securefl.privacy.store import Budget, Store
from securefl.results import Opened, RunResult

STEP = DpSgdEvent(2.0, 0.1, 3)
CHARGE = Charge("sum of updates", STEP, "record")
RECORD: dict[str, Any] = {"mechanism": "local-record", "epsilon": 3.0, "sample_rate": 0.5, "rounds": 3}
PARTY: dict[str, Any] = {"mechanism": "distributed-party", "epsilon": 8.0, "update_clip": 1.0, "rounds": 3}
NAMES = tuple(sites())


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as made:
        yield made


def ledgers(store: Store, data: str = "made") -> dict[str, PartyLedger]:
    return {name: PartyLedger(store, name, data) for name in NAMES}


def runner(store: Store, gone: dict[int, dict[str, str]] | None = None, **privacy: object) -> Runner:
    plan = gone or {}
    return Runner(
        linear,
        sites(),
        job=job(**privacy),
        entropy=replayed,
        dropouts=lambda number, _: plan.get(number, {}),
        ledgers=ledgers(store),
    )


def spent(store: Store, party: str, unit: Any) -> float:
    return PartyLedger(store, party, "made").statement(unit).spent.epsilon


def test_local_record_charges_what_the_run_says_it_cost_and_names_what_no_epsilon_covers(store: Store) -> None:
    result = runner(store, **RECORD).run()
    for name, epsilon in zip(NAMES, result.epsilon, strict=True):
        assert spent(store, name, "record") == pytest.approx(epsilon, rel=1e-9)
        assert spent(store, name, "party") == 0.0
        assert {entry.what: entry.times for entry in ledgers(store)[name].exact()} == {
            o.what: 3 for o in result.opened if o.coverage == "exact"
        }


def test_distributed_party_is_charged_by_those_who_survived_and_the_fewest_where_nobody_knows(store: Store) -> None:
    gone = {1: {"site-0": "Masked"}, 2: {"site-0": "Agree", "site-1": "Agree"}, 3: {"site-0": "Boxes"}}
    result: RunResult = runner(store, gone, **PARTY).run()
    assert result.rounds[1].aborted
    for name, epsilon in zip(NAMES, result.epsilon, strict=True):
        assert spent(store, name, "party") == pytest.approx(epsilon, rel=1e-9)
        assert spent(store, name, "record") == 0.0


def test_two_runs_add_up(store: Store) -> None:
    first = runner(store, **RECORD)
    first.run()
    runner(store, **RECORD).run()
    sigma = first.noise_multiplier
    assert sigma is not None
    assert spent(store, "site-0", "record") == pytest.approx(epsilon_of(sigma, 0.5, 18, 1e-5, "rdp"), rel=1e-9)


@pytest.mark.parametrize("knobs", [RECORD, PARTY])
def test_a_job_that_fits_exactly_runs_and_the_next_is_refused_before_training(store: Store, knobs: dict[str, Any]) -> None:
    unit: Any = "record" if knobs is RECORD else "party"
    store.set_budget(("site-2", "made"), unit, Budget(knobs["epsilon"], 1e-5))
    runner(store, **knobs).run()
    before = store.entries(("site-0", "made"))
    with pytest.raises(UserError) as caught:
        runner(store, **knobs)
    text = str(caught.value)
    needed = f"{PartyLedger(store, 'site-2', 'made').statement(unit).spent.epsilon:.4g}"
    assert text.startswith("site-2 has ε = ")
    assert all(word in text for word in ("made", "left", f"of {knobs['epsilon']:g} of a {unit}", "needs ε = "))
    assert "\n" not in text
    assert unit == "party" or f"needs ε = {needed}" in text
    assert store.entries(("site-0", "made")) == before


def test_a_job_that_is_accounted_by_prv_fits_its_own_budget(store: Store) -> None:
    store.set_budget(("site-0", "made"), "record", Budget(3.0, 1e-5))
    result = runner(store, **RECORD, accountant="prv").run()
    statement = PartyLedger(store, "site-0", "made").statement("record")
    assert statement.spent.accountant == "prv"
    assert statement.spent.epsilon == pytest.approx(result.epsilon[0])
    assert statement.left is not None
    assert statement.left >= 0


def test_units_are_never_added_up(store: Store) -> None:
    place = ("site-0", "made")
    store.set_budget(place, "record", Budget(3.0, 1e-5))
    with pytest.raises(UserError, match=r"none of a party, which this needs: units are not added up"):
        runner(store, **PARTY)
    store.set_budget(place, "party", Budget(8.0, 1e-5))
    runner(store, **PARTY).run()
    runner(store, **RECORD).run()
    assert 0 < spent(store, "site-0", "record") <= 3.0
    assert 0 < spent(store, "site-0", "party") <= 8.0


def test_who_has_a_budget_takes_part_in_nothing_without_noise(store: Store) -> None:
    runner(store).run()
    assert {entry.what for entry in ledgers(store)["site-0"].exact()} >= {"sum of weighted updates"}
    store.set_budget(("site-0", "made"), "record", Budget(3.0, 1e-5))
    with pytest.raises(UserError, match="nothing that is opened without noise"):
        runner(store)


CENTRAL: dict[str, Any] = {"mechanism": "central", "epsilon": 3.0, "delta": 1e-4, "rows": 56, "rounds": 2, "sample_rate": 0.5}


def test_a_budget_does_not_let_an_exact_sum_go_to_a_trusted_server(store: Store) -> None:
    runner(store, **CENTRAL).run()
    assert {entry.what for entry in ledgers(store)["site-0"].exact()} >= {"exact sum of clipped gradients over all sites"}
    store.set_budget(("site-0", "made"), "record", Budget(9.0, 1e-4))
    with pytest.raises(UserError, match=r"nothing that is opened without noise \(exact sum of clipped gradients over all sites\)"):
        runner(store, **CENTRAL)
    runner(store, **{**CENTRAL, "mechanism": "distributed-record"}).run()
    assert 0 < spent(store, "site-0", "record") < 9.0


def test_what_a_table_tells_is_noted_whatever_the_budget_and_nothing_else_is(store: Store) -> None:
    ledger, told = ledgers(store)["site-0"], Opened("columns of the table", 1, "exact", "their names")
    store.set_budget(("site-0", "made"), "record", Budget(3.0, 1e-5))
    ledger.note("table", told)
    assert [(entry.run, entry.what, entry.unit, entry.event) for entry in ledger.exact()] == [
        ("table", "columns of the table", None, ExactEvent("their names"))
    ]
    with pytest.raises(Misuse, match="only what is exact"):
        ledger.note("table", replace(told, coverage="covered by ε"))


def test_an_input_that_would_overdraw_does_not_leave_and_the_others_go_on(store: Store) -> None:
    """Another job took what was left after this one was let in."""
    made = runner(store, **PARTY)
    store.set_budget(("site-3", "made"), "party", Budget(1e-3, 1e-5))
    result = made.run()
    assert [record.contributors for record in result.rounds] == [4, 4, 4]
    assert store.entries(("site-3", "made")) == []
    assert any(line.startswith("site-3 does not take part, by its own ledger: ledger-budget") for line in result.warnings)


def test_control_without_the_ledger_the_input_leaves() -> None:
    made = Runner(linear, sites(), job=job(**PARTY), entropy=replayed)
    assert [record.contributors for record in made.run().rounds] == [5, 5, 5]


def test_an_input_is_charged_before_it_leaves_and_stays_charged_if_it_never_does(store: Store) -> None:
    """Crash between charge and send: the journal has spoken, nothing has left."""
    ledger = PartyLedger(store, "north", "heart")
    journal = ChargingJournal(MemoryJournal(), ledger, "run", [CHARGE])
    assert store.entries(ledger.place) == []
    journal.spend(Occasion("run", 1, 0))
    assert [entry.times for entry in store.entries(ledger.place)] == [1]
    with pytest.raises(Refused, match="journal-spent"):
        journal.spend(Occasion("run", 1, 0))
    assert [entry.times for entry in store.entries(ledger.place)] == [1]


def test_what_cannot_be_written_down_does_not_leave(store: Store) -> None:
    made = runner(store, **PARTY)
    store._base.execute("PRAGMA query_only = ON")
    with pytest.raises(UserError, match="cannot be used"):
        made.run()
    store._base.execute("PRAGMA query_only = OFF")
    assert store.entries(("site-0", "made")) == []


def test_a_party_that_vanishes_before_its_input_is_not_charged(store: Store) -> None:
    runner(store, {1: {"site-0": "Boxes"}, 2: {"site-0": "Advert"}, 3: {"site-0": "Boxes"}}, **RECORD).run()
    assert store.entries(("site-0", "made")) == []


def test_only_noise_inside_the_sum_is_settled_and_only_for_less(store: Store) -> None:
    plan = calibrate_distributed(epsilon=8.0, delta=1e-5, cohort=Cohort(5, 4, 1), rounds=3, size=7, clip=1.0)
    ledger, worst = PartyLedger(store, "north", "heart"), Charge("sum", plan.event(4), "party")
    ledger.charge("run", [worst])
    ledger.settle("run", worst, plan.event(5))
    assert [entry.event for entry in store.entries(ledger.place)] == [plan.event(5)]
    for charged, event in (
        (worst, plan.event(5)),
        (Charge("sum", plan.event(5), "party"), plan.event(4)),
        (Charge("sum", plan.event(5), "party"), plan.event(5, rounds=2)),
        (Charge("sum", plan.event(5), "party"), replace(plan.event(5), failure=1e-9)),
        (CHARGE, STEP),
        (Charge("sum", ExactEvent("all"), None), plan.event(5)),
    ):
        with pytest.raises(Misuse):
            ledger.settle("run", charged, event)
    assert [entry.event for entry in store.entries(ledger.place)] == [plan.event(5)]


def test_what_follows_from_another_row_is_charged_with_it() -> None:
    opened = [
        Opened("every site's update", 2, "covered by ε", "in clear", "record", plain(STEP)),
        Opened("sum of weighted updates", 2, "covered by ε", "DP-SGD", "record", None),
        Opened("weights", 2, "exact", "rows"),
    ]
    assert charges_of(opened) == (Charge("every site's update", STEP, "record"), Charge("weights", ExactEvent("rows"), None))
    with pytest.raises(Misuse, match="no known unit"):
        charges_of([Opened("sum", 1, "covered by ε", "", "household", plain(STEP))])
    with pytest.raises(Misuse, match="cannot be charged"):
        charges_of([Opened("sum", 1, "covered by ε", "", "record", None), Opened("weights", 1, "exact", "rows")])
    with pytest.raises(UserError, match="laplace"):
        RunCharges(
            {"north": PartyLedger(Store(), "north", "heart")},
            "run",
            [Opened("s", 1, "covered by ε", "", "record", {"kind": "laplace"})],
        )


def test_a_sum_in_clear_is_charged_once(store: Store) -> None:
    result = runner(store, **RECORD, protocol="plain-insecure").run()
    assert spent(store, "site-0", "record") == pytest.approx(result.epsilon[0], rel=1e-9)


def test_left_is_allowed_less_spent_at_the_budgets_delta(store: Store) -> None:
    ledger = PartyLedger(store, "north", "heart")
    assert ledger.statement("record").left is None
    ledger.charge("run", [Charge("sum", SkellamEvent(1e4, 10.0, 10.0), "record")])
    tight, loose = ledger.statement("record", 1e-9).spent.epsilon, ledger.statement("record", 1e-2).spent.epsilon
    assert tight > loose
    store.set_budget(ledger.place, "record", Budget(2.0, 1e-2))
    assert ledger.statement("record", 1e-9).left == pytest.approx(2.0 - loose)


def test_the_same_rows_under_another_name_are_refused_in_any_order_and_others_are_not(store: Store) -> None:
    x, y = np.array([[1.0, np.nan], [3.0, 4.0], [0.0, 2.0]]), np.array(["a", None, "b"], dtype=object)
    PartyLedger(store, "north", "heart", digest_of((x, y)))
    PartyLedger(store, "north", "heart", digest_of((x, y)))
    with pytest.raises(UserError, match="under the name heart, not 'renamed.csv'|under the name heart, not renamed.csv"):
        PartyLedger(store, "north", "renamed.csv", digest_of((x[::-1], y[::-1])))
    PartyLedger(store, "south", "renamed.csv", digest_of((x, y)))
    PartyLedger(store, "north", "more", digest_of((x[:2], y[:2])))
    assert digest_of((x, y[::-1])) != digest_of((x, y))


BASE = ("run", "--rounds", "2", "--no-baselines", "--json")


def ran(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "securefl", *args], capture_output=True, text=True, check=False)


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    assert main(["budget", *args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_sets_shows_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "ledger.db")
    tree = shown(capsys, path, "--set", "site 1/breast-cancer", "3.0", "1e-5")
    assert tree["accounts"] == [
        {
            "party": "site 1",
            "data": "breast-cancer",
            "privacy": {
                "unit": "record",
                "epsilon": [0.0],
                "delta": 1e-5,
                "accountant": "rdp",
                "planned": 3.0,
                "left": 3.0,
                "opened": [],
            },
        }
    ]
    assert main(["budget", path, "--set", "site 9/breast-cancer", "1", "1e-5", "--unit", "party"]) == 0
    capsys.readouterr()
    first = ran(*BASE, "--ledger", path)
    assert first.returncode == 0
    assert any("site 9, which takes no part" in line for line in json.loads(first.stdout)["warnings"])
    tree = shown(capsys, path)
    account, told = tree["accounts"][0]["privacy"], json.loads(first.stdout)["privacy"]
    assert account["epsilon"] == pytest.approx(told["epsilon"][:1])
    assert account["left"] == pytest.approx(3.0 - account["epsilon"][0])
    assert {key: account[key] for key in ("unit", "delta", "accountant")} == {
        key: told[key] for key in ("unit", "delta", "accountant")
    }
    rows = {row["what"]: row for row in told["opened"]}
    assert [{**row, "run": ""} for row in account["opened"]] == [{**rows["sum of weighted updates"], "note": "", "run": ""}]
    weights = next(row for row in tree["exact"] if row["what"] == "sum of weights (row total)")
    assert {key: value for key, value in weights.items() if key not in ("party", "data", "run")} == rows[weights["what"]]
    second = ran(*BASE, "--ledger", path)
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr.startswith("securefl: 'site 1' has ε = 0.") or second.stderr.startswith("securefl: site 1 has ε = 0.")
    assert "breast-cancer" in second.stderr
    assert second.stderr.count("\n") == 1
    renamed = ran(*BASE, "--ledger", path, "--ledger-data", "another name")
    assert renamed.returncode == 2
    assert "under the name breast-cancer" in renamed.stderr
    assert main(["budget", path]) == 0
    assert "site 1/breast-cancer" in capsys.readouterr().out


def test_a_name_stands_on_one_line_of_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path, names = str(tmp_path / "ledger.db"), ["the hospital of the north/breast cancer, 2019 to 2024", "s/heart"]
    with Store(Path(path)) as store:
        for name in names:
            party, _, data = name.partition("/")
            PartyLedger(store, party, data).charge("run-0123456789abcdef", [CHARGE, Charge("weights", ExactEvent("rows"), None)])
            store.set_budget((party, data), "record", Budget(12.5, 1e-5))
    assert main(["budget", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in names:
        assert sum(line.startswith(name) for line in lines) == 3
    assert any("12.5" in line and "1e-05" in line for line in lines)


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--set", "north", "3", "1e-5"), "PARTY/DATA"),
        (("--set", "/heart", "3", "1e-5"), "PARTY/DATA"),
        (("--set", "north/heart", "0", "1e-5"), "above 0"),
        (("--set", "north/heart", "nan", "1e-5"), "finite"),
        (("--set", "north/heart", "3", "1"), "(0, 1)"),
        (("--unit", "party"), "--set"),
        (("--delta", "0"), "--delta"),
        ((), "No such file"),
    ],
)
def test_bad_input_of_the_command_is_one_line_and_makes_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], word: str
) -> None:
    path = tmp_path / "ledger.db"
    assert word in refused(capsys, "budget", str(path), *args)
    assert not path.exists()


def test_a_name_for_the_data_belongs_to_a_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    assert "without a ledger" in refused(capsys, "run", "--ledger-data", "heart")


def test_a_runner_is_handed_ledgers_and_no_file() -> None:
    with pytest.raises(UserError, match=r"privacy\.ledger is for securefl run"):
        Runner(linear, sites(), job=job(ledger="ledger.db"))


def test_infinite_cost_is_null_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ledger.db"
    with Store(path) as store:
        PartyLedger(store, "north", "heart").charge("run", [Charge("sum", SkellamEvent(0.0, 1.0, 1.0), "party")])
        assert PartyLedger(store, "north", "heart").statement("party").spent.epsilon == math.inf
    assert shown(capsys, str(path))["accounts"][0]["privacy"]["epsilon"] == [None]
