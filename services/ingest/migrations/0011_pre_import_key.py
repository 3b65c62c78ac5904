"""Imports: a key of the sender's own, so that what was sent twice is taken once."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column."""
    op.execute("alter table imports add column key text")
    op.execute("create index imports_key on imports (key) where key is not null")
