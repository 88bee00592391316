"""When in an attempt the server had sent the model, asked for inputs, and had them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = depends_on = None


def upgrade() -> None:
    """To this version."""
    for name in ("sent", "asked", "taken"):
        op.add_column("attempts", sa.Column(name, sa.Float))
