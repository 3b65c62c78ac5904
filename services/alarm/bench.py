"""How many points a second one core decodes and judges: mixed profiles, many rules, a few violations.

``python -m services.alarm.bench`` prints JSON. The mix is that of the dry run it is compared with: five profiles
of 20 to 60 points, 100 rules each with hysteresis and both delays, one report in a hundred with a violation. A
violation lasts five reports, longer than the start delay, and then goes to another device.
Nothing is stored: database and bus are measured by the benchmark of the whole chain.
"""

import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import orjson

from libs.common.bus import topics
from libs.common.bus.port import Received
from services.alarm.bus import read_readings
from services.alarm.domain.engine import Changes, Engine, Limits
from services.alarm.domain.model import CLASSES, SECOND_US, Comparison, Params, Quantifier, Rule
from services.alarm.domain.rulebook import RuleBook, Target
from services.alarm.domain.sites import Sites

WIDTHS = (20, 25, 30, 40, 60)
"""Points of the five profiles."""
RULES = 100
DEVICES = 3000
ONE_IN = 100
"""Of so many reports one has a violation."""
PERIOD_S = 5
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
        return Target(device_id, "s", f"kind_{width}", "D", f"profile_{width}", _points(width))

    def _rules(self, width: int) -> list[Rule]:
        params = Params(True, 3, 260.0, 2.0, 10.0, 5.0, 900.0)
        low = Params(True, 3, 180.0, 2.0, 10.0, 5.0, 900.0)
        return [
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
            for number in range(RULES)
        ]


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
    sys.stdout.write(json.dumps(asdict(measure()), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
