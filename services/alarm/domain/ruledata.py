"""Rules as people write them down, and what must be true of one before it is taken.

A rule names a signal of the table; levels, thresholds and delays are those of its signal unless the rule gives its own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from libs.common.contracts.base import JsonObject
from libs.common.points import POINTS, PointKind
from libs.common.units import UnknownUnit
from libs.common.units import unit_of as unit_written
from services.alarm.domain.expressions import InvalidExpression, parse
from services.alarm.domain.model import (
    CLASSES,
    Band,
    Comparison,
    Measure,
    Need,
    NoData,
    Params,
    Quantifier,
    Rule,
    Signal,
    SignalKind,
)
from services.alarm.domain.rulebook import Fault, Override, Scope, override_faults

RULE_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
RESERVED = frozenset({"effective", "thresholds", "device-events", "device-settings", "energy"})
"""Words that paths of the API have in the place of an id."""
MAX_POINTS = 50
"""Points of one rule."""
RELATIVE_HUMIDITY = "%RH"
"""How tables write the per cent of humidity."""
GROUP = re.compile(r"^[a-z][a-z0-9_]{0,63}$")
PLAUSIBLE: Mapping[str, tuple[float | None, float | None]] = {
    point.name: (point.plausible_min, point.plausible_max) for point in POINTS.values()
}
"""Point to the least and the greatest value that it can have."""


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A rule as it is written down; what is None is as the signal has it."""

    rule_id: str
    signal: str
    comparison: Comparison
    quantifier: Quantifier
    points: tuple[str, ...]
    unit: str
    device_kinds: tuple[str, ...]
    band: Band | None
    group: str | None
    needs: frozenset[Need]
    takes: Need | None
    threshold: float | None
    """In place of the signal's, for all classes; the states of the dictionary have no number."""
    hysteresis: float
    max_gap_s: float
    enabled: bool = True
    level: int | None = None
    """In place of the signal's, for all classes."""
    start_delay_s: float | None = None
    end_delay_s: float | None = None
    measure: Measure = Measure.VALUE
    expression: str | None = None
    """The formula over the points, where that is the measure."""
    no_data: NoData = NoData.HOLD


def unit_of(measure: Measure, unit: str) -> str | None:
    """Return the unit of what a rule compares, None when whoever writes the rule names it.

    Args:
        measure: What is made of the points.
        unit: Of a point.
    """
    if measure is Measure.EXPRESSION:
        return None
    if measure is Measure.RATE:
        return f"{unit}/min"
    return {Measure.VALUE: unit, Measure.AGE: "s", Measure.RATED: "%", Measure.UNBALANCE: "%"}.get(measure, "1")


def make_rule(row: RuleRow, signal: Signal, version: int) -> Rule:
    """Return the rule with its parameters per station class."""
    defaults: dict[str, Params] = {}
    for station_class in CLASSES:
        threshold = row.threshold if row.threshold is not None else signal.thresholds.get(station_class)
        defaults[station_class] = Params(
            enabled=row.enabled,
            level=row.level if row.level is not None else signal.levels.get(station_class),
            threshold=threshold,
            hysteresis=row.hysteresis,
            start_delay_s=row.start_delay_s if row.start_delay_s is not None else signal.start_delay_s,
            end_delay_s=row.end_delay_s if row.end_delay_s is not None else signal.end_delay_s,
            max_gap_s=row.max_gap_s,
            no_data=row.no_data,
        )
    return Rule(
        rule_id=row.rule_id,
        signal=row.signal,
        comparison=row.comparison,
        quantifier=row.quantifier,
        points=row.points,
        unit=row.unit,
        device_kinds=frozenset(row.device_kinds),
        defaults=defaults,
        band=row.band,
        group=row.group,
        needs=row.needs,
        takes=row.takes,
        version=version,
        measure=row.measure,
        expression=row.expression,
    )


def rule_faults(row: RuleRow, signal: Signal | None, *, kinds: Mapping[str, frozenset[str]]) -> list[Fault]:
    """Return what is wrong with a rule by itself.

    Args:
        row: The rule.
        signal: The one that it names, None when there is none.
        kinds: Kind of device to the numeric points that devices of the kind report, by the known profiles.
    """
    faults: list[Fault] = []
    if RULE_ID.fullmatch(row.rule_id) is None or row.rule_id in RESERVED:
        what = "up to 100 letters, digits, points, hyphens and underscores"
        faults.append(Fault("rule_id", what, "不超过 100 个字母、数字、点、连字符或下划线", row.rule_id[:100]))
    faults += _named_faults(row, signal)
    faults += _point_faults(row)
    faults += _shape_faults(row)
    if not faults:
        faults += _reach_faults(row, kinds)
    if not faults:
        faults += _number_faults(row)
    if not faults and signal is not None:
        faults += signal_faults(row, signal)
    return faults


