"""What our own projections say of a device, as facts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from libs.common.contracts.device import Connectivity
from services.alarm.domain.diagnosis.facts import Fact, Known
from services.alarm.domain.diagnosis.subject import Installed

STATUS = "device.status"
REGISTRY = "registry"
ALARMS = "alarm"

TOGETHER = timedelta(minutes=5)
"""Devices of a site that fall silent within this fall silent together."""
DEFAULT_PERIOD_S = 300.0
"""Of a device of which nobody says how often it reports."""
ON_AN_OPEN_CONNECTION = frozenset({"timeout", "device_silent"})
"""Reasons that say: the request went out, and nobody answered."""
NOT_LET_IN = frozenset({"auth_failed", "not_authenticated"})
"""Reasons that say: somebody was there and did not take our name or password."""
LINE_DOWN = "line_down"


@dataclass(frozen=True, slots=True)
class Watched:
    """A device as ``device.status`` last told of it."""

    device_id: str
    site_id: str
    connectivity: str
    since: datetime | None
    last_report_at: datetime | None
    line_id: str | None
    reason: str | None
    rsrp_dbm: float | None
    sinr_db: float | None
    coverage_level: int | None
    radio_at: datetime | None
    battery_percent: float | None
    battery_v: float | None
    battery_at: datetime | None
    iccid: str | None
    imei: str | None
    meter_address: str | None
    """Its own number on the bus, as it tells it itself."""
    told_at: datetime

    @property
    def is_silent(self) -> bool:
        """Whether it is not heard, for whatever reason."""
        return self.connectivity in (Connectivity.OFFLINE.value, Connectivity.SLEEPING.value)

    @property
    def is_heard(self) -> bool:
        """Whether it is heard; one that never was is neither."""
        return self.connectivity == Connectivity.ONLINE.value


@dataclass(frozen=True, slots=True)
class Mark:
    """What another topic told of a device: a fault event, a finding, the fate of its last command."""

    device_id: str
    name: str
    subject: str
    """Tells marks of one name apart: the code of an event, the id of a finding; mostly empty."""
    value: bool | float | str
    at: datetime
    source: str
    lasting: bool
    """It holds until its end is told; else it says nothing after a day."""


@dataclass(frozen=True, slots=True)
class Around:
    """What the service itself knows of a device's surroundings."""

    planned: str | None
    window: str | None
    mains_alarm: datetime | None
    low_voltage: datetime | None
    line_down: datetime | None
    shared_card: str | None
    """Another device that reports the same card with another module."""
    neighbours: Sequence[Watched]
    """The other devices of the site, as last told."""


def of_status(watched: Watched | None, device: Installed, now: datetime) -> Iterable[Fact]:
    """Yield what the device's own status says, and when."""
    if watched is None:
        return
    at = watched.told_at
    if watched.is_silent or watched.is_heard:
        yield Fact(Known.SILENT, watched.is_silent, at, STATUS)
    if watched.connectivity == Connectivity.SLEEPING.value:
        yield Fact(Known.ASLEEP, True, at, STATUS)
    last = watched.last_report_at or watched.since
    if last is not None:
        yield Fact(Known.SILENT_FOR_S, round(max((now - last).total_seconds(), 0.0), 1), last, STATUS)
    source = REGISTRY if device.period_s is not None else "default"
    yield Fact(Known.PERIOD_S, device.period_s or DEFAULT_PERIOD_S, now, source)
    if device.sleeps and device.period_s is not None:
        yield Fact(Known.SLEEP_PERIOD_S, device.period_s, now, REGISTRY)
    if watched.connectivity == Connectivity.OFFLINE.value and watched.reason is not None:
        yield Fact(Known.LAST_FAILURE, watched.reason, at, STATUS)
    for name, value, when in (
        (Known.RSRP_DBM, watched.rsrp_dbm, watched.radio_at),
        (Known.SINR_DB, watched.sinr_db, watched.radio_at),
        (Known.COVERAGE_LEVEL, watched.coverage_level, watched.radio_at),
        (Known.BATTERY_PERCENT, watched.battery_percent, watched.battery_at),
        (Known.BATTERY_V, watched.battery_v, watched.battery_at),
    ):
        if value is not None:
            yield Fact(name, value, when or at, STATUS)
    if device.imei is not None:
        yield Fact(Known.DEVICE_IMEI, device.imei, now, REGISTRY)
    elif watched.imei is not None:
        yield Fact(Known.DEVICE_IMEI, watched.imei, at, STATUS)


def of_registry(device: Installed, now: datetime) -> Iterable[Fact]:
    """Yield what the registry says of its address and its card."""
    if device.same_address > 1:
        yield Fact(Known.SAME_ADDRESS, device.same_address, now, REGISTRY)
    if device.sim is None or device.sim.product is None:
        return
    product = device.sim.product.lower()
    if "nb" in product:
        yield Fact(Known.DEVICE_NETWORK, "nb", now, REGISTRY)
    elif any(name in product for name in ("4g", "lte", "cat")):
        yield Fact(Known.DEVICE_NETWORK, "4g", now, REGISTRY)
    if any(name in product for name in ("非定向", "通用", "non-directed")):
        yield Fact(Known.DEVICE_DIRECTED, False, now, REGISTRY)
    elif any(name in product for name in ("定向", "directed")):
        yield Fact(Known.DEVICE_DIRECTED, True, now, REGISTRY)


