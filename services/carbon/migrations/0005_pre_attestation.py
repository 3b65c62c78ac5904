"""Attestation: what waits to be committed, leaves, the tiles of the daily trees, and signed heads."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the log; nothing that is in it is ever written again, but the last tile of a level grows."""
    # Written with what it tells of, and emptied by the appender. An interval's facts stay where they are booked.
    op.execute(
        """
        create table attest_pending (
            place bigint generated always as identity,
            kind text not null,
            subject text not null,
            at timestamptz not null,
            version integer not null check (version >= 1),
            facts text,
            constraint attest_pending_pk primary key (place)
        )
        """
    )
    # ``facts`` is text: the bytes that are hashed, which jsonb would write anew. Null for intervals.
    op.execute(
        """
        create table attest_leaves (
            tree date not null,
            index bigint not null check (index >= 0),
            kind text not null,
            subject text not null,
            at timestamptz not null,
            version integer not null,
            seq bigint not null,
            salt bytea not null,
            previous bytea not null,
            corrects text,
            facts text,
            constraint attest_leaves_pk primary key (tree, index)
        )
        """
    )
    op.execute("create index attest_leaves_by_subject on attest_leaves (subject, at, version)")
    # Nearly every leaf is an interval; the few others are found without them.
    op.execute("create index attest_leaves_others on attest_leaves (kind, subject, version) where kind <> 'interval'")
    op.execute(
        """
        create table attest_ends (
            subject text not null,
            seq bigint not null,
            commitment bytea not null,
            constraint attest_ends_pk primary key (subject)
        )
        """
    )
    op.execute(
        """
        create table attest_tiles (
            tree date not null,
            level smallint not null,
            number bigint not null,
            hashes bytea not null,
            constraint attest_tiles_pk primary key (tree, level, number)
        )
        """
    )
    op.execute("alter table attest_tiles alter column hashes set storage external")  # digests do not compress
    op.execute(
        """
        create table attest_heads (
            tree date not null,
            size bigint not null,
            root bytea not null,
            at timestamptz not null,
            final boolean not null,
            key bytea not null,
            signature text not null,
            constraint attest_heads_pk primary key (tree, size, final)
        )
        """
    )
    op.execute(
        """
        create table attest_log (
            one boolean not null default true,
            tree date,
            size bigint not null default 0,
            constraint attest_log_pk primary key (one),
            constraint attest_log_one_ck check (one)
        )
        """
    )
    op.execute("insert into attest_log (size) values (0)")
    op.execute(
        """
        create function refuse_attest_change() returns trigger language plpgsql as $$
        begin
            raise exception 'attestation is append-only: % of % is refused', tg_op, tg_table_name
                using errcode = 'insufficient_privilege';
        end $$
        """
    )
    for table in ("attest_leaves", "attest_heads"):
        op.execute(
            f"""
            create trigger {table}_append_only before update or delete or truncate on {table}
                for each statement execute function refuse_attest_change()
            """
        )
    op.execute(
        """
        create trigger attest_tiles_kept before delete or truncate on attest_tiles
            for each statement execute function refuse_attest_change()
        """
    )
    op.execute(
        """
        create function refuse_other_hashes() returns trigger language plpgsql as $$
        begin
            if substring(new.hashes for length(old.hashes)) is distinct from old.hashes then
                raise exception 'a tile only grows: tree %, level %, number %', old.tree, old.level, old.number
                    using errcode = 'insufficient_privilege';
            end if;
            return new;
        end $$
        """
    )
    op.execute(
        """
        create trigger attest_tiles_grow before update on attest_tiles
            for each row execute function refuse_other_hashes()
        """
    )
