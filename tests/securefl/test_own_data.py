"""A party's own table, whatever it comes from: the same rows, the same checks, and no password in any error."""

from __future__ import annotations

import datetime as dt
import os
import sqlite3
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sql
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from securefl import UserError
from securefl.data import reading
from securefl.data.public import own_table, public_of
from securefl.data.sources import Source, own_places, read_source, source_of
from securefl.data.types import Site
from securefl.job import Job
from securefl.usercode import isolation
from securefl.usercode.isolation import Isolation

HEADER = ("age", "bp", "ward", "y", "site")
ROWS = [
    (50, 120.5, "icu", 1, "north"),
    (None, 110.0, "er", 0, "north"),
    (70, 130.25, "icu", 1, "south"),
    (60, None, "other words", None, "north"),
    (61, 99.0, "er", 1, "north"),
]


def job(**data: object) -> Job:
    tree = {"ranges": {"bp": (80.0, 200.0), "age": (20.0, 90.0)}, "levels": {"ward": ["icu", "er", "other"]}}
    return Job.parse({"data": {"name": "t.csv", "label": "y", "site": "site", **tree, **data}})


def as_csv(folder: Path, rows: list[tuple[object, ...]]) -> Source:
    path = folder / "own.csv"
    path.write_text("\n".join(",".join("" if cell is None else str(cell) for cell in row) for row in (HEADER, *rows)) + "\n")
    return Source(kind="csv", path=path)


def as_parquet(folder: Path, rows: list[tuple[object, ...]]) -> Source:
    columns = list(zip(*rows, strict=True))
    parquet.write_table(pa.table({name: list(cells) for name, cells in zip(HEADER, columns, strict=True)}), folder / "own.parquet")
    found = source_of(str(folder / "own.parquet"))
    assert found is not None
    return found


def as_sql(folder: Path, rows: list[tuple[object, ...]]) -> Source:
    (folder / "own.db").unlink(missing_ok=True)
    with sqlite3.connect(folder / "own.db") as base:
        base.execute("create table visits (years integer, bp real, ward text, y integer, site text)")
        base.executemany("insert into visits values (?, ?, ?, ?, ?)", rows)
    base.close()
    path = folder / "data.toml"
    path.write_text(f'kind = "sql"\nurl = "sqlite:///{folder}/own.db"\ntable = "visits"\n[columns]\nage = "years"\n')
    path.chmod(0o600)
    return read_source(path)


def as_loader(folder: Path, rows: list[tuple[object, ...]]) -> Source:
    (folder / "own_loader.py").write_text(
        f"import pandas\nfrom math import inf\ndef rows():\n    return pandas.DataFrame({rows!r}, columns={HEADER!r})\n"
    )
    sys.modules.pop("own_loader", None)
    path = folder / "data.toml"
    path.write_text('kind = "python"\nloader = "own_loader:rows"\nfolder = "."\n')
    path.chmod(0o644)
    return read_source(path)


WAYS = [as_csv, as_parquet, as_sql, as_loader]


def same(one: Site, other: Site) -> bool:
    pairs = ((one.x, other.x), (one.y, other.y), (one.missing, other.missing))
    return one.name == other.name and all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("way", WAYS)
def test_rows_are_the_same_whatever_they_come_from(tmp_path: Path, way: object) -> None:
    own = own_table(way(tmp_path, ROWS), job(), "north")  # type: ignore[operator]
    assert public_of(job()).features == ("bp", "age", "ward=er", "ward=other")
    assert own.x.tolist() == [[120.5, 50.0, 0.0, 0.0], [110.0, 55.0, 1.0, 0.0], [99.0, 61.0, 1.0, 0.0]]
    assert own.y.tolist() == [1, 0, 1]
    assert own.missing is not None
    assert own.missing.sum() == 1


CELLS = st.tuples(
    st.one_of(st.none(), st.integers(-5, 150)),
    st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)),
    st.sampled_from([None, "icu", "er", "x y", "NA"]),
    st.sampled_from([None, 0, 1]),
    st.just("north"),
)


