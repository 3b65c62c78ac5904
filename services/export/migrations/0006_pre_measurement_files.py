"""Files of measurements: templates of a connection, the files made, and their way to the centre."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table sc_files (
            connection_id text not null,
            document jsonb not null,
            sealed bytea,
            changed_by text not null,
            changed_at timestamptz not null,
            constraint sc_files_pk primary key (connection_id),
            constraint sc_files_connection foreign key (connection_id) references sc_connections (id)
        )
        """
    )
    op.execute(
        """
        create table unit_files (
            id bigint generated always as identity,
            connection_id text not null,
            unit_key bigint not null,
            template_id text not null,
            period_end timestamptz not null,
            folder text not null,
            name text not null,
            size_bytes integer not null,
            made_at timestamptz not null,
            state text not null
                constraint unit_files_state check (state in ('kept', 'queued', 'retrying', 'delivered', 'given_up')),
            attempts integer not null default 0,
            next_attempt_at timestamptz,
            finished_at timestamptz,
            error text,
            constraint unit_files_pk primary key (id),
            constraint unit_files_once unique (unit_key, template_id, period_end)
        )
        """
    )
    op.execute("create index unit_files_waiting on unit_files (unit_key, id) where state in ('queued', 'retrying')")
    op.execute("create index unit_files_of_connection on unit_files (connection_id, made_at desc, id desc)")
