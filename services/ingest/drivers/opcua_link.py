"""One session with an OPC UA server, on asyncua: made once and thrown away when anything about it is lost.

What asyncua 2.1 does and this module works around:

* Its own reconnecting keeps the old client; here every connection is a new one (southbound.md 9).
* ``create_subscription`` changes the keep-alive that was asked for; here the subscription is made directly.
* It reads the fields of a ``DataValue`` in the order of its own class, not of Part 6, 5.2.2.17: with picoseconds in it,
  which some servers always send, the server's time is nonsense. So only the source's time is asked for.
* A password is sent in plain text where the server's token policy says so, with a line in the log; here it is refused.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import unquote

from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.subscription import Subscription
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256, SecurityPolicyNone
from asyncua.crypto.uacrypto import CertProperties
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from libs.common.clock import Clock
from libs.common.errors import InvalidInput
from services.ingest.domain.opcua_values import is_bad
from services.ingest.drivers.opcua_trust import TrustStore, Untrusted
from services.ingest.drivers.port import BadAnswer, DeviceRefused, DeviceSilent, LineDown, NotLetIn

logger = logging.getLogger(__name__)
# The library logs every refusal and loss as an error, and whole requests below that; they are judged and told here.
logging.getLogger("asyncua").setLevel(logging.CRITICAL)

Security = Literal["none", "sign", "sign_and_encrypt"]
MODES: Mapping[Security, ua.MessageSecurityMode] = {
    "sign": ua.MessageSecurityMode.Sign,
    "sign_and_encrypt": ua.MessageSecurityMode.SignAndEncrypt,
}
SESSION_S = 60
"""A server forgets a session that is silent for longer. [s]"""
PROBE_S = 5.0
"""How often the server is asked whether it is there, and how long it may take to say so. [s]"""
KEEPALIVE_S = 5.0
"""A subscription with nothing to tell says so this often. [s]"""
DEAD_AFTER_KEEPALIVES = 3
LOOK_S = 1.0
CLOSE_TIMEOUT_S = 3.0
MAX_ITEMS = 500
"""Variables in one request; a server that takes fewer says so, and gets fewer."""
MAX_WAITING = 200_000
"""Values that may wait here to be accepted."""
QUEUE = 10
"""Values of one variable that the server keeps between two publishings, so that none is skipped."""
FIRST_YEAR, LAST_YEAR = 1601, 9999
SESSION_GONE = frozenset({
    StatusCodes.BadSessionIdInvalid, StatusCodes.BadSessionClosed, StatusCodes.BadSecureChannelIdInvalid,
    StatusCodes.BadSecureChannelClosed, StatusCodes.BadConnectionClosed, StatusCodes.BadShutdown,
    StatusCodes.BadServerHalted, StatusCodes.BadSubscriptionIdInvalid, StatusCodes.BadNoSubscription,
})  # fmt: skip
NOT_NOW = frozenset({
    StatusCodes.BadServerNotConnected, StatusCodes.BadTooManySessions, StatusCodes.BadServerHalted,
    StatusCodes.BadShutdown, StatusCodes.BadResourceUnavailable, StatusCodes.BadTooManyOperations,
    StatusCodes.BadTimeout, StatusCodes.BadConnectionClosed, StatusCodes.BadTcpServerTooBusy,
    StatusCodes.BadTcpNotEnoughResources,
})  # fmt: skip
"""Refusals of a connection that pass by themselves; all others wait for a person."""
NOT_AUTHORISED = frozenset({
    StatusCodes.BadUserAccessDenied, StatusCodes.BadIdentityTokenInvalid, StatusCodes.BadIdentityTokenRejected,
})  # fmt: skip
"""Of these: name or password are not known there."""
PERHAPS_DONE = frozenset({
    StatusCodes.BadTimeout, StatusCodes.BadRequestTimeout, StatusCodes.BadCommunicationError,
    StatusCodes.BadNoCommunication,
})  # fmt: skip
"""Answers to a write that leave open whether the device behind the server got it."""


@dataclass(frozen=True, slots=True)
class Server:
    """How a server is reached."""

    url: str
    security: Security = "sign_and_encrypt"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    plain_password: bool = False
    """The password may travel so that others on the way can read it."""
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Value:
    """A value as the server gives it."""

    status: int
    content: object = None
    source_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A variable that is subscribed to."""

    handle: int
    """By which its changes are told."""
    node: ua.NodeId
    deadband: float | None = None


