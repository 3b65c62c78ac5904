"""Registers that people have read: what lies beside one is no measured quarter hour."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column."""
    op.execute("alter table register_readings add column manual boolean not null default false")