@given(rows=st.lists(CELLS, min_size=1, max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_are_the_same_or_refused_alike(tmp_path: Path, rows: list[tuple[object, ...]]) -> None:
    found: list[Site | str] = []
    for way in WAYS:
        source = way(tmp_path, rows)
        try:
            found.append(own_table(source, job(), "north"))
        except UserError as error:
            found.append(str(error).replace(str(source), "it").partition(" in line")[0].partition(" in row")[0])
    for other in found[1:]:
        if isinstance(found[0], Site):
            assert isinstance(other, Site), other
            assert same(found[0], other)
        else:
            assert isinstance(other, str)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("row", "why"),
    [
        ((50, 120.0, "icu", 2, "north"), "label column 'y' .* must hold 0 or 1"),
        (("old", 120.0, "icu", 1, "north"), "the column 'age' .* holds text"),
        ((50, float("inf"), "icu", 1, "north"), "'bp' holds an infinite number"),
    ],
)
def test_what_a_csv_is_refused_for_the_others_are_too(tmp_path: Path, way: object, row: tuple[object, ...], why: str) -> None:
    if way is as_parquet and row[0] == "old":
        rows: list[tuple[object, ...]] = [("old", 120.0, "icu", 1, "north")]  # a Parquet column is of one type
    else:
        rows = [*ROWS[:1], row]
    with pytest.raises(UserError, match=why) as found:
        own_table(way(tmp_path, rows), job(), "north")  # type: ignore[operator]
    assert "\n" not in str(found.value)


def test_numbers_of_every_kind_are_numbers_and_dates_are_not(tmp_path: Path) -> None:
    day = dt.datetime(2024, 1, 2, tzinfo=dt.UTC)
    table = {
        "a": np.array([Decimal("1.5"), None], dtype=object),
        "b": pd.array([1, None], dtype="Int64"),
        "c": np.array([True, False]),
        "d": np.array(["2024-01-02", "NaT"], dtype="datetime64[ns]"),
        "e": np.array([day, None], dtype=object),
        "f": np.array([" 1.5 ", "NA"]),
    }
    found = reading.gathered(list(table), [{n: np.asarray(v) for n, v in table.items()}], Source(kind="csv", path=tmp_path / "x"))
    numbers = {name: column.numbers for name, column in found.items()}
    assert {name for name, values in numbers.items() if values is None} == {"d", "e"}
    assert np.array_equal(numbers["a"], [1.5, np.nan], equal_nan=True)
    assert np.array_equal(numbers["b"], [1.0, np.nan], equal_nan=True)
    assert np.array_equal(numbers["f"], [1.5, np.nan], equal_nan=True)


def test_a_file_of_sqlite_is_taken_from_the_folder_of_data_toml_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    source = as_sql(tmp_path / "own", [(44, 1.0, "icu", 1, "north")])
    path = tmp_path / "own" / "data.toml"
    path.write_text(path.read_text().replace(f"{tmp_path / 'own'}/", ""))
    monkeypatch.chdir(tmp_path)
    assert read_source(path).read(["age"]) == source.read(["age"])
    (tmp_path / "own" / "own.db").unlink()
    with pytest.raises(UserError, match=r"cannot be reached \(no such file\)"):
        read_source(path).read(["age"])
    assert not (tmp_path / "own" / "own.db").exists()
    assert not (tmp_path / "own.db").exists()


PASSWORD = "hunter2-5up3r"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://reader:{PASSWORD}@127.0.0.1:1/ward",
        f"postgresql+psycopg://reader:x@{PASSWORD}@127.0.0.1:1/ward",
        f"nosuch://reader:{PASSWORD}@127.0.0.1:1/ward",
        f"{PASSWORD}",
        f"sqlite:////no/such/{PASSWORD}/x.db",
    ],
)
def test_no_error_shows_the_password_of_a_database(tmp_path: Path, url: str) -> None:
    path = tmp_path / "data.toml"
    path.write_text(f'kind = "sql"\nurl = "{url}"\nquery = "select 1"\n')
    path.chmod(0o600)
    with pytest.raises(UserError) as found:
        read_source(path).read(["age"])
    assert PASSWORD not in f"{found.value!r}{found.value}{found.value.__notes__ if hasattr(found.value, '__notes__') else ''}"
    assert "\n" not in str(found.value)
    assert PASSWORD not in str(read_source(path))
    path.write_text(f'kind = "sql"\nurl = "{url}"\nquery "{PASSWORD}"\n')
    with pytest.raises(UserError) as found:
        read_source(path)
    assert PASSWORD not in str(found.value)


def test_a_password_stands_in_a_file_that_its_owner_alone_reads(tmp_path: Path) -> None:
    source = as_sql(tmp_path, ROWS)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "password").chmod(0o644)
    with pytest.raises(UserError, match="others may read"):
        source.model_copy(update={"password_file": tmp_path / "password"}).read(["age"])
    (tmp_path / "data.toml").chmod(0o644)
    with pytest.raises(UserError, match="others may read it"):
        read_source(tmp_path / "data.toml")
    (tmp_path / "data.toml").chmod(0o620)
    with pytest.raises(UserError, match="others may write it"):
        read_source(tmp_path / "data.toml")


