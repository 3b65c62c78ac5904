"""How many points a second one core decodes and judges: mixed profiles, many rules, a few violations.

``python -m services.alarm.bench`` prints JSON; with ``--memory`` it says how much memory the state of many devices
takes. The mix is that of the dry run it is compared with: five profiles of 20 to 60 points, 100 rules each with
hysteresis and both delays, one report in a hundred with a violation. A violation lasts five reports, longer than the
start delay, and then goes to another device. Four of the hundred are a rate of change, an unbalance, a formula and
silence.
Nothing is stored: database and bus are measured by the benchmark of the whole chain.
"""

import gc
import json
import random
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from libs.common.bus import topics
from libs.common.bus.port import Received
from services.alarm.bus import read_readings
from services.alarm.domain.engine import Changes, Engine, Judged, Limits, Reports
from services.alarm.domain.model import (
    CLASSES,
    SECOND_US,
    Comparison,
    Episode,
    Measure,
    Params,
    Quantifier,
    Rule,
    State,
    alarm_id_of,
    to_us,
)
from services.alarm.domain.rulebook import RuleBook, Target
from services.alarm.domain.sites import Sites

WIDTHS = (20, 25, 30, 40, 60)
"""Points of the five profiles."""
RULES = 100
DEVICES = 3000
ONE_IN = 100
"""Of so many reports one has a violation."""
PERIOD_S = 5
MEMORY_DEVICES = 1_000_000
MEMORY_RULES = 30
NOT_NORMAL = 0.01
"""Share of devices times rules that is pending or active."""
MEMORY_BATCH = 10_000
VIOLATION_S = 25
START = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured."""

    points_per_s: float
    reports_per_s: float
    decode_us: float
    """Per report. [µs]"""
    judge_us: float
    """Per report. [µs]"""
    steps: int
    """Alarm events that came out; 0 would mean that nothing was judged."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What was measured of memory."""

    devices: int
    rules: int
    episodes: int
    state_mb: float
    """Growth of the resident memory by the state. [MB]"""
    process_mb: float
    """Resident memory of the whole process, its libraries included. [MB]"""
    scan_ms: float
    """One look over all devices for those that are silent. [ms]"""


