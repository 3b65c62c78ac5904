"""What meters say beside imported energy, once a quarter hour, and what energy is divided by."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Create the tables."""
    op.execute(
        """
        create table quarter_samples (
            device_id text not null,
            point text not null,
            slot timestamptz not null,
            source_time timestamptz not null,
            value double precision not null,
            ratio double precision not null check (ratio > 0),
            constraint quarter_samples_pk primary key (device_id, point, slot)
        )
        """
    )
    op.execute(
        """
        create table node_facts (
            node text not null,
            kind text not null,
            subject text not null,
            first_day date not null,
            end_day date not null,
            version integer not null check (version >= 1),
            value double precision not null check (value >= 0),
            basis text not null,
            source text not null,
            recorded_at timestamptz not null,
            recorded_by text not null,
            constraint node_facts_pk primary key (node, kind, subject, first_day, version),
            constraint node_facts_span check (end_day > first_day)
        )
        """
    )
