"""Plans mean groups of loads too, and have a rank among each other."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns."""
    op.execute(
        """
        alter table plans
          add column named text[] not null default '{}',
          add column rank smallint not null default 50 constraint plans_rank check (rank between 1 and 100),
          add column options jsonb not null default '{"groups": {}, "rank": 50}'
        """
    )
    op.execute("update plans set named = load_ids")
