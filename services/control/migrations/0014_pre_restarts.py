"""Restarts are found by themselves: every OFF asks for those that are going on."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Index them; they are few among the orders inside devices."""
    op.execute("create index adjustments_restarts on adjustments (sent_at) where action = 'restart'")
