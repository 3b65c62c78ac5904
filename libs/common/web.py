"""HTTP: the application factory, problem+json (RFC 9457), probes, service tokens, calls between services."""

import difflib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from importlib.resources.abc import Traversable
from threading import Lock
from typing import Annotated, Any, Generic, TypeVar

import orjson
from fastapi import Depends, FastAPI, Query, Request, Response, params
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from libs.common import errors, metrics
from libs.common.client import CALL_TIMEOUT_S, ServiceClient, http_client
from libs.common.contracts.base import EARLIEST, LATEST, UtcTime
from libs.common.expected import expected
from libs.common.health import Health
from libs.common.inside import came_inside
from libs.common.lean import LeanDoor, LeanEntrance
from libs.common.middleware import MAX_BODY_BYTES, Envelope
from libs.common.problems import PROBLEM_TYPE, ProblemDetail, problem, problem_of, problem_response, status_of
from libs.common.redact import shown_path
from libs.common.serving import Platform
from libs.common.tokens import Principal
from libs.common.yamlfile import parse_yaml

__all__ = [
    "CALL_TIMEOUT_S",
    "MAX_BODY_BYTES",
    "Cursor",
    "From",
    "Limit",
    "Page",
    "ProblemDetail",
    "ServiceClient",
    "To",
    "build_version",
    "check_span",
    "create_app",
    "http_client",
    "key_cursor",
    "open_lean_door",
    "problem",
    "read_key_cursor",
    "read_time_cursor",
    "require",
    "time_cursor",
]

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """One page of a list; pass ``next_cursor`` back as ``cursor`` for the next."""

    items: list[Item]
    next_cursor: str | None = None


_REFERENCE = "#/components/schemas/{model}"
_MEANING: Mapping[int, str] = {
    400: "Understood, and refused by a rule; `detail` says what was expected",
    401: "Nobody is signed in, or the key is none",
    403: "The caller lacks the right, or the site is not among the caller's",
    404: "There is no such thing, or the caller may not see it",
    409: "In conflict with what is there; `detail` says with what",
    413: "The body is larger than is taken",
    422: "Not as this page describes it; `facts.problems` names each place with what was expected",
    503: "Cannot answer now; `Retry-After` says when to ask again",
}


def _problem_answer(status: int, meaning: str) -> dict[str, Any]:
    # Not by its model: FastAPI makes each response of each operation a type of its own, which was most of what an
    # application cost to build.
    schema = {"$ref": _REFERENCE.format(model=ProblemDetail.__name__)}
    return {"description": meaning, "content": {PROBLEM_TYPE: {"schema": schema}}}


PROBLEMS = {status: _problem_answer(status, meaning) for status, meaning in _MEANING.items()}
"""What any operation may answer in place of what was asked."""


