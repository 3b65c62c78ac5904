"""Plans of set points: tables of their own, so that no release takes them for plans that switch."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Create the plans and their windows."""
    op.execute(
        """
        create table setpoint_plans (
            plan_id text not null,
            name text not null,
            state text not null,
            target jsonb not null,
            device_ids text[] not null,
            point text not null,
            value double precision not null,
            value_after double precision not null,
            schedule jsonb not null,
            calendar_ids text[] not null,
            working_calendar text,
            starts_at timestamptz not null,
            ends_at timestamptz not null,
            created_by text not null,
            created_at timestamptz not null,
            note text,
            approved_by text,
            approved_at timestamptz,
            ended_by text,
            ended_at timestamptz,
            end_reason text,
            constraint setpoint_plans_pk primary key (plan_id)
        )
        """
    )
    op.execute("create index setpoint_plans_newest on setpoint_plans (created_at desc, plan_id desc)")
    op.execute(
        """
        create table setpoint_windows (
            plan_id text not null,
            start_local timestamp not null,
            begin_at timestamptz not null,
            end_at timestamptz not null,
            state text not null,
            next_at timestamptz,
            reason text not null default '',
            left_over text[] not null default '{}',
            set_in text[] not null default '{}',
            begin_groups text[] not null default '{}',
            end_groups text[] not null default '{}',
            changed_at timestamptz not null,
            constraint setpoint_windows_pk primary key (plan_id, start_local),
            constraint setpoint_windows_plan_fk foreign key (plan_id) references setpoint_plans
        )
        """
    )
    op.execute("create index setpoint_windows_due on setpoint_windows (next_at) where next_at is not null")
