"""The call itself: signed, to an address that may be called, within its time, whatever the receiver does."""

import asyncio
import math
import ssl
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

import h11

from libs.common import metrics, webhooks
from libs.common.clock import Clock
from libs.common.errors import PlatformError
from libs.common.outgoing import AddressGuard, NotAllowed
from libs.common.redact import redact
from libs.common.wire import Answer, Wire
from services.export.callbacks.bodies import CONTENT_TYPE
from services.export.domain.callbacks import RETRY_AFTER_CAP_S, Outcome, Verdict, verdict_of

USER_AGENT = "Wattring-Callbacks/1.0"
ERROR_CHARS = 300

ATTEMPTS = metrics.counter("webhook_attempts_total", "Attempts to call endpoints", ("outcome",))
SECONDS = metrics.histogram("webhook_attempt_seconds", "Time that an attempt took", ("outcome",))


class Outlet:
    """Calls endpoints, each over connections of its own."""

    def __init__(self, guard: AddressGuard, clock: Clock) -> None:
        """Prepare; the trusted certificates are read once for all."""
        self._guard = guard
        self._clock = clock
        self._trust: ssl.SSLContext = ssl.create_default_context()
        self._wires: dict[str, Wire] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        wires, self._wires = self._wires, {}
        for wire in wires.values():
            wire.close()
        await asyncio.sleep(0)  # sockets are closed in the loop's next turn

    def keep(self, endpoint_ids: Collection[str]) -> None:
        """Close the connections to endpoints that are not among these, and those that have been idle for long."""
        for gone in self._wires.keys() - set(endpoint_ids):
            self._wires.pop(gone).close()
        for wire in self._wires.values():
            wire.close_old()

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
        wire = self._wires.get(endpoint_id)
        if wire is None:
            wire = self._wires[endpoint_id] = Wire(self._guard, self._trust)
        return await self._call(wire, url, message_id, body, keys, timeout_s)

    async def call_once(
        self, url: str, *, message_id: str, body: bytes, keys: Sequence[bytes], timeout_s: float
    ) -> Outcome:
        """Make one attempt over a connection of its own, which nobody else closes; arguments as for ``call``."""
        wire = Wire(self._guard, self._trust)
        try:
            return await self._call(wire, url, message_id, body, keys, timeout_s)
        finally:
            wire.close()

    async def _call(
        self, wire: Wire, url: str, message_id: str, body: bytes, keys: Sequence[bytes], timeout_s: float
    ) -> Outcome:
        began_s, now = self._clock.monotonic(), self._clock.now()
        headers = {
            "content-type": CONTENT_TYPE,
            "user-agent": USER_AGENT,
            **webhooks.signed_headers(message_id, now, body, keys),
        }
        try:
            answer = await wire.post(url, headers, body, timeout_s=timeout_s)
        except TimeoutError:
            outcome = self._without_answer(Verdict.TIMEOUT, f"no answer within {timeout_s:g} s", began_s)
        except NotAllowed as exc:
            outcome = self._without_answer(Verdict.NOT_ALLOWED, exc.message, began_s)
        except PlatformError as exc:
            verdict = Verdict.TIMEOUT if isinstance(exc.__cause__, TimeoutError) else Verdict.FAILED
            outcome = self._without_answer(verdict, exc.message, began_s)
        except (OSError, h11.ProtocolError) as exc:
            outcome = self._without_answer(Verdict.FAILED, str(exc) or type(exc).__name__, began_s)
        else:
            outcome = _answered(answer, self._clock.monotonic() - began_s, now)
        ATTEMPTS.labels(outcome.verdict.value).inc()
        SECONDS.labels(outcome.verdict.value).observe(outcome.took_s)
        return outcome

    def _without_answer(self, verdict: Verdict, error: str, began_s: float) -> Outcome:
        return Outcome(verdict, self._clock.monotonic() - began_s, error=redact(error)[:ERROR_CHARS])


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
    text = answer.header("retry-after")
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
