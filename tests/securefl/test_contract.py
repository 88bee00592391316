"""A job's data schema: part of the job's hash, and held against a table where its rows are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.policy import Policy
from protocols.rand import Replay
from protocols.ring import Ring
from protocols.secagg_parameters import Parameters
from protocols.suite import Occasion, session_id
from securefl import UserError
from securefl.cli import main
from securefl.data import load
from securefl.data.columns import Column
from securefl.data.contract import Contract, contract_of, violations
from securefl.data.public import own_table, public_of
from securefl.data.sources import Source
from securefl.job import Job
from securefl.options import command
from securefl.parties import Consortium
from securefl.shared_job import job_hash, run_name

SCHEMA = """\
[columns.chol]
unit = "mg/dL"
range = [50, 600]
median = [120, 350]
outside = 0.4
missing = 0.25
[columns.age]
dtype = "int"
unit = "years"
range = [18, 110]
[columns.ward]
dtype = "category"
values = ["icu", "er"]
"""
GOOD = "site,chol,age,ward,y\na,200,50,icu,1\na,210,60,er,0\na,,61,er,0\na,900,62,icu,1\nb,190,70,er,1\nb,220,71,er,0\n"
JOB = {"name": "t.csv", "label": "y", "site": "site"}


def folder(tmp_path: Path, table: str = GOOD, schema: str = SCHEMA, more: str = "") -> Path:
    (tmp_path / "schema.toml").write_text(schema)
    (tmp_path / "own.csv").write_text(table)
    text = f'[data]\nname = "own.csv"\nlabel = "y"\nsite = "site"\ncontract = "schema.toml"\n{more}'
    (tmp_path / "job.toml").write_text(text)
    return tmp_path


def test_a_job_takes_ranges_and_levels_from_its_schema(tmp_path: Path) -> None:
    job = Job.load(folder(tmp_path) / "job.toml")
    assert job.data.ranges == {"chol": (50.0, 600.0), "age": (18.0, 110.0)}
    assert job.data.levels == {"ward": ("icu", "er")}
    assert public_of(job).features == ("chol", "age", "ward=er")
    assert Job.parse(json.loads(json.dumps(job.plain()))) == job
    assert [word for word in command(job) if word.startswith(("--contract", "--range", "--levels"))] == ["--contract=schema.toml"]


def test_two_truths_are_refused_and_the_same_twice_is_not(tmp_path: Path) -> None:
    same = "[data.ranges]\nchol = [50, 600]\nage = [18, 110]\n"
    assert Job.load(folder(tmp_path, more=same) / "job.toml").data.contract is not None
    for other in ("[data.ranges]\nchol = [50, 601]\nage = [18, 110]\n", "[data.ranges]\nage = [18, 110]\nchol = [50, 600]\n"):
        with pytest.raises(UserError, match="data.ranges is refused beside data.contract"):
            Job.load(folder(tmp_path, more=other) / "job.toml")
    with pytest.raises(UserError, match="contract is refused for heart"):
        Job.parse({"data": {"name": "heart", "contract": contract_of(SCHEMA)}})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mg/dL", "mmol/L"), ("[120, 350]", "[120, 351]"), ("[50, 600]", "[50, 601]"), ("outside = 0.4", "outside = 0.2"),
        ("missing = 0.25", "missing = 0.2"), ('"int"', '"float"'), ('["icu", "er"]', '["er", "icu"]'),
        ("columns.age", "columns.years"),
    ],
)  # fmt: skip
def test_every_rule_is_in_the_hash_of_the_job_and_spaces_are_not(old: str, new: str) -> None:
    def hashed(text: str) -> bytes:
        return job_hash(Job.parse({"data": {**JOB, "contract": contract_of(text)}}))

    assert old in SCHEMA
    assert hashed(SCHEMA.replace(old, new)) != hashed(SCHEMA)
    assert hashed(SCHEMA.replace("\n", "\n\n") + "# a word\n") == hashed(SCHEMA)
    bare = {"ranges": {"chol": (50, 600), "age": (18, 110)}, "levels": {"ward": ["icu", "er"]}}
    assert job_hash(Job.parse({"data": {**JOB, **bare}})) != hashed(SCHEMA)


def test_the_schema_is_in_the_identity_of_every_session() -> None:
    """A run between machines is named after the job's hash, and the name is in sid: sites with two schemas share no sum."""
    roster, parameters = Consortium.of(["a", "b", "c"], Policy()).roster, Parameters(3, 2, 1, Ring(8), 2, 0)

    def sid(text: str) -> bytes:
        job = Job.parse({"data": {**JOB, "contract": contract_of(text)}})
        return session_id("suite", Occasion(run_name(job_hash(job), Replay("run")), 1), roster, parameters)

    assert sid(SCHEMA) == sid(SCHEMA + "# a word\n") != sid(SCHEMA.replace("mg/dL", "mmol/L"))


