"""HTTP: the application factory, problem+json (RFC 9457), probes, service tokens, calls between services."""

import asyncio
import difflib
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Generic, TypeVar

import httpx
import orjson
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libs.common import errors, metrics
from libs.common.contracts.base import EARLIEST, LATEST, UtcTime
from libs.common.expected import expected
from libs.common.ids import new_id
from libs.common.log import log_context
from libs.common.runtime import Health, Platform
from libs.common.tokens import Principal

logger = logging.getLogger(__name__)

STATUS: Sequence[tuple[type[errors.PlatformError], int]] = (
    (errors.InvalidInput, 400),
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Unavailable, 503),
    (errors.PlatformError, 500),
)
MAX_BODY_BYTES = 32 << 20
"""Largest request body taken. [B]"""
CALL_TIMEOUT_S = 10.0
"""A call to another service must be answered within this. [s]"""

_requests = metrics.counter("http_requests_total", "HTTP requests answered", ("service", "method", "status"))
_seconds = metrics.histogram("http_request_duration_seconds", "Time to answer", ("service",))


class ProblemDetail(BaseModel):
    """An error as RFC 9457 shapes it, with the message in Chinese beside."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    detail_zh: str | None = None
    code: str
    instance: str | None = None
    facts: dict[str, Any] = Field(default_factory=dict)


Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """One page of a list; pass ``next_cursor`` back as ``cursor`` for the next."""

    items: list[Item]
    next_cursor: str | None = None


def problem(status: int, *, code: str, title: str, detail: str, detail_zh: str | None = None, **facts: Any) -> Response:
    """Return an application/problem+json response."""
    body = ProblemDetail(title=title, status=status, detail=detail, detail_zh=detail_zh, code=code, facts=facts)
    return Response(
        orjson.dumps(body.model_dump(mode="json", exclude_none=True)),
        status_code=status,
        media_type="application/problem+json",
    )


def create_app(service: str, platform: Platform, health: Health, *, title: str) -> FastAPI:
    """Return the application of a service with its probes and error replies.

    ``/livez`` speaks of progress only, ``/readyz`` of the ability to work, ``/metrics`` is for Prometheus,
    ``/version`` names the build. Until the service is ready every other path answers 503 with the reasons.
    A query parameter that an operation does not have is refused: a misspelt filter would answer with everything.
    """
    app = FastAPI(
        title=title,
        version=build_version(service),
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,  # behind the gateway the way back would name an address inside
        dependencies=[Depends(_known_parameters)],
        responses={
            400: {"model": ProblemDetail},
            401: {"model": ProblemDetail},
            403: {"model": ProblemDetail},
        },
    )
    app.state.service = service
    app.state.platform = platform
    app.state.health = health
    app.add_middleware(_Envelope, service=service, health=health)
    app.add_exception_handler(errors.PlatformError, _platform_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)

    @app.get("/livez", include_in_schema=False)
    async def livez() -> Response:
        stuck = health.stuck()
        return JSONResponse({"status": "stuck" if stuck else "ok", "stuck": stuck}, 503 if stuck else 200)

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        reasons = await health.not_ready()
        body = {
            "service": service,
            "status": "not ready" if reasons else "ready",
            "reasons": {name: reason.english for name, reason in reasons.items()},
            "reasons_zh": {name: reason.chinese for name, reason in reasons.items()},
        }
        return JSONResponse(body, 503 if reasons else 200)

    @app.get("/metrics", include_in_schema=False)
    async def metrics_page() -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/version", include_in_schema=False)
    async def version_page() -> Mapping[str, str]:
        return {"service": service, "version": build_version(service)}

    return app


def build_version(service: str) -> str:
    """Return the version of the installed distribution."""
    try:
        return version(f"wattring-{service}")
    except PackageNotFoundError:
        return "0.0.0"


def require(scope: str) -> Callable[[Request], Principal]:
    """Return a dependency that lets a request pass only with this scope, and says who asks."""

    def check(request: Request) -> Principal:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise errors.Unauthenticated("no service token", message_zh="缺少服务令牌")
        platform: Platform = request.app.state.platform
        principal = platform.keys.verify_token(token, audience=request.app.state.service)
        if not principal.may(scope):
            raise errors.Forbidden(
                f"{principal.subject} lacks the right {scope}",
                message_zh=f"{principal.subject} 没有权限 {scope}",
            )
        return principal

    return check


class _Envelope:
    """Around every request: an id, a bound on the body, a count, and 503 while the service is not started."""

    def __init__(self, app: ASGIApp, *, service: str, health: Health) -> None:
        self._app = app
        self._service = service
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"").decode("latin-1")[:64] or new_id()
        open_path = scope["path"] in ("/livez", "/readyz", "/metrics", "/version", "/openapi.json")
        status = 0
        taken = 0

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode("latin-1")),
                ]
            await send(message)

        async def bounded_receive() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY_BYTES:
                raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
            return message

        started = asyncio.get_running_loop().time()
        with log_context(request_id=request_id):
            starting = self._health.starting
            closed = not open_path and not scope["path"].startswith(self._health.always_open)
            if starting is not None and closed:
                response = problem(
                    503, code="starting", title="Service Unavailable", detail=starting.english,
                    detail_zh=starting.chinese,
                )  # fmt: skip
                await response(scope, receive, counted_send)
            else:
                await self._app(scope, bounded_receive, counted_send)
        if not open_path:
            _requests.labels(self._service, scope["method"], str(status)).inc()
            _seconds.labels(self._service).observe(asyncio.get_running_loop().time() - started)


async def _platform_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, errors.PlatformError)  # noqa: S101  # registered for this class only
    status = next(number for kind, number in STATUS if isinstance(exc, kind))
    title = type(exc).__name__
    if status >= 500:
        logger.warning("request refused", extra={"code": exc.code, "reason": exc.message, "path": request.url.path})
    english, chinese = exc.both
    return problem(status, code=exc.code, title=title, detail=english, detail_zh=chinese, **exc.facts)


async def _validation_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101  # registered for this class only
    places = [_place(error) for error in exc.errors()]
    detail = "; ".join(f"{place['field']}: expected {place['expected']}" for place in places)
    detail_zh = ";".join(f"{place['field']}:应为{place['expected_zh']}" for place in places)
    return problem(422, code="malformed", title="Malformed request", detail=detail, detail_zh=detail_zh,
                   problems=places)  # fmt: skip


def _place(error: Any) -> dict[str, str]:
    english, chinese = expected(error)
    return {"field": ".".join(str(part) for part in error["loc"]), "expected": english, "expected_zh": chinese}


async def _known_parameters(request: Request) -> None:
    """Refuse query parameters that the operation does not have.

    Operations that are not described (the gateway's door to the services) leave it to who answers.

    Raises:
        RequestValidationError: There is one; with the names that were probably meant.
    """
    if not request.query_params:
        return
    known = _parameters(request.app, request.method, request.url.path)
    if known is None:
        return
    problems = [
        {"type": "value_error", "loc": ("query", name), "ctx": {"error": _no_parameter(name, known)}}
        for name in request.query_params
        if name not in known
    ]
    if problems:
        raise RequestValidationError(problems)


def _parameters(app: FastAPI, method: str, path: str) -> Collection[str] | None:
    """Return the query parameters of an operation, None for one that is not described."""
    segments = path.split("/")
    best: tuple[int, Mapping[str, Any]] | None = None
    for template, operations in app.openapi()["paths"].items():
        parts = template.split("/")
        free = sum(part.startswith("{") for part in parts)
        if (
            len(parts) == len(segments)
            and all(part == segment or part.startswith("{") for part, segment in zip(parts, segments, strict=True))
            and method.lower() in operations
            and (best is None or free < best[0])
        ):
            best = (free, operations[method.lower()])
    if best is None:
        return None
    return [one["name"] for one in best[1].get("parameters", ()) if one["in"] == "query"]


def _no_parameter(name: str, known: Collection[str]) -> errors.WrongValue:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return errors.WrongValue(f"{near[0]}, there is no such parameter", f" {near[0]},没有这个参数")
    if not known:
        return errors.WrongValue("no parameter", "无参数")
    names = ", ".join(sorted(known))
    return errors.WrongValue(f"one of {names}", f"下列之一:{names}")


_HTTP_ZH: Mapping[int, str] = {
    400: "请求格式有误", 404: "没有该路径", 405: "该路径不支持此方法", 413: "请求体过大", 415: "不支持的内容类型",
}  # fmt: skip


async def _http_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101  # registered for this class only
    return problem(
        exc.status_code,
        code=f"http_{exc.status_code}",
        title="HTTP error",
        detail=str(exc.detail),
        detail_zh=_HTTP_ZH.get(exc.status_code),
    )


async def _unexpected(request: Request, exc: Exception) -> Response:
    logger.error("unexpected error in a request", exc_info=exc, extra={"path": request.url.path})
    return problem(500, code="internal", title="Internal error", detail="unexpected error; it was logged",
                   detail_zh="内部错误,已记录")  # fmt: skip


_KINDS: Mapping[int, type[errors.PlatformError]] = {
    400: errors.InvalidInput, 401: errors.Unauthenticated, 403: errors.Forbidden, 404: errors.NotFound,
    409: errors.Conflict, 422: errors.InvalidInput, 503: errors.Unavailable,
}  # fmt: skip


class ServiceClient:
    """Calls to one other service: a token of our own, a bound in time, our own errors.

    "Not available" is always ``Unavailable``, whatever happened on the way.
    """

    def __init__(self, platform: Platform, *, caller: str, audience: str, scopes: Sequence[str] = ("*:*",)) -> None:
        self._platform = platform
        self._caller = caller
        self._audience = audience
        self._scopes = scopes
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> "ServiceClient":
        self._client = http_client(self._platform.settings.service_urls.get(self._audience))
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def get(self, path: str, *, timeout_s: float = CALL_TIMEOUT_S, **params: Any) -> Any:
        """Return the parsed answer of a GET."""
        return await self._call("GET", path, timeout_s, params=params)

    async def post(self, path: str, body: Any, *, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """Return the parsed answer of a POST of JSON."""
        return await self._call("POST", path, timeout_s, content=orjson.dumps(body))

    async def _call(self, method: str, path: str, timeout_s: float, **arguments: Any) -> Any:
        if self._client is None:
            raise errors.Unavailable(f"{self._audience}: the client is not open")
        token = self._platform.keys.sign_token(self._caller, audience=self._audience, scopes=self._scopes)
        try:
            response = await self._client.request(
                method, path, timeout=timeout_s,
                headers={"authorization": f"Bearer {token}", "content-type": "application/json"}, **arguments,
            )  # fmt: skip
        except httpx.HTTPError as exc:
            raise errors.Unavailable(f"{self._audience} does not answer: {exc or type(exc).__name__}") from exc
        if response.is_success:
            return orjson.loads(response.content) if response.content else None
        try:
            detail = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            detail = {}
        kind = _KINDS.get(response.status_code, errors.Unavailable)
        raise kind(
            str(detail.get("detail") or f"{self._audience} answered {response.status_code}"),
            message_zh=detail.get("detail_zh"),
            **detail.get("facts", {}),
        )


def http_client(url: str | None) -> httpx.AsyncClient:
    """Return a client for ``http://host:port`` or ``unix:/path`` (a service in this machine's Unix socket).

    Raises:
        Unavailable: No address is configured.
    """
    if not url:
        raise errors.Unavailable("no address configured in WATTRING_SERVICE_URLS")
    if url.startswith("unix:"):
        transport = httpx.AsyncHTTPTransport(uds=url.removeprefix("unix:"), limits=_LIMITS)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", trust_env=False)
    return httpx.AsyncClient(base_url=url, trust_env=False, limits=_LIMITS)


_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=20.0)

From = Annotated[UtcTime | None, Query(alias="from", description="start, RFC 3339 with offset")]
To = Annotated[UtcTime | None, Query(alias="to", description="end, not included")]
Limit = Annotated[int, Field(ge=1, le=1000, description="items on a page")]
Cursor = Annotated[str | None, Field(description="next_cursor of the page before")]

_CURSOR = re.compile(r"([0-9T:.+-]{0,40})~([\x21-\x7e]{1,200})")


def check_span(start: datetime | None, end: datetime | None) -> None:
    """Check that a time asked for has a length; an open end has.

    Raises:
        InvalidInput: It has none.
    """
    if start is not None and end is not None and end <= start:
        raise errors.InvalidInput("to: expected a time after from", message_zh="to:应晚于 from")


def key_cursor(key: str) -> str:
    """Return an opaque cursor for keyset paging by id."""
    return f"~{key}"


def read_key_cursor(cursor: str | None) -> str | None:
    """Return what ``key_cursor`` was made of, None for none.

    Raises:
        InvalidInput: It is not one of ours.
    """
    if cursor is None:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None or match[1]:
        raise _wrong_cursor()
    return match[2]


def time_cursor(at: datetime, key: str) -> str:
    """Return an opaque cursor for keyset paging by (time, id)."""
    return f"{at.astimezone(UTC).isoformat()}~{key}"


def read_time_cursor(cursor: str) -> tuple[datetime, str]:
    """Return what ``time_cursor`` was made of.

    Raises:
        InvalidInput: It is not one of ours.
    """
    match = _CURSOR.fullmatch(cursor)
    if match is None or not match[1].endswith("+00:00"):
        raise _wrong_cursor()
    try:
        at = datetime.fromisoformat(match[1])
    except ValueError:
        raise _wrong_cursor() from None
    if not EARLIEST <= at < LATEST:
        raise _wrong_cursor()
    return at, match[2]


def _wrong_cursor() -> errors.InvalidInput:
    return errors.InvalidInput(
        "cursor: expected next_cursor of the page before", message_zh="cursor:应为上一页的 next_cursor"
    )
