"""Where a party's own rows come from: a CSV or Parquet file, a query to a database, a function of the party's own, or a folder.

The party says it in a file on its own disk (`read_source`), or by a file's name.  Whatever it is becomes the same `Column`s, so
that what follows checks them alike.  Nothing of this file leaves the party.

What it does not protect: a function of the party's own runs with all that the party may do; whoever may write the configuration may
name another.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from securefl.data import columns
from securefl.data.columns import Column
from securefl.errors import UserError
from securefl.files import refuse_writable

Text = Annotated[str, Field(min_length=1, max_length=100_000)]
NEEDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "csv": (("path",), ()),
    "parquet": (("path",), ()),
    "sql": (("url",), ("query", "table", "password_file")),
    "python": (("loader",), ("folder",)),
    "eicu": (("path",), ()),
}
"""By kind, the keys that it needs and those that it may have, besides ``columns``."""


class Source(BaseModel):
    """A party's own data.

    Attributes:
        kind: what they are.
        path: of a file; of ``eicu``, a folder with its tables.
        url: of a database, as SQLAlchemy has it.
        password_file: holds the password that the URL leaves out.
        query: one SELECT.
        table: whose rows are taken, where there is no query.
        loader: ``module:function``, which returns a table.
        folder: that the module is in, where it is not installed.
        columns: a column's name here, by its name in the job, where they differ.
        where: the file that says so, for errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    kind: Literal["csv", "parquet", "sql", "python", "eicu"]
    path: Annotated[Path, Field(strict=False)] | None = None
    url: Text | None = None
    password_file: Annotated[Path, Field(strict=False)] | None = None
    query: Text | None = None
    table: Text | None = None
    loader: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    folder: Annotated[Path, Field(strict=False)] | None = None
    columns: dict[str, Text] = Field(default_factory=dict)
    where: str = "--data"

    @model_validator(mode="after")
    def _fitting(self) -> Source:
        needed, may = NEEDS[self.kind]
        for key in needed:
            if getattr(self, key) is None:
                raise ValueError(f'{key} is missing: kind = "{self.kind}" needs it')
        for key in {key for keys in NEEDS.values() for part in keys for key in part} - {*needed, *may}:
            if getattr(self, key) is not None:
                raise ValueError(f'{key} is refused: it does not belong to kind = "{self.kind}"')
        if self.kind == "sql" and (self.query is None) == (self.table is None):
            raise ValueError('kind = "sql" needs a query or a table, one of them')
        return self

    @property
    def places(self) -> tuple[Path, ...]:
        """Files and folders of the party's own that it names, that of a database among them."""
        base = (self.url or "").partition(":///")[2].partition("?")[0] if (self.url or "").startswith("sqlite") else ""
        found = (self.path, self.password_file, self.folder, Path(base) if base else None)
        return tuple(path for path in found if path is not None)

    def __str__(self) -> str:
        """What it is, for errors, without the address of a database, which may hold a password."""
        if self.kind == "sql":
            return f"the database of {self.where}"
        return str(self.path) if self.path is not None else f"{self.loader}"

    def read(self, wanted: Collection[str]) -> dict[str, Column]:
        """Those of the wanted columns that there are, by their names in the job.

        Raises:
            UserError: the rows cannot be had, or are no table.
        """
        if self.kind == "eicu":
            raise UserError(f"{self} is a folder of eICU's tables, and the job is about a table of its own (data.name)")
        here = {name: self.columns.get(name, name) for name in wanted}
        if self.kind == "csv" and self.path is not None:
            found = {column.name: column for column in columns.read(self.path) if column.name}
        else:
            from securefl.data.reading import read_parquet, read_sql, run_loader  # noqa: PLC0415  (loads pandas)

            found = {"parquet": read_parquet, "sql": read_sql, "python": run_loader}[self.kind](self, sorted({*here.values()}))
        return {name: replace(found[own], name=name) for name, own in here.items() if own in found}

    def names(self) -> str:
        """How the columns are called here, where they differ, for errors."""
        return "; ".join(f"{name} is {own} here" for name, own in self.columns.items())


def source_of(data: str) -> Source | None:
    """What ``--data`` says: a file's name, ``python:module:function``, a configuration or a folder; None for a known data set.

    Raises:
        UserError: for a configuration that is not allowed, or another form.
    """
    kind, _, rest = data.partition(":")
    lower = data.lower()
    if lower.endswith(".toml"):
        return read_source(Path(data))
    if lower.endswith((".csv", ".parquet")):
        return Source(kind="csv" if lower.endswith(".csv") else "parquet", path=Path(data))
    if Path(data).is_dir():
        return Source(kind="eicu", path=Path(data))
    if kind == "python":
        return _checked({"kind": "python", "loader": rest}, "--data")
    if kind == "sql":
        raise UserError(
            '--data sql:… is refused, as the list of processes would show it: write kind = "sql", url and query into a file, and '
            "give --data FILE.toml"
        )
    return None


def own_places(data: str) -> tuple[Path, ...]:
    """Where a party's rows lie, and what leads to them: files and folders that a job's code must not see."""
    source = source_of(data)
    return tuple(path for path in (Path(data), *(source.places if source is not None else ())) if path.exists())


def read_source(path: Path) -> Source:
    """A party's configuration of its data; paths in it are relative to its folder.

    Raises:
        UserError: it cannot be read, others may write it, others may read a password in it, or a key is not allowed.
    """
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
        tree = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    except (tomllib.TOMLDecodeError, RecursionError):
        raise UserError(f"{path} is no TOML") from None  # the reason may quote a line with a password
    refuse_writable(str(path), mode)
    if "url" in tree and mode & (stat.S_IRGRP | stat.S_IROTH):
        raise UserError(f"{path} is refused: others may read it, and the address of a database may hold a password (chmod 600)")
    for key in ("path", "folder", "password_file"):
        if isinstance(tree.get(key), str):
            tree[key] = os.path.normpath(path.parent / tree[key])
    if "where" in tree:
        raise UserError(f"{path}: unknown key where")
    return _checked({**tree, "where": str(path)}, str(path))


def _checked(tree: dict[str, object], where: str) -> Source:
    try:
        return Source.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        named = ".".join(str(part) for part in first["loc"])
        kind = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {named}: {kind}" if named else f"{where}: {kind}") from None