def is_unit(written: str, unit: str) -> bool:
    """Return whether a unit, however it is written, is this one."""
    try:
        return unit_written("%" if written == RELATIVE_HUMIDITY else written).symbol == unit
    except UnknownUnit:
        return written == unit  # of something that is made of points: degC/min


def signal_faults(row: RuleRow, signal: Signal) -> list[Fault]:
    """Return why a rule cannot compare with the thresholds of its signal: they are never converted in silence."""
    if row.threshold is not None or not signal.thresholds:
        return []
    if signal.unit is not None and not is_unit(signal.unit, row.unit):
        what, what_zh = f"{signal.unit}, the unit of {signal.code}", f"{signal.code} 的单位 {signal.unit}"
        return [Fault("unit", what, what_zh, row.unit)]
    faults: dict[Fault, None] = {}
    for threshold in signal.thresholds.values():
        wanted = Override(row.rule_id, Scope.DEVICE_KIND, "", 0, threshold=threshold)
        faults |= dict.fromkeys(override_faults(wanted, row, plausible=PLAUSIBLE))
    return list(faults)


def _named_faults(row: RuleRow, signal: Signal | None) -> list[Fault]:
    if signal is None or signal.retired:
        return [Fault("signal", "the code of a signal of the table", "信号表中的信号编码", row.signal)]
    if signal.kind is not SignalKind.DI:
        return [Fault("signal", "a signal that is an alarm (遥信 or 阈值)", "告警类信号(遥信或阈值)", f"{signal.kind}")]
    return []


def _point_faults(row: RuleRow) -> list[Fault]:
    if row.measure is Measure.SILENCE:
        return _silence_faults(row)
    faults: list[Fault] = []
    if not 1 <= len(row.points) <= MAX_POINTS:
        faults.append(Fault("points", f"1 to {MAX_POINTS} points", f"1 至 {MAX_POINTS} 个测点", len(row.points)))
    for name in dict.fromkeys(row.points):
        if row.points.count(name) > 1:
            faults.append(Fault("points", "each point once", "每个测点只出现一次", name))
        point = POINTS.get(name)
        if point is None or point.kind is PointKind.TEXT:
            faults.append(Fault("points", "numeric points of the platform", "平台的数值测点", name))
        elif (unit := unit_of(row.measure, point.unit)) not in (None, row.unit):
            what = name if row.measure is Measure.VALUE else f"{row.measure} of {name}"
            faults.append(Fault("unit", f"{unit}, the unit of {what}", f"{name} 的单位 {unit}", row.unit))
    return faults + _expression_faults(row)


def _silence_faults(row: RuleRow) -> list[Fault]:
    faults: list[Fault] = []
    if row.points:
        faults.append(Fault("points", "no points, where silence is judged", "判断失联时不填测点", " ".join(row.points)))
    if row.unit != "1":
        faults.append(Fault("unit", "1: reports missed in a row", "1(连续缺报次数)", row.unit))
    if row.comparison is not Comparison.ABOVE:
        faults.append(Fault("comparison", "above, where silence is judged", "判断失联时为 above", row.comparison))
    return faults + _expression_faults(row)


def _expression_faults(row: RuleRow) -> list[Fault]:
    if row.measure is not Measure.EXPRESSION:
        if row.expression is None:
            return []
        what_zh = "仅当 measure 为 expression 时填写公式"
        return [Fault("expression", "nothing, unless the measure is expression", what_zh, row.expression)]
    try:
        used = parse(row.expression or "", POINTS).points
    except InvalidExpression as exc:
        return [Fault("expression", exc.expected, exc.expected_zh, exc.found)]
    if set(used) == set(row.points):
        return []
    wanted = " ".join(used)
    return [Fault("points", f"those of the formula: {wanted}", f"公式中的测点:{wanted}", " ".join(row.points))]


