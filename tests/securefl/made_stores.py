"""Databases for tests, over SQLite and over PostgreSQL, and runs in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from securefl.store import HeldRun, RunStore

JOB = "ab" * 32


def clock() -> datetime:
    return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of its own for each test."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'server.db'}"
        return
    server = os.environ.get("SECUREFL_POSTGRES")
    if not server:
        pytest.skip("SECUREFL_POSTGRES names no server to test against")
    name, engine = (
        f"securefl_{os.getpid()}_{abs(hash(request.node.name)) % 10**9}",
        create_engine(server, isolation_level="AUTOCOMMIT"),
    )
    with engine.connect() as base:
        base.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            base.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def hold(url: str, run: str = "trial", rounds: int = 3, job: str = JOB, cohort: str = JOB) -> HeldRun:
    return RunStore(url, clock=clock).hold(run, job=job, cohort=cohort, text="[privacy]", rounds=rounds)
