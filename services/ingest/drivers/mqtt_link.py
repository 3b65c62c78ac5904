"""One connection to an MQTT broker, on paho's client and its hooks for an event loop of one's own.

Nothing is acknowledged here: a message that was delivered with QoS 1 is told to the broker as taken by ``ack``, when
whoever wants it has it safe. What is not acknowledged the broker delivers again after the next connection, because the
session is kept (fixed client id, clean start off).
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from services.ingest.drivers.port import DeviceRefused, DeviceSilent, LineDown, NotLetIn

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
"""For the TCP and TLS connection. [s]"""
ANSWER_TIMEOUT_S = 10.0
"""For the broker's answer to a connection, a subscription, a message. [s]"""
CLOSE_TIMEOUT_S = 2.0
MISC_EVERY_S = 1.0
"""How often the keepalive is looked after. [s]"""
RETAINED_IF_NEW = 1
"""MQTT 5, 3.8.3.1: retained messages come only with a subscription that the session did not have."""
MAX_WAITING_BYTES = 64 << 20
MAX_WAITING = 20_000
"""Messages that may wait here. Brokers stop long before, at what is not acknowledged."""
SESSION_TAKEN_OVER = 0x8E
NO_MATCHING_SUBSCRIBERS = 0x10
REFUSALS_FOR_GOOD = frozenset({0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x95, 0x9F})
"""Answers to a connection that another attempt does not change; all others (busy, unavailable …) pass."""

NOT_AUTHORISED = frozenset({0x86, 0x87, 0x8A, 0x8C})
"""Of these: bad user name or password, not authorised, banned, bad authentication method."""


@dataclass(frozen=True, slots=True)
class Broker:
    """How a broker is reached."""

    host: str
    port: int
    client_id: str
    tls: ssl.SSLContext | None = None
    user: str | None = None
    password: str | None = None
    version: Literal["5", "3.1.1"] = "5"
    clean: bool = False
    """Forget the session that this client id had, and keep none."""
    keepalive_s: int = 30
    session_s: int = 7 * 86400
    """How long the broker keeps session and messages while we are away; MQTT 5 only. [s]"""
    receive_max: int = 200
    """Messages that the broker may have sent and we not acknowledged; MQTT 5 only."""
    max_packet_bytes: int = 4 << 20
    """The broker drops larger messages for us; MQTT 5 only. [B]"""
    will: tuple[str, bytes] | None = None
    """Topic and retained payload that the broker publishes when we are gone."""

    def __repr__(self) -> str:
        """Name the broker, without what opens it."""
        return f"Broker({self.host}:{self.port}, {self.client_id})"


