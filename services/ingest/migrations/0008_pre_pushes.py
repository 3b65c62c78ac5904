"""Radio link, battery and card beside a device's state; messages of other drivers that wait for their device."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the columns."""
    for name in ("signal", "battery", "sim"):
        op.execute(f"alter table device_status add column {name} jsonb not null default '{{}}'")
    op.execute("alter table parked add column driver text not null default 'push'")
    op.execute("alter table parked add column line_id text")
