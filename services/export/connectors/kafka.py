"""Kafka destinations: a batch as messages of one topic, acknowledged by all replicas in sync.

``address``: ``bootstrap`` (a list of ``host:port``), ``topic``, ``key`` (``device_id``, ``site_id``, ``point`` or none:
the whole batch is one message), ``tls``, ``sasl`` (``PLAIN``, ``SCRAM-SHA-256``, ``SCRAM-SHA-512``). ``secrets``:
``username``, ``password``. Headers of every message: ``wattring-feed``, ``wattring-batch``, ``wattring-hash``; a batch
told again comes again, under its number.

A cluster names its brokers itself, and the library opens its connections by the event loop. So it runs on a loop of its
own (``ownloop.py``), where the dialler opens each of them: to an address that was checked, by the way that the
destination has.

The library is aiokafka (Apache-2.0), which the bus speaks to Kafka by.
"""

import asyncio
import logging
import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError

from libs.common.clock import Clock
from libs.common.errors import PlatformError
from libs.common.outgoing import AddressGuard
from libs.common.redact import redact
from services.export.connectors.dial import Dialler
from services.export.connectors.grouping import parts
from services.export.connectors.http import not_told
from services.export.connectors.ownloop import OwnLoop
from services.export.connectors.port import ERROR_CHARS, BadAddress, known_only, text_of
from services.export.domain.callbacks import Outcome, Verdict
from services.export.domain.feeds import Format
from services.export.domain.rendering import Batch, render

logger = logging.getLogger(__name__)

CLOSE_S = 2.0
"""For what is under way when a producer is closed. [s]"""
KEYS = ("device_id", "site_id", "point")
SASL = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
MAX_MESSAGE_BYTES = 1_000_000
"""What a broker takes by default is a little more; a batch with a key is in smaller pieces. [B]"""


class KafkaConnector:
    """Publishes batches to one destination's topic; keeps its producer while all goes well."""

    def __init__(
        self,
        *,
        address: Mapping[str, object],
        secrets: Mapping[str, str],
        format_: Format,
        timeout_s: float,
        guard: AddressGuard,
        dialler: Dialler,
        context: ssl.SSLContext,
        clock: Clock,
    ) -> None:
        """Prepare; the arguments are those of ``HttpConnector``. Raises ``BadAddress``."""
        known_only(address, "bootstrap", "topic", "key", "tls", "sasl")
        self._bootstrap = _bootstrap(address.get("bootstrap"))
        self._topic = text_of(address, "topic")
        self._key = text_of(address, "key") if address.get("key") is not None else None
        if self._key is not None and self._key not in KEYS:
            raise BadAddress(f"address.key: expected one of {', '.join(KEYS)} or none, found {self._key[:20]!r}")
        self._options = _security(address, secrets, context)
        self._format = format_
        self._timeout_s = timeout_s
        self._guard = guard
        self._dialler = dialler
        self._clock = clock
        self._loop: OwnLoop | None = None
        self._producer: AIOKafkaProducer | None = None

    async def close(self) -> None:
        """Let the connections go; what is not acknowledged soon is told again by a new producer."""
        loop, self._loop = self._loop, None
        if loop is not None:
            try:
                await loop.run(self._stop())
            finally:
                await loop.close()

    async def _stop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await producer.flush()
        except (TimeoutError, KafkaError):
            # aiokafka has no public way to give up what it holds, and its stop() waits for that without end.
            producer._message_accumulator.fail_all(KafkaConnectionError("given up"))  # noqa: SLF001
            await producer.client.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await producer.stop()
        except (TimeoutError, KafkaError):
            logger.warning("producer of a destination not closed cleanly")

    async def tell(self, batch: Batch) -> Outcome:
        """Publish a batch; see ``Connector.tell``."""
        began_s = self._clock.monotonic()
        loop = self._loop = self._loop or OwnLoop(self._dialler, timeout_s=self._timeout_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                await loop.run(self._publish(batch))
        except PlatformError as exc:
            outcome = not_told(exc, self._clock.monotonic() - began_s)
        except TimeoutError:
            outcome = Outcome(Verdict.TIMEOUT, self._timeout_s, error=f"no answer within {self._timeout_s:g} s")
        except (KafkaError, OSError) as exc:
            took_s = self._clock.monotonic() - began_s
            if loop.trouble is not None:
                outcome = not_told(loop.trouble, took_s)
            else:
                reason = redact(str(exc) or type(exc).__name__)
                outcome = Outcome(Verdict.FAILED, took_s, error=reason[:ERROR_CHARS])
        else:
            return Outcome(Verdict.DELIVERED, self._clock.monotonic() - began_s)
        # Its batches may be half sent; a new one begins with none.
        await self.close()
        return outcome

    async def _publish(self, batch: Batch) -> None:
        key = self._key
        pieces = {"": batch} if key is None else parts(batch, lambda row: row[key])
        headers = [
            ("wattring-feed", batch.feed_id.encode()),
            ("wattring-batch", str(batch.number).encode()),
            ("wattring-hash", batch.hash.encode()),
        ]
        producer = self._producer or await self._started()
        sent = [
            await producer.send(
                self._topic, render(self._format, piece), key=name.encode() if name else None, headers=headers
            )
            for name, piece in pieces.items()
        ]
        for each in sent:
            await each

    async def _started(self) -> AIOKafkaProducer:
        for host, port in self._bootstrap:
            await self._guard.address_of(host, port)
        producer = AIOKafkaProducer(
            bootstrap_servers=[f"{host}:{port}" for host, port in self._bootstrap], client_id="wattring-feeds",
            acks="all", enable_idempotence=True, max_request_size=MAX_MESSAGE_BYTES, compression_type="gzip",
            request_timeout_ms=int(self._timeout_s * 1000), **self._options,
        )  # fmt: skip
        self._producer = producer
        await producer.start()
        for broker in producer.client.cluster.brokers():
            await self._guard.address_of(broker.host, broker.port)
        return producer


def _bootstrap(value: object) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for each in value if isinstance(value, list) else []:
        host, _, port = each.rpartition(":") if isinstance(each, str) else ("", "", "")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise BadAddress("address.bootstrap: expected a list of host:port")
        found.append((host.strip("[]"), int(port)))
    if not found:
        raise BadAddress("address.bootstrap: expected a list of host:port")
    return found


def _security(address: Mapping[str, object], secrets: Mapping[str, str], context: ssl.SSLContext) -> dict[str, Any]:
    tls, sasl = address.get("tls", False), address.get("sasl")
    if not isinstance(tls, bool):
        raise BadAddress("address.tls: expected true or false")
    if sasl is not None and sasl not in SASL:
        raise BadAddress(f"address.sasl: expected one of {', '.join(SASL)} or none")
    options: dict[str, Any] = {
        "security_protocol": ("SASL_" if sasl else "") + ("SSL" if tls else "PLAINTEXT"),
        "ssl_context": context if tls else None,
    }
    if sasl:
        if not secrets.get("username") or not secrets.get("password"):
            raise BadAddress("secrets.username, secrets.password: needed for sasl")
        options |= {
            "sasl_mechanism": sasl,
            "sasl_plain_username": secrets["username"],
            "sasl_plain_password": secrets["password"],
        }
    return options
