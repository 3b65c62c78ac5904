"""Reports: definitions by version, when each is due, finished editions with their files, and the queue of long work."""

from alembic import op

from libs.common.jobs import create_job_tables

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Create the tables."""
    create_job_tables(op)
    op.execute(
        """
        create table report_definitions (
            definition_id text not null,
            version integer not null check (version >= 1),
            document jsonb not null,
            changed_by text not null,
            changed_at timestamptz not null,
            constraint report_definitions_pk primary key (definition_id, version)
        )
        """
    )
    # Of a definition without schedule there is no row.
    op.execute(
        """
        create table report_schedules (
            definition_id text not null,
            due_at timestamptz not null,
            constraint report_schedules_pk primary key (definition_id)
        )
        """
    )
    op.execute("create index report_schedules_due on report_schedules (due_at)")
    # The content is a published statement of kind 'report'; here is what it is of, and which job made it.
    op.execute(
        """
        create table report_editions (
            statement_id text not null,
            version integer not null,
            statement_kind text not null default 'report' check (statement_kind = 'report'),
            definition_id text not null,
            definition_version integer not null,
            edition text not null,
            kind text not null,
            start_at timestamptz not null,
            end_at timestamptz not null,
            completeness double precision,
            job_id text not null,
            constraint report_editions_pk primary key (statement_id, version),
            constraint report_editions_job unique (job_id),
            constraint report_editions_statement foreign key (statement_kind, statement_id, version)
                references published_statements (kind, statement_id, version)
        )
        """
    )
    op.execute(
        "create index report_editions_by_definition on report_editions (definition_id, start_at, statement_id, version)"
    )
    op.execute(
        """
        create table report_files (
            statement_id text not null,
            version integer not null,
            format text not null,
            language text not null,
            body bytea not null,
            digest text not null,
            constraint report_files_pk primary key (statement_id, version, format, language),
            constraint report_files_edition foreign key (statement_id, version) references report_editions
        )
        """
    )
    op.execute(
        """
        create table report_tables (
            statement_id text not null,
            version integer not null,
            place integer not null,
            key text not null,
            language text not null,
            body bytea not null,
            constraint report_tables_pk primary key (statement_id, version, key, language),
            constraint report_tables_edition foreign key (statement_id, version) references report_editions
        )
        """
    )
    op.execute("alter table report_tables alter column body set storage external")
    op.execute("alter table report_files alter column body set storage external")  # both formats are compressed
    for table in ("report_definitions", "report_editions", "report_files", "report_tables"):
        op.execute(
            f"""
            create trigger {table}_append_only before update or delete or truncate on {table}
                for each statement execute function refuse_statement_change()
            """
        )
