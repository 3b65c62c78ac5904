"""Rows of device events and energy rules that people make, what energy rules remember, targets that are exceeded."""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = (
    """
    create table rule_rows (
        kind text not null,
        rule_id text not null,
        scope text not null,
        scope_id text not null,
        version bigint not null,
        definition jsonb,
        changed_by text not null,
        changed_at timestamptz not null,
        reason text,
        constraint rule_rows_pk primary key (kind, rule_id, scope, scope_id)
    )
    """,
    """
    create table rule_row_versions (
        kind text not null,
        rule_id text not null,
        scope text not null,
        scope_id text not null,
        version bigint not null,
        definition jsonb,
        changed_by text not null,
        changed_at timestamptz not null,
        reason text,
        constraint rule_row_versions_pk primary key (kind, rule_id, scope, scope_id, version)
    )
    """,
    """
    create table energy_memory (
        rule_id text not null,
        circuit_id text not null,
        partition integer not null,
        judged_at timestamptz not null,
        since timestamptz,
        count integer not null,
        raised boolean not null,
        version bigint not null,
        figures jsonb not null,
        constraint energy_memory_pk primary key (rule_id, circuit_id)
    )
    """,
    "create index energy_memory_partition on energy_memory (partition)",
    """
    create table off_times (
        device_id text not null,
        since timestamptz not null,
        partition integer not null,
        planned_end timestamptz,
        until timestamptz,
        constraint off_times_pk primary key (device_id, since)
    )
    """,
    "create index off_times_partition on off_times (partition)",
    """
    create table target_states (
        node text not null,
        measure text not null,
        granularity text not null,
        partition integer not null,
        period_start timestamptz not null,
        version bigint not null,
        exceeded boolean not null,
        constraint target_states_pk primary key (node, measure, granularity)
    )
    """,
)


def upgrade() -> None:
    """Make them."""
    for statement in STATEMENTS:
        op.execute(statement)
