"""Files that are made again and again for others: plans by version, their runs, and the queue of long work."""

from alembic import op

from libs.common.jobs import create_job_tables

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_job_tables(op)
    op.execute(
        """
        create table exports (
            export_id text not null,
            version integer not null
                constraint exports_version check (version >= 1),
            document jsonb not null,
            sealed bytea,
            changed_by text not null,
            changed_at timestamptz not null,
            next_due_at timestamptz not null,
            removed_at timestamptz,
            constraint exports_pk primary key (export_id)
        )
        """
    )
    op.execute(
        """
        create table export_versions (
            export_id text not null,
            version integer not null,
            document jsonb not null,
            changed_by text not null,
            changed_at timestamptz not null,
            constraint export_versions_pk primary key (export_id, version),
            constraint export_versions_export foreign key (export_id) references exports (export_id)
        )
        """
    )
    op.execute(
        """
        create table export_runs (
            id bigint generated always as identity,
            export_id text not null,
            due_at timestamptz not null,
            start_at timestamptz not null,
            end_at timestamptz not null,
            state text not null
                constraint export_runs_state check (state in ('due', 'made', 'delivered', 'given_up')),
            version integer,
            job_id text,
            attempts integer not null default 0,
            next_attempt_at timestamptz,
            made_at timestamptz,
            finished_at timestamptz,
            files jsonb not null default '[]',
            error text,
            constraint export_runs_pk primary key (id),
            constraint export_runs_once unique (export_id, due_at),
            constraint export_runs_export foreign key (export_id) references exports (export_id)
        )
        """
    )
    op.execute("create index export_runs_open on export_runs (export_id, due_at) where state in ('due', 'made')")
    op.execute("create index export_runs_finished on export_runs (finished_at) where finished_at is not null")
