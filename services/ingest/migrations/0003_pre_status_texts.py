"""Text points of a device beside its state."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.execute("alter table device_status add column texts jsonb not null default '{}'")
