"""Occurrences of windows that are days away: narrow rows that nobody searches by time."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Create their table; what an old release makes goes where it always went, and stays there."""
    op.execute(
        """
        create table distant_occurrences (
            plan_no integer not null,
            start_local timestamp not null,
            off_at timestamptz not null,
            load_id text collate "C" not null,
            constraint distant_occurrences_pk primary key (plan_no, start_local, load_id)
        )
        """
    )
    # When the window's occurrences were made, while they are distant; nothing for those that are not.
    op.execute("alter table plan_windows add column distant_since timestamptz")
    op.execute("create index plan_windows_distant on plan_windows (off_at) where distant_since is not null")