def _shape_faults(row: RuleRow) -> list[Fault]:
    faults: list[Fault] = []
    if row.measure is Measure.UNBALANCE and len(row.points) < 2:
        faults.append(Fault("points", "at least two phases", "至少两相", len(row.points)))
    if row.quantifier is Quantifier.SOME and len(row.points) < 2:
        faults.append(Fault("quantifier", "any or all, with a single point", "单个测点时为 any 或 all", row.quantifier))
    if (row.band is None) != (row.group is None):
        what_zh = "band 与 group 同时给出或都不给出"
        faults.append(Fault("group", "band and group together, or neither", what_zh, row.group))
    if row.group is not None and GROUP.fullmatch(row.group) is None:
        what = "lower case words joined with underscores"
        faults.append(Fault("group", what, "小写单词,以下划线连接", row.group[:100]))
    if row.band is not None:
        wanted = Comparison.ABOVE if row.band in (Band.HIGH, Band.HIGH_HIGH) else Comparison.BELOW
        if row.comparison is not wanted:
            faults.append(Fault("comparison", f"{wanted}, for {row.band}", f"{row.band} 对应 {wanted}", row.comparison))
    return faults


def _reach_faults(row: RuleRow, kinds: Mapping[str, frozenset[str]]) -> list[Fault]:
    """Return a fault for each kind of which no known device has what the rule judges."""
    wanted = ", ".join(row.points)
    if not row.device_kinds:
        if any(_judges(row, there) for there in kinds.values()):
            return []
        return [
            Fault("points", "points that a known device profile reports", "已有设备模板上报的测点", wanted),
        ]
    faults: list[Fault] = []
    for kind in row.device_kinds:
        there = kinds.get(kind)
        if there is None:
            known = ", ".join(sorted(kinds))
            faults.append(Fault("device_kinds", f"kinds of known devices: {known}", f"已知的设备类型:{known}", kind))
        elif not _judges(row, there):
            faults.append(
                Fault("device_kinds", f"a kind whose profiles report {wanted}", f"模板上报 {wanted} 的设备类型", kind)
            )
    return faults


def _judges(row: RuleRow, there: frozenset[str]) -> bool:
    """Return whether a rule can judge a device with these points: see ``rulebook.applies``."""
    if row.measure is Measure.SILENCE:
        return bool(there)
    if row.measure in (Measure.UNBALANCE, Measure.EXPRESSION):
        return there.issuperset(row.points)
    return len(there.intersection(row.points)) >= (2 if row.quantifier is Quantifier.SOME else 1)


def _number_faults(row: RuleRow) -> list[Fault]:
    numbers = Override(
        rule_id=row.rule_id,
        scope=Scope.DEVICE_KIND,
        scope_id="",
        version=0,
        level=row.level,
        threshold=row.threshold,
        hysteresis=row.hysteresis,
        start_delay_s=row.start_delay_s,
        end_delay_s=row.end_delay_s,
        max_gap_s=row.max_gap_s,
    )
    return override_faults(numbers, row, plausible=PLAUSIBLE)


def change_faults(row: RuleRow, before: RuleRow, overrides: Sequence[Override]) -> list[Fault]:
    """Return why a rule cannot become another: numbers of its overrides would mean something else."""
    numbers = [one for one in overrides if one.threshold is not None or one.hysteresis is not None]
    if not numbers:
        return []
    what = next((one for one in ("measure", "unit", "comparison") if getattr(row, one) != getattr(before, one)), None)
    if what is None:
        return [
            Fault(
                "points",
                f"points that can be what the override of {one.scope}:{one.scope_id} says ({fault.found})",
                f"取值范围包含覆盖设置 {one.scope}:{one.scope_id} 的测点({fault.found})",
                ", ".join(row.points),
            )
            for one in numbers
            for fault in override_faults(one, row, plausible=PLAUSIBLE)
        ]
    where = ", ".join(f"{one.scope}:{one.scope_id}" for one in numbers[:5])
    was = getattr(before, what)
    return [
        Fault(
            what,
            f"{was}, while overrides give numbers for it ({where}); take them back first",
            f"{was}:存在带数值的覆盖设置({where}),请先撤销",
            getattr(row, what),
        )
    ]


def definition_of(row: RuleRow) -> JsonObject:
    """Return a rule as JSON, for its history and the audit log."""
    return {
        "signal": row.signal,
        "comparison": row.comparison.value,
        "quantifier": row.quantifier.value,
        "points": list(row.points),
        "unit": row.unit,
        "device_kinds": list(row.device_kinds),
        "band": None if row.band is None else row.band.value,
        "group": row.group,
        "needs": [need.value for need in sorted(row.needs)],
        "takes": None if row.takes is None else row.takes.value,
        "threshold": row.threshold,
        "hysteresis": row.hysteresis,
        "max_gap_s": row.max_gap_s,
        "enabled": row.enabled,
        "level": row.level,
        "start_delay_s": row.start_delay_s,
        "end_delay_s": row.end_delay_s,
        "measure": row.measure.value,
        "expression": row.expression,
        "no_data": row.no_data.value,
    }
