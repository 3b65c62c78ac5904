"""Orders inside devices know through which door they came, for the record of what became of them."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the door; empty of those that a release before this one takes."""
    op.execute("alter table adjustments add column door text not null default ''")
