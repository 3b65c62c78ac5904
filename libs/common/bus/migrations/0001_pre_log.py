"""The log in PostgreSQL: topics, streams, messages, groups. Why it looks so: ``libs/common/bus/README.md``.

Everything belongs to the role ``wattring_bus``; the bus connects as it, and every service's role is a member.
"""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        create table topics (
            name text not null,
            partitions integer not null constraint topics_partitions check (partitions > 0),
            compacted boolean not null,
            retention_s double precision,
            retention_bytes bigint,
            created_at timestamptz not null default now(),
            constraint topics_pk primary key (name)
        )
        """
    )
    # floor: first offset that retention has left. cleaned: below it compaction has been.
    op.execute(
        """
        create table streams (
            id integer generated always as identity,
            topic text not null,
            partition integer not null,
            compacted boolean not null,
            floor bigint not null default 0,
            cleaned bigint not null default 0,
            constraint streams_pk primary key (id),
            constraint streams_once unique (topic, partition),
            constraint streams_topic foreign key (topic) references topics (name)
        ) with (fillfactor = 50)
        """
    )
    # total: sum of the sizes in the stream up to and including this message, so that the size of any part is one
    # subtraction. Vacuum comes after a share of the rows that retention frees in minutes, without pauses.
    op.execute(
        """
        create table messages (
            stream integer not null,
            "off" bigint not null,
            total bigint not null,
            at timestamptz not null,
            compacted boolean not null,
            key text,
            value bytea,
            headers text not null,
            constraint messages_pk primary key (stream, "off")
        ) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000,
                autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.5)
        """
    )
    # Bundled servers have only pglz, which costs more than it saves on small JSON.
    op.execute("alter table messages alter column value set storage external")
    op.execute("alter table messages alter column headers set storage external")
    op.execute('create index messages_by_key on messages (stream, key, "off") where compacted')
    op.execute('create index messages_tombstones on messages (stream, "off") where compacted and value is null')
    op.execute(
        """
        create table group_positions (
            grp text not null,
            stream integer not null,
            next bigint not null,
            told_at timestamptz not null default now(),
            constraint group_positions_pk primary key (grp, stream),
            constraint group_positions_stream foreign key (stream) references streams (id) on delete cascade
        ) with (fillfactor = 50)
        """
    )
    op.execute(
        """
        create table leases (
            name text not null,
            owner text,
            epoch bigint not null default 0,
            until timestamptz not null default '-infinity',
            constraint leases_pk primary key (name)
        ) with (fillfactor = 50)
        """
    )
    # The locks are taken in rising order, so that two appends cannot wait for each other, and in a statement of
    # their own: the insert then sees every offset that was given before us. In one statement max() would be stale.
    # Offsets are never taken from a sequence: a lower one could be committed after a higher one was read.
    op.execute(
        """
        create function append(p_streams integer[], p_keys text[], p_values bytea[], p_headers text[])
        returns void language plpgsql as $$
        declare
            stream_id integer;
            appended_at timestamptz;
            appended integer;
        begin
            for stream_id in select distinct s from unnest(p_streams) as s order by s loop
                perform pg_advisory_xact_lock(1937010020, stream_id);
            end loop;
            appended_at := clock_timestamp();
            insert into messages (stream, "off", total, at, compacted, key, value, headers)
            select m.stream,
                   b.next + row_number() over w - 1,
                   b.total + sum(
                       octet_length(m.key) + coalesce(octet_length(m.value), 0) + octet_length(m.headers)) over w,
                   greatest(appended_at, b.at),
                   b.compacted, m.key, m.value, m.headers
              from unnest(p_streams, p_keys, p_values, p_headers) with ordinality
                       as m(stream, key, value, headers, place)
              join (
                    select s.id, s.compacted,
                           greatest(last."off" + 1, s.floor) as next,
                           coalesce(last.total, 0) as total,
                           coalesce(last.at, appended_at) as at
                      from (select distinct d from unnest(p_streams) as d) as wanted(id)
                      join streams s using (id)
                      left join lateral (
                            select x."off", x.total, x.at from messages x
                             where x.stream = s.id order by x."off" desc limit 1) as last on true
                   ) as b on b.id = m.stream
            window w as (partition by m.stream order by m.place);
            get diagnostics appended = row_count;
            if appended <> cardinality(p_streams) then
                raise exception 'a stream does not exist' using errcode = 'foreign_key_violation';
            end if;
        end $$
        """
    )
    # Times never fall within a stream, so the first message at or after a time is found by halving.
    op.execute(
        """
        create function offset_since(p_stream integer, p_since timestamptz)
        returns bigint language plpgsql stable as $$
        declare
            low bigint;
            high bigint;
            middle record;
        begin
            select s.floor, greatest(s.floor, (select max(m."off") + 1 from messages m where m.stream = s.id))
              into low, high from streams s where s.id = p_stream;
            while low < high loop
                select m."off", m.at into middle from messages m
                 where m.stream = p_stream and m."off" >= (low + high) / 2 order by m."off" limit 1;
                if not found or middle.at >= p_since then
                    high := (low + high) / 2;
                else
                    low := middle."off" + 1;
                end if;
            end loop;
            return low;
        end $$
        """
    )
    op.execute(
        """
        create function offset_over(p_stream integer, p_total bigint)
        returns bigint language plpgsql stable as $$
        declare
            low bigint;
            high bigint;
            middle record;
        begin
            select s.floor, greatest(s.floor, (select max(m."off") + 1 from messages m where m.stream = s.id))
              into low, high from streams s where s.id = p_stream;
            while low < high loop
                select m."off", m.total into middle from messages m
                 where m.stream = p_stream and m."off" >= (low + high) / 2 order by m."off" limit 1;
                if not found or middle.total > p_total then
                    high := (low + high) / 2;
                else
                    low := middle."off" + 1;
                end if;
            end loop;
            return low;
        end $$
        """
    )
