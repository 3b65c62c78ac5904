"""Signal table, rules and overrides; how far devices were judged and what is not normal; alarms with their events."""

from alembic import op

from libs.common.registry import create_registry_tables
from libs.common.schema import create_runtime_tables

revision = "0001"
down_revision = None

TABLES = (
    """
    create table rulebook (
        only_row boolean not null default true constraint rulebook_one_row check (only_row),
        version bigint not null,
        shipped_version integer not null,
        constraint rulebook_pk primary key (only_row)
    )
    """,
    "insert into rulebook (version, shipped_version) values (0, 0)",
    """
    create table dictionaries (
        dictionary text not null,
        name_zh text not null,
        name_en text not null,
        source text not null,
        constraint dictionaries_pk primary key (dictionary)
    )
    """,
    """
    create table signals (
        code text not null,
        dictionary text not null,
        equipment_type text not null,
        equipment_zh text not null,
        kind text not null,
        name_zh text not null,
        name_en text not null,
        unit text,
        levels jsonb not null,
        thresholds jsonb not null,
        start_delay_s double precision,
        end_delay_s double precision not null,
        period_s double precision,
        absolute_change double precision,
        alarm_text_zh text,
        normal_text_zh text,
        required boolean not null,
        points text[] not null,
        note text,
        version bigint not null,
        constraint signals_pk primary key (code),
        constraint signals_dictionary foreign key (dictionary) references dictionaries (dictionary)
    )
    """,
    """
    create table rules (
        rule_id text not null,
        signal text not null,
        comparison text not null,
        quantifier text not null,
        points text[] not null,
        unit text not null,
        device_kinds text[] not null,
        band text,
        band_group text,
        supply boolean not null,
        threshold double precision,
        hysteresis double precision not null,
        max_gap_s double precision not null,
        version bigint not null,
        constraint rules_pk primary key (rule_id),
        constraint rules_signal foreign key (signal) references signals (code)
    )
    """,
    """
    create table rule_overrides (
        rule_id text not null,
        scope text not null,
        scope_id text not null,
        version bigint not null,
        enabled boolean,
        level integer,
        threshold double precision,
        hysteresis double precision,
        start_delay_s double precision,
        end_delay_s double precision,
        max_gap_s double precision,
        changed_by text not null,
        changed_at timestamptz not null,
        reason text,
        constraint rule_overrides_pk primary key (rule_id, scope, scope_id),
        constraint rule_overrides_rule foreign key (rule_id) references rules (rule_id)
    )
    """,
    """
    create table rule_override_versions (
        rule_id text not null,
        scope text not null,
        scope_id text not null,
        version bigint not null,
        enabled boolean,
        level integer,
        threshold double precision,
        hysteresis double precision,
        start_delay_s double precision,
        end_delay_s double precision,
        max_gap_s double precision,
        changed_by text not null,
        changed_at timestamptz not null,
        reason text,
        constraint rule_override_versions_pk primary key (rule_id, scope, scope_id, version)
    )
    """,
    # Written with every batch: half-empty pages let the update stay on its page (HOT).
    """
    create table judged (
        device_id text not null,
        partition integer not null,
        judged_at timestamptz not null,
        received_at timestamptz not null,
        constraint judged_pk primary key (device_id)
    ) with (fillfactor = 60)
    """,
    "create index judged_partition on judged (partition)",
    """
    create table episodes (
        device_id text not null,
        rule_id text not null,
        partition integer not null,
        state smallint not null constraint episodes_not_normal check (state between 1 and 3),
        since timestamptz not null,
        began_at timestamptz not null,
        seen_at timestamptz not null,
        point_values jsonb not null,
        rule_version bigint not null,
        site_id text not null,
        signal text not null,
        level integer not null,
        alarm_id text,
        sequence integer not null,
        inhibited_by text,
        constraint episodes_pk primary key (device_id, rule_id)
    ) with (fillfactor = 60)
    """,
    "create index episodes_partition on episodes (partition)",
    """
    create table shutdowns (
        device_id text not null,
        partition integer not null,
        reference text not null,
        since timestamptz not null,
        until timestamptz,
        constraint shutdowns_pk primary key (device_id)
    )
    """,
    """
    create table alarms (
        alarm_id text not null,
        site_id text not null,
        device_id text,
        rule_id text,
        rule_version bigint,
        condition_key text,
        subject text,
        circuit_id text,
        signal text not null,
        level integer not null,
        sequence integer not null,
        began_at timestamptz not null,
        raised_at timestamptz not null,
        ended_at timestamptz,
        closed_at timestamptz,
        end_reason text,
        inhibited_by text,
        point text,
        value double precision,
        threshold double precision,
        unit text,
        detail text,
        detail_zh text,
        acknowledged_at timestamptz,
        acknowledged_by text,
        constraint alarms_pk primary key (alarm_id)
    ) with (fillfactor = 80)
    """,
    "create index alarms_newest on alarms (began_at desc, alarm_id desc)",
    "create index alarms_active on alarms (began_at desc, alarm_id desc) where ended_at is null",
    "create index alarms_site on alarms (site_id, began_at desc, alarm_id desc)",
    "create index alarms_device on alarms (device_id, began_at desc, alarm_id desc) where device_id is not null",
    "create index alarms_condition on alarms (condition_key, began_at desc) where condition_key is not null",
    """
    create unique index alarms_condition_once on alarms (condition_key)
     where condition_key is not null and ended_at is null
    """,
    """
    create table alarm_events (
        alarm_id text not null,
        sequence integer not null,
        phase text not null,
        decided_at timestamptz not null,
        event jsonb not null,
        constraint alarm_events_pk primary key (alarm_id, sequence)
    )
    """,
    """
    create table alarm_notes (
        id bigint generated always as identity,
        alarm_id text not null,
        at timestamptz not null,
        actor text not null,
        note text not null,
        constraint alarm_notes_pk primary key (id)
    )
    """,
    "create index alarm_notes_alarm on alarm_notes (alarm_id, id)",
    """
    create table alarm_deliveries (
        alarm_id text not null,
        destination text not null,
        item text not null,
        item_kind text,
        state text not null,
        attempts integer not null,
        at timestamptz not null,
        error text,
        constraint alarm_deliveries_pk primary key (alarm_id, destination, item)
    )
    """,
)


def upgrade() -> None:
    """Create the tables."""
    create_runtime_tables(op)
    create_registry_tables(op)
    for statement in TABLES:
        op.execute(statement)
