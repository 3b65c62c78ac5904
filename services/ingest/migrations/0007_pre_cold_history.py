"""Cold days in Parquet: which files there are, and which old days have been written to since."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


STATEMENTS = (
    # A row per day that was written to when it was no longer new. Whoever writes to such a day takes its row first, and
    # so does whoever drops the day's partition: what came in between is seen.
    """
    create table history_days (
        day date not null,
        version bigint not null default 0,
        touched_at timestamptz not null,
        constraint history_days_pk primary key (day)
    ) with (fillfactor = 50)
    """,
    # What a reader may read. A file is there before its row and goes after it.
    """
    create table cold_files (
        day date not null,
        part integer not null,
        name text not null,
        reports bigint not null,
        bytes bigint not null,
        sha256 text not null,
        written_at timestamptz not null,
        dropping boolean not null default false,
        constraint cold_files_pk primary key (day, part)
    )
    """,
    "create index cold_files_part on cold_files (part, day)",
)
