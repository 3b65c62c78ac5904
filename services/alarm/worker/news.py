"""News of devices on the bus that make diagnoses start, go on and end."""

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import Protocol

from libs.common.bus import envelope, topics
from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.contracts.alarm import Condition, ConditionKind
from libs.common.contracts.base import Phase
from libs.common.contracts.control import CommandState, ControlEvent
from libs.common.contracts.device import Connectivity, DeviceEvent, DeviceStatus
from libs.common.db import WriteConn
from services.alarm import bus
from services.alarm.domain.diagnosis.facts import Known
from services.alarm.domain.diagnosis.observed import Mark
from services.alarm.store import diagnoses as store
from services.alarm.store import watched as watched_store

DIAGNOSIS_GROUP = "alarm.diagnosis"
DIAGNOSIS_TOPICS = (topics.DEVICE_STATUS, topics.DEVICE_EVENTS, topics.CONTROL_EVENTS, topics.CONDITIONS)
FAULT_SEVERITY = 2
"""A device's own event of this severity and worse is a fault of the device."""
TELLING = {
    ConditionKind.DEVICE_CLOCK_SKEW.value: Known.CLOCK_SKEW_S,
    ConditionKind.DATA_GAP.value: Known.DATA_GAP,
    ConditionKind.AUTH_FAILED.value: Known.AUTH_REFUSED,
    ConditionKind.IMPOSSIBLE_JUMP.value: Known.IMPOSSIBLE_READINGS,
    ConditionKind.REGISTER_DECREASED.value: Known.IMPOSSIBLE_READINGS,
}
"""Findings about a device that are worth a look though it is heard."""
CONTRADICTED = frozenset({"reads_closed", "read_closed", "still_draws_power"})
"""Reasons of a failed command that say: it was carried out, and the device reads otherwise."""

Key = tuple[str, str, str]
"""Device, name and subject of a mark."""


class Wiring(Protocol):
    """The registry, as far as it says which device is meant."""

    def breaker_of(self, load_id: str) -> str | None:
        """Return the device that switches a load."""

    def meters_of(self, circuit_id: str) -> Collection[str]:
        """Return the devices that measure a circuit."""


class NewsHandler:
    """Keeps what the bus tells of devices and asks for looks; keeps nothing in memory."""

    def __init__(self, *, clock: Clock, settle: timedelta, pause: timedelta, wiring: Wiring) -> None:
        """Prepare.

        Args:
            clock: Our clock.
            settle: A device that fell silent is looked at so much later: its neighbours may follow.
            pause: Least time between two looks at an open diagnosis.
            wiring: Which device is meant by a load or a circuit.
        """
        self._clock = clock
        self._settle = settle
        self._pause = pause
        self._wiring = wiring

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Write what is told, and ask for looks.

        Raises:
            PoisonMessage: A message cannot be read.
        """
        statuses: dict[str, tuple[DeviceStatus, Received]] = {}
        marks: dict[Key, Mark] = {}
        lifted: set[Key] = set()
        concerned: set[str] = set()
        for received in batch:
            if received.value is None:
                continue
            if received.topic == topics.DEVICE_STATUS:
                status = bus.parse(DeviceStatus, received)
                statuses[status.device_id] = (status, received)
                continue
            for mark in self._marks(received):
                key = (mark.device_id, mark.name, mark.subject)
                concerned.add(mark.device_id)
                marks.pop(key, None)
                if mark.value is False:
                    lifted.add(key)
                else:
                    marks[key] = mark
        # What was lifted and told again in one batch is deleted first, then written.
        await watched_store.delete_marks(conn, lifted)
        await watched_store.put_marks(conn, list(marks.values()))
        await self._ask(conn, statuses, concerned)

    async def _ask(
        self, conn: WriteConn, statuses: dict[str, tuple[DeviceStatus, Received]], concerned: set[str]
    ) -> None:
        if statuses:
            told = [statuses[device_id] for device_id in sorted(statuses)]
            await watched_store.put_statuses(
                conn, [status for status, _ in told], [received.appended_at for _, received in told]
            )
        now = self._clock.now()
        silent = {one for one, (status, _) in statuses.items() if status.connectivity is Connectivity.OFFLINE}
        if wanted := silent | concerned:
            await store.want(conn, wanted, due_at=now + self._settle, pause=self._pause)
        if heard := set(statuses) - silent:
            await store.want_open(conn, heard, due_at=now)

    def _marks(self, received: Received) -> Iterable[Mark]:
        """Return what a message says of devices; the value False lifts what was said before."""
        if received.topic == topics.DEVICE_EVENTS:
            return _of_event(bus.parse(DeviceEvent, received))
        if received.topic == topics.CONDITIONS:
            return self._of_condition(bus.read_condition(received), received)
        return self._of_command(bus.parse(ControlEvent, received))

    def _of_condition(self, found: Condition, received: Received) -> Iterable[Mark]:
        name = TELLING.get(found.kind)
        if name is None:
            return
        value: bool | float | str = found.detail
        if name is Known.CLOCK_SKEW_S and found.phase is not Phase.END:
            skew_s = (found.values or {}).get("skew_s")
            if not isinstance(skew_s, int | float) or isinstance(skew_s, bool):
                return
            value = float(skew_s)
        # One finding is one, however often it comes; those that have no end are counted.
        counts = name is Known.IMPOSSIBLE_READINGS
        subject = envelope.event_id(received) or "" if counts else ""
        devices = [] if found.device_id is None else [str(found.device_id)]
        if not devices and found.circuit_id is not None:
            devices = sorted(self._wiring.meters_of(found.circuit_id))
        for device_id in devices:
            yield Mark(
                device_id,
                name.value,
                subject,
                False if found.phase is Phase.END else value,
                found.at or received.appended_at,
                topics.CONDITIONS,
                lasting=found.phase is Phase.BEGIN and not counts,
            )

    def _of_command(self, news: ControlEvent) -> Iterable[Mark]:
        device_id = news.device_id or (None if news.load_id is None else self._wiring.breaker_of(news.load_id))
        if device_id is None or not isinstance(news.state, CommandState):
            return
        found: list[tuple[Known, bool | str]] = []
        if news.state is CommandState.EXPIRED:
            found = [(Known.COMMAND_STATE, "expired")]
        elif news.state is CommandState.FAILED and news.reason in CONTRADICTED:
            found = [(Known.SWITCH_DIFFERS, True)]
        elif news.state is CommandState.SUCCEEDED:
            found = [(Known.COMMAND_STATE, False), (Known.SWITCH_DIFFERS, False)]
        for name, value in found:
            yield Mark(device_id, name.value, "", value, news.at, topics.CONTROL_EVENTS, lasting=False)

    def committed(self) -> None:
        """Nobody waits for it."""


def _of_event(event: DeviceEvent) -> Iterable[Mark]:
    if event.severity is None or event.severity > FAULT_SEVERITY:
        return
    value = False if event.phase is Phase.END else event.text or event.code
    lasting = event.phase is Phase.BEGIN
    yield Mark(
        event.device_id,
        Known.DEVICE_FAULT.value,
        event.code,
        value,
        event.source_time,
        topics.DEVICE_EVENTS,
        lasting=lasting,
    )
