"""Breakers with a meter that speak JSON over MQTT, as the profile ``example_mqtt_meter`` has it.

Each is a client of its own with its serial number as its id. It reports every so often, at once when its breaker
moves, and when it is asked; it takes commands and replies. What it could not send while it was away from the broker it
keeps, up to a limit, and sends in few messages when it is back.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import aiomqtt
import orjson

from libs.common.clock import Clock
from libs.fieldsim.breaker import Breaker
from libs.fieldsim.faults import ClockOffset, Drop, FaultBoard, Silent
from libs.fieldsim.telling import shown

logger = logging.getLogger(__name__)

LOOK_S = 0.1
"""How often a breaker is looked at for a move. [s]"""
REDIAL_S = 1.0
MAX_WAITING = 10_000
"""Reports that are kept while the broker is away; then the oldest go."""
MAX_AT_ONCE = 100
"""Reports in one message."""
TAKEN, REFUSED = 0, 1
WORDS = {1.0: "closed", 0.0: "open"}
NAMES: Mapping[str, str] = {
    "voltage_a": "ua", "voltage_b": "ub", "voltage_c": "uc", "current_a": "ia", "current_b": "ib", "current_c": "ic",
    "frequency": "f", "energy_active_import": "ep",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerPlace:
    """Where the broker is and how it is spoken to."""

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class MqttMeter:
    """One device."""

    serial: str
    device: Breaker
    count: int = 0
    """Reports made so far."""
    waiting: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_WAITING))
    """Reports that the broker has not acknowledged, oldest first."""
    due_s: float = -math.inf
    """When the next report is made without any other cause. [s]"""
    was_closed: bool | None = None
    """What the last report said of the breaker."""
    asked: bool = False
    """Somebody wants a report now."""


class MqttMeters:
    """Devices at one broker."""

    def __init__(
        self,
        meters: list[MqttMeter],
        *,
        broker: BrokerPlace,
        clock: Clock,
        faults: FaultBoard,
        period_s: float = 60.0,
        redial_s: float = REDIAL_S,
    ) -> None:
        """Prepare.

        Args:
            meters: With serial numbers of their own.
            broker: Where they report to.
            clock: What they are asked at.
            faults: Looked at before every report and reply: silent, drop, clock; those of breakers act too.
            period_s: Between two reports. [s]
            redial_s: Between two attempts to connect. [s]
        """
        self.meters = meters
        self._broker = broker
        self._clock = clock
        self._faults = faults
        self._period_s = period_s
        self._redial_s = redial_s

    async def run(self) -> None:
        """Report and obey, for ever."""
        async with asyncio.TaskGroup() as group:
            for meter in self.meters:
                group.create_task(self._live(meter), name=f"mqtt meter {meter.serial}")

    async def _live(self, meter: MqttMeter) -> None:
        while True:
            try:
                async with aiomqtt.Client(
                    self._broker.host, self._broker.port, username=self._broker.user, password=self._broker.password,
                    identifier=meter.serial, clean_session=False, timeout=5,
                ) as client:  # fmt: skip
                    await client.subscribe(f"meters/{meter.serial}/down", qos=1)
                    await self._serve(meter, client)
            except aiomqtt.MqttError as exc:
                logger.debug("meter is away from its broker", extra={"serial": meter.serial, "reason": str(exc)})
            self._look(meter)
            await self._clock.sleep(self._redial_s)

    async def _serve(self, meter: MqttMeter, client: aiomqtt.Client) -> None:
        """Speak over one connection until a fault ends it.

        Raises:
            aiomqtt.MqttError: The connection is lost.
        """
        obeying = asyncio.create_task(self._obey(meter, client), name="orders")
        try:
            while not self._is(meter, Drop):
                self._look(meter)
                await self._send(meter, client)
                if obeying.done():
                    obeying.result()
                await self._clock.sleep(min(LOOK_S, self._period_s))
        finally:
            obeying.cancel()
            await asyncio.wait([obeying])

    def _look(self, meter: MqttMeter) -> None:
        """Make a report when it is time, when the breaker has moved, or when one was asked for."""
        now_s = self._now_s()
        meter.device.settle(now_s)
        is_due = now_s >= meter.due_s
        if is_due or meter.asked or meter.device.closed is not meter.was_closed:
            meter.was_closed, meter.asked = meter.device.closed, False
            meter.waiting.append(self._report(meter))
        if is_due:
            meter.due_s = now_s + self._period_s

    async def _send(self, meter: MqttMeter, client: aiomqtt.Client) -> None:
        """Send what waits: one report by itself, more as history."""
        while meter.waiting:
            part = list(islice(meter.waiting, MAX_AT_ONCE))
            if len(part) == 1:
                await self._say(meter, client, "up", part[0])
            else:
                await self._say(meter, client, "history", {"items": part})
            for _ in part:
                meter.waiting.popleft()

    async def _obey(self, meter: MqttMeter, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            try:
                order = orjson.loads(bytes(message.payload))
                id_, command = order["id"], order["cmd"]
            except (orjson.JSONDecodeError, KeyError, TypeError):
                continue  # a device that does not understand says nothing
            if command == "report":
                meter.asked = True
                continue
            known = command in ("open", "close")
            if known:
                meter.device.order(command == "close", self._now_s())
            await self._say(meter, client, "reply", {"id": id_, "code": TAKEN if known else REFUSED})

    async def _say(self, meter: MqttMeter, client: aiomqtt.Client, topic: str, content: Mapping[str, Any]) -> None:
        if not self._is(meter, Silent):
            await client.publish(f"meters/{meter.serial}/{topic}", orjson.dumps(content), qos=1)

    def _report(self, meter: MqttMeter) -> dict[str, Any]:
        now_s = self._now_s()
        wrong = self._faults.active(meter.device.device_id, ClockOffset, now_s)
        values = shown(meter.device, now_s)
        meter.count += 1
        return {
            "t": round((now_s + (0.0 if wrong is None else wrong.offset_s)) * 1000),
            "n": meter.count,
            "v": {
                **{short: values[name] for name, short in NAMES.items() if name in values},
                "p": round(values["active_power_total"] * 1000),
                "breaker": WORDS[values["breaker_state"]],
            },
        }

    def _is(self, meter: MqttMeter, fault: type[Silent] | type[Drop]) -> bool:
        return self._faults.active(meter.device.device_id, fault, self._now_s()) is not None

    def _now_s(self) -> float:
        return self._clock.now().timestamp()
