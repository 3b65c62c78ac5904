"""The units' SOAP service: its own application on its own port, for the peers that are allowed.

A dialect's path (``/services/FSUService``) is shared by all units and dispatched by the unit's id;
``/services/FSUService/<unit id>`` is that unit's own, for centres that take one address per unit. GET with
``?wsdl`` gives the description with the address that the request came to. A body that is no SOAP call gets a
fault; a call with anything inside that is a message gets that message's reply.
"""

import codecs
import logging
import re
from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from libs.common import metrics
from libs.common.errors import InvalidInput, Unavailable
from libs.common.runtime import Health
from services.export.dialects import Dialects, soap
from services.export.dialects.base import Service, open_message
from services.export.usecases.answers import Answers, TurnedAway

logger = logging.getLogger(__name__)

_HOST = re.compile(r"^(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,253})(:[0-9]{1,5})?$")
_CHARSET = re.compile(r"charset=\"?([A-Za-z0-9_.-]{1,40})", re.IGNORECASE)

_messages = metrics.counter("export_soap_messages_total", "SOAP messages that came to the units", ("outcome",))


class _TooLarge(Exception):
    """The body is longer than we take."""


def build_listener(
    answers: Answers, dialects: Dialects, health: Health, *, max_message_bytes: int, turned_away: TurnedAway
) -> Starlette:
    """Return the application; it answers 503 until the service has started."""

    async def serve(request: Request) -> Response:
        if health.starting is not None:
            return Response(f"starting: {health.starting.english}", 503, media_type="text/plain")
        peer = request.client.host if request.client else ""
        try:
            if not await answers.peer_allowed(peer):
                _messages.labels("peer_refused").inc()
                logger.warning("peer refused", extra={"peer": peer})
                await turned_away(peer, "peer_refused")
                return Response("this address is not allowed", 403, media_type="text/plain")
            if request.method == "POST":
                response, refused = await _call(request, answers, peer, max_message_bytes)
                if refused is not None:
                    await turned_away(peer, refused)
                return response
            return _description(request, await answers.service_at(_service_path(request), peer))
        except Unavailable as exc:
            return _fault("Server", exc.message, "unavailable")

    # A unit's own path is the shared one with its id: for centres that give each unit an address.
    paths = [f"{path}{own}" for path in dialects.paths() for own in ("", "/{unit_id}")]
    routes = [Route(path, serve, methods=["GET", "POST"]) for path in paths]
    return Starlette(routes=routes, exception_handlers={Exception: _unexpected})


async def _call(request: Request, answers: Answers, peer: str, limit: int) -> tuple[Response, str | None]:
    """Return the answer, and why the body was no message if it was none."""
    try:
        body = await _body(request, limit)
        incoming = open_message(soap.read_request(body, limit=limit))
    except ClientDisconnect:  # nobody is there to be answered, and nothing was asked
        _messages.labels("cut_off").inc()
        return Response(status_code=400), None
    except _TooLarge:
        return _fault("Client", f"larger than {limit} bytes", "too_large"), "too_large"
    except InvalidInput as exc:
        logger.warning("no message", extra={"peer": peer, "reason": exc.message[:200]})
        return _fault("Client", exc.message, exc.code), exc.code
    reply = await answers.answer(incoming, peer, _service_path(request), request.path_params.get("unit_id"))
    _messages.labels("answered").inc()
    answered = soap.write_response(reply.payload, reply.service)
    return Response(answered, headers={"content-type": soap.CONTENT_TYPE}), None


def _service_path(request: Request) -> str:
    """Return the path of the service that all units share."""
    unit_id = request.path_params.get("unit_id")
    return request.url.path if unit_id is None else request.url.path.removesuffix(f"/{unit_id}")


async def _body(request: Request, limit: int) -> bytes:
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > limit:
            raise _TooLarge
    return _as_declared(bytes(received), request.headers)


def _as_declared(body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the body in UTF-8 when only the HTTP header says that it is in something else."""
    found = _CHARSET.search(headers.get("content-type", ""))
    if found is None or body.lstrip().startswith((b"<?xml", codecs.BOM_UTF8)):
        return body  # what the document says of itself wins
    try:
        codec = codecs.lookup(found.group(1))
        return body if codec.name == "utf-8" else body.decode(codec.name).encode()
    except (LookupError, UnicodeError):
        return body


def _description(request: Request, service: Service) -> Response:
    if "wsdl" not in {name.lower() for name in request.query_params}:
        return Response(f"{request.url.path}?wsdl describes this service", media_type="text/plain")
    host = request.headers.get("host", "")
    server = request.scope.get("server") or ("127.0.0.1", 80)
    place = host if _HOST.match(host) else f"{server[0]}:{server[1]}"
    text = soap.wsdl(service, f"{request.url.scheme}://{place}{request.url.path}")
    return Response(text, headers={"content-type": soap.CONTENT_TYPE})


def _fault(side: str, text: str, outcome: str) -> Response:
    _messages.labels(outcome).inc()
    return Response(soap.write_fault(side, text), 500, headers={"content-type": soap.CONTENT_TYPE})


async def _unexpected(request: Request, exc: Exception) -> Response:
    logger.error("unexpected error while answering a centre", exc_info=exc, extra={"path": request.url.path})
    return _fault("Server", "internal error; it was logged", "failed")
