"""Distant occurrences by number: a window and a load of its plan, half as wide and in an index of two integers."""

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Create their table beside the former one; what lies in that stays there until its night is near."""
    op.execute("alter table plan_windows add column window_no integer generated always as identity")
    op.execute("create index plan_windows_by_number on plan_windows (window_no)")
    op.execute(
        """
        create table plan_loads (
            plan_no integer not null,
            load_no integer not null,
            load_id text collate "C" not null,
            constraint plan_loads_pk primary key (plan_no, load_no),
            constraint plan_loads_by_id unique (plan_no, load_id)
        )
        """
    )
    op.execute(
        """
        create table distant_shutdowns (
            window_no integer not null,
            load_no integer not null,
            off_at timestamptz not null,
            constraint distant_shutdowns_pk primary key (window_no, load_no)
        )
        """
    )
    # As distant_since, for rows of the new table. A former release, which has its own look there, takes such a window
    # for a near one and leaves it alone.
    op.execute("alter table plan_windows add column distant_made_at timestamptz")
    op.execute(
        """
        create index plan_windows_far on plan_windows (off_at)
         where coalesce(distant_made_at, distant_since) is not null
        """
    )
