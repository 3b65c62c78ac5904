"""Noting what control has ordered inside devices, and what the devices say that they are set to."""

from collections.abc import Collection, Iterable

from libs.common.bus.port import Received
from libs.common.contracts.control import CommandState, ControlEvent
from libs.common.db import WriteConn
from services.alarm import bus
from services.alarm.domain.engine import Reports
from services.alarm.domain.model import to_us
from services.alarm.domain.settings_kept import DeviceSetting, DeviceSettings
from services.alarm.store import settings_kept as settings_store

NOT_HOLDING = frozenset({CommandState.REJECTED.value, CommandState.SUPERSEDED.value, CommandState.CANCELLED.value})
"""Ends of an order after which the platform does not want its value."""


class SettingsKept:
    """The settings of devices, from the events of control and from reports."""

    def __init__(self) -> None:
        """Start with none."""
        self._settings = DeviceSettings()

    async def load(self, conn: WriteConn, partitions: Collection[int]) -> None:
        """Read what is stored."""
        for setting in await settings_store.fetch_settings(conn, partitions):
            self._settings.put(setting)

    def drop(self, partitions: Collection[int]) -> None:
        """Forget partitions."""
        self._settings.drop(partitions)

    async def ordered(self, conn: WriteConn, messages: Iterable[Received]) -> None:
        """Take note of what events of control say about settings; other events say nothing about them.

        Raises:
            PoisonMessage: A message is no event of control.
        """
        changed: dict[tuple[str, str], DeviceSetting] = {}
        for received in messages:
            event = bus.parse(ControlEvent, received)
            if event.point is None or event.value is None or event.device_id is None or event.command_id is None:
                continue
            before = self._settings.get(event.device_id, event.point)
            setting = _after(before, event, received.partition)
            if setting != before:
                self._settings.put(setting)
                changed[setting.device_id, setting.point] = setting
        await settings_store.put_settings(conn, changed.values())

    async def reported(self, conn: WriteConn, reports: Reports) -> None:
        """Take note of what reports say of settings that something was ordered for."""
        changed: dict[tuple[str, str], DeviceSetting] = {}
        for place, known in self._settings.watched(reports.device_ids):
            points, bad = reports.points[place], reports.bad[place] or ()
            for point, setting in list(known.items()):
                found = points.get(point)
                if found is None or point in bad:
                    continue
                seen = setting.seen(float(found), reports.source_us[place])
                if seen != setting:
                    self._settings.put(seen)
                    changed[seen.device_id, seen.point] = seen
        await settings_store.put_settings(conn, changed.values())


def _after(before: DeviceSetting | None, event: ControlEvent, partition: int) -> DeviceSetting:
    """Return a setting after an event of one of its orders."""
    holds = event.state.value not in NOT_HOLDING
    wanted = event.value if holds else None if before is None else before.wanted
    if before is not None and not holds and before.order_id == event.command_id:
        wanted = None
    setting = DeviceSetting(
        device_id=str(event.device_id),
        point=str(event.point),
        site_id=event.site_id,
        partition=partition,
        wanted=wanted,
        ordered_us=to_us(event.at),
        state=event.state.value,
        reason=event.reason,
        order_id=str(event.command_id),
        found=None if before is None else before.found,
        found_us=None if before is None else before.found_us,
    )
    seen = event.evidence
    if seen is not None and seen.feedback_value is not None and seen.feedback_point == event.point:
        setting = setting.seen(seen.feedback_value, to_us(seen.feedback_at or event.at))
    return setting
