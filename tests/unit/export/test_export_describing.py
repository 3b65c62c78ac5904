"""Descriptions that centres write: what they change in a mapping, which thresholds they order, why they are refused."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.export.dialects.messages import (
    DeviceDetail,
    DeviceOrder,
    DeviceRef,
    DeviceValues,
    PointOrder,
    PointType,
    PointValue,
    SignalOrder,
    ThresholdValue,
    ValueState,
)
from services.export.domain.describing import Description, Unfit, applied, judge_descriptions, listed
from services.export.domain.description import described
from services.export.domain.mapping import MappedDevice, MappedPoint, Mapping, SourceKind
from services.export.domain.pushing import Held, changes, together

FIRST, SECOND = DeviceRef("00001"), DeviceRef("00002")
ALARM, MEASURED = "092004-001", "092301-001"
HELD = {("00001", ALARM): ThresholdValue(ALARM, PointType.DI, 260.0, 3)}


def point(point_id: str, kind: SourceKind, source: str, type_: PointType, device: str = "00001") -> MappedPoint:
    return MappedPoint(device_id="m-1", kind=kind, source=source, sc_device_id=device, point_id=point_id, type=type_)


TABLE = Mapping(
    devices=(MappedDevice(ref=FIRST, name="柜", details={DeviceDetail.BRAND: "A"}), MappedDevice(ref=SECOND)),
    points=(
        point(ALARM, SourceKind.SIGNAL, "0s16003001", PointType.DI),
        point(MEASURED, SourceKind.POINT, "voltage_a", PointType.AI),
    ),
)


def order(*signals: SignalOrder, device: DeviceRef = FIRST, **changes: Any) -> DeviceOrder:
    return DeviceOrder(device, signals=signals, **changes)


def test_what_is_said_changes_and_what_is_not_stays() -> None:
    signal = SignalOrder(ALARM, PointType.DI, "过压", 265.0, 2, "6" * 14)
    details = {DeviceDetail.BRAND: "", DeviceDetail.SITE_ID: "440106"}
    [found] = judge_descriptions([order(signal, name="一号柜", details=details)], TABLE, HELD)
    assert isinstance(found, Description)
    assert found.thresholds == (PointOrder(FIRST, ALARM, 265.0, PointType.DI),)
    after = applied(TABLE, [found])
    assert after.devices == (
        MappedDevice(ref=FIRST, name="一号柜", details={DeviceDetail.SITE_ID: "440106"}), TABLE.devices[1]
    )  # fmt: skip
    assert after.points == (
        replace(TABLE.points[0], name="过压", level=2, network_alarm="6" * 14), TABLE.points[1]
    )  # fmt: skip


def test_a_description_said_back_as_it_was_told_changes_nothing() -> None:
    for told in described(TABLE, HELD):
        back = DeviceOrder(
            told.device,
            told.name,
            dict.fromkeys(DeviceDetail, "") | dict(told.details),
            tuple(
                SignalOrder(one.point_id, one.type, one.name, one.threshold, one.level, one.network_alarm)
                for one in told.signals
            ),
        )
        [found] = judge_descriptions([back], TABLE, HELD)
        assert isinstance(found, Description)
        assert (found.points, found.thresholds) == ((), ())
        assert applied(TABLE, [found]) == TABLE
    # Said twice it is the same once the first has been written.
    wanted = order(SignalOrder(ALARM, level=1, network_alarm="7"), name="x")
    [once] = judge_descriptions([wanted], TABLE, HELD)
    assert isinstance(once, Description)
    after = applied(TABLE, [once])
    [again] = judge_descriptions([wanted], after, HELD)
    assert isinstance(again, Description)
    assert applied(after, [again]) == after


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (order(device=DeviceRef("00009")), Unfit.NOT_MAPPED),
        (order(SignalOrder("092009")), Unfit.NOT_MAPPED),
        (order(SignalOrder(MEASURED), device=SECOND), Unfit.NOT_MAPPED),
        (order(SignalOrder(ALARM, PointType.AI)), Unfit.OTHER_TYPE),
        (order(SignalOrder(ALARM, unreadable="level")), Unfit.UNREADABLE),
        (order(SignalOrder(ALARM), SignalOrder(ALARM)), Unfit.TWICE),
        (order(SignalOrder(MEASURED, threshold=1.0)), Unfit.NO_THRESHOLD),
        (order(name="柜" * 67), Unfit.TOO_LONG),
        (order(details={DeviceDetail.REMARK: "x" * 201}), Unfit.TOO_LONG),
        (order(SignalOrder(ALARM, network_alarm="6" * 201)), Unfit.TOO_LONG),
    ],
)
def test_what_cannot_be_is_refused_whole(wanted: DeviceOrder, why: Unfit) -> None:
    good = order(device=SECOND, name="ok") if wanted.device != SECOND else order(name="ok")
    first, second = judge_descriptions([wanted, good], TABLE, HELD)
    assert first is why
    assert isinstance(second, Description), "another device of the message is taken"


def test_a_device_said_twice_is_neither_and_unknown_thresholds_are_not_guessed() -> None:
    assert judge_descriptions([order(name="a"), order(name="b")], TABLE, HELD) == [Unfit.TWICE] * 2
    assert listed([order(), order(), order(device=SECOND)], [True, False, True]) == ((SECOND,), (FIRST,))
    [unknown] = judge_descriptions([order(SignalOrder(ALARM, threshold=260.0))], TABLE, None)
    assert unknown is Unfit.NOT_KNOWN
    [plain] = judge_descriptions([order(SignalOrder(ALARM, name="x"))], TABLE, None)
    assert isinstance(plain, Description)


# ---- signals of before -------------------------------------------------------------------------------

START = datetime(2026, 3, 8, 6, tzinfo=UTC)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def held(began: float, ended: float | None, level: int = 3, signal: str = "0s16003001") -> Held:
    return Held("m-1", signal, level, at(began), None if ended is None else at(ended))


@pytest.mark.parametrize(
    ("alarms", "expected"),
    [
        ([], [(0, 0)]),
        ([held(1, 2)], [(0, 0), (1, 1), (2, 0)]),
        ([held(-1, 2), held(1, None, 2)], [(0, 1), (1, 1)]),
        ([held(-1, None)], [(0, 1)]),
        ([held(1, 2), held(1.5, 3)], [(0, 0), (1, 1), (3, 0)]),
        ([held(4, None)], [(0, 0), (4, 1)]),
        ([held(1, None, signal="0s16001001")], [(0, 0)]),
    ],
    ids=["none", "begins and ends", "grows worse", "holds all along", "two at once", "at the end", "another signal"],
)
def test_a_signal_of_before_is_told_by_its_changes(alarms: list[Held], expected: list[tuple[float, float]]) -> None:
    [told] = changes(TABLE, alarms, START, at(4))
    assert told.device == FIRST
    values = [(one.recorded_at, one.value) for one in told.values]
    assert values == [(at(hour), value) for hour, value in expected]
    assert all((one.state is ValueState.NORMAL) == (one.value == 0) for one in told.values)


def test_no_time_has_no_changes_and_values_of_a_device_stand_together() -> None:
    assert changes(TABLE, [held(0, 1)], at(1), at(1)) == ()
    one = DeviceValues(FIRST, (PointValue("1", PointType.AI, 1.0, ValueState.NORMAL, START),))
    other = replace(one, device=SECOND)
    assert together((one,), (one, other)) == (replace(one, values=one.values * 2), other)
