"""Registry with its history, readings history, latest, rejected, commands, status: the first tables of ingest."""

from alembic import op

from libs.common.jobs import create_job_tables
from libs.common.schema import create_runtime_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_runtime_tables(op)
    create_job_tables(op)
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    # The registry: a row per entity, which is locked to change it, and a row per version. Ids are unique over
    # all kinds, because the topic is keyed by them.
    """
    create table entities (
        id text collate "C" not null,
        kind text not null,
        state text not null constraint entities_state check (state in ('active', 'removed')),
        revision integer not null,
        site text,
        changed_at timestamptz not null,
        constraint entities_pk primary key (id)
    )
    """,
    "create index entities_kind on entities (kind, id)",
    "create index entities_site on entities (site, kind, id)",
    """
    create table entity_versions (
        id text collate "C" not null,
        version integer not null,
        valid_from timestamptz not null,
        valid_to timestamptz,
        body jsonb not null,
        changed_by text not null,
        changed_at timestamptz not null,
        refers_to text[] not null,
        constraint entity_versions_pk primary key (id, version),
        constraint entity_versions_entity foreign key (id) references entities (id),
        constraint entity_versions_length check (valid_to is null or valid_to > valid_from)
    )
    """,
    "create index entity_versions_current on entity_versions (id, valid_from desc)",
    "create index entity_versions_refers_to on entity_versions using gin (refers_to)",
    # History: numbers for devices and layouts keep a row small.
    """
    create table devices (
        no integer generated always as identity,
        device_id text collate "C" not null,
        constraint devices_pk primary key (no),
        constraint devices_id unique (device_id)
    )
    """,
    """
    create table layouts (
        no integer generated always as identity,
        identity text not null,
        driver text not null,
        profile text,
        profile_version text,
        ct_ratio double precision,
        pt_ratio double precision,
        energy_ratio double precision,
        gauges text[] not null,
        counters text[] not null,
        constraint layouts_pk primary key (no),
        constraint layouts_identity unique (identity)
    )
    """,
    """
    create table readings (
        source_time timestamptz not null,
        received_at timestamptz not null,
        device_no integer not null,
        layout integer not null,
        flags smallint not null default 0,
        body bytea not null,
        quality bytea,
        extra jsonb,
        constraint readings_pk primary key (device_no, source_time)
    ) partition by range (source_time)
    """,
    "alter table readings alter column body set storage external",
    """
    create table latest (
        source_time timestamptz not null,
        received_at timestamptz not null,
        device_no integer not null,
        layout integer not null,
        flags smallint not null,
        site_id text not null,
        body bytea not null,
        quality bytea,
        extra jsonb,
        constraint latest_pk primary key (device_no)
    ) with (fillfactor = 60)
    """,
    "alter table latest alter column body set storage external",
    "create index latest_site on latest (site_id, device_no)",
    # Decoding for people: little-endian IEEE 754 at an offset; null where the point has no value.
    """
    create function float4_at(body bytea, at integer) returns real
    language sql immutable strict parallel safe as $$
        select case
            when e = 255 then null
            when e = 0 then ((1 - 2 * s) * m * power(2::float8, -149))::real
            else ((1 - 2 * s) * (8388608 + m) * power(2::float8, e - 150))::real
        end
        from (select get_byte(body, at + 3) >> 7 as s,
                     ((get_byte(body, at + 3) & 127) << 1) | (get_byte(body, at + 2) >> 7) as e,
                     ((get_byte(body, at + 2) & 127) << 16) | (get_byte(body, at + 1) << 8) | get_byte(body, at) as m
             ) as bits
    $$
    """,
    """
    create function float8_at(body bytea, at integer) returns double precision
    language sql immutable strict parallel safe as $$
        select case
            when e = 2047 then null
            when e = 0 and m = 0 then 0
            else (1 - 2 * s) * (4503599627370496 + m)::float8 * power(2::float8, e - 1075)
        end
        from (select get_byte(body, at + 7) >> 7 as s,
                     ((get_byte(body, at + 7) & 127) << 4) | (get_byte(body, at + 6) >> 4) as e,
                     ((get_byte(body, at + 6) & 15)::bigint << 48) | (get_byte(body, at + 5)::bigint << 40)
                     | (get_byte(body, at + 4)::bigint << 32) | (get_byte(body, at + 3)::bigint << 24)
                     | (get_byte(body, at + 2)::bigint << 16) | (get_byte(body, at + 1)::bigint << 8)
                     | get_byte(body, at)::bigint as m
             ) as bits
    $$
    """,
    """
    create function quality_name(code integer) returns text
    language sql immutable parallel safe as $$
        select (array['suspect', 'estimated', 'substituted', 'manual', 'clock_skew', 'invalid', 'stale',
                      'frozen'])[code]
    $$
    """,
    """
    create function report_points(device text, since timestamptz, until timestamptz)
    returns table (source_time timestamptz, received_at timestamptz, point text, value double precision, quality text)
    language sql stable as $$
        select r.source_time, r.received_at, p.name,
               case when p.place <= cardinality(l.gauges)
                    then float4_at(r.body, 4 * (p.place::integer - 1))::text::double precision
                    else float8_at(r.body, 4 * cardinality(l.gauges)
                                   + 8 * (p.place::integer - 1 - cardinality(l.gauges))) end,
               case when r.quality is null then null else quality_name(get_byte(r.quality, p.place::integer - 1)) end
          from devices d
          join readings r on r.device_no = d.no
          join layouts l on l.no = r.layout
         cross join lateral unnest(l.gauges || l.counters) with ordinality as p (name, place)
         where d.device_id = device and r.source_time >= since and r.source_time < until
         order by r.source_time, p.place
    $$
    """,
    # What was not understood, and what waits for the registry.
    """
    create table rejected (
        id text not null,
        received_at timestamptz not null,
        reason text not null,
        source text not null,
        device_id text,
        site_id text,
        line_id text,
        driver text,
        detail text,
        detail_zh text,
        content_type text,
        truncated boolean not null default false,
        raw bytea not null,
        replayed_at timestamptz,
        constraint rejected_pk primary key (id)
    )
    """,
    "create index rejected_time on rejected (received_at desc, id desc)",
    """
    create table parked (
        id text not null,
        device_id text not null,
        source text not null,
        received_at timestamptz not null,
        until timestamptz not null,
        raw bytea not null,
        constraint parked_pk primary key (id)
    )
    """,
    "create index parked_until on parked (until)",
    # Imports: what was asked, how far it is, what was wrong.
    """
    create table imports (
        id text not null,
        kind text not null constraint imports_kind check (kind in ('registry', 'readings')),
        file text not null,
        actor text not null,
        dry_run boolean not null,
        state text not null
            constraint imports_state check (state in ('queued', 'running', 'succeeded', 'failed')),
        bytes bigint not null,
        job_id text,
        counts jsonb,
        problems jsonb,
        detail text,
        detail_zh text,
        created_at timestamptz not null,
        finished_at timestamptz,
        constraint imports_pk primary key (id)
    )
    """,
    # Switching and state.
    """
    create table executed_commands (
        command_id text not null,
        device_id text not null,
        line_id text not null,
        site_id text not null,
        action text not null,
        epoch bigint not null,
        instance text not null,
        accepted_at timestamptz not null,
        constraint executed_commands_pk primary key (command_id)
    )
    """,
    "create index executed_commands_time on executed_commands (accepted_at)",
    """
    create table device_status (
        device_id text not null,
        site_id text not null,
        connectivity text not null,
        since timestamptz not null,
        last_report_at timestamptz,
        reason text,
        line_id text,
        published_at timestamptz not null,
        constraint device_status_pk primary key (device_id)
    )
    """,
    """
    create table instances (
        instance text not null,
        seen_at timestamptz not null,
        constraint instances_pk primary key (instance)
    )
    """,
)
