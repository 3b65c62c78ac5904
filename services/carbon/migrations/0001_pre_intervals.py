"""Registers as they came, intervals by version, the factor library, and circuits to be recomputed."""

from alembic import op

from libs.common.registry import create_registry_tables
from libs.common.schema import create_runtime_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    create_runtime_tables(op)
    create_registry_tables(op)
    op.execute(
        """
        create table register_readings (
            device_id text not null,
            point text not null,
            source_time timestamptz not null,
            shown double precision not null,
            ratio double precision not null check (ratio > 0),
            uncertain boolean not null,
            set_aside boolean not null default false,
            received_at timestamptz not null,
            constraint register_readings_pk primary key (device_id, point, source_time)
        )
        """
    )
    op.execute(
        """
        create table intervals (
            circuit_id text not null,
            site_id text not null,
            start timestamptz not null,
            step_s integer not null check (step_s > 0),
            version integer not null check (version >= 1),
            current boolean not null,
            energy_kwh double precision check (energy_kwh >= 0),
            flag text not null,
            lower_bound boolean not null,
            uncertain boolean not null,
            computed_at timestamptz not null,
            constraint intervals_pk primary key (circuit_id, start, version)
        )
        """
    )
    op.execute("create unique index intervals_current on intervals (circuit_id, start) where current")
    op.execute(
        """
        create table findings (
            circuit_id text not null,
            at timestamptz not null,
            kind text not null,
            previous_shown double precision not null,
            shown double precision not null,
            found_at timestamptz not null,
            constraint findings_pk primary key (circuit_id, at, kind)
        )
        """
    )
    op.execute(
        """
        create table dirty_circuits (
            circuit_id text not null,
            since timestamptz not null,
            constraint dirty_circuits_pk primary key (circuit_id)
        )
        """
    )