class Mix:
    """Devices of five profiles, with rules over their points."""

    def __init__(self, *, devices: int = DEVICES, seed: int = 1) -> None:
        """Make devices and rules; the same seed makes the same."""
        self._random = random.Random(seed)  # noqa: S311  # a benchmark, not a secret
        self.widths = {f"d-{number}": WIDTHS[number % len(WIDTHS)] for number in range(devices)}
        self._targets = {device_id: self._target(device_id) for device_id in self.widths}
        rules = {rule.rule_id: rule for width in WIDTHS for rule in self._rules(width)}
        self.engine = Engine(
            book=RuleBook(rules, {}, {name: name for name in CLASSES}, 1),
            directory=self,
            sites=Sites(self),
            limits=Limits(),
        )

    def target(self, device_id: str) -> Target | None:
        """Return a device."""
        return self._targets.get(device_id)

    def is_removed(self, device_id: str) -> bool:
        """No device goes away."""
        return False

    def suppliers(self, device_id: str) -> Sequence[frozenset[str]]:
        """No device lives on another."""
        return ()

    def carriers(self, device_id: str) -> frozenset[str]:
        """Every device has a way of its own."""
        return frozenset()

    def messages(self, second: int) -> list[Received]:
        """Return one report of every device, as the bus would give it."""
        at = START + timedelta(seconds=second)
        stamp = at.isoformat().replace("+00:00", "Z")
        return [
            Received(
                topic=topics.READINGS,
                partition=0,
                offset=second * len(self.widths) + number,
                key="s",
                value=orjson.dumps(
                    {
                        "device_id": device_id,
                        "site_id": "s",
                        "source_time": stamp,
                        "received_at": stamp,
                        "driver": "modbus",
                        "points": self._values(width, (number + second // VIOLATION_S) % ONE_IN == 0),
                    }
                ),
                headers=(),
                appended_at=at,
            )
            for number, (device_id, width) in enumerate(self.widths.items())
        ]

    def _values(self, width: int, violated: bool) -> dict[str, float]:
        values = {f"p_{width}_{number}": round(self._random.uniform(200.0, 240.0), 1) for number in range(width)}
        if violated:
            values[f"p_{width}_1"] = 300.0
        return values

    def _target(self, device_id: str) -> Target:
        width = self.widths[device_id]
        return Target(
            device_id, "s", f"kind_{width}", "D", f"profile_{width}", _points(width), period_s=float(PERIOD_S)
        )

    def _rules(self, width: int) -> list[Rule]:
        params = Params(True, 3, 260.0, 2.0, 10.0, 5.0, 900.0)
        low = Params(True, 3, 180.0, 2.0, 10.0, 5.0, 900.0)
        plain = [
            Rule(
                rule_id=f"r_{width}_{number:03d}",
                signal=f"r_{width}_{number:03d}",
                comparison=Comparison.ABOVE if number % 2 else Comparison.BELOW,
                quantifier=Quantifier.ANY,
                points=(f"p_{width}_{number % width}",),
                unit="V",
                device_kinds=frozenset({f"kind_{width}"}),
                defaults=dict.fromkeys(CLASSES, params if number % 2 else low),
            )
            for number in range(RULES - 4)
        ]
        return plain + [self._special(width, *special) for special in SPECIAL]

    def _special(self, width: int, measure: Measure, count: int, expression: str | None, threshold: float) -> Rule:
        points = tuple(f"p_{width}_{number}" for number in range(count))
        params = Params(True, 3, threshold, 0.0, 10.0, 5.0, 900.0)
        return Rule(
            rule_id=f"r_{width}_{measure.value}",
            signal=f"r_{width}_{measure.value}",
            comparison=Comparison.ABOVE,
            quantifier=Quantifier.ANY,
            points=points,
            unit="1",
            device_kinds=frozenset({f"kind_{width}"}),
            defaults=dict.fromkeys(CLASSES, params),
            measure=measure,
            expression=None if expression is None else expression.format(*points),
        )


SPECIAL: tuple[tuple[Measure, int, str | None, float], ...] = (
    (Measure.RATE, 3, None, 5000.0),
    (Measure.UNBALANCE, 3, None, 90.0),
    (Measure.EXPRESSION, 3, "{0} / max({1}, {2}) * 100", 1000.0),
    (Measure.SILENCE, 0, None, 3.0),
)
"""Measure, number of points, formula and threshold of the rules that are no plain comparison."""


class Crowd:
    """So many devices of one kind that nobody would keep a description of each."""

    def __init__(self, devices: int, rules: int) -> None:
        """Make the rules; devices are described when somebody asks."""
        width = max(rules - 1, 1)
        params = Params(True, 3, 260.0, 2.0, 60.0, 20.0, 900.0)
        made = [
            Rule(
                rule_id=f"r_{number:03d}",
                signal=f"r_{number:03d}",
                comparison=Comparison.ABOVE,
                quantifier=Quantifier.ANY,
                points=(f"p_{number}",) if number < width else (),
                unit="V",
                device_kinds=frozenset(),
                defaults=dict.fromkeys(CLASSES, params if number < width else replace(params, threshold=3.0)),
                measure=Measure.VALUE if number < width else Measure.SILENCE,
            )
            for number in range(rules)
        ]
        self.book = RuleBook({rule.rule_id: rule for rule in made}, {}, {name: name for name in CLASSES}, 1)
        self.ids = [f"device-{number:07d}" for number in range(devices)]
        self._points = frozenset(f"p_{number}" for number in range(width))

    def target(self, device_id: str) -> Target | None:
        """Describe a device."""
        site = f"site-{int(device_id[7:]) // 20}"
        return Target(device_id, site, "meter", "D", "meter/1", self._points, period_s=60.0)

    def is_removed(self, device_id: str) -> bool:
        """No device goes away."""
        return False

    def suppliers(self, device_id: str) -> Sequence[frozenset[str]]:
        """No device lives on another."""
        return ()

    def carriers(self, device_id: str) -> frozenset[str]:
        """Every device has a way of its own."""
        return frozenset()


def measure_memory(
    *, devices: int = MEMORY_DEVICES, rules: int = MEMORY_RULES, not_normal: float = NOT_NORMAL
) -> Memory:
    """Judge one report of every device, with a share of devices times rules not NORMAL, as after a claim."""
    crowd = Crowd(devices, rules)
    gc.collect()
    before = _resident_bytes()
    sites = Sites(crowd)
    engine = Engine(book=crowd.book, directory=crowd, sites=sites, limits=Limits())
    start_us = to_us(START)
    engine.load((Judged(device_id, 0, start_us, start_us) for device_id in crowd.ids), [], [])
    episodes = 0
    every = max(round(1 / not_normal), 1)
    plain = sorted(rule_id for rule_id, rule in crowd.book.rules.items() if rule.measure is Measure.VALUE)
    for first in range(0, devices, MEMORY_BATCH):
        chunk = crowd.ids[first : first + MEMORY_BATCH]
        states = [
            (device_id, rule_id, _episode(place, device_id, rule_id, start_us))
            for number, device_id in enumerate(chunk, start=first)
            for place in range((-number * rules) % every, rules, every)
            if place < len(plain)
            for rule_id in (plain[place],)
        ]
        episodes += len(states)
        engine.load([], states, [])
        at_us = start_us + 30 * SECOND_US
        values = {f"p_{place}": 230.0 for place in range(rules - 1)}
        changes = Changes()
        engine.judge(
            Reports(
                device_ids=list(chunk),
                partitions=[0] * len(chunk),
                source_us=[at_us] * len(chunk),
                received_us=[at_us] * len(chunk),
                points=[
                    values | dict.fromkeys(_violated(number, rules, every), 300.0) for number in _numbers(first, chunk)
                ],
                bad=[None] * len(chunk),
            ),
            changes,
        )
    sites.load(engine.standings({0}), [], [], [])
    gc.collect()
    state = _resident_bytes() - before
    engine.tick(0, start_us + 31 * SECOND_US, Changes())
    started = time.perf_counter()
    engine.tick(0, start_us + 33 * SECOND_US, Changes())
    scan_s = time.perf_counter() - started
    return Memory(devices, rules, episodes, state / 1e6, _resident_bytes() / 1e6, scan_s * 1000)


def _numbers(first: int, chunk: Sequence[str]) -> range:
    return range(first, first + len(chunk))


def _violated(number: int, rules: int, every: int) -> list[str]:
    """Return the points of a device that stay beyond their limits, so that its episodes stay."""
    return [f"p_{place}" for place in range((-number * rules) % every, rules, every)]


def _episode(place: int, device_id: str, rule_id: str, at_us: int) -> Episode:
    active = place % 2 == 0
    return Episode(
        state=State.ACTIVE if active else State.PENDING,
        since_us=at_us,
        began_us=at_us,
        seen_us=at_us,
        values={f"p_{place}": 300.0},
        rule_version=1,
        site_id=f"site-{int(device_id[7:]) // 20}",
        signal=rule_id,
        level=3,
        alarm_id=alarm_id_of(device_id, rule_id, at_us) if active else None,
        sequence=1 if active else 0,
        raised_us=at_us if active else None,
    )


def _resident_bytes() -> int:
    """Return the resident memory of this process, of Linux."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _points(width: int) -> frozenset[str]:
    return frozenset(f"p_{width}_{number}" for number in range(width))


def measure(*, rounds: int = 20, devices: int = DEVICES) -> Result:
    """Decode and judge ``rounds`` reports of every device, ``PERIOD_S`` of event time apart."""
    mix = Mix(devices=devices)
    batches = [mix.messages(PERIOD_S * number) for number in range(rounds + 1)]
    _judge(mix, batches[0])
    decode_s = judge_s = 0.0
    steps = 0
    for batch in batches[1:]:
        decode, judge, found = _judge(mix, batch)
        decode_s, judge_s, steps = decode_s + decode, judge_s + judge, steps + found
    reports = rounds * devices
    points = rounds * sum(mix.widths.values())
    return Result(
        points_per_s=points / (decode_s + judge_s),
        reports_per_s=reports / (decode_s + judge_s),
        decode_us=decode_s / reports * SECOND_US,
        judge_us=judge_s / reports * SECOND_US,
        steps=steps,
    )


def _judge(mix: Mix, batch: Sequence[Received]) -> tuple[float, float, int]:
    """Return seconds of decoding, seconds of judging, and the steps."""
    changes = Changes()
    started = time.perf_counter()
    readings = read_readings(batch, max_future_us=300 * SECOND_US)
    decoded = time.perf_counter()
    mix.engine.judge(readings.reports, changes)
    for partition, clock_us in readings.clocks.items():
        mix.engine.tick(partition, clock_us, changes)
    return decoded - started, time.perf_counter() - decoded, len(changes.steps)


def main() -> int:
    """Print the result as JSON."""
    result: Result | Memory = measure_memory() if "--memory" in sys.argv[1:] else measure()
    sys.stdout.write(json.dumps(asdict(result), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
