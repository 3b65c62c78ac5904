"""When loads went off and came on, as control proved it, and when a place had no supply."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the tables."""
    op.execute(
        """
        create table load_switchings (
            load_id text not null,
            at timestamptz not null,
            off boolean not null,
            site_id text not null,
            occurrence_id text,
            plan_id text,
            constraint load_switchings_pk primary key (load_id, at, off)
        )
        """
    )
    op.execute("create index load_switchings_by_occurrence on load_switchings (occurrence_id) where off")
    op.execute("create index load_switchings_by_plan on load_switchings (plan_id, at) where off")
    op.execute(
        """
        create table outages (
            outage_id text not null,
            site_id text not null,
            circuit_id text,
            began_at timestamptz not null,
            ended_at timestamptz not null,
            reason text not null,
            recorded_by text not null,
            recorded_at timestamptz not null,
            withdrawn_by text,
            withdrawn_at timestamptz,
            constraint outages_pk primary key (outage_id),
            constraint outages_length check (began_at < ended_at)
        )
        """
    )
    op.execute("create index outages_by_site on outages (site_id, began_at)")
