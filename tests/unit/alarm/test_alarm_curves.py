"""Measured curves with injected faults, judged by the shipped rules; what is expected is counted from the samples."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from libs.common.points import POINTS
from libs.fieldsim.curves import NOMINAL_VOLTAGE_RATIO, dwelling
from services.alarm.dictionary import load_shipped
from services.alarm.domain.engine import Changes, Engine, Limits, Reports
from services.alarm.domain.model import Comparison, Rule
from services.alarm.domain.rulebook import RuleBook
from services.alarm.domain.ruledata import make_rule
from services.alarm.domain.sites import SiteLimits, Sites
from tests.unit.alarm.alarm_builders import CLASS_MAP, PHASES, Devices, rule, seconds, target, us

MINUTE_S = 60
MINUTES = 2 * 24 * 60
SHIFT_S = 8 * 3600
DELAY_S, END_DELAY_S = 180, 20
"""Of the shipped rules on voltage and silence, class D."""
SILENT_AFTER_S = 3 * MINUTE_S
BEGIN_S = 1_700_000_000
NATURAL_V = 234.0
"""The measured voltage itself goes beyond this now and then."""

FAILURE, HIGH, LOW, PHASE_LOST, SILENT = "0s16001001", "0s16002001", "0s16003001", "0s16004001", "0s19012001"


@dataclass(frozen=True)
class Fault:
    """From one minute to before another the phases show a value; None is no report at all."""

    first: int
    after: int
    phases: tuple[int, ...]
    volts: float | None
    bad: bool = False


FAULTS = (
    Fault(100, 110, (0, 1, 2), 0.0),
    Fault(200, 202, (0, 1, 2), 0.0),  # over before the delay
    Fault(300, 304, (0,), 20.0),
    Fault(400, 403, (1,), 270.0),  # contradicted at the very moment the delay runs out
    Fault(500, 504, (1,), 270.0),
    Fault(600, 603, (), None),  # too short for silence
    Fault(700, 720, (), None),
    Fault(800, 810, (0,), 0.0, bad=True),
    Fault(900, 905, (0, 1, 2), 0.0),
    Fault(905, 925, (), None),  # the last gasp of a device without supply
    Fault(1500, 2000, (2,), 150.0),
)

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Alarm = tuple[str, float, float | None]
"""Rule, begin and end. [s]"""


def curve() -> tuple[Floats, Floats, Bools]:
    """Seconds of the reports, volts of three phases, and which of them are bad."""
    minutes = np.arange(MINUTES)
    voltage = dwelling().voltage
    volts: Floats = np.array(
        [
            [voltage.at(BEGIN_S + minute * MINUTE_S - phase * SHIFT_S) * NOMINAL_VOLTAGE_RATIO for phase in range(3)]
            for minute in minutes.tolist()
        ],
        dtype=np.float64,
    )  # fmt: skip
    bad: Bools = np.zeros(volts.shape, dtype=np.bool_)
    there: Bools = np.ones(MINUTES, dtype=np.bool_)
    for fault in FAULTS:
        if fault.volts is None:
            there[fault.first : fault.after] = False
        for phase in fault.phases:
            volts[fault.first : fault.after, phase] = fault.volts
            bad[fault.first : fault.after, phase] = fault.bad
    times: Floats = minutes[there].astype(np.float64) * MINUTE_S
    return times, volts[there], bad[there]


def counted(name: str, times: Floats, violated: Bools, *, delay_s: float) -> list[Alarm]:
    """Alarms as runs of violated samples: a run counts when the next sample comes after the delay.

    Runs with no more than the end delay between them are one.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], violated, [False]]).astype(np.int8)))
    found: list[Alarm] = []
    for first, after in edges.reshape(-1, 2).tolist():
        begin = float(times[first])
        end = float(times[after]) if after < len(times) else None
        if found and found[-1][2] is not None and begin - found[-1][2] <= END_DELAY_S:
            found[-1] = (name, found[-1][1], end)
        elif (np.inf if end is None else end) - begin > delay_s:
            found.append((name, begin, end))
    return found


