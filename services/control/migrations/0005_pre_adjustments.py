"""Orders that set something inside devices: protection thresholds, how often they report."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    """
    create table adjustments (
        adjustment_id text not null,
        action text not null,
        site_id text not null,
        device_id text not null,
        line_id text not null,
        point text not null,
        value double precision not null,
        state text not null,
        created_at timestamptz not null,
        not_after timestamptz not null,
        next_at timestamptz,
        actor text not null,
        reason text not null,
        note text,
        attempt integer not null,
        looks integer not null,
        sent_at timestamptz,
        wire_not_after timestamptz,
        found double precision,
        found_at timestamptz,
        constraint adjustments_pk primary key (adjustment_id)
    )
    """,
    "create index adjustments_due on adjustments (next_at) where next_at is not null",
    "create index adjustments_device on adjustments (device_id, created_at desc)",
    "create index adjustments_newest on adjustments (created_at desc, adjustment_id desc)",
    """
    create table adjustment_history (
        id bigint generated always as identity,
        adjustment_id text not null,
        at timestamptz not null,
        state text not null,
        reason text not null,
        attempt integer not null,
        found double precision,
        constraint adjustment_history_pk primary key (id)
    )
    """,
    "create index adjustment_history_order on adjustment_history (adjustment_id, id)",
)


def upgrade() -> None:
    """Make them."""
    for statement in STATEMENTS:
        op.execute(statement)