def test_the_order_of_columns_is_in_the_hash() -> None:
    parts = ["[columns" + part for part in SCHEMA.split("[columns")[1:]]
    assert contract_of("".join(parts)).digest != contract_of("".join(parts[::-1])).digest


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (GOOD.replace("chol", "cholesterol"), "column chol: the table does not have it"),
        (GOOD.replace("210", "").replace("200", ""), "column chol: 3 of 4 rows have no value; allowed: at most a share of 0.25"),
        (GOOD.replace("210", "five"), "column chol: it holds text"),
        (GOOD.replace("a,210", "a,inf"), "1 values are infinite"),
        (GOOD.replace("60,er", "60.5,er"), "column age: 1 of 4 values are no whole numbers"),
        (GOOD.replace("60,er", "6,er"), "column age: 1 of 4 values lie outside; found 6 to 62; allowed: 18 to 110 years"),
        (GOOD.replace("62,icu", "62,home"), "column ward: 1 of 4 values are none of the 2 listed; allowed: icu, er"),
        (GOOD.replace("200,50", "700,50"), "column chol: 2 of 3 values lie outside"),
        (GOOD.replace("200", "5.2").replace("210", "5.4").replace("900", "6"), "about 38 times too small: is it in mg/dL?"),
        (GOOD.replace("200", "60").replace("210", "70").replace("900", "80"), "column chol: the median is 70"),
    ],
)  # fmt: skip
def test_a_table_that_is_not_what_the_schema_says_is_told_column_by_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, line: str
) -> None:
    where = folder(tmp_path, table)
    with pytest.raises(UserError, match="nothing of it leaves") as found:
        own_table(Source(kind="csv", path=where / "own.csv"), Job.load(where / "job.toml"), "a")
    assert line in str(found.value)
    assert "\n" not in str(found.value)
    ask = ["doctor", "--job", str(where / "job.toml"), "--data", str(where / "own.csv"), "--site", "a"]
    assert main(ask) == 2
    said = capsys.readouterr().out.splitlines()
    assert any(line in one for one in said)
    assert main([*ask, "--json"]) == 2
    tree = json.loads(capsys.readouterr().out)
    assert len(tree["violations"]) == len(said) - 1


def test_the_other_unit_is_caught_in_both_directions() -> None:
    rules = {"mg/dL": ((50.0, 600.0), (120.0, 350.0)), "mmol/L": ((1.3, 15.5), (3.1, 9.0))}
    values = {"mg/dL": np.array([150.0, 210.0, 260.0]), "mmol/L": np.array([3.9, 5.4, 6.7])}
    for unit, (span, median) in rules.items():
        contract = Contract.model_validate({"columns": {"chol": {"unit": unit, "range": span, "median": median}}})
        for other, numbers in values.items():
            column = Column("chol", numbers.astype(str).astype(object), np.ones(3, dtype=bool), numbers, np.arange(3))
            assert bool(violations(contract, {"chol": column}, column.present)) == (other != unit)


