"""Errors as HTTP says them: problem+json (RFC 9457), with the message in Chinese beside."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import Response
from pydantic import BaseModel, Field

from libs.common import errors
from libs.common.log import current_context
from libs.common.redact import presentable

STATUS: Sequence[tuple[type[errors.PlatformError], int]] = (
    (errors.InvalidInput, 400),
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.TooManyRequests, 429),
    (errors.Unavailable, 503),
    (errors.PlatformError, 500),
)
PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
"""When to ask again what is unavailable. [s]"""
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class ProblemDetail(BaseModel):
    """An error as RFC 9457 shapes it, with the message in Chinese beside."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    detail_zh: str | None = None
    code: str
    """Stable, for programs."""
    instance: str | None = None
    """Names this very answer; the log lines of the request carry the same id."""
    facts: dict[str, Any] = Field(default_factory=dict)


def problem(status: int, *, code: str, title: str, detail: str, detail_zh: str | None = None, **facts: Any) -> Response:
    """Return an application/problem+json response."""
    return problem_response(status, code=code, title=title, detail=detail, detail_zh=detail_zh, facts=facts)


def problem_response(
    status: int,
    *,
    code: str,
    title: str,
    detail: str,
    detail_zh: str | None = None,
    facts: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an application/problem+json response; facts may have any name and any value.

    Args:
        status: The HTTP status.
        code: Stable name of the kind of error.
        title: The kind in words.
        detail: What is wrong, for people.
        detail_zh: The same in Chinese.
        facts: Values for programs; what JSON does not know becomes text.
        headers: Besides those that the status asks for.
    """
    request_id = current_context().get("request_id")
    body = ProblemDetail(
        title=title,
        status=status,
        detail=detail,
        detail_zh=detail_zh,
        code=code,
        instance=None if request_id is None else f"urn:wattring:request:{request_id}",
    )
    content = body.model_dump(exclude_none=True) | {"facts": presentable(facts or {})}
    asked: dict[str, str] = {}
    if status == 401:
        asked["www-authenticate"] = "Bearer"
    if status == 503:
        asked["retry-after"] = str(RETRY_AFTER_S)
    return Response(
        orjson.dumps(content),
        status_code=status,
        media_type=PROBLEM_TYPE,
        headers={**asked, **(headers or {})},
    )


def problem_of(exc: errors.PlatformError) -> Response:
    """Return the response of an error that was raised on purpose."""
    english, chinese = exc.both
    wait_s = exc.facts.get("retry_after_s") if isinstance(exc, errors.TooManyRequests) else None
    return problem_response(
        status_of(exc), code=exc.code, title=_title(type(exc)), detail=english, detail_zh=chinese, facts=exc.facts,
        headers=None if wait_s is None else {"retry-after": str(math.ceil(wait_s))},
    )  # fmt: skip


def status_of(exc: errors.PlatformError) -> int:
    """Return the HTTP status of a kind of error."""
    return next(number for kind, number in STATUS if isinstance(exc, kind))


def _title(kind: type[errors.PlatformError]) -> str:
    """Return the name of the class in words: ``InvalidToken`` is "Invalid token"."""
    return _WORD.sub(" ", kind.__name__).capitalize()
