"""What fault localisation lives on: devices as last told, what is to be looked at, diagnoses, codes of receivers."""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    """
    create table watched_devices (
        device_id text not null,
        site_id text not null,
        connectivity text not null,
        since timestamptz,
        last_report_at timestamptz,
        line_id text,
        reason text,
        rsrp_dbm double precision,
        sinr_db double precision,
        coverage_level integer,
        radio_at timestamptz,
        battery_percent double precision,
        battery_v double precision,
        battery_at timestamptz,
        iccid text,
        imei text,
        meter_address text,
        told_at timestamptz not null,
        constraint watched_devices_pk primary key (device_id)
    ) with (fillfactor = 80)
    """,
    "create index watched_devices_iccid on watched_devices (iccid) where iccid is not null",
    """
    create table device_marks (
        device_id text not null,
        name text not null,
        subject text not null,
        value jsonb not null,
        at timestamptz not null,
        source text not null,
        lasting boolean not null,
        constraint device_marks_pk primary key (device_id, name, subject)
    )
    """,
    """
    create table diagnosis_wanted (
        device_id text not null,
        due_at timestamptz not null,
        asked integer not null default 1,
        by_hand text,
        constraint diagnosis_wanted_pk primary key (device_id)
    )
    """,
    "create index diagnosis_wanted_due on diagnosis_wanted (due_at)",
    """
    create table diagnoses (
        diagnosis_id text not null,
        device_id text not null,
        site_id text not null,
        cause text not null,
        common_cause text not null,
        confidence text not null,
        evidence jsonb not null,
        unreachable jsonb not null,
        also_possible text[] not null,
        card jsonb not null,
        began_at timestamptz not null,
        changed_at timestamptz not null,
        looked_at timestamptz not null,
        ended_at timestamptz,
        sequence integer not null,
        alarm_id text,
        group_id text,
        told boolean not null,
        asked_by text,
        constraint diagnoses_pk primary key (diagnosis_id)
    )
    """,
    "create unique index diagnoses_open on diagnoses (device_id) where ended_at is null",
    "create index diagnoses_cause on diagnoses (common_cause, began_at) where ended_at is null",
    "create index diagnoses_newest on diagnoses (began_at desc, diagnosis_id desc)",
    "create index diagnoses_site on diagnoses (site_id, began_at desc, diagnosis_id desc)",
    "create index diagnoses_device on diagnoses (device_id, began_at desc, diagnosis_id desc)",
    "create index diagnoses_group on diagnoses (group_id) where group_id is not null",
    """
    create table receiver_codes (
        receiver text not null,
        cause text not null,
        code text not null,
        changed_by text not null,
        changed_at timestamptz not null,
        constraint receiver_codes_pk primary key (receiver, cause),
        constraint receiver_codes_once unique (receiver, code)
    )
    """,
    """
    create table card_checks (
        day date not null,
        at timestamptz not null,
        cards integer not null,
        findings jsonb not null,
        done_at timestamptz,
        constraint card_checks_pk primary key (day)
    )
    """,
)


def upgrade() -> None:
    """Add the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
