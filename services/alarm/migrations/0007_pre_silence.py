"""What rules make of points, what missing data mean, and what is remembered of devices between their reports."""

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS = (
    """
    alter table rules add column measure text not null default 'value', add column expression text,
        add column no_data text not null default 'hold'
    """,
    "alter table rule_overrides add column no_data text",
    "alter table rule_override_versions add column no_data text",
    # Of devices that never reported, and of those whose last word was late; the others are in ``judged``.
    """
    create table heard (
        device_id text not null,
        partition integer not null,
        heard_at timestamptz not null,
        constraint heard_pk primary key (device_id)
    )
    """,
    "create index heard_partition on heard (partition)",
    # Written with every batch, for the few points that rules ask about: half-empty pages, as in ``judged``.
    """
    create table last_values (
        device_id text not null,
        partition integer not null,
        point_values jsonb not null,
        constraint last_values_pk primary key (device_id)
    ) with (fillfactor = 60)
    """,
    "create index last_values_partition on last_values (partition)",
    """
    create table ingest_beats (
        partition integer not null,
        instance text not null,
        beat_at timestamptz not null,
        resumed_at timestamptz,
        constraint ingest_beats_pk primary key (partition, instance)
    )
    """,
)


def upgrade() -> None:
    """Add the columns and tables."""
    for statement in STATEMENTS:
        op.execute(statement)
