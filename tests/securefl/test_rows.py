"""The digest of a party's rows: what does not change it, what does, and that a new name starts no new budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from stub_runner import refused

from securefl import UserError
from securefl.cli import main
from securefl.privacy.budget import Charge, PartyLedger
from securefl.privacy.events import DpSgdEvent
from securefl.privacy.rows import digest_of
from securefl.privacy.store import Budget, Store

ROWS = 40
CHARGE = Charge("sum of updates", DpSgdEvent(2.0, 0.1, 3), "record")
SEEDS = st.integers(0, 2**32 - 1)


def table(rng: np.random.Generator) -> list[NDArray[Any]]:
    """A score with gaps, a dose without ties, a number of visits with many, and a yes or no."""
    score = np.where(rng.random(ROWS) < 0.2, np.nan, rng.normal(120, 20, ROWS).round(1))
    return [score, rng.normal(size=ROWS), rng.poisson(2.0, ROWS).astype(float), rng.integers(0, 2, ROWS)]


@given(seed=SEEDS, scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3), down=st.booleans())
def test_order_of_rows_and_columns_units_and_another_label_do_not_change_it(
    seed: int, scale: float, shift: float, down: bool
) -> None:
    rng = np.random.default_rng(seed)
    columns = table(rng)
    before = digest_of((np.column_stack(columns[:3]), columns[3]))
    rows, order, at = rng.permutation(ROWS), rng.permutation(4), int(rng.integers(4))
    changed = [column[rows] for column in columns]
    changed[at] = (-scale if down else scale) * changed[at].round(1) + shift if at != 1 else np.exp(changed[1])
    changed = [changed[i] for i in order]
    assert digest_of((np.column_stack(changed[:3]), changed[3])) == before
    assert digest_of([*changed, np.full(ROWS, 7.0), changed[0] * 2]) == before


@given(seed=SEEDS)
def test_texts_count_by_who_shares_one_and_equal_yes_and_no_as_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    *rest, label = table(rng)
    words = np.array(["well", "ill"], dtype=object)[label]
    assert digest_of([*rest, words]) == digest_of([words, *rest]) == digest_of([*rest, label])
    wards = rng.integers(0, 5, ROWS)
    named, other = np.array(list("abcde"), dtype=object)[wards], np.array(list("zkcxq"), dtype=object)[wards]
    assert digest_of([*rest, named]) == digest_of([*rest, other]) != digest_of(rest)


@given(seed=SEEDS)
def test_a_value_in_another_row_a_row_less_and_other_rows_change_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = table(rng)
    before = digest_of(columns)
    swapped = columns[1].copy()
    a, b = np.argsort(swapped)[:2]
    swapped[[a, b]] = swapped[[b, a]]
    if columns[2][a] != columns[2][b]:
        assert digest_of([columns[0], swapped, *columns[2:]]) != before
    assert digest_of([column[:-1] for column in columns]) != before
    assert digest_of(columns[:3]) != before
    assert digest_of(table(np.random.default_rng([seed, 1]))) != before


def test_tables_that_ranks_cannot_tell_apart_count_by_their_values() -> None:
    one, other = np.arange(50.0), np.arange(50.0) ** 2
    assert digest_of([one]) == digest_of([one[::-1]]) != digest_of([other])
    few = [np.array([1.0, 2.0, 3.0]), np.array([5.0, 4.0, 6.0])]
    assert digest_of(few) == digest_of([c[::-1] for c in few]) != digest_of([few[0], few[1] + 0.5])
    assert digest_of([]) != digest_of(few)


def test_the_same_rows_with_columns_in_another_order_and_unit_are_refused_under_another_name() -> None:
    columns = table(np.random.default_rng(3))
    changed = [columns[3], columns[0] * 0.0259, columns[2], columns[1]]
    with Store() as store:
        PartyLedger(store, "north", "heart", digest_of(columns))
        with pytest.raises(UserError, match="under the name heart"):
            PartyLedger(store, "north", "renamed.csv", digest_of(changed))


def test_a_party_with_a_budget_takes_no_part_with_a_name_that_has_none() -> None:
    with Store() as store:
        store.set_budget(("north", "heart"), "record", Budget(3.0, 1e-5))
        why = PartyLedger(store, "north", "heart copy").refusal([CHARGE])
        assert "north has a budget for heart and none for the data set" in why
        assert not PartyLedger(store, "south", "heart copy").refusal([CHARGE])
        store.set_budget(("north", "heart copy"), "record", Budget(9.0, 1e-5))
        assert not PartyLedger(store, "north", "heart copy").refusal([CHARGE])


WARD = "ward,age,dose,stay,ill\n"


def written(path: Path, *, head: str = WARD, order: str = "01234", factor: float = 1.0) -> Path:
    rng = np.random.default_rng(5)
    names = head.strip().split(",")
    lines = [",".join(names[int(i)] for i in order)]
    for row in range(60):
        age = "" if row % 9 == 0 else f"{rng.integers(20, 90)}"
        cells = [f"w{row % 3}", age, f"{rng.integers(10, 99) * factor:g}", f"{rng.integers(1, 30)}", f"{rng.integers(0, 2)}"]
        lines.append(",".join(cells[int(i)] for i in order))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_run_finds_the_table_again_after_columns_and_a_unit_changed_and_where_a_gap_is_filled_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = str(tmp_path / "ledger.db")
    common = ("--site", "ward", "--label", "ill", "--rounds", "1", "--no-baselines", "--json", "--ledger", ledger)
    first, second = written(tmp_path / "a.csv"), written(tmp_path / "b.csv", order="42310", factor=0.5)
    ranges = ("--range", "stay=0:40", "--range")
    assert main(["run", "--data", str(first), *common, *ranges, "age=0:100", "--range", "dose=0:100"]) == 0
    capsys.readouterr()
    line = refused(capsys, "run", "--data", str(second), *common, *ranges, "age=0:120", "--range", "dose=0:50")
    assert "are in the ledger under the name a.csv" in line
    assert main(["budget", ledger, "--set", "w0/a.csv", "9", "1e-5"]) == 0
    less = written(tmp_path / "c.csv")
    less.write_text("\n".join(less.read_text().splitlines()[:-3]) + "\n")
    capsys.readouterr()
    line = refused(capsys, "run", "--data", str(less), *common, *ranges, "age=0:100", "--range", "dose=0:100")
    assert "w0 has a budget for a.csv and none for the data set c.csv" in line
