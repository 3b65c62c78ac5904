"""All SQL of the gateway."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from libs.common.db import ReadConn, WriteConn
from libs.common.errors import Conflict
from services.gateway.domain import ApiKey, AuditEntry, Role, User


class NameTaken(Conflict):
    """Another user has this name."""

    code = "name_taken"
    title_zh = "用户名已存在"


async def count_users(conn: ReadConn | WriteConn) -> int:
    """Return how many users there are."""
    return int(await conn.fetchval("select count(*) from users"))


async def lock_users(conn: WriteConn) -> None:
    """Keep another replica from creating the first user at the same time."""
    await conn.execute("lock table users in share row exclusive mode")


async def add_user(conn: WriteConn, user: User, password_hash: str) -> None:
    """Add a user.

    Raises:
        NameTaken: The name is in use.
    """
    try:
        await conn.execute(
            """
            insert into users (user_id, name, password_hash, roles, sites, disabled, created_at)
            values ($1, $2, $3, $4, $5, $6, $7)
            """,
            user.user_id,
            user.name,
            password_hash,
            [role.value for role in user.roles],
            None if user.sites is None else list(user.sites),
            user.disabled,
            user.created_at,
        )
    except asyncpg.UniqueViolationError as exc:
        raise NameTaken(f"there is already a user {user.name}", message_zh=f"用户 {user.name} 已存在") from exc


async def update_user(
    conn: WriteConn, name: str, *, roles: Sequence[Role], sites: Sequence[str] | None, disabled: bool
) -> bool:
    """Set what a user may do; return whether there is such a user."""
    done = await conn.execute(
        "update users set roles = $2, sites = $3, disabled = $4 where name = $1",
        name,
        [role.value for role in roles],
        None if sites is None else list(sites),
        disabled,
    )
    return bool(done == "UPDATE 1")


async def set_password(conn: WriteConn, name: str, password_hash: str) -> bool:
    """Set a user's password and end the user's sessions; return whether there is such a user."""
    user_id = await conn.fetchval(
        "update users set password_hash = $2 where name = $1 returning user_id", name, password_hash
    )
    await conn.execute("delete from sessions where user_id = $1", user_id)
    return user_id is not None


async def fetch_user(conn: ReadConn | WriteConn, name: str) -> tuple[User, str] | None:
    """Return a user and the password's hash."""
    row = await conn.fetchrow("select * from users where name = $1", name)
    return None if row is None else (_user(row), row["password_hash"])


async def fetch_users(conn: ReadConn) -> list[User]:
    """Return all users by name."""
    return [_user(row) for row in await conn.fetch("select * from users order by name")]


async def add_sign_in(conn: WriteConn, *, at: datetime, name: str, address: str, succeeded: bool) -> None:
    """Log an attempt to sign in."""
    await conn.execute(
        "insert into sign_ins (at, name, address, succeeded) values ($1, $2, $3, $4)", at, name, address, succeeded
    )


async def count_failures(conn: ReadConn | WriteConn, *, name: str, address: str, since: datetime) -> int:
    """Return how many attempts failed since ``since`` and since the last that succeeded."""
    return int(
        await conn.fetchval(
            """
            select count(*) from sign_ins
             where name = $1 and address = $2 and not succeeded and at > greatest($3, coalesce(
                   (select max(at) from sign_ins where name = $1 and address = $2 and succeeded), '-infinity'))
            """,
            name,
            address,
            since,
        )
    )


async def add_session(
    conn: WriteConn, *, token_hash: bytes, user_id: str, now: datetime, expires_at: datetime, address: str
) -> None:
    """Begin a session, and forget those that have ended."""
    await conn.execute("delete from sessions where expires_at <= $1", now)
    await conn.execute(
        """
        insert into sessions (token_hash, user_id, created_at, used_at, expires_at, address)
        values ($1, $2, $3, $3, $4, $5)
        """,
        token_hash,
        user_id,
        now,
        expires_at,
        address,
    )