def test_a_range_that_holds_both_units_needs_a_median() -> None:
    wide = {"unit": "mg/dL", "range": (0.0, 600.0)}
    numbers = np.array([3.9, 5.4, 6.7])
    column = Column("chol", numbers.astype(str).astype(object), np.ones(3, dtype=bool), numbers, np.arange(3))
    for median, caught in ((None, []), ((120.0, 350.0), ["median"])):
        contract = Contract.model_validate({"columns": {"chol": {**wide, "median": median}}})
        assert [one.rule for one in violations(contract, {"chol": column}, column.present)] == caught


@given(st.lists(st.one_of(st.none(), st.floats(-10, 10)), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_shares_are_counted_exactly(cells: list[float | None], missing: float, outside: float) -> None:
    numbers = np.array([np.nan if cell is None else cell for cell in cells])
    column = Column("u", np.full(len(cells), "", dtype=object), ~np.isnan(numbers), numbers, np.arange(len(cells)))
    rule = {"range": (-5.0, 5.0), "missing": missing, "outside": outside}
    found = {
        one.rule for one in violations(Contract.model_validate({"columns": {"u": rule}}), {"u": column}, np.ones(len(cells), bool))
    }
    given_ = [cell for cell in cells if cell is not None]
    assert ("missing" in found) == (cells.count(None) > missing * len(cells))
    assert ("range" in found) == (sum(not -5 <= cell <= 5 for cell in given_) > outside * len(given_))


def test_a_table_that_keeps_to_the_schema_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = folder(tmp_path)
    own = own_table(Source(kind="csv", path=where / "own.csv"), Job.load(where / "job.toml"), "a")
    assert own.x.tolist() == [[200.0, 50.0, 0.0], [210.0, 60.0, 1.0], [325.0, 61.0, 1.0], [900.0, 62.0, 0.0]]
    assert main(["doctor", "--schema", str(where / "schema.toml"), "--data", str(where / "own.csv"), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree == {"schema": contract_of(SCHEMA).digest, "rows": 6, "columns": 3, "violations": []}


def test_a_simulation_holds_every_site_to_the_schema_by_itself(tmp_path: Path) -> None:
    def loaded(table: str) -> object:
        (tmp_path / "own.csv").write_text(table)
        contract = contract_of(SCHEMA)
        about = {"label": "y", "site": "site", "ranges": contract.ranges, "levels": contract.levels, "contract": contract}
        return load(str(tmp_path / "own.csv"), **about).features  # type: ignore[arg-type]

    assert loaded(GOOD.replace("site,", "site,free,").replace("a,", "a,text,").replace("b,", "b,text,")) == (
        "chol",
        "age",
        "ward=er",
    )
    with pytest.raises(UserError, match="site 'b' is not what the schema says: column age: 1 of 2 values lie outside"):
        loaded(GOOD.replace("71", "7"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x", "is no TOML"),
        ("", "columns: Field required"),
        ("[columns]", "at least 1"),
        ("[columns.a]\nrange = [1, 1]", "the least first"),
        ("[columns.a]\n", "numbers need a range"),
        ("[columns.a]\nrange = [0, 1]\nmedian = [0, 2]", "within the range"),
        ("[columns.a]\nrange = [0, inf]", "finite"),
        ("[columns.a]\nrange = [0, 1]\nvalues = ['a', 'b']", "values belong to"),
        ("[columns.a]\ndtype = 'category'", "needs its values"),
        ("[columns.a]\ndtype = 'category'\nvalues = ['a', 'a']", "needs its values"),
        ("[columns.a]\nrange = [0, 1]\nrnge = 2", "unknown key"),
        ("[columns.'a=b']\nrange = [0, 1]", "without ="),
    ],
)
def test_a_schema_that_is_not_allowed_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as found:
        contract_of(text)
    assert "\n" not in str(found.value)


def test_doctor_asks_for_one_schema_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = folder(tmp_path)
    for line in (
        ["--data", str(where / "own.csv")],
        ["--data", "heart", "--schema", str(where / "schema.toml")],
        ["--data", str(where / "none.csv"), "--schema", str(where / "schema.toml")],
        ["--data", str(where / "own.csv"), "--job", str(where / "job.toml"), "--site", "z"],
    ):
        assert main(["doctor", *line]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1
        assert not said.out
