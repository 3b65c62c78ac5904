"""Orders of faults: how they are written, and when they hold."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from libs.common.profiles import Area
from libs.fieldsim.device import ExceptionCode, RefusedRequest, modbus_profile
from libs.fieldsim.electrical import Load, Mains
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import (
    EVERY_DEVICE,
    FaultBoard,
    Frozen,
    Markers,
    Placed,
    Refuses,
    Silent,
    Trip,
    TripReason,
    VoltageSag,
    parse_order,
)
from libs.fieldsim.meter import Meter
from libs.fieldsim.plain import PlainDevice

START_S = datetime(2026, 11, 20, 6, tzinfo=UTC).timestamp()


def a_meter(faults: FaultBoard) -> Meter:
    return Meter(
        "meter-1",
        modbus_profile("eastron_sdm630"),
        loads=[Load("it", gain=1.0)],
        mains=Mains(),
        installed_at=datetime(2026, 1, 1, tzinfo=UTC),
        faults=faults,
        events=EventLog(),
    )


def test_an_order_as_a_command_line_writes_it() -> None:
    order = parse_order("sag:phase=bc,to_v=150,after_s=20,duration_s=12,every_s=300")
    assert order == VoltageSag(phase="bc", to_v=150.0, after_s=20.0, duration_s=12.0, every_s=300.0)
    assert parse_order("silent") == Silent()
    assert parse_order("nan:points=voltage_a+voltage_b") == Markers(points=("voltage_a", "voltage_b"))
    assert parse_order("exception:code=6,functions=3+4") == Refuses(code=6, functions=(3, 4))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("melt", "melt"),
        ("sag:phase=x", "phase"),
        ("slow:delay_s=-1", "delay_s"),
        ("slow:speed=1", "speed"),
        ("slow:delay_s", "name=value"),
    ],
)
def test_a_wrong_order_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as wrong:
        parse_order(text)
    assert wrong.value.message_zh


def test_a_repeated_order_holds_at_each_turn() -> None:
    placed = Placed(1, "d", parse_order("sag:to_v=150,after_s=20,duration_s=12,every_s=300"), 1000.0)
    assert [placed.begin_of(1000.0 + t) for t in (19, 20, 31.9, 32, 319, 320, 332)] == [
        None,
        1020.0,
        pytest.approx(1020.0),
        None,
        None,
        1320.0,
        None,
    ]
    assert list(placed.beginnings(1020.0, 1700.0)) == [1320.0, 1620.0]


@given(
    after=st.floats(0, 100),
    length=st.floats(0.5, 50),
    every=st.floats(60, 400),
    now=st.floats(0, 5000),
)
def test_beginnings_and_activity_agree(after: float, length: float, every: float, now: float) -> None:
    order = VoltageSag(after_s=after, duration_s=length, every_s=every)
    placed = Placed(1, "d", order, 0.0)
    begins = [b for b in placed.beginnings(-1.0, now) if b <= now < b + length]
    edge = min((abs(now - b) for b in placed.beginnings(-1.0, now + every)), default=1.0) < 1e-6 or any(
        abs(now - b - length) < 1e-6 for b in placed.beginnings(-1.0, now)
    )
    assert edge or (placed.begin_of(now) is not None) == bool(begins)


def test_an_order_without_length_holds_until_withdrawn() -> None:
    board = FaultBoard()
    placed = board.place("d", Silent(), 0.0)
    assert board.active("d", Silent, 1e9) == Silent()
    assert board.active("e", Silent, 1e9) is None
    assert board.withdraw(placed.fault_id)
    assert not board.withdraw(placed.fault_id)
    assert board.active("d", Silent, 1e9) is None


def test_an_order_for_every_device() -> None:
    board = FaultBoard()
    board.place(EVERY_DEVICE, Silent(), 0.0)
    assert board.active("anything", Silent, 1.0) is not None
    assert board.clear() == 1
    assert list(board.of("anything")) == []


def test_beginnings_of_a_kind_are_in_order() -> None:
    board = FaultBoard()
    board.place("d", Trip(reason=TripReason.SHORT_CIRCUIT, after_s=30), 0.0)
    board.place("d", Trip(reason=TripReason.OVERLOAD, after_s=10), 0.0)
    board.place("d", Silent(after_s=20), 0.0)
    found = board.beginnings("d", Trip, 0.0, 100.0)
    assert [(at_s, order.reason) for at_s, order in found] == [(10.0, 1), (30.0, 2)]


def test_frozen_values_stay_while_time_goes_on() -> None:
    board = FaultBoard()
    meter = a_meter(board)
    board.place("meter-1", Frozen(duration_s=600), START_S)
    frozen = meter.registers.shown(meter.image(START_S))
    assert meter.registers.shown(meter.image(START_S + 599)) == frozen
    assert meter.registers.shown(meter.image(START_S + 601)) != frozen


def test_markers_spare_registers_unless_named() -> None:
    board = FaultBoard()
    meter = a_meter(board)
    board.place("meter-1", Markers(duration_s=10), START_S)
    shown = meter.registers.shown(meter.image(START_S))
    assert shown["voltage_a"] is None
    assert shown["active_power_total"] is None
    assert shown["energy_active_import"] is not None
    board.place("meter-1", Markers(points=("energy_active_import",)), START_S + 20)
    shown = meter.registers.shown(meter.image(START_S + 20))
    assert shown["energy_active_import"] is None
    assert shown["voltage_a"] is not None


def test_a_board_without_orders_asks_nothing() -> None:
    assert FaultBoard().of("d") == ()


def test_a_relay_board_ignores_commands_on_order() -> None:
    board, events = FaultBoard(), EventLog()
    relays = PlainDevice(
        "relays-1", modbus_profile("kmtronic_relay8"), values={"relay_2_state": 1.0}, faults=board, events=events
    )
    relays.write(Area.COIL, 0, [0xFF00], START_S)
    assert relays.shown(START_S)["relay_1_state"] == relays.shown(START_S)["relay_2_state"] == 1.0
    board.place("relays-1", parse_order("ignore_command"), START_S)
    relays.write(Area.COIL, 1, [0], START_S)
    assert relays.shown(START_S)["relay_2_state"] == 1.0
    later = PlainDevice("relays-1", modbus_profile("kmtronic_relay8"), values={}, faults=board, events=events)
    later.restore(relays.snapshot())
    assert later.shown(START_S)["relay_1_state"] == 1.0


def test_an_air_conditioner_takes_its_magic_words_only() -> None:
    unit = PlainDevice(
        "ac-1",
        modbus_profile("gree_umatch_ac"),
        values={"temperature_setpoint": 26.0, "temperature_return": 25.5},
        faults=FaultBoard(),
        events=EventLog(),
    )
    assert unit.shown(START_S)["ac_power_state"] == 1.0
    unit.write(Area.HOLDING, 0x0002, [0x0055], START_S)
    unit.write(Area.HOLDING, 0x0014, [28], START_S)
    shown = unit.shown(START_S)
    assert (shown["ac_power_state"], shown["temperature_setpoint"], shown["temperature_return"]) == (0.0, 28.0, 25.5)
    for address, word, code in (
        (0x0002, 1, ExceptionCode.ILLEGAL_VALUE),
        (0x0014, 31, ExceptionCode.ILLEGAL_VALUE),  # it cools to 16..30
        (0x0004, 1, ExceptionCode.ILLEGAL_ADDRESS),
    ):
        with pytest.raises(RefusedRequest) as refused:
            unit.write(Area.HOLDING, address, [word], START_S)
        assert refused.value.code == code
