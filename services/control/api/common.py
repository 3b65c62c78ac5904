"""What the endpoints share: who asks, which sites they may touch, idempotency keys, cursors."""

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel, ConfigDict, WithJsonSchema

from libs.common.contracts.base import UtcTime
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, Forbidden, NotFound
from libs.common.tokens import CENTRE, Principal
from libs.common.web import problem, require
from services.control.domain import audit
from services.control.domain.loads import LoadInfo
from services.control.store import orders as order_store
from services.control.usecases.ports import Loads, SteadyClock

LOOK_MAX_AGE_S = 2.0
"""A reading older than this is looked up again before an OFF is accepted. [s]"""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=200,
        description="Any unique text: the same request sent again with it is answered again and done once",
    ),
]
TakeBy = Annotated[
    # Generators of clients know no times in headers.
    Annotated[UtcTime, WithJsonSchema({"type": "string", "description": "RFC 3339 with offset"})] | None,
    Header(
        alias="Take-By",
        description="Until when whoever sends the order waits for it to be taken: an OFF that control comes to later "
        "is refused (409 `order_too_late`) and nothing of it is kept, not even its key. An ON is always taken",
    ),
]
APP = "control:app"
"""The right of an upstream application: to order within its limits, and to see what is its own. Whoever has it has no
other right here, whatever else a key says."""


def is_app(principal: Principal) -> bool:
    """Return whether an upstream application asks; an administrator's ``*`` does not make one.

    A supervision centre is one whatever its token says: it may do what its limits say and nothing else.
    """
    return APP in principal.scopes or principal.kind == CENTRE


def app_of(principal: Principal) -> str | None:
    """Return the upstream application that asks, None when anybody else does."""
    return principal.actor if is_app(principal) else None


def right(scope: str, *, apps: bool) -> Callable[[Request], Awaitable[Principal]]:
    """Return a dependency that lets who has the right pass, and upstream apps where they may come."""
    right, app = require(scope), require(APP)

    async def check(request: Request) -> Principal:
        try:
            principal = await app(request)
        except Forbidden:
            return await right(request)
        if not is_app(principal):
            return await right(request)
        if not apps:
            raise Forbidden(
                f"{principal.subject} is an upstream app, which may not come here",
                message_zh=f"{principal.subject} 是上层应用,无权访问此处",
            )
        return principal

    return check


Read = Annotated[Principal, Depends(right("control:read", apps=False))]
Write = Annotated[Principal, Depends(right("control:write", apps=False))]
Switch = Annotated[Principal, Depends(right("control:switch", apps=False))]
ReadOrApp = Annotated[Principal, Depends(right("control:read", apps=True))]
WriteOrApp = Annotated[Principal, Depends(right("control:write", apps=True))]
SwitchOrApp = Annotated[Principal, Depends(right("control:switch", apps=True))]


class Model(BaseModel):
    """Base of requests: an unknown field is a mistake of the caller."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class View(BaseModel):
    """Base of answers."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class StillRunning(Conflict):
    """The request that used the key first is not finished."""

    code = "idempotency_key_in_use"
    title_zh = "相同幂等键的请求正在处理"


def actor_of(principal: Principal) -> str:
    """Return who it was, as the audit log names them."""
    return principal.actor


def door_of(principal: Principal) -> str:
    """Return through which door they came."""
    return audit.door_of(principal.actor, app=is_app(principal))


def allowed(principal: Principal, load: LoadInfo) -> bool:
    """Return whether the load lies in the caller's part of the site tree."""
    if principal.sites is None:
        return True
    places = {load.site_id, *(f"region:{region}" for region in load.region_ids)}
    return not places.isdisjoint(principal.sites)


def require_sites(principal: Principal, loads: Iterable[LoadInfo | None]) -> None:
    """Check that all loads lie in the caller's part of the site tree; unknown ones are the use case's matter.

    Raises:
        Forbidden: One does not.
    """
    for load in loads:
        if load is not None and not allowed(principal, load):
            raise Forbidden(
                f"{principal.subject} may not switch at site {load.site_id}",
                message_zh=f"{principal.subject} 无权操作局站 {load.site_id}",
                load_id=load.load_id,
            )


def require_all_sites(principal: Principal) -> None:
    """Check that the caller is limited to no part of the site tree.

    Raises:
        Forbidden: They are.
    """
    if principal.sites is not None:
        raise Forbidden(f"{principal.subject} is limited to some sites", message_zh=f"{principal.subject} 仅限部分局站")


@dataclass(frozen=True, slots=True)
class Idempotent:
    """Runs a request once per key, with its effects and its answer in one transaction."""

    db: Database
    clock: SteadyClock

    async def run(
        self,
        principal: Principal,
        key: str | None,
        request: BaseModel,
        work: Callable[[WriteConn], Awaitable[tuple[int, BaseModel]]],
        *,
        path: str,
    ) -> Response:
        """Return the answer of ``work``, or that of the first request with this key.

        Raises:
            StillRunning: The first request has not finished.
        """
        if key is None:
            async with self.db.write() as conn:
                status, answer = await work(conn)
            return _reply(status, _body(status, answer))
        caller = actor_of(principal)
        body_hash = hashlib.sha256(path.encode() + b"\0" + orjson.dumps(request.model_dump(mode="json"))).digest()
        async with self.db.write() as conn:
            if not await order_store.take_key(conn, caller, key):
                raise StillRunning(
                    "a request with this Idempotency-Key is still running", message_zh="相同幂等键的请求正在处理中"
                )
            known = await order_store.fetch_key(conn, caller, key)
            if known is not None:
                if known[0] != body_hash:
                    return problem(
                        422, code="idempotency_key_reused", title="Idempotency key reused",
                        detail="this Idempotency-Key was used with another request",
                        detail_zh="该幂等键已用于内容不同的请求",
                    )  # fmt: skip
                return _reply(known[1], known[2])
            status, answer = await work(conn)
            body = _body(status, answer)
            await order_store.put_key(conn, caller, key, body_hash, status, body, self.clock.now())
        return _reply(status, body)


def _body(status: int, answer: BaseModel) -> dict[str, Any]:
    """Return what is sent: of an answer every field that is described, of a problem those that say something."""
    return answer.model_dump(mode="json", exclude_none=status >= 400)


def _reply(status: int, body: object) -> Response:
    media_type = "application/problem+json" if status >= 400 else "application/json"
    return Response(orjson.dumps(body), status_code=status, media_type=media_type)


def known_load(loads: Loads, load_id: str) -> LoadInfo:
    """Return a load.

    Raises:
        NotFound: There is no such load now.
    """
    load = loads.get(load_id)
    if load is None:
        raise NotFound(f"no load {load_id}", message_zh=f"没有负载 {load_id}")
    return load


def is_visible(who: Principal, load_id: str, loads: Loads) -> bool:
    """Return whether the caller may see what happens to a load; of a load that is gone, only who sees all sites."""
    load = loads.get(load_id)
    return who.sites is None if load is None else allowed(who, load)


def is_own(who: Principal, owner: str | None) -> bool:
    """Return whether the caller may see what is somebody's: an upstream app only what is its own."""
    return not is_app(who) or who.actor == owner


def sites_of(who: Principal, loads: Loads) -> list[str] | None:
    """Return the sites that the caller may see, None for all."""
    if who.sites is None:
        return None
    return sorted({load.site_id for load in loads.all() if allowed(who, load)})
