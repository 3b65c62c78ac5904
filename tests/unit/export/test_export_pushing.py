"""Values that units push and what follows of those that a centre has missed; what is told of devices and points."""

import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.export.dialects.messages import (
    DeviceOutcome,
    DeviceRef,
    DeviceSelection,
    DeviceValues,
    PointType,
    PointValue,
    RuleOrder,
    ThresholdValue,
    ValueState,
)
from services.export.domain.connection import UnitKey
from services.export.domain.description import described
from services.export.domain.mapping import MappedDevice, MappedPoint, Mapping, SourceKind
from services.export.domain.options import options_of
from services.export.domain.pushing import AT_ONCE, MOST_BACK, Rhythm, known_values, missed
from services.export.domain.storage import kept, rules_of

NOW = datetime(2026, 3, 8, tzinfo=UTC)
ONE, OTHER = UnitKey(1), UnitKey(2)


def test_each_unit_has_its_own_time() -> None:
    rhythm = Rhythm()
    assert rhythm.due(ONE, 10.0)
    rhythm.pushed(ONE, 10.0, 300)
    assert not rhythm.due(ONE, 309.9)
    assert rhythm.due(ONE, 310.0)
    assert rhythm.due(OTHER, 10.0)


def test_what_is_not_known_is_not_pushed() -> None:
    known = PointValue("1", PointType.AI, 2.0, ValueState.NORMAL, NOW)
    stale = PointValue("2", PointType.AI, None, ValueState.INVALID)
    both, none = DeviceRef("a"), DeviceRef("b")
    pushed = known_values([DeviceValues(both, (known, stale)), DeviceValues(none, (stale,))])
    assert pushed == (DeviceValues(both, (known,)),)


def test_a_centre_that_was_told_lately_or_never_has_missed_nothing() -> None:
    assert missed(None, NOW, 300) is None
    assert missed(NOW - timedelta(seconds=750), NOW, 300) is None
    assert missed(NOW - timedelta(seconds=751), NOW, 300) == (NOW - timedelta(seconds=751), NOW)


@given(away=st.timedeltas(min_value=timedelta(), max_value=timedelta(days=400)), every_s=st.floats(1, 86_400))
def test_all_that_was_missed_follows_in_order_without_gaps_and_ends(away: timedelta, every_s: float) -> None:
    told = start = NOW - away
    spans = []
    while (span := missed(told, NOW, every_s)) is not None:
        spans.append(span)
        told = span[1]
        assert len(spans) <= MOST_BACK / AT_ONCE + 1
    for (begin, end), following in itertools.pairwise(spans):
        assert begin < end == following[0]
    if spans:
        assert spans[0][0] == max(start, NOW - MOST_BACK)
        assert NOW - spans[-1][1] <= timedelta(seconds=2.5 * every_s)


def test_a_point_without_templates_uses_its_only_option() -> None:
    one = MappedPoint(device_id="m-1", kind=SourceKind.SIGNAL, source="x", sc_device_id="a", point_id="1",
                      type=PointType.DI)  # fmt: skip
    mapping = Mapping(devices=(MappedDevice(ref=DeviceRef("a")),), points=(one,))
    a = DeviceRef("a")
    [found] = options_of(mapping, (DeviceSelection(a, ("1", "2")),))
    assert [(each.point_id, each.option_id) for each in found.options] == [("1", "1")]
    assert options_of(mapping, (DeviceSelection(None, None),)) == (found,)


def test_measured_points_are_stored_by_the_hour_and_in_no_other_way() -> None:
    def point(point_id: str, kind: SourceKind) -> MappedPoint:
        return MappedPoint(device_id="m-1", kind=kind, source="voltage_a", sc_device_id="a", point_id=point_id,
                           type=PointType.AI)  # fmt: skip

    a = DeviceRef("a")
    mapping = Mapping(
        devices=(MappedDevice(ref=a),), points=(point("1", SourceKind.POINT), point("2", SourceKind.SIGNAL))
    )
    [found] = rules_of(mapping, (DeviceSelection(None, None),), NOW)
    [rule] = found.rules
    assert (rule.point_id, rule.interval_min, rule.reference.isoformat()) == ("1", 60, "2026-03-08T00:00:00+08:00")
    assert kept(mapping, [RuleOrder(a, "1", 60.0)]) == (DeviceOutcome(a, ("1",), ()),)
    for order in (RuleOrder(a, "1", 5.0), RuleOrder(a, "1", None), RuleOrder(a, "1", 60.0, absolute=1.0)):
        assert kept(mapping, [order]) == (DeviceOutcome(a, (), ("1",)),)
    assert kept(mapping, [RuleOrder(a, "2", 60.0)]) == (DeviceOutcome(a, (), ("2",)),)


def test_a_device_is_described_as_mapped_with_the_thresholds_that_are_known() -> None:
    def point(point_id: str, level: int | None = None) -> MappedPoint:
        return MappedPoint(device_id="m-1", kind=SourceKind.SIGNAL, source="x", sc_device_id="a", point_id=point_id,
                           type=PointType.DI, name="过压", level=level)  # fmt: skip

    mapping = Mapping(
        devices=(MappedDevice(ref=DeviceRef("a"), name="柜"), MappedDevice(ref=DeviceRef("b"))),
        points=(point("1"), point("2", level=2), point("3")),
    )
    held = {
        ("a", "1"): ThresholdValue("1", PointType.DI, 260.0, 3),
        ("a", "2"): ThresholdValue("2", PointType.DI, None, 0),
    }
    [first] = described(mapping, held, only="a")
    assert [(one.threshold, one.level) for one in first.signals] == [(260.0, 3), (None, 2), (None, None)]
    assert [each.device.device_id for each in described(mapping, {})] == ["a", "b"]
    assert described(mapping, {}, only="c") == ()
