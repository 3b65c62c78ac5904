"""Rules over what was used: intervals of circuits are held against what should have been used then.

Each rule looks at one circuit at a time, in the order of its intervals, and remembers what it needs for that: how far
it has judged, how long its condition has held, and, for rules over a night or a day, the figures of that period.

* ``use_while_off``: control has switched the circuit's load off for the whole interval, and it draws power.
* ``no_use_while_on``: the load was on for the whole interval, and nothing was used: a dead unit, or a dead meter.
* ``standby``: within the hours of the day in which nobody works it draws more than a place at rest may.
* ``night_flow``: the least flow of a night is more than nothing: a leak. Judged once the night is complete.
* ``balance``: what a main meter saw in a day and what the meters behind it saw together differ by more than some per
  cent. Judged once the day of all of them is complete.

An interval that is missing, or for the first four estimated, holds the state. One that is corrected later is not judged
again: what people do about an alarm they do about what was known.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from services.alarm.domain.model import SECOND_US, from_us, to_us

HOUR_US = 3600 * SECOND_US
DAY_MINUTES = 1440
LEAST_CIRCUITS = 2
"""Of a balance: a main circuit and one behind it."""
OPEN_DAYS = 3
"""Days of a balance that wait for the figures of slow meters; older ones are given up."""


class Check(StrEnum):
    """What a rule looks for."""

    USE_WHILE_OFF = "use_while_off"
    NO_USE_WHILE_ON = "no_use_while_on"
    STANDBY = "standby"
    NIGHT_FLOW = "night_flow"
    BALANCE = "balance"


UNITS: Mapping[Check, str] = {
    Check.USE_WHILE_OFF: "kW",
    Check.NO_USE_WHILE_ON: "kW",
    Check.STANDBY: "kW",
    Check.NIGHT_FLOW: "m3/h",
    Check.BALANCE: "%",
}
"""Of the threshold of each check."""
WINDOWED = frozenset({Check.STANDBY, Check.NIGHT_FLOW})
WATER = frozenset({Check.NIGHT_FLOW, Check.BALANCE})
"""Over water; all others are over electricity."""


class EnergyScope(StrEnum):
    """How far a row reaches; the more specific one replaces the others, later ones are more specific."""

    ALL = "all"
    SITE = "site"
    CIRCUIT = "circuit"


@dataclass(frozen=True, slots=True)
class EnergyRule:
    """A row of the table of energy rules."""

    rule_id: str
    signal: str
    check: Check
    threshold: float | None
    """In the unit of the check; None: asleep, until a more specific row gives one."""
    scope: EnergyScope = EnergyScope.ALL
    scope_id: str = ""
    roles: frozenset[str] = frozenset()
    """Of circuits it looks at; empty is every role."""
    loads: frozenset[str] = frozenset()
    """Kinds of loads of which one hangs on the circuit; empty is any circuit."""
    window: tuple[int, int] | None = None
    """Minutes of the local day, half-open; it may cross midnight."""
    intervals: int = 1
    """So many in a row raise the alarm."""
    level: int | None = None
    enabled: bool = True
    version: int = 1

    @property
    def active(self) -> bool:
        """Whether it judges."""
        return self.enabled and self.threshold is not None


@dataclass(frozen=True, slots=True)
class CircuitFacts:
    """What the rules need to know of a circuit."""

    circuit_id: str
    site_id: str
    role: str
    station_class: str
    zone: ZoneInfo
    meters: tuple[str, ...]
    """Devices that measure it."""
    loads: frozenset[str]
    """Kinds of the loads that it is the meter of."""
    parent: str | None
    children: tuple[str, ...]
    """Circuits behind it."""


@dataclass(frozen=True, slots=True)
class Used:
    """One interval of one circuit."""

    circuit_id: str
    start_us: int
    end_us: int
    value: float | None
    """kWh, or m3 of water; None is unknown."""
    measured: bool
    """Not estimated."""
    water: bool = False

    @property
    def per_hour(self) -> float | None:
        """Mean power, or mean flow. [kW or m3/h]"""
        return None if self.value is None else self.value * HOUR_US / (self.end_us - self.start_us)


Figures = Mapping[str, Mapping[int, tuple[int, float]]]
"""Circuit to the start of each interval, with its end and value."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a rule remembers of a circuit."""

    judged_us: int = 0
    """End of the last judged interval, night or day."""
    since_us: int | None = None
    """Since when its condition has held; None while it does not."""
    count: int = 0
    """Intervals in a row that it has held."""
    raised: bool = False
    version: int = 0
    """Of the rule when its condition was last found to hold or not."""
    figures: Figures = field(default_factory=dict)
    """Of nights and days that are not complete."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """A rule's condition begins or ends."""

    begins: bool
    at_us: int
    value: float
    """What was compared, in the unit of the check."""


@dataclass(frozen=True, slots=True)
class OffTime:
    """A time for which control has taken a device's supply away."""

    device_id: str
    partition: int
    since_us: int
    planned_end_us: int | None
    until_us: int | None
    """When it was confirmed awake; None while it is not."""