class OpcUaLink:
    """One session."""

    def __init__(self, server: Server, trust: TrustStore, clock: Clock) -> None:
        self._server = server
        self._trust = trust
        self._clock = clock
        self._client: Client | None = None
        self._namespaces: Mapping[str, int] = {}
        self._subscriptions: list[_Changes] = []
        self._waiting: deque[tuple[int, Value]] = deque()
        self._came = asyncio.Event()
        self._lost: str | None = None
        self._at_once = MAX_ITEMS

    @property
    def is_up(self) -> bool:
        """Whether requests can be sent."""
        return self._client is not None and self._lost is None

    async def open(self) -> None:
        """Connect, make a session, read the namespaces.

        Raises:
            LineDown: The server cannot be reached, or is not ready.
            DeviceRefused: It does not want us, or is not whom we trust, or offers less security than is wanted.
        """
        try:
            client = await self._prepared()
            self._client = client
            async with asyncio.timeout(4 * self._server.timeout_s):
                await client.connect()
                uris = await client.get_namespace_array()
        except Untrusted as exc:
            raise DeviceRefused(exc.message, message_zh=exc.message_zh) from exc
        except TimeoutError:
            raise LineDown(f"{self._server.url}: no answer in time") from None
        except UaStatusCodeError as exc:
            raise self._refusal(exc) from exc
        except OSError as exc:
            raise LineDown(f"{self._server.url} cannot be connected: {exc}{self._hint()}") from exc
        except AssertionError as exc:  # how the library says that the secure channel was refused
            hint = self._hint()
            raise DeviceRefused(f"{self._server.url}: the server refuses the secure channel{hint}") from exc
        except (UaError, ValueError, AttributeError, TypeError) as exc:  # what the library makes of nonsense
            raise LineDown(f"{self._server.url}: what it answers is no OPC UA: {exc}") from exc
        self._namespaces = {uri: index for index, uri in reversed(list(enumerate(uris or ())))}

    async def close(self) -> None:
        """End the session, if the server still listens, and disconnect."""
        client, self._client = self._client, None
        self.lose("closed")
        if client is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await client.disconnect()
        except (TimeoutError, OSError, UaError):
            pass
        finally:
            client.disconnect_socket()

    def resolve(self, text: str) -> ua.NodeId | None:
        """Return the node id that an expanded one means at this server; None when it does not know the namespace."""
        uri, semicolon, rest = text.removeprefix("nsu=").partition(";")
        if not text.startswith("nsu=") or not semicolon:
            return ua.NodeId.from_string(text)
        index = self._namespaces.get(unquote(uri))
        return None if index is None else ua.NodeId.from_string(f"ns={index};{rest}")

    async def read(self, nodes: Sequence[ua.NodeId]) -> list[Value]:
        """Read the values of variables, as fresh as the server can have them.

        Raises:
            LineDown: The session is lost.
            DeviceSilent: No answer in time.
            DeviceRefused: The server does not do that.
        """
        found: list[Value] = []
        while len(found) < len(nodes):
            part = nodes[len(found) : len(found) + self._at_once]
            parameters = ua.ReadParameters(
                MaxAge=0,
                TimestampsToReturn=ua.TimestampsToReturn.Source,
                NodesToRead=[ua.ReadValueId(NodeId=node, AttributeId=AttributeIds.Value) for node in part],
            )
            try:
                async with self._asking("read") as client:
                    values = await client.uaclient.session.read(parameters)
            except _TooMany:
                continue
            if len(values) != len(part):
                raise BadAnswer(f"asked for {len(part)} values, got {len(values)}")
            found += [_value(value) for value in values]
        return found

    async def write(self, node: ua.NodeId, value: float, type_name: str) -> str:
        """Write a variable and return the server's answer.

        Raises:
            InvalidInput: The value does not fit into the type.
            LineDown: Nothing was sent.
            DeviceSilent: It was sent; whether it was done is not known.
            DeviceRefused: The server said no.
        """
        variant = ua.Variant(_typed(value, type_name), ua.VariantType[type_name])
        # Without times and status: most servers refuse a write that sets them.
        written = ua.WriteValue(
            NodeId=node, AttributeId=AttributeIds.Value, Value=ua.DataValue(variant, StatusCode=None)
        )
        if not self.is_up:
            raise LineDown(f"{self._server.url}: not connected")
        try:
            async with self._asking("write") as client:
                (status,) = await client.uaclient.session.write(ua.WriteParameters(NodesToWrite=[written]))
        except LineDown as exc:
            raise DeviceSilent(f"write: sent, and no answer: {exc.message}") from exc
        if status.value & ~0xFFFF in PERHAPS_DONE:
            raise DeviceSilent(f"write: {status.name}")
        if not status.is_good():
            raise DeviceRefused(f"write: {status.name}", status=status.value)
        return f"write: {status.name}"

    async def subscribe(self, publishing_ms: int, items: Sequence[Item]) -> list[int]:
        """Let changes of variables be told, and return the handles of those that the server does not tell.

        Raises:
            LineDown, DeviceSilent: The session is lost.
            DeviceRefused: The server has no subscriptions for us.
        """
        interval_s = publishing_ms / 1000
        keepalives = max(math.ceil(KEEPALIVE_S / interval_s), 1)
        parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=float(publishing_ms),
            RequestedLifetimeCount=max(12 * keepalives, 30),
            RequestedMaxKeepAliveCount=keepalives,
            MaxNotificationsPerPublish=0,
            PublishingEnabled=True,
            Priority=0,
        )
        async with self._asking("subscribe") as client:
            subscription = _Changes(client.uaclient.session, parameters, self)
            revised = await subscription.init()
        subscription.silent_after_s = DEAD_AFTER_KEEPALIVES * max(
            revised.RevisedMaxKeepAliveCount * revised.RevisedPublishingInterval / 1000, KEEPALIVE_S
        )
        subscription.heard_at = self._clock.monotonic()
        self._subscriptions.append(subscription)
        untold: list[int] = []
        done = 0
        while done < len(items):
            part = items[done : done + self._at_once]
            parameters_of_items = ua.CreateMonitoredItemsParameters(
                SubscriptionId=revised.SubscriptionId,
                TimestampsToReturn=ua.TimestampsToReturn.Source,
                ItemsToCreate=[_monitored(item, publishing_ms) for item in part],
            )
            try:
                async with self._asking("subscribe") as client:
                    results = await client.uaclient.session.create_monitored_items(parameters_of_items)
            except _TooMany:
                continue
            untold += [
                item.handle for item, result in zip(part, results, strict=True) if is_bad(result.StatusCode.value)
            ]
            done += len(part)
        return untold

    async def changes(self) -> list[tuple[int, Value]]:
        """Wait for changes and return those that are there, in their order, with the handles of their items.

        Raises:
            LineDown: Session or subscription is lost.
        """
        while not self._waiting:
            if self._lost is not None:
                raise LineDown(f"{self._server.url}: {self._lost}")
            now = self._clock.monotonic()
            for subscription in self._subscriptions:
                if now - subscription.heard_at > subscription.silent_after_s:
                    self.lose(f"the subscription has been silent for {subscription.silent_after_s:g} s")
            self._came.clear()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._came.wait()
            except TimeoutError:
                continue
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def lose(self, reason: str) -> None:
        """Note that session or subscription is lost."""
        if self._lost is None:
            self._lost = reason
        self._came.set()

    def take(self, changes: Sequence[tuple[int, Value]]) -> None:
        """Keep changes that the server has told."""
        if len(self._waiting) + len(changes) > MAX_WAITING:
            self.lose("the server tells faster than values can be accepted")
            return
        self._waiting.extend(changes)
        self._came.set()

    # making it

    async def _prepared(self) -> Client:
        """Return a client that knows how it is to connect."""
        server = self._server
        client = self._make_client()
        if server.user is not None:
            client.set_user(server.user)
            client.set_password(server.password or "")
        if server.security == "none":
            if server.user is not None and not server.plain_password:
                raise DeviceRefused(
                    f"{server.url}: without security the password could be read by others; set security, or "
                    "plain_password: true",
                    message_zh=f"{server.url}:无安全策略时密码会以明文传输;请设置 security,或 plain_password: true",
                )
            return client
        own = await asyncio.to_thread(self._trust.own)
        endpoint = await self._endpoint()
        certificate = _first_certificate(endpoint.ServerCertificate or b"")
        await asyncio.to_thread(self._trust.check, certificate, self._clock.now())
        if server.user is not None and not server.plain_password:
            self._check_token(endpoint)
        client.application_uri = own.application_uri
        await client.set_security(
            SecurityPolicyBasic256Sha256,
            CertProperties(own.certificate, "der"),
            CertProperties(own.key, "pem"),
            server_certificate=CertProperties(certificate, "der"),
            mode=MODES[server.security],
        )
        return client

    def _make_client(self) -> Client:
        client = Client(self._server.url, timeout=self._server.timeout_s, watchdog_intervall=PROBE_S)
        client.name = client.description = "Wattring ingest"
        client.product_uri = "urn:wattring:ingest"
        client.session_timeout = SESSION_S * 1000
        client.connection_lost_callback = self._connection_lost
        return client

    async def _endpoint(self) -> ua.EndpointDescription:
        """Return the server's endpoint of the wanted security; asked without any, so nothing of it is believed yet."""
        asking = self._make_client()
        try:
            async with asyncio.timeout(2 * self._server.timeout_s):
                endpoints = await asking.connect_and_get_server_endpoints()
        finally:
            asking.disconnect_socket()
        mode, offered = MODES[self._server.security], set[str]()
        for endpoint in endpoints or ():
            if endpoint.SecurityMode == mode and endpoint.SecurityPolicyUri == SecurityPolicyBasic256Sha256.URI:
                return endpoint
            offered.add(f"{str(endpoint.SecurityPolicyUri).rpartition('#')[2]}/{endpoint.SecurityMode.name}")
        raise DeviceRefused(
            f"{self._server.url}: the server does not offer Basic256Sha256/{mode.name}, only "
            f"{', '.join(sorted(offered)) or 'nothing'}",
            message_zh=f"{self._server.url}:服务器不提供 Basic256Sha256/{mode.name}",
        )

    def _check_token(self, endpoint: ua.EndpointDescription) -> None:
        """Refuse to send a password that the server wants unencrypted over a channel that is only signed."""
        for token in endpoint.UserIdentityTokens or ():
            plain = token.SecurityPolicyUri == SecurityPolicyNone.URI
            if token.TokenType == ua.UserTokenType.UserName and plain and self._server.security == "sign":
                raise DeviceRefused(
                    f"{self._server.url}: the server wants the password in plain text; set security: sign_and_encrypt",
                    message_zh=f"{self._server.url}:服务器要求明文密码;请设置 security: sign_and_encrypt",
                )

    def _refusal(self, exc: UaStatusCodeError) -> LineDown | DeviceRefused:
        name = ua.StatusCode(exc.code).name
        if exc.code in NOT_NOW:
            return LineDown(f"{self._server.url}: {name}")
        if exc.code in NOT_AUTHORISED:
            return NotLetIn(f"{self._server.url}: the server does not let us in: {name}{self._hint()}")
        return DeviceRefused(f"{self._server.url}: the server refuses the connection: {name}{self._hint()}")

    def _hint(self) -> str:
        """Return what a person may have to do at the server."""
        return "" if self._server.security == "none" else f"; does the server trust {self._trust.own_place}?"

    async def _connection_lost(self, exc: Exception) -> None:
        self.lose(f"connection lost: {exc or type(exc).__name__}")

    @asynccontextmanager
    async def _asking(self, what: str) -> AsyncIterator[Client]:
        """Give the client for one request, and turn the library's errors into ours."""
        client = self._client
        if client is None or self._lost is not None:
            raise LineDown(f"{self._server.url}: {self._lost or 'not connected'}")
        try:
            yield client
        except TimeoutError:
            raise DeviceSilent(f"{what}: no answer within {self._server.timeout_s:g} s") from None
        except UaStatusCodeError as exc:
            if exc.code in SESSION_GONE:
                self.lose(ua.StatusCode(exc.code).name)
                raise LineDown(f"{self._server.url}: {what}: {ua.StatusCode(exc.code).name}") from exc
            if exc.code == StatusCodes.BadTooManyOperations and self._at_once > 1:
                self._at_once //= 2
                raise _TooMany from exc
            raise DeviceRefused(f"{what}: {ua.StatusCode(exc.code).name}", status=exc.code) from exc
        except OSError as exc:
            self.lose(f"connection lost: {exc}")
            raise LineDown(f"{self._server.url}: {what}: {exc}") from exc
        except UaError as exc:
            raise BadAnswer(f"{what}: {exc}") from exc


