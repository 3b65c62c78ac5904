"""What a centre may order: nothing that is not written down, and every number read as it was agreed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.export.dialects.messages import DeviceRef, PointOrder, PointType
from services.export.domain.mapping import MappedDevice, MappedPoint, Mapping, SourceKind
from services.export.domain.permits import (
    NOTHING,
    OrderKind,
    OrderState,
    Permits,
    PointRule,
    Refused,
    Success,
    SwitchingOrder,
    Wish,
    channel_of,
    is_repeat,
    judge_switching,
    judge_thresholds,
)

DEVICE = DeviceRef("44010641500003", "44010641500003")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def mapped(point_id: str, type_: PointType = PointType.DO, kind: SourceKind = SourceKind.POINT) -> MappedPoint:
    return MappedPoint(
        device_id="brk-1", kind=kind, source="breaker_state" if kind is SourceKind.POINT else "0s16002001",
        sc_device_id=DEVICE.device_id, point_id=point_id, type=type_,
    )  # fmt: skip


MAPPING = Mapping(
    devices=(MappedDevice(ref=DEVICE),),
    points=(
        mapped("0415202001"),
        mapped("0415102001", PointType.AI),
        replace(mapped("0415302001", PointType.AO), source="temperature_setpoint"),
        mapped("0415002001", PointType.DI, SourceKind.SIGNAL),
    ),
)
SWITCHING = Permits(
    kinds=frozenset({OrderKind.SWITCH_OFF, OrderKind.SWITCH_ON}), points=(PointRule(),), off_at_most_s=600.0
)


def order(point: str = "0415202001", value: float | None = 0.0, device: DeviceRef = DEVICE) -> PointOrder:
    return PointOrder(device, point, value)


def meant(one: PointOrder, permits: Permits = SWITCHING, mapping: Mapping = MAPPING) -> OrderKind | Refused:
    [judged] = judge_switching([one], mapping, permits)
    return judged.kind if isinstance(judged, Wish) else judged


@given(
    st.sampled_from([point.point_id for point in MAPPING.points] + ["nothing"]),
    st.none() | st.floats(allow_nan=False),
    st.frozensets(st.sampled_from(OrderKind)),
)
def test_nothing_is_permitted_without_a_rule_and_a_kind(
    point: str, value: float | None, kinds: frozenset[OrderKind]
) -> None:
    assert meant(order(point, value), NOTHING) is Refused.NOT_PERMITTED
    assert meant(order(point, value), Permits(kinds=kinds)) is Refused.NOT_PERMITTED
    assert judge_thresholds([order(point, value)], MAPPING, NOTHING) == [Refused.NOT_PERMITTED]
    found = meant(order(point, value), replace(SWITCHING, kinds=kinds))
    assert isinstance(found, Refused) or found in kinds


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (order(value=0), OrderKind.SWITCH_OFF),
        (order(value=1), OrderKind.SWITCH_ON),
        (order(value=7), Refused.NO_MEANING),
        (order(value=None), Refused.NO_NUMBER),
        (order("0415102001"), Refused.NOT_MAPPED),
        (order("0415002001"), Refused.NOT_MAPPED),
        (order("0415202002"), Refused.NOT_MAPPED),
        (order(device=DeviceRef(DEVICE.device_id, "44010641500004")), Refused.NOT_MAPPED),
        (order(device=DeviceRef("44010641500004", "44010641500004")), Refused.NOT_MAPPED),
    ],
)
def test_a_number_means_what_was_agreed(one: PointOrder, expected: OrderKind | Refused) -> None:
    assert meant(one) is expected


def test_an_adjustment_takes_any_number_and_its_own_permit() -> None:
    adjusting = Permits(kinds=frozenset({OrderKind.ADJUST}), points=(PointRule(),))
    assert meant(order("0415302001", 26.5), adjusting) is OrderKind.ADJUST
    assert meant(order("0415302001", None), adjusting) is Refused.NO_NUMBER
    assert meant(order("0415302001", 0)) is Refused.NOT_PERMITTED
    assert meant(order("0415202001", 0), adjusting) is Refused.NOT_PERMITTED


def test_a_point_may_be_turned_round_or_know_one_direction_only() -> None:
    turned = replace(SWITCHING, points=(PointRule(off_value=1.0, on_value=0.0),))
    assert [meant(order(value=value), turned) for value in (0, 1)] == [OrderKind.SWITCH_ON, OrderKind.SWITCH_OFF]
    off_only = replace(SWITCHING, points=(PointRule(off_value=1.0, on_value=None),))
    assert [meant(order(value=value), off_only) for value in (0, 1)] == [Refused.NO_MEANING, OrderKind.SWITCH_OFF]


def test_the_first_rule_that_covers_a_point_counts() -> None:
    rules = (PointRule(point="0415202*", off_value=None), PointRule(device="44010641500003"))
    assert meant(order(), replace(SWITCHING, points=rules)) is Refused.NO_MEANING
    assert meant(order(), replace(SWITCHING, points=rules[1:])) is OrderKind.SWITCH_OFF
    assert meant(order(), replace(SWITCHING, points=(PointRule(point="0416*"),))) is Refused.NOT_PERMITTED


def test_no_off_without_an_end() -> None:
    assert meant(order(value=0), replace(SWITCHING, off_at_most_s=None)) is Refused.NOT_PERMITTED
    assert meant(order(value=1), replace(SWITCHING, off_at_most_s=None)) is OrderKind.SWITCH_ON


def test_two_values_for_one_point_are_none() -> None:
    assert judge_switching([order(value=0), order(value=1)], MAPPING, SWITCHING) == [Refused.CONTRADICTORY] * 2
    first, second = judge_switching([order(value=0), order(value=0)], MAPPING, SWITCHING)
    assert first == second
    assert isinstance(first, Wish)


def test_permits_survive_their_storage() -> None:
    permits = replace(
        SWITCHING, points=(PointRule(device="1*", load_id="aau-1", unit="V", off_value=None),),
        success=Success.VERIFIED, same_within_s=5.0,
    )  # fmt: skip
    assert Permits.of_json(permits.as_json()) == permits


@pytest.mark.parametrize(("source", "channel"), [("relay_3_state", 3), ("relay_16_state", 16), ("breaker_state", None)])
def test_a_relay_names_its_channel(source: str, channel: int | None) -> None:
    assert channel_of(source) == channel


def said(kind: OrderKind, state: OrderState, ago_s: float) -> tuple[SwitchingOrder, Wish]:
    value = 0.0 if kind is OrderKind.SWITCH_OFF else 1.0
    last = SwitchingOrder(
        id="o-1", connection_id="gd", unit_key=1, unit_id="u", site_id=None, sc_device_id=DEVICE.device_id,
        point_id="0415202001", kind=kind, value=value, load_id="aau-1", device_id=None, setting=None,
        restore_at=None, peer="",
        received_at=NOW - timedelta(seconds=ago_s), state=state,
    )  # fmt: skip
    [wish] = judge_switching([order(value=value)], MAPPING, SWITCHING)
    assert isinstance(wish, Wish)
    return last, wish


@pytest.mark.parametrize(
    ("kind", "state", "ago_s", "same"),
    [
        (OrderKind.SWITCH_OFF, OrderState.OPEN, 59, True),
        (OrderKind.SWITCH_OFF, OrderState.TAKEN, 59, True),
        (OrderKind.SWITCH_OFF, OrderState.OVER, 59, True),
        (OrderKind.SWITCH_OFF, OrderState.REFUSED, 1, False),
        (OrderKind.SWITCH_OFF, OrderState.TAKEN, 60, False),
        (OrderKind.SWITCH_OFF, OrderState.TAKEN, -5, False),
        (OrderKind.SWITCH_ON, OrderState.TAKEN, 59, True),
        (OrderKind.SWITCH_ON, OrderState.OVER, 1, False),
    ],
)
def test_which_repetition_is_the_same_command(kind: OrderKind, state: OrderState, ago_s: float, same: bool) -> None:
    last, wish = said(kind, state, ago_s)
    assert is_repeat(last, wish, "aau-1", NOW, SWITCHING) is same
    assert not is_repeat(last, wish, "aau-2", NOW, SWITCHING)
    other, _ = said(OrderKind.SWITCH_OFF if kind is OrderKind.SWITCH_ON else OrderKind.SWITCH_ON, state, ago_s)
    assert not is_repeat(other, wish, "aau-1", NOW, SWITCHING)