def chosen(rules: Iterable[EnergyRule], circuit: CircuitFacts) -> list[EnergyRule]:
    """Return the row of each rule that holds for a circuit, in order of the rules' ids."""
    found: dict[str, EnergyRule] = {}
    order = list(EnergyScope)
    ids = {EnergyScope.ALL: "", EnergyScope.SITE: circuit.site_id, EnergyScope.CIRCUIT: circuit.circuit_id}
    for rule in rules:
        if rule.scope_id != ids[rule.scope]:
            continue
        known = found.get(rule.rule_id)
        if known is None or order.index(rule.scope) > order.index(known.scope):
            found[rule.rule_id] = rule
    return [rule for _, rule in sorted(found.items()) if applies(rule, circuit)]


def applies(rule: EnergyRule, circuit: CircuitFacts) -> bool:
    """Return whether a rule looks at a circuit."""
    if rule.roles and circuit.role not in rule.roles:
        return False
    if rule.check is Check.BALANCE and not circuit.children:
        return False
    return not rule.loads or not rule.loads.isdisjoint(circuit.loads)


def judge(
    rule: EnergyRule, circuit: CircuitFacts, memory: Memory, used: Used, off: Collection[OffTime]
) -> tuple[Memory, Ruling | None]:
    """Return what a rule remembers after an interval, and what it says.

    Args:
        rule: One that applies to the circuit and is active.
        circuit: The one that the rule judges; of a balance the main one.
        memory: What the rule remembers of it.
        used: The interval; of a balance it may be of a circuit behind the main one.
        off: When control has switched the circuit's meters' supply off.
    """
    if used.water is not (rule.check in WATER) or rule.threshold is None:
        return memory, None
    if rule.check is Check.NIGHT_FLOW:
        return _night(rule, circuit, memory, used)
    if rule.check is Check.BALANCE:
        return _balance(rule, circuit, memory, used)
    if used.end_us <= memory.judged_us:
        return memory, None
    holds = _holds(rule, circuit, used, off)
    return _follow(rule, replace(memory, judged_us=used.end_us), used, memory.judged_us, holds)


def _holds(rule: EnergyRule, circuit: CircuitFacts, used: Used, off: Collection[OffTime]) -> bool | None:
    """Return whether the condition holds in an interval; None when it cannot be said."""
    power_kw = used.per_hour if used.measured else None
    if power_kw is None or rule.threshold is None:
        return None
    if rule.check is Check.STANDBY:
        inside = _inside(rule, circuit.zone, used)
        return inside if not inside else power_kw > rule.threshold
    if rule.check is Check.USE_WHILE_OFF:
        if any(_should_be_off(one, used) for one in off):
            return power_kw > rule.threshold
        return None if any(_touches(one, used) for one in off) else False
    if any(_touches(one, used) for one in off):
        return None
    return power_kw <= rule.threshold


def _follow(
    rule: EnergyRule, memory: Memory, used: Used, judged_us: int, holds: bool | None
) -> tuple[Memory, Ruling | None]:
    if holds is None:
        return memory, None
    value = used.per_hour or 0.0
    if not holds:
        return _over(rule, memory, used.start_us, value)
    fresh = memory.since_us is None or (not memory.raised and used.start_us != judged_us)
    since_us = used.start_us if fresh or memory.since_us is None else memory.since_us
    count = 1 if fresh else memory.count + 1
    return _goes_on(rule, replace(memory, since_us=since_us, count=count), used.start_us, value)


def _over(rule: EnergyRule, memory: Memory, at_us: int, value: float) -> tuple[Memory, Ruling | None]:
    ended = Ruling(False, at_us, value) if memory.raised else None
    return replace(memory, since_us=None, count=0, raised=False, version=rule.version), ended


def _goes_on(rule: EnergyRule, memory: Memory, at_us: int, value: float) -> tuple[Memory, Ruling | None]:
    """Raise the alarm once the condition has held for long enough; say it again when the rule has changed since."""
    if memory.raised:
        again = Ruling(True, at_us, value) if memory.version != rule.version else None
        return replace(memory, version=rule.version), again
    if memory.count < rule.intervals:
        return memory, None
    begun_us = at_us if memory.since_us is None else memory.since_us
    return replace(memory, raised=True, version=rule.version), Ruling(True, begun_us, value)


def _should_be_off(off: OffTime, used: Used) -> bool:
    ends = [end for end in (off.planned_end_us, off.until_us) if end is not None]
    return off.since_us <= used.start_us and (not ends or used.end_us <= min(ends))


def _touches(off: OffTime, used: Used) -> bool:
    """Return whether any of the interval lies in a time without supply, which ends when somebody has seen it on."""
    return off.since_us < used.end_us and (off.until_us is None or used.start_us < off.until_us)


def _inside(rule: EnergyRule, zone: ZoneInfo, used: Used) -> bool | None:
    """Return whether an interval lies in the rule's hours of the day; None when only a part does."""
    first, last = _window_around(rule, zone, used.start_us)
    if first <= used.start_us and used.end_us <= last:
        return True
    return None if used.start_us < last and first < used.end_us else False


