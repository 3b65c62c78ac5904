"""Targets of nodes with their dated adjustments, and what was last said of each."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the tables."""
    op.execute(
        """
        create table targets (
            target_id text not null,
            name text not null,
            node text not null,
            node_kind text not null,
            measure text not null,
            unit text not null,
            granularity text not null,
            first_day date not null,
            end_day date not null,
            parent_id text references targets,
            owner text,
            recorded_at timestamptz not null,
            recorded_by text not null,
            constraint targets_pk primary key (target_id),
            constraint targets_span check (end_day > first_day)
        )
        """
    )
    op.execute("create index targets_by_node on targets (node, measure)")
    op.execute("create index targets_by_parent on targets (parent_id) where parent_id is not null")
    op.execute(
        """
        create table target_adjustments (
            target_id text not null references targets,
            adjustment_no integer not null check (adjustment_no >= 1),
            on_day date not null,
            amount double precision not null,
            reason text not null,
            author text not null,
            recorded_at timestamptz not null,
            constraint target_adjustments_pk primary key (target_id, adjustment_no)
        )
        """
    )
    # What was last said of a target: a result is published when its figure changes, with a rising version.
    op.execute(
        """
        create table target_results (
            target_id text not null references targets,
            measure text not null,
            version integer not null check (version >= 1),
            value double precision,
            target double precision not null,
            completeness double precision not null,
            exceeded boolean,
            computed_at timestamptz not null,
            constraint target_results_pk primary key (target_id, measure)
        )
        """
    )
