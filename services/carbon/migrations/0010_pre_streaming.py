"""Registers that contradict each other, intervals of other media than electricity, and virtual meters."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column and create the tables."""
    op.execute("alter table register_readings add column disputed boolean not null default false")
    op.execute(
        """
        create table medium_intervals (
            circuit_id text not null,
            point text not null,
            site_id text not null,
            start timestamptz not null,
            step_s integer not null check (step_s > 0),
            version integer not null check (version >= 1),
            current boolean not null,
            quantity double precision check (quantity >= 0),
            flag text not null,
            lower_bound boolean not null,
            uncertain boolean not null,
            computed_at timestamptz not null,
            constraint medium_intervals_pk primary key (circuit_id, point, start, version)
        )
        """
    )
    op.execute(
        "create unique index medium_intervals_current on medium_intervals (circuit_id, point, start) where current"
    )
    op.execute(
        """
        create table virtual_meters (
            meter_id text not null,
            version integer not null check (version >= 1),
            name text not null,
            children text[] not null,
            factors double precision[] not null check (cardinality(factors) = cardinality(children)),
            constant_kw double precision not null,
            allow_partial boolean not null,
            recorded_at timestamptz not null,
            recorded_by text not null,
            constraint virtual_meters_pk primary key (meter_id, version)
        )
        """
    )