def test_a_query_changes_nothing_and_what_the_database_refuses_is_one_line(tmp_path: Path) -> None:
    source = as_sql(tmp_path, ROWS)
    changing = source.model_copy(update={"table": None, "query": "update visits set y = 1 returning years, y"})
    changing.read(["age", "y"])
    assert own_table(source, job(), "north").y.tolist() == [1, 0, 1]
    with pytest.raises(UserError, match="no such table: nowhere") as found:
        source.model_copy(update={"table": None, "query": "select * from nowhere"}).read(["age"])
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "kind: Field required"),
        ('kind = "csv"', "path is missing"),
        ('kind = "csv"\npath = "x.csv"\nquery = "select 1"', "query is refused"),
        ('kind = "sql"\nurl = "sqlite://"', "a query or a table"),
        ('kind = "python"\nloader = "os; x:y"', "loader"),
        ('kind = "csv"\npath = "x.csv"\npth = "y"', "pth: unknown key"),
        ('kind = "csv"\npath = "x.csv"\nwhere = "y"', "unknown key where"),
    ],
)
def test_a_configuration_that_is_not_allowed_is_refused_in_one_line(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "data.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UserError, match=why) as found:
        read_source(path)
    assert "\n" not in str(found.value)


def test_a_table_that_would_not_fit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_CELLS", 20)
    monkeypatch.setattr(reading, "BLOCK", 2)
    for way in (as_parquet, as_sql, as_loader):
        with pytest.raises(UserError, match="at most 4 rows are read"):
            way(tmp_path, ROWS).read(HEADER)
    monkeypatch.setattr(reading, "MOST_CELLS", 25)
    assert all(len(way(tmp_path, ROWS).read(HEADER)["bp"].present) == 5 for way in (as_parquet, as_sql, as_loader))


def test_what_a_loader_returns_must_be_a_table(tmp_path: Path) -> None:
    for body, why in (
        ("return 3", "returned a int"),
        ("raise KeyError('x')", "failed: KeyError"),
        ("return {'age': [[1]]}", "shape"),
    ):
        (tmp_path / "own_loader.py").write_text(f"def rows():\n    {body}\n")
        sys.modules.pop("own_loader", None)
        with pytest.raises(UserError, match=why):
            Source(kind="python", loader="own_loader:rows", folder=tmp_path).read(["age"])
    with pytest.raises(UserError, match="the list of processes"):
        source_of("sql:postgresql://x")
    assert source_of("heart") is None


def test_rows_come_from_postgresql_too(tmp_path: Path) -> None:
    server = os.environ.get("SECUREFL_POSTGRES")
    if not server:
        pytest.skip("SECUREFL_POSTGRES names no server to test against")
    engine = sql.create_engine(server)
    with engine.begin() as base:
        base.execute(
            sql.text("create table visits_here (age integer, bp numeric(6, 2), ward text, y boolean, site text, seen date)")
        )
        made = [(a, b, w, None if y is None else bool(y), s) for a, b, w, y, s in ROWS]
        rows = [{"a": a, "b": b, "w": w, "y": y, "s": s} for a, b, w, y, s in made]
        base.execute(sql.text("insert into visits_here values (:a, :b, :w, :y, :s, '2024-01-02')"), rows)
    try:
        path = tmp_path / "data.toml"
        path.write_text(f'kind = "sql"\nurl = "{server}"\npassword_file = "password"\ntable = "visits_here"\n')
        (tmp_path / "password").write_text(PASSWORD)
        for one in (path, tmp_path / "password"):
            one.chmod(0o600)
        source = read_source(path)
        assert same(own_table(source, job(), "north"), own_table(as_csv(tmp_path, ROWS), job(), "north"))
        assert source.read(["seen"])["seen"].numbers is None
        asking = source.model_copy(update={"table": None, "query": "select age / 0 as age from visits_here"})
        with pytest.raises(UserError, match="the database refuses: division by zero") as found:
            asking.read(["age"])
        assert PASSWORD not in str(found.value)
        deleting = source.model_copy(update={"table": None, "query": "delete from visits_here returning age"})
        with pytest.raises(UserError, match="the database refuses"):  # a cursor is for a SELECT
            deleting.read(["age"])
        assert len(own_table(source, job(), "north").y) == 3
    finally:
        with engine.begin() as base:
            base.execute(sql.text("drop table visits_here"))
        engine.dispose()


@pytest.mark.parametrize(
    "said",
    [
        'kind = "csv"\npath = "shown/rows"\n',
        'kind = "parquet"\npath = "shown/rows"\n',
        'kind = "sql"\nurl = "postgresql+psycopg://reader@db/ward"\ntable = "t"\npassword_file = "shown/rows"\n',
        'kind = "sql"\nurl = "sqlite:///{}/shown/rows"\ntable = "t"\n',
        'kind = "python"\nloader = "own:rows"\nfolder = "shown"\n',
    ],
)
def test_where_a_jobs_code_could_read_what_a_configuration_names_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "rows").write_text("")
    path = tmp_path / "data.toml"
    path.write_text(said.format(tmp_path))
    path.chmod(0o600)
    Isolation(private=own_places(str(path))).command([])
    monkeypatch.setattr(isolation, "visible", lambda: iter([tmp_path / "shown"]))
    Isolation(private=(path,)).command([])  # the file that says so lies elsewhere
    with pytest.raises(UserError, match="which a job's code can read: move it elsewhere"):
        Isolation(private=own_places(str(path))).command([])


def test_a_table_that_the_party_names_as_the_job_does_is_its_table(tmp_path, monkeypatch):
    from securefl.cli_own import own_rows
    from securefl.job import Job

    monkeypatch.chdir(tmp_path)
    (tmp_path / "ward.csv").write_text("site,age,died\nnorth,34,0\nnorth,71,1\nsouth,58,0\n")
    job = Job.parse({"data": {"name": "ward.csv", "label": "died", "site": "site", "ranges": {"age": [0, 120]}}})
    assert own_rows(job, "ward.csv", "north", None, ["north", "south"]).y.tolist() == [0, 1]
