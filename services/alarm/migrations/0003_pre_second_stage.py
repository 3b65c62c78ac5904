"""What alarms live on, maintenance windows, shelves, alarms that people end, flapping."""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    # The column of the version before stays for it while both run.
    "alter table rules alter column supply set default false",
    "alter table rules add column needs text[] not null default '{}', add column takes text",
    """
    alter table episodes add column raised_at timestamptz, add column hold_s double precision not null default 0,
        add column dismissed boolean not null default false
    """,
    """
    alter table alarms add column partition integer, add column flapping boolean not null default false,
        add column dismissed boolean not null default false, add column assigned_to text,
        add column shelved_until timestamptz, add column shelved_by text
    """,
    "create index alarms_lately on alarms (partition, began_at) where rule_id is not null",
    """
    create table maintenance_windows (
        window_id text not null,
        site_id text not null,
        device_ids text[],
        starts_at timestamptz not null,
        ends_at timestamptz not null,
        owner text not null,
        reason text not null,
        created_by text not null,
        created_at timestamptz not null,
        changed_by text not null,
        changed_at timestamptz not null,
        called_off_at timestamptz,
        constraint maintenance_windows_pk primary key (window_id),
        constraint maintenance_windows_length check (ends_at > starts_at)
    )
    """,
    "create index maintenance_windows_site on maintenance_windows (site_id, ends_at)",
    "create index maintenance_windows_newest on maintenance_windows (starts_at desc, window_id desc)",
    """
    create table shelves (
        shelf_id text not null,
        site_id text not null,
        device_id text,
        rule_key text not null,
        until timestamptz not null,
        actor text not null,
        reason text not null,
        at timestamptz not null,
        constraint shelves_pk primary key (shelf_id)
    )
    """,
    "create index shelves_until on shelves (until)",
)


def upgrade() -> None:
    """Add the columns and tables."""
    for statement in STATEMENTS:
        op.execute(statement)
