"""Serial numbers that are taken are found without looking at all that a unit has ever told."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("create index deliveries_serials on deliveries (unit_key, serial) where step = 'begin'")
