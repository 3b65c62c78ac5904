"""What devices are set to, beside what the platform has ordered."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make the table."""
    op.execute(
        """
        create table device_settings (
            device_id text not null,
            point text not null,
            site_id text not null,
            partition integer not null,
            wanted double precision,
            ordered_at timestamptz not null,
            state text not null,
            reason text not null,
            order_id text not null,
            found double precision,
            found_at timestamptz,
            constraint device_settings_pk primary key (device_id, point)
        )
        """
    )
    op.execute("create index device_settings_partition on device_settings (partition)")
