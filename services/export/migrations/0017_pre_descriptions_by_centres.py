"""What a centre says of devices, and its network's ids of alarms."""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table mapping_devices add column details jsonb not null default '{}'")
    op.execute("alter table mapping_points add column network_alarm text")
    op.execute("alter table deliveries add column network_alarm text not null default ''")
