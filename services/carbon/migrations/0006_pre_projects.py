"""Retrofit projects by version, non-routine adjustments of their measured savings, and outdoor temperatures."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the tables."""
    op.execute(
        """
        create table projects (
            project_id text not null,
            version integer not null check (version >= 1),
            document jsonb not null,
            changed_by text not null,
            changed_at timestamptz not null,
            reason text not null,
            constraint projects_pk primary key (project_id, version)
        )
        """
    )
    op.execute(
        """
        create table project_adjustments (
            adjustment_id text not null,
            project_id text not null,
            measure_id text not null,
            energy_kwh double precision not null,
            reason text not null,
            evidence text not null,
            author text not null,
            made_at timestamptz not null,
            constraint project_adjustments_pk primary key (adjustment_id)
        )
        """
    )
    op.execute("create index project_adjustments_by_measure on project_adjustments (project_id, measure_id, made_at)")
    op.execute(
        """
        create table outdoor_temperatures (
            place text not null,
            day date not null,
            version integer not null check (version >= 1),
            mean_c double precision not null,
            source text not null,
            recorded_by text not null,
            recorded_at timestamptz not null,
            constraint outdoor_temperatures_pk primary key (place, day, version)
        )
        """
    )
