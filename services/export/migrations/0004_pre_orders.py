"""What centres may order, and the switchings that they have ordered."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table sc_permits (
            connection_id text not null,
            revision integer not null,
            permits jsonb not null,
            source text not null,
            changed_by text not null,
            changed_at timestamptz not null,
            constraint sc_permits_pk primary key (connection_id, revision),
            constraint sc_permits_connection foreign key (connection_id) references sc_connections (id)
        )
        """
    )
    op.execute(
        """
        create table sc_orders (
            id text not null,
            connection_id text not null,
            unit_key bigint not null,
            unit_id text not null,
            site_id text,
            sc_device_id text not null,
            point_id text not null,
            kind text not null,
            value double precision not null,
            load_id text not null,
            restore_at timestamptz,
            peer text not null,
            received_at timestamptz not null,
            state text not null constraint sc_orders_state check (state in ('open', 'taken', 'refused', 'over')),
            group_id text,
            reason text,
            repeats integer not null default 0,
            constraint sc_orders_pk primary key (id),
            constraint sc_orders_off_ends check (kind <> 'switch_off' or restore_at is not null)
        )
        """
    )
    op.execute("create index sc_orders_of_point on sc_orders (unit_key, sc_device_id, point_id, received_at desc)")
    op.execute("create index sc_orders_of_connection on sc_orders (connection_id, received_at desc, id desc)")
    op.execute("create index sc_orders_by_time on sc_orders (received_at)")
