"""Smart sockets that switch and meter themselves, as the profile ``shelly_gen2_plug`` has them, over MQTT.

Each is a client of its own that listens at ``<prefix>/command/switch:0`` for ``on``, ``off`` and ``status_update``, and
tells what it is at ``<prefix>/status/switch:0``: when its output changes, when it is asked, and every so often.
"""

import asyncio
import logging
from dataclasses import dataclass, field

import aiomqtt
import orjson

from libs.common.clock import Clock
from libs.fieldsim.faults import FaultBoard, IgnoresCommands, Silent
from libs.fieldsim.mqtt import REDIAL_S, BrokerPlace

logger = logging.getLogger(__name__)

VOLTAGE_V = 230.0
FREQUENCY_HZ = 50.0


@dataclass(slots=True)
class SmartSocket:
    """One socket and what is plugged into it."""

    prefix: str
    """First part of its topics, and its name for faults."""
    power_kw: float = 0.1
    """What flows while it is on. [kW]"""
    on: bool = True
    energy_kwh: float = 0.0
    since_s: float | None = None
    """Until when the energy has been counted. [s]"""
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    """Something is to be told."""

    def count(self, now_s: float) -> None:
        """Bring the energy up to ``now_s``."""
        if self.on and self.since_s is not None:
            self.energy_kwh += self.power_kw * (now_s - self.since_s) / 3600.0
        self.since_s = now_s

    def order(self, *, on: bool, now_s: float) -> None:
        """Switch, as a command or a finger on its button does."""
        self.count(now_s)
        self.on = on
        self.moved.set()

    def status(self, now_s: float) -> bytes:
        """Return what it tells, in its own units: watts, watt-hours."""
        self.count(now_s)
        watts = self.power_kw * 1000.0 if self.on else 0.0
        return orjson.dumps(
            {
                "id": 0, "source": "MQTT", "output": self.on, "apower": round(watts, 1), "voltage": VOLTAGE_V,
                "freq": FREQUENCY_HZ, "current": round(watts / VOLTAGE_V, 3),
                "aenergy": {"total": round(self.energy_kwh * 1000.0, 3)},
            }
        )  # fmt: skip


class SmartSockets:
    """Sockets at one broker."""

    def __init__(
        self,
        sockets: list[SmartSocket],
        *,
        broker: BrokerPlace,
        clock: Clock,
        faults: FaultBoard,
        period_s: float = 60.0,
        redial_s: float = REDIAL_S,
    ) -> None:
        """Prepare.

        Args:
            sockets: With prefixes of their own.
            broker: Where they report to.
            clock: What they are asked at.
            faults: Looked at before every report and command: silent, ignore_command.
            period_s: Between two reports without any other cause. [s]
            redial_s: Between two attempts to connect. [s]
        """
        self.sockets = sockets
        self._broker = broker
        self._clock = clock
        self._faults = faults
        self._period_s = period_s
        self._redial_s = redial_s

    async def run(self) -> None:
        """Report and obey, for ever."""
        async with asyncio.TaskGroup() as group:
            for socket in self.sockets:
                group.create_task(self._live(socket), name=f"smart socket {socket.prefix}")

    async def _live(self, socket: SmartSocket) -> None:
        while True:
            try:
                async with aiomqtt.Client(
                    self._broker.host, self._broker.port, username=self._broker.user, password=self._broker.password,
                    identifier=socket.prefix, timeout=5,
                ) as client:  # fmt: skip
                    await client.subscribe(f"{socket.prefix}/command/switch:0", qos=1)
                    await self._serve(socket, client)
            except aiomqtt.MqttError as exc:
                logger.debug("socket is away from its broker", extra={"prefix": socket.prefix, "reason": str(exc)})
            await self._clock.sleep(self._redial_s)

    async def _serve(self, socket: SmartSocket, client: aiomqtt.Client) -> None:
        """Speak over one connection until it is lost.

        Raises:
            aiomqtt.MqttError: The connection is lost.
        """
        obeying = asyncio.create_task(self._obey(socket, client), name="orders")
        try:
            while not obeying.done():
                socket.moved.clear()
                if self._faults.active(socket.prefix, Silent, self._now_s()) is None:
                    await client.publish(f"{socket.prefix}/status/switch:0", socket.status(self._now_s()), qos=1)
                await self._pause(socket)
            obeying.result()
        finally:
            obeying.cancel()
            await asyncio.wait([obeying])

    async def _pause(self, socket: SmartSocket) -> None:
        """Wait until there is something to tell, for a period at most."""
        try:
            async with asyncio.timeout(self._period_s):
                await socket.moved.wait()
        except TimeoutError:
            return

    async def _obey(self, socket: SmartSocket, client: aiomqtt.Client) -> None:
        """Take commands; ends with the connection, which the next report finds gone too."""
        async for message in client.messages:
            word = bytes(message.payload)
            if word == b"status_update":
                socket.moved.set()
            elif word in (b"on", b"off") and self._faults.active(socket.prefix, IgnoresCommands, self._now_s()) is None:
                socket.order(on=word == b"on", now_s=self._now_s())

    def _now_s(self) -> float:
        return self._clock.now().timestamp()
