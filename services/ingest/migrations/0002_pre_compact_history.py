"""Reports as counts of their last digit where they have few, and the last value of every point in ``latest``."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    # Per point, in the order of the body: digits behind the point of a count, null for a float. Gauges that are counts
    # have 16 bits and follow those that are 32-bit floats; counters that are counts have 32 and follow 64-bit floats.
    # Layouts from before have no array: all floats.
    "alter table layouts add column decimals smallint[]",
    # What the last report does not hold: {point: {value, source_time, quality}}. The key is a number that reports with
    # the same points have in common, so that a report can take the place of such a one without being read.
    "alter table latest add column points_key bigint not null default 0, add column older jsonb",
    """
    create function count_at(body bytea, at integer, width integer, decimals integer) returns double precision
    language sql immutable strict parallel safe as $$
        select case
            when width = 2 and bits = 32768 or width = 4 and bits = 2147483648 then null
            else ((bits - case when bits >= 1::bigint << (8 * width - 1) then 1::bigint << (8 * width) else 0 end)
                  ::numeric / power(10::numeric, decimals))::double precision
        end
        from (select sum(get_byte(body, at + i)::bigint << (8 * i))::bigint as bits
                from generate_series(0, width - 1) as i) as number
    $$
    """,
    """
    create function layout_points(layout integer)
    returns table (place integer, name text, at integer, width integer, counted boolean, decimals integer)
    language sql stable as $$
        select (p.place - 1)::integer, p.name, (sum(p.width) over (order by p.place) - p.width)::integer, p.width,
               p.decimals is not null, p.decimals::integer
          from (select u.place, u.name, u.decimals,
                       case when u.place <= cardinality(l.gauges) then 4 else 8 end
                       / case when u.decimals is null then 1 else 2 end as width
                  from layouts l
                 cross join lateral unnest(l.gauges || l.counters, l.decimals) with ordinality
                    as u (name, decimals, place)
                 where l.no = layout) as p
    $$
    """,
    """
    create or replace function report_points(device text, since timestamptz, until timestamptz)
    returns table (source_time timestamptz, received_at timestamptz, point text, value double precision, quality text)
    language sql stable as $$
        select r.source_time, r.received_at, p.name,
               case when p.counted then count_at(r.body, p.at, p.width, p.decimals)
                    when p.width = 4 then float4_at(r.body, p.at)::text::double precision
                    else float8_at(r.body, p.at) end,
               case when r.quality is null then null else quality_name(get_byte(r.quality, p.place)) end
          from devices d
          join readings r on r.device_no = d.no
         cross join lateral layout_points(r.layout) as p
         where d.device_id = device and r.source_time >= since and r.source_time < until
         order by r.source_time, p.place
    $$
    """,
)
