"""Callbacks: endpoints, the news that they are told, a queue per endpoint and resource, and deliveries."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table callback_endpoints (
            id text not null,
            name text not null,
            owner text not null,
            limits text[],
            url text not null,
            types text[] not null,
            sites text[],
            actors text[],
            concurrency integer not null,
            timeout_s double precision not null,
            state text not null
                constraint callback_endpoints_state check (state in ('active', 'paused', 'disabled')),
            state_reason text,
            failures integer not null default 0,
            failing_since timestamptz,
            not_before timestamptz,
            error text,
            finding boolean not null default false,
            secrets bytea not null,
            created_at timestamptz not null,
            updated_at timestamptz not null,
            removed_at timestamptz,
            constraint callback_endpoints_pk primary key (id)
        ) with (fillfactor = 70)
        """
    )
    op.execute(
        """
        create table callback_events (
            key bigint generated always as identity,
            event_id text not null,
            type text not null,
            source text not null,
            resource text not null,
            site_id text not null,
            at timestamptz not null,
            data bytea not null,
            traceparent text,
            queued_at timestamptz not null,
            constraint callback_events_pk primary key (key),
            constraint callback_events_once unique (event_id)
        )
        """
    )
    op.execute("create index callback_events_by_time on callback_events (queued_at)")
    op.execute(
        """
        create table callback_queues (
            endpoint_id text not null,
            resource text not null,
            last_sequence bigint not null,
            waiting integer not null constraint callback_queues_waiting check (waiting >= 0),
            lane smallint not null,
            due_at timestamptz,
            taken_by text,
            last_at timestamptz not null,
            constraint callback_queues_pk primary key (endpoint_id, resource),
            constraint callback_queues_endpoint foreign key (endpoint_id) references callback_endpoints (id)
                on delete cascade
        ) with (fillfactor = 70)
        """
    )
    op.execute(
        "create index callback_queues_due on callback_queues (endpoint_id, lane, due_at) where due_at is not null"
    )
    op.execute(
        """
        create table callback_deliveries (
            endpoint_id text not null,
            event_key bigint not null,
            resource text not null,
            sequence bigint not null,
            lane smallint not null,
            state text not null
                constraint callback_deliveries_state
                check (state in ('queued', 'retrying', 'refused', 'delivered', 'given_up')),
            attempts integer not null default 0,
            log jsonb not null default '[]',
            status integer,
            error text,
            queued_at timestamptz not null,
            finished_at timestamptz,
            constraint callback_deliveries_pk primary key (endpoint_id, event_key),
            constraint callback_deliveries_endpoint foreign key (endpoint_id) references callback_endpoints (id)
                on delete cascade,
            constraint callback_deliveries_event foreign key (event_key) references callback_events (key)
        ) with (fillfactor = 70)
        """
    )
    op.execute(
        """
        create index callback_deliveries_open on callback_deliveries (endpoint_id, resource, sequence)
         where state in ('queued', 'retrying', 'refused')
        """
    )
    op.execute("create index callback_deliveries_by_event on callback_deliveries (event_key)")
    op.execute("create index callback_deliveries_by_time on callback_deliveries (endpoint_id, queued_at, event_key)")
