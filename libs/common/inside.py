"""Who may see what the probes know.

Everybody who reaches a port may learn whether a process lives and whether it can work; an orchestrator asks without a
password. Why it cannot (addresses of databases and brokers, names of loops) and the metrics are for those inside: on a
Unix socket of our own account, on the internal listener, or with a token of a service.
"""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from libs.common.problems import problem

PROBES = ("/livez", "/readyz", "/metrics", "/version", "/openapi.json")
"""Answered from the first moment, and not counted."""
_INSIDE = "wattring.inside"


class Inside:
    """An application as those inside see it."""

    def __init__(self, app: ASGIApp, *, probes_only: bool) -> None:
        """Wrap ``app``; ``probes_only`` leaves out everything that is not for monitoring."""
        self._app = app
        self._probes_only = probes_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._probes_only and scope["type"] == "http" and scope["path"] not in PROBES:
            text = f"only {', '.join(PROBES)} are served here"
            refusal = problem(404, code="http_404", title="Not found", detail=text, detail_zh="此端口仅供监控使用")
            await refusal(scope, receive, send)
            return
        await self._app({**scope, _INSIDE: True}, receive, send)


def came_inside(request: Request) -> bool:
    """Return whether a request came by an address that only those inside reach."""
    return bool(request.scope.get(_INSIDE, False))
