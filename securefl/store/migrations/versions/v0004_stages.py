"""Secure sums of a run beside its rounds, and what they gave."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = depends_on = None


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "stages",
        sa.Column("run", sa.String(128), sa.ForeignKey("runs.name", name="fk_stages_run_runs"), nullable=False),
        sa.Column("stage", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("began", sa.DateTime, nullable=False),
        sa.Column("inputs_asked", sa.Boolean, nullable=False),
        sa.Column("ended", sa.DateTime),
        sa.Column("outcome", sa.String(16)),
        sa.Column("contributors", sa.Integer),
        sa.Column("seconds", sa.Float),
        sa.Column("step", sa.String(64)),
        sa.Column("check_name", sa.String(64)),
        sa.Column("detail", sa.Text),
        sa.Column("value", sa.Text),
        sa.PrimaryKeyConstraint("run", "stage", "attempt", name="pk_stages"),
        sa.CheckConstraint("outcome IN ('finished', 'aborted', 'lost')", name=op.f("ck_stages_outcome")),
        sa.CheckConstraint("(ended IS NULL) = (outcome IS NULL)", name=op.f("ck_stages_ended_with_outcome")),
        sa.CheckConstraint("value IS NULL OR outcome = 'finished'", name=op.f("ck_stages_value_when_finished")),
    )