def _window_around(rule: EnergyRule, zone: ZoneInfo, at_us: int) -> tuple[int, int]:
    """Return begin and end of the window that contains a time, or else the next one."""
    from_minute, to_minute = rule.window or (0, DAY_MINUTES)
    local = from_us(at_us).astimezone(zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    length = to_minute - from_minute if from_minute < to_minute else to_minute + DAY_MINUTES - from_minute
    for days in (-1, 0, 1):
        begin = _wall(midnight, days, from_minute)
        end = _wall(midnight, days, from_minute + length)
        if at_us < to_us(end):
            return to_us(begin), to_us(end)
    raise AssertionError("tomorrow's window ends after today")


def _wall(midnight: datetime, days: int, minute: int) -> datetime:
    """Return a time of the local wall, in UTC terms, whatever the zone does to its clock that night."""
    days, minute = days + minute // DAY_MINUTES, minute % DAY_MINUTES
    return (midnight + timedelta(days=days)).replace(hour=minute // 60, minute=minute % 60)


def _night(rule: EnergyRule, circuit: CircuitFacts, memory: Memory, used: Used) -> tuple[Memory, Ruling | None]:
    begin_us, end_us = _window_around(rule, circuit.zone, used.start_us)
    if used.start_us < begin_us or used.end_us > end_us or begin_us < memory.judged_us:
        return memory, None
    known = {start: one for start, one in memory.figures.get("", {}).items() if begin_us <= start}
    if used.value is None or not used.measured:
        known.pop(used.start_us, None)
    else:
        known[used.start_us] = (used.end_us, used.per_hour or 0.0)
    if sum(end - start for start, (end, _) in known.items()) < end_us - begin_us:
        return replace(memory, figures={"": known}), None
    least = min(value for _, value in known.values())
    return _period(rule, memory, begin_us, end_us, holds=least > (rule.threshold or 0.0), value=least)


def _balance(rule: EnergyRule, circuit: CircuitFacts, memory: Memory, used: Used) -> tuple[Memory, Ruling | None]:
    whole = replace(rule, window=None)
    begin_us, end_us = _window_around(whole, circuit.zone, used.start_us)
    if used.end_us > end_us or begin_us < memory.judged_us or used.value is None:
        return memory, None
    oldest_us = begin_us - OPEN_DAYS * 24 * HOUR_US
    members = {circuit.circuit_id, *circuit.children}
    figures = {
        member: {start: one for start, one in known.items() if start >= oldest_us}
        for member, known in memory.figures.items()
        if member in members
    }
    figures[used.circuit_id] = {**figures.get(used.circuit_id, {}), used.start_us: (used.end_us, used.value)}
    memory = replace(memory, figures=figures)
    sums: dict[str, float] = {}
    for member in members:
        inside = {start: one for start, one in figures.get(member, {}).items() if begin_us <= start < end_us}
        if sum(end - start for start, (end, _) in inside.items()) < end_us - begin_us:
            return memory, None
        sums[member] = sum(value for _, value in inside.values())
    main = sums.pop(circuit.circuit_id)
    behind = sum(sums.values())
    lost = 100.0 * (main - behind) / max(main, behind) if max(main, behind) > 0 else 0.0
    return _period(rule, memory, begin_us, end_us, holds=abs(lost) > (rule.threshold or 0.0), value=lost)


def _period(
    rule: EnergyRule, memory: Memory, begin_us: int, end_us: int, *, holds: bool, value: float
) -> tuple[Memory, Ruling | None]:
    """Judge a night or a day that is complete; its figures are not needed any more."""
    later = {
        member: kept
        for member, known in memory.figures.items()
        if (kept := {start: one for start, one in known.items() if start >= end_us})
    }
    memory = replace(memory, judged_us=end_us, figures=later)
    if not holds:
        return _over(rule, memory, begin_us, value)
    since_us = begin_us if memory.since_us is None else memory.since_us
    return _goes_on(rule, replace(memory, since_us=since_us, count=memory.count + 1), begin_us, value)


OffOf = Callable[[str], Collection[OffTime]]
"""Device to the times for which control has switched it off."""


class OffTimes:
    """When control has switched devices off lately, for the partitions that this process holds."""

    def __init__(self) -> None:
        """Start with none."""
        self._of: dict[str, list[OffTime]] = {}

    def note(self, off: OffTime) -> None:
        """Take note of a time, or of its end."""
        known = self._of.setdefault(off.device_id, [])
        known[:] = [*(one for one in known if one.since_us != off.since_us), off]

    def of(self, devices: Iterable[str]) -> list[OffTime]:
        """Return the times of any of these devices."""
        return [one for device_id in devices for one in self._of.get(device_id, ())]

    def forget(self, before_us: int) -> None:
        """Forget what was over by then."""
        for device_id, known in list(self._of.items()):
            known[:] = [one for one in known if one.until_us is None or one.until_us >= before_us]
            if not known:
                del self._of[device_id]

    def drop(self, partitions: Collection[int]) -> None:
        """Forget these partitions."""
        for device_id, known in list(self._of.items()):
            known[:] = [one for one in known if one.partition not in partitions]
            if not known:
                del self._of[device_id]
