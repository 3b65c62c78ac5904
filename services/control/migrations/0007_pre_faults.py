"""What is the matter with a command, and which loads of a wake-up order nobody can reach."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the columns; commands from before have no fault until their next step."""
    op.execute("alter table commands add column fault text")
    op.execute("alter table wake_ups add column unreachable text[] not null default '{}'")
