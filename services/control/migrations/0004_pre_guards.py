"""Policies of the guards in versions, counted places, what goes on at sites, emergency mode."""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    # Versions; the youngest of a scope and target holds, one without limits takes the policy away.
    """
    create table guard_policies (
        revision bigint generated always as identity,
        scope text not null,
        target text not null,
        limits jsonb,
        source text not null,
        changed_by text not null,
        changed_at timestamptz not null,
        constraint guard_policies_pk primary key (revision)
    )
    """,
    "create index guard_policies_of on guard_policies (scope, target, revision desc)",
    # Whoever counts what is off at a place locks its row here, after the loads, in the order of the names.
    """
    create table counted_areas (
        area text not null,
        constraint counted_areas_pk primary key (area)
    )
    """,
    "create index commands_running_site on commands (site_id) where not is_final",
    "create index off_leases_site on off_leases (site_id) where closed_at is null",
    """
    create table active_alarms (
        alarm_id text not null,
        site_id text not null,
        device_id text,
        level smallint not null,
        signal text not null,
        began_at timestamptz not null,
        sequence integer not null,
        stands boolean not null,
        changed_at timestamptz not null,
        constraint active_alarms_pk primary key (alarm_id)
    )
    """,
    "create index active_alarms_site on active_alarms (site_id) where stands",
    "create index active_alarms_over on active_alarms (changed_at) where not stands",
    """
    create table maintenance_windows (
        window_id text not null,
        site_id text not null,
        device_ids text[],
        starts_at timestamptz not null,
        ends_at timestamptz not null,
        constraint maintenance_windows_pk primary key (window_id)
    )
    """,
    "create index maintenance_windows_site on maintenance_windows (site_id, ends_at)",
    """
    create table emergency_modes (
        emergency_id text not null,
        scope text not null constraint emergency_modes_scope check (scope in ('site', 'region', 'all')),
        target text not null,
        reason text not null,
        declared_by text not null,
        declared_at timestamptz not null,
        ended_by text,
        ended_at timestamptz,
        constraint emergency_modes_pk primary key (emergency_id)
    )
    """,
    "create unique index emergency_modes_one on emergency_modes (scope, target) where ended_at is null",
    "create index emergency_modes_by_time on emergency_modes (declared_at, emergency_id)",
)


def upgrade() -> None:
    """Create the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
