"""Sessions, serial numbers, texts, order and proposals: decided without a centre."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.alarm import AlarmEvent, AlarmLevel, ConditionKind, EndReason
from libs.common.contracts.base import Phase as AlarmPhase
from libs.common.contracts.delivery import DeliveryState
from libs.common.ids import AlarmId, DeviceId, SiteId
from services.export.dialects import Dialects
from services.export.dialects.messages import DeviceRef, PointType, Registered, UnitFacts, UnitRef
from services.export.domain import session
from services.export.domain.connection import (
    Connection,
    ConnectionId,
    ConnectionOptions,
    Phase,
    Unit,
    UnitKey,
    retry_after_s,
    service_url,
    valid_address,
)
from services.export.domain.delivery import (
    SERIAL_LIMIT,
    Begun,
    Delivery,
    Step,
    Target,
    alarm_text,
    batch_of,
    event_time,
    next_serials,
    step_for,
)
from services.export.domain.dictionary import tower_dictionary
from services.export.domain.mapping import (
    MappedDevice,
    MappedPoint,
    Mapping,
    ProposedDevice,
    SourceKind,
    problems_of,
    propose,
)
from services.export.domain.pace import Pace
from services.export.worker.alarm_queue import last_states

TOWER = Dialects.shipped().named("T")

NOW = datetime(2026, 3, 8, 6, 0, tzinfo=UTC)
OPTIONS = ConnectionOptions()


def unit(**changes: Any) -> Unit:
    return replace(
        Unit(
            key=UnitKey(1), connection_id=ConnectionId("gd"), ref=UnitRef("44010643800017", "44010643800017"),
            name="u", sites=("s-1",), facts=UnitFacts(),
        ),
        **changes,
    )  # fmt: skip


class TestSession:
    def test_a_right_lets_in_and_the_assigned_address_is_followed(self) -> None:
        after = session.let_in_or_refused(unit(login_failures=3, error="x"), Registered(True, 2, "10.20.0.9"), NOW)
        assert (after.phase, after.right, after.assigned_address) == (Phase.REGISTERED, 2, "10.20.0.9")
        assert (after.login_failures, after.error, after.logged_in_at, after.heard_at) == (0, None, NOW, NOW)
        assert session.finding_of(after, OPTIONS) is None

    def test_an_assigned_address_that_is_none_is_left_aside_and_said(self) -> None:
        after = session.let_in_or_refused(unit(), Registered(True, 2, "evil.example/../"), NOW)
        assert after.phase is Phase.REGISTERED
        assert after.assigned_address is None
        assert after.error is not None
        assert "evil.example" in after.error

    def test_no_right_is_a_refusal_that_the_platform_hears_of(self) -> None:
        after = session.let_in_or_refused(unit(), Registered(False, 0, None), NOW)
        assert after.phase is Phase.REFUSED
        assert session.finding_of(after, OPTIONS) is ConditionKind.SC_REFUSES

    def test_a_login_that_never_left_does_not_count_towards_the_interval(self) -> None:
        claimed = unit(last_login_at=NOW)
        before = NOW - timedelta(days=1)
        after = session.login_not_sent(claimed, "refused", NOW, OPTIONS, last_login_at=before, jitter=0.0)
        assert after.last_login_at == before
        assert after.login_not_before == NOW + timedelta(seconds=1)
        again = session.login_not_sent(after, "refused", NOW, OPTIONS, last_login_at=before, jitter=0.0)
        assert again.login_not_before == NOW + timedelta(seconds=2)

    def test_a_login_without_answer_counts(self) -> None:
        answered = NOW + timedelta(seconds=10)
        after = session.login_unanswered(unit(last_login_at=NOW), "timeout", answered)
        assert (after.last_login_at, after.login_not_before) == (answered, None)
        refused = session.let_in_or_refused(unit(last_login_at=NOW), Registered(False, 0, None), answered)
        assert (refused.last_login_at, refused.login_not_before) == (answered, None)

    def test_failed_calls_in_a_row_lose_the_connection_and_one_acknowledgement_finds_it(self) -> None:
        state = unit(phase=Phase.REGISTERED)
        for _ in range(OPTIONS.failures_to_lost):
            assert state.phase is Phase.REGISTERED
            state = session.alarms_failed(state, "timeout", OPTIONS)
        assert state.phase is Phase.LOST
        assert session.finding_of(state, OPTIONS) is ConditionKind.SC_UNREACHABLE
        found = session.alarms_acknowledged(state, NOW)
        assert (found.phase, found.send_failures, found.error) == (Phase.REGISTERED, 0, None)

    def test_a_unit_that_cannot_log_out_leaves_after_a_few_attempts(self) -> None:
        state = unit(phase=Phase.LEAVING)
        for attempt in range(session.LOGOUT_ATTEMPTS):
            assert state.phase is Phase.LEAVING, attempt
            state = session.logged_out(state, answered=False, now=NOW, options=OPTIONS, jitter=0.5)
        assert state.phase is Phase.LEFT

    @given(st.integers(1, 10_000), st.floats(0, 1))
    def test_waits_grow_to_the_cap_and_never_vanish(self, attempts: int, jitter: float) -> None:
        wait_s = retry_after_s(attempts, OPTIONS, jitter)
        assert OPTIONS.retry_first_s * 2 / 3 <= wait_s <= OPTIONS.retry_cap_s


class TestAddress:
    connection = Connection(
        id=ConnectionId("gd"), name="x", dialect="T", url="http://10.20.0.1:8080/services/SCService"
    )

    @pytest.mark.parametrize(
        ("assigned", "url"),
        [
            (None, "http://10.20.0.1:8080/services/SCService"),
            ("10.20.0.9", "http://10.20.0.9:8080/services/SCService"),
            ("10.20.0.9:9000", "http://10.20.0.9:9000/services/SCService"),
            ("fd00::9", "http://[fd00::9]:8080/services/SCService"),
            ("[fd00::9]:9000", "http://[fd00::9]:9000/services/SCService"),
            ("somewhere.else", "http://10.20.0.1:8080/services/SCService"),
        ],
    )
    def test_events_go_to_the_assigned_host_at_the_known_path(self, assigned: str | None, url: str) -> None:
        assert service_url(self.connection, assigned) == url

    @pytest.mark.parametrize(
        "text", ["", "10.20.0.0/24", "10.20.0.9:0", "10.20.0.9:x", "a.b", "1.2.3.4:99999", "@", "0.0.0.0", "224.0.0.1"]
    )
    def test_what_is_no_address_is_none(self, text: str) -> None:
        assert not valid_address(text)


def event(**changes: Any) -> AlarmEvent:
    fields: dict[str, Any] = {
        "alarm_id": AlarmId("a-1"), "site_id": SiteId("s-1"), "sequence": 1, "phase": AlarmPhase.BEGIN,
        "level": AlarmLevel.MINOR, "signal": "0s16001001", "began_at": NOW, "device_id": DeviceId("m-1"),
        "signal_name_zh": "交流输入停电告警", "value": 0.0, "unit": "V",
    }  # fmt: skip
    return AlarmEvent(**{**fields, **changes})


def ended(**changes: Any) -> AlarmEvent:
    later = NOW + timedelta(minutes=5)
    fields = {"phase": AlarmPhase.END, "sequence": 2, "ended_at": later, "end_reason": EndReason.RECOVERED}
    return event(**{**fields, **changes})


TARGET = Target(
    unit_key=UnitKey(1), connection_id=ConnectionId("gd"), dialect="T", sc_device=DeviceRef("1", "1"),
    point_id="0416001001", name=None, level=None,
)  # fmt: skip


class TestStates:
    def test_of_many_steps_of_an_alarm_the_last_is_its_state_in_whatever_order_they_come(self) -> None:
        other = event(alarm_id=AlarmId("a-2"), device_id=None)
        for steps in permutations([event(), event(phase=AlarmPhase.UPDATE, sequence=2, level=1), ended(sequence=3)]):
            one, two = last_states([*steps, other, other])
            assert (one.alarm_id, one.sequence, one.ended_at) == ("a-1", 3, NOW + timedelta(minutes=5))
            assert (one.level, one.site_id, one.began_at, one.historical) == (AlarmLevel.MINOR, "s-1", NOW, False)
            assert (two.alarm_id, two.sequence, two.device_id, two.ended_at) == ("a-2", 1, None, None)


class TestSteps:
    def test_a_begin_is_told_once(self) -> None:
        assert step_for(event(), None) is Step.BEGIN
        assert step_for(event(), Begun(1, 3, given_up=False)) is None

    def test_an_inhibited_or_late_alarm_is_not_told_until_it_is_released(self) -> None:
        assert step_for(event(inhibited_by="parent"), None) is None
        assert step_for(event(historical=True), None) is None
        assert step_for(event(phase=AlarmPhase.UPDATE, sequence=2), None) is Step.BEGIN

    def test_an_end_is_told_once_and_only_after_a_begin(self) -> None:
        assert step_for(ended(), None) is None
        assert step_for(ended(), Begun(1, 3, given_up=False)) is Step.END
        assert step_for(ended(inhibited_by="parent"), Begun(1, 3, given_up=False)) is Step.END
        assert step_for(ended(), Begun(1, 3, given_up=False, ended=True)) is None

    def test_times_are_the_alarm_s_own(self) -> None:
        assert event_time(event(), Step.BEGIN) == NOW
        assert event_time(ended(), Step.END) == NOW + timedelta(minutes=5)

    def test_texts_carry_the_value(self) -> None:
        assert alarm_text(event(), TARGET, TOWER) == "交流输入停电告警(0.0V)"
        assert alarm_text(event(value=None), replace(TARGET, name="停电"), TOWER) == "停电"
        assert alarm_text(event(value=0.853, unit=None), replace(TARGET, name="停电"), TOWER) == "停电(0.85)"


class TestSerials:
    def test_numbers_count_up_wrap_and_pass_over_what_is_open(self) -> None:
        assert next_serials(1, 3, set()) == ([1, 2, 3], 4)
        assert next_serials(SERIAL_LIMIT - 1, 3, {0}) == ([SERIAL_LIMIT - 1, 1, 2], 3)

    @given(st.integers(0, SERIAL_LIMIT - 1), st.integers(0, 20), st.sets(st.integers(0, 30)))
    def test_numbers_are_never_given_twice(self, first: int, count: int, taken: set[int]) -> None:
        given_numbers, following = next_serials(first, count, taken)
        assert len(set(given_numbers)) == count
        assert not taken & set(given_numbers)
        assert 0 <= following < SERIAL_LIMIT


def delivery(number: int, **changes: Any) -> Delivery:
    return replace(
        Delivery(
            id=str(number), connection_id=ConnectionId("gd"), unit_key=UnitKey(1), alarm_id="a", event_id="e",
            site_id="s-1", device_id="m-1", step=Step.BEGIN, serial=number, sc_device=DeviceRef("1", "1"),
            point_id=f"{number:010d}", level=3, at=NOW, began_at=NOW, text="x", value=None,
            state=DeliveryState.QUEUED, queued_at=NOW,
        ),
        **changes,
    )  # fmt: skip


class TestDeliveries:
    def test_a_message_holds_what_is_due_and_a_refused_alarm_travels_alone(self) -> None:
        heads = [delivery(number) for number in range(5)]
        assert batch_of(heads, 3) == heads[:3]
        assert batch_of([], 3) == []
        lonely = replace(heads[0], alone=True)
        assert batch_of([lonely, *heads[1:]], 3) == [lonely]
        assert batch_of([heads[1], lonely, *heads[2:]], 3) == [heads[1], *heads[2:4]]

    def test_after_a_refused_message_each_alarm_goes_alone_at_once(self) -> None:
        after = session.not_taken(delivery(1), NOW, OPTIONS, refused=True, company=True, reason="no", jitter=0)
        assert (after.state, after.attempts, after.alone, after.next_attempt_at) == (
            DeliveryState.REFUSED, 1, True, NOW,
        )  # fmt: skip
        again = session.not_taken(after, NOW, OPTIONS, refused=True, company=False, reason="no", jitter=0)
        assert again.next_attempt_at == NOW + timedelta(seconds=2)

    def test_an_acknowledged_one_is_finished(self) -> None:
        after = session.acknowledged(delivery(1, error="x", next_attempt_at=NOW), NOW)
        assert (after.state, after.attempts, after.finished_at) == (DeliveryState.DELIVERED, 1, NOW)
        assert (after.error, after.next_attempt_at) == (None, None)


class TestMapping:
    def test_every_wrong_row_is_named(self) -> None:
        mapping = Mapping(
            devices=(
                MappedDevice(ref=DeviceRef("4401064160002", "9" * 14)),
                MappedDevice(ref=DeviceRef("44010641600021", "44010641600021")),
                MappedDevice(ref=DeviceRef("44010641600021", "44010641600021")),
            ),
            points=(
                _row(point_id="041610400"), _row(sc_device_id="44010641600099"), _row(point_id="9" * 10),
                _row(), _row(), _row(source="volts", point_id="0416105001"), _row(level=7, point_id="0416106001"),
            ),
        )  # fmt: skip
        fields = [problem.field for problem in problems_of(mapping, TOWER, lambda name: name == "voltage_a")]
        assert fields == [
            "devices[0].device_id", "devices[0].device_code", "devices[2].device_id", "points[0].point_id",
            "points[1].sc_device_id", "points[2].point_id", "points[4].point_id", "points[5].source",
            "points[6].level",
        ]  # fmt: skip

    def test_the_dictionary_s_rows_make_points_of_dialect_t(self) -> None:
        devices = [
            ProposedDevice(
                device_id="m-1", name="市电总表", category="meter_3p",
                points=frozenset({"voltage_a", "voltage_b", "voltage_c", "frequency", "current_a"}),
            ),
            ProposedDevice(device_id="m-2", name="表2", category="meter_1p", points=frozenset({"voltage_a"})),
            ProposedDevice(
                device_id="t-1", name="温湿度", category="env_sensor", points=frozenset({"temperature"})
            ),
            ProposedDevice(device_id="w-1", name="水表", category="water_meter", points=frozenset({"water_volume"})),
        ]  # fmt: skip
        proposal = propose(
            region_code="440106", station_class="D", devices=devices, dictionary=tower_dictionary(),
            taken=frozenset({"44010641600001"}),
        )  # fmt: skip
        assert [device.ref.device_id for device in proposal.mapping.devices] == [
            "44010641600002", "44010641900001", "44010641600003", "44010641800001",
        ]  # fmt: skip
        points = {(point.device_id, point.source): point.point_id for point in proposal.mapping.points}
        assert points["m-1", "voltage_a"] == "0416104001"
        assert points["m-1", "voltage_c"] == "0416106001"
        assert points["m-1", "frequency"] == "0416118001"
        assert points["m-1", "0s16003001"] == "0416003001"
        assert (points["m-1", "0s19012001"], points["m-2", "0s19012001"]) == ("0419012001", "0419012002")
        assert points["t-1", "temperature"] == "0418101001"
        assert ("m-2", "voltage_b") not in points
        assert "m-1: not in the dictionary: current_a" in proposal.notes
        assert any(note.startswith("w-1:") for note in proposal.notes)
        assert problems_of(proposal.mapping, TOWER, lambda _: True) == []

    def test_class_e_takes_d_and_a_is_one(self) -> None:
        for station_class, digit in (("E", "4"), ("A", "1")):
            proposal = propose(
                region_code="440106", station_class=station_class,
                devices=[ProposedDevice(device_id="m", name="", category="meter_1p", points=frozenset({"frequency"}))],
                dictionary=tower_dictionary(),
            )  # fmt: skip
            assert proposal.mapping.points[0].point_id == f"0{digit}16118001"


def _row(**changes: Any) -> MappedPoint:
    return replace(
        MappedPoint(
            device_id="m-1", kind=SourceKind.POINT, source="voltage_a", sc_device_id="44010641600021",
            point_id="0416104001", type=PointType.AI,
        ),
        **changes,
    )  # fmt: skip


@pytest.mark.parametrize("per_s", [0.5, 10.0, 33.0])
def test_a_whole_network_logs_in_at_the_rate_and_never_faster(per_s: float) -> None:
    pace, now_s, units = Pace(0.0), 0.0, 12_604
    begun: list[float] = []
    while len(begun) < units:
        for _ in range(min(pace.allowed(now_s, per_s), units - len(begun))):
            pace.took(now_s, per_s)
            begun.append(now_s)
        now_s += 0.25
    assert begun[-1] == pytest.approx(units / per_s, rel=0.01, abs=2.0)
    # In no ten seconds are there more than the rate allows and a second's credit.
    window = 0
    for place, at in enumerate(begun):
        while begun[window] < at - 10.0:
            window += 1
        assert place - window + 1 <= 11 * per_s + 2
