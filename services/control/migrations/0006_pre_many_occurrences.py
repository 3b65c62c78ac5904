"""Occurrences by the million: plans are numbered, the key is the identity, and each row is in one index by time."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Copy the occurrences into a narrower table; the former one stays until a later release."""
    op.execute("alter table plans add column plan_no integer generated always as identity")
    op.execute("create index plans_by_number on plans (plan_no)")
    op.execute(
        """
        create table plan_windows (
            plan_no integer not null,
            start_local timestamp not null,
            off_at timestamptz not null,
            on_at timestamptz not null,
            constraint plan_windows_pk primary key (plan_no, start_local)
        )
        """
    )
    # No reference to the plan: a check for each of three million rows takes longer than the rows.
    op.execute(
        """
        create table plan_occurrences (
            plan_no integer not null,
            start_local timestamp not null,
            load_id text collate "C" not null,
            off_at timestamptz not null,
            on_at timestamptz not null,
            state text not null default 'planned',
            reason text not null default '',
            off_command_id text,
            on_command_id text,
            went_off_at timestamptz,
            came_on_at timestamptz,
            changed_at timestamptz not null,
            constraint plan_occurrences_pk primary key (plan_no, start_local, load_id),
            constraint plan_occurrences_length check (off_at < on_at)
        )
        """
    )
    op.execute(
        """
        insert into plan_occurrences
        select plan_no, start_local, load_id, off_at, on_at, o.state, reason, off_command_id, on_command_id,
               went_off_at, came_on_at, changed_at
          from occurrences o join plans using (plan_id)
        """
    )
    op.execute(
        """
        insert into plan_windows
        select plan_no, start_local, min(off_at), max(on_at) from plan_occurrences group by plan_no, start_local
        """
    )
    op.execute(
        """
        update commands c
           set occurrence_id = p.plan_no || '.' || to_char(o.start_local, 'YYYYMMDD"T"HH24MISS') || '.' || o.load_id
          from occurrences o join plans p using (plan_id)
         where c.occurrence_id = o.occurrence_id
        """
    )
    op.execute(
        """
        create index plan_occurrences_due on plan_occurrences (off_at)
         where state = 'planned' and off_command_id is null
        """
    )
    op.execute(
        """
        create index plan_occurrences_begun on plan_occurrences (off_at)
         where not (state = 'planned' and off_command_id is null)
        """
    )
