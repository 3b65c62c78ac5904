"""Centres order adjustments too: a set point of a device in place of a load."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table sc_orders add column device_id text")
    op.execute("alter table sc_orders add column setting text")
    op.execute("alter table sc_orders alter column load_id drop not null")