class _TooMany(Exception):
    """The server takes fewer operations in one request; fewer are asked for from now on."""


class _Changes(Subscription):
    """A subscription that hands every message over as it is."""

    def __init__(self, session: Any, parameters: ua.CreateSubscriptionParameters, link: OpcUaLink) -> None:
        super().__init__(session, parameters)
        self.heard_at = math.inf
        """Monotonic time of its last message, a keep-alive among them. [s]"""
        self.silent_after_s = math.inf
        self._link = link

    async def publish_callback(self, publish_result: ua.PublishResult) -> None:
        """Take a message."""
        self.heard_at = self._link._clock.monotonic()  # noqa: SLF001  # one module
        changes: list[tuple[int, Value]] = []
        for notification in publish_result.NotificationMessage.NotificationData or ():
            if isinstance(notification, ua.DataChangeNotification):
                changes += [(item.ClientHandle, _value(item.Value)) for item in notification.MonitoredItems]
            elif isinstance(notification, ua.StatusChangeNotification) and not notification.Status.is_good():
                self._link.lose(f"the server ends the subscription: {notification.Status.name}")
        if changes:
            self._link.take(changes)


def _monitored(item: Item, publishing_ms: int) -> ua.MonitoredItemCreateRequest:
    parameters = ua.MonitoringParameters(
        ClientHandle=item.handle, SamplingInterval=float(publishing_ms), QueueSize=QUEUE, DiscardOldest=True
    )
    if item.deadband is not None:
        parameters.Filter = ua.DataChangeFilter(
            Trigger=ua.DataChangeTrigger.StatusValue,
            DeadbandType=ua.DeadbandType.Absolute,
            DeadbandValue=item.deadband,
        )
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=item.node, AttributeId=AttributeIds.Value),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=parameters,
    )


