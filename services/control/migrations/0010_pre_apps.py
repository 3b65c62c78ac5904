"""Upstream apps: their limits in versions, whose plan a plan is, and what sites have opted out of."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Create limits and opt-outs; find what an app has ordered by when."""
    op.execute(
        """
        create table app_limits (
            revision bigint generated always as identity,
            caller text not null,
            limits jsonb,
            source text not null,
            changed_by text not null,
            changed_at timestamptz not null,
            constraint app_limits_pk primary key (revision)
        )
        """
    )
    op.execute("create index app_limits_by_caller on app_limits (caller, revision desc)")
    op.execute(
        """
        create table opt_outs (
            opt_out_id text not null,
            site_id text not null,
            starts_at timestamptz not null,
            until timestamptz not null,
            reason text not null,
            declared_by text not null,
            declared_at timestamptz not null,
            ended_by text,
            ended_at timestamptz,
            constraint opt_outs_pk primary key (opt_out_id),
            constraint opt_outs_length_ck check (starts_at < until)
        )
        """
    )
    op.execute("create index opt_outs_by_site on opt_outs (site_id, until) where ended_at is null")
    op.execute("create index opt_outs_by_time on opt_outs (declared_at, opt_out_id)")
    op.execute("alter table plans add column app text")
    op.execute("create index plans_of_apps on plans (app, created_at) where app is not null")
    op.execute("create index command_groups_by_actor on command_groups (actor, created_at)")
