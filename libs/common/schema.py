"""The tables that every service has for the runtime: positions, dead letters, losses, outbox, leases.

A service's first migration calls ``create_runtime_tables(op)``; the tables land in the schema that the
migration runs in. They belong to ``bus/consumer.py``, ``bus/outbox.py`` and ``lease.py``.
"""

from typing import Protocol


class Operations(Protocol):
    """What is needed of Alembic's ``op``."""

    def execute(self, sqltext: str) -> None:
        """Run one statement."""


CURSORS = """
    create table consumer_cursors (
        grp text not null,
        topic text not null,
        partition integer not null,
        next bigint not null default -1 check (next >= -1),
        epoch bigint not null default 0,
        owner text not null,
        claimed_at timestamptz not null default now(),
        moved_at timestamptz,
        constraint consumer_cursors_pk primary key (grp, topic, partition)
    ) with (fillfactor = 50)
"""
"""``next`` is the offset to be handled next, -1 where the log begins. The half-empty pages let the update
of every batch stay on its page (HOT), without touching the index."""

DEAD_LETTERS = """
    create table dead_letters (
        id bigint generated always as identity,
        grp text not null,
        topic text not null,
        partition integer not null,
        "offset" bigint not null,
        key text,
        value bytea,
        headers text not null,
        appended_at timestamptz not null,
        reason text not null,
        failed_at timestamptz not null default now(),
        constraint dead_letters_pk primary key (id),
        constraint dead_letters_once unique (grp, topic, partition, "offset")
    )
"""

LOSSES = """
    create table consumer_losses (
        id bigint generated always as identity,
        grp text not null,
        topic text not null,
        partition integer not null,
        expected bigint not null,
        found bigint not null,
        kind text not null constraint consumer_losses_kind check (kind in ('retention', 'replaced')),
        seen_at timestamptz not null default now(),
        constraint consumer_losses_pk primary key (id)
    )
"""
"""``retention``: the offsets ``expected`` to ``found - 1`` had left the bus before this group read them.
``replaced``: the log is shorter than our position, so it is another log; it is read from its beginning."""

OUTBOX = """
    create table outbox (
        id bigint generated always as identity,
        topic text not null,
        key text not null,
        value bytea,
        headers text not null,
        partition_key text,
        partition integer,
        created_at timestamptz not null default now(),
        parked_at timestamptz,
        parked_reason text,
        constraint outbox_pk primary key (id)
    )
"""
OUTBOX_PARKED = "create index outbox_parked on outbox (topic, key, id) where parked_at is not null"

LEASES = """
    create table leases (
        name text not null,
        owner text,
        epoch bigint not null default 0,
        until timestamptz not null default '-infinity',
        constraint leases_pk primary key (name)
    ) with (fillfactor = 50)
"""

RUNTIME_TABLES = (CURSORS, DEAD_LETTERS, LOSSES, OUTBOX, OUTBOX_PARKED, LEASES)


def create_runtime_tables(op: Operations) -> None:
    """Create the runtime's tables, in a migration of a service."""
    for statement in RUNTIME_TABLES:
        op.execute(statement)