def of_surroundings(device: Installed, watched: Watched | None, around: Around, now: datetime) -> Iterable[Fact]:
    """Yield what alarms, windows and neighbours say."""
    if around.window is not None:
        yield Fact(Known.EXPLAINED_BY, f"window:{around.window}", now, ALARMS)
    elif around.planned is not None:
        yield Fact(Known.EXPLAINED_BY, around.planned, now, ALARMS)
    for name, since in ((Known.MAINS_ALARM, around.mains_alarm), (Known.LAST_VOLTAGE_LOW, around.low_voltage)):
        if since is not None:
            yield Fact(name, True, since, ALARMS)
    if around.shared_card is not None:
        yield Fact(Known.CARD_SHARED, True, now, STATUS)
    if watched is None:
        return
    silent_there = [one for one in around.neighbours if one.is_silent]
    together = sum(_fell_together(watched, one) for one in silent_there)
    yield Fact(Known.SITE_DEVICES, len(around.neighbours) + 1, now, STATUS)
    yield Fact(Known.SITE_SILENT, together + int(watched.is_silent), now, STATUS)
    yield Fact(Known.SITE_ALIVE, sum(one.is_heard for one in around.neighbours), now, STATUS)
    twin = next((one for one in around.neighbours if _same_number(device, watched, one)), None)
    if twin is not None:
        yield Fact(Known.SAME_NUMBER, twin.device_id, twin.told_at, STATUS)
    yield from _of_line(device, watched, around, now)


def of_marks(marks: Sequence[Mark], watched: Watched | None) -> Iterable[Fact]:
    """Yield what events, findings and commands say."""
    names = {name.value: name for name in Known}
    impossible = [mark for mark in marks if mark.name == Known.IMPOSSIBLE_READINGS.value]
    for mark in sorted(marks, key=lambda one: one.at):
        name = names.get(mark.name)
        if name is None or mark in impossible:
            continue
        yield Fact(name, mark.value, mark.at, mark.source)
        if name is Known.CLOCK_SKEW_S:
            # The finding ends with the first report that is right: a later report that did not end it was wrong too.
            again = watched is not None and watched.last_report_at is not None and watched.last_report_at > mark.at
            yield Fact(Known.CLOCK_SKEW_TIMES, 2 if again else 1, mark.at, STATUS)
    if impossible:
        last = max(impossible, key=lambda one: one.at)
        yield Fact(Known.IMPOSSIBLE_READINGS, len(impossible), last.at, last.source)


def _of_line(device: Installed, watched: Watched, around: Around, now: datetime) -> Iterable[Fact]:
    others = set(device.behind) - {device.device_id}
    if not device.behind:
        return
    there = [one for one in around.neighbours if one.device_id in others]
    silent = sum(one.is_silent for one in there) + int(watched.is_silent)
    alive = sum(one.is_heard for one in there)
    # What was never heard was perhaps never installed: it makes no line half alive.
    known = silent + alive + int(watched.is_heard)
    # A line is its gateway where the registry has no gateway of its own for it, so both are told.
    for name, count in (
        (Known.GATEWAY_DEVICES, known),
        (Known.GATEWAY_SILENT, silent),
        (Known.LINE_DEVICES, known),
        (Known.LINE_SILENT, silent),
        (Known.LINE_ALIVE, alive),
    ):
        yield Fact(name, count, now, STATUS)
    reached = _gateway_alive(device, watched, around, bool(alive))
    if reached is not None:
        yield Fact(Known.GATEWAY_ALIVE, reached, around.line_down or watched.told_at, STATUS)


def _gateway_alive(device: Installed, watched: Watched, around: Around, others_answer: bool) -> bool | None:
    """Return whether the way to the device can be reached up to the device itself, None when nobody can say."""
    gateway = next((one for one in around.neighbours if one.device_id == device.place.gateway_id), None)
    if gateway is not None and (gateway.is_heard or gateway.connectivity == Connectivity.OFFLINE.value):
        return gateway.is_heard
    if others_answer:
        return True
    if watched.reason in NOT_LET_IN:
        return True
    if around.line_down is not None or watched.reason == LINE_DOWN:
        return False
    # A poll that timed out went out over an open connection; nothing of the sort is known of those that only push.
    return True if watched.reason in ON_AN_OPEN_CONNECTION else None


def _fell_together(one: Watched, other: Watched) -> bool:
    if one.last_report_at is not None and other.last_report_at is not None:
        return abs(one.last_report_at - other.last_report_at) <= TOGETHER
    return one.since is not None and other.since is not None and abs(one.since - other.since) <= TOGETHER


def _same_number(device: Installed, one: Watched, other: Watched) -> bool:
    """Return whether another device of the line says that it is the same meter, though it should not be."""
    return (
        one.meter_address is not None
        and one.meter_address == other.meter_address
        and one.line_id is not None
        and one.line_id == other.line_id
        and other.device_id not in device.one_box
    )
