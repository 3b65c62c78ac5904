"""Feeds: numbered batches of chosen readings, destinations that are told them, and what they were told."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table feeds (
            id text not null,
            name text not null,
            owner text not null,
            limits text[],
            selection jsonb not null,
            max_rows integer not null constraint feeds_max_rows check (max_rows > 0),
            max_wait_s double precision not null,
            keep_s double precision not null,
            last_number bigint not null default 0,
            open_rows integer not null default 0,
            open_since timestamptz,
            created_at timestamptz not null,
            updated_at timestamptz not null,
            removed_at timestamptz,
            constraint feeds_pk primary key (id),
            constraint feeds_open check ((open_rows > 0) = (open_since is not null))
        ) with (fillfactor = 70)
        """
    )
    # What came in one transaction for one batch: canonical lines, compressed. The open batch is number last_number + 1.
    op.execute(
        """
        create table feed_chunks (
            feed_id text not null,
            number bigint not null,
            id bigint generated always as identity,
            rows integer not null,
            tallies jsonb not null,
            body bytea not null,
            constraint feed_chunks_pk primary key (feed_id, number, id),
            constraint feed_chunks_feed foreign key (feed_id) references feeds (id) on delete cascade
        )
        """
    )
    op.execute("alter table feed_chunks alter column body set storage external")
    op.execute(
        """
        create table feed_batches (
            feed_id text not null,
            number bigint not null,
            rows integer not null,
            bytes bigint not null,
            hash text not null,
            opened_at timestamptz not null,
            closed_at timestamptz not null,
            kept boolean not null default true,
            constraint feed_batches_pk primary key (feed_id, number),
            constraint feed_batches_feed foreign key (feed_id) references feeds (id) on delete cascade
        )
        """
    )
    op.execute("create index feed_batches_by_time on feed_batches (closed_at)")
    op.execute("create index feed_batches_kept on feed_batches (feed_id, number) where kept")
    op.execute(
        """
        create table feed_days (
            feed_id text not null,
            number bigint not null,
            day date not null,
            tally jsonb not null,
            constraint feed_days_pk primary key (feed_id, number, day),
            constraint feed_days_batch foreign key (feed_id, number) references feed_batches (feed_id, number)
                on delete cascade
        )
        """
    )
    op.execute("create index feed_days_by_day on feed_days (feed_id, day, number)")
    op.execute(
        """
        create table feed_destinations (
            id text not null,
            feed_id text not null,
            name text not null,
            kind text not null
                constraint feed_destinations_kind check (kind in ('http', 'mqtt', 'kafka', 'postgresql', 'file')),
            address jsonb not null,
            egress jsonb not null,
            format jsonb not null,
            timeout_s double precision not null,
            min_interval_s double precision not null,
            party text,
            state text not null constraint feed_destinations_state check (state in ('active', 'paused')),
            first_number bigint not null,
            next_number bigint not null,
            failures integer not null default 0,
            failing_since timestamptz,
            not_before timestamptz,
            error text,
            finding boolean not null default false,
            sealed bytea,
            version integer not null default 1,
            created_at timestamptz not null,
            updated_at timestamptz not null,
            removed_at timestamptz,
            constraint feed_destinations_pk primary key (id),
            constraint feed_destinations_feed foreign key (feed_id) references feeds (id) on delete cascade,
            constraint feed_destinations_numbers check (next_number >= first_number)
        ) with (fillfactor = 70)
        """
    )
    op.execute("create index feed_destinations_of_feed on feed_destinations (feed_id)")
    op.execute(
        """
        create table feed_deliveries (
            destination_id text not null,
            number bigint not null,
            state text not null
                constraint feed_deliveries_state check (state in ('retrying', 'refused', 'delivered', 'given_up')),
            attempts integer not null,
            status integer,
            error text,
            took_s double precision,
            first_at timestamptz not null,
            last_at timestamptz not null,
            constraint feed_deliveries_pk primary key (destination_id, number),
            constraint feed_deliveries_destination foreign key (destination_id) references feed_destinations (id)
                on delete cascade
        ) with (fillfactor = 70)
        """
    )
    op.execute("create index feed_deliveries_by_time on feed_deliveries (last_at)")
    # What is told once more, besides what comes next.
    op.execute(
        """
        create table feed_resends (
            destination_id text not null,
            number bigint not null,
            asked_at timestamptz not null,
            asked_by text not null,
            constraint feed_resends_pk primary key (destination_id, number),
            constraint feed_resends_destination foreign key (destination_id) references feed_destinations (id)
                on delete cascade
        )
        """
    )
    # What a feed had of a day, and who had acknowledged it, when the day was over: a fixed text to refer to.
    op.execute(
        """
        create table feed_statements (
            feed_id text not null,
            day date not null,
            document jsonb not null,
            made_at timestamptz not null,
            constraint feed_statements_pk primary key (feed_id, day),
            constraint feed_statements_feed foreign key (feed_id) references feeds (id) on delete cascade
        )
        """
    )
