"""A planned shutdown explains a lost supply until its planned end at most."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column."""
    op.execute("alter table shutdowns add column planned_end timestamptz")
