"""How many reports each device sent in each hour, kept while they are stored, and what of the past is missing."""

from alembic import op

revision = "0009"
down_revision = "0008"

HOURS = [f"h{hour:02d}" for hour in range(24)]


def upgrade() -> None:
    # The reports that are there already are counted once; hours of them take longer than a statement may.
    op.execute("set local statement_timeout = '30min'")
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    # A row per device and UTC day, a column per hour: a batch of reports of as many devices touches as many rows.
    f"""
    create table report_counts (
        day date not null,
        device_no integer not null,
        {", ".join(f"{hour} smallint not null default 0" for hour in HOURS)},
        constraint report_counts_pk primary key (day, device_no)
    ) with (fillfactor = 70)
    """,
    f"""
    insert into report_counts (day, device_no, {", ".join(HOURS)})
    select day, device_no,
           {", ".join(f"least(coalesce(sum(reports) filter (where hour = {hour}), 0), 32767)" for hour in range(24))}
      from (select (source_time at time zone 'UTC')::date as day, device_no,
                   extract(hour from source_time at time zone 'UTC')::integer as hour, count(*) as reports
              from readings where flags & 1 = 0 group by 1, 2, 3) as counted
     group by day, device_no
    """,  # noqa: S608 - constants
    # Stretches without reports: what was missed, whether it was asked for again, and what came of it.
    """
    create table gaps (
        id text not null,
        device_id text collate "C" not null,
        site_id text not null,
        line_id text,
        began_at timestamptz not null,
        ended_at timestamptz,
        missing integer not null,
        recovered integer not null default 0,
        state text not null
            constraint gaps_state check (state in ('open', 'waiting', 'filled', 'lost')),
        reason text,
        asked_until timestamptz,
        attempts integer not null default 0,
        due_at timestamptz,
        found_at timestamptz not null,
        settled_at timestamptz,
        constraint gaps_pk primary key (id),
        constraint gaps_once unique (device_id, began_at)
    )
    """,
    "create index gaps_unsettled on gaps (device_id) where settled_at is null",
    "create index gaps_time on gaps (began_at, id)",
    # Up to where all reports have been looked at for gaps.
    """
    create table gap_scan (
        one boolean not null default true constraint gap_scan_one check (one),
        scanned_until timestamptz not null,
        constraint gap_scan_pk primary key (one)
    )
    """,
)
