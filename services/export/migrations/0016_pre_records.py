"""Records of the data-access standard that come in: deliveries, what came of each row, registers made of periods."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table record_deliveries (
            delivery_id text not null,
            sender text not null,
            name text not null,
            digest text not null,
            received_at timestamptz not null,
            row_count integer not null,
            job_id text,
            attempts integer not null default 0,
            next_attempt_at timestamptz,
            finished_at timestamptz,
            told_at timestamptz,
            error text,
            constraint record_deliveries_pk primary key (delivery_id),
            constraint record_deliveries_once unique (sender, name)
        )
        """
    )
    op.execute("create index record_deliveries_open on record_deliveries (received_at) where finished_at is null")
    op.execute("create index record_deliveries_old on record_deliveries (finished_at) where finished_at is not null")
    op.execute(
        """
        create table record_rows (
            delivery_id text not null,
            line integer not null,
            fields jsonb not null,
            state text not null
                constraint record_rows_state check (state in ('waiting', 'taken', 'unchanged', 'refused')),
            problem text,
            problem_zh text,
            constraint record_rows_pk primary key (delivery_id, line),
            constraint record_rows_delivery foreign key (delivery_id)
                references record_deliveries (delivery_id) on delete cascade
        )
        """
    )
    op.execute(
        """
        create table record_devices (
            device_id text not null,
            holds text not null,
            constraint record_devices_pk primary key (device_id)
        )
        """
    )
    op.execute(
        """
        create table record_periods (
            device_id text not null,
            start_at timestamptz not null,
            end_at timestamptz not null,
            quantity double precision not null,
            register double precision not null,
            is_first boolean not null,
            sent boolean not null default false,
            constraint record_periods_pk primary key (device_id, start_at),
            constraint record_periods_length check (end_at > start_at)
        )
        """
    )
    op.execute("create index record_periods_old on record_periods (end_at)")