def _all(phases: Bools) -> Bools:
    return np.asarray(np.all(phases, axis=1), dtype=np.bool_)


def _any(phases: Bools) -> Bools:
    return np.asarray(np.any(phases, axis=1), dtype=np.bool_)


def expected() -> list[Alarm]:
    times, volts, bad = curve()
    known = ~bad
    low, high = (volts < 160) & known, (volts > 260) & known
    dead = (volts < 90) & known
    natural = (volts > NATURAL_V) & known
    sure, all_dead, one_dead = _all(known), _all(dead), _any(dead)
    alarms = [
        *counted(FAILURE, times[sure], all_dead[sure], delay_s=DELAY_S),
        *counted(PHASE_LOST, times[sure], (one_dead & ~all_dead)[sure], delay_s=DELAY_S),
    ]
    for name, phases, delay_s in ((HIGH, high, DELAY_S), (LOW, low, DELAY_S), ("natural", natural, 0)):
        # One phase is enough, whatever a bad one would have said; without any, a bad one leaves it open.
        one = _any(phases)
        decided = sure | one
        alarms += counted(name, times[decided], one[decided], delay_s=delay_s)
    for before, after in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        if after - before > SILENT_AFTER_S + DELAY_S:
            alarms.append((SILENT, before + SILENT_AFTER_S, after))
    return sorted(alarms, key=str)


def rules() -> list[Rule]:
    table = load_shipped()
    shipped = [make_rule(row, table.signals[row.signal], 1) for row in table.rules.values()]
    natural = rule(
        "natural", comparison=Comparison.ABOVE, threshold=NATURAL_V, start_delay_s=0.0, end_delay_s=float(END_DELAY_S)
    )
    return [*shipped, natural]


@pytest.mark.parametrize("size", [1, 5000])
def test_the_shipped_rules_find_every_injected_fault_and_nothing_else(size: int) -> None:
    times, volts, bad = curve()
    directory = Devices(target(points=frozenset(POINTS), period_s=float(MINUTE_S)))
    engine = Engine(
        book=RuleBook({one.rule_id: one for one in rules()}, {}, CLASS_MAP, 1),
        directory=directory,
        sites=Sites(directory, SiteLimits(storm_count=10_000)),
        limits=Limits(flap_count=10_000),
    )
    found: dict[str, Alarm] = {}
    for first in range(0, len(times), size):
        chunk = slice(first, first + size)
        changes = Changes()
        batch = Reports()
        for at_s, row, flagged in zip(times[chunk].tolist(), volts[chunk].tolist(), bad[chunk].tolist(), strict=True):
            batch.device_ids.append("m-1")
            batch.partitions.append(0)
            batch.source_us.append(us(at_s))
            batch.received_us.append(us(at_s))
            batch.points.append(dict(zip(PHASES, row, strict=True)))
            batch.bad.append([name for name, is_bad in zip(PHASES, flagged, strict=True) if is_bad] or None)
        engine.judge(batch, changes)
        engine.tick(0, batch.received_us[-1], changes)
        for step in changes.steps:
            assert step.phase != "end" or step.alarm_id in found
            found[step.alarm_id] = (step.rule_id, seconds(step.began_us) or 0.0, seconds(step.ended_us))
    assert sorted(found.values(), key=str) == expected()


def test_the_faults_are_those_that_were_meant() -> None:
    """The count by itself, so that an error in both programs does not go unseen."""
    by_rule = {name: sorted(alarm[1:] for alarm in expected() if alarm[0] == name) for name in (FAILURE, HIGH, SILENT)}
    assert by_rule[FAILURE] == [(6000.0, 6600.0), (54_000.0, 55_500.0)]
    assert by_rule[HIGH] == [(30_000.0, 30_240.0)]
    assert by_rule[SILENT] == [(699 * 60 + 180.0, 43_200.0), (904 * 60 + 180.0, 55_500.0)]
    assert len([alarm for alarm in expected() if alarm[0] == "natural"]) > 5
