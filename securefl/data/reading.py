"""Parquet, SQL and a party's own function read into columns, block by block, and no more than fits.

Numbers are taken as they are; text goes the way of a CSV's cells, so that "1.5", "NA" and spaces mean the same everywhere.

What it does not protect: see `securefl.data.sources`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from securefl.data.columns import Column, column_of
from securefl.errors import UserError, quoted

if TYPE_CHECKING:
    from securefl.data.sources import Source

BLOCK = 1 << 16
"""Rows that are read together."""
MOST_CELLS = 1 << 28
"""Cells of a table that is read: 2 GiB as numbers."""

Block = Mapping[str, NDArray[Any]]


def read_parquet(source: Source, wanted: Sequence[str]) -> dict[str, Column]:
    """The wanted columns of a Parquet file; only these are read.

    Raises:
        UserError: no such file, none of Parquet, too large, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise UserError(f"{source.path}: reading Parquet needs pyarrow: pip install securefl[parquet]") from None
    try:
        with parquet.ParquetFile(source.path) as file:
            twice = [name for name in wanted if file.schema_arrow.names.count(name) > 1]
            if twice:
                raise UserError(f"{source} has more than one column named {twice[0]!r}: each name once")
            here = [name for name in wanted if name in file.schema_arrow.names]
            refuse_too_many(file.metadata.num_rows, len(here), source)
            blocks = ({n: _of_arrow(batch.column(n)) for n in here} for batch in file.iter_batches(BLOCK, columns=here))
            return gathered(here, blocks, source)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or "it is no Parquet file that pyarrow reads"
        raise UserError(f"{source} cannot be read: {reason}") from None


def _of_arrow(array: Any) -> NDArray[Any]:
    import pyarrow as pa  # noqa: PLC0415

    kind = array.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind):
        found: NDArray[Any] = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return found
    return np.array(array.to_pylist(), dtype=object)


def read_sql(source: Source, wanted: Sequence[str]) -> dict[str, Column]:
    """The wanted columns of a query's or a table's rows, in a transaction that is rolled back.

    Raises:
        UserError: the database is out of reach, or refuses; without its address, and without its words where it was not reached.
    """
    import sqlalchemy as sql  # noqa: PLC0415

    from securefl.transport.keyfiles import read_secret  # noqa: PLC0415

    url, where = _url(source), source.where
    if source.password_file is not None:
        url = url.set(password=read_secret(source.password_file).decode().rstrip("\r\n"))
    try:
        engine = sql.create_engine(url, poolclass=sql.NullPool, hide_parameters=True)
        connection = engine.connect()
    except Exception as error:  # noqa: BLE001  (a driver's own errors, whose text may show the address)
        raise UserError(f"{where}: the database of url cannot be reached ({type(error).__name__})") from None
    try:
        with connection:
            asked: Any = sql.text(source.query) if source.query else _of_table(source.table or "", wanted, connection)
            rows = connection.execution_options(stream_results=True).execute(asked)
            names = list(rows.keys())
            here = [name for name in wanted if name in names]
            if any(names.count(name) > 1 for name in here):
                raise UserError(f"{where}: the query gives two columns of one name")
            at = [names.index(name) for name in here]
            blocks = (
                {name: np.array([row[i] for row in block], dtype=object) for name, i in zip(here, at, strict=True)}
                for block in rows.partitions(BLOCK)
            )
            try:
                return gathered(here, blocks, source)
            finally:
                rows.close()
                connection.rollback()
    except sql.exc.SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).strip().splitlines()
        secret = url.password if isinstance(url.password, str) else ""
        line = (said or [""])[0][:200]
        raise UserError(f"{where}: the database refuses: {line.replace(secret, '…') if secret else line}") from None
    finally:
        engine.dispose()


def _url(source: Source) -> Any:
    import sqlalchemy as sql  # noqa: PLC0415

    try:
        url = sql.make_url(source.url or "")
    except (sql.exc.ArgumentError, ValueError):
        raise UserError(f"{source.where}: url is no address of a database, such as postgresql+psycopg://user@host/name") from None
    return _of_file(url, source) if url.get_backend_name() == "sqlite" else url


def _of_file(url: Any, source: Source) -> Any:
    """SQLite's address with its file taken from the source's folder; SQLite itself would make one that is not there, empty."""
    if url.database in {None, "", ":memory:"} or url.database.startswith("file:"):
        return url
    path = Path(source.where).parent / url.database
    if not path.is_file():
        raise UserError(f"{source.where}: the database of url cannot be reached (no such file)")
    return url.set(database=str(path))