class _PatientForAWhile(ssl.SSLSocket):
    """A TLS socket whose handshake ends in time and, when it fails, closed: paho leaves both to chance."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands."""
        self.settimeout(CONNECT_TIMEOUT_S)
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class MqttLink:
    """One connection; made once and thrown away when it is lost."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._place = f"{broker.host}:{broker.port}"
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._answers: dict[tuple[str, int], asyncio.Future[list[int]]] = {}
        self._waiting: deque[MQTTMessage] = deque()
        self._waiting_bytes = 0
        self._came = asyncio.Event()
        self._misc: asyncio.TimerHandle | None = None
        self._closing = False
        self._client = self._make_client()

    @property
    def is_v5(self) -> bool:
        """Whether MQTT 5 is spoken."""
        return self._broker.version == "5"

    @property
    def is_up(self) -> bool:
        """Whether messages can be sent."""
        return self._connected.done() and not self._lost.done() and not self._closing

    async def open(self) -> None:
        """Connect.

        Raises:
            LineDown: The broker cannot be reached, or is not ready.
            DeviceRefused: It does not want us, or is not whom we trust.
        """
        connecting = self._loop.run_in_executor(None, self._connect)
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # The thread cannot be stopped, and a connection that nobody holds would keep our client id busy.
            await asyncio.wait([connecting])
            raise
        except ssl.SSLCertVerificationError as exc:
            raise DeviceRefused(f"{self._place}: its certificate is not trusted: {exc.verify_message}") from exc
        except (OSError, ValueError) as exc:
            raise LineDown(f"{self._place} cannot be connected: {exc}") from exc
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await asyncio.wait([self._connected, self._lost], return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise LineDown(f"{self._place}: no answer to the connection within {ANSWER_TIMEOUT_S:g} s") from None
        if self._connected.done():
            self._connected.result()
        else:
            self._lost.result()

    async def close(self) -> None:
        """Say goodbye and disconnect; the broker keeps the session."""
        self._closing = True
        if self._connected.done() and not self._lost.done():
            self._client.disconnect()
            # What waits to be sent goes out by the socket's callbacks; a peer that takes nothing is left.
            await asyncio.wait([self._lost], timeout=CLOSE_TIMEOUT_S)
        if self._misc is not None:
            self._misc.cancel()
        sock = self._client.socket()
        if sock is not None:
            self._forget(sock.fileno())
            sock.close()
        self._lose("closed")
        if not self._connected.done():
            self._connected.cancel()

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribe to filters, each with its QoS.

        Raises:
            LineDown: The connection was lost meanwhile.
            DeviceRefused: The broker does not let us have one of them.
        """
        wanted = [
            (filter_, SubscribeOptions(qos=qos, retainHandling=RETAINED_IF_NEW) if self.is_v5 else qos)
            for filter_, qos in filters
        ]
        code, mid = self._client.subscribe(wanted)  # type: ignore[arg-type]  # its hints know no mixture
        granted = await self._answer("subscribe", code, mid)
        refused = [filter_ for (filter_, _), given in zip(filters, granted, strict=False) if given >= 0x80]
        if refused:
            raise DeviceRefused(f"{self._place}: the broker refuses the subscription to {', '.join(refused[:5])}")

    async def publish(
        self, topic: str, payload: bytes, *, qos: int, expiry_s: int | None = None, retain: bool = False
    ) -> None:
        """Publish, and with QoS 1 wait for the broker's acknowledgement.

        Raises:
            LineDown: Nothing was sent.
            DeviceSilent: It was sent; whether the broker took it is not known.
            DeviceRefused: The broker did not take it, or nobody is subscribed to it.
        """
        if not self.is_up:
            raise LineDown(f"{self._place}: not connected")
        properties = None
        if self.is_v5 and expiry_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expiry_s
        info = self._client.publish(topic, payload, qos, retain, properties)
        if qos == 0:
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise LineDown(f"{self._place}: {info.rc.name}")
            return
        try:
            (code,) = await self._answer("publish", info.rc, info.mid)
        except LineDown as exc:
            raise DeviceSilent(f"{topic}: sent, and no acknowledgement: {exc.message}") from exc
        if code == NO_MATCHING_SUBSCRIBERS:
            raise DeviceRefused(f"{topic}: nobody is subscribed to it")
        if code >= 0x80:
            raise DeviceRefused(f"{topic}: the broker refuses the message ({code:#x})")

    async def take(self) -> list[MQTTMessage]:
        """Wait for messages and return those that are there, oldest first.

        Raises:
            LineDown: The connection is lost, and everything that came before was taken.
        """
        while not self._waiting:
            if self._lost.done():
                self._lost.result()
            self._came.clear()
            await self._came.wait()
        taken = list(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        return taken

    async def lost(self) -> None:
        """Wait until the connection is lost, and raise why."""
        await asyncio.shield(self._lost)

    def ack(self, message: MQTTMessage) -> None:
        """Tell the broker that a message is safe; in the order in which they came (MQTT 5, 4.6)."""
        if self.is_up:
            self._client.ack(message.mid, message.qos)

    # paho's side

    def _make_client(self) -> Client:
        broker = self._broker
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=broker.client_id,
            clean_session=None if self.is_v5 else broker.clean,
            protocol=MQTTProtocolVersion.MQTTv5 if self.is_v5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.password)
        if broker.tls is not None:
            broker.tls.sslsocket_class = _PatientForAWhile
            client.tls_set_context(broker.tls)
        if broker.will is not None:
            topic, payload = broker.will
            client.will_set(topic, payload, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_register_write
        client.on_socket_unregister_write = self._on_unregister_write
        return client

    def _connect(self) -> None:
        """Make the connection; in a thread, since looking up a name, TCP and TLS block."""
        broker = self._broker
        if not self.is_v5:
            self._client.connect(broker.host, broker.port, broker.keepalive_s)
            return
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 0 if broker.clean else broker.session_s
        properties.ReceiveMaximum = broker.receive_max
        properties.MaximumPacketSize = broker.max_packet_bytes
        self._client.connect(
            broker.host, broker.port, broker.keepalive_s, clean_start=broker.clean, properties=properties
        )

    def _on_connect(
        self, client: Client, data: object, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if self._connected.done():
            return
        if not reason.is_failure:
            self._connected.set_result(None)
            return
        said = f"{self._place}: the broker refuses the connection: {reason.getName()}"
        if reason.value in NOT_AUTHORISED:
            self._connected.set_exception(NotLetIn(said))
        else:
            refused = reason.value in REFUSALS_FOR_GOOD
            self._connected.set_exception(DeviceRefused(said) if refused else LineDown(said))
        self._connected.exception()  # whoever opens may have gone

    def _on_disconnect(
        self, client: Client, data: object, flags: DisconnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        client_id = self._broker.client_id
        if reason.value == SESSION_TAKEN_OVER:
            self._lose(f"another client with the id {client_id} has taken the session over")
        elif flags.is_disconnect_packet_from_server:
            self._lose(f"the broker has disconnected us: {reason.getName()}")
        else:
            # Under 3.1.1, and by some brokers under 5, a client whose id is used twice is thrown out without a word.
            self._lose(f"connection lost; the broker has gone, or another client uses the id {client_id}")

    def _on_message(self, client: Client, data: object, message: MQTTMessage) -> None:
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES:
            if message.qos:
                # Not acknowledged, so it comes again with the next connection, when what is here has been taken.
                self._lose("the broker sends faster than messages can be accepted")
            return
        self._waiting.append(message)
        self._waiting_bytes += len(message.payload)
        self._came.set()

    def _on_subscribe(
        self, client: Client, data: object, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        self._answered("subscribe", mid, [reason.value for reason in reasons])

    def _on_publish(
        self, client: Client, data: object, mid: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._answered("publish", mid, [reason.value])

    async def _answer(self, what: str, code: MQTTErrorCode, mid: int | None) -> list[int]:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise LineDown(f"{self._place}: {what}: {code.name}")
        answer: asyncio.Future[list[int]] = self._loop.create_future()
        self._answers[what, mid] = answer
        either: tuple[asyncio.Future[Any], ...] = (answer, self._lost)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise LineDown(f"{self._place}: {what}: no answer within {ANSWER_TIMEOUT_S:g} s") from None
        finally:
            self._answers.pop((what, mid), None)
        if not answer.done():
            self._lost.result()
        return answer.result()

    def _answered(self, what: str, mid: int, codes: list[int]) -> None:
        answer = self._answers.get((what, mid))
        if answer is not None and not answer.done():
            answer.set_result(codes)

    def _lose(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_exception(LineDown(f"{self._place}: {reason}"))
            self._lost.exception()  # nobody may be waiting
            self._came.set()

    # the socket; paho opens it in the connecting thread

    def _on_socket_open(self, client: Client, data: object, sock: object) -> None:
        self._loop.call_soon_threadsafe(self._watch, sock.fileno())  # type: ignore[attr-defined]

    def _watch(self, fd: int) -> None:
        if self._closing:
            return
        self._loop.add_reader(fd, self._read)
        self._keep_alive()

    def _on_socket_close(self, client: Client, data: object, sock: object) -> None:
        fd = sock.fileno()  # type: ignore[attr-defined]
        if fd >= 0:
            self._forget(fd)

    def _forget(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)

    def _on_register_write(self, client: Client, data: object, sock: object) -> None:
        self._loop.call_soon_threadsafe(self._want_write, sock.fileno())  # type: ignore[attr-defined]

    def _want_write(self, fd: int) -> None:
        sock = self._client.socket()
        if sock is not None and sock.fileno() == fd:
            self._loop.add_writer(fd, self._write)

    def _on_unregister_write(self, client: Client, data: object, sock: object) -> None:
        fd = sock.fileno()  # type: ignore[attr-defined]
        if fd >= 0:
            self._loop.remove_writer(fd)

    def _read(self) -> None:
        try:
            while True:
                self._client.loop_read()
                sock = self._client.socket()
                # TLS may have read more than one packet off the socket, which then says nothing of it.
                if not isinstance(sock, ssl.SSLSocket) or not sock.pending():
                    return
        except Exception as exc:  # a packet that is none: nothing that a broker sends may end this process
            logger.warning("broker sent what is no MQTT", extra={"broker": self._place, "reason": repr(exc)})
            self._lose(f"what came is no MQTT: {exc}")

    def _write(self) -> None:
        try:
            self._client.loop_write()
        except OSError as exc:
            self._lose(f"connection lost: {exc}")

    def _keep_alive(self) -> None:
        if self._client.loop_misc() == MQTTErrorCode.MQTT_ERR_SUCCESS and not self._lost.done():
            self._misc = self._loop.call_later(MISC_EVERY_S, self._keep_alive)
