"""What alarm understands of the topics it reads, and what it says on its own."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest

from libs.common.bus import envelope, topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.contracts.alarm import AlarmEvent, AlarmLevel
from libs.common.contracts.base import Phase
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent, OccurrenceState
from libs.common.contracts.telemetry import HEARTBEAT_TYPE, Quality
from libs.common.ids import CommandId, LoadId, OccurrenceId, SiteId
from services.alarm.bus import alarm_message, event_of, read_control, read_readings
from services.alarm.dictionary import load_shipped
from services.alarm.domain.model import SECOND_US, AlarmStep, StepPhase, to_us

AT = datetime(2026, 3, 1, 4, 0, 0, 123457, tzinfo=UTC)
FUTURE_US = 300 * SECOND_US


def received(body: object, *, topic: str = topics.READINGS, kind: str | None = None, partition: int = 3) -> Received:
    headers = envelope.headers(event_type=kind or topic, source="test", event_id="e-1", time=AT)
    return Received(topic, partition, 7, "s-1", orjson.dumps(body), headers, AT)


def reading(**changes: object) -> dict[str, object]:
    return {
        "device_id": "m-1",
        "site_id": "s-1",
        "source_time": "2026-03-01T12:00:00.123457+08:00",
        "received_at": "2026-03-01T04:00:00.123457Z",
        "driver": "modbus",
        "points": {"voltage_a": 230.5, "voltage_b": None},
        **changes,
    }


def test_a_reading_becomes_columns_with_exact_times() -> None:
    body = reading(quality={"voltage_a": Quality.SUSPECT, "voltage_b": Quality.INVALID})
    found = read_readings([received(body)], max_future_us=FUTURE_US)
    reports = found.reports
    assert (reports.device_ids, reports.partitions) == (["m-1"], [3])
    assert reports.source_us == reports.received_us == [to_us(AT)]
    assert reports.points == [{"voltage_a": 230.5, "voltage_b": None}]
    assert reports.bad == [["voltage_b"]], "suspect is judged, invalid is not"


def test_the_clock_of_a_partition_is_the_latest_acceptance_heartbeats_included() -> None:
    def beat(second: int, partition: int) -> Received:
        body = {"instance": "i", "partition": partition, "received_at": (AT + timedelta(seconds=second)).isoformat()}
        return received(body, kind=HEARTBEAT_TYPE, partition=partition)

    found = read_readings([beat(5, 1), received(reading()), beat(2, 1), beat(1, 3)], max_future_us=FUTURE_US)
    assert found.clocks == {1: to_us(AT) + 5 * SECOND_US, 3: to_us(AT) + SECOND_US}
    assert found.reports.device_ids == ["m-1"]


def test_an_acceptance_far_after_the_bus_took_it_does_not_move_the_clock() -> None:
    mad = reading(received_at=(AT + timedelta(hours=1)).isoformat())
    found = read_readings([received(mad)], max_future_us=FUTURE_US)
    assert found.clocks == {}
    assert len(found.reports) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (reading(source_time="yesterday"), "not a reading: source_time"),
        (reading(received_at=None), "not a reading: received_at"),
        ({"instance": "i", "received_at": "2026-03-01T04:00:00Z"}, "not a reading: device_id"),
        (None, "not a reading"),
        ([1, 2], "not a reading"),
    ],
)
def test_what_is_no_reading_is_poison_with_a_reason(body: object, reason: str) -> None:
    with pytest.raises(PoisonMessage, match=reason):
        read_readings([received(body)], max_future_us=FUTURE_US)


def test_a_heartbeat_without_a_time_is_poison() -> None:
    with pytest.raises(PoisonMessage, match="not a heartbeat: received_at"):
        read_readings([received({"instance": "i", "partition": 0}, kind=HEARTBEAT_TYPE)], max_future_us=FUTURE_US)


def control(state: CommandState | OccurrenceState, **facts: object) -> Received:
    values: dict[str, object] = {
        "site_id": SiteId("s-1"), "state": state, "at": AT, "reason": "", "load_id": LoadId("l-1"), **facts,
    }  # fmt: skip
    event = ControlEvent.model_validate(values)
    return received(orjson.loads(event.to_json()), topic=topics.CONTROL_EVENTS)


PLAN = {"occurrence_id": OccurrenceId("o-1")}
COMMAND = {"command_id": CommandId("c-1"), "action": CommandAction.OPEN}


@pytest.mark.parametrize(
    ("state", "facts", "meaning"),
    [
        (OccurrenceState.PLANNED, PLAN, None),
        (OccurrenceState.SHUTTING_DOWN, PLAN, (True, "occurrence:o-1")),
        (OccurrenceState.SHUT_DOWN, PLAN, (True, "occurrence:o-1")),
        (OccurrenceState.WAKING, PLAN, None),
        (OccurrenceState.OVERDUE, PLAN, None),
        (OccurrenceState.AWAKE, PLAN, (False, "occurrence:o-1")),
        (OccurrenceState.SKIPPED, PLAN, (False, "occurrence:o-1")),
        (OccurrenceState.CALLED_OFF, PLAN, (False, "occurrence:o-1")),
        (CommandState.SUCCEEDED, PLAN | COMMAND, None),
        (CommandState.SCHEDULED, COMMAND, None),
        (CommandState.DISPATCHED, COMMAND, (True, "command:c-1")),
        (CommandState.UNKNOWN, COMMAND, (True, "command:c-1")),
        (CommandState.SUCCEEDED, COMMAND, (True, "command:c-1")),
        (CommandState.FAILED, COMMAND, (False, "command:c-1")),
        (CommandState.SUCCEEDED, COMMAND | {"action": CommandAction.CLOSE}, (False, "command:c-1")),
        (CommandState.DISPATCHED, COMMAND | {"action": CommandAction.CLOSE}, None),
        (CommandState.SUCCEEDED, COMMAND | {"action": CommandAction.SET_CLOCK}, None),
    ],
)
def test_what_control_says_about_a_supply(
    state: CommandState | OccurrenceState, facts: dict[str, object], meaning: tuple[bool, str] | None
) -> None:
    news = read_control(control(state, **facts))
    assert (None if news is None else (news.off, news.reference)) == meaning


def test_a_load_that_somebody_closed_is_awake_whoever_had_opened_it() -> None:
    closed = read_control(control(CommandState.SUCCEEDED, **(COMMAND | {"action": CommandAction.CLOSE})))
    assert closed is not None
    assert closed.any_reference


def test_an_alarm_event_carries_names_in_both_languages_and_a_stable_id() -> None:
    step = AlarmStep(
        phase=StepPhase.BEGIN,
        alarm_id="a-1",
        sequence=1,
        site_id="s-1",
        device_id="m-1",
        rule_id="0s16003001",
        rule_version=4,
        signal="0s16003001",
        level=3,
        began_us=to_us(AT),
        ended_us=None,
        end_reason=None,
        inhibited_by=None,
        point="voltage_a",
        value=150.0,
        threshold=160.0,
        unit="V",
        received_us=to_us(AT),
    )
    event = event_of(step, load_shipped().signals["0s16003001"], AT)
    assert (event.phase, event.level, event.began_at) == (Phase.BEGIN, AlarmLevel.MINOR, AT)
    assert (event.signal_name_zh, event.text_zh) == ("交流电压过低告警", "交流电压过低告警 告警")
    message = alarm_message(event)
    assert (message.topic, message.key) == (topics.ALARM_EVENTS, "s-1")
    assert dict(message.headers)["ce_id"] == b"a-1:1"
    assert AlarmEvent.from_json(message.value or b"") == event