def _value(found: ua.DataValue) -> Value:
    content = None if found.Value is None else found.Value.Value
    if isinstance(content, ua.LocalizedText):
        content = content.Text
    status = 0 if found.StatusCode is None else found.StatusCode.value
    return Value(status, content, _known(found.SourceTimestamp))


def _known(at: datetime | None) -> datetime | None:
    """Return a time, None for what stands for none: the first and the last that can be written (Part 6, 5.2.2.5)."""
    if at is None or not FIRST_YEAR < at.year < LAST_YEAR:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _typed(value: float, type_name: str) -> bool | int | float:
    """Return a value as its type wants it.

    Raises:
        InvalidInput: It does not fit.
    """
    if type_name == "Boolean":
        return value != 0
    if type_name in ("Float", "Double"):
        return float(value)
    low, high = _RANGES[type_name]
    number = round(value)
    if not low <= number <= high:
        raise InvalidInput(
            f"{number} does not fit into {type_name}", message_zh=f"{number} 超出 {type_name} 的取值范围"
        )
    return number


_RANGES: Mapping[str, tuple[int, int]] = {
    "SByte": (-(2**7), 2**7 - 1), "Byte": (0, 2**8 - 1), "Int16": (-(2**15), 2**15 - 1), "UInt16": (0, 2**16 - 1),
    "Int32": (-(2**31), 2**31 - 1), "UInt32": (0, 2**32 - 1), "Int64": (-(2**63), 2**63 - 1), "UInt64": (0, 2**64 - 1),
}  # fmt: skip


def _first_certificate(chain: bytes) -> bytes:
    """Return the DER of the first certificate of a chain, by the length that it begins with."""
    if len(chain) < 4 or chain[0] != 0x30 or chain[1] != 0x82:
        return chain
    return chain[: int.from_bytes(chain[2:4], "big") + 4]