async def fetch_session(
    conn: ReadConn, token_hash: bytes, *, now: datetime, used_after: datetime
) -> tuple[User, datetime] | None:
    """Return the user of a living session and when it was last used."""
    row = await conn.fetchrow(
        """
        select u.*, s.used_at from sessions s join users u using (user_id)
         where s.token_hash = $1 and s.expires_at > $2 and s.used_at > $3 and not u.disabled
        """,
        token_hash,
        now,
        used_after,
    )
    return None if row is None else (_user(row), row["used_at"])


async def touch_session(conn: WriteConn, token_hash: bytes, now: datetime) -> None:
    """Note that a session was used."""
    await conn.execute("update sessions set used_at = $2 where token_hash = $1", token_hash, now)


async def end_session(conn: WriteConn, token_hash: bytes) -> None:
    """End a session."""
    await conn.execute("delete from sessions where token_hash = $1", token_hash)


async def add_api_key(conn: WriteConn, key: ApiKey, secret_hash: bytes) -> None:
    """Add an API key."""
    await conn.execute(
        """
        insert into api_keys (key_id, name, secret_hash, scopes, sites, created_by, created_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        key.key_id,
        key.name,
        secret_hash,
        list(key.scopes),
        None if key.sites is None else list(key.sites),
        key.created_by,
        key.created_at,
        key.expires_at,
    )


async def fetch_api_key(conn: ReadConn, key_id: str) -> tuple[ApiKey, bytes] | None:
    """Return a key and its secret's hash."""
    row = await conn.fetchrow("select * from api_keys where key_id = $1", key_id)
    return None if row is None else (_key(row), row["secret_hash"])


async def fetch_api_keys(conn: ReadConn) -> list[ApiKey]:
    """Return all keys, youngest first."""
    return [_key(row) for row in await conn.fetch("select * from api_keys order by created_at desc")]


async def revoke_api_key(conn: WriteConn, key_id: str, now: datetime) -> bool:
    """Revoke a key; return whether there is such a key."""
    done = await conn.execute(
        "update api_keys set revoked_at = coalesce(revoked_at, $2) where key_id = $1", key_id, now
    )
    return bool(done == "UPDATE 1")


async def add_audit(conn: WriteConn, entries: Sequence[AuditEntry]) -> None:
    """Append to the audit log; an entry that is there already is left as it is."""
    await conn.executemany(
        """
        insert into audit_log (entry_id, at, actor, door, action, subject, before, after)
        values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict on constraint audit_log_pk do nothing
        """,
        [(one.entry_id, one.at, one.actor, one.door, one.action, one.subject, one.before, one.after)
         for one in entries],
    )  # fmt: skip


async def fetch_audit(
    conn: ReadConn, *, before: tuple[datetime, str] | None, actor: str | None, subject: str | None, limit: int
) -> list[AuditEntry]:
    """Return a page of the audit log, youngest first."""
    at, key = before or (None, None)
    rows = await conn.fetch(
        """
        select * from audit_log
         where ($1::timestamptz is null or (at, entry_id) < ($1, $2))
           and ($3::text is null or actor = $3) and ($4::text is null or subject = $4)
         order by at desc, entry_id desc limit $5
        """,
        at,
        key,
        actor,
        subject,
        limit,
    )
    return [AuditEntry(**dict(row)) for row in rows]


def _user(row: asyncpg.Record) -> User:
    return User(
        user_id=row["user_id"],
        name=row["name"],
        roles=tuple(Role(role) for role in row["roles"]),
        sites=None if row["sites"] is None else tuple(row["sites"]),
        disabled=row["disabled"],
        created_at=row["created_at"],
    )


def _key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        key_id=row["key_id"],
        name=row["name"],
        scopes=tuple(row["scopes"]),
        sites=None if row["sites"] is None else tuple(row["sites"]),
        created_by=row["created_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
