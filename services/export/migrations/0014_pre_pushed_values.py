"""Up to when a unit's centre has been told values that are pushed to it, so that what it missed can follow."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table units add column values_told_at timestamptz")
