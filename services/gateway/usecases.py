"""Accounts: signing in and out, who a request is from, users, API keys, the audit of all of it."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from libs.common import metrics
from libs.common.bus import envelope, outbox, topics
from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.db import Database, WriteConn
from libs.common.errors import Forbidden, InvalidInput, NotFound, Unauthenticated
from libs.common.ids import new_id
from libs.common.tokens import KeyRing, Principal
from services.gateway import passwords, store
from services.gateway.domain import ApiKey, Role, Throttle, User, scopes_of
from services.gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

FIRST_USER = "admin"
KEY_PREFIX = "wr_"
"""An API key reads ``wr_<id>_<secret>``, so that a leaked one is found by a scanner and revoked by its id."""
TOUCH_S = 60.0
"""A session's last use is written at most this often. [s]"""

SIGN_INS = metrics.counter("gateway_sign_ins_total", "Attempts to sign in", ("outcome",))


class WrongCredentials(Unauthenticated):
    """Name or password is wrong; which of them is not said."""

    code = "wrong_credentials"
    title_zh = "用户名或密码错误"


class TooManyAttempts(Forbidden):
    """Too many wrong passwords; wait."""

    code = "too_many_attempts"
    title_zh = "尝试次数过多"


class Accounts:
    """Everything about who is who."""

    def __init__(self, *, db: Database, clock: Clock, keys: KeyRing, settings: GatewaySettings) -> None:
        self._db = db
        self._clock = clock
        self._keys = keys
        self._settings = settings
        self._throttle = Throttle(settings.sign_in_failures, settings.sign_in_window_s)

    async def __aenter__(self) -> "Accounts":
        await self._create_first_user()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nothing is held."""

    async def _create_first_user(self) -> None:
        """Create the user ``admin`` when there is no user at all and a first password is set."""
        if self._settings.first_password is None:
            return
        async with self._db.write() as conn:
            await store.lock_users(conn)
            if await store.count_users(conn):
                return
            hashed = await passwords.hash_password(self._settings.first_password.get_secret_value())
            user = User(new_id(), FIRST_USER, (Role.ADMIN,), None, False, self._clock.now())
            await store.add_user(conn, user, hashed)
            await self._audit(conn, "service:gateway", "user.create", f"user:{user.name}", after=_facts(user))
        logger.info("first user created", extra={"user": FIRST_USER})

    async def sign_in(self, name: str, password: str, *, address: str) -> tuple[str, User, datetime]:
        """Begin a session; return its secret, the user and the session's end.

        Raises:
            WrongCredentials: Name or password is wrong, or the user is disabled.
            TooManyAttempts: Too many failures of late for this name from this address.
        """
        now = self._clock.now()
        since = now - timedelta(seconds=self._throttle.window_s)
        async with self._db.read() as conn:
            failures = await store.count_failures(conn, name=name, address=address, since=since)
            found = await store.fetch_user(conn, name)
        if self._throttle.closed(failures):
            SIGN_INS.labels("throttled").inc()
            minutes = round(self._throttle.window_s / 60)
            raise TooManyAttempts(
                f"{failures} wrong passwords; wait {minutes} minutes",
                message_zh=f"密码错误次数过多,请 {minutes} 分钟后再试",
            )
        right = await passwords.matches(password, None if found is None else found[1])
        if found is None or not right or found[0].disabled:
            async with self._db.write() as conn:
                await store.add_sign_in(conn, at=now, name=name, address=address, succeeded=False)
            SIGN_INS.labels("refused").inc()
            raise WrongCredentials("name or password is wrong", message_zh="用户名或密码错误")
        user = found[0]
        secret = passwords.new_secret()
        expires_at = now + timedelta(seconds=self._settings.session_s)
        async with self._db.write() as conn:
            await store.add_sign_in(conn, at=now, name=name, address=address, succeeded=True)
            await store.add_session(
                conn,
                token_hash=passwords.digest(secret),
                user_id=user.user_id,
                now=now,
                expires_at=expires_at,
                address=address,
            )
            await self._audit(conn, f"user:{user.name}", "session.begin", f"user:{user.name}", address=address)
        SIGN_INS.labels("accepted").inc()
        return secret, user, expires_at

    async def sign_out(self, secret: str) -> None:
        """End a session; ending one that is over is no error."""
        async with self._db.write() as conn:
            await store.end_session(conn, passwords.digest(secret))

    async def by_session(self, secret: str) -> Principal:
        """Return who a session belongs to.

        Raises:
            Unauthenticated: It has ended, or never was.
        """
        now = self._clock.now()
        used_after = now - timedelta(seconds=self._settings.session_idle_s)
        hashed = passwords.digest(secret)
        async with self._db.read() as conn:
            found = await store.fetch_session(conn, hashed, now=now, used_after=used_after)
        if found is None:
            raise Unauthenticated("the session has ended; sign in again", message_zh="会话已结束,请重新登录")
        user, used_at = found
        if (now - used_at).total_seconds() > TOUCH_S:
            async with self._db.write() as conn:
                await store.touch_session(conn, hashed, now)
        return Principal(user.name, "user", scopes_of(user.roles), user.sites)

    async def by_bearer(self, token: str) -> Principal:
        """Return whose API key or service token this is.

        Raises:
            Unauthenticated: It opens nothing.
        """
        if not token.startswith(KEY_PREFIX):
            principal = self._keys.verify_token(token, audience="gateway")
            if principal.kind != "service":
                raise Unauthenticated("only service tokens are taken here", message_zh="仅接受服务令牌")
            return principal
        key_id, _, secret = token.removeprefix(KEY_PREFIX).partition("_")
        async with self._db.read() as conn:
            found = await store.fetch_api_key(conn, key_id)
        if found is None or not passwords.same(found[1], passwords.digest(secret)):
            raise Unauthenticated("the API key is not valid", message_zh="API 密钥无效")
        key = found[0]
        if not key.usable(self._clock.now()):
            raise Unauthenticated("the API key was revoked or has expired", message_zh="API 密钥已吊销或过期")
        return Principal(key.key_id, "key", frozenset(key.scopes), key.sites)

    async def users(self) -> list[User]:
        """Return all users."""
        async with self._db.read() as conn:
            return await store.fetch_users(conn)

    async def create_user(
        self, by: Principal, name: str, password: str, roles: Sequence[Role], sites: Sequence[str] | None
    ) -> User:
        """Create a user."""
        hashed = await passwords.hash_password(password)
        user = User(new_id(), name, tuple(roles), None if sites is None else tuple(sites), False, self._clock.now())
        async with self._db.write() as conn:
            await store.add_user(conn, user, hashed)
            await self._audit(conn, by.actor, "user.create", f"user:{name}", after=_facts(user))
        return user

    async def change_user(
        self, by: Principal, name: str, roles: Sequence[Role], sites: Sequence[str] | None, *, disabled: bool
    ) -> User:
        """Set what a user may do.

        Raises:
            NotFound: There is no such user.
            InvalidInput: The last administrator would lock everybody out.
        """
        async with self._db.write() as conn:
            await store.lock_users(conn)
            found = await store.fetch_user(conn, name)
            if found is None:
                raise NotFound(f"there is no user {name}", message_zh=f"没有用户 {name}")
            before = found[0]
            changed = replace(
                before, roles=tuple(roles), sites=None if sites is None else tuple(sites), disabled=disabled
            )
            if _administers(before) and not _administers(changed):
                others = [user for user in await store.fetch_users(conn) if user.name != name]
                if not any(_administers(user) for user in others):
                    raise InvalidInput("the last administrator stays one", message_zh="不能取消最后一个管理员")
            await store.update_user(conn, name, roles=roles, sites=sites, disabled=disabled)
            await self._audit(
                conn, by.actor, "user.change", f"user:{name}", before=_facts(before), after=_facts(changed)
            )
        return changed

    async def set_password(self, by: Principal, name: str, password: str) -> None:
        """Set a user's password; the user's sessions end."""
        hashed = await passwords.hash_password(password)
        async with self._db.write() as conn:
            if not await store.set_password(conn, name, hashed):
                raise NotFound(f"there is no user {name}", message_zh=f"没有用户 {name}")
            await self._audit(conn, by.actor, "user.set_password", f"user:{name}")

    async def api_keys(self) -> list[ApiKey]:
        """Return all API keys, without their secrets."""
        async with self._db.read() as conn:
            return await store.fetch_api_keys(conn)

    async def create_api_key(
        self,
        by: Principal,
        name: str,
        scopes: Sequence[str],
        sites: Sequence[str] | None,
        expires_at: datetime | None,
    ) -> tuple[ApiKey, str]:
        """Create an API key; return it and the text that is shown once.

        Raises:
            Forbidden: It would be able to do more than who creates it.
        """
        beyond = [scope for scope in scopes if not by.may(scope)]
        if beyond:
            raise Forbidden(f"you lack {', '.join(beyond)} yourself", message_zh=f"您自己没有权限 {', '.join(beyond)}")
        secret = passwords.new_secret()
        key = ApiKey(
            key_id=new_id().replace("-", ""),
            name=name,
            scopes=tuple(scopes),
            sites=None if sites is None else tuple(sites),
            created_by=by.actor,
            created_at=self._clock.now(),
            expires_at=expires_at,
            revoked_at=None,
        )
        async with self._db.write() as conn:
            await store.add_api_key(conn, key, passwords.digest(secret))
            await self._audit(
                conn, by.actor, "api_key.create", f"key:{key.key_id}", after={"name": name, "scopes": list(scopes)}
            )
        return key, f"{KEY_PREFIX}{key.key_id}_{secret}"

    async def revoke_api_key(self, by: Principal, key_id: str) -> None:
        """Revoke an API key at once."""
        async with self._db.write() as conn:
            if not await store.revoke_api_key(conn, key_id, self._clock.now()):
                raise NotFound(f"there is no API key {key_id}", message_zh=f"没有 API 密钥 {key_id}")
            await self._audit(conn, by.actor, "api_key.revoke", f"key:{key_id}")

    async def _audit(
        self,
        conn: WriteConn,
        actor: str,
        action: str,
        subject: str,
        *,
        before: dict[str, object] | None = None,
        after: dict[str, object] | None = None,
        address: str | None = None,
    ) -> None:
        now = self._clock.now()
        event = AuditEvent(
            actor=actor, door="api", action=action, subject=subject, at=now, address=address,
            before=before, after=after,
        )  # fmt: skip
        await outbox.put(conn, [envelope.message(topics.AUDIT, actor, event, source="gateway", time=now)])


def _administers(user: User) -> bool:
    return Role.ADMIN in user.roles and not user.disabled


def _facts(user: User) -> dict[str, object]:
    return {
        "roles": [role.value for role in user.roles],
        "sites": None if user.sites is None else list(user.sites),
        "disabled": user.disabled,
    }
