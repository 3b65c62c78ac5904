"""A destination's row made into the connector that tells it.

The libraries for MQTT and Kafka are loaded by the first destination that needs them.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from libs.common.clock import Clock
from libs.common.outgoing import AddressGuard
from services.export.connectors.dial import Dialler, Proxy
from services.export.connectors.file import FileConnector
from services.export.connectors.http import HttpConnector
from services.export.connectors.port import BadAddress, Connector
from services.export.connectors.postgresql import PostgresqlConnector
from services.export.connectors.tls import context_of
from services.export.domain.callbacks import Outcome, Verdict
from services.export.domain.feeds import Destination, DestinationKind
from services.export.domain.rendering import Batch, problem

logger = logging.getLogger(__name__)

HIDDEN = "***"
SECRET_CHARS = 6
"""A shorter secret is not looked for in what is said: it would hide half of every text."""


class _Contained:
    """A connector whose failures stay its own: none is raised, and none repeats a secret."""

    def __init__(self, connector: Connector, secrets: Mapping[str, str]) -> None:
        self._connector = connector
        self._secrets = sorted((each for each in secrets.values() if len(each) >= SECRET_CHARS), key=len, reverse=True)

    async def tell(self, batch: Batch) -> Outcome:
        try:
            outcome = await self._connector.tell(batch)
        except Exception as exc:  # five libraries, each with errors of its own: one that was missed must stop no other
            logger.exception("a destination failed unexpectedly")
            return Outcome(Verdict.FAILED, 0.0, error=f"unexpected: {type(exc).__name__}")
        error = outcome.error or ""
        for secret in self._secrets:  # a receiver may answer with what it was sent
            error = error.replace(secret, HIDDEN)
        return replace(outcome, error=error or None)

    async def close(self) -> None:
        await self._connector.close()


def connector_of(
    destination: Destination, secrets: Mapping[str, str], *, guard: AddressGuard, clock: Clock
) -> Connector:
    """Return the connector of a destination; nothing is opened yet, and nothing is raised by it later.

    Args:
        destination: Whom to tell.
        secrets: Its own, decrypted.
        guard: Knows what may be called.
        clock: For tokens and signatures.

    Raises:
        BadAddress: Something of it cannot be used; the text says what was expected.
    """
    return _Contained(_bare(destination, secrets, guard=guard, clock=clock), secrets)


def _bare(destination: Destination, secrets: Mapping[str, str], *, guard: AddressGuard, clock: Clock) -> Connector:
    found = problem(destination.format)
    if found is not None:
        raise BadAddress(f"format.{found}")
    egress = destination.egress
    try:
        proxy = None
        if egress.proxy is not None:
            proxy = Proxy.of(
                egress.proxy,
                username=secrets.get("proxy_username", ""),
                password=secrets.get("proxy_password", ""),
            )
        dialler = Dialler(guard, proxy=proxy, source_address=egress.source_address)
    except ValueError as exc:
        raise BadAddress(f"egress: {exc}") from exc
    address, format_, timeout_s = destination.address, destination.format, destination.timeout_s
    match destination.kind:
        case DestinationKind.HTTP:
            return HttpConnector(
                address=address, secrets=secrets, format_=format_, timeout_s=timeout_s, guard=guard, dialler=dialler,
                context=context_of(egress.trust, secrets), clock=clock,
            )  # fmt: skip
        case DestinationKind.MQTT:
            from services.export.connectors.mqtt import MqttConnector

            return MqttConnector(
                address=address, secrets=secrets, format_=format_, timeout_s=timeout_s, dialler=dialler,
                context=context_of(egress.trust, secrets), clock=clock,
            )  # fmt: skip
        case DestinationKind.POSTGRESQL:
            return PostgresqlConnector(
                address=address, secrets=secrets, format_=format_, timeout_s=timeout_s, dialler=dialler,
                context=context_of(egress.trust, secrets), clock=clock,
            )  # fmt: skip
        case DestinationKind.KAFKA:
            from services.export.connectors.kafka import KafkaConnector

            return KafkaConnector(
                address=address, secrets=secrets, format_=format_, timeout_s=timeout_s, guard=guard,
                dialler=dialler, context=context_of(egress.trust, secrets), clock=clock,
            )  # fmt: skip
        case DestinationKind.FILE:
            return FileConnector(
                address=address, secrets=secrets, format_=format_, egress=egress, timeout_s=timeout_s, guard=guard,
                dialler=dialler, clock=clock,
            )  # fmt: skip
        case _:
            assert_never(destination.kind)
