"""Accounts, sessions, API keys, the sign-in log and the audit log."""

from alembic import op

from libs.common.registry import create_registry_tables
from libs.common.schema import create_runtime_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    create_runtime_tables(op)
    create_registry_tables(op)
    op.execute(
        """
        create table users (
            user_id text not null,
            name text not null,
            password_hash text not null,
            roles text[] not null,
            sites text[],
            disabled boolean not null default false,
            created_at timestamptz not null,
            constraint users_pk primary key (user_id),
            constraint users_name_once unique (name)
        )
        """
    )
    op.execute(
        """
        create table sessions (
            token_hash bytea not null,
            user_id text not null constraint sessions_user references users on delete cascade,
            created_at timestamptz not null,
            used_at timestamptz not null,
            expires_at timestamptz not null,
            address text not null,
            constraint sessions_pk primary key (token_hash)
        )
        """
    )
    op.execute(
        """
        create table api_keys (
            key_id text not null,
            name text not null,
            secret_hash bytea not null,
            scopes text[] not null,
            sites text[],
            created_by text not null,
            created_at timestamptz not null,
            expires_at timestamptz,
            revoked_at timestamptz,
            constraint api_keys_pk primary key (key_id)
        )
        """
    )
    op.execute(
        """
        create table sign_ins (
            id bigint generated always as identity,
            at timestamptz not null,
            name text not null,
            address text not null,
            succeeded boolean not null,
            constraint sign_ins_pk primary key (id)
        )
        """
    )
    op.execute("create index sign_ins_by_name on sign_ins (name, address, at)")
    op.execute(
        """
        create table audit_log (
            entry_id text not null,
            at timestamptz not null,
            actor text not null,
            door text not null,
            action text not null,
            subject text not null,
            before jsonb,
            after jsonb,
            constraint audit_log_pk primary key (entry_id)
        )
        """
    )
    op.execute("create index audit_log_by_time on audit_log (at, entry_id)")
