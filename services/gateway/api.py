"""HTTP of the gateway itself: signing in, users, roles, API keys, the audit log, live push."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Cookie, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, SecretStr

from libs.common.contracts.base import Flag, UtcTime
from libs.common.db import Database
from libs.common.errors import Forbidden, InvalidInput, Unauthenticated
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, read_time_cursor, time_cursor
from services.gateway import store
from services.gateway.domain import SCOPES, SERVICES, ApiKey, Role, User
from services.gateway.live import Allowed, LiveHub
from services.gateway.passwords import MAX_LENGTH, MIN_LENGTH
from services.gateway.usecases import Accounts

COOKIE = "wattring_session"
_SCOPE = re.compile(rf"(\*|{'|'.join((*SERVICES, 'gateway'))}):(\*|read|write|switch|admin)|control:app")

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._@-]+$")]
Sites = Annotated[
    list[Annotated[str, Field(max_length=80)]] | None, Field(description="site ids or region:<id>; null is all")
]


class SignIn(BaseModel):
    """Name and password."""

    name: Name
    password: SecretStr = Field(max_length=MAX_LENGTH)


class Me(BaseModel):
    """Who is asking, and what they may do."""

    subject: str
    kind: str
    actor: str
    scopes: list[str]
    sites: list[str] | None


class Session(Me):
    """A session that has begun; its secret is in the cookie."""

    expires_at: datetime


class UserReply(BaseModel):
    """A user."""

    name: str
    roles: list[Role]
    sites: list[str] | None
    disabled: bool
    created_at: datetime


class UserChange(BaseModel):
    """What a user may do."""

    roles: list[Role] = Field(min_length=1)
    sites: Sites = None
    disabled: Flag = False


class NewUser(BaseModel):
    """A user to be created."""

    name: Name
    password: SecretStr = Field(min_length=MIN_LENGTH, max_length=MAX_LENGTH)
    roles: list[Role] = Field(min_length=1)
    sites: Sites = None


class NewPassword(BaseModel):
    """A new password."""

    password: SecretStr = Field(min_length=MIN_LENGTH, max_length=MAX_LENGTH)


class KeyReply(BaseModel):
    """An API key, without its secret."""

    key_id: str
    name: str
    scopes: list[str]
    sites: list[str] | None
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKey(BaseModel):
    """An API key to be created."""

    name: str = Field(min_length=1, max_length=100)
    scopes: list[str] = Field(
        min_length=1, max_length=50, description="<service>:<read|write|switch|admin>, control:app of an upstream app"
    )
    sites: Sites = None
    expires_at: UtcTime | None = None


class CreatedKey(KeyReply):
    """A key just created; ``secret`` is shown this once."""

    secret: str


class AuditReply(BaseModel):
    """One entry of the audit log."""

    entry_id: str
    at: datetime
    actor: str
    door: str
    action: str
    subject: str
    before: Any
    after: Any


Identify = Callable[[Request], Awaitable[Principal]]


def identify_by(accounts: Accounts) -> Identify:
    """Return the dependency that says who a request is from.

    A request with a cookie that changes something must come from our own pages: browsers say where a request
    comes from, and a strange ``Origin`` is refused.
    """

    async def identify(request: Request) -> Principal:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            return await accounts.by_bearer(token)
        secret = request.cookies.get(COOKIE)
        if not secret:
            raise Unauthenticated("sign in, or send an API key", message_zh="请登录或提供 API 密钥")
        if request.method not in ("GET", "HEAD"):
            _refuse_foreign_pages(request)
        return await accounts.by_session(secret)

    return identify


def _refuse_foreign_pages(request: Request) -> None:
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise Forbidden("requests from other sites' pages are refused", message_zh="拒绝来自其他站点页面的请求")


def build_router(
    accounts: Accounts,
    db: Database,
    hub: LiveHub,
    identify: Identify,
    allowed: Callable[[Principal], Allowed],
    *,
    secure_cookie: bool,
) -> APIRouter:
    """Return the routes of the gateway itself."""
    router = APIRouter(prefix="/api/v1")

    async def admin(who: Annotated[Principal, Depends(identify)]) -> Principal:
        if not who.may("gateway:admin"):
            raise Forbidden(f"{who.actor} is no administrator", message_zh=f"{who.actor} 不是管理员")
        return who

    AnyOne = Annotated[Principal, Depends(identify)]  # noqa: N806  # a type, made here because it needs identify
    Admin = Annotated[Principal, Depends(admin)]  # noqa: N806

    @router.post("/auth/sign-in", tags=["auth"], summary="Sign in; sets the session's cookie")
    async def sign_in(body: SignIn, request: Request, response: Response) -> Session:
        _refuse_foreign_pages(request)
        address = request.client.host if request.client else "unknown"
        secret, _, expires_at = await accounts.sign_in(body.name, body.password.get_secret_value(), address=address)
        response.set_cookie(
            COOKIE, secret, expires=expires_at, httponly=True, samesite="strict", secure=secure_cookie, path="/"
        )
        who = await accounts.by_session(secret)
        return Session(**_me(who).model_dump(), expires_at=expires_at)

    @router.post("/auth/sign-out", tags=["auth"], summary="End the session", status_code=204)
    async def sign_out(
        _: AnyOne, response: Response, secret: Annotated[str | None, Cookie(alias=COOKIE)] = None
    ) -> None:
        if secret:
            await accounts.sign_out(secret)
        response.delete_cookie(COOKIE, path="/")

    @router.get("/auth/me", tags=["auth"], summary="Who am I, and what may I do")
    async def me(who: AnyOne) -> Me:
        return _me(who)

    @router.get("/roles", tags=["users"], summary="Roles and their rights")
    async def roles(_: AnyOne) -> dict[Role, list[str]]:
        return {role: sorted(scopes) for role, scopes in SCOPES.items()}

    @router.get("/users", tags=["users"], summary="All users")
    async def users(_: Admin) -> list[UserReply]:
        return [_user(user) for user in await accounts.users()]

    @router.post("/users", tags=["users"], summary="Create a user", status_code=201)
    async def create_user(who: Admin, body: NewUser) -> UserReply:
        password = body.password.get_secret_value()
        return _user(await accounts.create_user(who, body.name, password, body.roles, body.sites))

    @router.put("/users/{name}", tags=["users"], summary="Set what a user may do")
    async def change_user(who: Admin, name: str, body: UserChange) -> UserReply:
        return _user(await accounts.change_user(who, name, body.roles, body.sites, disabled=body.disabled))

    @router.put("/users/{name}/password", tags=["users"], summary="Set a password", status_code=204)
    async def set_password(who: AnyOne, name: str, body: NewPassword) -> None:
        if who.actor != f"user:{name}" and not who.may("gateway:admin"):
            raise Forbidden("only administrators set the passwords of others", message_zh="只有管理员可以修改他人密码")
        await accounts.set_password(who, name, body.password.get_secret_value())

    @router.get("/api-keys", tags=["api-keys"], summary="All API keys")
    async def api_keys(_: Admin) -> list[KeyReply]:
        return [_key(key) for key in await accounts.api_keys()]

    @router.post("/api-keys", tags=["api-keys"], summary="Create an API key; its secret is shown once", status_code=201)
    async def create_api_key(who: Admin, body: NewKey) -> CreatedKey:
        wrong = [scope for scope in body.scopes if not _SCOPE.fullmatch(scope)]
        if wrong:
            raise InvalidInput(
                f"scopes: expected <service>:<read|write|switch|admin> or control:app, found {', '.join(wrong)[:200]}",
                message_zh="权限格式应为 <服务>:<read|write|switch|admin> 或 control:app,"
                f"收到 {', '.join(wrong)[:200]}",
            )
        key, secret = await accounts.create_api_key(who, body.name, body.scopes, body.sites, body.expires_at)
        return CreatedKey(**_key(key).model_dump(), secret=secret)

    @router.delete("/api-keys/{key_id}", tags=["api-keys"], summary="Revoke an API key", status_code=204)
    async def revoke_api_key(who: Admin, key_id: str) -> None:
        await accounts.revoke_api_key(who, key_id)

    @router.get("/audit", tags=["audit"], summary="Who changed what, youngest first")
    async def audit(
        _: Admin,
        cursor: Cursor = None,
        actor: Annotated[str | None, Query(max_length=100)] = None,
        subject: Annotated[str | None, Query(max_length=200)] = None,
        limit: Limit = 100,
    ) -> Page[AuditReply]:
        before = None if cursor is None else read_time_cursor(cursor)
        async with db.read() as conn:
            found = await store.fetch_audit(conn, before=before, actor=actor, subject=subject, limit=limit + 1)
        last = found[limit - 1] if len(found) > limit else None
        return Page(
            items=[AuditReply(**asdict(one)) for one in found[:limit]],
            next_cursor=None if last is None else time_cursor(last.at, last.entry_id),
        )

    @router.get("/live", tags=["live"], summary="Live push: server-sent events", response_class=StreamingResponse)
    async def live(who: AnyOne, request: Request) -> StreamingResponse:
        if not who.may("gateway:read"):
            raise Forbidden(f"{who.actor} lacks the right gateway:read", message_zh=f"{who.actor} 没有实时查看权限")
        health = request.app.state.health
        return StreamingResponse(
            hub.stream(hub.open(allowed(who)), lambda: bool(health.draining)),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    return router


def _me(who: Principal) -> Me:
    return Me(
        subject=who.subject,
        kind=who.kind,
        actor=who.actor,
        scopes=sorted(who.scopes),
        sites=None if who.sites is None else list(who.sites),
    )


def _user(user: User) -> UserReply:
    return UserReply(
        name=user.name,
        roles=list(user.roles),
        sites=None if user.sites is None else list(user.sites),
        disabled=user.disabled,
        created_at=user.created_at,
    )


def _key(key: ApiKey) -> KeyReply:
    return KeyReply(**asdict(key))
