"""The audit of switching: append-only, and a chain over it that is made behind it."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the audit, what waits to be linked, the links and the chain's head."""
    # ``before`` and ``after`` are text: the bytes that are hashed, which jsonb would write anew.
    op.execute(
        """
        create table audit (
            place bigint generated always as identity,
            entry_id text not null,
            at timestamptz not null,
            actor text not null,
            door text not null,
            action text not null,
            subject text not null,
            reason text,
            before text,
            after text,
            succeeded boolean not null,
            constraint audit_pk primary key (place)
        )
        """
    )
    op.execute("create index audit_by_time on audit (at, place)")
    op.execute("create index audit_by_actor on audit (actor, at, place)")
    op.execute("create index audit_by_subject on audit (subject, at, place)")
    # Filled with each entry and emptied by the linker, so that the audit itself is never written again.
    op.execute("create table audit_pending (place bigint not null, constraint audit_pending_pk primary key (place))")
    op.execute(
        """
        create table audit_links (
            seq bigint not null,
            place bigint not null,
            hash bytea not null,
            constraint audit_links_pk primary key (seq),
            constraint audit_links_place_uq unique (place)
        )
        """
    )
    op.execute(
        """
        create table audit_head (
            one boolean not null default true,
            seq bigint not null,
            hash bytea not null,
            published_seq bigint not null default 0,
            constraint audit_head_pk primary key (one),
            constraint audit_head_one_ck check (one)
        )
        """
    )
    op.execute("insert into audit_head (seq, hash) values (0, decode(repeat('00', 32), 'hex'))")
    op.execute(
        """
        create function refuse_audit_change() returns trigger language plpgsql as $$
        begin
            raise exception 'the audit is append-only: % of % is refused', tg_op, tg_table_name
                using errcode = 'insufficient_privilege';
        end $$
        """
    )
    for table in ("audit", "audit_links"):
        op.execute(
            f"""
            create trigger {table}_append_only before update or delete or truncate on {table}
                for each statement execute function refuse_audit_change()
            """
        )
