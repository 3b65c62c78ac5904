"""Loads of wake-up orders whose ON has not been made yet."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Create their table; a former release makes the commands of its orders with the order, as it always did."""
    # No references: they would be checked row by row while somebody waits for the answer to one key. A row goes in with
    # its order and out with its command; in the order of `id` the older order comes first.
    op.execute(
        """
        create table wake_up_todo (
            id bigint generated always as identity,
            wake_up_id text not null,
            load_id text not null,
            site_id text not null,
            device_id text not null,
            line_id text not null,
            channel integer,
            ordered_at timestamptz not null,
            constraint wake_up_todo_pk primary key (id)
        )
        """
    )
    op.execute("create index wake_up_todo_of_load on wake_up_todo (load_id)")
