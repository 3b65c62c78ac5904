"""Orders for many devices, clocks and restarts among orders, and policies of set points in versions."""

from alembic import op

revision = "0009"
down_revision = "0008"

STATEMENTS = (
    "alter table adjustments add column group_id text",
    # A clock and a restart concern the device and no point of it.
    "alter table adjustments alter column point drop not null",
    "alter table adjustments alter column value drop not null",
    "create index adjustments_group on adjustments (group_id) where group_id is not null",
    """
    create table adjustment_groups (
        group_id text not null,
        action text not null,
        point text,
        value double precision,
        target jsonb not null,
        actor text not null,
        note text,
        created_at timestamptz not null,
        refused jsonb not null,
        constraint adjustment_groups_pk primary key (group_id)
    )
    """,
    "create index adjustment_groups_newest on adjustment_groups (created_at desc, group_id desc)",
    # Versions; the youngest of a scope and target holds, one without rules takes the policy away.
    """
    create table setpoint_policies (
        revision bigint generated always as identity,
        scope text not null,
        target text not null,
        rules jsonb,
        source text not null,
        changed_by text not null,
        changed_at timestamptz not null,
        constraint setpoint_policies_pk primary key (revision)
    )
    """,
    "create index setpoint_policies_of on setpoint_policies (scope, target, revision desc)",
)


def upgrade() -> None:
    """Make them."""
    for statement in STATEMENTS:
        op.execute(statement)
