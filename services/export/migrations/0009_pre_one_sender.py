"""Who is telling a unit's centre something at this moment, so that two processes never do at once."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table units add column sending_by text")
    op.execute("alter table units add column sending_until timestamptz")
