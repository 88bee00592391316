"""The tables of a server's store; `migrations` holds how they came to be, and a test holds both equal.

Times are UTC without a zone, as SQLite knows none; digests are 64 hexadecimal digits of SHA-256.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)
OUTCOMES = ("finished", "aborted", "lost")
"""How an attempt ended; ``lost``: the server was gone before it did."""
FATES = ("summed", "dropped", "left", "blamed")
"""What became of a member in an attempt: in the sum; silent; out by its own decision; named for misbehaviour."""

VERDICTS = ("approved", "refused")
"""What a party decided about a bundle."""


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


members = Table(
    "members",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("identity", String(64), nullable=False),  # Ed25519 public key, hexadecimal
    Column("serial", Integer, nullable=False),  # of the roster that said so last
    Column("revoked", Boolean, nullable=False),
)
jobs = Table(
    "jobs",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("text", Text, nullable=False),
    Column("added", DateTime, nullable=False),
)
runs = Table(
    "runs",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("job", String(64), ForeignKey("jobs.digest"), nullable=False),
    Column("cohort", String(64), nullable=False),  # SHA-256 of who is invited
    Column("rounds", Integer, nullable=False),
    Column("holder", String(32), nullable=False),  # the server that holds it: who comes later takes it over
    Column("created", DateTime, nullable=False),
)
attempts = Table(
    "attempts",
    metadata,
    Column("run", String(128), ForeignKey("runs.name"), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("began", DateTime, nullable=False),
    Column("inputs_asked", Boolean, nullable=False),
    Column("ended", DateTime),
    Column("outcome", String(16)),
    Column("contributors", Integer),
    Column("metrics", Text),  # JSON: what the round's sum gave, by name
    Column("seconds", Float),
    Column("step", String(64)),
    Column("check_name", String(64)),
    Column("detail", Text),
    Column("sent", Float),  # seconds from the attempt's beginning: the first message leaves,
    Column("asked", Float),  # the last one that inputs wait for leaves,
    Column("taken", Float),  # the first one after they were in leaves
    _one_of("outcome", OUTCOMES),
    CheckConstraint("(ended IS NULL) = (outcome IS NULL)", name="ended_with_outcome"),
)
contributions = Table(
    "contributions",
    metadata,
    Column("run", String(128), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("member", String(64), primary_key=True),
    Column("fate", String(16), nullable=False),
    Column("detail", Text, nullable=False),
    ForeignKeyConstraint(["run", "round", "attempt"], ["attempts.run", "attempts.round", "attempts.attempt"]),
    _one_of("fate", FATES),
)
bundles = Table(
    "bundles",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("author", String(64), nullable=False),
    Column("title", String(200), nullable=False),
    Column("document", LargeBinary, nullable=False),  # as its author signed it
    Column("added", DateTime, nullable=False),
)
decisions = Table(
    "decisions",
    metadata,
    Column("bundle", String(64), ForeignKey("bundles.digest"), primary_key=True),
    Column("party", String(64), primary_key=True),
    Column("number", Integer, nullable=False),  # of the party's decisions
    Column("verdict", String(16), nullable=False),
    Column("document", LargeBinary, nullable=False),  # as the party signed it
    _one_of("verdict", VERDICTS),
)
stages = Table(  # secure sums of a run beside its rounds
    "stages",
    metadata,
    Column("run", String(128), ForeignKey("runs.name"), primary_key=True),
    Column("stage", String(32), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("began", DateTime, nullable=False),
    Column("inputs_asked", Boolean, nullable=False),
    Column("ended", DateTime),
    Column("outcome", String(16)),
    Column("contributors", Integer),
    Column("seconds", Float),
    Column("step", String(64)),
    Column("check_name", String(64)),
    Column("detail", Text),
    Column("value", Text),  # JSON: what the sum gave, of sums alone
    _one_of("outcome", OUTCOMES),
    CheckConstraint("(ended IS NULL) = (outcome IS NULL)", name="ended_with_outcome"),
    CheckConstraint("value IS NULL OR outcome = 'finished'", name="value_when_finished"),
)
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("run", String(128), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),  # 0 is the model that the run starts from
    Column("digest", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("size", Integer, nullable=False),
)