class _Described(FastAPI):
    """An application whose description says of problems that they are problem+json, and shows examples."""

    examples: Traversable | None = None
    """YAML: ``METHOD path`` to an example of the ``body`` and of the ``answer``. A body of several types has an example
    by type."""
    entrance: LeanEntrance | None = None
    """Takes what is plainly its own before all else where it is served (``listening.py``), see ``open_lean_door``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._describing = Lock()

    def openapi(self) -> dict[str, Any]:
        """Return the description, made when it is first asked for; from any thread."""
        with self._describing:
            return self._openapi()

    def _openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            page = super().openapi()
            schemas = page.setdefault("components", {}).setdefault("schemas", {})
            detail = ProblemDetail.model_json_schema(mode="serialization", ref_template=_REFERENCE)
            schemas |= {**detail.pop("$defs", {}), ProblemDetail.__name__: detail}
            for operations in page["paths"].values():
                for operation in operations.values():
                    for status, answer in operation["responses"].items():
                        if status.startswith(("4", "5")) and "application/json" in answer.get("content", {}):
                            answer["content"] = {PROBLEM_TYPE: answer["content"]["application/json"]}
            if self.examples is not None:
                _show_examples(page["paths"], self.examples)
        return super().openapi()


def _show_examples(paths: Mapping[str, Any], file: Traversable) -> None:
    document: Any = parse_yaml(file.read_text(encoding="utf-8"), file.name).data
    for place, shown in document.items():
        method, path = place.split(" ")
        operation = paths[path][method.lower()]
        if "body" in shown:
            content = operation["requestBody"]["content"]
            by_type = shown["body"] if len(content) > 1 else {next(iter(content)): shown["body"]}
            for media_type, example in by_type.items():
                content[media_type]["example"] = example
        if "answer" in shown:
            status = min(status for status in operation["responses"] if status.startswith("2"))
            operation["responses"][status]["content"]["application/json"]["example"] = shown["answer"]


def create_app(
    service: str,
    platform: Platform,
    health: Health,
    *,
    title: str,
    max_body_bytes: int = MAX_BODY_BYTES,
    examples: Traversable | None = None,
) -> FastAPI:
    """Return the application of a service with its probes and error replies.

    ``/livez`` speaks of progress only, ``/readyz`` of the ability to work, ``/metrics`` is for Prometheus,
    ``/version`` names the build. Names, reasons and metrics are for those inside, see ``inside.py``. Until the service
    has started every other path answers 503 with the reason.
    A query parameter that an operation does not have is refused: a misspelt filter would answer with everything.
    ``examples`` is what the description shows, see ``_Described``.
    """
    app = _Described(
        title=title,
        version=build_version(service),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # FastAPI's own is made on the event loop, which stands still for seconds
        generate_unique_id_function=operation_id,
        redirect_slashes=False,  # behind the gateway the way back would name an address inside
        dependencies=[Depends(_as_described)],
        responses={status: dict(answer) for status, answer in PROBLEMS.items()},
    )
    app.examples = examples
    app.state.service = service
    app.state.query_parameters = {}
    app.state.platform = platform
    app.state.health = health
    app.add_middleware(Envelope, service=service, health=health, max_body_bytes=max_body_bytes)
    app.add_exception_handler(errors.PlatformError, _platform_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)

    look = require(f"{service}:read")

    async def sees_all(request: Request) -> bool:
        if came_inside(request):
            return True
        with suppress(errors.PlatformError):  # a probe is answered whatever it brings along
            await look(request)
            return True
        return False

    @app.get("/livez", include_in_schema=False)
    async def livez(request: Request) -> Response:
        stuck = health.stuck()
        body: dict[str, Any] = {"status": "stuck" if stuck else "ok"}
        if await sees_all(request):
            body["stuck"] = stuck
        return JSONResponse(body, 503 if stuck else 200)

    @app.get("/readyz", include_in_schema=False)
    async def readyz(request: Request) -> Response:
        reasons = await health.not_ready()
        body: dict[str, Any] = {"service": service, "status": "not ready" if reasons else "ready"}
        if await sees_all(request):
            body["reasons"] = {name: reason.english for name, reason in reasons.items()}
            body["reasons_zh"] = {name: reason.chinese for name, reason in reasons.items()}
        return JSONResponse(body, 503 if reasons else 200)

    @app.get("/metrics", include_in_schema=False)
    async def metrics_page(request: Request) -> Response:
        if not came_inside(request):
            await look(request)
        return Response(metrics.render(), media_type=metrics.CONTENT_TYPE)

    @app.get("/openapi.json", include_in_schema=False)
    def description() -> Response:
        return JSONResponse(app.openapi())

    @app.get("/version", include_in_schema=False)
    async def version_page() -> Mapping[str, str]:
        return {"service": service, "version": build_version(service)}

    return app


def open_lean_door(app: FastAPI, door: LeanDoor) -> None:
    """Let requests of one path pass by the framework; what ``create_app`` returned has an operation of that path too.

    Raises:
        ValueError: It is no such application, or has a lean door already.
    """
    if not isinstance(app, _Described) or app.entrance is not None:
        raise ValueError("expected an application of ours without a lean door")
    platform: Platform = app.state.platform
    app.entrance = LeanEntrance(door, service=app.state.service, health=app.state.health, keys=platform.keys)


def operation_id(route: APIRoute) -> str:
    """Return the name that generated clients give to an operation: method and path.

    The path is what was promised, and one service owns it; names of functions in our code are neither.
    """
    method = min(route.methods or {"GET"}).lower()
    words = re.sub(r"\{(\w+)(:\w+)?\}", r"by_\1", route.path_format.removeprefix("/api/v1/"))
    return re.sub(r"\W+", "_", f"{method}_{words}").strip("_").lower()


def build_version(service: str) -> str:
    """Return the version of the installed distribution; what has none of its own goes with the common one."""
    for distribution in (f"wattring-{service}", "wattring-common"):
        with suppress(PackageNotFoundError):
            return version(distribution)
    return "0.0.0"


def require(scope: str) -> Callable[[Request], Awaitable[Principal]]:
    """Return a dependency that lets a request pass only with this scope, and says who asks."""

    async def check(request: Request) -> Principal:
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


async def _platform_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, errors.PlatformError)  # noqa: S101  # registered for this class only
    if status_of(exc) >= 500:
        path = shown_path(request.url.path)
        logger.warning("request refused", extra={"code": exc.code, "reason": exc.message, "path": path})
    return problem_of(exc)


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


async def _as_described(request: Request) -> None:
    """Refuse query parameters that the operation does not have, and JSON that nothing behind can carry.

    Operations that are not described (the gateway's door to the services) leave it to who answers.

    Raises:
        RequestValidationError: There is one; with the names that were probably meant.
    """
    if not request.query_params and request.method in ("GET", "DELETE"):
        return
    known = _query_parameters(request)
    if known is None:
        return
    strange = [name for name in request.query_params if name not in known]
    problems = [_wrong(("query", name), _no_parameter(name, known)) for name in strange]
    reads_json = getattr(request.scope["route"], "body_field", None) is not None  # others look at the bytes themselves
    if reads_json and not _is_plain(await request.body()):
        wrong = errors.WrongValue(
            "JSON with whole characters, and numbers of at most 64 bits", "字符完整且数值不超过 64 位的 JSON"
        )
        problems.append(_wrong(("body",), wrong))
    if problems:
        raise RequestValidationError(problems)


def _wrong(place: tuple[str, ...], error: errors.WrongValue) -> dict[str, Any]:
    return {"type": "value_error", "loc": place, "ctx": {"error": error}}


_SUSPECT = re.compile(rb"\\u[dD][89a-fA-F]|[0-9]{19}")


def _is_plain(body: bytes) -> bool:
    """Return whether JSON has neither half a surrogate pair nor a number that only Python can hold."""
    if _SUSPECT.search(body) is None:
        return True
    try:
        orjson.loads(body)
        json.loads(body, parse_int=_of_64_bits)
    except (ValueError, RecursionError):
        return False
    return True


def _of_64_bits(text: str) -> int:
    number = int(text)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError("beyond 64 bits")
    return number


def _query_parameters(request: Request) -> Collection[str] | None:
    """Return what may be said after the question mark of what is asked, None where it is not described."""
    route, known = request.scope["route"], request.app.state.query_parameters
    if id(route) not in known:
        described = isinstance(route, APIRoute) and route.include_in_schema
        known[id(route)] = _names_in_query(route.dependant) if described else None
    names: Collection[str] | None = known[id(route)]
    return names


def _names_in_query(dependant: Dependant) -> Collection[str]:
    others = (params.Path, params.Header, params.Cookie)
    fields = [one for one in get_flat_params(dependant) if not isinstance(one.field_info, others)]
    return [one.validation_alias or one.alias for one in fields]


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
    return problem_response(
        exc.status_code,
        code=f"http_{exc.status_code}",
        title=HTTPStatus(exc.status_code).phrase.capitalize(),
        detail=str(exc.detail),
        detail_zh=_HTTP_ZH.get(exc.status_code, f"HTTP {exc.status_code}"),
        headers=exc.headers,
    )


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
