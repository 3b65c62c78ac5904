"""Plans, occurrences, commands with their history, OFF leases, isolations, wake-up orders."""

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
        create table plans (
            plan_id text not null,
            name text not null,
            state text not null constraint plans_state check (state in ('draft', 'approved', 'active', 'ended')),
            load_ids text[] not null,
            first_date date not null,
            last_date date not null,
            windows jsonb not null,
            zone text not null,
            weekdays integer[] not null,
            exceptions date[] not null,
            calendar_ids text[] not null,
            note text,
            created_by text not null,
            created_at timestamptz not null,
            approved_by text,
            approved_at timestamptz,
            ended_by text,
            ended_at timestamptz,
            end_reason text,
            starts_at timestamptz not null,
            ends_at timestamptz not null,
            made_until timestamptz,
            constraint plans_pk primary key (plan_id)
        )
        """
    )
    op.execute("create index plans_to_make on plans (made_until) where state in ('approved', 'active')")
    op.execute("create index plans_by_time on plans (created_at, plan_id)")
    op.execute(
        """
        create table calendars (
            calendar_id text not null,
            name text not null,
            source text not null,
            changed_by text not null,
            changed_at timestamptz not null,
            constraint calendars_pk primary key (calendar_id)
        )
        """
    )
    op.execute(
        """
        create table calendar_days (
            calendar_id text not null references calendars on delete cascade,
            day date not null,
            label text not null,
            constraint calendar_days_pk primary key (calendar_id, day)
        )
        """
    )
    op.execute(
        """
        create table occurrences (
            occurrence_id text not null default gen_random_uuid()::text,
            plan_id text not null references plans,
            load_id text not null,
            start_local timestamp not null,
            off_at timestamptz not null,
            on_at timestamptz not null,
            state text not null default 'planned',
            reason text not null default '',
            off_command_id text,
            on_command_id text,
            went_off_at timestamptz,
            came_on_at timestamptz,
            changed_at timestamptz not null,
            constraint occurrences_pk primary key (occurrence_id),
            constraint occurrences_once unique (plan_id, load_id, start_local),
            constraint occurrences_length check (off_at < on_at)
        )
        """
    )
    op.execute(
        "create index occurrences_due on occurrences (off_at) where state = 'planned' and off_command_id is null"
    )
    op.execute("create index occurrences_by_time on occurrences (off_at, occurrence_id)")
    op.execute(
        """
        create table commands (
            command_id text not null,
            action text not null constraint commands_action check (action in ('open', 'close')),
            site_id text not null,
            device_id text not null,
            line_id text not null,
            load_id text not null,
            channel integer,
            priority smallint not null,
            state text not null,
            created_at timestamptz not null,
            changed_at timestamptz not null,
            not_before timestamptz not null,
            next_at timestamptz,
            not_after timestamptz,
            restore_at timestamptz,
            off_at_most_s double precision,
            isolation_id text,
            pair_id text,
            occurrence_id text,
            plan_id text,
            wake_up_id text,
            group_id text,
            attempt integer not null default 0,
            looks integer not null default 0,
            sent_at timestamptz,
            wire_not_after timestamptz,
            unknown_since timestamptz,
            hold text,
            alarmed boolean not null default false,
            reason text not null default '',
            actor text not null,
            note text,
            is_final boolean not null generated always as (
                state in ('succeeded', 'rejected', 'cancelled', 'expired', 'failed', 'superseded', 'partial')
            ) stored,
            constraint commands_pk primary key (command_id),
            constraint commands_off_has_end check (
                action <> 'open' or isolation_id is not null
                or (restore_at is not null and off_at_most_s is not null and pair_id is not null)
            )
        )
        """
    )
    op.execute("create index commands_due on commands (next_at) where next_at is not null and not is_final")
    op.execute("create index commands_running on commands (device_id) where not is_final")
    op.execute("create index commands_of_load on commands (load_id, created_at)")
    op.execute("create index commands_by_time on commands (created_at, command_id)")
    op.execute("create index commands_of_wake_up on commands (wake_up_id) where wake_up_id is not null")
    op.execute("create index commands_of_group on commands (group_id) where group_id is not null")
    op.execute("create index commands_wake_ups on commands (not_before) where action = 'close' and not is_final")
    # However many replicas and doors there are, a load has one OFF on its way.
    op.execute(
        """
        create unique index commands_one_off on commands (load_id)
         where action = 'open' and state in ('scheduled', 'dispatched', 'accepted', 'verifying', 'unknown')
        """
    )
    op.execute(
        """
        create table command_history (
            id bigint generated always as identity,
            command_id text not null references commands,
            at timestamptz not null,
            state text not null,
            reason text not null,
            hold text,
            attempt integer not null,
            evidence jsonb not null,
            constraint command_history_pk primary key (id)
        )
        """
    )
    op.execute("create index command_history_of on command_history (command_id, id)")
    op.execute(
        """
        create table command_groups (
            group_id text not null,
            action text not null,
            actor text not null,
            created_at timestamptz not null,
            refused jsonb not null,
            constraint command_groups_pk primary key (group_id)
        )
        """
    )
    # What the watchdog must know before an OFF is sent; `told` is false until it has acknowledged this state.
    op.execute(
        """
        create table off_leases (
            command_id text not null references commands,
            load_id text not null,
            device_id text not null,
            channel integer,
            site_id text not null,
            restore_at timestamptz not null,
            off_at_most_s double precision not null,
            isolation_id text,
            made_at timestamptz not null,
            closed_at timestamptz,
            told boolean not null default false,
            constraint off_leases_pk primary key (command_id)
        )
        """
    )
    op.execute("create index off_leases_untold on off_leases (made_at) where not told")
    op.execute("create index off_leases_open on off_leases (load_id) where closed_at is null")
    op.execute(
        """
        create table isolations (
            isolation_id text not null,
            load_id text not null,
            site_id text not null,
            state text not null constraint isolations_state check (state in ('requested', 'active', 'ended')),
            owner text not null,
            permit text not null,
            reason text not null,
            requested_by text not null,
            requested_at timestamptz not null,
            approved_by text,
            approved_at timestamptz,
            expires_at timestamptz not null,
            warned boolean not null default false,
            ended_by text,
            ended_at timestamptz,
            end_reason text,
            off_command_id text not null references commands,
            constraint isolations_pk primary key (isolation_id),
            constraint isolations_two_persons check (approved_by is null or approved_by <> requested_by)
        )
        """
    )
    op.execute("create unique index isolations_one on isolations (load_id) where state = 'active'")
    op.execute(
        """
        create table wake_ups (
            wake_up_id text not null,
            scope text not null constraint wake_ups_scope check (scope in ('loads', 'device', 'site', 'region', 'all')),
            target text not null,
            reason text not null,
            actor text not null,
            created_at timestamptz not null,
            suspends boolean not null,
            released_by text,
            released_at timestamptz,
            constraint wake_ups_pk primary key (wake_up_id)
        )
        """
    )
    op.execute("create index wake_ups_by_time on wake_ups (created_at, wake_up_id)")
    op.execute(
        """
        create table suspensions (
            load_id text not null,
            wake_up_id text not null references wake_ups,
            constraint suspensions_pk primary key (load_id, wake_up_id)
        )
        """
    )
    # Whoever changes a command locks its load's row here first, in the order of the ids.
    op.execute(
        """
        create table load_switching (
            load_id text not null,
            last_off_at timestamptz,
            last_on_at timestamptz,
            released_trip integer,
            released_by text,
            released_at timestamptz,
            constraint load_switching_pk primary key (load_id)
        )
        """
    )
    op.execute(
        """
        create table idempotency_keys (
            caller text not null,
            key text not null,
            body_hash bytea not null,
            status integer not null,
            response jsonb not null,
            created_at timestamptz not null,
            constraint idempotency_keys_pk primary key (caller, key)
        )
        """
    )
    op.execute("create index idempotency_keys_old on idempotency_keys (created_at)")
