"""Brings a database to the tables of this version, by Alembic."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from securefl.errors import UserError

_TURN = threading.Lock()
"""Alembic keeps what it migrates in globals: one migration at a time, whatever the threads."""


def configured(connection: Connection | None = None) -> Config:
    """Alembic's configuration: the migrations of this package."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def bring_up(connection: Connection, where: str) -> None:
    """Make or migrate the tables, inside of the connection's transaction.

    Raises:
        UserError: a database of another program, or of a later version.
    """
    config = configured(connection)
    with _TURN:
        scripts = ScriptDirectory.from_config(config)
        known, newest = {script.revision for script in scripts.walk_revisions()}, scripts.get_current_head()
    found = MigrationContext.configure(connection).get_current_revision()
    if found is None and inspect(connection).get_table_names():
        raise UserError(f"the store {where} cannot be used: it is a database of another program")
    if found is not None and found not in known:
        raise UserError(f"the store {where} cannot be used: its tables are of version {found}, and this program knows {max(known)}")
    if found != newest:  # else a store that hangs would hold all others
        with _TURN:
            command.upgrade(config, "head")
