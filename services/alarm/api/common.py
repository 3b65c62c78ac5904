"""What the routes of alarm share."""

from typing import Annotated

from fastapi import Depends, Request

from libs.common.tokens import Principal
from libs.common.web import (
    require,
)

Reader = Annotated[Principal, Depends(require("alarm:read"))]
Writer = Annotated[Principal, Depends(require("alarm:write"))]


def request_id(request: Request) -> str | None:
    """Return the id that the caller or the gateway gave the request."""
    return request.headers.get("x-request-id")
