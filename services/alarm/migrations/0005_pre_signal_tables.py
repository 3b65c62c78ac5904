"""Versions of the signal table and of rules, which people change; what a file said besides what the platform reads."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    "alter table signals add column retired boolean not null default false",
    """
    create table signal_tables (
        dictionary text not null,
        version integer not null,
        shipped boolean not null,
        file_name text not null,
        digest text not null,
        layout jsonb not null,
        row_count integer not null,
        imported_by text not null,
        imported_at timestamptz not null,
        reason text,
        constraint signal_tables_pk primary key (dictionary, version),
        constraint signal_tables_dictionary foreign key (dictionary) references dictionaries (dictionary)
    )
    """,
    """
    create table signal_table_rows (
        dictionary text not null,
        version integer not null,
        position integer not null,
        code text not null,
        signal jsonb not null,
        constraint signal_table_rows_pk primary key (dictionary, version, position),
        constraint signal_table_rows_code unique (dictionary, version, code)
    )
    """,
    """
    alter table rules add column enabled boolean not null default true, add column level integer,
        add column start_delay_s double precision, add column end_delay_s double precision,
        add column changed_by text, add column removed boolean not null default false
    """,
    """
    create table rule_versions (
        rule_id text not null,
        version bigint not null,
        removed boolean not null,
        definition jsonb not null,
        changed_by text not null,
        changed_at timestamptz not null,
        reason text,
        constraint rule_versions_pk primary key (rule_id, version)
    )
    """,
)


def upgrade() -> None:
    """Add the columns and tables."""
    for statement in STATEMENTS:
        op.execute(statement)
