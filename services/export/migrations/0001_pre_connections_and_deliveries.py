"""Connections to supervision centres, units, mappings, deliveries of alarms, samples of every hour."""

from alembic import op

from libs.common.registry import create_registry_tables
from libs.common.schema import create_runtime_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_runtime_tables(op)
    create_registry_tables(op)
    op.execute(
        """
        create table sc_connections (
            id text not null,
            name text not null,
            dialect text not null,
            url text not null,
            options jsonb not null,
            credentials bytea,
            enabled boolean not null,
            created_at timestamptz not null,
            updated_at timestamptz not null,
            removed_at timestamptz,
            constraint sc_connections_pk primary key (id)
        )
        """
    )
    op.execute(
        """
        create table units (
            key bigint generated always as identity,
            connection_id text not null,
            unit_id text not null,
            unit_code text not null,
            name text not null,
            sites text[] not null,
            facts jsonb not null,
            phase text not null default 'new'
                constraint units_phase
                check (phase in ('new', 'registered', 'refused', 'lost', 'leaving', 'left')),
            assigned_address text,
            access_right integer,
            last_login_at timestamptz,
            login_not_before timestamptz,
            devices_changed boolean not null default false,
            login_failures integer not null default 0,
            logged_in_at timestamptz,
            heard_at timestamptz,
            send_failures integer not null default 0,
            error text,
            clock_skew_s double precision,
            finding text,
            next_serial bigint not null default 1
                constraint units_serial check (next_serial between 0 and 4294967295),
            constraint units_pk primary key (key),
            constraint units_once unique (connection_id, unit_id),
            constraint units_connection foreign key (connection_id) references sc_connections (id)
        ) with (fillfactor = 70)
        """
    )
    op.execute("create index units_by_id on units (unit_id)")
    op.execute(
        """
        create table mapping_devices (
            unit_key bigint not null,
            sc_device_id text not null,
            sc_device_code text not null,
            name text not null,
            place integer not null,
            constraint mapping_devices_pk primary key (unit_key, sc_device_id),
            constraint mapping_devices_unit foreign key (unit_key) references units (key) on delete cascade
        )
        """
    )
    op.execute(
        """
        create table mapping_points (
            unit_key bigint not null,
            sc_device_id text not null,
            point_id text not null,
            device_id text not null,
            kind text not null constraint mapping_points_kind check (kind in ('point', 'signal')),
            source text not null,
            type text not null constraint mapping_points_type check (type in ('DI', 'AI', 'DO', 'AO')),
            name text,
            level integer,
            place integer not null,
            constraint mapping_points_pk primary key (unit_key, sc_device_id, point_id),
            constraint mapping_points_device foreign key (unit_key, sc_device_id)
                references mapping_devices (unit_key, sc_device_id) on delete cascade
        )
        """
    )
    op.execute("create index mapping_points_by_source on mapping_points (device_id, kind, source)")
    op.execute(
        """
        create table alarm_states (
            alarm_id text not null,
            site_id text not null,
            device_id text,
            signal text not null,
            level integer not null,
            sequence bigint not null,
            began_at timestamptz not null,
            ended_at timestamptz,
            historical boolean not null,
            constraint alarm_states_pk primary key (alarm_id)
        ) with (fillfactor = 70)
        """
    )
    op.execute("create index alarm_states_active on alarm_states (device_id) where ended_at is null")
    op.execute("create index alarm_states_ended on alarm_states (ended_at) where ended_at is not null")
    op.execute(
        """
        create table deliveries (
            seq bigint generated always as identity,
            id text not null,
            connection_id text not null,
            unit_key bigint not null,
            alarm_id text not null,
            event_id text not null,
            site_id text not null,
            device_id text,
            step text not null constraint deliveries_step check (step in ('begin', 'end')),
            serial bigint not null constraint deliveries_serial check (serial between 0 and 4294967295),
            sc_device_id text not null,
            sc_device_code text not null,
            point_id text not null,
            level integer not null,
            at timestamptz not null,
            began_at timestamptz not null,
            text text not null,
            value double precision,
            traceparent text,
            state text not null
                constraint deliveries_state
                check (state in ('queued', 'retrying', 'refused', 'delivered', 'given_up')),
            attempts integer not null default 0,
            alone boolean not null default false,
            queued_at timestamptz not null,
            next_attempt_at timestamptz,
            finished_at timestamptz,
            error text,
            constraint deliveries_pk primary key (id),
            constraint deliveries_once unique (unit_key, alarm_id, sc_device_id, point_id, step),
            constraint deliveries_unit foreign key (unit_key) references units (key)
        ) with (fillfactor = 70)
        """
    )
    op.execute(
        """
        create index deliveries_open on deliveries (unit_key, sc_device_id, point_id, seq)
         where state in ('queued', 'retrying', 'refused')
        """
    )
    op.execute("create index deliveries_by_alarm on deliveries (alarm_id)")
    op.execute("create index deliveries_by_time on deliveries (queued_at, id)")
    op.execute("create index deliveries_finished on deliveries (finished_at) where finished_at is not null")
    op.execute(
        """
        create table hourly_samples (
            device_id text not null,
            hour timestamptz not null,
            points jsonb not null,
            constraint hourly_samples_pk primary key (device_id, hour)
        )
        """
    )
    op.execute("create index hourly_samples_by_hour on hourly_samples (hour)")
