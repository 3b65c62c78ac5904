"""Rules, devices and reports for the tests of alarm."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from services.alarm.domain.engine import Changes, Engine, Limits, Reports
from services.alarm.domain.model import (
    CLASSES,
    SECOND_US,
    AlarmStep,
    Band,
    Comparison,
    Need,
    Params,
    Quantifier,
    Rule,
)
from services.alarm.domain.rulebook import Override, RuleBook, Scope, Target
from services.alarm.domain.sites import SiteLimits, Sites

T0 = 1_700_000_000
CLASS_MAP = {"A": "A", "B": "B", "C": "C", "D": "D", "E": "D"}
PHASES = ("voltage_a", "voltage_b", "voltage_c")


def rule(
    rule_id: str = "low",
    *,
    comparison: Comparison = Comparison.BELOW,
    quantifier: Quantifier = Quantifier.ANY,
    points: tuple[str, ...] = PHASES,
    kinds: Iterable[str] = (),
    band: Band | None = None,
    group: str | None = None,
    needs: Iterable[Need] = (),
    takes: Need | None = None,
    version: int = 1,
    signal: str | None = None,
    **params: Any,
) -> Rule:
    values: dict[str, Any] = {
        "enabled": True,
        "level": 3,
        "threshold": 160.0,
        "hysteresis": 0.0,
        "start_delay_s": 3.0,
        "end_delay_s": 3.0,
        "max_gap_s": 900.0,
    } | params
    return Rule(
        rule_id=rule_id,
        signal=signal or rule_id,
        comparison=comparison,
        quantifier=quantifier,
        points=points,
        unit="V",
        device_kinds=frozenset(kinds),
        defaults=dict.fromkeys(CLASSES, Params(**values)),
        band=band,
        group=group,
        needs=frozenset(needs),
        takes=takes,
        version=version,
    )


def book(*rules: Rule, overrides: Iterable[Override] = (), version: int = 1) -> RuleBook:
    return RuleBook(
        {one.rule_id: one for one in rules},
        {(one.rule_id, one.scope, one.scope_id): one for one in overrides},
        CLASS_MAP,
        version,
    )


def target(device_id: str = "m-1", **changes: Any) -> Target:
    facts: dict[str, Any] = {
        "site_id": "s-1",
        "kind": "meter_3p",
        "station_class": "D",
        "profile": "meter/1",
        "points": frozenset(PHASES),
    } | changes
    return Target(device_id=device_id, **facts)


class Devices:
    """A directory that a test can change."""

    def __init__(self, *targets: Target) -> None:
        self.targets = {one.device_id: one for one in targets}
        self.removed: set[str] = set()
        self.supplied_by: dict[str, list[frozenset[str]]] = {}
        self.carried_by: dict[str, frozenset[str]] = {}

    def suppliers(self, device_id: str) -> list[frozenset[str]]:
        return self.supplied_by.get(device_id, [])

    def carriers(self, device_id: str) -> frozenset[str]:
        return self.carried_by.get(device_id, frozenset())

    def target(self, device_id: str) -> Target | None:
        return None if device_id in self.removed else self.targets.get(device_id)

    def is_removed(self, device_id: str) -> bool:
        return device_id in self.removed


class Bench:
    """An engine fed by seconds instead of microseconds."""

    def __init__(
        self,
        rules: RuleBook,
        *targets: Target,
        limits: Limits | None = None,
        site_limits: SiteLimits | None = None,
        directory: Devices | None = None,
        partition_of: Callable[[str], int] | None = None,
    ) -> None:
        self.directory = directory or Devices(*(targets or (target(),)))
        self.sites = Sites(self.directory, site_limits)
        self.shutdowns = self.sites.shutdowns
        self.limits = limits or Limits()
        self.engine = Engine(
            book=rules, directory=self.directory, sites=self.sites, limits=self.limits, partition_of=partition_of
        )
        self.last = Changes()

    def report(
        self,
        at_s: float,
        device_id: str = "m-1",
        *,
        received_s: float | None = None,
        bad: Iterable[str] = (),
        partition: int = 0,
        **points: float | None,
    ) -> list[AlarmStep]:
        batch = reports([(device_id, at_s, points, frozenset(bad))], received_s=received_s, partition=partition)
        return self.judge(batch)

    def volts(self, at_s: float, *volts: float, device_id: str = "m-1") -> list[AlarmStep]:
        """Report the phase voltages; one number is all three."""
        values = volts * 3 if len(volts) == 1 else volts
        return self.judge(reports([(device_id, at_s, dict(zip(PHASES, values, strict=True)), frozenset())]))

    def judge(self, batch: Reports) -> list[AlarmStep]:
        self.last = Changes()
        self.engine.judge(batch, self.last)
        return self.last.steps

    def tick(self, clock_s: float, partition: int = 0) -> list[AlarmStep]:
        self.last = Changes()
        self.engine.tick(partition, us(clock_s), self.last)
        return self.last.steps

    def settle(self, clock_s: float, partition: int = 0) -> list[AlarmStep]:
        """Move the clock, then let the second stage speak."""
        self.last = Changes()
        self.engine.tick(partition, us(clock_s), self.last)
        self.engine.settle(partition, self.last)
        return self.last.steps

    def reconsider(self) -> list[AlarmStep]:
        self.last = Changes()
        self.engine.reconsider(self.last)
        return self.last.steps

    def set_book(self, rules: RuleBook) -> list[AlarmStep]:
        self.engine.set_book(rules)
        return self.reconsider()

    def state(self, rule_id: str = "low", device_id: str = "m-1") -> str:
        episode = self.engine.episode(device_id, rule_id)
        return "NORMAL" if episode is None else episode.state.name


def us(at_s: float) -> int:
    return round((T0 + at_s) * SECOND_US)


def seconds(at_us: int | None) -> float | None:
    return None if at_us is None else (at_us - T0 * SECOND_US) / SECOND_US


def reports(
    rows: Iterable[tuple[str, float, Mapping[str, float | None], frozenset[str]]],
    *,
    received_s: float | None = None,
    partition: int = 0,
) -> Reports:
    batch = Reports()
    for device_id, at_s, points, bad in rows:
        batch.device_ids.append(device_id)
        batch.partitions.append(partition)
        batch.source_us.append(us(at_s))
        batch.received_us.append(us(at_s if received_s is None else received_s))
        batch.points.append(points)
        batch.bad.append(bad or None)
    return batch


def story(steps: Iterable[AlarmStep]) -> list[tuple[str, float | None, float | None]]:
    """Phase, begin and end of each step, in seconds."""
    return [(step.phase.value, seconds(step.began_us), seconds(step.ended_us)) for step in steps]


def override(rule_id: str, scope: Scope, scope_id: str, version: int = 2, **params: Any) -> Override:
    return Override(rule_id=rule_id, scope=scope, scope_id=scope_id, version=version, **params)
