"""What an import of a registry file changes, field by field."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column."""
    op.execute("alter table imports add column changes jsonb")
