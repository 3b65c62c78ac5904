"""What devices tell by themselves becomes findings, by the table of events."""

import logging
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Protocol

from libs.common import metrics
from libs.common.bus.port import Received
from libs.common.contracts.base import Phase
from libs.common.contracts.device import DeviceEvent
from services.alarm import bus
from services.alarm.conditions import DEFAULT_LEVEL, Finding
from services.alarm.domain.model import Signal, to_us
from services.alarm.domain.occurrences import EventTable, Match, Meaning
from services.alarm.domain.rulebook import Target, dictionary_class
from services.alarm.worker.findings import Heard, Ties

logger = logging.getLogger(__name__)

DEVICE_EVENT = "wattring.device_event"
"""Signal of an event that the device rates as an alarm and no row of the table speaks of."""
LATE_AFTER = timedelta(days=1)
"""An event that took longer than this to come is history: its alarm is kept and nobody is told."""
AHEAD = timedelta(minutes=5)
"""A device whose clock is further ahead than this has a wrong one: its event is of when it came."""

EVENTS = metrics.counter("alarm_device_events_total", "Events that devices sent, by what became of them", ("outcome",))


class Directory(Protocol):
    """What is asked about devices."""

    def target(self, device_id: str) -> Target | None:
        """Return what the rules need to know of a device, None when there is no such device."""


class DeviceEvents:
    """Reads events of devices; keeps the table of them and nothing else."""

    def __init__(self, directory: Directory, class_map: Mapping[str, str]) -> None:
        """Start with an empty table.

        Args:
            directory: The registry.
            class_map: Station class of the registry to class of the signal table.
        """
        self._directory = directory
        self._class_map = class_map
        self._table = EventTable()

    def set_table(self, table: EventTable) -> None:
        """Go by this table from now on."""
        self._table = table

    def ties(self) -> Mapping[str, Ties]:
        """Return how the alarms of each row hang together with others."""
        return {rule.rule_id: Ties(rule.needs, rule.takes) for rule in self._table.rules if rule.enabled}

    def read(
        self, messages: Iterable[Received], signals: Mapping[str, Signal], clock_us: Mapping[int, int]
    ) -> list[Heard]:
        """Return what a batch of events says.

        Args:
            messages: Of the topic of events.
            signals: The signal table.
            clock_us: Partition to its clock; one that is not in it has none yet. [µs]

        Raises:
            PoisonMessage: A message is no event.
        """
        found = []
        for received in messages:
            event = bus.read_device_event(received)
            outcome, finding = self._finding(event, received, signals)
            EVENTS.labels(outcome).inc()
            if finding is not None:
                now_us = max(clock_us.get(received.partition, 0), to_us(finding.at))
                found.append(Heard(finding, received.partition, now_us))
        return found

    def _finding(
        self, event: DeviceEvent, received: Received, signals: Mapping[str, Signal]
    ) -> tuple[str, Finding | None]:
        """Return what became of an event, and the finding that it is, if it is one."""
        target = self._directory.target(event.device_id)
        if target is None:
            return "unknown_device", None
        match = self._table.match(target.profile.partition("/")[0], event.code)
        if match is None and event.severity is None:
            return "no_alarm", None
        if match is not None and match.rule.meaning is Meaning.IGNORE:
            return "no_alarm", None
        came_at = event.received_at or received.appended_at
        at = came_at if event.source_time > came_at + AHEAD else event.source_time
        late = came_at - at > LATE_AFTER
        code = DEVICE_EVENT if match is None or match.rule.signal is None else match.rule.signal
        signal, phase = signals.get(code), _phase(event, match)
        finding = Finding(
            key="|".join((target.site_id, "device", target.device_id, *_occurrence(event, match))),
            site_id=target.site_id,
            signal=code,
            phase=phase,
            at=at,
            level=self._level(event, match, signal, target),
            detail=_text(event, signal.name_en if signal is not None else code, phase),
            detail_zh=_text_zh(event, signal, code, phase),
            subject=event.code,
            device_id=target.device_id,
            rule_id=None if match is None else match.rule.rule_id,
            rule_version=None if match is None else match.rule.version,
            point=event.point,
            value=event.value,
            historical=late,
            ordered=True,
        )
        return ("late" if late else "unlisted" if match is None else "listed"), finding

    def _level(self, event: DeviceEvent, match: Match | None, signal: Signal | None, target: Target) -> int:
        """Return the level: the row's, the signal's for the class of the site, else what the device thinks."""
        if match is not None and match.rule.level is not None:
            return match.rule.level
        levels = {} if signal is None else signal.levels
        class_ = dictionary_class(self._class_map, target.station_class)
        return levels.get(class_) or event.severity or DEFAULT_LEVEL


def _phase(event: DeviceEvent, match: Match | None) -> Phase:
    if match is None or match.rule.meaning is Meaning.AS_SENT:
        return event.phase
    return Phase.BEGIN if match.rule.meaning is Meaning.BEGIN else Phase.END


def _occurrence(event: DeviceEvent, match: Match | None) -> tuple[str, str]:
    return ("event", event.code) if match is None else (match.rule.occurrence, match.part)


def _text(event: DeviceEvent, name: str, phase: Phase) -> str:
    return f"{name}: {'normal' if phase is Phase.END else 'alarm'} ({event.text or event.code})"


def _text_zh(event: DeviceEvent, signal: Signal | None, code: str, phase: Phase) -> str:
    over = phase is Phase.END
    meaning = None if signal is None else signal.normal_text_zh if over else signal.alarm_text_zh
    name = code if signal is None else signal.name_zh
    return f"{name} {meaning or ('正常' if over else '告警')}({event.text or event.code})"
