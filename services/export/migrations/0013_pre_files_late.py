"""Whether alarm has been told that files of a connection wait for too long."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table sc_files add column told_late boolean not null default false")
