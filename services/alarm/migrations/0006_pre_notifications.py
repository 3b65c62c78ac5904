"""Channels and routes of notifications, groups of alarms that are told together, each message with its state; alarms
are counted by when they were raised."""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = (
    """
    create table notification_channels (
        channel_id text not null,
        name text not null,
        config jsonb not null,
        credentials_ref text,
        language text not null,
        enabled boolean not null,
        rate_per_min integer not null,
        failing_since timestamptz,
        changed_by text not null,
        changed_at timestamptz not null,
        constraint notification_channels_pk primary key (channel_id)
    )
    """,
    """
    create table notification_routes (
        route_id text not null,
        name text not null,
        position integer not null,
        enabled boolean not null,
        route jsonb not null,
        changed_by text not null,
        changed_at timestamptz not null,
        constraint notification_routes_pk primary key (route_id)
    )
    """,
    """
    create table notification_groups (
        group_id text not null,
        route_id text not null,
        group_key text not null,
        news_at timestamptz,
        told_at timestamptz,
        next_at timestamptz,
        constraint notification_groups_pk primary key (group_id)
    ) with (fillfactor = 60)
    """,
    "create index notification_groups_due on notification_groups (next_at) where next_at is not null",
    """
    create table notification_members (
        group_id text not null,
        alarm_id text not null,
        site_id text not null,
        device_id text,
        signal text not null,
        level integer not null,
        began_at timestamptz not null,
        ended_at timestamptz,
        sequence integer not null,
        detail text,
        detail_zh text,
        state text not null,
        told_at timestamptz,
        told_to text[] not null default '{}',
        escalated integer not null default 0,
        inhibited boolean not null default false,
        constraint notification_members_pk primary key (group_id, alarm_id)
    ) with (fillfactor = 70)
    """,
    "create index notification_members_alarm on notification_members (alarm_id)",
    """
    create table notifications (
        notification_id text not null,
        channel_id text not null,
        route_id text,
        kind text not null,
        created_at timestamptz not null,
        title text not null,
        body text not null,
        alarms jsonb not null,
        alarm_count integer not null,
        site_ids text[],
        state text not null,
        attempts integer not null default 0,
        next_attempt_at timestamptz,
        sent_at timestamptz,
        error text,
        error_zh text,
        constraint notifications_pk primary key (notification_id),
        constraint notifications_state check (state in ('pending', 'sent', 'failed'))
    ) with (fillfactor = 80)
    """,
    "create index notifications_pending on notifications (channel_id, created_at, notification_id)"
    " where state = 'pending'",
    "create index notifications_open on notifications (state) where state <> 'sent'",
    "create index notifications_newest on notifications (created_at desc, notification_id desc)",
    "create index notifications_sent on notifications (channel_id, sent_at) where sent_at is not null",
    """
    create table notification_alarms (
        notification_id text not null,
        alarm_id text not null,
        constraint notification_alarms_pk primary key (alarm_id, notification_id)
    )
    """,
    "create index notification_alarms_notification on notification_alarms (notification_id)",
    "create index alarms_raised on alarms (raised_at)",
)


def upgrade() -> None:
    """Create the tables and the index."""
    for statement in STATEMENTS:
        op.execute(statement)
