"""The call itself: signed, to an address that may be called, within its time, whatever the receiver does."""

import math
import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

import httpx

from libs.common import metrics, webhooks
from libs.common.clock import Clock
from libs.common.errors import PlatformError
from libs.common.outgoing import AddressGuard, Answer, CallFailed, GuardedClient, NotAllowed
from libs.common.redact import redact
from services.export.callbacks.bodies import CONTENT_TYPE
from services.export.domain.callbacks import RETRY_AFTER_CAP_S, Outcome, Verdict, verdict_of

USER_AGENT = "Wattring-Callbacks/1.0"
MAX_ANSWER_BYTES = 4096
"""More of an answer is not read; its status is what counts. [B]"""
ERROR_CHARS = 300
MAX_CONNECTIONS = 32
"""To one endpoint: as many as the calls at a time that it may ask for."""

ATTEMPTS = metrics.counter("webhook_attempts_total", "Attempts to call endpoints", ("outcome",))
SECONDS = metrics.histogram("webhook_attempt_seconds", "Time that an attempt took", ("outcome",))


class Outlet:
    """Calls endpoints, each over connections of its own."""

    def __init__(self, guard: AddressGuard, clock: Clock) -> None:
        """Prepare; the trusted certificates are read once for all."""
        self._guard = guard
        self._clock = clock
        self._trust: ssl.SSLContext = ssl.create_default_context()
        self._clients: dict[str, GuardedClient] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    async def keep(self, endpoint_ids: Sequence[str]) -> None:
        """Close the connections to endpoints that are not among these."""
        for gone in self._clients.keys() - set(endpoint_ids):
            await self._clients.pop(gone).close()

    async def call(
        self, endpoint_id: str, url: str, *, message_id: str, body: bytes, keys: Sequence[bytes], timeout_s: float
    ) -> Outcome:
        """Make one attempt.

        Args:
            endpoint_id: Whose connections are used.
            url: Where to.
            message_id: The ``webhook-id``.
            body: What is said.
            keys: What it is signed with.
            timeout_s: For everything together. [s]
        """
        client = self._clients.get(endpoint_id)
        if client is None:
            client = self._new_client(MAX_CONNECTIONS)
            self._clients[endpoint_id] = client
        return await self._call(client, url, message_id, body, keys, timeout_s)

    async def call_once(
        self, url: str, *, message_id: str, body: bytes, keys: Sequence[bytes], timeout_s: float
    ) -> Outcome:
        """Make one attempt over a connection of its own, which nobody else closes; arguments as for ``call``."""
        async with self._new_client(1) as client:
            return await self._call(client, url, message_id, body, keys, timeout_s)

    def _new_client(self, connections: int) -> GuardedClient:
        return GuardedClient(self._guard, verify=self._trust, max_connections=connections)

    async def _call(
        self, client: GuardedClient, url: str, message_id: str, body: bytes, keys: Sequence[bytes], timeout_s: float
    ) -> Outcome:
        began_s, now = self._clock.monotonic(), self._clock.now()
        headers = {
            "content-type": CONTENT_TYPE,
            "user-agent": USER_AGENT,
            **webhooks.signed_headers(message_id, now, body, keys),
        }
        try:
            answer = await client.request(
                "POST", url, headers=headers, content=body, timeout_s=timeout_s, max_bytes=MAX_ANSWER_BYTES, cut=True
            )
        except PlatformError as exc:
            outcome = _not_answered(exc, self._clock.monotonic() - began_s)
        else:
            outcome = _answered(answer, self._clock.monotonic() - began_s, now)
        ATTEMPTS.labels(outcome.verdict.value).inc()
        SECONDS.labels(outcome.verdict.value).observe(outcome.took_s)
        return outcome


def _not_answered(exc: PlatformError, took_s: float) -> Outcome:
    if isinstance(exc, NotAllowed):
        verdict = Verdict.NOT_ALLOWED
    elif isinstance(exc, CallFailed) and isinstance(exc.__cause__, TimeoutError | httpx.TimeoutException):
        verdict = Verdict.TIMEOUT
    else:
        verdict = Verdict.FAILED
    return Outcome(verdict, took_s, error=redact(exc.message)[:ERROR_CHARS])


def _answered(answer: Answer, took_s: float, now: datetime) -> Outcome:
    verdict = verdict_of(answer.status)
    if verdict is Verdict.DELIVERED:
        return Outcome(verdict, took_s, answer.status)
    # A receiver may repeat what it was sent, and it may send anything: a line of plain text is kept.
    said = " ".join(redact(answer.body.decode(errors="replace")).split())
    shown = "".join(sign if sign.isprintable() else "?" for sign in said)
    error = f"the receiver answered {answer.status}" + (f": {shown}" if shown else "")
    return Outcome(verdict, took_s, answer.status, error[:ERROR_CHARS], _retry_after_s(answer, now))


def _retry_after_s(answer: Answer, now: datetime) -> float | None:
    """Return how long the receiver wants to be left alone (RFC 9110, 10.2.3); None where it does not say. [s]"""
    text = answer.headers.get("retry-after")
    if text is None or answer.status not in (429, 503):
        return None
    try:
        wait_s = float(text)
    except ValueError:
        try:
            wait_s = (parsedate_to_datetime(text) - now).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(wait_s, 0.0), RETRY_AFTER_CAP_S) if math.isfinite(wait_s) else None


def keys_of(secrets: Mapping[str, str], now: datetime) -> list[bytes]:
    """Return what a call is signed with: the present secret, and the one before while it is valid.

    Args:
        secrets: ``current``, and during a rotation ``previous`` and ``previous_until``.
        now: When.
    """
    keys = [webhooks.key_of(secrets["current"])]
    until = secrets.get("previous_until")
    if until is not None and now < datetime.fromisoformat(until):
        keys.append(webhooks.key_of(secrets["previous"]))
    return keys
