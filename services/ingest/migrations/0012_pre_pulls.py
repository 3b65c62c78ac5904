"""How far other systems have been read, what of the overlap was seen, and files that were dropped for us."""

from alembic import op

revision = "0012"
down_revision = "0011"

STATEMENTS = (
    """
    create table pulls (
        line_id text collate "C" not null,
        epoch bigint not null,
        cycle bigint not null default 0,
        watermark jsonb,
        rows_taken bigint not null default 0,
        rows_refused bigint not null default 0,
        last_success_at timestamptz,
        failing_since timestamptz,
        detail text,
        detail_zh text,
        constraint pulls_pk primary key (line_id)
    )
    """,
    # Keys of rows within the overlap that is read again each time; emptied as the watermark goes on.
    """
    create table pulled_keys (
        line_id text collate "C" not null,
        key bytea not null,
        cycle bigint not null,
        constraint pulled_keys_pk primary key (line_id, key)
    )
    """,
    """
    create table dropped_files (
        line_id text collate "C" not null,
        sha256 bytea not null,
        name text not null,
        bytes bigint not null,
        epoch bigint not null,
        found_at timestamptz not null,
        lines_done integer not null default 0,
        counts jsonb not null default '{}',
        problems jsonb not null default '[]',
        outcome text constraint dropped_files_outcome check (outcome in ('taken', 'refused')),
        finished_at timestamptz,
        moved_at timestamptz,
        constraint dropped_files_pk primary key (line_id, sha256)
    )
    """,
    "create index dropped_files_time on dropped_files (line_id, found_at desc)",
)


def upgrade() -> None:
    """Create the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
