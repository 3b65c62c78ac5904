"""Callbacks of readings and intervals: choices by point and kind of device, and batches that leave sooner."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table callback_endpoints add column points text[]")
    op.execute("alter table callback_endpoints add column kinds text[]")
    op.execute("create index callback_events_batches on callback_events (queued_at) where type like '%.batch'")
