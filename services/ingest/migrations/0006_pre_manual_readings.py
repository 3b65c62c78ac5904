"""Readings that a person took, with their photos and corrections."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the tables."""
    op.execute(
        """
        create table manual_readings (
            id text not null,
            device_id text not null,
            site_id text not null,
            source_time timestamptz not null,
            recorded_at timestamptz not null,
            points jsonb not null,
            reader text not null,
            recorded_by text not null,
            note text,
            confirmed jsonb,
            corrects text,
            reason text,
            photo_type text,
            photo_sha256 text,
            constraint manual_readings_pk primary key (id),
            constraint manual_readings_corrects foreign key (corrects) references manual_readings (id),
            constraint manual_readings_corrected_once unique (corrects)
        )
        """
    )
    op.execute("create index manual_readings_device on manual_readings (device_id, source_time)")
    op.execute(
        """
        create table manual_photos (
            reading_id text not null,
            body bytea not null,
            constraint manual_photos_pk primary key (reading_id),
            constraint manual_photos_reading foreign key (reading_id) references manual_readings (id)
        )
        """
    )
    op.execute("alter table manual_photos alter column body set storage external")
