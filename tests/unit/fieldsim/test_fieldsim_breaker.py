"""The breaker: commands, motor, lock, trips, faults, and what a second run finds."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from libs.common.profiles import Area
from libs.fieldsim.breaker import INRUSH_SHARE, Breaker
from libs.fieldsim.device import ExceptionCode, RefusedRequest, modbus_profile
from libs.fieldsim.electrical import Load, Mains
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard, TripReason, parse_order

NOW_S = datetime(2026, 11, 20, 16, tzinfo=UTC).timestamp()
COMMAND = 0x000D
CLOSE, OPEN = 0xFF00, 0x0000


class Bench:
    """A breaker with a load, a fault board and what a reader sees."""

    def __init__(self, poles: int = 3) -> None:
        self.load = Load("aau", constant_kw=0.9, gain=0.0)
        self.faults = FaultBoard()
        self.events = EventLog()
        self.breaker = Breaker(
            "breaker-1",
            modbus_profile("lx47le_125"),
            load=self.load,
            mains=Mains(),
            faults=self.faults,
            events=self.events,
            poles=poles,
        )

    def command(self, word: int, after_s: float) -> None:
        self.breaker.write(Area.HOLDING, COMMAND, [word], NOW_S + after_s)

    def order(self, text: str, after_s: float = 0.0) -> None:
        self.faults.place("breaker-1", parse_order(text), NOW_S + after_s)

    def status(self, after_s: float) -> int:
        """The raw status register, as a Modbus reader gets it."""
        return int.from_bytes(self.breaker.image(NOW_S + after_s).registers(Area.INPUT, 0, 1))

    def power_kw(self, after_s: float) -> float:
        self.load.settle(NOW_S + after_s)
        return sum(self.load.power(NOW_S + after_s).active)

    def what(self) -> list[tuple[str, dict[str, Any]]]:
        return [(happening.what, dict(happening.facts)) for happening in self.events.after()]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_opens_after_the_motor_has_turned(bench: Bench) -> None:
    assert bench.status(0) == 0x00F0
    bench.command(OPEN, 0)
    assert bench.status(1.4) == 0x00F0
    assert bench.power_kw(1.4) == pytest.approx(0.9)
    assert bench.status(1.5) == 0x000F
    assert bench.power_kw(1.5) == 0.0
    assert bench.what() == [
        ("command", {"close": False, "obstacle": None}),
        ("moved", {"closed": False, "reason": 9}),
    ]


def test_the_load_sees_the_opening_without_anybody_reading_the_breaker(bench: Bench) -> None:
    bench.command(OPEN, 0)
    assert bench.power_kw(2.0) == 0.0


def test_closing_brings_an_inrush_and_then_the_load(bench: Bench) -> None:
    bench.command(OPEN, 0)
    bench.command(CLOSE, 100)
    assert bench.power_kw(101.4) == 0.0
    assert bench.power_kw(101.6) == pytest.approx(0.9 * INRUSH_SHARE)
    assert bench.power_kw(105.0) == pytest.approx(0.9)
    kwh = sum(bench.load.energy(NOW_S, NOW_S + 200).active)
    closed_s = 1.5 + (200 - 101.5) + (INRUSH_SHARE - 1) * 3.0
    assert kwh == pytest.approx(0.9 * closed_s / 3600)


def test_a_second_command_replaces_the_move_under_way(bench: Bench) -> None:
    bench.command(OPEN, 0)
    bench.command(CLOSE, 1.0)
    assert bench.status(10.0) == 0x00F0
    assert bench.power_kw(10.0) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("address", "words", "code"),
    [
        (COMMAND, [0x00FF], ExceptionCode.ILLEGAL_VALUE),
        (COMMAND, [CLOSE, CLOSE], ExceptionCode.ILLEGAL_VALUE),
        (0x0100, [1], ExceptionCode.ILLEGAL_ADDRESS),
    ],
    ids=["other word", "two registers", "other register"],
)
def test_refuses_what_it_does_not_know(bench: Bench, address: int, words: list[int], code: ExceptionCode) -> None:
    with pytest.raises(RefusedRequest) as refused:
        bench.breaker.write(Area.HOLDING, address, words, NOW_S)
    assert refused.value.code == code
    assert bench.status(10) == 0x00F0


def test_settings_are_written_and_read_back(bench: Bench) -> None:
    bench.breaker.write(Area.HOLDING, 0x0004, [3200], NOW_S)  # 32.00 A
    assert bench.breaker.shown(NOW_S)["setting_overcurrent"] == pytest.approx(32.0)
    assert bench.breaker.image(NOW_S).registers(Area.HOLDING, 0x0004, 1) == (3200).to_bytes(2)


def test_a_local_lock_shows_and_stops_commands(bench: Bench) -> None:
    bench.breaker.lock(True, NOW_S)
    assert bench.status(0) == 0x01F0
    bench.command(OPEN, 1)
    assert bench.status(10) == 0x01F0
    bench.breaker.lock(False, NOW_S + 11)
    bench.command(OPEN, 12)
    assert bench.status(20) == 0x000F


def test_an_ordered_lock_ends_by_itself(bench: Bench) -> None:
    bench.order("locked:duration_s=5")
    bench.command(OPEN, 1)
    assert bench.status(4) == 0x01F0
    assert bench.status(6) == 0x00F0


def test_a_protection_trip_has_to_be_released_at_the_device(bench: Bench) -> None:
    bench.order("trip:reason=2,after_s=10")
    assert bench.status(9) == 0x00F0
    assert bench.status(11) == 0x000F
    assert bench.breaker.shown(NOW_S + 11)["breaker_trip_reason"] == 2.0
    assert bench.power_kw(11) == 0.0
    bench.command(CLOSE, 20)
    assert bench.status(30) == 0x000F
    bench.breaker.release(NOW_S + 40)
    bench.command(CLOSE, 41)
    assert bench.status(50) == 0x00F0
    assert ("command", {"close": True, "obstacle": "tripped"}) in bench.what()


def test_a_trip_that_nobody_looked_at_still_has_its_time(bench: Bench) -> None:
    bench.order("trip:reason=1,after_s=10")
    bench.status(3600)
    assert [h.at.timestamp() - NOW_S for h in bench.events.after() if h.what == "moved"] == [10.0]
    assert sum(bench.load.energy(NOW_S, NOW_S + 3600).active) == pytest.approx(0.9 * 10 / 3600)


def test_an_opening_by_hand_is_no_protection_trip(bench: Bench) -> None:
    bench.breaker.move_by_hand(False, NOW_S)
    assert bench.breaker.shown(NOW_S)["breaker_trip_reason"] == 10.0
    bench.command(CLOSE, 1)
    assert bench.status(5) == 0x00F0


def test_ignored_commands_are_acknowledged(bench: Bench) -> None:
    bench.order("ignore_command:duration_s=60")
    bench.command(OPEN, 1)
    assert bench.status(30) == 0x00F0
    assert bench.what()[-1] == ("command", {"close": False, "obstacle": "ignored"})
    bench.command(OPEN, 61)
    assert bench.status(70) == 0x000F


def test_bouncing_ends_in_the_commanded_position(bench: Bench) -> None:
    bench.order("bounce:count=2,gap_s=0.5")
    bench.command(OPEN, 0)
    seen = [bench.status(1.4 + 0.5 * n) & 0xFF for n in range(7)]
    assert seen == [0xF0, 0x0F, 0xF0, 0x0F, 0xF0, 0x0F, 0x0F]


def test_a_breaker_that_falls_back_ends_where_it_was(bench: Bench) -> None:
    bench.order("bounce:count=1,settles=false")
    bench.command(OPEN, 0)
    assert bench.status(1.6) == 0x000F
    assert bench.status(10) == 0x00F0
    assert bench.power_kw(10) == pytest.approx(0.9)


def test_welded_contacts_read_open_and_let_power_through(bench: Bench) -> None:
    bench.order("welded:share=0.4")
    bench.command(OPEN, 0)
    assert bench.status(2) == 0x000F
    assert bench.power_kw(2) == pytest.approx(0.36)
    assert bench.breaker.shown(NOW_S + 2)["active_power_total"] == pytest.approx(0.36, abs=0.001)


def test_a_single_pole_breaker_lacks_the_optional_points() -> None:
    shown = Bench(poles=1).breaker.shown(NOW_S)
    assert "voltage_b" not in shown
    assert "active_power_total" not in shown
    assert Bench(poles=3).breaker.shown(NOW_S)["voltage_b"] is not None


def test_a_second_run_continues_with_the_motor_turning(bench: Bench) -> None:
    bench.command(OPEN, 0)
    kept = orjson.loads(orjson.dumps(bench.breaker.snapshot()))
    later = Bench()
    later.breaker.restore(kept)
    assert later.status(1.0) == 0x00F0
    assert later.status(2.0) == 0x000F
    assert later.power_kw(2.0) == 0.0


def test_a_second_run_keeps_trip_lock_and_settings(bench: Bench) -> None:
    bench.breaker.trip(TripReason.LEAKAGE, NOW_S)
    bench.breaker.lock(True, NOW_S)
    bench.breaker.write(Area.HOLDING, 0x0002, [270], NOW_S)
    later = Bench()
    later.breaker.restore(orjson.loads(orjson.dumps(bench.breaker.snapshot())))
    assert later.status(60) == 0x010F
    assert later.breaker.tripped == 3
    shown = later.breaker.shown(NOW_S + 60)
    assert (shown["breaker_trip_reason"], shown["setting_overvoltage"]) == (3.0, 270.0)


def test_the_past_keeps_its_position(bench: Bench) -> None:
    bench.command(OPEN, 0)
    bench.status(10)
    assert bench.breaker.shown(NOW_S - 60)["breaker_state"] == 1.0
    assert bench.breaker.shown(NOW_S - 60)["breaker_trip_reason"] == 0.0
    assert bench.breaker.shown(NOW_S + 60)["breaker_state"] == 0.0
