"""MQTT destinations: a batch is one message or, where the topic names device, site or point, one for each of these.

``address``: ``host``, ``port`` (1883, 8883 with TLS), ``tls``, ``topic`` with ``{feed}``, ``{site_id}``,
``{device_id}``, ``{point}`` where wanted, ``qos`` (1 or 2), ``client_id``. ``secrets``: ``username`` and ``password``.
A batch is acknowledged when the broker has acknowledged every message of it. A connection is made for each batch: it
is idle for most of the time otherwise, and a broker that has gone shows at once.

The library is aiomqtt (BSD-3-Clause) on Eclipse Paho, as elsewhere in this project.
"""

import asyncio
import ssl
import string
from collections.abc import Mapping

import aiomqtt
import httpcore

from libs.common.clock import Clock
from libs.common.errors import PlatformError
from libs.common.redact import redact
from services.export.connectors.grouping import parts
from services.export.connectors.http import not_told
from services.export.connectors.port import ERROR_CHARS, BadAddress, known_only, port_of, text_of
from services.export.connectors.relay import relay
from services.export.connectors.tls import secured
from services.export.domain.callbacks import Outcome, Verdict
from services.export.domain.feeds import Format
from services.export.domain.rendering import Batch, render

AT_ONCE = 100
"""Messages that wait for their acknowledgement."""
KEEPALIVE_S = 60
_NAMES = ("feed", "site_id", "device_id", "point")


class MqttConnector:
    """Tells one destination by MQTT."""

    def __init__(
        self,
        *,
        address: Mapping[str, object],
        secrets: Mapping[str, str],
        format_: Format,
        timeout_s: float,
        dialler: httpcore.AsyncNetworkBackend,
        context: ssl.SSLContext,
        clock: Clock,
    ) -> None:
        """Prepare; the arguments are those of ``HttpConnector``. Raises ``BadAddress``."""
        known_only(address, "host", "port", "tls", "topic", "qos", "client_id")
        self._host = text_of(address, "host")
        self._tls = address.get("tls", False)
        if not isinstance(self._tls, bool):
            raise BadAddress("address.tls: expected true or false")
        self._port = port_of(address, 8883 if self._tls else 1883)
        self._topic = text_of(address, "topic")
        _check_topic(self._topic)
        qos = address.get("qos", 1)
        if qos not in (1, 2) or isinstance(qos, bool):
            raise BadAddress("address.qos: expected 1 or 2; with 0 nobody acknowledges")
        self._qos = int(str(qos))
        self._client_id = text_of(address, "client_id") if "client_id" in address else None
        self._secrets = dict(secrets)
        self._format = format_
        self._timeout_s = timeout_s
        self._dialler = dialler
        self._context = context
        self._clock = clock

    async def close(self) -> None:
        """Nothing stays open between batches."""

    async def tell(self, batch: Batch) -> Outcome:
        """Publish a batch; see ``Connector.tell``."""
        began_s = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._publish(batch)
        except PlatformError as exc:
            return not_told(exc, self._clock.monotonic() - began_s)
        except TimeoutError:
            return Outcome(Verdict.TIMEOUT, self._timeout_s, error=f"no answer within {self._timeout_s:g} s")
        except (aiomqtt.MqttError, httpcore.NetworkError, httpcore.TimeoutException, OSError) as exc:
            reason = redact(str(exc) or type(exc).__name__)
            return Outcome(Verdict.FAILED, self._clock.monotonic() - began_s, error=reason[:ERROR_CHARS])
        return Outcome(Verdict.DELIVERED, self._clock.monotonic() - began_s)

    async def _publish(self, batch: Batch) -> None:
        by_topic = parts(batch, lambda row: self._topic.format(feed=batch.feed_id, **row))
        stream = await self._dialler.connect_tcp(self._host, self._port, self._timeout_s)
        if self._tls:
            stream = await secured(stream, self._context, self._host, self._timeout_s)
        async with (
            relay(stream, "mqtt") as path,
            aiomqtt.Client(
                str(path), transport="unix", identifier=self._client_id, username=self._secrets.get("username"),
                password=self._secrets.get("password"), timeout=self._timeout_s, keepalive=KEEPALIVE_S,
                max_inflight_messages=AT_ONCE, max_concurrent_outgoing_calls=AT_ONCE,
            ) as client,
        ):  # fmt: skip
            waiting = [
                asyncio.create_task(client.publish(topic, render(self._format, part), qos=self._qos))
                for topic, part in by_topic.items()
            ]
            try:
                for task in waiting:
                    await task
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.wait(waiting)
                for task in waiting:
                    if not task.cancelled():
                        task.exception()  # what else has failed says the same


def _check_topic(topic: str) -> None:
    try:
        fields = list(string.Formatter().parse(topic))
    except ValueError as exc:
        raise BadAddress("address.topic: a brace without its other one") from exc
    for text, name, form, conversion in fields:
        if any(sign in text for sign in "+#\0"):
            raise BadAddress("address.topic: expected no + and # (MQTT 3.1.1, 3.3.2.1)")
        if name is not None and (name not in _NAMES or form or conversion):
            raise BadAddress(f"address.topic: expected of {{…}} only {', '.join(_NAMES)}")
