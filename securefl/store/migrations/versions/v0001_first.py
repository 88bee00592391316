"""Members, jobs, runs, attempts, contributions and checkpoints."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = depends_on = None


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "members",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("serial", sa.Integer, nullable=False),
        sa.Column("revoked", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_members"),
    )
    op.create_table(
        "jobs",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("added", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_jobs"),
    )
    op.create_table(
        "runs",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("cohort", sa.String(64), nullable=False),
        sa.Column("rounds", sa.Integer, nullable=False),
        sa.Column("holder", sa.String(32), nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_runs"),
        sa.ForeignKeyConstraint(["job"], ["jobs.digest"], name="fk_runs_job_jobs"),
    )
    op.create_table(
        "attempts",
        sa.Column("run", sa.String(128), nullable=False),
        sa.Column("round", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("began", sa.DateTime, nullable=False),
        sa.Column("inputs_asked", sa.Boolean, nullable=False),
        sa.Column("ended", sa.DateTime),
        sa.Column("outcome", sa.String(16)),
        sa.Column("contributors", sa.Integer),
        sa.Column("metrics", sa.Text),
        sa.Column("seconds", sa.Float),
        sa.Column("step", sa.String(64)),
        sa.Column("check_name", sa.String(64)),
        sa.Column("detail", sa.Text),
        sa.PrimaryKeyConstraint("run", "round", "attempt", name="pk_attempts"),
        sa.ForeignKeyConstraint(["run"], ["runs.name"], name="fk_attempts_run_runs"),
        sa.CheckConstraint("outcome IN ('finished', 'aborted', 'lost')", name=op.f("ck_attempts_outcome")),
        sa.CheckConstraint("(ended IS NULL) = (outcome IS NULL)", name=op.f("ck_attempts_ended_with_outcome")),
    )
    op.create_table(
        "contributions",
        sa.Column("run", sa.String(128), nullable=False),
        sa.Column("round", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("member", sa.String(64), nullable=False),
        sa.Column("fate", sa.String(16), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "round", "attempt", "member", name="pk_contributions"),
        sa.ForeignKeyConstraint(
            ["run", "round", "attempt"],
            ["attempts.run", "attempts.round", "attempts.attempt"],
            name="fk_contributions_run_attempts",
        ),
        sa.CheckConstraint("fate IN ('summed', 'dropped', 'left', 'blamed')", name=op.f("ck_contributions_fate")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("run", sa.String(128), nullable=False),
        sa.Column("round", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("run", "round", name="pk_checkpoints"),
    )