def _of_table(name: str, wanted: Sequence[str], connection: Any) -> Any:
    import sqlalchemy as sql  # noqa: PLC0415

    schema, _, table = name.rpartition(".")
    known = sql.Table(table, sql.MetaData(), schema=schema or None, autoload_with=connection)
    return sql.select(*(known.c[column] for column in wanted if column in known.c))


def run_loader(source: Source, wanted: Sequence[str]) -> dict[str, Column]:
    """What the party's own function returns: a mapping from names to columns, a pandas DataFrame or a pyarrow Table.

    Raises:
        UserError: there is no such function, it fails, or returns something else.
    """
    module, _, name = (source.loader or "").partition(":")
    before = list(sys.path)
    try:
        if source.folder is not None:
            sys.path.insert(0, str(source.folder))
        try:
            found = getattr(importlib.import_module(module), name)()
        finally:
            sys.path[:] = before
    except Exception as error:
        raise UserError(f"{source}: the loader failed: {type(error).__name__}: {error}") from error
    if hasattr(found, "column_names") and hasattr(found, "to_pandas"):
        found = {str(one): _of_arrow(found.column(one).combine_chunks()) for one in found.column_names if one in wanted}
    if not isinstance(found, Mapping) and not hasattr(found, "columns"):
        raise UserError(f"{source} returned a {type(found).__name__}: a mapping from names to columns, or a DataFrame, is a table")
    here = [one for one in wanted if one in found]
    table = {one: np.asarray(found[one]) for one in here}
    odd = next((one for one, values in table.items() if values.ndim != 1 or len(values) != len(table[here[0]])), None)
    if odd is not None:
        raise UserError(f"{source}: the column {odd!r} has shape {table[odd].shape}: every column is one value a row")
    return gathered(here, [table] if here else [], source)


def refuse_too_many(rows: int, width: int, source: Source) -> None:
    """Refuse a table of more than `MOST_CELLS`.

    Raises:
        UserError: with the numbers.
    """
    if rows * width > MOST_CELLS:
        raise UserError(f"{source} has {rows} rows or more of {width} columns: at most {MOST_CELLS // max(1, width)} rows are read")


def gathered(names: Sequence[str], blocks: Iterable[Block], source: Source) -> dict[str, Column]:
    """Columns out of blocks of rows, each a column of numbers where all its blocks are.

    Raises:
        UserError: there are no rows, or too many, or text that is not printable.
    """
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for block in _counted(blocks, len(names), source):
        for name in names:
            parts[name].append(_numbers(block[name]))
    if names and not parts[names[0]]:
        raise UserError(f"{source} has no rows")
    return {name: _column(name, parts.pop(name), source) for name in names}


def _counted(blocks: Iterable[Block], width: int, source: Source) -> Iterator[Block]:
    rows = 0
    for block in blocks:
        size = len(next(iter(block.values()), ()))
        rows += size
        refuse_too_many(rows, width, source)
        if size:
            yield block


def _numbers(values: NDArray[Any]) -> NDArray[Any]:
    """As float64 where every value is a number or missing, else as they are; text may be numbers, as in a CSV."""
    import pandas as pd  # noqa: PLC0415 - slow to import

    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    if values.dtype.kind != "O":
        return values.astype(str).astype(object)  # dates among them, which are no numbers
    values = np.where(pd.isna(values), np.array(None, dtype=object), values)
    if any(isinstance(value, str | bytes) for value in values.tolist()):
        return values
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        return values


def _column(name: str, parts: list[NDArray[Any]], source: Source) -> Column:
    rows = np.arange(1, sum(map(len, parts)) + 1)
    if all(part.dtype == np.float64 for part in parts):
        numbers = np.concatenate(parts)
        blank = np.broadcast_to(np.array("", dtype=object), rows.shape)
        return Column(name, blank, ~np.isnan(numbers), numbers, rows, counted="row", bare=True)
    texts = [_text(value) for part in parts for value in part.tolist()]
    if not all(text.isprintable() for text in texts):
        raise UserError(f"{source}: the column {quoted(name)} has a control character: text must be printable")
    made = column_of(name, texts, rows)
    return replace(made, counted="row")


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.12g}" if isinstance(value, float) else " ".join(str(value).split())
