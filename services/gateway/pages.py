"""The pages: the plain overview, and the description of the API to read and try.

Swagger UI comes from the package ``fastapi-offline`` (MIT), which carries its files, so that the page works
without the internet.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libs.common.errors import NotFound, Unavailable
from services.gateway.domain import SERVICES

STATIC = Path(str(files("services.gateway") / "static"))
SWAGGER = Path(str(files("fastapi_offline") / "static"))

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}
"""Nothing is loaded from elsewhere, and nobody frames our pages."""
_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

DESCRIBED = ("gateway", *SERVICES)
"""The services whose operations have a page; all on one would take a browser many seconds."""
API_PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Wattring API</title>
<link rel="icon" href="/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/swagger/swagger-ui.css"><link rel="stylesheet" href="/static/api-page.css"></head>
<body><header><a href="/docs">Wattring</a>
{" ".join(f'<a href="/docs/{name}">{name}</a>' for name in DESCRIBED)}</header>
<div id="swagger-ui"></div>
<script src="/swagger/swagger-ui-bundle.js"></script><script src="/static/api-page.js"></script></body></html>
"""


def add_pages(app: FastAPI, describe: Callable[[Collection[str]], Awaitable[Mapping[str, Any]]]) -> None:
    """Add the pages, and the headers that protect them, to the gateway's application."""
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.mount("/swagger", StaticFiles(directory=SWAGGER), name="swagger")

    @app.get("/", include_in_schema=False)
    async def overview() -> Response:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def api_pages() -> Response:
        return FileResponse(STATIC / "docs.html", headers={"cache-control": "no-cache"})

    @app.get("/docs/{service}", include_in_schema=False)
    async def api_page(service: str) -> Response:
        _described(service)
        return HTMLResponse(API_PAGE)

    @app.get("/api/openapi.json", include_in_schema=False)
    async def api_description() -> Response:
        return JSONResponse(await describe(DESCRIBED))

    @app.get("/api/openapi/{service}.json", include_in_schema=False)
    async def part_of_the_description(service: str) -> Response:
        _described(service)
        found = await describe([service])
        if not found["paths"]:
            raise Unavailable(f"{service} does not answer", message_zh=f"服务 {service} 没有应答")
        return JSONResponse(found)

    app.add_middleware(_Protect)


def _described(service: str) -> None:
    if service not in DESCRIBED:
        named = ", ".join(DESCRIBED)
        raise NotFound(f"no service {service!r}; there are {named}", message_zh=f"没有服务 {service!r};现有 {named}")


class _Protect:
    """Adds the headers to every response; plain ASGI, so that live push streams through it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name, value) for name, value in _RAW_HEADERS if name not in present),
                ]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
