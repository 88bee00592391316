"""Bundles of jobs, and what parties decided about them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = depends_on = None


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "bundles",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("author", sa.String(64), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Column("added", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_bundles"),
    )
    op.create_table(
        "decisions",
        sa.Column("bundle", sa.String(64), nullable=False),
        sa.Column("party", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("bundle", "party", name="pk_decisions"),
        sa.ForeignKeyConstraint(["bundle"], ["bundles.digest"], name="fk_decisions_bundle_bundles"),
        sa.CheckConstraint("verdict IN ('approved', 'refused')", name=op.f("ck_decisions_verdict")),
    )
